//! Cancels before the process exists, and the budgets of a forced stop (job-runner §7.5, §7.6).

use super::*;
use crate::agent::OsSignal::{Kill, Term};

const CANCELLED: &str = "Job was cancelled before its process was started\n";
const ALL: [(CancelKind, &str); 4] =
    [(CancelKind::Cancel, "cancel"), (CancelKind::Timeout, "cancel"), (CancelKind::InvalidToken, "cancel"), (CancelKind::AgentStop, "agent_stop")];

#[test]
fn w28_w29_stopped_before_it_began_start_once_no_process_finish() {
    let mut start = Bench::start(job(&[]));
    start.stopped = true;
    let mut b = Bench::new(config(), start);
    assert!(b.logged("Canceling job j1 with a signal grace period of 10s (agent is stopping)"));
    b.started();
    assert_eq!(b.job_log(), CANCELLED);
    assert_eq!(b.report(), said("-1", "", "agent_stop"));
    assert_eq!((b.calls("start").len(), b.spawned()), (1, false));
}

#[test]
fn w29_stopped_before_it_began_and_the_start_fails_no_second_attempt() {
    for outcome in [status(503), timeout(), status(422)] {
        let mut start = Bench::start(job(&[]));
        start.stopped = true;
        let mut b = Bench::new(config(), start);
        b.answer("start", outcome);
        assert!(matches!(b.end, Some(JobEnd::NotStarted(_))));
        assert_eq!((b.calls("start").len(), b.calls("finish").len()), (1, 0));
    }
}

#[test]
fn a_cancel_while_preparing_leads_to_one_start_and_a_finish() {
    for (kind, reason) in ALL {
        let mut b = Bench::plain();
        b.cancel(kind).files().started();
        assert_eq!(b.job_log(), CANCELLED);
        assert_eq!(b.report(), said("-1", "", reason));
        assert!(!b.spawned());
    }
}

#[test]
fn a_cancel_during_the_start_lets_the_attempt_complete_and_makes_no_other() {
    for (kind, reason) in ALL {
        let mut b = Bench::plain();
        b.files().cancel(kind).secs(1).started();
        assert_eq!(b.job_log(), CANCELLED);
        assert_eq!(b.report(), said("-1", "", reason));

        let mut b = Bench::plain();
        b.files().cancel(kind).answer("start", status(500)).removed();
        assert!(matches!(b.end, Some(JobEnd::NotStarted(_))));
        assert_eq!((b.calls("start").len(), b.calls("finish").len()), (1, 0));

        let mut b = Bench::plain();
        b.files().answer("start", status(500)).cancel(kind);
        assert_eq!(b.state(), "abandoned", "between two attempts");
        b.removed();
        assert_eq!((b.calls("start").len(), b.calls("finish").len()), (1, 0));
    }
}

#[test]
fn a_cancel_while_verifying_wins_over_the_verdict() {
    for (kind, reason) in ALL {
        for verdict in [SignatureVerdict::Verified, SignatureVerdict::Invalid("x".into())] {
            let mut config = config();
            config.job.verification_keys = true;
            let mut accepted = job(&[]);
            accepted.step.signature = Some("sig".into());
            let mut b = Bench::new(config, Bench::start(accepted));
            b.files().started().cancel(kind).verified(verdict);
            assert_eq!(b.job_log(), CANCELLED);
            assert_eq!(b.report(), said("-1", "", reason));
        }
    }
}

fn hooked(grace: u64) -> Bench {
    let mut config = config();
    config.job.hooks_path = "/hooks".into();
    config.cancel_signal_timeout = Duration::from_secs(grace);
    let mut b = Bench::new(config, Bench::start(job(&[])));
    b.files().started();
    b
}

fn hook_signals(b: &Bench) -> Vec<(u64, OsSignal)> {
    let pick = |(at, c): &(Instant, AgentCommand)| match c {
        AgentCommand::SignalHook { signal, .. } => Some((at.as_nanos() / 1_000_000, *signal)),
        _ => None,
    };
    b.trace.iter().filter_map(pick).collect()
}

#[test]
fn w10_a_cancel_while_the_hook_runs_sends_sigterm_then_sigkill_after_s() {
    for (kind, reason) in ALL {
        let mut b = hooked(10);
        b.secs(5).cancel(kind).secs(60);
        assert_eq!(hook_signals(&b), [(6000, Term), (16_000, Kill)]);
        b.hook(HookEnd::Failed("signal: killed".into()));
        assert_eq!(b.job_log(), CANCELLED);
        assert_eq!(b.report(), said("-1", "", reason));
        assert!(!b.spawned());
    }
    let mut b = hooked(0);
    b.stop();
    assert_eq!(hook_signals(&b), [(1000, Term), (1000, Kill)]);
}

#[test]
fn w27_a_hook_that_succeeds_after_the_cancel_does_not_let_the_job_run() {
    let mut b = hooked(10);
    b.cancel(CancelKind::Cancel).hook(HookEnd::Succeeded);
    assert!(!b.spawned());
    assert_eq!(b.report(), said("-1", "", "cancel"));
}

#[test]
fn a_cancel_while_the_spawn_is_in_flight_interrupts_as_soon_as_it_has_started() {
    for (kind, reason) in ALL {
        let mut b = Bench::plain();
        b.files().started().cancel(kind);
        assert!(b.signals().is_empty());
        b.secs(2).process(ProcessEvent::Started { pid: 42 });
        assert_eq!(b.signals(), [(3000, Term, SignalTarget::Group)]);
        assert_eq!(b.count(|c| matches!(c, AgentCommand::WriteMarker { .. })), usize::from(kind == CancelKind::Timeout));
        assert_eq!(b.count(|c| matches!(c, AgentCommand::LogProcessStarted { .. })), 1);
        b.secs(60);
        assert_eq!(b.signals()[1], (13_000, Kill, SignalTarget::Tree), "the normal sequence from there");
        b.exited(ExitStatus::Signal(9)).eof().group(false);
        assert_eq!(b.report(), said("-1", "SIGKILL", reason));
    }
}

#[test]
fn a_spawn_that_fails_keeps_its_result_under_a_pending_cancel() {
    let mut b = Bench::plain();
    b.files().started().stop().process(ProcessEvent::SpawnFailed("error starting pty: x".into()));
    assert_eq!(b.report(), said("-1", "", "process_run_error"));
}

#[test]
fn w26_the_drain_of_a_forced_stop_ends_one_second_before_the_budget() {
    let mut b = Bench::plain();
    b.running().stop().secs(10);
    b.exited(ExitStatus::Signal(9)).group(false).secs(60);
    let closed = b.trace.iter().find(|(_, c)| matches!(c, AgentCommand::CloseOutput { .. })).unwrap().0;
    assert_eq!(closed, Instant::from_millis(1000 + 14_000), "T + S + C - 1 s");
}

#[test]
fn w26_the_drain_gets_at_least_100_ms() {
    let mut b = Bench::plain();
    b.running().stop().secs(20).exited(ExitStatus::Signal(9)).group(false);
    let exited = b.now;
    b.secs(1);
    let closed = b.trace.iter().find(|(_, c)| matches!(c, AgentCommand::CloseOutput { .. })).unwrap().0;
    assert_eq!(closed, exited + Duration::from_millis(100));
}

#[test]
fn w26_the_flush_of_a_forced_stop_has_what_is_left_of_the_budget() {
    let mut b = Bench::plain();
    b.running().stop().secs(4).exited(ExitStatus::Signal(15)).eof().group(false);
    assert_eq!(b.flush_limits(), [Duration::from_secs(10)], "T + S + C - 1 s is 14 s after T, 4 s have passed");
}

#[test]
fn r31_a_stop_during_the_flush_shortens_it_once() {
    let mut b = Bench::plain();
    b.running().exited(ExitStatus::Code(0)).eof().secs(100).cancel(CancelKind::Cancel).stop().secs(1).stop();
    assert_eq!(b.flush_limits(), [Duration::from_secs(3600), Duration::from_secs(14)]);
    assert_eq!(b.report(), said("0", "", ""));
}

#[test]
fn i45_finish_is_attempted_once_and_its_retries_stop_with_the_budget() {
    let mut b = Bench::plain();
    b.running().stop().exited(ExitStatus::Signal(15)).eof().group(false).secs(13).drained(4).removed();
    assert_eq!(b.finish().chunks_failed_count, 4);
    b.answer("finish", status(503));
    assert!(matches!(b.end, Some(JobEnd::Finished { .. })), "the next attempt would come after T + S + C");
    assert_eq!(b.calls("finish").len(), 1);
}

/// start-and-worker §14, T4: a finish that does not get through is ended by the force timer, with exit 1 and without disconnect;
/// the budget ends retries only (job-runner §7.5).
#[test]
fn i45_a_finish_that_hangs_is_left_to_the_force_timer() {
    let mut b = Bench::plain();
    b.running().stop().exited(ExitStatus::Code(0)).eof().group(false).drained(0).removed().secs(55);
    let finish = b.calls("finish")[0].1;
    assert!(!b.trace.iter().any(|(_, c)| matches!(c, AgentCommand::AbortCall { id } if *id == finish)));
    assert_eq!((b.calls("finish").len(), &b.end), (1, &None));
    b.answer("finish", status(500));
    assert!(b.end.is_some(), "past the budget there is no second attempt");
}

#[test]
fn w32_a_stop_ends_a_finish_that_waits_for_a_distant_attempt() {
    let mut b = Bench::plain();
    b.running().exited(ExitStatus::Code(0)).eof().drained(0).removed();
    for _ in 0..6 {
        b.answer("finish", status(500)).secs(23);
    }
    b.answer("finish", status(500));
    assert_eq!(b.end, None);
    b.stop();
    assert!(matches!(b.end, Some(JobEnd::Finished { exit_status: 0, .. })));
    assert!(b.logged("Couldn't mark job as finished: agent is stopping"));
}

#[test]
fn a_start_that_hangs_under_a_forced_stop_is_given_up_before_the_budget_ends() {
    let mut b = Bench::plain();
    b.files().stop().secs(60);
    let start = b.calls("start")[0].1;
    let aborted = b.trace.iter().find(|(_, c)| matches!(c, AgentCommand::AbortCall { id } if *id == start)).unwrap().0;
    assert_eq!(aborted, Instant::from_millis(15_000));
    b.answer("start", Outcome::Aborted).removed();
    assert_eq!(b.end, Some(JobEnd::NotStarted("context canceled".into())));
    assert_eq!(b.calls("finish").len(), 0);
}

#[test]
fn a_start_that_was_accepted_after_all_while_it_was_given_up_is_finished() {
    let mut b = Bench::plain();
    b.files().stop().secs(60).started();
    assert_eq!(b.report(), said("-1", "", "agent_stop"));
}

#[test]
fn past_the_budget_nobody_waits_for_what_sigkill_does_not_end() {
    let mut b = Bench::plain();
    b.running().stop().secs(12).exited(ExitStatus::Signal(9)).eof();
    let mut asked = 0;
    while b.state() == "draining" {
        assert!(asked < 100, "the sweep has to end");
        b.group(true);
        asked += 1;
        if b.state() == "draining" {
            b.pass(Duration::from_millis(250));
        }
    }
    assert!(b.now <= Instant::from_millis(1000 + 14_500), "{:?}", b.now);
    assert_eq!(b.report(), said("-1", "SIGKILL", "agent_stop"));
}

#[test]
fn i44_nothing_but_a_forced_stop_reaches_the_runner_so_a_job_runs_on_for_hours() {
    let mut b = Bench::plain();
    b.running();
    for _ in 0..3600 {
        b.secs(4);
        if b.runner.deadline().is_none() {
            b.answer("state", state("running"));
        }
    }
    assert!(b.signals().is_empty());
}
