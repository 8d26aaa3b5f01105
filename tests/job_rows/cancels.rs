//! Cancels at every moment of a job's life (§4.5, §5.6, §7).

use super::*;

/// §5.6: what the process gets when it is interrupted.
#[test]
fn the_cancel_signal_is_the_configured_one_but_never_sigkill_for_the_executor() {
    each([("SIGINT", "INT"), ("sigusr1", "USR1"), ("SIGKILL", "TERM")], |(configured, expected)| {
        let (work, plane) = (dir(), Plane::start());
        let script = "#!/bin/bash\nexec 2>/dev/null\nfor s in HUP INT QUIT TERM USR1 USR2; do trap \"echo got $s; exit 9\" $s; done\necho \"told ${BUILDKITE_CANCEL_SIGNAL-nothing}\"\ntouch \"$DIR/up\"\nwhile :; do sleep 0.05; done\n";
        let (_agent, job) = running(Setup::script(script).arg(&["--cancel-signal", configured, "--no-pty"]), &plane, work.path());
        plane.with(|s| s.jobs.get_mut(&job).unwrap().state = "canceling".into());
        let done = plane.wait_finish(&job);
        assert_eq!(done.text(), format!("told {}\ngot {expected}\n", configured.to_uppercase()));
        assert_eq!(result(&done), (Some("9"), None, Some("cancel")));
    });
}

/// §7.3: S = 0 is legal.
#[test]
fn a_grace_of_nothing_kills_at_once() {
    let (work, plane) = (dir(), Plane::start());
    let script = "#!/bin/sh\ntrap '' TERM\ntouch \"$DIR/up\"\nwhile :; do sleep 0.05; done\n";
    let (agent, job) = running(Setup::script(script).arg(&["--cancel-signal-timeout", "0s"]), &plane, work.path());
    plane.with(|s| s.jobs.get_mut(&job).unwrap().state = "canceling".into());
    let done = plane.wait_finish(&job);
    assert_eq!(result(&done), (Some("-1"), Some("SIGKILL"), Some("cancel")));
    let text = agent.text();
    assert!(text.contains("with a signal grace period of 0s (job cancelled on Buildkite)"), "{text}");
    assert!(text.contains("hasn't stopped within 0s, terminating"), "{text}");
}

/// W25: an agent stop that follows another cancel is the reason from the moment it is requested.
#[test]
fn a_forced_stop_that_follows_a_cancel_becomes_the_reason() {
    let (work, plane) = (dir(), Plane::start());
    let script = "#!/bin/sh\ntrap ': > \"$DIR/told\"' TERM\n: > \"$DIR/up\"\nuntil [ -e \"$DIR/go\" ]; do sleep 0.05; done\nexit 3\n";
    let setup = Setup::script(script).arg(&["--cancel-signal-timeout", "20s"]);
    let (mut agent, job) = running(setup, &plane, work.path());
    plane.with(|s| s.jobs.get_mut(&job).unwrap().state = "canceling".into());
    wait_file(work.path(), "told");
    agent.signal("QUIT");
    agent.wait_text("(agent is stopping)");
    std::fs::write(work.path().join("go"), "").unwrap();
    let done = plane.wait_finish(&job);
    assert_eq!(result(&done), (Some("3"), None, Some("agent_stop")));
    assert_eq!(agent.text().matches("with a signal grace period of").count(), 1, "never a second interrupt: {}", agent.text());
    assert_eq!(agent.wait(SOON), 0);
}

/// §7.6, row "hook running" (W10).
#[test]
fn a_forced_stop_while_the_hook_runs_ends_the_hook_and_reports_without_a_process() {
    for (hook, status) in [("trap 'exit 0' TERM", 0), ("trap '' TERM", 0)] {
        let (work, plane) = (dir(), Plane::start());
        let job = edited(&plane, work.path(), &[], |_| {});
        let text = format!("#!/bin/sh\n{hook}\n: > up\nwhile :; do sleep 0.05; done\n");
        let mut agent = Setup::script("#!/bin/sh\ntouch ran\n").hook("pre-bootstrap", &text).start(&plane, work.path());
        wait_file(work.path(), "up");
        agent.signal("QUIT");
        let done = plane.wait_finish(&job);
        assert_eq!(result(&done), (Some("-1"), None, Some("agent_stop")), "{hook}");
        assert_eq!(done.text(), "Job was cancelled before its process was started\n");
        assert_eq!(agent.wait(SOON), status);
        assert!(!work.path().join("builds/ran").exists());
    }
}

/// §4.5: a child that keeps the output of the hook open delays the verdict by a second, and does not change it.
#[test]
fn a_child_that_keeps_the_output_of_the_hook_does_not_keep_the_job() {
    let (work, plane) = (dir(), Plane::start());
    let job = edited(&plane, work.path(), &[], |_| {});
    let hook = "#!/bin/sh\necho accepted by me\nsleep 30 &\nexit 0\n";
    let agent = Setup::script("#!/bin/sh\necho ran\n").hook("pre-bootstrap", hook).start(&plane, work.path());
    let done = plane.wait_finish_within(&job, SOON);
    assert_eq!((done.text().as_str(), result(&done)), ("ran\r\n", (Some("0"), None, None)));
    agent.wait_text("accepted by me");
    agent.wait_text("job accepted");
}

/// §7.7 and W12: a cancel that comes while the output drains changes nothing but the length of the wait.
#[test]
fn a_forced_stop_during_the_drain_leaves_the_result_and_ends_the_wait() {
    let (work, plane) = (dir(), Plane::start());
    let script = "#!/bin/bash\necho before\n(trap '' HUP TERM; exec sleep 30) &\ntouch \"$DIR/up\"\nexit 6\n";
    let (mut agent, job) = running(Setup::script(script).arg(&["--no-pty", "--cancel-signal-timeout", "15s"]), &plane, work.path());
    agent.wait_text("finished with Exit Status: 6, Signal: nil");
    let asked = plane.now();
    agent.signal("QUIT");
    let done = plane.wait_finish(&job);
    assert_eq!((done.text().as_str(), result(&done)), ("before\n", (Some("6"), None, None)));
    let waited = plane.wait_request("PUT", "/finish", 1).at - asked;
    assert!(waited < Duration::from_secs(6), "a drain bound of 16 s is cut to a second: {waited:?}");
    assert_eq!(agent.wait(SOON), 0);
}

/// §7.5 and W26: chunks that nobody takes do not cost a stopped job its finish.
#[test]
fn a_forced_stop_gives_hanging_chunks_up_and_still_finishes() {
    let (work, plane) = (dir(), Plane::start());
    plane.rule("POST", "/chunks", 100, Act::Hold);
    let (mut agent, job) = running(Setup::script(POLITE), &plane, work.path());
    plane.wait_request("POST", "/chunks", 1);
    agent.signal("QUIT");
    let done = plane.wait_finish(&job);
    assert_eq!(result(&done), (Some("0"), None, Some("agent_stop")));
    assert!(done.finish.as_ref().unwrap()["chunks_failed_count"].as_u64().unwrap() >= 1);
    assert_eq!(agent.wait(SOON), 0, "{}", agent.text());
    assert_eq!(plane.requests("POST", "/disconnect").len(), 1);
    assert!(agent.text().contains("chunks failed to upload for this job"), "{}", agent.text());
}

/// §7.8: a job token that becomes invalid.
#[test]
fn an_expired_token_cancels_and_nothing_is_retried() {
    let (work, plane) = (dir(), Plane::start());
    let (agent, job) = running(Setup::script(POLITE).arg(&["--no-pty"]), &plane, work.path());
    plane.wait("the first line", SOON, |s| s.jobs[&job].text().contains("up").then_some(()));
    for (method, part) in [("GET", "/jobs/"), ("POST", "/chunks"), ("PUT", "/finish")] {
        plane.rule(method, part, 100, Act::Status(401));
    }
    agent.wait_text("Couldn't mark job as finished");
    let calls = of_job(&plane, &job);
    let refused = |suffix: &str| calls.iter().filter(|r| r.path.ends_with(suffix) && r.status == 401).count();
    assert_eq!((refused("/chunks"), refused("/finish")), (1, 1), "{calls:#?}");
    let body = calls.iter().find(|r| r.path.ends_with("/finish")).unwrap().json();
    assert_eq!((&body["exit_status"], &body["signal_reason"], &body["chunks_failed_count"]), (&json!("1"), &json!("cancel"), &json!(1)));
    agent.wait_text(&format!("Invalid access token, cancelling job {job}"));
    agent.wait_text("1 chunks failed to upload for this job");
    // The worker goes on.
    plane.with(|s| s.jobs.get_mut(&job).unwrap().accepts = 1);
    let pings = plane.requests("GET", "/ping").len();
    plane.wait_request("GET", "/ping", pings + 1);
}
