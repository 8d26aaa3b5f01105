//! Signals, budgets, and what runs after a cancellation (bootstrap §14).

use super::*;

fn all_after_command() -> Vec<(&'static str, Hook)> {
    vec![("A1 environment", ok()), ("A1 pre-command", ok()), ("A1 post-command", ok()), ("A1 pre-exit", ok())]
}

fn held(label: &'static str) -> Story {
    let mut story = Story::new(&["--artifact-upload-paths", "x"], &all_after_command());
    story.hold = Some(label);
    let story = story.run();
    assert!(story.held.is_some(), "{label} does not run: {:?}", story.started);
    story
}

#[test]
fn given_a_running_command_when_a_signal_comes_then_it_is_interrupted_and_the_hooks_see_why() {
    let mut story = held("make");
    story.signal(OsSignal::Int);
    assert_eq!(story.signals, [OsSignal::Term], "the configured signal, not the received one");
    story.assert_line(LineKind::Comment, "Received cancellation signal, interrupting");
    story.end_held(ExitStatus::Signal(15), false);
    assert_eq!(story.started[2..], ["make", "A1 post-command", "upload", "A1 pre-exit"]);
    assert_eq!(story.env.get("BUILDKITE_JOB_CANCELLED"), Some("true"));
    assert_eq!((story.env.get("BUILDKITE_COMMAND_EXIT_STATUS"), story.env.get("BUILDKITE_JOB_TIMED_OUT")), (Some("-1"), None));
    assert_eq!(story.exit, Some((-1, Some(OsSignal::Int))), "the received signal is re-raised");
}

/// bootstrap §3.8: its program was busy when the signal came, and is not tried again.
#[test]
fn a_command_that_is_cancelled_before_it_runs_never_runs_and_teardown_does() {
    let mut story = held("make");
    story.signal(OsSignal::Term);
    let id = story.held.take().unwrap();
    story.tell(ExecutorEvent::Process { id, event: ChildEvent::NotStarted(StartFailure::Signalled) });
    assert_eq!(story.signals, [OsSignal::Term], "nothing is left to kill");
    assert_eq!(story.started[2..], ["make", "A1 post-command", "upload", "A1 pre-exit"]);
    story.assert_line(LineKind::Error, "context canceled");
    assert_eq!(story.exit, Some((1, Some(OsSignal::Term))));
}

#[test]
fn a_command_that_handles_the_signal_and_exits_0_counts_as_success() {
    let mut story = held("make");
    story.signal(OsSignal::Term);
    story.end_held(ExitStatus::Code(0), false);
    assert_eq!(story.exit, Some((0, Some(OsSignal::Term))));
    assert_eq!(story.env.get("BUILDKITE_COMMAND_EXIT_STATUS"), Some("0"));
}

#[test]
fn a_command_that_ignores_the_signal_is_killed_at_the_end_of_grace_and_leaves_nothing_for_g_job_steps() {
    let mut story = held("make");
    story.signal(OsSignal::Term);
    assert_eq!(story.expire(), 10_000);
    assert_eq!(story.signals, [OsSignal::Term, OsSignal::Kill]);
    story.end_held(ExitStatus::Signal(9), false);
    // post-command has its own grace; artifacts and pre-exit have used theirs up.
    assert_eq!(story.started[2..], ["make", "A1 post-command"]);
    story.assert_line(LineKind::Error, "Error tearing down job executor: context canceled");
}

#[test]
fn members_that_outlive_an_interrupted_leader_are_killed_at_the_end_of_grace_or_of_the_process() {
    let mut story = held("make");
    story.hold = Some("make");
    story.signal(OsSignal::Term);
    story.now = story.now + std::time::Duration::from_secs(1);
    let id = story.held.take().unwrap();
    story.tell(ExecutorEvent::Process { id, event: ChildEvent::Exited { status: ExitStatus::Signal(15), group_alive: true } });
    story.hold = Some("A1 post-command");
    story.tell(ExecutorEvent::Process { id, event: ChildEvent::Ended { captured: String::new() } });
    assert_eq!(story.signals, [OsSignal::Term]);
    assert_eq!(story.expire(), 9_000, "the timer of the command is still armed");
    assert_eq!(story.signals, [OsSignal::Term, OsSignal::Kill]);
    // The other way: the process ends first.
    let mut story = held("make");
    story.signal(OsSignal::Term);
    story.end_held(ExitStatus::Signal(15), true);
    assert_eq!(story.signals, [OsSignal::Term, OsSignal::Kill]);
    assert!(story.exit.is_some());
}

#[test]
fn a_signal_that_cannot_be_sent_is_followed_by_a_kill_at_once() {
    let mut story = held("make");
    story.signal(OsSignal::Term);
    let id = story.held.unwrap();
    story.tell(ExecutorEvent::Process { id, event: ChildEvent::SignalFailed });
    assert_eq!(story.signals, [OsSignal::Term, OsSignal::Kill]);
}

#[test]
fn what_runs_after_a_cancellation_depends_on_the_step_it_hit() {
    for (step, rest, status) in [
        // A cancelled environment hook that handles it: set-up has failed.
        ("A1 environment", vec!["A1 pre-exit"], 125),
        // No command and no post-command, but artifacts.
        ("A1 pre-command", vec!["upload", "A1 pre-exit"], 1),
        ("A1 post-command", vec!["upload", "A1 pre-exit"], 0),
        ("upload", vec!["A1 pre-exit"], 0),
        ("A1 pre-exit", vec![], 0),
    ] {
        let mut story = held(step);
        story.signal(OsSignal::Term);
        let at = story.started.len();
        let interrupted = !story.signals.is_empty();
        assert_eq!(interrupted, matches!(step, "A1 environment" | "A1 pre-command"), "{step}");
        story.end_held(ExitStatus::Code(0), false);
        assert_eq!(story.started[at..], rest, "{step}");
        assert_eq!(story.exit, Some((status, Some(OsSignal::Term))), "{step}");
    }
}

#[test]
fn a_g_job_step_is_killed_when_the_grace_after_the_cancellation_is_over() {
    let mut story = held("upload");
    story.signal(OsSignal::Term);
    assert_eq!((story.expire(), story.signals.as_slice()), (10_000, &[OsSignal::Kill][..]));
    story.end_held(ExitStatus::Signal(9), false);
    assert_eq!(story.started.last().unwrap(), "upload", "pre-exit has no time left");
    assert_eq!(story.exit, Some((1, Some(OsSignal::Term))));
}

#[test]
fn post_command_has_its_own_grace() {
    let mut story = held("make");
    story.signal(OsSignal::Term);
    story.now = story.now + std::time::Duration::from_secs(4);
    story.hold = Some("A1 post-command");
    let id = story.held.take().unwrap();
    story.tell(ExecutorEvent::Process { id, event: ChildEvent::Exited { status: ExitStatus::Signal(15), group_alive: false } });
    story.tell(ExecutorEvent::Process { id, event: ChildEvent::Ended { captured: String::new() } });
    assert_eq!(story.expire(), 10_000, "counted from its own start, 4 s after the cancellation");
}

#[test]
fn a_signal_before_the_beginning_is_not_lost_and_only_teardown_runs() {
    let mut story = Story::new(&[], &all_after_command());
    story.signal(OsSignal::Term);
    let story = story.run();
    assert_eq!(story.started, ["A1 pre-exit"]);
    assert_eq!(story.exit, Some((125, Some(OsSignal::Term))));
}

#[test]
fn later_signals_change_nothing_and_sigquit_becomes_131() {
    let mut story = held("make");
    story.signal(OsSignal::Quit);
    story.signal(OsSignal::Term);
    assert_eq!((story.signals.len(), story.executor.late()), (1, 1));
    story.end_held(ExitStatus::Signal(15), false);
    assert_eq!(story.exit, Some((131, None)));
}

#[test]
fn the_time_out_marker_is_told() {
    let mut story = held("make");
    story.tell(ExecutorEvent::Signal { signal: OsSignal::Term, timed_out: true });
    story.end_held(ExitStatus::Signal(15), false);
    assert_eq!(story.env.get("BUILDKITE_JOB_TIMED_OUT"), Some("true"));
}

#[test]
fn output_is_read_for_ten_seconds_after_the_exit_and_for_one_after_a_cancellation() {
    let mut story = held("make");
    let id = story.held.unwrap();
    let exited = |status| ExecutorEvent::Process { id, event: ChildEvent::Exited { status, group_alive: false } };
    story.tell(exited(ExitStatus::Code(0)));
    assert_eq!(story.executor.deadline(), Some(story.now + std::time::Duration::from_secs(10)));
    story.signal(OsSignal::Term);
    assert_eq!(story.expire(), 1_000);
    assert_eq!(story.executor.deadline(), None, "closed once");
}
