//! One OS process group: spawning → running → interrupted → killed → drained → reaped
//! (specification: job-runner-and-process §5).
//!
//! [`Process`] is a value inside the job runner's state: it reports to the runner by returning a [`ProcessVerdict`].

mod machine;
#[cfg(test)]
mod tests;
mod types;

pub use machine::*;
pub use types::*;
