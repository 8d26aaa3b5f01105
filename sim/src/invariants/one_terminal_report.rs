//! V2: a job whose start was accepted gets a finish; at most one finish is acknowledged; nothing is sent for the job after it
//! settled (races §0.1; job-runner I2–I6).

use super::rows::Ref::R;
use super::view::{Job, SLACK, View};
use super::{Invariant, Violation};
use crate::trace::Payload;
use ibex_core::machine::Instant;
use std::time::Duration;

pub(super) const INVARIANT: Invariant = Invariant {
    id: "V2",
    title: "one terminal report",
    rule: "job-runner I2–I6: one finish owed and one settled, then silence",
    file: file!(),
    rows: &[R(2), R(3), R(4), R(5), R(6), R(45)],
    check,
};

fn check(v: &View<'_>, out: &mut Vec<Violation>) {
    for (id, job) in &v.jobs {
        match job.finishes.first() {
            None => {
                // A third signal ends the process in the same step; a forced stop still owes an attempt (I45).
                if let (Some((i, _)), Some(_), None, false) = (job.started, v.exit, v.third_signal(), spawned_too_late(v, job)) {
                    out.push(Violation::at("V2", i, format!("{id} was started, and the agent ended without a finish for it")));
                }
            }
            Some(first) => {
                if job.started.is_none_or(|(i, _)| i > first.sent) {
                    out.push(Violation::at("V2", first.sent, format!("finish of {id} without an accepted start")));
                }
                for later in &job.finishes[1..] {
                    if body(&later.request.payload) != body(&first.request.payload) {
                        out.push(Violation::at("V2", later.sent, format!("finish attempts of {id} differ")));
                    }
                }
            }
        }
        if let Some((reaped, at, _)) = job.reaped {
            for c in job.polls.iter().filter(|c| c.sent > reaped && c.sent_at > at) {
                out.push(Violation::at("V2", c.sent, format!("{id} was polled after its leader's exit was observed (I6)")));
            }
        }
        let settled = job.finishes.iter().find(|c| c.ok() || c.rejected()).and_then(|c| c.returned).map(|(i, at, _)| (i, at));
        let Some((i, at)): Option<(usize, Instant)> = settled else { continue };
        let all = job.starts.iter().chain(&job.polls).chain(&job.chunks).chain(&job.header_times).chain(&job.finishes);
        for c in all.filter(|c| c.sent > i && c.sent_at > at) {
            out.push(Violation::at("V2", c.sent, format!("{} of {id} after its finish had settled", c.request.op.name())));
        }
    }
}

/// A process that comes to be so long after a forced stop that its grace period (I34: `S` from its interrupt, which is its start, §7.6) ends
/// with the force timer or later (I43), and whose group lived until then: the two rules leave no room for what comes before a finish, a
/// drain of 100 ms (§5.8).
fn spawned_too_late(v: &View<'_>, job: &Job<'_>) -> bool {
    let (Some((_, forced)), Some((_, spawned)), Some((_, exit, 1))) = (v.forced_by_signal(), job.spawned, v.exit) else { return false };
    let timer = forced + v.setup.signal_timeout + v.setup.cleanup_timeout + Duration::from_secs(1);
    let drain = Duration::from_millis(100) + SLACK;
    let gone = job.members.last().filter(|(_, alive)| *alive == 0).map(|(i, _)| v.entries[*i].at);
    exit >= timer && spawned + v.setup.signal_timeout + drain > timer && gone.is_none_or(|at| at + drain > exit)
}

fn body(p: &Payload) -> &str {
    match p {
        Payload::Finish { body, .. } => body,
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::super::story::Story;
    use super::*;
    use ibex_core::process::ExitStatus;

    fn job() -> Story {
        Story::new().connected(1).started(100).spawned(200).exited(300, ExitStatus::Code(0))
    }

    #[test]
    fn a_started_job_without_a_finish_is_seen() {
        job().finish(400, 3, "0", "", "", 0).got(420, 3, 200).exit(900, 0).holds(INVARIANT);
        job().exit(900, 0).breaks(INVARIANT);
    }

    /// S = 10 s, C = 5 s: the force timer fires 16 s after the stop; a process that is interrupted later than 6 s after it can outlive it.
    #[test]
    fn only_a_process_that_outlives_the_force_timer_by_its_grace_is_excused() {
        let story = |spawned, gone, exit| {
            let s = Story::new().connected(1).started(100).signal(1_000, "QUIT").spawned(spawned);
            let s = if gone < exit { s.exited(gone, ExitStatus::Signal(9)) } else { s };
            s.exit(exit, 1)
        };
        story(7_000, 17_000, 17_000).holds(INVARIANT);
        story(6_500, 17_000, 17_000).breaks(INVARIANT);
        story(7_000, 12_000, 17_000).breaks(INVARIANT);
        story(7_000, 16_000, 16_000).breaks(INVARIANT);
    }

    #[test]
    fn a_finish_after_a_settled_one_is_seen() {
        let retried =
            |second| job().finish(400, 3, "0", "", "", 0).got(420, 3, second).finish(2_700, 4, "0", "", "", 0).got(2_720, 4, 200).exit(3_000, 0);
        retried(500).holds(INVARIANT);
        retried(200).breaks(INVARIANT);
        retried(422).breaks(INVARIANT);
    }

    #[test]
    fn a_poll_after_the_end_is_seen() {
        job().finish(400, 3, "0", "", "", 0).got(420, 3, 200).sent(500, 5, "job-state", "J", "J").exit(900, 0).breaks(INVARIANT);
    }

    #[test]
    fn a_poll_after_the_exit_is_seen() {
        job().sent(350, 5, "job-state", "J", "J").finish(400, 3, "0", "", "", 0).got(420, 3, 200).exit(900, 0).breaks(INVARIANT);
    }

    #[test]
    fn attempts_that_differ_are_seen() {
        job().finish(400, 3, "0", "", "", 0).got(420, 3, 500).finish(2_700, 4, "1", "", "", 0).got(2_720, 4, 200).exit(3_000, 0).breaks(INVARIANT);
    }
}
