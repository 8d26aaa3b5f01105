use crate::api::JobEnv;
use crate::machine::Owner;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::Arc;

/// What the job runner needs of the agent's configuration (job-runner §3.3, start-flags §2.5–2.8). Booleans are in the
/// flags' sense unless said otherwise.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct JobConfig {
    /// `bootstrap-script`, already expanded; split into words by the runner.
    pub bootstrap_script: String,
    /// Build path; working directory of the executor.
    pub build_path: String,
    /// Config file path, or empty.
    pub config_path: String,
    /// Directory of the running executable.
    pub bin_path: String,
    /// Directory put first on the job's `PATH`, in which `buildkite-agent` is this program; empty: none.
    pub shim_path: String,
    /// `PATH` of the agent's own environment, for `shim_path`.
    pub path: String,
    /// Pid of the agent process.
    pub pid: u32,
    /// Sockets path.
    pub sockets_path: String,
    /// Hooks path.
    pub hooks_path: String,
    /// Additional hook directories.
    pub additional_hooks_paths: Vec<String>,
    /// Plugins path.
    pub plugins_path: String,
    /// Job context directory; empty: the system's temporary directory.
    pub job_context_dir: String,
    /// `shell`.
    pub shell: String,
    /// `hooks-shell`.
    pub hooks_shell: String,
    /// Run jobs in a terminal.
    pub pty: bool,
    /// Terminal in raw mode (experiment `pty-raw`).
    pub pty_raw: bool,
    /// Log timestamps.
    pub timestamps: crate::log::TimestampMode,
    /// `debug`
    pub debug: bool,
    /// Lines of debug level are read by somebody: `debug`, or `log-level=debug`.
    #[serde(default)]
    pub debug_lines: bool,
    /// `debug-http`
    pub debug_http: bool,
    /// `no-http2`
    pub no_http2: bool,
    /// Command evaluation allowed.
    pub command_eval: bool,
    /// Plugins allowed.
    pub plugins_enabled: bool,
    /// Plugin validation on.
    pub plugin_validation: bool,
    /// `plugins-always-clone-fresh`
    pub plugins_always_clone_fresh: bool,
    /// Repository hooks allowed.
    pub local_hooks_enabled: bool,
    /// `strict-single-hooks`
    pub strict_single_hooks: bool,
    /// Accept new host keys.
    pub ssh_keyscan: bool,
    /// Submodules enabled.
    pub git_submodules: bool,
    /// `skip-checkout`
    pub skip_checkout: bool,
    /// `git-skip-fetch-existing-commits`
    pub git_skip_fetch_existing_commits: bool,
    /// `git-checkout-timeout`, seconds.
    pub git_checkout_timeout: i64,
    /// `checkout-override-mode`
    pub checkout_override_mode: OverrideMode,
    /// `checkout-attempts`
    pub checkout_attempts: i64,
    /// `git-checkout-flags`
    pub git_checkout_flags: String,
    /// `git-clone-flags`
    pub git_clone_flags: String,
    /// `git-fetch-flags`
    pub git_fetch_flags: String,
    /// `git-clean-flags`
    pub git_clean_flags: String,
    /// `git-sparse-checkout-paths`
    pub git_sparse_checkout_paths: Vec<String>,
    /// `git-sparse-checkout-mode`
    pub git_sparse_checkout_mode: String,
    /// `git-clone-mirror-flags`
    pub git_clone_mirror_flags: String,
    /// `git-mirror-checkout-mode`
    pub git_mirror_checkout_mode: String,
    /// `git-mirrors-path`
    pub git_mirrors_path: String,
    /// `git-mirrors-skip-update`
    pub git_mirrors_skip_update: bool,
    /// `git-mirrors-lock-timeout`, seconds.
    pub git_mirrors_lock_timeout: i64,
    /// `git-submodule-clone-config`
    pub git_submodule_clone_config: Vec<String>,
    /// `git-commit-verification`
    pub git_commit_verification: String,
    /// Enabled experiments, sorted.
    pub experiments: Vec<String>,
    /// `redacted-vars`
    pub redacted_vars: Vec<String>,
    /// `no-multipart-artifact-upload`
    pub no_multipart_artifact_upload: bool,
    /// `artifact-upload-concurrency`
    pub artifact_upload_concurrency: i64,
    /// `signing-aws-kms-key`
    pub signing_aws_kms_key: String,
    /// `signing-gcp-kms-key`
    pub signing_gcp_kms_key: String,
    /// `signing-jwks-file`
    pub signing_jwks_file: String,
    /// `signing-jwks-key-id`
    pub signing_jwks_key_id: String,
    /// `debug-signing`
    pub debug_signing: bool,
    /// Whether verification keys are configured.
    pub verification_keys: bool,
    /// `verification-failure-behavior`: `block`, `warn` or empty.
    pub verification_failure_behavior: String,
    /// `opentelemetry-tracing`
    pub opentelemetry_tracing: bool,
    /// `telemetry-service-name`
    pub telemetry_service_name: String,
    /// `job-logs-otlp`
    pub job_logs_otlp: bool,
    /// `disable-warnings-for`
    pub disable_warnings_for: Vec<String>,
    /// `allowed-repositories`
    pub allowed_repositories: Vec<String>,
    /// `allowed-plugins`
    pub allowed_plugins: Vec<String>,
    /// `allowed-environment-variables`, only with the allow-list enabled.
    pub allowed_environment_variables: Option<Vec<String>>,
    /// `enable-job-log-tmpfile`
    pub job_log_tmpfile: bool,
    /// `job-log-path`
    pub job_log_path: String,
    /// `write-job-logs-to-stdout`
    pub write_job_logs_to_stdout: Option<StdoutFormat>,
    /// Which of the four `OTEL_EXPORTER_OTLP_…` destination variables the agent's own environment has, present or empty.
    pub local_otlp_destination: bool,
    /// Whether the agent's own environment has a `BUILDKITE_GIT_REMOTE_MIRROR_URL` or `BUILDKITE_IGNORED_ENV` to mask.
    pub agent_env_has_ignored_env: bool,
}

/// `checkout-override-mode` (job-runner §3.4).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[allow(missing_docs, reason = "named as the option's values")]
pub enum OverrideMode {
    Strict,
    #[default]
    FromJob,
    None,
}

impl OverrideMode {
    /// As written in flags and variables.
    pub fn name(self) -> &'static str {
        match self {
            OverrideMode::Strict => "strict",
            OverrideMode::FromJob => "from-job",
            OverrideMode::None => "none",
        }
    }
}

/// How job output is copied to the agent's stdout (job-runner §6.7).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum StdoutFormat {
    /// Raw bytes.
    Text,
    /// One JSON object per line.
    Json,
}

/// What to write before a job starts (job-runner §3.7, §3.8, §6.7).
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
pub struct JobFilesSpec {
    /// The job.
    pub job: Owner,
    /// Job id, part of the names.
    pub job_id: Arc<str>,
    /// Directory; empty: the system's temporary directory.
    pub dir: String,
    /// Variables of both env files (job-runner §3.2).
    pub env: JobEnv,
    /// Also make the copy of the job log, in this directory (empty: temporary directory).
    pub log_copy_dir: Option<String>,
    /// Random part of the names, from the machine's generator.
    pub nonce: u64,
}

/// The files of a job.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct JobFiles {
    /// Shell-format env file.
    pub env_file: String,
    /// JSON env file.
    pub env_json_file: String,
    /// Path of the timeout marker; the file does not exist yet.
    pub timeout_file: String,
    /// Copy of the job log, if asked for.
    pub log_copy: Option<String>,
}

impl JobFiles {
    /// Where the executor leaves word that an exit status of 125 is the job's own (job-runner W5); the file does not exist yet.
    /// Empty without files.
    pub fn status_file(&self) -> String {
        if self.env_file.is_empty() { String::new() } else { format!("{}-status", self.env_file) }
    }
}

/// Environment handed to a child, as an overlay on the agent's own: a name maps to its value, or to `None` to remove it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct ChildEnv(pub BTreeMap<String, Option<String>>);

impl Serialize for ChildEnv {
    /// Names only: values may be secrets.
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_seq(self.0.keys())
    }
}

/// What a job ended with, for the worker.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum JobEnd {
    /// Reported; whatever the exit status was.
    Finished {
        /// As reported: −1 for signals and refusals.
        exit_status: i32,
        /// Signal name, empty if none.
        signal: String,
        /// Signal reason, empty if none.
        signal_reason: String,
    },
    /// The start call was refused or exhausted: no process, no finish.
    NotStarted(String),
}
