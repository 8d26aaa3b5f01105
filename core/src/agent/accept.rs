//! Accepting a job that was offered (specification: start-and-worker §9.10, steps 1–2).

use super::Level;
use super::desk::{Cx, Desk};
use super::retrying::Retrying;
use crate::api::{AcceptedJob, Operation, Outcome, Reply};
use crate::machine::{Instant, RequestId};
use crate::retry::{self, Next};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// `PUT jobs/<id>/accept`, tried again only where no answer of the API was obtained.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) struct Accept {
    /// The job offered.
    pub(crate) job: Arc<str>,
    retrying: Retrying,
}

/// What became of an accept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum AcceptVerdict {
    /// Another attempt will follow.
    Retrying,
    /// The job is ours.
    Accepted(Box<AcceptedJob>),
    /// It is not; the lines are written.
    Failed,
}

impl Accept {
    /// Sends the first attempt.
    pub(crate) fn begin(now: Instant, job: Arc<str>, desk: &mut Desk, cx: &mut Cx<'_>) -> Accept {
        desk.log(Level::Info, format!("Assigned job {job}. Accepting..."), cx);
        let retrying = Retrying::begin(&retry::ACCEPT, now, Operation::Accept { job: job.clone() }, desk, cx);
        Accept { job, retrying }
    }

    /// Whether an attempt is under way: its answer must be awaited even when the worker stops.
    pub(crate) fn is_in_flight(&self) -> bool {
        self.retrying.in_flight().is_some()
    }

    pub(crate) fn awaits(&self, id: RequestId) -> bool {
        self.retrying.awaits(id)
    }

    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.retrying.deadline()
    }

    /// The next attempt.
    pub(crate) fn expire(&mut self, now: Instant, desk: &mut Desk, cx: &mut Cx<'_>) {
        if self.deadline().is_some_and(|at| at <= now) {
            self.retrying.again(&retry::ACCEPT, Operation::Accept { job: self.job.clone() }, desk, cx);
            desk.step("accept", "Waiting", "retry due", "InFlight", cx);
        }
    }

    /// The answer to the attempt under way. `stopping`: no further attempt is made (start-and-worker §9.11).
    pub(crate) fn completed(&mut self, now: Instant, outcome: Outcome, stopping: bool, desk: &mut Desk, cx: &mut Cx<'_>) -> AcceptVerdict {
        let retryable = match outcome {
            Outcome::Ok(Reply::Job(mut job)) => {
                // The id that was asked for is the id of the job, also where the answer leaves it out.
                if job.id.is_empty() {
                    job.id = self.job.clone();
                }
                desk.step("accept", "InFlight", "accepted", "Accepted", cx);
                return AcceptVerdict::Accepted(job);
            }
            Outcome::Undecodable(_) => true,
            Outcome::Transport(ref e) => e.kind.retryable(),
            // Any HTTP error is final, 429 and 5xx included.
            Outcome::Status(_) | Outcome::Aborted | Outcome::Ok(_) => false,
        };
        let error = outcome.text();
        if retryable && !stopping {
            if let Next::At(_) = self.retrying.failed(&retry::ACCEPT, now, error, desk, cx) {
                desk.step("accept", "InFlight", "failure", "Waiting", cx);
                return AcceptVerdict::Retrying;
            }
        } else if !retryable {
            desk.log(Level::Warn, format!("Buildkite rejected the call to accept the job ({error})"), cx);
        }
        desk.log(Level::Error, format!("failed to accept job: {error}"), cx);
        desk.step("accept", "InFlight", "failure", "Failed", cx);
        AcceptVerdict::Failed
    }
}
