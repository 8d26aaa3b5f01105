//! A process that runs and ends by itself: result mapping, output, polls.

use super::*;
use crate::agent::Level;

#[test]
fn every_cell_of_the_result_table_2_3() {
    use CancelKind::{AgentStop, Cancel, InvalidToken, Timeout};
    let code = ExitStatus::Code;
    let rows = [
        (code(0), said("0", "", ""), said("1", "", "cancel"), said("0", "", "agent_stop")),
        (code(7), said("7", "", ""), said("7", "", "cancel"), said("7", "", "agent_stop")),
        (code(143), said("143", "", ""), said("143", "", "cancel"), said("143", "", "agent_stop")),
        (code(125), said("-1", "", "process_run_error"), said("-1", "", "cancel"), said("-1", "", "agent_stop")),
        (ExitStatus::Signal(15), said("-1", "SIGTERM", ""), said("-1", "SIGTERM", "cancel"), said("-1", "SIGTERM", "agent_stop")),
        (ExitStatus::Signal(100), said("-1", "100", ""), said("-1", "100", "cancel"), said("-1", "100", "agent_stop")),
    ];
    for (status, alone, cancelled, stopped) in rows {
        let run = |kinds: &[CancelKind]| {
            let mut b = Bench::plain();
            b.running();
            for kind in kinds {
                b.cancel(*kind);
            }
            b.exited(status).eof();
            if !kinds.is_empty() {
                b.group(false);
            }
            b.report()
        };
        assert_eq!(run(&[]), alone, "{status:?}");
        for kind in [Cancel, Timeout, InvalidToken] {
            assert_eq!(run(&[kind]), cancelled, "{status:?} {kind:?}");
            assert_eq!(run(&[kind, AgentStop]), stopped, "{status:?} {kind:?} then stop (W25)");
            assert_eq!(run(&[AgentStop, kind]), stopped, "{status:?} stop then {kind:?}");
        }
        assert_eq!(run(&[AgentStop]), stopped, "{status:?}");
    }
}

#[test]
fn the_process_line_names_status_and_signal() {
    for (status, line) in [
        (ExitStatus::Code(3), "Process with PID: 42 finished with Exit Status: 3, Signal: nil"),
        (ExitStatus::Signal(9), "Process with PID: 42 finished with Exit Status: -1, Signal: SIGKILL"),
    ] {
        let mut b = Bench::plain();
        b.running().exited(status);
        assert!(b.logged(line));
    }
}

#[test]
fn i36_a_job_that_is_not_cancelled_is_never_signalled_and_its_survivors_are_left_alone() {
    let mut b = Bench::plain();
    b.running().secs(60).exited(ExitStatus::Code(0)).secs(5).eof();
    assert_eq!(b.report(), said("0", "", ""));
    assert!(b.signals().is_empty());
    assert_eq!(b.count(|c| matches!(c, AgentCommand::QueryGroup { .. })), 0);
}

#[test]
fn r36_output_that_ends_before_the_exit_is_seen_does_not_hold_the_job_up() {
    let mut b = Bench::plain();
    b.running().eof().secs(1).exited(ExitStatus::Code(0));
    assert_eq!(b.state(), "flushing");
    assert_eq!(b.report(), said("0", "", ""));
}

#[test]
fn r35_a_leaked_terminal_is_closed_after_10_s_and_a_pipe_after_s_plus_1() {
    for (pty, bound) in [(true, 10), (false, 11)] {
        let mut config = config();
        config.job.pty = pty;
        let mut b = Bench::new(config, Bench::start(job(&[])));
        b.running().exited(ExitStatus::Code(0));
        b.pass(Duration::from_millis(bound * 1000 - 1));
        assert_eq!(b.count(|c| matches!(c, AgentCommand::CloseOutput { .. })), 0);
        b.pass(Duration::from_millis(1));
        assert_eq!(b.count(|c| matches!(c, AgentCommand::CloseOutput { .. })), 1);
        assert_eq!(b.state(), "draining", "the close has to be confirmed (W13)");
        b.process(ProcessEvent::OutputEnded { cut: true });
        assert_eq!(b.report(), said("0", "", ""), "a cut output does not change a clean exit");
        let warned = b.logged("The output of job j1 was still open after its process had exited");
        assert_eq!(warned, !pty);
    }
}

#[test]
fn trap_11_polls_come_once_per_interval_after_a_fresh_jitter() {
    let mut b = Bench::plain();
    b.running();
    let begun = b.now;
    for _ in 0..40 {
        let before = b.calls("state").len();
        while b.calls("state").len() == before {
            b.pass(Duration::from_millis(100));
        }
        b.answer("state", state("running"));
    }
    let polls = b.calls("state");
    for (k, (at, ..)) in polls.iter().enumerate() {
        let tick = begun + Duration::from_secs(4 * k as u64);
        assert!(*at >= tick && *at < tick + Duration::from_secs(4), "poll {k} at {at:?}");
    }
    let offsets: std::collections::BTreeSet<u64> =
        polls.iter().enumerate().map(|(k, (at, ..))| at.since(begun + Duration::from_secs(4 * k as u64)).as_nanos() as u64).collect();
    assert_eq!(offsets.len(), polls.len(), "the jitter is drawn per poll");
    assert!(polls.iter().all(|(_, _, c)| c.limit == Duration::from_secs(10)));
}

#[test]
fn one_poll_at_a_time_and_of_the_ticks_missed_one_is_kept() {
    let mut b = Bench::plain();
    b.running().secs(4);
    assert_eq!(b.calls("state").len(), 1);
    b.secs(60);
    assert_eq!(b.calls("state").len(), 1, "a hanging poll blocks the next ones");
    b.answer("state", timeout());
    assert!(b.logged("Problem with getting job state j1 (PUT https://api.test/v3/x: timed out)"));
    b.secs(4);
    assert_eq!(b.calls("state").len(), 2);
    b.answer("state", state("running")).secs(4);
    assert!(b.calls("state").len() <= 3, "missed ticks are not made up for");
}

#[test]
fn w1_without_an_interval_polls_come_every_second_and_long_intervals_keep_the_exchange_limit() {
    for (interval, per_minute, limit) in [(0, 60, 10), (30, 2, 30), (600, 1, 60)] {
        let mut start = Bench::start(job(&[]));
        start.status_interval = Duration::from_secs(interval);
        let mut b = Bench::new(config(), start);
        b.running();
        let mut polls = 0;
        for _ in 0..6000 {
            b.pass(Duration::from_millis(if interval == 600 { 100 } else { 10 }));
            if b.calls("state").len() > polls {
                polls += 1;
                b.answer("state", state("running"));
            }
        }
        assert!(polls.abs_diff(per_minute) <= 1, "{polls} polls with P = {interval}");
        assert_eq!(b.calls("state")[0].2.limit, Duration::from_secs(limit));
    }
}

#[test]
fn i46_answers_other_than_the_four_states_and_401_change_nothing() {
    for outcome in
        [state("running"), state(""), state("CANCELED"), status(500), status(403), status(404), timeout(), Outcome::Undecodable("x".into())]
    {
        let warns = !matches!(outcome, Outcome::Ok(_));
        let mut b = Bench::plain();
        b.running().secs(4).answer("state", outcome);
        assert_eq!(b.state(), "running");
        assert!(b.signals().is_empty());
        let warned = b.trace.iter().any(|(_, c)| matches!(c, AgentCommand::Log(l) if l.level == Level::Warn));
        assert_eq!(warned, warns);
    }
}

#[test]
fn i6_a_poll_in_flight_at_the_exit_is_given_up_and_none_follows() {
    let mut b = Bench::plain();
    b.running().secs(4);
    let poll = b.calls("state")[0].1;
    b.exited(ExitStatus::Code(0));
    assert_eq!(b.count(|c| matches!(c, AgentCommand::AbortCall { id } if *id == poll)), 1);
    b.eof().secs(60);
    b.drained(0).removed();
    b.answer("finish", Outcome::Ok(Reply::Empty));
    assert_eq!((b.state(), b.end.clone()), ("closing", None), "a machine that is done has no request outstanding");
    b.feed(AgentEvent::Completed { id: poll, outcome: Outcome::Aborted });
    assert!(matches!(b.end, Some(JobEnd::Finished { exit_status: 0, .. })));
    assert_eq!(b.calls("state").len(), 1);
}
