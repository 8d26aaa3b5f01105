//! The driver of the `bootstrap` process: files, processes, signals, and what is written
//! (specification: bootstrap §3, §14; job-runner §5.10–5.11).
//!
//! One process runs at a time, on one thread. What it prints is read only when what was read before has been written, so a
//! log that is not taken away stops the job's own writes and nothing else: signals and timers go on.

mod files;
mod screen;
mod signals;

pub use signals::{Signals, die_by};

use crate::driver::{Clock, World, drive};
use crate::effects::{Output, Process};
use crate::tokio::{Group, ReadEnd, Spawn, StdioMode, spawn_patiently};
use bytes::Bytes;
use ibex_core::agent::OsSignal;
use ibex_core::executor::{ChildEvent, ExecSpec, Executor, ExecutorCommand, ExecutorConfig, ExecutorEvent, LineKind, StartFailure, render};
use ibex_core::machine::{Instant, RequestId};
use ibex_core::process::{ExitStatus, SignalTarget};
use screen::{Screen, Stream};
use signals::Watched;
use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::pin::Pin;
use std::time::Duration;

/// How often a program that is being written ("text file busy") is tried again, and how long after (bootstrap §3.8).
pub const BUSY_RETRIES: u32 = 100;
/// See [`BUSY_RETRIES`].
pub const BUSY_WAIT: Duration = Duration::from_millis(100);
/// Captured output beyond this is dropped, in bytes.
const CAPTURED_BYTES: usize = 1024 * 1024;

/// How the process ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct End {
    /// Exit status; −1 is seen as 255.
    pub status: i32,
    /// End by this signal instead.
    pub by_signal: Option<OsSignal>,
}

/// Runs the job that `config` describes to its end. Signals caught before are its first events. `status_file` is made if the job's
/// own exit status is the one that says that the command never ran (job-runner W5).
///
/// # Errors
/// The operating system refuses an event loop.
pub fn run(config: ExecutorConfig, signals: Signals, status_file: Option<PathBuf>) -> io::Result<End> {
    let options = ::tokio::runtime::LocalOptions::default();
    let runtime = ::tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build_local(options)?;
    // A task among tasks: the future that a runtime blocks on is woken by system calls.
    let job = async move {
        let mut world = Room {
            events: VecDeque::new(),
            begin: true,
            signals: signals.watch()?,
            marker: config.env.get("BUILDKITE_AGENT_JOB_TIMEOUT_FILE").filter(|path| !path.is_empty()).map(PathBuf::from),
            status_file,
            executable: config.executable.clone(),
            screen: Screen::new(),
            child: None,
            groups: BTreeMap::new(),
        };
        let mut executor = Executor::new(config);
        let end = drive(&mut executor, &mut world, Clock::start()).await;
        world.screen.drained().await;
        Ok(end)
    };
    match runtime.block_on(async { ::tokio::task::spawn_local(job).await }) {
        Ok(end) => end,
        Err(e) => std::panic::resume_unwind(e.into_panic()),
    }
}

/// Where the executor lives.
struct Room {
    /// What has happened and was not handed over yet.
    events: VecDeque<ExecutorEvent>,
    begin: bool,
    signals: Watched,
    /// Its existence says that the job has timed out.
    marker: Option<PathBuf>,
    /// Where an exit status of 125 is vouched for.
    status_file: Option<PathBuf>,
    executable: String,
    screen: Screen,
    child: Option<Child>,
    /// Groups that may still be signalled.
    groups: BTreeMap<RequestId, Group>,
}

/// The process under way.
struct Child {
    id: RequestId,
    /// Output that is kept instead of shown.
    captured: Option<Vec<u8>>,
    stage: Stage,
}

type Later<T> = Pin<Box<dyn Future<Output = T>>>;

enum Stage {
    /// Being started.
    Starting(Later<Result<(Group, ReadEnd), String>>),
    /// Started; each part is taken away when it is over.
    Running { exit: Option<Later<ExitStatus>>, output: Option<ReadEnd> },
}

/// Something about the process under way.
enum Happening {
    Started(Group, ReadEnd),
    NotStarted(String),
    Exited(ExitStatus),
    Printed(Bytes),
    OutputEnded,
}

impl Child {
    /// What happens next; output is read only if there is room for it. Cancel-safe.
    async fn next(&mut self, read: bool) -> Happening {
        match &mut self.stage {
            Stage::Starting(started) => match started.await {
                Ok((group, output)) => Happening::Started(group, output),
                Err(why) => Happening::NotStarted(why),
            },
            Stage::Running { exit, output } => {
                let exited = async {
                    match exit {
                        Some(exit) => exit.await,
                        None => std::future::pending().await,
                    }
                };
                let printed = async {
                    match output {
                        Some(output) if read => output.read().await,
                        _ => std::future::pending().await,
                    }
                };
                ::tokio::select! {
                    biased;
                    status = exited => Happening::Exited(status),
                    data = printed => data.map_or(Happening::OutputEnded, Happening::Printed),
                }
            }
        }
    }
}

impl Room {
    fn signal(&self, signal: OsSignal) -> ExecutorEvent {
        ExecutorEvent::Signal { signal, timed_out: self.marker.as_ref().is_some_and(|marker| marker.exists()) }
    }

    fn child_event(&mut self, id: RequestId, event: ChildEvent) {
        self.events.push_back(ExecutorEvent::Process { id, event });
    }

    fn exec(&mut self, id: RequestId, spec: ExecSpec) {
        let captured = spec.capture.then(Vec::new);
        match prepare(spec) {
            Ok(what) => {
                let started: Later<_> = Box::pin(async move { spawn_patiently(&what, BUSY_RETRIES, BUSY_WAIT).await });
                self.child = Some(Child { id, captured, stage: Stage::Starting(started) });
            }
            Err(why) => self.child_event(id, ChildEvent::NotStarted(why)),
        }
    }

    fn happened(&mut self, happening: Happening) {
        let Some(child) = &mut self.child else { return };
        let id = child.id;
        match (happening, &mut child.stage) {
            (Happening::Started(group, output), stage) => {
                *stage = Stage::Running { exit: Some(Box::pin(group.wait())), output: Some(output) };
                self.groups.insert(id, group);
            }
            (Happening::NotStarted(why), _) => {
                self.child = None;
                self.child_event(id, ChildEvent::NotStarted(start_failure(why)));
            }
            (Happening::Exited(status), Stage::Running { exit, output }) => {
                *exit = None;
                let over = output.is_none();
                let group_alive = self.groups.get(&id).is_some_and(Group::group_alive);
                self.child_event(id, ChildEvent::Exited { status, group_alive });
                if over {
                    self.ended(id);
                }
            }
            (Happening::Printed(data), _) => match &mut child.captured {
                Some(captured) => captured.extend_from_slice(&data[..data.len().min(CAPTURED_BYTES.saturating_sub(captured.len()))]),
                None => self.screen.write(Stream::Out, &data),
            },
            (Happening::OutputEnded, Stage::Running { exit, output }) => {
                *output = None;
                if exit.is_none() {
                    self.ended(id);
                }
            }
            (Happening::Exited(_) | Happening::OutputEnded, Stage::Starting(_)) => {}
        }
    }

    /// Exit and end of output have both been seen.
    fn ended(&mut self, id: RequestId) {
        let captured = self.child.take().and_then(|child| child.captured).unwrap_or_default();
        let captured = String::from_utf8_lossy(&captured).trim().to_owned();
        self.child_event(id, ChildEvent::Ended { captured });
    }
}

impl World<Executor> for Room {
    type End = End;

    fn ready(&mut self) -> Option<ExecutorEvent> {
        if let Some(signal) = self.signals.pending() {
            return Some(self.signal(signal));
        }
        // W11: a signal that came before is handed over before.
        if std::mem::take(&mut self.begin) {
            return Some(ExecutorEvent::Begin);
        }
        self.events.pop_front()
    }

    async fn next(&mut self) -> ExecutorEvent {
        loop {
            if let Some(event) = self.events.pop_front() {
                return event;
            }
            let blocked = self.screen.is_blocked();
            let screen = &mut self.screen;
            let child = &mut self.child;
            let happening = ::tokio::select! {
                biased;
                signal = self.signals.next() => return self.signal(signal),
                () = screen.drained(), if blocked => continue,
                happening = async {
                    match child {
                        Some(child) => child.next(!blocked).await,
                        None => std::future::pending().await,
                    }
                } => happening,
            };
            self.happened(happening);
        }
    }

    fn execute(&mut self, _now: Instant, command: ExecutorCommand) -> ControlFlow<End> {
        match command {
            ExecutorCommand::Transition(_) => {}
            ExecutorCommand::Log { kind, text } => self.screen.line(&render(kind, &text)),
            ExecutorCommand::Complain(text) => self.screen.line(&render(LineKind::Plain, &text)),
            ExecutorCommand::File { id, op } => {
                let result = files::perform(op, &self.executable);
                self.events.push_back(ExecutorEvent::File { id, result });
            }
            ExecutorCommand::Exec { id, spec } => self.exec(id, *spec),
            ExecutorCommand::Signal { id, signal } => {
                let sent = self.groups.get(&id).map_or(Ok(()), |group| group.signal(signal, SignalTarget::Group));
                if self.child.take_if(|child| child.id == id && matches!(child.stage, Stage::Starting(_))).is_some() {
                    self.child_event(id, ChildEvent::NotStarted(StartFailure::Signalled));
                }
                if sent.is_err() {
                    self.child_event(id, ChildEvent::SignalFailed);
                }
            }
            ExecutorCommand::CloseOutput { id } => {
                if self.child.as_ref().is_some_and(|child| child.id == id) {
                    self.happened(Happening::OutputEnded);
                }
            }
            ExecutorCommand::Reap { id } => {
                self.groups.remove(&id);
            }
            ExecutorCommand::RestoreSignals => Signals::restore(),
            ExecutorCommand::Redact(secrets) => secrets.iter().for_each(|secret| self.screen.redact(secret.expose())),
            ExecutorCommand::Flush => self.screen.flush(),
            ExecutorCommand::Vouch => {
                if let Some(path) = &self.status_file {
                    // Without the word the agent reports what agents report without one: that the command never ran.
                    let _ = files::leave_word(path);
                }
            }
            ExecutorCommand::Exit { status, by_signal } => return ControlFlow::Break(End { status, by_signal }),
        }
        ControlFlow::Continue(())
    }
}

/// Looks the program up in the `PATH` of its own environment (bootstrap §3.1), and checks its directory.
fn prepare(spec: ExecSpec) -> Result<Spawn, StartFailure> {
    let mut argv = spec.argv;
    let program = argv.first_mut().ok_or_else(|| StartFailure::Other("no program".to_owned()))?;
    if !program.contains('/') {
        let found = files::look_up(program, spec.env.text("PATH"));
        let found = found.ok_or_else(|| StartFailure::LookUp(format!("exec: {program:?}: executable file not found in $PATH")))?;
        *program = found.to_string_lossy().into_owned();
    }
    if !std::path::Path::new(&spec.dir).is_dir() {
        return Err(StartFailure::NoDirectory);
    }
    let mut env: BTreeMap<_, _> = spec.env.iter().map(|(name, value)| (name.into(), value.into())).collect();
    if spec.pty {
        env.insert("TERM".into(), "xterm-256color".into());
    }
    let stdio = if spec.pty { StdioMode::Terminal { raw: spec.raw } } else { StdioMode::Pipe };
    Ok(Spawn { argv: argv.into_iter().map(Into::into).collect(), env, dir: Some(spec.dir.into()), stdio, dies_with_parent: true })
}

/// The operating system's word for a program that is there and does not start is the same as for one that is not.
fn start_failure(why: String) -> StartFailure {
    if why.contains("No such file or directory") || why.contains("Text file busy") {
        StartFailure::NoInterpreter(why)
    } else {
        StartFailure::Other(why)
    }
}
