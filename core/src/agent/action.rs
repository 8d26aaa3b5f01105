//! The action handler: one delivered message at a time (specification: start-and-worker §9.9).

use super::desk::{Cx, Desk};
use super::{Level, Metric};
use crate::machine::Instant;
use crate::retry::duration_text;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// Which ping source a delivery came from; it holds the gate until the delivery is completed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) enum Side {
    /// Polling.
    Poll,
    /// The stream, by way of the debouncer.
    Stream,
}

/// What a message asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// Nothing special; the only one that may bring a job.
    Idle,
    /// Hold.
    Pause,
    /// Leave.
    Disconnect,
    /// A failed ping: like idle, but it never ends a pause.
    NoNews,
}

/// A message for the action handler.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Delivery {
    /// Where it came from.
    pub(crate) side: Side,
    /// What it asks for.
    pub(crate) action: Action,
    /// Its text, for the metric.
    pub(crate) label: String,
    /// Job offered.
    pub(crate) job: Option<Arc<str>>,
}

/// What a message leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Handled {
    /// Completed without error.
    Done,
    /// A job to accept; it is completed when that is over.
    Job(Arc<str>),
    /// The handler leaves.
    Leave(Leave),
}

/// Why the handler leaves, as far as the log is concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Leave {
    /// The reason is written.
    Quietly,
    /// The control plane said so: a graceful stop of this worker, with its line.
    AsGracefulStop,
}

/// Uptime limit of a worker (`disconnect-after-uptime`), counted from the start of serving.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
enum Limit {
    /// Not set, or dealt with.
    Off,
    /// Fires then.
    At(Instant),
    /// Fired while a message was being handled; taken up afterwards.
    Fired,
}

/// The state of the handler between messages.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) struct Handler {
    paused: bool,
    ran_job: bool,
    leave_when_unpaused: bool,
    uptime: Limit,
    idle_fired: bool,
}

impl Handler {
    /// A handler whose uptime begins now.
    pub(crate) fn start(now: Instant, cx: &Cx<'_>) -> Handler {
        let uptime = cx.config.disconnect_after_uptime.map_or(Limit::Off, |limit| Limit::At(now + limit));
        Handler { paused: false, ran_job: false, leave_when_unpaused: false, uptime, idle_fired: false }
    }

    /// The name of its state, for transitions and for the status page.
    pub(crate) fn name(&self) -> &'static str {
        if self.paused { "Paused" } else { "Free" }
    }

    pub(crate) fn paused(&self) -> bool {
        self.paused
    }

    pub(crate) fn deadline(&self) -> Option<Instant> {
        match self.uptime {
            Limit::At(at) => Some(at),
            Limit::Off | Limit::Fired => None,
        }
    }

    /// The uptime timer is noted; [`Handler::take_up`] acts on it when no message is being handled.
    pub(crate) fn expire(&mut self, now: Instant, desk: &Desk, cx: &mut Cx<'_>) {
        if self.deadline().is_some_and(|at| at <= now) {
            self.uptime = Limit::Fired;
            desk.step("action", self.name(), "uptime", self.name(), cx);
        }
    }

    /// The idle monitor has fired; likewise.
    pub(crate) fn idle_fired(&mut self, desk: &Desk, cx: &mut Cx<'_>) {
        self.idle_fired = true;
        desk.step("action", self.name(), "idle fired", self.name(), cx);
    }

    /// Whether a limit has fired and was not taken up.
    pub(crate) fn has_fired(&self) -> bool {
        self.uptime == Limit::Fired || self.idle_fired
    }

    /// Takes up limits that have fired, while no message is being handled.
    pub(crate) fn take_up(&mut self, desk: &Desk, cx: &mut Cx<'_>) -> Option<Leave> {
        if self.uptime == Limit::Fired {
            self.uptime = Limit::Off;
            let limit = duration_text(cx.config.disconnect_after_uptime.unwrap_or_default());
            desk.log(Level::Info, format!("Agent has exceeded max uptime of {limit}"), cx);
            if !self.paused {
                desk.log(Level::Info, "Disconnecting...", cx);
                return Some(Leave::Quietly);
            }
            desk.log(Level::Info, "Awaiting resume before disconnecting...", cx);
            self.leave_when_unpaused = true;
        }
        if std::mem::take(&mut self.idle_fired) {
            if !self.paused {
                let limit = duration_text(cx.config.disconnect_after_idle.unwrap_or_default());
                desk.log(Level::Info, format!("All agents have been idle for at least {limit}. Disconnecting..."), cx);
                return Some(Leave::Quietly);
            }
            self.leave_when_unpaused = true;
        }
        None
    }

    /// One message, checked in the order of §9.9.
    pub(crate) fn handle(&mut self, now: Instant, delivery: Delivery, desk: &mut Desk, cx: &mut Cx<'_>) -> Handled {
        let from = self.name();
        let event = match (delivery.action, &delivery.job) {
            (Action::Disconnect, _) => "disconnect",
            (Action::Pause, _) => "pause",
            (Action::NoNews, _) => "no news",
            (Action::Idle, None) => "idle",
            (Action::Idle, Some(_)) => "job",
        };
        cx.metric(Metric::PingAction { action: delivery.label });
        let handled = self.check(now, delivery.action, delivery.job, desk, cx);
        let to = match &handled {
            Handled::Done => self.name(),
            Handled::Job(_) => "Accepting",
            Handled::Leave(_) => "Left",
        };
        desk.step("action", from, event, to, cx);
        handled
    }

    fn check(&mut self, now: Instant, action: Action, job: Option<Arc<str>>, desk: &mut Desk, cx: &mut Cx<'_>) -> Handled {
        match action {
            Action::Disconnect => return Handled::Leave(Leave::AsGracefulStop), // 1
            Action::Pause => {
                // 2: a paused agent keeps the whole pool alive.
                self.paused = true;
                desk.mark.busy();
                return Handled::Done;
            }
            Action::NoNews if self.paused => return Handled::Done, // 3: R6
            Action::Idle | Action::NoNews => {}
        }
        if self.leave_when_unpaused {
            return Handled::Leave(Leave::Quietly); // 4
        }
        if std::mem::take(&mut self.paused) {
            desk.log(Level::Info, "Agent has resumed after being paused", cx); // 5
        }
        if cx.config.acquire_job.is_some() {
            // 6
            if let Some(id) = job {
                let text = format!("Agent ping dispatched a job (id \"{id}\") but agent is in acquire-job mode! Ignoring the new job");
                desk.log(Level::Error, text, cx);
            }
            return Handled::Leave(Leave::Quietly);
        }
        if self.ran_job && cx.config.disconnect_after_job {
            // 7
            if let Some(id) = job {
                let text = format!(
                    "Agent ping dispatched a job (id \"{id}\") but agent is in disconnect-after-job mode (and already ran a job)! Ignoring the new job"
                );
                desk.log(Level::Error, text, cx);
            }
            desk.log(Level::Info, "Job ran, and disconnect-after-job is enabled. Disconnecting...", cx);
            return Handled::Leave(Leave::Quietly);
        }
        match job {
            Some(id) if desk.accepted.contains(&id) => {
                // An id that was accepted before by this worker is not accepted again (races R12).
                desk.log(Level::Warn, format!("Ignoring job {id}, which this agent has already accepted"), cx);
                desk.mark.idle(now);
                Handled::Done
            }
            Some(id) => {
                desk.mark.busy(); // 9: the mark precedes every timer of this instant.
                Handled::Job(id)
            }
            None => {
                desk.mark.idle(now); // 8
                Handled::Done
            }
        }
    }

    /// A job has completed without start error.
    pub(crate) fn ran_job(&mut self) {
        self.ran_job = true;
    }
}
