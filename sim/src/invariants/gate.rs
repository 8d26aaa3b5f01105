//! The gate between poll and stream, told by the steps of the machines and by the wire: who delivers holds it, one delivery at a time,
//! completed before the next; it is let go when the stream cannot be relied on and nothing of it is in progress; a ping that waits for it goes
//! in that instant (start-and-worker §9.5–§9.8, I11, I13, I38–I40, I55).

use super::rows::Ref::S;
use super::view::View;
use super::{Invariant, Violation};
use crate::schedule::Source;
use crate::trace::{Credential, Fact, Got, Op, Said};
use ibex_core::limits::STREAM;
use ibex_core::machine::{Owner, Transition};
use std::collections::BTreeMap;

pub(super) const INVARIANT: Invariant = Invariant {
    id: "gate",
    title: "gate and deliveries",
    rule: "start-and-worker §9.5–§9.8, I11, I13, I38–I40, I55: the side that delivers holds the gate, and lets it go when it must",
    file: file!(),
    rows: &[S(11), S(13), S(38), S(39), S(40), S(55)],
    check,
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Holder {
    Nobody,
    Poll,
    Stream,
}

/// What the steps of one worker add up to.
struct Side {
    gate: Holder,
    /// A poll delivered, and its action is not completed.
    polled: bool,
    /// The debouncer delivered, and its action is not completed.
    streamed: bool,
    /// The poll source waits at the gate.
    waits: bool,
    /// The stream can be relied on.
    healthy: bool,
    /// The worker serves.
    serves: bool,
    /// Last step.
    entry: usize,
}

fn check(v: &View<'_>, out: &mut Vec<Violation>) {
    let first = if v.setup.source == Source::Poll { Holder::Nobody } else { Holder::Stream };
    let fresh = || Side { gate: first, polled: false, streamed: false, waits: false, healthy: true, serves: true, entry: 0 };
    let mut sides: BTreeMap<u32, Side> = (1..=v.setup.workers).map(|w| (w, fresh())).collect();
    let mut now = None;
    for (i, e) in v.entries.iter().enumerate() {
        if now != Some(e.at) {
            for (worker, side) in &sides {
                rest(*worker, side, out);
            }
            now = Some(e.at);
        }
        match &e.fact {
            Fact::Transition(t) => {
                if let Owner::Worker(w) = t.owner
                    && let Some(side) = sides.get_mut(&w)
                {
                    step(w, side, t, i, out);
                }
            }
            Fact::Sent(r) if r.op == Op::Ping => {
                if let Credential::Worker(w) = r.credential
                    && sides.get(&w).is_some_and(|s| s.gate != Holder::Poll)
                {
                    out.push(Violation::at("gate", i, format!("{r} while the poll side does not hold the gate")));
                }
            }
            _ => {}
        }
    }
    for worker in 1..=v.setup.workers {
        quiet_ends(v, worker, out);
    }
}

/// What must hold when an instant is over.
fn rest(worker: u32, s: &Side, out: &mut Vec<Violation>) {
    if !s.serves {
        return;
    }
    if s.gate == Holder::Nobody && s.waits {
        out.push(Violation::at("gate", s.entry, format!("the gate of worker {worker} is free, and its ping waits")));
    }
    if s.gate == Holder::Stream && !s.healthy && !s.streamed {
        out.push(Violation::at("gate", s.entry, format!("worker {worker} relies on a stream that is not healthy")));
    }
}

fn step(worker: u32, s: &mut Side, t: &Transition, i: usize, out: &mut Vec<Violation>) {
    let mut wrong = |text: String| out.push(Violation::at("gate", i, format!("worker {worker}: {text}")));
    match (t.machine, t.from, t.event, t.to) {
        ("gate", _, _, to) => {
            s.gate = match to {
                "HeldByPoll" => Holder::Poll,
                "HeldByStream" => Holder::Stream,
                _ => Holder::Nobody,
            };
            if s.gate != Holder::Poll && s.polled || s.gate != Holder::Stream && s.streamed {
                wrong("the gate moved while a delivery was in progress".into());
            }
        }
        // Completed in the same step, before the gate is told of it.
        ("poll", "AwaitDone", "done" | "job done", to) => {
            if !std::mem::take(&mut s.polled) {
                wrong("a poll's delivery was completed that was not in progress".into());
            }
            s.waits = to == "WaitGate";
        }
        ("poll", _, _, "AwaitDone") => {
            if s.gate != Holder::Poll || s.polled || s.streamed {
                wrong(format!("a ping is delivered, the gate is held by {:?}", s.gate));
            }
            s.polled = true;
        }
        ("poll", _, event, to) => {
            s.waits = to == "WaitGate";
            if event == "stop" {
                (s.polled, s.serves) = (false, false);
            }
        }
        ("debouncer", _, "deliver", _) => {
            if s.gate != Holder::Stream || s.polled || s.streamed || !s.healthy {
                wrong(format!("a message of the stream is delivered, the gate is held by {:?}", s.gate));
            }
            s.streamed = true;
        }
        ("debouncer", _, "action done", _) if s.streamed => s.streamed = false,
        ("debouncer", _, "action done", _) => wrong("a stream's delivery was completed that was not in progress".into()),
        ("debouncer", _, "message", _) => s.healthy = true,
        ("debouncer", _, "unhealthy" | "source ended", _) => s.healthy = false,
        ("worker", "Serving", _, _) => s.serves = false,
        _ => {}
    }
    if matches!(t.machine, "gate" | "poll" | "debouncer") {
        s.entry = i;
    }
}

/// A stream that has spoken and ends by a deadline or well changes nothing; one that has not is not to be relied on (I40).
fn quiet_ends(v: &View<'_>, worker: u32, out: &mut Vec<Violation>) {
    let gone = v.leaves(worker);
    for c in v.of_worker(worker, Op::Stream) {
        let Some((i, at, got)) = c.returned.filter(|(_, at, _)| *at < gone) else { continue };
        let limit = *got == Got::Dropped && at >= c.sent_at + STREAM;
        let well = matches!(got, Got::Answer { status: 200, said: Said::Status(0 | 4), .. });
        if !limit && !well {
            continue;
        }
        let spoke = v.entries[c.sent..i].iter().any(|e| matches!(&e.fact, Fact::Streamed { worker: w, .. } if *w == worker));
        let doubted = v.steps(worker, "debouncer").any(|(s, t)| t.event == "unhealthy" && v.entries[s].at == at);
        if spoke == doubted {
            let text = format!(
                "a stream of worker {worker} {} and ended well: it is {}healthy",
                if spoke { "spoke" } else { "said nothing" },
                if doubted { "not " } else { "" }
            );
            out.push(Violation::at("gate", i, text));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::story::Story;
    use super::*;

    fn auto() -> Story {
        Story::new().with(|s| s.source = Source::Auto).connected(1)
    }

    fn lets_go(s: Story, ms: u64) -> Story {
        s.step(ms, "gate", "HeldByStream", "stream lets go", "Nobody")
    }

    fn taken(s: Story, ms: u64) -> Story {
        s.step(ms, "gate", "Nobody", "poll takes", "HeldByPoll").step(ms, "poll", "WaitGate", "granted", "Ping")
    }

    #[test]
    fn a_ping_while_the_stream_holds_the_gate_is_seen() {
        let waits = auto().step(100, "poll", "Jitter", "jitter over", "WaitGate");
        let unhealthy = lets_go(waits.clone().step(200, "debouncer", "Quiet", "unhealthy", "Quiet"), 200);
        taken(unhealthy.clone(), 200).sent(200, 5, "ping", "w1", "").got(210, 5, 200).holds(INVARIANT);
        waits.sent(200, 5, "ping", "w1", "").breaks(INVARIANT);
        // The gate is free, and the ping goes on waiting.
        unhealthy.exit(900, 0).breaks(INVARIANT);
    }

    #[test]
    fn a_gate_that_is_kept_by_a_broken_stream_is_seen() {
        let broken = auto().step(200, "debouncer", "Quiet", "unhealthy", "Quiet");
        lets_go(broken.clone(), 200).exit(900, 0).holds(INVARIANT);
        broken.exit(900, 0).breaks(INVARIANT);
    }

    #[test]
    fn a_gate_is_kept_until_the_action_is_over_and_not_longer() {
        let busy =
            || auto().step(100, "debouncer", "Pending", "deliver", "InProgress").step(200, "debouncer", "InProgress", "unhealthy", "InProgress");
        let done = |s: Story| s.step(900, "debouncer", "InProgress", "action done", "Quiet");
        lets_go(done(busy()), 900).exit(1_000, 0).holds(INVARIANT);
        done(lets_go(busy(), 200)).breaks(INVARIANT);
        done(busy()).exit(1_000, 0).breaks(INVARIANT);
    }

    #[test]
    fn a_second_delivery_before_the_first_is_completed_is_seen() {
        let deliver = |s: Story, ms| s.step(ms, "debouncer", "Pending", "deliver", "InProgress");
        let done = |s: Story, ms| s.step(ms, "debouncer", "InProgress", "action done", "Quiet");
        deliver(done(deliver(auto(), 100), 200), 300).holds(INVARIANT);
        deliver(deliver(auto(), 100), 300).breaks(INVARIANT);
        done(done(deliver(auto(), 100), 200), 300).breaks(INVARIANT);
        deliver(auto(), 100).step(200, "poll", "Ping", "answer", "AwaitDone").breaks(INVARIANT);
    }

    #[test]
    fn the_end_of_a_stream_that_spoke_is_no_failure_and_of_a_silent_one_is() {
        let story = |spoke: bool, unhealthy: bool| {
            let s = auto().sent(100, 5, "stream", "w1", "");
            let s = if spoke { s.fact(200, Fact::Streamed { worker: 1, kind: "resume", job: None }) } else { s };
            let s = s.fact(60_100, Fact::Returned { call: 5, got: Got::Dropped });
            let s = if unhealthy { lets_go(s.step(60_100, "debouncer", "Quiet", "unhealthy", "Quiet"), 60_100) } else { s };
            s.exit(61_000, 0)
        };
        story(true, false).holds(INVARIANT);
        story(false, true).holds(INVARIANT);
        story(true, true).breaks(INVARIANT);
        story(false, false).breaks(INVARIANT);
    }
}
