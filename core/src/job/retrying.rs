//! A call that is retried by a plan and can be ended from outside: start and finish.

use crate::api::Outcome;
use crate::machine::{Instant, RequestId};
use crate::retry::{Attempts, Next, Plan};
use crate::rng::Rng;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// What an attempt gets at least, also when the budget of a forced stop is used up.
const ATTEMPT_MIN: Duration = Duration::from_secs(1);

/// Where the call stands.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(super) struct Retrying {
    pub(super) attempts: Attempts,
    pub(super) phase: Phase,
}

/// An attempt is under way, is being given up, or is yet to come.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(super) enum Phase {
    InFlight { id: RequestId, since: Instant },
    Aborting(RequestId),
    Waiting(Instant),
}

impl Retrying {
    /// The first attempt, under the name `id`.
    pub(super) fn first(plan: &Plan, now: Instant, id: RequestId, rng: &mut Rng) -> Retrying {
        Retrying { attempts: Attempts::first(plan, now, rng), phase: Phase::InFlight { id, since: now } }
    }

    /// The next attempt.
    pub(super) fn again(&mut self, plan: &Plan, now: Instant, id: RequestId, rng: &mut Rng) {
        self.attempts.again(plan, rng);
        self.phase = Phase::InFlight { id, since: now };
    }

    /// Whether `id` is the attempt under way.
    pub(super) fn awaits(&self, id: RequestId) -> bool {
        matches!(self.phase, Phase::InFlight { id: mine, .. } | Phase::Aborting(mine) if mine == id)
    }

    /// What follows a failed attempt, and the line to log about it.
    pub(super) fn failed(&mut self, plan: &Plan, now: Instant, outcome: &Outcome) -> (Next, String) {
        let next = self.attempts.failed(plan, now, outcome.retry_after());
        (next, format!("{} {}", outcome.text(), self.attempts.text(plan, next)))
    }

    /// When the next attempt is due, or when the attempt under way has to be given up because of `until`.
    pub(super) fn deadline(&self, until: Option<Instant>) -> Option<Instant> {
        match self.phase {
            Phase::Waiting(at) => Some(at),
            Phase::InFlight { since, .. } => until.map(|until| until.max(since + ATTEMPT_MIN)),
            Phase::Aborting(_) => None,
        }
    }
}
