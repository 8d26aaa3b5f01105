//! A worker that serves: its ping sources, the gate between them, the action handler, and the job
//! (specification: start-and-worker §9.5–9.10).

use super::accept::{Accept, AcceptVerdict};
use super::action::{Action, Delivery, Handled, Handler, Leave, Side};
use super::active::{ActiveJob, Begin};
use super::debouncer::{Debouncer, Pending, Queued};
use super::desk::{Cx, Desk};
use super::poll::{Poll, PollVerdict};
use super::stream::{Stream, StreamVerdict};
use super::{AgentEvent, Level, PingMode};
use crate::api::{Outcome, StreamEnd, StreamMessage};
use crate::job::JobEnd;
use crate::machine::{Instant, RequestId, earliest};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// Who may deliver (start-and-worker §9.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
enum Gate {
    Nobody,
    Poll,
    Stream,
}

impl Gate {
    fn name(self) -> &'static str {
        match self {
            Gate::Nobody => "Nobody",
            Gate::Poll => "HeldByPoll",
            Gate::Stream => "HeldByStream",
        }
    }
}

/// The stream and what is behind it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
struct StreamSide {
    stream: Stream,
    debouncer: Debouncer,
}

/// The job in hand, from its delivery to its end.
#[derive(Clone, Debug, PartialEq, Hash, Serialize, Deserialize)]
enum Work {
    /// No message is being handled.
    None,
    /// Delivered at that instant. The accept is sent by a timer that is due at once, so that a stop of the same instant wins (§0.2).
    Assigned { side: Side, job: Arc<str>, at: Instant },
    /// Being accepted.
    Accepting { side: Side, accept: Accept },
    /// Ours.
    Running { side: Side, job: ActiveJob },
}

/// What goes on when serving ends (start-and-worker §9.11).
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum LeftOver {
    /// Nothing.
    Nothing,
    /// The answer to the accept in flight must be awaited: the job may be ours.
    Accepting(Accept),
    /// The job runs on.
    Running(ActiveJob),
}

/// See the module.
#[derive(Clone, Debug, PartialEq, Hash, Serialize, Deserialize)]
pub(crate) struct Serving {
    gate: Gate,
    poll: Option<Poll>,
    stream: Option<StreamSide>,
    handler: Handler,
    work: Work,
}

impl Serving {
    /// Starts the sources that the ping mode has.
    pub(crate) fn start(now: Instant, desk: &mut Desk, cx: &mut Cx<'_>) -> Serving {
        let mode = cx.config.ping_mode;
        let handler = Handler::start(now, cx);
        let poll = (mode != PingMode::StreamOnly).then(|| Poll::start(now, desk, cx));
        let stream = (mode != PingMode::PollOnly).then(|| StreamSide { stream: Stream::start(now, desk, cx), debouncer: Debouncer::new() });
        let gate = if stream.is_some() { Gate::Stream } else { Gate::Nobody };
        Serving { gate, poll, stream, handler, work: Work::None }
    }

    /// The job that is ours, if one is.
    pub(crate) fn job(&self) -> Option<&ActiveJob> {
        match &self.work {
            Work::Running { job, .. } => Some(job),
            Work::None | Work::Assigned { .. } | Work::Accepting { .. } => None,
        }
    }

    pub(crate) fn paused(&self) -> bool {
        self.handler.paused()
    }

    #[cfg(test)]
    pub(crate) fn queued(&self) -> usize {
        self.stream.as_ref().map_or(0, |s| s.debouncer.queued())
    }

    /// The idle monitor has fired.
    pub(crate) fn idle_fired(&mut self, now: Instant, desk: &mut Desk, cx: &mut Cx<'_>) -> Option<Leave> {
        self.handler.idle_fired(desk, cx);
        self.settle(now, desk, cx)
    }

    /// Whether this completion is awaited here.
    pub(crate) fn awaits(&self, id: RequestId) -> bool {
        self.poll.as_ref().is_some_and(|poll| poll.awaits(id)) || matches!(&self.work, Work::Accepting { accept, .. } if accept.awaits(id))
    }

    /// An answer; the caller has asked [`Serving::awaits`]. `generation` numbers the job that may begin.
    pub(crate) fn completed(
        &mut self,
        now: Instant,
        id: RequestId,
        outcome: Outcome,
        generation: &mut u32,
        desk: &mut Desk,
        cx: &mut Cx<'_>,
    ) -> Option<Leave> {
        if let Some(poll) = self.poll.as_mut().filter(|poll| poll.awaits(id)) {
            match poll.completed(now, outcome, desk, cx) {
                PollVerdict::Nothing => {}
                PollVerdict::Ended => self.move_gate(Gate::Nobody, "poll ended", desk, cx),
                PollVerdict::Deliver(delivery) => {
                    if let Some(leave) = self.deliver(now, delivery, desk, cx) {
                        return Some(leave);
                    }
                }
            }
        } else if let Work::Accepting { side, accept } = &mut self.work {
            let side = *side;
            match accept.completed(now, outcome, false, desk, cx) {
                AcceptVerdict::Retrying => {}
                AcceptVerdict::Failed => {
                    desk.mark.idle(now);
                    self.completed_with(now, side, false, false, desk, cx);
                }
                AcceptVerdict::Accepted(job) => {
                    *generation += 1;
                    let begin = Begin { generation: *generation, acquired: false, stopped: false };
                    let job = ActiveJob::begin(now, *job, begin, desk, cx);
                    if let Some(stream) = &mut self.stream {
                        stream.debouncer.forget(&job.id);
                    }
                    self.work = Work::Running { side, job };
                }
            }
        }
        self.settle(now, desk, cx)
    }

    /// Whether this stream is the open one.
    pub(crate) fn awaits_stream(&self, id: RequestId) -> bool {
        self.stream.as_ref().is_some_and(|s| s.stream.awaits(id))
    }

    /// A message of the open stream.
    pub(crate) fn stream_message(&mut self, now: Instant, message: StreamMessage, desk: &mut Desk, cx: &mut Cx<'_>) -> Option<Leave> {
        let side = self.stream.as_mut()?;
        let verdict = side.stream.message(now, message, desk, cx);
        self.stream_verdict(now, verdict, desk, cx)
    }

    /// The open stream has ended.
    pub(crate) fn stream_over(&mut self, now: Instant, end: StreamEnd, desk: &mut Desk, cx: &mut Cx<'_>) -> Option<Leave> {
        let side = self.stream.as_mut()?;
        let verdict = side.stream.over(now, end, desk, cx);
        self.stream_verdict(now, verdict, desk, cx)
    }

    fn stream_verdict(&mut self, now: Instant, verdict: StreamVerdict, desk: &mut Desk, cx: &mut Cx<'_>) -> Option<Leave> {
        let StreamSide { debouncer, .. } = self.stream.as_mut()?;
        let from = debouncer.name();
        let event = match verdict {
            StreamVerdict::Nothing => return None,
            StreamVerdict::Unhealthy => {
                debouncer.unhealthy();
                "unhealthy"
            }
            StreamVerdict::Ended => {
                debouncer.source_ended();
                "source ended"
            }
            StreamVerdict::Message(message) => {
                let leave = message == super::debouncer::Message::Disconnect;
                let active = match &self.work {
                    Work::None => None,
                    Work::Assigned { job, .. } => Some(job),
                    Work::Accepting { accept, .. } => Some(&accept.job),
                    Work::Running { job, .. } => Some(&job.id),
                };
                let known = |id: &str| active.is_some_and(|a| **a == *id) || desk.accepted.contains(id);
                if debouncer.message(message, known) == Queued::Full {
                    desk.log(Level::Warn, "Too many jobs are waiting, dropping the newest", cx);
                }
                if leave {
                    // A graceful stop of this worker, whatever is in hand (§9.7).
                    desk.step("debouncer", from, "message", debouncer.name(), cx);
                    return Some(Leave::AsGracefulStop);
                }
                "message"
            }
        };
        desk.step("debouncer", from, event, debouncer.name(), cx);
        self.settle(now, desk, cx)
    }

    /// An event of the running job.
    pub(crate) fn job_event(&mut self, now: Instant, event: AgentEvent, cx: &mut Cx<'_>) -> Option<JobEnd> {
        match &mut self.work {
            Work::Running { job, .. } => job.handle(now, event, cx),
            Work::None | Work::Assigned { .. } | Work::Accepting { .. } => None,
        }
    }

    /// The running job is over: complete its message (§9.10, step 5).
    pub(crate) fn job_ended(&mut self, now: Instant, end: &JobEnd, desk: &mut Desk, cx: &mut Cx<'_>) -> Option<Leave> {
        let Work::Running { side, job } = std::mem::replace(&mut self.work, Work::None) else { return None };
        job.over(now, end, desk, cx);
        let ok = match end {
            JobEnd::Finished { .. } => true,
            JobEnd::NotStarted(e) => {
                desk.log(Level::Error, format!("failed to run job: {e}"), cx);
                false
            }
        };
        if ok {
            self.handler.ran_job();
        }
        self.completed_with(now, side, ok, ok, desk, cx);
        self.settle(now, desk, cx)
    }

    fn deliver(&mut self, now: Instant, delivery: Delivery, desk: &mut Desk, cx: &mut Cx<'_>) -> Option<Leave> {
        let side = delivery.side;
        match self.handler.handle(now, delivery, desk, cx) {
            Handled::Done => self.completed_with(now, side, true, false, desk, cx),
            Handled::Job(job) => self.work = Work::Assigned { side, job, at: now },
            Handled::Leave(leave) => return Some(leave),
        }
        None
    }

    /// Completes the message in hand towards the side it came from.
    fn completed_with(&mut self, now: Instant, side: Side, ok: bool, ran_job: bool, desk: &mut Desk, cx: &mut Cx<'_>) {
        self.work = Work::None;
        match side {
            Side::Poll => {
                if let Some(poll) = &mut self.poll {
                    poll.done(now, ran_job, desk, cx);
                }
                self.move_gate(Gate::Nobody, "completed", desk, cx);
            }
            Side::Stream => {
                if let Some(StreamSide { debouncer, .. }) = &mut self.stream {
                    let from = debouncer.name();
                    debouncer.action_done(ok, cx.config.disconnect_after_job);
                    desk.step("debouncer", from, "action done", debouncer.name(), cx);
                }
            }
        }
    }

    fn move_gate(&mut self, to: Gate, event: &'static str, desk: &Desk, cx: &mut Cx<'_>) {
        desk.step("gate", self.gate.name(), event, to.name(), cx);
        self.gate = to;
    }

    /// Brings the gate and the handler to rest: whoever can deliver, delivers; what fired during a job is taken up after it, in the
    /// order of §9.9 (a waiting disconnect or pause, then the limits, only then idle or a job).
    fn settle(&mut self, now: Instant, desk: &mut Desk, cx: &mut Cx<'_>) -> Option<Leave> {
        loop {
            if let Some(StreamSide { debouncer, .. }) = &self.stream {
                if self.gate == Gate::Stream && !debouncer.keeps_gate() {
                    self.move_gate(Gate::Nobody, "stream lets go", desk, cx);
                } else if self.gate == Gate::Nobody && debouncer.wants_gate() {
                    self.move_gate(Gate::Stream, "stream takes", desk, cx);
                }
            }
            if !matches!(self.work, Work::None) {
                return None;
            }
            let waiting = match &self.stream {
                Some(side) if self.gate == Gate::Stream => side.debouncer.ready(),
                _ => None,
            };
            if self.handler.has_fired() && !matches!(waiting, Some(Pending::Pause | Pending::Disconnect)) {
                if let Some(leave) = self.handler.take_up(desk, cx) {
                    return Some(leave);
                }
                continue;
            }
            if waiting.is_some() {
                let delivery = self.debounced(desk, cx)?;
                if let Some(leave) = self.deliver(now, delivery, desk, cx) {
                    return Some(leave);
                }
                continue;
            }
            if self.poll.as_ref().is_none_or(Poll::ended) && self.stream.as_ref().is_none_or(|s| s.stream.ended()) {
                return Some(Leave::Quietly); // All sources have ended; their errors are the result.
            }
            if self.gate == Gate::Nobody && self.poll.as_ref().is_some_and(Poll::wants_gate) {
                self.move_gate(Gate::Poll, "poll takes", desk, cx);
                if let Some(poll) = &mut self.poll {
                    poll.granted(now, desk, cx);
                }
            }
            return None;
        }
    }

    fn debounced(&mut self, desk: &Desk, cx: &mut Cx<'_>) -> Option<Delivery> {
        let StreamSide { debouncer, .. } = self.stream.as_mut()?;
        let from = debouncer.name();
        let next = debouncer.deliver()?;
        desk.step("debouncer", from, "deliver", debouncer.name(), cx);
        let (action, label) = match next.action {
            Pending::Idle => (Action::Idle, ""),
            Pending::Pause => (Action::Pause, "pause"),
            Pending::Disconnect => (Action::Disconnect, "disconnect"),
        };
        Some(Delivery { side: Side::Stream, action, label: label.to_owned(), job: next.job })
    }

    fn work_deadline(&self) -> Option<Instant> {
        match &self.work {
            Work::None => None,
            Work::Assigned { at, .. } => Some(*at),
            Work::Accepting { accept, .. } => accept.deadline(),
            Work::Running { job, .. } => job.deadline(),
        }
    }

    pub(crate) fn deadline(&self) -> Option<Instant> {
        let sources = earliest(self.poll.as_ref().and_then(Poll::deadline), self.stream.as_ref().and_then(|s| s.stream.deadline()));
        earliest(earliest(self.work_deadline(), self.handler.deadline()), sources)
    }

    /// Fires one timer, the earliest. A job that ends by it is returned; the caller gives it to [`Serving::job_ended`].
    pub(crate) fn expire(&mut self, now: Instant, desk: &mut Desk, cx: &mut Cx<'_>) -> (Option<JobEnd>, Option<Leave>) {
        let least = self.deadline();
        if least.is_none_or(|at| at > now) {
            return (None, None);
        }
        if self.work_deadline() == least {
            match &mut self.work {
                Work::Assigned { side, job, .. } => {
                    let accept = Accept::begin(now, job.clone(), desk, cx);
                    self.work = Work::Accepting { side: *side, accept };
                }
                Work::Accepting { accept, .. } => accept.expire(now, desk, cx),
                Work::Running { job, .. } => return (job.expire(now, cx), None),
                Work::None => {}
            }
        } else if self.handler.deadline() == least {
            self.handler.expire(now, desk, cx);
        } else if let Some(poll) = self.poll.as_mut().filter(|poll| poll.deadline() == least) {
            poll.expire(now, desk, cx);
        } else if let Some(side) = &mut self.stream {
            side.stream.expire(now, desk, cx);
        }
        (None, self.settle(now, desk, cx))
    }

    /// Serving ends: sources stop, a job not yet accepted is dropped (R3, R4), what must go on is handed over.
    pub(crate) fn stop(self, desk: &mut Desk, cx: &mut Cx<'_>) -> LeftOver {
        if let Some(poll) = self.poll {
            poll.stop(desk, cx);
        }
        if let Some(side) = self.stream {
            side.stream.stop(desk, cx);
        }
        match self.work {
            Work::Accepting { accept, .. } if accept.is_in_flight() => LeftOver::Accepting(accept),
            Work::Running { job, .. } => LeftOver::Running(job),
            Work::None | Work::Assigned { .. } | Work::Accepting { .. } => LeftOver::Nothing,
        }
    }
}
