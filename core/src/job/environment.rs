//! What the job's process sees (job-runner §3): the edits made before the env files are written, and the variables that the
//! agent sets on top of them.

use super::{ChildEnv, JobConfig, JobFiles, OverrideMode, PatternList};
use crate::agent::{AgentConfig, OsSignal};
use crate::api::{AcceptedJob, JobEnv, Session, TracingPolicy};
use crate::limits;
use crate::retry::duration_text;
use std::collections::BTreeMap;

/// The job env as the env files show it (job-runner §3.2).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EditedEnv {
    /// The variables.
    pub env: JobEnv,
    /// Names that cannot be represented and were left out (job-runner §3.10).
    pub skipped: Vec<String>,
    /// The mirror URL that allowed-repositories does not permit, for the notice of job-runner §4.4.
    pub dropped_mirror: Option<String>,
}

/// Edits the job env (job-runner §3.2).
pub fn edit(job_env: &JobEnv, config: &JobConfig) -> EditedEnv {
    let mut edited = EditedEnv::default();
    let mut env: BTreeMap<String, String> = BTreeMap::new();
    for (name, value) in job_env.0.iter() {
        if name.is_empty() || name.contains('=') {
            edited.skipped.push(name.clone());
        } else {
            env.insert(name.clone(), value.clone());
        }
    }
    env.remove("BUILDKITE_AGENT_TOKEN");
    // Always present afterwards: this also masks a value in the agent's own environment.
    let mirror = env.entry("BUILDKITE_GIT_REMOTE_MIRROR_URL".to_owned()).or_default();
    if !mirror.is_empty() && !PatternList::new(&config.allowed_repositories).is_ok_and(|list| list.allows(mirror)) {
        edited.dropped_mirror = Some(std::mem::take(mirror));
    }
    edited.env = env.into_iter().collect();
    edited
}

/// Names the file by which the executor tells its own exit status of 125 from the job's (job-runner W5).
pub const STATUS_FILE: &str = "BUILDKITE_AGENT_JOB_STATUS_FILE";

/// Variables that a job may govern, depending on the mode (job-runner §3.4).
pub const SCOPED: [&str; 11] = [
    "BUILDKITE_GIT_CHECKOUT_FLAGS",
    "BUILDKITE_GIT_CHECKOUT_TIMEOUT",
    "BUILDKITE_GIT_CLEAN_FLAGS",
    "BUILDKITE_GIT_CLONE_FLAGS",
    "BUILDKITE_GIT_COMMIT_VERIFICATION",
    "BUILDKITE_GIT_FETCH_FLAGS",
    "BUILDKITE_GIT_SKIP_FETCH_EXISTING_COMMITS",
    "BUILDKITE_GIT_SPARSE_CHECKOUT_MODE",
    "BUILDKITE_GIT_SPARSE_CHECKOUT_PATHS",
    "BUILDKITE_GIT_SUBMODULES",
    "BUILDKITE_SKIP_CHECKOUT",
];

/// Whether the agent's value of a scoped variable replaces the job's (job-runner §3.4).
pub fn locked_for_job(mode: OverrideMode, name: &str) -> bool {
    match mode {
        OverrideMode::Strict => SCOPED.contains(&name),
        OverrideMode::FromJob => {
            SCOPED.contains(&name) && name != "BUILDKITE_GIT_SPARSE_CHECKOUT_PATHS" && name != "BUILDKITE_GIT_SPARSE_CHECKOUT_MODE"
        }
        OverrideMode::None => false,
    }
}

/// Destinations that take precedence over the control plane's exporter when the job has one of them.
const OTLP_DESTINATIONS: [&str; 4] =
    ["OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_HEADERS", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_HEADERS"];

/// Everything the variables of a job's process depend on.
#[derive(Clone, Copy, Debug)]
pub struct EnvInputs<'a> {
    /// The agent's configuration.
    pub config: &'a AgentConfig,
    /// The job as received.
    pub job: &'a AcceptedJob,
    /// The job env as edited by [`edit`].
    pub edited: &'a JobEnv,
    /// Endpoint, credential and headers of the job's requests.
    pub session: &'a Session,
    /// The control plane's tracing policy.
    pub tracing: Option<&'a TracingPolicy>,
    /// The job's files.
    pub files: &'a JobFiles,
}

/// The environment of the job's process, as an overlay on the agent's own (job-runner §3.1, §3.3).
pub fn child_env(inputs: EnvInputs<'_>) -> ChildEnv {
    let EnvInputs { config, job, edited, session, files, .. } = inputs;
    let c = &config.job;
    let mode = if c.command_eval { c.checkout_override_mode } else { OverrideMode::Strict };
    let mut vars = Variables { env: (*edited.0).clone(), ignored: Vec::new(), job: edited, mode };
    // W6: a job cannot smuggle the list in.
    vars.env.remove("BUILDKITE_IGNORED_ENV");

    vars.set("BUILDKITE_ENV_FILE", &files.env_file);
    vars.set("BUILDKITE_ENV_JSON_FILE", &files.env_json_file);
    vars.set("BUILDKITE_AGENT_JOB_TIMEOUT_FILE", &files.timeout_file);
    // Between the agent and its executor, which hands it on to nobody.
    vars.set(STATUS_FILE, files.status_file());
    vars.set_if(!job.step.cache_paths.is_empty(), "BUILDKITE_AGENT_CACHE_PATHS", job.step.cache_paths.join(","));
    vars.set_if(!job.step.secrets_config.is_empty(), "BUILDKITE_SECRETS_CONFIG", &job.step.secrets_config);
    vars.set("BUILDKITE_AGENT_ENDPOINT", &*session.endpoint);
    vars.set("BUILDKITE_AGENT_ACCESS_TOKEN", session.credential.expose());
    vars.set("BUILDKITE_NO_HTTP2", c.no_http2.to_string());
    for (name, value) in session.headers.iter() {
        let name = name.to_uppercase().replace('-', "_");
        vars.force(&format!("BUILDKITE_REQUEST_HEADER_{name}"), value);
    }
    vars.set("BUILDKITE_AGENT_DEBUG", c.debug.to_string());
    vars.set("BUILDKITE_AGENT_DEBUG_HTTP", c.debug_http.to_string());
    vars.set("BUILDKITE_AGENT_PID", c.pid.to_string());
    vars.set("BUILDKITE_BIN_PATH", &c.bin_path);
    vars.set("BUILDKITE_CONFIG_PATH", &c.config_path);
    vars.set("BUILDKITE_BUILD_PATH", &c.build_path);
    vars.set("BUILDKITE_SOCKETS_PATH", &c.sockets_path);
    vars.set("BUILDKITE_GIT_MIRRORS_PATH", &c.git_mirrors_path);
    vars.set("BUILDKITE_GIT_MIRRORS_SKIP_UPDATE", c.git_mirrors_skip_update.to_string());
    vars.set("BUILDKITE_HOOKS_PATH", &c.hooks_path);
    vars.set("BUILDKITE_ADDITIONAL_HOOKS_PATHS", c.additional_hooks_paths.join(","));
    vars.set("BUILDKITE_PLUGINS_PATH", &c.plugins_path);
    vars.set("BUILDKITE_SSH_KEYSCAN", c.ssh_keyscan.to_string());
    vars.checkout(c);
    vars.set("BUILDKITE_AGENT_EXPERIMENT", sorted(&c.experiments).join(","));
    vars.set("BUILDKITE_REDACTED_VARS", c.redacted_vars.join(","));
    vars.set("BUILDKITE_STRICT_SINGLE_HOOKS", c.strict_single_hooks.to_string());
    vars.set("BUILDKITE_CANCEL_SIGNAL_TIMEOUT", duration_text(config.cancel_signal_timeout));
    vars.set("BUILDKITE_CANCEL_CLEANUP_TIMEOUT", duration_text(config.cancel_cleanup_timeout));
    vars.set_if(c.no_multipart_artifact_upload, "BUILDKITE_NO_MULTIPART_ARTIFACT_UPLOAD", "true");
    vars.set_if(c.artifact_upload_concurrency > 0, "BUILDKITE_ARTIFACT_UPLOAD_CONCURRENCY", c.artifact_upload_concurrency.to_string());
    vars.set_if(config.cancel_signal != OsSignal::Term, "BUILDKITE_CANCEL_SIGNAL", config.cancel_signal.name());
    vars.set_if(!c.pty, "BUILDKITE_PTY", "false");
    vars.set_if(!c.signing_aws_kms_key.is_empty(), "BUILDKITE_AGENT_AWS_KMS_KEY", &c.signing_aws_kms_key);
    vars.set_if(!c.signing_gcp_kms_key.is_empty(), "BUILDKITE_AGENT_GCP_KMS_KEY", &c.signing_gcp_kms_key);
    vars.set_if(!c.signing_jwks_file.is_empty(), "BUILDKITE_AGENT_JWKS_FILE", &c.signing_jwks_file);
    vars.set_if(!c.signing_jwks_key_id.is_empty(), "BUILDKITE_AGENT_JWKS_KEY_ID", &c.signing_jwks_key_id);
    vars.set_if(c.debug_signing, "BUILDKITE_AGENT_DEBUG_SIGNING", "true");
    vars.plugin_validation(c.plugin_validation);
    vars.tracing(inputs);
    vars.set("BUILDKITE_JOB_LOGS_OTLP", c.job_logs_otlp.to_string());
    vars.set("BUILDKITE_AGENT_DISABLE_WARNINGS_FOR", c.disable_warnings_for.join(","));
    vars.finish(inputs)
}

/// Variables under construction.
struct Variables<'a> {
    env: BTreeMap<String, String>,
    /// Job-provided names that were replaced, in assignment order (job-runner §3.6).
    ignored: Vec<String>,
    job: &'a JobEnv,
    mode: OverrideMode,
}

impl Variables<'_> {
    /// Replaces, and remembers a job-provided name as ignored.
    fn set(&mut self, name: &str, value: impl Into<String>) {
        if self.job.0.contains_key(name) && !self.ignored.iter().any(|ignored| ignored == name) {
            self.ignored.push(name.to_owned());
        }
        self.force(name, value);
    }

    fn set_if(&mut self, condition: bool, name: &str, value: impl Into<String>) {
        if condition {
            self.set(name, value);
        }
    }

    /// Replaces silently.
    fn force(&mut self, name: &str, value: impl Into<String>) {
        self.env.insert(name.to_owned(), value.into());
    }

    /// job-runner §3.4: replaces where locked, else only fills a gap.
    fn scoped(&mut self, name: &str, value: impl Into<String>) {
        if locked_for_job(self.mode, name) {
            self.set(name, value);
        } else if !self.env.contains_key(name) {
            self.force(name, value);
        }
    }

    /// The four toggles are assigned in strict mode always, otherwise only where the agent has something to say.
    fn toggle(&mut self, name: &str, speaks: bool, value: String) {
        if speaks || self.mode == OverrideMode::Strict {
            self.scoped(name, value);
        }
    }

    fn checkout(&mut self, c: &JobConfig) {
        self.toggle("BUILDKITE_GIT_SUBMODULES", !c.git_submodules, c.git_submodules.to_string());
        self.toggle("BUILDKITE_SKIP_CHECKOUT", c.skip_checkout, c.skip_checkout.to_string());
        let skip_fetch = c.git_skip_fetch_existing_commits;
        self.toggle("BUILDKITE_GIT_SKIP_FETCH_EXISTING_COMMITS", skip_fetch, skip_fetch.to_string());
        self.toggle("BUILDKITE_GIT_CHECKOUT_TIMEOUT", c.git_checkout_timeout > 0, c.git_checkout_timeout.to_string());
        self.set("BUILDKITE_CHECKOUT_OVERRIDE_MODE", self.mode.name());
        self.set("BUILDKITE_CHECKOUT_ATTEMPTS", c.checkout_attempts.to_string());
        self.set("BUILDKITE_COMMAND_EVAL", c.command_eval.to_string());
        self.set("BUILDKITE_PLUGINS_ENABLED", c.plugins_enabled.to_string());
        self.set_if(c.plugins_always_clone_fresh, "BUILDKITE_PLUGINS_ALWAYS_CLONE_FRESH", "true");
        self.set("BUILDKITE_LOCAL_HOOKS_ENABLED", c.local_hooks_enabled.to_string());
        self.scoped("BUILDKITE_GIT_CHECKOUT_FLAGS", &c.git_checkout_flags);
        self.scoped("BUILDKITE_GIT_CLONE_FLAGS", &c.git_clone_flags);
        self.scoped("BUILDKITE_GIT_FETCH_FLAGS", &c.git_fetch_flags);
        self.scoped("BUILDKITE_GIT_SPARSE_CHECKOUT_PATHS", c.git_sparse_checkout_paths.join(","));
        self.scoped("BUILDKITE_GIT_SPARSE_CHECKOUT_MODE", &c.git_sparse_checkout_mode);
        self.set("BUILDKITE_GIT_CLONE_MIRROR_FLAGS", &c.git_clone_mirror_flags);
        self.set("BUILDKITE_GIT_MIRROR_CHECKOUT_MODE", &c.git_mirror_checkout_mode);
        self.scoped("BUILDKITE_GIT_CLEAN_FLAGS", &c.git_clean_flags);
        self.set("BUILDKITE_GIT_MIRRORS_LOCK_TIMEOUT", c.git_mirrors_lock_timeout.to_string());
        self.set("BUILDKITE_GIT_SUBMODULE_CLONE_CONFIG", c.git_submodule_clone_config.join(","));
        self.scoped("BUILDKITE_GIT_COMMIT_VERIFICATION", &c.git_commit_verification);
        self.set("BUILDKITE_SHELL", &c.shell);
        self.set("BUILDKITE_HOOKS_SHELL", &c.hooks_shell);
    }

    /// A job may switch validation on; then its own value is not listed as ignored.
    fn plugin_validation(&mut self, configured: bool) {
        const NAME: &str = "BUILDKITE_PLUGIN_VALIDATION";
        match self.job.get(NAME) {
            Some("true" | "1" | "on") => self.force(NAME, "true"),
            _ => self.set(NAME, configured.to_string()),
        }
    }

    fn tracing(&mut self, inputs: EnvInputs<'_>) {
        let (c, job) = (&inputs.config.job, inputs.job);
        // A policy of another backend is ignored whole.
        let policy = inputs.tracing.filter(|policy| policy.backend == "opentelemetry");
        if !c.opentelemetry_tracing && policy.is_none() {
            return;
        }
        self.set("BUILDKITE_OPENTELEMETRY_TRACING", "true");
        self.set("BUILDKITE_TELEMETRY_SERVICE_NAME", &c.telemetry_service_name);
        self.set_if(!job.traceparent.is_empty(), "BUILDKITE_TRACING_TRACEPARENT", &job.traceparent);
        self.set_if(!job.tracestate.is_empty(), "BUILDKITE_TRACING_TRACESTATE", &job.tracestate);
        let Some(exporter) = policy.and_then(|policy| policy.exporter.as_ref()) else { return };
        if c.local_otlp_destination || OTLP_DESTINATIONS.iter().any(|name| job.env.0.contains_key(*name)) {
            return;
        }
        self.force("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", exporter.endpoint.expose());
        if !exporter.protocol.is_empty() {
            self.force("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", &exporter.protocol);
        }
        if !exporter.headers.is_empty() {
            let pairs: Vec<String> = exporter.headers.iter().map(|(key, value)| format!("{key}={}", otlp_escape(value.expose()))).collect();
            self.force("OTEL_EXPORTER_OTLP_TRACES_HEADERS", pairs.join(","));
        }
    }

    fn finish(mut self, inputs: EnvInputs<'_>) -> ChildEnv {
        if let Some(message) = self.env.get_mut("BUILDKITE_MESSAGE")
            && let Some(cut) = truncated("BUILDKITE_MESSAGE", message, limits::MESSAGE_BYTES)
        {
            *message = cut;
        }
        let ignored = self.ignored.join(",");
        let mut overlay: BTreeMap<String, Option<String>> = self.env.into_iter().map(|(name, value)| (name, Some(value))).collect();
        // job-runner §3.6: without ignored names the variable is removed, also from the agent's own environment.
        overlay.insert("BUILDKITE_IGNORED_ENV".to_owned(), if ignored.is_empty() { None } else { Some(ignored) });
        // The agent's own environment was scrubbed at start-up; the registration token gets no second chance (I43).
        overlay.insert("BUILDKITE_AGENT_TOKEN".to_owned(), None);
        // Of the agent env's rank: a job's own value wins. W20: no other job sees it.
        if let Some(copy) = &inputs.files.log_copy {
            overlay.entry("BUILDKITE_JOB_LOG_TMPFILE".to_owned()).or_insert_with(|| Some(copy.clone()));
        }
        let c = &inputs.config.job;
        if !c.shim_path.is_empty() {
            let path = inputs.edited.get("PATH").unwrap_or(&c.path);
            let path = if path.is_empty() { c.shim_path.clone() } else { format!("{}:{path}", c.shim_path) };
            overlay.insert("PATH".to_owned(), Some(path));
        }
        if c.pty {
            overlay.insert("TERM".to_owned(), Some("xterm-256color".to_owned()));
        }
        ChildEnv(overlay)
    }
}

fn sorted(names: &[String]) -> Vec<String> {
    let mut names = names.to_vec();
    names.sort();
    names
}

/// `value` cut so that `name=value` and its NUL fit into `limit` bytes, at a character boundary, with a tail that says so;
/// `None` if it is not longer than `limit` (job-runner §3.3, message truncation).
pub fn truncated(name: &str, value: &str, limit: usize) -> Option<String> {
    if value.len() <= limit {
        return None;
    }
    let room = limit.saturating_sub(name.len() + 2);
    let tail = |length: usize| format!("[value truncated {} -> {length} bytes]", value.len());
    let keep = value.floor_char_boundary(room.saturating_sub(tail(room).len()));
    // A character that did not fit makes the whole shorter; the tail says the length that it really has.
    let length = keep + tail(room).len();
    let length = keep + tail(length).len();
    Some(format!("{}{}", &value[..keep], tail(length)))
}

/// Percent-encoding of a URL path segment, and `+` as `%2B` (job-runner §3.3, control-plane OTLP exporter).
fn otlp_escape(value: &str) -> String {
    use std::fmt::Write as _;
    let mut text = String::new();
    for byte in value.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' | b'$' | b'&' | b':' | b'=' | b'@' => text.push(char::from(byte)),
            _ => {
                let _ = write!(text, "%{byte:02X}");
            }
        }
    }
    text
}
