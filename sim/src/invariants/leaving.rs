//! A worker leaves for a reason of the chapter: a stop, the server's disconnect, the end of its sources, or a policy that it was set up
//! with. SIGHUP is none, and another worker's failure is none (start-and-worker §4, §5, §9.1, I45, I57).

use super::rows::Ref::S;
use super::view::View;
use super::{Invariant, Violation};
use crate::schedule::Flaw;
use crate::trace::{Fact, Op};

pub(super) const INVARIANT: Invariant = Invariant {
    id: "leaving",
    title: "reasons to leave",
    rule: "start-and-worker §4, §5, §9.1, §9.9, I45, I57: nobody leaves but by a stop, a disconnect, the end of its sources, or a policy",
    file: file!(),
    rows: &[S(45), S(57)],
    check,
};

fn check(v: &View<'_>, out: &mut Vec<Violation>) {
    for worker in 1..=v.setup.workers {
        let Some(left) = v.of_worker(worker, Op::Disconnect).first().copied().copied() else { continue };
        let before = |i: usize| i < left.sent;
        let fired = |e: &crate::trace::Entry| matches!(&e.fact, Fact::Transition(t) if t.machine == "idle" && t.to == "Fired");
        let ran = v.jobs.values().flat_map(|j| &j.rounds).any(|r| r.worker == worker && r.started && r.over.is_some_and(before));
        let reason = v.stop(worker).is_some_and(|(i, _)| before(i))
            || v.sources_ended(worker).is_some_and(before)
            || (v.setup.one_shot && ran)
            || v.setup.acquire
            || v.setup.flaw == Flaw::Metrics
            || (v.setup.idle.is_some() && v.entries[..left.sent].iter().any(fired))
            || v.setup.uptime.zip(v.serving(worker)).is_some_and(|(uptime, (_, from))| left.sent_at >= from + uptime);
        if !reason {
            out.push(Violation::at("leaving", left.sent, format!("worker {worker} left without a reason")));
        }
    }
    // The pool waits for all of them.
    let Some((exit, _, _)) = v.exit.filter(|_| !v.ended_by_force()) else { return };
    for worker in 1..=v.setup.workers {
        let steps: Vec<_> = v.steps(worker, "worker").filter(|(i, _)| *i < exit).collect();
        if let Some((i, last)) = steps.last()
            && last.to != "Finished"
        {
            out.push(Violation::at("leaving", *i, format!("the agent ended while worker {worker} was {}", last.to)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::story::Story;
    use super::*;
    use std::time::Duration;

    fn left(s: Story) -> Story {
        s.sent(12_000, 6, "disconnect", "w1", "").got(12_020, 6, 200)
    }

    #[test]
    fn a_worker_that_leaves_without_a_reason_is_seen() {
        let s = || Story::new().connected(1);
        left(s()).breaks(INVARIANT);
        left(s().signal(500, "HUP")).breaks(INVARIANT);
        left(s().signal(500, "TERM")).holds(INVARIANT);
        left(s().with(|s| s.uptime = Some(Duration::from_secs(11)))).holds(INVARIANT);
        left(s().with(|s| s.uptime = Some(Duration::from_secs(20)))).breaks(INVARIANT);
        left(s().with(|s| s.idle = Some(Duration::from_secs(11)))).breaks(INVARIANT);
    }

    #[test]
    fn the_failure_of_another_worker_is_no_reason() {
        let both = Story::new().with(|s| s.workers = 2).connected(1).connected(2);
        let beat = |who| both.clone().sent(10_000, 5, "heartbeat", who, "").got(10_020, 5, 401);
        left(beat("w1")).holds(INVARIANT);
        left(beat("w2")).breaks(INVARIANT);
    }

    #[test]
    fn an_end_before_the_last_worker_is_seen() {
        let s = left(Story::new().connected(1).signal(500, "TERM"));
        s.clone().step(12_020, "worker", "Disconnecting", "disconnected", "Finished").exit(12_030, 0).holds(INVARIANT);
        s.step(12_000, "worker", "Draining", "no job", "Disconnecting").exit(12_030, 0).breaks(INVARIANT);
    }
}
