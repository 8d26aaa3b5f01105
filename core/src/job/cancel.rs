//! Why a job is asked to stop (job-runner §7.1, §7.3).

use crate::machine::Instant;
use serde::{Deserialize, Serialize};

/// A kind of cancel request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum CancelKind {
    /// The job was cancelled on the control plane.
    Cancel,
    /// The job timed out on the control plane.
    Timeout,
    /// The job's credential is no longer valid.
    InvalidToken,
    /// The agent is stopping by force.
    AgentStop,
}

impl CancelKind {
    /// The kind that a polled job state stands for, if any; all other states are ignored (job-runner §7.1).
    pub fn of_state(state: &str) -> Option<CancelKind> {
        match state {
            "canceling" | "canceled" => Some(CancelKind::Cancel),
            "timing_out" | "timed_out" => Some(CancelKind::Timeout),
            _ => None,
        }
    }

    /// Reason text in the agent's log.
    pub fn reason_text(self) -> &'static str {
        match self {
            CancelKind::Cancel => "job cancelled on Buildkite",
            CancelKind::Timeout => "job timed out on Buildkite",
            CancelKind::InvalidToken => "access token is invalid",
            CancelKind::AgentStop => "agent is stopping",
        }
    }

    /// The event's name in transitions.
    pub(super) fn event(self) -> &'static str {
        match self {
            CancelKind::Cancel => "CancelRequested(cancel)",
            CancelKind::Timeout => "CancelRequested(timeout)",
            CancelKind::InvalidToken => "CancelRequested(invalid token)",
            CancelKind::AgentStop => "CancelRequested(agent stop)",
        }
    }
}

/// The kinds requested so far, in order of their first request.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Causes {
    kinds: Vec<CancelKind>,
    /// T of job-runner §7.5: when the forced stop was requested.
    stop: Option<Instant>,
}

impl Causes {
    /// Adds a request; false if that kind was requested before.
    pub fn add(&mut self, now: Instant, kind: CancelKind) -> bool {
        if self.kinds.contains(&kind) {
            return false;
        }
        self.kinds.push(kind);
        if kind == CancelKind::AgentStop {
            self.stop = Some(now);
        }
        true
    }

    /// Whether nothing was requested.
    pub fn is_empty(&self) -> bool {
        self.kinds.is_empty()
    }

    /// The kind requested first: a timeout that came first is marked (job-runner §3.8).
    pub fn first(&self) -> Option<CancelKind> {
        self.kinds.first().copied()
    }

    /// When the forced stop was requested, if it was.
    pub fn stop(&self) -> Option<Instant> {
        self.stop
    }

    /// The signal reason of a job that has these causes: an agent stop wins from the moment it is requested (W25).
    pub fn reason(&self) -> Option<&'static str> {
        match (self.kinds.is_empty(), self.stop) {
            (true, _) => None,
            (false, None) => Some("cancel"),
            (false, Some(_)) => Some("agent_stop"),
        }
    }
}
