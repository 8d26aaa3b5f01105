//! The idle monitor, told again from the marks that the chapter names: it fires when every worker is idle or dead, T after the last one
//! became idle, and then all that are not paused leave (start-and-worker §6, I30–I32).

use super::rows::Ref::S;
use super::view::{SLACK, View};
use super::{Invariant, Violation};
use crate::trace::Fact;
use ibex_core::machine::{Instant, Owner, Transition};
use std::time::Duration;

pub(super) const INVARIANT: Invariant = Invariant {
    id: "idle",
    title: "idle monitor",
    rule: "start-and-worker §6, I30–I32: fires T after the last worker became idle, never over a busy, paused or unheard one",
    file: file!(),
    rows: &[S(30), S(31), S(32)],
    check,
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mark {
    Initial,
    Busy,
    Paused,
    Idle(Instant),
    Dead,
}

/// The mark that a step leaves, if it leaves one.
fn mark(t: &Transition, at: Instant, before: Mark) -> Option<(u32, Mark)> {
    let (worker, mark) = match (t.owner, t.machine, t.event, t.to) {
        (Owner::Worker(w), "action", "pause", _) => (w, Mark::Paused),
        (Owner::Worker(w), "action", _, "Accepting") => (w, Mark::Busy),
        (Owner::Worker(w), "action", "idle" | "no news" | "job", "Free") => (w, Mark::Idle(at)),
        (Owner::Worker(w), "accept", _, "Failed") => (w, Mark::Idle(at)),
        (Owner::Worker(w), "worker", _, "Closing" | "Finished") => (w, Mark::Dead),
        (Owner::Worker(w), "acquire", _, "Acquired") => (w, Mark::Busy),
        (Owner::Job { worker: w, .. }, "runner", _, "done") => (w, Mark::Idle(at)),
        _ => return None,
    };
    // Idle time counts from the first mark.
    let kept = matches!((before, mark), (Mark::Idle(_) | Mark::Dead, Mark::Idle(_)));
    Some((worker, if kept { before } else { mark }))
}

/// When it is to fire, as things are.
fn deadline(marks: &[Mark], limit: Duration, now: Instant) -> Option<Instant> {
    let idle = |m: &Mark| match m {
        Mark::Idle(since) => Some(*since + limit),
        _ => None,
    };
    let blocked = marks.iter().any(|m| matches!(m, Mark::Initial | Mark::Busy | Mark::Paused));
    (!blocked).then(|| marks.iter().filter_map(idle).max().unwrap_or(now).max(now))
}

fn check(v: &View<'_>, out: &mut Vec<Violation>) {
    let Some(limit) = v.setup.idle else { return };
    let mut marks = vec![Mark::Initial; v.setup.workers as usize];
    let mut due: Option<Instant> = None;
    for (i, e) in v.entries.iter().enumerate() {
        if due.is_some_and(|due| e.at > due + SLACK) && marks.iter().any(|m| *m != Mark::Dead) && v.exit.is_none_or(|(x, _, _)| i < x) {
            out.push(Violation::at("idle", i, format!("all workers were idle or dead, and nothing fired at {due:?}")));
            return;
        }
        let Fact::Transition(t) = &e.fact else { continue };
        if t.machine == "idle" && t.to == "Fired" {
            // Marks of the instant come first (§0.2); what a worker does in the same step is told before the monitor's own.
            match due {
                Some(due) if e.at >= due && e.at <= due + SLACK => fired(v, &marks, i, out),
                _ => out.push(Violation::at("idle", i, format!("the idle timer fired, due was {due:?}: {marks:?}"))),
            }
            return;
        }
        let index = match t.owner {
            Owner::Worker(w) | Owner::Job { worker: w, .. } => w as usize,
            _ => continue,
        };
        let Some(before) = index.checked_sub(1).and_then(|n| marks.get(n)).copied() else { continue };
        if let Some((_, after)) = mark(t, e.at, before) {
            marks[index - 1] = after;
            due = deadline(&marks, limit, e.at);
        }
    }
}

/// Who is idle leaves in the instant of the firing.
fn fired(v: &View<'_>, marks: &[Mark], i: usize, out: &mut Vec<Violation>) {
    let at = v.entries[i].at;
    for (worker, mark) in (1u32..).zip(marks) {
        // The disconnect waits for what is in flight to be gone.
        let gone = v.steps(worker, "worker").any(|(s, t)| t.from == "Serving" && t.to != "Serving" && v.entries[s].at <= at + SLACK);
        let over = v.exit.is_some_and(|(_, exit, _)| exit <= at + SLACK) || v.entries.last().is_some_and(|e| e.at <= at + SLACK);
        if matches!(mark, Mark::Idle(_)) && !gone && !over && v.stop(worker).is_none_or(|(s, _)| s > i) {
            out.push(Violation::at("idle", i, format!("worker {worker} stays although all have been idle for long enough")));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::story::Story;
    use super::*;

    fn pool(workers: u32) -> Story {
        Story::new().with(|s| (s.workers, s.idle) = (workers, Some(Duration::from_secs(10))))
    }

    fn acts(s: Story, ms: u64, worker: u32, event: &'static str, to: &'static str) -> Story {
        s.fact(ms, Fact::Transition(Transition { owner: Owner::Worker(worker), machine: "action", from: "Free", event, to }))
    }

    fn fires(s: Story, ms: u64) -> Story {
        let fired = Transition { owner: Owner::Agent, machine: "idle", from: "Armed", event: "timer", to: "Fired" };
        s.fact(ms, Fact::Transition(fired))
    }

    fn leaves(s: Story, ms: u64) -> Story {
        s.step(ms, "worker", "Serving", "left", "Draining").exit(ms + 500, 0)
    }

    #[test]
    fn it_fires_t_after_the_last_worker_became_idle() {
        let both = || acts(acts(pool(2), 1_000, 1, "idle", "Free"), 4_000, 2, "idle", "Free");
        fires(both(), 14_000).holds(INVARIANT);
        fires(both(), 11_000).breaks(INVARIANT);
        fires(both(), 20_000).breaks(INVARIANT);
        both().signal(30_000, "TERM").breaks(INVARIANT);
        // A second idle message does not begin the time anew.
        fires(acts(both(), 6_000, 1, "idle", "Free"), 14_000).holds(INVARIANT);
    }

    #[test]
    fn a_busy_a_paused_and_an_unheard_worker_block_it() {
        let other = |event, to| acts(acts(pool(2), 1_000, 1, "idle", "Free"), 4_000, 2, event, to);
        fires(other("pause", "Paused"), 14_000).breaks(INVARIANT);
        fires(other("job", "Accepting"), 14_000).breaks(INVARIANT);
        fires(acts(pool(2), 1_000, 1, "idle", "Free"), 11_000).breaks(INVARIANT);
        other("pause", "Paused").signal(30_000, "TERM").holds(INVARIANT);
    }

    #[test]
    fn a_worker_that_stays_after_it_has_fired_is_seen() {
        let fired = || fires(acts(pool(1), 1_000, 1, "idle", "Free"), 11_000);
        leaves(fired(), 11_000).holds(INVARIANT);
        leaves(fired(), 12_000).breaks(INVARIANT);
    }
}
