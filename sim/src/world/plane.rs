//! The control plane: `ibex_core::plane` behind a simulated listener, with the run's faults between the two.

use super::streams::{Streamed, trailers};
use super::{EPOCH_NANOS, REGISTRATION_TOKEN, World};
use crate::faults::RequestFault;
use crate::schedule::{Schedule, Signatures, Source};
use crate::trace::{Credential, Fact, JobId, Op};
use bytes::Bytes;
use futures_util::stream;
use http::{Request, Response};
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Body as HttpBody, Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use ibex_core::api::{StreamMessage, encode_ping_response};
use ibex_core::machine::{Instant, Machine};
use ibex_core::pipeline::{CommandStep, StepSpec};
use ibex_core::plane::{BuildSpec, Plane, PlaneCommand, PlaneConfig, PlaneEvent, PlaneRequest, PlaneResponse};
use ibex_core::rng::Rng;
use ibex_core::secret::Secret;
use ibex_core::wall::{WallClock, WallTime};
use serde_json::Value;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::time::Duration;
use tokio::sync::{Notify, mpsc};
use turmoil::net::{TcpListener, TcpStream};

/// Name and port of the control plane's host.
pub const HOST: &str = "plane";
/// Port.
pub const PORT: u16 = 80;

/// How long the control plane lets a stream last.
const STREAM: Duration = Duration::from_secs(45);
/// Frames of a stream that wait for its reader.
const FRAMES: usize = 64;

/// The head of a stream, and what comes after it.
type Opened = (PlaneResponse, mpsc::Receiver<Frame<Bytes>>);

/// What the control plane says to a request.
enum Reply {
    Whole(PlaneResponse),
    Stream(PlaneResponse, Streamed),
}

impl Reply {
    fn status(&self) -> u16 {
        match self {
            Reply::Whole(r) | Reply::Stream(r, _) => r.status,
        }
    }

    fn into_http(self) -> Response<Body> {
        match self {
            Reply::Whole(r) => respond(r),
            Reply::Stream(r, frames) => respond_with(&r, Box::pin(frames)),
        }
    }
}

type Body = Pin<Box<dyn HttpBody<Data = Bytes, Error = io::Error>>>;

/// The control plane's host.
pub struct PlaneHost {
    pub(super) world: World,
    plane: RefCell<Plane>,
    answers: RefCell<BTreeMap<u64, PlaneResponse>>,
    /// Streams that were opened and not yet fetched by their connection.
    opened: RefCell<BTreeMap<u64, Opened>>,
    streams: RefCell<BTreeMap<u64, mpsc::Sender<Frame<Bytes>>>>,
    requests: Cell<u64>,
    /// Requests of each operation so far.
    counts: RefCell<BTreeMap<Op, u64>>,
    periods: RefCell<Vec<(Instant, Option<Op>, RequestFault)>>,
    faults_over: Cell<bool>,
    listening: Cell<bool>,
    listen_changed: Notify,
    cut: Notify,
    timers_changed: Notify,
    /// Jobs in the order of the schedule.
    jobs: RefCell<Vec<JobId>>,
    states: RefCell<BTreeMap<JobId, &'static str>>,
    agents: RefCell<BTreeMap<u32, std::sync::Arc<str>>>,
}

impl PlaneHost {
    /// A control plane for the run of `world`.
    pub fn new(world: World) -> Rc<PlaneHost> {
        let s = &world.0.schedule;
        let clock = WallClock { base: WallTime::from_nanos(EPOCH_NANOS), utc_offset_seconds: 0 };
        let config = PlaneConfig {
            base_url: format!("http://{HOST}"),
            clock,
            ping_interval: s.ping_s,
            job_status_interval: s.job_state_s,
            heartbeat_interval: s.heartbeat_s,
            chunk_bytes: s.chunk_bytes,
            any_queue: true,
            hold_ping: Duration::ZERO,
            streaming: (s.ping_mode != Source::Poll).then_some(STREAM),
            ..PlaneConfig::hosted(Secret::new(REGISTRATION_TOKEN.to_owned()))
        };
        let plane = Plane::new(config, Rng::from_seed(s.seed ^ 0x91a7e));
        Rc::new(PlaneHost {
            world,
            plane: RefCell::new(plane),
            answers: RefCell::default(),
            opened: RefCell::default(),
            streams: RefCell::default(),
            requests: Cell::new(0),
            counts: RefCell::default(),
            periods: RefCell::default(),
            faults_over: Cell::new(false),
            listening: Cell::new(true),
            listen_changed: Notify::new(),
            cut: Notify::new(),
            timers_changed: Notify::new(),
            jobs: RefCell::default(),
            states: RefCell::default(),
            agents: RefCell::default(),
        })
    }

    fn schedule(&self) -> &Schedule {
        &self.world.0.schedule
    }

    /// Feeds the machine one event, and carries out what it asks for.
    pub fn feed(&self, event: PlaneEvent) {
        let mut out = Vec::new();
        self.plane.borrow_mut().handle(self.world.now(), event, &mut out);
        self.carry_out(out);
    }

    fn carry_out(&self, out: Vec<PlaneCommand>) {
        for command in out {
            match command {
                PlaneCommand::Respond { id, response } => {
                    self.answers.borrow_mut().insert(id, *response);
                }
                PlaneCommand::StreamStart { id, response } => {
                    let (sender, frames) = mpsc::channel(FRAMES);
                    self.streams.borrow_mut().insert(id, sender);
                    self.opened.borrow_mut().insert(id, (*response, frames));
                }
                PlaneCommand::StreamSend { id, message } => self.say(id, Frame::data(encode_ping_response(&message))),
                PlaneCommand::StreamEnd { id, status, message } => {
                    self.say(id, Frame::trailers(trailers(status, message)));
                    self.streams.borrow_mut().remove(&id);
                }
                PlaneCommand::JobChanged { job, state } => {
                    if self.states.borrow_mut().insert(job.clone(), state).is_none() {
                        self.jobs.borrow_mut().push(job.clone());
                    }
                    self.world.observed(Fact::PlaneJob { job, state: state.into() });
                }
                PlaneCommand::BuildRefused { message } => panic!("the workload made a build that was refused: {message}"),
                _ => {}
            }
        }
        self.timers_changed.notify_one();
    }

    /// Says something on a stream. A client that does not read, or has gone, loses it.
    fn say(&self, id: u64, frame: Frame<Bytes>) {
        let mut streams = self.streams.borrow_mut();
        if streams.get(&id).is_some_and(|s| s.try_send(frame).is_err()) {
            streams.remove(&id);
        }
    }

    /// Serves until the run is over.
    pub async fn serve(self: Rc<Self>) -> io::Result<()> {
        tokio::task::spawn_local(self.clone().timers());
        loop {
            while !self.listening.get() {
                self.listen_changed.notified().await;
            }
            let listener = TcpListener::bind(("0.0.0.0", PORT)).await?;
            while self.listening.get() {
                tokio::select! {
                    biased;
                    () = self.listen_changed.notified() => {}
                    accepted = listener.accept() => {
                        let (stream, _) = accepted?;
                        tokio::task::spawn_local(self.clone().connection(stream));
                    }
                }
            }
        }
    }

    async fn timers(self: Rc<Self>) {
        loop {
            let deadline = self.plane.borrow().deadline();
            let wait = deadline.map(|d| d.since(self.world.now()));
            tokio::select! {
                biased;
                () = self.timers_changed.notified() => {}
                () = async { match wait { Some(d) => tokio::time::sleep(d).await, None => std::future::pending().await } } => {
                    let mut out = Vec::new();
                    self.plane.borrow_mut().expire(self.world.now(), &mut out);
                    self.carry_out(out);
                }
            }
        }
    }

    async fn connection(self: Rc<Self>, stream: TcpStream) {
        let kill = Rc::new(Notify::new());
        let (host, killer) = (self.clone(), kill.clone());
        let service = service_fn(move |request| host.clone().answer(request, killer.clone()));
        // No timer, so that an idle connection is closed by faults only; no date, so that runs are equal to the byte.
        let serving = hyper::server::conn::http1::Builder::new().auto_date_header(false).serve_connection(TokioIo::new(stream), service);
        tokio::select! {
            biased;
            () = self.cut.notified() => {}
            () = kill.notified() => {}
            _ = serving => {}
        }
    }

    async fn answer(self: Rc<Self>, request: Request<Incoming>, kill: Rc<Notify>) -> Result<Response<Body>, io::Error> {
        let (head, body) = request.into_parts();
        let body = body.collect().await.map_err(io::Error::other)?.to_bytes();
        let path = head.uri.path_and_query().map_or("/", |p| p.as_str());
        let path = path.strip_prefix("/alt").unwrap_or(path).to_owned();
        let authorization = head.headers.get("authorization").and_then(|v| v.to_str().ok());
        let seen = super::net::Seen::of(&self.world.0.tokens.borrow(), head.method.as_str(), &path, authorization);
        let token = authorization.and_then(|a| a.strip_prefix("Token ")).unwrap_or_default().to_owned();
        let fault = self.fault(seen.op);
        let incoming = PlaneRequest {
            method: head.method.as_str().to_owned(),
            path,
            token: Secret::new(token),
            received: WallTime::from_nanos(EPOCH_NANOS + self.world.now().as_nanos() as i64),
            body: body.clone(),
        };
        let applied = fault.as_ref().is_none_or(|f| f.reaches(seen.op));
        let real = applied.then(|| self.clone().ask(incoming, seen.op, &body, seen.job.as_ref()));
        let status = match (&fault, &real) {
            (Some(RequestFault::Status { code, .. }), _) => *code,
            (Some(RequestFault::Html { .. } | RequestFault::Empty { .. } | RequestFault::Action(_) | RequestFault::Endpoint(_)), _)
            | (Some(RequestFault::Offer(_)), None) => 200,
            (_, Some(r)) => r.status(),
            (_, None) => 0,
        };
        self.world.observed(Fact::Served {
            credential: seen.credential,
            op: seen.op,
            job: seen.job,
            status,
            applied,
            fault: fault.as_ref().map(RequestFault::name).unwrap_or_default(),
        });
        let closed = || io::Error::new(io::ErrorKind::ConnectionReset, "a fault closes the connection");
        match (fault, real) {
            (None, Some(r)) => Ok(r.into_http()),
            (Some(RequestFault::Status { code, retry_after_ms }), _) => {
                let mut r = Response::builder().status(code).header("content-type", "application/json");
                if let Some(ms) = retry_after_ms {
                    r = r.header("retry-after", format!("{}.{:03}", ms / 1_000, ms % 1_000));
                }
                Ok(r.body(full(r#"{"message":"a simulated fault"}"#)).map_err(io::Error::other)?)
            }
            (Some(RequestFault::Html { .. }), _) => {
                let r = Response::builder().header("content-type", "text/html").body(full("<html><body>Please sign in</body></html>"));
                r.map_err(io::Error::other)
            }
            (Some(RequestFault::Empty { .. }), _) => Ok(Response::new(full(""))),
            (Some(RequestFault::ResetInside), Some(Reply::Whole(r))) => Ok(half(r)),
            (Some(RequestFault::ResetInside | RequestFault::ResetAfter), Some(r)) => {
                tokio::task::spawn_local(async move {
                    tokio::time::sleep(Duration::from_millis(30)).await;
                    kill.notify_one();
                });
                Ok(r.into_http())
            }
            (Some(RequestFault::Hang { .. }), _) => std::future::pending().await,
            (Some(RequestFault::Slow { ms }), Some(r)) => {
                tokio::time::sleep(Duration::from_millis(ms)).await;
                Ok(r.into_http())
            }
            (Some(RequestFault::State(state)), Some(r)) if r.status() == 200 => {
                let body = serde_json::json!({ "state": state }).to_string();
                Ok(Response::new(full(&body)))
            }
            (Some(RequestFault::State(_)), Some(r)) => Ok(r.into_http()),
            (Some(RequestFault::Action(action)), _) => {
                let body = serde_json::json!({ "action": action }).to_string();
                Ok(Response::new(full(&body)))
            }
            (Some(RequestFault::Endpoint(path)), _) => {
                let body = serde_json::json!({ "endpoint": format!("http://{HOST}{path}"), "action": "idle" }).to_string();
                Ok(Response::new(full(&body)))
            }
            (Some(RequestFault::Headers { set, endpoint }), Some(Reply::Whole(r))) => Ok(respond(with_headers(r, set, &endpoint))),
            (Some(RequestFault::Offer(n)), None) => {
                let job = n.checked_sub(1).and_then(|n| self.job(n)).map(|id| serde_json::json!({ "id": id }));
                Ok(Response::new(full(&serde_json::json!({ "action": "", "job": job }).to_string())))
            }
            (Some(RequestFault::Offer(n)), Some(Reply::Stream(r, mut frames))) => {
                let jobs = (0..n).filter_map(|n| self.job(n));
                let said: Vec<u8> = jobs.flat_map(|id| encode_ping_response(&StreamMessage::Job { id })).collect();
                if !said.is_empty() {
                    frames.say_first(said.into());
                }
                Ok(Reply::Stream(r, frames).into_http())
            }
            (Some(RequestFault::Grpc { code, after_ms }), Some(Reply::Stream(r, mut frames))) => {
                frames.ends(after_ms, code);
                Ok(Reply::Stream(r, frames).into_http())
            }
            (Some(RequestFault::Dumb { ms }), Some(Reply::Stream(r, mut frames))) => {
                frames.say_nothing();
                frames.ends(ms, 0);
                Ok(Reply::Stream(r, frames).into_http())
            }
            (Some(RequestFault::Twice), Some(Reply::Stream(r, mut frames))) => {
                frames.say_twice();
                Ok(Reply::Stream(r, frames).into_http())
            }
            (Some(RequestFault::NamelessJob), Some(Reply::Stream(r, mut frames))) => {
                frames.say_first(encode_ping_response(&StreamMessage::Job { id: "".into() }));
                Ok(Reply::Stream(r, frames).into_http())
            }
            (
                Some(
                    RequestFault::Grpc { .. } | RequestFault::Dumb { .. } | RequestFault::Twice | RequestFault::NamelessJob | RequestFault::Offer(_),
                ),
                Some(r),
            ) => Ok(r.into_http()),
            _ => Err(closed()),
        }
    }

    /// The fault for the request that has just arrived, if any.
    fn fault(&self, op: Op) -> Option<RequestFault> {
        let nth = {
            let mut counts = self.counts.borrow_mut();
            let n = counts.entry(op).or_insert(0);
            *n += 1;
            *n
        };
        if self.faults_over.get() {
            return None;
        }
        if let Some(plan) = self.schedule().requests.iter().find(|r| r.op == op && r.nth == nth && r.fault.fits(op)) {
            return Some(plan.fault.clone());
        }
        let now = self.world.now();
        self.periods.borrow().iter().find(|(until, of, f)| now < *until && of.is_none_or(|o| o == op) && f.fits(op)).map(|(_, _, f)| f.clone())
    }

    /// Asks the machine.
    fn ask(self: Rc<Self>, request: PlaneRequest, op: Op, body: &[u8], job: Option<&JobId>) -> Reply {
        let id = self.requests.get() + 1;
        self.requests.set(id);
        self.feed(PlaneEvent::Request { id, request: Box::new(request) });
        if let Some((response, frames)) = self.opened.borrow_mut().remove(&id) {
            return Reply::Stream(response, Streamed::new(id, self.clone(), frames));
        }
        let response = self.answers.borrow_mut().remove(&id).expect("a plane that holds nothing answers at once");
        if response.status < 300 {
            self.learn(op, body, &response, job);
        }
        Reply::Whole(response)
    }

    /// Learns whose the tokens are that the machine hands out.
    fn learn(&self, op: Op, body: &[u8], response: &PlaneResponse, job: Option<&JobId>) {
        let answer = || serde_json::from_slice::<Value>(&response.body).unwrap_or_default();
        let mut tokens = self.world.0.tokens.borrow_mut();
        match op {
            Op::Register => {
                let asked: Value = serde_json::from_slice(body).unwrap_or_default();
                let index = asked["name"].as_str().and_then(|n| n.rsplit_once('-')).and_then(|(_, n)| n.parse().ok()).unwrap_or(0);
                let answer = answer();
                if let Some(token) = answer["access_token"].as_str() {
                    tokens.insert(token.to_owned(), Credential::Worker(index));
                }
                if let Some(id) = answer["id"].as_str() {
                    self.agents.borrow_mut().insert(index, id.into());
                }
            }
            Op::Accept | Op::Acquire => {
                if let (Some(token), Some(job)) = (answer()["token"].as_str(), job) {
                    tokens.insert(token.to_owned(), Credential::Job(job.clone()));
                }
            }
            _ => {}
        }
    }

    /// Makes the job with this number of the schedule.
    pub(super) fn create_job(&self, number: usize) {
        let plan = &self.schedule().jobs[number];
        let mut step = CommandStep::new(plan.script.command());
        if self.schedule().signatures != Signatures::Off {
            step.raw = r#"{"signature":{"value":"simulated"}}"#.into();
        }
        step.timeout = (plan.timeout_s > 0).then(|| Duration::from_secs(plan.timeout_s));
        let spec = BuildSpec { steps: vec![StepSpec::from(step)], commit: "HEAD".into(), branch: "main".into(), ..BuildSpec::default() };
        self.feed(PlaneEvent::CreateBuild(Box::new(spec)));
    }

    /// Makes the first job of the schedule, for an agent that acquires it.
    pub fn acquirable(&self) -> JobId {
        self.create_job(0);
        self.job(0).expect("a build of one step has one job")
    }

    pub(super) fn job(&self, number: usize) -> Option<JobId> {
        self.jobs.borrow().get(number).cloned()
    }

    pub(super) fn agent(&self, worker: u32) -> Option<std::sync::Arc<str>> {
        self.agents.borrow().get(&worker).cloned()
    }

    /// Whether every job that the schedule has made is over.
    pub(super) fn all_over(&self) -> bool {
        self.states.borrow().values().all(|s| matches!(*s, "finished" | "canceled" | "timed_out" | "skipped" | "broken" | "expired"))
    }

    /// Starts or stops to listen; stopping cuts what is connected.
    pub(super) fn listen(&self, on: bool) {
        self.listening.set(on);
        self.listen_changed.notify_one();
        if !on {
            self.cut_all();
        }
    }

    pub(super) fn cut_all(&self) {
        self.cut.notify_waiters();
    }

    pub(super) fn period(&self, until: Instant, op: Option<Op>, fault: RequestFault) {
        self.periods.borrow_mut().push((until, op, fault));
    }

    pub(super) fn end_faults(&self) {
        self.faults_over.set(true);
        self.listen(true);
    }
}

fn full(text: &str) -> Body {
    Box::pin(Full::new(Bytes::copy_from_slice(text.as_bytes())).map_err(|never| match never {}))
}

fn respond(response: PlaneResponse) -> Response<Body> {
    respond_with(&response, Box::pin(Full::new(response.body.clone()).map_err(|never| match never {})))
}

fn respond_with(response: &PlaneResponse, body: Body) -> Response<Body> {
    let mut r = Response::builder().status(response.status);
    for (name, value) in &response.headers {
        r = r.header(name, value);
    }
    r.body(body).expect("the machine answers with well-formed headers")
}

/// The answer, with a set of headers and perhaps an endpoint in it.
fn with_headers(mut response: PlaneResponse, set: u64, endpoint: &str) -> PlaneResponse {
    if let Ok(Value::Object(mut body)) = serde_json::from_slice(&response.body) {
        // One that counts and one that does not.
        let headers = if set == 0 { serde_json::json!({}) } else { serde_json::json!({ "Buildkite-Sim": set.to_string(), "X-Sim": "no" }) };
        body.insert("request_headers".into(), headers);
        if !endpoint.is_empty() {
            body.insert("endpoint".into(), format!("http://{HOST}{endpoint}").into());
        }
        response.body = Value::Object(body).to_string().into();
    }
    response
}

/// The head and half of the body, then nothing more.
fn half(response: PlaneResponse) -> Response<Body> {
    let body = if response.body.is_empty() { Bytes::from_static(b"{}") } else { response.body };
    let first = body.slice(..body.len().div_ceil(2));
    let frames = [Ok(Frame::data(first)), Err(io::Error::new(io::ErrorKind::ConnectionReset, "a fault closes the connection"))];
    let status = if response.status == 204 { 200 } else { response.status };
    Response::builder()
        .status(status)
        .header("content-length", body.len())
        .body(Box::pin(StreamBody::new(stream::iter(frames))) as Body)
        .expect("a status and a length")
}
