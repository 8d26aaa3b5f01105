//! Every option of `start` (start-flags §2): flag and configuration key, environment, type, default, meaning. The list of
//! variables that are removed from the agent's own environment (§8.1) is this table.

use crate::flags::Kind::{Bool, Duration, Int, List, Text};
use crate::flags::{DEFAULT_ENDPOINT, DEFAULT_REDACTED, Flag, flag};

/// All tables, in the order of the help.
pub(crate) static FLAGS: &[&[Flag]] = &[IDENTITY, CANCELLATION, TAG_SOURCES, PATHS, RESTRICTIONS, GIT, TELEMETRY, LOGGING, REMOVED];

/// §2.2
static IDENTITY: &[Flag] = &[
    flag("token", Text, &["BUILDKITE_AGENT_TOKEN"], "The agent registration token: the token itself, file://PATH or fd://N"),
    flag("endpoint", Text, &["BUILDKITE_AGENT_ENDPOINT"], "The Agent API endpoint").or(DEFAULT_ENDPOINT),
    flag("config", Text, &["BUILDKITE_AGENT_CONFIG"], "Path to a configuration file"),
    flag("name", Text, &["BUILDKITE_AGENT_NAME"], "The name of the agent; %spawn is replaced here, %hostname and %random by the server"),
    flag("priority", Text, &["BUILDKITE_AGENT_PRIORITY"], "The priority of the agent; higher priorities are assigned work first"),
    flag("spawn", Int, &["BUILDKITE_AGENT_SPAWN"], "The number of workers in this process").or("1"),
    flag("spawn-per-cpu", Int, &["BUILDKITE_AGENT_SPAWN_PER_CPU"], "The number of workers per logical CPU (not together with spawn)").or("0"),
    flag(
        "spawn-with-priority",
        Text,
        &["BUILDKITE_AGENT_SPAWN_WITH_PRIORITY"],
        "Priorities of several workers: static (all use priority), ascending (1, 2, 3…) or descending (-1, -2, -3…)",
    )
    .or("static"),
    flag("queue", Text, &["BUILDKITE_AGENT_QUEUE"], "The queue the agent listens to; adds the tag queue=…"),
    flag("tags", List, &["BUILDKITE_AGENT_TAGS"], "Tags of the agent, comma-separated: key=value or words").commas(),
    flag("acquire-job", Text, &["BUILDKITE_AGENT_ACQUIRE_JOB"], "Run this job and nothing else, then leave"),
    flag("reflect-exit-status", Bool, &["BUILDKITE_AGENT_REFLECT_EXIT_STATUS"], "With acquire-job: exit with the job's exit status"),
    flag("disconnect-after-job", Bool, &["BUILDKITE_AGENT_DISCONNECT_AFTER_JOB"], "Each worker leaves after one job"),
    flag(
        "disconnect-after-idle-timeout",
        Int,
        &["BUILDKITE_AGENT_DISCONNECT_AFTER_IDLE_TIMEOUT"],
        "Seconds without any job after which all workers leave; 0 means never",
    )
    .or("0"),
    flag(
        "disconnect-after-uptime",
        Int,
        &["BUILDKITE_AGENT_DISCONNECT_AFTER_UPTIME"],
        "Seconds after which a worker leaves, when its job is over; 0 means never",
    )
    .or("0"),
    flag("ping-mode", Text, &["BUILDKITE_AGENT_PING_MODE"], "How work arrives: auto, poll-only or stream-only").or("auto"),
    flag("no-http2", Bool, &["BUILDKITE_NO_HTTP2"], "Use HTTP/1.1 only"),
    flag("no-feature-reporting", Bool, &["BUILDKITE_AGENT_NO_FEATURE_REPORTING"], "Do not tell the server which features are in use"),
    flag("health-check-addr", Text, &["BUILDKITE_AGENT_HEALTH_CHECK_ADDR"], "host:port on which health, status and metrics are served"),
];

/// §2.3
static CANCELLATION: &[Flag] = &[
    flag("cancel-signal", Text, &["BUILDKITE_CANCEL_SIGNAL"], "The signal a cancelled job gets").or("SIGTERM"),
    flag("cancel-signal-timeout", Duration, &["BUILDKITE_CANCEL_SIGNAL_TIMEOUT"], "Time between the cancel signal and SIGKILL").or("10s"),
    flag("cancel-cleanup-timeout", Duration, &["BUILDKITE_CANCEL_CLEANUP_TIMEOUT"], "Further time for logs, finish and disconnect after SIGKILL")
        .or("5s"),
];

/// §2.4
static TAG_SOURCES: &[Flag] = &[
    flag("tags-from-host", Bool, &["BUILDKITE_AGENT_TAGS_FROM_HOST"], "Add tags of the host: hostname, os, arch, machine-id"),
    flag("tags-from-ec2-meta-data", Bool, &["BUILDKITE_AGENT_TAGS_FROM_EC2_META_DATA"], "Add the default tags of the EC2 instance"),
    flag("tags-from-ec2-meta-data-paths", List, &["BUILDKITE_AGENT_TAGS_FROM_EC2_META_DATA_PATHS"], "Add EC2 meta-data: tag=path").commas(),
    flag("tags-from-ec2-tags", Bool, &["BUILDKITE_AGENT_TAGS_FROM_EC2_TAGS"], "Add the tags of the EC2 instance"),
    flag("tags-from-ecs-meta-data", Bool, &["BUILDKITE_AGENT_TAGS_FROM_ECS_META_DATA"], "Add tags of the ECS task"),
    flag("tags-from-gcp-meta-data", Bool, &["BUILDKITE_AGENT_TAGS_FROM_GCP_META_DATA"], "Add the default tags of the Google Cloud instance"),
    flag("tags-from-gcp-meta-data-paths", List, &["BUILDKITE_AGENT_TAGS_FROM_GCP_META_DATA_PATHS"], "Add Google Cloud meta-data: tag=path").commas(),
    flag("tags-from-gcp-labels", Bool, &["BUILDKITE_AGENT_TAGS_FROM_GCP_LABELS"], "Add the labels of the Google Cloud instance"),
    flag("wait-for-ec2-tags-timeout", Duration, &["BUILDKITE_AGENT_WAIT_FOR_EC2_TAGS_TIMEOUT"], "How long to try for EC2 tags").or("10s"),
    flag("wait-for-ec2-meta-data-timeout", Duration, &["BUILDKITE_AGENT_WAIT_FOR_EC2_META_DATA_TIMEOUT"], "How long to try for EC2 meta-data")
        .or("10s"),
    flag("wait-for-ecs-meta-data-timeout", Duration, &["BUILDKITE_AGENT_WAIT_FOR_ECS_META_DATA_TIMEOUT"], "How long to try for ECS meta-data")
        .or("10s"),
    flag("wait-for-gcp-labels-timeout", Duration, &["BUILDKITE_AGENT_WAIT_FOR_GCP_LABELS_TIMEOUT"], "How long to try for Google Cloud labels")
        .or("10s"),
    flag("fail-on-missing-tags", Bool, &["BUILDKITE_AGENT_FAIL_ON_MISSING_TAGS"], "Do not start when a tag source fails"),
];

/// §2.5. The default of `shell` and of `sockets-path` depends on the machine.
static PATHS: &[Flag] = &[
    flag("build-path", Text, &["BUILDKITE_BUILD_PATH"], "Directory in which builds are run").path(),
    flag("hooks-path", Text, &["BUILDKITE_HOOKS_PATH"], "Directory of the agent's hooks").path(),
    flag("additional-hooks-paths", List, &["BUILDKITE_ADDITIONAL_HOOKS_PATHS"], "More directories of hooks, comma-separated").commas(),
    flag("plugins-path", Text, &["BUILDKITE_PLUGINS_PATH"], "Directory of plugin checkouts").path(),
    flag("sockets-path", Text, &["BUILDKITE_SOCKETS_PATH"], "Directory of Unix sockets, by default $HOME/.buildkite-agent/sockets").path(),
    flag("bootstrap-script", Text, &["BUILDKITE_BOOTSTRAP_SCRIPT_PATH"], "Command that runs a job, by default this program's bootstrap").command(),
    flag("shell", Text, &["BUILDKITE_SHELL"], "Shell that runs commands, by default /bin/bash -e -c"),
    flag("hooks-shell", Text, &["BUILDKITE_HOOKS_SHELL"], "Interpreter of all hooks"),
    flag("no-pty", Bool, &["BUILDKITE_NO_PTY"], "Do not run jobs within a pseudo terminal"),
    flag("strict-single-hooks", Bool, &["BUILDKITE_STRICT_SINGLE_HOOKS"], "Allow one checkout and one command hook at most"),
    flag("redacted-vars", List, &["BUILDKITE_REDACTED_VARS"], "Glob patterns of names of variables whose values are redacted from logs")
        .or(DEFAULT_REDACTED)
        .commas(),
    flag("enable-job-log-tmpfile", Bool, &["BUILDKITE_ENABLE_JOB_LOG_TMPFILE"], "Keep a copy of the job's log in a temporary file while it runs"),
    flag("job-log-path", Text, &["BUILDKITE_JOB_LOG_PATH"], "Directory of that file, by default the system's").path(),
    flag("write-job-logs-to-stdout", Bool, &["BUILDKITE_WRITE_JOB_LOGS_TO_STDOUT"], "Copy job output to the agent's stdout"),
    flag("job-logs-otlp", Bool, &["BUILDKITE_JOB_LOGS_OTLP"], "Export job logs by OTLP"),
    flag("no-ansi-timestamps", Bool, &["BUILDKITE_NO_ANSI_TIMESTAMPS"], "No timestamps inside the log; header times are sent instead"),
    flag(
        "timestamp-lines",
        Bool,
        &["BUILDKITE_TIMESTAMP_LINES"],
        "Readable timestamps before lines instead of escape sequences; header times are sent too",
    ),
    flag("artifact-upload-concurrency", Int, &["BUILDKITE_ARTIFACT_UPLOAD_CONCURRENCY"], "Artifact uploads at the same time; 0 means one per CPU")
        .or("0"),
    flag("no-multipart-artifact-upload", Bool, &["BUILDKITE_NO_MULTIPART_ARTIFACT_UPLOAD"], "Upload large artifacts in one piece"),
    flag("job-context-dir", Text, &["BUILDKITE_JOB_CONTEXT_DIR"], "Directory of the files of a running job, by default the system's temporary one")
        .path(),
    flag("kubernetes-exec", Bool, &["BUILDKITE_KUBERNETES_EXEC"], "Run jobs in the containers of a pod"),
    flag("kubernetes-container-start-timeout", Duration, &["BUILDKITE_KUBERNETES_CONTAINER_START_TIMEOUT"], "How long containers may take to start")
        .or("5m"),
    flag("record", Text, &["IBEX_RECORD"], "Directory in which the flight recorder keeps the agent's last events, for `ibex replay`").path(),
];

/// §2.6
static RESTRICTIONS: &[Flag] = &[
    flag("no-command-eval", Bool, &["BUILDKITE_NO_COMMAND_EVAL"], "Run only scripts of the checkout, no commands"),
    flag("no-local-hooks", Bool, &["BUILDKITE_NO_LOCAL_HOOKS"], "Do not run hooks of the repository"),
    flag("no-plugins", Bool, &["BUILDKITE_NO_PLUGINS"], "Do not load plugins"),
    flag("no-plugin-validation", Bool, &["BUILDKITE_NO_PLUGIN_VALIDATION"], "Do not validate plugin configuration").or("true"),
    flag("plugins-always-clone-fresh", Bool, &["BUILDKITE_PLUGINS_ALWAYS_CLONE_FRESH"], "Clone plugins anew for every job"),
    flag("no-ssh-keyscan", Bool, &["BUILDKITE_NO_SSH_KEYSCAN"], "Do not accept host keys of repositories automatically"),
    flag("allowed-repositories", List, &["BUILDKITE_ALLOWED_REPOSITORIES"], "Regular expressions of repositories that may be cloned").commas(),
    flag("allowed-plugins", List, &["BUILDKITE_ALLOWED_PLUGINS"], "Regular expressions of plugins that may be used").commas(),
    flag(
        "enable-environment-variable-allowlist",
        Bool,
        &["BUILDKITE_ENABLE_ENVIRONMENT_VARIABLE_ALLOWLIST"],
        "Jobs may only bring variables that allowed-environment-variables names",
    ),
    flag(
        "allowed-environment-variables",
        List,
        &["BUILDKITE_ALLOWED_ENVIRONMENT_VARIABLES"],
        "Regular expressions of names of variables that jobs may bring",
    )
    .commas(),
    flag("verification-jwks-file", Text, &["BUILDKITE_AGENT_VERIFICATION_JWKS_FILE"], "Keys with which signatures of jobs are verified").path(),
    flag(
        "verification-failure-behavior",
        Text,
        &["BUILDKITE_AGENT_JOB_VERIFICATION_NO_SIGNATURE_BEHAVIOR"],
        "What happens to a job without a valid signature: block or warn",
    )
    .or("block"),
    flag("signing-jwks-file", Text, &["BUILDKITE_AGENT_SIGNING_JWKS_FILE"], "Keys with which uploaded pipelines are signed").path(),
    flag("signing-jwks-key-id", Text, &["BUILDKITE_AGENT_SIGNING_JWKS_KEY_ID"], "Which of those keys"),
    flag("signing-aws-kms-key", Text, &["BUILDKITE_AGENT_SIGNING_AWS_KMS_KEY"], "AWS KMS key for signing and verifying pipelines"),
    flag("signing-gcp-kms-key", Text, &["BUILDKITE_AGENT_SIGNING_GCP_KMS_KEY"], "Google Cloud KMS key for signing and verifying pipelines"),
    flag("debug-signing", Bool, &["BUILDKITE_AGENT_DEBUG_SIGNING"], "Show what is signed; may leak secrets"),
];

/// §2.7
static GIT: &[Flag] = &[
    flag("skip-checkout", Bool, &["BUILDKITE_SKIP_CHECKOUT"], "Skip the git checkout"),
    flag(
        "checkout-override-mode",
        Text,
        &["BUILDKITE_CHECKOUT_OVERRIDE_MODE"],
        "Who decides about checkouts: strict (the agent), from-job or none (the job)",
    )
    .or("from-job"),
    flag("git-checkout-flags", Text, &["BUILDKITE_GIT_CHECKOUT_FLAGS"], "Flags of git checkout").or("-f"),
    flag("git-clone-flags", Text, &["BUILDKITE_GIT_CLONE_FLAGS"], "Flags of git clone").or("-v"),
    flag("git-clean-flags", Text, &["BUILDKITE_GIT_CLEAN_FLAGS"], "Flags of git clean").or("-ffxdq"),
    flag("git-fetch-flags", Text, &["BUILDKITE_GIT_FETCH_FLAGS"], "Flags of git fetch").or("-v --prune"),
    flag("git-commit-verification", Text, &["BUILDKITE_GIT_COMMIT_VERIFICATION"], "Check that the commit is on the branch: strict or off")
        .or("strict"),
    flag("git-sparse-checkout-paths", List, &["BUILDKITE_GIT_SPARSE_CHECKOUT_PATHS"], "Paths of a sparse checkout, comma-separated").commas(),
    flag("git-sparse-checkout-mode", Text, &["BUILDKITE_GIT_SPARSE_CHECKOUT_MODE"], "Mode of a sparse checkout: cone or no-cone").or("cone"),
    flag("git-clone-mirror-flags", Text, &["BUILDKITE_GIT_CLONE_MIRROR_FLAGS"], "Flags of git clone for mirrors").or("-v"),
    flag("git-mirrors-path", Text, &["BUILDKITE_GIT_MIRRORS_PATH"], "Directory of repository mirrors").path(),
    flag("git-mirror-checkout-mode", Text, &["BUILDKITE_GIT_MIRROR_CHECKOUT_MODE"], "How checkouts use a mirror: reference or dissociate")
        .or("reference"),
    flag("git-mirrors-lock-timeout", Int, &["BUILDKITE_GIT_MIRRORS_LOCK_TIMEOUT"], "Seconds to wait for the lock of a mirror").or("300"),
    flag("git-mirrors-skip-update", Bool, &["BUILDKITE_GIT_MIRRORS_SKIP_UPDATE"], "Do not update mirrors"),
    flag("git-checkout-timeout", Int, &["BUILDKITE_GIT_CHECKOUT_TIMEOUT"], "Seconds after which a checkout is given up; 0 means never").or("0"),
    flag("no-git-submodules", Bool, &["BUILDKITE_NO_GIT_SUBMODULES", "BUILDKITE_DISABLE_GIT_SUBMODULES"], "Do not check out submodules"),
    flag(
        "git-submodule-clone-config",
        List,
        &["BUILDKITE_GIT_SUBMODULE_CLONE_CONFIG"],
        "Git configuration for cloning submodules: key=value, comma-separated",
    ),
    flag("git-skip-fetch-existing-commits", Bool, &["BUILDKITE_GIT_SKIP_FETCH_EXISTING_COMMITS"], "Do not fetch a commit that is there already"),
    flag("checkout-attempts", Int, &["BUILDKITE_CHECKOUT_ATTEMPTS"], "Attempts at a checkout").or("6"),
];

/// §2.8
static TELEMETRY: &[Flag] = &[
    flag("opentelemetry-metrics", Bool, &["BUILDKITE_OPENTELEMETRY_METRICS"], "Export agent metrics by OTLP"),
    flag("opentelemetry-tracing", Bool, &["BUILDKITE_OPENTELEMETRY_TRACING"], "Trace jobs with OpenTelemetry"),
    flag("telemetry-service-name", Text, &["BUILDKITE_TELEMETRY_SERVICE_NAME"], "Service name in telemetry").or("buildkite-agent"),
];

/// §2.1
static LOGGING: &[Flag] = &[
    flag("no-color", Bool, &["BUILDKITE_AGENT_NO_COLOR"], "Don't show colors in logging"),
    flag("debug", Bool, &["BUILDKITE_AGENT_DEBUG"], "Enable debug mode. Synonym for --log-level debug, which it takes precedence over"),
    flag("log-level", Text, &["BUILDKITE_AGENT_LOG_LEVEL"], "Least severe level that is logged: debug, notice, info, warn, error, fatal")
        .or("notice"),
    flag("log-format", Text, &["BUILDKITE_LOG_FORMAT"], "text (to stderr) or json (to stdout)").or("text"),
    flag("debug-http", Bool, &["BUILDKITE_AGENT_DEBUG_HTTP"], "Dump HTTP requests and responses at debug level"),
    flag("trace-http", Bool, &["BUILDKITE_AGENT_TRACE_HTTP"], "Log timings of HTTP requests"),
    flag("experiment", List, &["BUILDKITE_AGENT_EXPERIMENT"], "Enable experimental features").commas(),
    flag("profile", Text, &["BUILDKITE_AGENT_PROFILE"], "Profiling mode; accepted for compatibility, this agent has no profiler built in"),
    flag("disable-warnings-for", List, &["BUILDKITE_AGENT_DISABLE_WARNINGS_FOR"], "Warning ids to silence inside jobs").commas(),
];

/// Options of version 3 that are still accepted (§10); `removed.rs` says what becomes of each.
static REMOVED: &[Flag] = &[
    flag("cancel-grace-period", Int, &["BUILDKITE_CANCEL_GRACE_PERIOD"], "").or("10").hidden(),
    flag("signal-grace-period-seconds", Int, &["BUILDKITE_SIGNAL_GRACE_PERIOD_SECONDS"], "").or("-1").hidden(),
    flag("tracing-backend", Text, &["BUILDKITE_TRACING_BACKEND"], "").hidden(),
    flag("tracing-service-name", Text, &["BUILDKITE_TRACING_SERVICE_NAME"], "").hidden(),
    flag("trace-context-encoding", Text, &["BUILDKITE_TRACE_CONTEXT_ENCODING"], "").hidden(),
    flag("tracing-propagate-traceparent", Bool, &["BUILDKITE_TRACING_PROPAGATE_TRACEPARENT"], "").hidden(),
    flag("metrics-datadog", Bool, &["BUILDKITE_METRICS_DATADOG"], "").hidden(),
    flag("metrics-datadog-host", Text, &["BUILDKITE_METRICS_DATADOG_HOST"], "").hidden(),
    flag("metrics-datadog-distributions", Bool, &["BUILDKITE_METRICS_DATADOG_DISTRIBUTIONS"], "").hidden(),
    flag("meta-data", List, &["BUILDKITE_AGENT_META_DATA"], "").commas().hidden(),
    flag("meta-data-ec2", Bool, &["BUILDKITE_AGENT_META_DATA_EC2"], "").hidden(),
    flag("meta-data-ec2-tags", Bool, &["BUILDKITE_AGENT_META_DATA_EC2_TAGS"], "").hidden(),
    flag("meta-data-gcp", Bool, &["BUILDKITE_AGENT_META_DATA_GCP"], "").hidden(),
    flag("tags-from-ec2", Bool, &["BUILDKITE_AGENT_TAGS_FROM_EC2"], "").hidden(),
    flag("tags-from-gcp", Bool, &["BUILDKITE_AGENT_TAGS_FROM_GCP"], "").hidden(),
    flag("disconnect-after-job-timeout", Int, &["BUILDKITE_AGENT_DISCONNECT_AFTER_JOB_TIMEOUT"], "").hidden(),
    flag("no-automatic-ssh-fingerprint-verification", Bool, &["BUILDKITE_NO_AUTOMATIC_SSH_FINGERPRINT_VERIFICATION"], "").hidden(),
    flag("kubernetes-log-collection-grace-period", Duration, &["BUILDKITE_KUBERNETES_LOG_COLLECTION_GRACE_PERIOD"], "").hidden(),
];

/// Environment variables that are sources of an option: what is removed from the agent's own environment (§8.1).
pub(crate) fn variables() -> impl Iterator<Item = &'static str> {
    FLAGS.iter().copied().flatten().flat_map(|f| f.env.iter().copied())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn names_and_variables_are_unique() {
        let names: Vec<&str> = FLAGS.iter().copied().flatten().map(|f| f.name).collect();
        assert_eq!(names.iter().collect::<BTreeSet<_>>().len(), names.len());
        let variables: Vec<&str> = variables().collect();
        assert_eq!(variables.iter().collect::<BTreeSet<_>>().len(), variables.len());
    }

    #[test]
    fn every_default_is_a_value_of_its_type() {
        let values = crate::flags::Values::resolve(FLAGS, &crate::flags::Parsed::default(), &|_| None, None).unwrap().values;
        assert_eq!(values.int("checkout-attempts"), 6);
        assert_eq!(values.int("git-mirrors-lock-timeout"), 300);
        assert!(values.bool("no-plugin-validation"));
        assert_eq!(values.list("redacted-vars").len(), 9);
        assert_eq!(values.duration("kubernetes-container-start-timeout").0, 300_000_000_000);
    }

    #[test]
    fn every_visible_option_is_documented() {
        for flag in FLAGS.iter().copied().flatten().filter(|f| !f.hidden) {
            assert!(!flag.doc.is_empty(), "{}", flag.name);
        }
    }
}
