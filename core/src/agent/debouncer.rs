//! The debouncer behind the stream: of what arrives during a job only the net effect counts afterwards
//! (specification: start-and-worker §9.8).

use crate::limits;
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use std::sync::Arc;

/// A message of the stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Message {
    /// Resume.
    Idle,
    /// Pause.
    Pause,
    /// Disconnect.
    Disconnect,
    /// Idle, and a job.
    Job(Arc<str>),
}

/// An action not yet delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) enum Pending {
    /// With the front of the queue, if there is one.
    Idle,
    /// Hold.
    Pause,
    /// Leave; nothing replaces it.
    Disconnect,
}

/// What goes to the action handler.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Debounced {
    /// The action.
    pub(crate) action: Pending,
    /// Only with idle.
    pub(crate) job: Option<Arc<str>>,
}

/// What became of a job id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Queued {
    /// There was none, or it waits now.
    Fine,
    /// Known already, or behind a disconnect: dropped.
    Dropped,
    /// The queue is full: dropped.
    Full,
}

/// See the module. The gate itself is held outside: [`Debouncer::wants_gate`] and [`Debouncer::keeps_gate`] say what it needs.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) struct Debouncer {
    healthy: bool,
    /// No more messages will come.
    ended: bool,
    /// A delivered action is not completed yet.
    in_progress: bool,
    pending: Option<Pending>,
    jobs: VecDeque<Arc<str>>,
    last_was_job: bool,
}

impl Debouncer {
    /// Healthy from the start, so that no ping is sent before the stream has failed.
    pub(crate) fn new() -> Debouncer {
        Debouncer { healthy: true, ended: false, in_progress: false, pending: None, jobs: VecDeque::new(), last_was_job: false }
    }

    /// The name of its state, for transitions.
    pub(crate) fn name(&self) -> &'static str {
        match (self.in_progress, self.pending.is_some()) {
            (false, false) => "Quiet",
            (false, true) => "Pending",
            (true, false) => "InProgress",
            (true, true) => "InProgressPending",
        }
    }

    /// A message. `known`: the id is active, or was accepted before by this worker.
    pub(crate) fn message(&mut self, message: Message, known: impl FnOnce(&str) -> bool) -> Queued {
        self.healthy = true;
        if self.pending == Some(Pending::Disconnect) {
            return if matches!(message, Message::Job(_)) { Queued::Dropped } else { Queued::Fine };
        }
        let (action, job) = match message {
            Message::Idle => (Pending::Idle, None),
            Message::Pause => (Pending::Pause, None),
            Message::Disconnect => (Pending::Disconnect, None),
            Message::Job(id) => (Pending::Idle, Some(id)),
        };
        self.pending = Some(action);
        match job {
            None => Queued::Fine,
            Some(id) if self.jobs.contains(&id) || known(&id) => Queued::Dropped,
            Some(_) if self.jobs.len() == limits::QUEUED_JOBS => Queued::Full,
            Some(id) => {
                self.jobs.push_back(id);
                Queued::Fine
            }
        }
    }

    /// The stream is not to be relied on. What is pending stays.
    pub(crate) fn unhealthy(&mut self) {
        self.healthy = false;
    }

    /// The stream source has ended for good.
    pub(crate) fn source_ended(&mut self) {
        self.ended = true;
    }

    /// This id was accepted on another way: it is not delivered again (R11).
    pub(crate) fn forget(&mut self, job: &str) {
        self.jobs.retain(|id| **id != *job);
    }

    /// The delivered action is completed. `ok`: without error. `one_shot`: disconnect-after-job.
    pub(crate) fn action_done(&mut self, ok: bool, one_shot: bool) {
        self.in_progress = false;
        if ok && one_shot && self.last_was_job && self.pending.is_none() {
            // So that the handler can leave without waiting for a message.
            self.pending = Some(Pending::Idle);
        }
    }

    /// Whether it asks for the gate.
    pub(crate) fn wants_gate(&self) -> bool {
        self.healthy && !self.ended
    }

    /// Whether it holds on to the gate: while healthy, and until what was delivered is completed.
    pub(crate) fn keeps_gate(&self) -> bool {
        self.in_progress || self.wants_gate()
    }

    /// What would be delivered, given the gate.
    pub(crate) fn ready(&self) -> Option<Pending> {
        if self.in_progress || !self.wants_gate() { None } else { self.pending }
    }

    /// Delivers, given the gate.
    pub(crate) fn deliver(&mut self) -> Option<Debounced> {
        let action = self.ready()?;
        let job = if action == Pending::Idle { self.jobs.pop_front() } else { None };
        self.last_was_job = job.is_some();
        // After a job the rest of the queue is still wanted; a pause or a plain idle takes nothing from it.
        self.pending = if job.is_some() && !self.jobs.is_empty() { Some(Pending::Idle) } else { None };
        self.in_progress = true;
        Some(Debounced { action, job })
    }

    /// Job ids waiting.
    #[cfg(test)]
    pub(crate) fn queued(&self) -> usize {
        self.jobs.len()
    }
}
