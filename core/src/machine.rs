//! The contract that every machine keeps.
//!
//! 1. **One mutation, one drain.** After each call the caller executes all of `out`, in order, before the next call.
//! 2. **Time is an argument.** `now` never goes backwards; a machine asks no clock.
//! 3. **Requests and completions pair up.** A command that starts something carries a [`RequestId`]; exactly one event
//!    completes it, also after it was cancelled. A completion for an id that is no longer outstanding is counted and dropped.
//! 4. **Timers belong to states.** Leaving a state disarms its timers; `expire` called early or twice is harmless.
//! 5. **Nothing is unbounded.** Every queue has a named limit in [`crate::limits`].
//! 6. **Deterministic.** Same construction, same events, same commands, to the byte.
//! 7. **Total.** Any well-formed event in any state yields a defined result.
//! 8. **Cloneable, hashable, printable, serialisable.**

use serde::{Deserialize, Serialize};
use std::time::Duration;

/// A point in monotonic time: nanoseconds since the clock of the process was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Instant(u64);

impl Instant {
    /// The moment at which the clock was made.
    pub const ZERO: Instant = Instant(0);

    /// `nanos` nanoseconds after [`Instant::ZERO`].
    pub const fn from_nanos(nanos: u64) -> Instant {
        Instant(nanos)
    }

    /// `millis` milliseconds after [`Instant::ZERO`].
    pub const fn from_millis(millis: u64) -> Instant {
        Instant(millis * 1_000_000)
    }

    /// Nanoseconds since [`Instant::ZERO`].
    pub const fn as_nanos(self) -> u64 {
        self.0
    }

    /// Time passed since `earlier`; zero if `earlier` is later.
    pub const fn since(self, earlier: Instant) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

impl std::ops::Add<Duration> for Instant {
    type Output = Instant;
    /// Saturates: an instant that cannot be represented is one that never comes.
    fn add(self, d: Duration) -> Instant {
        Instant(self.0.saturating_add(u64::try_from(d.as_nanos()).unwrap_or(u64::MAX)))
    }
}

impl std::ops::Sub<Duration> for Instant {
    type Output = Instant;
    fn sub(self, d: Duration) -> Instant {
        Instant(self.0.saturating_sub(u64::try_from(d.as_nanos()).unwrap_or(u64::MAX)))
    }
}

/// A pure state machine.
pub trait Machine {
    /// What may happen to it.
    type Event;
    /// What it may ask for.
    type Command;

    /// Feeds one event that happened at `now`. Commands are appended in execution order.
    fn handle(&mut self, now: Instant, event: Self::Event, out: &mut Vec<Self::Command>);

    /// The instant by which [`Machine::expire`] must be called, if any timer is armed.
    fn deadline(&self) -> Option<Instant>;

    /// Fires every timer due at `now`, in order of deadline, then of declaration. Called early or twice it does nothing.
    fn expire(&mut self, now: Instant, out: &mut Vec<Self::Command>);
}

/// Who asked: completions are routed to their owner with one `match`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Owner {
    /// The agent itself (registration, lifecycle hooks).
    Agent,
    /// Worker with this spawn index, from 1.
    Worker(u32),
    /// Job number `generation` (from 1) of worker `worker`.
    Job {
        /// Spawn index of the worker.
        worker: u32,
        /// Counts the jobs of that worker, so that a late completion of an earlier job finds nobody.
        generation: u32,
    },
    /// The executor inside the `bootstrap` process.
    Executor,
    /// The embedded control plane.
    Plane,
}

/// Names one outstanding request; unique per process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct RequestId {
    /// Who waits for the completion.
    pub owner: Owner,
    /// Counts the owner's requests from 1.
    pub serial: u32,
}

/// Hands out the ids of one owner.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct RequestIds {
    owner: Owner,
    next: u32,
}

impl RequestIds {
    /// Ids of `owner`, from serial 1.
    pub fn new(owner: Owner) -> RequestIds {
        RequestIds { owner, next: 0 }
    }

    /// A fresh id.
    pub fn issue(&mut self) -> RequestId {
        self.next += 1;
        RequestId { owner: self.owner, serial: self.next }
    }

    /// The owner of these ids.
    pub fn owner(&self) -> Owner {
        self.owner
    }
}

/// One step of one machine; coverage, diagrams, status page and timeline are drawn from this one stream.
/// `from == to` is a transition too when the event was acted on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Transition {
    /// Whose machine.
    pub owner: Owner,
    /// Machine name, lower case: `shutdown`, `pool`, `worker`, `heartbeat`, `poll`, `stream`, `gate`, `debouncer`, `runner`, `process`, `log`, …
    pub machine: &'static str,
    /// State left.
    pub from: &'static str,
    /// What happened.
    pub event: &'static str,
    /// State entered.
    pub to: &'static str,
}

/// The earlier of two optional deadlines.
pub fn earliest(a: Option<Instant>, b: Option<Instant>) -> Option<Instant> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, None) => a,
        (None, b) => b,
    }
}
