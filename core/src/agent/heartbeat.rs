//! The heartbeat source: keep-alive and its verdicts (specification: start-and-worker §9.3).

use super::Level;
use super::desk::{Cx, Desk};
use super::retrying::Retrying;
use crate::api::{Operation, Outcome};
use crate::machine::{Instant, RequestId};
use crate::retry::{self, Next, duration_text};
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// Beats on the grid start + k·H, k ≥ 1. A tick that passes during a cycle starts the next one at once; further ones are lost.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) struct Heartbeat {
    /// The earliest tick of the grid that has not been taken.
    next_tick: Instant,
    state: State,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
enum State {
    /// Until the next tick.
    Wait,
    /// One cycle of attempts.
    Beat(Retrying),
    /// Aborted; the exchange is not gone yet (R18).
    Leaving(RequestId),
    /// Drained, or rejected.
    Ended,
}

/// What a heartbeat means to the worker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum HeartbeatVerdict {
    /// Go on.
    Nothing,
    /// The control plane no longer knows this worker: forced stop, with this error.
    Rejected(String),
    /// The aborted exchange is gone.
    Gone,
}

impl Heartbeat {
    /// Starts the grid; there is no heartbeat at its start.
    pub(crate) fn start(now: Instant, desk: &Desk) -> Heartbeat {
        Heartbeat { next_tick: now + desk.heartbeat_interval, state: State::Wait }
    }

    fn name(&self) -> &'static str {
        match self.state {
            State::Wait => "Wait",
            State::Beat(_) => "Beat",
            State::Leaving(_) => "Leaving",
            State::Ended => "Ended",
        }
    }

    /// Whether nothing of it is left.
    pub(crate) fn is_gone(&self) -> bool {
        matches!(self.state, State::Ended)
    }

    /// Whether this completion is awaited.
    pub(crate) fn awaits(&self, id: RequestId) -> bool {
        match &self.state {
            State::Beat(beat) => beat.awaits(id),
            State::Leaving(leaving) => *leaving == id,
            State::Wait | State::Ended => false,
        }
    }

    pub(crate) fn deadline(&self) -> Option<Instant> {
        match &self.state {
            State::Wait => Some(self.next_tick),
            State::Beat(beat) => beat.deadline(),
            State::Leaving(_) | State::Ended => None,
        }
    }

    /// The tick, or the end of a wait between attempts.
    pub(crate) fn expire(&mut self, now: Instant, desk: &mut Desk, cx: &mut Cx<'_>) {
        match &mut self.state {
            State::Wait if self.next_tick <= now => self.beat(now, "tick", desk, cx),
            State::Beat(beat) if beat.deadline().is_some_and(|at| at <= now) => {
                let operation = sent_at(now, cx);
                beat.again(&retry::HEARTBEAT, operation, desk, cx);
                desk.step("heartbeat", "Beat", "retry due", "Beat", cx);
            }
            _ => {}
        }
    }

    fn beat(&mut self, now: Instant, event: &'static str, desk: &mut Desk, cx: &mut Cx<'_>) {
        let from = self.name();
        // Of the ticks that have passed one is taken now and none is kept.
        self.next_tick = skip_to(self.next_tick, now, desk.heartbeat_interval);
        let operation = sent_at(now, cx);
        self.state = State::Beat(Retrying::begin(&retry::HEARTBEAT, now, operation, desk, cx));
        desk.step("heartbeat", from, event, "Beat", cx);
    }

    /// The answer to the attempt in flight; the caller has asked [`Heartbeat::awaits`].
    pub(crate) fn completed(&mut self, now: Instant, outcome: &Outcome, desk: &mut Desk, cx: &mut Cx<'_>) -> HeartbeatVerdict {
        match (&mut self.state, outcome) {
            (State::Leaving(_), _) => {
                self.state = State::Ended;
                desk.step("heartbeat", "Leaving", "gone", "Ended", cx);
                HeartbeatVerdict::Gone
            }
            (State::Beat(_), Outcome::Ok(_)) => {
                desk.pulse.last_success = Some(now);
                desk.pulse.last_error = None;
                desk.debug(|| "Heartbeat sent".into(), cx);
                self.cycle_over(now, "success", desk, cx);
                HeartbeatVerdict::Nothing
            }
            (State::Beat(_), Outcome::Status(e)) if outcome.rejected() => {
                let error = format!("Heartbeat failed with unrecoverable status: {}, mesage: \"{}\"", e.status_text, e.text);
                desk.pulse.last_error = Some(error.as_str().into());
                desk.log(Level::Error, error.as_str(), cx);
                self.state = State::Ended;
                desk.step("heartbeat", "Beat", "rejected", "Ended", cx);
                HeartbeatVerdict::Rejected(error)
            }
            (State::Beat(beat), _) => {
                let error = outcome.text();
                match beat.failed(&retry::HEARTBEAT, now, error, desk, cx) {
                    Next::At(_) => desk.step("heartbeat", "Beat", "failure", "Beat", cx),
                    Next::GiveUp => {
                        let again = duration_text(desk.heartbeat_interval);
                        let last = match desk.pulse.last_success {
                            None => "No heartbeat yet".to_owned(),
                            Some(at) => format!("Last successful was {} ago", duration_text(now.since(at))),
                        };
                        desk.log(Level::Error, format!("Failed to heartbeat {error}. Will try again in {again}. ({last})"), cx);
                        desk.pulse.last_error = Some(error.into());
                        self.cycle_over(now, "given up", desk, cx);
                    }
                }
                HeartbeatVerdict::Nothing
            }
            (State::Wait | State::Ended, _) => HeartbeatVerdict::Nothing,
        }
    }

    /// A tick that has passed meanwhile starts the next cycle at once.
    fn cycle_over(&mut self, now: Instant, event: &'static str, desk: &mut Desk, cx: &mut Cx<'_>) {
        if self.next_tick <= now {
            self.beat(now, event, desk, cx);
        } else {
            self.state = State::Wait;
            desk.step("heartbeat", "Beat", event, "Wait", cx);
        }
    }

    /// The worker is drained: an exchange in flight is aborted. Ask [`Heartbeat::is_gone`] afterwards.
    pub(crate) fn stop(&mut self, desk: &mut Desk, cx: &mut Cx<'_>) {
        let from = self.name();
        self.state = match &self.state {
            State::Beat(beat) => match beat.in_flight() {
                Some(id) => {
                    cx.out.push(super::AgentCommand::AbortCall { id });
                    State::Leaving(id)
                }
                None => State::Ended,
            },
            State::Leaving(id) => State::Leaving(*id),
            State::Wait | State::Ended => State::Ended,
        };
        desk.step("heartbeat", from, "drained", self.name(), cx);
    }
}

/// The first instant of the grid through `tick` after `now`.
pub(crate) fn skip_to(tick: Instant, now: Instant, interval: Duration) -> Instant {
    let passed = now.since(tick).as_nanos() / interval.as_nanos().max(1);
    tick + Duration::from_nanos(u64::try_from((passed + 1) * interval.as_nanos()).unwrap_or(u64::MAX))
}

fn sent_at(now: Instant, cx: &Cx<'_>) -> Operation {
    Operation::Heartbeat { sent_at: cx.clock.at(now).rfc3339_local(cx.clock.utc_offset_seconds) }
}
