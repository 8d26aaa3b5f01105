use crate::api::StreamMessage;
use crate::machine::{Instant, Transition};
use crate::pipeline::StepSpec;
use crate::secret::Secret;
use crate::wall::{WallClock, WallTime};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// Settings of a `Plane`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct PlaneConfig {
    /// What agents register with; also opens the pages for people.
    pub registration_token: Secret,
    /// Scheme, host and port under which agents reach the plane, for `BUILDKITE_BUILD_URL`.
    pub base_url: String,
    /// Wall clock at the start.
    pub clock: WallClock,
    /// `ping_interval` of the register answer, in seconds.
    pub ping_interval: u64,
    /// `job_status_interval`, in seconds.
    pub job_status_interval: u64,
    /// `heartbeat_interval`, in seconds.
    pub heartbeat_interval: u64,
    /// `chunks_max_size_bytes` of the job object.
    pub chunk_bytes: u64,
    /// `chunks_interval_seconds`.
    pub chunk_interval: u64,
    /// Give jobs to agents of any queue (local-control-plane §5.2, a decision).
    pub any_queue: bool,
    /// Answer a repeated accept of the same agent with the same job, where the hosted service answers 422.
    pub accept_again: bool,
    /// A ping that finds no work is answered only when there is some, at the latest after this time; zero: at once.
    pub hold_ping: Duration,
    /// Ping streams are served, each for at most this long; `None`: there are none, and agents that can poll.
    pub streaming: Option<Duration>,
    /// How long an offered job waits for its accept call.
    pub assign_limit: Duration,
    /// How long an agent may be silent.
    pub lost_after: Duration,
}

impl PlaneConfig {
    /// What the hosted service does, as far as it is known.
    pub fn hosted(registration_token: Secret) -> PlaneConfig {
        PlaneConfig {
            registration_token,
            base_url: "http://127.0.0.1".into(),
            clock: WallClock::default(),
            ping_interval: 2,
            job_status_interval: 5,
            heartbeat_interval: 60,
            chunk_bytes: crate::limits::CHUNK_BYTES_DEFAULT,
            chunk_interval: 1,
            any_queue: false,
            accept_again: false,
            hold_ping: Duration::ZERO,
            streaming: None,
            assign_limit: Duration::from_secs(60),
            lost_after: Duration::from_secs(180),
        }
    }

    /// For a build on this machine: short intervals, any queue, idempotent accept.
    pub fn embedded(registration_token: Secret, base_url: String, clock: WallClock) -> PlaneConfig {
        PlaneConfig {
            base_url,
            clock,
            ping_interval: 1,
            job_status_interval: 1,
            any_queue: true,
            accept_again: true,
            ..PlaneConfig::hosted(registration_token)
        }
    }
}

/// What may happen to a `Plane`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum PlaneEvent {
    /// A request came in; exactly one `Respond` or `StreamStart` answers it.
    Request {
        /// Names the request; chosen by the listener.
        id: u64,
        /// What came in.
        request: Box<PlaneRequest>,
    },
    /// The listener's peer has gone: a held request needs no answer, a stream no end any more. Both get them all the same, into
    /// the void.
    Gone {
        /// Which request.
        id: u64,
    },
    /// The wall clock moved against the monotonic clock.
    ClockMoved(WallClock),
    /// Make a build; `BuildCreated` answers.
    CreateBuild(Box<BuildSpec>),
    /// Cancel a build, by id.
    CancelBuild {
        /// Which build.
        build: Arc<str>,
    },
    /// Cancel one job, by id.
    CancelJob {
        /// Which job.
        job: Arc<str>,
    },
    /// Pause, resume or stop an agent, by id.
    Control {
        /// Which agent.
        agent: Arc<str>,
        /// What to tell it.
        action: ControlAction,
    },
}

/// What is told to an agent with its next ping.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum ControlAction {
    /// Accept no jobs until resumed.
    Pause,
    /// Accept jobs again.
    Resume,
    /// Finish the running job, then disconnect.
    Disconnect,
}

/// An HTTP request.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct PlaneRequest {
    /// `GET`, `POST`, `PUT`, `DELETE`.
    pub method: String,
    /// Path and query as on the wire; a leading `/v3` is dropped.
    pub path: String,
    /// What follows `Token ` in `Authorization`; empty if there is none.
    pub token: Secret,
    /// Body as on the wire: chunks are still compressed.
    pub body: Bytes,
    /// When it came in.
    pub received: WallTime,
}

/// An HTTP response.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct PlaneResponse {
    /// Status.
    pub status: u16,
    /// Headers; `content-length` is the listener's.
    pub headers: Vec<(String, String)>,
    /// Body.
    pub body: Bytes,
}

/// What a `Plane` asks of its driver, or tells observers.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
pub enum PlaneCommand {
    /// Nothing to do: tells observers what happened.
    Transition(Transition),
    /// Answer a request.
    Respond {
        /// Which request.
        id: u64,
        /// The answer.
        response: Box<PlaneResponse>,
    },
    /// Answer a request with a head whose body is a stream: some `StreamSend`, then exactly one `StreamEnd`.
    StreamStart {
        /// Which request.
        id: u64,
        /// Status and headers; the body is empty.
        response: Box<PlaneResponse>,
    },
    /// Send a message on a stream, at once; [`crate::api::encode_ping_response`] makes its bytes.
    StreamSend {
        /// Which request opened the stream.
        id: u64,
        /// What to say.
        message: StreamMessage,
    },
    /// End a stream with the trailers `grpc-status` and, unless it is empty, `grpc-message`.
    StreamEnd {
        /// Which request opened the stream.
        id: u64,
        /// gRPC status; 0: OK.
        status: u32,
        /// Text of the status; needs no escapes.
        message: &'static str,
    },
    /// A build exists.
    BuildCreated {
        /// Its id.
        build: Arc<str>,
    },
    /// A build was refused; nothing was made.
    BuildRefused {
        /// Why.
        message: String,
    },
    /// A job is new or has changed its state.
    JobChanged {
        /// Which job.
        job: Arc<str>,
        /// Name of its state.
        state: &'static str,
    },
    /// Log bytes of a job, in order of offset. An offset beyond the end of the previous piece means that bytes were lost.
    JobLog {
        /// Which job.
        job: Arc<str>,
        /// Offset of `data` in the log.
        offset: u64,
        /// Bytes.
        data: Bytes,
    },
    /// An agent is new or has changed its state.
    AgentChanged {
        /// Which agent.
        agent: Arc<str>,
        /// Name of its state.
        state: &'static str,
    },
    /// A build is over.
    BuildFinished {
        /// Which build.
        build: Arc<str>,
        /// Name of its final state.
        state: &'static str,
    },
}

/// What a build is made of.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct BuildSpec {
    /// Steps in order.
    pub steps: Vec<StepSpec>,
    /// Env block of the pipeline document.
    pub pipeline_env: BTreeMap<String, String>,
    /// Env given when the build is created; wins over the pipeline's.
    pub env: BTreeMap<String, String>,
    /// Organisation slug; empty: `local`.
    pub organization: String,
    /// Pipeline slug; empty: `pipeline`.
    pub pipeline: String,
    /// Repository URL.
    pub repository: String,
    /// Default branch.
    pub default_branch: String,
    /// Branch.
    pub branch: String,
    /// Commit, may be `HEAD`.
    pub commit: String,
    /// Tag, may be empty.
    pub tag: String,
    /// Message, may be empty.
    pub message: String,
    /// Author name.
    pub author: String,
    /// Author email.
    pub author_email: String,
    /// Creator name.
    pub creator: String,
}

/// How a job ended, as far as the plane knows.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct JobReport {
    /// −1: agent lost, or never ran.
    pub exit_status: i32,
    /// Signal name, may be empty.
    pub signal: String,
    /// Signal reason, may be empty.
    pub signal_reason: String,
    /// Who says so.
    pub source: ReportSource,
    /// When the plane learned of it.
    pub at: Instant,
}

/// Who says that a job has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum ReportSource {
    /// The agent, with a finish call.
    Agent,
    /// The plane: its agent was silent, left, or asked for other work.
    Lost,
    /// The plane: accepted, but never started.
    NeverStarted,
}
