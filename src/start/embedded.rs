//! The agent that `ibex run` runs for itself: the same configuration as `start` makes, from options written here and nothing
//! from the environment or a file.

use super::config::{self, Surroundings};
use super::{check, surroundings, table};
use crate::cli::Failure;
use crate::flags::{Values, parse};
use crate::log::Logger;
use ibex_core::agent::{AgentConfig, Level};
use ibex_core::secret::Secret;

pub(crate) use super::surroundings::{Shim, exe};

/// A configuration from options as on the command line. The directory that makes this program `buildkite-agent` for jobs lives as
/// long as what comes back.
pub(crate) fn embedded(args: &[String], token: Secret, tags: Vec<String>, log: &Logger) -> Result<(AgentConfig, Shim), Failure> {
    let parsed = parse(table::FLAGS, args).map_err(|_| Failure::Fatal("the embedded agent's options do not parse".into()))?;
    let values = Values::resolve(table::FLAGS, &parsed, &|_| None, None).map_err(Failure::Fatal)?.values;
    let cpus = std::thread::available_parallelism().map_or(1, |n| u32::try_from(n.get()).unwrap_or(1));
    let checked = check::options(&values, &|_| None, cpus, log)?;
    surroundings::descriptors(checked.spawn)?;
    let exe = exe()?;
    let shim = Shim::make(&exe)
        .map_err(|e| Failure::Fatal(format!("could not make a directory for the name buildkite-agent in the temporary directory: {e}")))?;
    let around = Surroundings { config_path: "", exe: &exe, shim_path: shim.path(), tags, json: false, debug_lines: log.enabled(Level::Debug) };
    Ok((config::agent_config(&values, checked, token, around), shim))
}

/// Removes the variables of `start` from this process's environment, so that a run inside a job is not told where that job's agent is.
pub(crate) fn scrub_environment() {
    surroundings::scrub_environment();
}
