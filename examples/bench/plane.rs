//! A control plane that costs little: it counts bytes, notes times, and looks at nothing else.

use crate::measure::now;
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use serde_json::json;
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use std::time::Duration;

#[derive(Default)]
pub(crate) struct State {
    /// When each kind of request first and last came (`register`, `finish`, …) and how often.
    pub(crate) seen: BTreeMap<String, (Duration, Duration, u64)>,
    pub(crate) queue: Vec<String>,
    pub(crate) env: BTreeMap<String, String>,
    /// The state that job-state polls answer, and when `canceling` was first answered.
    pub(crate) job_state: String,
    pub(crate) cancel_answered: Option<Duration>,
    pub(crate) chunk_bytes: u64,
    pub(crate) chunk_ends: BTreeMap<u64, (u64, u64)>,
    pub(crate) refuse_chunks_until: Option<Duration>,
    /// (accept answered, finish seen) of each job.
    pub(crate) jobs: BTreeMap<String, (Duration, Option<Duration>)>,
}

pub(crate) struct Plane {
    pub(crate) state: Arc<Mutex<State>>,
    pub(crate) port: u16,
}

impl Plane {
    pub(crate) fn start() -> Plane {
        let state = Arc::new(Mutex::new(State { job_state: "running".into(), ..State::default() }));
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("an address").port();
        listener.set_nonblocking(true).expect("non-blocking");
        let shared = state.clone();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async move {
                let listener = tokio::net::TcpListener::from_std(listener).expect("a listener");
                while let Ok((socket, _)) = listener.accept().await {
                    let _ = socket.set_nodelay(true);
                    let shared = shared.clone();
                    tokio::spawn(async move {
                        let service = service_fn(move |r| handle(r, shared.clone()));
                        let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(socket), service).await;
                    });
                }
            });
        });
        Plane { state, port }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://127.0.0.1:{}/v3", self.port)
    }

    pub(crate) fn with<T>(&self, f: impl FnOnce(&mut State) -> T) -> T {
        f(&mut self.state.lock().expect("state"))
    }

    /// Polls until `f` gives a value.
    pub(crate) fn wait<T>(&self, what: &str, bound: Duration, mut f: impl FnMut(&State) -> Option<T>) -> T {
        let end = now() + bound;
        loop {
            if let Some(v) = f(&self.state.lock().expect("state")) {
                return v;
            }
            assert!(now() < end, "waited {bound:?} for {what}");
            std::thread::sleep(Duration::from_micros(200));
        }
    }
}

async fn handle(request: Request<Incoming>, shared: Arc<Mutex<State>>) -> Result<Response<Full<Bytes>>, Infallible> {
    let at = now();
    let (head, body) = request.into_parts();
    let path = head.uri.path().trim_start_matches("/v3/").to_owned();
    let size = match body.collect().await {
        Ok(b) => b.to_bytes().len() as u64,
        Err(_) => 0,
    };
    let kind = path.rsplit('/').next().unwrap_or_default().to_owned();
    let mut state = shared.lock().expect("state");
    let entry = state.seen.entry(kind.clone()).or_insert((at, at, 0));
    *entry = (entry.0, at, entry.2 + 1);
    let id = path.split('/').nth(1).unwrap_or_default().to_owned();
    let (status, answer) = match (head.method.as_str(), kind.as_str()) {
        (_, "register") => {
            (200, json!({"id": "a", "name": "a", "access_token": "t", "ping_interval": 1, "job_status_interval": 1, "heartbeat_interval": 60}))
        }
        (_, "ping") => (200, state.queue.last().map_or_else(|| json!({}), |id| json!({"job": {"id": id}}))),
        (_, "accept") => {
            state.queue.retain(|q| *q != id);
            let env = state.env.clone();
            state.jobs.insert(id.clone(), (now(), None));
            (200, json!({"id": id, "env": env, "step": {}, "token": "j", "chunks_max_size_bytes": 1_048_576, "chunks_interval_seconds": 1}))
        }
        (_, "finish") => {
            if let Some(job) = state.jobs.get_mut(&id) {
                job.1 = Some(at);
            }
            (200, json!({}))
        }
        (_, "chunks") => {
            let query: BTreeMap<&str, u64> = head
                .uri
                .query()
                .unwrap_or_default()
                .split('&')
                .filter_map(|p| p.split_once('='))
                .filter_map(|(k, v)| Some((k, v.parse().ok()?)))
                .collect();
            state.chunk_bytes += size;
            if state.refuse_chunks_until.is_some_and(|t| at < t) {
                (500, json!({}))
            } else {
                state.chunk_ends.insert(query["sequence"], (query["offset"], query["size"]));
                (201, json!({}))
            }
        }
        ("GET", _) if path.starts_with("jobs/") => {
            if state.job_state == "canceling" && state.cancel_answered.is_none() {
                state.cancel_answered = Some(now());
            }
            (200, json!({"state": state.job_state}))
        }
        (_, "get") => (200, json!({"key": "k", "value": "v"})),
        _ => (200, json!({})),
    };
    drop(state);
    Ok(Response::builder()
        .status(status)
        .header("content-type", "application/json")
        .body(Full::new(Bytes::from(answer.to_string())))
        .expect("a response"))
}
