//! Signals, grace, and what is left behind (specification: bootstrap §14).

use crate::job::{Job, assert_gone, wait_until_alone, wait_until_full};
use rustix::process::{Pid, Signal, kill_process};
use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::time::{Duration, Instant};

fn last_number(out: &str) -> i32 {
    out.split_whitespace().last().unwrap().parse().unwrap()
}

#[test]
fn a_cancelled_command_that_obeys_is_followed_by_hooks_and_the_process_dies_by_the_signal() {
    for pty in ["true", "false"] {
        let job = Job::new("echo ready; exec sleep 100")
            .set("BUILDKITE_PTY", pty)
            .agent_hook("post-command", "echo post $BUILDKITE_JOB_CANCELLED $BUILDKITE_COMMAND_EXIT_STATUS ${BUILDKITE_JOB_TIMED_OUT-no}\n")
            .agent_hook("pre-exit", "echo bye\n");
        let mut running = job.start();
        running.wait_for("ready");
        running.signal(Signal::TERM);
        let ended = running.end();
        assert_eq!(ended.status.signal(), Some(15), "{}", ended.err);
        assert_eq!(ended.out.replace('\r', ""), "ready\npost true -1 no\nbye\n");
        ended.assert_lines(&["\x1b[90m# Received cancellation signal, interrupting\x1b[0m\n", "interrupted by a signal: signal: terminated"]);
    }
}

#[test]
fn a_command_that_ignores_the_signal_is_killed_with_its_group_after_the_grace() {
    let job = Job::new("trap '' TERM; sleep 300 & echo ready $!; wait; sleep 300").set("BUILDKITE_CANCEL_SIGNAL_TIMEOUT", "300ms");
    let mut running = job.start();
    running.wait_for("\n");
    running.signal(Signal::TERM);
    let ended = running.end();
    assert_eq!(ended.status.signal(), Some(15));
    ended.assert_lines(&["interrupted by a signal: signal: killed"]);
    assert_gone(last_number(&ended.out));
}

#[test]
fn members_of_an_interrupted_group_that_outlive_their_leader_are_swept() {
    // The leader obeys; its child does not, and holds neither terminal nor pipe.
    let job = Job::new("(trap '' TERM; sleep 300) >/dev/null 2>&1 & echo ready $!; exec sleep 300").set("BUILDKITE_CANCEL_SIGNAL_TIMEOUT", "50s");
    let mut running = job.start();
    running.wait_for("\n");
    let began = Instant::now();
    running.signal(Signal::TERM);
    let ended = running.end();
    assert_eq!(ended.status.signal(), Some(15));
    assert!(began.elapsed() < Duration::from_secs(45), "the end of the process does not wait for the grace");
    assert_gone(last_number(&ended.out));
}

#[test]
fn children_die_with_the_executor() {
    for pty in ["true", "false"] {
        let job = Job::new("trap '' TERM HUP; echo ready $$; while :; do sleep 0.1; done").set("BUILDKITE_PTY", pty);
        let mut running = job.start();
        running.wait_for("\n");
        running.signal(Signal::KILL);
        let ended = running.end();
        assert_eq!(ended.status.signal(), Some(9));
        assert_gone(last_number(&ended.out));
    }
}

#[test]
fn sigquit_ends_in_131_and_user_signals_cancel_too() {
    let job = Job::new("echo ready; exec sleep 100").set("BUILDKITE_CANCEL_SIGNAL", "SIGINT");
    let mut running = job.start();
    running.wait_for("ready");
    running.signal(Signal::QUIT);
    assert_eq!(running.end().code(), 131);
    let mut running = job.start();
    running.wait_for("ready");
    running.signal(Signal::USR1);
    let ended = running.end();
    assert_eq!(ended.status.signal(), Some(10), "{}", ended.err);
    ended.assert_lines(&["signal: interrupt"]);
}

#[test]
fn a_time_out_marker_is_told_to_the_hooks() {
    let job = Job::new("echo ready; exec sleep 100").agent_hook("post-command", "echo timed out $BUILDKITE_JOB_TIMED_OUT\n");
    let marker = job.path("marker");
    let job = job.set("BUILDKITE_AGENT_JOB_TIMEOUT_FILE", marker.to_str().unwrap());
    let mut running = job.start();
    running.wait_for("ready");
    fs::write(&marker, "true\n").unwrap();
    running.signal(Signal::TERM);
    assert_eq!(running.end().out, "ready\ntimed out true\n");
}

#[test]
fn a_second_signal_ends_the_process_at_once() {
    let job = Job::new("trap '' TERM; echo ready; while :; do sleep 0.1; done");
    let mut running = job.start();
    running.wait_for("ready");
    running.signal(Signal::TERM);
    running.wait_for_line("Received cancellation signal");
    running.signal(Signal::INT);
    assert_eq!(running.end().status.signal(), Some(2));
}

#[test]
fn hooks_after_a_cancellation_have_no_more_than_the_grace() {
    let job = Job::new("echo ready; exec sleep 100")
        .set("BUILDKITE_CANCEL_SIGNAL_TIMEOUT", "500ms")
        .agent_hook("post-command", "echo post; sleep 300\n")
        .agent_hook("pre-exit", "echo never\n");
    let mut running = job.start();
    running.wait_for("ready");
    running.signal(Signal::TERM);
    let ended = running.end();
    assert_eq!((ended.status.signal(), ended.out.as_str()), (Some(15), "ready\npost\n"), "{}", ended.err);
    ended.assert_lines(&["the agent post-command hook exited with status -1"]);
}

#[test]
fn a_background_process_that_keeps_the_pipe_does_not_keep_the_job() {
    let job = Job::new("sleep 300 & echo $!").set("BUILDKITE_CANCEL_SIGNAL_TIMEOUT", "100ms");
    let ended = job.run();
    assert_eq!(ended.code(), 0);
    // The job was not cancelled: survivors are left alone.
    let pid = last_number(&ended.out);
    assert!(Path::new(&format!("/proc/{pid}")).exists());
    kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL).unwrap();
}

#[test]
fn a_log_that_nobody_takes_away_does_not_keep_a_cancellation_from_working() {
    // The pipe of this test is full long before the command ends: the executor cannot write, and still obeys.
    let job = Job::new("exec yes").set("BUILDKITE_CANCEL_SIGNAL_TIMEOUT", "50s");
    let mut child = job.start_unread();
    let stdout = child.stdout.take().unwrap();
    wait_until_full(&stdout);
    kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
    let began = Instant::now();
    // The command is interrupted although nothing is read.
    wait_until_alone(&child);
    assert!(began.elapsed() < Duration::from_secs(45));
    drop(stdout);
    assert_eq!(child.wait().unwrap().signal(), Some(15));
}
