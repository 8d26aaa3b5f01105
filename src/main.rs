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
    Command::Leaf(&job_commands::RESUME),
    Command::Group(&job_commands::SECRET),
    Command::Group(&job_commands::STEP),
    Command::Leaf(&job_commands::STOP),
];

fn main() -> ExitCode {
    cli::main(COMMANDS)
}
