//! `start` as its users call it: options, configuration file, token, and what it says when something is wrong
//! (specification: start-flags).

mod support;

use assert_cmd::Command;
use std::path::Path;
use std::process::Stdio;
use support::Server;

/// The binary with an environment of its own: nothing of the surroundings of the test may matter.
fn ibex(home: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ibex"));
    command.env_clear().env("PATH", std::env::var("PATH").unwrap_or_default()).env("HOME", home).env("NO_COLOR", "1").current_dir(home);
    command.timeout(std::time::Duration::from_secs(60));
    command
}

fn home() -> tempfile::TempDir {
    tempfile::tempdir().expect("a temporary directory")
}

/// A server that refuses every registration: the shortest way to see what was sent.
fn refusing() -> Server {
    Server::start(|_| (401, "{\"message\":\"no such token\"}".into()))
}

fn stderr(output: &std::process::Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Runs `start` with a token and a build path against a server that refuses; gives exit code, stderr and stdout.
fn start(args: &[&str]) -> (Option<i32>, String, String, usize) {
    let (home, server) = (home(), refusing());
    let output = ibex(home.path())
        .args(["start", "--token", "tok", "--build-path", "builds", "--endpoint", &server.url])
        .args(args)
        .output()
        .expect("the binary runs");
    (output.status.code(), stderr(&output), String::from_utf8_lossy(&output.stdout).into_owned(), server.requests().len())
}

#[test]
fn given_a_bad_option_then_its_row_of_the_specification_is_the_last_line_and_nothing_is_sent() {
    for (args, text) in [
        (&["--git-mirror-checkout-mode=x"][..], "invalid git mirror checkout mode \"x\", must be one of [dissociate reference]"),
        (&["--git-sparse-checkout-mode", "x"], "invalid sparse checkout mode \"x\", must be one of [cone no-cone]"),
        (&["-ping-mode=x"], "invalid ping mode \"x\", must be one of [auto poll-only ping-only stream-only]"),
        (&["--spawn-with-priority=true"], "invalid spawn-with-priority, must be one of [static ascending descending]"),
        (&["--checkout-override-mode=x"], "invalid checkout-override mode \"x\", must be one of [strict from-job none]"),
        (
            &["--verification-jwks-file=x", "--verification-failure-behavior=x"],
            "invalid job verification no signature behavior \"x\". Must be one of: [block warn]",
        ),
        (&["--cancel-signal=TERM"], "failed to parse cancel-signal: unknown signal \"TERM\""),
        (&["--cancel-signal-timeout=-1s"], "invalid cancel-signal-timeout: it must not be negative"),
        (&["--cancel-cleanup-timeout=-1ms"], "invalid cancel-cleanup-timeout: it must not be negative"),
        (&["--spawn=2", "--spawn-per-cpu=1"], "you can't specify spawn and spawn-per-cpu at the same time"),
        (&["--spawn=2", "--acquire-job=j"], "you can't spawn multiple agents and acquire a job at the same time"),
        (&["--spawn=0"], "invalid spawn 0, must be at least 1"),
        (&["--git-commit-verification=x"], "invalid value for --git-commit-verification: \"x\" (must be \"strict\" or \"off\")"),
        (&["--nonsense"], "flag provided but not defined: -nonsense"),
        (&["--spawn=many"], "invalid value \"many\" for flag -spawn: \"many\" is not a whole number"),
    ] {
        let (code, err, _, requests) = start(args);
        assert_eq!(code, Some(1), "{args:?}: {err}");
        assert_eq!(err.lines().last(), Some(format!("buildkite-agent: fatal: {text}").as_str()), "{args:?}");
        assert_eq!(requests, 0, "{args:?}");
    }
}

#[test]
fn given_a_usage_error_then_the_help_is_on_the_error_stream() {
    let (_, err, out, _) = start(&["--nonsense"]);
    assert!(err.starts_with("Incorrect Usage: flag provided but not defined: -nonsense\n\n"), "{err}");
    assert!(err.contains("Options:") && out.is_empty());
}

#[test]
fn given_a_fatal_row_then_it_is_one_log_line() {
    for (args, text) in [
        (&["--queue=a", "--tags=queue=b"][..], "Queue must be present in only one of the --tags or the --queue flags"),
        (&["--allowed-environment-variables=^A"], "allowed-environment-variables is set, but enable-environment-variable-allowlist is not set"),
        (&["--profile=x"], "Unknown profile mode \"x\""),
        (
            &["--enable-environment-variable-allowlist", "--allowed-environment-variables=("],
            "Regex ( in allowed-environment-variables failed to compile: error: unclosed group",
        ),
        (&["--allowed-repositories=a("], "Regex a( is allowed-repositories failed to compile: error: unclosed group"),
        (&["--allowed-plugins=a("], "Regex a( in allowed-plugins failed to compile: error: unclosed group"),
        (
            &["--verification-jwks-file=/nowhere"],
            "Verification JWKS failed validation: failed to read job verification keyset: open /nowhere: No such file or directory",
        ),
        (
            &["--signing-jwks-file=/nowhere"],
            "Signing JWKS failed validation: failed to read job signing keyset: open /nowhere: No such file or directory",
        ),
    ] {
        let (code, err, _, requests) = start(args);
        let last = err.lines().last().unwrap_or_default();
        assert!(last.contains(" FATAL  ") && last.ends_with(text), "{args:?}: {err}");
        assert_eq!((code, requests), (Some(1), 0));
    }
}

#[test]
fn given_restrictions_then_each_is_told_before_registration_also_one_that_another_implies() {
    for (args, lines) in [
        (&["--no-plugins"][..], &["Plugins have been disabled"][..]),
        (&["--no-local-hooks"], &["Plugins have been disabled"]),
        (&["--no-command-eval"], &["Evaluating console commands has been disabled", "Plugins have been disabled"]),
        (&["--no-command-eval", "--no-plugins=false"], &["Evaluating console commands has been disabled"]),
        (&["--no-ssh-keyscan"], &["Automatic ssh-keyscan has been disabled"]),
        (&["--no-pty"], &["Running builds within a pseudoterminal (PTY) has been disabled"]),
        (&["--disconnect-after-job"], &["Agents will disconnect after a job run has completed"]),
        (&["--disconnect-after-idle-timeout=90"], &["Agents will disconnect after 1m30s of inactivity"]),
        (&["--disconnect-after-uptime=3600"], &["Agents will disconnect after 1h0m0s of uptime and shut down after any running jobs complete"]),
        (&["--allowed-repositories=a,b.*"], &["Allowed repositories patterns: [a b.*]"]),
        (&["--allowed-plugins=a"], &["Allowed plugins patterns: [a]"]),
        (&["--disconnect-after-idle-timeout=-1", "--disconnect-after-uptime=0"], &[]),
    ] {
        let (_, err, _, _) = start(args);
        let (before, _) = err.split_once("INFO   Registering agent with Buildkite...").expect("it registers");
        let told: Vec<&str> = before.lines().filter_map(|l| l.split_once(" INFO   ")).map(|(_, text)| text).collect();
        let others = ["Connecting to custom endpoint ", "Build Path doesn't exist, creating it "];
        let told: Vec<&str> = told.into_iter().filter(|t| !others.iter().any(|o| t.starts_with(o))).collect();
        assert_eq!(told, lines, "{args:?}: {err}");
    }
}

#[test]
fn given_an_unknown_log_format_then_it_is_said_on_stdout() {
    let (code, _, out, _) = start(&["--log-format=xml"]);
    assert_eq!((code, out.as_str()), (Some(1), "Unknown log-format of \"xml\", try text or json\n"));
}

#[test]
fn given_no_options_then_the_first_missing_one_is_named_build_path_first() {
    let home = home();
    let missing = |args: &[&str]| stderr(&ibex(home.path()).arg("start").args(args).output().expect("the binary runs"));
    assert_eq!(missing(&[]), "Missing build-path. See: `buildkite-agent start --help`\n");
    assert_eq!(missing(&["--build-path=b"]), "Missing token. See: `buildkite-agent start --help`\n");
    assert_eq!(missing(&["--build-path=b", "--token=t", "--endpoint="]), "Missing endpoint. See: `buildkite-agent start --help`\n");
}

#[test]
fn given_a_bad_configuration_file_then_file_and_line_are_named() {
    let home = home();
    let path = home.path().join("agent.cfg");
    std::fs::write(&path, "# mine\nname=x\nnonsense\n").unwrap();
    let run = |config: &str| stderr(&ibex(home.path()).args(["start", "--config", config]).output().expect("the binary runs"));
    assert_eq!(
        run("agent.cfg"),
        "loading config file: parsing config line 3: can't separate key from value in string \"nonsense\", no valid separators (= or :) found\n"
    );
    assert_eq!(run("other.cfg"), format!("a configuration file could not be found at: \"{}\"\n", home.path().join("other.cfg").display()));
    std::fs::remove_file(&path).unwrap();
    std::fs::create_dir(&path).unwrap();
    assert!(run("agent.cfg").starts_with("loading config file: opening file "), "a directory is no file");
}

#[test]
fn given_a_file_in_the_home_directory_then_it_is_found_and_flags_and_variables_beat_it() {
    let (home, server) = (home(), refusing());
    std::fs::create_dir(home.path().join(".buildkite-agent")).unwrap();
    let text = format!("token=filetok # secret\nbuild-path=\"$HOME/b\"\nendpoint={}\nname=file\npriority=1\ntags=\"a=1,b\"\ndebug=yes\n", server.url);
    std::fs::write(home.path().join(".buildkite-agent/buildkite-agent.cfg"), text).unwrap();
    let output = ibex(home.path()).args(["start", "--name", "line"]).env("BUILDKITE_AGENT_PRIORITY", "2").output().expect("the binary runs");
    let err = stderr(&output);
    assert_eq!(output.status.code(), Some(1), "{err}");
    assert!(err.contains("Configuration loaded path=$HOME/.buildkite-agent/buildkite-agent.cfg\n"), "{err}");
    assert!(err.contains("WARN   Config file line 7: the value of `debug` counts as false"), "{err}");
    assert!(err.contains(&format!("Build Path doesn't exist, creating it ({}/b)", home.path().display())), "{err}");
    assert!(err.lines().last().unwrap_or_default().ends_with("401 Unauthorized: no such token"), "{err}");
    let request = &server.requests()[0];
    assert_eq!((request.line.as_str(), request.header("authorization")), ("POST /v3/register", Some("Token filetok")));
    let body = request.json();
    assert_eq!((&body["name"], &body["priority"]), (&"line".into(), &"2".into()));
    assert_eq!(body["meta_data"], serde_json::json!(["a=1", "b"]));
}

#[test]
fn given_options_of_version_3_then_they_are_mapped_with_a_warning_and_conflicts_name_both() {
    let (home, server) = (home(), refusing());
    let args = ["start", "--token=t", "--build-path=b", "--endpoint", &server.url];
    let output = ibex(home.path()).args(args).arg("--meta-data=a=1").output().expect("the binary runs");
    assert!(stderr(&output).contains("WARN   The config option `meta-data` has been renamed to `tags`. Please update your configuration.\n"));
    assert_eq!(server.requests()[0].json()["meta_data"], serde_json::json!(["a=1"]));
    let output = ibex(home.path()).args(args).args(["--meta-data=a=1", "--tags=b"]).output().expect("the binary runs");
    let err = stderr(&output);
    assert!(err.contains("`meta-data`") && err.contains("`tags`") && output.status.code() == Some(1), "{err}");
}

#[test]
fn given_a_plain_token_then_neither_command_line_nor_environment_of_the_process_hold_it() {
    for by_environment in [false, true] {
        let home = home();
        // The answer is held back while the process is looked at.
        let (release, held) = std::sync::mpsc::channel::<()>();
        let held = std::sync::Mutex::new(held);
        let server = Server::start(move |_| {
            let _ = held.lock().expect("no panic while held").recv_timeout(std::time::Duration::from_secs(20));
            (401, "{}".into())
        });
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_ibex"));
        command.env_clear().env("HOME", home.path()).current_dir(home.path()).stderr(Stdio::null()).stdin(Stdio::null());
        command.args(["start", "--build-path=b", "--endpoint", &server.url]);
        if by_environment {
            command.env("BUILDKITE_AGENT_TOKEN", "sekret");
        } else {
            command.args(["--token", "sekret"]);
        }
        let mut child = command.spawn().expect("the binary runs");
        let request = server.next();
        let read = |file: &str| String::from_utf8_lossy(&std::fs::read(format!("/proc/{}/{file}", child.id())).expect("the same pid")).into_owned();
        let (cmdline, environ) = (read("cmdline"), read("environ"));
        drop(release);
        assert_eq!(child.wait().expect("it ends").code(), Some(1));
        assert_eq!(request.header("authorization"), Some("Token sekret"));
        assert_eq!(request.json()["pid"], child.id());
        assert!(!cmdline.contains("sekret") && cmdline.contains("\0--token\0fd://"), "{cmdline:?}");
        assert!(!environ.contains("sekret") && !environ.contains("BUILDKITE_AGENT_TOKEN"), "{environ:?}");
    }
}

#[test]
fn given_a_token_in_a_file_then_it_is_used_and_a_missing_file_is_named() {
    let (home, server) = (home(), refusing());
    let path = home.path().join("token");
    std::fs::write(&path, "filetok\n").unwrap();
    let run = |token: &str| {
        stderr(&ibex(home.path()).args(["start", "--build-path=b", "--endpoint", &server.url, "--token", token]).output().expect("the binary runs"))
    };
    run(&format!("file://{}", path.display()));
    assert_eq!(server.requests()[0].header("authorization"), Some("Token filetok"));
    let err = run("file:///nowhere/token");
    let text = "buildkite-agent: fatal: failed to resolve registration token \"file:///nowhere/token\": couldn't read token from file: open /nowhere/token: No such file or directory\n";
    assert_eq!(err, text);
}

#[test]
fn given_a_reference_to_a_token_in_any_place_then_what_it_points_to_is_used_and_flag_beats_variable_beats_file() {
    let file = |home: &Path| format!("file://{}/token", home.display());
    // What stands on the command line, in the environment and in the file; `F` is replaced by a reference to the token's file.
    for (line, variable, config, expected) in [
        (Some("fd://5"), None, None, "filetok"),
        (None, Some("fd://5"), None, "filetok"),
        (None, None, Some("fd://5"), "filetok"),
        (None, Some("F"), None, "filetok"),
        (None, None, Some("F"), "filetok"),
        (Some("F"), Some("plain"), None, "filetok"),
        (Some("plain"), Some("F"), Some("fd://5"), "plain"),
        (None, Some("plain"), Some("F"), "plain"),
        (None, None, Some("plain"), "plain"),
    ] {
        let (home, server) = (home(), refusing());
        std::fs::write(home.path().join("token"), " filetok\n").unwrap();
        let text = |value: &str| if value == "F" { file(home.path()) } else { value.to_owned() };
        let mut command = Command::new("sh");
        command.env_clear().env("HOME", home.path()).env("PATH", std::env::var("PATH").unwrap_or_default()).current_dir(home.path());
        command.timeout(std::time::Duration::from_secs(60));
        command.args(["-c", "exec 5<token; exec \"$0\" \"$@\"", env!("CARGO_BIN_EXE_ibex"), "start", "--build-path=b", "--endpoint", &server.url]);
        if let Some(value) = line {
            command.args(["--token", &text(value)]);
        }
        if let Some(value) = variable {
            command.env("BUILDKITE_AGENT_TOKEN", text(value));
        }
        if let Some(value) = config {
            std::fs::write(home.path().join("agent.cfg"), format!("token={}\n", text(value))).unwrap();
            command.args(["--config", "agent.cfg"]);
        }
        let err = stderr(&command.output().expect("the binary runs"));
        let requests = server.requests();
        let sent = requests.first().and_then(|r| r.header("authorization"));
        assert_eq!(sent, Some(format!("Token {expected}").as_str()), "{line:?} {variable:?} {config:?}: {err}");
    }
}

#[test]
fn given_json_logs_then_they_are_on_stdout_with_their_keys_in_order() {
    let (_, err, out, _) = start(&["--log-format=json"]);
    let first: serde_json::Map<String, serde_json::Value> = serde_json::from_str(out.lines().next().unwrap()).unwrap();
    assert_eq!(first.keys().take(3).collect::<Vec<_>>(), ["ts", "level", "msg"], "{out}");
    assert!(first.values().all(serde_json::Value::is_string));
    assert!(err.starts_with("buildkite-agent: fatal: "), "{err}");
}

#[test]
fn given_a_build_path_that_cannot_be_made_then_it_is_named_and_nothing_is_sent() {
    let (home, server) = (home(), refusing());
    std::fs::write(home.path().join("file"), "").unwrap();
    let output = ibex(home.path()).args(["start", "--token=t", "--build-path=file/x", "--endpoint", &server.url]).output().expect("the binary runs");
    let err = stderr(&output);
    assert!(err.lines().last().unwrap_or_default().starts_with("buildkite-agent: fatal: failed to create builds path: "), "{err}");
    assert_eq!((output.status.code(), server.requests().len()), (Some(1), 0));
}

#[test]
fn given_several_workers_then_names_and_priorities_are_numbered() {
    let (home, server) = (home(), refusing());
    let args = ["start", "--token=t", "--build-path=b", "--spawn=2", "--spawn-with-priority=descending", "--name=n-%spawn-%hostname"];
    ibex(home.path()).args(args).args(["--endpoint", &server.url]).output().expect("the binary runs");
    let mut seen: Vec<(String, String)> = server
        .requests()
        .iter()
        .map(|r| (r.json()["name"].as_str().unwrap_or_default().to_owned(), r.json()["priority"].as_str().unwrap_or_default().to_owned()))
        .collect();
    seen.sort();
    let all = [("n-1-%hostname", "-1"), ("n-2-%hostname", "-2")].map(|(a, b)| (a.to_owned(), b.to_owned()));
    assert!(!seen.is_empty() && seen.iter().all(|s| all.contains(s)), "the first refusal may abort the other: {seen:?}");
}

fn make_executable(path: &Path) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
}

/// A control plane that lets the agent register and then sends it away.
fn dismissing() -> Server {
    Server::start(|request| {
        let body = match request.line.as_str() {
            "POST /v3/register" => {
                r#"{"id":"agent-1","name":"anna","access_token":"session","ping_interval":1,"job_status_interval":1,"heartbeat_interval":60,"meta_data":["a=1"]}"#
            }
            "GET /v3/ping" => r#"{"action":"disconnect"}"#,
            _ => "{}",
        };
        (200, body.to_owned())
    })
}

#[test]
fn given_a_whole_life_then_hooks_see_a_scrubbed_environment_and_the_recording_replays() {
    let (home, server) = (home(), dismissing());
    std::fs::create_dir(home.path().join("hooks")).unwrap();
    std::fs::write(home.path().join("hooks/agent-startup"), "#!/bin/sh\nenv > \"$HOME/env\"\n").unwrap();
    make_executable(&home.path().join("hooks/agent-startup"));
    let output = ibex(home.path())
        .args(["start", "--token=sekret", "--build-path=b", "--hooks-path=hooks", "--record=rec", "--ping-mode=poll-only"])
        .args(["--endpoint", &server.url])
        .envs([("BUILDKITE_AGENT_TAGS", "a=1"), ("BUILDKITE_AGENT_LOG_LEVEL", "notice"), ("BUILDKITE_SHELL", "/bin/sh -c"), ("KEPT", "yes")])
        .output()
        .expect("the binary runs");
    let err = stderr(&output);
    assert_eq!(output.status.code(), Some(0), "{err}");
    for text in ["Successfully registered agent \"anna\" with tags [a=1]", "Starting 1 Agent(s)", "anna Disconnected"] {
        assert!(err.contains(text), "{text}: {err}");
    }
    let env = std::fs::read_to_string(home.path().join("env")).expect("the startup hook ran");
    assert!(env.contains("KEPT=yes\n") && env.contains("BUILDKITE_AGENT_IDS=agent-1\n") && env.contains("BUILDKITE_AGENT_NAMES=anna\n"), "{env}");
    for name in ["BUILDKITE_AGENT_TAGS=", "BUILDKITE_AGENT_LOG_LEVEL=", "BUILDKITE_SHELL=", "sekret"] {
        assert!(!env.contains(name), "{name}: {env}");
    }
    let recording = std::fs::read_dir(home.path().join("rec")).unwrap().next().expect("one recording").unwrap().path();
    assert!(!std::fs::read_to_string(&recording).unwrap().contains("sekret"));
    let replayed = ibex(home.path()).arg("replay").arg(&recording).output().expect("the binary runs");
    let text = String::from_utf8_lossy(&replayed.stdout).into_owned();
    assert!(replayed.status.success() && text.trim_end().ends_with("steps, all as recorded"), "{text}{}", stderr(&replayed));
    assert!(text.contains("Begin"), "{text}");
}

#[test]
fn given_a_recording_that_is_none_then_the_file_and_the_line_are_named() {
    let home = home();
    std::fs::write(home.path().join("x"), "nonsense\n").unwrap();
    let output = ibex(home.path()).args(["replay", "x"]).output().expect("the binary runs");
    let err = stderr(&output);
    assert!(err.starts_with("buildkite-agent: fatal: x: line 1 is no line of a recording: ") && output.status.code() == Some(1), "{err}");
}

#[cfg(not(feature = "otel"))]
#[test]
fn given_a_build_without_otel_when_otlp_metrics_are_asked_for_then_the_feature_and_the_way_out_are_named_and_nothing_is_sent() {
    let (code, err, _, requests) = start(&["--opentelemetry-metrics"]);
    assert_eq!((code, requests), (Some(1), 0), "{err}");
    let last = err.lines().last().unwrap_or_default();
    assert!(last.starts_with("buildkite-agent: fatal: opentelemetry-metrics is not available in this agent: "), "{err}");
    assert!(last.contains("--features otel") && last.contains("health-check-addr"), "{err}");
}
