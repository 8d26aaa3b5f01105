//! In-job commands as scripts call them: what they send, what they print, how they exit (specification: commands).

mod support;

use assert_cmd::Command;
use support::{Request, Server};

fn command(server: &Server) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ibex"));
    command.env_clear().timeout(std::time::Duration::from_secs(60));
    for (name, value) in [
        ("BUILDKITE_AGENT_ACCESS_TOKEN", "tok-AAA"),
        ("BUILDKITE_AGENT_ENDPOINT", server.url.as_str()),
        ("BUILDKITE_JOB_ID", "job-1"),
        ("BUILDKITE_BUILD_ID", "build-1"),
        ("BUILDKITE_STEP_ID", "step-1"),
        ("BUILDKITE_AGENT_NO_COLOR", "true"),
    ] {
        command.env(name, value);
    }
    command
}

/// Exit code, stdout, stderr, and the requests made.
fn run(args: &[&str], stdin: &str, answer: (u16, &str)) -> (i32, String, String, Vec<Request>) {
    let (status, body) = (answer.0, answer.1.to_owned());
    let server = Server::start(move |_| (status, body.clone()));
    let output = command(&server).args(args).write_stdin(stdin).output().expect("the binary runs");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code().expect("an exit code"), text(&output.stdout), text(&output.stderr), server.requests())
}

#[test]
fn the_worked_examples_send_these_bodies() {
    for (args, stdin, line, body) in [
        (
            &["annotate", "hi <b>", "--style", "info", "--append"][..],
            "",
            "POST /v3/jobs/job-1/annotations",
            r#"{"body":"hi <b>","style":"info","append":true,"priority":3,"scope":"build"}"#,
        ),
        (&["annotate", "x", "--priority", "0", "--scope", ""], "", "POST /v3/jobs/job-1/annotations", r#"{"body":"x"}"#),
        (&["annotate"], "from\n", "POST /v3/jobs/job-1/annotations", r#"{"body":"from\n","priority":3,"scope":"build"}"#),
        (&["annotation", "remove", "--context", "a.b/c d"], "", "DELETE /v3/jobs/job-1/annotations/a%2Eb%2Fc%20d?scope=build", ""),
        (&["meta-data", "set", "k"], "one\ntwo\n", "POST /v3/jobs/job-1/data/set", r#"{"key":"k","value":"one\ntwo\n"}"#),
        (&["meta-data", "set", "  k ", " v "], "", "POST /v3/jobs/job-1/data/set", r#"{"key":"k","value":"v"}"#),
        (&["meta-data", "set", "--", "  k ", " v "], "", "POST /v3/jobs/job-1/data/set", r#"{"key":"  k ","value":" v "}"#),
        (&["meta-data", "set", "k", "x tok-AAA y"], "", "POST /v3/jobs/job-1/data/set", r#"{"key":"k","value":"x [REDACTED] y"}"#),
        (
            &["meta-data", "set-batch", "b=1", "a=2"],
            "",
            "POST /v3/jobs/job-1/data/set-batch",
            r#"{"items":[{"key":"b","value":"1"},{"key":"a","value":"2"}]}"#,
        ),
        (&["step", "cancel"], "", "POST /v3/steps/step-1/cancel", r#"{"build_id":"build-1","force":false,"force_grace_period":15}"#),
        (&["job", "update", "timeout"], "20\n", "PUT /v3/jobs/job-1", r#"{"timeout":"20\n"}"#),
        (
            &["oidc", "request-token", "--skip-redaction", "--claim", "a,b", "--claim", "c", "--lifetime", "60"],
            "",
            "POST /v3/jobs/job-1/oidc/tokens",
            r#"{"lifetime":60,"claims":["a","b","c"]}"#,
        ),
        (&["pause", "--timeout-in-minutes", "5"], "", "POST /v3/pause", r#"{"timeout_in_minutes":5}"#),
        (&["build", "cancel"], "", "POST /v3/builds/build-1/cancel", ""),
    ] {
        let (code, _, err, requests) = run(args, stdin, (200, "{}"));
        assert_eq!(code, 0, "{args:?}: {err}");
        assert_eq!(requests.len(), 1, "{args:?}");
        assert_eq!(requests[0].line, line);
        assert_eq!(requests[0].header("authorization"), Some("Token tok-AAA"));
        match body {
            "" => assert_eq!(requests[0].body, ""),
            body => assert_eq!(requests[0].json(), serde_json::from_str::<serde_json::Value>(body).unwrap(), "{args:?}"),
        }
    }
}

#[test]
fn step_update_carries_an_idempotency_uuid_and_leaves_the_empty_value_out() {
    let (_, _, _, requests) = run(&["step", "update", "label", ""], "", (200, "{}"));
    let body = requests[0].json();
    let keys: Vec<&String> = body.as_object().unwrap().keys().collect();
    assert_eq!(keys, ["idempotency_uuid", "build_id", "attribute"]);
    assert_eq!(body["idempotency_uuid"].as_str().unwrap().len(), 36);
}

#[test]
fn payload_goes_to_stdout_and_nothing_else_does() {
    for (args, answer, out, code) in [
        (&["meta-data", "get", "k"][..], (200, r#"{"key":"k","value":"v\n"}"#), "v\n\n", 0),
        (&["meta-data", "get", "k", "--default", "D"], (404, "{}"), "D\n", 0),
        (&["meta-data", "get", "k", "--default", ""], (404, "{}"), "\n", 0),
        (&["meta-data", "get", "k"], (404, "{}"), "", 1),
        (&["meta-data", "get", "k", "--default", "D"], (403, "{}"), "", 1),
        (&["meta-data", "exists", "k"], (200, r#"{"exists":true}"#), "", 0),
        (&["meta-data", "exists", "k"], (200, r#"{"exists":false}"#), "", 100),
        (&["meta-data", "exists", "k"], (404, "{}"), "", 1),
        (&["meta-data", "keys"], (200, r#"["b","a"]"#), "b\na\n", 0),
        (&["step", "get", "label"], (200, r#"{"output":"x"}"#), "x\n", 0),
        (&["secret", "get", "--skip-redaction", "s"], (200, r#"{"value":"it's"}"#), "it's\n", 0),
        (&["secret", "get", "--skip-redaction", "--format=env", "s"], (200, r#"{"value":"it's"}"#), "S='it'\\''s'\n", 0),
        (&["oidc", "request-token", "--skip-redaction"], (200, r#"{"token":"t"}"#), "t\n", 0),
    ] {
        let (got, stdout, err, _) = run(args, "", answer);
        assert_eq!((got, stdout.as_str()), (code, out), "{args:?}: {err}");
        if code == 1 {
            assert!(err.lines().last().unwrap_or_default().starts_with("buildkite-agent: fatal: "), "{err}");
        }
    }
}

#[test]
fn without_a_job_api_no_credential_is_printed() {
    for args in [&["secret", "get", "s"][..], &["oidc", "request-token"]] {
        let (code, out, err, _) = run(args, "", (200, r#"{"value":"sekret-value","token":"sekret-value"}"#));
        assert_eq!((code, out.as_str()), (1, ""));
        assert!(err.contains("redaction requires the Job API") && !err.contains("sekret-value"), "{err}");
    }
}

#[test]
fn the_first_missing_value_is_reported_before_anything_is_sent() {
    let server = Server::start(|_| (200, "{}".into()));
    let missing = |remove: &[&str], args: &[&str]| {
        let mut command = command(&server);
        for name in remove {
            command.env_remove(name);
        }
        let output = command.args(args).output().expect("the binary runs");
        assert_eq!(output.status.code(), Some(1));
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    let get = "meta-data get";
    assert_eq!(
        missing(&["BUILDKITE_AGENT_ACCESS_TOKEN"], &["meta-data", "get"]),
        format!("Missing agent-access-token. See: `buildkite-agent {get} --help`\n")
    );
    assert_eq!(missing(&[], &["meta-data", "get"]), format!("Missing meta-data key. See: `buildkite-agent {get} --help`\n"));
    assert_eq!(missing(&["BUILDKITE_JOB_ID"], &["annotate", "x"]), "Missing job. See: `buildkite-agent annotate --help`\n");
    assert!(server.requests().is_empty());
}

#[test]
fn an_annotation_is_measured_after_redaction() {
    let fits = "x".repeat(1_048_576);
    assert_eq!(run(&["annotate"], &fits, (200, "{}")).0, 0);
    let (code, _, err, requests) = run(&["annotate"], &(fits + "x"), (200, "{}"));
    assert_eq!((code, requests.len()), (1, 0));
    assert!(err.ends_with("buildkite-agent: fatal: annotation body size (1048577B) exceeds maximum (1048576B)\n"), "{err}");
}

#[test]
fn the_program_speaks_for_itself() {
    let run = |args: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_ibex")).args(args).output().expect("the binary runs");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (output.status.code(), text(&output.stdout), text(&output.stderr))
    };
    let (code, out, _) = run(&["--version"]);
    assert!(code == Some(0) && out.starts_with("buildkite-agent version ") && out.ends_with('\n'), "{out}");
    for args in [&[][..], &["help"], &["--help"], &["-h"]] {
        let (code, out, _) = run(args);
        assert!(code == Some(0) && out.starts_with("Usage:\n  buildkite-agent <command> [options...]\n"), "{out}");
        assert!(out.ends_with("Use \"buildkite-agent <command> --help\" for more information about a command.\n"));
    }
    assert_eq!(
        run(&["nonsense"]),
        (Some(1), String::new(), "buildkite-agent: unknown subcommand \"nonsense\"\nRun 'buildkite-agent --help' for usage.\n".into())
    );
    assert_eq!(run(&["meta-data", "nonsense"]), (Some(3), String::new(), "No help topic for 'nonsense'\n".into()));
    for args in [&["meta-data", "get", "--help"][..], &["meta-data", "help", "get"], &["meta-data", "get", "help"], &["meta-data", "get", "-h"]] {
        let (code, out, _) = run(args);
        assert!(code == Some(0) && out.starts_with("Usage:\n\n    buildkite-agent meta-data get ") && out.contains("\nOptions:\n\n"), "{out}");
    }
    let (code, out, err) = run(&["meta-data", "get", "--nope"]);
    assert_eq!((code, out.starts_with("Usage:")), (Some(1), true));
    assert_eq!(err, "Incorrect Usage: flag provided but not defined: -nope\n\nbuildkite-agent: fatal: flag provided but not defined: -nope\n");
}

#[test]
fn env_dump_prints_the_environment_as_sorted_json() {
    let output = Command::new(env!("CARGO_BIN_EXE_ibex")).env_clear().env("B", "<&>\n").env("A", "1").args(["env", "dump"]).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "{\"A\":\"1\",\"B\":\"<&>\\n\"}\n");
}
