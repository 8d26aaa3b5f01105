//! The life of one job (specification: job-runner-and-process; diagram §8.1, events and commands §9.1).
//!
//! The states in the order of a normal life are in [`State`]; what happens in them is told by room: `before.rs` up to the
//! spawn, `live.rs` while there is a process, `finish.rs` from the last output to the report.

use super::poll::Poll;
use super::retrying::Retrying;
use super::{CancelKind, Causes, JobEnd, JobFiles, JobResult};
use crate::agent::{AgentCommand, AgentConfig, AgentEvent, AgentLog, Level};
use crate::api::{AcceptedJob, ApiCall, FinishRequest, Operation, Session, TracingPolicy};
use crate::machine::{Instant, Owner, RequestId, RequestIds, Transition, earliest};
use crate::process::Process;
use crate::rng::Rng;
use crate::wall::{WallClock, WallTime};
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::time::Duration;

/// What a runner reads from outside at every call.
#[derive(Clone, Copy, Debug)]
pub struct JobContext<'a> {
    /// The agent's configuration.
    pub config: &'a AgentConfig,
    /// Maps `now` to wall-clock time.
    pub clock: &'a WallClock,
}

/// What a job is run with.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct JobStart {
    /// `Owner::Job`: the ids of all requests carry it.
    pub owner: Owner,
    /// Registered name of the worker, for log lines.
    pub worker: Arc<str>,
    /// The job as accepted.
    pub job: AcceptedJob,
    /// The worker's endpoint, credential and headers at the accept. A job token replaces the credential.
    pub session: Session,
    /// P of the state poll; zero means 1 s (W1).
    pub status_interval: Duration,
    /// Tracing policy of the register answer.
    pub tracing: Option<TracingPolicy>,
    /// The worker disconnects after this job.
    pub ignore_agent_in_dispatches: bool,
    /// A forced stop was requested before the runner began (job-runner §7.6, W28).
    pub stopped: bool,
    /// The job was acquired, not accepted.
    pub acquired: bool,
}

impl JobStart {
    /// URL of the job, for log lines.
    pub(super) fn job_url(&self) -> String {
        format!("{}#{}", self.job.env.get("BUILDKITE_BUILD_URL").unwrap_or_default(), self.job.id)
    }
}

/// The machine that owns one job.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct JobRunner {
    pub(super) start: JobStart,
    pub(super) ids: RequestIds,
    pub(super) rng: Rng,
    /// S.
    pub(super) grace: Duration,
    /// C.
    pub(super) cleanup: Duration,
    /// Cancels requested so far.
    pub(super) causes: Causes,
    pub(super) files: Files,
    /// When start was first sent.
    pub(super) started_at: (Instant, WallTime),
    /// A poll that was in flight when the leader's exit was observed; it was aborted, but not completed yet.
    pub(super) straggler: Option<RequestId>,
    pub(super) state: State,
    /// Completions and events that came for nobody.
    pub(super) late: u32,
}

/// What preparing has left behind.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(super) enum Files {
    /// Nothing was written.
    None,
    /// Preparing failed; `touched`: writing was tried, so something may have to be removed.
    Failed { error: String, touched: bool },
    /// All written.
    Ready(Box<JobFiles>),
}

/// Job-runner §8.1.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(super) enum State {
    /// Made, nothing done yet.
    Begun,
    /// The env files are being written.
    Preparing { request: RequestId },
    /// Start is being reported.
    Starting { call: Retrying },
    /// Start was refused: the files are being removed.
    Abandoned { request: RequestId, error: String },
    /// The signature is being checked.
    Verifying { request: RequestId },
    /// The pre-bootstrap hook runs.
    Hook { request: RequestId, ladder: HookLadder },
    /// The executor is being spawned.
    Spawning { process: Process },
    /// The executor runs.
    Running { process: Process, poll: Poll },
    /// It was interrupted. `poll` goes on if it had begun.
    Cancelling { process: Process, poll: Option<Poll> },
    /// The leader has exited: the result is settled, output may still come.
    Draining { process: Process, result: JobResult },
    /// The log is being flushed. `finished_at` is when clean-up began.
    Flushing { result: JobResult, finished_at: (Instant, WallTime) },
    /// The files are being removed.
    Removing { request: RequestId, report: Report },
    /// Finish is being reported.
    Finishing { body: Box<FinishRequest>, call: Retrying, result: JobResult },
    /// Reported, but the last poll has not completed yet.
    Closing { end: JobEnd },
    /// Over.
    Done,
}

/// What finish will say.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(super) struct Report {
    pub(super) result: JobResult,
    pub(super) finished_at: (Instant, WallTime),
    pub(super) chunks_failed: u64,
}

/// What was sent to a running hook.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(super) enum HookLadder {
    Undisturbed,
    Interrupted { kill_at: Instant },
    Killed,
}

impl State {
    pub(super) fn name(&self) -> &'static str {
        match self {
            State::Begun => "begun",
            State::Preparing { .. } => "preparing",
            State::Starting { .. } => "starting",
            State::Abandoned { .. } => "abandoned",
            State::Verifying { .. } => "verifying",
            State::Hook { .. } => "hook",
            State::Spawning { .. } => "spawning",
            State::Running { .. } => "running",
            State::Cancelling { .. } => "cancelling",
            State::Draining { .. } => "draining",
            State::Flushing { .. } => "flushing",
            State::Removing { .. } => "removing",
            State::Finishing { .. } => "finishing",
            State::Closing { .. } => "closing",
            State::Done => "done",
        }
    }
}

impl JobRunner {
    /// Takes over an accepted job and begins to prepare it (job-runner §2.1).
    pub fn begin(now: Instant, mut start: JobStart, rng: Rng, cx: &JobContext<'_>, out: &mut Vec<AgentCommand>) -> JobRunner {
        // The job token authorises every request of this job (job-runner §0).
        if !start.job.token.is_empty() {
            start.session.credential = start.job.token.clone();
        }
        let stopped = start.stopped;
        let mut runner = JobRunner {
            ids: RequestIds::new(start.owner),
            rng,
            grace: cx.config.cancel_signal_timeout,
            cleanup: cx.config.cancel_cleanup_timeout,
            causes: Causes::default(),
            files: Files::None,
            started_at: (now, cx.clock.at(now)),
            straggler: None,
            state: State::Begun,
            late: 0,
            start,
        };
        runner.log(Level::Info, format!("Starting job at {}", runner.start.job_url()), out);
        if stopped {
            runner.stop(now, cx, out);
        }
        runner.prepare(now, cx, out);
        runner
    }

    /// Feeds an event of this job. `Some`: the job is over and the runner can be dropped.
    pub fn handle(&mut self, now: Instant, event: AgentEvent, cx: &JobContext<'_>, out: &mut Vec<AgentCommand>) -> Option<JobEnd> {
        match event {
            AgentEvent::Completed { id, outcome } => self.completed(now, id, outcome, cx, out),
            AgentEvent::JobFilesWritten { id, result } => self.files_written(now, id, result, cx, out),
            AgentEvent::JobFilesRemoved { id, own_status } => self.files_removed(now, id, own_status, out),
            AgentEvent::Verified { id, verdict } => self.verified(now, id, verdict, cx, out),
            AgentEvent::HookEnded { id, end } => self.hook_ended(now, id, end, cx, out),
            AgentEvent::Process { id, event } => self.process_event(now, id, event, cx, out),
            AgentEvent::LogDrained { job, failed, .. } if job == self.start.owner => self.log_drained(now, failed, out),
            _ => self.late(),
        }
    }

    /// A forced stop of the worker. Idempotent, and effective in every state (job-runner §7.3, §7.6, §7.7).
    pub fn stop(&mut self, now: Instant, _cx: &JobContext<'_>, out: &mut Vec<AgentCommand>) -> Option<JobEnd> {
        self.cancel(now, CancelKind::AgentStop, out)
    }

    /// The earliest timer.
    pub fn deadline(&self) -> Option<Instant> {
        match &self.state {
            State::Starting { call } => call.deadline(self.give_up_at()),
            // The force timer bounds an attempt that hangs (start-and-worker §14, T4): only retries end with the budget.
            State::Finishing { call, .. } => call.deadline(None),
            State::Hook { ladder: HookLadder::Interrupted { kill_at }, .. } => Some(*kill_at),
            State::Running { process, poll } => earliest(process.deadline(), poll.deadline()),
            State::Cancelling { process, poll } => earliest(process.deadline(), poll.as_ref().and_then(Poll::deadline)),
            State::Draining { process, .. } => process.deadline(),
            _ => None,
        }
    }

    /// Fires every timer due at `now`.
    pub fn expire(&mut self, now: Instant, _cx: &JobContext<'_>, out: &mut Vec<AgentCommand>) -> Option<JobEnd> {
        if self.deadline().is_none_or(|at| at > now) {
            return None;
        }
        match &self.state {
            State::Starting { .. } => self.start_timer(now, out),
            State::Finishing { .. } => self.finish_timer(now, out),
            State::Hook { .. } => self.hook_timer(out),
            _ => {
                self.live_timer(now, out);
                None
            }
        }
    }

    /// Id of the job.
    pub fn job_id(&self) -> &Arc<str> {
        &self.start.job.id
    }

    /// T + S + C of a forced stop: everything has to be over (job-runner §7.5).
    pub(super) fn stop_end(&self) -> Option<Instant> {
        self.causes.stop().map(|at| at + self.grace + self.cleanup)
    }

    /// One second earlier: drain, flush, and calls that precede finish give up, so that finish and disconnect have their turn.
    pub(super) fn give_up_at(&self) -> Option<Instant> {
        self.stop_end().map(|end| end - Duration::from_secs(1))
    }

    pub(super) fn call(&mut self, id: RequestId, operation: Operation, limit: Duration, timeout_ms: Option<u64>, out: &mut Vec<AgentCommand>) {
        let call = ApiCall { session: self.start.session.clone(), operation, limit, timeout_ms };
        out.push(AgentCommand::Call { id, call: Box::new(call) });
    }

    pub(super) fn enter(&mut self, event: &'static str, next: State, out: &mut Vec<AgentCommand>) {
        self.moved(event, next.name(), out);
        self.state = next;
    }

    /// A transition that leaves the state as it is.
    pub(super) fn stay(&self, event: &'static str, out: &mut Vec<AgentCommand>) {
        self.moved(event, self.state.name(), out);
    }

    fn moved(&self, event: &'static str, to: &'static str, out: &mut Vec<AgentCommand>) {
        let from = self.state.name();
        out.push(AgentCommand::Transition(Transition { owner: self.start.owner, machine: "runner", from, event, to }));
    }

    pub(super) fn log(&self, level: Level, text: String, out: &mut Vec<AgentCommand>) {
        self.log_with(level, text, Vec::new(), out);
    }

    pub(super) fn log_with(&self, level: Level, text: String, fields: Vec<(&'static str, String)>, out: &mut Vec<AgentCommand>) {
        out.push(AgentCommand::Log(AgentLog { level, worker: Some(self.start.worker.clone()), text, fields }));
    }

    /// Writes a line of the runner into the job log; `line` ends in LF.
    pub(super) fn job_log(&self, line: String, out: &mut Vec<AgentCommand>) {
        out.push(AgentCommand::LogLine { job: self.start.owner, line: line.into() });
    }

    /// An event that nobody waits for.
    pub(super) fn late(&mut self) -> Option<JobEnd> {
        self.late += 1;
        None
    }
}
