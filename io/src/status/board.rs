//! What is known of the agent at this moment: written by the driver, read by the server.

use super::metrics::Metrics;
use crate::driver::Clock;
use ibex_core::agent::{Metric, WorkerHealth};
use ibex_core::machine::{Owner, Transition};
use ibex_core::retry::duration_text;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// The board. Clones show the same.
#[derive(Clone, Debug)]
pub struct Board {
    clock: Clock,
    notes: Arc<Mutex<Notes>>,
}

/// What is on the board. No decision reads it.
#[derive(Debug, Default)]
pub(super) struct Notes {
    pub(super) workers: BTreeMap<u32, WorkerHealth>,
    /// State of every machine, by owner.
    pub(super) machines: BTreeMap<(Owner, &'static str), &'static str>,
    pub(super) metrics: Metrics,
}

impl Board {
    /// An empty board; `clock` is the driver's.
    pub fn new(clock: Clock) -> Board {
        Board { clock, notes: Arc::default() }
    }

    /// Counts something.
    pub fn metric(&self, metric: &Metric) {
        self.notes().metrics.count(metric);
    }

    /// Shows a worker's state.
    pub fn health(&self, health: &WorkerHealth) {
        self.notes().workers.insert(health.worker, health.clone());
    }

    /// Shows a machine's state. Jobs that a worker has done with are taken down when its next one begins.
    pub fn transition(&self, transition: &Transition) {
        let mut notes = self.notes();
        if let Owner::Job { worker, generation } = transition.owner {
            notes.machines.retain(|(owner, _), _| !matches!(owner, Owner::Job { worker: w, generation: g } if *w == worker && *g < generation));
        }
        notes.machines.insert((transition.owner, transition.machine), transition.to);
    }

    /// Prometheus text.
    pub(super) fn metrics(&self) -> String {
        self.notes().metrics.render()
    }

    /// `/status.json` without its newline.
    pub(super) fn json(&self) -> serde_json::Value {
        let notes = self.notes();
        let workers: Vec<_> = notes.workers.values().map(worker_json).collect();
        let busy = notes.workers.values().any(|w| w.current_job.is_some());
        serde_json::json!({ "health": "ok", "aggregate_status": word(busy), "workers": workers })
    }

    /// `/agent/<i>`: status and text; `None` without such a worker.
    pub(super) fn agent(&self, worker: u32) -> Option<(u16, String)> {
        let notes = self.notes();
        let health = notes.workers.get(&worker)?;
        let ago = health.last_heartbeat.map(|at| self.ago(at));
        Some(match (&health.heartbeat_error, ago) {
            (None, None) => (200, "OK: no heartbeat yet".to_owned()),
            (None, Some(ago)) => (200, format!("OK: last heartbeat successful {ago} ago")),
            (Some(e), ago) => {
                let last = ago.map_or("never".to_owned(), |ago| format!("{ago} ago"));
                (500, format!("ERROR: last heartbeat failed: {e}. last successful was {last}"))
            }
        })
    }

    pub(super) fn ago(&self, at: ibex_core::machine::Instant) -> String {
        let passed = self.clock.now().since(at);
        duration_text(Duration::from_millis(u64::try_from(passed.as_millis()).unwrap_or(u64::MAX)))
    }

    /// Since when the driver's clock runs.
    pub(super) fn uptime(&self) -> String {
        self.ago(ibex_core::machine::Instant::ZERO)
    }

    pub(super) fn notes(&self) -> MutexGuard<'_, Notes> {
        // Notes are valid after any prefix of a write: a panic elsewhere takes nothing from them.
        self.notes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn word(busy: bool) -> &'static str {
    if busy { "busy" } else { "idle" }
}

fn worker_json(worker: &WorkerHealth) -> serde_json::Value {
    let mut json = serde_json::Map::new();
    json.insert("status".into(), word(worker.current_job.is_some()).into());
    if let Some(job) = &worker.current_job {
        json.insert("current_job_id".into(), job.to_string().into());
    }
    json.insert("id".into(), worker.id.to_string().into());
    json.insert("spawn_index".into(), worker.worker.into());
    json.into()
}
