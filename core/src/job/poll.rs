//! The state poll of a running job (job-runner §7.2): a tick every P, a fresh jitter before each poll, one poll at a time.

use crate::limits;
use crate::machine::{Instant, RequestId};
use crate::rng::Rng;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// Shortest limit of one poll.
const POLL_LIMIT_MIN: Duration = Duration::from_secs(10);
/// Status interval where the register answer had none (W1).
const INTERVAL_DEFAULT: Duration = Duration::from_secs(1);

/// Where the poll stands.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(super) struct Poll {
    interval: Duration,
    /// The tick after the one that is being served.
    next_tick: Instant,
    phase: PollPhase,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
enum PollPhase {
    /// Until the next tick.
    Tick,
    /// After a tick.
    Jitter(Instant),
    InFlight(RequestId),
}

impl Poll {
    /// The first tick is now.
    pub(super) fn begin(now: Instant, interval: Duration, rng: &mut Rng) -> Poll {
        let interval = if interval.is_zero() { INTERVAL_DEFAULT } else { interval };
        Poll { interval, next_tick: now + interval, phase: PollPhase::Jitter(now + rng.duration_below(interval)) }
    }

    /// Limit of one exchange: a hanging poll holds up the next ones.
    pub(super) fn limit(&self) -> Duration {
        self.interval.max(POLL_LIMIT_MIN).min(limits::EXCHANGE)
    }

    /// The poll under way.
    pub(super) fn in_flight(&self) -> Option<RequestId> {
        if let PollPhase::InFlight(id) = self.phase { Some(id) } else { None }
    }

    /// A poll was sent.
    pub(super) fn sent(&mut self, id: RequestId) {
        self.phase = PollPhase::InFlight(id);
    }

    /// The poll under way was answered. Of the ticks that passed meanwhile one is kept.
    pub(super) fn answered(&mut self, now: Instant, rng: &mut Rng) {
        self.phase = PollPhase::Tick;
        if self.next_tick <= now {
            self.tick(now, rng);
        }
    }

    fn tick(&mut self, now: Instant, rng: &mut Rng) {
        // Of the ticks that passed, all but one are dropped; the grid of ticks stays where it was.
        let interval = self.interval.as_nanos().max(1);
        let passed = now.since(self.next_tick).as_nanos() / interval + 1;
        self.next_tick = self.next_tick + Duration::from_nanos(u64::try_from(passed * interval).unwrap_or(u64::MAX));
        self.phase = PollPhase::Jitter(now + rng.duration_below(self.interval));
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        match self.phase {
            PollPhase::Tick => Some(self.next_tick),
            PollPhase::Jitter(until) => Some(until),
            PollPhase::InFlight(_) => None,
        }
    }

    /// Fires the timer if it is due; true: send a poll now.
    pub(super) fn expire(&mut self, now: Instant, rng: &mut Rng) -> bool {
        match self.phase {
            PollPhase::Tick if self.next_tick <= now => {
                self.tick(now, rng);
                matches!(self.phase, PollPhase::Jitter(until) if until <= now)
            }
            PollPhase::Jitter(until) => until <= now,
            PollPhase::Tick | PollPhase::InFlight(_) => false,
        }
    }
}
