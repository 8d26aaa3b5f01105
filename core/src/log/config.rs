use crate::api::{Outcome, Session};
use crate::machine::{Owner, RequestId, Transition};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::time::Duration;

/// How the times of log lines are told (header-times).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum TimestampMode {
    /// An escape prefix at line starts; no header times.
    #[default]
    Ansi,
    /// `[<RFC 3339>] ` before plain lines; header times.
    Lines,
    /// Nothing in the log; header times.
    Plain,
}

/// Settings of one job's log stream.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct LogConfig {
    /// The job.
    pub job: Owner,
    /// Job id.
    pub job_id: Arc<str>,
    /// Registered name of the worker, for log lines.
    pub worker: Arc<str>,
    /// Where chunks go: endpoint, job token, headers.
    pub session: Session,
    /// M.
    pub chunk_bytes: u64,
    /// I.
    pub interval: Duration,
    /// Log size after which one warning is logged.
    pub size_warning: u64,
    /// Timestamps.
    pub timestamps: TimestampMode,
    /// Bytes buffered plus unsettled beyond which reading stops (`limits::LOG_BUFFER_BYTES`, at least 8 × M).
    pub buffer_bytes: u64,
    /// Copy every delivery to the agent's stdout.
    pub stdout: Option<crate::job::StdoutFormat>,
    /// Fields of JSON copies, in order (job-runner §6.7).
    pub stdout_fields: Vec<(String, String)>,
    /// Path of the log copy.
    pub copy: Option<String>,
    /// Seed of the stream's jitters.
    pub seed: u64,
}

/// What may happen to a `LogStream`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum LogEvent {
    /// The process has printed.
    Bytes {
        /// Wall clock of the read.
        wall: crate::wall::WallTime,
        /// The bytes.
        data: Bytes,
    },
    /// The runner writes a line; not subject to the buffer limit.
    Line {
        /// Wall clock.
        wall: crate::wall::WallTime,
        /// LF included.
        data: Bytes,
    },
    /// The process has started: the interval timer starts.
    ProcessStarted,
    /// Cut the rest, accept nothing more, settle within `limit`; repeated with a shorter limit it only shortens.
    Flush {
        /// Time left.
        limit: Duration,
        /// Wall clock, for an unterminated header line.
        wall: crate::wall::WallTime,
    },
    /// Completes `Upload` and `SendHeaderTimes`.
    Settled {
        /// Which request.
        id: RequestId,
        /// What became of it.
        outcome: Outcome,
        /// Compressed bytes sent, for metrics.
        compressed: u64,
    },
}

/// What a `LogStream` asks of its driver.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum LogCommand {
    /// Tells observers what happened.
    Transition(Transition),
    /// Compress the pieces and post them as one chunk; completes with `Settled`.
    Upload {
        /// Which request.
        id: RequestId,
        /// From 1.
        sequence: u64,
        /// Byte offset.
        offset: u64,
        /// Contents, in pieces, never empty. Sharing the buffers is cheap.
        pieces: Vec<Bytes>,
        /// Attempt, from 1.
        attempt: u32,
    },
    /// Post header times; completes with `Settled`.
    SendHeaderTimes {
        /// Which request.
        id: RequestId,
        /// Index to RFC 3339 time, ascending.
        times: Vec<(u64, String)>,
    },
    /// Give up an exchange; it still completes.
    Abort {
        /// Which request.
        id: RequestId,
    },
    /// Stop reading the process's output.
    StopReading,
    /// Read again.
    ResumeReading,
    /// A burst is over, and with it the use of most of the memory that was taken for it: give it back to the system.
    ReleaseMemory,
    /// Append to the log copy: exactly the timestamped bytes.
    Copy(Bytes),
    /// Copy a delivery to the agent's stdout, before timestamping.
    Stdout(Bytes),
    /// Write a line to the agent's log.
    Log(crate::agent::AgentLog),
    /// Count something.
    Metric(crate::agent::Metric),
    /// Everything is settled. The last command.
    Drained {
        /// Chunks uploaded.
        uploaded: u64,
        /// Chunks given up.
        failed: u64,
        /// Bytes in uploaded chunks.
        uploaded_bytes: u64,
    },
}
