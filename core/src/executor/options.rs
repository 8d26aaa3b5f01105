//! Every option of `bootstrap`: its flag, its variable, its default (specification: bootstrap §1.2).

use crate::secret::Secret;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// How the text of an option is read (bootstrap §1.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// As it is; present but empty is the empty text.
    Text,
    /// As [`Kind::Text`], and never shown.
    Secret,
    /// `true`, `false` and their short forms; present but empty is false.
    Bool,
    /// A decimal number; present but empty is the default.
    Int,
    /// `10s`, `1m30s`, `500ms`; present but empty is the default.
    Duration,
    /// Separated by commas; present but empty is the default.
    List,
    /// Expanded and made absolute; empty stays empty.
    Path,
}

/// One option.
#[derive(Clone, Copy, Debug)]
pub struct OptionSpec {
    /// Without dashes.
    pub flag: &'static str,
    /// Environment variable.
    pub env: &'static str,
    /// How it is read.
    pub kind: Kind,
    /// Default, as text. Those that depend on the machine are filled in while parsing.
    pub default: &'static str,
    /// Re-read from the job env after every hook (bootstrap §7.9).
    pub live: bool,
    /// Must not be empty.
    pub required: bool,
    /// One line of help.
    pub help: &'static str,
}

macro_rules! options {
    ($($name:ident $flag:literal $env:literal $kind:ident $default:literal $mark:ident $help:literal;)*) => {
        /// Names an option.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[allow(missing_docs, reason = "the table below says what each one is")]
        pub enum Opt { $($name),* }

        /// All options, in the order of the specification.
        pub const OPTIONS: &[(Opt, OptionSpec)] = &[
            $((Opt::$name, OptionSpec {
                flag: $flag, env: $env, kind: Kind::$kind, default: $default,
                live: matches!(Mark::$mark, Mark::Live | Mark::RequiredLive),
                required: matches!(Mark::$mark, Mark::Required | Mark::RequiredLive), help: $help,
            })),*
        ];
    };
}

enum Mark {
    Fixed,
    Live,
    Required,
    RequiredLive,
}

options! {
    Command "command" "BUILDKITE_COMMAND" Text "" Fixed "The command to run";
    Job "job" "BUILDKITE_JOB_ID" Text "" Required "The id of the job";
    Repository "repository" "BUILDKITE_REPO" Text "" RequiredLive "The repository to check out";
    Commit "commit" "BUILDKITE_COMMIT" Text "" Required "The commit to check out";
    Branch "branch" "BUILDKITE_BRANCH" Text "" Required "The branch of the commit";
    Tag "tag" "BUILDKITE_TAG" Text "" Fixed "The tag of the commit";
    Refspec "refspec" "BUILDKITE_REFSPEC" Text "" Live "Refspecs to fetch instead of the branch";
    Plugins "plugins" "BUILDKITE_PLUGINS" Text "" Fixed "The plugins of the job, as JSON";
    Secrets "secrets" "BUILDKITE_SECRETS_CONFIG" Text "" Fixed "The secrets to load, as JSON";
    PullRequest "pullrequest" "BUILDKITE_PULL_REQUEST" Text "" Fixed "The pull request number, or false";
    PullRequestHead "pull-request-head-commit" "BUILDKITE_PULL_REQUEST_HEAD_COMMIT" Text "" Fixed "Expected head of the pull request";
    PullRequestMerge "pull-request-using-merge-refspec" "BUILDKITE_PULL_REQUEST_USING_MERGE_REFSPEC" Bool "false" Fixed "Check out the merge ref of the pull request";
    Agent "agent" "BUILDKITE_AGENT_NAME" Text "" Required "The name of the agent";
    Queue "queue" "BUILDKITE_AGENT_META_DATA_QUEUE" Text "" Fixed "The queue of the agent";
    Organization "organization" "BUILDKITE_ORGANIZATION_SLUG" Text "" Required "The organization";
    Pipeline "pipeline" "BUILDKITE_PIPELINE_SLUG" Text "" Required "The pipeline";
    Provider "pipeline-provider" "BUILDKITE_PIPELINE_PROVIDER" Text "" Required "The provider of the repository";
    ArtifactPaths "artifact-upload-paths" "BUILDKITE_ARTIFACT_PATHS" Text "" Live "Globs of the artifacts to upload";
    ArtifactDestination "artifact-upload-destination" "BUILDKITE_ARTIFACT_UPLOAD_DESTINATION" Text "" Live "Where artifacts go";
    CleanCheckout "clean-checkout" "BUILDKITE_CLEAN_CHECKOUT" Bool "false" Live "Remove the checkout first";
    SkipCheckout "skip-checkout" "BUILDKITE_SKIP_CHECKOUT" Bool "false" Live "Do not check out";
    OverrideMode "checkout-override-mode" "BUILDKITE_CHECKOUT_OVERRIDE_MODE" Text "from-job" Fixed "strict, from-job or none";
    GitCheckoutFlags "git-checkout-flags" "BUILDKITE_GIT_CHECKOUT_FLAGS" Text "-f" Live "Flags of git checkout";
    GitCloneFlags "git-clone-flags" "BUILDKITE_GIT_CLONE_FLAGS" Text "-v" Live "Flags of git clone";
    GitCloneMirrorFlags "git-clone-mirror-flags" "BUILDKITE_GIT_CLONE_MIRROR_FLAGS" Text "-v" Live "Flags of git clone for mirrors";
    GitCleanFlags "git-clean-flags" "BUILDKITE_GIT_CLEAN_FLAGS" Text "-ffxdq" Live "Flags of git clean";
    GitFetchFlags "git-fetch-flags" "BUILDKITE_GIT_FETCH_FLAGS" Text "-v --prune" Live "Flags of git fetch";
    GitCommitVerification "git-commit-verification" "BUILDKITE_GIT_COMMIT_VERIFICATION" Text "strict" Live "strict or off";
    GitSparsePaths "git-sparse-checkout-paths" "BUILDKITE_GIT_SPARSE_CHECKOUT_PATHS" List "" Live "Paths of a sparse checkout";
    GitSparseMode "git-sparse-checkout-mode" "BUILDKITE_GIT_SPARSE_CHECKOUT_MODE" Text "cone" Live "cone or no-cone";
    GitSshKey "git-ssh-key" "BUILDKITE_GIT_SSH_KEY" Secret "" Live "Private key for git";
    GitRemoteMirror "git-remote-mirror-url" "BUILDKITE_GIT_REMOTE_MIRROR_URL" Text "" Fixed "Remote mirror of the repository";
    GitMirrorsPath "git-mirrors-path" "BUILDKITE_GIT_MIRRORS_PATH" Path "" Fixed "Directory of mirrors on this host";
    GitMirrorMode "git-mirror-checkout-mode" "BUILDKITE_GIT_MIRROR_CHECKOUT_MODE" Text "reference" Live "dissociate or reference";
    GitMirrorsLockTimeout "git-mirrors-lock-timeout" "BUILDKITE_GIT_MIRRORS_LOCK_TIMEOUT" Int "300" Fixed "Seconds to wait for a mirror's lock";
    GitMirrorsSkipUpdate "git-mirrors-skip-update" "BUILDKITE_GIT_MIRRORS_SKIP_UPDATE" Bool "false" Live "Use mirrors as they are";
    GitSubmoduleConfig "git-submodule-clone-config" "BUILDKITE_GIT_SUBMODULE_CLONE_CONFIG" List "" Live "Configuration for submodule clones";
    GitCheckoutTimeout "git-checkout-timeout" "BUILDKITE_GIT_CHECKOUT_TIMEOUT" Int "0" Live "Seconds per checkout attempt, 0 for no limit";
    GitSkipFetch "git-skip-fetch-existing-commits" "BUILDKITE_GIT_SKIP_FETCH_EXISTING_COMMITS" Bool "false" Live "Do not fetch commits that exist";
    CheckoutAttempts "checkout-attempts" "BUILDKITE_CHECKOUT_ATTEMPTS" Int "6" Fixed "Checkout attempts";
    GitSubmodules "git-submodules" "BUILDKITE_GIT_SUBMODULES" Bool "true" Live "Check out submodules";
    GitLfs "git-lfs-enabled" "BUILDKITE_GIT_LFS_ENABLED" Bool "false" Live "Fetch Git LFS objects";
    SshKeyscan "ssh-keyscan" "BUILDKITE_SSH_KEYSCAN" Bool "true" Fixed "Accept new SSH host keys";
    BinPath "bin-path" "BUILDKITE_BIN_PATH" Path "" Fixed "Appended to PATH";
    BuildPath "build-path" "BUILDKITE_BUILD_PATH" Path "" Fixed "Root of checkouts";
    HooksPath "hooks-path" "BUILDKITE_HOOKS_PATH" Path "" Fixed "Directory of agent hooks";
    AdditionalHooksPaths "additional-hooks-paths" "BUILDKITE_ADDITIONAL_HOOKS_PATHS" List "" Fixed "More directories of agent hooks";
    SocketsPath "sockets-path" "BUILDKITE_SOCKETS_PATH" Path "" Fixed "Directory of sockets";
    PluginsPath "plugins-path" "BUILDKITE_PLUGINS_PATH" Path "" Fixed "Directory of plugins";
    CommandEval "command-eval" "BUILDKITE_COMMAND_EVAL" Bool "true" Fixed "Allow arbitrary commands";
    PluginsEnabled "plugins-enabled" "BUILDKITE_PLUGINS_ENABLED" Bool "true" Fixed "Allow plugins";
    PluginValidation "plugin-validation" "BUILDKITE_PLUGIN_VALIDATION" Bool "false" Fixed "Validate plugin configuration";
    PluginsFresh "plugins-always-clone-fresh" "BUILDKITE_PLUGINS_ALWAYS_CLONE_FRESH" Bool "false" Live "Clone plugins anew";
    LocalHooksEnabled "local-hooks-enabled" "BUILDKITE_LOCAL_HOOKS_ENABLED" Bool "true" Fixed "Allow repository hooks";
    StrictSingleHooks "strict-single-hooks" "BUILDKITE_STRICT_SINGLE_HOOKS" Bool "false" Fixed "At most one checkout and command hook";
    Pty "pty" "BUILDKITE_PTY" Bool "true" Fixed "Run hooks and commands in a terminal";
    Shell "shell" "BUILDKITE_SHELL" Text "" Fixed "Interpreter of the command";
    HooksShell "hooks-shell" "BUILDKITE_HOOKS_SHELL" Text "" Fixed "Interpreter of hooks";
    Phases "phases" "BUILDKITE_BOOTSTRAP_PHASES" List "" Fixed "Phases to run: plugin, checkout, command";
    RedactedVars "redacted-vars" "BUILDKITE_REDACTED_VARS" List "*_PASSWORD,*_SECRET,*_TOKEN,*_PRIVATE_KEY,*_SSH_KEY,*_ACCESS_KEY,*_SECRET_KEY,*_CONNECTION_STRING,*_API_KEY" Fixed "Names of variables whose values are redacted";
    NoJobApi "no-job-api" "BUILDKITE_AGENT_NO_JOB_API" Bool "false" Fixed "Do not serve the Job API";
    JobLogsOtlp "job-logs-otlp" "BUILDKITE_JOB_LOGS_OTLP" Bool "false" Fixed "Export the job log";
    DisableWarningsFor "disable-warnings-for" "BUILDKITE_AGENT_DISABLE_WARNINGS_FOR" List "" Fixed "Ids of warnings to show as plain lines";
    Tracing "opentelemetry-tracing" "BUILDKITE_OPENTELEMETRY_TRACING" Bool "false" Fixed "Export traces";
    TelemetryService "telemetry-service-name" "BUILDKITE_TELEMETRY_SERVICE_NAME" Text "buildkite-agent" Fixed "Service name of telemetry";
    Traceparent "tracing-traceparent" "BUILDKITE_TRACING_TRACEPARENT" Text "" Fixed "Parent of the trace";
    Tracestate "tracing-tracestate" "BUILDKITE_TRACING_TRACESTATE" Text "" Fixed "State of the trace";
    CancelSignal "cancel-signal" "BUILDKITE_CANCEL_SIGNAL" Text "SIGTERM" Fixed "Signal that interrupts the command";
    CancelSignalTimeout "cancel-signal-timeout" "BUILDKITE_CANCEL_SIGNAL_TIMEOUT" Duration "10s" Fixed "Time between the signal and the kill";
    CancelCleanupTimeout "cancel-cleanup-timeout" "BUILDKITE_CANCEL_CLEANUP_TIMEOUT" Duration "5s" Fixed "Used by the job runner";
    Debug "debug" "BUILDKITE_AGENT_DEBUG" Bool "false" Fixed "Verbose job log";
    LogLevel "log-level" "BUILDKITE_AGENT_LOG_LEVEL" Text "notice" Fixed "Level of the process's own log";
    Experiment "experiment" "BUILDKITE_AGENT_EXPERIMENT" List "" Fixed "Experiments to enable";
    Profile "profile" "BUILDKITE_AGENT_PROFILE" Text "" Fixed "Profile to write";
}

/// The value of an option.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(super) enum Value {
    Text(String),
    Secret(Secret),
    Bool(bool),
    Int(i64),
    Duration(Duration),
    List(Vec<String>),
}

impl Value {
    /// Reads `text`; the error names what it is not.
    pub(super) fn parse(kind: Kind, text: &str) -> Result<Value, &'static str> {
        match kind {
            Kind::Text | Kind::Path => Ok(Value::Text(text.to_owned())),
            Kind::Secret => Ok(Value::Secret(Secret::new(text))),
            Kind::Bool => parse_bool(text).map(Value::Bool).ok_or("bool"),
            Kind::Int => text.parse().map(Value::Int).map_err(|_| "int"),
            Kind::Duration => parse_duration(text).map(Value::Duration).ok_or("duration"),
            Kind::List => Ok(Value::List(split_list(text))),
        }
    }

    /// As it is shown when a hook has changed it.
    pub(super) fn shown(&self) -> String {
        match self {
            Value::Text(text) => text.clone(),
            Value::Secret(_) => "[REDACTED]".to_owned(),
            Value::Bool(on) => on.to_string(),
            Value::Int(n) => n.to_string(),
            Value::Duration(d) => format!("{d:?}"),
            Value::List(items) => items.join(","),
        }
    }
}

fn parse_bool(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "TRUE" | "true" | "True" => Some(true),
        "0" | "f" | "F" | "FALSE" | "false" | "False" | "" => Some(false),
        _ => None,
    }
}

/// Elements trimmed, empty ones dropped.
pub(super) fn split_list(text: &str) -> Vec<String> {
    text.split(',').map(str::trim).filter(|item| !item.is_empty()).map(str::to_owned).collect()
}

/// `10s`, `1m30s`, `1.5h`, `500ms`, `0`.
pub fn parse_duration(text: &str) -> Option<Duration> {
    if text == "0" {
        return Some(Duration::ZERO);
    }
    let mut rest = text;
    let mut seconds = 0.0_f64;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let unit = rest.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(rest.len());
        seconds += number
            * match &rest[..unit] {
                "ns" => 1e-9,
                "us" | "µs" => 1e-6,
                "ms" => 1e-3,
                "s" => 1.0,
                "m" => 60.0,
                "h" => 3600.0,
                _ => return None,
            };
        rest = &rest[unit..];
    }
    if text.is_empty() { None } else { Duration::try_from_secs_f64(seconds).ok() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_indexed_by_its_enum_and_names_nothing_twice() {
        for (index, (opt, _)) in OPTIONS.iter().enumerate() {
            assert_eq!(*opt as usize, index);
        }
        let flags: std::collections::BTreeSet<_> = OPTIONS.iter().map(|(_, o)| o.flag).collect();
        let names: std::collections::BTreeSet<_> = OPTIONS.iter().map(|(_, o)| o.env).collect();
        assert_eq!((flags.len(), names.len()), (OPTIONS.len(), OPTIONS.len()));
    }

    #[test]
    fn durations_are_read_with_their_units() {
        assert_eq!(parse_duration("1m30s"), Some(Duration::from_secs(90)));
        assert_eq!(parse_duration("500ms"), Some(Duration::from_millis(500)));
        assert_eq!(parse_duration("0"), Some(Duration::ZERO));
        for wrong in ["", "10", "s", "1x", "-1s", "1.2.3s"] {
            assert_eq!(parse_duration(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn booleans_take_six_spellings_each_and_empty_is_false() {
        assert!(["1", "t", "T", "TRUE", "true", "True"].iter().all(|t| parse_bool(t) == Some(true)));
        assert!(["0", "f", "F", "FALSE", "false", "False", ""].iter().all(|t| parse_bool(t) == Some(false)));
        assert_eq!(parse_bool("yes"), None);
    }
}
