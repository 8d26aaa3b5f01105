//! Jobs on the built binary: the rows of job-runner-and-process §2.2, §5.10 and §7.3–7.8 that can be seen from outside.

mod common;

use common::agent::Setup;
use common::{Act, Agent, Job, Plane, SOON, alive, dir, wait_for};
use std::path::Path;
use std::time::Duration;

fn run(script: &str, args: &[&str], env: &[(&str, &str)]) -> (Job, Agent, tempfile::TempDir, Plane) {
    let (work, plane) = (dir(), Plane::start());
    let mut all = vec![("DIR", work.path().to_str().unwrap())];
    all.extend(env);
    let job = plane.job(&all);
    let agent = Setup::script(script).arg(args).start(&plane, work.path());
    let done = plane.wait_finish(&job);
    (done, agent, work, plane)
}

fn result(job: &Job) -> (Option<&str>, Option<&str>, Option<&str>) {
    (job.finished("exit_status"), job.finished("signal"), job.finished("signal_reason"))
}

#[test]
fn the_leaders_end_is_reported_by_the_table() {
    for (script, expected) in [
        ("exit 0", (Some("0"), None, None)),
        ("exit 7", (Some("7"), None, None)),
        ("exit 125", (Some("-1"), None, Some("process_run_error"))),
        ("kill -SEGV $$", (Some("-1"), Some("SIGSEGV"), None)),
        ("kill -KILL $$", (Some("-1"), Some("SIGKILL"), None)),
    ] {
        let (job, ..) = run(&format!("#!/bin/sh\n{script}\n"), &[], &[]);
        assert_eq!(result(&job), expected, "{script}");
        assert_eq!(job.finish.as_ref().unwrap()["chunks_failed_count"], 0);
    }
}

#[test]
fn the_log_is_exact_with_a_terminal_and_with_a_pipe() {
    let script = "#!/bin/sh\nprintf 'one\\ntwo\\n'; printf 'err\\n' >&2; printf 'tail'\n";
    let (job, ..) = run(script, &[], &[]);
    assert_eq!(job.text(), "one\r\ntwo\r\nerr\r\ntail");
    assert!(job.log().starts_with(b"\x1b_bk;t="), "the log begins with a timestamp");
    let (job, ..) = run(script, &["--no-pty"], &[]);
    assert_eq!(job.text(), "one\ntwo\nerr\ntail");
}

#[test]
fn a_silent_job_sends_no_chunk() {
    let (job, _agent, _work, plane) = run("#!/bin/sh\n", &[], &[]);
    assert!(job.chunks.is_empty());
    assert!(plane.requests("POST", "/chunks").is_empty());
}

/// Row R47: the second job lists its descriptors while the first one runs. It has its own three, and
/// neither a socket of the agent nor a terminal or pipe of the other job.
#[test]
fn a_job_has_no_descriptor_but_its_own() {
    let script = "#!/bin/sh\n\
        ls -l /proc/self/fd\n\
        [ -z \"$FIRST\" ] || { : > \"$DIR/runs\"; until [ -e \"$DIR/over\" ]; do sleep 0.02; done; }\n";
    for args in [&["--spawn", "2"][..], &["--spawn", "2", "--no-pty"]] {
        let (work, plane) = (dir(), Plane::start());
        let place = ("DIR", work.path().to_str().unwrap());
        let first = plane.job(&[place, ("FIRST", "1")]);
        let _agent = Setup::script(script).arg(args).start(&plane, work.path());
        wait_for("the first job to run", SOON, || work.path().join("runs").exists().then_some(()));
        let second = plane.wait_finish(&plane.job(&[place]));
        std::fs::write(work.path().join("over"), "").unwrap();
        let outputs = [plane.wait_finish(&first), second].map(|job| {
            assert_eq!(result(&job), (Some("0"), None, None), "{args:?}");
            let text = job.text();
            let own = |l: &&str| *l == "/dev/null" || l.starts_with("/proc/");
            let links: Vec<&str> = text.lines().filter_map(|l| Some(l.split_once(" -> ")?.1.trim())).filter(|l| !own(l)).collect();
            assert!(links.iter().all(|l| l.starts_with("/dev/pts/") || l.starts_with("pipe:")), "{args:?}: {text}");
            let own: std::collections::BTreeSet<String> = links.into_iter().map(str::to_owned).collect();
            assert_eq!(own.len(), 1, "{args:?}: one output, and nothing of another job: {text}");
            own
        });
        assert_ne!(outputs[0], outputs[1], "{args:?}");
    }
}

#[test]
fn a_job_that_cannot_be_spawned_is_reported() {
    let (work, plane) = (dir(), Plane::start());
    let job = plane.job(&[]);
    let _agent = Setup::builtin().arg(&["--bootstrap-script", "/no/such/program"]).start(&plane, work.path());
    let done = plane.wait_finish(&job);
    assert_eq!(result(&done), (Some("-1"), None, Some("process_run_error")));
    assert!(done.text().starts_with("Error running job: "), "{}", done.text());
}

#[test]
fn an_environment_value_with_a_nul_is_reported_not_fatal() {
    let (job, agent, _work, plane) = run("#!/bin/sh\n", &[], &[("BAD", "a\0b")]);
    assert_eq!(result(&job), (Some("-1"), None, Some("process_run_error")));
    let next = plane.job(&[]);
    assert_eq!(plane.wait_finish(&next).finished("exit_status"), Some("0"), "{}", agent.text());
}

#[test]
fn an_environment_value_of_a_mebibyte_is_reported_not_fatal() {
    let (job, ..) = run("#!/bin/sh\n", &[], &[("BIG", &"x".repeat(1 << 20))]);
    assert_eq!(result(&job), (Some("-1"), None, Some("process_run_error")));
    assert!(job.text().starts_with("Error running job: "), "{}", job.text());
}

#[test]
fn a_rejected_start_drops_the_job_and_leaves_no_file() {
    let (work, plane) = (dir(), Plane::start());
    let first = plane.job(&[]);
    plane.rule("PUT", "/start", 1, Act::Status(422));
    let agent = Setup::script("#!/bin/sh\n").start(&plane, work.path());
    agent.wait_text("failed to run job");
    let second = plane.job(&[]);
    plane.wait_finish(&second);
    let first = plane.get(&first);
    assert!(first.finish.is_none() && first.chunks.is_empty());
    wait_for("the files to go", SOON, || leftovers(work.path()).is_empty().then_some(()));
}

fn leftovers(work: &Path) -> Vec<String> {
    let names = std::fs::read_dir(work.join("tmp")).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
    names.filter(|n| n.starts_with("job-") || n.starts_with("buildkite_job_log")).collect()
}

#[test]
fn env_files_exist_during_the_job_are_private_and_go_with_it() {
    let script = "#!/bin/sh\ncp \"$BUILDKITE_ENV_FILE\" \"$DIR/env\"; cp \"$BUILDKITE_ENV_JSON_FILE\" \"$DIR/json\"\nstat -c %a \"$BUILDKITE_ENV_FILE\" \"$BUILDKITE_ENV_JSON_FILE\"\n";
    let (job, _agent, work, _plane) = run(script, &["--no-pty"], &[("FOO", "a \"q\"\n$x"), ("BUILDKITE_AGENT_TOKEN", "leak")]);
    assert_eq!(job.text(), "600\n600\n");
    let env = std::fs::read_to_string(work.path().join("env")).unwrap();
    assert!(env.contains("FOO=\"a \\\"q\\\"\\n$x\"\n") && env.contains("BUILDKITE_GIT_REMOTE_MIRROR_URL=\"\"\n"), "{env}");
    assert!(env.starts_with("BUILDKITE_GIT_CHECKOUT_FLAGS\nBUILDKITE_ARTIFACT_UPLOAD_CONCURRENCY\n"));
    assert!(!env.contains("leak") && !env.contains("job-token"));
    let json: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(work.path().join("json")).unwrap()).unwrap();
    assert_eq!(json["FOO"], "a \"q\"\n$x");
    assert!(leftovers(work.path()).is_empty(), "absent when finish is sent");
}

#[test]
fn the_job_gets_its_token_and_never_the_registration_token() {
    let (job, ..) = run("#!/bin/sh\nenv\n", &["--no-pty"], &[("BUILDKITE_AGENT_TOKEN", "leak"), ("BUILDKITE_AGENT_ENDPOINT", "http://evil")]);
    let text = job.text();
    assert!(text.contains("BUILDKITE_AGENT_ACCESS_TOKEN=job-token-1\n"), "{text}");
    assert!(!text.contains("registration-token") && !text.contains("leak") && !text.contains("http://evil"));
    assert!(text.contains("BUILDKITE_IGNORED_ENV=BUILDKITE_AGENT_ENDPOINT\n"), "{text}");
    assert!(text.contains("BUILDKITE_PTY=false\n"));
}

#[test]
fn allow_lists_and_the_pre_bootstrap_hook_refuse() {
    let (job, _a, work, _p) = run("#!/bin/sh\ntouch ran\n", &["--allowed-repositories", "^git@good"], &[("BUILDKITE_REPO", "git@evil:x")]);
    assert_eq!(result(&job), (Some("-1"), None, Some("agent_refused")));
    assert_eq!(job.text(), "failed to validate repo: git@evil:x has no match in [^git@good]\n");
    assert!(!work.path().join("builds/ran").exists());

    let (work, plane) = (dir(), Plane::start());
    let job = plane.job(&[]);
    let agent = Setup::script("#!/bin/sh\ntouch ran\n").hook("pre-bootstrap", "#!/bin/sh\necho no thanks\nexit 1\n").start(&plane, work.path());
    let done = plane.wait_finish(&job);
    assert_eq!(result(&done), (Some("-1"), None, Some("agent_refused")));
    assert_eq!(done.text(), "pre-bootstrap hook rejected this job, see the buildkite-agent logs for more details\n");
    agent.wait_text("no thanks");
    assert!(!work.path().join("builds/ran").exists());
}

#[test]
fn a_signed_job_is_refused_by_an_agent_without_keys() {
    let (work, plane) = (dir(), Plane::start());
    let job = plane.job(&[]);
    plane.with(|s| {
        s.jobs.get_mut(&job).unwrap().body["step"] =
            serde_json::json!({"command": "x", "signature": {"algorithm": "EdDSA", "signed_fields": ["command"], "value": "sig"}})
    });
    let _agent = Setup::script("#!/bin/sh\n").start(&plane, work.path());
    let done = plane.wait_finish(&job);
    assert_eq!(result(&done), (Some("-1"), None, Some("signature_rejected")));
    assert!(
        done.text().starts_with(
            "+++ ⛔ Job signature verification failed\nerror: cannot verify signature. JWK for pipeline verification is not configured\n"
        ),
        "{}",
        done.text()
    );
}

const TRAP: &str = "#!/bin/sh\ntrap 'echo got; exit STATUS' TERM\ntouch \"$DIR/up\"\nwhile :; do sleep 0.05; done\n";

fn cancel(state: &str, script: &str, args: &[&str]) -> (Job, tempfile::TempDir, Agent, Plane) {
    let (work, plane) = (dir(), Plane::start());
    let job = plane.job(&[("DIR", work.path().to_str().unwrap())]);
    let agent = Setup::script(script).arg(args).start(&plane, work.path());
    wait_for("the job to run", SOON, || work.path().join("up").exists().then_some(()));
    plane.with(|s| s.jobs.get_mut(&job).unwrap().state = state.into());
    let done = plane.wait_finish(&job);
    (done, work, agent, plane)
}

#[test]
fn a_cancelled_job_is_never_a_success() {
    let (job, ..) = cancel("canceling", &TRAP.replace("STATUS", "0"), &[]);
    assert_eq!(result(&job), (Some("1"), None, Some("cancel")));
    let (job, ..) = cancel("canceled", &TRAP.replace("STATUS", "5"), &["--no-pty"]);
    assert_eq!(result(&job), (Some("5"), None, Some("cancel")));
}

#[test]
fn a_timeout_writes_the_marker_before_the_signal_and_removes_it() {
    let script = "#!/bin/sh\ntrap 'cat \"$BUILDKITE_AGENT_JOB_TIMEOUT_FILE\"; exit 3' TERM\ntouch \"$DIR/up\"\nwhile :; do sleep 0.05; done\n";
    let (job, work, ..) = cancel("timing_out", script, &["--no-pty"]);
    assert_eq!(result(&job), (Some("3"), None, Some("cancel")));
    // The shell may say how its own child ended.
    assert!(job.text().ends_with("true"), "{:?}", job.text());
    assert!(leftovers(work.path()).is_empty());
}

#[test]
fn a_stubborn_job_is_killed_and_so_are_its_childrens_groups() {
    // The executor's child leads a group of its own, as a command under the built-in executor does.
    let script = "#!/bin/bash\ntrap '' TERM\nset -m\n(trap '' TERM HUP; echo $BASHPID > \"$DIR/child\"; touch \"$DIR/up\"; while :; do sleep 0.05; done) &\nwait\nwhile :; do sleep 0.05; done\n";
    let (job, work, ..) = cancel("canceling", script, &["--no-pty"]);
    assert_eq!(result(&job), (Some("-1"), Some("SIGKILL"), Some("cancel")));
    let child: u32 = std::fs::read_to_string(work.path().join("child")).unwrap().trim().parse().unwrap();
    assert!(!alive(child), "a command that ignores the signal must not be orphaned");
}

#[test]
fn a_member_of_the_group_that_outlives_a_cancelled_leader_is_swept() {
    let script = "#!/bin/bash\n(trap '' TERM HUP; echo $BASHPID > \"$DIR/child\"; while :; do sleep 0.05; done) &\ntrap 'exit 4' TERM\nuntil [ -s \"$DIR/child\" ]; do sleep 0.02; done\ntouch \"$DIR/up\"\nwhile :; do sleep 0.05; done\n";
    let (job, work, ..) = cancel("canceling", script, &["--no-pty"]);
    assert_eq!(job.finished("exit_status"), Some("4"));
    let child: u32 = std::fs::read_to_string(work.path().join("child")).unwrap().trim().parse().unwrap();
    assert!(!alive(child), "finish is sent after the sweep");
}

#[test]
fn on_a_normal_end_survivors_are_left_alone() {
    let script = "#!/bin/bash\nsetsid sh -c 'echo $$ > \"$DIR/child\"; exec sleep 300' >/dev/null 2>&1 </dev/null &\nuntil [ -s \"$DIR/child\" ]; do sleep 0.02; done\n";
    let (job, _agent, work, _plane) = run(script, &[], &[]);
    assert_eq!(job.finished("exit_status"), Some("0"));
    let child = std::fs::read_to_string(work.path().join("child")).unwrap();
    assert!(alive(child.trim().parse().unwrap()));
    std::process::Command::new("kill").arg(child.trim()).status().unwrap();
}

#[test]
fn output_kept_open_by_a_survivor_delays_the_finish_by_the_drain_bound_only() {
    // S + 1 s = 3 s for a pipe.
    let script = "#!/bin/sh\necho before\n(trap '' HUP; sleep 60; echo late) &\nexit 6\n";
    let (job, _agent, _work, plane) = run(script, &["--no-pty"], &[]);
    assert_eq!(job.finished("exit_status"), Some("6"));
    assert_eq!(job.text(), "before\n");
    let (start, finish) = (plane.wait_request("PUT", "/start", 1), plane.wait_request("PUT", "/finish", 1));
    let took = finish.at - start.at;
    assert!(took >= Duration::from_millis(2500) && took < Duration::from_secs(8), "{took:?}");
}

#[test]
fn a_poll_answered_401_cancels_the_job() {
    let (work, plane) = (dir(), Plane::start());
    let job = plane.job(&[("DIR", work.path().to_str().unwrap())]);
    let agent = Setup::script(&TRAP.replace("STATUS", "2")).start(&plane, work.path());
    wait_for("the job to run", SOON, || work.path().join("up").exists().then_some(()));
    plane.rule("GET", "/jobs/", 1, Act::Status(401));
    let done = plane.wait_finish(&job);
    assert_eq!(result(&done), (Some("2"), None, Some("cancel")));
    agent.wait_text("Invalid access token, cancelling job");
}

#[test]
fn other_poll_answers_change_nothing() {
    let (work, plane) = (dir(), Plane::start());
    let job = plane.job(&[("DIR", work.path().to_str().unwrap())]);
    plane.rule("GET", "/jobs/", 1, Act::Status(500));
    plane.rule("GET", "/jobs/", 1, Act::Status(404));
    plane.rule("GET", "/jobs/", 1, Act::Text(200, "text/html", "<html>"));
    let _agent = Setup::script("#!/bin/sh\nuntil [ -e \"$DIR/go\" ]; do sleep 0.05; done\n").start(&plane, work.path());
    plane.wait("four polls", SOON, |s| (s.requests.iter().filter(|r| r.method == "GET" && r.path.starts_with("/jobs/")).count() >= 4).then_some(()));
    std::fs::write(work.path().join("go"), "").unwrap();
    assert_eq!(result(&plane.wait_finish(&job)), (Some("0"), None, None));
}

#[test]
fn rejected_chunks_are_counted_and_later_ones_keep_their_place() {
    let (work, plane) = (dir(), Plane::start());
    let job = plane.job(&[("DIR", work.path().to_str().unwrap())]);
    plane.rule("POST", "/chunks", 1, Act::Status(400));
    let agent = Setup::script("#!/bin/sh\necho first\nuntil [ -e \"$DIR/go\" ]; do sleep 0.05; done\necho second\n")
        .arg(&["--no-pty"])
        .start(&plane, work.path());
    agent.wait_text("Giving up on uploading chunk 1, this will result in only a partial build log on Buildkite");
    std::fs::write(work.path().join("go"), "").unwrap();
    let done = plane.wait_finish(&job);
    assert_eq!(done.finish.as_ref().unwrap()["chunks_failed_count"], 1);
    assert_eq!(plane.requests("POST", "/chunks").iter().filter(|r| r.query.starts_with("sequence=1&")).count(), 1, "a 400 is not retried");
    let first = plane.requests("POST", "/chunks").into_iter().find(|r| r.query.starts_with("sequence=1&")).unwrap();
    let size: u64 = first.query.rsplit('=').next().unwrap().parse().unwrap();
    assert_eq!(done.chunks[&2].0, size, "the hole has a known place and size");
}

#[test]
fn a_lost_finish_answer_ends_with_the_422_of_the_second_attempt() {
    let (work, plane) = (dir(), Plane::start());
    let job = plane.job(&[]);
    plane.rule("PUT", "/finish", 1, Act::ApplyThenCut);
    let agent = Setup::script("#!/bin/sh\n").start(&plane, work.path());
    agent.wait_text("Couldn't mark job as finished");
    assert_eq!(plane.get(&job).finishes, 2);
    let next = plane.job(&[]);
    plane.wait_finish(&next);
    let bodies: Vec<_> = plane.requests("PUT", &format!("{job}/finish")).into_iter().map(|r| r.body).collect();
    assert_eq!(bodies[0], bodies[1], "every attempt has the same body");
}

#[test]
fn plain_mode_streams_header_times_before_the_finish() {
    let (job, _agent, _work, plane) = run("#!/bin/sh\necho '--- one'\necho text\necho '+++ two'\n", &["--no-pty", "--no-ansi-timestamps"], &[]);
    assert_eq!(job.log(), b"--- one\ntext\n+++ two\n");
    let mut keys: Vec<String> = Vec::new();
    for r in plane.requests("POST", "/header_times") {
        keys.extend(r.json()["header_times"].as_object().unwrap().keys().cloned());
    }
    assert_eq!(keys, ["0", "1"]);
    let last = plane.with(|s| s.requests.iter().rfind(|r| r.path.starts_with("/jobs/")).cloned().unwrap());
    assert!(last.path.ends_with("/finish"));
}

#[test]
fn chunk_size_0_is_replaced_not_fatal() {
    let (work, plane) = (dir(), Plane::start());
    let job = plane.job(&[]);
    plane.with(|s| s.jobs.get_mut(&job).unwrap().body["chunks_max_size_bytes"] = 0.into());
    let _agent = Setup::script("#!/bin/sh\necho hello\n").start(&plane, work.path());
    assert_eq!(plane.wait_finish(&job).text(), "hello\r\n");
}

#[test]
fn the_built_in_executor_runs_a_command() {
    let (work, plane) = (dir(), Plane::start());
    let build = work.path().join("builds/here");
    let env = [
        ("BUILDKITE_COMMAND", "echo hello; exit 4"),
        ("BUILDKITE_COMMIT", "HEAD"),
        ("BUILDKITE_BRANCH", "main"),
        ("BUILDKITE_REPO", "none"),
        ("BUILDKITE_SKIP_CHECKOUT", "true"),
        ("BUILDKITE_BUILD_CHECKOUT_PATH", build.to_str().unwrap()),
        ("BUILDKITE_AGENT_NAME", "a"),
        ("BUILDKITE_ORGANIZATION_SLUG", "o"),
        ("BUILDKITE_PIPELINE_SLUG", "p"),
        ("BUILDKITE_PIPELINE_PROVIDER", "git"),
    ];
    let job = plane.job(&env);
    let _agent = Setup::builtin().start(&plane, work.path());
    let done = plane.wait_finish(&job);
    assert_eq!(result(&done), (Some("4"), None, None), "{}", done.text());
    assert!(done.text().contains("~~~ Running commands") && done.text().contains("hello"), "{}", done.text());
}

#[test]
fn w5_a_commands_own_125_is_told_from_the_executors() {
    let (work, plane) = (dir(), Plane::start());
    let _agent = Setup::builtin().hook("environment", "#!/bin/sh\n[ -z \"$HOOK\" ] || exit $HOOK\n").start(&plane, work.path());
    let run = |command: &str, env: &[(&str, &str)]| plane.wait_finish(&plane.command_with(work.path(), command, env));
    let own = run("env | grep ^BUILDKITE_AGENT_JOB_STATUS || echo hidden; exit 125", &[]);
    assert_eq!(result(&own), (Some("125"), None, None), "{}", own.text());
    assert!(own.text().contains("\nhidden\r"), "the way is not shown to commands: {}", own.text());
    assert!(leftovers(work.path()).is_empty(), "absent when finish is sent");
    let hook = run("echo never", &[("HOOK", "125")]);
    assert_eq!(result(&hook), (Some("125"), None, None), "{}", hook.text());
    assert_eq!(result(&run("exit 124", &[])), (Some("124"), None, None));

    // An executor that fails before anything has run says so, and an executor that knows of no way is believed.
    let (work, plane) = (dir(), Plane::start());
    let _agent = Setup::builtin().hook("environment", "#!/no/such/interpreter\n").start(&plane, work.path());
    let failed = plane.wait_finish(&plane.command(work.path(), "echo never"));
    assert_eq!(result(&failed), (Some("-1"), None, Some("process_run_error")), "{}", failed.text());
    assert!(failed.text().contains("Error setting up job executor: ") && !failed.text().contains("\nnever"), "{}", failed.text());
    let (other, ..) = self::run("#!/bin/sh\nexit 125\n", &[], &[]);
    assert_eq!(result(&other), (Some("-1"), None, Some("process_run_error")));
}
