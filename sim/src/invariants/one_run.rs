//! V9: one accept and one process per job, over all delivery channels; one job at a time per worker
//! (races §0.1, R12; start-and-worker I1, I2, I10, I34; job-runner I1, I13, I31).

use super::view::View;
use super::{Invariant, Violation};
use crate::trace::Op;

pub(super) const INVARIANT: Invariant = Invariant {
    id: "V9",
    title: "at most one run",
    rule: "start-and-worker I1, I2, I10; job-runner I1, I13, I31: one accept, one process, one job at a time",
    check,
};

fn check(v: &View<'_>, out: &mut Vec<Violation>) {
    for (id, job) in &v.jobs {
        if let Some((accepted, _)) = job.accepted {
            for again in job.accepts.iter().filter(|c| c.sent > accepted && c.request.credential == job.accepts[0].request.credential) {
                out.push(Violation::at("V9", again.sent, format!("{id} was accepted before, and is accepted again")));
            }
        }
        if let Some(&(i, _)) = job.spawns.get(1) {
            out.push(Violation::at("V9", i, format!("a second process for {id}")));
        }
        let starts = job.starts.iter().filter(|c| c.ok()).count();
        if starts > 1 {
            out.push(Violation::at("V9", job.starts[starts - 1].sent, format!("{id} was started {starts} times")));
        }
    }
    for worker in 1..=v.setup.workers {
        for (id, job) in v.jobs.iter().filter(|(_, j)| j.worker == Some(worker)) {
            let Some((from, from_at)) = job.accepted else { continue };
            let until = job.over().unwrap_or(usize::MAX);
            let busy = |i: usize| i > from && i < until;
            for op in [Op::Accept, Op::Acquire, Op::Ping] {
                for c in v.of_worker(worker, op).iter().filter(|c| busy(c.sent) && c.sent_at > from_at) {
                    out.push(Violation::at("V9", c.sent, format!("{} while worker {worker} has {id}", c.request)));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::story::Story;
    use super::*;
    use ibex_core::process::ExitStatus;

    #[test]
    fn a_second_process_is_seen() {
        Story::new().connected(1).started(100).spawned(200).holds(INVARIANT);
        Story::new().connected(1).started(100).spawned(200).spawned(300).breaks(INVARIANT);
    }

    #[test]
    fn a_ping_during_a_job_is_seen() {
        let job = Story::new().connected(1).started(100).spawned(200).exited(300, ExitStatus::Code(0));
        job.clone().finish(310, 9, "0", "", "", 0).got(320, 9, 200).sent(400, 10, "ping", "w1", "").holds(INVARIANT);
        job.sent(305, 10, "ping", "w1", "").finish(310, 9, "0", "", "", 0).got(320, 9, 200).breaks(INVARIANT);
    }

    #[test]
    fn a_second_accept_of_a_finished_job_is_seen() {
        let job =
            Story::new().connected(1).started(100).spawned(200).exited(300, ExitStatus::Code(0)).finish(310, 9, "0", "", "", 0).got(320, 9, 200);
        job.sent(900, 10, "accept", "w1", "J").breaks(INVARIANT);
    }
}
