//! The observation trace: what the control plane saw, what processes saw, what the agent did, and what was done to it.
//!
//! Everything that is checked is checked on this one list. Its text form is stable to the byte, so that two runs with the
//! same seed can be compared by one digest.

mod text;

use bytes::Bytes;
use ibex_core::agent::OsSignal;
use ibex_core::machine::{Instant, Owner, Transition};
use ibex_core::process::{ExitStatus, SignalTarget};
use sha2::{Digest, Sha256};
use std::fmt::Write as _;
use std::sync::Arc;

/// Names a job of the control plane.
pub type JobId = Arc<str>;

/// One observation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Simulated time since the start of the run.
    pub at: Instant,
    /// What was observed.
    pub fact: Fact,
}

/// Whose credential a request carried.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Credential {
    /// The registration token.
    Registration,
    /// The session token of the worker with this spawn index.
    Worker(u32),
    /// The token of a job.
    Job(JobId),
    /// No `Authorization` header.
    Absent,
    /// A token that nobody handed out.
    Unknown,
}

/// The operation that method and path name (agent-api §5).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
#[allow(missing_docs)]
pub enum Op {
    Register,
    Connect,
    Disconnect,
    Heartbeat,
    Ping,
    Stream,
    Accept,
    Acquire,
    Start,
    JobState,
    Chunk,
    HeaderTimes,
    Finish,
    Other,
}

impl Op {
    /// Whether the call concerns one job (and is made with its token, but for accept and acquire).
    pub fn of_job(self) -> bool {
        matches!(self, Op::Start | Op::JobState | Op::Chunk | Op::HeaderTimes | Op::Finish)
    }

    /// Whether a 2xx must carry JSON (agent-api §5, "dec").
    pub fn decoded(self) -> bool {
        matches!(self, Op::Register | Op::Heartbeat | Op::Ping | Op::Accept | Op::Acquire | Op::JobState)
    }

    /// The word for it in fault schedules and timelines.
    pub fn name(self) -> &'static str {
        match self {
            Op::Register => "register",
            Op::Connect => "connect",
            Op::Disconnect => "disconnect",
            Op::Heartbeat => "heartbeat",
            Op::Ping => "ping",
            Op::Stream => "stream",
            Op::Accept => "accept",
            Op::Acquire => "acquire",
            Op::Start => "start",
            Op::JobState => "job-state",
            Op::Chunk => "chunk",
            Op::HeaderTimes => "header-times",
            Op::Finish => "finish",
            Op::Other => "other",
        }
    }
}

/// What a request carried, as far as a property looks at it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Payload {
    /// Nothing of interest.
    None,
    /// A log chunk; `data` is decompressed, or `None` if it could not be.
    Chunk {
        /// From 1.
        sequence: u64,
        /// Byte offset.
        offset: u64,
        /// As told in the query.
        size: u64,
        /// Log bytes.
        data: Option<Bytes>,
    },
    /// A start.
    Start {
        /// On the clock of the run, if it is a time.
        started_at: Option<Instant>,
    },
    /// An acquire, by its headers.
    Acquire {
        /// `X-Buildkite-Backoff-Sequence`
        sequence: Option<u64>,
        /// `X-Buildkite-Lock-Acquire-Job` is `1`.
        lock: bool,
    },
    /// Indexes of a batch of header times.
    HeaderTimes(Vec<u64>),
    /// A finish.
    Finish {
        /// Decimal, as sent.
        exit_status: String,
        /// Empty if absent.
        signal: String,
        /// Empty if absent.
        signal_reason: String,
        /// Chunks given up.
        chunks_failed: u64,
        /// `ignore_agent_in_dispatches`
        ignore_agent: Option<bool>,
        /// On the clock of the run, if it is a time.
        finished_at: Option<Instant>,
        /// Whole body, for the comparison of attempts.
        body: String,
    },
}

/// A request as it left the agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// Counts the agent's exchanges from 1.
    pub call: u64,
    /// Whose credential.
    pub credential: Credential,
    /// What.
    pub op: Op,
    /// Job named in the path.
    pub job: Option<JobId>,
    /// Path of the endpoint it went to.
    pub endpoint: &'static str,
    /// What it carried.
    pub payload: Payload,
}

/// The endpoint that every agent is configured with.
pub const ENDPOINT: &str = "/v3";
/// The endpoint that pings may name.
pub const OTHER_ENDPOINT: &str = "/alt/v3";

/// How an exchange ended for the agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Got {
    /// A whole response.
    Answer {
        /// HTTP status.
        status: u16,
        /// What it said.
        said: Said,
        /// `Retry-After`, if it parses, in milliseconds.
        retry_after_ms: Option<u64>,
    },
    /// No usable response; the class of the failure.
    Failed(&'static str),
    /// The agent closed the exchange (its own limit, or an abort).
    Dropped,
}

/// What a 2xx said, as far as a property looks at it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Said {
    /// Nothing of interest.
    Nothing,
    /// The body is not what the endpoint answers.
    Garbage,
    /// Register.
    Registered,
    /// Ping.
    Ping {
        /// As told; empty if absent.
        action: String,
        /// Job offered.
        job: Option<JobId>,
        /// Path of the endpoint named; empty if none is.
        endpoint: String,
    },
    /// The gRPC status that ended a stream.
    Status(u32),
    /// Accept and acquire.
    Job(JobId),
    /// Job state.
    State(String),
}

/// An observation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fact {
    /// The agent began an exchange.
    Sent(Request),
    /// The request sent just before carries these server-specified headers.
    Carried {
        /// Which exchange.
        call: u64,
        /// `Name: value`, one after the other.
        headers: String,
    },
    /// The answer that is about to return gives a worker this set of headers.
    Given {
        /// Worker.
        worker: u32,
        /// `Name: value`, one after the other; those that count.
        headers: String,
    },
    /// The exchange ended for the agent.
    Returned {
        /// Which exchange.
        call: u64,
        /// How.
        got: Got,
    },
    /// The control plane answered (or would have, had the answer not been lost).
    Served {
        /// Whose credential.
        credential: Credential,
        /// What.
        op: Op,
        /// Job named in the path.
        job: Option<JobId>,
        /// Status of the control plane, or of the fault.
        status: u16,
        /// Whether the control plane acted on it.
        applied: bool,
        /// The fault around it; empty: none.
        fault: String,
    },
    /// A fault of the world began or ended, or the workload acted (cancel, pause, …).
    World(String),
    /// A job entered the state at the control plane by its own doing (not by a request of the agent).
    PlaneJob {
        /// The job.
        job: JobId,
        /// Its state, as a poll tells it.
        state: String,
    },
    /// All faults are over.
    FaultsOver,
    /// A signal was delivered to the agent.
    AgentSignal(OsSignal),
    /// A process of this job was asked for.
    SpawnAsked {
        /// The runner.
        owner: Owner,
        /// The job.
        job: JobId,
    },
    /// It runs.
    Spawned {
        /// Leader.
        pid: u32,
        /// The job.
        job: JobId,
        /// In a terminal.
        pty: bool,
    },
    /// It does not.
    SpawnFailed {
        /// The job.
        job: JobId,
    },
    /// The agent sent a signal to a process group.
    Signalled {
        /// Leader.
        pid: u32,
        /// Which.
        signal: OsSignal,
        /// Whom.
        target: SignalTarget,
    },
    /// A process of a group printed.
    Printed {
        /// Leader.
        pid: u32,
        /// Bytes.
        len: u64,
    },
    /// The leader has ended (not yet reaped).
    LeaderEnded {
        /// Leader.
        pid: u32,
        /// Status.
        status: ExitStatus,
    },
    /// The agent has reaped the leader.
    Reaped {
        /// Leader.
        pid: u32,
        /// Status.
        status: ExitStatus,
    },
    /// Living members of the group, the leader included, after a change.
    Members {
        /// Leader.
        pid: u32,
        /// How many.
        alive: u32,
    },
    /// The agent took bytes from the output.
    Read {
        /// Leader.
        pid: u32,
        /// The bytes.
        data: Bytes,
    },
    /// The agent met the end of the output (`cut`: it closed it).
    OutputOver {
        /// Leader.
        pid: u32,
        /// Closed by the agent.
        cut: bool,
    },
    /// Files of a job exist.
    FilesWritten {
        /// The runner.
        owner: Owner,
        /// The job.
        job: JobId,
    },
    /// Files of a job could not be written.
    FilesFailed {
        /// The job.
        job: JobId,
    },
    /// Files of a job are gone.
    FilesRemoved {
        /// The job.
        job: JobId,
    },
    /// A message came on a ping stream.
    Streamed {
        /// Worker whose stream it is.
        worker: u32,
        /// `resume`, `pause`, `disconnect`, `job`.
        kind: &'static str,
        /// Job told of.
        job: Option<JobId>,
    },
    /// A hook of the agent was started.
    HookBegun {
        /// Its name.
        name: &'static str,
        /// Job it is for.
        job: Option<JobId>,
    },
    /// It has ended.
    HookOver {
        /// Its name.
        name: &'static str,
        /// Job it was for.
        job: Option<JobId>,
        /// It exited 0.
        ok: bool,
    },
    /// The verifier has spoken of this job.
    Verified {
        /// The job.
        job: JobId,
        /// What it said.
        text: &'static str,
    },
    /// The timeout marker was written.
    Marker {
        /// The job.
        job: JobId,
    },
    /// A machine made a step.
    Transition(Transition),
    /// The agent wrote to its log.
    Log {
        /// Level, lower case.
        level: &'static str,
        /// Text.
        text: String,
    },
    /// Something was counted.
    Metric(String),
    /// The status page shows this of a worker.
    Health {
        /// Spawn index.
        worker: u32,
        /// State word.
        state: &'static str,
        /// Job shown.
        job: Option<JobId>,
        /// Whether a heartbeat error is shown.
        bad: bool,
    },
    /// The agent's process ended.
    AgentExit {
        /// Exit code.
        code: u8,
        /// It killed the groups of its jobs first.
        killed_jobs: bool,
    },
    /// Resources the world still holds for the agent when it has ended.
    Leftovers {
        /// Files.
        files: u32,
        /// Exchanges open.
        exchanges: u32,
        /// Outputs still open on the agent's side.
        outputs: u32,
    },
}

/// The trace of one run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Trace {
    /// In the order in which things happened.
    pub entries: Vec<Entry>,
}

impl Trace {
    /// Appends an observation.
    pub fn push(&mut self, at: Instant, fact: Fact) {
        self.entries.push(Entry { at, fact });
    }

    /// SHA-256 of the text form, in hex.
    pub fn digest(&self) -> String {
        let mut hash = Sha256::new();
        let mut line = String::new();
        for e in &self.entries {
            line.clear();
            let _ = writeln!(line, "{e}");
            hash.update(line.as_bytes());
        }
        hex(&hash.finalize())
    }

    /// When the last thing happened.
    pub fn end(&self) -> Instant {
        self.entries.last().map_or(Instant::ZERO, |e| e.at)
    }
}

/// The first eight bytes of SHA-256, in hex: log bytes are told by it.
pub fn short_digest(data: &[u8]) -> String {
    hex(&Sha256::digest(data)[..8])
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut s, b| {
        let _ = write!(s, "{b:02x}");
        s
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_digest_tells_one_moved_entry() {
        let mut a = Trace::default();
        a.push(Instant::from_millis(10), Fact::AgentSignal(OsSignal::Term));
        let mut b = a.clone();
        assert_eq!(a.digest(), b.digest());
        b.entries[0].at = Instant::from_millis(20);
        assert_ne!(a.digest(), b.digest());
    }

    #[test]
    fn an_entry_reads_as_one_line() {
        let e = Entry {
            at: Instant::from_millis(1234),
            fact: Fact::Sent(Request {
                call: 7,
                credential: Credential::Worker(2),
                op: Op::Ping,
                job: None,
                endpoint: ENDPOINT,
                payload: Payload::None,
            }),
        };
        assert_eq!(e.to_string(), "     1.234000 sent #7 ping as w2");
    }
}
