//! `ibex`: the command line. Called as `buildkite-agent` it is the same program, which is how jobs know it.
//!
//! This file lists the commands; everything else is one file per command. Dispatch looks at the first words only, so a command
//! pays for nothing but itself: no other command's flags are read, no runtime is started and no TLS root is loaded before the
//! command asks for it.

mod api;
mod bootstrap;
mod cli;
mod flags;
mod http_log;
mod job_api;
mod job_commands;
mod log;
mod plane;
mod platform;
mod replay;
mod run;
mod start;
mod version;

use cli::Command;
use std::process::ExitCode;

/// Every command, in the order of the help. To add one: declare its `Leaf` in its own file and name it here.
static COMMANDS: &[Command] = &[
    Command::Leaf(&start::START),
    Command::Leaf(&replay::REPLAY),
    Command::Leaf(&bootstrap::BOOTSTRAP),
    Command::Leaf(&run::RUN),
    Command::Leaf(&plane::PLANE),
    Command::Leaf(&job_commands::ANNOTATE),
    Command::Group(&job_commands::ANNOTATION),
    Command::Group(&job_commands::ARTIFACT),
    Command::Group(&job_commands::BUILD),
    Command::Group(&job_commands::ENV),
    Command::Group(&job_commands::JOB),
    Command::Group(&job_commands::META_DATA),
    Command::Group(&job_commands::OIDC),
    Command::Leaf(&job_commands::PAUSE),
    Command::Group(&job_commands::PIPELINE),
    Command::Group(&job_commands::REDACTOR),
    Command::Leaf(&job_commands::RESUME),
    Command::Group(&job_commands::SECRET),
    Command::Group(&job_commands::STEP),
    Command::Leaf(&job_commands::STOP),
    Command::Group(&job_commands::WORKDIR),
    Command::Leaf(&job_commands::GIT_CREDENTIALS_HELPER),
];

fn main() -> ExitCode {
    cli::main(COMMANDS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flags::{Parsed, Values};
    use std::collections::BTreeSet;

    fn leaves() -> Vec<&'static cli::Leaf> {
        COMMANDS
            .iter()
            .flat_map(|c| match c {
                Command::Leaf(l) => vec![*l],
                Command::Group(g) => g.leaves.to_vec(),
            })
            .collect()
    }

    #[test]
    fn every_command_has_flags_with_unique_names_and_defaults_of_their_types() {
        for leaf in leaves() {
            let names: Vec<&str> = leaf.flags.iter().copied().flatten().map(|f| f.name).collect();
            assert_eq!(names.iter().collect::<BTreeSet<_>>().len(), names.len(), "{}", leaf.path);
            assert!(Values::resolve(leaf.flags, &Parsed::default(), &|_| None, None).is_ok(), "{}", leaf.path);
            for flag in leaf.flags.iter().copied().flatten().filter(|f| !f.default.is_empty()) {
                assert!(flags::parse(leaf.flags, &[format!("--{}={}", flag.name, flag.default)]).is_ok(), "{} --{}", leaf.path, flag.name);
            }
        }
    }

    #[test]
    fn commands_of_a_group_begin_with_its_name() {
        for command in COMMANDS {
            if let Command::Group(g) = command {
                assert!(g.leaves.iter().all(|l| l.path.split_once(' ').is_some_and(|(first, _)| first == g.name)), "{}", g.name);
            }
        }
    }
}
