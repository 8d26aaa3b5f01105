//! Acquiring the one job of a one-shot agent (specification: start-and-worker §9.4).

use super::desk::{Cx, Desk};
use super::retrying::Retrying;
use super::{Level, WorkerError};
use crate::api::{AcceptedJob, Operation, Outcome, Reply};
use crate::limits;
use crate::machine::{Instant, RequestId, earliest};
use crate::retry::{self, Attempts, Next};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// `PUT jobs/<id>/acquire` until there is an answer that settles it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) struct Acquire {
    job: Arc<str>,
    retrying: Retrying,
    /// Error of the last HTTP answer, if that was 423.
    locked: Option<String>,
    /// A stop was requested: the answer is awaited until then (start-and-worker §9.11).
    hurry: Option<Instant>,
}

/// What became of the acquisition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum AcquireVerdict {
    /// Not settled yet.
    Nothing,
    /// The job is ours.
    Acquired(Box<AcceptedJob>),
    /// It is not; the lines are written. The error is the worker's result; none after a stop.
    GaveUp(Option<WorkerError>),
}

impl Acquire {
    /// Sends the first attempt.
    pub(crate) fn begin(now: Instant, job: Arc<str>, desk: &mut Desk, cx: &mut Cx<'_>) -> Acquire {
        desk.log(Level::Info, format!("Attempting to acquire job {job}..."), cx);
        let attempts = Attempts::first(&retry::ACQUIRE, now, &mut desk.rng);
        let id = send(now, &job, &attempts, desk, cx);
        Acquire { job, retrying: Retrying::sent(attempts, id), locked: None, hurry: None }
    }

    pub(crate) fn awaits(&self, id: RequestId) -> bool {
        self.retrying.awaits(id)
    }

    pub(crate) fn deadline(&self) -> Option<Instant> {
        earliest(self.retrying.deadline(), self.hurry)
    }

    /// The next attempt, or the end of the patience after a stop.
    pub(crate) fn expire(&mut self, now: Instant, desk: &mut Desk, cx: &mut Cx<'_>) -> AcquireVerdict {
        if self.hurry.is_some_and(|at| at <= now) {
            if let Some(id) = self.retrying.in_flight() {
                desk.abandon(id, cx);
            }
            return cancelled("no answer", desk, cx);
        }
        if self.retrying.deadline().is_some_and(|at| at <= now) {
            self.retrying.attempts.again(&retry::ACQUIRE, &mut desk.rng);
            let id = send(now, &self.job, &self.retrying.attempts, desk, cx);
            self.retrying.again_sent(id);
            desk.step("acquire", "Waiting", "retry due", "InFlight", cx);
        }
        AcquireVerdict::Nothing
    }

    /// A stop, graceful or forced: between attempts at once, else the answer is awaited a little, as it may be our job.
    pub(crate) fn stop(&mut self, now: Instant, desk: &mut Desk, cx: &mut Cx<'_>) -> AcquireVerdict {
        if self.retrying.in_flight().is_none() {
            return cancelled("stop", desk, cx);
        }
        self.hurry = self.hurry.or(Some(now + limits::STOP_WAITS_FOR_ANSWER));
        desk.step("acquire", "InFlight", "stop", "InFlight", cx);
        AcquireVerdict::Nothing
    }

    /// The answer to the attempt under way.
    pub(crate) fn completed(&mut self, now: Instant, outcome: Outcome, desk: &mut Desk, cx: &mut Cx<'_>) -> AcquireVerdict {
        if let Outcome::Ok(Reply::Job(mut job)) = outcome {
            if job.id.is_empty() {
                job.id = self.job.clone();
            }
            desk.step("acquire", "InFlight", "acquired", "Acquired", cx);
            return AcquireVerdict::Acquired(job);
        }
        if self.hurry.is_some() {
            return cancelled("failure", desk, cx);
        }
        let error = outcome.text().to_owned();
        let status = outcome.status();
        if status.is_some() {
            self.locked = (status == Some(423)).then(|| error.clone());
        }
        let prefix = match status {
            Some(422) => {
                desk.log(Level::Error, format!("Buildkite rejected the call to acquire the job: {error}"), cx);
                desk.step("acquire", "InFlight", "rejected", "GaveUp", cx);
                return AcquireVerdict::GaveUp(Some(WorkerError::AcquisitionRejected { job: self.job.clone(), error }));
            }
            Some(423) => format!("The job is waiting for a dependency: ({error})"),
            Some(429) => format!("Rate limited by the backend: {error}"),
            Some(500..) => format!("Server error: {error}"),
            Some(400..) => {
                desk.log(Level::Error, error.as_str(), cx);
                return self.give_up(error, desk, cx);
            }
            _ => error.clone(),
        };
        let retry_after = outcome.retry_after().filter(|_| matches!(status, Some(423 | 429 | 500..)));
        let next = self.retrying.attempts.failed(&retry::ACQUIRE, now, retry_after);
        let tail = self.retrying.attempts.text(&retry::ACQUIRE, next);
        // The retry text brings its own parentheses.
        desk.log(Level::Warn, format!("{prefix} {tail}"), cx);
        self.retrying.wait(next);
        match next {
            Next::At(_) => {
                desk.step("acquire", "InFlight", "failure", "Waiting", cx);
                AcquireVerdict::Nothing
            }
            Next::GiveUp => self.give_up(error, desk, cx),
        }
    }

    fn give_up(&mut self, last: String, desk: &mut Desk, cx: &mut Cx<'_>) -> AcquireVerdict {
        desk.step("acquire", "InFlight", "given up", "GaveUp", cx);
        let (text, error) = match self.locked.take() {
            Some(locked) => (format!("job is locked: {locked}"), WorkerError::JobLocked { job: self.job.clone(), error: locked }),
            None => (last.clone(), WorkerError::Other(format!("failed to acquire job: {last}"))),
        };
        desk.log(Level::Error, format!("Failed to acquire and run job: failed to acquire job: {text}"), cx);
        AcquireVerdict::GaveUp(Some(error))
    }
}

fn cancelled(event: &'static str, desk: &Desk, cx: &mut Cx<'_>) -> AcquireVerdict {
    desk.log(Level::Error, "Failed to acquire and run job: failed to acquire job: context canceled", cx);
    desk.step("acquire", "Stopping", event, "GaveUp", cx);
    AcquireVerdict::GaveUp(None)
}

fn send(now: Instant, job: &Arc<str>, attempts: &Attempts, desk: &mut Desk, cx: &mut Cx<'_>) -> RequestId {
    let left = attempts.left(&retry::ACQUIRE, now).unwrap_or(limits::EXCHANGE);
    let operation = Operation::Acquire { job: job.clone(), sequence: attempts.begun - 1 };
    let timeout_ms = u64::try_from(left.as_millis()).ok().filter(|ms| *ms > 0);
    desk.call_as(desk.session.clone(), operation, left.min(limits::EXCHANGE), timeout_ms, cx)
}
