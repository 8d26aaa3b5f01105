//! The environment of the job's process (job-runner §3).

use super::*;
use crate::api::{TracingExporter, TracingPolicy};
use std::collections::BTreeMap;

fn files() -> JobFiles {
    JobFiles { env_file: "/t/env".into(), env_json_file: "/t/json".into(), timeout_file: "/t/timeout".into(), log_copy: None }
}

/// The overlay for a job with these variables.
fn overlay_of(config: &AgentConfig, accepted: &AcceptedJob, tracing: Option<&TracingPolicy>, files: &JobFiles) -> BTreeMap<String, Option<String>> {
    let headers = Arc::new(vec![("Buildkite-Hello".to_owned(), "world".to_owned())]);
    let session = Session { endpoint: "https://e/v3".into(), credential: Secret::new("tok"), headers };
    let edited = edit(&accepted.env, &config.job);
    child_env(EnvInputs { config, job: accepted, edited: &edited.env, session: &session, tracing, files }).0
}

fn overlay(config: &AgentConfig, vars: &[(&str, &str)]) -> BTreeMap<String, Option<String>> {
    overlay_of(config, &AcceptedJob { env: env(vars), ..AcceptedJob::default() }, None, &files())
}

fn get<'a>(overlay: &'a BTreeMap<String, Option<String>>, name: &str) -> Option<&'a str> {
    overlay.get(name).and_then(|v| v.as_deref())
}

/// A configuration in which every option says something.
fn full() -> AgentConfig {
    let mut c = config();
    c.cancel_signal = OsSignal::Int;
    c.cancel_signal_timeout = Duration::from_secs(90);
    c.cancel_cleanup_timeout = Duration::from_millis(500);
    c.job = JobConfig {
        config_path: "/etc/cfg".into(),
        bin_path: "/opt".into(),
        pid: 77,
        sockets_path: "/s".into(),
        hooks_path: "/h".into(),
        additional_hooks_paths: vec!["/h1".into(), "/h2".into()],
        plugins_path: "/p".into(),
        shell: "/bin/bash -e -c".into(),
        hooks_shell: "zsh".into(),
        pty: false,
        debug: true,
        debug_http: true,
        no_http2: true,
        plugin_validation: true,
        plugins_always_clone_fresh: true,
        local_hooks_enabled: true,
        strict_single_hooks: true,
        ssh_keyscan: true,
        git_submodules: false,
        skip_checkout: true,
        git_skip_fetch_existing_commits: true,
        git_checkout_timeout: 30,
        checkout_attempts: 6,
        git_checkout_flags: "-f".into(),
        git_clone_flags: "-v".into(),
        git_fetch_flags: "-v --prune".into(),
        git_clean_flags: "-ffxdq".into(),
        git_sparse_checkout_paths: vec!["a".into(), "b".into()],
        git_sparse_checkout_mode: "cone".into(),
        git_clone_mirror_flags: "-v".into(),
        git_mirror_checkout_mode: "reference".into(),
        git_mirrors_path: "/m".into(),
        git_mirrors_skip_update: true,
        git_mirrors_lock_timeout: 300,
        git_submodule_clone_config: vec!["x=1".into(), "y=2".into()],
        git_commit_verification: "strict".into(),
        experiments: vec!["zeta".into(), "alpha".into()],
        redacted_vars: vec!["*_TOKEN".into(), "*_KEY".into()],
        no_multipart_artifact_upload: true,
        artifact_upload_concurrency: 4,
        signing_aws_kms_key: "aws".into(),
        signing_gcp_kms_key: "gcp".into(),
        signing_jwks_file: "/jwks".into(),
        signing_jwks_key_id: "kid".into(),
        debug_signing: true,
        opentelemetry_tracing: true,
        telemetry_service_name: "svc".into(),
        job_logs_otlp: true,
        disable_warnings_for: vec!["w1".into(), "w2".into()],
        ..c.job
    };
    c
}

/// Every variable of the table of §3.3 with the value that [`full`] gives it, in the order of assignment.
const TABLE: &[(&str, &str)] = &[
    ("BUILDKITE_ENV_FILE", "/t/env"),
    ("BUILDKITE_ENV_JSON_FILE", "/t/json"),
    ("BUILDKITE_AGENT_JOB_TIMEOUT_FILE", "/t/timeout"),
    ("BUILDKITE_AGENT_CACHE_PATHS", "c1,c2"),
    ("BUILDKITE_SECRETS_CONFIG", "[{}]"),
    ("BUILDKITE_AGENT_ENDPOINT", "https://e/v3"),
    ("BUILDKITE_AGENT_ACCESS_TOKEN", "tok"),
    ("BUILDKITE_NO_HTTP2", "true"),
    ("BUILDKITE_AGENT_DEBUG", "true"),
    ("BUILDKITE_AGENT_DEBUG_HTTP", "true"),
    ("BUILDKITE_AGENT_PID", "77"),
    ("BUILDKITE_BIN_PATH", "/opt"),
    ("BUILDKITE_CONFIG_PATH", "/etc/cfg"),
    ("BUILDKITE_BUILD_PATH", "/builds"),
    ("BUILDKITE_SOCKETS_PATH", "/s"),
    ("BUILDKITE_GIT_MIRRORS_PATH", "/m"),
    ("BUILDKITE_GIT_MIRRORS_SKIP_UPDATE", "true"),
    ("BUILDKITE_HOOKS_PATH", "/h"),
    ("BUILDKITE_ADDITIONAL_HOOKS_PATHS", "/h1,/h2"),
    ("BUILDKITE_PLUGINS_PATH", "/p"),
    ("BUILDKITE_SSH_KEYSCAN", "true"),
    ("BUILDKITE_GIT_SUBMODULES", "false"),
    ("BUILDKITE_SKIP_CHECKOUT", "true"),
    ("BUILDKITE_GIT_SKIP_FETCH_EXISTING_COMMITS", "true"),
    ("BUILDKITE_GIT_CHECKOUT_TIMEOUT", "30"),
    ("BUILDKITE_CHECKOUT_OVERRIDE_MODE", "strict"),
    ("BUILDKITE_CHECKOUT_ATTEMPTS", "6"),
    ("BUILDKITE_COMMAND_EVAL", "true"),
    ("BUILDKITE_PLUGINS_ENABLED", "true"),
    ("BUILDKITE_PLUGINS_ALWAYS_CLONE_FRESH", "true"),
    ("BUILDKITE_LOCAL_HOOKS_ENABLED", "true"),
    ("BUILDKITE_GIT_CHECKOUT_FLAGS", "-f"),
    ("BUILDKITE_GIT_CLONE_FLAGS", "-v"),
    ("BUILDKITE_GIT_FETCH_FLAGS", "-v --prune"),
    ("BUILDKITE_GIT_SPARSE_CHECKOUT_PATHS", "a,b"),
    ("BUILDKITE_GIT_SPARSE_CHECKOUT_MODE", "cone"),
    ("BUILDKITE_GIT_CLONE_MIRROR_FLAGS", "-v"),
    ("BUILDKITE_GIT_MIRROR_CHECKOUT_MODE", "reference"),
    ("BUILDKITE_GIT_CLEAN_FLAGS", "-ffxdq"),
    ("BUILDKITE_GIT_MIRRORS_LOCK_TIMEOUT", "300"),
    ("BUILDKITE_GIT_SUBMODULE_CLONE_CONFIG", "x=1,y=2"),
    ("BUILDKITE_GIT_COMMIT_VERIFICATION", "strict"),
    ("BUILDKITE_SHELL", "/bin/bash -e -c"),
    ("BUILDKITE_HOOKS_SHELL", "zsh"),
    ("BUILDKITE_AGENT_EXPERIMENT", "alpha,zeta"),
    ("BUILDKITE_REDACTED_VARS", "*_TOKEN,*_KEY"),
    ("BUILDKITE_STRICT_SINGLE_HOOKS", "true"),
    ("BUILDKITE_CANCEL_SIGNAL_TIMEOUT", "1m30s"),
    ("BUILDKITE_CANCEL_CLEANUP_TIMEOUT", "500ms"),
    ("BUILDKITE_NO_MULTIPART_ARTIFACT_UPLOAD", "true"),
    ("BUILDKITE_ARTIFACT_UPLOAD_CONCURRENCY", "4"),
    ("BUILDKITE_CANCEL_SIGNAL", "SIGINT"),
    ("BUILDKITE_PTY", "false"),
    ("BUILDKITE_AGENT_AWS_KMS_KEY", "aws"),
    ("BUILDKITE_AGENT_GCP_KMS_KEY", "gcp"),
    ("BUILDKITE_AGENT_JWKS_FILE", "/jwks"),
    ("BUILDKITE_AGENT_JWKS_KEY_ID", "kid"),
    ("BUILDKITE_AGENT_DEBUG_SIGNING", "true"),
    ("BUILDKITE_PLUGIN_VALIDATION", "true"),
    ("BUILDKITE_OPENTELEMETRY_TRACING", "true"),
    ("BUILDKITE_TELEMETRY_SERVICE_NAME", "svc"),
    ("BUILDKITE_TRACING_TRACEPARENT", "tp"),
    ("BUILDKITE_TRACING_TRACESTATE", "ts"),
    ("BUILDKITE_JOB_LOGS_OTLP", "true"),
    ("BUILDKITE_AGENT_DISABLE_WARNINGS_FOR", "w1,w2"),
];

fn rich_job(vars: &[(&str, &str)]) -> AcceptedJob {
    let mut accepted = AcceptedJob { env: env(vars), traceparent: "tp".into(), tracestate: "ts".into(), ..AcceptedJob::default() };
    accepted.step.cache_paths = vec!["c1".into(), "c2".into()];
    accepted.step.secrets_config = "[{}]".into();
    accepted
}

#[test]
fn every_variable_of_3_3_has_its_value_and_its_place_in_the_ignored_list() {
    let mut config = full();
    config.job.checkout_override_mode = OverrideMode::Strict;
    // The job provides every one of them, with another value.
    let vars: Vec<(&str, &str)> = TABLE.iter().map(|(name, _)| (*name, "from the job")).collect();
    let got = overlay_of(&config, &rich_job(&vars), None, &files());
    for (name, value) in TABLE {
        assert_eq!(get(&got, name), Some(*value), "{name}");
    }
    let names: Vec<&str> = TABLE.iter().map(|(name, _)| *name).collect();
    assert_eq!(get(&got, "BUILDKITE_IGNORED_ENV"), Some(names.join(",").as_str()));
    // W5: the way by which agent and executor tell two 125s apart is theirs, and not of the table.
    assert_eq!(get(&got, STATUS_FILE), Some("/t/env-status"));
    let others: Vec<&str> = got.keys().map(String::as_str).filter(|k| !names.contains(k) && *k != STATUS_FILE).collect();
    assert_eq!(
        others,
        ["BUILDKITE_AGENT_TOKEN", "BUILDKITE_GIT_REMOTE_MIRROR_URL", "BUILDKITE_IGNORED_ENV", "BUILDKITE_REQUEST_HEADER_BUILDKITE_HELLO"],
        "and nothing else"
    );
}

#[test]
fn conditional_variables_are_absent_where_the_agent_is_silent_and_the_jobs_values_stay() {
    const CONDITIONAL: [&str; 17] = [
        "BUILDKITE_AGENT_CACHE_PATHS",
        "BUILDKITE_SECRETS_CONFIG",
        "BUILDKITE_PLUGINS_ALWAYS_CLONE_FRESH",
        "BUILDKITE_NO_MULTIPART_ARTIFACT_UPLOAD",
        "BUILDKITE_ARTIFACT_UPLOAD_CONCURRENCY",
        "BUILDKITE_CANCEL_SIGNAL",
        "BUILDKITE_PTY",
        "BUILDKITE_AGENT_AWS_KMS_KEY",
        "BUILDKITE_AGENT_GCP_KMS_KEY",
        "BUILDKITE_AGENT_JWKS_FILE",
        "BUILDKITE_AGENT_JWKS_KEY_ID",
        "BUILDKITE_AGENT_DEBUG_SIGNING",
        "BUILDKITE_OPENTELEMETRY_TRACING",
        "BUILDKITE_TELEMETRY_SERVICE_NAME",
        "BUILDKITE_TRACING_TRACEPARENT",
        "BUILDKITE_TRACING_TRACESTATE",
        "BUILDKITE_AGENT_PROFILE",
    ];
    let silent = overlay(&config(), &[]);
    assert!(CONDITIONAL.iter().all(|name| !silent.contains_key(*name)));
    let vars: Vec<(&str, &str)> = CONDITIONAL.iter().map(|name| (*name, "job")).collect();
    let got = overlay(&config(), &vars);
    assert!(CONDITIONAL.iter().all(|name| get(&got, name) == Some("job")));
    assert_eq!(got["BUILDKITE_IGNORED_ENV"], None);
}

#[test]
fn w6_a_job_cannot_smuggle_an_ignored_list_in_and_the_agents_own_is_masked() {
    let got = overlay(&config(), &[("BUILDKITE_IGNORED_ENV", "FAKE")]);
    assert_eq!(got["BUILDKITE_IGNORED_ENV"], None);
    let got = overlay(&config(), &[("BUILDKITE_IGNORED_ENV", "FAKE"), ("BUILDKITE_SHELL", "x")]);
    assert_eq!(get(&got, "BUILDKITE_IGNORED_ENV"), Some("BUILDKITE_SHELL"));
}

#[test]
fn i43_the_registration_token_never_reaches_the_job() {
    let got = overlay(&config(), &[("BUILDKITE_AGENT_TOKEN", "registration")]);
    assert_eq!(got["BUILDKITE_AGENT_TOKEN"], None);
    assert_eq!(edit(&env(&[("BUILDKITE_AGENT_TOKEN", "x")]), &config().job).env.get("BUILDKITE_AGENT_TOKEN"), None);
}

#[test]
fn the_scoped_modes_table_3_4() {
    let names: Vec<&str> = SCOPED.to_vec();
    let sparse = ["BUILDKITE_GIT_SPARSE_CHECKOUT_MODE", "BUILDKITE_GIT_SPARSE_CHECKOUT_PATHS"];
    for (mode, locked) in [
        (OverrideMode::Strict, names.clone()),
        (OverrideMode::FromJob, names.iter().copied().filter(|n| !sparse.contains(n)).collect()),
        (OverrideMode::None, Vec::new()),
    ] {
        let mut config = full();
        config.job.checkout_override_mode = mode;
        let vars: Vec<(&str, &str)> = SCOPED.iter().map(|n| (*n, "job")).collect();
        let got = overlay(&config, &vars);
        let kept: Vec<&str> = names.iter().copied().filter(|n| get(&got, n) == Some("job")).collect();
        let expected: Vec<&str> = names.iter().copied().filter(|n| !locked.contains(n)).collect();
        assert_eq!(kept, expected, "{mode:?}");
        let mut ignored: Vec<&str> = get(&got, "BUILDKITE_IGNORED_ENV").unwrap_or("").split(',').filter(|n| !n.is_empty()).collect();
        ignored.sort_unstable();
        assert_eq!(ignored, locked, "{mode:?}");
        // Gaps are filled in every mode.
        let got = overlay(&config, &[]);
        assert!(names.iter().all(|n| get(&got, n).is_some()), "{mode:?}");
    }
}

#[test]
fn the_four_toggles_are_assigned_in_strict_mode_always_and_otherwise_only_where_the_agent_speaks() {
    let toggles =
        ["BUILDKITE_GIT_SUBMODULES", "BUILDKITE_SKIP_CHECKOUT", "BUILDKITE_GIT_SKIP_FETCH_EXISTING_COMMITS", "BUILDKITE_GIT_CHECKOUT_TIMEOUT"];
    let vars: Vec<(&str, &str)> = toggles.iter().map(|n| (*n, "job")).collect();
    for (mode, silent, with_job) in [
        (OverrideMode::Strict, ["true", "false", "false", "0"].map(Some), ["true", "false", "false", "0"]),
        (OverrideMode::FromJob, [None; 4], ["job"; 4]),
        (OverrideMode::None, [None; 4], ["job"; 4]),
    ] {
        let mut config = config();
        config.job.git_submodules = true;
        config.job.checkout_override_mode = mode;
        let got = overlay(&config, &[]);
        assert_eq!(toggles.map(|n| get(&got, n)), silent, "{mode:?}");
        let got = overlay(&config, &vars);
        assert_eq!(toggles.map(|n| get(&got, n).unwrap()), with_job, "{mode:?}");
    }
}

#[test]
fn without_command_evaluation_the_mode_is_strict() {
    let mut config = config();
    config.job.command_eval = false;
    config.job.checkout_override_mode = OverrideMode::None;
    let got = overlay(&config, &[("BUILDKITE_GIT_CLONE_FLAGS", "--evil")]);
    assert_eq!(get(&got, "BUILDKITE_CHECKOUT_OVERRIDE_MODE"), Some("strict"));
    assert_eq!(get(&got, "BUILDKITE_GIT_CLONE_FLAGS"), Some(""));
}

#[test]
fn plugin_validation_can_be_switched_on_by_the_job() {
    const NAME: &str = "BUILDKITE_PLUGIN_VALIDATION";
    for (configured, job, value, ignored) in [
        (false, None, "false", None),
        (true, None, "true", None),
        (false, Some("true"), "true", None),
        (false, Some("1"), "true", None),
        (false, Some("on"), "true", None),
        (true, Some("on"), "true", None),
        (false, Some("yes"), "false", Some(NAME)),
        (true, Some("false"), "true", Some(NAME)),
    ] {
        let mut config = config();
        config.job.plugin_validation = configured;
        let vars: Vec<(&str, &str)> = job.into_iter().map(|v| (NAME, v)).collect();
        let got = overlay(&config, &vars);
        assert_eq!((get(&got, NAME), get(&got, "BUILDKITE_IGNORED_ENV")), (Some(value), ignored), "{configured} {job:?}");
    }
}

#[test]
fn request_headers_become_variables_silently() {
    let got = overlay(&config(), &[("BUILDKITE_REQUEST_HEADER_BUILDKITE_HELLO", "job")]);
    assert_eq!(get(&got, "BUILDKITE_REQUEST_HEADER_BUILDKITE_HELLO"), Some("world"));
    assert_eq!(got["BUILDKITE_IGNORED_ENV"], None);
}

#[test]
fn term_is_set_only_in_a_terminal_and_wins_over_the_job() {
    let mut config = config();
    assert_eq!(get(&overlay(&config, &[("TERM", "dumb")]), "TERM"), Some("xterm-256color"));
    config.job.pty = false;
    let got = overlay(&config, &[("TERM", "dumb")]);
    assert_eq!((get(&got, "TERM"), get(&got, "BUILDKITE_PTY")), (Some("dumb"), Some("false")));
    assert_eq!(overlay(&config, &[]).get("TERM"), None);
}

#[test]
fn the_shim_comes_first_on_the_path() {
    let mut config = config();
    config.job.path = "/usr/bin:/bin".into();
    assert_eq!(overlay(&config, &[]).get("PATH"), None, "no shim: the agent's own is inherited");
    config.job.shim_path = "/shim".into();
    assert_eq!(get(&overlay(&config, &[]), "PATH"), Some("/shim:/usr/bin:/bin"));
    let got = overlay(&config, &[("PATH", "/job")]);
    assert_eq!((get(&got, "PATH"), &got["BUILDKITE_IGNORED_ENV"]), (Some("/shim:/job"), &None));
}

#[test]
fn w20_the_path_of_the_log_copy_is_in_this_jobs_environment_only() {
    let copy = JobFiles { log_copy: Some("/t/copy".into()), ..files() };
    let of = |vars: &[(&str, &str)], files: &JobFiles| {
        let got = overlay_of(&config(), &AcceptedJob { env: env(vars), ..AcceptedJob::default() }, None, files);
        get(&got, "BUILDKITE_JOB_LOG_TMPFILE").map(str::to_owned)
    };
    assert_eq!(of(&[], &copy).as_deref(), Some("/t/copy"));
    assert_eq!(of(&[], &files()), None);
    assert_eq!(of(&[("BUILDKITE_JOB_LOG_TMPFILE", "/job")], &copy).as_deref(), Some("/job"), "of the agent env's rank");
}

fn policy() -> TracingPolicy {
    let headers = [("x-b", "two words"), ("x-a", "a+b/c=d&e,f:g@h$i")].map(|(k, v)| (k.to_owned(), Secret::new(v))).into();
    let exporter = TracingExporter { endpoint: Secret::new("https://otlp.test/v1"), protocol: "grpc".into(), headers };
    TracingPolicy { backend: "opentelemetry".into(), exporter: Some(exporter) }
}

#[test]
fn the_control_planes_exporter_is_injected_with_escaped_headers() {
    let got = overlay_of(&config(), &rich_job(&[]), Some(&policy()), &files());
    assert_eq!(get(&got, "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"), Some("https://otlp.test/v1"));
    assert_eq!(get(&got, "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL"), Some("grpc"));
    assert_eq!(get(&got, "OTEL_EXPORTER_OTLP_TRACES_HEADERS"), Some("x-a=a%2Bb%2Fc=d&e%2Cf:g@h$i,x-b=two%20words"));
    assert_eq!(get(&got, "BUILDKITE_OPENTELEMETRY_TRACING"), Some("true"), "the policy switches tracing on");
    assert_eq!(get(&got, "BUILDKITE_TRACING_TRACEPARENT"), Some("tp"));
}

#[test]
fn the_exporter_yields_to_local_destinations_of_agent_and_job() {
    let injected = |config: &AgentConfig, vars: &[(&str, &str)], policy: &TracingPolicy| {
        let got = overlay_of(config, &rich_job(vars), Some(policy), &files());
        let tracing = get(&got, "BUILDKITE_OPENTELEMETRY_TRACING").is_some();
        let exporter = get(&got, "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT") == Some("https://otlp.test/v1");
        let protocol = get(&got, "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL").is_some();
        (tracing, exporter, protocol)
    };
    assert_eq!(injected(&config(), &[], &policy()), (true, true, true));
    for name in
        ["OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_HEADERS", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_HEADERS"]
    {
        assert_eq!(injected(&config(), &[(name, "")], &policy()), (true, false, false), "{name}: presence counts");
    }
    let mut local = config();
    local.job.local_otlp_destination = true;
    assert_eq!(injected(&local, &[], &policy()), (true, false, false));
    let other = TracingPolicy { backend: "datadog".into(), ..policy() };
    assert_eq!(injected(&config(), &[], &other), (false, false, false), "ignored whole");
    let mut bare = policy();
    bare.exporter = Some(TracingExporter { protocol: String::new(), headers: Default::default(), ..bare.exporter.unwrap() });
    assert_eq!(injected(&config(), &[], &bare), (true, true, false));
}

#[test]
fn the_env_files_show_the_edited_job_env_and_nothing_that_the_agent_adds() {
    let mut config = config();
    config.job.allowed_repositories = vec!["^https://good/".into()];
    let of = |mirror: &str| edit(&env(&[("BUILDKITE_GIT_REMOTE_MIRROR_URL", mirror), ("A", "1")]), &config.job);
    assert_eq!(of("https://good/x").env.get("BUILDKITE_GIT_REMOTE_MIRROR_URL"), Some("https://good/x"));
    let dropped = of("https://bad/x");
    assert_eq!(dropped.env, env(&[("A", "1"), ("BUILDKITE_GIT_REMOTE_MIRROR_URL", "")]));
    assert_eq!(dropped.dropped_mirror.as_deref(), Some("https://bad/x"));
    assert_eq!(of("").dropped_mirror, None);
}

#[test]
fn messages_are_truncated_as_the_example_shows() {
    let cut = truncated("FOO", &"a".repeat(100), 64).unwrap();
    assert_eq!(cut, format!("{}[value truncated 100 -> 59 bytes]", "a".repeat(26)));
    assert_eq!("FOO=".len() + cut.len() + 1, 64);
    assert_eq!(truncated("FOO", &"a".repeat(64), 64), None);
}

#[test]
fn messages_are_cut_at_a_character_and_tell_their_true_length() {
    for lead in 0..4 {
        let value = format!("{}{}", "x".repeat(lead), "🦙".repeat(20_000));
        let got = overlay(&config(), &[("BUILDKITE_MESSAGE", &value)]);
        let cut = get(&got, "BUILDKITE_MESSAGE").unwrap();
        assert!(cut.ends_with(&format!("[value truncated {} -> {} bytes]", value.len(), cut.len())), "{}", &cut[cut.len() - 60..]);
        assert!((65_514..=65_517).contains(&cut.len()), "{}", cut.len());
    }
    let just = "y".repeat(65_536);
    assert_eq!(get(&overlay(&config(), &[("BUILDKITE_MESSAGE", &just)]), "BUILDKITE_MESSAGE"), Some(just.as_str()));
}
