//! A job that is this worker's: the runner, and what is counted of it (specification: start-and-worker §9.10, §7.1).

use super::desk::{Cx, Desk};
use super::{AgentEvent, Metric};
use crate::api::AcceptedJob;
use crate::job::{JobEnd, JobRunner, JobStart};
use crate::machine::{Instant, Owner};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// From a successful accept or acquire to the end of the job.
#[derive(Clone, Debug, PartialEq, Hash, Serialize, Deserialize)]
pub(crate) struct ActiveJob {
    /// Job id.
    pub(crate) id: Arc<str>,
    runner: Box<JobRunner>,
    priority: i64,
    queue: Arc<str>,
}

/// How a job begins.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Begin {
    /// Number of the job of this worker.
    pub(crate) generation: u32,
    /// Acquired, not accepted.
    pub(crate) acquired: bool,
    /// A forced stop came first: no process, start once, finish −1 (start-and-worker §9.11).
    pub(crate) stopped: bool,
}

impl ActiveJob {
    /// Hands the job to a runner.
    pub(crate) fn begin(now: Instant, job: AcceptedJob, begin: Begin, desk: &mut Desk, cx: &mut Cx<'_>) -> ActiveJob {
        let id = job.id.clone();
        let priority = job.priority;
        let queue: Arc<str> = job.env.get("BUILDKITE_AGENT_META_DATA_QUEUE").unwrap_or_default().into();
        desk.mark.busy();
        desk.accepted.remember(id.clone());
        cx.metric(Metric::JobStarted { priority, queue: queue.clone() });
        let start = JobStart {
            owner: Owner::Job { worker: desk.index, generation: begin.generation },
            worker: desk.name.clone(),
            job,
            session: desk.session.clone(),
            status_interval: desk.status_interval,
            tracing: desk.tracing.as_deref().cloned(),
            ignore_agent_in_dispatches: cx.config.disconnect_after_job && !begin.acquired,
            stopped: begin.stopped,
            acquired: begin.acquired,
        };
        let rng = desk.rng.fork();
        let (context, out) = cx.job();
        let runner = Box::new(JobRunner::begin(now, start, rng, &context, out));
        ActiveJob { id, runner, priority, queue }
    }

    /// An event of this job.
    pub(crate) fn handle(&mut self, now: Instant, event: AgentEvent, cx: &mut Cx<'_>) -> Option<JobEnd> {
        let (context, out) = cx.job();
        self.runner.handle(now, event, &context, out)
    }

    /// A forced stop. Idempotent.
    pub(crate) fn stop(&mut self, now: Instant, cx: &mut Cx<'_>) -> Option<JobEnd> {
        let (context, out) = cx.job();
        self.runner.stop(now, &context, out)
    }

    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.runner.deadline()
    }

    pub(crate) fn expire(&mut self, now: Instant, cx: &mut Cx<'_>) -> Option<JobEnd> {
        let (context, out) = cx.job();
        self.runner.expire(now, &context, out)
    }

    /// The job is over, whatever became of it.
    pub(crate) fn over(self, now: Instant, end: &JobEnd, desk: &mut Desk, cx: &mut Cx<'_>) {
        cx.metric(Metric::JobEnded { priority: self.priority, queue: self.queue });
        if let JobEnd::NotStarted(_) = end {
            // It never ran here, so being offered it again is not a duplicate (races R18).
            desk.accepted.forget(&self.id);
        }
        desk.mark.idle(now);
    }
}
