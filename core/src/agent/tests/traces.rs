//! §14: canonical traces, as lines of the log and calls in their order. (T3 and T4 are in `ladder`, T5 in `polling`, T6 in `idle`, T7 in
//! `acquire`, T8 in `watching`, T2 in `streaming`.)

use super::*;

#[test]
fn t1_poll_only_idle_one_job_then_idle() {
    for seed in 1..30 {
        let w =
            World::seeded(config(), seed).on("ping", |n, _| Answer::Now(if n == 2 { ping_job("J") } else { ping("") })).job(62.0, 0, true).run(130.0);
        let pings = w.times("ping");
        assert!((0.0..10.0).contains(&pings[0]) && (10.0..20.0).contains(&pings[1]), "{pings:?}");
        assert_eq!(w.times("heartbeat"), [60.0, 120.0]);
        let over = w.times("finish")[0];
        assert!((over - pings[1] - 62.0).abs() < 0.001);
        assert!((over..over + 10.0).contains(&pings[2]) && (over + 10.0..over + 20.0).contains(&pings[3]), "{over} {pings:?}");
    }
}

#[test]
fn the_typical_order_of_lines_for_one_job_and_a_graceful_stop() {
    let w = World::new(config()).on("ping", |_, _| Answer::Now(ping_job("J"))).job(20.0, 0, true).signal(12.0, OsSignal::Term).run(100.0);
    let expected = [
        "Registering agent with Buildkite...",
        "Successfully registered agent",
        "Starting 1 Agent(s)",
        "You can press Ctrl-C to stop the agents",
        "Connecting to Buildkite...",
        "Waiting for instructions...",
        "Assigned job J. Accepting...",
        "Starting job at ",
        "Received CTRL-C, ",
        "Gracefully stopping agent. Waiting for current job ",
        "Process with PID",
        "Finished job at ",
        "Disconnecting...",
        "Disconnected",
    ];
    let lines = w.lines();
    let mut from = 0;
    for part in expected {
        let at = lines[from..].iter().position(|line| line.contains(part));
        from += at.unwrap_or_else(|| panic!("no {part:?} after line {from} of {lines:#?}")) + 1;
    }
    w.exits(0);
}

#[test]
fn worker_lines_carry_the_name_and_the_rest_does_not() {
    let w = World::new(config()).signal(12.0, OsSignal::Term).run(100.0);
    for (_, command) in &w.trace {
        let AgentCommand::Log(line) = command else { continue };
        let own = ["Registering", "Successfully", "Starting", "You can press", "Received"].iter().any(|part| line.text.starts_with(part));
        assert_eq!(line.worker.as_deref(), (!own).then_some("agent-1"), "{line:?}");
    }
}

#[test]
fn late_and_duplicate_completions_are_counted_and_dropped() {
    let mut w = World::new(config());
    w.run_on(30.0);
    let before = w.trace.len();
    for owner in [
        crate::machine::Owner::Agent,
        crate::machine::Owner::Worker(1),
        crate::machine::Owner::Worker(9),
        crate::machine::Owner::Job { worker: 1, generation: 4 },
    ] {
        let mut out = Vec::new();
        let id = crate::machine::RequestId { owner, serial: 1 };
        crate::machine::Machine::handle(&mut w.agent, secs(30.0), AgentEvent::Completed { id, outcome: ok() }, &mut out);
        assert!(out.is_empty(), "{out:?}");
    }
    assert_eq!((w.agent.late(), w.trace.len()), (4, before));
}

/// The same seed and event list give the same command list (I63), also by way of storing.
#[test]
fn the_same_events_give_the_same_commands() {
    let run = || World::new(AgentConfig { spawn: 3, ping_mode: PingMode::Auto, ..config() }).signal(90.0, OsSignal::Term).run(100.0).trace;
    assert_eq!(run(), run());
}

#[test]
fn an_idle_worker_is_small() {
    let size = std::mem::size_of::<super::super::worker::Worker>() + std::mem::size_of::<super::super::worker::Live>();
    assert!(size < 4096, "{size} bytes, before what its strings need");
}
