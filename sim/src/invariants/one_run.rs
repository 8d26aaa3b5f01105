//! V9: one accept and one process per job, over all delivery channels; one job at a time per worker
//! (races §0.1, R12; start-and-worker I1, I2, I10, I34; job-runner I1, I13, I31).

use super::view::{Call, Job, View};
use super::{Invariant, Violation};
use crate::trace::{Credential, Op};
use ibex_core::retry;

pub(super) const INVARIANT: Invariant = Invariant {
    id: "V9",
    title: "at most one run",
    rule: "start-and-worker I1, I2, I10; job-runner I1, I13, I31: one accept, one process, one job at a time",
    check,
};

fn check(v: &View<'_>, out: &mut Vec<Violation>) {
    for (id, job) in &v.jobs {
        if let Some((accepted, _)) = job.accepted {
            let ours = |c: &Call<'_>| job.worker.is_some_and(|w| c.request.credential == Credential::Worker(w));
            for again in job.accepts.iter().filter(|c| c.sent > accepted && ours(c) && !dropped(job, c.sent)) {
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

/// Whether the worker had dropped the job again: its start was refused, or tried as often as its plan allows. It never ran, so
/// another offer of it may be taken (races R18, R12; start-and-worker §9.10, step 4).
fn dropped(job: &Job<'_>, before: usize) -> bool {
    let accepted = job.accepts.iter().filter(|c| c.ok() && c.sent < before).map(|c| c.sent).max().unwrap_or(0);
    let starts: Vec<_> = job.starts.iter().filter(|c| c.sent > accepted && c.sent < before).collect();
    let all = starts.len() >= retry::START.attempts as usize;
    starts.last().is_some_and(|last| !last.ok() && last.returned.is_some_and(|(i, _, _)| i < before) && (last.rejected() || all))
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

    #[test]
    fn a_second_accept_of_a_job_whose_start_was_refused_is_well_and_of_one_whose_start_is_retried_is_not() {
        let job = |status| Story::new().connected(1).accepted(100).sent(130, 5, "start", "J", "J").got(150, 5, status);
        job(422).sent(900, 10, "accept", "w1", "J").holds(INVARIANT);
        job(503).sent(900, 10, "accept", "w1", "J").breaks(INVARIANT);
    }
}
