//! More rows of job-runner-and-process on the built binary: what is written beside the log, signatures and notices, and cancels at
//! every moment of a job's life.

mod common;

use common::agent::Setup;
use common::{Act, Agent, Job, Plane, Req, SOON, dir, each, wait_for};
use serde_json::{Value, json};
use std::path::Path;
use std::time::Duration;

/// Ends by TERM with status 0, otherwise never.
const POLITE: &str = "#!/bin/sh\ntrap 'echo polite; exit 0' TERM\necho up\ntouch \"$DIR/up\"\nwhile :; do sleep 0.05; done\n";

fn result(job: &Job) -> (Option<&str>, Option<&str>, Option<&str>) {
    (job.finished("exit_status"), job.finished("signal"), job.finished("signal_reason"))
}

/// A job with `DIR` and `env`, its accept answer edited.
fn edited(plane: &Plane, work: &Path, env: &[(&str, &str)], edit: impl FnOnce(&mut Value)) -> String {
    let mut all = vec![("DIR", work.to_str().unwrap())];
    all.extend(env);
    let job = plane.job(&all);
    plane.with(|s| edit(&mut s.jobs.get_mut(&job).unwrap().body));
    job
}

fn wait_file(work: &Path, name: &str) {
    wait_for(&format!("the file {name}"), SOON, || work.join(name).exists().then_some(()));
}

/// An agent that runs `script`, once the job has made the file `up`.
fn running(setup: Setup, plane: &Plane, work: &Path) -> (Agent, String) {
    let job = edited(plane, work, &[], |_| {});
    let agent = setup.start(plane, work);
    wait_file(work, "up");
    (agent, job)
}

fn of_job(plane: &Plane, job: &str) -> Vec<Req> {
    plane.with(|s| s.requests.iter().filter(|r| r.path.contains(job)).cloned().collect())
}

/// §2.2 and W8: an agent without keys that only warns says so, and runs the job.
#[test]
fn a_signed_job_is_run_with_a_warning_where_failures_only_warn() {
    let (work, plane) = (dir(), Plane::start());
    let signed = json!({"command": "x", "signature": {"algorithm": "EdDSA", "signed_fields": ["command"], "value": "sig"}});
    let job = edited(&plane, work.path(), &[], |body| body["step"] = signed);
    let agent = Setup::script("#!/bin/sh\necho ran\n").arg(&["--verification-failure-behavior", "warn", "--no-pty"]).start(&plane, work.path());
    let done = plane.wait_finish(&job);
    assert_eq!(result(&done), (Some("0"), None, None));
    assert_eq!(
        done.text(),
        "+++ ⚠️ Job signature verification failed\nerror: cannot verify signature. JWK for pipeline verification is not configured\n\
         Job will be run without verification\nran\n"
    );
    agent.wait_text("Job verification failed");
}

/// §2.5: lines that change nothing, in their order before the job's own output.
#[test]
fn notices_stand_before_the_output_of_a_job_that_runs() {
    let (work, plane) = (dir(), Plane::start());
    let env = [
        ("BUILDKITE_COMPUTE_TYPE", "self-hosted"),
        ("BUILDKITE_REPO", "git@good:x"),
        ("BUILDKITE_GIT_REMOTE_MIRROR_URL", "https://u:secret@mirror/x"),
    ];
    let job = edited(&plane, work.path(), &env, |body| body["step"] = json!({"cache": {"paths": ["a", "b c"]}}));
    let script = "#!/bin/sh\necho \"<$BUILDKITE_GIT_REMOTE_MIRROR_URL> $BUILDKITE_AGENT_CACHE_PATHS\"\n";
    let _agent = Setup::script(script).arg(&["--no-pty", "--allowed-repositories", "^git@good"]).start(&plane, work.path());
    let done = plane.wait_finish(&job);
    assert_eq!(
        done.text(),
        "+++ ⚠️ Cache settings detected on self-hosted agent\ncache paths: a, b c\n\
         Remote Git mirror is not permitted by --allowed-repositories; using canonical repository: https://u:xxxxx@mirror/x\n<> a,b c\n"
    );
    assert_eq!(result(&done), (Some("0"), None, None));
}

#[test]
fn refusals_are_one_line_each() {
    each(
        [
            (
                &["--enable-environment-variable-allowlist", "--allowed-environment-variables", "^FOO$"][..],
                ("ODD", "1"),
                "failed to validate environment variables: ODD has no match in [^BUILDKITE$ ^BUILDKITE_.*$ ^CI$ ^FOO$]\n",
            ),
            (
                &["--allowed-plugins", "^good$"],
                ("BUILDKITE_PLUGINS", r#"[{"docker#v1": null}]"#),
                "failed to validate plugins: github.com/buildkite-plugins/docker-buildkite-plugin#v1 has no match in [^good$]\n",
            ),
            (&[], ("BUILDKITE_PLUGINS", "{oops"), "failed to validate plugins: failed to unmarshal plugins for validation: "),
        ],
        |(args, variable, line)| {
            let (work, plane) = (dir(), Plane::start());
            let job = plane.job(&[variable]);
            let agent = Setup::script("#!/bin/sh\ntouch ran\n").arg(args).start(&plane, work.path());
            let done = plane.wait_finish(&job);
            assert_eq!(result(&done), (Some("-1"), None, Some("agent_refused")));
            assert!(done.text().starts_with(line) && done.text().matches('\n').count() == 1, "{}", done.text());
            agent.wait_text(line.trim_end());
            assert!(!work.path().join("builds/ran").exists());
        },
    );
}

/// §6.7: every delivery, before timestamps, on the agent's stdout; in JSON one object per line.
#[test]
fn a_copy_of_the_log_goes_to_stdout() {
    let script = "#!/bin/sh\nprintf 'one\\n\"two\"\\n'\n";
    let (work, plane) = (dir(), Plane::start());
    let job = edited(&plane, work.path(), &[], |_| {});
    let agent = Setup::script(script).arg(&["--write-job-logs-to-stdout", "--no-pty"]).start(&plane, work.path());
    plane.wait_finish(&job);
    agent.wait_text("one\n\"two\"\n");

    let (work, plane) = (dir(), Plane::start());
    let env = [("BUILDKITE_BRANCH", "main"), ("BUILDKITE_BUILD_NUMBER", "7"), ("BUILDKITE_STEP_KEY", "s\"k")];
    let job = edited(&plane, work.path(), &env, |body| body["traceparent"] = "00-trace-span-01".into());
    let mut agent = Setup::script(script).arg(&["--write-job-logs-to-stdout", "--log-format", "json"]).start(&plane, work.path());
    plane.wait_finish(&job);
    agent.signal("TERM");
    assert_eq!(agent.wait(SOON), 0);
    let lines: Vec<Value> = agent.text().lines().filter_map(|l| serde_json::from_str(l).ok()).filter(|v: &Value| v["source"] == "job").collect();
    let said: Vec<&str> = lines.iter().map(|l| l["msg"].as_str().unwrap()).collect();
    assert_eq!(said, ["one", "\"two\""], "{}", agent.text());
    for (key, value) in [
        ("level", "INFO"),
        ("branch", "main"),
        ("build_number", "7"),
        ("step_key", "s\"k"),
        ("job_id", &job),
        ("job_url", &format!("http://build/1#{job}")),
        ("org", ""),
        ("trace_id", "trace"),
        ("span_id", "span"),
    ] {
        assert_eq!(lines[0][key], value, "{key}: {}", lines[0]);
    }
}

/// §6.7: the copy holds exactly what is uploaded, only this job knows its path, and it goes with the job.
#[test]
fn a_copy_of_the_log_in_a_file_holds_what_is_uploaded_and_goes_with_the_job() {
    let script = "#!/bin/sh\necho one\necho two\nuntil [ -e \"$DIR/go\" ]; do sleep 0.02; done\n\
        cp \"$BUILDKITE_JOB_LOG_TMPFILE\" \"$DIR/copy\"; printf %s \"$BUILDKITE_JOB_LOG_TMPFILE\" > \"$DIR/path\"\n";
    let (work, plane) = (dir(), Plane::start());
    let job = edited(&plane, work.path(), &[], |_| {});
    let _agent = Setup::script(script).arg(&["--enable-job-log-tmpfile"]).start(&plane, work.path());
    plane.wait("both lines", SOON, |s| s.jobs[&job].text().contains("two").then_some(()));
    std::fs::write(work.path().join("go"), "").unwrap();
    let done = plane.wait_finish(&job);
    assert!(!done.log().is_empty());
    assert_eq!(std::fs::read(work.path().join("copy")).unwrap(), done.log());
    let path = std::fs::read_to_string(work.path().join("path")).unwrap();
    assert!(path.starts_with(work.path().join("tmp/buildkite_job_log").to_str().unwrap()), "{path}");
    assert!(!Path::new(&path).exists(), "absent when finish is sent");
}

/// W21: nobody reads the agent's stdout, and the log copy cannot be written; job and upload do not notice.
#[test]
fn side_outputs_that_fail_change_neither_log_nor_result() {
    let (work, plane) = (dir(), Plane::start());
    let job = edited(&plane, work.path(), &[], |_| {});
    let script = "#!/bin/sh\nrm \"$BUILDKITE_JOB_LOG_TMPFILE\"\nmkdir \"$BUILDKITE_JOB_LOG_TMPFILE\"\necho one; sleep 0.2; echo two\nrmdir \"$BUILDKITE_JOB_LOG_TMPFILE\"\n";
    let args = ["--write-job-logs-to-stdout", "--enable-job-log-tmpfile", "--no-pty"];
    let mut agent = Setup::script(script).arg(&args).before("exec >/dev/full").start(&plane, work.path());
    let done = plane.wait_finish(&job);
    assert_eq!((done.text().as_str(), result(&done)), ("one\ntwo\n", (Some("0"), None, None)));
    agent.signal("TERM");
    assert_eq!(agent.wait(SOON), 0);
    let text = agent.text();
    assert_eq!(text.matches("Failed to write the job log to stdout").count(), 1, "{text}");
    assert_eq!(text.matches("Failed to write the copy of the job log").count(), 1, "{text}");
}

/// §6.13: one warning, and everything is uploaded.
#[test]
fn a_log_beyond_its_size_limit_is_warned_about_once_and_uploaded() {
    let (work, plane) = (dir(), Plane::start());
    let job = edited(&plane, work.path(), &[], |body| {
        body["log_max_size_bytes"] = 1024.into();
        body["chunks_max_size_bytes"] = 500.into();
    });
    let agent = Setup::script("#!/bin/sh\nhead -c 3000 /dev/zero | tr '\\0' x\n").start(&plane, work.path());
    let done = plane.wait_finish(&job);
    assert_eq!(done.text(), "x".repeat(3000));
    assert!(done.chunks.values().all(|(_, data)| (1..=500).contains(&data.len())));
    agent.wait_text("which has exceeded the maximum size (1.0 KiB)");
    assert_eq!(agent.text().matches("The job log has reached ").count(), 1, "{}", agent.text());
}

/// W23 on the wire: a chunk that was told to wait is sent again, the same, and not before.
#[test]
fn a_chunk_that_meets_429_waits_as_long_as_it_is_told() {
    let (work, plane) = (dir(), Plane::start());
    plane.rule("POST", "/chunks", 1, Act::Later(429, "4"));
    let job = edited(&plane, work.path(), &[], |_| {});
    let _agent = Setup::script("#!/bin/sh\necho hello\n").arg(&["--no-pty"]).start(&plane, work.path());
    let done = plane.wait_finish(&job);
    assert_eq!(done.text(), "hello\n");
    assert_eq!(done.finish.as_ref().unwrap()["chunks_failed_count"], 0);
    let chunks = plane.requests("POST", "/chunks");
    assert_eq!(chunks.len(), 2);
    assert_eq!((&chunks[0].query, &chunks[0].body), (&chunks[1].query, &chunks[1].body));
    assert!(chunks[1].at - chunks[0].at >= Duration::from_secs(4));
}

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

/// header-times: a control plane without the endpoint is asked once per job, and lines get their plain timestamps.
#[test]
fn header_times_stop_where_the_endpoint_does_not_exist() {
    let (work, plane) = (dir(), Plane::start());
    plane.rule("POST", "/header_times", 100, Act::Status(404));
    let job = edited(&plane, work.path(), &[], |_| {});
    let script =
        "#!/bin/sh\necho '--- one'\necho text\nuntil [ -e \"$DIR/go\" ]; do sleep 0.05; done\nprintf '\\033[33m+++ two\\033[0m\\n^^^ +++\\nlast'\n";
    let agent = Setup::script(script).arg(&["--no-pty", "--timestamp-lines"]).start(&plane, work.path());
    agent.wait_text("Buildkite rejected the header times (POST ");
    std::fs::write(work.path().join("go"), "").unwrap();
    let done = plane.wait_finish(&job);
    assert_eq!(plane.requests("POST", "/header_times").len(), 1, "no more for that job");
    let log = String::from_utf8(done.log()).unwrap();
    let lines: Vec<&str> = log.lines().collect();
    assert_eq!((lines[0], lines[2], lines[3]), ("--- one", "\u{1b}[33m+++ two\u{1b}[0m", "^^^ +++"));
    for (line, text) in [(lines[1], "text"), (lines[4], "last")] {
        let stamp = line.strip_prefix('[').and_then(|l| l.strip_suffix(&format!("] {text}"))).unwrap_or_else(|| panic!("{line:?}"));
        assert!(stamp.len() == 20 && stamp.ends_with('Z') && stamp.parse::<jiff::Timestamp>().is_ok(), "{line:?}");
    }
    assert_eq!(result(&done), (Some("0"), None, None));
}

/// Numbers that no control plane means are no reason to end.
#[test]
fn limits_beyond_all_measure_are_survived() {
    let (work, plane) = (dir(), Plane::start());
    let registration = json!({"id": "agent-1", "name": "n", "access_token": "session-1", "ping_interval": 1,
        "job_status_interval": i64::MAX, "heartbeat_interval": i64::MAX});
    plane.rule("POST", "/register", 1, Act::Json(registration));
    let job = edited(&plane, work.path(), &[], |body| {
        for key in ["chunks_max_size_bytes", "chunks_interval_seconds", "log_max_size_bytes"] {
            body[key] = i64::MAX.into();
        }
        body["runnable_at"] = "9999-12-31T23:59:59Z".into();
    });
    let _agent = Setup::script("#!/bin/sh\necho hello\n").arg(&["--no-pty"]).start(&plane, work.path());
    let done = plane.wait_finish(&job);
    assert_eq!((done.text().as_str(), result(&done)), ("hello\n", (Some("0"), None, None)));
}

/// agent-api §18: at debug level every call is shown, with its protocol; the dumps hold headers and bodies, and no credential.
#[test]
fn debug_shows_every_call_and_no_credential() {
    let (work, plane) = (dir(), Plane::start());
    let registration = json!({"id": "agent-1", "name": "n", "access_token": "session-secret", "ping_interval": 1, "job_status_interval": 1,
        "heartbeat_interval": 60, "request_headers": {"Buildkite-Hello": "world"}});
    plane.rule("POST", "/register", 1, Act::Json(registration));
    let job = edited(&plane, work.path(), &[], |body| body["token"] = "job-secret".into());
    let script = "#!/bin/sh\necho \"$BUILDKITE_AGENT_DEBUG $BUILDKITE_AGENT_DEBUG_HTTP $BUILDKITE_REQUEST_HEADER_BUILDKITE_HELLO\"\n";
    let agent = Setup::script(script).arg(&["--no-pty", "--debug", "--debug-http", "--trace-http", "--ping-mode", "auto"]).start(&plane, work.path());
    let done = plane.wait_finish(&job);
    assert_eq!(done.text(), "true true world\n");
    agent.wait_text("Finished job at ");
    let text = agent.text();
    let calls = [
        "/register",
        "/connect",
        "/ping",
        "/accept",
        "/start",
        "/chunks?sequence=1&offset=0&size=",
        "/finish",
        "/agentedge.v1.AgentEdgeService/StreamPings",
    ];
    for call in calls {
        let answered = text.lines().find(|l| l.contains("↳ ") && l.contains(call)).unwrap_or_else(|| panic!("{call}: {text}"));
        assert!(answered.contains("proto=HTTP/1.1 status=") && answered.contains(" Δ="), "{answered}");
    }
    assert!(text.contains("Server-specified request header: Buildkite-Hello: world"), "{text}");
    assert!(text.contains("\nBuildkite-Hello: world"), "dumps have the headers of the server: {text}");
    assert!(text.contains("\"exit_status\":\"0\""), "dumps have bodies: {text}");
    assert!(text.contains("HTTP Timing Trace"));
    for secret in ["session-secret", "job-secret", "registration-token"] {
        assert!(!text.contains(secret), "{secret} in {text}");
    }
}

/// §4.5: the hook sees the agent's own variables, the listed ones and `PWD`; the job only in the files.
#[test]
fn the_hook_sees_the_agents_variables_and_the_listed_ones_and_none_of_the_job() {
    let (work, plane) = (dir(), Plane::start());
    let job = edited(&plane, work.path(), &[("SECRET_OF_JOB", "x"), ("PATH", "/nowhere")], |_| {});
    let hook = "#!/bin/sh\nenv | cut -d= -f1 | sort | tr '\\n' ' ' > names\ngrep -c SECRET_OF_JOB \"$BUILDKITE_ENV_FILE\" > found\necho \"$BUILDKITE_JOB_ID $BUILDKITE_AGENT_ACCESS_TOKEN $PWD\" > values\n";
    let _agent = Setup::script("#!/bin/sh\n").hook("pre-bootstrap", hook).start(&plane, work.path());
    assert_eq!(result(&plane.wait_finish(&job)), (Some("0"), None, None));
    let read = |name: &str| std::fs::read_to_string(work.path().join(name)).unwrap();
    assert_eq!(
        read("names").trim_end(),
        "BUILDKITE_AGENT_ACCESS_TOKEN BUILDKITE_AGENT_DEBUG BUILDKITE_AGENT_DEBUG_HTTP BUILDKITE_AGENT_ENDPOINT BUILDKITE_ENV_FILE \
         BUILDKITE_ENV_JSON_FILE BUILDKITE_JOB_ID BUILDKITE_NO_HTTP2 HOME LANG PATH PWD TMPDIR"
    );
    assert_eq!(read("found"), "1\n");
    assert_eq!(read("values"), format!("{job} job-token-1 {}\n", work.path().display()));
}

/// §5.2 and §5.3: how output looks in a raw terminal, and what a spawn says that fails for want of a directory or of a `#!` line.
#[test]
fn terminals_may_be_raw_and_spawns_that_fail_say_why() {
    let (work, plane) = (dir(), Plane::start());
    let job = edited(&plane, work.path(), &[], |_| {});
    let _agent = Setup::script("#!/bin/sh\ntest -t 1 && printf 'one\\ntwo\\r\\n'\n").arg(&["--experiment", "pty-raw"]).start(&plane, work.path());
    assert_eq!(plane.wait_finish(&job).text(), "one\ntwo\r\n");

    let (work, plane) = (dir(), Plane::start());
    let job = edited(&plane, work.path(), &[], |_| {});
    let _agent = Setup::script("#!/bin/sh\n").hook("pre-bootstrap", "#!/bin/sh\nrm -r builds\n").start(&plane, work.path());
    let done = plane.wait_finish(&job);
    let gone = work.path().join("builds");
    assert_eq!(done.text(), format!("Error running job: process working directory \"{}\" doesn't exist\n", gone.display()));
    assert_eq!(result(&done), (Some("-1"), None, Some("process_run_error")));

    for (args, what) in [(&["--no-pty"][..], "command"), (&[], "pty")] {
        let (work, plane) = (dir(), Plane::start());
        let job = edited(&plane, work.path(), &[], |_| {});
        let _agent = Setup::script("echo no shell runs this\n").arg(args).start(&plane, work.path());
        let done = plane.wait_finish(&job);
        assert!(done.text().starts_with(&format!("Error running job: error starting {what}: ")), "{}", done.text());
        assert!(done.text().to_lowercase().contains("exec format error"), "{}", done.text());
        assert_eq!(result(&done), (Some("-1"), None, Some("process_run_error")));
    }
}

/// §3.1 and §3.3: a message of any length is cut to what a process can be given; what nobody shortens is reported when it is too much.
#[test]
fn a_long_message_is_cut_and_an_environment_that_is_too_large_is_reported() {
    let (work, plane) = (dir(), Plane::start());
    let message = "é".repeat(1 << 19);
    let job = edited(&plane, work.path(), &[("BUILDKITE_MESSAGE", &message)], |_| {});
    let script = "#!/bin/sh\nprintf %s \"$BUILDKITE_MESSAGE\" > \"$DIR/message\"\n";
    let agent = Setup::script(script).arg(&["--no-pty"]).start(&plane, work.path());
    let done = plane.wait_finish(&job);
    // Whole characters, and as many as fit: 65536 less the name, the `=` and the NUL.
    let got = std::fs::read_to_string(work.path().join("message")).unwrap();
    assert!((65516..=65517).contains(&got.len()), "{}", got.len());
    let tail = format!("[value truncated 1048576 -> {} bytes]", got.len());
    assert_eq!(got.strip_suffix(&tail).map(|head| head.chars().all(|c| c == 'é')), Some(true));
    assert_eq!(result(&done), (Some("0"), None, None));

    let many: Vec<(String, String)> = (0..40).map(|n| (format!("V{n}"), "x".repeat(100_000))).collect();
    let many: Vec<(&str, &str)> = many.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
    let job = edited(&plane, work.path(), &many, |_| {});
    let done = plane.wait_finish(&job);
    assert!(done.text().starts_with("Error running job: error starting command: "), "{}", done.text());
    assert_eq!(result(&done), (Some("-1"), None, Some("process_run_error")));
    let next = plane.wait_finish(&edited(&plane, work.path(), &[], |_| {}));
    assert_eq!(result(&next), (Some("0"), None, None), "{}", agent.text());
}

/// W20: with several workers a job's log copy is known to that job only, and its end leaves no path behind for the next.
#[test]
fn only_the_job_itself_knows_its_log_copy() {
    let (work, plane) = (dir(), Plane::start());
    let script = "#!/bin/sh\necho \"$BUILDKITE_JOB_LOG_TMPFILE\" > \"$DIR/path-$NAME\"\ntr '\\0' '\\n' < /proc/$PPID/environ | grep -c JOB_LOG_TMPFILE > \"$DIR/agent-$NAME\"\n\
        until [ -e \"$DIR/path-first\" ] && [ -e \"$DIR/path-second\" ]; do sleep 0.05; done\n";
    let jobs = ["first", "second"].map(|name| edited(&plane, work.path(), &[("NAME", name)], |_| {}));
    let _agent = Setup::script(script).arg(&["--enable-job-log-tmpfile", "--spawn", "2"]).start(&plane, work.path());
    for job in &jobs {
        assert_eq!(result(&plane.wait_finish(job)), (Some("0"), None, None));
    }
    let read = |name: &str| std::fs::read_to_string(work.path().join(name)).unwrap();
    assert!(read("path-first").contains("buildkite_job_log") && read("path-first") != read("path-second"));
    assert_eq!((read("agent-first"), read("agent-second")), ("0\n".to_owned(), "0\n".to_owned()));
    let left = std::fs::read_dir(work.path().join("tmp"))
        .unwrap()
        .filter(|e| e.as_ref().unwrap().file_name().to_string_lossy().starts_with("buildkite_job_log"));
    assert_eq!(left.count(), 0);
}

/// W21: somebody holds the agent's stdout and does not read. The job ends as it ends, and a stop still stops.
#[test]
fn a_stdout_that_nobody_reads_keeps_neither_job_nor_agent() {
    let (work, plane) = (dir(), Plane::start());
    let job = edited(&plane, work.path(), &[], |_| {});
    let script = "#!/bin/sh\nhead -c 1000000 /dev/zero | tr '\\0' x\n";
    // A pipe whose reading end is this very process, which does not read.
    let setup = Setup::script(script).arg(&["--write-job-logs-to-stdout", "--no-pty"]).before("mkfifo silent; exec 9<>silent; exec >silent");
    let mut agent = setup.start(&plane, work.path());
    let done = plane.wait_finish_within(&job, SOON);
    assert_eq!((done.text().len(), result(&done)), (1_000_000, (Some("0"), None, None)));
    agent.signal("TERM");
    assert_eq!(agent.wait(SOON), 0);
    assert_eq!(plane.requests("POST", "/disconnect").len(), 1);
}
