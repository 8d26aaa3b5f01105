//! One run: a schedule played in the simulated world, and everything that is checked on it.

use crate::invariants::{self, Violation};
use crate::late::{LATE, Late};
use crate::liveness;
use crate::schedule::{Flaw, Schedule, Signatures, Source, Timestamps};
use crate::trace::{Fact, JobId, Trace};
use crate::world::plane::{HOST, PlaneHost};
use crate::world::{EPOCH_NANOS, REGISTRATION_TOKEN, World, director};
use crate::{claims, echo};
use ibex_core::agent::{Agent, AgentConfig, OsSignal, PingMode, Priority};
use ibex_core::api::RegisterRequest;
use ibex_core::job::{JobConfig, StdoutFormat};
use ibex_core::log::{LogConfig, LogStream, TimestampMode};
use ibex_core::machine::Instant;
use ibex_core::secret::Secret;
use ibex_core::wall::WallClock;
use ibex_io::agent_world::{AgentMachine, Drive, LogMachine};
use ibex_io::driver::Clock;
use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, SystemTime};

/// Simulated time moves in steps of this length.
pub const TICK: Duration = Duration::from_millis(10);
/// A run that has not ended so long after its last fault never will.
const GIVE_UP: Duration = Duration::from_secs(900);

/// A transition without its owner: machine, state left, event, state entered.
pub type Step = (&'static str, &'static str, &'static str, &'static str);

/// What came of a run.
#[derive(Clone, Debug)]
pub struct Report {
    /// What was played.
    pub schedule: Schedule,
    /// Everything that was observed.
    pub trace: Trace,
    /// Digest of the trace.
    pub digest: String,
    /// What did not hold.
    pub violations: Vec<Violation>,
    /// Transitions that were made.
    pub coverage: BTreeSet<Step>,
    /// Simulated time.
    pub simulated: Duration,
}

/// How the agent's machines are made.
pub struct Machines<A, L> {
    /// The agent, from its configuration, its seed and its wall clock.
    pub agent: fn(AgentConfig, u64, WallClock) -> A,
    /// The log of one job.
    pub log: fn(LogConfig, Instant) -> L,
}

impl<A, L> Clone for Machines<A, L> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<A, L> Copy for Machines<A, L> {}

/// Plays a schedule with the product's machines.
pub fn run(schedule: &Schedule) -> Report {
    fn agent<const LATE_ABORTS: bool>(config: AgentConfig, seed: u64, wall: WallClock) -> Late<Agent> {
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&seed.to_le_bytes());
        Late::new(Agent::new(std::sync::Arc::new(config), wall, bytes), if LATE_ABORTS { LATE } else { Duration::ZERO })
    }
    fn log<const TIGHT: bool, const LATE_ABORTS: bool>(config: LogConfig, now: Instant) -> Late<LogStream> {
        let config = if TIGHT { LogConfig { buffer_bytes: 0, ..config } } else { config };
        Late::new(LogStream::new(config, now), if LATE_ABORTS { LATE } else { Duration::ZERO })
    }
    let log = match (schedule.tight_memory, schedule.late_aborts) {
        (false, false) => log::<false, false>,
        (false, true) => log::<false, true>,
        (true, false) => log::<true, false>,
        (true, true) => log::<true, true>,
    };
    run_with(schedule, Machines { agent: if schedule.late_aborts { agent::<true> } else { agent::<false> }, log })
}

/// Plays a schedule with these machines.
pub fn run_with<A: AgentMachine + 'static, L: LogMachine>(schedule: &Schedule, machines: Machines<A, L>) -> Report {
    let (world, signals) = World::new(schedule.clone());
    let mut broken = None;
    let mut sim = turmoil::Builder::new()
        .rng_seed(schedule.seed)
        .epoch(SystemTime::UNIX_EPOCH + Duration::from_nanos(EPOCH_NANOS as u64))
        .tick_duration(TICK)
        .min_message_latency(TICK)
        .max_message_latency(4 * TICK)
        .simulation_duration(Duration::from_secs(100_000))
        .tcp_capacity(4_096)
        .build();
    let agent_world = world.clone();
    let host = PlaneHost::new(world.clone());
    let acquire = schedule.acquire.then(|| host.acquirable());
    let config = config(schedule, acquire);
    let seed = schedule.seed;
    sim.client(director::AGENT, async move {
        tokio::task::spawn_local(agent_world.clone().deliver_signals());
        let clock = Clock::start();
        let wall = clock.wall_clock(EPOCH_NANOS + agent_world.now().as_nanos() as i64, 0);
        let mut agent = (machines.agent)(config, seed, wall);
        let drive = Drive { clock, wall, user_agent: "buildkite-agent/0.1.0.x (linux; amd64)".into(), signals, recorder: None };
        let exit = ibex_io::agent_world::run(agent_world.clone(), &mut agent, machines.log, drive).await;
        agent_world.observed(Fact::AgentExit { code: exit.code, killed_jobs: exit.kill_jobs });
        agent_world.observed(agent_world.leftovers());
        Ok(())
    });
    let plane_world = world.clone();
    sim.host(HOST, move || {
        let (host, world) = (host.clone(), plane_world.clone());
        async move {
            tokio::task::spawn_local(director::direct(world, host.clone()));
            host.serve().await?;
            Ok(())
        }
    });
    let cap = Duration::from_millis(schedule.faults_over_ms + schedule.settle_ms) + GIVE_UP;
    let played = catch_unwind(AssertUnwindSafe(|| {
        loop {
            match sim.step() {
                Ok(true) => return Ok(()),
                Ok(false) if sim.elapsed() > cap => return Ok(()),
                Ok(false) => {}
                Err(e) => return Err(e.to_string()),
            }
        }
    }));
    match played {
        Ok(Ok(())) => {}
        Ok(Err(e)) => broken = Some(e),
        Err(panic) => {
            let text = panic.downcast_ref::<String>().cloned().or_else(|| panic.downcast_ref::<&str>().map(|s| (*s).to_owned()));
            broken = Some(text.unwrap_or_else(|| "a panic without a message".into()));
        }
    }
    let simulated = sim.elapsed();
    let trace = world.end();
    // What the machines of a broken run would do while they are dropped is of no interest.
    drop(catch_unwind(AssertUnwindSafe(move || drop(sim))));
    report(schedule, trace, broken, simulated)
}

fn report(schedule: &Schedule, trace: Trace, broken: Option<String>, simulated: Duration) -> Report {
    let setup = schedule.setup();
    let mut violations = Vec::new();
    match broken {
        Some(text) => violations.push(Violation { property: "P", entry: trace.entries.len().checked_sub(1), text: format!("panic: {text}") }),
        None => {
            violations.extend(invariants::check(&setup, &trace));
            violations.extend(liveness::check(&setup, &trace));
            violations.extend(echo::check(&trace));
            violations.extend(claims::check(&schedule.claims, &setup, &trace));
        }
    }
    let coverage = trace
        .entries
        .iter()
        .filter_map(|e| match &e.fact {
            Fact::Transition(t) => Some((t.machine, t.from, t.event, t.to)),
            _ => None,
        })
        .collect();
    Report { schedule: schedule.clone(), digest: trace.digest(), trace, violations, coverage, simulated }
}

/// What the agent of a run is configured with.
fn config(s: &Schedule, acquire: Option<JobId>) -> AgentConfig {
    AgentConfig {
        spawn: s.workers,
        name: "sim-%spawn".into(),
        priority: Priority::Static(String::new()),
        token: Secret::new(REGISTRATION_TOKEN.to_owned()),
        endpoint: format!("http://{HOST}/v3"),
        request_headers: Vec::new(),
        register: RegisterRequest {
            hostname: "sim".into(),
            os: "simulated".into(),
            arch: "amd64".into(),
            script_eval_enabled: true,
            version: "0.1.0".into(),
            build: "x".into(),
            pid: 1,
            ..RegisterRequest::default()
        },
        ping_mode: match s.ping_mode {
            Source::Poll => PingMode::PollOnly,
            Source::Auto => PingMode::Auto,
            Source::Stream => PingMode::StreamOnly,
        },
        acquire_job: acquire.map(|job| job.to_string()),
        reflect_exit_status: false,
        disconnect_after_job: s.one_shot,
        disconnect_after_idle: (s.idle_s > 0).then(|| Duration::from_secs(s.idle_s)),
        disconnect_after_uptime: (s.uptime_s > 0).then(|| Duration::from_secs(s.uptime_s)),
        cancel_signal_timeout: Duration::from_millis(s.signal_timeout_ms),
        cancel_cleanup_timeout: Duration::from_millis(s.cleanup_timeout_ms),
        kubernetes_exec: false,
        watchdog: Some(Duration::from_secs(20)),
        otlp: (s.flaw == Flaw::Metrics).then(|| Err("unknown protocol".to_owned())),
        cancel_signal: OsSignal::Term,
        job: JobConfig {
            bootstrap_script: if s.flaw == Flaw::Bootstrap { "'/usr/bin/ibex bootstrap" } else { "/usr/bin/ibex bootstrap" }.into(),
            build_path: "/builds".into(),
            bin_path: "/usr/bin".into(),
            path: "/usr/bin:/bin".into(),
            pid: 1,
            shell: "/bin/sh -c".into(),
            pty: s.pty,
            timestamps: match s.timestamps {
                Timestamps::Ansi => TimestampMode::Ansi,
                Timestamps::Lines => TimestampMode::Lines,
                Timestamps::Plain => TimestampMode::Plain,
            },
            hooks_path: if s.hooks.pre_bootstrap.is_some() { "/hooks" } else { "" }.into(),
            verification_keys: s.signatures != Signatures::Off,
            verification_failure_behavior: if s.signatures == Signatures::InvalidButRun { "warn" } else { "block" }.into(),
            job_log_tmpfile: true,
            write_job_logs_to_stdout: Some(StdoutFormat::Text),
            command_eval: true,
            plugins_enabled: true,
            local_hooks_enabled: true,
            ..JobConfig::default()
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::faults::{RequestFault, WorldFault};
    use crate::schedule::When;
    use crate::trace::{Got, Op, Said};
    use ibex_core::agent::{AgentCommand, AgentEvent, Exit};
    use ibex_core::api::{ApiCall, Operation, Outcome, Reply, Session};
    use ibex_core::log::{LogCommand, LogEvent};
    use ibex_core::machine::{Machine, Owner, RequestIds};
    use std::sync::Arc;

    /// Registers, then pings once a second until the first signal.
    #[derive(serde::Serialize)]
    struct Probe {
        #[serde(skip)]
        config: AgentConfig,
        #[serde(skip)]
        session: Session,
        ids: RequestIds,
        next: Option<Instant>,
    }

    impl Probe {
        fn call(&mut self, operation: Operation, out: &mut Vec<AgentCommand>) {
            let call = ApiCall { session: self.session.clone(), operation, limit: Duration::from_secs(60), timeout_ms: None };
            out.push(AgentCommand::Call { id: self.ids.issue(), call: Box::new(call) });
        }
    }

    impl Machine for Probe {
        type Event = AgentEvent;
        type Command = AgentCommand;

        fn handle(&mut self, now: Instant, event: AgentEvent, out: &mut Vec<AgentCommand>) {
            match event {
                AgentEvent::Begin => {
                    let body = RegisterRequest { name: "sim-1".into(), ..self.config.register.clone() };
                    self.call(Operation::Register(Box::new(body)), out);
                }
                AgentEvent::Completed { outcome: Outcome::Ok(Reply::Registered(r)), .. } => {
                    self.session.credential = r.access_token.clone();
                    self.call(Operation::Connect, out);
                }
                AgentEvent::Completed { .. } => self.next = Some(now + Duration::from_secs(1)),
                AgentEvent::Signal(_) => out.push(AgentCommand::Exit(Exit { code: 0, message: None, by_signal: None, kill_jobs: false })),
                _ => {}
            }
        }

        fn deadline(&self) -> Option<Instant> {
            self.next
        }

        fn expire(&mut self, now: Instant, out: &mut Vec<AgentCommand>) {
            if self.next.is_some_and(|n| n <= now) {
                self.next = None;
                self.call(Operation::Ping, out);
            }
        }
    }

    struct NoLog;

    impl Machine for NoLog {
        type Event = LogEvent;
        type Command = LogCommand;
        fn handle(&mut self, _: Instant, _: LogEvent, _: &mut Vec<LogCommand>) {}
        fn deadline(&self) -> Option<Instant> {
            None
        }
        fn expire(&mut self, _: Instant, _: &mut Vec<LogCommand>) {}
    }

    fn probe(schedule: &Schedule) -> Report {
        let agent = |config: AgentConfig, _, _| {
            let session = Session { endpoint: config.endpoint.as_str().into(), credential: config.token.clone(), headers: Arc::default() };
            Probe { config, session, ids: RequestIds::new(Owner::Agent), next: None }
        };
        run_with(schedule, Machines { agent, log: |_, _| NoLog })
    }

    fn pings(report: &Report) -> Vec<String> {
        let calls: BTreeSet<u64> = report
            .trace
            .entries
            .iter()
            .filter_map(|e| match &e.fact {
                Fact::Sent(r) if r.op == Op::Ping => Some(r.call),
                _ => None,
            })
            .collect();
        let got = |e: &crate::trace::Entry| match &e.fact {
            Fact::Returned { call, got } if calls.contains(call) => Some(match got {
                Got::Answer { status: 200, said: Said::Garbage, .. } => "garbage".to_owned(),
                Got::Answer { status, .. } => status.to_string(),
                Got::Failed(kind) => (*kind).to_owned(),
                Got::Dropped => "dropped".to_owned(),
            }),
            _ => None,
        };
        report.trace.entries.iter().filter_map(got).collect()
    }

    #[test]
    fn each_fault_is_seen_as_what_it_is() {
        let faults = [
            (RequestFault::Status { code: 503, retry_after_ms: None }, "503"),
            (RequestFault::Html { applied: false }, "garbage"),
            (RequestFault::Empty { applied: true }, "garbage"),
            (RequestFault::ResetBefore, "eof"),
            (RequestFault::Lost, "eof"),
            (RequestFault::ResetInside, "eof"),
            (RequestFault::Slow { ms: 500 }, "200"),
        ];
        for (fault, seen) in faults {
            let s = Schedule { faults_over_ms: 5_000, ..Schedule::default() }.request(Op::Ping, 1, fault.clone());
            let report = probe(&s);
            assert_eq!(pings(&report).first().map(String::as_str), Some(seen), "{fault:?}\n{}", crate::timeline::text(&report.trace));
            assert_eq!(pings(&report).get(1).map(String::as_str), Some("200"), "{fault:?}: the next ping is well");
        }
    }

    #[test]
    fn outages_of_the_network_are_seen_as_what_they_are() {
        let outages = [
            (WorldFault::Refuse { ms: 4_000 }, "refused"),
            (WorldFault::Partition { ms: 4_000 }, "dropped"),
            (WorldFault::Deaf { ms: 4_000 }, "dropped"),
            (WorldFault::Hold { ms: 4_000 }, "200"),
        ];
        for (what, seen) in outages {
            let s = Schedule { faults_over_ms: 100_000, ..Schedule::default() }.event(When::AtMs(2_500), what.clone());
            let seen_pings = pings(&probe(&s));
            assert!(seen_pings.contains(&seen.to_owned()), "{what:?}: {seen_pings:?}");
            assert_eq!(seen_pings.last().map(String::as_str), Some("200"), "{what:?} is over at the end: {seen_pings:?}");
        }
    }

    #[test]
    fn the_same_schedule_gives_the_same_bytes() {
        let digests: Vec<String> =
            (0..10).map(|seed| probe(&Schedule { requests: Schedule::random(seed).requests, seed, ..Schedule::default() }).digest).collect();
        let again: Vec<String> =
            (0..10).map(|seed| probe(&Schedule { requests: Schedule::random(seed).requests, seed, ..Schedule::default() }).digest).collect();
        assert_eq!(digests, again);
        assert_ne!(digests[0], digests[1]);
    }
}
