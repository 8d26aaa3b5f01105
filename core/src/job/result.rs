//! What a job ended with, as it is reported (job-runner §2.2, §2.3).

use super::Causes;
use crate::process::{ExitStatus, signal_name};
use serde::{Deserialize, Serialize};

/// Exit code by which the executor says that it failed before the user's command could run.
pub const EXECUTOR_FAILED: i32 = 125;

/// Exit status, signal and signal reason; empty strings are omitted on the wire.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct JobResult {
    /// −1 for signals, refusals and failures of the machinery.
    pub exit_status: i32,
    /// `SIGTERM`, …, only with `exit_status` −1 (I11).
    pub signal: String,
    /// One of the five reasons.
    pub signal_reason: String,
}

impl JobResult {
    /// A job without a process of its own: −1 and the reason.
    pub fn without_process(reason: &str) -> JobResult {
        JobResult { exit_status: -1, signal: String::new(), signal_reason: reason.to_owned() }
    }

    /// job-runner §2.3: the leader's wait status and the cancels that took effect before its exit was observed.
    pub fn of_process(status: ExitStatus, causes: &Causes) -> JobResult {
        let (mut exit_status, signal) = match status {
            ExitStatus::Code(code) => (code, String::new()),
            ExitStatus::Signal(number) => (-1, signal_name(number)),
        };
        let mut signal_reason = "";
        if exit_status == EXECUTOR_FAILED {
            (exit_status, signal_reason) = (-1, "process_run_error");
        }
        if let Some(reason) = causes.reason() {
            signal_reason = reason;
            // An executor that caught a user's cancel and exited 0 has not succeeded; a stop leaves the status alone.
            if reason == "cancel" && exit_status == 0 {
                exit_status = 1;
            }
        }
        JobResult { exit_status, signal, signal_reason: signal_reason.to_owned() }
    }

    /// W5: the executor has left word that 125 is the job's own status, and not its own failure. Only an exit code of 125 makes a
    /// result of −1 without a signal once a process has run; the executor leaves the word in no other case.
    pub fn own(mut self) -> JobResult {
        if self.exit_status == -1 && self.signal.is_empty() {
            self.exit_status = EXECUTOR_FAILED;
            if self.signal_reason == "process_run_error" {
                self.signal_reason.clear();
            }
        }
        self
    }
}
