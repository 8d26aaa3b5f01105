//! The poll source (specification: start-and-worker §9.6).

use super::action::{Action, Delivery, Side};
use super::desk::{Cx, Desk};
use super::heartbeat::skip_to;
use super::{Level, Metric, WorkerError};
use crate::api::{Operation, Outcome, PingReply, Reply, Session};
use crate::limits;
use crate::machine::{Instant, RequestId};
use crate::retry::duration_text;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// Ticks at start + k·P, of which at most one missed one is kept; after each tick a random wait, then the gate, then one ping.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) struct Poll {
    /// The earliest tick of the grid that has not been taken.
    next_tick: Instant,
    /// The first ping, and the first one after a job, skip the tick (but not the random wait).
    skip: bool,
    last_success: Option<Instant>,
    state: State,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
enum State {
    /// Until the next tick.
    WaitTick {
        /// When the wait began, for the metric.
        since: Instant,
    },
    /// The random wait.
    Jitter {
        /// When the wait for the tick began.
        since: Instant,
        /// Its end.
        until: Instant,
    },
    /// Until the stream side lets go.
    WaitGate,
    /// A ping is under way.
    Ping {
        /// Which.
        id: RequestId,
        /// When it was sent.
        sent: Instant,
    },
    /// An endpoint switch is being tried.
    TestPing {
        /// Which exchange.
        id: RequestId,
        /// Where to.
        endpoint: Arc<str>,
        /// The answer that named the endpoint: it counts if the test fails.
        first: Box<PingReply>,
    },
    /// The action handler works on what was delivered.
    AwaitDone,
    /// Rejected.
    Ended,
}

/// What a ping means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum PollVerdict {
    /// Not settled yet.
    Nothing,
    /// For the action handler.
    Deliver(Delivery),
    /// The source has ended with an error.
    Ended,
}

impl Poll {
    /// The first wait.
    pub(crate) fn start(now: Instant, desk: &mut Desk, cx: &mut Cx<'_>) -> Poll {
        desk.log(Level::Info, "Waiting for instructions...", cx);
        let mut poll = Poll { next_tick: now + desk.ping_interval, skip: true, last_success: None, state: State::WaitTick { since: now } };
        poll.wait(now, "start", desk, cx);
        poll
    }

    fn name(&self) -> &'static str {
        match self.state {
            State::WaitTick { .. } => "WaitTick",
            State::Jitter { .. } => "Jitter",
            State::WaitGate => "WaitGate",
            State::Ping { .. } => "Ping",
            State::TestPing { .. } => "TestPing",
            State::AwaitDone => "AwaitDone",
            State::Ended => "Ended",
        }
    }

    pub(crate) fn ended(&self) -> bool {
        self.state == State::Ended
    }

    /// Whether it asks for the gate.
    pub(crate) fn wants_gate(&self) -> bool {
        self.state == State::WaitGate
    }

    pub(crate) fn awaits(&self, id: RequestId) -> bool {
        matches!(&self.state, State::Ping { id: mine, .. } | State::TestPing { id: mine, .. } if *mine == id)
    }

    pub(crate) fn deadline(&self) -> Option<Instant> {
        match self.state {
            State::WaitTick { .. } => Some(self.next_tick),
            State::Jitter { until, .. } => Some(until),
            State::WaitGate | State::Ping { .. } | State::TestPing { .. } | State::AwaitDone | State::Ended => None,
        }
    }

    /// Enters WaitTick, and leaves it at once where a skip or a kept tick is present.
    fn wait(&mut self, now: Instant, event: &'static str, desk: &mut Desk, cx: &mut Cx<'_>) {
        let from = self.name();
        self.state = State::WaitTick { since: now };
        if self.skip || self.next_tick <= now {
            self.leave_tick(now, now, desk);
        }
        desk.step("poll", from, event, self.name(), cx);
    }

    /// Takes the skip or the tick; further missed ticks are lost.
    fn leave_tick(&mut self, since: Instant, now: Instant, desk: &mut Desk) {
        if self.skip {
            self.skip = false;
        } else {
            self.next_tick = skip_to(self.next_tick, now, desk.ping_interval);
        }
        self.state = State::Jitter { since, until: now + desk.rng.duration_below(desk.ping_interval) };
    }

    /// The tick, or the end of the random wait.
    pub(crate) fn expire(&mut self, now: Instant, desk: &mut Desk, cx: &mut Cx<'_>) {
        match self.state {
            State::WaitTick { since } if self.next_tick <= now => {
                self.leave_tick(since, now, desk);
                desk.step("poll", "WaitTick", "tick", "Jitter", cx);
            }
            State::Jitter { since, until } if until <= now => {
                cx.metric(Metric::PingWait(now.since(since)));
                self.state = State::WaitGate;
                desk.step("poll", "Jitter", "jitter over", "WaitGate", cx);
            }
            _ => {}
        }
    }

    /// The gate is ours: ping.
    pub(crate) fn granted(&mut self, now: Instant, desk: &mut Desk, cx: &mut Cx<'_>) {
        cx.metric(Metric::PingSent);
        self.state = State::Ping { id: desk.call(Operation::Ping, cx), sent: now };
        desk.step("poll", "WaitGate", "granted", "Ping", cx);
    }

    /// The answer; the caller has asked [`Poll::awaits`].
    pub(crate) fn completed(&mut self, now: Instant, outcome: Outcome, desk: &mut Desk, cx: &mut Cx<'_>) -> PollVerdict {
        match std::mem::replace(&mut self.state, State::AwaitDone) {
            State::Ping { sent, .. } => self.answered(now, sent, outcome, desk, cx),
            State::TestPing { endpoint, first, .. } => self.tested(now, endpoint, *first, outcome, desk, cx),
            other => {
                self.state = other;
                PollVerdict::Nothing
            }
        }
    }

    fn answered(&mut self, now: Instant, sent: Instant, outcome: Outcome, desk: &mut Desk, cx: &mut Cx<'_>) -> PollVerdict {
        let rejected = outcome.rejected();
        if !rejected {
            cx.metric(Metric::PingDuration(now.since(sent)));
        }
        match outcome {
            Outcome::Ok(Reply::Ping(mut reply)) => {
                self.last_success = Some(now);
                desk.take_headers(reply.request_headers.take(), cx);
                if reply.endpoint.is_empty() || *reply.endpoint == *desk.session.endpoint {
                    return self.deliver("answer", *reply, desk, cx);
                }
                let endpoint: Arc<str> = reply.endpoint.as_str().into();
                let session = Session { endpoint: endpoint.clone(), ..desk.session.clone() };
                let id = desk.call_as(session, Operation::Ping, limits::EXCHANGE, None, cx);
                self.state = State::TestPing { id, endpoint, first: reply };
                desk.step("poll", "Ping", "endpoint switch", "TestPing", cx);
                PollVerdict::Nothing
            }
            Outcome::Status(e) if rejected => {
                cx.metric(Metric::PingError);
                let error = format!("Ping failed with unrecoverable status: {}, mesage: \"{}\"", e.status_text, e.text);
                desk.log(Level::Error, error.as_str(), cx);
                desk.errors.push(WorkerError::Other(error));
                self.state = State::Ended;
                desk.step("poll", "Ping", "rejected", "Ended", cx);
                PollVerdict::Ended
            }
            failure => {
                cx.metric(Metric::PingError);
                let last = match self.last_success {
                    None => "no successful ping yet".to_owned(),
                    Some(at) => format!("last successful was {} ago", duration_text(now.since(at))),
                };
                desk.log(Level::Warn, format!("failed to ping: {} ({last})", failure.text()), cx);
                desk.step("poll", "Ping", "failure", "AwaitDone", cx);
                PollVerdict::Deliver(Delivery { side: Side::Poll, action: Action::NoNews, label: String::new(), job: None })
            }
        }
    }

    /// The switch is committed only after a successful test, and then the second answer is the one that counts.
    fn tested(&mut self, now: Instant, endpoint: Arc<str>, first: PingReply, outcome: Outcome, desk: &mut Desk, cx: &mut Cx<'_>) -> PollVerdict {
        match outcome {
            Outcome::Ok(Reply::Ping(mut second)) => {
                self.last_success = Some(now);
                desk.session.endpoint = endpoint;
                desk.take_headers(second.request_headers.take(), cx);
                self.deliver("endpoint switched", *second, desk, cx)
            }
            failure => {
                let text = format!("Failed to ping the new endpoint {endpoint} - ignoring switch for now ({})", failure.text());
                desk.log(Level::Warn, text, cx);
                self.deliver("endpoint not switched", first, desk, cx)
            }
        }
    }

    fn deliver(&mut self, event: &'static str, reply: PingReply, desk: &Desk, cx: &mut Cx<'_>) -> PollVerdict {
        if !reply.message.is_empty() {
            desk.log(Level::Info, reply.message, cx);
        }
        let (action, job) = match reply.action.as_str() {
            "disconnect" => (Action::Disconnect, None),
            "pause" => (Action::Pause, None), // A pause hides a job.
            _ => (Action::Idle, reply.job.filter(|id| !id.is_empty())),
        };
        let from = if event == "answer" { "Ping" } else { "TestPing" };
        desk.step("poll", from, event, "AwaitDone", cx);
        PollVerdict::Deliver(Delivery { side: Side::Poll, action, label: reply.action, job })
    }

    /// The action is completed. After a job that has run the ticks restart, and the next wait skips its tick.
    pub(crate) fn done(&mut self, now: Instant, ran_job: bool, desk: &mut Desk, cx: &mut Cx<'_>) {
        if ran_job {
            self.next_tick = now + desk.ping_interval;
            self.skip = true;
        }
        self.wait(now, if ran_job { "job done" } else { "done" }, desk, cx);
    }

    /// The worker stops: a ping in flight is aborted and its answer discarded (R14).
    pub(crate) fn stop(self, desk: &mut Desk, cx: &mut Cx<'_>) {
        desk.step("poll", self.name(), "stop", "Ended", cx);
        if let State::Ping { id, .. } | State::TestPing { id, .. } = self.state {
            desk.abandon(id, cx);
        }
    }
}
