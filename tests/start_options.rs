//! Every option of start-flags §2 and §10 as the built binary has it: name, variable, type and default, and that all three places
//! are read.

use assert_cmd::Command;
use std::path::Path;

/// Name, type, variables, default: the tables of start-flags §2, and of header-times.
const OPTIONS: &str = "\
no-color bool BUILDKITE_AGENT_NO_COLOR
debug bool BUILDKITE_AGENT_DEBUG
log-level string BUILDKITE_AGENT_LOG_LEVEL notice
experiment string BUILDKITE_AGENT_EXPERIMENT
profile string BUILDKITE_AGENT_PROFILE
log-format string BUILDKITE_LOG_FORMAT text
config string BUILDKITE_AGENT_CONFIG
disable-warnings-for string BUILDKITE_AGENT_DISABLE_WARNINGS_FOR
token string BUILDKITE_AGENT_TOKEN
endpoint string BUILDKITE_AGENT_ENDPOINT https://agent-edge.buildkite.com/v3
no-http2 bool BUILDKITE_NO_HTTP2
debug-http bool BUILDKITE_AGENT_DEBUG_HTTP
trace-http bool BUILDKITE_AGENT_TRACE_HTTP
ping-mode string BUILDKITE_AGENT_PING_MODE auto
name string BUILDKITE_AGENT_NAME
priority string BUILDKITE_AGENT_PRIORITY
spawn int BUILDKITE_AGENT_SPAWN 1
spawn-per-cpu int BUILDKITE_AGENT_SPAWN_PER_CPU 0
spawn-with-priority string BUILDKITE_AGENT_SPAWN_WITH_PRIORITY static
queue string BUILDKITE_AGENT_QUEUE
tags string BUILDKITE_AGENT_TAGS
acquire-job string BUILDKITE_AGENT_ACQUIRE_JOB
reflect-exit-status bool BUILDKITE_AGENT_REFLECT_EXIT_STATUS
disconnect-after-job bool BUILDKITE_AGENT_DISCONNECT_AFTER_JOB
disconnect-after-idle-timeout int BUILDKITE_AGENT_DISCONNECT_AFTER_IDLE_TIMEOUT 0
disconnect-after-uptime int BUILDKITE_AGENT_DISCONNECT_AFTER_UPTIME 0
no-feature-reporting bool BUILDKITE_AGENT_NO_FEATURE_REPORTING
health-check-addr string BUILDKITE_AGENT_HEALTH_CHECK_ADDR
cancel-signal string BUILDKITE_CANCEL_SIGNAL SIGTERM
cancel-signal-timeout duration BUILDKITE_CANCEL_SIGNAL_TIMEOUT 10s
cancel-cleanup-timeout duration BUILDKITE_CANCEL_CLEANUP_TIMEOUT 5s
tags-from-host bool BUILDKITE_AGENT_TAGS_FROM_HOST
tags-from-ec2-meta-data bool BUILDKITE_AGENT_TAGS_FROM_EC2_META_DATA
tags-from-ec2-meta-data-paths string BUILDKITE_AGENT_TAGS_FROM_EC2_META_DATA_PATHS
tags-from-ec2-tags bool BUILDKITE_AGENT_TAGS_FROM_EC2_TAGS
tags-from-ecs-meta-data bool BUILDKITE_AGENT_TAGS_FROM_ECS_META_DATA
tags-from-gcp-meta-data bool BUILDKITE_AGENT_TAGS_FROM_GCP_META_DATA
tags-from-gcp-meta-data-paths string BUILDKITE_AGENT_TAGS_FROM_GCP_META_DATA_PATHS
tags-from-gcp-labels bool BUILDKITE_AGENT_TAGS_FROM_GCP_LABELS
wait-for-ec2-tags-timeout duration BUILDKITE_AGENT_WAIT_FOR_EC2_TAGS_TIMEOUT 10s
wait-for-ec2-meta-data-timeout duration BUILDKITE_AGENT_WAIT_FOR_EC2_META_DATA_TIMEOUT 10s
wait-for-ecs-meta-data-timeout duration BUILDKITE_AGENT_WAIT_FOR_ECS_META_DATA_TIMEOUT 10s
wait-for-gcp-labels-timeout duration BUILDKITE_AGENT_WAIT_FOR_GCP_LABELS_TIMEOUT 10s
fail-on-missing-tags bool BUILDKITE_AGENT_FAIL_ON_MISSING_TAGS
build-path string BUILDKITE_BUILD_PATH
hooks-path string BUILDKITE_HOOKS_PATH
additional-hooks-paths string BUILDKITE_ADDITIONAL_HOOKS_PATHS
plugins-path string BUILDKITE_PLUGINS_PATH
sockets-path string BUILDKITE_SOCKETS_PATH
bootstrap-script string BUILDKITE_BOOTSTRAP_SCRIPT_PATH
shell string BUILDKITE_SHELL
hooks-shell string BUILDKITE_HOOKS_SHELL
no-pty bool BUILDKITE_NO_PTY
strict-single-hooks bool BUILDKITE_STRICT_SINGLE_HOOKS
redacted-vars string BUILDKITE_REDACTED_VARS *_PASSWORD,*_SECRET,*_TOKEN,*_PRIVATE_KEY,*_SSH_KEY,*_ACCESS_KEY,*_SECRET_KEY,*_CONNECTION_STRING,*_API_KEY
enable-job-log-tmpfile bool BUILDKITE_ENABLE_JOB_LOG_TMPFILE
job-log-path string BUILDKITE_JOB_LOG_PATH
write-job-logs-to-stdout bool BUILDKITE_WRITE_JOB_LOGS_TO_STDOUT
job-logs-otlp bool BUILDKITE_JOB_LOGS_OTLP
artifact-upload-concurrency int BUILDKITE_ARTIFACT_UPLOAD_CONCURRENCY 0
no-multipart-artifact-upload bool BUILDKITE_NO_MULTIPART_ARTIFACT_UPLOAD
job-context-dir string BUILDKITE_JOB_CONTEXT_DIR
kubernetes-exec bool BUILDKITE_KUBERNETES_EXEC
kubernetes-container-start-timeout duration BUILDKITE_KUBERNETES_CONTAINER_START_TIMEOUT 5m
no-command-eval bool BUILDKITE_NO_COMMAND_EVAL
no-local-hooks bool BUILDKITE_NO_LOCAL_HOOKS
no-plugins bool BUILDKITE_NO_PLUGINS
no-plugin-validation bool BUILDKITE_NO_PLUGIN_VALIDATION true
plugins-always-clone-fresh bool BUILDKITE_PLUGINS_ALWAYS_CLONE_FRESH
no-ssh-keyscan bool BUILDKITE_NO_SSH_KEYSCAN
allowed-repositories string BUILDKITE_ALLOWED_REPOSITORIES
allowed-plugins string BUILDKITE_ALLOWED_PLUGINS
enable-environment-variable-allowlist bool BUILDKITE_ENABLE_ENVIRONMENT_VARIABLE_ALLOWLIST
allowed-environment-variables string BUILDKITE_ALLOWED_ENVIRONMENT_VARIABLES
verification-jwks-file string BUILDKITE_AGENT_VERIFICATION_JWKS_FILE
verification-failure-behavior string BUILDKITE_AGENT_JOB_VERIFICATION_NO_SIGNATURE_BEHAVIOR block
signing-jwks-file string BUILDKITE_AGENT_SIGNING_JWKS_FILE
signing-jwks-key-id string BUILDKITE_AGENT_SIGNING_JWKS_KEY_ID
signing-aws-kms-key string BUILDKITE_AGENT_SIGNING_AWS_KMS_KEY
signing-gcp-kms-key string BUILDKITE_AGENT_SIGNING_GCP_KMS_KEY
debug-signing bool BUILDKITE_AGENT_DEBUG_SIGNING
skip-checkout bool BUILDKITE_SKIP_CHECKOUT
checkout-override-mode string BUILDKITE_CHECKOUT_OVERRIDE_MODE from-job
git-checkout-flags string BUILDKITE_GIT_CHECKOUT_FLAGS -f
git-clone-flags string BUILDKITE_GIT_CLONE_FLAGS -v
git-clean-flags string BUILDKITE_GIT_CLEAN_FLAGS -ffxdq
git-fetch-flags string BUILDKITE_GIT_FETCH_FLAGS -v --prune
git-commit-verification string BUILDKITE_GIT_COMMIT_VERIFICATION strict
git-sparse-checkout-paths string BUILDKITE_GIT_SPARSE_CHECKOUT_PATHS
git-sparse-checkout-mode string BUILDKITE_GIT_SPARSE_CHECKOUT_MODE cone
git-clone-mirror-flags string BUILDKITE_GIT_CLONE_MIRROR_FLAGS -v
git-mirrors-path string BUILDKITE_GIT_MIRRORS_PATH
git-mirror-checkout-mode string BUILDKITE_GIT_MIRROR_CHECKOUT_MODE reference
git-mirrors-lock-timeout int BUILDKITE_GIT_MIRRORS_LOCK_TIMEOUT 300
git-mirrors-skip-update bool BUILDKITE_GIT_MIRRORS_SKIP_UPDATE
git-checkout-timeout int BUILDKITE_GIT_CHECKOUT_TIMEOUT 0
no-git-submodules bool BUILDKITE_NO_GIT_SUBMODULES,BUILDKITE_DISABLE_GIT_SUBMODULES
git-submodule-clone-config string BUILDKITE_GIT_SUBMODULE_CLONE_CONFIG
git-skip-fetch-existing-commits bool BUILDKITE_GIT_SKIP_FETCH_EXISTING_COMMITS
checkout-attempts int BUILDKITE_CHECKOUT_ATTEMPTS 6
opentelemetry-metrics bool BUILDKITE_OPENTELEMETRY_METRICS
opentelemetry-tracing bool BUILDKITE_OPENTELEMETRY_TRACING
telemetry-service-name string BUILDKITE_TELEMETRY_SERVICE_NAME buildkite-agent
no-ansi-timestamps bool BUILDKITE_NO_ANSI_TIMESTAMPS
timestamp-lines bool BUILDKITE_TIMESTAMP_LINES
";

fn ibex(home: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ibex"));
    command.env_clear().env("PATH", std::env::var("PATH").unwrap_or_default()).env("HOME", home).env("NO_COLOR", "1").current_dir(home);
    command.timeout(std::time::Duration::from_secs(60));
    command
}

/// The last thing that is checked before the network: an agent that comes so far has taken all its options.
const LAST: &str = "buildkite-agent: fatal: invalid spawn 0, must be at least 1\n";

/// Where an option stands: its name there, and its value.
#[derive(Clone, Copy)]
enum Place<'a> {
    Line(&'a str, &'a str),
    Variable(&'a str, &'a str),
    File(&'a str, &'a str),
}

/// Runs `start` without workers and with options in these places; gives what was written to stderr.
fn start(places: &[Place<'_>]) -> String {
    let home = tempfile::tempdir().expect("a temporary directory");
    let mut command = ibex(home.path());
    command.args(["start", "--token=t", "--build-path=b", "--spawn=0"]);
    for place in places {
        match place {
            Place::Line(name, value) => drop(command.arg(format!("--{name}={value}"))),
            Place::Variable(name, value) => drop(command.env(name, value)),
            Place::File(name, value) => {
                let file = home.path().join("agent.cfg");
                std::fs::write(&file, format!("{name}={value}\n")).expect("a configuration file");
                command.arg("--config").arg(file);
            }
        }
    }
    let output = command.output().expect("the binary runs");
    assert_eq!(output.status.code(), Some(1));
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn the_help_has_every_option_with_its_variables_type_and_default() {
    let home = tempfile::tempdir().expect("a temporary directory");
    let output = ibex(home.path()).args(["start", "--help"]).output().expect("the binary runs");
    let help = String::from_utf8_lossy(&output.stdout).into_owned();
    for row in OPTIONS.lines() {
        let mut words = row.splitn(4, ' ');
        let [name, kind, variables, default] = std::array::from_fn(|_| words.next().unwrap_or_default());
        let head = if kind == "bool" { format!("  --{name} ") } else { format!("  --{name} {kind} ") };
        let line = help.lines().find(|l| l.starts_with(&head)).unwrap_or_else(|| panic!("{row} is missing: {help}"));
        assert!(kind != "bool" || line[head.len()..].starts_with(' '), "{row}: {line}");
        let shown: Vec<String> = variables.split(',').map(|v| format!("${v}")).collect();
        assert!(line.ends_with(&format!(" [{}]", shown.join(", "))), "{row}: {line}");
        match default {
            "" => assert!(!line.contains("(default: "), "{row}: {line}"),
            d => assert!(line.contains(&format!("(default: {d})")) || line.contains(&format!("(default: \"{d}\")")), "{row}: {line}"),
        }
    }
}

/// A value that passes every check.
fn harmless(name: &str, kind: &str) -> &'static str {
    match (name, kind) {
        ("log-level", _) => "info",
        ("log-format", _) => "text",
        ("profile", _) => "cpu",
        ("ping-mode", _) => "poll-only",
        ("spawn-with-priority", _) => "ascending",
        ("cancel-signal", _) => "SIGINT",
        ("checkout-override-mode", _) => "none",
        ("git-commit-verification", _) => "off",
        ("git-sparse-checkout-mode", _) => "no-cone",
        ("git-mirror-checkout-mode", _) => "dissociate",
        ("verification-failure-behavior", _) => "warn",
        (_, "bool") => "true",
        (_, "int") => "7",
        (_, "duration") => "7s",
        _ => "x",
    }
}

/// Options that end the start by themselves, need another one, or are given to every run here.
const APART: [&str; 15] = [
    "config",
    "token",
    "build-path",
    "spawn",
    "spawn-per-cpu",
    "acquire-job",
    "allowed-environment-variables",
    "experiment",
    "verification-jwks-file",
    "signing-jwks-file",
    "signing-aws-kms-key",
    "signing-gcp-kms-key",
    "kubernetes-exec",
    "job-logs-otlp",
    "opentelemetry-metrics",
];

#[test]
fn every_option_is_taken_from_flag_variable_and_file() {
    for row in OPTIONS.lines() {
        let mut words = row.split(' ');
        let [name, kind, variables] = std::array::from_fn(|_| words.next().unwrap_or_default());
        if APART.contains(&name) {
            continue;
        }
        let typed = ["bool", "int", "duration"].contains(&kind);
        // Where the type allows it, the place is seen to be read: what is no value there is noticed.
        if typed {
            let err = start(&[Place::Line(name, "nonsense")]);
            assert!(err.contains(&format!("fatal: invalid value \"nonsense\" for flag -{name}: ")), "{row}: {err}");
            let err = start(&[Place::File(name, "nonsense")]);
            assert!(err.contains(&format!("WARN   Config file line 1: the value of `{name}` counts as ")) && err.ends_with(LAST), "{row}: {err}");
        }
        for variable in variables.split(',') {
            let err = start(&[Place::Variable(variable, if typed { "nonsense" } else { harmless(name, kind) })]);
            let noticed = format!("from environment variable \"{variable}\" for flag {name}: ");
            assert!(if typed { err.contains(&noticed) && err.contains("\"nonsense\"") } else { err.ends_with(LAST) }, "{row}: {err}");
        }
        let value = harmless(name, kind);
        for place in [Place::Line(name, value), Place::File(name, value)] {
            let err = start(&[place]);
            assert!(err.ends_with(LAST) && !err.contains("counts as"), "{row}: {err}");
        }
    }
}

/// §10: option, its variable, a value, and the successors that the warning names.
const VERSION_3: &[(&str, &str, &str, &[&str])] = &[
    ("cancel-grace-period", "BUILDKITE_CANCEL_GRACE_PERIOD", "20", &["cancel-signal-timeout", "cancel-cleanup-timeout"]),
    ("signal-grace-period-seconds", "BUILDKITE_SIGNAL_GRACE_PERIOD_SECONDS", "5", &["cancel-signal-timeout", "cancel-cleanup-timeout"]),
    ("tracing-backend", "BUILDKITE_TRACING_BACKEND", "opentelemetry", &["opentelemetry-tracing"]),
    ("tracing-backend", "BUILDKITE_TRACING_BACKEND", "datadog", &["opentelemetry-tracing"]),
    ("tracing-service-name", "BUILDKITE_TRACING_SERVICE_NAME", "x", &["telemetry-service-name"]),
    ("trace-context-encoding", "BUILDKITE_TRACE_CONTEXT_ENCODING", "json", &["opentelemetry-tracing"]),
    ("tracing-propagate-traceparent", "BUILDKITE_TRACING_PROPAGATE_TRACEPARENT", "true", &["opentelemetry-tracing"]),
    ("metrics-datadog", "BUILDKITE_METRICS_DATADOG", "true", &["opentelemetry-metrics"]),
    ("metrics-datadog-host", "BUILDKITE_METRICS_DATADOG_HOST", "h:1", &["opentelemetry-metrics"]),
    ("metrics-datadog-distributions", "BUILDKITE_METRICS_DATADOG_DISTRIBUTIONS", "true", &["opentelemetry-metrics"]),
    ("meta-data", "BUILDKITE_AGENT_META_DATA", "a=1", &["tags"]),
    ("meta-data-ec2", "BUILDKITE_AGENT_META_DATA_EC2", "true", &["tags-from-ec2-meta-data"]),
    ("meta-data-ec2-tags", "BUILDKITE_AGENT_META_DATA_EC2_TAGS", "true", &["tags-from-ec2-tags"]),
    ("meta-data-gcp", "BUILDKITE_AGENT_META_DATA_GCP", "true", &["tags-from-gcp-meta-data"]),
    ("tags-from-ec2", "BUILDKITE_AGENT_TAGS_FROM_EC2", "true", &["tags-from-ec2-meta-data"]),
    ("tags-from-gcp", "BUILDKITE_AGENT_TAGS_FROM_GCP", "true", &["tags-from-gcp-meta-data"]),
    ("disconnect-after-job-timeout", "BUILDKITE_AGENT_DISCONNECT_AFTER_JOB_TIMEOUT", "9", &["disconnect-after-idle-timeout"]),
    ("no-automatic-ssh-fingerprint-verification", "BUILDKITE_NO_AUTOMATIC_SSH_FINGERPRINT_VERIFICATION", "true", &["no-ssh-keyscan"]),
    ("kubernetes-log-collection-grace-period", "BUILDKITE_KUBERNETES_LOG_COLLECTION_GRACE_PERIOD", "5s", &[]),
];

#[test]
fn every_option_of_version_3_is_taken_from_all_three_places_with_one_warning_that_names_both() {
    for (old, variable, value, successors) in VERSION_3 {
        for place in [Place::Line(old, value), Place::Variable(variable, value), Place::File(old, value)] {
            let err = start(&[place]);
            let warnings: Vec<&str> = err.lines().filter(|l| l.contains(" WARN   ")).collect();
            assert_eq!(warnings.len(), 1, "{old}: {err}");
            assert!(warnings[0].contains(&format!("`{old}`")), "{old}: {err}");
            assert!(successors.iter().all(|s| warnings[0].contains(&format!("`{s}`"))), "{old}: {err}");
            assert!(err.ends_with(LAST), "{old}: {err}");
        }
    }
}

#[test]
fn an_option_of_version_3_together_with_its_successor_is_an_error_that_names_both_wherever_they_stand() {
    for (old, variable, value, successors) in VERSION_3 {
        for new in *successors {
            let kind = OPTIONS.lines().find_map(|l| l.strip_prefix(&format!("{new} "))).and_then(|l| l.split(' ').next()).expect("its type");
            let err = start(&[Place::Variable(variable, value), Place::File(new, harmless(new, kind))]);
            let last = err.lines().last().unwrap_or_default();
            let named = last.contains(&format!("`{old}`")) && last.contains(&format!("`{new}`"));
            assert!(last.starts_with("buildkite-agent: fatal: ") && named, "{old} {new}: {err}");
        }
    }
}
