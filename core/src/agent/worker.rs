//! One worker: connect, serve, drain, disconnect (specification: start-and-worker §9.1, §9.2, §9.11).

use super::accept::{Accept, AcceptVerdict};
use super::acquire::{Acquire, AcquireVerdict};
use super::active::{ActiveJob, Begin};
use super::desk::{Cx, Desk};
use super::health::Shown;
use super::heartbeat::{Heartbeat, HeartbeatVerdict};
use super::idle::Mark;
use super::retrying::Retrying;
use super::serving::Serving;
use super::{AgentEvent, Level, WorkerError};
use crate::api::{Operation, Outcome, Registered, Session, StreamEnd, StreamMessage};
use crate::job::JobEnd;
#[cfg(test)]
use crate::limits;
use crate::machine::{Instant, RequestId, earliest};
use crate::retry::{self, Next};
use crate::rng::Rng;
use serde::{Deserialize, Serialize};

/// How far a worker was told to stop. It only rises.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub(crate) enum Stop {
    /// Not at all.
    None,
    /// After the current job.
    Graceful,
    /// The current job is cancelled.
    Forced,
}

/// One worker of the pool.
#[derive(Clone, Debug, PartialEq, Hash, Serialize, Deserialize)]
pub(crate) struct Worker {
    pub(super) desk: Desk,
    pub(super) stop: Stop,
    /// Jobs begun.
    pub(super) generation: u32,
    pub(super) phase: Phase,
    /// What was last shown to the status page.
    pub(super) shown: Shown,
    /// Completions that nobody waited for.
    late: u32,
}

#[derive(Clone, Debug, PartialEq, Hash, Serialize, Deserialize)]
pub(super) enum Phase {
    /// Registered.
    Created,
    /// `POST connect`.
    Connecting {
        retrying: Retrying,
        /// A stop was requested: the answer is awaited until then.
        hurry: Option<Instant>,
    },
    /// Connected: heartbeats, and what is done beside them.
    Live(Box<Live>),
    /// `POST disconnect`.
    Disconnecting(Retrying),
    /// Everything is settled but the completions of aborted exchanges.
    Closing,
    /// Over.
    Finished,
}

#[derive(Clone, Debug, PartialEq, Hash, Serialize, Deserialize)]
pub(super) struct Live {
    /// When the connect succeeded.
    pub(super) since: Instant,
    pub(super) heartbeat: Heartbeat,
    pub(super) stage: Stage,
}

#[derive(Clone, Debug, PartialEq, Hash, Serialize, Deserialize)]
pub(super) enum Stage {
    /// Acquire mode, first half.
    Acquiring(Acquire),
    /// Acquire mode, second half.
    RunningAcquired(ActiveJob),
    /// The ordinary life.
    Serving(Serving),
    /// No new work; what is in hand is brought to its end.
    Draining(Drain),
}

#[derive(Clone, Debug, PartialEq, Hash, Serialize, Deserialize)]
pub(super) enum Drain {
    /// The accept in flight is awaited.
    Accepting(Accept),
    /// The job is.
    Running(ActiveJob),
    /// The heartbeat in flight is (R18).
    Heartbeat,
}

impl Stage {
    fn deadline(&self) -> Option<Instant> {
        match self {
            Stage::Acquiring(acquire) => acquire.deadline(),
            Stage::RunningAcquired(job) | Stage::Draining(Drain::Running(job)) => job.deadline(),
            Stage::Serving(serving) => serving.deadline(),
            Stage::Draining(Drain::Accepting(_) | Drain::Heartbeat) => None,
        }
    }
}

impl Worker {
    /// A registered worker.
    pub(crate) fn new(index: u32, registered: Registered, defaults: &Session, rng: Rng) -> Worker {
        let desk = Desk::new(index, registered, defaults, rng);
        Worker { desk, stop: Stop::None, generation: 0, phase: Phase::Created, shown: Shown::default(), late: 0 }
    }

    pub(super) fn name(&self) -> &'static str {
        match &self.phase {
            Phase::Created => "Created",
            Phase::Connecting { .. } => "Connecting",
            Phase::Live(live) => match live.stage {
                Stage::Acquiring(_) => "Acquiring",
                Stage::RunningAcquired(_) => "RunningAcquired",
                Stage::Serving(_) => "Serving",
                Stage::Draining(_) => "Draining",
            },
            Phase::Disconnecting(_) => "Disconnecting",
            Phase::Closing => "Closing",
            Phase::Finished => "Finished",
        }
    }

    /// Not connected yet, and not given up.
    pub(crate) fn is_connecting(&self) -> bool {
        matches!(self.phase, Phase::Created | Phase::Connecting { .. })
    }

    pub(crate) fn is_finished(&self) -> bool {
        matches!(self.phase, Phase::Finished)
    }

    pub(crate) fn mark(&self) -> Mark {
        self.desk.mark
    }

    pub(crate) fn errors(&self) -> &[WorkerError] {
        &self.desk.errors
    }

    pub(crate) fn late(&self) -> u32 {
        self.late
    }

    /// The job that is ours, from a successful accept or acquire to its end.
    pub(super) fn job(&self) -> Option<&ActiveJob> {
        let Phase::Live(live) = &self.phase else { return None };
        match &live.stage {
            Stage::RunningAcquired(job) | Stage::Draining(Drain::Running(job)) => Some(job),
            Stage::Serving(serving) => serving.job(),
            Stage::Acquiring(_) | Stage::Draining(Drain::Accepting(_) | Drain::Heartbeat) => None,
        }
    }

    /// Queue lengths and their limits, for the contract suite.
    #[cfg(test)]
    pub(crate) fn sizes(&self) -> [(&'static str, usize, usize); 2] {
        let queued = match &self.phase {
            Phase::Live(live) => match &live.stage {
                Stage::Serving(serving) => serving.queued(),
                _ => 0,
            },
            _ => 0,
        };
        [("queued jobs", queued, limits::QUEUED_JOBS), ("remembered jobs", self.desk.accepted.len(), limits::REMEMBERED_JOBS)]
    }

    /// Starts to connect.
    pub(crate) fn begin(&mut self, now: Instant, cx: &mut Cx<'_>) {
        self.desk.tell_headers(cx);
        self.desk.log(Level::Info, "Connecting to Buildkite...", cx);
        let retrying = Retrying::begin(&retry::CONNECT, now, Operation::Connect, &mut self.desk, cx);
        self.enter(Phase::Connecting { retrying, hurry: None }, "start", cx);
        self.show(cx);
    }

    /// A stop (start-and-worker §9.11).
    pub(crate) fn stop(&mut self, now: Instant, level: Stop, cx: &mut Cx<'_>) {
        self.stopped(now, level, cx);
        self.show(cx);
    }

    /// The idle monitor has fired.
    pub(crate) fn idle_fired(&mut self, now: Instant, cx: &mut Cx<'_>) {
        if let Phase::Live(live) = &mut self.phase
            && let Stage::Serving(serving) = &mut live.stage
        {
            let leave = serving.idle_fired(now, &mut self.desk, cx);
            self.leave(now, leave, cx);
        }
        self.show(cx);
    }

    /// A completion with this worker as its owner.
    pub(crate) fn completed(&mut self, now: Instant, id: RequestId, outcome: Outcome, cx: &mut Cx<'_>) {
        if self.gone(id, cx) {
            return;
        }
        match &mut self.phase {
            Phase::Connecting { retrying, .. } if retrying.awaits(id) => self.connect_answered(now, &outcome, cx),
            Phase::Live(live) if live.heartbeat.awaits(id) => match live.heartbeat.completed(now, &outcome, &mut self.desk, cx) {
                HeartbeatVerdict::Nothing => {}
                HeartbeatVerdict::Rejected(error) => {
                    self.desk.errors.push(WorkerError::Other(error));
                    self.stopped(now, Stop::Forced, cx);
                }
                HeartbeatVerdict::Gone => self.disconnect(now, "heartbeats stopped", cx),
            },
            Phase::Live(live) => match &mut live.stage {
                Stage::Acquiring(acquire) if acquire.awaits(id) => {
                    let verdict = acquire.completed(now, outcome, &mut self.desk, cx);
                    self.acquire_verdict(now, verdict, cx);
                }
                Stage::Serving(serving) if serving.awaits(id) => {
                    let leave = serving.completed(now, id, outcome, &mut self.generation, &mut self.desk, cx);
                    self.leave(now, leave, cx);
                }
                Stage::Draining(Drain::Accepting(accept)) if accept.awaits(id) => {
                    let verdict = accept.completed(now, outcome, true, &mut self.desk, cx);
                    self.accepted_late(now, verdict, cx);
                }
                _ => self.late += 1,
            },
            Phase::Disconnecting(retrying) if retrying.awaits(id) => self.disconnect_answered(now, &outcome, cx),
            _ => self.late += 1,
        }
        self.show(cx);
    }

    /// A message of a ping stream.
    pub(crate) fn stream_message(&mut self, now: Instant, id: RequestId, message: StreamMessage, cx: &mut Cx<'_>) {
        match &mut self.phase {
            Phase::Live(live) => match &mut live.stage {
                Stage::Serving(serving) if serving.awaits_stream(id) => {
                    let leave = serving.stream_message(now, message, &mut self.desk, cx);
                    self.leave(now, leave, cx);
                }
                _ => self.late += 1,
            },
            _ => self.late += 1,
        }
        self.show(cx);
    }

    /// A ping stream has ended.
    pub(crate) fn stream_over(&mut self, now: Instant, id: RequestId, end: StreamEnd, cx: &mut Cx<'_>) {
        if self.gone(id, cx) {
            return;
        }
        match &mut self.phase {
            Phase::Live(live) => match &mut live.stage {
                Stage::Serving(serving) if serving.awaits_stream(id) => {
                    let leave = serving.stream_over(now, end, &mut self.desk, cx);
                    self.leave(now, leave, cx);
                }
                _ => self.late += 1,
            },
            _ => self.late += 1,
        }
        self.show(cx);
    }

    /// An event of job number `generation`.
    pub(crate) fn job_event(&mut self, now: Instant, generation: u32, event: AgentEvent, cx: &mut Cx<'_>) {
        let end = match &mut self.phase {
            Phase::Live(live) if generation == self.generation => match &mut live.stage {
                Stage::RunningAcquired(job) | Stage::Draining(Drain::Running(job)) => job.handle(now, event, cx),
                Stage::Serving(serving) if serving.job().is_some() => serving.job_event(now, event, cx),
                _ => {
                    self.late += 1;
                    None
                }
            },
            _ => {
                self.late += 1;
                None
            }
        };
        if let Some(end) = end {
            self.job_ended(now, &end, cx);
        }
        self.show(cx);
    }

    pub(crate) fn deadline(&self) -> Option<Instant> {
        match &self.phase {
            Phase::Created | Phase::Closing | Phase::Finished => None,
            Phase::Connecting { retrying, hurry } => earliest(retrying.deadline(), *hurry),
            Phase::Live(live) => earliest(live.heartbeat.deadline(), live.stage.deadline()),
            Phase::Disconnecting(retrying) => retrying.deadline(),
        }
    }

    /// Fires the timers that are due, in order.
    pub(crate) fn expire(&mut self, now: Instant, cx: &mut Cx<'_>) {
        while self.deadline().is_some_and(|at| at <= now) {
            self.fire(now, cx);
        }
        self.show(cx);
    }

    fn fire(&mut self, now: Instant, cx: &mut Cx<'_>) {
        match &mut self.phase {
            Phase::Connecting { retrying, hurry: Some(at) } if *at <= now => {
                // The outcome of the connect is unknown (§9.11).
                if let Some(id) = retrying.in_flight() {
                    self.desk.abandon(id, cx);
                }
                self.disconnect(now, "no answer", cx);
            }
            Phase::Connecting { retrying, .. } => {
                retrying.again(&retry::CONNECT, Operation::Connect, &mut self.desk, cx);
                self.desk.step("worker", "Connecting", "retry due", "Connecting", cx);
            }
            Phase::Disconnecting(retrying) => {
                retrying.again(&retry::DISCONNECT, Operation::Disconnect, &mut self.desk, cx);
                self.desk.step("worker", "Disconnecting", "retry due", "Disconnecting", cx);
            }
            Phase::Live(live) => {
                let stage = live.stage.deadline();
                if live.heartbeat.deadline().is_some_and(|beat| stage.is_none_or(|stage| beat <= stage)) {
                    live.heartbeat.expire(now, &mut self.desk, cx);
                    return;
                }
                let (end, leave) = match &mut live.stage {
                    Stage::Acquiring(acquire) => {
                        let verdict = acquire.expire(now, &mut self.desk, cx);
                        return self.acquire_verdict(now, verdict, cx);
                    }
                    Stage::RunningAcquired(job) | Stage::Draining(Drain::Running(job)) => (job.expire(now, cx), None),
                    Stage::Serving(serving) => serving.expire(now, &mut self.desk, cx),
                    Stage::Draining(Drain::Accepting(_) | Drain::Heartbeat) => (None, None),
                };
                if let Some(end) = end {
                    self.job_ended(now, &end, cx);
                }
                self.leave(now, leave, cx);
            }
            Phase::Created | Phase::Closing | Phase::Finished => {}
        }
    }

    pub(super) fn enter(&mut self, phase: Phase, event: &'static str, cx: &mut Cx<'_>) {
        let from = self.name();
        self.phase = phase;
        self.desk.step("worker", from, event, self.name(), cx);
    }

    fn enter_stage(&mut self, stage: Stage, event: &'static str, cx: &mut Cx<'_>) {
        let from = self.name();
        if let Phase::Live(live) = &mut self.phase {
            live.stage = stage;
        }
        self.desk.step("worker", from, event, self.name(), cx);
    }

    fn connect_answered(&mut self, now: Instant, outcome: &Outcome, cx: &mut Cx<'_>) {
        let Phase::Connecting { retrying, .. } = &mut self.phase else { return };
        match outcome {
            Outcome::Ok(_) if self.stop > Stop::None => self.disconnect(now, "connected", cx),
            Outcome::Ok(_) => {
                // OTLP metrics that could not start (§7.2, §9.1): nothing is started, and the worker disconnects.
                if let Some(Err(error)) = &cx.config.otlp {
                    self.desk.errors.push(WorkerError::Other(error.clone()));
                    return self.disconnect(now, "metrics failed", cx);
                }
                let heartbeat = Heartbeat::start(now, &self.desk);
                let stage = match &cx.config.acquire_job {
                    Some(job) => Stage::Acquiring(Acquire::begin(now, job.as_str().into(), &mut self.desk, cx)),
                    None => Stage::Serving(Serving::start(now, &mut self.desk, cx)),
                };
                self.enter(Phase::Live(Box::new(Live { since: now, heartbeat, stage })), "connected", cx);
            }
            // Nothing was connected, so nothing is disconnected.
            _ if self.stop > Stop::None => self.close("connect failed", cx),
            failure => {
                if retrying.failed(&retry::CONNECT, now, failure.text(), &self.desk, cx) == Next::GiveUp {
                    self.desk.errors.push(WorkerError::Other(failure.text().to_owned()));
                    self.close("gave up", cx);
                }
            }
        }
    }

    pub(super) fn acquire_verdict(&mut self, now: Instant, verdict: AcquireVerdict, cx: &mut Cx<'_>) {
        match verdict {
            AcquireVerdict::Nothing => {}
            AcquireVerdict::Acquired(job) => {
                self.generation += 1;
                let begin = Begin { generation: self.generation, acquired: true, stopped: self.stop == Stop::Forced };
                let job = ActiveJob::begin(now, *job, begin, &mut self.desk, cx);
                self.enter_stage(Stage::RunningAcquired(job), "acquired", cx);
            }
            AcquireVerdict::GaveUp(error) => {
                self.desk.errors.extend(error);
                self.drain(now, "gave up", cx);
            }
        }
    }

    fn accepted_late(&mut self, now: Instant, verdict: AcceptVerdict, cx: &mut Cx<'_>) {
        match verdict {
            AcceptVerdict::Accepted(job) => {
                // It is ours now: run it, or after a forced stop report that it never ran.
                self.generation += 1;
                let begin = Begin { generation: self.generation, acquired: false, stopped: self.stop == Stop::Forced };
                let job = ActiveJob::begin(now, *job, begin, &mut self.desk, cx);
                self.enter_stage(Stage::Draining(Drain::Running(job)), "accepted", cx);
            }
            AcceptVerdict::Failed | AcceptVerdict::Retrying => self.stop_heartbeats(now, "not accepted", cx),
        }
    }

    pub(super) fn job_ended(&mut self, now: Instant, end: &JobEnd, cx: &mut Cx<'_>) {
        let Phase::Live(live) = &mut self.phase else { return };
        if let Stage::Serving(serving) = &mut live.stage {
            let leave = serving.job_ended(now, end, &mut self.desk, cx);
            return self.leave(now, leave, cx);
        }
        match std::mem::replace(&mut live.stage, Stage::Draining(Drain::Heartbeat)) {
            Stage::RunningAcquired(job) => {
                job.over(now, end, &mut self.desk, cx);
                let error = match end {
                    JobEnd::Finished { exit_status: 0, .. } => None,
                    JobEnd::Finished { exit_status, signal, signal_reason } => {
                        Some(WorkerError::JobExit { status: *exit_status, signal: signal.clone(), reason: signal_reason.clone() })
                    }
                    JobEnd::NotStarted(e) => Some(WorkerError::Other(format!("failed to run job: {e}"))),
                };
                if let Some(error) = error {
                    self.desk.log(Level::Error, format!("Failed to acquire and run job: {error}"), cx);
                    self.desk.errors.push(error);
                }
                if self.stop > Stop::None {
                    self.desk.step("worker", "RunningAcquired", "job over", "Draining", cx);
                    self.stop_heartbeats(now, "job over", cx);
                } else {
                    // Solely to learn whether the agent is paused.
                    let serving = Serving::start(now, &mut self.desk, cx);
                    if let Phase::Live(live) = &mut self.phase {
                        live.stage = Stage::Serving(serving);
                    }
                    self.desk.step("worker", "RunningAcquired", "job over", "Serving", cx);
                }
            }
            Stage::Draining(Drain::Running(job)) => {
                job.over(now, end, &mut self.desk, cx);
                if let JobEnd::NotStarted(e) = end {
                    self.desk.log(Level::Error, format!("failed to run job: {e}"), cx);
                }
                self.stop_heartbeats(now, "job over", cx);
            }
            other => live.stage = other,
        }
    }
}
