//! Bad input on the built binary: from the command line, the machine and the server. Each gets what the specification says, a
//! message that names the thing and the remedy, its exit code, and no panic.

mod common;

use common::agent::Setup;
use common::{Act, Agent, Job, Plane, SOON, dir, each, wait_for};
use serde_json::{Value, json};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

const HTML: Act = Act::Text(200, "text/html", "<html>sign in</html>");

fn result(job: &Job) -> (Option<&str>, Option<&str>, Option<&str>) {
    (job.finished("exit_status"), job.finished("signal"), job.finished("signal_reason"))
}

/// An agent that prints nothing of a panic, whatever happened.
fn unharmed(agent: &Agent) {
    let text = agent.text();
    assert!(!text.contains("panicked"), "{text}");
}

/// A job whose body is edited before it is offered.
fn edited(plane: &Plane, env: &[(&str, &str)], edit: impl FnOnce(&mut Value)) -> String {
    plane.with(|s| s.action = "idle".into());
    let job = plane.job(env);
    plane.with(|s| {
        edit(&mut s.jobs.get_mut(&job).unwrap().body);
        s.action = String::new();
    });
    job
}

#[test]
fn a_wrong_token_ends_the_start_with_the_answer_of_the_server() {
    let (work, plane) = (dir(), Plane::start());
    plane.rule("POST", "/register", 100, Act::Status(401));
    let mut agent = Setup::script("#!/bin/sh\n").start(&plane, work.path());
    assert_eq!(agent.wait(SOON), 1);
    let last = format!("buildkite-agent: fatal: POST {}/register: 401 Unauthorized: scripted", plane.url());
    assert_eq!(agent.text().lines().last(), Some(last.as_str()), "{}", agent.text());
    assert_eq!(plane.requests("POST", "/register").len(), 1, "a token does not get better");
}

#[test]
fn an_endpoint_that_nobody_listens_on_is_tried_again_and_named() {
    let (work, plane) = (dir(), Plane::start());
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let mut agent = Setup::script("#!/bin/sh\n").arg(&["--endpoint", &format!("http://{free}/v3")]).start(&plane, work.path());
    agent.wait_text("(Attempt 1/30 Retrying in 10s)");
    let text = agent.text();
    assert!(text.contains(&format!("POST http://{free}/v3/register: ")) && text.contains("refused"), "{text}");
    agent.signal("TERM");
    let code = agent.wait(SOON);
    assert!(code == -15 || code == 143, "{code}");
}

#[test]
fn an_endpoint_that_answers_a_page_is_tried_again_and_the_page_is_shown() {
    let (work, plane) = (dir(), Plane::start());
    plane.rule("POST", "/register", 100, HTML);
    let agent = Setup::script("#!/bin/sh\n").start(&plane, work.path());
    agent.wait_text("(Attempt 1/30 Retrying in 10s)");
    let text = agent.text();
    assert!(text.contains("200 OK: could not decode response body (content-type \"text/html\")") && text.contains("sign in"), "{text}");
}

#[test]
fn a_missing_build_path_is_made_and_said() {
    let (work, plane) = (dir(), Plane::start());
    let builds = work.path().join("a/b/c");
    let agent = Setup::script("#!/bin/sh\n").arg(&["--build-path", builds.to_str().unwrap()]).start(&plane, work.path());
    agent.wait_text(&format!("Build Path doesn't exist, creating it ({})", builds.display()));
    plane.wait_request("GET", "/ping", 1);
    assert!(builds.is_dir());
}

#[test]
fn a_lifecycle_hook_that_may_not_be_executed_ends_the_start_and_is_named() {
    let (work, plane) = (dir(), Plane::start());
    std::fs::create_dir_all(work.path().join("hooks")).unwrap();
    let hook = work.path().join("hooks/agent-startup");
    std::fs::write(&hook, "#!/bin/sh\n").unwrap();
    std::fs::set_permissions(&hook, std::fs::Permissions::from_mode(0o644)).unwrap();
    let mut agent = Setup::script("#!/bin/sh\n").start(&plane, work.path());
    assert_eq!(agent.wait(SOON), 1);
    let text = agent.text();
    assert!(text.contains("\"agent-startup\" hook: ") && text.contains("Permission denied"), "{text}");
    assert!(text.contains(&hook.display().to_string()), "{text}");
    assert!(plane.requests("POST", "/connect").is_empty());
    unharmed(&agent);
}

#[test]
fn a_job_hook_that_may_not_be_executed_fails_the_job_and_is_named() {
    let (work, plane) = (dir(), Plane::start());
    std::fs::create_dir_all(work.path().join("hooks")).unwrap();
    let hook = work.path().join("hooks/pre-command");
    // Not a shell's: it cannot be run in any other way.
    std::fs::write(&hook, "#!/usr/bin/env -S sh\n").unwrap();
    std::fs::set_permissions(&hook, std::fs::Permissions::from_mode(0o644)).unwrap();
    let agent = Setup::builtin().start(&plane, work.path());
    let done = plane.wait_finish(&plane.command(work.path(), "echo never"));
    let text = done.text();
    assert_ne!(done.finished("exit_status"), Some("0"));
    assert!(text.to_lowercase().contains("permission denied") && text.contains(&hook.display().to_string()), "{text}");
    assert!(!text.contains("never"));
    unharmed(&agent);
}

#[test]
fn a_missing_shell_fails_the_job_and_is_named() {
    let (work, plane) = (dir(), Plane::start());
    let agent = Setup::builtin().arg(&["--shell", "/no/such/shell -c"]).start(&plane, work.path());
    let done = plane.wait_finish(&plane.command(work.path(), "echo never"));
    assert_ne!(done.finished("exit_status"), Some("0"));
    assert!(done.text().contains("/no/such/shell"), "{}", done.text());
    unharmed(&agent);
}

#[test]
fn a_pipeline_that_is_no_yaml_is_named_with_its_line() {
    let work = dir();
    let file = work.path().join("pipeline.yml");
    for (text, at) in
        [("steps:\n  - command: \"open\n", "pipeline.yml:"), ("steps:\n\t- command: a\n", "pipeline.yml:2:"), ("steps: 7\n", "pipeline.yml:1:")]
    {
        std::fs::write(&file, text).unwrap();
        let output = std::process::Command::new(env!("CARGO_BIN_EXE_ibex")).arg("run").arg(&file).output().unwrap();
        let err = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{text:?}: {err}");
        assert!(err.contains(at) && !err.contains("panicked"), "{text:?}: {err}");
    }
}

#[test]
fn undecodable_answers_everywhere_cost_a_retry_and_nothing_else() {
    let (work, plane) = (dir(), Plane::with_intervals(1, 1, 1));
    for (method, path) in [("POST", "/connect"), ("GET", "/ping"), ("PUT", "/accept"), ("POST", "/heartbeat"), ("PUT", "/start"), ("GET", "/jobs/")] {
        plane.rule(method, path, 1, HTML);
    }
    for body in ["", "[]", "null", "{\"job\":7}", "{\"job\":{\"id\":\"\"}}"] {
        plane.rule("GET", "/ping", 1, Act::Text(200, "application/json", body));
    }
    let job = plane.job(&[("DIR", work.path().to_str().unwrap())]);
    let script = "#!/bin/sh\necho one\nuntil [ -e \"$DIR/go\" ]; do sleep 0.05; done\necho two\n";
    let mut agent = Setup::script(script).arg(&["--no-pty"]).start(&plane, work.path());
    plane.wait("polls of the job's state", SOON, |s| {
        (s.requests.iter().filter(|r| r.method == "GET" && r.path.starts_with("/jobs/")).count() >= 2).then_some(())
    });
    std::fs::write(work.path().join("go"), "").unwrap();
    let done = plane.wait_finish(&job);
    assert_eq!((done.text().as_str(), result(&done)), ("one\ntwo\n", (Some("0"), None, None)));
    assert!(agent.text().contains("failed to ping: "), "{}", agent.text());
    // What nobody reads may be anything.
    for path in ["/chunks", "/finish", "/disconnect"] {
        plane.rule(if path == "/finish" { "PUT" } else { "POST" }, path, 100, HTML);
    }
    plane.job(&[("DIR", work.path().to_str().unwrap())]);
    plane.wait_request("PUT", "/finish", 2);
    agent.signal("TERM");
    assert_eq!(agent.wait(SOON), 0, "{}", agent.text());
    assert_eq!(plane.requests("POST", "/disconnect").len(), 1);
    unharmed(&agent);
}

#[test]
fn intervals_that_are_zero_negative_or_absent_have_defaults() {
    let registrations = [
        json!({"id": "agent-1", "name": "n", "access_token": "session-1", "ping_interval": 0, "job_status_interval": 0, "heartbeat_interval": 0}),
        json!({"id": "agent-1", "name": "n", "access_token": "session-1", "ping_interval": -3, "job_status_interval": -1, "heartbeat_interval": -60}),
        json!({"id": "agent-1", "name": "n", "access_token": "session-1"}),
    ];
    each(registrations, |registration| {
        let (work, plane) = (dir(), Plane::start());
        plane.rule("POST", "/register", 1, Act::Json(registration.clone()));
        let job = edited(&plane, &[("DIR", work.path().to_str().unwrap())], |body| {
            body["chunks_interval_seconds"] = (-1).into();
            body["chunks_max_size_bytes"] = (-5).into();
        });
        let agent = Setup::script("#!/bin/sh\necho up\nuntil [ -e \"$DIR/go\" ]; do sleep 0.05; done\n").start(&plane, work.path());
        plane.wait_request("PUT", "/start", 1);
        plane.wait("a poll of the job's state", SOON, |s| s.requests.iter().find(|r| r.method == "GET" && r.path.starts_with("/jobs/")).map(|_| ()));
        std::fs::write(work.path().join("go"), "").unwrap();
        let done = plane.wait_finish(&job);
        assert_eq!((done.text().as_str(), result(&done)), ("up\r\n", (Some("0"), None, None)), "{registration}");
        let calls = plane.with(|s| s.requests.len());
        assert!(calls < 40, "{calls} calls: an interval of nothing is no reason to ask for ever");
        unharmed(&agent);
    });
}

#[test]
fn a_job_without_id_or_env_runs_under_the_id_that_was_offered() {
    let (work, plane) = (dir(), Plane::start());
    let agent = Setup::script("#!/bin/sh\necho $BUILDKITE_JOB_ID.\n").arg(&["--no-pty"]).start(&plane, work.path());
    for edit in [
        (|body: &mut Value| drop(body.as_object_mut().unwrap().remove("id"))) as fn(&mut Value),
        |body| body["id"] = Value::Null,
        |body| drop(body.as_object_mut().unwrap().remove("env")),
        |body| body["env"] = Value::Null,
        |body| body["step"] = Value::Null,
        |body| *body = json!({}),
    ] {
        let job = edited(&plane, &[], edit);
        let done = plane.wait_finish(&job);
        assert_eq!(result(&done), (Some("0"), None, None), "{}", done.body);
        if !done.body["env"].is_null() {
            assert_eq!(done.text(), format!("{job}.\n"));
        }
    }
    unharmed(&agent);
}

#[test]
fn a_job_that_is_no_job_is_given_up_and_the_next_one_runs() {
    let (work, plane) = (dir(), Plane::start());
    let bad = edited(&plane, &[], |body| body["env"] = json!(["A=1"]));
    let agent = Setup::script("#!/bin/sh\n").start(&plane, work.path());
    // The answer was no use, so the call is made again; by then the server says that the job is taken.
    agent.wait_text("failed to accept job: ");
    assert!(agent.text().contains("could not decode response body"), "{}", agent.text());
    assert!(!agent.text().contains("A=1"), "an answer in JSON may hold secrets");
    let next = plane.wait_finish(&plane.job(&[]));
    assert_eq!(result(&next), (Some("0"), None, None));
    assert!(!plane.get(&bad).started);
    unharmed(&agent);
}

#[test]
fn names_that_no_environment_can_hold_are_skipped_with_a_warning() {
    let (work, plane) = (dir(), Plane::start());
    let job = edited(&plane, &[], |body| {
        body["env"][""] = "empty".into();
        body["env"]["=C:"] = "drive".into();
        body["env"]["A=B"] = "both".into();
        body["env"]["GOOD"] = "yes".into();
    });
    let agent = Setup::script("#!/bin/sh\nenv\ncat \"$BUILDKITE_ENV_FILE\"\n").arg(&["--no-pty"]).start(&plane, work.path());
    let done = plane.wait_finish(&job);
    let text = done.text();
    assert_eq!(result(&done), (Some("0"), None, None));
    assert!(text.contains("\nGOOD=yes\n") && text.contains("\nGOOD=\"yes\"\n"), "{text}");
    for bad in ["=empty", "drive", "both"] {
        assert!(!text.contains(bad), "{bad}: {text}");
    }
    let said = agent.text();
    assert!(said.contains("\"A=B\"") && said.contains("WARN"), "{said}");
    unharmed(&agent);
}

#[test]
fn a_status_address_in_use_is_an_error_line_and_the_agent_goes_on() {
    let (work, plane) = (dir(), Plane::start());
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let agent = Setup::script("#!/bin/sh\n").arg(&["--health-check-addr", &address]).start(&plane, work.path());
    agent.wait_text("Could not start health check server: ");
    assert!(agent.text().contains(&address) && agent.text().contains("in use"), "{}", agent.text());
    assert_eq!(result(&plane.wait_finish(&plane.job(&[]))), (Some("0"), None, None));
}

#[test]
fn a_job_whose_files_cannot_be_written_is_reported_and_leaves_nothing() {
    let (work, plane) = (dir(), Plane::start());
    let file = work.path().join("file");
    std::fs::write(&file, "").unwrap();
    let context = file.join("context");
    let agent = Setup::script("#!/bin/sh\ntouch ran\n").arg(&["--job-context-dir", context.to_str().unwrap()]).start(&plane, work.path());
    for _ in 0..2 {
        let done = plane.wait_finish(&plane.job(&[]));
        assert_eq!((done.started, result(&done)), (true, (Some("-1"), None, Some("process_run_error"))));
        assert!(done.text().starts_with("Error running job: ") && done.text().contains(&context.display().to_string()), "{}", done.text());
        assert_eq!(done.text().lines().count(), 1);
    }
    assert!(!work.path().join("builds/ran").exists());
    assert_eq!(left_in(&work.path().join("tmp")), Vec::<String>::new());
    unharmed(&agent);
}

fn left_in(dir: &Path) -> Vec<String> {
    let names = std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
    names.filter(|n| n.starts_with("job-")).collect()
}

#[test]
fn more_workers_than_the_limit_of_descriptors_allows_are_refused_at_start() {
    let (work, plane) = (dir(), Plane::start());
    let mut agent = Setup::script("#!/bin/sh\n").before("ulimit -n 1024").arg(&["--spawn", "1000"]).start(&plane, work.path());
    assert_eq!(agent.wait(SOON), 1);
    let text = agent.text();
    let last = text.lines().last().unwrap();
    assert!(last.starts_with("buildkite-agent: fatal: 1000 workers need about ") && last.contains("1024"), "{text}");
    assert!(last.contains("ulimit") && last.contains("spawn"), "the remedy: {text}");
    assert!(plane.with(|s| s.requests.is_empty()), "before anything is registered");
}

#[test]
fn a_soft_limit_of_descriptors_is_raised_as_far_as_the_workers_need() {
    let (work, plane) = (dir(), Plane::start());
    let agent = Setup::script("#!/bin/sh\nulimit -n\n").before("ulimit -Sn 256").arg(&["--spawn", "40", "--no-pty"]).start(&plane, work.path());
    plane.wait("all to be connected", SOON, |s| (s.requests.iter().filter(|r| r.is("POST", "/connect")).count() == 40).then_some(()));
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", agent.pid())).unwrap();
    let soft: u64 = limits.lines().find(|l| l.starts_with("Max open files")).unwrap().split_whitespace().nth(3).unwrap().parse().unwrap();
    assert!(soft >= 40 * 8, "{soft}");
    let done = plane.wait_finish(&plane.job(&[]));
    assert_eq!(result(&done), (Some("0"), None, None));
    wait_for("nothing to be said of descriptors", Duration::from_secs(1), || (!agent.text().contains("Too many open files")).then_some(()));
}

/// Variables that were cut in the middle of a character: as the reference agent reads them, and no reason to lose the job.
#[test]
fn values_that_are_no_unicode_reach_the_job_with_replacement_characters() {
    let (work, plane) = (dir(), Plane::start());
    let job = plane.job(&[]);
    let body = r#"{"id":"ID","token":"t","chunks_max_size_bytes":1000,"env":{"BUILDKITE_BUILD_URL":"http://build/1","HALF":"a\ud83d","PAIR":"\ud83d\ude00"}}"#;
    let body: &'static str = Box::leak(body.replace("ID", &job).into_boxed_str());
    plane.rule("PUT", "/accept", 1, Act::Text(200, "application/json", body));
    let agent = Setup::script("#!/bin/sh\necho \"$HALF $PAIR\"\ngrep HALF \"$BUILDKITE_ENV_FILE\"\n").arg(&["--no-pty"]).start(&plane, work.path());
    let done = plane.wait_finish(&job);
    assert_eq!((done.text().as_str(), result(&done)), ("a\u{fffd} \u{1f600}\nHALF=\"a\u{fffd}\"\n", (Some("0"), None, None)));
    unharmed(&agent);
}
