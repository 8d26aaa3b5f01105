//! More rows of job-runner-and-process on the built binary: what is written beside the log, signatures and notices, and cancels at
//! every moment of a job's life.

mod cancels;
#[path = "../common/mod.rs"]
mod common;
mod outputs;

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
