//! Variables that a job may not change from within (specification: bootstrap §17).

use crate::job::{OverrideMode, SCOPED};

/// Not changeable by hooks, plugins, the Job API or secrets (bootstrap §17.1, first list).
const PROTECTED: [&str; 27] = [
    "BUILDKITE_AGENT_ACCESS_TOKEN",
    "BUILDKITE_AGENT_DEBUG",
    "BUILDKITE_AGENT_ENDPOINT",
    "BUILDKITE_AGENT_JOB_TIMEOUT_FILE",
    "BUILDKITE_AGENT_PID",
    "BUILDKITE_BIN_PATH",
    "BUILDKITE_BUILD_PATH",
    "BUILDKITE_CHECKOUT_OVERRIDE_MODE",
    "BUILDKITE_COMMAND_EVAL",
    "BUILDKITE_CONFIG_PATH",
    "BUILDKITE_CONTAINER_COUNT",
    "BUILDKITE_GIT_CLONE_MIRROR_FLAGS",
    "BUILDKITE_GIT_MIRRORS_LOCK_TIMEOUT",
    "BUILDKITE_GIT_MIRRORS_PATH",
    "BUILDKITE_GIT_MIRRORS_SKIP_UPDATE",
    "BUILDKITE_GIT_MIRROR_CHECKOUT_MODE",
    "BUILDKITE_GIT_REMOTE_MIRROR_URL",
    "BUILDKITE_GIT_SUBMODULE_CLONE_CONFIG",
    "BUILDKITE_HOOKS_PATH",
    "BUILDKITE_HOOKS_SHELL",
    "BUILDKITE_JOB_CONTEXT_DIR",
    "BUILDKITE_KUBERNETES_EXEC",
    "BUILDKITE_LOCAL_HOOKS_ENABLED",
    "BUILDKITE_PLUGINS_ENABLED",
    "BUILDKITE_PLUGINS_PATH",
    "BUILDKITE_SHELL",
    "BUILDKITE_SSH_KEYSCAN",
];

/// Whether nothing inside the job may change `name`.
pub fn is_protected(name: &str) -> bool {
    PROTECTED.contains(&name)
}

/// Whether `name` is a checkout option that `mode` locks against hooks, plugins and the Job API.
pub fn is_locked(name: &str, mode: OverrideMode) -> bool {
    mode == OverrideMode::Strict && SCOPED.contains(&name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checkout_scope_is_locked_by_strict_only_and_the_protected_list_always() {
        assert!(is_protected("BUILDKITE_SHELL") && !is_protected("BUILDKITE_SKIP_CHECKOUT"));
        assert!(is_locked("BUILDKITE_SKIP_CHECKOUT", OverrideMode::Strict));
        assert!(!is_locked("BUILDKITE_SKIP_CHECKOUT", OverrideMode::FromJob));
        assert!(!is_locked("BUILDKITE_SKIP_CHECKOUT", OverrideMode::None));
        for open in ["BUILDKITE_REPO", "BUILDKITE_GIT_SSH_KEY", "BUILDKITE_BUILD_CHECKOUT_PATH", "BUILDKITE_CLEAN_CHECKOUT"] {
            assert!(!is_protected(open) && !is_locked(open, OverrideMode::Strict), "{open}");
        }
    }
}
