//! What the status page and the watchdog know of a worker (specification: start-and-worker §7, §8).

use super::desk::{Cx, Pulse};
use super::worker::{Phase, Stage, Worker};
use super::{AgentCommand, WorkerHealth};
use crate::machine::Instant;
use crate::retry::duration_text;
use serde::{Deserialize, Serialize};

/// One word for `/status`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
enum Word {
    #[default]
    Registered,
    Connecting,
    Acquiring,
    Idle,
    Paused,
    Working,
    Draining,
    Disconnecting,
    Finished,
}

impl Word {
    fn text(self) -> &'static str {
        match self {
            Word::Registered => "registered",
            Word::Connecting => "connecting",
            Word::Acquiring => "acquiring",
            Word::Idle => "idle",
            Word::Paused => "paused",
            Word::Working => "working",
            Word::Draining => "draining",
            Word::Disconnecting => "disconnecting",
            Word::Finished => "finished",
        }
    }
}

/// What was last shown.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) struct Shown {
    word: Word,
    /// Number of the job in hand.
    job: Option<u32>,
    pulse: Pulse,
}

impl Worker {
    fn word(&self) -> Word {
        match &self.phase {
            Phase::Created => Word::Registered,
            Phase::Connecting { .. } => Word::Connecting,
            Phase::Live(live) => match &live.stage {
                Stage::Acquiring(_) => Word::Acquiring,
                Stage::RunningAcquired(_) => Word::Working,
                Stage::Serving(serving) if serving.job().is_some() => Word::Working,
                Stage::Serving(serving) if serving.paused() => Word::Paused,
                Stage::Serving(_) => Word::Idle,
                Stage::Draining(_) => Word::Draining,
            },
            Phase::Disconnecting(_) => Word::Disconnecting,
            Phase::Closing | Phase::Finished => Word::Finished,
        }
    }

    /// Shows the worker's state, if it has changed.
    pub(super) fn show(&mut self, cx: &mut Cx<'_>) {
        let word = self.word();
        let job = self.job();
        let number = job.map(|_| self.generation);
        if self.shown.word == word && self.shown.job == number && self.shown.pulse == self.desk.pulse {
            return;
        }
        cx.out.push(AgentCommand::Health(WorkerHealth {
            worker: self.desk.index,
            id: self.desk.id.clone(),
            name: self.desk.name.clone(),
            state: word.text(),
            current_job: job.map(|job| job.id.clone()),
            last_heartbeat: self.desk.pulse.last_success,
            heartbeat_error: self.desk.pulse.last_error.clone(),
        }));
        self.shown = Shown { word, job: number, pulse: self.desk.pulse.clone() };
    }

    /// Why the watchdog must not be told that all is well; `None` while it is (start-and-worker §8).
    pub(crate) fn unhealthy(&self, now: Instant) -> Option<String> {
        match &self.phase {
            Phase::Live(live) => {
                let contact = self.desk.pulse.last_success.map_or(live.since, |at| at.max(live.since));
                let silent = now.since(contact);
                (silent > self.desk.heartbeat_interval * 2)
                    .then(|| format!("worker {} has not successfully contacted Buildkite for {}", self.desk.index, duration_text(silent)))
            }
            Phase::Closing | Phase::Finished => self.errors().first().map(|error| format!("worker {} failed: {error}", self.desk.index)),
            Phase::Created | Phase::Connecting { .. } | Phase::Disconnecting(_) => None,
        }
    }
}
