//! V7: from connect to the end of the last job, in every state, the gap between heartbeat attempts is at most H + one attempt
//! limit; no other call can delay them (races §0.1; start-and-worker §9.3, I17–I19).

use super::rows::Ref::S;
use super::view::{SLACK, View};
use super::{Invariant, Violation};
use crate::trace::Op;
use ibex_core::limits::EXCHANGE;
use ibex_core::machine::Instant;
use ibex_core::retry::HEARTBEAT;
use std::time::Duration;

pub(super) const INVARIANT: Invariant = Invariant {
    id: "V7",
    title: "heartbeats",
    rule: "start-and-worker §9.3, I17–I19: every H from connect until the last job is over",
    file: file!(),
    rows: &[S(17), S(18)],
    check,
};

/// The grid of simulated time.
const EARLY: Duration = Duration::from_millis(10);

/// When the next attempt is due: on the grid of ticks from connect, five seconds after a failure within a cycle, at once where a tick was
/// missed; never before, and not later (§9.3).
fn check(v: &View<'_>, out: &mut Vec<Violation>) {
    let trace_end = v.entries.last().map_or(Instant::ZERO, |e| e.at);
    for worker in 1..=v.setup.workers {
        let Some((connected, start)) = v.connected(worker) else { continue };
        let disconnected = v.of_worker(worker, Op::Disconnect).first().map(|c| c.sent_at);
        let rejected = v.heartbeat_rejected(worker).map(|(_, at)| at);
        let end = [disconnected, rejected, v.exit.map(|(_, at, _)| at), Some(trace_end)].into_iter().flatten().min().unwrap_or(trace_end);
        let h = v.setup.heartbeat;
        let tick_after = |at: Instant| start + h * u32::try_from(at.since(start).as_nanos() / h.as_nanos().max(1) + 1).unwrap_or(u32::MAX);
        let mut due = (tick_after(start), connected);
        // Where the cycle began, and its attempts.
        let (mut cycle, mut attempts) = (start, 0);
        for c in v.of_worker(worker, Op::Heartbeat) {
            if c.sent_at > due.0 + SLACK && due.0 < end {
                out.push(late(worker, due, c.sent_at));
            }
            if c.sent < connected || c.sent_at + EARLY < due.0 {
                out.push(Violation::at("V7", c.sent, format!("worker {worker} sent a heartbeat at {}, due at {}", text(c.sent_at), text(due.0))));
            }
            if attempts == 0 {
                cycle = c.sent_at;
            }
            attempts += 1;
            due = match c.returned {
                Some((i, returned, _)) if !c.ok() && attempts < HEARTBEAT.attempts => (returned + Duration::from_secs(5), i),
                Some((i, returned, _)) => {
                    attempts = 0;
                    (returned.max(tick_after(cycle)), i)
                }
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

    #[test]
    fn a_heartbeat_before_its_tick_is_seen() {
        beats(&[10_020, 20_020]).exit(20_100, 0).holds(INVARIANT);
        beats(&[10_020, 15_000]).exit(20_100, 0).breaks(INVARIANT);
        beats(&[5_000]).exit(9_100, 0).breaks(INVARIANT);
    }

    #[test]
    fn a_tick_that_was_missed_is_made_up_for_at_once_and_only_one_is() {
        let slow = |next: &[u64]| {
            let s = Story::new().connected(1).sent(10_020, 50, "heartbeat", "w1", "").got(41_000, 50, 200);
            let s = next.iter().zip(51..).fold(s, |s, (ms, call)| s.sent(*ms, call, "heartbeat", "w1", "").got(ms + 20, call, 200));
            s.exit(50_100, 0)
        };
        slow(&[41_000, 50_020]).holds(INVARIANT);
        slow(&[41_000, 41_020, 50_020]).breaks(INVARIANT);
        slow(&[50_020]).breaks(INVARIANT);
    }
}
