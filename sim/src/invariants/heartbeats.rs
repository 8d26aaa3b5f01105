//! V7: from connect to the end of the last job, in every state, the gap between heartbeat attempts is at most H + one attempt
//! limit; no other call can delay them (races §0.1; start-and-worker §9.3, I17–I19).

use super::rows::Ref::S;
use super::view::{SLACK, View};
use super::{Invariant, Violation};
use crate::trace::Op;
use ibex_core::limits::EXCHANGE;
use ibex_core::machine::Instant;
use std::time::Duration;

pub(super) const INVARIANT: Invariant = Invariant {
    id: "V7",
    title: "heartbeats",
    rule: "start-and-worker §9.3, I17–I19: every H from connect until the last job is over",
    file: file!(),
    rows: &[S(17), S(18)],
    check,
};

fn check(v: &View<'_>, out: &mut Vec<Violation>) {
    let trace_end = v.entries.last().map_or(Instant::ZERO, |e| e.at);
    for worker in 1..=v.setup.workers {
        let Some((connected, at)) = v.connected(worker) else { continue };
        let disconnected = v.of_worker(worker, Op::Disconnect).first().map(|c| c.sent_at);
        let rejected = v.heartbeat_rejected(worker).map(|(_, at)| at);
        let end = [disconnected, rejected, v.exit.map(|(_, at, _)| at), Some(trace_end)].into_iter().flatten().min().unwrap_or(trace_end);
        let h = v.setup.heartbeat;
        // The instant by which the next attempt is due, and the entry that made it so.
        let mut due = (at + h, connected);
        for c in v.of_worker(worker, Op::Heartbeat) {
            if c.sent_at > due.0 + SLACK && due.0 < end {
                out.push(late(worker, due, c.sent_at));
            }
            if c.sent < connected || (due.1 == connected && c.sent_at + SLACK < at + h) {
                out.push(Violation::at("V7", c.sent, format!("worker {worker} sent its first heartbeat before connect + H")));
            }
            due = match c.returned {
                // A cycle that failed goes on 5 s later, or with the next tick.
                Some((i, returned, _)) if !c.ok() => (returned + h.max(Duration::from_secs(5)), i),
                Some((i, returned, _)) => (returned.min(c.sent_at + EXCHANGE) + h, i),
                None => (c.sent_at + EXCHANGE + h, c.sent),
            };
        }
        if due.0 + SLACK < end {
            out.push(late(worker, due, end));
        }
    }
}

fn late(worker: u32, due: (Instant, usize), seen: Instant) -> Violation {
    Violation::at("V7", due.1, format!("worker {worker} owed a heartbeat {:?} before {}", seen.since(due.0), text(seen)))
}

fn text(at: Instant) -> String {
    format!("{}.{:03} s", at.as_nanos() / 1_000_000_000, at.as_nanos() / 1_000_000 % 1000)
}

#[cfg(test)]
mod tests {
    use super::super::story::Story;
    use super::*;

    fn beats(times: &[u64]) -> Story {
        let mut s = Story::new().connected(1);
        for (ms, call) in times.iter().zip(50..) {
            s = s.sent(*ms, call, "heartbeat", "w1", "").got(ms + 20, call, 200);
        }
        s
    }

    #[test]
    fn heartbeats_that_end_with_the_first_signal_are_seen() {
        beats(&[10_020, 20_020]).signal(21_000, "TERM").sent(29_000, 7, "disconnect", "w1", "").holds(INVARIANT);
        beats(&[10_020, 20_020]).signal(21_000, "TERM").sent(45_000, 7, "disconnect", "w1", "").breaks(INVARIANT);
    }

    #[test]
    fn a_gap_is_seen() {
        beats(&[10_020, 20_020, 41_000]).exit(41_100, 0).breaks(INVARIANT);
    }

    #[test]
    fn a_failed_attempt_is_tried_again_in_time() {
        let failing = |again| {
            Story::new()
                .connected(1)
                .sent(10_020, 50, "heartbeat", "w1", "")
                .failed(15_000, 50)
                .sent(again, 51, "heartbeat", "w1", "")
                .exit(again + 10, 0)
        };
        failing(20_000).holds(INVARIANT);
        failing(30_000).breaks(INVARIANT);
    }
}
