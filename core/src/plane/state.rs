//! States of the plane's objects, as in local-control-plane §8. States that only block, input, trigger and concurrency can
//! reach are absent, as those steps are refused.

use super::JobReport;
use crate::machine::Instant;
use serde::{Deserialize, Serialize};

/// Serial of an agent in its plane, from 1.
pub type AgentNo = u32;

/// State of a job (local-control-plane §8.1).
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum JobState {
    /// For its step's dependencies.
    Waiting,
    /// A dependency failed: it never runs.
    WaitingFailed,
    /// Ready, waiting for an agent.
    Scheduled,
    /// Offered to an agent.
    Assigned {
        /// Whom.
        agent: AgentNo,
        /// Without an accept call by then it goes back to `Scheduled`.
        until: Instant,
    },
    /// Accept call seen.
    Accepted {
        /// By whom.
        agent: AgentNo,
        /// Without a start call by then it counts as lost.
        until: Instant,
    },
    /// Start call seen.
    Running {
        /// Where.
        agent: AgentNo,
        /// Time of the start call.
        started: Instant,
        /// When it times out.
        timeout: Option<Instant>,
    },
    /// The agent is asked to stop.
    Canceling {
        /// Where.
        agent: AgentNo,
        /// Time of the start call, or `Err` of the limit for one that has not come.
        started: Result<Instant, Instant>,
    },
    /// The agent is asked to stop as the job ran too long.
    TimingOut {
        /// Where.
        agent: AgentNo,
        /// Time of the start call.
        started: Instant,
    },
    /// Cancelled; without a report if it never started.
    Canceled(Option<JobReport>),
    /// Ended after its time ran out.
    TimedOut(JobReport),
    /// Reported.
    Finished(JobReport),
    /// By `skip`.
    Skipped,
    /// Excluded.
    Broken,
}

impl JobState {
    /// Name on the wire.
    pub fn name(&self) -> &'static str {
        match self {
            JobState::Waiting => "waiting",
            JobState::WaitingFailed => "waiting_failed",
            JobState::Scheduled => "scheduled",
            JobState::Assigned { .. } => "assigned",
            JobState::Accepted { .. } => "accepted",
            JobState::Running { .. } => "running",
            JobState::Canceling { .. } => "canceling",
            JobState::TimingOut { .. } => "timing_out",
            JobState::Canceled(_) => "canceled",
            JobState::TimedOut(_) => "timed_out",
            JobState::Finished(_) => "finished",
            JobState::Skipped => "skipped",
            JobState::Broken => "broken",
        }
    }

    /// The agent that has it, offered or taken.
    pub fn agent(&self) -> Option<AgentNo> {
        match self {
            JobState::Assigned { agent, .. } => Some(*agent),
            _ => self.holder(),
        }
    }

    /// The agent that has accepted it.
    pub fn holder(&self) -> Option<AgentNo> {
        match self {
            JobState::Accepted { agent, .. }
            | JobState::Running { agent, .. }
            | JobState::Canceling { agent, .. }
            | JobState::TimingOut { agent, .. } => Some(*agent),
            _ => None,
        }
    }

    /// Whether an agent has accepted it and it has not ended: a finish call is acceptable.
    pub fn is_active(&self) -> bool {
        self.holder().is_some()
    }

    /// Whether it has ended for good.
    pub fn is_terminal(&self) -> bool {
        matches!(
            self,
            JobState::WaitingFailed | JobState::Canceled(_) | JobState::TimedOut(_) | JobState::Finished(_) | JobState::Skipped | JobState::Broken
        )
    }

    /// How it ended, if an agent had it.
    pub fn report(&self) -> Option<&JobReport> {
        match self {
            JobState::Canceled(report) => report.as_ref(),
            JobState::TimedOut(report) | JobState::Finished(report) => Some(report),
            _ => None,
        }
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        match self {
            JobState::Assigned { until, .. } | JobState::Accepted { until, .. } | JobState::Canceling { started: Err(until), .. } => Some(*until),
            JobState::Running { timeout, .. } => *timeout,
            _ => None,
        }
    }
}

/// State of a step (local-control-plane §8.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum StepState {
    /// Excluded or skipped.
    Ignored,
    /// Some dependency is undecided.
    WaitingForDependencies,
    /// May run.
    Ready,
    /// Some job has started.
    Running,
    /// A job has hard-failed, others are still going.
    Failing,
    /// All over.
    Finished(StepOutcome),
    /// Cancelled.
    Canceled,
    /// A dependency failed, so it never ran; counts as failed for its own dependents.
    WaitingFailed,
}

impl StepState {
    /// Name as served to jobs.
    pub fn name(self) -> &'static str {
        match self {
            StepState::Ignored => "ignored",
            StepState::WaitingForDependencies => "waiting_for_dependencies",
            StepState::Ready => "ready",
            StepState::Running => "running",
            StepState::Failing => "failing",
            StepState::Finished(_) => "finished",
            StepState::Canceled => "canceled",
            StepState::WaitingFailed => "waiting_failed",
        }
    }

    /// Whether nothing of it can run any more.
    pub fn is_over(self) -> bool {
        matches!(self, StepState::Ignored | StepState::Finished(_) | StepState::Canceled | StepState::WaitingFailed)
    }
}

/// Outcome of a finished step (local-control-plane §8.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum StepOutcome {
    /// A wait.
    Neutral,
    /// All jobs passed.
    Passed,
    /// Failed, tolerated.
    SoftFailed,
    /// Failed.
    HardFailed,
    /// Timed out, or its agent was lost.
    Errored,
}

impl StepOutcome {
    /// Name as served to jobs.
    pub fn name(self) -> &'static str {
        match self {
            StepOutcome::Neutral => "neutral",
            StepOutcome::Passed => "passed",
            StepOutcome::SoftFailed => "soft_failed",
            StepOutcome::HardFailed => "hard_failed",
            StepOutcome::Errored => "errored",
        }
    }

    /// Whether dependents may run.
    pub fn is_good(self) -> bool {
        matches!(self, StepOutcome::Neutral | StepOutcome::Passed | StepOutcome::SoftFailed)
    }
}

/// State of a build (local-control-plane §8.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum BuildState {
    /// No job has started.
    Scheduled,
    /// Some job has started.
    Running,
    /// Something has hard-failed, jobs are still active.
    Failing,
    /// Cancelled, jobs are still stopping.
    Canceling,
    /// All well.
    Passed,
    /// Something failed.
    Failed,
    /// Cancelled as a whole.
    Canceled,
    /// Every step was skipped or excluded.
    NotRun,
}

impl BuildState {
    /// Name as shown.
    pub fn name(self) -> &'static str {
        match self {
            BuildState::Scheduled => "scheduled",
            BuildState::Running => "running",
            BuildState::Failing => "failing",
            BuildState::Canceling => "canceling",
            BuildState::Passed => "passed",
            BuildState::Failed => "failed",
            BuildState::Canceled => "canceled",
            BuildState::NotRun => "not_run",
        }
    }

    /// Whether it is over.
    pub fn is_terminal(self) -> bool {
        matches!(self, BuildState::Passed | BuildState::Failed | BuildState::Canceled | BuildState::NotRun)
    }
}

/// State of an agent's session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum AgentState {
    /// Registered, not connected yet.
    Registered,
    /// Connected.
    Connected,
    /// Silent for too long; comes back with its next call.
    Lost,
    /// Has left; its token is void.
    Disconnected,
}

impl AgentState {
    /// Name as shown.
    pub fn name(self) -> &'static str {
        match self {
            AgentState::Registered => "registered",
            AgentState::Connected => "connected",
            AgentState::Lost => "lost",
            AgentState::Disconnected => "disconnected",
        }
    }
}
