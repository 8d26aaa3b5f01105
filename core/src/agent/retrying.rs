//! One operation that is tried again after failures: an attempt in flight, or the wait before the next.

use super::Level;
use super::desk::{Cx, Desk};
use crate::api::Operation;
use crate::machine::{Instant, RequestId};
use crate::retry::{Attempts, Next, Plan};
use serde::{Deserialize, Serialize};

/// Where a retried operation stands.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) struct Retrying {
    pub(crate) attempts: Attempts,
    step: Step,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
enum Step {
    /// This exchange is under way.
    InFlight(RequestId),
    /// The next attempt begins at this instant.
    Waiting(Instant),
}

impl Retrying {
    /// Makes the first attempt.
    pub(crate) fn begin(plan: &Plan, now: Instant, operation: Operation, desk: &mut Desk, cx: &mut Cx<'_>) -> Retrying {
        let attempts = Attempts::first(plan, now, &mut desk.rng);
        Retrying { attempts, step: Step::InFlight(desk.call(operation, cx)) }
    }

    /// Begins with an attempt that was sent by the caller.
    pub(crate) fn sent(attempts: Attempts, id: RequestId) -> Retrying {
        Retrying { attempts, step: Step::InFlight(id) }
    }

    /// The exchange under way, if one is.
    pub(crate) fn in_flight(&self) -> Option<RequestId> {
        match self.step {
            Step::InFlight(id) => Some(id),
            Step::Waiting(_) => None,
        }
    }

    /// Whether this completion is awaited.
    pub(crate) fn awaits(&self, id: RequestId) -> bool {
        self.in_flight() == Some(id)
    }

    /// When the next attempt is due.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        match self.step {
            Step::InFlight(_) => None,
            Step::Waiting(at) => Some(at),
        }
    }

    /// The attempt failed and may be repeated: logs the line of start-and-worker §0.3 and waits, unless it was the last.
    pub(crate) fn failed(&mut self, plan: &Plan, now: Instant, error: &str, desk: &Desk, cx: &mut Cx<'_>) -> Next {
        let next = self.attempts.failed(plan, now, None);
        desk.log(Level::Warn, format!("{error} {}", self.attempts.text(plan, next)), cx);
        self.wait(next);
        next
    }

    /// Waits for the next attempt, if there is one.
    pub(crate) fn wait(&mut self, next: Next) {
        if let Next::At(at) = next {
            self.step = Step::Waiting(at);
        }
    }

    /// Makes the next attempt.
    pub(crate) fn again(&mut self, plan: &Plan, operation: Operation, desk: &mut Desk, cx: &mut Cx<'_>) {
        self.attempts.again(plan, &mut desk.rng);
        self.step = Step::InFlight(desk.call(operation, cx));
    }

    /// Notes the next attempt, sent by the caller.
    pub(crate) fn again_sent(&mut self, id: RequestId) {
        self.step = Step::InFlight(id);
    }
}
