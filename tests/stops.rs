//! Stops on the built binary: every row of start-and-worker §4, §4.1 and §9.11 that can be seen from outside.

mod common;

use common::agent::Setup;
use common::{Act, Agent, Plane, SOON, dir, wait_for};
use std::path::Path;
use std::time::Duration;

/// Time a stop may take on a loaded machine when nothing has to be awaited.
const AT_ONCE: Duration = Duration::from_secs(3);

/// Runs until `$DIR/go` exists; `TERM` ends it politely with status 0.
const POLITE: &str =
    "#!/bin/sh\ntrap 'echo polite; exit 0' TERM\necho up\ntouch \"$DIR/up\"\nwhile [ ! -e \"$DIR/go\" ]; do sleep 0.05; done\nexit 0\n";
/// The same, deaf to TERM and INT.
const STUBBORN: &str = "#!/bin/sh\ntrap '' TERM INT\necho up\ntouch \"$DIR/up\"\nwhile [ ! -e \"$DIR/go\" ]; do sleep 0.05; done\nexit 0\n";

fn running(plane: &Plane, work: &Path, script: &str, setup: impl FnOnce(Setup) -> Setup) -> (Agent, String) {
    let job = plane.job(&[("DIR", work.to_str().unwrap())]);
    let agent = setup(Setup::script(script)).start(plane, work);
    wait_for("the job to run", SOON, || work.join("up").exists().then_some(()));
    (agent, job)
}

fn order(plane: &Plane) -> Vec<String> {
    plane.with(|s| s.requests.iter().map(|r| format!("{} {}", r.method, r.path.rsplit('/').next().unwrap())).collect())
}

#[test]
fn first_signal_when_idle_disconnects_and_exits_0() {
    for signal in ["TERM", "INT"] {
        let (work, plane) = (dir(), Plane::start());
        let mut agent = Setup::script("#!/bin/sh\n").start(&plane, work.path());
        plane.wait_request("GET", "/ping", 1);
        agent.signal(signal);
        assert_eq!(agent.wait(AT_ONCE), 0);
        assert_eq!(plane.requests("POST", "/disconnect").len(), 1);
        assert!(agent.text().contains("Received CTRL-C, send again to forcefully kill the agent(s)"), "{}", agent.text());
        assert!(agent.text().contains("Gracefully stopping agent. Since there is no job running, the agent will disconnect immediately"));
        assert_eq!(order(&plane).last().unwrap(), "POST disconnect");
    }
}

#[test]
fn first_signal_during_a_job_lets_it_finish() {
    let (work, plane) = (dir(), Plane::start());
    let (mut agent, job) = running(&plane, work.path(), POLITE, |s| s);
    agent.signal("TERM");
    agent.wait_text("Waiting for current job to finish before disconnecting");
    let seen = plane.with(|s| s.requests.len());
    std::fs::write(work.path().join("go"), "").unwrap();
    let done = plane.wait_finish(&job);
    assert_eq!(done.finished("exit_status"), Some("0"));
    assert_eq!(done.finished("signal_reason"), None);
    assert_eq!(agent.wait(AT_ONCE), 0);
    assert!(plane.with(|s| s.requests[seen..].iter().all(|r| r.path != "/ping")), "no ping after the stop");
    assert_eq!(order(&plane).last().unwrap(), "POST disconnect");
    assert!(!done.text().contains("polite"), "a graceful stop sends no signal to the job");
}

#[test]
fn second_signal_interrupts_the_job_with_reason_agent_stop() {
    let (work, plane) = (dir(), Plane::start());
    let (mut agent, job) = running(&plane, work.path(), POLITE, |s| s);
    agent.signal("TERM");
    agent.wait_text("Received CTRL-C");
    agent.signal("INT");
    assert_eq!(agent.wait(AT_ONCE), 0);
    let done = plane.get(&job);
    assert_eq!(
        (done.finished("exit_status"), done.finished("signal_reason")),
        (Some("0"), Some("agent_stop")),
        "an agent stop leaves the status alone"
    );
    assert!(done.text().contains("polite"));
    assert!(agent.text().contains("Forcefully stopping running jobs and stopping the agent(s) in 4s"), "{}", agent.text());
    assert!(agent.text().contains("Press Ctrl-C one more time to exit immediately without disconnecting"));
    assert!(agent.text().contains("with a signal grace period of 2s (agent is stopping)"));
}

#[test]
fn a_stubborn_job_is_killed_after_the_signal_timeout() {
    let (work, plane) = (dir(), Plane::start());
    let (mut agent, job) = running(&plane, work.path(), STUBBORN, |s| s);
    agent.signal("QUIT");
    assert_eq!(agent.wait(Duration::from_secs(6)), 0, "{}", agent.text());
    let done = plane.get(&job);
    assert_eq!(
        (done.finished("exit_status"), done.finished("signal"), done.finished("signal_reason")),
        (Some("-1"), Some("SIGKILL"), Some("agent_stop"))
    );
    assert!(agent.text().contains("hasn't stopped within 2s, terminating"), "{}", agent.text());
}

#[test]
fn third_signal_exits_1_at_once() {
    let (work, plane) = (dir(), Plane::start());
    let (mut agent, job) = running(&plane, work.path(), STUBBORN, |s| s);
    agent.signal("TERM");
    agent.wait_text("Received CTRL-C");
    agent.signal("TERM");
    agent.wait_text("Forcefully stopping running jobs");
    agent.signal("TERM");
    assert_eq!(agent.wait(Duration::from_secs(1)), 1);
    assert!(agent.text().contains("Exiting immediately with status 1"));
    assert_eq!(plane.requests("POST", "/disconnect").len(), 0);
    assert!(plane.get(&job).finish.is_none());
    std::fs::write(work.path().join("go"), "").unwrap();
}

#[test]
fn the_force_timer_ends_a_stop_that_cannot_report() {
    let (work, plane) = (dir(), Plane::start());
    let (mut agent, _job) = running(&plane, work.path(), POLITE, |s| s);
    plane.rule("PUT", "/finish", 100, Act::Hold);
    agent.signal("QUIT");
    assert_eq!(agent.wait(Duration::from_secs(8)), 1, "S + C + 1 s = 5 s after the forced stop");
    assert!(agent.text().contains("Timed out waiting for agents to exit; exiting immediately with status 1"), "{}", agent.text());
    assert_eq!(plane.requests("POST", "/disconnect").len(), 0);
}

#[test]
fn hangup_does_nothing() {
    let (work, plane) = (dir(), Plane::start());
    let (mut agent, job) = running(&plane, work.path(), POLITE, |s| s);
    agent.signal("HUP");
    std::fs::write(work.path().join("go"), "").unwrap();
    assert_eq!(plane.wait_finish(&job).finished("exit_status"), Some("0"));
    let pings = plane.requests("GET", "/ping").len();
    plane.wait_request("GET", "/ping", pings + 1);
    agent.signal("TERM");
    assert_eq!(agent.wait(AT_ONCE), 0);
}

#[test]
fn before_the_pool_a_signal_ends_the_process_by_that_signal() {
    for (name, number) in [("TERM", 15), ("INT", 2), ("HUP", 1)] {
        let (work, plane) = (dir(), Plane::start());
        plane.rule("POST", "/register", 1, Act::Hold);
        let mut agent = Setup::script("#!/bin/sh\n").start(&plane, work.path());
        plane.wait_request("POST", "/register", 1);
        agent.signal(name);
        let code = agent.wait(Duration::from_secs(2));
        assert!(code == -number || code == 128 + number, "{name}: {code}");
        assert!(plane.requests("POST", "/connect").is_empty());
    }
}

#[test]
fn stop_during_a_hanging_connect_is_bounded_and_disconnects_once() {
    let (work, plane) = (dir(), Plane::start());
    plane.rule("POST", "/connect", 1, Act::Hold);
    let mut agent = Setup::script("#!/bin/sh\n").start(&plane, work.path());
    plane.wait_request("POST", "/connect", 1);
    agent.signal("TERM");
    assert_eq!(agent.wait(Duration::from_secs(9)), 0);
    assert_eq!((plane.requests("POST", "/connect").len(), plane.requests("POST", "/disconnect").len()), (1, 1));
}

#[test]
fn stop_between_connect_attempts_leaves_without_disconnect() {
    let (work, plane) = (dir(), Plane::start());
    plane.rule("POST", "/connect", 100, Act::Status(503));
    let mut agent = Setup::script("#!/bin/sh\n").start(&plane, work.path());
    agent.wait_text("(Attempt 1/10 Retrying in 5s)");
    agent.signal("TERM");
    assert_eq!(agent.wait(AT_ONCE), 0);
    assert_eq!((plane.requests("POST", "/connect").len(), plane.requests("POST", "/disconnect").len()), (1, 0));
}

#[test]
fn stop_while_a_ping_hangs_does_not_wait_for_it() {
    let (work, plane) = (dir(), Plane::start());
    plane.rule("GET", "/ping", 100, Act::Hold);
    let mut agent = Setup::script("#!/bin/sh\n").start(&plane, work.path());
    plane.wait_request("GET", "/ping", 1);
    agent.signal("TERM");
    assert_eq!(agent.wait(AT_ONCE), 0);
    assert_eq!(plane.requests("POST", "/disconnect").len(), 1);
}

#[test]
fn stop_while_accept_is_in_flight_and_succeeds_runs_the_job() {
    let (work, plane) = (dir(), Plane::start());
    let job = plane.job(&[]);
    let held = plane.rule("PUT", "/accept", 1, Act::Hold);
    let mut agent = Setup::script("#!/bin/sh\necho ran\n").start(&plane, work.path());
    plane.wait_request("PUT", "/accept", 1);
    agent.signal("TERM");
    agent.wait_text("Gracefully stopping agent");
    plane.release(held);
    assert_eq!(agent.wait(SOON), 0);
    let done = plane.get(&job);
    assert_eq!(done.finished("exit_status"), Some("0"));
    assert!(done.text().contains("ran"));
}

#[test]
fn stop_while_accept_is_in_flight_and_fails_leaves_without_retry() {
    let (work, plane) = (dir(), Plane::start());
    let job = plane.job(&[]);
    let held = plane.rule("PUT", "/accept", 1, Act::Hold);
    let mut agent = Setup::script("#!/bin/sh\n").start(&plane, work.path());
    plane.wait_request("PUT", "/accept", 1);
    agent.signal("TERM");
    agent.wait_text("Gracefully stopping agent");
    plane.rule("PUT", "/accept", 100, Act::Status(503));
    plane.with(|s| s.jobs.get_mut(&job).unwrap().accepts = 1);
    plane.release(held);
    assert_eq!(agent.wait(AT_ONCE), 0);
    assert_eq!(plane.requests("PUT", "/accept").len(), 1);
    assert!(!plane.get(&job).started);
}

#[test]
fn forced_stop_while_accept_is_in_flight_reports_the_job_without_running_it() {
    let (work, plane) = (dir(), Plane::start());
    let job = plane.job(&[]);
    let held = plane.rule("PUT", "/accept", 1, Act::Hold);
    let mut agent = Setup::script("#!/bin/sh\ntouch ran\n").start(&plane, work.path());
    plane.wait_request("PUT", "/accept", 1);
    agent.signal("QUIT");
    agent.wait_text("Forcefully stopping agent");
    plane.release(held);
    assert_eq!(agent.wait(SOON), 0);
    let done = plane.get(&job);
    assert_eq!((done.started, done.finished("exit_status"), done.finished("signal_reason")), (true, Some("-1"), Some("agent_stop")));
    assert!(done.text().contains("Job was cancelled before its process was started"), "{}", done.text());
    assert!(!work.path().join("builds/ran").exists());
}

#[test]
fn forced_stop_while_start_is_in_flight_spawns_nothing() {
    let (work, plane) = (dir(), Plane::start());
    let job = plane.job(&[]);
    let held = plane.rule("PUT", "/start", 1, Act::Hold);
    let mut agent = Setup::script("#!/bin/sh\ntouch ran\n").start(&plane, work.path());
    plane.wait_request("PUT", "/start", 1);
    agent.signal("QUIT");
    agent.wait_text("Forcefully stopping");
    plane.release(held);
    assert_eq!(agent.wait(SOON), 0);
    let done = plane.get(&job);
    assert_eq!((done.finished("exit_status"), done.finished("signal_reason")), (Some("-1"), Some("agent_stop")));
    assert!(!work.path().join("builds/ran").exists());
}

#[test]
fn stop_between_accept_attempts_sends_no_further_one() {
    let (work, plane) = (dir(), Plane::start());
    plane.job(&[]);
    plane.rule("PUT", "/accept", 100, Act::Text(200, "text/html", "<html>sign in</html>"));
    let mut agent = Setup::script("#!/bin/sh\n").start(&plane, work.path());
    agent.wait_text("(Attempt 1/30 Retrying in 5s)");
    agent.signal("TERM");
    assert_eq!(agent.wait(AT_ONCE), 0);
    assert_eq!((plane.requests("PUT", "/accept").len(), plane.requests("POST", "/disconnect").len()), (1, 1));
}

#[test]
fn signals_during_the_shutdown_hook_do_not_cut_it_off_until_the_third() {
    let hook = "#!/bin/sh\ntouch \"$DIR/hook\"\nwhile [ ! -e \"$DIR/go\" ]; do sleep 0.05; done\ntouch \"$DIR/over\"\n";
    let start = |work: &Path, plane: &Plane| {
        let mut setup = Setup::script("#!/bin/sh\n").hook("agent-shutdown", hook);
        setup.env.push(("DIR".into(), work.to_str().unwrap().into()));
        let agent = setup.start(plane, work);
        plane.wait_request("GET", "/ping", 1);
        agent.signal("TERM");
        wait_for("the hook", SOON, || work.join("hook").exists().then_some(()));
        agent
    };
    let (work, plane) = (dir(), Plane::start());
    let mut agent = start(work.path(), &plane);
    agent.signal("TERM");
    agent.signal("HUP");
    std::fs::write(work.path().join("go"), "").unwrap();
    assert_eq!(agent.wait(AT_ONCE), 0);
    assert!(work.path().join("over").exists());

    let (work, plane) = (dir(), Plane::start());
    let mut agent = start(work.path(), &plane);
    // One after the other: two pending signals of one kind are one.
    agent.signal("TERM");
    agent.signal("INT");
    assert_eq!(agent.wait(AT_ONCE), 1);
    std::fs::write(work.path().join("go"), "").unwrap();
}

#[test]
fn a_failing_startup_hook_connects_nobody_and_runs_the_shutdown_hook() {
    let (work, plane) = (dir(), Plane::start());
    let mut setup = Setup::script("#!/bin/sh\n")
        .hook("agent-startup", "#!/bin/sh\necho \"ids $BUILDKITE_AGENT_IDS\"\nexit 3\n")
        .hook("agent-shutdown", "#!/bin/sh\ntouch \"$DIR/down\"\n")
        .arg(&["--spawn", "2"]);
    setup.env.push(("DIR".into(), work.path().to_str().unwrap().into()));
    let mut agent = setup.start(&plane, work.path());
    assert_eq!(agent.wait(SOON), 1);
    assert!(agent.text().contains("ids agent-1,agent-2") || agent.text().contains("ids agent-2,agent-1"), "{}", agent.text());
    assert!(agent.text().contains("failed to run startup hook"));
    assert!(work.path().join("down").exists());
    assert!(plane.requests("POST", "/connect").is_empty());
}

#[test]
fn a_rejected_heartbeat_cancels_the_job_and_exits_1() {
    let (work, plane) = (dir(), Plane::with_intervals(1, 1, 1));
    let (mut agent, job) = running(&plane, work.path(), POLITE, |s| s);
    plane.rule("POST", "/heartbeat", 100, Act::Status(401));
    assert_eq!(agent.wait(SOON), 1);
    assert_eq!(plane.get(&job).finished("signal_reason"), Some("agent_stop"));
    assert!(agent.text().contains("Heartbeat failed with unrecoverable status: 401 Unauthorized, mesage:"), "{}", agent.text());
    assert_eq!(plane.requests("POST", "/disconnect").len(), 1);
}

#[test]
fn a_rejected_ping_ends_the_worker_with_a_disconnect_and_exit_1() {
    let (work, plane) = (dir(), Plane::start());
    plane.rule("GET", "/ping", 100, Act::Status(401));
    let mut agent = Setup::script("#!/bin/sh\n").start(&plane, work.path());
    assert_eq!(agent.wait(SOON), 1);
    assert!(agent.text().contains("buildkite-agent: fatal: "), "{}", agent.text());
    assert_eq!(plane.requests("POST", "/disconnect").len(), 1);
}

#[test]
fn the_servers_disconnect_exits_0() {
    let (work, plane) = (dir(), Plane::start());
    plane.with(|s| s.action = "disconnect".into());
    let mut agent = Setup::script("#!/bin/sh\n").start(&plane, work.path());
    assert_eq!(agent.wait(SOON), 0);
    assert_eq!(plane.requests("POST", "/disconnect").len(), 1);
}

#[test]
fn an_acquire_that_is_rejected_exits_27_and_one_that_is_unknown_exits_1() {
    for (status, code) in [(422, 27), (404, 1)] {
        let (work, plane) = (dir(), Plane::start());
        plane.rule("PUT", "/acquire", 100, Act::Status(status));
        let mut agent = Setup::script("#!/bin/sh\n").arg(&["--acquire-job", "00000000-0000-4000-8000-000000000001"]).start(&plane, work.path());
        assert_eq!(agent.wait(SOON), code, "{status}: {}", agent.text());
        assert_eq!(
            (plane.requests("PUT", "/acquire").len(), plane.requests("GET", "/ping").len(), plane.requests("POST", "/disconnect").len()),
            (1, 0, 1)
        );
    }
}

#[test]
fn an_acquire_that_is_locked_for_ever_exits_28_and_one_that_fails_for_another_reason_in_the_end_exits_1() {
    const JOB: &str = "00000000-0000-4000-8000-000000000001";
    // `Retry-After` replaces the waits, which add up to minutes.
    let cases = [
        ([Act::Later(423, "0"), Act::Later(423, "0.05")], 28, "job is locked: "),
        // No answer at all does not unlock it: the last HTTP answer counts.
        ([Act::Later(423, "0"), Act::Cut], 28, "job is locked: "),
        ([Act::Later(423, "0"), Act::Later(503, "0")], 1, ""),
        ([Act::Later(429, "0"), Act::Later(423, "0")], 28, "job is locked: "),
    ];
    common::each(cases, |([first, last], code, why)| {
        let (work, plane) = (dir(), Plane::start());
        plane.rule("PUT", "/acquire", 100, last.clone());
        plane.rule("PUT", "/acquire", 6, first);
        let mut agent = Setup::script("#!/bin/sh\n").arg(&["--acquire-job", JOB]).start(&plane, work.path());
        assert_eq!(agent.wait(SOON), code, "{last:?}: {}", agent.text());
        let tries = plane.requests("PUT", "/acquire");
        let sequence: Vec<_> = tries.iter().map(|r| r.header("x-buildkite-backoff-sequence").unwrap_or_default().to_owned()).collect();
        assert_eq!(sequence, ["0", "1", "2", "3", "4", "5", "6"], "{last:?}");
        assert!(tries.iter().all(|r| r.header("x-buildkite-lock-acquire-job") == Some("1")));
        assert_eq!((plane.requests("GET", "/ping").len(), plane.requests("POST", "/disconnect").len()), (0, 1), "{last:?}");
        let text = agent.text();
        assert!(text.contains(&format!("Failed to acquire and run job: failed to acquire job: {why}")), "{last:?}: {text}");
        if code == 28 {
            let end = format!("failed to acquire job \"{JOB}\": failed to acquire job: job is locked: PUT {}/jobs/{JOB}/acquire: 423", plane.url());
            assert!(text.lines().any(|l| l.starts_with(&end)), "{last:?}: {text}");
            assert!(text.contains("The job is waiting for a dependency: (") && text.contains("Retrying immediately"), "{text}");
        } else {
            assert!(text.contains("buildkite-agent: fatal: failed to acquire job: "), "{text}");
        }
    });
}

#[test]
fn reflect_exit_status_exits_with_the_acquired_jobs_status() {
    for (args, code) in [(&["--reflect-exit-status"][..], 7), (&[][..], 0)] {
        let (work, plane) = (dir(), Plane::start());
        let job = plane.job(&[]);
        plane.with(|s| s.queue.clear());
        let mut agent = Setup::script("#!/bin/sh\nexit 7\n").arg(&["--acquire-job", &job]).arg(args).start(&plane, work.path());
        assert_eq!(agent.wait(SOON), code, "{}", agent.text());
        assert_eq!(plane.get(&job).finished("exit_status"), Some("7"));
    }
}

#[test]
fn one_failing_registration_ends_the_start_with_exit_1_and_no_connect() {
    let (work, plane) = (dir(), Plane::start());
    plane.rule("POST", "/register", 1, Act::Status(401));
    let mut agent = Setup::script("#!/bin/sh\n").arg(&["--spawn", "3"]).start(&plane, work.path());
    assert_eq!(agent.wait(SOON), 1);
    assert!(agent.text().contains("buildkite-agent: fatal: "), "{}", agent.text());
    assert!(plane.requests("POST", "/connect").is_empty());
}

#[test]
fn disconnect_after_job_runs_one_job_and_tells_the_server() {
    let (work, plane) = (dir(), Plane::start());
    let (one, two) = (plane.job(&[]), plane.job(&[]));
    let mut agent = Setup::script("#!/bin/sh\n").arg(&["--disconnect-after-job"]).start(&plane, work.path());
    assert_eq!(agent.wait(SOON), 0);
    assert_eq!(plane.get(&one).finish.unwrap()["ignore_agent_in_dispatches"], true);
    assert_eq!(plane.get(&two).accepts, 0);
}
