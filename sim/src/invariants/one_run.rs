//! V9: one accept and one process per job, over all delivery channels; one job at a time per worker
//! (races §0.1, R12; start-and-worker I1, I2, I10, I34; job-runner I1, I13, I31).

use super::rows::Ref::{R, S};
use super::view::View;
use super::{Invariant, Violation};
use crate::trace::{Credential, Op};

pub(super) const INVARIANT: Invariant = Invariant {
    id: "V9",
    title: "at most one run",
    rule: "start-and-worker I1, I2, I10; job-runner I1, I13, I31: one accept, one process, one job at a time",
    file: file!(),
    rows: &[S(1), S(2), S(10), S(34), R(1), R(13), R(31)],
    check,
};

fn check(v: &View<'_>, out: &mut Vec<Violation>) {
    for (id, job) in &v.jobs {
        // A job whose start was refused is given back: it may be offered, and taken, again (races R18).
        for r in &job.rounds {
            let given_back = |i: usize| !r.started && r.over.is_some_and(|over| over < i);
            for again in job.accepts.iter().filter(|c| c.sent > r.accepted.0 && c.request.credential == Credential::Worker(r.worker)) {
                if !given_back(again.sent) {
                    out.push(Violation::at("V9", again.sent, format!("{id} was accepted before, and is accepted again")));
                }
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
        for (id, r) in v.jobs.iter().flat_map(|(id, j)| j.rounds.iter().map(move |r| (id, r))).filter(|(_, r)| r.worker == worker) {
            let (from, from_at) = r.accepted;
            let until = r.over.unwrap_or(usize::MAX);
            let busy = |i: usize| i > from && i < until;
            for op in [Op::Accept, Op::Acquire, Op::Ping] {
                for c in v.of_worker(worker, op).iter().filter(|c| busy(c.sent) && c.sent_at > from_at) {
                    out.push(Violation::at("V9", c.sent, format!("{} while worker {worker} has {id}", c.request)));
                }
            }
        }
        for pair in v.of_worker(worker, Op::Accept).windows(2) {
            if pair[0].returned.is_none_or(|(i, _, _)| i > pair[1].sent) {
                out.push(Violation::at("V9", pair[1].sent, format!("{} while another accept is in flight", pair[1].request)));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::story::Story;
    use super::*;
    use crate::trace::{Fact, Got, Said};
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
    fn a_job_whose_start_was_refused_may_be_taken_again_and_only_then() {
        let told = |call| Fact::Returned { call, got: Got::Answer { status: 200, said: Said::Job("J".into()), retry_after_ms: None } };
        let taken = |start| {
            let first = Story::new().connected(1).sent(100, 1, "accept", "w1", "J").fact(120, told(1));
            let refused = first.sent(120, 2, "start", "J", "J").got(140, 2, start).sent(500, 3, "ping", "w1", "").got(520, 3, 200);
            refused.sent(530, 4, "accept", "w1", "J").fact(540, told(4)).sent(540, 5, "start", "J", "J").got(560, 5, 200)
        };
        taken(422).holds(INVARIANT);
        taken(200).breaks(INVARIANT);
    }

    #[test]
    fn a_second_accept_of_a_job_whose_start_was_refused_is_well_and_of_one_whose_start_is_retried_is_not() {
        let job = |status| Story::new().connected(1).accepted(100).sent(130, 5, "start", "J", "J").got(150, 5, status);
        job(422).sent(900, 10, "accept", "w1", "J").holds(INVARIANT);
        job(503).sent(900, 10, "accept", "w1", "J").breaks(INVARIANT);
    }

    #[test]
    fn two_accepts_in_flight_are_seen() {
        let first = Story::new().connected(1).sent(100, 1, "accept", "w1", "J");
        first.clone().got(150, 1, 409).sent(200, 2, "accept", "w1", "K").holds(INVARIANT);
        first.clone().sent(200, 2, "accept", "w2", "K").holds(INVARIANT);
        first.sent(200, 2, "accept", "w1", "K").breaks(INVARIANT);
    }
}
