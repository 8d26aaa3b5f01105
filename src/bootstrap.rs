//! `bootstrap`: runs one job; started by the agent, once per job (specification: bootstrap).

use crate::cli::{Failure, Leaf, Run, Section, print};
use ibex_core::executor::{Env, ExecutorConfig, Kind, OPTIONS, Request, Settings, Surroundings};
use ibex_core::job::STATUS_FILE;
use ibex_io::executor::{Signals, die_by, run};
use std::fmt::Write;
use std::path::{Path, PathBuf};

/// `bootstrap`
pub(crate) static BOOTSTRAP: Leaf = Leaf {
    path: "bootstrap",
    section: Section::Internal,
    about: "Harness used internally by the agent to run jobs as subprocesses",
    usage: "[options]",
    description: "Runs one job: hooks, checkout, command. Every option has an environment variable.",
    flags: &[],
    run: Run::Raw(main),
};

fn main(arguments: &[String]) -> Result<u8, Failure> {
    // First of all: a signal from here on is remembered, not lost (W11).
    let signals = Signals::catch().map_err(|e| Failure::Fatal(format!("could not catch signals: {e}")))?;
    let mut env: Env = std::env::vars_os().map(|(name, value)| (name.to_string_lossy().into_owned(), value.to_string_lossy().into_owned())).collect();
    // For this process only: no hook, no command may take it for its own.
    let status_file = env.get(STATUS_FILE).filter(|path| !path.is_empty()).map(PathBuf::from);
    env.unset(STATUS_FILE);
    let start_dir = std::env::current_dir().map_err(|e| Failure::Fatal(format!("could not tell the working directory: {e}")))?;
    let start_dir = start_dir.to_string_lossy().into_owned();
    let around = Surroundings {
        home: env.get("HOME").filter(|home| !home.is_empty()).map(str::to_owned),
        start_dir: start_dir.clone(),
        temp_dir: std::env::temp_dir().to_string_lossy().into_owned(),
        shell: default_shell(),
    };
    let settings = match Settings::parse(arguments, &env, &around) {
        Ok(Request::Run(settings)) => *settings,
        Ok(Request::Help) => return print(&help()),
        Err(error) => return Err(Failure::Plain(format!("{error}\n"), 1)),
    };
    let executable = std::env::current_exe().map_err(|e| Failure::Fatal(format!("could not tell the path of this executable: {e}")))?;
    let executable = executable.to_string_lossy().into_owned();
    let end = run(ExecutorConfig { settings, env, start_dir, executable }, signals, status_file)
        .map_err(|e| Failure::Fatal(format!("could not run the job: {e}")))?;
    if let Some(signal) = end.by_signal {
        die_by(signal);
    }
    // The operating system keeps the low byte: −1 is seen as 255.
    Ok(end.status.to_le_bytes()[0])
}

fn default_shell() -> String {
    let bash = if cfg!(any(target_os = "freebsd", target_os = "openbsd")) {
        "/usr/local/bin/bash"
    } else if cfg!(target_os = "netbsd") {
        "/usr/pkg/bin/bash"
    } else if Path::new("/bin/bash").exists() {
        "/bin/bash"
    } else {
        "/usr/bin/env bash"
    };
    format!("{bash} -e -c")
}

fn help() -> String {
    let mut text = "Usage:\n\n    buildkite-agent bootstrap [options...]\n\nRuns one job. It is started by the agent, and told what to do by the \
                    environment or by options.\n\nOptions:\n\n"
        .to_owned();
    for (_, option) in OPTIONS {
        let value = if option.kind == Kind::Bool { "" } else { " value" };
        let default = if option.default.is_empty() { String::new() } else { format!(" (default: {})", option.default) };
        // Writing to a string does not fail.
        let _ = writeln!(text, "   --{}{value}  {}{default} [${}]", option.flag, option.help, option.env);
    }
    text
}
