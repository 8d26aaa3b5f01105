//! The embedded control plane as a pure machine: HTTP requests in, responses out (specification: local-control-plane,
//! agent-api). It parses paths and bodies itself, so that a loopback listener and a simulated network are equally thin.
//!
//! ```text
//! route.rs      which request is which, and who may make it
//! agents.rs     register, connect, heartbeat, ping, disconnect; loss
//! stream.rs     ping streams: the same news, as soon as there are any
//! jobs.rs       accept, start, poll, chunks, finish; cancelling; time limits
//! schedule.rs   dependencies, waits, retries, results: from a job's end to the build's
//! upload.rs     pipelines that jobs upload
//! step_api.rs   what jobs ask of steps
//! data.rs       meta-data, annotations
//! env.rs        what a job's environment is made of
//! pages.rs      what people see
//! ```

mod agents;
mod create;
mod data;
mod env;
mod event;
mod invariants;
mod joblog;
mod jobs;
mod objects;
mod pages;
mod route;
mod schedule;
mod state;
mod step_api;
mod stream;
#[cfg(test)]
mod tests;
mod upload;
mod verdict;

pub use event::*;
pub use joblog::{JobLog, LogChunk};
pub use objects::*;
pub use state::*;

use crate::machine::{Instant, Machine, Owner, Transition, earliest};
use crate::rng::Rng;
use crate::wall::WallClock;
use serde::{Deserialize, Serialize};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

type Out = Vec<PlaneCommand>;

/// Order among runnable jobs (local-control-plane §5.2): priority, time scheduled, order of upload.
type ReadyKey = (Reverse<i64>, Instant, usize);

/// The control plane.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Plane {
    config: PlaneConfig,
    clock: WallClock,
    rng: Rng,
    agents: BTreeMap<AgentNo, PlaneAgent>,
    next_agent: AgentNo,
    builds: Vec<PlaneBuild>,
    jobs: Vec<PlaneJob>,
    job_index: BTreeMap<Arc<str>, usize>,
    ready: BTreeSet<ReadyKey>,
    held: VecDeque<HeldPing>,
    streams: BTreeMap<AgentNo, stream::PingStream>,
    late: u32,
}

/// A ping that waits for work.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
struct HeldPing {
    id: u64,
    agent: AgentNo,
    until: Instant,
}

impl Plane {
    /// A plane without builds and agents. Ids and tokens come from `rng`.
    pub fn new(config: PlaneConfig, rng: Rng) -> Plane {
        Plane {
            clock: config.clock,
            config,
            rng,
            agents: BTreeMap::new(),
            next_agent: 1,
            builds: Vec::new(),
            jobs: Vec::new(),
            job_index: BTreeMap::new(),
            ready: BTreeSet::new(),
            held: VecDeque::new(),
            streams: BTreeMap::new(),
            late: 0,
        }
    }

    /// Its settings.
    pub fn config(&self) -> &PlaneConfig {
        &self.config
    }

    /// All agents that it remembers, by serial.
    pub fn agents(&self) -> &BTreeMap<AgentNo, PlaneAgent> {
        &self.agents
    }

    /// All builds, in order of creation.
    pub fn builds(&self) -> &[PlaneBuild] {
        &self.builds
    }

    /// All jobs, in order of creation.
    pub fn jobs(&self) -> &[PlaneJob] {
        &self.jobs
    }

    /// The build with this id.
    pub fn build(&self, id: &str) -> Option<&PlaneBuild> {
        self.builds.iter().find(|b| &*b.id == id)
    }

    /// The job with this id.
    pub fn job(&self, id: &str) -> Option<&PlaneJob> {
        self.job_index.get(id).map(|i| &self.jobs[*i])
    }

    /// Events that came too late to be acted on: refused finishes, timers of the past.
    pub fn late(&self) -> u32 {
        self.late
    }

    /// Whether nothing is left to do: every build is over.
    pub fn is_idle(&self) -> bool {
        self.builds.iter().all(|b| b.state.is_terminal())
    }

    fn agent(&self, no: AgentNo) -> &PlaneAgent {
        self.agents.get(&no).expect("an agent that is referred to is remembered")
    }

    fn agent_mut(&mut self, no: AgentNo) -> &mut PlaneAgent {
        self.agents.get_mut(&no).expect("an agent that is referred to is remembered")
    }

    fn new_id(&mut self) -> Arc<str> {
        self.rng.uuid().to_string().into()
    }

    /// A token names its owner, so that it can be looked up without a map of secrets.
    fn new_token(&mut self, kind: &str, owner: u64) -> Token {
        Token(format!("{kind}_{owner}_{:016x}{:016x}", self.rng.next_u64(), self.rng.next_u64()).into())
    }

    /// Every change of a job's state goes through here.
    fn set_job(&mut self, job: usize, event: &'static str, to: JobState, out: &mut Out) {
        let j = &self.jobs[job];
        let (from, name) = (j.state.name(), to.name());
        if matches!(j.state, JobState::Scheduled) {
            let key = self.ready_key(job);
            self.ready.remove(&key);
        }
        if let Some(no) = self.jobs[job].state.agent()
            && to.agent() != Some(no)
            && let Some(agent) = self.agents.get_mut(&no)
        {
            (agent.job, agent.doubted) = (None, None);
        }
        if let Some(no) = to.agent()
            && let Some(agent) = self.agents.get_mut(&no)
        {
            agent.job = Some(job);
        }
        let j = &mut self.jobs[job];
        j.state = to;
        out.push(transition("plane-job", from, event, name));
        out.push(PlaneCommand::JobChanged { job: j.id.clone(), state: name });
    }
}

impl Machine for Plane {
    type Event = PlaneEvent;
    type Command = PlaneCommand;

    fn handle(&mut self, now: Instant, event: PlaneEvent, out: &mut Out) {
        match event {
            PlaneEvent::Request { id, request } => self.request(now, id, &request, out),
            PlaneEvent::Gone { id } => match self.held.iter().position(|h| h.id == id) {
                Some(i) => self.release(i, out),
                None if self.stream_gone(id, out) => {}
                None => self.late = self.late.saturating_add(1),
            },
            PlaneEvent::ClockMoved(clock) => self.clock = clock,
            PlaneEvent::CreateBuild(spec) => match self.create_build(now, *spec, out) {
                Ok(build) => out.push(PlaneCommand::BuildCreated { build }),
                Err(message) => out.push(PlaneCommand::BuildRefused { message }),
            },
            PlaneEvent::CancelBuild { build } => match self.builds.iter().position(|b| b.id == build) {
                Some(b) => self.cancel_build(now, b, out),
                None => self.late = self.late.saturating_add(1),
            },
            PlaneEvent::CancelJob { job } => match self.job_index.get(&job) {
                Some(j) => self.cancel_job(now, *j, out),
                None => self.late = self.late.saturating_add(1),
            },
            PlaneEvent::Control { agent, action } => self.control(&agent, action, out),
        }
        self.serve_held(now, out);
        self.serve_streams(now, out);
    }

    fn deadline(&self) -> Option<Instant> {
        let agents = self.agents.values().map(|a| earliest(self.lost_at(a), a.job.and_then(|j| self.jobs[j].state.deadline())));
        let held = self.held.iter().map(|h| Some(h.until));
        let streams = self.streams.values().map(|s| Some(s.until));
        agents.chain(held).chain(streams).fold(None, earliest)
    }

    fn expire(&mut self, now: Instant, out: &mut Out) {
        while let Some((_, timer)) = self.due(now) {
            match timer {
                Timer::Job(job) => self.job_timer(now, job, out),
                Timer::Agent(no) => self.lose_agent(now, no, out),
                Timer::Held(i) => self.release(i, out),
                Timer::Stream(no) => self.stream_deadline(no, out),
            }
        }
        self.serve_held(now, out);
        self.serve_streams(now, out);
    }
}

/// A timer that is due.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Timer {
    Job(usize),
    Agent(AgentNo),
    Held(usize),
    Stream(AgentNo),
}

impl Plane {
    /// The timer that is due first, if any is due.
    fn due(&self, now: Instant) -> Option<(Instant, Timer)> {
        let jobs = self.agents.values().filter_map(|a| a.job).filter_map(|j| Some((self.jobs[j].state.deadline()?, Timer::Job(j))));
        let agents = self.agents.iter().filter_map(|(no, a)| Some((self.lost_at(a)?, Timer::Agent(*no))));
        let held = self.held.iter().enumerate().map(|(i, h)| (h.until, Timer::Held(i)));
        let streams = self.streams.iter().map(|(no, s)| (s.until, Timer::Stream(*no)));
        jobs.chain(agents).chain(held).chain(streams).filter(|(at, _)| *at <= now).min()
    }
}

fn transition(machine: &'static str, from: &'static str, event: &'static str, to: &'static str) -> PlaneCommand {
    PlaneCommand::Transition(Transition { owner: Owner::Plane, machine, from, event, to })
}
