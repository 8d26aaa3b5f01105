//! All workers of the process (specification: start-and-worker §5, §6, §8).

use super::desk::Cx;
use super::idle::{IdleMonitor, Mark};
use super::timers::Timers;
use super::worker::{Stop, Worker};
use super::{AgentCommand, AgentEvent, Level, Metric, WorkerError};
use crate::machine::{Instant, Owner, RequestId, earliest};
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// Workers, each running or finished; the idle monitor; the watchdog.
#[derive(Clone, Debug, PartialEq, Hash, Serialize, Deserialize)]
pub(crate) struct Pool {
    workers: Vec<Worker>,
    /// Workers that have not finished.
    running: u32,
    /// Workers that have not connected yet, nor given it up.
    connecting: u32,
    timers: Timers,
    idle: Option<IdleMonitor>,
    watchdog: Option<Watchdog>,
}

/// Every half interval, as long as the pool runs.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
struct Watchdog {
    half: Duration,
    next: Instant,
}

/// What an event meant to the pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PoolVerdict {
    /// Somebody still runs.
    Running,
    /// The last worker has finished.
    Finished,
}

impl Pool {
    /// Starts every worker; they connect independently.
    pub(crate) fn start(now: Instant, workers: Vec<Worker>, cx: &mut Cx<'_>) -> Pool {
        let count = u32::try_from(workers.len()).unwrap_or(u32::MAX);
        let idle = cx.config.disconnect_after_idle.filter(|limit| !limit.is_zero()).map(|limit| IdleMonitor::new(limit, count));
        let watchdog = cx.config.watchdog.filter(|w| !w.is_zero()).map(|interval| Watchdog { half: interval / 2, next: now });
        let timers = Timers::new(workers.len());
        let mut pool = Pool { workers, running: count, connecting: count, timers, idle, watchdog };
        cx.step(Owner::Agent, "pool", "Created", "start", "Running");
        for _ in 0..count {
            cx.metric(Metric::WorkerStarted);
        }
        pool.feed_watchdog(now, cx);
        for index in 0..pool.workers.len() {
            pool.with(now, index, cx, |worker, cx| worker.begin(now, cx));
        }
        pool
    }

    /// Lets one worker act, and keeps in step what the pool knows of it.
    fn with(&mut self, now: Instant, index: usize, cx: &mut Cx<'_>, act: impl FnOnce(&mut Worker, &mut Cx<'_>)) -> PoolVerdict {
        let worker = &mut self.workers[index];
        let (was_finished, was_connecting) = (worker.is_finished(), worker.is_connecting());
        let before = worker.mark();
        act(worker, cx);
        let (after, finished, connecting) = (worker.mark(), worker.is_finished(), worker.is_connecting());
        self.timers.set(index, worker.deadline());
        if before != after
            && let Some(idle) = &mut self.idle
        {
            let workers = &self.workers;
            idle.marked(now, before, after, || last_idle(workers), cx);
        }
        if was_connecting && !connecting {
            self.connecting -= 1;
            // Every worker of a large pool had a connection of its own for an instant.
            if self.connecting == 0 && self.workers.len() > 1 {
                cx.out.push(AgentCommand::ReleaseMemory);
            }
        }
        if finished && !was_finished {
            self.running -= 1;
            cx.metric(Metric::WorkerEnded);
            let to = if self.running == 0 { "Finished" } else { "Running" };
            cx.step(Owner::Agent, "pool", "Running", "worker finished", to);
            // One exporter for the process, flushed and stopped by the last worker (§7.2).
            if self.running == 0 && matches!(cx.config.otlp, Some(Ok(_))) {
                cx.out.push(AgentCommand::FlushMetrics);
            }
        }
        self.verdict()
    }

    fn verdict(&self) -> PoolVerdict {
        if self.running == 0 { PoolVerdict::Finished } else { PoolVerdict::Running }
    }

    fn with_all(&mut self, now: Instant, cx: &mut Cx<'_>, mut act: impl FnMut(&mut Worker, &mut Cx<'_>)) -> PoolVerdict {
        for index in 0..self.workers.len() {
            self.with(now, index, cx, &mut act);
        }
        self.verdict()
    }

    /// A stop, to every worker at once.
    pub(crate) fn stop(&mut self, now: Instant, level: Stop, cx: &mut Cx<'_>) -> PoolVerdict {
        let event = if level == Stop::Forced { "forced stop" } else { "graceful stop" };
        cx.step(Owner::Agent, "pool", "Running", event, "Stopping");
        self.with_all(now, cx, |worker, cx| worker.stop(now, level, cx))
    }

    /// An event for a worker or for its job; `None` if there is no such worker.
    pub(crate) fn handle(&mut self, now: Instant, event: AgentEvent, cx: &mut Cx<'_>) -> Option<PoolVerdict> {
        let (number, generation) = match owner_of(&event)? {
            Owner::Worker(number) => (number, None),
            Owner::Job { worker, generation } => (worker, Some(generation)),
            Owner::Agent | Owner::Executor | Owner::Plane => return None,
        };
        let index = usize::try_from(number.checked_sub(1)?).ok().filter(|i| *i < self.workers.len())?;
        Some(self.with(now, index, cx, |worker, cx| match (generation, event) {
            (Some(generation), event) => worker.job_event(now, generation, event, cx),
            (None, AgentEvent::Completed { id, outcome }) => worker.completed(now, id, outcome, cx),
            (None, AgentEvent::StreamMessage { id, message }) => worker.stream_message(now, id, message, cx),
            (None, AgentEvent::StreamEnded { id, end }) => worker.stream_over(now, id, end, cx),
            (None, _) => {}
        }))
    }

    pub(crate) fn deadline(&self) -> Option<Instant> {
        let own = earliest(self.idle.as_ref().and_then(IdleMonitor::deadline), self.watchdog.as_ref().map(|w| w.next));
        earliest(self.timers.least(), own)
    }

    /// Fires the timers that are due: workers first, so that what they decide at this instant is marked before the idle monitor
    /// and the watchdog look.
    pub(crate) fn expire(&mut self, now: Instant, cx: &mut Cx<'_>) -> PoolVerdict {
        loop {
            while let Some(index) = self.timers.due(now) {
                self.with(now, index, cx, |worker, cx| worker.expire(now, cx));
            }
            if self.running == 0 {
                return PoolVerdict::Finished;
            }
            if self.idle.as_mut().is_some_and(|idle| idle.expire(now, cx)) {
                self.with_all(now, cx, |worker, cx| worker.idle_fired(now, cx));
                continue;
            }
            self.feed_watchdog(now, cx);
            return self.verdict();
        }
    }

    fn feed_watchdog(&mut self, now: Instant, cx: &mut Cx<'_>) {
        let Some(watchdog) = self.watchdog.as_mut().filter(|w| w.next <= now) else { return };
        watchdog.next = now + watchdog.half;
        match self.workers.iter().find_map(|worker| worker.unhealthy(now)) {
            None => cx.out.push(AgentCommand::NotifyWatchdog),
            Some(why) => {
                cx.log(Level::Warn, format!("Buildkite heartbeat has not succeeded; not sending systemd watchdog notification: {why}"));
            }
        }
    }

    /// The result errors of all workers, in spawn order.
    pub(crate) fn errors(&self) -> Vec<&WorkerError> {
        self.workers.iter().flat_map(|worker| worker.errors()).collect()
    }

    /// Late completions counted by the workers.
    pub(crate) fn late(&self) -> u32 {
        self.workers.iter().map(Worker::late).sum()
    }

    #[cfg(test)]
    pub(crate) fn workers(&self) -> &[Worker] {
        &self.workers
    }
}

/// When the last of the idle workers became idle.
fn last_idle(workers: &[Worker]) -> Option<Instant> {
    workers
        .iter()
        .filter_map(|worker| match worker.mark() {
            Mark::Idle(since) => Some(since),
            Mark::Initial | Mark::Busy | Mark::Dead => None,
        })
        .max()
}

/// Whose event it is.
pub(crate) fn owner_of(event: &AgentEvent) -> Option<Owner> {
    let id: &RequestId = match event {
        AgentEvent::Begin | AgentEvent::Signal(_) | AgentEvent::ClockMoved(_) => return None,
        AgentEvent::LogDrained { job, .. } => return Some(*job),
        AgentEvent::Completed { id, .. }
        | AgentEvent::StreamMessage { id, .. }
        | AgentEvent::StreamEnded { id, .. }
        | AgentEvent::JobFilesWritten { id, .. }
        | AgentEvent::JobFilesRemoved { id, .. }
        | AgentEvent::HookEnded { id, .. }
        | AgentEvent::Process { id, .. }
        | AgentEvent::Verified { id, .. } => id,
    };
    Some(id.owner)
}
