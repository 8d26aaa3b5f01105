//! §9.5, §9.7 and §9.8 inside the machine, T2, and the races R8, R9, R11, R12, R24, R25.

use super::*;
use crate::api::{GrpcCode, StreamEnd, StreamMessage};

fn auto() -> AgentConfig {
    AgentConfig { ping_mode: PingMode::Auto, ..config() }
}

fn stream_only() -> AgentConfig {
    AgentConfig { ping_mode: PingMode::StreamOnly, ..config() }
}

fn resume() -> Say {
    Say::M(StreamMessage::Resume)
}

fn pause() -> Say {
    Say::M(StreamMessage::Pause { reason: "maintenance".into() })
}

fn job(id: &str) -> Say {
    Say::M(StreamMessage::Job { id: id.into() })
}

#[test]
fn a_healthy_stream_means_no_ping_and_routine_reconnects_are_silent() {
    for seed in 1..20 {
        let w = World::seeded(auto(), seed).run(400.0);
        assert!(w.times("ping").is_empty(), "I38, I40");
        let streams = w.times("stream");
        assert!(streams[0] < 1.0);
        for pair in streams.windows(2) {
            assert!((60.0..61.0).contains(&(pair[1] - pair[0])), "60 s plus U[0, 1 s): {streams:?}");
        }
        assert_eq!(w.logged("Ping stream connection established"), 1);
    }
}

#[test]
fn t2_the_stream_fails_and_comes_back() {
    let w = World::new(auto()).streams(|n, _| match n {
        1 => vec![(0.1, resume())],
        2 => vec![(0.0, resume()), (9.5, Say::End(failure(GrpcCode::Unavailable)))],
        3..6 => vec![(0.0, Say::End(failure(GrpcCode::Unavailable)))],
        _ => vec![(0.0, resume())],
    });
    let w = w.run(200.0);
    let (streams, pings) = (w.times("stream"), w.times("ping"));
    let broke = streams[1] + 9.5;
    assert!((pings[0] - broke).abs() < 0.001, "the ping goes out at once: {pings:?} {broke}");
    // Windows of 1, 2, 4 … seconds since the reset of n; the first is over when the stream broke.
    assert!((broke..broke + 1.0).contains(&streams[2]), "{streams:?}");
    assert!((broke + 1.0..broke + 3.0).contains(&streams[3]), "{streams:?}");
    assert!((broke + 3.0..broke + 7.0).contains(&streams[4]), "{streams:?}");
    assert!((broke + 7.0..broke + 15.0).contains(&streams[5]), "{streams:?}");
    assert!(pings.iter().all(|at| *at <= streams[5]), "the stream has the gate again: {pings:?}");
    assert_eq!(w.logged("Ping stream connection established"), 2);
}

#[test]
fn windows_double_up_to_64_seconds() {
    let w = World::new(stream_only()).streams(|_, _| vec![(0.0, Say::End(failure(GrpcCode::Unavailable)))]).run(1000.0);
    let (mut from, mut k) = (0.0, 0);
    for at in w.times("stream") {
        let length = f64::from(1 << k.min(6));
        assert!((from..from + length).contains(&at), "attempt {k} at {at} (I36)");
        from += length;
        k += 1;
    }
    assert!(k > 15);
}

#[test]
fn r12_a_stream_that_ends_without_any_message_is_unhealthy() {
    for end in [StreamEnd::Clean, failure(GrpcCode::DeadlineExceeded)] {
        let w = World::new(auto()).streams(move |_, _| vec![(30.0, Say::End(end.clone()))]).run(120.0);
        assert!(w.times("ping").len() >= 3, "polling has taken over");
    }
    // One message is enough.
    let w = World::new(auto()).streams(|_, _| vec![(1.0, resume()), (30.0, Say::End(StreamEnd::Clean))]).run(120.0);
    assert!(w.times("ping").is_empty());
}

#[test]
fn a_job_without_an_id_breaks_the_stream() {
    let w = World::new(auto()).streams(|n, _| if n == 1 { vec![(0.1, job(""))] } else { vec![(0.1, resume())] }).run(50.0);
    assert_eq!(w.level(Level::Error), ["Ping stream yielded a JobAssigned message with nil job or empty job ID, so assuming the stream is broken"]);
    assert_eq!(w.count(|c| matches!(c, AgentCommand::CloseStream { .. })), 1);
    assert!(w.times("accept").is_empty(), "I35");
    let streams = w.times("stream");
    assert!((1.0..3.0).contains(&streams[1]), "n is not reset: {streams:?}");
}

#[test]
fn a_final_code_falls_back_to_polling_in_auto() {
    for code in [GrpcCode::Unauthenticated, GrpcCode::PermissionDenied, GrpcCode::Unimplemented] {
        let w = World::new(auto()).streams(move |_, _| vec![(0.0, Say::End(failure(code)))]).signal(100.0, OsSignal::Term).run(200.0);
        assert_eq!(w.times("stream").len(), 1);
        assert!(w.times("ping").len() >= 9);
        assert_eq!(
            w.logged(
                "Streaming ping mode is unavailable, permanently falling back to polling-based ping mode (the underlying error was: stream broke)"
            ),
            1
        );
        w.exits(0);
    }
}

#[test]
fn a_final_code_ends_a_stream_only_worker_with_an_error() {
    let w = World::new(stream_only()).streams(|_, _| vec![(0.0, Say::End(failure(GrpcCode::PermissionDenied)))]).run(60.0);
    let at = w.exits(1);
    assert_eq!(w.times("disconnect"), [at]);
    let error = "Streaming ping mode failed due to an unrecoverable error: stream broke";
    assert_eq!(w.level(Level::Error), [error]);
    assert_eq!(w.exit_seen().and_then(|e| e.2), Some(format!("buildkite-agent: fatal: {error}")));
    assert!(w.times("ping").is_empty(), "I41");
}

#[test]
fn in_auto_a_rejected_ping_does_not_end_a_worker_whose_stream_lives() {
    let w = World::new(auto())
        .streams(|n, _| if n == 1 { vec![(5.0, Say::End(failure(GrpcCode::Internal)))] } else { vec![(20.0, resume()), (21.0, job("J"))] })
        .on("ping", |_, _| Answer::Now(status(401)))
        .run(50.0);
    assert_eq!(w.times("ping").len(), 1);
    assert_eq!(w.times("accept").len(), 1, "the stream goes on to bring work");
    assert!(w.exit_seen().is_none());
    // When the stream ends too, the worker leaves with the error of the ping.
    let w = World::new(auto())
        .streams(|n, _| vec![(5.0, Say::End(failure(if n == 1 { GrpcCode::Internal } else { GrpcCode::Unimplemented })))])
        .on("ping", |_, _| Answer::Now(status(401)))
        .run(50.0);
    w.exits(1);
    assert_eq!(w.times("disconnect").len(), 1);
}

#[test]
fn reasons_are_logged() {
    let w = World::new(auto())
        .streams(|_, _| {
            vec![
                (1.0, pause()),
                (2.0, Say::M(StreamMessage::Pause { reason: String::new() })),
                (3.0, Say::M(StreamMessage::Disconnect { reason: "bye".into() })),
            ]
        })
        .run(50.0);
    assert_eq!((w.logged("Pause reason: maintenance"), w.logged("Pause reason"), w.logged("Disconnect reason: bye")), (1, 1, 1));
    w.exits(0);
}

#[test]
fn the_streams_disconnect_lets_the_job_run_to_its_end() {
    let w = World::new(auto()).streams(|_, _| vec![(0.0, job("J")), (5.0, Say::M(StreamMessage::Disconnect { reason: String::new() }))]).run(60.0);
    let over = w.times("finish")[0];
    assert_eq!(w.exits(0), over);
    assert!(w.signals_sent().is_empty(), "I24");
    assert_eq!(w.logged("Gracefully stopping agent. Waiting for current job to finish before disconnecting..."), 1);
}

#[test]
fn r25_a_disconnect_while_poll_holds_the_gate_drops_the_ping() {
    let w = World::new(auto())
        .streams(|n, _| match n {
            1 => vec![(1.0, Say::End(failure(GrpcCode::Internal)))],
            _ => vec![(3.0, Say::M(StreamMessage::Disconnect { reason: String::new() }))],
        })
        .on("ping", |_, _| Answer::After(40.0, ping_job("J")))
        .run(60.0);
    assert!(w.exits(0) < 10.0);
    assert!(w.times("accept").is_empty());
}

#[test]
fn r8_a_stream_that_ends_for_good_during_a_job_releases_the_gate_at_its_end() {
    let w =
        World::new(auto()).streams(|_, _| vec![(0.0, job("J")), (3.0, Say::End(failure(GrpcCode::PermissionDenied)))]).job(50.0, 0, true).run(120.0);
    let over = w.times("finish")[0];
    let pings = w.times("ping");
    assert!(pings.iter().all(|at| *at >= over), "I10: {pings:?}");
    assert!((pings[0] - over).abs() < 0.001, "poll was waiting at the gate: {pings:?} {over}");
}

#[test]
fn r9_a_stream_unhealthy_during_a_job_releases_the_gate_at_its_end() {
    let w = World::new(auto())
        .streams(|n, _| {
            if n == 1 {
                vec![(0.0, job("J")), (3.0, Say::End(failure(GrpcCode::Unavailable)))]
            } else {
                vec![(55.0, Say::End(failure(GrpcCode::Unavailable)))]
            }
        })
        .job(50.0, 0, true)
        .run(80.0);
    let over = w.times("finish")[0];
    assert!((w.times("ping")[0] - over).abs() < 0.001, "I39");
}

#[test]
fn r11_a_job_accepted_by_poll_is_not_accepted_again_from_the_queue() {
    // J is queued behind a job of the stream, the stream drops, poll gets and runs J, the stream returns and repeats it.
    let w = World::new(auto())
        .streams(|n, _| match n {
            1 => vec![(0.0, job("I")), (2.0, job("J")), (3.0, Say::End(failure(GrpcCode::Unavailable)))],
            2..6 => vec![(0.0, Say::End(failure(GrpcCode::Unavailable)))],
            _ => vec![(0.0, job("J")), (1.0, resume())],
        })
        .on("ping", |n, _| Answer::Now(if n == 1 { ping_job("J") } else { ping("") }))
        .run(200.0);
    let accepted: Vec<String> = w.lines().into_iter().filter(|l| l.starts_with("Assigned job")).collect();
    assert_eq!(accepted, ["Assigned job I. Accepting...", "Assigned job J. Accepting..."]);
    assert_eq!(w.finishes().len(), 2);
}

#[test]
fn a_stream_that_repeats_a_job_runs_it_once() {
    let w = World::new(auto()).streams(|_, _| vec![(0.0, job("J")), (1.0, job("J")), (30.0, job("J"))]).run(150.0);
    assert_eq!((w.times("accept").len(), w.finishes().len()), (1, 1), "I34");
}

#[test]
fn jobs_queue_behind_a_job_and_survive_a_pause() {
    let w = World::new(auto())
        .streams(|n, _| if n == 1 { vec![(0.0, job("A")), (1.0, job("B")), (2.0, pause()), (30.0, resume())] } else { vec![(0.0, resume())] })
        .run(100.0);
    let accepts = w.times("accept");
    assert_eq!(accepts.len(), 2);
    assert!(accepts[1] - accepts[0] >= 30.0 - 0.001, "{accepts:?}");
    assert_eq!(w.logged("Agent has resumed after being paused"), 1);
}

#[test]
fn the_queue_is_bounded_and_says_so() {
    let w = World::new(auto()).streams(|_, _| (0..80).map(|n| (0.1, job(&format!("job-{n}")))).collect()).job(3000.0, 0, true).run(30.0);
    assert_eq!(w.logged("Too many jobs are waiting, dropping the newest"), 80 - 1 - crate::limits::QUEUED_JOBS);
}

#[test]
fn r14_a_one_shot_agent_on_a_silent_stream_leaves_when_its_job_is_over() {
    let w = World::new(AgentConfig { disconnect_after_job: true, ..auto() }).streams(|_, _| vec![(0.0, job("J"))]).run(100.0);
    assert_eq!(w.exits(0), w.times("finish")[0]);
}

#[test]
fn r24_a_pause_during_the_job_of_a_one_shot_agent_wins() {
    let w = World::new(AgentConfig { disconnect_after_job: true, ..auto() })
        .streams(|n, _| if n == 1 { vec![(0.0, job("J")), (5.0, pause()), (40.0, resume())] } else { vec![(0.0, resume())] })
        .run(100.0);
    let at = w.exits(0);
    assert!((at - w.times("stream")[0] - 40.0).abs() < 0.001, "{at}");
    assert_eq!(w.finishes()[0].ignore_agent_in_dispatches, Some(true));
}

#[test]
fn uptime_fired_during_a_job_beats_the_job_behind_it_but_not_a_waiting_pause() {
    let limit = AgentConfig { disconnect_after_uptime: Some(Duration::from_secs(6)), ..auto() };
    let w = World::new(limit.clone()).streams(|_, _| vec![(0.0, job("J")), (2.0, job("K"))]).run(100.0);
    assert_eq!((w.exits(0), w.times("accept").len()), (w.times("finish")[0], 1));
    let w = World::new(limit).streams(|n, _| if n == 1 { vec![(0.0, job("J")), (2.0, pause()), (40.0, job("K"))] } else { vec![] }).run(100.0);
    assert!((w.exits(0) - w.times("stream")[0] - 40.0).abs() < 0.001);
    assert_eq!(w.times("accept").len(), 1);
    assert_eq!(w.logged("Awaiting resume before disconnecting..."), 1);
}

#[test]
fn in_auto_pings_actions_of_the_stream_have_their_own_labels() {
    let w = World::new(auto()).streams(|_, _| vec![(0.0, resume()), (1.0, pause()), (2.0, resume())]).run(10.0);
    let label = |text: &str| w.metrics(|m| *m == Metric::PingAction { action: text.into() });
    assert_eq!((label(""), label("pause")), (2, 1));
}

/// Races R13: for all words up to length 6 over what a stream may say, the action sequence afterwards is the net effect.
#[test]
fn debouncer_all_words_up_to_six_have_only_their_net_effect() {
    use super::super::debouncer::{Debouncer, Message, Pending};
    for length in 0..=6u32 {
        for word in 0..5u32.pow(length) {
            let letters: Vec<u32> = (0..length).map(|i| word / 5u32.pow(i) % 5).collect();
            // A job is in progress.
            let mut debouncer = Debouncer::new();
            debouncer.message(Message::Job("running".into()), |_| false);
            assert_eq!(debouncer.deliver().and_then(|d| d.job).as_deref(), Some("running"));
            for letter in &letters {
                let message = match letter {
                    0 => Message::Idle,
                    1 => Message::Pause,
                    2 => Message::Disconnect,
                    3 => Message::Job("A".into()),
                    _ => Message::Job("B".into()),
                };
                debouncer.message(message, |id| id == "running");
                assert_eq!(debouncer.ready(), None, "nothing is delivered during the job (I11)");
            }
            debouncer.action_done(true, false);
            let mut got = Vec::new();
            while let Some(next) = debouncer.deliver() {
                got.push(match (next.action, next.job) {
                    (Pending::Disconnect, _) => "disconnect".to_owned(),
                    (Pending::Pause, _) => "pause".to_owned(),
                    (Pending::Idle, None) => "idle".to_owned(),
                    (Pending::Idle, Some(id)) => id.to_string(),
                });
                debouncer.action_done(true, false);
            }
            // The model: disconnect wins; else the last word of pause or not; then the jobs in order of arrival, or one idle.
            let mut jobs: Vec<String> = Vec::new();
            for letter in &letters {
                if let Some(id) = [(3, "A"), (4, "B")].iter().find(|(l, _)| l == letter).map(|(_, id)| (*id).to_owned())
                    && !jobs.contains(&id)
                {
                    jobs.push(id);
                }
            }
            let expected = match letters.last() {
                _ if letters.contains(&2) => vec!["disconnect".to_owned()],
                None => Vec::new(),
                Some(1) => vec!["pause".to_owned()],
                Some(_) if jobs.is_empty() => vec!["idle".to_owned()],
                Some(_) => jobs,
            };
            assert_eq!(got, expected, "{letters:?}");
        }
    }
}
