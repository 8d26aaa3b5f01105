//! Executes the commands of the `Agent` machine in any world: the same functions run in production and in the simulator.
//!
//! Everything that takes time is a task on this thread that ends by putting exactly one completion into the bounded inbox.
//! The only state here is what routes commands to running tasks: how to abort a call, which process a signal is for.

mod hooks;
mod job_log;
mod process;

use crate::driver::{Clock, World, drive};
use crate::effects::{Effects, Process};
use crate::exchange;
use crate::recorder::Recorder;
use hooks::HookRun;
use ibex_core::agent::{AgentCommand, AgentEvent, AgentLog, Exit, Level, OsSignal};
use ibex_core::job::JobFiles;
use ibex_core::log::{LogCommand, LogConfig, LogEvent};
use ibex_core::machine::{Instant, Machine, Owner, RequestId};
use ibex_core::process::{ProcessEvent, SignalTarget};
use ibex_core::wall::WallClock;
use job_log::LogInput;
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::ops::ControlFlow;
use std::rc::Rc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;

/// Completions that wait for the machine. At the limit tasks wait with theirs.
pub const INBOX: usize = 1024;
/// How often, at most, the wall clock is compared with the monotonic one.
pub const CLOCK_CHECK: Duration = Duration::from_secs(1);
/// Difference between the clocks that counts as a jump.
pub const CLOCK_JUMP: Duration = Duration::from_millis(20);

/// A machine that decides for the agent.
pub trait AgentMachine: Machine<Event = AgentEvent, Command = AgentCommand> + serde::Serialize {}
impl<M: Machine<Event = AgentEvent, Command = AgentCommand> + serde::Serialize> AgentMachine for M {}

/// A machine that decides for the log of one job.
pub trait LogMachine: Machine<Event = LogEvent, Command = LogCommand> + 'static {}
impl<M: Machine<Event = LogEvent, Command = LogCommand> + 'static> LogMachine for M {}

/// What drives an agent, apart from the machine.
#[derive(Debug)]
pub struct Drive {
    /// The clock; the machine was made with its wall clock.
    pub clock: Clock,
    /// Wall clock that the machine was made with.
    pub wall: WallClock,
    /// `User-Agent` of every request.
    pub user_agent: String,
    /// Signals that the process receives.
    pub signals: mpsc::Receiver<OsSignal>,
    /// The flight recorder.
    pub recorder: Option<Recorder>,
}

/// Begins `agent` and drives it until it exits. Must be called inside a `LocalSet`.
pub async fn run<E, A, L>(effects: E, agent: &mut A, new_log: fn(LogConfig, Instant) -> L, drive_with: Drive) -> Exit
where
    E: Effects,
    A: AgentMachine,
    L: LogMachine,
{
    let (sender, inbox) = mpsc::channel(INBOX);
    let clock = drive_with.clock;
    let mut world = AgentWorld {
        shared: Shared { effects, clock, wall: Rc::new(Cell::new(drive_with.wall)), user_agent: drive_with.user_agent.into(), inbox: sender },
        clock_checked: clock.now(),
        signals: Some(drive_with.signals),
        inbox,
        at_once: VecDeque::from([AgentEvent::Begin]),
        tasks: JoinSet::new(),
        aborts: BTreeMap::new(),
        logs: BTreeMap::new(),
        outputs: BTreeMap::new(),
        processes: Rc::default(),
        files: Rc::default(),
        hooks: BTreeMap::new(),
        recorder: drive_with.recorder,
        new_log,
    };
    drive(agent, &mut world, clock).await
}

/// What every task of an agent needs.
struct Shared<E> {
    effects: E,
    clock: Clock,
    wall: Rc<Cell<WallClock>>,
    user_agent: Rc<str>,
    inbox: mpsc::Sender<AgentEvent>,
}

impl<E: Effects> Clone for Shared<E> {
    fn clone(&self) -> Self {
        let Shared { effects, clock, wall, user_agent, inbox } = self;
        Shared { effects: effects.clone(), clock: *clock, wall: wall.clone(), user_agent: user_agent.clone(), inbox: inbox.clone() }
    }
}

impl<E: Effects> Shared<E> {
    /// Puts a completion into the inbox; waits while that is full. When the agent has exited nobody listens any more.
    async fn complete(&self, event: AgentEvent) {
        let _ = self.inbox.send(event).await;
    }

    fn warn(&self, text: String) {
        self.effects.log(&AgentLog { level: Level::Warn, worker: None, text, fields: Vec::new() });
    }
}

struct AgentWorld<E: Effects, L> {
    shared: Shared<E>,
    clock_checked: Instant,
    /// `None` when nobody sends signals any more.
    signals: Option<mpsc::Receiver<OsSignal>>,
    inbox: mpsc::Receiver<AgentEvent>,
    /// Completions of commands that are executed on the spot.
    at_once: VecDeque<AgentEvent>,
    /// Every task; a panic in one of them is a panic of the agent.
    tasks: JoinSet<()>,
    /// Calls and streams that can be given up.
    aborts: BTreeMap<RequestId, oneshot::Sender<()>>,
    /// Log streams that run.
    logs: BTreeMap<Owner, mpsc::Sender<LogInput<E>>>,
    /// Which log stream reads the output of which spawn.
    outputs: BTreeMap<RequestId, Owner>,
    /// Spawned processes: until the worker spawns for another job, as the group may outlive its leader.
    processes: Rc<RefCell<BTreeMap<RequestId, E::Process>>>,
    files: Rc<RefCell<BTreeMap<Owner, JobFiles>>>,
    hooks: BTreeMap<RequestId, Rc<HookRun<E>>>,
    recorder: Option<Recorder>,
    new_log: fn(LogConfig, Instant) -> L,
}

impl<A: AgentMachine, E: Effects, L: LogMachine> World<A> for AgentWorld<E, L> {
    type End = Exit;

    fn ready(&mut self) -> Option<AgentEvent> {
        self.check_clock();
        if let Some(signal) = self.signals.as_mut().and_then(|s| s.try_recv().ok()) {
            return Some(AgentEvent::Signal(signal));
        }
        self.at_once.pop_front().or_else(|| self.inbox.try_recv().ok())
    }

    async fn next(&mut self) -> AgentEvent {
        loop {
            // Signals, then completions; finished tasks last, as all they can tell is a panic.
            tokio::select! {
                biased;
                signal = receive(&mut self.signals) => match signal {
                    Some(signal) => return AgentEvent::Signal(signal),
                    None => self.signals = None,
                },
                Some(event) = self.inbox.recv() => return event,
                Some(ended) = self.tasks.join_next() => propagate(ended),
            }
        }
    }

    fn arriving(&mut self, now: Instant, event: Option<&AgentEvent>) {
        if let Some(recorder) = &mut self.recorder {
            recorder.arriving(now, event);
        }
        match event {
            Some(AgentEvent::Completed { id, .. } | AgentEvent::StreamEnded { id, .. }) => {
                self.aborts.remove(id);
            }
            Some(AgentEvent::HookEnded { id, .. }) => {
                self.hooks.remove(id);
            }
            Some(AgentEvent::LogDrained { job, .. }) => {
                self.logs.remove(job);
            }
            Some(AgentEvent::Process { id, event: ProcessEvent::OutputEnded { .. } | ProcessEvent::SpawnFailed(_) }) => {
                self.outputs.remove(id);
            }
            _ => {}
        }
    }

    fn decided(&mut self, machine: &A, commands: &[AgentCommand]) {
        if let Some(recorder) = &mut self.recorder {
            recorder.decided(machine, commands);
        }
    }

    fn execute(&mut self, _now: Instant, command: AgentCommand) -> ControlFlow<Exit> {
        let effects = &self.shared.effects;
        match command {
            AgentCommand::Transition(transition) => effects.observe(&transition),
            AgentCommand::Log(line) => effects.log(&line),
            AgentCommand::Metric(metric) => effects.metric(&metric),
            AgentCommand::FlushMetrics => effects.flush_metrics(),
            AgentCommand::Health(health) => effects.health(&health),
            AgentCommand::NotifyWatchdog => effects.notify_watchdog(),
            AgentCommand::ReleaseMemory => effects.release_memory(),
            AgentCommand::Call { id, call } => self.call(id, call),
            AgentCommand::OpenStream { id, stream } => self.open_stream(id, stream),
            AgentCommand::AbortCall { id } | AgentCommand::CloseStream { id } => {
                // Already completed: nothing to give up.
                if let Some(abort) = self.aborts.remove(&id) {
                    let _ = abort.send(());
                }
            }
            AgentCommand::WriteJobFiles { id, files } => self.write_job_files(id, *files),
            AgentCommand::RemoveJobFiles { id, job } => self.remove_job_files(id, job),
            AgentCommand::WriteMarker { job } => self.write_marker(job),
            AgentCommand::VerifySignature { id, job } => {
                let shared = self.shared.clone();
                self.tasks.spawn_local(async move {
                    let verdict = shared.effects.verify(Rc::new(*job)).await;
                    shared.complete(AgentEvent::Verified { id, verdict }).await;
                });
            }
            AgentCommand::RunHook { id, hook } => {
                let run = HookRun::new();
                self.hooks.insert(id, run.clone());
                self.tasks.spawn_local(hooks::run(self.shared.clone(), id, *hook, run));
            }
            AgentCommand::SignalHook { id, signal } => {
                if let Some(run) = self.hooks.get(&id) {
                    run.signal(signal);
                }
            }
            AgentCommand::Spawn { id, spec } => self.spawn(id, *spec),
            AgentCommand::Signal { id, signal, target } => self.signal(id, signal, target),
            AgentCommand::QueryGroup { id } => {
                let alive = self.processes.borrow().get(&id).is_some_and(Process::group_alive);
                self.at_once.push_back(AgentEvent::Process { id, event: ProcessEvent::Group { alive } });
            }
            AgentCommand::CloseOutput { id } => {
                if let Some(job) = self.outputs.get(&id).copied() {
                    self.tell_log(job, LogInput::CloseOutput);
                }
            }
            AgentCommand::LogBegin { job, config } => {
                let (sender, control) = mpsc::channel(job_log::CONTROL);
                self.logs.insert(job, sender);
                self.tasks.spawn_local(job_log::run(self.shared.clone(), self.new_log, *config, control));
            }
            AgentCommand::LogProcessStarted { job } => self.tell_log(job, LogInput::ProcessStarted),
            AgentCommand::LogLine { job, line } => self.tell_log(job, LogInput::Line(line)),
            AgentCommand::LogFlush { job, limit } => self.tell_log(job, LogInput::Flush(limit)),
            AgentCommand::Exit(exit) => {
                if exit.kill_jobs {
                    self.kill_everything();
                }
                return ControlFlow::Break(exit);
            }
        }
        ControlFlow::Continue(())
    }
}

impl<E: Effects, L: LogMachine> AgentWorld<E, L> {
    /// Compares the clocks now and then; a jump is an event.
    fn check_clock(&mut self) {
        let now = self.shared.clock.now();
        if now.since(self.clock_checked) < CLOCK_CHECK {
            return;
        }
        self.clock_checked = now;
        let (was, is) = (self.shared.wall.get(), self.shared.effects.wall_clock(self.shared.clock));
        let jump = Duration::from_nanos(was.base.as_nanos().abs_diff(is.base.as_nanos()));
        if jump >= CLOCK_JUMP || was.utc_offset_seconds != is.utc_offset_seconds {
            self.shared.wall.set(is);
            self.at_once.push_back(AgentEvent::ClockMoved(is));
        }
    }

    fn call(&mut self, id: RequestId, call: Box<ibex_core::api::ApiCall>) {
        let (abort, aborted) = oneshot::channel();
        self.aborts.insert(id, abort);
        let shared = self.shared.clone();
        self.tasks.spawn_local(async move {
            // An answer that is there already wins over the abort: the machine may use what has become of the call.
            let outcome = tokio::select! {
                biased;
                outcome = exchange::call(&shared.effects, &call, &shared.user_agent) => outcome,
                Ok(()) = aborted => ibex_core::api::Outcome::Aborted,
            };
            shared.complete(AgentEvent::Completed { id, outcome }).await;
        });
    }

    fn open_stream(&mut self, id: RequestId, stream: Box<ibex_core::api::StreamCall>) {
        let (abort, aborted) = oneshot::channel();
        self.aborts.insert(id, abort);
        let shared = self.shared.clone();
        self.tasks.spawn_local(async move {
            let deliver = async |message| shared.complete(AgentEvent::StreamMessage { id, message }).await;
            let end = tokio::select! {
                biased;
                Ok(()) = aborted => ibex_core::api::StreamEnd::Closed,
                end = exchange::stream(&shared.effects, &stream, &shared.user_agent, deliver) => end,
            };
            shared.complete(AgentEvent::StreamEnded { id, end }).await;
        });
    }

    fn write_job_files(&mut self, id: RequestId, spec: ibex_core::job::JobFilesSpec) {
        let (shared, files) = (self.shared.clone(), self.files.clone());
        self.tasks.spawn_local(async move {
            let job = spec.job;
            let result = shared.effects.write_job_files(spec).await.map(Box::new);
            if let Ok(written) = &result {
                files.borrow_mut().insert(job, (**written).clone());
            }
            shared.complete(AgentEvent::JobFilesWritten { id, result }).await;
        });
    }

    fn remove_job_files(&mut self, id: RequestId, job: Owner) {
        let shared = self.shared.clone();
        let files = self.files.borrow_mut().remove(&job);
        self.tasks.spawn_local(async move {
            let own_status = files.as_ref().is_some_and(|files| shared.effects.own_status(files));
            if let Some(files) = files {
                for problem in shared.effects.remove_job_files(files).await {
                    shared.warn(problem);
                }
            }
            shared.complete(AgentEvent::JobFilesRemoved { id, own_status }).await;
        });
    }

    fn write_marker(&self, job: Owner) {
        let path = self.files.borrow().get(&job).map(|f| f.timeout_file.clone()).unwrap_or_default();
        if let Err(e) = self.shared.effects.write_marker(&path) {
            self.shared.warn(format!("Failed to write the job timeout marker: {e}"));
        }
    }

    fn tell_log(&self, job: Owner, input: LogInput<E>) {
        let Some(log) = self.logs.get(&job) else { return };
        match log.try_send(input) {
            // A log that has just drained takes nothing more.
            Ok(()) | Err(mpsc::error::TrySendError::Closed(_)) => {}
            Err(mpsc::error::TrySendError::Full(_)) => panic!("the runner of {job:?} wrote more than {} lines at once", job_log::CONTROL),
        }
    }

    fn spawn(&mut self, id: RequestId, spec: ibex_core::process::ProcessSpec) {
        self.processes.borrow_mut().retain(|old, _| !same_worker(old.owner, id.owner));
        let job = spec.job;
        self.outputs.insert(id, job);
        let log = self.logs.get(&job).cloned();
        self.tasks.spawn_local(process::run(self.shared.clone(), id, spec, log, self.processes.clone()));
    }

    fn signal(&mut self, id: RequestId, signal: OsSignal, target: SignalTarget) {
        let sent = self.processes.borrow().get(&id).map(|p| p.signal(signal, target));
        if let Some(Err(e)) = sent {
            self.at_once.push_back(AgentEvent::Process { id, event: ProcessEvent::SignalFailed(e) });
        }
    }

    fn kill_everything(&self) {
        for process in self.processes.borrow().values() {
            // The agent is exiting: there is nobody left to tell of a failure.
            let _ = process.signal(OsSignal::Kill, SignalTarget::Tree);
        }
        for run in self.hooks.values() {
            run.signal(OsSignal::Kill);
        }
    }
}

fn same_worker(a: Owner, b: Owner) -> bool {
    matches!((a, b), (Owner::Job { worker: a, .. }, Owner::Job { worker: b, .. }) if a == b)
}

async fn receive(signals: &mut Option<mpsc::Receiver<OsSignal>>) -> Option<OsSignal> {
    match signals {
        Some(signals) => signals.recv().await,
        None => std::future::pending().await,
    }
}

/// A panic of a task becomes a panic of the loop; tasks are never cancelled while the loop lives.
fn propagate(ended: Result<(), tokio::task::JoinError>) {
    if let Err(e) = ended
        && e.is_panic()
    {
        std::panic::resume_unwind(e.into_panic());
    }
}
