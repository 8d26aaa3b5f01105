//! §9.4: acquire mode, T7, R7.

use super::*;
use crate::api::{Operation, Outcome};

fn acquire() -> AgentConfig {
    AgentConfig { acquire_job: Some("J".into()), ..config() }
}

fn reflecting() -> AgentConfig {
    AgentConfig { reflect_exit_status: true, ..acquire() }
}

#[test]
fn the_acquired_job_runs_then_one_ping_tells_whether_to_stay() {
    let w = World::new(acquire()).run(100.0);
    assert_eq!(w.exits(0), w.times("ping")[0]);
    assert_eq!((w.times("acquire"), w.times("accept"), w.times("ping").len()), (vec![0.0], vec![], 1));
    assert_eq!(w.logged("Attempting to acquire job J..."), 1);
    assert_eq!(w.finishes()[0].ignore_agent_in_dispatches, None);
    let seen = w.trace.iter().find_map(|(_, c)| match c {
        AgentCommand::Call { call, .. } if matches!(call.operation, Operation::Register(_)) => Some(call.operation.clone()),
        _ => None,
    });
    assert!(matches!(seen, Some(Operation::Register(r)) if r.ignore_in_dispatches));
}

#[test]
fn t7_acquire_with_lock_then_pause_reflects_the_exit_status() {
    let w = World::new(reflecting())
        .on("acquire", |n, _| {
            Answer::Now(match n {
                1 => retry_after(423, 3),
                2 => status(423),
                _ => ok(),
            })
        })
        .on("ping", |n, _| Answer::Now(ping(if n < 3 { "pause" } else { "idle" })))
        .job(10.0, 7, true);
    let w = w.run(200.0);
    let attempts = w.times("acquire");
    assert_eq!(&attempts[..2], [0.0, 3.0], "Retry-After replaces the wait exactly");
    assert!((4.0..10.0).contains(&attempts[2]), "2^1 + U[-1, 5): {attempts:?}");
    assert_eq!(w.exits(7), w.times("ping")[2]);
    assert_eq!(w.level(Level::Error), ["Failed to acquire and run job: failed to run job: process exited with status=7"]);
    let locked = "The job is waiting for a dependency: (CALL http://plane/v3: 423 Locked) (Attempt 1/7 Retrying in 3s)";
    assert_eq!(w.logged(locked), 1);
    // The same without reflect-exit-status.
    let w = World::new(acquire()).job(10.0, 7, true).run(100.0);
    w.exits(0);
    assert_eq!(w.exit_seen().and_then(|e| e.2), None);
}

#[test]
fn a_rejected_acquisition_is_27_after_a_disconnect_and_without_ping() {
    let w = World::new(acquire()).on("acquire", |_, _| Answer::Now(status(422))).run(100.0);
    assert_eq!((w.exits(27), w.times("disconnect"), w.times("ping")), (0.0, vec![0.0], vec![]));
    assert_eq!(w.level(Level::Error), ["Buildkite rejected the call to acquire the job: CALL http://plane/v3: 422 Unprocessable Entity"]);
    let message = "failed to acquire job \"J\": failed to acquire job: job acquisition rejected: CALL http://plane/v3: 422 Unprocessable Entity";
    assert_eq!(w.exit_seen().and_then(|e| e.2).as_deref(), Some(message));
}

#[test]
fn r7_still_locked_is_28_without_ping() {
    for seed in 1..20 {
        let w = World::seeded(acquire(), seed).on("acquire", |_, _| Answer::Now(status(423))).run(1000.0);
        w.exits(28);
        assert!(w.times("ping").is_empty());
        assert_eq!(w.times("acquire").len(), 7, "I27");
        assert_eq!(w.logged("Failed to acquire and run job: failed to acquire job: job is locked: CALL http://plane/v3: 423 Locked"), 1);
    }
}

#[test]
fn the_330_second_limit_ends_it_and_locked_stays_locked() {
    // Retry-After leads over the limit.
    let w = World::new(acquire()).on("acquire", |_, _| Answer::Now(retry_after(423, 100))).run(1000.0);
    assert_eq!((w.exits(28), w.times("acquire")), (300.0, vec![0.0, 100.0, 200.0, 300.0]));
    // The last attempt gets no answer: its limit is what is left.
    let w =
        World::new(acquire()).on("acquire", |n, _| if n < 4 { Answer::Now(retry_after(423, 105)) } else { Answer::After(15.0, reset()) }).run(1000.0);
    assert_eq!(w.exits(28), 330.0);
    let limits: Vec<_> = w
        .trace
        .iter()
        .filter_map(|(_, c)| match c {
            AgentCommand::Call { call, .. } => match call.operation {
                Operation::Acquire { sequence, .. } => Some((sequence, call.timeout_ms, call.limit.as_secs())),
                _ => None,
            },
            _ => None,
        })
        .collect();
    assert_eq!(limits, [(0, Some(330_000), 60), (1, Some(225_000), 60), (2, Some(120_000), 60), (3, Some(15_000), 15)]);
}

#[test]
fn r7_other_failures_are_exit_1_without_ping() {
    let run = |outcome: fn() -> Outcome| World::new(acquire()).on("acquire", move |_, _| Answer::Now(outcome())).run(1000.0);
    let w = run(|| status(404));
    assert_eq!((w.exits(1), w.times("acquire").len()), (0.0, 1));
    assert_eq!(
        w.level(Level::Error),
        ["CALL http://plane/v3: 404", "Failed to acquire and run job: failed to acquire job: CALL http://plane/v3: 404"]
    );
    assert_eq!(w.exit_seen().and_then(|e| e.2).as_deref(), Some("buildkite-agent: fatal: failed to acquire job: CALL http://plane/v3: 404"));
    for (outcome, line) in [
        ((|| status(500)) as fn() -> Outcome, "Server error: CALL http://plane/v3: 500 Internal Server Error (Attempt 7/7)"),
        (|| status(429), "Rate limited by the backend: CALL http://plane/v3: 429 (Attempt 7/7)"),
        (reset, "CALL http://plane/v3: connection reset (Attempt 7/7)"),
        (|| Outcome::Undecodable("page".into()), "page (Attempt 7/7)"),
        (|| status(302), "CALL http://plane/v3: 302 (Attempt 7/7)"),
    ] {
        let w = run(outcome);
        w.exits(1);
        assert_eq!((w.times("acquire").len(), w.times("ping").len(), w.times("disconnect").len()), (7, 0, 1));
        assert_eq!(w.logged(line), 1, "{}", w.tail());
    }
}

#[test]
fn a_job_offered_to_an_acquiring_agent_is_never_accepted() {
    let w = World::new(acquire()).on("ping", |_, _| Answer::Now(ping_job("K"))).run(100.0);
    w.exits(0);
    assert!(w.times("accept").is_empty());
    assert_eq!(w.level(Level::Error), ["Agent ping dispatched a job (id \"K\") but agent is in acquire-job mode! Ignoring the new job"]);
}

#[test]
fn heartbeats_go_on_during_acquisition_and_the_acquired_job() {
    let w = World::new(acquire()).on("acquire", |n, _| Answer::Now(if n < 3 { retry_after(423, 50) } else { ok() })).job(100.0, 0, true).run(300.0);
    assert_eq!(w.times("heartbeat"), [60.0, 120.0, 180.0]);
    w.exits(0);
}

#[test]
fn a_forced_stop_of_the_acquired_job_is_a_job_exit() {
    let w = World::new(reflecting()).job(100.0, 0, true).signal(20.0, OsSignal::Quit).run(300.0);
    assert_eq!(w.exits(255), 20.0);
    assert_eq!(
        w.exit_seen().and_then(|e| e.2).as_deref(),
        Some("failed to run job: process exited with status=-1, signal=SIGTERM, reason=agent_stop")
    );
}

#[test]
fn an_acquired_job_that_cannot_start_is_exit_1() {
    let w = World::new(acquire()).on("start", |_, _| Answer::Now(status(422))).run(100.0);
    w.exits(1);
    assert_eq!(w.logged("Failed to acquire and run job: failed to run job: "), 1);
}
