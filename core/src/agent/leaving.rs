//! How a worker leaves: stops in every phase, draining, disconnecting (specification: start-and-worker §9.1, §9.11).

use super::Level;
use super::action::Leave;
use super::desk::Cx;
use super::idle::Mark;
use super::retrying::Retrying;
use super::serving::LeftOver;
use super::worker::{Drain, Phase, Stage, Stop, Worker};
use crate::api::{Operation, Outcome};
use crate::limits;
use crate::machine::{Instant, RequestId};
use crate::retry::{self, Next};

impl Worker {
    pub(super) fn leave(&mut self, now: Instant, leave: Option<Leave>, cx: &mut Cx<'_>) {
        match leave {
            None => {}
            Some(Leave::Quietly) => self.drain(now, "left", cx),
            Some(Leave::AsGracefulStop) => self.stopped(now, Stop::Graceful, cx),
        }
    }

    pub(super) fn stopped(&mut self, now: Instant, level: Stop, cx: &mut Cx<'_>) {
        let busy = self.job().is_some();
        let (text, event) = match level {
            _ if matches!(self.phase, Phase::Created | Phase::Closing | Phase::Finished) => return,
            Stop::None => return,
            Stop::Graceful if self.stop >= Stop::Graceful => {
                return self.desk.log(Level::Warn, "Agent is already gracefully stopping...", cx);
            }
            Stop::Forced if self.stop == Stop::Forced => return,
            Stop::Graceful if busy => ("Gracefully stopping agent. Waiting for current job to finish before disconnecting...", "graceful stop"),
            Stop::Graceful => ("Gracefully stopping agent. Since there is no job running, the agent will disconnect immediately", "graceful stop"),
            Stop::Forced if busy => ("Forcefully stopping agent. The current job will be canceled before disconnecting...", "forced stop"),
            Stop::Forced => ("Forcefully stopping agent. Since there is no job running, the agent will disconnect immediately", "forced stop"),
        };
        self.desk.log(Level::Info, text, cx);
        self.stop = level;
        match &mut self.phase {
            Phase::Connecting { retrying, hurry } => match retrying.in_flight() {
                None => self.close(event, cx),
                Some(id) if level == Stop::Forced => {
                    self.desk.abandon(id, cx);
                    self.disconnect(now, event, cx);
                }
                Some(_) => {
                    *hurry = Some(now + limits::STOP_WAITS_FOR_ANSWER);
                    self.desk.step("worker", "Connecting", event, "Connecting", cx);
                }
            },
            Phase::Live(live) => match &mut live.stage {
                Stage::Acquiring(acquire) => {
                    let verdict = acquire.stop(now, &mut self.desk, cx);
                    self.acquire_verdict(now, verdict, cx);
                }
                Stage::Serving(_) => self.drain(now, event, cx),
                Stage::RunningAcquired(_) | Stage::Draining(_) => {
                    let name = self.name();
                    self.desk.step("worker", name, event, name, cx);
                }
            },
            Phase::Created | Phase::Disconnecting(_) | Phase::Closing | Phase::Finished => {}
        }
        if level == Stop::Forced {
            self.cancel_job(now, cx);
        }
    }

    /// A forced stop reaches the job, wherever it is (I5).
    fn cancel_job(&mut self, now: Instant, cx: &mut Cx<'_>) {
        let Phase::Live(live) = &mut self.phase else { return };
        if let Stage::RunningAcquired(job) | Stage::Draining(Drain::Running(job)) = &mut live.stage
            && let Some(end) = job.stop(now, cx)
        {
            self.job_ended(now, &end, cx);
        }
    }

    /// No new work: sources end, their timers and exchanges too; what is in hand stays.
    pub(super) fn drain(&mut self, now: Instant, event: &'static str, cx: &mut Cx<'_>) {
        self.stop = self.stop.max(Stop::Graceful);
        let from = self.name();
        let Phase::Live(live) = &mut self.phase else { return };
        let left = match std::mem::replace(&mut live.stage, Stage::Draining(Drain::Heartbeat)) {
            Stage::Serving(serving) => serving.stop(&mut self.desk, cx),
            Stage::Acquiring(_) | Stage::RunningAcquired(_) | Stage::Draining(_) => LeftOver::Nothing,
        };
        self.desk.step("worker", from, event, "Draining", cx);
        match left {
            LeftOver::Nothing => self.stop_heartbeats(now, "no job", cx),
            LeftOver::Accepting(accept) => live.stage = Stage::Draining(Drain::Accepting(accept)),
            LeftOver::Running(job) => live.stage = Stage::Draining(Drain::Running(job)),
        }
    }

    /// The last job is over: heartbeats stop, and the one in flight is awaited, before the disconnect.
    pub(super) fn stop_heartbeats(&mut self, now: Instant, event: &'static str, cx: &mut Cx<'_>) {
        let Phase::Live(live) = &mut self.phase else { return };
        live.stage = Stage::Draining(Drain::Heartbeat);
        live.heartbeat.stop(&mut self.desk, cx);
        if live.heartbeat.is_gone() {
            self.disconnect(now, event, cx);
        }
    }

    pub(super) fn disconnect(&mut self, now: Instant, event: &'static str, cx: &mut Cx<'_>) {
        self.desk.log(Level::Info, "Disconnecting...", cx);
        let retrying = Retrying::begin(&retry::DISCONNECT, now, Operation::Disconnect, &mut self.desk, cx);
        self.enter(Phase::Disconnecting(retrying), event, cx);
    }

    pub(super) fn disconnect_answered(&mut self, now: Instant, outcome: &Outcome, cx: &mut Cx<'_>) {
        let Phase::Disconnecting(retrying) = &mut self.phase else { return };
        if let Outcome::Ok(_) = outcome {
            self.desk.log(Level::Info, "Disconnected", cx);
            return self.close("disconnected", cx);
        }
        let error = outcome.text();
        if retrying.failed(&retry::DISCONNECT, now, error, &self.desk, cx) == Next::GiveUp {
            // It never changes the result.
            let text = format!(
                "There was an error sending the disconnect API call to Buildkite. If this agent still appears online, you may have to manually stop it ({error})"
            );
            self.desk.log(Level::Warn, text, cx);
            self.close("gave up", cx);
        }
    }

    pub(super) fn close(&mut self, event: &'static str, cx: &mut Cx<'_>) {
        let phase = if self.desk.abandoned.is_empty() { Phase::Finished } else { Phase::Closing };
        self.desk.mark = Mark::Dead;
        self.enter(phase, event, cx);
    }

    /// Takes note of the end of an aborted exchange.
    pub(super) fn gone(&mut self, id: RequestId, cx: &mut Cx<'_>) -> bool {
        let Some(at) = self.desk.abandoned.iter().position(|known| *known == id) else { return false };
        self.desk.abandoned.remove(at);
        if matches!(self.phase, Phase::Closing) && self.desk.abandoned.is_empty() {
            self.enter(Phase::Finished, "last exchange gone", cx);
            self.show(cx);
        }
        true
    }
}
