//! §9.6, §9.9, §9.10 from the poll side, and T5.

use super::*;
use crate::api::{Operation, Outcome, PingReply, Reply};

fn one_shot() -> AgentConfig {
    AgentConfig { disconnect_after_job: true, ..config() }
}

/// A job at the first ping, then what `rest` says at the pings after it.
fn job_then(config: AgentConfig, rest: impl Fn(u32) -> Outcome + 'static) -> World {
    World::new(config).on("ping", move |n, _| Answer::Now(if n == 1 { ping_job("J") } else { rest(n) }))
}

#[test]
fn pings_follow_the_grid_and_the_first_skips_its_tick() {
    for seed in 1..40 {
        let w = World::seeded(config(), seed).run(100.0);
        let pings = w.times("ping");
        assert!(pings.len() >= 9, "{pings:?}");
        for (k, at) in pings.iter().enumerate() {
            // With answers at once nothing disturbs the grid: ping k is at k·P + U[0, P).
            let tick = 10.0 * k as f64;
            assert!((tick..tick + 10.0).contains(at), "ping {k} at {at} (I14)");
        }
    }
}

#[test]
fn only_one_missed_tick_is_kept() {
    // The first ping takes 35 s: ticks 10, 20, 30 pass, one is kept, and the grid goes on at 40.
    let w = World::new(config()).on("ping", |n, _| if n == 1 { Answer::After(35.0, ping("")) } else { Answer::Now(ping("")) }).run(70.0);
    let pings = w.times("ping");
    let done = pings[0] + 35.0;
    assert!((done..done + 10.0).contains(&pings[1]), "{pings:?}");
    let next_tick = (done / 10.0).floor() * 10.0 + 10.0;
    assert!(pings[2] >= next_tick && pings[2] < next_tick + 20.0, "{pings:?}");
}

#[test]
fn after_a_job_the_ticks_restart_and_the_first_is_skipped_but_not_the_jitter() {
    for seed in 1..30 {
        let w =
            World::seeded(config(), seed).on("ping", |n, _| Answer::Now(if n == 1 { ping_job("J") } else { ping("") })).job(33.0, 0, true).run(120.0);
        let over = w.times("finish")[0];
        let pings = w.times("ping");
        assert!((over..over + 10.0).contains(&pings[1]));
        assert!((over + 10.0..over + 20.0).contains(&pings[2]), "{over} {pings:?}");
        assert!((over + 20.0..over + 30.0).contains(&pings[3]));
    }
}

#[test]
fn a_failed_accept_goes_on_as_after_an_idle() {
    let w = job_then(config(), |_| ping("")).on("accept", |_, _| Answer::Now(status(500))).run(60.0);
    assert_eq!(w.times("accept").len(), 1, "any HTTP error is final, 5xx included");
    assert_eq!(w.level(Level::Warn), ["Buildkite rejected the call to accept the job (CALL http://plane/v3: 500 Internal Server Error)"]);
    assert_eq!(w.level(Level::Error), ["failed to accept job: CALL http://plane/v3: 500 Internal Server Error"]);
    let pings = w.times("ping");
    assert!((10.0..20.0).contains(&pings[1]), "no skip, no restart: {pings:?}");
}

#[test]
fn accept_is_retried_only_without_an_answer_of_the_api() {
    let w = job_then(config(), |_| ping("")).on("accept", |n, _| {
        Answer::Now(match n {
            1 => reset(),
            2 => Outcome::Undecodable("PUT: could not decode response body".into()),
            _ => ok(),
        })
    });
    let w = w.run(60.0);
    let accepts = w.times("accept");
    assert_eq!((accepts.len(), w.finishes().len()), (3, 1));
    assert!((accepts[1] - accepts[0] - 5.0).abs() < 0.001);
    assert_eq!(w.logged("CALL http://plane/v3: connection reset (Attempt 1/30 Retrying in 5s)"), 1);
    let w = job_then(config(), |_| ping("")).on("accept", |_, _| Answer::Now(reset())).run(200.0);
    assert_eq!(w.times("accept").len(), 30);
    assert_eq!(w.logged("CALL http://plane/v3: connection reset (Attempt 30/30)"), 1);
    assert_eq!(w.logged("failed to accept job: CALL http://plane/v3: connection reset"), 1);
    assert_eq!(w.logged("Buildkite rejected the call to accept"), 0);
}

#[test]
fn r6_a_failed_ping_is_no_news_and_does_not_end_a_pause() {
    let w = World::new(one_shot())
        .on("ping", |n, _| {
            Answer::Now(match n {
                1 => ping_job("J"),
                2 | 4 => ping("pause"),
                3 => status(500),
                _ => ping("idle"),
            })
        })
        .run(200.0);
    // T5: stays through the failure, resumes, and leaves.
    assert_eq!(w.times("ping").len(), 5);
    let lines = w.lines();
    let resumed = lines.iter().position(|l| l == "Agent has resumed after being paused").expect("resumed");
    assert_eq!(lines[resumed + 1], "Job ran, and disconnect-after-job is enabled. Disconnecting...");
    assert_eq!(w.logged("Agent has resumed"), 1);
    assert_eq!(w.finishes()[0].ignore_agent_in_dispatches, Some(true));
    w.exits(0);
}

#[test]
fn failed_pings_say_when_the_last_one_was_good() {
    let w = World::new(config()).on("ping", |n, _| Answer::Now(if n == 2 { ping("") } else { status(500) })).run(29.9);
    let warn = w.level(Level::Warn);
    assert_eq!(warn[0], "failed to ping: CALL http://plane/v3: 500 Internal Server Error (no successful ping yet)");
    assert!(warn[1].starts_with("failed to ping: CALL http://plane/v3: 500 Internal Server Error (last successful was "), "{warn:?}");
    assert!(warn[1].ends_with("s ago)"));
    assert_eq!(w.metrics(|m| *m == Metric::PingError), 2);
}

#[test]
fn a_rejected_ping_ends_a_polling_worker_with_an_error() {
    let w = World::new(config()).on("ping", |_, _| Answer::Now(status(401))).run(60.0);
    let at = w.exits(1);
    assert_eq!(w.times("disconnect"), [at]);
    let error = "Ping failed with unrecoverable status: 401 Unauthorized, mesage: \"CALL http://plane/v3: 401 Unauthorized\"";
    assert_eq!(w.level(Level::Error), [error]);
    assert_eq!(w.exit_seen().and_then(|e| e.2), Some(format!("buildkite-agent: fatal: {error}")));
    assert_eq!(w.metrics(|m| matches!(m, Metric::PingDuration(_))), 0);
}

#[test]
fn undecodable_and_429_pings_are_failures_not_rejections() {
    let w = World::new(config()).on("ping", |n, _| Answer::Now(if n == 1 { Outcome::Undecodable("page".into()) } else { status(429) })).run(60.0);
    assert!(w.times("ping").len() >= 5);
    assert!(w.exit_seen().is_none());
}

#[test]
fn a_one_shot_agent_never_takes_a_second_job() {
    let w = job_then(one_shot(), |n| ping_job(if n == 2 { "K" } else { "L" })).run(100.0);
    w.exits(0);
    assert_eq!(w.times("accept").len(), 1);
    assert_eq!(
        w.level(Level::Error),
        ["Agent ping dispatched a job (id \"K\") but agent is in disconnect-after-job mode (and already ran a job)! Ignoring the new job"]
    );
}

#[test]
fn a_one_shot_agent_whose_job_did_not_start_goes_on() {
    let w = job_then(one_shot(), |n| if n == 2 { ping_job("K") } else { ping("") })
        .on("start", |n, _| Answer::Now(if n == 1 { status(422) } else { ok() }));
    let w = w.run(100.0);
    w.exits(0);
    assert_eq!((w.times("accept").len(), w.finishes().len()), (2, 1));
    assert_eq!(w.logged("failed to run job: "), 1);
}

#[test]
fn without_disconnect_after_job_the_field_is_absent() {
    let w = job_then(config(), |_| ping("")).run(60.0);
    assert_eq!(w.finishes()[0].ignore_agent_in_dispatches, None);
}

#[test]
fn r23_pause_hides_a_job_and_holds_until_resumed() {
    let hidden = |_| Outcome::Ok(Reply::Ping(Box::new(PingReply { action: "pause".into(), job: Some("K".into()), ..PingReply::default() })));
    let w = World::new(config()).on("ping", move |n, _| Answer::Now(if n < 5 { hidden(n) } else { ping_job("K") })).run(100.0);
    assert_eq!(w.times("accept"), [w.times("ping")[4]], "resume and job in one message");
    assert_eq!(w.logged("Agent has resumed after being paused"), 1);
}

#[test]
fn the_servers_disconnect_leaves_and_ignores_a_job() {
    let bye = || Outcome::Ok(Reply::Ping(Box::new(PingReply { action: "disconnect".into(), job: Some("K".into()), ..PingReply::default() })));
    let w = World::new(config()).on("ping", move |_, _| Answer::Now(bye())).run(100.0);
    assert_eq!(w.exits(0), w.times("ping")[0]);
    assert!(w.times("accept").is_empty());
    assert_eq!(w.metrics(|m| *m == Metric::PingAction { action: "disconnect".into() }), 1);
}

#[test]
fn unknown_actions_are_idle_and_the_message_is_logged() {
    let odd = || {
        Outcome::Ok(Reply::Ping(Box::new(PingReply {
            action: "dance".into(),
            message: "hello".into(),
            job: Some("K".into()),
            ..PingReply::default()
        })))
    };
    let w = World::new(config()).on("ping", move |n, _| Answer::Now(if n == 1 { odd() } else { ping("") })).run(60.0);
    assert_eq!(w.times("accept").len(), 1);
    assert_eq!(w.logged("hello"), 1);
    assert_eq!(w.metrics(|m| *m == Metric::PingAction { action: "dance".into() }), 1);
}

fn sessions(w: &World) -> Vec<(&'static str, String)> {
    let all = w.trace.iter().filter_map(|(_, c)| match c {
        AgentCommand::Call { call, .. } => Some((operation_name(&call.operation), call.session.endpoint.to_string())),
        _ => None,
    });
    all.collect()
}

fn switch(second: fn() -> Outcome) -> World {
    let moved = || PingReply { endpoint: "http://new/v3".into(), job: Some("first".into()), message: "one".into(), ..PingReply::default() };
    World::new(config()).on("ping", move |n, _| {
        Answer::Now(match n {
            1 => Outcome::Ok(Reply::Ping(Box::new(moved()))),
            2 => second(),
            _ => ping(""),
        })
    })
}

#[test]
fn r15_an_endpoint_switch_takes_everything_from_the_second_answer() {
    let second = || {
        Outcome::Ok(Reply::Ping(Box::new(PingReply {
            endpoint: "http://third/v3".into(),
            job: Some("second".into()),
            message: "two".into(),
            ..PingReply::default()
        })))
    };
    let w = switch(second).signal(90.0, OsSignal::Term).run(100.0);
    let seen = sessions(&w);
    let old: Vec<_> = seen.iter().filter(|(_, e)| e == "http://plane/v3").map(|(n, _)| *n).collect();
    assert_eq!(old, ["register", "connect", "ping"]);
    assert!(seen.iter().all(|(_, e)| e != "http://third/v3"), "its own endpoint is not followed");
    assert!(seen.iter().any(|(n, e)| *n == "disconnect" && e == "http://new/v3"));
    assert!(seen.iter().any(|(n, e)| *n == "finish" && e == "http://new/v3"), "later jobs too");
    assert_eq!((w.logged("one"), w.logged("two")), (0, 1));
    assert_eq!(w.logged("Assigned job second. Accepting..."), 1);
    assert_eq!(w.metrics(|m| *m == Metric::PingSent), w.times("ping").len() - 1, "the test ping is not counted");
}

#[test]
fn a_failed_test_ping_keeps_the_endpoint_and_the_first_answer() {
    let w = switch(|| status(401)).signal(90.0, OsSignal::Term).run(100.0);
    assert!(sessions(&w).iter().filter(|(_, e)| e == "http://new/v3").count() == 1);
    assert_eq!(w.logged("Assigned job first. Accepting..."), 1);
    assert_eq!(w.logged("Failed to ping the new endpoint http://new/v3 - ignoring switch for now (CALL http://plane/v3: 401 Unauthorized)"), 1);
    w.exits(0);
}

#[test]
fn request_headers_replace_the_set_and_only_ours_are_kept() {
    let with = |headers: &[(&str, &str)]| {
        let headers = headers.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        Outcome::Ok(Reply::Ping(Box::new(PingReply { request_headers: Some(headers), ..PingReply::default() })))
    };
    let mut debug = config();
    debug.job.debug_lines = true;
    let w = World::new(AgentConfig { request_headers: vec![("Buildkite-Old".into(), "0".into())], ..debug })
        .on("ping", move |n, _| {
            Answer::Now(match n {
                1 => with(&[("Buildkite-A", "1"), ("X-Other", "2"), ("buildkite-b", "3")]),
                2 => ping(""),
                3 => with(&[]),
                _ => ping(""),
            })
        })
        .run(50.0);
    let headers = w.trace.iter().filter_map(|(_, c)| match c {
        AgentCommand::Call { call, .. } if matches!(call.operation, Operation::Ping) => Some(call.session.headers.to_vec()),
        _ => None,
    });
    let headers: Vec<_> = headers.take(4).collect();
    let pair = |k: &str, v: &str| vec![(k.to_owned(), v.to_owned())];
    assert_eq!(w.level(Level::Debug), ["Server-specified request header: Buildkite-Old: 0", "Server-specified request header: Buildkite-A: 1"]);
    assert_eq!(headers, [pair("Buildkite-Old", "0"), pair("Buildkite-A", "1"), pair("Buildkite-A", "1"), Vec::new()]);
}

#[test]
fn uptime_ends_an_idle_worker_and_waits_for_a_paused_one() {
    let limit = AgentConfig { disconnect_after_uptime: Some(Duration::from_secs(25)), ..config() };
    let w = World::new(limit.clone()).run(100.0);
    assert_eq!(w.exits(0), 25.0);
    assert_eq!(w.logged("Agent has exceeded max uptime of 25s"), 1);
    assert_eq!(w.logged("Disconnecting..."), 2, "the handler's line and the worker's");
    let w = World::new(limit.clone()).on("ping", |n, _| Answer::Now(ping(if n < 6 { "pause" } else { "idle" }))).run(100.0);
    assert_eq!(w.exits(0), w.times("ping")[5]);
    assert_eq!(w.logged("Awaiting resume before disconnecting..."), 1);
    assert_eq!(w.logged("Agent has resumed"), 0, "it leaves before it resumes (§9.9, 4)");
    // During a job: afterwards, before anything else.
    let w = job_then(limit, |_| ping_job("K")).job(40.0, 0, true).run(200.0);
    assert_eq!(w.exits(0), w.times("finish")[0]);
    assert_eq!((w.times("accept").len(), w.times("ping").len()), (1, 1));
}

#[test]
fn r16_a_job_at_the_instant_of_the_uptime_timer_is_accepted_first() {
    let limit = AgentConfig { disconnect_after_uptime: Some(Duration::from_secs(25)), ..config() };
    let w = World::new(limit).on("ping", |_, _| Answer::At(25.0, ping_job("J"))).run(100.0);
    assert_eq!((w.times("accept").len(), w.finishes().len()), (1, 1), "{}", w.tail());
    w.exits(0);
}

#[test]
fn a_job_already_accepted_is_not_accepted_again_but_one_given_back_may_be() {
    // Races R12: a stale offer.
    let w = World::new(config()).on("ping", |n, _| Answer::Now(if n < 4 { ping_job("J") } else { ping("") })).run(100.0);
    assert_eq!((w.times("accept").len(), w.finishes().len()), (1, 1));
    assert_eq!(w.logged("Ignoring job J, which this agent has already accepted"), 2);
    // Races R18: start refused, offered again, at the usual pace.
    let w = World::new(config())
        .on("ping", |_, _| Answer::Now(ping_job("J")))
        .on("start", |n, _| Answer::Now(if n < 3 { status(422) } else { ok() }))
        .run(29.0);
    let accepts = w.times("accept");
    assert!(accepts.len() == 3 && accepts[2] - accepts[0] > 10.0, "{accepts:?}");
}

#[test]
fn jobs_are_counted_by_priority_and_queue() {
    let job = crate::api::AcceptedJob {
        id: "J".into(),
        priority: 3,
        env: [("BUILDKITE_AGENT_META_DATA_QUEUE".to_owned(), "deploy".to_owned())].into_iter().collect(),
        ..Default::default()
    };
    let w = job_then(config(), |_| ping("")).on("accept", move |_, _| Answer::Now(Outcome::Ok(Reply::Job(Box::new(job.clone()))))).run(60.0);
    let started = Metric::JobStarted { priority: 3, queue: "deploy".into() };
    let ended = Metric::JobEnded { priority: 3, queue: "deploy".into() };
    assert_eq!((w.metrics(|m| *m == started), w.metrics(|m| *m == ended)), (1, 1));
}
