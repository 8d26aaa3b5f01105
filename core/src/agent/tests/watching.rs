//! §7, §8, §9.3: heartbeats, health, the watchdog; T8, R1, R26, races R21–R23.

use super::*;

#[test]
fn heartbeats_are_on_the_grid_from_connect_plus_h() {
    let w = World::new(config()).on("connect", |_, _| Answer::After(3.0, ok())).run(300.0);
    assert_eq!(w.times("heartbeat"), [63.0, 123.0, 183.0, 243.0]);
    let sent = w.trace.iter().find_map(|(_, c)| match c {
        AgentCommand::Call { call, .. } => match &call.operation {
            crate::api::Operation::Heartbeat { sent_at } => Some(sent_at.clone()),
            _ => None,
        },
        _ => None,
    });
    assert_eq!(sent.as_deref(), Some("1970-01-01T00:01:03Z"));
}

#[test]
fn sent_at_has_the_local_zone_and_follows_the_wall_clock() {
    let mut w = World::new(config());
    w.at(10.0, AgentEvent::ClockMoved(crate::wall::WallClock { base: crate::wall::WallTime::from_nanos(0), utc_offset_seconds: 7200 }));
    let w = w.run(61.0);
    let sent = w.count(|c| {
        matches!(c, AgentCommand::Call { call, .. } if matches!(&call.operation, crate::api::Operation::Heartbeat { sent_at } if sent_at == "1970-01-01T02:01:00+02:00"))
    });
    assert_eq!(sent, 1);
}

#[test]
fn a_cycle_that_fails_is_retried_ten_times_and_a_missed_tick_starts_the_next_at_once() {
    // 10 attempts, each taking 10 s and followed by 5 s: the cycle from 60 ends at 205; the tick of 120 (or 180) is kept.
    let w = World::new(config()).on("heartbeat", |_, _| Answer::After(10.0, status(500))).run(206.0);
    let beats = w.times("heartbeat");
    assert_eq!(beats.len(), 11);
    assert_eq!(beats[..3], [60.0, 75.0, 90.0]);
    assert_eq!(beats[10], 205.0);
    assert_eq!(w.logged("Failed to heartbeat CALL http://plane/v3: 500 Internal Server Error. Will try again in 1m0s. (No heartbeat yet)"), 1);
    assert_eq!(w.logged("CALL http://plane/v3: 500 Internal Server Error (Attempt 1/10 Retrying in 5s)"), 1);
    let w = World::new(config()).on("heartbeat", |n, _| Answer::Now(if n == 1 { ok() } else { reset() })).run(166.0);
    assert_eq!(w.logged("Will try again in 1m0s. (Last successful was 1m45s ago)"), 1, "{}", w.tail());
    assert!(w.exit_seen().is_none(), "no response never rejects");
}

#[test]
fn t8_r1_r26_a_rejected_heartbeat_forces_the_stop_and_ends_the_worker() {
    for mode in [PingMode::PollOnly, PingMode::Auto, PingMode::StreamOnly] {
        let w = World::new(AgentConfig { ping_mode: mode, ..config() })
            .on("ping", |_, _| Answer::Now(ping_job("J")))
            .streams(|_, _| vec![(0.0, Say::M(crate::api::StreamMessage::Job { id: "J".into() }))])
            .on("heartbeat", |_, _| Answer::Now(status(401)))
            .on("disconnect", |_, _| Answer::Now(status(401)))
            .job(500.0, 0, true)
            .run(200.0);
        assert_eq!(w.exits(1), 63.0);
        assert_eq!((w.times("heartbeat"), w.times("disconnect")), (vec![60.0], vec![60.0, 61.0, 62.0, 63.0]));
        assert_eq!(w.signals_sent(), [(60.0, OsSignal::Term)], "I20");
        assert_eq!(w.finishes()[0].signal_reason, "agent_stop");
        let error = "Heartbeat failed with unrecoverable status: 401 Unauthorized, mesage: \"CALL http://plane/v3: 401 Unauthorized\"";
        assert_eq!(w.level(Level::Error), [error]);
        assert_eq!(w.exit_seen().and_then(|e| e.2), Some(format!("buildkite-agent: fatal: {error}")));
        assert_eq!(w.count(|c| matches!(c, AgentCommand::RunHook { hook, .. } if hook.name == "agent-shutdown")), 1);
    }
}

#[test]
fn a_rejected_heartbeat_of_an_idle_or_draining_worker() {
    let w = World::new(config()).on("heartbeat", |_, _| Answer::Now(status(404))).run(100.0);
    assert_eq!(w.exits(1), 60.0);
    let w = World::new(config())
        .on("ping", |_, _| Answer::Now(ping_job("J")))
        .on("heartbeat", |_, _| Answer::Now(status(404)))
        .job(500.0, 0, true)
        .signal(20.0, OsSignal::Term)
        .run(100.0);
    assert_eq!(w.exits(1), 60.0);
}

fn healths(w: &World) -> Vec<(String, Option<String>)> {
    let all = w.trace.iter().filter_map(|(_, c)| match c {
        AgentCommand::Health(h) => Some((h.state.to_owned(), h.current_job.as_deref().map(str::to_owned))),
        _ => None,
    });
    all.collect()
}

#[test]
fn health_is_shown_when_it_changes() {
    let w = World::new(config()).on("ping", |n, _| {
        Answer::Now(match n {
            1 => ping_job("J"),
            2 => ping("pause"),
            _ => ping(""),
        })
    });
    let w = w.signal(45.0, OsSignal::Term).run(50.0);
    let mut seen = healths(&w);
    seen.dedup();
    let words: Vec<_> = seen.iter().map(|(word, job)| (word.as_str(), job.as_deref())).collect();
    assert_eq!(
        words,
        [
            ("connecting", None),
            ("idle", None),
            ("working", Some("J")),
            ("idle", None),
            ("paused", None),
            ("idle", None),
            ("disconnecting", None),
            ("finished", None)
        ]
    );
}

#[test]
fn heartbeat_results_are_shown_only_after_a_whole_cycle() {
    let w = World::new(config()).on("heartbeat", |n, _| Answer::Now(if n <= 11 && n != 1 { status(500) } else { ok() })).run(300.0);
    let seen: Vec<_> = w
        .trace
        .iter()
        .filter_map(|(at, c)| match c {
            AgentCommand::Health(h) if t(*at) >= 60.0 => Some((t(*at), h.last_heartbeat.map(t), h.heartbeat_error.is_some())),
            _ => None,
        })
        .collect();
    assert_eq!(
        seen,
        [(60.0, Some(60.0), false), (165.0, Some(60.0), true), (180.0, Some(180.0), false), (240.0, Some(240.0), false), (300.0, Some(300.0), false)]
    );
}

fn notified(w: &World) -> Vec<f64> {
    w.trace.iter().filter(|(_, c)| *c == AgentCommand::NotifyWatchdog).map(|(at, _)| t(*at)).collect()
}

fn watched() -> AgentConfig {
    AgentConfig { watchdog: Some(Duration::from_secs(20)), ..config() }
}

#[test]
fn the_watchdog_is_fed_every_half_interval_while_heartbeats_succeed() {
    let w = World::new(watched()).signal(55.0, OsSignal::Term).run(100.0);
    assert_eq!(notified(&w), [0.0, 10.0, 20.0, 30.0, 40.0, 50.0], "it ends with the pool");
}

#[test]
fn races_r23_the_watchdog_is_not_fed_when_two_intervals_pass_without_contact() {
    let w = World::new(watched()).on("heartbeat", |_, _| Answer::Never).run(150.0);
    assert_eq!(notified(&w).last(), Some(&120.0));
    assert_eq!(
        w.logged("Buildkite heartbeat has not succeeded; not sending systemd watchdog notification: worker 1 has not successfully contacted Buildkite for 2m10s"),
        1
    );
    // Connecting for long is healthy; draining with a long job is too.
    let w = World::new(watched()).on("connect", |_, _| Answer::Now(status(500))).run(44.0);
    assert_eq!(notified(&w).len(), 5);
    let w = World::new(watched()).on("ping", |_, _| Answer::Now(ping_job("J"))).job(400.0, 0, true).signal(20.0, OsSignal::Term).run(300.0);
    assert_eq!(notified(&w).len(), 31);
}

#[test]
fn one_failed_worker_of_several_stops_the_watchdog_for_good() {
    let w = World::new(AgentConfig { spawn: 2, ..watched() })
        .on("connect", |n, _| Answer::Now(if n == 1 || n > 2 { status(500) } else { ok() }))
        .run(100.0);
    assert_eq!(notified(&w).last(), Some(&40.0));
    assert_eq!(w.logged("not sending systemd watchdog notification: worker 1 failed: CALL http://plane/v3: 500 Internal Server Error"), 6);
}

#[test]
fn given_a_large_pool_when_the_last_worker_has_connected_or_given_up_then_memory_is_given_back_once() {
    let released = |w: &World| -> Vec<f64> { w.trace.iter().filter(|(_, c)| *c == AgentCommand::ReleaseMemory).map(|(at, _)| t(*at)).collect() };
    let pool = AgentConfig { spawn: 3, ..config() };
    let w = World::new(pool.clone()).on("connect", |n, _| Answer::After(f64::from(n), ok())).run(100.0);
    assert_eq!(released(&w), [3.0]);
    let w = World::new(pool).on("connect", |n, _| Answer::After(2.0, if n == 2 { status(401) } else { ok() })).run(300.0);
    assert_eq!(released(&w).len(), 1);
    assert!(released(&World::new(config()).run(100.0)).is_empty(), "one worker makes no burst");
}
