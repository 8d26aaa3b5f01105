//! While there is a process: running, cancelling, draining (job-runner §2.1 steps 12–14, §5, §7).

use super::runner::State;
use super::{CancelKind, JobContext, JobEnd, JobResult, JobRunner};
use crate::agent::{AgentCommand, Level};
use crate::api::{Operation, Outcome, Reply};
use crate::machine::{Instant, RequestId};
use crate::process::{ExitStatus, Process, ProcessEvent, ProcessVerdict};
use crate::retry::duration_text;

use super::poll::Poll;
use super::retrying::Phase;

impl JobRunner {
    /// A cancel request of any kind, from whatever source (job-runner §7). Later requests of the same kind do nothing.
    pub fn cancel(&mut self, now: Instant, kind: CancelKind, out: &mut Vec<AgentCommand>) -> Option<JobEnd> {
        let first = self.causes.is_empty();
        if matches!(self.state, State::Done | State::Abandoned { .. }) || !self.causes.add(now, kind) {
            return None;
        }
        let (id, reason) = (self.start.job.id.clone(), kind.reason_text());
        let line = if self.is_over() {
            format!("Job {id} has already ended, there is nothing to cancel ({reason})")
        } else if first {
            format!("Canceling job {id} with a signal grace period of {} ({reason})", duration_text(self.grace))
        } else {
            format!("Job {id} is already being canceled ({reason})")
        };
        self.log(Level::Info, line, out);
        let limit = if kind == CancelKind::AgentStop { self.give_up_at() } else { None };
        match &mut self.state {
            State::Running { process, poll } => {
                let (process, poll) = (process.clone(), Some(poll.clone()));
                self.enter(kind.event(), State::Cancelling { process, poll }, out);
                self.interrupt(now, out);
                None
            }
            State::Cancelling { process, .. } | State::Spawning { process } => {
                if let Some(until) = limit {
                    process.limit(now, until);
                }
                self.stay(kind.event(), out);
                None
            }
            State::Draining { process, .. } => {
                process.hurry(now);
                if let Some(until) = limit {
                    process.limit(now, until);
                }
                self.stay(kind.event(), out);
                None
            }
            State::Hook { .. } => {
                self.stay(kind.event(), out);
                self.interrupt_hook(now, out);
                if self.grace.is_zero() { self.hook_timer(out) } else { None }
            }
            // job-runner §7.6: no attempt is in flight, and no other is made.
            State::Starting { call } if matches!(call.phase, Phase::Waiting(_)) => {
                self.abandon(kind.event(), format!("the job was canceled before it could be started ({reason})"), out)
            }
            State::Flushing { .. } => {
                self.stay(kind.event(), out);
                if limit.is_some() {
                    self.shorten_flush(now, out);
                }
                None
            }
            State::Finishing { .. } => {
                self.stay(kind.event(), out);
                self.shorten_finish(out)
            }
            _ => {
                self.stay(kind.event(), out);
                None
            }
        }
    }

    /// Whether the exit was observed, or no process will exist any more: a cancel then changes nothing (job-runner §7.7).
    fn is_over(&self) -> bool {
        matches!(
            self.state,
            State::Draining { .. } | State::Flushing { .. } | State::Removing { .. } | State::Finishing { .. } | State::Closing { .. }
        )
    }

    /// Marker, then interrupt, then the grace timer of the process (job-runner §7.3).
    fn interrupt(&mut self, now: Instant, out: &mut Vec<AgentCommand>) {
        let until = self.give_up_at();
        let State::Cancelling { process, .. } = &mut self.state else { return };
        if self.causes.first() == Some(CancelKind::Timeout) {
            out.push(AgentCommand::WriteMarker { job: self.start.owner });
        }
        if let Some(until) = until {
            process.limit(now, until);
        }
        process.interrupt(now, out);
    }

    pub(super) fn process_event(
        &mut self,
        now: Instant,
        id: RequestId,
        event: ProcessEvent,
        cx: &JobContext<'_>,
        out: &mut Vec<AgentCommand>,
    ) -> Option<JobEnd> {
        let verdict = match self.process() {
            Some(process) if process.id() == id => process.handle(now, event, out),
            _ => return self.late(),
        };
        match verdict? {
            ProcessVerdict::Started => self.process_started(now, out),
            // Not modified by a pending cancel (job-runner §2.1, step 12).
            ProcessVerdict::SpawnFailed(error) => {
                self.job_log(format!("Error running job: {error}\n"), out);
                self.flush("SpawnFailed", now, JobResult::without_process("process_run_error"), cx, out)
            }
            ProcessVerdict::Exited(status) => self.exited(now, status, cx, out),
            ProcessVerdict::Ended => self.ended(now, cx, out),
        }
    }

    fn process(&mut self) -> Option<&mut Process> {
        match &mut self.state {
            State::Spawning { process } | State::Running { process, .. } | State::Cancelling { process, .. } | State::Draining { process, .. } => {
                Some(process)
            }
            _ => None,
        }
    }

    fn process_started(&mut self, now: Instant, out: &mut Vec<AgentCommand>) -> Option<JobEnd> {
        let State::Spawning { process } = &self.state else { return self.late() };
        let process = process.clone();
        if self.causes.is_empty() {
            let poll = Poll::begin(now, self.start.status_interval, &mut self.rng);
            self.enter("Started", State::Running { process, poll }, out);
            out.push(AgentCommand::LogProcessStarted { job: self.start.owner });
        } else {
            // job-runner §7.6, spawn in flight: the normal sequence from here.
            self.enter("Started", State::Cancelling { process, poll: None }, out);
            out.push(AgentCommand::LogProcessStarted { job: self.start.owner });
            self.interrupt(now, out);
        }
        None
    }

    /// The exit was observed: the result is what it is from now on (W12).
    fn exited(&mut self, now: Instant, status: ExitStatus, cx: &JobContext<'_>, out: &mut Vec<AgentCommand>) -> Option<JobEnd> {
        let (process, poll) = match &self.state {
            State::Running { process, poll } => (process.clone(), poll.in_flight()),
            State::Cancelling { process, poll } => (process.clone(), poll.as_ref().and_then(Poll::in_flight)),
            _ => return self.late(),
        };
        let result = JobResult::of_process(status, &self.causes);
        self.enter("Exited", State::Draining { process, result }, out);
        if let Some(id) = poll {
            self.straggler = Some(id);
            out.push(AgentCommand::AbortCall { id });
        }
        match self.process().and_then(|process| process.ended(out)) {
            Some(_) => self.ended(now, cx, out),
            None => None,
        }
    }

    fn ended(&mut self, now: Instant, cx: &JobContext<'_>, out: &mut Vec<AgentCommand>) -> Option<JobEnd> {
        let State::Draining { result, .. } = &self.state else { return self.late() };
        let result = result.clone();
        self.flush("OutputEnded", now, result, cx, out)
    }

    /// Routes the answer to a call to whoever made it.
    pub(super) fn completed(
        &mut self,
        now: Instant,
        id: RequestId,
        outcome: Outcome,
        cx: &JobContext<'_>,
        out: &mut Vec<AgentCommand>,
    ) -> Option<JobEnd> {
        if self.straggler == Some(id) {
            self.straggler = None;
            if let State::Closing { end } = &self.state {
                let end = end.clone();
                self.enter("StateAnswer", State::Done, out);
                return Some(end);
            }
            return self.poll_answer(now, &outcome, out);
        }
        match &mut self.state {
            State::Starting { call } if call.awaits(id) => self.start_answer(now, &outcome, cx, out),
            State::Finishing { call, .. } if call.awaits(id) => self.finish_answer(now, &outcome, out),
            State::Running { poll, .. } | State::Cancelling { poll: Some(poll), .. } if poll.in_flight() == Some(id) => {
                poll.answered(now, &mut self.rng);
                self.poll_answer(now, &outcome, out)
            }
            _ => self.late(),
        }
    }

    /// job-runner §7.1: four states and 401 mean something, everything else is left to the next poll.
    fn poll_answer(&mut self, now: Instant, outcome: &Outcome, out: &mut Vec<AgentCommand>) -> Option<JobEnd> {
        self.stay("StateAnswer", out);
        let kind = match outcome {
            Outcome::Ok(Reply::State(state)) => CancelKind::of_state(state),
            Outcome::Ok(_) | Outcome::Aborted => None,
            failure if failure.status() == Some(401) => {
                self.log(Level::Error, format!("Invalid access token, cancelling job {}", self.start.job.id), out);
                Some(CancelKind::InvalidToken)
            }
            failure => {
                self.log(Level::Warn, format!("Problem with getting job state {} ({})", self.start.job.id, failure.text()), out);
                None
            }
        };
        self.cancel(now, kind?, out)
    }

    /// Timers of the process and of the poll, in order of deadline.
    pub(super) fn live_timer(&mut self, now: Instant, out: &mut Vec<AgentCommand>) {
        let poll_first = match &self.state {
            State::Running { process, poll } | State::Cancelling { process, poll: Some(poll) } => match (poll.deadline(), process.deadline()) {
                (Some(poll), Some(process)) => poll < process,
                _ => false,
            },
            _ => false,
        };
        if poll_first {
            self.poll_timer(now, out);
        }
        if let Some(process) = self.process() {
            process.expire(now, out);
        }
        if !poll_first {
            self.poll_timer(now, out);
        }
    }

    fn poll_timer(&mut self, now: Instant, out: &mut Vec<AgentCommand>) {
        if let State::Running { poll, .. } | State::Cancelling { poll: Some(poll), .. } = &mut self.state
            && poll.expire(now, &mut self.rng)
        {
            let id = self.ids.issue();
            poll.sent(id);
            let limit = poll.limit();
            self.stay("PollTimer", out);
            self.call(id, Operation::JobState { job: self.start.job.id.clone() }, limit, None, out);
        }
    }
}
