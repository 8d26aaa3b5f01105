//! What the parts of one worker share: who it is, where it talks to, and the pens with which it writes commands.

use super::idle::Mark;
use super::{AgentCommand, AgentConfig, AgentLog, Level, Metric, WorkerError};
use crate::api::{ApiCall, Operation, Registered, RequestHeaders, Session, TracingPolicy};
use crate::job::JobContext;
use crate::limits;
use crate::machine::{Instant, Owner, RequestId, RequestIds, Transition};
use crate::rng::Rng;
use crate::wall::WallClock;
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

/// What every transition may look at, and where its commands go.
pub(crate) struct Cx<'a> {
    pub(crate) config: &'a AgentConfig,
    pub(crate) clock: &'a WallClock,
    pub(crate) out: &'a mut Vec<AgentCommand>,
}

impl Cx<'_> {
    /// Writes a line that belongs to no worker.
    pub(crate) fn log(&mut self, level: Level, text: impl Into<String>) {
        self.out.push(AgentCommand::Log(AgentLog { level, worker: None, text: text.into(), fields: Vec::new() }));
    }

    /// Reports a step of one machine.
    pub(crate) fn step(&mut self, owner: Owner, machine: &'static str, from: &'static str, event: &'static str, to: &'static str) {
        self.out.push(AgentCommand::Transition(Transition { owner, machine, from, event, to }));
    }

    /// Counts something.
    pub(crate) fn metric(&mut self, metric: Metric) {
        self.out.push(AgentCommand::Metric(metric));
    }

    /// What the job runner may look at, and where its commands go.
    pub(crate) fn job(&mut self) -> (JobContext<'_>, &mut Vec<AgentCommand>) {
        (JobContext { config: self.config, clock: self.clock }, self.out)
    }
}

/// Contact with the control plane, for health and log lines.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) struct Pulse {
    /// Last successful heartbeat.
    pub(crate) last_success: Option<Instant>,
    /// Error of the last whole cycle, if it failed.
    pub(crate) last_error: Option<Arc<str>>,
}

/// Ids of jobs accepted by this worker, the newest last (start-and-worker §9.8; races R12).
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) struct Accepted(VecDeque<Arc<str>>);

impl Accepted {
    pub(crate) fn contains(&self, job: &str) -> bool {
        self.0.iter().any(|known| **known == *job)
    }

    pub(crate) fn remember(&mut self, job: Arc<str>) {
        if self.0.len() == limits::REMEMBERED_JOBS {
            self.0.pop_front();
        }
        self.0.push_back(job);
    }

    /// The job was given back without a start: it may be offered again (races R18).
    pub(crate) fn forget(&mut self, job: &str) {
        self.0.retain(|known| **known != *job);
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }
}

/// One worker's identity and session.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) struct Desk {
    /// Spawn index, from 1.
    pub(crate) index: u32,
    /// Agent UUID.
    pub(crate) id: Arc<str>,
    /// Registered name.
    pub(crate) name: Arc<str>,
    /// Where and as whom; changes with an endpoint switch and with `request_headers`.
    pub(crate) session: Session,
    /// P.
    pub(crate) ping_interval: Duration,
    /// H.
    pub(crate) heartbeat_interval: Duration,
    /// How often a job's state is asked for.
    pub(crate) status_interval: Duration,
    /// Handed to jobs.
    pub(crate) tracing: Option<Box<TracingPolicy>>,
    pub(crate) ids: RequestIds,
    pub(crate) rng: Rng,
    /// Aborted exchanges whose completion has not come yet. A worker does not finish before they are gone.
    pub(crate) abandoned: Vec<RequestId>,
    /// The idle monitor's mark (start-and-worker §6).
    pub(crate) mark: Mark,
    pub(crate) pulse: Pulse,
    pub(crate) accepted: Accepted,
    /// Result errors so far (start-and-worker §9.1).
    pub(crate) errors: Vec<WorkerError>,
}

impl Desk {
    /// The desk of a worker as registered (start-and-worker §2). `defaults` is what holds where the answer is silent.
    pub(crate) fn new(index: u32, registered: Registered, defaults: &Session, rng: Rng) -> Desk {
        // Workers of one process nearly always share the endpoint: one allocation serves all.
        let endpoint = match registered.endpoint.as_str() {
            "" => defaults.endpoint.clone(),
            same if *same == *defaults.endpoint => defaults.endpoint.clone(),
            other => other.into(),
        };
        let headers = registered.request_headers.map_or_else(|| defaults.headers.clone(), kept_headers);
        Desk {
            index,
            id: registered.id,
            name: registered.name,
            session: Session { endpoint, credential: registered.access_token, headers },
            ping_interval: positive(registered.ping_interval, 10),
            heartbeat_interval: positive(registered.heartbeat_interval, 60),
            status_interval: positive(registered.job_status_interval, 1),
            tracing: registered.tracing.map(Box::new),
            ids: RequestIds::new(Owner::Worker(index)),
            rng,
            abandoned: Vec::new(),
            mark: Mark::Initial,
            pulse: Pulse::default(),
            accepted: Accepted::default(),
            errors: Vec::new(),
        }
    }

    pub(crate) fn owner(&self) -> Owner {
        self.ids.owner()
    }

    /// Makes a request with the limit of every exchange.
    pub(crate) fn call(&mut self, operation: Operation, cx: &mut Cx<'_>) -> RequestId {
        let session = self.session.clone();
        self.call_as(session, operation, limits::EXCHANGE, None, cx)
    }

    /// Makes a request.
    pub(crate) fn call_as(&mut self, session: Session, operation: Operation, limit: Duration, timeout_ms: Option<u64>, cx: &mut Cx<'_>) -> RequestId {
        let id = self.ids.issue();
        cx.out.push(AgentCommand::Call { id, call: Box::new(ApiCall { session, operation, limit, timeout_ms }) });
        id
    }

    /// Aborts a request; its completion is awaited only by the end of the worker.
    pub(crate) fn abandon(&mut self, id: RequestId, cx: &mut Cx<'_>) {
        self.abandoned.push(id);
        cx.out.push(AgentCommand::AbortCall { id });
    }

    /// Closes a stream, likewise.
    pub(crate) fn abandon_stream(&mut self, id: RequestId, cx: &mut Cx<'_>) {
        self.abandoned.push(id);
        cx.out.push(AgentCommand::CloseStream { id });
    }

    /// Writes a line with the field `agent`.
    pub(crate) fn log(&self, level: Level, text: impl Into<String>, cx: &mut Cx<'_>) {
        cx.out.push(AgentCommand::Log(AgentLog { level, worker: Some(self.name.clone()), text: text.into(), fields: Vec::new() }));
    }

    /// Writes a debug line, which is made only if somebody reads it.
    pub(crate) fn debug(&self, text: impl FnOnce() -> String, cx: &mut Cx<'_>) {
        if cx.config.job.debug_lines {
            self.log(Level::Debug, text(), cx);
        }
    }

    /// Reports a step of one of this worker's machines.
    pub(crate) fn step(&self, machine: &'static str, from: &'static str, event: &'static str, to: &'static str, cx: &mut Cx<'_>) {
        cx.step(self.owner(), machine, from, event, to);
    }

    /// Replaces the server-specified headers, if the answer has any (start-and-worker §9.6).
    pub(crate) fn take_headers(&mut self, headers: Option<Vec<(String, String)>>, cx: &mut Cx<'_>) {
        let Some(headers) = headers else { return };
        if *self.session.headers != headers {
            self.session.headers = kept_headers(headers);
        }
        self.tell_headers(cx);
    }

    /// The debug lines of agent-api §2.4.
    pub(crate) fn tell_headers(&self, cx: &mut Cx<'_>) {
        if cx.config.job.debug_lines {
            for (name, value) in self.session.headers.iter() {
                self.log(Level::Debug, format!("Server-specified request header: {name}: {value}"), cx);
            }
        }
    }
}

/// Only names that begin with `Buildkite-` are kept (agent-api §2.4).
fn kept_headers(mut headers: Vec<(String, String)>) -> RequestHeaders {
    headers.retain(|(name, _)| name.starts_with("Buildkite-"));
    Arc::new(headers)
}

/// An interval, or its default where it is zero (start-and-worker §2, R20).
fn positive(interval: Duration, default_seconds: u64) -> Duration {
    if interval.is_zero() { Duration::from_secs(default_seconds) } else { interval }
}
