//! What a job's end means (local-control-plane §5.4).

use super::{JobState, Plane, ReportSource, StepOutcome};
use crate::pipeline::CommandStep;

/// Verdict on a job, or on a step by its jobs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Not over.
    Open,
    /// Over.
    Ended(StepOutcome),
    /// Cancelled; the flag tells whether `soft_fail` tolerates that.
    Canceled { tolerated: bool },
}

impl Plane {
    /// The verdict on one job, whoever replaced it.
    pub(super) fn verdict(&self, job: usize) -> Verdict {
        let j = &self.jobs[job];
        let Some(step) = self.builds[j.build].command(j.step) else { return Verdict::Open };
        match &j.state {
            JobState::Finished(r) if r.exit_status == 0 => Verdict::Ended(StepOutcome::Passed),
            JobState::Finished(r) | JobState::TimedOut(r) if step.soft_fail.tolerates(r.exit_status) => Verdict::Ended(StepOutcome::SoftFailed),
            JobState::Finished(r) if r.source == ReportSource::Agent => Verdict::Ended(StepOutcome::HardFailed),
            JobState::Finished(_) | JobState::TimedOut(_) => Verdict::Ended(StepOutcome::Errored),
            JobState::Canceled(r) => Verdict::Canceled { tolerated: step.soft_fail.tolerates(r.as_ref().map_or(-1, |r| r.exit_status)) },
            JobState::WaitingFailed => Verdict::Ended(StepOutcome::HardFailed),
            JobState::Skipped | JobState::Broken => Verdict::Ended(StepOutcome::Passed),
            _ => Verdict::Open,
        }
    }

    /// Whether a running job has promised a failure that will count.
    pub(super) fn promised_failure(&self, job: usize, step: &CommandStep) -> bool {
        let j = &self.jobs[job];
        let Some(status) = j.promised.filter(|_| j.state.is_active()) else { return false };
        !step.soft_fail.tolerates(status) && self.retry_rule(job, step, status, "", "").is_none()
    }

    /// The rule that would retry this end, if its limit allows (local-control-plane §5.5): the first match decides.
    pub(super) fn retry_rule(&self, job: usize, step: &CommandStep, status: i32, signal: &str, reason: &str) -> Option<usize> {
        let i = step.retry.iter().position(|r| r.matches(status, signal, reason))?;
        let used = self.jobs[job].rule_retries.get(i).copied().unwrap_or(0);
        (used < step.retry[i].limit).then_some(i)
    }
}
