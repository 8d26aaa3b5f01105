//! The simulated world behind `ibex_io::effects::Effects`: network, control plane, processes, files, signals, clock.
//!
//! ```text
//! net.rs        HTTP over the simulated network, as the agent sees it
//! plane.rs      the control plane: `core::plane` behind a listener, with faults around it
//! streams.rs    its ping streams
//! director.rs   what the schedule does to the world, and when
//! processes.rs  process groups that follow scripts
//! files.rs      files in memory
//! ```
//!
//! Every wait here is one of simulated time: it passes when nothing else can happen, and takes none of the test's.

pub mod director;
mod files;
pub mod net;
pub mod plane;
pub mod processes;
mod streams;

use crate::faults::WorldFault;
use crate::schedule::{Schedule, Signatures, When};
use crate::script::Script;
use crate::trace::{Credential, Fact, JobId, Trace};
use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use ibex_core::agent::{AgentLog, HookSpec, Level, Metric, OsSignal, SignatureVerdict, WorkerHealth};
use ibex_core::api::{AcceptedJob, RawRequest, RawResponse, TransportError};
use ibex_core::job::{JobFiles, JobFilesSpec, StdoutFormat};
use ibex_core::machine::{Instant, Owner, Transition};
use ibex_core::process::ProcessSpec;
use ibex_core::wall::WallClock;
use ibex_io::driver::Clock;
use ibex_io::effects::Effects;
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::future::ready;
use std::io::Write;
use std::rc::Rc;
use std::time::Duration;
use tokio::sync::{Notify, mpsc};

/// Wall-clock time at the start of every run: 2026-01-01T00:00:00Z.
pub const EPOCH_NANOS: i64 = 1_767_225_600_000_000_000;
/// Registration token of every run.
pub const REGISTRATION_TOKEN: &str = "bkct_simulated";
/// What the verifier of signatures takes.
const VERIFY: Duration = Duration::from_millis(300);
/// Signals that wait for the agent.
const SIGNALS: usize = 64;
/// Observations of one run. At it: the run is broken off with a panic, as something spins.
const OBSERVATIONS_MAX: usize = 400_000;

/// A world; all clones are the same one.
#[derive(Clone)]
pub struct World(pub(crate) Rc<Inner>);

pub(crate) struct Inner {
    pub(crate) schedule: Schedule,
    trace: RefCell<Trace>,
    over: Cell<bool>,
    signals: mpsc::Sender<OsSignal>,
    signalled: Cell<bool>,
    client: net::Client,
    tokens: RefCell<BTreeMap<String, Credential>>,
    calls: Cell<u64>,
    /// Events that wait for the observation with their number.
    steps: RefCell<VecDeque<(u64, WorldFault)>>,
    /// Events that are due and not yet done.
    due: RefCell<VecDeque<WorldFault>>,
    due_changed: Notify,
    signals_due: RefCell<VecDeque<OsSignal>>,
    signals_changed: Notify,
    jobs: RefCell<BTreeMap<Owner, JobId>>,
    files: RefCell<BTreeMap<String, JobId>>,
    disk_full: Cell<bool>,
    outputs: Cell<u32>,
    pids: Cell<u32>,
}

impl World {
    /// A world for `schedule`, and the signals that its agent gets.
    pub fn new(schedule: Schedule) -> (World, mpsc::Receiver<OsSignal>) {
        let (signals, receiver) = mpsc::channel(SIGNALS);
        let mut steps: Vec<(u64, WorldFault)> = schedule
            .events
            .iter()
            .filter_map(|e| match e.when {
                When::AfterStep(n) => Some((n, e.what.clone())),
                When::AtMs(_) => None,
            })
            .collect();
        steps.sort_by_key(|(n, _)| *n);
        let inner = Inner {
            schedule,
            trace: RefCell::default(),
            over: Cell::new(false),
            signals,
            signalled: Cell::new(false),
            client: net::client(),
            tokens: RefCell::new(BTreeMap::from([(REGISTRATION_TOKEN.to_owned(), Credential::Registration)])),
            calls: Cell::new(0),
            steps: RefCell::new(steps.into()),
            due: RefCell::default(),
            due_changed: Notify::new(),
            signals_due: RefCell::default(),
            signals_changed: Notify::new(),
            jobs: RefCell::default(),
            files: RefCell::default(),
            disk_full: Cell::new(false),
            outputs: Cell::new(0),
            pids: Cell::new(1_000),
        };
        (World(Rc::new(inner)), receiver)
    }

    /// Simulated time since the start of the run.
    pub fn now(&self) -> Instant {
        turmoil::sim_elapsed().map_or(Instant::ZERO, |d| Instant::from_nanos(u64::try_from(d.as_nanos()).unwrap_or(u64::MAX)))
    }

    /// Writes an observation down, and lets happen what was to happen right after it.
    pub fn observed(&self, fact: Fact) {
        if self.0.over.get() {
            return;
        }
        let on_agent = !matches!(fact, Fact::Served { .. } | Fact::PlaneJob { .. } | Fact::World(_) | Fact::FaultsOver);
        let count = {
            let mut trace = self.0.trace.borrow_mut();
            trace.push(self.now(), fact);
            trace.entries.len()
        };
        assert!(count < OBSERVATIONS_MAX, "more than {OBSERVATIONS_MAX} observations: something spins");
        loop {
            let due = {
                let mut steps = self.0.steps.borrow_mut();
                match steps.front() {
                    Some((n, _)) if *n <= count as u64 => steps.pop_front(),
                    _ => None,
                }
            };
            match due {
                Some((_, what)) => self.happen(what, on_agent),
                None => return,
            }
        }
    }

    /// Lets something happen: signals reach the agent at once, the rest is done by the director.
    fn happen(&self, what: WorldFault, on_agent: bool) {
        match what {
            WorldFault::Signal(signal) if on_agent => self.signal(signal),
            WorldFault::Signal(signal) => self.signal_soon(signal),
            what => {
                self.0.due.borrow_mut().push_back(what);
                self.0.due_changed.notify_one();
            }
        }
    }

    /// Sends a signal from another host: it is delivered by the agent's host, at the time of its clock.
    pub(crate) fn signal_soon(&self, signal: OsSignal) {
        if signal != OsSignal::Hup {
            self.0.signalled.set(true);
        }
        self.0.signals_due.borrow_mut().push_back(signal);
        self.0.signals_changed.notify_one();
    }

    /// Delivers signals that other hosts have sent; lives on the agent's host.
    pub async fn deliver_signals(self) {
        loop {
            self.0.signals_changed.notified().await;
            let due = self.0.signals_due.take();
            for signal in due {
                self.signal(signal);
            }
        }
    }

    /// Sends a signal to the agent.
    fn signal(&self, signal: OsSignal) {
        if signal != OsSignal::Hup {
            self.0.signalled.set(true);
        }
        // Sent before it is told of: another signal may be due right after the observation.
        let _ = self.0.signals.try_send(signal);
        self.observed(Fact::AgentSignal(signal));
    }

    /// Ends the observation, and hands out the trace.
    pub fn end(&self) -> Trace {
        self.0.over.set(true);
        self.0.trace.take()
    }

    /// Whether the observation has ended.
    pub(crate) fn is_over(&self) -> bool {
        self.0.over.get()
    }

    /// What the agent left behind.
    pub fn leftovers(&self) -> Fact {
        let files = self.0.files.borrow().len() as u32;
        Fact::Leftovers { files, exchanges: 0, outputs: self.0.outputs.get() }
    }

    fn hook_script(&self, name: &str) -> Option<Script> {
        let hooks = &self.0.schedule.hooks;
        match name {
            "agent-startup" => hooks.startup.clone(),
            "agent-shutdown" => hooks.shutdown.clone(),
            "pre-bootstrap" => hooks.pre_bootstrap.clone(),
            _ => None,
        }
    }

    /// The job that a hook is for: the newest of its worker.
    fn job_of_hook(&self, hook: &HookSpec) -> Option<JobId> {
        let index: u32 = hook.worker.as_ref().filter(|_| hook.name == "pre-bootstrap")?.rsplit_once('-')?.1.parse().ok()?;
        let jobs = self.0.jobs.borrow();
        jobs.iter().rev().find(|(owner, _)| matches!(owner, Owner::Job { worker, .. } if *worker == index)).map(|(_, job)| job.clone())
    }

    pub(crate) fn job_of(&self, owner: Owner) -> JobId {
        self.0.jobs.borrow().get(&owner).cloned().unwrap_or_else(|| "unknown".into())
    }
}

impl Effects for World {
    type Process = processes::SimProcess;
    type Output = processes::SimOutput;
    type Streaming = net::SimStreaming;

    fn wall_clock(&self, clock: Clock) -> WallClock {
        let wall = EPOCH_NANOS + i64::try_from(self.now().as_nanos()).unwrap_or(i64::MAX);
        clock.wall_clock(wall, 0)
    }

    fn exchange(&self, request: RawRequest) -> impl Future<Output = Result<RawResponse, TransportError>> + 'static {
        net::exchange(self.clone(), request)
    }

    fn stream(&self, request: RawRequest) -> impl Future<Output = Result<net::SimStreaming, TransportError>> + 'static {
        net::stream(self.clone(), request)
    }

    fn compress(&self, pieces: Vec<Bytes>) -> impl Future<Output = Bytes> + 'static {
        let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
        for piece in pieces {
            gzip.write_all(&piece).expect("memory takes every byte");
        }
        ready(gzip.finish().expect("memory takes every byte").into())
    }

    fn write_job_files(&self, spec: JobFilesSpec) -> impl Future<Output = Result<JobFiles, String>> + 'static {
        files::write(self.clone(), spec)
    }

    fn remove_job_files(&self, files: JobFiles) -> impl Future<Output = Vec<String>> + 'static {
        files::remove(self.clone(), files)
    }

    fn write_marker(&self, path: &str) -> Result<(), String> {
        files::marker(self, path)
    }

    /// Side outputs fail while the disk is full; the log and the result must not know of it (job-runner §6.7).
    fn append_log_copy(&self, _: &str, _: &[u8]) -> Result<(), String> {
        if self.0.disk_full.get() { Err("No space left on device (os error 28)".into()) } else { Ok(()) }
    }

    fn copy_to_stdout(&self, _: StdoutFormat, _: &[(String, String)], _: &[u8]) -> Result<(), String> {
        if self.0.disk_full.get() { Err("No space left on device (os error 28)".into()) } else { Ok(()) }
    }

    fn spawn(&self, spec: ProcessSpec) -> impl Future<Output = Result<(Self::Process, Self::Output), String>> + 'static {
        processes::spawn(self.clone(), spec)
    }

    fn find_hooks(&self, hook: &HookSpec) -> Vec<String> {
        self.hook_script(hook.name).map(|_| format!("/hooks/{}", hook.name)).into_iter().collect()
    }

    fn spawn_hook(&self, hook: &HookSpec, _: &str) -> impl Future<Output = Result<(Self::Process, Self::Output), String>> + 'static {
        processes::spawn_hook(self.clone(), hook.name, self.job_of_hook(hook), self.hook_script(hook.name).unwrap_or_default())
    }

    fn verify(&self, job: Rc<AcceptedJob>) -> impl Future<Output = SignatureVerdict> + 'static {
        let world = self.clone();
        async move {
            tokio::time::sleep(VERIFY).await;
            let (verdict, text) = match world.0.schedule.signatures {
                Signatures::Off | Signatures::Valid => (SignatureVerdict::Verified, "valid"),
                Signatures::Invalid | Signatures::InvalidButRun => (SignatureVerdict::Invalid("signature verification failed".into()), "invalid"),
                Signatures::Broken => (SignatureVerdict::Broken("the key set cannot be read".into()), "the verifier broke"),
            };
            world.observed(Fact::Verified { job: job.id.clone(), text });
            verdict
        }
    }

    fn log(&self, line: &AgentLog) {
        let level = match line.level {
            Level::Debug => "debug",
            Level::Notice => "notice",
            Level::Info => "info",
            Level::Warn => "warn",
            Level::Error => "error",
            Level::Fatal => "fatal",
        };
        let text = match &line.worker {
            Some(worker) => format!("{worker}: {}", line.text),
            None => line.text.clone(),
        };
        self.observed(Fact::Log { level, text });
    }

    fn metric(&self, metric: &Metric) {
        let name = match metric {
            Metric::WorkerStarted => "worker started",
            Metric::WorkerEnded => "worker ended",
            Metric::JobStarted { .. } => "job started",
            Metric::JobEnded { .. } => "job ended",
            _ => return,
        };
        self.observed(Fact::Metric(name.into()));
    }

    fn flush_metrics(&self) {
        self.observed(Fact::Metric("flushed".into()));
    }

    fn health(&self, health: &WorkerHealth) {
        let (job, bad) = (health.current_job.clone(), health.heartbeat_error.is_some());
        self.observed(Fact::Health { worker: health.worker, state: health.state, job, bad });
    }

    fn observe(&self, transition: &Transition) {
        self.observed(Fact::Transition(*transition));
    }

    fn notify_watchdog(&self) {
        self.observed(Fact::Metric("watchdog".into()));
    }
}
