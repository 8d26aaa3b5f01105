//! §7.2: OTLP metrics as the pool and its workers see them.

use super::*;

fn with(otlp: Result<OtlpProtocol, String>) -> AgentConfig {
    AgentConfig { otlp: Some(otlp), ..config() }
}

fn flushes(w: &World) -> Vec<usize> {
    w.trace.iter().enumerate().filter(|(_, (_, c))| *c == AgentCommand::FlushMetrics).map(|(at, _)| at).collect()
}

fn unsupported() -> Result<OtlpProtocol, String> {
    OtlpProtocol::choose(Some("carrier-pigeon"), None)
}

#[test]
fn given_an_unsupported_protocol_when_the_worker_has_connected_then_it_disconnects_and_the_process_fails() {
    let w = World::new(with(unsupported())).run(100.0);
    w.exits(1);
    assert_eq!(w.calls().iter().map(|c| c.2).collect::<Vec<_>>(), ["register", "connect", "disconnect"], "{}", w.tail());
    let (_, _, message) = w.exit_seen().unwrap();
    assert_eq!(message.as_deref(), Some("buildkite-agent: fatal: unsupported OTLP protocol \"carrier-pigeon\""));
    assert!(flushes(&w).is_empty(), "what was never started is not flushed");
}

#[test]
fn given_an_unsupported_protocol_in_acquire_mode_then_the_job_is_never_asked_for() {
    let w = World::new(AgentConfig { acquire_job: Some("J".into()), ..with(unsupported()) }).run(100.0);
    w.exits(1);
    assert!(w.times("acquire").is_empty() && w.times("disconnect").len() == 1);
}

#[test]
fn given_an_unsupported_protocol_when_the_stop_came_first_then_nothing_was_to_be_started_and_nothing_failed() {
    let w = World::new(with(unsupported())).on("connect", |_, _| Answer::After(3.0, ok())).signal(1.0, OsSignal::Term).run(100.0);
    assert_eq!((w.exits(0), w.times("disconnect").len()), (3.0, 1));
}

#[test]
fn given_an_unsupported_protocol_when_the_connect_fails_then_only_that_is_the_error() {
    let w = World::new(with(unsupported())).on("connect", |_, _| Answer::Now(status(401))).run(100.0);
    w.exits(1);
    let (_, _, message) = w.exit_seen().unwrap();
    assert!(!message.unwrap().contains("OTLP") && w.times("disconnect").is_empty());
}

#[test]
fn given_several_workers_then_the_last_one_flushes_once_after_its_disconnect_and_before_the_shutdown_hook() {
    let one_shot = AgentConfig { spawn: 3, disconnect_after_job: true, ..with(Ok(OtlpProtocol::Grpc)) };
    let w = World::new(one_shot).on("ping", |n, _| Answer::Now(ping_job(&format!("J{n}")))).job(20.0, 0, true).run(300.0);
    w.exits(0);
    let [flush] = flushes(&w)[..] else { panic!("flushed not once\n{}", w.tail()) };
    let at = |of: &dyn Fn(&AgentCommand) -> bool| w.trace.iter().rposition(|(_, c)| of(c)).expect("it happened");
    let counted = at(&|c| matches!(c, AgentCommand::Metric(Metric::JobFinished { .. })));
    let ended = at(&|c| *c == AgentCommand::Metric(Metric::WorkerEnded));
    let hook = at(&|c| matches!(c, AgentCommand::RunHook { hook, .. } if hook.name == "agent-shutdown"));
    assert!(counted < flush && ended < flush && flush < hook, "{counted} {ended} {flush} {hook}");
    assert_eq!(w.metrics(|m| matches!(m, Metric::JobFinished { .. })), 3);
}

#[test]
fn given_an_immediate_exit_then_nothing_is_flushed() {
    let w = World::new(with(Ok(OtlpProtocol::Http))).on("ping", |_, _| Answer::Now(ping_job("J"))).job(1000.0, 0, false);
    let w = w.signal(30.0, OsSignal::Term).signal(31.0, OsSignal::Term).signal(32.0, OsSignal::Term).run(100.0);
    assert_eq!(w.exits(1), 32.0);
    assert!(flushes(&w).is_empty());
}

#[test]
fn given_no_otlp_then_nothing_is_flushed() {
    let w = World::new(config()).signal(5.0, OsSignal::Term).run(100.0);
    w.exits(0);
    assert!(flushes(&w).is_empty());
}
