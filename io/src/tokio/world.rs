//! [`Effects`] with tokio, hyper, terminals, files and signals.

use super::files::{self, Files};
use super::group::Group;
use super::hooks::HookPlaces;
use super::http::{Http, HttpStream};
use super::output::ReadEnd;
use super::spawn::{Spawn, StdioMode, overlaid, spawn};
use super::stdout::Stdout;
use crate::driver::Clock;
use crate::effects::Effects;
use crate::status::Board;
use bytes::Bytes;
use ibex_core::agent::{AgentLog, HookSpec, Level, Metric, SignatureVerdict, WorkerHealth};
use ibex_core::api::{AcceptedJob, RawRequest, RawResponse, TransportError, TransportKind, transport_error};
use ibex_core::job::{JobFiles, JobFilesSpec, StdoutFormat};
use ibex_core::log::gzip;
use ibex_core::machine::{Instant, Transition};
use ibex_core::process::ProcessSpec;
use ibex_core::wall::WallClock;
use std::rc::Rc;
use std::time::Duration;

/// Chunks below this are compressed on the spot: handing them to another thread costs more.
const COMPRESS_INLINE_BYTES: usize = 8 * 1024;

/// Takes the lines of the agent's log.
pub trait LogSink {
    /// Writes one line.
    fn log(&self, line: &AgentLog);
}

/// Checks signatures of steps; made by whoever holds the keys.
pub trait Verifier {
    /// Judges a job.
    fn verify(&self, job: &AcceptedJob) -> SignatureVerdict;
}

/// Sends metrics elsewhere, besides the status page.
pub trait MetricSink {
    /// Counts something.
    fn metric(&self, metric: &Metric);
    /// Sends what was counted and ends, without waiting for it.
    fn flush(&self);
}

/// Sees every HTTP exchange, for debug logs (agent-api §18).
pub trait HttpObserver {
    /// A request is about to be sent.
    fn sending(&self, request: &RawRequest);
    /// Its answer, or why there is none, after `took`.
    fn answered(&self, request: &RawRequest, answer: &Result<RawResponse, TransportError>, took: Duration);
}

/// Parts of the world that are chosen by the command line.
pub struct Parts {
    /// The agent's log.
    pub log: Rc<dyn LogSink>,
    /// What the status page shows.
    pub board: Board,
    /// Where metrics are sent; `None` without OTLP.
    pub metrics: Option<Rc<dyn MetricSink>>,
    /// HTTP.
    pub http: Http,
    /// Who is told of exchanges; `None` costs nothing.
    pub http_observer: Option<Rc<dyn HttpObserver>>,
    /// Hooks of the agent.
    pub hooks: HookPlaces,
    /// Signatures; `None` without verification keys.
    pub verifier: Option<Rc<dyn Verifier>>,
}

/// The real world. Clones are the same world.
#[derive(Clone)]
pub struct TokioWorld(Rc<Inner>);

struct Inner {
    parts: Parts,
    files: Files,
    stdout: Stdout,
}

impl TokioWorld {
    /// A world of these parts.
    pub fn new(parts: Parts) -> TokioWorld {
        TokioWorld(Rc::new(Inner { parts, files: Files::default(), stdout: Stdout::default() }))
    }
}

/// An exchange that is observed to its end, also when it is given up because its time is over or nobody waits any more.
struct Watched {
    observer: Rc<dyn HttpObserver>,
    request: RawRequest,
    clock: Clock,
    answered: bool,
}

impl Watched {
    fn answered(&mut self, answer: &Result<RawResponse, TransportError>) {
        self.answered = true;
        self.observer.answered(&self.request, answer, self.clock.now().since(Instant::ZERO));
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        if !self.answered {
            let error = transport_error(TransportKind::Timeout, self.request.method, &self.request.url, "given up");
            self.answered(&Err(error));
        }
    }
}

impl Effects for TokioWorld {
    type Process = Group;
    type Output = ReadEnd;
    type Streaming = HttpStream;

    fn wall_clock(&self, clock: Clock) -> WallClock {
        let now = jiff::Zoned::now();
        clock.wall_clock(i64::try_from(now.timestamp().as_nanosecond()).unwrap_or(i64::MAX), now.offset().seconds())
    }

    fn exchange(&self, request: RawRequest) -> impl Future<Output = Result<RawResponse, TransportError>> + 'static {
        let (http, observer) = (self.0.parts.http.clone(), self.0.parts.http_observer.clone());
        async move {
            let Some(observer) = observer else { return http.exchange(&request).await };
            observer.sending(&request);
            let mut watched = Watched { observer, request, clock: Clock::start(), answered: false };
            let answer = http.exchange(&watched.request).await;
            watched.answered(&answer);
            answer
        }
    }

    fn stream(&self, request: RawRequest) -> impl Future<Output = Result<HttpStream, TransportError>> + 'static {
        let (http, observer) = (self.0.parts.http.clone(), self.0.parts.http_observer.clone());
        async move {
            let Some(observer) = observer else { return http.stream(&request).await };
            observer.sending(&request);
            let clock = Clock::start();
            let opened = http.stream(&request).await;
            // The head is the answer: the body goes on for as long as the stream does.
            let answer = match &opened {
                Ok(stream) => Ok(stream.head(&request)),
                Err(error) => Err(error.clone()),
            };
            observer.answered(&request, &answer, clock.now().since(Instant::ZERO));
            opened
        }
    }

    fn compress(&self, pieces: Vec<Bytes>) -> impl Future<Output = Bytes> + 'static {
        compress(pieces)
    }

    fn write_job_files(&self, spec: JobFilesSpec) -> impl Future<Output = Result<JobFiles, String>> + 'static {
        std::future::ready(self.0.files.write(&spec))
    }

    fn own_status(&self, files: &JobFiles) -> bool {
        files::is_there(&files.status_file())
    }

    fn remove_job_files(&self, files: JobFiles) -> impl Future<Output = Vec<String>> + 'static {
        std::future::ready(self.0.files.remove(&files))
    }

    fn write_marker(&self, path: &str) -> Result<(), String> {
        files::write_marker(path)
    }

    fn append_log_copy(&self, path: &str, data: &[u8]) -> Result<(), String> {
        self.0.files.append(path, data)
    }

    fn copy_to_stdout(&self, format: StdoutFormat, fields: &[(String, String)], data: &[u8]) -> Result<(), String> {
        let mut text = Vec::with_capacity(data.len());
        files::copy_to_stdout(&mut text, format, fields, data).map_err(|e| e.to_string())?;
        self.0.stdout.write(text)
    }

    fn spawn(&self, spec: ProcessSpec) -> impl Future<Output = Result<(Group, ReadEnd), String>> + 'static {
        let stdio = if spec.pty { StdioMode::Terminal { raw: spec.raw } } else { StdioMode::Pipe };
        let env = overlaid(spec.env.0.iter().map(|(name, value)| (name.as_str(), value.as_deref())));
        let wanted = Spawn { argv: spec.argv.into_iter().map(Into::into).collect(), env, dir: Some(spec.dir.into()), stdio, dies_with_parent: false };
        async move { spawn(&wanted).await }
    }

    fn find_hooks(&self, hook: &HookSpec) -> Vec<String> {
        self.0.parts.hooks.find(hook)
    }

    fn spawn_hook(&self, hook: &HookSpec, path: &str) -> impl Future<Output = Result<(Group, ReadEnd), String>> + 'static {
        let wanted = self.0.parts.hooks.spawn(hook, path);
        async move { spawn(&wanted?).await }
    }

    fn verify(&self, job: Rc<AcceptedJob>) -> impl Future<Output = SignatureVerdict> + 'static {
        std::future::ready(match &self.0.parts.verifier {
            Some(verifier) => verifier.verify(&job),
            None => SignatureVerdict::Broken("no verification keys are configured".to_owned()),
        })
    }

    fn log(&self, line: &AgentLog) {
        self.0.parts.log.log(line);
    }

    fn metric(&self, metric: &Metric) {
        self.0.parts.board.metric(metric);
        if let Some(sink) = &self.0.parts.metrics {
            sink.metric(metric);
        }
    }

    fn flush_metrics(&self) {
        if let Some(sink) = &self.0.parts.metrics {
            sink.flush();
        }
    }

    fn health(&self, health: &WorkerHealth) {
        self.0.parts.board.health(health);
    }

    fn observe(&self, transition: &Transition) {
        tracing::trace!(
            machine = transition.machine,
            owner = ?transition.owner,
            event = transition.event,
            "{} -> {}", transition.from, transition.to
        );
        self.0.parts.board.transition(transition);
    }

    fn release_memory(&self) {
        // The C library of GNU keeps what lies below the highest block in use; others give back by themselves.
        #[cfg(target_env = "gnu")]
        // SAFETY: only memory that nobody has is given back.
        unsafe {
            libc::malloc_trim(0);
        }
    }

    fn notify_watchdog(&self) {
        let Some(address) = std::env::var_os("NOTIFY_SOCKET") else { return };
        if let Err(e) = super::watchdog::notify(&address) {
            let text = format!("Failed to notify the systemd watchdog: {e}");
            self.log(&AgentLog { level: Level::Warn, worker: None, text, fields: Vec::new() });
        }
    }
}

async fn compress(pieces: Vec<Bytes>) -> Bytes {
    if pieces.iter().map(Bytes::len).sum::<usize>() < COMPRESS_INLINE_BYTES {
        return gzip(&pieces);
    }
    match tokio::task::spawn_blocking(move || gzip(&pieces)).await {
        Ok(packed) => packed,
        Err(e) => std::panic::resume_unwind(e.into_panic()),
    }
}
