//! The scripted control plane: answers like the service, records every request, and plays faults by rule.

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use std::collections::{BTreeMap, VecDeque};
use std::convert::Infallible;
use std::io::Read;
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

/// One request as the plane saw it.
#[derive(Clone, Debug)]
pub struct Req {
    pub at: Duration,
    pub method: String,
    /// Without `/v3`.
    pub path: String,
    pub query: String,
    pub token: String,
    pub headers: Vec<(String, String)>,
    pub body: Bytes,
    /// 0 while it is open, and when it was cut off.
    pub status: u16,
    pub ended: Option<Duration>,
}

impl Req {
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or(Value::Null)
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }

    pub fn is(&self, method: &str, suffix: &str) -> bool {
        self.method == method && self.path.ends_with(suffix)
    }
}

/// What a rule does to a request.
#[derive(Clone, Debug)]
pub enum Act {
    /// Answer this status with `{"message": "scripted"}`; nothing is applied.
    Status(u16),
    /// Answer this status, content type and text; nothing is applied.
    Text(u16, &'static str, &'static str),
    /// Answer this status with this `Retry-After`; nothing is applied.
    Later(u16, &'static str),
    /// Answer this JSON; nothing is applied.
    Json(Value),
    /// Apply the request, then close the connection without an answer.
    ApplyThenCut,
    /// Close the connection without an answer.
    Cut,
    /// Hold until the rule is removed with [`Plane::release`], then go on as usual.
    Hold,
    /// Hold likewise, then answer this status; nothing is applied.
    HoldThen(u16),
}

struct Rule {
    id: u64,
    method: &'static str,
    part: String,
    left: usize,
    act: Act,
}

/// A job as the plane knows it.
#[derive(Clone, Debug)]
pub struct Job {
    pub id: String,
    pub body: Value,
    pub state: String,
    pub accepts: usize,
    pub started: bool,
    pub finish: Option<Value>,
    pub finishes: usize,
    pub chunks: BTreeMap<u64, (u64, Bytes)>,
}

impl Job {
    /// The log, chunks in order; panics when offsets do not join.
    pub fn log(&self) -> Vec<u8> {
        let mut out = Vec::new();
        for (sequence, (offset, data)) in &self.chunks {
            assert_eq!(*offset, out.len() as u64, "offset of chunk {sequence}");
            out.extend_from_slice(data);
        }
        out
    }

    /// The log without timestamps.
    pub fn text(&self) -> String {
        let log = String::from_utf8_lossy(&self.log()).into_owned();
        let mut out = String::new();
        let mut rest = log.as_str();
        while let Some(start) = rest.find("\x1b_bk;t=") {
            out.push_str(&rest[..start]);
            rest = rest[start..].split_once('\x07').map_or("", |(_, r)| r);
        }
        out + rest
    }

    pub fn finished(&self, key: &str) -> Option<&str> {
        self.finish.as_ref()?.get(key)?.as_str()
    }
}

#[derive(Default)]
pub struct State {
    pub requests: Vec<Req>,
    pub jobs: BTreeMap<String, Job>,
    pub queue: VecDeque<String>,
    pub action: String,
    pub agents: usize,
    rules: Vec<Rule>,
    next: u64,
}

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    began: Instant,
    intervals: (u64, u64, u64),
}

/// The plane; it ends with the value.
pub struct Plane {
    shared: Arc<Shared>,
    pub port: u16,
    stop: Option<tokio::sync::oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Plane {
    /// Ping every second, job state every second, heartbeat every minute.
    pub fn start() -> Plane {
        Plane::with_intervals(1, 1, 60)
    }

    /// `ping_interval`, `job_status_interval`, `heartbeat_interval` in seconds.
    pub fn with_intervals(ping: u64, status: u64, heartbeat: u64) -> Plane {
        let shared =
            Arc::new(Shared { state: Mutex::default(), changed: Condvar::new(), began: Instant::now(), intervals: (ping, status, heartbeat) });
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a loopback port");
        let port = listener.local_addr().expect("its address").port();
        listener.set_nonblocking(true).expect("non-blocking");
        let (stop, stopped) = tokio::sync::oneshot::channel();
        let inner = shared.clone();
        let thread = std::thread::spawn(move || serve(listener, inner, stopped));
        Plane { shared, port, stop: Some(stop), thread: Some(thread) }
    }

    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}/v3", self.port)
    }

    pub fn now(&self) -> Duration {
        self.shared.began.elapsed()
    }

    /// Looks at the state, or changes it.
    pub fn with<T>(&self, f: impl FnOnce(&mut State) -> T) -> T {
        let out = f(&mut self.shared.state.lock().expect("state"));
        self.shared.changed.notify_all();
        out
    }

    /// A job that pings will offer. `env` on top of what every job has.
    pub fn job(&self, env: &[(&str, &str)]) -> String {
        self.with(|s| {
            let id = format!("00000000-0000-4000-8000-{:012}", s.jobs.len() + 1);
            let mut all = serde_json::Map::new();
            for (k, v) in [("CI", "true"), ("BUILDKITE", "true"), ("BUILDKITE_JOB_ID", id.as_str()), ("BUILDKITE_BUILD_URL", "http://build/1"), ("BUILDKITE_REPO", "")]
                .iter()
                .copied()
                .chain(env.iter().copied())
            {
                all.insert(k.into(), v.into());
            }
            let body = json!({"id": id, "env": all, "step": {}, "token": format!("job-token-{}", s.jobs.len() + 1), "chunks_max_size_bytes": 102_400, "chunks_interval_seconds": 1});
            s.jobs.insert(
                id.clone(),
                Job { id: id.clone(), body, state: "scheduled".into(), accepts: 0, started: false, finish: None, finishes: 0, chunks: BTreeMap::new() },
            );
            s.queue.push_back(id.clone());
            id
        })
    }

    /// A job for the built-in executor: runs `command` in the directory `dir/builds/here`, with `DIR` set to `dir`.
    pub fn command(&self, dir: &std::path::Path, command: &str) -> String {
        self.command_with(dir, command, &[])
    }

    /// The same, with more variables.
    pub fn command_with(&self, dir: &std::path::Path, command: &str, env: &[(&str, &str)]) -> String {
        let build = dir.join("builds/here");
        let mut all = vec![
            ("DIR", dir.to_str().expect("a path")),
            ("BUILDKITE_COMMAND", command),
            ("BUILDKITE_COMMIT", "HEAD"),
            ("BUILDKITE_BRANCH", "main"),
            ("BUILDKITE_REPO", "none"),
            ("BUILDKITE_SKIP_CHECKOUT", "true"),
            ("BUILDKITE_BUILD_CHECKOUT_PATH", build.to_str().expect("a path")),
            ("BUILDKITE_AGENT_NAME", "a"),
            ("BUILDKITE_ORGANIZATION_SLUG", "o"),
            ("BUILDKITE_PIPELINE_SLUG", "p"),
            ("BUILDKITE_PIPELINE_PROVIDER", "git"),
        ];
        all.extend(env);
        self.job(&all)
    }

    pub fn get(&self, job: &str) -> Job {
        self.with(|s| s.jobs[job].clone())
    }

    /// The next `times` requests of this method whose path contains `part` get `act`. Later rules come first.
    pub fn rule(&self, method: &'static str, part: &str, times: usize, act: Act) -> u64 {
        self.with(|s| {
            s.next += 1;
            s.rules.insert(0, Rule { id: s.next, method, part: part.into(), left: times, act });
            s.next
        })
    }

    /// Removes a rule; held requests go on.
    pub fn release(&self, rule: u64) {
        self.with(|s| s.rules.retain(|r| r.id != rule));
    }

    /// Waits until `f` gives a value, at most `bound`.
    pub fn wait<T>(&self, what: &str, bound: Duration, mut f: impl FnMut(&State) -> Option<T>) -> T {
        let end = Instant::now() + bound;
        let mut state = self.shared.state.lock().expect("state");
        loop {
            if let Some(v) = f(&state) {
                return v;
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                let seen = summary(&state);
                // A panic under the lock would be a second one when the plane is dropped.
                drop(state);
                panic!("waited {bound:?} for {what}; requests: {seen:#?}");
            }
            state = self.shared.changed.wait_timeout(state, left).expect("state").0;
        }
    }

    /// Waits for the n-th request (from 1) of this method whose path ends so.
    pub fn wait_request(&self, method: &str, suffix: &str, n: usize) -> Req {
        self.wait(&format!("{method} …{suffix} number {n}"), super::SOON, |s| {
            s.requests.iter().filter(|r| r.is(method, suffix)).nth(n - 1).cloned()
        })
    }

    /// Waits for the finish of a job.
    pub fn wait_finish(&self, job: &str) -> Job {
        self.wait_finish_within(job, Duration::from_secs(40))
    }

    /// The same, for long jobs.
    pub fn wait_finish_within(&self, job: &str, bound: Duration) -> Job {
        self.wait(&format!("the finish of {job}"), bound, |s| s.jobs[job].finish.is_some().then(|| s.jobs[job].clone()))
    }

    pub fn requests(&self, method: &str, suffix: &str) -> Vec<Req> {
        self.with(|s| s.requests.iter().filter(|r| r.is(method, suffix)).cloned().collect())
    }
}

impl Drop for Plane {
    fn drop(&mut self) {
        self.with(|s| s.rules.clear());
        if let Some(stop) = self.stop.take() {
            let _ = stop.send(());
        }
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn summary(state: &State) -> Vec<String> {
    state.requests.iter().map(|r| format!("{:.2} {} {} -> {}", r.at.as_secs_f64(), r.method, r.path, r.status)).collect()
}

fn serve(listener: std::net::TcpListener, shared: Arc<Shared>, mut stopped: tokio::sync::oneshot::Receiver<()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let listener = tokio::net::TcpListener::from_std(listener).expect("the listener");
        loop {
            tokio::select! {
                biased;
                _ = &mut stopped => return,
                accepted = listener.accept() => {
                    let Ok((socket, _)) = accepted else { continue };
                    let shared = shared.clone();
                    tokio::spawn(async move {
                        // `Cut` closes the connection by failing the service.
                        let service = service_fn(move |r| handle(r, shared.clone()));
                        let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(socket), service).await;
                    });
                }
            }
        }
    });
}

#[derive(Debug)]
struct CutOff;
impl std::fmt::Display for CutOff {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("cut off by the script")
    }
}
impl std::error::Error for CutOff {}
impl From<Infallible> for CutOff {
    fn from(never: Infallible) -> CutOff {
        match never {}
    }
}

async fn handle(request: Request<Incoming>, shared: Arc<Shared>) -> Result<Response<Full<Bytes>>, CutOff> {
    let (head, body) = request.into_parts();
    let body = body.collect().await.map_err(|_| CutOff)?.to_bytes();
    let path = head.uri.path().trim_start_matches("/v3").to_owned();
    let headers: Vec<(String, String)> =
        head.headers.iter().map(|(n, v)| (n.as_str().to_owned(), String::from_utf8_lossy(v.as_bytes()).into_owned())).collect();
    let token = headers.iter().find(|(n, _)| n == "authorization").map(|(_, v)| v.trim_start_matches("Token ").to_owned()).unwrap_or_default();
    let req = Req {
        at: shared.began.elapsed(),
        method: head.method.to_string(),
        path,
        query: head.uri.query().unwrap_or_default().to_owned(),
        token,
        headers,
        body,
        status: 0,
        ended: None,
    };
    let (index, rule) = {
        let mut state = shared.state.lock().expect("state");
        state.requests.push(req.clone());
        let rule = state.rules.iter_mut().find(|r| r.left > 0 && r.method == req.method && req.path.contains(&r.part)).map(|r| {
            r.left -= 1;
            (r.id, r.act.clone())
        });
        (state.requests.len() - 1, rule)
    };
    shared.changed.notify_all();
    let mut response = Response::builder();
    let (status, content_type, text) = match rule {
        Some((_, Act::Cut)) => return Err(CutOff),
        Some((_, Act::Status(status))) => (status, "application/json", json!({"message": "scripted"}).to_string()),
        Some((_, Act::Later(status, wait))) => {
            response = response.header("retry-after", wait);
            (status, "application/json", json!({"message": "scripted"}).to_string())
        }
        Some((_, Act::Text(status, content_type, text))) => (status, content_type, text.to_owned()),
        Some((_, Act::Json(value))) => (200, "application/json", value.to_string()),
        Some((_, Act::ApplyThenCut)) => {
            let mut state = shared.state.lock().expect("state");
            apply(&mut state, &req, shared.intervals);
            drop(state);
            shared.changed.notify_all();
            return Err(CutOff);
        }
        Some((id, Act::Hold)) => {
            released(&shared, id).await;
            answer(&shared, &req)
        }
        Some((id, Act::HoldThen(status))) => {
            released(&shared, id).await;
            (status, "application/json", json!({"message": "scripted"}).to_string())
        }
        None => answer(&shared, &req),
    };
    {
        let mut state = shared.state.lock().expect("state");
        state.requests[index].status = status;
        state.requests[index].ended = Some(shared.began.elapsed());
    }
    shared.changed.notify_all();
    Ok(response.status(status).header("content-type", content_type).body(Full::new(Bytes::from(text))).expect("a response"))
}

/// Until the rule is removed.
async fn released(shared: &Shared, rule: u64) {
    while shared.state.lock().expect("state").rules.iter().any(|r| r.id == rule) {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

fn answer(shared: &Shared, req: &Req) -> (u16, &'static str, String) {
    let (status, value) = apply(&mut shared.state.lock().expect("state"), req, shared.intervals);
    (status, "application/json", value.to_string())
}

/// The service's own behaviour.
fn apply(state: &mut State, req: &Req, (ping, status, heartbeat): (u64, u64, u64)) -> (u16, Value) {
    let parts: Vec<&str> = req.path.trim_matches('/').split('/').collect();
    match (req.method.as_str(), parts.as_slice()) {
        ("POST", ["register"]) => {
            state.agents += 1;
            let n = state.agents;
            (
                200,
                json!({"id": format!("agent-{n}"), "name": req.json()["name"], "access_token": format!("session-{n}"), "endpoint": "",
                "ping_interval": ping, "job_status_interval": status, "heartbeat_interval": heartbeat, "meta_data": req.json()["meta_data"]}),
            )
        }
        ("POST", ["connect" | "disconnect"]) => (200, json!({})),
        ("POST", ["heartbeat"]) => (200, json!({"sent_at": req.json()["sent_at"], "received_at": "2026-01-01T00:00:00Z"})),
        ("GET", ["ping"]) => match state.queue.front() {
            Some(id) if state.action.is_empty() => {
                let offer = json!({"job": {"id": id}});
                // The next to ask is offered another job first.
                state.queue.rotate_left(1);
                (200, offer)
            }
            _ => (200, json!({"action": state.action})),
        },
        ("PUT", ["jobs", id, call @ ("accept" | "acquire" | "start" | "finish")]) => job_call(state, id, call, req),
        ("GET", ["jobs", id]) => match state.jobs.get(*id) {
            Some(job) => (200, json!({"state": job.state})),
            None => (404, json!({})),
        },
        ("POST", ["jobs", id, "chunks"]) => {
            let query: BTreeMap<&str, u64> =
                req.query.split('&').filter_map(|p| p.split_once('=')).filter_map(|(k, v)| Some((k, v.parse().ok()?))).collect();
            let mut data = Vec::new();
            flate2::read::GzDecoder::new(&req.body[..]).read_to_end(&mut data).expect("a chunk is gzip");
            assert_eq!(data.len() as u64, query["size"], "size of a chunk");
            let job = state.jobs.get_mut(*id).expect("a known job");
            let data = Bytes::from(data);
            if let Some(earlier) = job.chunks.insert(query["sequence"], (query["offset"], data.clone())) {
                assert_eq!(earlier, (query["offset"], data), "a repeated chunk is the same chunk");
            }
            (201, json!({}))
        }
        ("POST", ["jobs", _, "header_times"]) => (200, json!({})),
        _ => (404, json!({"message": "no such thing"})),
    }
}

fn job_call(state: &mut State, id: &str, call: &str, req: &Req) -> (u16, Value) {
    let Some(job) = state.jobs.get_mut(id) else { return (404, json!({"message": "no such job"})) };
    match call {
        "accept" | "acquire" => {
            if job.accepts > 0 {
                return (422, json!({"message": "already taken"}));
            }
            job.accepts += 1;
            job.state = "accepted".into();
            let body = job.body.clone();
            state.queue.retain(|q| q != id);
            (200, body)
        }
        "start" => {
            job.started = true;
            if job.state == "accepted" {
                job.state = "running".into();
            }
            (200, json!({}))
        }
        _ => {
            job.finishes += 1;
            if job.finish.is_some() {
                return (422, json!({"message": "already finished"}));
            }
            job.finish = Some(req.json());
            job.state = "finished".into();
            (200, json!({}))
        }
    }
}
