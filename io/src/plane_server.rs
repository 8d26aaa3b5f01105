//! The embedded control plane behind a loopback listener: HTTP bytes to [`PlaneEvent`]s, [`PlaneCommand`]s to bytes. Everything
//! that is decided is decided by the [`Plane`] machine.

use crate::driver::{Clock, World, drive};
use bytes::Bytes;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Body, Frame, Incoming};
use hyper::header::{HeaderMap, HeaderValue};
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use ibex_core::api::encode_ping_response;
use ibex_core::limits::PLANE_BODY_BYTES;
use ibex_core::machine::Instant;
use ibex_core::plane::{Plane, PlaneCommand, PlaneEvent, PlaneRequest, PlaneResponse};
use ibex_core::secret::Secret;
use ibex_core::wall::WallTime;
use std::cell::Cell;
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::ops::ControlFlow;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::task::JoinSet;

/// Events that wait for the machine. At the limit connections wait with theirs.
const INBOX: usize = 1024;
/// Open connections. At the limit no further one is accepted.
const CONNECTIONS: usize = 4096;
/// Messages of one stream that wait for the client to read. At the limit the stream is broken off; the client opens another.
const STREAM: usize = 64;
/// After an accept that failed, as when descriptors have run out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Sees every decision of the plane, after it was taken and before it is executed.
pub trait Watcher {
    /// `commands` were just emitted by `plane`.
    fn decided(&mut self, plane: &Plane, commands: &[PlaneCommand]);
}

/// The way into a served plane for things other than requests. Clones lead to the same plane.
#[derive(Clone, Debug)]
pub struct PlaneHandle(mpsc::Sender<Input>);

impl PlaneHandle {
    /// Hands an event to the plane; false if the plane is not served any more.
    pub async fn send(&self, event: PlaneEvent) -> bool {
        self.0.send(Input::Event(event)).await.is_ok()
    }
}

/// A plane that is ready to be served.
#[derive(Debug)]
pub struct PlaneServer {
    listener: TcpListener,
    address: SocketAddr,
    sender: mpsc::Sender<Input>,
    inbox: mpsc::Receiver<Input>,
}

#[derive(Debug)]
enum Input {
    Event(PlaneEvent),
    Request { id: u64, request: Box<PlaneRequest>, answer: oneshot::Sender<Reply> },
}

/// What becomes of a request.
#[derive(Debug)]
enum Reply {
    Whole(PlaneResponse),
    Stream(PlaneResponse, mpsc::Receiver<Frame<Bytes>>),
}

type AnyBody = UnsyncBoxBody<Bytes, Infallible>;

impl PlaneServer {
    /// Listens on `address`; port 0 takes any that is free.
    ///
    /// # Errors
    /// The address cannot be listened on, or is not a loopback address: what is served here is not for a network.
    pub async fn bind(address: SocketAddr) -> std::io::Result<PlaneServer> {
        if !address.ip().is_loopback() {
            let text = format!("{} is not a loopback address; the embedded control plane serves this machine only", address.ip());
            return Err(std::io::Error::new(std::io::ErrorKind::InvalidInput, text));
        }
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        let (sender, inbox) = mpsc::channel(INBOX);
        Ok(PlaneServer { listener, address, sender, inbox })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The way in.
    pub fn handle(&self) -> PlaneHandle {
        PlaneHandle(self.sender.clone())
    }

    /// Serves until dropped. Must be called inside a `LocalSet`.
    pub async fn serve<W: Watcher>(self, mut plane: Plane, clock: Clock, watcher: W) -> Infallible {
        let mut tasks = JoinSet::new();
        tasks.spawn_local(accept(self.listener, self.sender));
        let mut world = PlaneWorld { inbox: self.inbox, answers: BTreeMap::new(), streams: BTreeMap::new(), watcher, _tasks: tasks };
        drive(&mut plane, &mut world, clock).await
    }
}

struct PlaneWorld<W> {
    inbox: mpsc::Receiver<Input>,
    answers: BTreeMap<u64, oneshot::Sender<Reply>>,
    streams: BTreeMap<u64, mpsc::Sender<Frame<Bytes>>>,
    watcher: W,
    /// Ends with the world.
    _tasks: JoinSet<()>,
}

impl<W> PlaneWorld<W> {
    fn event(&mut self, input: Input) -> PlaneEvent {
        match input {
            Input::Event(event) => event,
            Input::Request { id, request, answer } => {
                self.answers.insert(id, answer);
                PlaneEvent::Request { id, request }
            }
        }
    }
}

impl<W> PlaneWorld<W> {
    fn answer(&mut self, id: u64, reply: Reply) {
        if let Some(answer) = self.answers.remove(&id) {
            // Whoever asked may have gone.
            let _ = answer.send(reply);
        }
    }

    /// A client that does not read, or has gone, loses its stream.
    fn send(&mut self, id: u64, frame: Frame<Bytes>) {
        if self.streams.get(&id).is_some_and(|s| s.try_send(frame).is_err()) {
            self.streams.remove(&id);
        }
    }
}

impl<W: Watcher> World<Plane> for PlaneWorld<W> {
    type End = Infallible;

    fn ready(&mut self) -> Option<PlaneEvent> {
        let input = self.inbox.try_recv().ok()?;
        Some(self.event(input))
    }

    async fn next(&mut self) -> PlaneEvent {
        match self.inbox.recv().await {
            Some(input) => self.event(input),
            // The accept task holds a sender as long as the world lives.
            None => std::future::pending().await,
        }
    }

    fn decided(&mut self, plane: &Plane, commands: &[PlaneCommand]) {
        self.watcher.decided(plane, commands);
    }

    fn execute(&mut self, _: Instant, command: PlaneCommand) -> ControlFlow<Infallible> {
        match command {
            PlaneCommand::Respond { id, response } => self.answer(id, Reply::Whole(*response)),
            PlaneCommand::StreamStart { id, response } => {
                let (sender, frames) = mpsc::channel(STREAM);
                self.streams.insert(id, sender);
                self.answer(id, Reply::Stream(*response, frames));
            }
            PlaneCommand::StreamSend { id, message } => self.send(id, Frame::data(encode_ping_response(&message))),
            PlaneCommand::StreamEnd { id, status, message } => {
                self.send(id, Frame::trailers(trailers(status, message)));
                self.streams.remove(&id);
            }
            PlaneCommand::Transition(t) => {
                tracing::trace!(machine = t.machine, event = t.event, "{} -> {}", t.from, t.to);
            }
            // The watcher has seen these.
            PlaneCommand::BuildCreated { .. }
            | PlaneCommand::BuildRefused { .. }
            | PlaneCommand::JobChanged { .. }
            | PlaneCommand::JobLog { .. }
            | PlaneCommand::AgentChanged { .. }
            | PlaneCommand::BuildFinished { .. } => {}
        }
        ControlFlow::Continue(())
    }
}

async fn accept(listener: TcpListener, sender: mpsc::Sender<Input>) {
    let room = Arc::new(Semaphore::new(CONNECTIONS));
    let serial = Rc::new(Cell::new(0));
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        let Ok(permit) = room.clone().acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                let (sender, serial) = (sender.clone(), serial.clone());
                connections.spawn_local(async move {
                    connection(stream, sender, serial).await;
                    drop(permit);
                });
            }
            Err(e) => {
                tracing::warn!("control plane: could not accept a connection: {e}");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn connection(stream: TcpStream, sender: mpsc::Sender<Input>, serial: Rc<Cell<u64>>) {
    // Small answers go out at once.
    let _ = stream.set_nodelay(true);
    let service = service_fn(move |request| exchange(request, sender.clone(), serial.clone()));
    let served = hyper::server::conn::http1::Builder::new().header_read_timeout(None).serve_connection(TokioIo::new(stream), service);
    if let Err(e) = served.await {
        tracing::debug!("control plane: connection ended: {e}");
    }
}

/// Tells the plane that a request's sender has gone, unless it was answered.
struct Waiting {
    id: u64,
    sender: mpsc::Sender<Input>,
    answered: bool,
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if !self.answered {
            // With a full inbox the plane finds out by its own time limits.
            let _ = self.sender.try_send(Input::Event(PlaneEvent::Gone { id: self.id }));
        }
    }
}

/// The body of a stream. Dropped before its trailers it tells the plane that the client has gone.
struct Streamed {
    frames: mpsc::Receiver<Frame<Bytes>>,
    waiting: Waiting,
}

impl Body for Streamed {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let frame = std::task::ready!(self.frames.poll_recv(context));
        self.waiting.answered |= frame.as_ref().is_some_and(Frame::is_trailers);
        Poll::Ready(frame.map(Ok))
    }
}

fn trailers(status: u32, message: &'static str) -> HeaderMap {
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from(status));
    if !message.is_empty() {
        trailers.insert("grpc-message", HeaderValue::from_static(message));
    }
    trailers
}

async fn exchange(request: Request<Incoming>, sender: mpsc::Sender<Input>, serial: Rc<Cell<u64>>) -> Result<Response<AnyBody>, Infallible> {
    let (head, body) = request.into_parts();
    // An announced length is judged before anything is read.
    if body.size_hint().lower() > PLANE_BODY_BYTES as u64 {
        return Ok(plain(StatusCode::PAYLOAD_TOO_LARGE, "body is too large"));
    }
    let body = match Limited::new(body, PLANE_BODY_BYTES).collect().await {
        Ok(body) => body.to_bytes(),
        Err(_) => return Ok(plain(StatusCode::PAYLOAD_TOO_LARGE, "body could not be read, or is too large")),
    };
    let token = head.headers.get("authorization").and_then(|v| v.to_str().ok()).and_then(|v| v.strip_prefix("Token ")).unwrap_or_default();
    let request = PlaneRequest {
        method: head.method.as_str().to_owned(),
        path: head.uri.path_and_query().map_or_else(|| head.uri.path().to_owned(), |p| p.as_str().to_owned()),
        token: Secret::new(token),
        body,
        received: WallTime::from_nanos(i64::try_from(jiff::Timestamp::now().as_nanosecond()).unwrap_or(i64::MAX)),
    };
    let id = serial.get() + 1;
    serial.set(id);
    let (answer, answered) = oneshot::channel();
    if sender.send(Input::Request { id, request: Box::new(request), answer }).await.is_err() {
        return Ok(plain(StatusCode::SERVICE_UNAVAILABLE, "the control plane has stopped"));
    }
    let mut waiting = Waiting { id, sender, answered: false };
    let reply = answered.await;
    Ok(match reply {
        Ok(Reply::Whole(response)) => {
            waiting.answered = true;
            let body = Full::new(response.body.clone()).boxed_unsync();
            respond(&response, body)
        }
        Ok(Reply::Stream(response, frames)) => respond(&response, Streamed { frames, waiting }.boxed_unsync()),
        Err(_) => plain(StatusCode::SERVICE_UNAVAILABLE, "the control plane has stopped"),
    })
}

fn respond(from: &PlaneResponse, body: AnyBody) -> Response<AnyBody> {
    let mut response = Response::builder().status(from.status);
    for (name, value) in &from.headers {
        response = response.header(name, value);
    }
    response.body(body).unwrap_or_else(|_| plain(StatusCode::INTERNAL_SERVER_ERROR, "malformed answer"))
}

fn plain(status: StatusCode, text: &'static str) -> Response<AnyBody> {
    let mut response = Response::new(Full::new(Bytes::from_static(text.as_bytes())).boxed_unsync());
    *response.status_mut() = status;
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use ibex_core::pipeline::CommandStep;
    use ibex_core::plane::{BuildSpec, PlaneConfig};
    use ibex_core::rng::Rng;
    use ibex_core::wall::WallClock;
    use serde_json::{Value, json};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    /// Commands of one story that wait to be looked at.
    const COMMANDS: usize = 4096;

    struct Told(mpsc::Sender<PlaneCommand>);

    impl Watcher for Told {
        fn decided(&mut self, _: &Plane, commands: &[PlaneCommand]) {
            // A story that has ended reads no more.
            for command in commands {
                let full = matches!(self.0.try_send(command.clone()), Err(mpsc::error::TrySendError::Full(_)));
                assert!(!full, "a story makes fewer commands");
            }
        }
    }

    /// Runs `story` against a served plane with one build of one step.
    fn with_plane<F: Future<Output = ()>>(story: impl FnOnce(SocketAddr, PlaneHandle, mpsc::Receiver<PlaneCommand>) -> F) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        tokio::task::LocalSet::new().block_on(&runtime, async {
            let server = PlaneServer::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
            let (address, handle) = (server.address(), server.handle());
            let config = PlaneConfig {
                hold_ping: Duration::from_secs(30),
                streaming: Some(Duration::from_secs(55)),
                ..PlaneConfig::embedded(Secret::new("reg"), format!("http://{address}"), WallClock::default())
            };
            let (told, said) = mpsc::channel(COMMANDS);
            let served = server.serve(Plane::new(config, Rng::from_seed(1)), Clock::start(), Told(told));
            tokio::select! {
                biased;
                never = served => match never {},
                () = tokio::time::timeout(Duration::from_secs(20), story(address, handle, said)).map_ok() => {}
            }
        });
    }

    trait MapOk {
        fn map_ok(self) -> impl Future<Output = ()>;
    }
    impl<F: Future<Output = Result<(), tokio::time::error::Elapsed>>> MapOk for F {
        async fn map_ok(self) {
            self.await.expect("the story ends in time");
        }
    }

    /// One request on a connection of its own, bytes as they are.
    async fn call(address: SocketAddr, method: &str, path: &str, token: &str, body: &[u8]) -> (u16, Value) {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let head = format!(
            "{method} /v3/{path} HTTP/1.1\r\nHost: x\r\nAuthorization: Token {token}\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        stream.write_all(body).await.unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.unwrap();
        let answer = String::from_utf8_lossy(&answer).into_owned();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        (status, serde_json::from_str(body).unwrap_or(Value::Null))
    }

    async fn register(address: SocketAddr) -> String {
        let body = json!({
            "name": "a", "hostname": "h", "os": "", "arch": "amd64", "script_eval_enabled": true,
            "ignore_in_dispatches": false, "version": "1", "build": "x", "meta_data": [], "features": [],
        });
        let (status, answer) = call(address, "POST", "register", "reg", body.to_string().as_bytes()).await;
        assert_eq!(status, 200, "{answer}");
        answer["access_token"].as_str().unwrap().to_owned()
    }

    #[test]
    fn a_job_runs_over_real_http() {
        with_plane(async |address, handle, mut said| {
            assert_eq!(call(address, "POST", "register", "wrong", b"{}").await.0, 401);
            let token = register(address).await;
            assert_eq!(call(address, "POST", "connect", &token, b"").await.0, 204);
            let spec = BuildSpec { steps: vec![CommandStep::new("make").into()], ..BuildSpec::default() };
            assert!(handle.send(PlaneEvent::CreateBuild(Box::new(spec))).await);
            let (_, ping) = call(address, "GET", "ping", &token, b"").await;
            let id = ping["job"]["id"].as_str().unwrap().to_owned();
            let (_, job) = call(address, "PUT", &format!("jobs/{id}/accept"), &token, b"").await;
            let token = job["token"].as_str().unwrap();
            assert_eq!(job["env"]["BUILDKITE_COMMAND"], "make");
            assert_eq!(call(address, "PUT", &format!("jobs/{id}/start"), token, b"{}").await.0, 204);
            let chunk = format!("jobs/{id}/chunks?sequence=1&offset=0&size=5");
            assert_eq!(call(address, "POST", &chunk, token, b"hello").await.0, 201);
            let finish = br#"{"exit_status":"0","finished_at":"","chunks_failed_count":0}"#;
            assert_eq!(call(address, "PUT", &format!("jobs/{id}/finish"), token, finish).await.0, 204);
            let mut log = Vec::new();
            loop {
                match said.recv().await.unwrap() {
                    PlaneCommand::JobLog { data, .. } => log.extend_from_slice(&data),
                    PlaneCommand::BuildFinished { state, .. } => break assert_eq!(state, "passed"),
                    _ => {}
                }
            }
            assert_eq!(log, b"hello");
        });
    }

    #[test]
    fn a_ping_is_held_until_there_is_work_and_one_whose_sender_left_gets_none() {
        with_plane(async |address, handle, mut said| {
            let token = register(address).await;
            call(address, "POST", "connect", &token, b"").await;
            // A ping that is given up after it was seen.
            let mut gone = TcpStream::connect(address).await.unwrap();
            let head = format!("GET /v3/ping HTTP/1.1\r\nHost: x\r\nAuthorization: Token {token}\r\n\r\n");
            gone.write_all(head.as_bytes()).await.unwrap();
            while !matches!(said.recv().await, Some(PlaneCommand::Transition(t)) if t.event == "ping") {}
            drop(gone);
            while !matches!(said.recv().await, Some(PlaneCommand::Respond { .. })) {}
            // The next one waits for work.
            let held = tokio::task::spawn_local(async move { call(address, "GET", "ping", &token, b"").await });
            while !matches!(said.recv().await, Some(PlaneCommand::Transition(t)) if t.event == "ping") {}
            assert!(!held.is_finished());
            let spec = BuildSpec { steps: vec![CommandStep::new("make").into()], ..BuildSpec::default() };
            handle.send(PlaneEvent::CreateBuild(Box::new(spec))).await;
            assert!(held.await.unwrap().1["job"]["id"].is_string());
        });
    }

    /// Opens a ping stream.
    async fn stream(address: SocketAddr, agent: &str, token: &str) -> TcpStream {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let head = format!(
            "POST /agentedge.v1.AgentEdgeService/StreamPings HTTP/1.1\r\nHost: x\r\nTE: trailers\r\nAuthorization: Token {token}\r\n\
             Content-Type: application/grpc\r\nContent-Length: 43\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        stream.write_all(&[0, 0, 0, 0, 38, 0x0a, 36]).await.unwrap();
        stream.write_all(agent.as_bytes()).await.unwrap();
        stream
    }

    async fn until(stream: &mut TcpStream, seen: &[u8]) -> Vec<u8> {
        let (mut bytes, mut piece) = (Vec::new(), [0; 512]);
        while !bytes.windows(seen.len()).any(|w| w == seen) {
            let n = stream.read(&mut piece).await.unwrap();
            assert!(n > 0, "the connection ended after {}", String::from_utf8_lossy(&bytes));
            bytes.extend_from_slice(&piece[..n]);
        }
        bytes
    }

    #[test]
    fn a_ping_stream_pushes_a_job_ends_with_trailers_and_is_forgotten_when_its_client_leaves() {
        with_plane(async |address, handle, mut said| {
            let token = register(address).await;
            let agent = loop {
                if let PlaneCommand::AgentChanged { agent, .. } = said.recv().await.unwrap() {
                    break agent;
                }
            };
            let mut one = stream(address, &agent, &token).await;
            let head = until(&mut one, &[0x12, 0]).await;
            assert!(head.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&head));
            let spec = BuildSpec { steps: vec![CommandStep::new("make").into()], ..BuildSpec::default() };
            handle.send(PlaneEvent::CreateBuild(Box::new(spec))).await;
            until(&mut one, &[0x2a, 0x28, 0x0a, 0x26, 0x0a, 0x24]).await;
            // A second stream ends the first one, in the way gRPC over HTTP/1.1 does.
            let mut two = stream(address, &agent, &token).await;
            let end = until(&mut one, b"grpc-message: the agent has opened another stream\r\n").await;
            assert!(String::from_utf8_lossy(&end).contains("0\r\ngrpc-status: 1\r\n"), "{}", String::from_utf8_lossy(&end));
            until(&mut two, &[0x2a, 0x28, 0x0a, 0x26, 0x0a, 0x24]).await;
            drop(two);
            while !matches!(said.recv().await, Some(PlaneCommand::Transition(t)) if t.machine == "plane-stream" && t.event == "gone") {}
        });
    }

    #[test]
    fn too_large_a_body_is_refused_and_only_loopback_is_served() {
        with_plane(async |address, _, _| {
            let mut stream = TcpStream::connect(address).await.unwrap();
            let head = format!("POST /v3/register HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n", PLANE_BODY_BYTES + 1);
            stream.write_all(head.as_bytes()).await.unwrap();
            let mut first = [0; 12];
            stream.read_exact(&mut first).await.unwrap();
            assert_eq!(&first, b"HTTP/1.1 413");
            assert!(PlaneServer::bind("0.0.0.0:0".parse().unwrap()).await.is_err());
        });
    }
}
