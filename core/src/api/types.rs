mod job;
mod stream;

pub use job::*;
pub use stream::*;

use crate::secret::Secret;
use crate::wall::WallTime;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// Server-specified request headers (agent-api §2.4), in the order received; only names that start with `Buildkite-`.
pub type RequestHeaders = Arc<Vec<(String, String)>>;

/// Where and as whom a request is made.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Session {
    /// Base endpoint.
    pub endpoint: Arc<str>,
    /// Credential; empty: no `Authorization` header is sent.
    pub credential: Secret,
    /// Server-specified headers.
    pub headers: RequestHeaders,
}

/// One attempt of one API request.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
pub struct ApiCall {
    /// Where and as whom.
    pub session: Session,
    /// What.
    pub operation: Operation,
    /// Limit of the whole exchange; at it the driver drops the exchange and completes with a time-out.
    pub limit: Duration,
    /// `Buildkite-Timeout-Milliseconds` (agent-api §2.3), where the operation sends it.
    pub timeout_ms: Option<u64>,
}

/// The operations of agent-api §5 that the agent process itself calls. In-job commands use [`Operation::Json`].
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
pub enum Operation {
    /// `POST register`
    Register(Box<RegisterRequest>),
    /// `POST connect`
    Connect,
    /// `POST disconnect`
    Disconnect,
    /// `POST heartbeat` with the time at which it was sent.
    Heartbeat {
        /// RFC 3339 with the local zone's offset.
        sent_at: String,
    },
    /// `GET ping`
    Ping,
    /// `PUT jobs/{job}/accept`
    Accept {
        /// Job id.
        job: Arc<str>,
    },
    /// `PUT jobs/{job}/acquire`
    Acquire {
        /// Job id.
        job: Arc<str>,
        /// `X-Buildkite-Backoff-Sequence`
        sequence: u32,
    },
    /// `PUT jobs/{job}/start`
    Start {
        /// Job id.
        job: Arc<str>,
        /// RFC 3339, UTC.
        started_at: String,
    },
    /// `GET jobs/{job}`
    JobState {
        /// Job id.
        job: Arc<str>,
    },
    /// `POST jobs/{job}/chunks`; the body is already compressed.
    Chunk {
        /// Job id.
        job: Arc<str>,
        /// From 1.
        sequence: u64,
        /// Byte offset in the uncompressed log.
        offset: u64,
        /// Uncompressed bytes.
        size: u64,
        /// gzip of the log bytes.
        #[serde(skip)]
        body: Bytes,
    },
    /// `POST jobs/{job}/header_times`
    HeaderTimes {
        /// Job id.
        job: Arc<str>,
        /// Index to RFC 3339 time, ascending.
        times: Vec<(u64, String)>,
    },
    /// `PUT jobs/{job}/finish`
    Finish {
        /// Job id.
        job: Arc<str>,
        /// Body, the same in every attempt.
        body: Box<FinishRequest>,
    },
    /// Any other request with a JSON body (or none) whose answer, where `decoded`, is handed back as JSON.
    Json(Box<JsonRequest>),
}

/// A request of an in-job command (agent-api §10–17).
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
pub struct JsonRequest {
    /// `GET`, `POST`, `PUT` or `DELETE`.
    pub method: &'static str,
    /// Relative path with its variable segments already escaped (`escape_segment`), and the query.
    pub path: String,
    /// Body, already serialised; `None` sends none.
    #[serde(skip)]
    pub body: Option<String>,
    /// Further headers, such as `X-Buildkite-Backoff-Sequence`.
    pub headers: Vec<(&'static str, String)>,
    /// Whether a 2xx must carry JSON.
    pub decoded: bool,
}

/// Body of `POST register` (agent-api §6.1).
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct RegisterRequest {
    /// `%spawn` already replaced.
    pub name: String,
    /// Host name, empty if unknown.
    pub hostname: String,
    /// Description of the operating system.
    pub os: String,
    /// `amd64`, `arm64`, …
    pub arch: String,
    /// False with no-command-eval.
    pub script_eval_enabled: bool,
    /// True only in acquire mode.
    pub ignore_in_dispatches: bool,
    /// A number as text.
    #[serde(skip_serializing_if = "String::is_empty", default)]
    pub priority: String,
    /// Agent version.
    pub version: String,
    /// Build number, `x` if unset.
    pub build: String,
    /// Tags.
    pub meta_data: Vec<String>,
    /// Process id.
    #[serde(skip_serializing_if = "is_zero", default)]
    pub pid: u32,
    /// See start-flags §5, host.
    #[serde(skip_serializing_if = "String::is_empty", default)]
    pub machine_id: String,
    /// See start-flags §7.
    pub features: Vec<String>,
}

fn is_zero(n: &u32) -> bool {
    *n == 0
}

/// Answer to `POST register`. Intervals are already replaced where absent or not positive.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Registered {
    /// Agent UUID.
    pub id: Arc<str>,
    /// Final name.
    pub name: Arc<str>,
    /// Session token.
    pub access_token: Secret,
    /// Endpoint from connect on; empty: unchanged.
    pub endpoint: String,
    /// Present (also empty): replaces the set.
    pub request_headers: Option<Vec<(String, String)>>,
    /// P; 10 s where the answer has none.
    pub ping_interval: Duration,
    /// Job status interval; 1 s where the answer has none.
    pub job_status_interval: Duration,
    /// H; 60 s where the answer has none.
    pub heartbeat_interval: Duration,
    /// Final tags, only logged.
    pub meta_data: Vec<String>,
    /// Tracing policy of the control plane (job-runner §3.3).
    pub tracing: Option<TracingPolicy>,
}

/// `tracing` of the register response.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct TracingPolicy {
    /// Only `opentelemetry` is accepted.
    #[serde(default)]
    pub backend: String,
    /// Exporter for job traces.
    #[serde(default)]
    pub exporter: Option<TracingExporter>,
}

/// `tracing.exporter`: headers are credentials.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct TracingExporter {
    /// OTLP endpoint.
    #[serde(default)]
    pub endpoint: Secret,
    /// OTLP protocol.
    #[serde(default)]
    pub protocol: String,
    /// Credentials, by name.
    #[serde(default)]
    pub headers: BTreeMap<String, Secret>,
}

/// Answer to `GET ping` (agent-api §7.1).
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct PingReply {
    /// `""`, `idle`, `pause`, `disconnect`, or an unknown word.
    pub action: String,
    /// Logged as is when not empty.
    pub message: String,
    /// Id of the job offered.
    pub job: Option<Arc<str>>,
    /// New endpoint, empty: none.
    pub endpoint: String,
    /// Present (also empty): replaces the set.
    pub request_headers: Option<Vec<(String, String)>>,
}

/// Body of `PUT jobs/{job}/finish` (job-runner §2.4).
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct FinishRequest {
    /// Decimal.
    pub exit_status: String,
    /// `SIGTERM`, …
    #[serde(skip_serializing_if = "String::is_empty", default)]
    pub signal: String,
    /// `cancel`, `agent_stop`, …
    #[serde(skip_serializing_if = "String::is_empty", default)]
    pub signal_reason: String,
    /// RFC 3339, UTC.
    pub finished_at: String,
    /// Chunks given up.
    pub chunks_failed_count: u64,
    /// Only with disconnect-after-job.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub ignore_agent_in_dispatches: Option<bool>,
}

/// What became of a call; exactly one per [`ApiCall`], also after it was aborted.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Outcome {
    /// 2xx, decoded where the endpoint is a decoded one.
    Ok(Reply),
    /// A response that is not 2xx.
    Status(Box<StatusError>),
    /// A 2xx whose body is not what it should be: always retryable (agent-api §3.2).
    Undecodable(Box<str>),
    /// No usable response.
    Transport(Box<TransportError>),
    /// The driver gave the exchange up after `AbortCall`.
    Aborted,
}

/// What a 2xx carried.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Reply {
    /// The body is not looked at.
    Empty,
    /// Register.
    Registered(Box<Registered>),
    /// Ping.
    Ping(Box<PingReply>),
    /// Accept, acquire.
    Job(Box<AcceptedJob>),
    /// Job state.
    State(Box<str>),
    /// [`Operation::Json`]; status, `Location`, `Retry-After` and the body text (empty where it is not decoded).
    Json(Box<JsonReply>),
}

/// Answer to an [`Operation::Json`].
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct JsonReply {
    /// HTTP status.
    pub status: u16,
    /// `Location`, if any.
    pub location: Option<String>,
    /// `Retry-After`, if it parses.
    pub retry_after: Option<Duration>,
    /// The first JSON value of the body, as text; empty where the endpoint is not decoded. Not recorded.
    #[serde(skip)]
    pub body: String,
}

/// A response that is not 2xx.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct StatusError {
    /// HTTP status.
    pub status: u16,
    /// `<code> <reason>`, e.g. `401 Unauthorized`.
    pub status_text: String,
    /// `Retry-After`, if it parses (agent-api §4.1).
    pub retry_after: Option<Duration>,
    /// Whole error text of agent-api §3.3.
    pub text: String,
}

/// No usable response.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct TransportError {
    /// Class.
    pub kind: TransportKind,
    /// `<METHOD> <URL>: <cause>`.
    pub text: String,
}

/// Classes of transport failures (agent-api §4.2, the better agent's rule).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum TransportKind {
    /// Connect, handshake, exchange or attempt limit.
    Timeout,
    /// Connection refused.
    Refused,
    /// Connection reset, or broken inside the exchange.
    Reset,
    /// Closed before or inside the response.
    Eof,
    /// Host name not found, or resolver trouble.
    NameNotFound,
    /// Network or host unreachable.
    Unreachable,
    /// TLS handshake failure other than the certificate.
    Tls,
    /// Certificate verification: not retryable.
    Certificate,
    /// Malformed URL: not retryable.
    BadUrl,
    /// Anything else before a response.
    Other,
}

impl TransportKind {
    /// Whether trying again can help.
    pub fn retryable(self) -> bool {
        !matches!(self, TransportKind::Certificate | TransportKind::BadUrl)
    }
}

impl Outcome {
    /// Standard retry rule (agent-api §4.3): whether another attempt may help.
    pub fn retryable(&self) -> bool {
        match self {
            Outcome::Ok(_) | Outcome::Aborted => false,
            Outcome::Undecodable(_) => true,
            Outcome::Status(e) => e.status == 429 || e.status >= 500,
            Outcome::Transport(e) => e.kind.retryable(),
        }
    }

    /// HTTP status of an error response.
    pub fn status(&self) -> Option<u16> {
        match self {
            Outcome::Status(e) => Some(e.status),
            _ => None,
        }
    }

    /// `Retry-After` of an error response.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Outcome::Status(e) => e.retry_after,
            _ => None,
        }
    }

    /// *Rejected* (start-and-worker §0.4): a response arrived, not 2xx, not 429 and below 500.
    pub fn rejected(&self) -> bool {
        matches!(self, Outcome::Status(e) if e.status != 429 && e.status < 500)
    }

    /// Error text as it is logged; empty for a success.
    pub fn text(&self) -> &str {
        match self {
            Outcome::Ok(_) => "",
            Outcome::Status(e) => &e.text,
            Outcome::Undecodable(text) => text,
            Outcome::Transport(e) => &e.text,
            Outcome::Aborted => "context canceled",
        }
    }
}

/// A raw HTTP response as the transport hands it over, body read whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RawResponse {
    /// Protocol as a status line writes it: `HTTP/1.1`, `HTTP/2.0`.
    pub proto: &'static str,
    /// HTTP status.
    pub status: u16,
    /// Headers in order of arrival; names lower case.
    pub headers: Vec<(String, String)>,
    /// Body after content decoding.
    pub body: Bytes,
    /// URL after redirects.
    pub url: String,
}

/// An HTTP request as bytes-to-be; what `encode` makes of an [`ApiCall`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RawRequest {
    /// Method.
    pub method: &'static str,
    /// Absolute URL whose escapes must reach the wire unchanged.
    pub url: String,
    /// Headers in order; `authorization` included (never log them).
    pub headers: Vec<(&'static str, String)>,
    /// Server-specified headers.
    pub extra_headers: RequestHeaders,
    /// Body; `None` for GET and body-less DELETE, empty for a body-less POST or PUT.
    pub body: Option<Bytes>,
}

/// Converts a wall-clock time for a request body.
pub fn wall_text(t: WallTime) -> String {
    t.rfc3339_utc()
}
