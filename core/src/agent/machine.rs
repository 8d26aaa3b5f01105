//! The whole `start` process as one machine: registration, lifecycle hooks, pool, shutdown
//! (specification: start-and-worker §1, §3, §4).

use super::desk::Cx;
use super::exit::{exit_of, fatal};
use super::pool::{Pool, PoolVerdict, owner_of};
use super::registration::{RegistrationVerdict, Registrations};
use super::shutdown::{Ground, Rung, Shutdown};
use super::worker::{Stop, Worker};
use super::{AgentCommand, AgentConfig, AgentEvent, Exit, HookEnd, HookSpec, Level, OsSignal};
use crate::api::{Registered, Session};
use crate::machine::{Instant, Machine, Owner, RequestId, RequestIds, earliest};
use crate::rng::Rng;
use crate::secret::Secret;
use crate::wall::WallClock;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// Everything that decides in `ibex start`. The first event is [`AgentEvent::Begin`], the last command [`AgentCommand::Exit`].
#[derive(Clone, Debug, PartialEq, Hash, Serialize, Deserialize)]
pub struct Agent {
    config: Arc<AgentConfig>,
    clock: WallClock,
    rng: Rng,
    ids: RequestIds,
    shutdown: Shutdown,
    phase: Phase,
    /// Completions that nobody waited for, those of workers apart.
    late: u32,
}

#[derive(Clone, Debug, PartialEq, Hash, Serialize, Deserialize)]
enum Phase {
    /// Not begun.
    Created,
    /// S12.
    Registering { registrations: Registrations, session: Session },
    /// S15.
    StartupHook { id: RequestId, registered: Vec<Registered>, session: Session },
    /// S19.
    Pool { pool: Box<Pool>, names: Names },
    /// S20.
    ShutdownHook { id: RequestId, exit: Ending, late: u32 },
    /// The process has ended.
    Dead,
}

/// What both hooks see of the workers, in spawn order.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
struct Names {
    ids: String,
    names: String,
}

/// How the process will end after the shutdown hook.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
struct Ending {
    code: u8,
    message: Option<String>,
}

impl Agent {
    /// An agent that has not begun. `seed` is its only source of randomness.
    pub fn new(config: Arc<AgentConfig>, clock: WallClock, seed: [u8; 32]) -> Agent {
        let shutdown = Shutdown::new(config.kubernetes_exec);
        Agent { config, clock, rng: Rng::from_bytes(seed), ids: RequestIds::new(Owner::Agent), shutdown, phase: Phase::Created, late: 0 }
    }

    /// Whether [`AgentCommand::Exit`] was given.
    pub fn is_dead(&self) -> bool {
        matches!(self.phase, Phase::Dead)
    }

    /// Completions that came too late, or twice, and were dropped.
    pub fn late(&self) -> u32 {
        let below = match &self.phase {
            Phase::Pool { pool, .. } => pool.late(),
            Phase::ShutdownHook { late, .. } => *late,
            _ => 0,
        };
        self.late + below
    }

    fn name(&self) -> &'static str {
        match self.phase {
            Phase::Created => "Created",
            Phase::Registering { .. } => "Registering",
            Phase::StartupHook { .. } => "StartupHook",
            Phase::Pool { .. } => "Pool",
            Phase::ShutdownHook { .. } => "ShutdownHook",
            Phase::Dead => "Dead",
        }
    }

    fn enter(&mut self, phase: Phase, event: &'static str, cx: &mut Cx<'_>) {
        let from = self.name();
        self.phase = phase;
        cx.step(Owner::Agent, "agent", from, event, self.name());
    }

    fn begin(&mut self, now: Instant, cx: &mut Cx<'_>) {
        let Phase::Created = self.phase else { return };
        let session = Session {
            endpoint: cx.config.endpoint.as_str().into(),
            credential: cx.config.token.clone(),
            headers: Arc::new(cx.config.request_headers.clone()),
        };
        let registrations = Registrations::begin(now, &session, &mut self.ids, &mut self.rng, cx);
        self.enter(Phase::Registering { registrations, session }, "begin", cx);
    }

    fn registration(&mut self, verdict: RegistrationVerdict, cx: &mut Cx<'_>) {
        match verdict {
            RegistrationVerdict::Waiting => {}
            RegistrationVerdict::Failed(error) => {
                // No hooks: nothing was connected, no pool was made (§2).
                self.exit(Exit { code: 1, message: Some(fatal(&error)), by_signal: None, kill_jobs: false }, "registration failed", cx);
            }
            RegistrationVerdict::Registered(registered) => {
                let Phase::Registering { session, .. } = std::mem::replace(&mut self.phase, Phase::Created) else { return };
                let id = self.hook("agent-startup", &Names::of(&registered), cx);
                self.phase = Phase::StartupHook { id, registered, session };
                cx.step(Owner::Agent, "agent", "Registering", "registered", "StartupHook");
            }
        }
    }

    fn hook(&mut self, name: &'static str, names: &Names, cx: &mut Cx<'_>) -> RequestId {
        let id = self.ids.issue();
        let env = vec![
            ("BUILDKITE_AGENT_IDS".to_owned(), Secret::new(names.ids.as_str())),
            ("BUILDKITE_AGENT_NAMES".to_owned(), Secret::new(names.names.as_str())),
        ];
        cx.out.push(AgentCommand::RunHook { id, hook: Box::new(HookSpec { name, env, all: true, worker: None }) });
        id
    }

    fn hook_ended(&mut self, now: Instant, id: RequestId, end: HookEnd, cx: &mut Cx<'_>) {
        match std::mem::replace(&mut self.phase, Phase::Dead) {
            Phase::StartupHook { id: mine, registered, session } if mine == id => {
                let names = Names::of(&registered);
                match end {
                    HookEnd::Missing | HookEnd::Succeeded => self.start_pool(now, registered, &session, names, cx),
                    HookEnd::Failed(cause) => {
                        // S15: nothing was connected, and the shutdown hook runs.
                        cx.log(Level::Error, format!("\"agent-startup\" hook: {cause}"));
                        let message = Some(fatal(&format!("failed to run startup hook: {cause}")));
                        let id = self.hook("agent-shutdown", &names, cx);
                        self.phase = Phase::ShutdownHook { id, exit: Ending { code: 1, message }, late: 0 };
                        cx.step(Owner::Agent, "agent", "StartupHook", "hook failed", "ShutdownHook");
                    }
                }
            }
            Phase::ShutdownHook { id: mine, exit, late } if mine == id => {
                self.late += late;
                if let HookEnd::Failed(cause) = end {
                    // The exit code is unchanged (§3).
                    cx.log(Level::Error, format!("\"agent-shutdown\" hook: {cause}"));
                }
                cx.step(Owner::Agent, "agent", "ShutdownHook", "hook done", "Dead");
                cx.out.push(AgentCommand::Exit(Exit { code: exit.code, message: exit.message, by_signal: None, kill_jobs: false }));
            }
            other => {
                self.phase = other;
                self.late += 1;
            }
        }
    }

    fn start_pool(&mut self, now: Instant, registered: Vec<Registered>, session: &Session, names: Names, cx: &mut Cx<'_>) {
        cx.log(Level::Info, format!("Starting {} Agent(s)", registered.len()));
        cx.log(Level::Info, "You can press Ctrl-C to stop the agents");
        cx.step(Owner::Agent, "agent", "StartupHook", "hook done", "Pool");
        let workers = registered.into_iter().zip(1..).map(|(r, index)| Worker::new(index, r, session, self.rng.fork())).collect();
        self.phase = Phase::Pool { pool: Box::new(Pool::start(now, workers, cx)), names };
    }

    fn pool_verdict(&mut self, verdict: PoolVerdict, cx: &mut Cx<'_>) {
        let (PoolVerdict::Finished, Phase::Pool { pool, names }) = (verdict, &self.phase) else { return };
        let Exit { code, message, .. } = exit_of(&pool.errors(), cx.config);
        let (exit, late, names) = (Ending { code, message }, pool.late(), names.clone());
        let id = self.hook("agent-shutdown", &names, cx);
        self.enter(Phase::ShutdownHook { id, exit, late }, "all workers finished", cx);
    }

    fn signal(&mut self, now: Instant, signal: OsSignal, cx: &mut Cx<'_>) {
        let ground = match &mut self.phase {
            Phase::Dead => return,
            Phase::Created | Phase::Registering { .. } | Phase::StartupHook { .. } => return self.early_signal(signal, cx),
            Phase::Pool { .. } => Ground::Pool,
            Phase::ShutdownHook { .. } => Ground::Hook,
        };
        let stop = match self.shutdown.signal(now, signal, ground, cx) {
            Rung::Nothing => return,
            Rung::Graceful => Stop::Graceful,
            Rung::Forced => Stop::Forced,
            Rung::Exit => return self.exit_now("third signal", cx),
        };
        if let Phase::Pool { pool, .. } = &mut self.phase {
            let verdict = pool.stop(now, stop, cx);
            self.pool_verdict(verdict, cx);
        }
    }

    /// Before S16 a signal ends the process: no connect, no disconnect, no hook (§1, R19).
    fn early_signal(&mut self, signal: OsSignal, cx: &mut Cx<'_>) {
        let number = match signal {
            OsSignal::Hup => 1,
            OsSignal::Int => 2,
            OsSignal::Quit => 3,
            OsSignal::Term => 15,
            OsSignal::Kill | OsSignal::Usr1 | OsSignal::Usr2 => return,
        };
        match &mut self.phase {
            Phase::Registering { registrations, .. } => registrations.abort(cx),
            Phase::StartupHook { id, .. } => cx.out.push(AgentCommand::SignalHook { id: *id, signal: OsSignal::Kill }),
            Phase::Created | Phase::Pool { .. } | Phase::ShutdownHook { .. } | Phase::Dead => {}
        }
        self.exit(Exit { code: 128 + number, message: None, by_signal: Some(signal), kill_jobs: true }, signal.name(), cx);
    }

    /// `ExitProcess(1)`: no disconnect, no finish, no hook (§4).
    fn exit_now(&mut self, event: &'static str, cx: &mut Cx<'_>) {
        self.exit(Exit { code: 1, message: None, by_signal: None, kill_jobs: true }, event, cx);
    }

    fn exit(&mut self, exit: Exit, event: &'static str, cx: &mut Cx<'_>) {
        self.enter(Phase::Dead, event, cx);
        cx.out.push(AgentCommand::Exit(exit));
    }

    #[cfg(test)]
    pub(super) fn pool(&self) -> Option<&Pool> {
        match &self.phase {
            Phase::Pool { pool, .. } => Some(pool),
            _ => None,
        }
    }
}

impl Names {
    fn of(registered: &[Registered]) -> Names {
        let join = |of: fn(&Registered) -> &str| registered.iter().map(of).collect::<Vec<_>>().join(",");
        Names { ids: join(|r| &r.id), names: join(|r| &r.name) }
    }
}

impl Machine for Agent {
    type Event = AgentEvent;
    type Command = AgentCommand;

    fn handle(&mut self, now: Instant, event: AgentEvent, out: &mut Vec<AgentCommand>) {
        let (config, clock) = (self.config.clone(), self.clock);
        let mut cx = Cx { config: &config, clock: &clock, out };
        let cx = &mut cx;
        match event {
            AgentEvent::Begin => self.begin(now, cx),
            AgentEvent::Signal(signal) => self.signal(now, signal, cx),
            AgentEvent::ClockMoved(clock) => self.clock = clock,
            AgentEvent::Completed { id, outcome } if id.owner == Owner::Agent => {
                let verdict = match &mut self.phase {
                    Phase::Registering { registrations, .. } => registrations.completed(now, id, outcome, cx),
                    _ => None,
                };
                match verdict {
                    Some(verdict) => self.registration(verdict, cx),
                    None => self.late += 1,
                }
            }
            AgentEvent::HookEnded { id, end } if id.owner == Owner::Agent => self.hook_ended(now, id, end, cx),
            event => match &mut self.phase {
                Phase::Pool { pool, .. } => match pool.handle(now, event, cx) {
                    Some(verdict) => self.pool_verdict(verdict, cx),
                    None => self.late += 1,
                },
                _ => {
                    debug_assert!(owner_of(&event).is_some());
                    self.late += 1;
                }
            },
        }
    }

    fn deadline(&self) -> Option<Instant> {
        match &self.phase {
            Phase::Created | Phase::StartupHook { .. } | Phase::Dead => None,
            Phase::Registering { registrations, .. } => registrations.deadline(),
            Phase::Pool { pool, .. } => earliest(pool.deadline(), self.shutdown.deadline()),
            Phase::ShutdownHook { .. } => self.shutdown.deadline(),
        }
    }

    fn expire(&mut self, now: Instant, out: &mut Vec<AgentCommand>) {
        let (config, clock) = (self.config.clone(), self.clock);
        let mut cx = Cx { config: &config, clock: &clock, out };
        let cx = &mut cx;
        match &mut self.phase {
            Phase::Registering { registrations, session } => {
                registrations.expire(now, &session.clone(), &mut self.ids, &mut self.rng, cx);
            }
            Phase::Pool { pool, .. } => {
                if pool.deadline().is_some_and(|at| at <= now) {
                    let verdict = pool.expire(now, cx);
                    self.pool_verdict(verdict, cx);
                }
            }
            Phase::Created | Phase::StartupHook { .. } | Phase::ShutdownHook { .. } | Phase::Dead => {}
        }
        // Last, so that a worker that ends in this very instant still ends in order.
        if matches!(self.phase, Phase::Pool { .. } | Phase::ShutdownHook { .. }) && self.shutdown.expire(now, cx) {
            self.exit_now("force timer", cx);
        }
    }
}
