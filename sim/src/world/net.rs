//! HTTP over the simulated network, as the agent sees it: real bytes by hyper, connections kept alive in a pool as in production.

use super::World;
use crate::trace::{Credential, ENDPOINT, Fact, Got, JobId, OTHER_ENDPOINT, Op, Payload, Request, Said};
use bytes::{Bytes, BytesMut};
use http::Uri;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::client::legacy::Client as PooledClient;
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use ibex_core::api::{RawRequest, RawResponse, StreamMessage, TransportError, TransportKind, transport_error};
use ibex_core::machine::Instant;
use ibex_io::effects::{StreamFrame, Streaming};
use serde_json::Value;
use std::collections::BTreeMap;
use std::error::Error;
use std::io::{self, Read};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use turmoil::net::TcpStream;

/// Connect limit (agent-api §2.6).
const CONNECT: Duration = Duration::from_secs(30);
/// Idle connection lifetime (agent-api §2.6).
const IDLE: Duration = Duration::from_secs(90);

pub(crate) type Client = PooledClient<Connector, Full<Bytes>>;

pub(crate) fn client() -> Client {
    PooledClient::builder(TokioExecutor::new()).timer(TokioTimer::new()).pool_timer(TokioTimer::new()).pool_idle_timeout(IDLE).build(Connector)
}

/// Opens simulated connections.
#[derive(Clone)]
pub(crate) struct Connector;

/// A simulated connection.
pub(crate) struct Wire(TokioIo<TcpStream>);

impl tower_service::Service<Uri> for Connector {
    type Response = Wire;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Wire>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        Box::pin(async move {
            let host = uri.host().unwrap_or_default().to_owned();
            let port = uri.port_u16().unwrap_or(80);
            match tokio::time::timeout(CONNECT, TcpStream::connect((host.as_str(), port))).await {
                Ok(stream) => stream.map(|s| Wire(TokioIo::new(s))),
                Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, "connect timed out")),
            }
        })
    }
}

impl Connection for Wire {
    fn connected(&self) -> Connected {
        Connected::new()
    }
}

impl hyper::rt::Read for Wire {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: hyper::rt::ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl hyper::rt::Write for Wire {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

/// An exchange that is open: closing it without a result is an observation too.
struct Open {
    world: World,
    call: u64,
    done: bool,
}

impl Open {
    fn returned(mut self, got: Got) {
        self.done = true;
        self.world.observed(Fact::Returned { call: self.call, got });
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        if !self.done {
            self.world.observed(Fact::Returned { call: self.call, got: Got::Dropped });
        }
    }
}

pub(super) async fn exchange(world: World, request: RawRequest) -> Result<RawResponse, TransportError> {
    let (open, op) = begin(&world, &request);
    let response = whole(&world, &request).await;
    if world.0.schedule.late_aborts {
        // An answer that is there and not yet told of: it wins over an abort of this instant.
        tokio::task::yield_now().await;
    }
    match response {
        Ok(response) => {
            let retry_after_ms = header(&response.headers, "retry-after").and_then(retry_after);
            let said = if (200..300).contains(&response.status) { said(op, &response.body) } else { Said::Nothing };
            if said == Said::Registered || matches!(said, Said::Ping { .. }) {
                given(&world, &request, &response.body);
            }
            open.returned(Got::Answer { status: response.status, said, retry_after_ms });
            Ok(response)
        }
        Err(e) => {
            open.returned(Got::Failed(kind_name(e.kind)));
            Err(e)
        }
    }
}

fn begin(world: &World, request: &RawRequest) -> (Open, Op) {
    let call = world.0.calls.get() + 1;
    world.0.calls.set(call);
    let token = request.headers.iter().find(|(n, _)| n.eq_ignore_ascii_case("authorization")).map(|(_, v)| v.as_str());
    let path = request.url.split_once("://").and_then(|(_, rest)| rest.find('/').map(|i| &rest[i..])).unwrap_or("/");
    let seen = Seen::of(&world.0.tokens.borrow(), request.method, path, token);
    let payload = payload(seen.op, path, request);
    let endpoint = if path.starts_with(OTHER_ENDPOINT) { OTHER_ENDPOINT } else { ENDPOINT };
    world.observed(Fact::Sent(Request { call, credential: seen.credential, op: seen.op, job: seen.job, endpoint, payload }));
    if !request.extra_headers.is_empty() {
        let headers = request.extra_headers.iter().map(|(n, v)| format!("{n}: {v}")).collect::<Vec<_>>().join(", ");
        world.observed(Fact::Carried { call, headers });
    }
    (Open { world: world.clone(), call, done: false }, seen.op)
}

/// Tells of the set of headers that an answer gives, if it gives one.
fn given(world: &World, request: &RawRequest, body: &[u8]) {
    let Ok(json) = serde_json::from_slice::<Value>(body) else { return };
    let Some(set) = json["request_headers"].as_object() else { return };
    let asked = request.headers.iter().find(|(n, _)| n.eq_ignore_ascii_case("authorization")).and_then(|(_, v)| v.strip_prefix("Token "));
    let token = json["access_token"].as_str().or(asked).unwrap_or_default();
    let Some(Credential::Worker(worker)) = world.0.tokens.borrow().get(token).cloned() else { return };
    let count = set.iter().filter(|(n, _)| n.starts_with("Buildkite-"));
    let headers = count.map(|(n, v)| format!("{n}: {}", v.as_str().unwrap_or_default())).collect::<Vec<_>>().join(", ");
    world.observed(Fact::Given { worker, headers });
}

async fn send(world: &World, request: &RawRequest) -> Result<http::Response<Incoming>, TransportError> {
    let fail = |kind, cause: &str| transport_error(kind, request.method, &request.url, cause);
    let mut builder = http::Request::builder().method(request.method).uri(&request.url);
    for (name, value) in request.headers.iter().map(|(n, v)| (*n, v)) {
        builder = builder.header(name, value);
    }
    for (name, value) in request.extra_headers.iter() {
        builder = builder.header(name, value);
    }
    let body = Full::new(request.body.clone().unwrap_or_default());
    let built = builder.body(body).map_err(|e| fail(TransportKind::BadUrl, &e.to_string()))?;
    world.0.client.request(built).await.map_err(|e| fail(class(&e), &cause(&e)))
}

async fn whole(world: &World, request: &RawRequest) -> Result<RawResponse, TransportError> {
    let (head, body) = send(world, request).await?.into_parts();
    let body = body.collect().await.map_err(|e| transport_error(class(&e), request.method, &request.url, &cause(&e)))?.to_bytes();
    Ok(RawResponse { proto: "HTTP/1.1", status: head.status.as_u16(), headers: headers(&head.headers), body, url: request.url.clone() })
}

fn headers(map: &http::HeaderMap) -> Vec<(String, String)> {
    map.iter().map(|(n, v)| (n.as_str().to_owned(), String::from_utf8_lossy(v.as_bytes()).into_owned())).collect()
}

/// A response whose body arrives in frames.
pub struct SimStreaming {
    status: u16,
    headers: Vec<(String, String)>,
    body: Incoming,
    url: String,
    worker: u32,
    /// Bytes of a frame that is not complete.
    pending: BytesMut,
    open: Option<Open>,
}

pub(super) async fn stream(world: World, request: RawRequest) -> Result<SimStreaming, TransportError> {
    let (open, _) = begin(&world, &request);
    let token = request.headers.iter().find(|(n, _)| n.eq_ignore_ascii_case("authorization")).and_then(|(_, v)| v.strip_prefix("Token "));
    let worker = match token.and_then(|t| world.0.tokens.borrow().get(t).cloned()) {
        Some(Credential::Worker(n)) => n,
        _ => 0,
    };
    match send(&world, &request).await {
        Ok(response) => {
            let (head, body) = response.into_parts();
            let (headers, status) = (headers(&head.headers), head.status.as_u16());
            Ok(SimStreaming { status, headers, body, url: request.url, worker, pending: BytesMut::new(), open: Some(open) })
        }
        Err(e) => {
            open.returned(Got::Failed(kind_name(e.kind)));
            Err(e)
        }
    }
}

impl SimStreaming {
    fn ended(&mut self, got: Got) {
        if let Some(open) = self.open.take() {
            open.returned(got);
        }
    }

    /// Tells of the messages that are complete now.
    fn tell(&mut self, data: &[u8]) {
        let Some(open) = &self.open else { return };
        self.pending.extend_from_slice(data);
        while let Some(&[_, a, b, c, d]) = self.pending.first_chunk::<5>() {
            let length = 5 + u32::from_be_bytes([a, b, c, d]) as usize;
            if self.pending.len() < length {
                return;
            }
            let mut reader = ibex_core::api::PingStream::open(200, &[("content-type".into(), "application/grpc".into())]).expect("the right type");
            let mut messages = Vec::new();
            let _ = reader.data(&self.pending.split_to(length), &mut messages);
            for message in messages {
                let (kind, job) = match message {
                    StreamMessage::Resume => ("resume", None),
                    StreamMessage::Pause { .. } => ("pause", None),
                    StreamMessage::Disconnect { .. } => ("disconnect", None),
                    StreamMessage::Job { id } => ("job", Some(id)),
                };
                open.world.observed(Fact::Streamed { worker: self.worker, kind, job });
            }
        }
    }
}

impl Streaming for SimStreaming {
    fn status(&self) -> u16 {
        self.status
    }

    fn headers(&self) -> &[(String, String)] {
        &self.headers
    }

    async fn next(&mut self) -> Option<Result<StreamFrame, TransportError>> {
        let frame = match self.body.frame().await {
            None => {
                self.ended(Got::Answer { status: self.status, said: Said::Nothing, retry_after_ms: None });
                return None;
            }
            Some(Ok(frame)) => frame,
            Some(Err(e)) => {
                self.ended(Got::Failed(kind_name(class(&e))));
                return Some(Err(transport_error(class(&e), "POST", &self.url, &cause(&e))));
            }
        };
        Some(Ok(match frame.into_data() {
            Ok(data) => {
                self.tell(&data);
                StreamFrame::Data(data)
            }
            Err(frame) => {
                let trailers = frame.into_trailers().map(|t| headers(&t)).unwrap_or_default();
                let said = header(&trailers, "grpc-status").and_then(|s| s.parse().ok()).map_or(Said::Garbage, Said::Status);
                self.ended(Got::Answer { status: self.status, said, retry_after_ms: None });
                StreamFrame::Trailers(trailers)
            }
        }))
    }
}

/// The class of a failure, by the first cause that tells one (agent-api §4.2).
fn class(e: &(dyn Error + 'static)) -> TransportKind {
    let mut next = Some(e);
    while let Some(e) = next {
        if let Some(io) = e.downcast_ref::<io::Error>() {
            match io.kind() {
                io::ErrorKind::ConnectionRefused => return TransportKind::Refused,
                io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionAborted | io::ErrorKind::BrokenPipe | io::ErrorKind::NotConnected => {
                    return TransportKind::Reset;
                }
                io::ErrorKind::TimedOut => return TransportKind::Timeout,
                io::ErrorKind::UnexpectedEof => return TransportKind::Eof,
                io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => return TransportKind::Unreachable,
                _ => {}
            }
        }
        if let Some(h) = e.downcast_ref::<hyper::Error>() {
            if h.is_incomplete_message() {
                return TransportKind::Eof;
            }
            if h.is_timeout() {
                return TransportKind::Timeout;
            }
            if h.is_canceled() || h.is_closed() {
                return TransportKind::Reset;
            }
        }
        next = e.source();
    }
    TransportKind::Other
}

fn cause(e: &(dyn Error + 'static)) -> String {
    let mut innermost = e;
    while let Some(inner) = innermost.source() {
        innermost = inner;
    }
    innermost.to_string()
}

fn kind_name(kind: TransportKind) -> &'static str {
    match kind {
        TransportKind::Timeout => "timeout",
        TransportKind::Refused => "refused",
        TransportKind::Reset => "reset",
        TransportKind::Eof => "eof",
        TransportKind::NameNotFound => "name not found",
        TransportKind::Unreachable => "unreachable",
        TransportKind::Tls => "tls",
        TransportKind::Certificate => "certificate",
        TransportKind::BadUrl => "bad url",
        TransportKind::Other => "other",
    }
}

/// What method, path and credential of a request say; the same for both ends of the wire.
pub(super) struct Seen {
    pub(super) credential: Credential,
    pub(super) op: Op,
    pub(super) job: Option<JobId>,
}

impl Seen {
    pub(super) fn of(tokens: &BTreeMap<String, Credential>, method: &str, path: &str, authorization: Option<&str>) -> Seen {
        let credential = match authorization {
            None => Credential::Absent,
            Some(value) => value.strip_prefix("Token ").and_then(|t| tokens.get(t)).cloned().unwrap_or(Credential::Unknown),
        };
        let path = path.split('?').next().unwrap_or_default();
        let path = path.strip_prefix("/alt").unwrap_or(path);
        let path = path.strip_prefix("/v3").unwrap_or(path).trim_matches('/');
        let mut parts = path.split('/');
        let (op, job) = match (method, parts.next(), parts.next(), parts.next()) {
            ("POST", Some("register"), None, _) => (Op::Register, None),
            ("POST", Some("connect"), None, _) => (Op::Connect, None),
            ("POST", Some("disconnect"), None, _) => (Op::Disconnect, None),
            ("POST", Some("heartbeat"), None, _) => (Op::Heartbeat, None),
            ("GET", Some("ping"), None, _) => (Op::Ping, None),
            ("POST", Some("agentedge.v1.AgentEdgeService"), ..) => (Op::Stream, None),
            ("GET", Some("jobs"), Some(job), None) => (Op::JobState, Some(job)),
            (_, Some("jobs"), Some(job), Some(what)) => {
                let op = match what {
                    "accept" => Op::Accept,
                    "acquire" => Op::Acquire,
                    "start" => Op::Start,
                    "chunks" => Op::Chunk,
                    "header_times" => Op::HeaderTimes,
                    "finish" => Op::Finish,
                    _ => Op::Other,
                };
                (op, Some(job))
            }
            _ => (Op::Other, None),
        };
        Seen { credential, op, job: job.map(Into::into) }
    }
}

fn payload(op: Op, path: &str, request: &RawRequest) -> Payload {
    let body = request.body.as_ref();
    let header = |name: &str| request.headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.as_str());
    let json = || body.and_then(|b| serde_json::from_slice::<Value>(b).ok()).unwrap_or_default();
    match op {
        Op::Chunk => {
            let query = path.split_once('?').map_or("", |(_, q)| q);
            let number = |name: &str| query.split('&').find_map(|p| p.strip_prefix(name)?.strip_prefix('=')?.parse().ok()).unwrap_or(0);
            let data = body.and_then(|b| {
                let mut data = Vec::new();
                flate2::read::GzDecoder::new(&b[..]).read_to_end(&mut data).ok()?;
                Some(Bytes::from(data))
            });
            Payload::Chunk { sequence: number("sequence"), offset: number("offset"), size: number("size"), data }
        }
        Op::Start => Payload::Start { started_at: json()["started_at"].as_str().and_then(time_of_run) },
        Op::Acquire => Payload::Acquire {
            sequence: header("x-buildkite-backoff-sequence").and_then(|n| n.parse().ok()),
            lock: header("x-buildkite-lock-acquire-job") == Some("1"),
        },
        Op::HeaderTimes => {
            let json = json();
            let times = json["header_times"].as_object().cloned().unwrap_or_default();
            Payload::HeaderTimes(times.keys().filter_map(|k| k.parse().ok()).collect())
        }
        Op::Finish => {
            let json = json();
            let text = |key: &str| json[key].as_str().unwrap_or_default().to_owned();
            Payload::Finish {
                exit_status: text("exit_status"),
                signal: text("signal"),
                signal_reason: text("signal_reason"),
                chunks_failed: json["chunks_failed_count"].as_u64().unwrap_or(u64::MAX),
                ignore_agent: json["ignore_agent_in_dispatches"].as_bool(),
                finished_at: time_of_run(&text("finished_at")),
                body: body.map(|b| String::from_utf8_lossy(b).into_owned()).unwrap_or_default(),
            }
        }
        _ => Payload::None,
    }
}

fn said(op: Op, body: &[u8]) -> Said {
    if !op.decoded() {
        return Said::Nothing;
    }
    // The first JSON value of the body counts (agent-api §3.1).
    let Some(Ok(Value::Object(json))) = serde_json::Deserializer::from_slice(body).into_iter::<Value>().next() else { return Said::Garbage };
    let text = |key: &str| json.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
    match op {
        Op::Register => Said::Registered,
        Op::Ping => {
            let job = json.get("job").and_then(|j| j["id"].as_str()).map(Into::into);
            let url = text("endpoint");
            let endpoint = url.split_once("://").and_then(|(_, rest)| rest.find('/').map(|at| rest[at..].to_owned())).unwrap_or_default();
            Said::Ping { action: text("action"), job, endpoint }
        }
        Op::Accept | Op::Acquire => Said::Job(text("id").into()),
        Op::JobState => Said::State(text("state")),
        _ => Said::Nothing,
    }
}

fn header<'a>(headers: &'a [(String, String)], name: &str) -> Option<&'a str> {
    headers.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
}

/// Decimal seconds with an optional fraction (agent-api §4.1).
fn retry_after(text: &str) -> Option<u64> {
    text.trim().parse::<f64>().ok().filter(|s| s.is_finite()).map(|s| (s.max(0.0) * 1000.0).round() as u64)
}

/// The clock of the run at an RFC 3339 time in UTC. Every run begins with 2026 and is over before February.
fn time_of_run(text: &str) -> Option<Instant> {
    let rest = text.strip_prefix("2026-01-")?.strip_suffix('Z')?;
    let (whole, fraction) = rest.split_once('.').unwrap_or((rest, ""));
    let mut numbers = whole.split(['T', ':']).map(|n| n.parse::<u64>().ok());
    let (day, hour, minute, second) = (numbers.next()??, numbers.next()??, numbers.next()??, numbers.next()??);
    let nanos: u64 = format!("{fraction:0<9}").parse().ok()?;
    Some(Instant::from_nanos((((day - 1) * 24 + hour) * 60 + minute) * 60 * 1_000_000_000 + second * 1_000_000_000 + nanos))
}
