//! V6: output drained → chunks settled → finish settled → disconnect → exit. Never inverted, on no path
//! (races §0.1; job-runner I7, I12; start-and-worker I6–I9).

use super::rows::Ref::{R, S};
use super::view::{Call, View};
use super::{Invariant, Violation};
use crate::trace::{Got, Op};
use ibex_core::limits::EXCHANGE;

pub(super) const INVARIANT: Invariant = Invariant {
    id: "V6",
    title: "order",
    rule: "job-runner I7; start-and-worker I6–I9: drained, settled, finished, disconnected, gone",
    file: file!(),
    rows: &[S(7), S(8), S(9), S(19), S(57), R(7)],
    check,
};

fn check(v: &View<'_>, out: &mut Vec<Violation>) {
    for (id, job) in &v.jobs {
        let Some(finish) = job.finishes.first() else { continue };
        if job.spawned.is_some() && job.output_over.is_none_or(|(i, _)| i > finish.sent) {
            out.push(Violation::at("V6", finish.sent, format!("finish of {id} was sent before its output had ended")));
        }
        for c in job.chunks.iter().chain(&job.header_times) {
            if c.returned.is_none_or(|(i, _, _)| i > finish.sent) {
                out.push(Violation::at("V6", finish.sent, format!("finish of {id} was sent while {} was not settled", c.request)));
            }
        }
    }
    for worker in 1..=v.setup.workers {
        let disconnects = v.of_worker(worker, Op::Disconnect);
        let Some(first) = disconnects.first() else {
            if let (Some((i, _)), Some(_), false) = (v.connected(worker), v.exit, v.ended_by_force()) {
                out.push(Violation::at("V6", i, format!("worker {worker} was connected, and the agent ended without its disconnect")));
            }
            // A connect that a stop gave up may have been done: one disconnect is owed (start-and-worker §9.11).
            let unknown = v.of_worker(worker, Op::Connect).last().filter(|c| given_up(c)).and_then(|c| c.returned);
            if let (Some((i, _, _)), Some(_), false) = (unknown, v.exit, v.ended_by_force()) {
                out.push(Violation::at("V6", i, format!("the connect of worker {worker} was given up, and no disconnect followed")));
            }
            continue;
        };
        if !v.of_worker(worker, Op::Connect).iter().any(|c| c.sent < first.sent && (c.ok() || given_up(c) || in_the_instant_of_a_stop(v, c))) {
            out.push(Violation::at("V6", first.sent, format!("worker {worker} was disconnected without having been connected")));
        }
        let of_its_jobs = v.jobs.values().filter(|j| j.worker == Some(worker)).flat_map(|j| j.starts.iter().chain(&j.chunks).chain(&j.finishes));
        let of_itself: Vec<Call<'_>> =
            v.calls.values().filter(|c| c.request.credential == first.request.credential && c.request.op != Op::Disconnect).copied().collect();
        for c in of_its_jobs.chain(&of_itself) {
            if c.sent > first.sent {
                out.push(Violation::at("V6", c.sent, format!("{} of worker {worker} after its disconnect", c.request)));
            } else if c.returned.is_none_or(|(i, _, _)| i > first.sent) {
                out.push(Violation::at("V6", first.sent, format!("worker {worker} was disconnected while {} was not settled", c.request)));
            }
        }
        if let Some(done) = disconnects.iter().find(|c| c.ok()).and_then(|c| c.returned) {
            for again in disconnects.iter().filter(|c| c.sent > done.0) {
                out.push(Violation::at("V6", again.sent, format!("worker {worker} was disconnected a second time")));
            }
        }
    }
}

/// A connect that the agent closed before its own limit: whether it was done is not known.
fn given_up(c: &Call<'_>) -> bool {
    matches!(c.returned, Some((_, at, Got::Dropped)) if at < c.sent_at + EXCHANGE)
}

/// An answer of the instant of a stop is ignored: the stop comes first, and gives the connect up (§0.2).
fn in_the_instant_of_a_stop(v: &View<'_>, c: &Call<'_>) -> bool {
    c.returned.is_some_and(|(_, at, _)| v.signals.iter().any(|(_, signal, _)| *signal == at))
}

#[cfg(test)]
mod tests {
    use super::super::story::Story;
    use super::*;
    use crate::trace::Fact;
    use ibex_core::process::ExitStatus;

    fn job() -> Story {
        Story::new().connected(1).started(100).spawned(200).exited(300, ExitStatus::Code(0))
    }

    #[test]
    fn a_finish_before_the_last_chunk_is_seen() {
        job().chunk(310, 5, 1, 0, "x").got(320, 5, 200).finish(330, 9, "0", "", "", 0).holds(INVARIANT);
        job().chunk(310, 5, 1, 0, "x").finish(315, 9, "0", "", "", 0).got(320, 5, 200).breaks(INVARIANT);
    }

    #[test]
    fn a_finish_before_the_end_of_output_is_seen() {
        Story::new().connected(1).started(100).spawned(200).finish(300, 9, "0", "", "", 0).breaks(INVARIANT);
    }

    #[test]
    fn a_second_disconnect_is_seen() {
        let story = |first| {
            let s = Story::new().connected(1).sent(500, 7, "disconnect", "w1", "").got(520, 7, first);
            s.sent(1_520, 8, "disconnect", "w1", "").got(1_540, 8, 200).exit(1_600, 0)
        };
        story(500).holds(INVARIANT);
        story(200).breaks(INVARIANT);
    }

    #[test]
    fn an_exit_without_disconnect_is_seen() {
        Story::new().connected(1).signal(400, "TERM").exit(500, 0).breaks(INVARIANT);
        Story::new().connected(1).signal(400, "TERM").sent(400, 7, "disconnect", "w1", "").got(420, 7, 200).exit(500, 0).holds(INVARIANT);
    }

    #[test]
    fn a_connect_that_was_given_up_owes_a_disconnect() {
        let dropped = Fact::Returned { call: 1, got: Got::Dropped };
        let given_up = Story::new().sent(0, 1, "connect", "w1", "").signal(400, "QUIT").fact(400, dropped);
        given_up.clone().exit(500, 0).breaks(INVARIANT);
        given_up.sent(400, 7, "disconnect", "w1", "").got(420, 7, 200).exit(500, 0).holds(INVARIANT);
    }

    #[test]
    fn a_disconnect_after_connects_that_all_failed_is_seen() {
        let failed = |got| Story::new().sent(0, 1, "connect", "w1", "").fact(300, Fact::Returned { call: 1, got }).signal(400, "TERM");
        let then = |s: Story| s.sent(400, 7, "disconnect", "w1", "").got(420, 7, 200).exit(500, 0);
        then(failed(Got::Failed("refused"))).breaks(INVARIANT);
        then(failed(Got::Answer { status: 200, said: crate::trace::Said::Nothing, retry_after_ms: None })).holds(INVARIANT);
        let at_once = Fact::Returned { call: 1, got: Got::Failed("refused") };
        then(Story::new().sent(0, 1, "connect", "w1", "").signal(400, "QUIT").fact(400, at_once)).holds(INVARIANT);
        // At its own limit an attempt has failed.
        let timed_out = Story::new().sent(0, 1, "connect", "w1", "").fact(60_000, Fact::Returned { call: 1, got: Got::Dropped });
        timed_out.clone().signal(61_000, "TERM").exit(61_000, 0).holds(INVARIANT);
        then(timed_out).breaks(INVARIANT);
    }

    #[test]
    fn a_ping_after_the_disconnect_is_seen() {
        Story::new().connected(1).sent(400, 7, "disconnect", "w1", "").got(420, 7, 200).sent(430, 8, "ping", "w1", "").exit(500, 0).breaks(INVARIANT);
    }

    #[test]
    fn a_disconnect_during_a_finish_is_seen() {
        job().finish(330, 9, "0", "", "", 0).sent(340, 10, "disconnect", "w1", "").got(350, 9, 200).got(360, 10, 200).exit(400, 0).breaks(INVARIANT);
    }
}
