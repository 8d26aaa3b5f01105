//! The machine of one process group (job-runner §5.1, diagram §8.2). It reads no output: the bytes go from the driver to the
//! log stream. It decides when to signal, when to stop reading and when the process counts as gone.

use super::{ExitStatus, ProcessEvent, ProcessSpec, SignalTarget, interrupt_signal, signal_name};
use crate::agent::{AgentCommand, AgentLog, Level, OsSignal};
use crate::limits;
use crate::machine::{Instant, RequestId, Transition, earliest};
use crate::retry::duration_text;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::time::Duration;

/// Wait between two questions whether the group still has members.
const ASK_AGAIN: Duration = Duration::from_millis(250);
/// Wait between two SIGKILLs while something survives the first (job-runner §5.6).
const KILL_AGAIN: Duration = Duration::from_secs(1);
/// How long reading goes on after a cancel that arrives during the drain (job-runner §5.8).
const HURRIED_DRAIN: Duration = Duration::from_secs(1);
/// Shortest drain under a forced stop (job-runner §5.8).
const SHORTEST_DRAIN: Duration = Duration::from_millis(100);

/// What the process is run by.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ProcessRules {
    /// Job id, for log lines.
    pub job_id: Arc<str>,
    /// Registered name of the worker, for log lines.
    pub worker: Arc<str>,
    /// The configured cancel signal.
    pub cancel_signal: OsSignal,
    /// S: from the interrupt to SIGKILL.
    pub grace: Duration,
    /// In a terminal, or with a pipe: decides the drain bound.
    pub pty: bool,
}

/// What the process tells its runner.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ProcessVerdict {
    /// exec has succeeded.
    Started,
    /// Nothing of the group exists, and nothing follows.
    SpawnFailed(String),
    /// The leader has ended. Output may still come.
    Exited(ExitStatus),
    /// Output has ended and, after an interrupt, the group is empty. Nothing follows.
    Ended,
}

/// One process group.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Process {
    id: RequestId,
    rules: ProcessRules,
    /// Under a forced stop: when the drain must be over.
    budget: Option<Instant>,
    state: State,
    late: u32,
}

/// States of job-runner §8.2. `eof`: output ended before the leader.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
enum State {
    Spawning,
    Running {
        pid: u32,
        eof: bool,
    },
    Interrupted {
        pid: u32,
        eof: bool,
        kill_at: Instant,
    },
    Killed {
        pid: u32,
        eof: bool,
        again_at: Instant,
    },
    /// Sweeping and Draining of the diagram go on side by side.
    Exited {
        status: ExitStatus,
        output: Output,
        sweep: Sweep,
    },
    Failed,
    Ended,
}

/// Reading after the leader's exit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
enum Output {
    Open { close_at: Instant },
    Closing,
    Ended,
}

/// What is left of the group after an interrupted leader's exit (job-runner §5.10).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
enum Sweep {
    /// Nothing to wait for: never interrupted, or the group is empty.
    Over,
    /// `QueryGroup` is under way.
    Asking { kill_at: Instant },
    /// The group had members; ask again.
    Alive { kill_at: Instant, ask_at: Instant },
}

impl State {
    fn name(&self) -> &'static str {
        match self {
            State::Spawning => "spawning",
            State::Running { .. } => "running",
            State::Interrupted { .. } => "interrupted",
            State::Killed { .. } => "killed",
            State::Exited { sweep: Sweep::Over, .. } => "draining",
            State::Exited { .. } => "sweeping",
            State::Failed => "failed",
            State::Ended => "ended",
        }
    }
}

impl Process {
    /// Spawns `spec` under the name `id`.
    pub fn spawn(id: RequestId, spec: ProcessSpec, rules: ProcessRules, out: &mut Vec<AgentCommand>) -> Process {
        out.push(AgentCommand::Spawn { id, spec: Box::new(spec) });
        Process { id, rules, budget: None, state: State::Spawning, late: 0 }
    }

    /// The id of the spawn.
    pub fn id(&self) -> RequestId {
        self.id
    }

    /// What happened to the process. An event of another spawn, or one that cannot come now, is counted and dropped.
    pub fn handle(&mut self, now: Instant, event: ProcessEvent, out: &mut Vec<AgentCommand>) -> Option<ProcessVerdict> {
        match (self.state.clone(), event) {
            // job-runner §5.2: `Started` only when exec has succeeded.
            (State::Spawning, ProcessEvent::Started { pid }) => {
                self.enter("Started", State::Running { pid, eof: false }, out);
                Some(ProcessVerdict::Started)
            }
            (State::Spawning, ProcessEvent::SpawnFailed(error)) => {
                self.enter("SpawnFailed", State::Failed, out);
                Some(ProcessVerdict::SpawnFailed(error))
            }
            // The two ends come in either order; the leader may close its output long before it exits.
            (State::Running { pid, eof: false }, ProcessEvent::OutputEnded { .. }) => {
                self.enter("OutputEnded", State::Running { pid, eof: true }, out);
                None
            }
            (State::Interrupted { pid, eof: false, kill_at }, ProcessEvent::OutputEnded { .. }) => {
                self.enter("OutputEnded", State::Interrupted { pid, eof: true, kill_at }, out);
                None
            }
            (State::Killed { pid, eof: false, again_at }, ProcessEvent::OutputEnded { .. }) => {
                self.enter("OutputEnded", State::Killed { pid, eof: true, again_at }, out);
                None
            }
            // job-runner §5.10.2: only an interrupted group is swept, at the end of the grace that was armed.
            (State::Running { pid, eof }, ProcessEvent::Exited(status)) => Some(self.exited(now, pid, status, eof, None, out)),
            (State::Interrupted { pid, eof, kill_at }, ProcessEvent::Exited(status)) => Some(self.exited(now, pid, status, eof, Some(kill_at), out)),
            (State::Killed { pid, eof, .. }, ProcessEvent::Exited(status)) => Some(self.exited(now, pid, status, eof, Some(now), out)),
            // W11: a signal that could not be sent leaves the ladder standing.
            (State::Interrupted { .. } | State::Killed { .. } | State::Exited { .. }, ProcessEvent::SignalFailed(error)) => {
                self.log(Level::Warn, format!("Could not signal the process of job {}: {error}", self.rules.job_id), out);
                None
            }
            (State::Exited { status, output, sweep: Sweep::Asking { .. } }, ProcessEvent::Group { alive: false }) => {
                self.enter("GroupEmpty", State::Exited { status, output, sweep: Sweep::Over }, out);
                self.ended(out)
            }
            (State::Exited { status, output, sweep: Sweep::Asking { kill_at } }, ProcessEvent::Group { alive: true }) => {
                self.group_alive(now, status, output, kill_at, out)
            }
            (State::Exited { status, output: Output::Open { .. } | Output::Closing, sweep }, ProcessEvent::OutputEnded { cut }) => {
                self.enter("OutputEnded", State::Exited { status, output: Output::Ended, sweep }, out);
                if cut && !self.rules.pty && status == ExitStatus::Code(0) {
                    // job-runner §5.8: still a clean exit.
                    self.log(Level::Warn, format!("The output of job {} was still open after its process had exited", self.rules.job_id), out);
                }
                self.ended(out)
            }
            _ => {
                self.late += 1;
                None
            }
        }
    }

    /// Sends the cancel signal to the group and arms the grace timer, once; in any state but running it does nothing
    /// (job-runner §5.6).
    pub fn interrupt(&mut self, now: Instant, out: &mut Vec<AgentCommand>) {
        let State::Running { pid, eof } = self.state else { return };
        let kill_at = now + self.rules.grace;
        self.enter("Interrupt", State::Interrupted { pid, eof, kill_at }, out);
        out.push(AgentCommand::Signal { id: self.id, signal: interrupt_signal(self.rules.cancel_signal), target: SignalTarget::Group });
        if self.rules.grace.is_zero() {
            self.kill(now, pid, eof, out);
        }
    }

    /// A cancel that arrives during the drain: nothing is signalled, but reading ends soon (W12).
    pub fn hurry(&mut self, now: Instant) {
        if let State::Exited { output: Output::Open { close_at }, .. } = &mut self.state {
            *close_at = (*close_at).min(now + HURRIED_DRAIN);
        }
    }

    /// A forced stop: whatever remains to be read or swept must be over by `until` (job-runner §5.8).
    pub fn limit(&mut self, now: Instant, until: Instant) {
        self.budget = earliest(self.budget, Some(until));
        if let State::Exited { output: Output::Open { close_at }, .. } = &mut self.state {
            *close_at = (*close_at).min(until.max(now + SHORTEST_DRAIN));
        }
    }

    /// The earliest timer.
    pub fn deadline(&self) -> Option<Instant> {
        match self.state {
            State::Interrupted { kill_at, .. } => Some(kill_at),
            State::Killed { again_at, .. } => Some(again_at),
            State::Exited { output, sweep, .. } => {
                let close_at = if let Output::Open { close_at } = output { Some(close_at) } else { None };
                let ask_at = if let Sweep::Alive { ask_at, .. } = sweep { Some(ask_at) } else { None };
                earliest(close_at, ask_at)
            }
            State::Spawning | State::Running { .. } | State::Failed | State::Ended => None,
        }
    }

    /// Fires every timer due.
    pub fn expire(&mut self, now: Instant, out: &mut Vec<AgentCommand>) {
        match self.state.clone() {
            State::Interrupted { pid, eof, kill_at } if kill_at <= now => self.kill(now, pid, eof, out),
            // The leader has not been reaped: once per second (job-runner §5.6).
            State::Killed { pid, eof, again_at } if again_at <= now => {
                self.enter("KillAgain", State::Killed { pid, eof, again_at: now + KILL_AGAIN }, out);
                out.push(AgentCommand::Signal { id: self.id, signal: OsSignal::Kill, target: SignalTarget::Tree });
            }
            State::Exited { status, output, sweep } => {
                let ask = matches!(sweep, Sweep::Alive { ask_at, .. } if ask_at <= now);
                let close = matches!(output, Output::Open { close_at } if close_at <= now);
                if close {
                    self.enter("DrainTimer", State::Exited { status, output: Output::Closing, sweep }, out);
                    out.push(AgentCommand::CloseOutput { id: self.id });
                }
                if let (State::Exited { output, sweep: Sweep::Alive { kill_at, .. }, .. }, true) = (self.state.clone(), ask) {
                    self.ask("SweepTimer", status, output, kill_at, out);
                }
            }
            _ => {}
        }
    }

    fn kill(&mut self, now: Instant, pid: u32, eof: bool, out: &mut Vec<AgentCommand>) {
        let line = format!("Job {} hasn't stopped within {}, terminating", self.rules.job_id, duration_text(self.rules.grace));
        self.log(Level::Warn, line, out);
        self.enter("GraceTimer", State::Killed { pid, eof, again_at: now + KILL_AGAIN }, out);
        out.push(AgentCommand::Signal { id: self.id, signal: OsSignal::Kill, target: SignalTarget::Tree });
    }

    fn exited(
        &mut self,
        now: Instant,
        pid: u32,
        status: ExitStatus,
        eof: bool,
        sweep: Option<Instant>,
        out: &mut Vec<AgentCommand>,
    ) -> ProcessVerdict {
        let (code, signal) = match status {
            ExitStatus::Code(code) => (code, "nil".to_owned()),
            ExitStatus::Signal(number) => (-1, signal_name(number)),
        };
        self.log(Level::Info, format!("Process with PID: {pid} finished with Exit Status: {code}, Signal: {signal}"), out);
        let bound = if self.rules.pty { limits::PTY_DRAIN } else { self.rules.grace + Duration::from_secs(1) };
        let mut close_at = now + bound;
        if let Some(until) = self.budget {
            close_at = close_at.min(until.max(now + SHORTEST_DRAIN));
        }
        let output = if eof { Output::Ended } else { Output::Open { close_at } };
        match sweep {
            None => self.enter("Exited", State::Exited { status, output, sweep: Sweep::Over }, out),
            Some(kill_at) => self.ask("Exited", status, output, kill_at, out),
        }
        ProcessVerdict::Exited(status)
    }

    /// The exit was reported; with the output ended and nothing to sweep the process is gone at once.
    pub fn ended(&mut self, out: &mut Vec<AgentCommand>) -> Option<ProcessVerdict> {
        if !matches!(self.state, State::Exited { output: Output::Ended, sweep: Sweep::Over, .. }) {
            return None;
        }
        self.enter("Gone", State::Ended, out);
        Some(ProcessVerdict::Ended)
    }

    fn ask(&mut self, event: &'static str, status: ExitStatus, output: Output, kill_at: Instant, out: &mut Vec<AgentCommand>) {
        self.enter(event, State::Exited { status, output, sweep: Sweep::Asking { kill_at } }, out);
        out.push(AgentCommand::QueryGroup { id: self.id });
    }

    /// The group is known to have members at this instant, so it may be signalled although the leader was reaped (I37).
    fn group_alive(
        &mut self,
        now: Instant,
        status: ExitStatus,
        output: Output,
        mut kill_at: Instant,
        out: &mut Vec<AgentCommand>,
    ) -> Option<ProcessVerdict> {
        if kill_at > now {
            let sweep = Sweep::Alive { kill_at, ask_at: kill_at.min(now + ASK_AGAIN) };
            self.enter("GroupAlive", State::Exited { status, output, sweep }, out);
            return None;
        }
        kill_at = now + KILL_AGAIN;
        // Past a forced stop's budget nobody waits for what even SIGKILL does not end.
        let sweep = match self.budget {
            Some(until) if until <= now => Sweep::Over,
            _ => Sweep::Alive { kill_at, ask_at: now + ASK_AGAIN },
        };
        self.enter("Sweep", State::Exited { status, output, sweep }, out);
        out.push(AgentCommand::Signal { id: self.id, signal: OsSignal::Kill, target: SignalTarget::Group });
        self.ended(out)
    }

    fn enter(&mut self, event: &'static str, next: State, out: &mut Vec<AgentCommand>) {
        let (from, to) = (self.state.name(), next.name());
        out.push(AgentCommand::Transition(Transition { owner: self.id.owner, machine: "process", from, event, to }));
        self.state = next;
    }

    fn log(&self, level: Level, text: String, out: &mut Vec<AgentCommand>) {
        out.push(AgentCommand::Log(AgentLog { level, worker: Some(self.rules.worker.clone()), text, fields: Vec::new() }));
    }
}
