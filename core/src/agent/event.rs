use crate::api::{Outcome, StreamEnd, StreamMessage};
use crate::job::JobFiles;
use crate::machine::{Owner, RequestId};
use crate::process::ProcessEvent;
use crate::wall::WallClock;
use serde::{Deserialize, Serialize};

/// What may happen to the `Agent` machine. Small, and serialisable without secrets or log bytes.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum AgentEvent {
    /// The process is set up: register.
    Begin,
    /// The operating system delivered a signal to the agent.
    Signal(OsSignal),
    /// The wall clock moved against the monotonic clock, or the zone changed.
    ClockMoved(WallClock),
    /// Completes [`super::AgentCommand::Call`].
    Completed {
        /// Which call.
        id: RequestId,
        /// What became of it.
        outcome: Outcome,
    },
    /// A message of an open ping stream.
    StreamMessage {
        /// Which stream.
        id: RequestId,
        /// The message.
        message: StreamMessage,
    },
    /// Completes [`super::AgentCommand::OpenStream`].
    StreamEnded {
        /// Which stream.
        id: RequestId,
        /// How it ended.
        end: StreamEnd,
    },
    /// Completes [`super::AgentCommand::WriteJobFiles`].
    JobFilesWritten {
        /// Which request.
        id: RequestId,
        /// The paths, or the operating system's message.
        result: Result<Box<JobFiles>, String>,
    },
    /// Completes [`super::AgentCommand::RemoveJobFiles`].
    JobFilesRemoved {
        /// Which request.
        id: RequestId,
        /// Among them was the word of the executor that an exit status of 125 is the job's own (job-runner W5).
        #[serde(default)]
        own_status: bool,
    },
    /// Completes [`super::AgentCommand::RunHook`].
    HookEnded {
        /// Which hook run.
        id: RequestId,
        /// How it ended.
        end: HookEnd,
    },
    /// Something about a process spawned by [`super::AgentCommand::Spawn`]; the last one is `SpawnFailed` or `OutputEnded`.
    Process {
        /// The id of the spawn.
        id: RequestId,
        /// What.
        event: ProcessEvent,
    },
    /// The log stream of this job is drained: every chunk is settled, every header time too.
    LogDrained {
        /// The job.
        job: Owner,
        /// Chunks given up.
        failed: u64,
        /// Bytes in uploaded chunks.
        uploaded_bytes: u64,
    },
    /// Completes [`super::AgentCommand::VerifySignature`].
    Verified {
        /// Which request.
        id: RequestId,
        /// The verdict.
        verdict: SignatureVerdict,
    },
}

/// Verdict of the signature check (job-runner §4.1).
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum SignatureVerdict {
    /// The signature is valid and the job matches the signed step.
    Verified,
    /// `signature verification failed` or `job does not match signed step`.
    Invalid(String),
    /// The verifier broke for another reason.
    Broken(String),
}

/// Signals, by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[allow(missing_docs, reason = "named as the operating system names them")]
pub enum OsSignal {
    Hup,
    Int,
    Quit,
    Kill,
    Usr1,
    Usr2,
    Term,
}

impl OsSignal {
    /// `SIGTERM`, …
    pub fn name(self) -> &'static str {
        match self {
            OsSignal::Hup => "SIGHUP",
            OsSignal::Int => "SIGINT",
            OsSignal::Quit => "SIGQUIT",
            OsSignal::Kill => "SIGKILL",
            OsSignal::Usr1 => "SIGUSR1",
            OsSignal::Usr2 => "SIGUSR2",
            OsSignal::Term => "SIGTERM",
        }
    }

    /// The signal of this name, any case, with the `SIG` prefix (job-runner §5.6).
    pub fn parse(name: &str) -> Option<OsSignal> {
        [OsSignal::Hup, OsSignal::Int, OsSignal::Quit, OsSignal::Kill, OsSignal::Usr1, OsSignal::Usr2, OsSignal::Term]
            .into_iter()
            .find(|s| s.name().eq_ignore_ascii_case(name))
    }
}

/// How a hook run ended.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum HookEnd {
    /// No such hook exists; nothing was run.
    Missing,
    /// All hooks found exited 0.
    Succeeded,
    /// The first that failed: exit status, signal, or why it could not run.
    Failed(String),
}
