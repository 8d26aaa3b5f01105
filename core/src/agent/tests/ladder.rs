//! §4 and §4.1: signals, the force timer, exit codes.

use super::*;

/// A worker that has a job from its first ping on; the job runs for `runs` seconds.
fn busy(runs: f64, polite: bool) -> World {
    World::new(config()).on("ping", |n, _| Answer::Now(if n == 1 { ping_job("J") } else { ping("idle") })).job(runs, 0, polite)
}

#[test]
fn first_term_is_a_graceful_stop_of_an_idle_worker() {
    let w = World::new(config()).signal(35.0, OsSignal::Term).run(100.0);
    assert_eq!(w.exits(0), 35.0);
    assert_eq!(w.times("disconnect"), [35.0]);
    assert_eq!(w.logged("Received CTRL-C, send again to forcefully kill the agent(s)"), 1);
    assert_eq!(w.logged("Gracefully stopping agent. Since there is no job running, the agent will disconnect immediately"), 1);
}

#[test]
fn t3_graceful_stop_during_a_job_waits_for_it_and_keeps_beating() {
    let w = busy(300.0, true).signal(20.0, OsSignal::Int).run(1000.0);
    let at = w.exits(0);
    assert!(at > 300.0, "{at}");
    assert_eq!(w.logged("Gracefully stopping agent. Waiting for current job to finish before disconnecting..."), 1);
    assert!(w.signals_sent().is_empty(), "a graceful stop never touches the job");
    assert_eq!(w.times("heartbeat"), [60.0, 120.0, 180.0, 240.0, 300.0], "heartbeats go on (R21)");
    assert_eq!(w.times("ping").len(), 1);
    let order: Vec<&str> = w.calls().iter().map(|(_, _, name)| *name).filter(|name| *name == "finish" || *name == "disconnect").collect();
    assert_eq!(order, ["finish", "disconnect"]);
}

#[test]
fn term_and_int_share_the_counter_and_the_second_cancels_the_job() {
    let w = busy(300.0, true).signal(20.0, OsSignal::Term).signal(21.0, OsSignal::Int).run(100.0);
    w.exits(0);
    assert_eq!(w.signals_sent(), [(21.0, OsSignal::Term)]);
    assert_eq!(w.finishes()[0].signal_reason, "agent_stop");
    assert_eq!(w.logged("Forcefully stopping running jobs and stopping the agent(s) in 15s"), 1);
    assert_eq!(w.logged("Press Ctrl-C one more time to exit immediately without disconnecting - note that agents will be considered lost!"), 1);
    assert_eq!(w.logged("Forcefully stopping agent. The current job will be canceled before disconnecting..."), 1);
}

#[test]
fn t4_a_stubborn_job_is_killed_and_reported_before_the_force_timer() {
    let w = busy(300.0, false).signal(20.0, OsSignal::Term).signal(21.0, OsSignal::Term).run(100.0);
    let at = w.exits(0);
    assert!((31.0..36.0).contains(&at), "{at}");
    assert_eq!(w.signals_sent(), [(21.0, OsSignal::Term), (31.0, OsSignal::Kill)]);
    let finish = &w.finishes()[0];
    assert_eq!((finish.exit_status.as_str(), finish.signal.as_str(), finish.signal_reason.as_str()), ("-1", "SIGKILL", "agent_stop"));
}

#[test]
fn t4_the_force_timer_ends_the_process_when_nothing_gets_through() {
    let w = busy(300.0, true)
        .on("finish", |_, _| Answer::Never)
        .on("disconnect", |_, _| Answer::Never)
        .signal(20.0, OsSignal::Term)
        .signal(21.0, OsSignal::Term)
        .run(100.0);
    assert_eq!(w.exits(1), 37.0);
    assert_eq!(w.count(|c| matches!(c, AgentCommand::RunHook { hook, .. } if hook.name == "agent-shutdown")), 0);
}

#[test]
fn the_force_timer_fires_g_plus_one_second_after_the_first_forced_stop_and_is_never_moved() {
    let w = World::new(config())
        .on("disconnect", |_, _| Answer::Never)
        .signal(20.0, OsSignal::Quit)
        .signal(25.0, OsSignal::Term)
        .signal(30.0, OsSignal::Term)
        .signal(31.0, OsSignal::Quit)
        .run(100.0);
    assert_eq!(w.exits(1), 36.0);
    assert_eq!(w.logged("Timed out waiting for agents to exit; exiting immediately with status 1"), 1);
    assert_eq!(w.count(|c| matches!(c, AgentCommand::RunHook { hook, .. } if hook.name == "agent-shutdown")), 0);
    assert_eq!(w.logged("Agent is already gracefully stopping..."), 1, "a TERM after QUIT counts 1");
}

#[test]
fn the_third_signal_exits_at_once_and_nothing_follows() {
    let w = busy(300.0, false).signal(20.0, OsSignal::Term).signal(21.0, OsSignal::Int).signal(22.0, OsSignal::Term).run(100.0);
    assert_eq!(w.exits(1), 22.0);
    assert_eq!(w.logged("Exiting immediately with status 1"), 1);
    assert!(matches!(w.trace.last(), Some((_, AgentCommand::Exit(Exit { kill_jobs: true, .. })))));
    assert!(w.times("disconnect").is_empty());
}

#[test]
fn quit_is_forced_and_does_not_count() {
    let w = busy(300.0, false)
        .signal(20.0, OsSignal::Quit)
        .signal(20.5, OsSignal::Quit)
        .signal(21.0, OsSignal::Term)
        .signal(22.0, OsSignal::Term)
        .run(100.0);
    let at = w.exits(0);
    assert!((30.0..36.0).contains(&at), "two TERM after QUIT are not three: {at}");
    assert_eq!(w.signals_sent(), [(20.0, OsSignal::Term), (30.0, OsSignal::Kill)], "cancelled once");
}

#[test]
fn hup_is_ignored_while_idle_busy_and_in_the_hook() {
    let w = busy(30.0, true).hook("agent-shutdown", 5.0, HookEnd::Succeeded);
    let w = w.signal(20.0, OsSignal::Hup).signal(60.0, OsSignal::Term).signal(62.0, OsSignal::Hup).run(100.0);
    assert_eq!(w.exits(0), 65.0);
}

#[test]
fn with_kubernetes_exec_the_first_signal_forces_and_the_second_exits() {
    let w = World::new(AgentConfig { kubernetes_exec: true, ..config() })
        .on("ping", |_, _| Answer::Now(ping_job("J")))
        .job(300.0, 0, false)
        .signal(20.0, OsSignal::Term)
        .signal(22.0, OsSignal::Term)
        .run(100.0);
    assert_eq!(w.exits(1), 22.0);
    assert_eq!(w.signals_sent(), [(20.0, OsSignal::Term)]);
    assert_eq!(w.logged("Press Ctrl-C one more time"), 0);
}

#[test]
fn r13_signals_during_the_shutdown_hook_are_counted_and_change_nothing_but_by_count_3_and_the_force_timer() {
    let hook = |runs| World::new(config()).hook("agent-shutdown", runs, HookEnd::Succeeded).signal(20.0, OsSignal::Term);
    // One more signal arms the force timer, but the hook is done before it fires.
    assert_eq!(hook(10.0).signal(22.0, OsSignal::Term).run(100.0).exits(0), 30.0);
    // R30: it is cut off when it is not.
    assert_eq!(hook(50.0).signal(22.0, OsSignal::Quit).run(100.0).exits(1), 38.0);
    // The third ends the process.
    assert_eq!(hook(50.0).signal(22.0, OsSignal::Term).signal(23.0, OsSignal::Int).run(100.0).exits(1), 23.0);
    // Without any, it may take its time.
    assert_eq!(hook(500.0).run(1000.0).exits(0), 520.0);
}

#[test]
fn a_failing_shutdown_hook_is_logged_and_changes_nothing() {
    let w = World::new(config()).hook("agent-shutdown", 1.0, HookEnd::Failed("exit status 3".into())).signal(20.0, OsSignal::Term).run(100.0);
    assert_eq!(w.exits(0), 21.0);
    assert_eq!(w.level(Level::Error), ["\"agent-shutdown\" hook: exit status 3"]);
}

#[test]
fn exit_codes_follow_the_table_and_its_precedence() {
    let rejected = WorkerError::AcquisitionRejected { job: "J".into(), error: "CALL: 422".into() };
    let locked = WorkerError::JobLocked { job: "J".into(), error: "CALL: 423".into() };
    let exit = WorkerError::JobExit { status: -1, signal: "SIGTERM".into(), reason: "agent_stop".into() };
    let other = WorkerError::Other("boom".into());
    let reflect = AgentConfig { reflect_exit_status: true, ..config() };
    let code = |errors: &[&WorkerError], config: &AgentConfig| exit::exit_of(errors, config).code;
    assert_eq!(code(&[], &reflect), 0);
    assert_eq!(code(&[&other, &exit, &locked, &rejected], &reflect), 27);
    assert_eq!(code(&[&other, &exit, &locked], &reflect), 28);
    assert_eq!(code(&[&other, &exit], &reflect), 255);
    assert_eq!(code(&[&exit], &config()), 0);
    assert_eq!(code(&[&other], &reflect), 1);
    let message = |errors: &[&WorkerError]| exit::exit_of(errors, &reflect).message.expect("a message");
    assert_eq!(message(&[&other, &other]), "buildkite-agent: fatal: boom\nboom");
    assert_eq!(message(&[&rejected]), "failed to acquire job \"J\": failed to acquire job: job acquisition rejected: CALL: 422");
    assert_eq!(message(&[&locked]), "failed to acquire job \"J\": failed to acquire job: job is locked: CALL: 423");
    assert_eq!(message(&[&exit]), "failed to run job: process exited with status=-1, signal=SIGTERM, reason=agent_stop");
}

/// R30 of the races chapter: every word over the signals, up to length 4, in a worker with a stubborn job: the process always
/// ends within its bound, and a third counted signal ends it at once.
#[test]
fn every_word_of_four_signals_ends_within_its_bound() {
    let letters = [OsSignal::Term, OsSignal::Int, OsSignal::Quit, OsSignal::Hup];
    for word in 0..4u32.pow(4) {
        let word: Vec<OsSignal> = (0..4).map(|i| letters[(word / 4u32.pow(i) % 4) as usize]).collect();
        let mut w = busy(40.0, false);
        let (mut count, mut forced, mut dead) = (0, None, None);
        for (i, signal) in word.iter().enumerate() {
            let at = 20.0 + i as f64;
            w = w.signal(at, *signal);
            match signal {
                OsSignal::Term | OsSignal::Int => count += 1,
                OsSignal::Quit => forced = forced.or(Some(at)),
                _ => {}
            }
            if count == 2 {
                forced = forced.or(Some(at));
            }
            if count == 3 {
                dead = dead.or(Some(at));
            }
        }
        let w = w.run(200.0);
        let end = w.exit_seen().map(|(at, _, _)| at);
        match (dead, forced, count) {
            (Some(at), _, _) => assert_eq!(end, Some(at), "{word:?}"),
            (None, Some(at), _) => assert!(end.is_some_and(|end| end <= at + 16.0), "{word:?} {end:?}"),
            (None, None, 1..) => assert!(end.is_some_and(|end| end > 40.0), "{word:?} {end:?}"),
            (None, None, _) => assert_eq!(end, None, "{word:?}"),
        }
    }
}
