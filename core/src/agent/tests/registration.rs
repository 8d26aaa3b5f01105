//! §1, §2, §3: registration and lifecycle hooks, R19, R20, R22, races R01 and R02.

use super::*;
use crate::api::{Operation, Outcome, Registered, Reply};

fn four() -> AgentConfig {
    AgentConfig { spawn: 4, ..config() }
}

fn bodies(w: &World) -> Vec<crate::api::RegisterRequest> {
    let all = w.trace.iter().filter_map(|(_, c)| match c {
        AgentCommand::Call { call, .. } => match &call.operation {
            Operation::Register(body) => Some((**body).clone()),
            _ => None,
        },
        _ => None,
    });
    all.collect()
}

#[test]
fn all_workers_register_in_parallel_with_their_own_name_and_priority() {
    for (priority, expected) in [
        (Priority::Static("7".into()), ["7", "7"]),
        (Priority::Ascending, ["1", "2"]),
        (Priority::Descending, ["-1", "-2"]),
        (Priority::Static(String::new()), ["", ""]),
    ] {
        let w = World::new(AgentConfig { spawn: 2, priority, name: "%spawn-box-%spawn-%n".into(), ..config() }).run(1.0);
        let bodies = bodies(&w);
        assert_eq!(bodies.iter().map(|b| b.name.as_str()).collect::<Vec<_>>(), ["1-box-1-%n", "2-box-2-%n"]);
        assert_eq!(bodies.iter().map(|b| b.priority.as_str()).collect::<Vec<_>>(), expected);
        assert_eq!(w.lines()[..2], ["Registering agent 1 of 2 with Buildkite...", "Registering agent 2 of 2 with Buildkite..."]);
    }
    let w = World::new(config()).run(1.0);
    let lines = w.lines();
    assert_eq!(
        lines[..5],
        [
            "Registering agent with Buildkite...",
            "Successfully registered agent \"agent-1\" with tags [queue=default]",
            "Starting 1 Agent(s)",
            "You can press Ctrl-C to stop the agents",
            "Connecting to Buildkite...",
        ]
    );
    assert_eq!(bodies(&w)[0].name, "box-1", "also when spawn is 1");
}

#[test]
fn worker_order_is_the_spawn_index_whatever_the_order_of_the_answers() {
    let w = World::new(four())
        .on("register", |n, _| Answer::After(5.0 - f64::from(n), Outcome::Ok(Reply::Registered(Box::new(registered(n))))))
        .signal(9.0, OsSignal::Term)
        .run(10.0);
    let hooks = w.trace.iter().filter_map(|(_, c)| match c {
        AgentCommand::RunHook { hook, .. } => Some((hook.name, hook.env.iter().map(|(k, v)| format!("{k}={}", v.expose())).collect::<Vec<_>>())),
        _ => None,
    });
    let env = ["BUILDKITE_AGENT_IDS=uuid-1,uuid-2,uuid-3,uuid-4", "BUILDKITE_AGENT_NAMES=agent-1,agent-2,agent-3,agent-4"].map(str::to_owned);
    let both: Vec<_> = hooks.collect();
    assert_eq!(both, [("agent-startup", env.to_vec()), ("agent-shutdown", env.to_vec())], "I49: both hooks see the same");
    let connects = w.calls().into_iter().filter(|(_, _, name)| *name == "connect").map(|(at, worker, _)| (at, worker)).collect::<Vec<_>>();
    assert_eq!(connects, [(4.0, 1), (4.0, 2), (4.0, 3), (4.0, 4)], "I51: no connect before all are registered");
}

#[test]
fn register_is_retried_by_the_standard_rule() {
    let w = World::new(config()).on("register", |n, _| {
        Answer::Now(match n {
            1 => status(429),
            2 => status(503),
            3 => reset(),
            4 => Outcome::Undecodable("page".into()),
            _ => ok(),
        })
    });
    let w = w.run(60.0);
    assert_eq!(w.times("register"), [0.0, 10.0, 20.0, 30.0, 40.0]);
    assert_eq!(w.logged("page (Attempt 4/30 Retrying in 10s)"), 1);
    assert_eq!(w.times("connect"), [40.0]);
}

#[test]
fn races_r02_one_failure_ends_the_process_without_connect_or_hook() {
    let w = World::new(four())
        .on("register", |n, _| match n {
            1 => Answer::Now(ok()),
            2 => Answer::Now(status(500)),
            3 => Answer::Never,
            _ => Answer::After(3.0, status(422)),
        })
        .run(60.0);
    assert_eq!(w.exits(1), 3.0);
    assert_eq!(w.exit_seen().and_then(|e| e.2).as_deref(), Some("buildkite-agent: fatal: CALL http://plane/v3: 422 Unprocessable Entity"));
    assert_eq!(w.count(|c| matches!(c, AgentCommand::AbortCall { .. })), 1);
    assert_eq!(w.count(|c| matches!(c, AgentCommand::RunHook { .. })), 0);
    assert!(w.times("connect").is_empty());
    assert_eq!(w.times("register").len(), 4, "no retry after the rejection");
}

#[test]
fn r20_intervals_of_zero_are_replaced() {
    let zero =
        || Registered { ping_interval: Duration::ZERO, heartbeat_interval: Duration::ZERO, job_status_interval: Duration::ZERO, ..registered(1) };
    let w = World::new(config()).on("register", move |_, _| Answer::Now(Outcome::Ok(Reply::Registered(Box::new(zero()))))).run(125.0);
    assert_eq!(w.times("heartbeat"), [60.0, 120.0]);
    assert_eq!(w.times("ping").len(), 12);
}

#[test]
fn the_answer_sets_endpoint_token_and_headers_of_everything_after_it() {
    let told = || Registered {
        endpoint: "http://edge/v3".into(),
        request_headers: Some(vec![("Buildkite-X".into(), "1".into()), ("Other".into(), "2".into())]),
        ..registered(1)
    };
    let w = World::new(config()).on("register", move |_, _| Answer::Now(Outcome::Ok(Reply::Registered(Box::new(told()))))).run(15.0);
    for (_, command) in &w.trace {
        let AgentCommand::Call { call, .. } = command else { continue };
        if matches!(call.operation, Operation::Register(_)) {
            assert_eq!((&*call.session.endpoint, call.session.credential.expose()), ("http://plane/v3", "registration"));
        } else {
            assert_eq!((&*call.session.endpoint, call.session.credential.expose()), ("http://edge/v3", "session"), "I52");
            assert_eq!(*call.session.headers, [("Buildkite-X".to_owned(), "1".to_owned())]);
        }
    }
}

#[test]
fn r19_a_signal_before_the_pool_ends_the_process_by_that_signal() {
    for (signal, code) in [(OsSignal::Hup, 129), (OsSignal::Int, 130), (OsSignal::Quit, 131), (OsSignal::Term, 143)] {
        let check = |w: World, at: f64| {
            let (_, last) = w.trace.last().expect("commands");
            let AgentCommand::Exit(exit) = last else { panic!("{last:?} is not the end") };
            assert_eq!((exit.code, exit.by_signal, exit.kill_jobs), (code, Some(signal), true));
            assert_eq!(w.exit_seen().map(|e| e.0), Some(at));
            assert!(w.times("connect").is_empty() && w.times("disconnect").is_empty());
            w
        };
        // Registration in flight, and waiting.
        let w = check(World::new(four()).on("register", |_, _| Answer::Never).signal(2.0, signal).run(10.0), 2.0);
        assert_eq!(w.count(|c| matches!(c, AgentCommand::AbortCall { .. })), 4);
        check(World::new(config()).on("register", |_, _| Answer::Now(status(500))).signal(2.0, signal).run(60.0), 2.0);
        // Startup hook.
        let w = check(World::new(config()).hook("agent-startup", 5.0, HookEnd::Succeeded).signal(2.0, signal).run(60.0), 2.0);
        assert_eq!(w.count(|c| matches!(c, AgentCommand::SignalHook { signal: OsSignal::Kill, .. })), 1);
        assert_eq!(w.count(|c| matches!(c, AgentCommand::RunHook { .. })), 1, "no shutdown hook");
    }
}

#[test]
fn the_startup_hook_precedes_every_connect() {
    let w = World::new(four()).hook("agent-startup", 5.0, HookEnd::Succeeded).run(10.0);
    assert_eq!(w.times("connect"), [5.0; 4]);
}

#[test]
fn a_failing_startup_hook_runs_the_shutdown_hook_and_is_exit_1() {
    let w = World::new(config())
        .hook("agent-startup", 1.0, HookEnd::Failed("exit status 2".into()))
        .hook("agent-shutdown", 2.0, HookEnd::Succeeded)
        .run(10.0);
    assert_eq!(w.exits(1), 3.0);
    assert_eq!(w.level(Level::Error), ["\"agent-startup\" hook: exit status 2"]);
    assert_eq!(w.exit_seen().and_then(|e| e.2).as_deref(), Some("buildkite-agent: fatal: failed to run startup hook: exit status 2"));
    assert!(w.times("connect").is_empty());
}

#[test]
fn one_worker_that_fails_does_not_stop_the_others() {
    let w = World::new(AgentConfig { spawn: 2, ..config() })
        .on("connect", |n, _| Answer::Now(if n == 1 || n > 2 { status(500) } else { ok() }))
        .signal(100.0, OsSignal::Term)
        .run(200.0);
    assert_eq!(w.exits(1), 100.0, "I57");
    assert_eq!(w.times("disconnect"), [100.0], "I7: only the one that was connected");
    assert_eq!((w.metrics(|m| *m == Metric::WorkerStarted), w.metrics(|m| *m == Metric::WorkerEnded)), (2, 2));
}
