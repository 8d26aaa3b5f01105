//! How workers end, and what exit code that makes (specification: start-and-worker §4.1).

use super::{AgentConfig, Exit};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// A result error of a worker (start-and-worker §9.1).
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum WorkerError {
    /// The control plane refused the acquisition (422): exit 27.
    AcquisitionRejected {
        /// The job asked for.
        job: Arc<str>,
        /// API error.
        error: String,
    },
    /// The job was still locked (423) when the worker gave up: exit 28.
    JobLocked {
        /// The job asked for.
        job: Arc<str>,
        /// API error.
        error: String,
    },
    /// The acquired job ended with a status other than 0.
    JobExit {
        /// As reported.
        status: i32,
        /// Signal name, empty if none.
        signal: String,
        /// Signal reason, empty if none.
        reason: String,
    },
    /// Anything else: exit 1.
    Other(String),
}

impl std::fmt::Display for WorkerError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            WorkerError::AcquisitionRejected { job, error } => {
                write!(f, "failed to acquire job \"{job}\": failed to acquire job: job acquisition rejected: {error}")
            }
            WorkerError::JobLocked { job, error } => {
                write!(f, "failed to acquire job \"{job}\": failed to acquire job: job is locked: {error}")
            }
            WorkerError::JobExit { status, signal, reason } => {
                write!(f, "failed to run job: process exited with status={status}")?;
                if !signal.is_empty() {
                    write!(f, ", signal={signal}")?;
                }
                if !reason.is_empty() {
                    write!(f, ", reason={reason}")?;
                }
                Ok(())
            }
            WorkerError::Other(text) => f.write_str(text),
        }
    }
}

/// The end of a process whose workers have all finished with these errors. Precedence: 27, 28, job exit, other.
pub(crate) fn exit_of(errors: &[&WorkerError], config: &AgentConfig) -> Exit {
    let job_exit = errors.iter().find_map(|e| match e {
        WorkerError::JobExit { status, .. } => Some(*status),
        _ => None,
    });
    let text = || errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n");
    let (code, message) = if errors.is_empty() {
        (0, None)
    } else if errors.iter().any(|e| matches!(e, WorkerError::AcquisitionRejected { .. })) {
        (27, Some(text()))
    } else if errors.iter().any(|e| matches!(e, WorkerError::JobLocked { .. })) {
        (28, Some(text()))
    } else if let Some(status) = job_exit {
        // Without reflect-exit-status the job's status is the control plane's business only.
        if config.reflect_exit_status { ((status & 0xFF) as u8, Some(text())) } else { (0, None) }
    } else {
        (1, Some(fatal(&text())))
    };
    Exit { code, message, by_signal: None, kill_jobs: false }
}

/// The last line of a process that ends with an error.
pub(crate) fn fatal(error: &str) -> String {
    format!("buildkite-agent: fatal: {error}")
}
