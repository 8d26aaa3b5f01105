use super::{OsSignal, OtlpProtocol};
use crate::api::RegisterRequest;
use crate::job::JobConfig;
use crate::secret::Secret;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// Everything the `Agent` machine is told at construction. Made by the command line from flags, environment and file.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct AgentConfig {
    /// Number of workers, at least 1.
    pub spawn: u32,
    /// Name with `%spawn` not yet replaced.
    pub name: String,
    /// How workers get their priority.
    pub priority: Priority,
    /// Registration token.
    pub token: Secret,
    /// Base endpoint.
    pub endpoint: String,
    /// Server-specified headers found in the environment (agent-api §2.4).
    pub request_headers: Vec<(String, String)>,
    /// Body of every registration; `name` and `priority` are set per worker.
    pub register: RegisterRequest,
    /// Where work comes from.
    pub ping_mode: PingMode,
    /// One-shot for this job.
    pub acquire_job: Option<String>,
    /// Exit with the acquired job's status.
    pub reflect_exit_status: bool,
    /// Each worker runs at most one job.
    pub disconnect_after_job: bool,
    /// Pool-wide idle limit.
    pub disconnect_after_idle: Option<Duration>,
    /// Per-worker uptime limit.
    pub disconnect_after_uptime: Option<Duration>,
    /// S.
    pub cancel_signal_timeout: Duration,
    /// C.
    pub cancel_cleanup_timeout: Duration,
    /// `kubernetes-exec`: the first SIGTERM or SIGINT is already the forced stop (start-and-worker §4).
    #[serde(default)]
    pub kubernetes_exec: bool,
    /// Systemd watchdog interval, if enabled.
    pub watchdog: Option<Duration>,
    /// `opentelemetry-metrics`: how metrics are exported, or why they cannot be (start-and-worker §7.2).
    #[serde(default)]
    pub otlp: Option<Result<OtlpProtocol, String>>,
    /// The signal that interrupts a job's process.
    pub cancel_signal: OsSignal,
    /// What the job runner needs.
    pub job: JobConfig,
}

/// `spawn-with-priority` and `priority`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Priority {
    /// All workers the same; empty: none.
    Static(String),
    /// 1, 2, 3 …
    Ascending,
    /// -1, -2, -3 …
    Descending,
}

/// `ping-mode`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum PingMode {
    /// Stream, with polling behind it.
    Auto,
    /// Polling only.
    PollOnly,
    /// Stream only.
    StreamOnly,
}
