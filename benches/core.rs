//! How many events a second the `Agent` machine decides: idle workers that ping, beat, and are told to go on. And how many
//! transitions a second every property of the simulator checks together, on the traces of random runs.

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use ibex_core::agent::{Agent, AgentCommand, AgentConfig, AgentEvent, HookEnd, OsSignal, PingMode, Priority};
use ibex_core::api::{Operation, Outcome, RegisterRequest, Registered, Reply};
use ibex_core::job::JobConfig;
use ibex_core::machine::{Instant, Machine};
use ibex_core::secret::Secret;
use ibex_core::wall::WallClock;
use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

/// Events of one measured round.
const ROUND: u64 = 100_000;

/// An agent whose world answers everything at once.
#[derive(Clone)]
struct World {
    agent: Agent,
    now: Instant,
    inbox: Vec<AgentEvent>,
    out: Vec<AgentCommand>,
}

impl World {
    /// `workers` workers that serve.
    fn serving(workers: u32) -> World {
        let config = AgentConfig {
            spawn: workers,
            name: "bench-%spawn".into(),
            priority: Priority::Static(String::new()),
            token: Secret::new("token"),
            endpoint: "http://plane/v3".into(),
            request_headers: Vec::new(),
            register: RegisterRequest::default(),
            ping_mode: PingMode::PollOnly,
            acquire_job: None,
            reflect_exit_status: false,
            disconnect_after_job: false,
            disconnect_after_idle: None,
            disconnect_after_uptime: None,
            cancel_signal_timeout: Duration::from_secs(10),
            cancel_cleanup_timeout: Duration::from_secs(5),
            kubernetes_exec: false,
            watchdog: None,
            otlp: None,
            cancel_signal: OsSignal::Term,
            job: JobConfig::default(),
        };
        let agent = Agent::new(Arc::new(config), WallClock::default(), [7; 32]);
        let mut world = World { agent, now: Instant::ZERO, inbox: vec![AgentEvent::Begin], out: Vec::new() };
        world.run(u64::from(workers) * 20);
        world
    }

    /// Decides `events` events.
    fn run(&mut self, events: u64) {
        for _ in 0..events {
            match self.inbox.pop() {
                Some(event) => self.agent.handle(self.now, event, &mut self.out),
                None => {
                    let Some(deadline) = self.agent.deadline() else { return };
                    self.now = self.now.max(deadline);
                    self.agent.expire(self.now, &mut self.out);
                }
            }
            for command in self.out.drain(..) {
                match command {
                    AgentCommand::Call { id, call } => {
                        let reply = match call.operation {
                            Operation::Register(_) => Reply::Registered(Box::new(registered(id.serial))),
                            Operation::Ping => Reply::Ping(Box::default()),
                            _ => Reply::Empty,
                        };
                        self.inbox.push(AgentEvent::Completed { id, outcome: Outcome::Ok(reply) });
                    }
                    AgentCommand::RunHook { id, .. } => self.inbox.push(AgentEvent::HookEnded { id, end: HookEnd::Missing }),
                    other => {
                        black_box(&other);
                    }
                }
            }
        }
    }
}

fn registered(n: u32) -> Registered {
    Registered {
        id: format!("uuid-{n}").into(),
        name: format!("bench-{n}").into(),
        access_token: Secret::new("session"),
        endpoint: String::new(),
        request_headers: None,
        ping_interval: Duration::from_secs(10),
        job_status_interval: Duration::from_secs(1),
        heartbeat_interval: Duration::from_secs(60),
        meta_data: Vec::new(),
        tracing: None,
    }
}

fn agent(c: &mut Criterion) {
    let mut group = c.benchmark_group("agent events");
    group.throughput(Throughput::Elements(ROUND));
    for workers in [1, 100, 1000] {
        let world = World::serving(workers);
        group.bench_function(format!("{workers} workers"), |b| {
            b.iter_batched(|| world.clone(), |mut world| world.run(ROUND), BatchSize::LargeInput);
        });
    }
    group.finish();
}

/// Random runs whose traces are checked.
const RUNS: u64 = 60;

fn properties(c: &mut Criterion) {
    let random = ibex_sim::scenarios::find("random").expect("the random workload");
    let runs: Vec<_> = (0..RUNS).map(|seed| ibex_sim::run::run(&(random.schedule)(seed))).map(|r| (r.schedule.setup(), r.trace)).collect();
    let is_transition = |entry: &&ibex_sim::trace::Entry| matches!(entry.fact, ibex_sim::trace::Fact::Transition(_));
    let transitions: usize = runs.iter().map(|(_, trace)| trace.entries.iter().filter(is_transition).count()).sum();
    let mut group = c.benchmark_group("properties");
    group.sample_size(20);
    group.throughput(Throughput::Elements(u64::try_from(transitions).unwrap_or(0)));
    group.bench_function("all of them", |b| {
        b.iter(|| runs.iter().map(|(setup, trace)| ibex_sim::invariants::check(setup, trace).len()).sum::<usize>());
    });
    group.finish();
}

criterion_group!(benches, agent, properties);
criterion_main!(benches);
