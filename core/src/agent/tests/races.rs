//! T5, and the races of §13 that no other file has: R17, R21, R27, R29.

use super::*;
use crate::api::{PingReply, Reply, StreamMessage};

/// A ping that offers J, and later ones that say idle.
fn with_a_job(config: AgentConfig) -> World {
    World::new(config).on("ping", |n, _| Answer::Now(if n == 1 { ping_job("J") } else { ping("") }))
}

/// Time of the only ping before the job: it is accepted and spawned in the same instant.
fn spawned(w: &World) -> f64 {
    let (at, _) = w.trace.iter().find(|(_, c)| matches!(c, AgentCommand::Spawn { .. })).expect("a process");
    t(*at)
}

#[test]
fn t5_a_one_shot_agent_that_is_paused_after_its_job_stays_until_it_is_resumed() {
    let answers = |n, _| {
        Answer::Now(match n {
            1 => ping_job("J"),
            2 | 3 | 5 => ping("pause"),
            4 => status(500),
            _ => ping("idle"),
        })
    };
    let w = World::new(AgentConfig { disconnect_after_job: true, ..config() }).on("ping", answers).job(30.0, 0, true).run(300.0);
    let (end, pings) = (w.exits(0), w.times("ping"));
    let over = w.times("finish")[0];
    assert_eq!(w.finishes()[0].ignore_agent_in_dispatches, Some(true));
    assert!((over..over + 10.0).contains(&pings[1]), "the first ping after the job skips its tick: {pings:?}");
    assert_eq!((pings.len(), pings[5]), (6, end), "it leaves at the first idle: {pings:?}");
    assert_eq!(w.logged("failed to ping: "), 1, "which is no news");
    let lines = w.lines();
    let resumed = lines.iter().position(|l| l == "Agent has resumed after being paused").expect("resumed");
    assert_eq!(lines[resumed + 1], "Job ran, and disconnect-after-job is enabled. Disconnecting...");
    assert_eq!(w.times("disconnect"), [end]);
}

#[test]
fn r17_a_worker_paused_during_its_job_holds_the_idle_pool_until_it_is_resumed() {
    let two = AgentConfig { spawn: 2, ping_mode: PingMode::Auto, disconnect_after_idle: Some(Duration::from_secs(10)), ..config() };
    let w = World::new(two).job(10.0, 0, true).streams(|n, _| {
        let say = |at, message| (at, Say::M(message));
        match n {
            // Of the second worker: a job until 11 s, paused during it, resumed at 50 s.
            2 => vec![
                say(0.0, StreamMessage::Resume),
                say(1.0, StreamMessage::Job { id: "J".into() }),
                say(5.0, StreamMessage::Pause { reason: String::new() }),
                say(50.0, StreamMessage::Resume),
            ],
            _ => vec![say(0.0, StreamMessage::Resume)],
        }
    });
    let w = w.run(200.0);
    let second = w.times("stream")[1];
    assert!((w.exits(0) - (second + 60.0)).abs() < 0.01, "T after the resume, not after the job: {}", w.tail());
    assert_eq!(w.logged("All agents have been idle for at least 10s. Disconnecting..."), 2);
    assert_eq!(w.finishes().len(), 1);
}

#[test]
fn r21_the_reason_is_told_only_if_the_signal_was_sent_before_the_exit_was_seen() {
    // A nanosecond before the process exits by itself, right behind the exit, and a nanosecond after it.
    for (offset, reason, sent) in [(-1e-9, "agent_stop", 1), (0.0, "", 0), (1e-9, "", 0)] {
        let mut w = with_a_job(config()).job(10.0, 0, true).on("finish", |_, _| Answer::After(5.0, ok()));
        w.run_on(10.0);
        let over = w.trace.iter().find(|(_, c)| matches!(c, AgentCommand::Spawn { .. })).expect("a process").0.as_nanos() as f64 / 1e9 + 10.0;
        assert!(over > 10.0 && w.finishes().is_empty(), "the job still runs");
        w.at(over + offset, AgentEvent::Signal(OsSignal::Quit));
        w.run_on(100.0);
        w.exits(0);
        let finish = &w.finishes()[0];
        assert_eq!((finish.signal_reason.as_str(), w.signals_sent().len()), (reason, sent), "{offset}: {}", w.tail());
        if reason.is_empty() {
            assert_eq!(finish.exit_status, "0");
        }
    }
}

#[test]
fn r27_while_a_job_is_active_no_ping_can_switch_its_endpoint_and_it_keeps_that_of_its_acceptance() {
    for mode in [PingMode::PollOnly, PingMode::Auto] {
        let moved = |endpoint: &str, job: Option<&str>| {
            let reply = PingReply { endpoint: endpoint.into(), job: job.map(Into::into), ..PingReply::default() };
            crate::api::Outcome::Ok(Reply::Ping(Box::new(reply)))
        };
        // The stream of auto ends for good, so that both modes poll.
        let w = World::new(AgentConfig { ping_mode: mode, ..config() })
            .streams(|_, _| vec![(0.0, Say::End(failure(crate::api::GrpcCode::PermissionDenied)))])
            .on("ping", move |n, _| Answer::Now(if n == 1 { moved("", Some("J")) } else { moved("http://new/v3", None) }))
            .job(60.0, 0, true)
            .run(150.0);
        let (began, over) = (spawned(&w), w.times("finish")[0]);
        assert!(w.times("ping").iter().all(|at| *at <= began || *at >= over), "{mode:?}: R8");
        let mut job = 0;
        for (at, command) in &w.trace {
            let AgentCommand::Call { id, call } = command else { continue };
            let of_job = matches!(id.owner, crate::machine::Owner::Job { .. });
            job += u32::from(of_job);
            assert!(!of_job || *call.session.endpoint == *"http://plane/v3", "{mode:?} {at:?}");
        }
        assert!(job > 10, "start, states, chunks and finish: {job}");
        let last = w.trace.iter().rev().find_map(|(_, c)| match c {
            AgentCommand::Call { call, .. } => Some(call.session.endpoint.to_string()),
            _ => None,
        });
        assert_eq!(last.as_deref(), Some("http://new/v3"), "{mode:?}: the switch comes after the job");
    }
}

#[test]
fn r29_a_forced_stop_while_the_server_has_cancelled_the_job_raises_the_reason_and_sends_no_second_signal() {
    let mut w = with_a_job(config()).job(300.0, 0, false).on("state", |n, _| {
        let state = if n < 3 { "running" } else { "canceled" };
        Answer::Now(crate::api::Outcome::Ok(Reply::State(state.into())))
    });
    let cancelled = (1..30).find_map(|s| {
        w.run_on(f64::from(s));
        w.signals_sent().first().map(|(at, _)| *at)
    });
    let cancelled = cancelled.expect("a cancel");
    w.at(cancelled + 2.0, AgentEvent::Signal(OsSignal::Term));
    w.at(cancelled + 3.0, AgentEvent::Signal(OsSignal::Term));
    w.run_on(100.0);
    w.exits(0);
    assert_eq!(w.signals_sent(), [(cancelled, OsSignal::Term), (cancelled + 10.0, OsSignal::Kill)], "{}", w.tail());
    let finish = &w.finishes()[0];
    assert_eq!((finish.exit_status.as_str(), finish.signal_reason.as_str()), ("-1", "agent_stop"));
}
