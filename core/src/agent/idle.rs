//! The idle monitor: when has *every* worker been idle for long enough (specification: start-and-worker §6)?

use super::desk::Cx;
use crate::machine::{Instant, Owner};
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// What the monitor knows of one worker. The worker keeps its own mark; the pool tells the monitor of changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) enum Mark {
    /// Not yet heard of: counts as busy.
    Initial,
    /// Works, or is paused.
    Busy,
    /// Idle since the first mark.
    Idle(Instant),
    /// Finished.
    Dead,
}

impl Mark {
    /// MarkIdle: idle time counts from the first mark.
    pub(crate) fn idle(&mut self, now: Instant) {
        if matches!(self, Mark::Initial | Mark::Busy) {
            *self = Mark::Idle(now);
        }
    }

    /// MarkBusy.
    pub(crate) fn busy(&mut self) {
        *self = Mark::Busy;
    }

    fn blocks(self) -> bool {
        matches!(self, Mark::Initial | Mark::Busy)
    }
}

/// The pool-wide timer.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) struct IdleMonitor {
    limit: Duration,
    /// Workers that are Initial or Busy.
    blocking: u32,
    state: State,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
enum State {
    /// Somebody is busy.
    Blocked,
    /// Nobody is; fires then.
    Armed(Instant),
    /// Once and for good.
    Fired,
}

impl IdleMonitor {
    /// A monitor of `workers` workers in Initial.
    pub(crate) fn new(limit: Duration, workers: u32) -> IdleMonitor {
        IdleMonitor { limit, blocking: workers, state: State::Blocked }
    }

    fn name(&self) -> &'static str {
        match self.state {
            State::Blocked => "Blocked",
            State::Armed(_) => "Armed",
            State::Fired => "Fired",
        }
    }

    /// A worker's mark has changed. `last_idle` gives the latest idle time over all idle workers; it is asked only when nobody
    /// blocks.
    pub(crate) fn marked(&mut self, now: Instant, before: Mark, after: Mark, last_idle: impl FnOnce() -> Option<Instant>, cx: &mut Cx<'_>) {
        self.blocking -= u32::from(before.blocks());
        self.blocking += u32::from(after.blocks());
        if self.state == State::Fired {
            return; // After firing, marks are ignored.
        }
        let from = self.name();
        self.state = if self.blocking > 0 {
            State::Blocked
        } else {
            // No idle worker, or a deadline that is past: now. The timer decides, so that events of this instant come first (§0.2).
            State::Armed(last_idle().map_or(now, |since| (since + self.limit).max(now)))
        };
        let event = match after {
            Mark::Initial => "initial",
            Mark::Busy => "busy",
            Mark::Idle(_) => "idle",
            Mark::Dead => "dead",
        };
        cx.step(Owner::Agent, "idle", from, event, self.name());
    }

    pub(crate) fn deadline(&self) -> Option<Instant> {
        match self.state {
            State::Armed(at) => Some(at),
            State::Blocked | State::Fired => None,
        }
    }

    /// Whether it fires now.
    pub(crate) fn expire(&mut self, now: Instant, cx: &mut Cx<'_>) -> bool {
        let fires = self.deadline().is_some_and(|at| at <= now);
        if fires {
            self.state = State::Fired;
            cx.step(Owner::Agent, "idle", "Armed", "timer", "Fired");
        }
        fires
    }
}
