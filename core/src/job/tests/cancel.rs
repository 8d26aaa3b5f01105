//! Cancels while the process runs, and at its end (job-runner §7.1–7.4, §7.7).

use super::*;
use OsSignal::{Int, Kill, Term};
use SignalTarget::{Group, Tree};

fn cancelled(kind: CancelKind) -> Bench {
    let mut b = Bench::plain();
    b.running().cancel(kind);
    b
}

#[test]
fn every_source_of_a_cancel_interrupts_with_its_reason() {
    let cases = [
        (state("canceling"), "job cancelled on Buildkite"),
        (state("canceled"), "job cancelled on Buildkite"),
        (state("timing_out"), "job timed out on Buildkite"),
        (state("timed_out"), "job timed out on Buildkite"),
        (status(401), "access token is invalid"),
    ];
    for (answer, reason) in cases {
        let invalid = answer.status() == Some(401);
        let mut b = Bench::plain();
        b.running().secs(4).answer("state", answer);
        assert!(b.logged(&format!("Canceling job j1 with a signal grace period of 10s ({reason})")), "{:?}", b.agent_log());
        assert_eq!(b.logged("Invalid access token, cancelling job j1"), invalid);
        assert_eq!(b.signals(), [(5000, Term, Group)]);
        assert_eq!(b.state(), "cancelling");
    }
    let mut b = Bench::plain();
    b.running().stop();
    assert!(b.logged("Canceling job j1 with a signal grace period of 10s (agent is stopping)"));
    assert_eq!(b.signals(), [(1000, Term, Group)]);
}

#[test]
fn i41_the_marker_is_written_before_the_interrupt_only_if_the_timeout_came_first() {
    for (kinds, marked) in [
        (vec![CancelKind::Timeout], true),
        (vec![CancelKind::Timeout, CancelKind::Cancel], true),
        (vec![CancelKind::Cancel, CancelKind::Timeout], false),
        (vec![CancelKind::AgentStop, CancelKind::Timeout], false),
        (vec![CancelKind::InvalidToken], false),
    ] {
        let mut b = Bench::plain();
        b.running().take();
        for kind in &kinds {
            b.cancel(*kind);
        }
        let commands = b.take();
        let marker = commands.iter().position(|c| matches!(c, AgentCommand::WriteMarker { .. }));
        let signal = commands.iter().position(|c| matches!(c, AgentCommand::Signal { .. })).unwrap();
        assert_eq!(marker.is_some(), marked, "{kinds:?}");
        assert!(marker.is_none_or(|at| at < signal));
    }
}

#[test]
fn i34_i35_a_stubborn_leader_is_killed_with_its_children_at_s_and_then_every_second() {
    let mut b = cancelled(CancelKind::Cancel);
    b.pass(Duration::from_millis(9999));
    assert_eq!(b.signals().len(), 1);
    b.pass(Duration::from_millis(2001));
    assert!(b.logged("Job j1 hasn't stopped within 10s, terminating"));
    assert_eq!(b.signals(), [(1000, Term, Group), (11_000, Kill, Tree), (12_000, Kill, Tree), (13_000, Kill, Tree)]);
    assert_eq!(b.agent_log().iter().filter(|l| l.contains("hasn't stopped")).count(), 1);
    b.exited(ExitStatus::Signal(9)).eof().group(false);
    assert_eq!(b.report(), said("-1", "SIGKILL", "cancel"));
}

#[test]
fn a_grace_of_zero_interrupts_and_kills_at_once_in_that_order() {
    let mut config = config();
    config.cancel_signal_timeout = Duration::ZERO;
    let mut b = Bench::new(config, Bench::start(job(&[])));
    b.running().cancel(CancelKind::Cancel);
    assert_eq!(b.signals(), [(1000, Term, Group), (1000, Kill, Tree)]);
}

#[test]
fn trap_13_the_cancel_signal_goes_to_the_group_but_sigkill_becomes_sigterm() {
    for (configured, sent) in [(Int, Int), (Kill, Term), (OsSignal::Usr1, OsSignal::Usr1)] {
        let mut config = config();
        config.cancel_signal = configured;
        let mut b = Bench::new(config, Bench::start(job(&[])));
        b.running().cancel(CancelKind::Cancel);
        assert_eq!(b.signals(), [(1000, sent, Group)]);
    }
}

#[test]
fn r25_later_requests_never_interrupt_again_nor_kill_earlier() {
    let mut b = cancelled(CancelKind::Cancel);
    b.secs(3).stop().secs(1).cancel(CancelKind::Timeout).stop().cancel(CancelKind::Cancel).secs(7);
    assert_eq!(b.signals(), [(1000, Term, Group), (11_000, Kill, Tree), (12_000, Kill, Tree)]);
    b.exited(ExitStatus::Code(0)).eof().group(false);
    assert_eq!(b.report(), said("0", "", "agent_stop"), "W25: the stop wins from the moment of its request");
}

#[test]
fn r25_polls_go_on_during_a_cancel_and_their_repetition_does_nothing() {
    let mut b = Bench::plain();
    b.running().secs(4).answer("state", state("canceling"));
    b.secs(8).answer("state", state("canceling"));
    assert_eq!(b.signals().len(), 1);
    assert!(b.calls("state").len() >= 2);
    assert_eq!(b.agent_log().iter().filter(|l| l.starts_with("Canceling")).count(), 1);
}

#[test]
fn w12_a_cancel_during_the_drain_changes_nothing_but_ends_the_wait_within_a_second() {
    let mut b = Bench::plain();
    b.running().exited(ExitStatus::Code(0)).secs(3).cancel(CancelKind::Cancel);
    assert!(b.logged("Job j1 has already ended, there is nothing to cancel (job cancelled on Buildkite)"));
    b.pass(Duration::from_millis(999));
    assert_eq!(b.count(|c| matches!(c, AgentCommand::CloseOutput { .. })), 0);
    b.pass(Duration::from_millis(1));
    assert_eq!(b.count(|c| matches!(c, AgentCommand::CloseOutput { .. })), 1);
    b.process(ProcessEvent::OutputEnded { cut: true });
    assert_eq!(b.report(), said("0", "", ""));
    assert!(b.signals().is_empty());
}

#[test]
fn r24_an_exit_that_was_observed_first_wins_over_a_poll_answer_in_flight() {
    let mut b = Bench::plain();
    b.running().secs(4).exited(ExitStatus::Code(0)).answer("state", state("canceled")).eof();
    assert_eq!(b.report(), said("0", "", ""));
    assert!(b.signals().is_empty());

    let mut b = Bench::plain();
    b.running().secs(4).answer("state", state("canceled")).exited(ExitStatus::Code(0)).eof().group(false);
    assert_eq!(b.report(), said("1", "", "cancel"));
}

#[test]
fn r24_cancels_while_flushing_removing_and_finishing_change_nothing() {
    for kind in [CancelKind::Cancel, CancelKind::Timeout, CancelKind::AgentStop] {
        for at in 0..3 {
            let mut b = Bench::plain();
            b.running().exited(ExitStatus::Code(0)).eof();
            if at > 0 {
                b.drained(0);
            }
            if at > 1 {
                b.removed();
            }
            b.cancel(kind);
            if at == 0 {
                b.drained(0);
            }
            if at <= 1 {
                b.removed();
            }
            let body = b.finish();
            assert_eq!((body.exit_status.as_str(), body.signal_reason.as_str()), ("0", ""));
            b.answer("finish", Outcome::Ok(Reply::Empty));
            assert!(b.end.is_some());
            assert!(b.signals().is_empty());
        }
    }
}

#[test]
fn w33_a_member_that_survives_its_obedient_leader_is_swept_at_the_end_of_the_grace() {
    let mut b = cancelled(CancelKind::Cancel);
    b.secs(1).exited(ExitStatus::Signal(15)).eof().group(true);
    assert_eq!(b.state(), "draining");
    while b.now < Instant::from_millis(10_900) {
        b.pass(Duration::from_millis(50));
        if b.runner.deadline().is_none() {
            b.group(true);
        }
    }
    assert_eq!(b.signals().len(), 1, "not before S");
    while b.signals().len() < 2 {
        b.pass(Duration::from_millis(10));
        if b.runner.deadline().is_none() {
            b.group(true);
        }
    }
    let (at, signal, target) = b.signals()[1];
    assert!((11_000..=11_050).contains(&at), "{at}");
    assert_eq!((signal, target), (Kill, Group));
    assert_eq!(b.state(), "draining", "i38: the group must be empty");
    b.pass(Duration::from_millis(250)).group(false);
    assert_eq!(b.report(), said("-1", "SIGTERM", "cancel"));
}

#[test]
fn a_group_that_is_empty_ends_the_wait_at_once() {
    let mut b = cancelled(CancelKind::Cancel);
    b.secs(1).exited(ExitStatus::Signal(15)).group(false).eof();
    assert_eq!(b.state(), "flushing");
    assert_eq!(b.report(), said("-1", "SIGTERM", "cancel"));
    assert_eq!(b.signals().len(), 1);
}

#[test]
fn r46_an_executor_killed_by_the_kernel_is_reported_with_its_signal() {
    let mut b = Bench::plain();
    b.running().exited(ExitStatus::Signal(9)).eof();
    assert_eq!(b.report(), said("-1", "SIGKILL", ""));
}
