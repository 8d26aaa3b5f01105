use crate::api::{ApiCall, StreamCall};
use crate::job::JobFilesSpec;
use crate::log::LogConfig;
use crate::machine::{Owner, RequestId, Transition};
use crate::process::{ProcessSpec, SignalTarget};
use bytes::Bytes;
use serde::Serialize;
use std::sync::Arc;
use std::time::Duration;

use super::{MetricAttributes, OsSignal};

/// What the `Agent` machine asks of the driver. Commands are executed in order.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
pub enum AgentCommand {
    /// Nothing to do: tells observers what happened.
    Transition(Transition),
    /// Write a line to the agent's log.
    Log(AgentLog),
    /// Make one API request; completes with `Completed`.
    Call {
        /// Which call.
        id: RequestId,
        /// The attempt.
        call: Box<ApiCall>,
    },
    /// Give up the exchange; it completes with `Aborted` (or what it had become by then).
    AbortCall {
        /// Which call.
        id: RequestId,
    },
    /// Open a ping stream; `StreamMessage`s follow, `StreamEnded` completes it.
    OpenStream {
        /// Which stream.
        id: RequestId,
        /// The call.
        stream: Box<StreamCall>,
    },
    /// Close a ping stream; it completes with `StreamEnded(Closed)`.
    CloseStream {
        /// Which stream.
        id: RequestId,
    },
    /// Write the env files and reserve the other paths of a job; completes with `JobFilesWritten`.
    WriteJobFiles {
        /// Which request.
        id: RequestId,
        /// What to write.
        files: Box<JobFilesSpec>,
    },
    /// Remove all files of a job (env files, timeout marker, log copy); completes with `JobFilesRemoved`. Missing files are
    /// no error; other failures are a warning by the driver.
    RemoveJobFiles {
        /// Which request.
        id: RequestId,
        /// The job whose files were written.
        job: Owner,
    },
    /// Create the timeout marker of a job, exclusively and without following links, before the next command is executed.
    WriteMarker {
        /// The job.
        job: Owner,
    },
    /// Check the signature of the job's step; completes with `Verified`. Only with verification keys.
    VerifySignature {
        /// Which request.
        id: RequestId,
        /// The job as received.
        job: Box<crate::api::AcceptedJob>,
    },
    /// Run a lifecycle or pre-bootstrap hook; completes with `HookEnded`.
    RunHook {
        /// Which hook run.
        id: RequestId,
        /// The hook.
        hook: Box<HookSpec>,
    },
    /// Send a signal to the process group of a running hook.
    SignalHook {
        /// Which hook run.
        id: RequestId,
        /// The signal.
        signal: OsSignal,
    },
    /// Spawn the job's process, its output wired to the job's log stream; `Process` events follow.
    Spawn {
        /// Which spawn.
        id: RequestId,
        /// The process.
        spec: Box<ProcessSpec>,
    },
    /// Send a signal to a spawned process group. After the leader was reaped it must reach nobody but members of that group.
    Signal {
        /// The spawn.
        id: RequestId,
        /// The signal.
        signal: OsSignal,
        /// Whom.
        target: SignalTarget,
    },
    /// Ask whether the process group has members; answered by `ProcessEvent::Group`.
    QueryGroup {
        /// The spawn.
        id: RequestId,
    },
    /// Stop reading the output and close it; `OutputEnded { cut: true }` follows.
    CloseOutput {
        /// The spawn.
        id: RequestId,
    },
    /// Start the log stream of a job.
    LogBegin {
        /// The job.
        job: Owner,
        /// Its settings.
        config: Box<LogConfig>,
    },
    /// Tell the log stream that the process has started (its interval timer starts, job-runner §6.10).
    LogProcessStarted {
        /// The job.
        job: Owner,
    },
    /// Write a line of the runner into the job log.
    LogLine {
        /// The job.
        job: Owner,
        /// Bytes, LF included.
        line: Bytes,
    },
    /// Cut the rest, accept nothing more, settle everything within `limit`; completes with `LogDrained`. May be repeated
    /// with a shorter limit.
    LogFlush {
        /// The job.
        job: Owner,
        /// Time left.
        limit: Duration,
    },
    /// Count something (start-and-worker §7.1, §7.2).
    Metric(Metric),
    /// Export what was counted so far and stop the exporter (start-and-worker §7.2). Only with OTLP metrics; no metric of §7.2
    /// follows.
    FlushMetrics,
    /// What the status page shows of a worker has changed.
    Health(WorkerHealth),
    /// Send `WATCHDOG=1` to systemd.
    NotifyWatchdog,
    /// A burst is over, and what it needed is free: give it back to the operating system.
    ReleaseMemory,
    /// End the process. The last command of an `Agent`.
    Exit(Exit),
}

/// A line of the agent's log.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
pub struct AgentLog {
    /// Level.
    pub level: Level,
    /// Worker it speaks of, by registered name.
    pub worker: Option<Arc<str>>,
    /// Text.
    pub text: String,
    /// Further fields.
    pub fields: Vec<(&'static str, String)>,
}

/// Log levels, lowest first (start-flags §9: NOTICE is below INFO).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, serde::Deserialize)]
#[allow(missing_docs, reason = "the names are those of the specification's tables")]
pub enum Level {
    Debug,
    Notice,
    Info,
    Warn,
    Error,
    Fatal,
}

/// A hook of the agent's own (not of the executor).
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
pub struct HookSpec {
    /// `agent-startup`, `agent-shutdown` or `pre-bootstrap`.
    pub name: &'static str,
    /// Variables on top of the agent's own environment. Values that are secrets are wrapped.
    pub env: Vec<(String, crate::secret::Secret)>,
    /// Search additional hook directories too, and run all found, one after the other (lifecycle hooks).
    pub all: bool,
    /// Worker, for the log prefix.
    pub worker: Option<Arc<str>>,
}

/// What the status page, `/agent/N` and the watchdog know of a worker.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
pub struct WorkerHealth {
    /// Spawn index.
    pub worker: u32,
    /// Agent UUID.
    pub id: Arc<str>,
    /// Registered name.
    pub name: Arc<str>,
    /// The worker's state, one word for `/status`.
    pub state: &'static str,
    /// Job it works on (start-and-worker §7).
    pub current_job: Option<Arc<str>>,
    /// Last successful heartbeat.
    pub last_heartbeat: Option<crate::machine::Instant>,
    /// Error of the last whole heartbeat cycle, if it failed.
    pub heartbeat_error: Option<Arc<str>>,
}

/// Things that are counted (start-and-worker §7.1, §7.2).
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
#[allow(missing_docs, reason = "the names are those of the specification's tables")]
pub enum Metric {
    WorkerStarted,
    WorkerEnded,
    PingSent,
    PingError,
    PingAction {
        action: String,
    },
    PingDuration(Duration),
    PingWait(Duration),
    JobStarted {
        priority: i64,
        queue: Arc<str>,
    },
    JobEnded {
        priority: i64,
        queue: Arc<str>,
    },
    ChunkUploaded {
        bytes: u64,
        compressed: u64,
        took: Duration,
    },
    ChunkCut {
        bytes: u64,
    },
    ChunkGivenUp {
        bytes: u64,
    },
    /// `jobs.duration`, `jobs.finished` (start-and-worker §7.2).
    JobFinished {
        ran: Duration,
        attributes: MetricAttributes,
    },
    /// `queue.duration` (start-and-worker §7.2).
    QueueTime {
        waited: Duration,
        attributes: MetricAttributes,
    },
}

/// How the process ends.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
pub struct Exit {
    /// Exit code (start-and-worker §4.1).
    pub code: u8,
    /// Printed on stderr at the end.
    pub message: Option<String>,
    /// End by this signal instead (before S16: start-and-worker §1).
    pub by_signal: Option<OsSignal>,
    /// Kill the process groups of all jobs and hooks first, without waiting.
    pub kill_jobs: bool,
}
