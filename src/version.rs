//! Which version this is, for people and for the control plane.

/// Version of the agent as the control plane sees it.
pub(crate) const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Build number of the binary, `x` when it was not built by a pipeline.
pub(crate) const BUILD: &str = match option_env!("IBEX_BUILD_NUMBER") {
    Some(number) => number,
    None => "x",
};

/// Commit the binary was built from, if the build knew it.
const COMMIT: &str = match option_env!("IBEX_COMMIT") {
    Some(commit) => commit,
    None => "unknown",
};

/// `<semver>+<build>.<commit>` (commands §4).
pub(crate) fn full() -> String {
    format!("{VERSION}+{BUILD}.{COMMIT}")
}

/// `User-Agent` of every request (agent-api §2.3).
pub(crate) fn user_agent() -> String {
    format!("buildkite-agent/{VERSION}.{BUILD} ({}; {})", crate::platform::os(), crate::platform::arch())
}
