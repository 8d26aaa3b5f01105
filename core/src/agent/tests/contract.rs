//! The generic contract of machines, kept by the whole agent.

use super::*;
use crate::api::{AcceptedJob, GrpcCode, Operation, Outcome, Reply, StreamEnd, StreamMessage};
use crate::job::JobFiles;
use crate::machine::{Instant, Owner, RequestId};
use crate::process::{ExitStatus, ProcessEvent};
use crate::rng::Rng;
use crate::secret::{MASK, Secret};
use crate::testing;
use crate::wall::WallClock;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

#[derive(Clone)]
enum Kind {
    Call(&'static str, Arc<str>),
    Stream,
    WriteFiles,
    RemoveFiles,
    Hook,
    /// 0: being spawned, 1: runs, 2: has exited.
    Spawn(u8),
}

/// Answers anything that is outstanding in any order, well or badly.
#[derive(Clone, Default)]
struct Surroundings {
    kinds: BTreeMap<RequestId, Kind>,
    flushes: BTreeSet<Owner>,
    begun: bool,
    connected: bool,
    stopped: bool,
    answers: u32,
}

impl Surroundings {
    fn outcome(&mut self, rng: &mut Rng, name: &str, job: &Arc<str>) -> Outcome {
        self.answers += 1;
        let fails = rng.below(4) == 0;
        match (name, rng.below(8)) {
            ("register", _) if !fails => {
                let access_token = Secret::new(MASK);
                return Outcome::Ok(Reply::Registered(Box::new(crate::api::Registered { access_token, ..registered(self.answers) })));
            }
            ("register", _) => return reset(),
            (_, 0) if fails => return status(401),
            (_, 1) if fails => return status(422),
            (_, 2) if fails => return status(500),
            (_, 3) if fails => return Outcome::Aborted,
            _ if fails => return reset(),
            _ => {}
        }
        match (name, rng.below(6)) {
            ("ping", 0) => ping("pause"),
            ("ping", 1) if rng.below(4) == 0 => ping("disconnect"),
            ("ping", 2..4) => ping_job(&format!("job-{}", rng.below(9))),
            ("ping", _) => ping(""),
            ("accept" | "acquire", _) => Outcome::Ok(Reply::Job(Box::new(AcceptedJob { id: job.clone(), ..AcceptedJob::default() }))),
            ("state", 0) => Outcome::Ok(Reply::State("canceling".into())),
            ("state", _) => Outcome::Ok(Reply::State("running".into())),
            _ => ok(),
        }
    }
}

macro_rules! contract_world {
    ($name:ident, $config:expr) => {
        #[derive(Clone)]
        struct $name(Surroundings);

        impl testing::World for $name {
            type Machine = Agent;
            type Id = RequestId;

            fn fresh(seed: u64) -> (Agent, Self) {
                let config = AgentConfig { token: Secret::new(MASK), ..$config };
                (Agent::new(Arc::new(config), WallClock::default(), [seed as u8; 32]), $name(Surroundings::default()))
            }

            fn starts(command: &AgentCommand) -> Option<RequestId> {
                starts(command)
            }

            fn completes(event: &AgentEvent) -> Option<RequestId> {
                completes(event)
            }

            fn observe(&mut self, _: Instant, command: &AgentCommand) {
                self.0.observe(command);
            }

            fn draw(&mut self, rng: &mut Rng, outstanding: &BTreeSet<RequestId>) -> Option<AgentEvent> {
                self.0.draw(rng, outstanding)
            }

            fn finished(machine: &Agent) -> bool {
                machine.is_dead()
            }

            fn sizes(machine: &Agent) -> Vec<(&'static str, usize, usize)> {
                machine.pool().into_iter().flat_map(|pool| pool.workers().iter().flat_map(|w| w.sizes())).collect()
            }
        }
    };
}

fn starts(command: &AgentCommand) -> Option<RequestId> {
    match command {
        AgentCommand::Call { id, .. }
        | AgentCommand::OpenStream { id, .. }
        | AgentCommand::WriteJobFiles { id, .. }
        | AgentCommand::RemoveJobFiles { id, .. }
        | AgentCommand::RunHook { id, .. }
        | AgentCommand::Spawn { id, .. } => Some(*id),
        _ => None,
    }
}

fn completes(event: &AgentEvent) -> Option<RequestId> {
    match event {
        AgentEvent::Completed { id, .. }
        | AgentEvent::StreamEnded { id, .. }
        | AgentEvent::JobFilesWritten { id, .. }
        | AgentEvent::JobFilesRemoved { id, .. }
        | AgentEvent::HookEnded { id, .. }
        | AgentEvent::Process { id, event: ProcessEvent::SpawnFailed(_) | ProcessEvent::OutputEnded { .. } } => Some(*id),
        _ => None,
    }
}

impl Surroundings {
    fn observe(&mut self, command: &AgentCommand) {
        let kind = match command {
            AgentCommand::Transition(t) => return testing::transitions::may_be_made(t),
            AgentCommand::Call { call, .. } => {
                let job = match &call.operation {
                    Operation::Accept { job } | Operation::Acquire { job, .. } => job.clone(),
                    _ => "".into(),
                };
                self.connected |= matches!(call.operation, Operation::Connect);
                Kind::Call(operation_name(&call.operation), job)
            }
            AgentCommand::OpenStream { .. } => Kind::Stream,
            AgentCommand::WriteJobFiles { .. } => Kind::WriteFiles,
            AgentCommand::RemoveJobFiles { .. } => Kind::RemoveFiles,
            AgentCommand::RunHook { .. } => Kind::Hook,
            AgentCommand::Spawn { .. } => Kind::Spawn(0),
            AgentCommand::LogFlush { job, .. } => {
                self.flushes.insert(*job);
                return;
            }
            _ => return,
        };
        if let Some(id) = starts(command) {
            self.kinds.insert(id, kind);
        }
    }

    fn draw(&mut self, rng: &mut Rng, outstanding: &BTreeSet<RequestId>) -> Option<AgentEvent> {
        if !std::mem::replace(&mut self.begun, true) {
            return Some(AgentEvent::Begin);
        }
        if self.connected && !self.stopped && rng.below(60) == 0 {
            // One only: with two the force timer may end the process while requests are outstanding, as it must.
            self.stopped = true;
            return Some(AgentEvent::Signal(OsSignal::Term));
        }
        if rng.below(3) == 0
            && let Some(job) = self.flushes.pop_first()
        {
            return Some(AgentEvent::LogDrained { job, failed: 0, uploaded_bytes: 0 });
        }
        let known: Vec<RequestId> = self.kinds.keys().copied().filter(|id| outstanding.contains(id)).collect();
        let id = *known.get(rng.below(known.len() as u64) as usize)?;
        let kind = self.kinds.get(&id)?.clone();
        let event = match kind {
            Kind::Call(name, job) => AgentEvent::Completed { id, outcome: self.outcome(rng, name, &job) },
            Kind::Stream if rng.below(3) > 0 => {
                let message = match rng.below(8) {
                    0 => StreamMessage::Pause { reason: String::new() },
                    1 if rng.below(8) == 0 => StreamMessage::Disconnect { reason: String::new() },
                    2 if rng.below(8) == 0 => StreamMessage::Job { id: "".into() },
                    3..6 => StreamMessage::Job { id: format!("job-{}", rng.below(200)).into() },
                    _ => StreamMessage::Resume,
                };
                return Some(AgentEvent::StreamMessage { id, message });
            }
            Kind::Stream => {
                let end = match rng.below(6) {
                    0 => StreamEnd::Clean,
                    1 => StreamEnd::Closed,
                    2 => failure(GrpcCode::Unimplemented),
                    3 => failure(GrpcCode::Internal),
                    _ => failure(GrpcCode::DeadlineExceeded),
                };
                AgentEvent::StreamEnded { id, end }
            }
            Kind::WriteFiles if rng.below(6) == 0 => AgentEvent::JobFilesWritten { id, result: Err("no space".into()) },
            Kind::WriteFiles => AgentEvent::JobFilesWritten { id, result: Ok(Box::new(JobFiles::default())) },
            Kind::RemoveFiles => AgentEvent::JobFilesRemoved { id, own_status: false },
            Kind::Hook => {
                AgentEvent::HookEnded { id, end: if rng.below(8) == 0 { HookEnd::Failed("exit status 1".into()) } else { HookEnd::Missing } }
            }
            Kind::Spawn(0) if rng.below(6) == 0 => AgentEvent::Process { id, event: ProcessEvent::SpawnFailed("no such file".into()) },
            Kind::Spawn(state) => {
                let event = match state {
                    0 => ProcessEvent::Started { pid: 7 },
                    1 => ProcessEvent::Exited(ExitStatus::Code((rng.below(3)) as i32)),
                    _ => ProcessEvent::OutputEnded { cut: false },
                };
                self.kinds.insert(id, Kind::Spawn(state + 1));
                AgentEvent::Process { id, event }
            }
        };
        if completes(&event).is_some() {
            self.kinds.remove(&id);
        }
        Some(event)
    }
}

fn several(mode: PingMode) -> AgentConfig {
    AgentConfig {
        spawn: 2,
        ping_mode: mode,
        disconnect_after_idle: Some(Duration::from_secs(40)),
        disconnect_after_uptime: Some(Duration::from_secs(90)),
        watchdog: Some(Duration::from_secs(30)),
        ..config()
    }
}

contract_world!(Polling, several(PingMode::PollOnly));
contract_world!(Both, several(PingMode::Auto));
contract_world!(OneShot, AgentConfig { disconnect_after_job: true, ..several(PingMode::StreamOnly) });
contract_world!(Acquiring, AgentConfig { acquire_job: Some("J".into()), ..config() });

#[test]
fn the_agent_keeps_the_contract() {
    testing::check::<Polling>(150);
    testing::check::<Both>(150);
    testing::check::<OneShot>(150);
    testing::check::<Acquiring>(100);
}
