//! Commands that run inside a job (specification: commands §11). They talk to the control plane with the job's credential.

pub(crate) mod env_dump;

use crate::cli::Group;

/// `env …`
pub(crate) static ENV: Group = Group { name: "env", about: "Process environment subcommands", leaves: &[&env_dump::DUMP] };
