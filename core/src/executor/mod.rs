//! What `bootstrap` does for one job, as a machine of phases (specification: bootstrap).
//!
//! [`Executor`] is told what happened by [`ExecutorEvent`]s and answers with [`ExecutorCommand`]s: log lines, file
//! operations, processes. Its parts, in the order of a run: `setup` (set-up, environment hooks), `checkout`, `command`
//! (command and artifact phases), `machine` (the sequence, cancellation, teardown). `hook` runs one hook point, `child`
//! one process with the time it may take. `options` and `settings` are the command line.

mod checkout;
mod child;
mod command;
mod env;
mod failure;
mod hook;
mod job;
mod machine;
mod options;
mod protect;
mod settings;
mod setup;
#[cfg(test)]
mod tests;
mod text;
mod vocabulary;
mod wrapper;

pub use env::{Env, HOOK_WORKING_DIR};
pub use job::ExecutorConfig;
pub use machine::Executor;
pub use options::{Kind, OPTIONS, Opt, OptionSpec, parse_duration};
pub use protect::{is_locked, is_protected};
pub use settings::{Request, Settings, StartError, Surroundings};
pub use text::{LineKind, quote, render};
pub use vocabulary::*;
pub use wrapper::{WRAPPER_PREFIX, is_binary, names_posix_shell, wrapper_script};
