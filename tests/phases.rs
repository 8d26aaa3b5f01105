//! A stop in every phase of a worker, on the built binary: the rows of start-and-worker §9.11 that `stops.rs` leaves, and those
//! of §4 and §4.1.

mod common;

use common::agent::Setup;
use common::{Act, Agent, Plane, SOON, alive, dir, each, pid_in, wait_for};
use std::path::Path;
use std::time::Duration;

/// Time a stop may take on a loaded machine when nothing has to be awaited.
const AT_ONCE: Duration = Duration::from_secs(3);
const JOB: &str = "00000000-0000-4000-8000-000000000001";
const TOUCHES: &str = "#!/bin/sh\ntouch ran\n";

fn count(plane: &Plane, method: &str, suffix: &str) -> usize {
    plane.requests(method, suffix).len()
}

/// Connects, pings, disconnects.
fn calls(plane: &Plane) -> (usize, usize, usize) {
    (count(plane, "POST", "/connect"), count(plane, "GET", "/ping"), count(plane, "POST", "/disconnect"))
}

fn acquiring(plane: &Plane, work: &Path, args: &[&str]) -> Agent {
    Setup::script(TOUCHES).arg(&["--acquire-job", JOB]).arg(args).start(plane, work)
}

/// An assignable job that no ping offers.
fn offered_to_nobody(plane: &Plane) {
    assert_eq!(plane.job(&[]), JOB);
    plane.with(|s| s.queue.clear());
}

#[test]
fn connect_in_flight_succeeds_then_disconnects_fails_then_leaves_forced_then_aborts_and_disconnects() {
    each(
        [("TERM", Some(Act::Hold), (1, 0, 1)), ("TERM", Some(Act::HoldThen(503)), (1, 0, 0)), ("QUIT", None, (1, 0, 1))],
        |(signal, act, expected)| {
            let (work, plane) = (dir(), Plane::start());
            let answered = act.is_some();
            let rule = plane.rule("POST", "/connect", 1, act.unwrap_or(Act::Hold));
            let mut agent = Setup::script("#!/bin/sh\n").start(&plane, work.path());
            plane.wait_request("POST", "/connect", 1);
            agent.signal(signal);
            agent.wait_text("Since there is no job running, the agent will disconnect immediately");
            if answered {
                plane.release(rule);
            }
            assert_eq!(agent.wait(AT_ONCE), 0, "{}", agent.text());
            assert_eq!(calls(&plane), expected, "{signal} {expected:?}");
        },
    );
}

#[test]
fn connect_waiting_between_attempts_forced_leaves_without_disconnect() {
    let (work, plane) = (dir(), Plane::start());
    plane.rule("POST", "/connect", 100, Act::Status(503));
    let mut agent = Setup::script("#!/bin/sh\n").start(&plane, work.path());
    agent.wait_text("(Attempt 1/10 Retrying in 5s)");
    agent.signal("QUIT");
    assert_eq!(agent.wait(AT_ONCE), 0);
    assert_eq!(calls(&plane), (1, 0, 0));
}

#[test]
fn acquire_waiting_between_attempts_gives_up_at_once_and_exits_0() {
    each(["TERM", "QUIT"], |signal| {
        let (work, plane) = (dir(), Plane::start());
        plane.rule("PUT", "/acquire", 100, Act::Later(423, "100"));
        let mut agent = acquiring(&plane, work.path(), &[]);
        agent.wait_text("The job is waiting for a dependency: (");
        agent.wait_text("(Attempt 1/7 Retrying in 1m40s)");
        agent.signal(signal);
        assert_eq!(agent.wait(AT_ONCE), 0, "{signal}: {}", agent.text());
        assert!(agent.text().contains("Failed to acquire and run job: failed to acquire job: "), "{}", agent.text());
        assert_eq!((count(&plane, "PUT", "/acquire"), calls(&plane)), (1, (1, 0, 1)), "{signal}");
    });
}

#[test]
fn acquire_in_flight_that_brings_the_job_runs_it_or_after_a_forced_stop_reports_that_it_never_ran() {
    each([("TERM", 0, Some("0"), None, true), ("QUIT", 255, Some("-1"), Some("agent_stop"), false)], |(signal, code, status, reason, ran)| {
        let (work, plane) = (dir(), Plane::start());
        offered_to_nobody(&plane);
        let held = plane.rule("PUT", "/acquire", 1, Act::Hold);
        let mut agent = acquiring(&plane, work.path(), &["--reflect-exit-status"]);
        plane.wait_request("PUT", "/acquire", 1);
        agent.signal(signal);
        agent.wait_text("stopping agent.");
        plane.release(held);
        assert_eq!(agent.wait(AT_ONCE), code, "{signal}: {}", agent.text());
        let job = plane.get(JOB);
        assert_eq!((job.started, job.finished("exit_status"), job.finished("signal_reason")), (true, status, reason), "{signal}");
        assert_eq!(work.path().join("builds/ran").exists(), ran, "{signal}");
        assert_eq!(calls(&plane), (1, 0, 1), "{signal}");
    });
}

#[test]
fn acquire_in_flight_that_fails_or_says_nothing_for_five_seconds_is_given_up_with_exit_0() {
    each([true, false], |fails| {
        let (work, plane) = (dir(), Plane::start());
        let held = plane.rule("PUT", "/acquire", 1, Act::HoldThen(503));
        let mut agent = acquiring(&plane, work.path(), &[]);
        plane.wait_request("PUT", "/acquire", 1);
        agent.signal("TERM");
        agent.wait_text("Gracefully stopping agent.");
        if fails {
            plane.release(held);
        }
        assert_eq!(agent.wait(if fails { AT_ONCE } else { Duration::from_secs(8) }), 0, "{}", agent.text());
        assert!(agent.text().contains("Failed to acquire and run job: failed to acquire job: "), "{}", agent.text());
        assert_eq!((count(&plane, "PUT", "/acquire"), calls(&plane)), (1, (1, 0, 1)));
    });
}

#[test]
fn a_ping_in_flight_is_aborted_by_a_forced_stop_too() {
    let (work, plane) = (dir(), Plane::start());
    plane.rule("GET", "/ping", 1, Act::Hold);
    let mut agent = Setup::script("#!/bin/sh\n").start(&plane, work.path());
    plane.wait_request("GET", "/ping", 1);
    agent.signal("QUIT");
    assert_eq!(agent.wait(AT_ONCE), 0);
    assert_eq!(calls(&plane), (1, 1, 1));
}

#[test]
fn accept_waiting_between_attempts_forced_sends_no_further_one() {
    let (work, plane) = (dir(), Plane::start());
    plane.job(&[]);
    plane.rule("PUT", "/accept", 100, Act::Text(200, "text/html", "<html>sign in</html>"));
    let mut agent = Setup::script("#!/bin/sh\n").start(&plane, work.path());
    agent.wait_text("(Attempt 1/30 Retrying in 5s)");
    agent.signal("QUIT");
    assert_eq!(agent.wait(AT_ONCE), 0);
    assert_eq!((count(&plane, "PUT", "/accept"), count(&plane, "POST", "/disconnect")), (1, 1));
}

#[test]
fn accepted_but_not_spawned_goes_on_after_a_graceful_stop() {
    let (work, plane) = (dir(), Plane::start());
    let job = plane.job(&[]);
    let held = plane.rule("PUT", "/start", 1, Act::Hold);
    let mut agent = Setup::script(TOUCHES).start(&plane, work.path());
    plane.wait_request("PUT", "/start", 1);
    agent.signal("TERM");
    agent.wait_text("Gracefully stopping agent. Waiting for current job to finish before disconnecting...");
    plane.release(held);
    assert_eq!(agent.wait(SOON), 0);
    assert_eq!((plane.get(&job).finished("exit_status"), work.path().join("builds/ran").exists()), (Some("0"), true));
}

#[test]
fn a_job_that_is_finishing_is_awaited_by_both_stops() {
    each(["TERM", "QUIT"], |signal| {
        let (work, plane) = (dir(), Plane::start());
        let job = plane.job(&[]);
        let held = plane.rule("PUT", "/finish", 1, Act::Hold);
        let mut agent = Setup::script("#!/bin/sh\n").start(&plane, work.path());
        plane.wait_request("PUT", "/finish", 1);
        agent.signal(signal);
        agent.wait_text("stopping agent.");
        assert_eq!(count(&plane, "POST", "/disconnect"), 0, "{signal}");
        plane.release(held);
        assert_eq!(agent.wait(AT_ONCE), 0, "{signal}: {}", agent.text());
        let done = plane.get(&job);
        assert_eq!((done.finished("exit_status"), done.finished("signal_reason"), done.finishes), (Some("0"), None, 1), "{signal}");
        assert_eq!(count(&plane, "POST", "/disconnect"), 1, "{signal}");
    });
}

#[test]
fn a_stop_while_disconnecting_changes_nothing() {
    let (work, plane) = (dir(), Plane::start());
    let held = plane.rule("POST", "/disconnect", 1, Act::Hold);
    let mut agent = Setup::script("#!/bin/sh\n").start(&plane, work.path());
    plane.wait_request("GET", "/ping", 1);
    agent.signal("TERM");
    plane.wait_request("POST", "/disconnect", 1);
    agent.signal("TERM");
    agent.wait_text("Forcefully stopping running jobs");
    plane.release(held);
    assert_eq!(agent.wait(AT_ONCE), 0);
    assert_eq!(count(&plane, "POST", "/disconnect"), 1);
}

/// §4: levels only rise; a SIGTERM after SIGQUIT counts 1 and no more.
#[test]
fn term_after_quit_is_the_first_of_the_ladder_and_only_warns() {
    let (work, plane) = (dir(), Plane::start());
    let job = plane.job(&[("DIR", work.path().to_str().unwrap())]);
    let script = "#!/bin/sh\ntrap '' TERM\ntouch \"$DIR/up\"\nwhile :; do sleep 0.05; done\n";
    let mut agent = Setup::script(script).start(&plane, work.path());
    wait_for("the job to run", SOON, || work.path().join("up").exists().then_some(()));
    agent.signal("QUIT");
    agent.wait_text("Forcefully stopping agent. The current job will be canceled before disconnecting...");
    agent.signal("TERM");
    agent.wait_text("Agent is already gracefully stopping...");
    assert_eq!(agent.wait(Duration::from_secs(6)), 0, "{}", agent.text());
    assert!(agent.text().contains("Received CTRL-C, send again to forcefully kill the agent(s)"), "{}", agent.text());
    assert_eq!((plane.get(&job).finished("exit_status"), count(&plane, "POST", "/disconnect")), (Some("-1"), 1));
}

/// §4: in the shutdown hook SIGQUIT arms the force timer, and so does the second SIGTERM.
#[test]
fn the_force_timer_cuts_the_shutdown_hook_off() {
    each([&["QUIT"][..], &["TERM"]], |signals| {
        let (work, plane) = (dir(), Plane::start());
        let hook = "#!/bin/sh\necho $$ > \"$DIR/hook.tmp\"\nmv \"$DIR/hook.tmp\" \"$DIR/hook\"\nexec sleep 60\n";
        let mut setup = Setup::script("#!/bin/sh\n").hook("agent-shutdown", hook);
        setup.env.push(("DIR".into(), work.path().to_str().unwrap().into()));
        let mut agent = setup.start(&plane, work.path());
        plane.wait_request("GET", "/ping", 1);
        agent.signal("TERM");
        let pid = pid_in(&work.path().join("hook"));
        for signal in signals {
            agent.signal(signal);
        }
        let began = std::time::Instant::now();
        assert_eq!(agent.wait(Duration::from_secs(8)), 1, "{signals:?}: {}", agent.text());
        assert!(began.elapsed() > Duration::from_secs(4), "S + C + 1 s after the signal: {:?}", began.elapsed());
        assert!(agent.text().contains("Timed out waiting for agents to exit; exiting immediately with status 1"), "{}", agent.text());
        common::kill(pid);
    });
}

/// §1, before S16.
#[test]
fn before_the_pool_quit_ends_the_process_too() {
    let (work, plane) = (dir(), Plane::start());
    plane.rule("POST", "/register", 1, Act::Hold);
    let mut agent = Setup::script("#!/bin/sh\n").before("ulimit -c 0").start(&plane, work.path());
    plane.wait_request("POST", "/register", 1);
    agent.signal("QUIT");
    let code = agent.wait(Duration::from_secs(2));
    assert!(code == -3 || code == 128 + 3, "{code}");
    assert!(plane.requests("POST", "/connect").is_empty());
}

/// §1, before S16: the running startup hook is killed with its group, and no other hook runs.
#[test]
fn a_signal_during_the_startup_hook_kills_its_group_and_ends_the_process() {
    let (work, plane) = (dir(), Plane::start());
    let hook = "#!/bin/sh\nsleep 60 &\necho $! > \"$DIR/child.tmp\"\nmv \"$DIR/child.tmp\" \"$DIR/child\"\nwait\n";
    let mut setup = Setup::script("#!/bin/sh\n").hook("agent-startup", hook).hook("agent-shutdown", "#!/bin/sh\ntouch \"$DIR/down\"\n");
    setup.env.push(("DIR".into(), work.path().to_str().unwrap().into()));
    let mut agent = setup.start(&plane, work.path());
    let child = pid_in(&work.path().join("child"));
    agent.signal("TERM");
    let code = agent.wait(Duration::from_secs(2));
    assert!(code == -15 || code == 128 + 15, "{code}");
    wait_for("the hook's child to end", SOON, || (!alive(child)).then_some(()));
    assert!(plane.requests("POST", "/connect").is_empty() && !work.path().join("down").exists());
}

/// §4.1: the rows of an acquired job.
#[test]
fn an_acquired_job_ends_the_process_with_its_status_only_if_that_is_asked_for() {
    let (status, signalled) = ("failed to run job: process exited with status=7", "failed to run job: process exited with status=-1, signal=SIGKILL");
    let cases = [("exit 0", true, 0, ""), ("exit 7", false, 0, ""), ("exit 7", true, 7, status), ("kill -KILL $$", true, 255, signalled)];
    each(cases, |(script, reflect, code, last)| {
        let (work, plane) = (dir(), Plane::start());
        offered_to_nobody(&plane);
        let args = if reflect { &["--reflect-exit-status"][..] } else { &[] };
        let mut agent = Setup::script(&format!("#!/bin/sh\n{script}\n")).arg(&["--acquire-job", JOB]).arg(args).start(&plane, work.path());
        assert_eq!(agent.wait(SOON), code, "{script}: {}", agent.text());
        let text = agent.text();
        assert_eq!(text.lines().any(|l| l.starts_with("failed to run job: ")), !last.is_empty(), "{script}: {text}");
        assert!(text.lines().any(|l| l.starts_with(last)), "{script}: {text}");
        assert_eq!(count(&plane, "GET", "/ping"), 1, "one ping tells whether to stay");
    });
}

/// §4.1: a final stream error where there is nothing but the stream.
#[test]
fn a_stream_that_is_not_there_ends_a_stream_only_agent_with_exit_1() {
    let (work, plane) = (dir(), Plane::start());
    let mut agent = Setup::script("#!/bin/sh\n").arg(&["--ping-mode", "stream-only"]).start(&plane, work.path());
    assert_eq!(agent.wait(SOON), 1, "{}", agent.text());
    let error = "Streaming ping mode failed due to an unrecoverable error: ";
    assert!(agent.text().contains(&format!("buildkite-agent: fatal: {error}")), "{}", agent.text());
    assert_eq!(calls(&plane), (1, 0, 1));
}
