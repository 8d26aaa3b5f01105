//! One child of the executor: running → (interrupted → killed) → exited → drained, with the time it may take
//! (specification: bootstrap §3, §14; job-runner §5.10).

use super::failure::Failure;
use super::job::Job;
use super::vocabulary::{ChildEvent, ExecSpec, ExecutorCommand, StartFailure};
use crate::agent::OsSignal;
use crate::limits::PTY_DRAIN;
use crate::machine::{Instant, RequestId, earliest};
use crate::process::ExitStatus;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// How long output is still read after the exit when the job was cancelled: what comes later is nobody's last word.
const CANCELLED_DRAIN: Duration = Duration::from_secs(1);

/// How long a step may run after a cancellation (bootstrap §14.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(super) enum Budget {
    /// C: refused once the job is cancelled, interrupted when it becomes cancelled.
    Cancellable,
    /// G-job: until grace after the cancellation.
    Job,
    /// G-own: until grace after the later of the cancellation and the start of the step.
    Own {
        /// When the step started.
        started: Instant,
    },
}

impl Budget {
    /// When it ends, once the job is cancelled.
    fn ends(self, job: &Job) -> Option<Instant> {
        let cancelled = job.cancel?.at;
        match self {
            Budget::Cancellable => None,
            Budget::Job => Some(cancelled + job.settings.grace()),
            Budget::Own { started } => Some(cancelled.max(started) + job.settings.grace()),
        }
    }

    /// Whether a step of this budget may not start any more.
    pub(super) fn refuses(self, job: &Job, now: Instant) -> bool {
        match self {
            Budget::Cancellable => job.cancel.is_some(),
            _ => self.ends(job).is_some_and(|end| now >= end),
        }
    }
}

/// A child that was asked for.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(super) struct Child {
    id: RequestId,
    pty: bool,
    budget: Budget,
    started: Instant,
    state: State,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
enum State {
    Running,
    /// The cancel signal was sent.
    Interrupted {
        kill_at: Instant,
    },
    /// SIGKILL was sent.
    Killed,
    /// The leader has ended, output is still read.
    Draining {
        status: ExitStatus,
        close_at: Instant,
        /// Other members of an interrupted group are alive: they are killed at this time.
        sweep_at: Option<Instant>,
    },
    /// As `Draining`, after `CloseOutput`.
    Closing {
        status: ExitStatus,
        sweep_at: Option<Instant>,
    },
}

/// How a child ended.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(super) enum ChildEnd {
    /// There was no time left for it.
    Refused,
    NotStarted(StartFailure),
    Exited {
        status: ExitStatus,
        captured: String,
    },
}

impl Child {
    /// Asks for a process, unless the budget refuses it: a cancellation may have come since the step was decided.
    pub(super) fn start(job: &mut Job, now: Instant, spec: ExecSpec, budget: Budget, out: &mut Vec<ExecutorCommand>) -> Result<Child, Failure> {
        job.admit(budget, now)?;
        let id = job.ids.issue();
        let child = Child { id, pty: spec.pty, budget, started: now, state: State::Running };
        out.push(ExecutorCommand::Exec { id, spec: Box::new(spec) });
        Ok(child)
    }

    pub(super) fn id(&self) -> RequestId {
        self.id
    }

    /// The job has just been cancelled: a cancellable child is interrupted (bootstrap §14.1).
    pub(super) fn cancel(&mut self, job: &Job, now: Instant, out: &mut Vec<ExecutorCommand>) {
        match self.state {
            State::Running if self.budget == Budget::Cancellable => {
                let signal = job.settings.cancel_signal;
                out.push(ExecutorCommand::Signal { id: self.id, signal });
                self.state = if signal == OsSignal::Kill { State::Killed } else { State::Interrupted { kill_at: now + job.settings.grace() } };
            }
            // A cancel during the drain ends the wait early.
            State::Draining { ref mut close_at, .. } => *close_at = (*close_at).min(now + CANCELLED_DRAIN),
            _ => {}
        }
    }

    pub(super) fn handle(&mut self, job: &mut Job, now: Instant, event: ChildEvent, out: &mut Vec<ExecutorCommand>) -> Option<ChildEnd> {
        match (&self.state, event) {
            (State::Running | State::Interrupted { .. } | State::Killed, ChildEvent::NotStarted(why)) => {
                return Some(ChildEnd::NotStarted(why));
            }
            (State::Running | State::Killed, ChildEvent::Exited { status, .. }) => {
                self.state = State::Draining { status, close_at: self.close_at(job, now), sweep_at: None };
            }
            // bootstrap W18, job-runner §5.10: the timer stays armed while the group has members.
            (State::Interrupted { kill_at }, ChildEvent::Exited { status, group_alive }) => {
                let sweep_at = group_alive.then_some(*kill_at);
                self.state = State::Draining { status, close_at: self.close_at(job, now), sweep_at };
            }
            // bootstrap §3.7: an interrupt that cannot be sent is followed by SIGKILL at once.
            (State::Interrupted { .. }, ChildEvent::SignalFailed) => self.kill(out),
            (State::Draining { status, sweep_at, .. } | State::Closing { status, sweep_at }, ChildEvent::Ended { captured }) => {
                match *sweep_at {
                    Some(at) => job.sweeps.push((self.id, at)),
                    None => out.push(ExecutorCommand::Reap { id: self.id }),
                }
                let took = now.since(self.started);
                job.debug(out, || format!("↳ Command completed in {took:?}"));
                return Some(ChildEnd::Exited { status: *status, captured });
            }
            _ => job.late += 1,
        }
        None
    }

    /// When reading ends at the latest (bootstrap §3.4, §3.5).
    fn close_at(&self, job: &Job, now: Instant) -> Instant {
        let limit = if self.pty { PTY_DRAIN } else { job.settings.grace() + Duration::from_secs(1) };
        now + if job.cancel.is_some() { limit.min(CANCELLED_DRAIN) } else { limit }
    }

    fn kill(&mut self, out: &mut Vec<ExecutorCommand>) {
        out.push(ExecutorCommand::Signal { id: self.id, signal: OsSignal::Kill });
        self.state = State::Killed;
    }

    pub(super) fn deadline(&self, job: &Job) -> Option<Instant> {
        match self.state {
            State::Running => self.budget.ends(job),
            State::Interrupted { kill_at } => Some(kill_at),
            State::Killed => None,
            State::Draining { close_at, sweep_at, .. } => earliest(Some(close_at), sweep_at),
            State::Closing { sweep_at, .. } => sweep_at,
        }
    }

    pub(super) fn expire(&mut self, job: &Job, now: Instant, out: &mut Vec<ExecutorCommand>) {
        match self.state {
            // bootstrap W16: when a budget ends nothing is left for a second grace.
            State::Running if self.budget.ends(job).is_some_and(|end| end <= now) => self.kill(out),
            State::Interrupted { kill_at } if kill_at <= now => self.kill(out),
            State::Draining { status, close_at, mut sweep_at } => {
                if sweep_at.is_some_and(|at| at <= now) {
                    out.push(ExecutorCommand::Signal { id: self.id, signal: OsSignal::Kill });
                    sweep_at = None;
                }
                self.state = if close_at <= now {
                    out.push(ExecutorCommand::CloseOutput { id: self.id });
                    State::Closing { status, sweep_at }
                } else {
                    State::Draining { status, close_at, sweep_at }
                };
            }
            State::Closing { status, sweep_at: Some(at) } if at <= now => {
                out.push(ExecutorCommand::Signal { id: self.id, signal: OsSignal::Kill });
                self.state = State::Closing { status, sweep_at: None };
            }
            _ => {}
        }
    }
}
