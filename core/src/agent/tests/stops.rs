//! §9.11: a stop in every phase, graceful and forced, and the races R1–R5, R10, R14, R18, R25.

use super::*;

const BOTH: [OsSignal; 2] = [OsSignal::Term, OsSignal::Quit];

#[test]
fn r10_between_connect_attempts_a_stop_ends_the_worker_without_disconnect() {
    for signal in BOTH {
        let w = World::new(config()).on("connect", |_, _| Answer::Now(status(500))).signal(7.0, signal).run(100.0);
        assert_eq!(w.exits(0), 7.0);
        assert_eq!(w.times("connect"), [0.0, 5.0]);
        assert!(w.times("disconnect").is_empty());
    }
}

#[test]
fn connect_in_flight_graceful_waits_for_the_answer() {
    let connect = |after: f64, outcome: fn() -> crate::api::Outcome| {
        World::new(config()).on("connect", move |_, _| Answer::After(after, outcome())).signal(2.0, OsSignal::Term).run(100.0)
    };
    let success = connect(5.0, ok);
    assert_eq!((success.exits(0), success.times("disconnect")), (5.0, vec![5.0]));
    assert!(success.times("ping").is_empty() && success.times("heartbeat").is_empty());
    let failed = connect(5.0, || status(500));
    assert_eq!((failed.exits(0), failed.times("disconnect")), (5.0, vec![]));
    assert_eq!(failed.times("connect"), [0.0], "no connect begins after the stop (R01)");
    let silent = connect(50.0, ok);
    assert_eq!((silent.exits(0), silent.times("disconnect")), (7.0, vec![7.0]));
    assert_eq!(silent.count(|c| matches!(c, AgentCommand::AbortCall { .. })), 1);
}

#[test]
fn connect_in_flight_forced_aborts_and_disconnects_as_the_outcome_is_unknown() {
    let w = World::new(config()).on("connect", |_, _| Answer::After(5.0, ok())).signal(2.0, OsSignal::Quit).run(100.0);
    assert_eq!((w.exits(0), w.times("disconnect")), (2.0, vec![2.0]));
    // Also after a graceful stop that was still waiting.
    let w = World::new(config()).on("connect", |_, _| Answer::Never).signal(2.0, OsSignal::Term).signal(3.0, OsSignal::Term).run(100.0);
    assert_eq!((w.exits(0), w.times("disconnect")), (3.0, vec![3.0]));
}

#[test]
fn acquire_waiting_between_attempts_gives_up_at_once() {
    for signal in BOTH {
        let w = World::new(AgentConfig { acquire_job: Some("J".into()), ..config() })
            .on("acquire", |_, _| Answer::Now(retry_after(423, 60)))
            .signal(7.0, signal)
            .run(100.0);
        assert_eq!((w.exits(0), w.times("disconnect")), (7.0, vec![7.0]));
        assert_eq!(w.times("acquire").len(), 1);
        assert_eq!(w.level(Level::Error), ["Failed to acquire and run job: failed to acquire job: context canceled"]);
    }
}

#[test]
fn acquire_in_flight_is_awaited_for_five_seconds() {
    let run = |after: f64, outcome: fn() -> crate::api::Outcome, signal| {
        World::new(AgentConfig { acquire_job: Some("J".into()), ..config() })
            .on("acquire", move |_, _| Answer::After(after, outcome()))
            .signal(2.0, signal)
            .run(100.0)
    };
    // Graceful: the job is ours, and runs to its end.
    let w = run(5.0, ok, OsSignal::Term);
    assert_eq!((w.exits(0), w.times("disconnect")), (15.0, vec![15.0]));
    assert_eq!(w.finishes()[0].exit_status, "0");
    assert!(w.times("ping").is_empty());
    // Forced: it is handed to the runner as already stopped.
    let w = run(5.0, ok, OsSignal::Quit);
    w.exits(0);
    assert_eq!(w.count(|c| matches!(c, AgentCommand::Spawn { .. })), 0);
    assert_eq!((w.finishes()[0].exit_status.as_str(), w.finishes()[0].signal_reason.as_str()), ("-1", "agent_stop"));
    // Not our job, or no answer: give up.
    for signal in BOTH {
        let w = run(5.0, || status(423), signal);
        assert_eq!((w.exits(0), w.times("disconnect")), (5.0, vec![5.0]));
        let w = run(50.0, ok, signal);
        assert_eq!((w.exits(0), w.times("disconnect")), (7.0, vec![7.0]));
        assert_eq!(w.logged("Failed to acquire and run job: failed to acquire job: context canceled"), 1);
    }
}

#[test]
fn waiting_for_tick_jitter_gate_or_window_ends_at_once() {
    for (mode, signal) in [(PingMode::PollOnly, BOTH[0]), (PingMode::Auto, BOTH[0]), (PingMode::StreamOnly, BOTH[1]), (PingMode::Auto, BOTH[1])] {
        for step in 1..60 {
            let at = f64::from(step) * 0.7;
            let w = World::new(AgentConfig { ping_mode: mode, ..config() }).signal(at, signal).run(200.0);
            assert!((w.exits(0) - at).abs() < 0.001);
            assert_eq!(w.times("disconnect").len(), 1);
        }
    }
}

#[test]
fn r14_a_ping_in_flight_is_aborted_and_its_answer_discarded() {
    for signal in BOTH {
        let w = World::new(config()).on("ping", |_, _| Answer::After(30.0, ping_job("J"))).signal(20.0, signal).run(100.0);
        assert_eq!((w.exits(0), w.times("disconnect")), (20.0, vec![20.0]));
        assert!(w.times("accept").is_empty());
    }
}

#[test]
fn r3_a_stop_at_the_instant_of_the_assignment_wins() {
    for signal in BOTH {
        let mut w = World::new(config()).on("ping", |_, _| Answer::At(25.0, ping_job("J")));
        w.run_on(15.0);
        // The answer is scheduled already, so the signal comes after it, at the same instant.
        w.at(25.0, AgentEvent::Signal(signal));
        w.run_on(100.0);
        assert_eq!(w.transitions().iter().filter(|s| s.machine == "action" && s.event == "job").count(), 1, "it was delivered");
        assert!(w.times("accept").is_empty(), "{}", w.tail());
        assert_eq!(w.logged("Assigned job"), 0);
        w.exits(0);
    }
}

#[test]
fn without_a_stop_the_assignment_is_accepted_in_the_same_instant() {
    let w = World::new(config()).on("ping", |n, _| Answer::Now(if n == 1 { ping_job("J") } else { ping("") })).run(100.0);
    assert_eq!(w.times("accept"), [w.times("ping")[0]]);
    assert_eq!(w.logged("Assigned job J. Accepting..."), 1);
}

#[test]
fn r4_no_accept_attempt_follows_a_stop() {
    for signal in BOTH {
        let w = World::new(config()).on("ping", |_, _| Answer::Now(ping_job("J"))).on("accept", |_, _| Answer::Now(reset()));
        let w = w.signal(20.0, signal).run(100.0);
        assert_eq!((w.exits(0), w.times("disconnect")), (20.0, vec![20.0]));
        assert!(w.times("accept").iter().all(|at| *at < 20.0));
    }
}

fn held_accept(outcome: fn() -> crate::api::Outcome, signal: OsSignal) -> World {
    World::new(config())
        .on("ping", |_, _| Answer::Now(ping_job("J")))
        .on("accept", move |_, _| Answer::At(30.0, outcome()))
        .signal(20.0, signal)
        .run(200.0)
}

#[test]
fn r2_accept_in_flight_that_fails_after_a_stop_is_not_retried_and_the_worker_leaves() {
    for signal in [OsSignal::Term, OsSignal::Quit] {
        for outcome in [reset as fn() -> crate::api::Outcome, || status(422), || status(500)] {
            let w = held_accept(outcome, signal);
            assert_eq!((w.exits(0), w.times("disconnect")), (30.0, vec![30.0]), "{}", w.tail());
            assert_eq!(w.times("accept").len(), 1);
            assert_eq!(w.logged("failed to accept job: "), 1);
        }
    }
}

#[test]
fn accept_in_flight_that_succeeds_after_a_graceful_stop_runs_to_its_end() {
    let w = held_accept(ok, OsSignal::Term);
    assert_eq!((w.exits(0), w.times("disconnect")), (40.0, vec![40.0]));
    assert_eq!(w.finishes()[0].exit_status, "0");
}

#[test]
fn r5_accept_in_flight_that_succeeds_after_a_forced_stop_is_reported_but_never_run() {
    let w = held_accept(ok, OsSignal::Quit);
    assert_eq!(w.exits(0), 30.0);
    assert_eq!(w.count(|c| matches!(c, AgentCommand::Spawn { .. })), 0);
    assert_eq!(w.times("start").len(), 1);
    assert_eq!((w.finishes()[0].exit_status.as_str(), w.finishes()[0].signal_reason.as_str()), ("-1", "agent_stop"));
}

#[test]
fn r5_forced_stop_between_accept_and_spawn_never_spawns() {
    let w = World::new(config())
        .on("ping", |_, _| Answer::Now(ping_job("J")))
        .on("start", |_, _| Answer::At(22.0, ok()))
        .signal(20.0, OsSignal::Quit)
        .run(200.0);
    w.exits(0);
    assert_eq!(w.count(|c| matches!(c, AgentCommand::Spawn { .. })), 0);
    assert_eq!(w.times("start").len(), 1);
    assert_eq!(w.finishes()[0].signal_reason, "agent_stop");
    // Graceful: it goes on.
    let w = World::new(config())
        .on("ping", |_, _| Answer::Now(ping_job("J")))
        .on("start", |_, _| Answer::At(22.0, ok()))
        .signal(20.0, OsSignal::Term)
        .run(200.0);
    assert_eq!(w.exits(0), 32.0);
    assert_eq!(w.finishes()[0].exit_status, "0");
}

#[test]
fn r2_a_job_whose_start_is_refused_after_the_stop_lets_the_worker_leave() {
    let w = World::new(config())
        .on("ping", |_, _| Answer::Now(ping_job("J")))
        .on("start", |_, _| Answer::At(22.0, status(422)))
        .signal(20.0, OsSignal::Term)
        .run(200.0);
    assert_eq!((w.exits(0), w.times("disconnect")), (22.0, vec![22.0]));
    assert!(w.finishes().is_empty());
    assert_eq!(w.logged("failed to run job: "), 1);
}

#[test]
fn job_finishing_is_awaited_by_both() {
    for signal in BOTH {
        let w = World::new(config()).on("ping", |_, _| Answer::Now(ping_job("J"))).on("finish", |_, _| Answer::After(8.0, ok())).job(10.0, 0, true);
        let mut w = w;
        w.run_on(12.0);
        let over = w.times("ping")[0] + 10.0;
        w.at(over + 1.0, AgentEvent::Signal(signal));
        w.run_on(100.0);
        assert_eq!(w.finishes().len(), 1, "{}", w.tail());
        assert!((w.exits(0) - (over + 8.0)).abs() < 0.01);
    }
}

#[test]
fn a_stop_while_disconnecting_changes_nothing() {
    for signal in BOTH {
        let w = World::new(config())
            .on("disconnect", |n, _| if n < 3 { Answer::After(0.5, status(500)) } else { Answer::Now(ok()) })
            .signal(20.0, OsSignal::Term)
            .signal(20.7, signal)
            .run(100.0);
        assert_eq!((w.exits(0), w.times("disconnect")), (23.0, vec![20.0, 21.5, 23.0]));
    }
}

#[test]
fn a_disconnect_that_never_gets_through_is_four_attempts_and_no_error() {
    let w = World::new(config()).on("disconnect", |_, _| Answer::Now(status(401))).signal(20.0, OsSignal::Term).run(100.0);
    assert_eq!((w.exits(0), w.times("disconnect")), (23.0, vec![20.0, 21.0, 22.0, 23.0]));
    assert_eq!(
        w.logged("There was an error sending the disconnect API call to Buildkite. If this agent still appears online, you may have to manually stop it (CALL http://plane/v3: 401 Unauthorized)"),
        1
    );
    assert_eq!(w.logged("CALL http://plane/v3: 401 Unauthorized (Attempt 4/4)"), 1);
}

#[test]
fn r18_a_heartbeat_in_flight_is_gone_before_the_disconnect() {
    let mut w = World::new(config()).on("heartbeat", |_, _| Answer::After(30.0, ok())).signal(65.0, OsSignal::Term);
    w.run_on(100.0);
    assert_eq!((w.exits(0), w.times("disconnect")), (65.0, vec![65.0]));
    let abort = w.trace.iter().position(|(_, c)| matches!(c, AgentCommand::AbortCall { .. })).expect("an abort");
    let gone = w.transitions().iter().any(|s| s.machine == "heartbeat" && s.from == "Leaving" && s.to == "Ended");
    let disconnect =
        w.trace.iter().position(|(_, c)| matches!(c, AgentCommand::Call { call, .. } if operation_name(&call.operation) == "disconnect"));
    assert!(gone && disconnect.is_some_and(|at| at > abort));
}

#[test]
fn forced_after_graceful_cancels_the_job_exactly_once() {
    let w = World::new(config())
        .on("ping", |_, _| Answer::Now(ping_job("J")))
        .job(300.0, 0, true)
        .signal(20.0, OsSignal::Term)
        .signal(25.0, OsSignal::Quit)
        .signal(25.0, OsSignal::Quit)
        .run(100.0);
    w.exits(0);
    assert_eq!(w.signals_sent(), [(25.0, OsSignal::Term)]);
}

#[test]
fn connect_that_never_succeeds_is_ten_attempts_an_error_and_no_disconnect() {
    let w = World::new(config()).on("connect", |_, _| Answer::Now(status(401))).run(100.0);
    assert_eq!(w.exits(1), 45.0);
    assert_eq!(w.times("connect").len(), 10);
    assert!(w.times("disconnect").is_empty());
    assert_eq!(w.exit_seen().and_then(|e| e.2), Some("buildkite-agent: fatal: CALL http://plane/v3: 401 Unauthorized".into()));
    assert_eq!(w.logged("CALL http://plane/v3: 401 Unauthorized (Attempt 1/10 Retrying in 5s)"), 1);
}
