//! The data plane of one job: its own task drives the job's log machine, reads the process's output straight into it and
//! carries out its uploads. The `Agent` never sees a byte.

use super::{LogMachine, Shared, propagate};
use crate::driver::{World, drive};
use crate::effects::{Effects, Output};
use crate::exchange;
use bytes::Bytes;
use ibex_core::agent::AgentEvent;
use ibex_core::api::{ApiCall, Operation, Outcome};
use ibex_core::limits;
use ibex_core::log::{LogCommand, LogConfig, LogEvent};
use ibex_core::machine::{Instant, RequestId};
use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;

/// Messages from the agent that wait for a log stream: a few lines of the runner and a flush.
pub(super) const CONTROL: usize = 256;
/// Completions of uploads that wait: all chunks in flight, and the header times.
const SETTLED: usize = limits::CHUNKS_IN_FLIGHT + 1;
/// Output handled before other tasks of this thread get a turn.
const BYTES_PER_TURN: usize = 256 * 1024;

/// What the agent tells a log stream.
pub(super) enum LogInput<E: Effects> {
    /// The interval timer starts.
    ProcessStarted,
    /// A line of the runner.
    Line(Bytes),
    /// Settle everything.
    Flush(Duration),
    /// Read this output to its end, then say whether it was cut.
    Output(E::Output, oneshot::Sender<bool>),
    /// Stop reading and close.
    CloseOutput,
}

/// Runs one log stream until it has drained.
pub(super) async fn run<E: Effects, L: LogMachine>(
    shared: Shared<E>,
    new_log: fn(LogConfig, Instant) -> L,
    config: LogConfig,
    control: mpsc::Receiver<LogInput<E>>,
) {
    let (settled_sender, settled) = mpsc::channel(SETTLED);
    let clock = shared.clock;
    let mut machine = new_log(config.clone(), clock.now());
    let mut world = LogWorld {
        shared: shared.clone(),
        config,
        control,
        settled,
        settled_sender,
        output: None,
        reading: true,
        read_in_turn: 0,
        copying: true,
        to_stdout: true,
        uploads: JoinSet::new(),
        aborts: BTreeMap::new(),
    };
    let drained = drive(&mut machine, &mut world, clock).await;
    // Whatever output is still attached is closed before the agent hears of the end.
    drop(world);
    shared.complete(drained).await;
}

struct LogWorld<E: Effects> {
    shared: Shared<E>,
    config: LogConfig,
    control: mpsc::Receiver<LogInput<E>>,
    settled: mpsc::Receiver<LogEvent>,
    settled_sender: mpsc::Sender<LogEvent>,
    output: Option<(E::Output, oneshot::Sender<bool>)>,
    reading: bool,
    read_in_turn: usize,
    /// A failing side output is stopped once and for all; it changes nothing else (job-runner §6.7).
    copying: bool,
    to_stdout: bool,
    uploads: JoinSet<()>,
    aborts: BTreeMap<RequestId, oneshot::Sender<()>>,
}

impl<E: Effects, L: LogMachine> World<L> for LogWorld<E> {
    type End = AgentEvent;

    fn ready(&mut self) -> Option<LogEvent> {
        while let Ok(input) = self.control.try_recv() {
            if let Some(event) = self.take(input) {
                return Some(event);
            }
        }
        self.settled.try_recv().ok()
    }

    async fn next(&mut self) -> LogEvent {
        loop {
            if self.read_in_turn >= BYTES_PER_TURN {
                self.read_in_turn = 0;
                tokio::task::yield_now().await;
            }
            let reading = self.reading;
            // The agent's word first, then what settles, then bytes: a flood of output delays neither.
            tokio::select! {
                biased;
                Some(input) = self.control.recv() => {
                    if let Some(event) = self.take(input) {
                        return event;
                    }
                }
                Some(event) = self.settled.recv() => return event,
                Some(ended) = self.uploads.join_next() => propagate(ended),
                data = read(&mut self.output), if reading => match data {
                    Some(data) => {
                        self.read_in_turn += data.len();
                        return LogEvent::Bytes { wall: self.wall(), data };
                    }
                    None => self.close_output(false),
                },
                else => std::future::pending().await,
            }
        }
    }

    fn arriving(&mut self, _now: Instant, event: Option<&LogEvent>) {
        if let Some(LogEvent::Settled { id, .. }) = event {
            self.aborts.remove(id);
        }
    }

    fn execute(&mut self, _now: Instant, command: LogCommand) -> ControlFlow<AgentEvent> {
        let effects = &self.shared.effects;
        match command {
            LogCommand::Transition(transition) => effects.observe(&transition),
            LogCommand::Log(line) => effects.log(&line),
            LogCommand::Metric(metric) => effects.metric(&metric),
            LogCommand::Upload { id, sequence, offset, pieces, attempt: _ } => self.upload(id, sequence, offset, pieces),
            LogCommand::SendHeaderTimes { id, times } => {
                let operation = Operation::HeaderTimes { job: self.config.job_id.clone(), times };
                self.exchange(id, async move |_: &E| (operation, 0));
            }
            LogCommand::Abort { id } => {
                if let Some(abort) = self.aborts.remove(&id) {
                    let _ = abort.send(());
                }
            }
            LogCommand::StopReading => self.reading = false,
            LogCommand::ResumeReading => self.reading = true,
            LogCommand::ReleaseMemory => effects.release_memory(),
            LogCommand::Copy(data) => {
                let path = self.config.copy.as_deref().unwrap_or_default();
                if self.copying
                    && let Err(e) = effects.append_log_copy(path, &data)
                {
                    self.copying = false;
                    self.shared.warn(format!("Failed to write the copy of the job log, no more of it is written: {e}"));
                }
            }
            LogCommand::Stdout(data) => {
                if self.to_stdout
                    && let Some(format) = self.config.stdout
                    && let Err(e) = effects.copy_to_stdout(format, &self.config.stdout_fields, &data)
                {
                    self.to_stdout = false;
                    self.shared.warn(format!("Failed to write the job log to stdout, no more of it is written: {e}"));
                }
            }
            LogCommand::Drained { failed, uploaded_bytes, .. } => {
                return ControlFlow::Break(AgentEvent::LogDrained { job: self.config.job, failed, uploaded_bytes });
            }
        }
        ControlFlow::Continue(())
    }
}

impl<E: Effects> LogWorld<E> {
    fn wall(&self) -> ibex_core::wall::WallTime {
        self.shared.wall.get().at(self.shared.clock.now())
    }

    fn take(&mut self, input: LogInput<E>) -> Option<LogEvent> {
        match input {
            LogInput::ProcessStarted => Some(LogEvent::ProcessStarted),
            LogInput::Line(data) => Some(LogEvent::Line { wall: self.wall(), data }),
            LogInput::Flush(limit) => Some(LogEvent::Flush { limit, wall: self.wall() }),
            LogInput::Output(output, ended) => {
                self.output = Some((output, ended));
                None
            }
            LogInput::CloseOutput => {
                self.close_output(true);
                None
            }
        }
    }

    /// Called only between two events, so every byte read before has been handled.
    fn close_output(&mut self, cut: bool) {
        if let Some((output, ended)) = self.output.take() {
            drop(output);
            let _ = ended.send(cut);
        }
    }

    fn upload(&mut self, id: RequestId, sequence: u64, offset: u64, pieces: Vec<Bytes>) {
        let job = self.config.job_id.clone();
        self.exchange(id, async move |effects: &E| {
            let size = pieces.iter().map(|p| p.len() as u64).sum();
            let body = effects.compress(pieces).await;
            let compressed = body.len() as u64;
            (Operation::Chunk { job, sequence, offset, size, body }, compressed)
        });
    }

    /// Makes one exchange of this job that completes with `Settled`.
    fn exchange(&mut self, id: RequestId, prepare: impl AsyncFnOnce(&E) -> (Operation, u64) + 'static) {
        let (abort, aborted) = oneshot::channel();
        self.aborts.insert(id, abort);
        let (shared, session, settled) = (self.shared.clone(), self.config.session.clone(), self.settled_sender.clone());
        self.uploads.spawn_local(async move {
            let attempt = async {
                let (operation, compressed) = prepare(&shared.effects).await;
                let call = ApiCall { session, operation, limit: limits::EXCHANGE, timeout_ms: None };
                (exchange::call(&shared.effects, &call, &shared.user_agent).await, compressed)
            };
            let (outcome, compressed) = tokio::select! {
                biased;
                done = attempt => done,
                Ok(()) = aborted => (Outcome::Aborted, 0),
            };
            let _ = settled.send(LogEvent::Settled { id, outcome, compressed }).await;
        });
    }
}

async fn read<O: Output>(output: &mut Option<(O, oneshot::Sender<bool>)>) -> Option<Bytes> {
    match output {
        Some((output, _)) => output.read().await,
        None => std::future::pending().await,
    }
}
