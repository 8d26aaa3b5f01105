//! From the options to the configuration of the `Agent` machine.

use super::check::Checked;
use super::facts;
use crate::flags::{Values, process_env};
use crate::{platform, version};
use ibex_core::agent::{AgentConfig, OtlpProtocol, PingMode};
use ibex_core::api::RegisterRequest;
use ibex_core::job::{JobConfig, StdoutFormat};
use ibex_core::log::TimestampMode;
use ibex_core::secret::Secret;
use std::path::Path;
use std::time::Duration;

/// What is known besides the options.
pub(crate) struct Surroundings<'a> {
    /// Path of the configuration file as written, or empty.
    pub(crate) config_path: &'a str,
    /// This executable.
    pub(crate) exe: &'a Path,
    /// Directory in which `buildkite-agent` is this program; empty: none.
    pub(crate) shim_path: String,
    /// Tags, in the order in which they are sent.
    pub(crate) tags: Vec<String>,
    /// Whether the log is JSON.
    pub(crate) json: bool,
    /// Whether lines of debug level are written.
    pub(crate) debug_lines: bool,
}

/// The configuration.
pub(crate) fn agent_config(values: &Values, checked: Checked, token: Secret, around: Surroundings<'_>) -> AgentConfig {
    let register = register_request(values, &checked, around.tags.clone());
    let seconds = |name: &str| u64::try_from(values.int(name)).ok().filter(|n| *n > 0).map(Duration::from_secs);
    let acquire = values.text("acquire-job");
    AgentConfig {
        spawn: checked.spawn,
        name: values.text("name").to_owned(),
        priority: checked.priority.clone(),
        token,
        endpoint: values.text("endpoint").to_owned(),
        request_headers: crate::api::request_headers(std::env::vars_os()),
        register,
        ping_mode: checked.ping_mode,
        acquire_job: (!acquire.is_empty()).then(|| acquire.to_owned()),
        reflect_exit_status: values.bool("reflect-exit-status"),
        disconnect_after_job: values.bool("disconnect-after-job"),
        disconnect_after_idle: seconds("disconnect-after-idle-timeout"),
        disconnect_after_uptime: seconds("disconnect-after-uptime"),
        cancel_signal_timeout: checked.cancel_signal_timeout,
        cancel_cleanup_timeout: checked.cancel_cleanup_timeout,
        kubernetes_exec: false,
        watchdog: checked.watchdog,
        otlp: values.bool("opentelemetry-metrics").then(|| otlp_protocol(&process_env)),
        cancel_signal: checked.cancel_signal,
        job: job_config(values, &checked, around),
    }
}

fn register_request(values: &Values, checked: &Checked, tags: Vec<String>) -> RegisterRequest {
    RegisterRequest {
        name: String::new(),
        hostname: facts::hostname(),
        os: facts::os_dump(),
        arch: platform::arch().to_owned(),
        script_eval_enabled: !values.bool("no-command-eval"),
        ignore_in_dispatches: !values.text("acquire-job").is_empty(),
        priority: String::new(),
        version: version::VERSION.to_owned(),
        build: version::BUILD.to_owned(),
        meta_data: tags,
        pid: std::process::id(),
        machine_id: facts::machine_id(),
        features: features(values, checked, &process_env),
    }
}

/// What the server is told of options in use (start-flags §7), in its order.
fn features(values: &Values, checked: &Checked, env: &dyn Fn(&str) -> Option<String>) -> Vec<String> {
    if values.bool("no-feature-reporting") {
        return Vec::new();
    }
    let edge = host(values.text("endpoint")) == "agent-edge.buildkite.com" && checked.ping_mode != PingMode::PollOnly;
    let before = [
        ("git-mirrors", !values.text("git-mirrors-path").is_empty()),
        ("streaming-pings", edge),
        ("acquire-job", !values.text("acquire-job").is_empty()),
        ("opentelemetry-tracing", values.bool("opentelemetry-tracing")),
        ("control-plane-otlp-tracing", true),
        ("disconnect-after-job", values.bool("disconnect-after-job")),
        ("disconnect-after-idle", values.int("disconnect-after-idle-timeout") > 0),
        ("disconnect-after-uptime", values.int("disconnect-after-uptime") > 0),
        ("no-plugins", !checked.plugins_enabled),
        ("no-script-eval", values.bool("no-command-eval")),
        ("no-http2", values.bool("no-http2")),
        ("allowed-repositories", !values.list("allowed-repositories").is_empty()),
        ("allowed-plugins", !values.list("allowed-plugins").is_empty()),
    ];
    let mut out: Vec<String> = before.into_iter().filter(|(_, on)| *on).map(|(name, _)| name.to_owned()).collect();
    out.extend(experiments(values).into_iter().map(|e| format!("experiment-{e}")));
    if env("HTTP_PROXY").is_some() || env("http_proxy").is_some() {
        out.push("env-http-proxy".into());
    }
    if values.bool("opentelemetry-metrics") {
        out.push("opentelemetry-metrics".into());
    }
    out
}

/// start-and-worker §7.2.
fn otlp_protocol(env: &dyn Fn(&str) -> Option<String>) -> Result<OtlpProtocol, String> {
    OtlpProtocol::choose(env("OTEL_EXPORTER_OTLP_METRICS_PROTOCOL").as_deref(), env("OTEL_EXPORTER_OTLP_PROTOCOL").as_deref())
}

/// Host of a URL, without port and user.
fn host(url: &str) -> &str {
    let rest = url.split_once("://").map_or(url, |(_, r)| r);
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let host = authority.rsplit_once('@').map_or(authority, |(_, h)| h);
    host.rsplit_once(':').map_or(host, |(h, _)| h)
}

/// A URL whose password is removed, for the log.
pub(crate) fn without_password(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else { return url.to_owned() };
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    match rest[..end].rsplit_once('@') {
        Some((user, host)) => match user.split_once(':') {
            Some((name, _)) => format!("{scheme}://{name}:xxxxx@{host}{}", &rest[end..]),
            None => url.to_owned(),
        },
        None => url.to_owned(),
    }
}

/// Enabled experiments, sorted, each once.
pub(crate) fn experiments(values: &Values) -> Vec<String> {
    let mut names = values.list("experiment").to_vec();
    names.sort();
    names.dedup();
    names
}

fn job_config(values: &Values, checked: &Checked, around: Surroundings<'_>) -> JobConfig {
    let text = |name: &str| values.text(name).to_owned();
    let list = |name: &str| values.list(name).to_vec();
    let or = |name: &str, default: &dyn Fn() -> String| Some(text(name)).filter(|t| !t.is_empty()).unwrap_or_else(default);
    let env = |name: &str| process_env(name).unwrap_or_default();
    JobConfig {
        bootstrap_script: or("bootstrap-script", &|| default_bootstrap(around.exe)),
        build_path: text("build-path"),
        config_path: around.config_path.to_owned(),
        bin_path: around.exe.parent().map(|p| p.to_string_lossy().into_owned()).unwrap_or_default(),
        shim_path: around.shim_path,
        path: env("PATH"),
        pid: std::process::id(),
        sockets_path: or("sockets-path", &default_sockets_path),
        hooks_path: text("hooks-path"),
        additional_hooks_paths: list("additional-hooks-paths"),
        plugins_path: text("plugins-path"),
        job_context_dir: text("job-context-dir"),
        shell: or("shell", &default_shell),
        hooks_shell: text("hooks-shell"),
        pty: !values.bool("no-pty"),
        pty_raw: values.list("experiment").iter().any(|e| e == "pty-raw"),
        timestamps: match (values.bool("timestamp-lines"), values.bool("no-ansi-timestamps")) {
            (true, _) => TimestampMode::Lines,
            (false, true) => TimestampMode::Plain,
            (false, false) => TimestampMode::Ansi,
        },
        debug: values.bool("debug"),
        debug_lines: around.debug_lines,
        debug_http: values.bool("debug-http"),
        no_http2: values.bool("no-http2"),
        command_eval: !values.bool("no-command-eval"),
        plugins_enabled: checked.plugins_enabled,
        plugin_validation: !values.bool("no-plugin-validation"),
        plugins_always_clone_fresh: values.bool("plugins-always-clone-fresh"),
        local_hooks_enabled: !values.bool("no-local-hooks"),
        strict_single_hooks: values.bool("strict-single-hooks"),
        ssh_keyscan: !values.bool("no-ssh-keyscan"),
        git_submodules: !values.bool("no-git-submodules"),
        skip_checkout: values.bool("skip-checkout"),
        git_skip_fetch_existing_commits: values.bool("git-skip-fetch-existing-commits"),
        git_checkout_timeout: values.int("git-checkout-timeout"),
        checkout_override_mode: checked.override_mode,
        checkout_attempts: values.int("checkout-attempts"),
        git_checkout_flags: text("git-checkout-flags"),
        git_clone_flags: text("git-clone-flags"),
        git_fetch_flags: text("git-fetch-flags"),
        git_clean_flags: text("git-clean-flags"),
        git_sparse_checkout_paths: list("git-sparse-checkout-paths"),
        git_sparse_checkout_mode: or("git-sparse-checkout-mode", &|| "cone".into()),
        git_clone_mirror_flags: text("git-clone-mirror-flags"),
        git_mirror_checkout_mode: text("git-mirror-checkout-mode"),
        git_mirrors_path: text("git-mirrors-path"),
        git_mirrors_skip_update: values.bool("git-mirrors-skip-update"),
        git_mirrors_lock_timeout: values.int("git-mirrors-lock-timeout"),
        git_submodule_clone_config: list("git-submodule-clone-config"),
        git_commit_verification: text("git-commit-verification"),
        experiments: experiments(values),
        redacted_vars: list("redacted-vars"),
        no_multipart_artifact_upload: values.bool("no-multipart-artifact-upload"),
        artifact_upload_concurrency: values.int("artifact-upload-concurrency"),
        signing_aws_kms_key: text("signing-aws-kms-key"),
        signing_gcp_kms_key: text("signing-gcp-kms-key"),
        signing_jwks_file: text("signing-jwks-file"),
        signing_jwks_key_id: text("signing-jwks-key-id"),
        debug_signing: values.bool("debug-signing"),
        verification_keys: !values.text("verification-jwks-file").is_empty(),
        verification_failure_behavior: text("verification-failure-behavior"),
        opentelemetry_tracing: values.bool("opentelemetry-tracing"),
        telemetry_service_name: text("telemetry-service-name"),
        job_logs_otlp: values.bool("job-logs-otlp"),
        disable_warnings_for: list("disable-warnings-for"),
        allowed_repositories: list("allowed-repositories"),
        allowed_plugins: list("allowed-plugins"),
        allowed_environment_variables: values.bool("enable-environment-variable-allowlist").then(|| list("allowed-environment-variables")),
        job_log_tmpfile: values.bool("enable-job-log-tmpfile"),
        job_log_path: text("job-log-path"),
        write_job_logs_to_stdout: values.bool("write-job-logs-to-stdout").then_some(if around.json {
            StdoutFormat::Json
        } else {
            StdoutFormat::Text
        }),
        local_otlp_destination: OTLP_DESTINATIONS.iter().any(|v| process_env(v).is_some()),
        agent_env_has_ignored_env: ["BUILDKITE_GIT_REMOTE_MIRROR_URL", "BUILDKITE_IGNORED_ENV"].iter().any(|v| process_env(v).is_some()),
    }
}

/// Variables that say where telemetry goes; the agent's own win over the control plane's (start-flags §2.8).
const OTLP_DESTINATIONS: [&str; 4] =
    ["OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_HEADERS", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_HEADERS"];

fn default_bootstrap(exe: &Path) -> String {
    let exe = exe.to_string_lossy();
    format!("{} bootstrap", shlex::try_quote(&exe).map(|q| q.into_owned()).unwrap_or_else(|_| exe.into_owned()))
}

fn default_sockets_path() -> String {
    match process_env("HOME").filter(|h| !h.is_empty()) {
        Some(home) => format!("{home}/.buildkite-agent/sockets"),
        None => std::env::temp_dir().join("buildkite-sockets").to_string_lossy().into_owned(),
    }
}

fn default_shell() -> String {
    let shell = match std::env::consts::OS {
        "freebsd" | "openbsd" => "/usr/local/bin/bash -e -c",
        "netbsd" => "/usr/pkg/bin/bash -e -c",
        _ if Path::new("/bin/bash").exists() => "/bin/bash -e -c",
        _ => "/usr/bin/env bash -e -c",
    };
    shell.to_owned()
}

#[cfg(test)]
mod tests {
    use super::super::{check, table::FLAGS};
    use super::*;
    use crate::flags::parse;
    use crate::log::{Format, Logger};

    fn features_of(args: &[&str], env: &[&str]) -> Vec<String> {
        let args: Vec<String> = args.iter().map(|s| (*s).to_owned()).collect();
        let values = Values::resolve(FLAGS, &parse(FLAGS, &args).unwrap(), &|_| None, None).unwrap().values;
        let log = Logger::new(&values, "start", Format::Text { colors: false });
        let checked = check::options(&values, &|_| None, 1, &log).unwrap();
        features(&values, &checked, &|name| env.contains(&name).then(String::new))
    }

    #[test]
    fn features_come_in_the_order_of_the_specification() {
        assert_eq!(features_of(&[], &[]), ["streaming-pings", "control-plane-otlp-tracing"]);
        assert_eq!(features_of(&["--endpoint=http://h:1/v3"], &[]), ["control-plane-otlp-tracing"]);
        assert_eq!(features_of(&["--ping-mode=poll-only"], &[]), ["control-plane-otlp-tracing"]);
        assert_eq!(features_of(&["--no-feature-reporting", "--no-http2"], &[]), [""; 0]);
        let all = [
            "--git-mirrors-path=/m",
            "--acquire-job=j",
            "--disconnect-after-job",
            "--disconnect-after-idle-timeout=1",
            "--disconnect-after-uptime=1",
            "--no-command-eval",
            "--no-http2",
            "--allowed-repositories=a",
            "--allowed-plugins=a",
            "--experiment=pty-raw,legacy-post-hook-order",
        ];
        assert_eq!(
            features_of(&all, &["http_proxy"]),
            [
                "git-mirrors",
                "streaming-pings",
                "acquire-job",
                "control-plane-otlp-tracing",
                "disconnect-after-job",
                "disconnect-after-idle",
                "disconnect-after-uptime",
                "no-plugins",
                "no-script-eval",
                "no-http2",
                "allowed-repositories",
                "allowed-plugins",
                "experiment-legacy-post-hook-order",
                "experiment-pty-raw",
                "env-http-proxy",
            ]
        );
    }

    #[test]
    fn a_password_in_the_endpoint_is_not_logged() {
        assert_eq!(without_password("https://u:p@h/v3"), "https://u:xxxxx@h/v3");
        assert_eq!(without_password("https://h/v3?a=b:c@d"), "https://h/v3?a=b:c@d");
        assert_eq!(host("https://u:p@agent-edge.buildkite.com:443/v3"), "agent-edge.buildkite.com");
    }
}
