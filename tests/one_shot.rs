//! Agents that leave by themselves, and those that are moved, on the built binary (specification: start-and-worker §6, §9.4, §9.6,
//! §9.9).

mod common;

use common::agent::Setup;
use common::{Act, Plane, SOON, dir, wait_for};
use serde_json::json;
use std::time::Duration;

const JOB: &str = "00000000-0000-4000-8000-000000000001";
/// Runs until `$DIR/go` exists.
const WAITS: &str = "#!/bin/sh\ntouch \"$DIR/up\"\nuntil [ -e \"$DIR/go\" ]; do sleep 0.05; done\n";

fn count(plane: &Plane, method: &str, suffix: &str) -> usize {
    plane.requests(method, suffix).len()
}

#[test]
fn idle_agents_leave_together_and_not_while_one_of_them_works() {
    let (work, plane) = (dir(), Plane::start());
    let job = plane.job(&[("DIR", work.path().to_str().unwrap())]);
    let mut agent = Setup::script(WAITS).arg(&["--spawn", "2", "--disconnect-after-idle-timeout", "1"]).start(&plane, work.path());
    wait_for("the job to run", SOON, || work.path().join("up").exists().then_some(()));
    // The other worker pings for longer than its limit, and stays.
    let pings = count(&plane, "GET", "/ping");
    plane.wait_request("GET", "/ping", pings + 3);
    assert_eq!(count(&plane, "POST", "/disconnect"), 0);
    std::fs::write(work.path().join("go"), "").unwrap();
    plane.wait_finish(&job);
    assert_eq!(agent.wait(SOON), 0, "{}", agent.text());
    assert_eq!(agent.text().matches("All agents have been idle for at least 1s. Disconnecting...").count(), 2, "{}", agent.text());
    assert_eq!(count(&plane, "POST", "/disconnect"), 2);
}

#[test]
fn a_paused_agent_outlives_idleness_and_uptime_until_it_is_resumed() {
    for (args, lines) in [
        (&["--disconnect-after-uptime", "2"][..], &["Agent has exceeded max uptime of 2s", "Awaiting resume before disconnecting..."][..]),
        (
            &["--disconnect-after-idle-timeout", "1"],
            &["Agent has resumed after being paused", "All agents have been idle for at least 1s. Disconnecting..."],
        ),
    ] {
        let (work, plane) = (dir(), Plane::start());
        plane.with(|s| s.action = "pause".into());
        let mut agent = Setup::script("#!/bin/sh\n").arg(args).start(&plane, work.path());
        plane.wait_request("GET", "/ping", 5);
        assert_eq!(count(&plane, "POST", "/disconnect"), 0, "{}", agent.text());
        plane.with(|s| s.action = String::new());
        assert_eq!(agent.wait(SOON), 0, "{}", agent.text());
        let text = agent.text();
        let places: Vec<usize> = lines.iter().map(|l| text.find(l).unwrap_or_else(|| panic!("{l}: {text}"))).collect();
        assert!(places.is_sorted(), "{text}");
    }
}

#[test]
fn uptime_lets_a_job_finish_and_takes_no_other_one() {
    let (work, plane) = (dir(), Plane::start());
    let dirs = [("DIR", work.path().to_str().unwrap())];
    let (one, two) = (plane.job(&dirs), plane.job(&dirs));
    let mut agent = Setup::script(WAITS).arg(&["--disconnect-after-uptime", "2"]).start(&plane, work.path());
    wait_for("the job to run", SOON, || work.path().join("up").exists().then_some(()));
    // The job runs until its state has been asked for often enough: once a second.
    plane.wait("four polls of the state", SOON, |s| {
        (s.requests.iter().filter(|r| r.method == "GET" && r.path.starts_with("/jobs/")).count() >= 4).then_some(())
    });
    std::fs::write(work.path().join("go"), "").unwrap();
    assert_eq!(agent.wait(SOON), 0, "{}", agent.text());
    assert_eq!((plane.get(&one).finished("exit_status"), plane.get(&two).accepts), (Some("0"), 0));
    assert!(agent.text().contains("Agent has exceeded max uptime of 2s"), "{}", agent.text());
}

#[test]
fn an_acquired_job_is_followed_by_a_ping_that_may_pause_and_a_further_job_is_not_taken() {
    let (work, plane) = (dir(), Plane::start());
    assert_eq!(plane.job(&[]), JOB);
    plane.with(|s| s.queue.clear());
    plane.rule("GET", "/ping", 1, Act::Json(json!({"action": "idle", "job": {"id": "another", "state": "assigned"}})));
    plane.rule("GET", "/ping", 2, Act::Json(json!({"action": "pause"})));
    let mut agent = Setup::script("#!/bin/sh\nexit 7\n").arg(&["--acquire-job", JOB, "--reflect-exit-status"]).start(&plane, work.path());
    assert_eq!(agent.wait(SOON), 7, "{}", agent.text());
    let text = agent.text();
    assert!(text.contains(&format!("Attempting to acquire job {JOB}...")) && text.contains("Agent has resumed after being paused"), "{text}");
    assert!(text.contains("Agent ping dispatched a job (id \"another\") but agent is in acquire-job mode! Ignoring the new job"), "{text}");
    assert_eq!((count(&plane, "GET", "/ping"), count(&plane, "PUT", "/accept")), (3, 0));
}

#[test]
fn a_switch_of_the_endpoint_moves_every_request_and_takes_action_and_job_from_the_new_one() {
    let (work, old, new) = (dir(), Plane::start(), Plane::start());
    let job = new.job(&[]);
    old.rule("GET", "/ping", 1, Act::Json(json!({"action": "disconnect", "endpoint": new.url(), "message": "from the old one"})));
    let mut agent = Setup::script("#!/bin/sh\necho \"$BUILDKITE_AGENT_ENDPOINT\"\n").start(&old, work.path());
    let done = new.wait_finish_within(&job, Duration::from_secs(20));
    assert_eq!(done.text().trim_end(), new.url(), "jobs too");
    agent.signal("TERM");
    assert_eq!(agent.wait(SOON), 0);
    assert_eq!((count(&old, "GET", "/ping"), count(&old, "POST", "/disconnect"), count(&new, "POST", "/disconnect")), (1, 0, 1));
    assert!(!agent.text().contains("from the old one"), "{}", agent.text());
    assert!(new.requests("GET", "/ping").iter().all(|r| r.token == "session-1"), "the token is the same");
}

#[test]
fn an_endpoint_that_does_not_answer_is_not_switched_to() {
    let (work, plane, nobody) = (dir(), Plane::start(), Plane::start());
    nobody.rule("GET", "/ping", 100, Act::Status(503));
    let job = plane.job(&[]);
    plane.rule("GET", "/ping", 1, Act::Json(json!({"action": "idle", "endpoint": nobody.url()})));
    let agent = Setup::script("#!/bin/sh\n").start(&plane, work.path());
    plane.wait_finish(&job);
    let text = agent.text();
    let warning = format!("Failed to ping the new endpoint {} - ignoring switch for now (GET {}/ping: 503", nobody.url(), nobody.url());
    assert!(text.contains(&warning), "{text}");
}

#[test]
fn headers_that_the_server_specifies_are_sent_replaced_and_cleared_and_jobs_are_told_of_them() {
    let (work, plane) = (dir(), Plane::start());
    let headers = json!({"Buildkite-Shard": "one", "X-Other": "no"});
    let registration = json!({"id": "agent-1", "name": "n", "access_token": "session-1", "ping_interval": 1, "job_status_interval": 1,
        "heartbeat_interval": 60, "request_headers": headers});
    plane.rule("POST", "/register", 1, Act::Json(registration));
    plane.rule("GET", "/ping", 1, Act::Json(json!({"action": "idle", "request_headers": {}})));
    plane.rule("GET", "/ping", 1, Act::Json(json!({"action": "idle", "request_headers": {"Buildkite-Shard": "two"}})));
    let agent = Setup::script("#!/bin/sh\necho \"shard $BUILDKITE_REQUEST_HEADER_BUILDKITE_SHARD\"\n").start(&plane, work.path());
    plane.wait_request("GET", "/ping", 2);
    // After the second ping the set is empty; a job is offered by a later one, and told so.
    let done = plane.wait_finish(&plane.job(&[]));
    assert_eq!(done.text().trim_end(), "shard");
    // While a ping is held nobody is offered the next job before the answer that brings headers with it is ready.
    let held = plane.rule("GET", "/ping", 1, Act::Hold);
    plane.wait("a held ping", SOON, |s| s.requests.iter().rfind(|r| r.is("GET", "/ping")).filter(|r| r.ended.is_none()).map(|_| ()));
    let told = plane.job(&[]);
    plane.with(|s| s.queue.clear());
    plane.rule("GET", "/ping", 1, Act::Json(json!({"action": "idle", "job": {"id": told}, "request_headers": {"Buildkite-Shard": "three"}})));
    plane.release(held);
    assert_eq!(plane.wait_finish(&told).text().trim_end(), "shard three");
    let of = |r: &common::Req| r.header("buildkite-shard").map(str::to_owned);
    assert_eq!(of(&plane.wait_request("POST", "/connect", 1)), Some("one".into()));
    let pings: Vec<_> = plane.requests("GET", "/ping").iter().take(3).map(of).collect();
    assert_eq!(pings, [Some("one".into()), Some("two".into()), None], "{}", agent.text());
    assert!(plane.with(|s| s.requests.iter().all(|r| r.header("x-other").is_none())));
}
