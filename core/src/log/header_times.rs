//! The times of header lines on their way to the control plane (header-times, Streaming).

use super::LogCommand;
use super::context::Context;
use crate::agent::Level;
use crate::api::Outcome;
use crate::limits::HEADER_TIMES_WAITING;
use crate::machine::{Instant, RequestId};
use crate::retry::{Attempts, HEADER_TIMES, Next};
use crate::wall::WallTime;
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use std::time::Duration;

/// Least time between batches.
const SPACING: Duration = Duration::from_secs(1);

type Times = Vec<(u64, String)>;

/// Numbers header times, batches and uploads them, one batch at a time.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) struct HeaderTimes {
    /// Index of the next header. A time that is dropped keeps its index, so that later ones keep theirs.
    next: u64,
    /// Time of the last header: times do not decrease, also when the wall clock does.
    last: WallTime,
    waiting: VecDeque<(u64, String)>,
    /// The warning about dropped times was written.
    warned: bool,
    /// Earliest moment of the next batch.
    not_before: Instant,
    /// Output has ended: batches are cut at once.
    ended: bool,
    state: State,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
enum State {
    Idle,
    InFlight {
        id: RequestId,
        batch: Times,
        attempts: Attempts,
    },
    Waiting {
        until: Instant,
        batch: Times,
        attempts: Attempts,
    },
    /// The flush limit has passed while a batch was in flight.
    Aborting {
        id: RequestId,
    },
    /// The endpoint does not exist, or time is over: nothing is sent any more.
    Stopped,
}

impl State {
    fn name(&self) -> &'static str {
        match self {
            State::Idle => "idle",
            State::InFlight { .. } => "in_flight",
            State::Waiting { .. } => "waiting",
            State::Aborting { .. } => "aborting",
            State::Stopped => "stopped",
        }
    }
}

impl HeaderTimes {
    pub(crate) fn new(now: Instant) -> HeaderTimes {
        HeaderTimes {
            next: 0,
            last: WallTime::default(),
            waiting: VecDeque::new(),
            warned: false,
            not_before: now + SPACING,
            ended: false,
            state: State::Idle,
        }
    }

    /// A header line has ended at `wall`.
    pub(crate) fn found(&mut self, wall: WallTime, cx: &mut Context) {
        let index = self.next;
        self.next += 1;
        self.last = self.last.max(wall);
        match self.state {
            State::Stopped | State::Aborting { .. } => {}
            // Output flows on; times beyond the limit are dropped with one warning.
            _ if self.waiting.len() >= HEADER_TIMES_WAITING => {
                if !std::mem::replace(&mut self.warned, true) {
                    let text = format!("More than {HEADER_TIMES_WAITING} header times wait for upload; the times of further headers are dropped");
                    cx.log(Level::Warn, text);
                }
            }
            _ => self.waiting.push_back((index, self.last.rfc3339_utc())),
        }
    }

    /// Output has ended: the last batch is cut at once.
    pub(crate) fn end(&mut self, cx: &mut Context) {
        self.ended = true;
        self.cut(cx);
    }

    /// Completes an upload; false if `id` is none of ours.
    pub(crate) fn settled(&mut self, id: RequestId, outcome: &Outcome, cx: &mut Context) -> bool {
        let state = std::mem::replace(&mut self.state, State::Idle);
        let from = state.name();
        let (batch, mut attempts) = match state {
            State::InFlight { id: ours, batch, attempts } if ours == id => (batch, attempts),
            State::Aborting { id: ours } if ours == id => {
                self.state = State::Stopped;
                cx.transition("header_times", from, "aborted", "stopped");
                return true;
            }
            other => {
                self.state = other;
                return false;
            }
        };
        let event = match outcome {
            Outcome::Ok(_) => "ok",
            // Any 4xx ends the batch. A 404 on the first one: the control plane has no such endpoint.
            Outcome::Status(e) if (400..500).contains(&e.status) => {
                cx.log(Level::Warn, format!("Buildkite rejected the header times ({})", e.text));
                if e.status == 404 && batch.first().is_some_and(|(index, _)| *index == 0) {
                    self.state = State::Stopped;
                    self.waiting = VecDeque::new();
                }
                "rejected"
            }
            failure => {
                let next = attempts.failed(&HEADER_TIMES, cx.now, None);
                cx.log(Level::Warn, format!("{} {}", failure.text(), attempts.text(&HEADER_TIMES, next)));
                match next {
                    Next::At(until) => self.state = State::Waiting { until, batch, attempts },
                    Next::GiveUp => cx.log(Level::Error, format!("Ultimately unable to upload header times: {}", failure.text())),
                }
                "failed"
            }
        };
        cx.transition("header_times", from, event, self.state.name());
        self.not_before = cx.now + SPACING;
        self.cut(cx);
        true
    }

    /// Fires what is due.
    pub(crate) fn expire(&mut self, cx: &mut Context) {
        match std::mem::replace(&mut self.state, State::Idle) {
            State::Waiting { until, batch, mut attempts } if until <= cx.now => {
                attempts.again(&HEADER_TIMES, cx.rng);
                cx.transition("header_times", "waiting", "timer", "in_flight");
                self.send(batch, attempts, cx);
            }
            other => self.state = other,
        }
        self.cut(cx);
    }

    /// The flush limit has passed.
    pub(crate) fn abandon(&mut self, cx: &mut Context) {
        self.waiting = VecDeque::new();
        let from = self.state.name();
        self.state = match std::mem::replace(&mut self.state, State::Stopped) {
            State::InFlight { id, .. } => {
                cx.out.push(LogCommand::Abort { id });
                State::Aborting { id }
            }
            State::Aborting { id } => State::Aborting { id },
            State::Idle | State::Waiting { .. } | State::Stopped => State::Stopped,
        };
        cx.transition("header_times", from, "limit", self.state.name());
    }

    /// Earliest timer.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        match &self.state {
            State::Idle if !self.waiting.is_empty() => Some(self.not_before),
            State::Waiting { until, .. } => Some(*until),
            _ => None,
        }
    }

    /// Whether nothing is unsettled.
    pub(crate) fn is_settled(&self) -> bool {
        matches!(self.state, State::Idle | State::Stopped) && self.waiting.is_empty()
    }

    #[cfg(test)]
    pub(crate) fn waiting_len(&self) -> usize {
        self.waiting.len()
    }

    /// Sends what waits, if it is time and no batch is under way.
    fn cut(&mut self, cx: &mut Context) {
        if self.state == State::Idle && !self.waiting.is_empty() && (self.ended || self.not_before <= cx.now) {
            let batch = std::mem::take(&mut self.waiting).into();
            let attempts = Attempts::first(&HEADER_TIMES, cx.now, cx.rng);
            cx.transition("header_times", "idle", "cut", "in_flight");
            self.send(batch, attempts, cx);
        }
    }

    fn send(&mut self, batch: Times, attempts: Attempts, cx: &mut Context) {
        let id = cx.ids.issue();
        cx.out.push(LogCommand::SendHeaderTimes { id, times: batch.clone() });
        self.state = State::InFlight { id, batch, attempts };
    }
}
