//! `ibex run`, as people meet it: the built program, real processes, real HTTP.

use assert_cmd::cargo::cargo_bin;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Output, Stdio};

/// `ibex run` in the directory of this repository, with nothing of a surrounding job.
fn ibex(args: &[&str]) -> Command {
    let mut command = Command::new(cargo_bin("ibex"));
    command.arg("run").args(args).current_dir(env!("CARGO_MANIFEST_DIR")).stdin(Stdio::null());
    for (name, _) in std::env::vars() {
        if name.starts_with("BUILDKITE") {
            command.env_remove(name);
        }
    }
    command
}

fn output(args: &[&str]) -> (i32, String, String) {
    let Output { status, stdout, stderr } = ibex(args).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (status.code().unwrap(), text(&stdout), text(&stderr))
}

fn pipeline(dir: &Path, text: &str) -> String {
    let file = dir.join("pipeline.yml");
    std::fs::write(&file, text).unwrap();
    file.display().to_string()
}

#[test]
fn the_hello_example_passes_with_a_readable_log() {
    let (code, out, err) = output(&["examples/hello/pipeline.yml"]);
    assert_eq!(code, 0, "{out}\n{err}");
    for line in ["greet | hello from greet, build 1", "lint  | found something to grumble about", "count | line 3", "Build passed"] {
        assert!(out.lines().any(|l| l == line), "no line {line:?} in\n{out}");
    }
    assert!(out.contains("soft-failed") && !out.contains('\x1b') && !out.contains("_bk;t="), "{out}");
    let at = |part: &str| out.find(part).unwrap();
    assert!(at("hello from greet") < at("line 1") && at("grumble about\n") < at("line 1"), "what stands behind the wait comes later");
}

#[test]
fn the_upload_example_runs_what_its_first_step_uploads_before_what_stands_behind_the_wait() {
    let (code, out, err) = output(&["examples/upload/pipeline.yml"]);
    assert_eq!(code, 0, "{out}\n{err}");
    let at = |part: &str| out.find(part).unwrap_or_else(|| panic!("no {part:?} in\n{out}"));
    let report = at("report | everything after the wait comes last");
    for part in ["building the server", "building the client"] {
        assert!(at("plan   | -- passed") < at(part) && at(part) < report, "{out}");
    }
    let rows = out.split_once("step").unwrap().1;
    assert!(["plan", "server", "client", "report"].iter().all(|s| rows.contains(s)), "{out}");
}

#[test]
fn an_upload_that_cannot_be_run_fails_its_step_with_the_reason() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("more.yml"), "steps:\n  - command: a\n    matrix: [1]\n").unwrap();
    let command = format!("buildkite-agent pipeline upload {}", dir.path().join("more.yml").display());
    let file = pipeline(dir.path(), &format!("steps:\n  - label: up\n    command: {command}\n"));
    let (code, out, _) = output(&[&file]);
    assert_eq!(code, 1, "{out}");
    assert!(out.contains("pipeline upload rejected: upload: step 1 (a), matrix: the embedded control plane does not do this"), "{out}");
}

#[test]
fn an_upload_replaces_what_has_not_started_and_a_step_asks_for_another_ones_outcome() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(
        dir.path().join("more.yml"),
        "steps:\n  - label: new\n    command: echo plan is $(buildkite-agent step get outcome --step plan)\n",
    )
    .unwrap();
    let command = format!("buildkite-agent pipeline upload --no-interpolation --replace {}", dir.path().join("more.yml").display());
    let file = pipeline(
        dir.path(),
        &format!("steps:\n  - key: plan\n    command: {command}\n  - wait\n  - label: step-to-be-replaced\n    command: echo never\n"),
    );
    let (code, out, err) = output(&[&file]);
    assert_eq!(code, 0, "{out}\n{err}");
    assert!(out.contains("plan is passed") && !out.contains("never") && !out.contains("step-to-be-replaced"), "{out}");
}

#[test]
fn the_failing_example_fails_and_names_the_step() {
    let (code, out, _) = output(&["examples/failing/pipeline.yml"]);
    assert_eq!(code, 1);
    assert!(out.ends_with("Build failed: test\n"), "{out}");
    assert!(!out.contains("| never seen"), "{out}");
}

#[test]
fn a_pipeline_that_cannot_be_run_is_status_2_and_says_where() {
    let dir = tempfile::tempdir().unwrap();
    let file = pipeline(dir.path(), "steps:\n  - command: a\n    matrix: [1]\n");
    let (code, out, err) = output(&[&file]);
    assert_eq!((code, out.as_str()), (2, ""));
    assert!(err.starts_with("pipeline.yml:3:13: step 1 (a), matrix: "), "{err}");
    assert_eq!(output(&["/nowhere/pipeline.yml"]).0, 2);
    let file = pipeline(dir.path(), "steps: [{command: a, key: k}, {command: b, key: k}]");
    let (code, _, err) = output(&[&file]);
    assert_eq!((code, err.as_str()), (2, "step 2: the key `k` is used by another step\n"));
}

#[test]
fn a_job_that_no_agent_can_run_is_reported_instead_of_waiting() {
    let dir = tempfile::tempdir().unwrap();
    let file = pipeline(dir.path(), "steps: [{command: echo hi, agents: {os: plan9}}]");
    let (code, _, err) = output(&[&file]);
    assert_eq!(code, 1, "{err}");
    assert!(err.contains("no agent of this run has the tags"), "{err}");
    assert_eq!(output(&[&file, "--tags", "os=plan9"]).0, 0);
}

#[test]
fn json_is_one_event_per_line_and_ends_with_the_exit_code() {
    let (code, out, _) = output(&["--json", "examples/failing/pipeline.yml"]);
    let events: Vec<serde_json::Value> = out.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    assert_eq!(code, 1);
    assert_eq!(*events.last().unwrap(), serde_json::json!({"event": "end", "state": "failed", "exit_code": 1}));
    let ended = |e: &&serde_json::Value| e["event"] == "job" && e["step"] == "test" && e["state"] == "finished";
    assert_eq!(events.iter().find(ended).unwrap()["exit_status"], 7);
}

/// Starts a pipeline, waits for the line `up` in its log, and sends `interrupts` SIGINTs, each after the answer to the one before.
fn interrupted(command: &str, interrupts: u32) -> (i32, String) {
    let dir = tempfile::tempdir().unwrap();
    let file = pipeline(dir.path(), &format!("steps:\n  - label: slow\n    command: {command:?}\n"));
    let mut child = ibex(&[&file]).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut seen = String::new();
    let mut until = |wanted: &str| {
        for line in lines.by_ref() {
            let line = line.unwrap();
            seen.push_str(&line);
            seen.push('\n');
            if line == wanted {
                return;
            }
        }
    };
    until("slow | up");
    let pid = rustix::process::Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
    for _ in 0..interrupts {
        rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
        until("slow | -- canceling");
    }
    until("");
    (child.wait().unwrap().code().unwrap(), seen)
}

#[test]
fn an_interrupt_cancels_the_jobs_with_grace_and_reports_them() {
    let (code, out) = interrupted("trap 'echo cleaning up; exit 3' TERM; echo up; while true; do sleep 0.1; done", 1);
    assert_eq!(code, 130, "{out}");
    assert!(out.contains("slow | cleaning up") && out.contains("slow | -- canceled in"), "{out}");
}

#[test]
fn a_second_interrupt_waits_for_nothing() {
    let begun = std::time::Instant::now();
    let (code, out) = interrupted("trap '' TERM; echo up; while true; do sleep 0.1; done", 2);
    assert_eq!(code, 130, "{out}");
    assert!(begun.elapsed() < std::time::Duration::from_secs(9), "the grace period is 10 s, and nobody waited for it");
}
