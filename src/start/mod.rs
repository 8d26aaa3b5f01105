//! `start`: from the options to a running agent (specification: start-flags; start-and-worker §1).

mod check;
mod config;
pub(crate) mod embedded;
mod facts;
mod metrics;
mod removed;
mod run;
mod surroundings;
mod table;
mod tags;
mod token;

use crate::cli::{Failure, Leaf, Run, Section, usage_error};
use crate::flags::{ConfigFile, DEFAULT_ENDPOINT, Parsed, Values, find_config_file, process_env};
use crate::log::{EXPERIMENTS, Format, Logger, experiment_warnings};
use crate::version;
use config::Surroundings;
use ibex_core::agent::Level;
use ibex_core::retry::duration_text;
use std::time::Duration;

/// `start`
pub(crate) static START: Leaf = Leaf {
    path: "start",
    section: Section::Main,
    about: "Starts a Buildkite agent",
    usage: "[options...]",
    description: "Registers workers with the control plane, asks for jobs, runs them and reports their results.\n\nEvery option may be given as a flag, as an environment variable or in a configuration file, and is\nlooked for in this order. The file is the one that --config names, else the first of\nbuildkite-agent.cfg beside this program, $HOME/.buildkite-agent/buildkite-agent.cfg,\n/usr/local/etc/buildkite-agent/buildkite-agent.cfg, /etc/buildkite-agent/buildkite-agent.cfg.\n\nExample:\n\n    $ buildkite-agent start --token xxx --build-path /var/lib/builds",
    flags: table::FLAGS,
    run: Run::Parsed(start),
};

/// Options as loaded, with what is known of where they came from.
struct Loaded {
    values: Values,
    warnings: Vec<String>,
    config_path: String,
}

fn start(leaf: &'static Leaf, parsed: Parsed) -> Result<u8, Failure> {
    token::scrub();
    let exe = surroundings::exe()?;
    let loaded = load(leaf, &parsed, &exe)?;
    let values = &loaded.values;
    let json = match values.text("log-format") {
        "text" => false,
        "json" => true,
        other => return Err(Failure::PlainOut(format!("Unknown log-format of {other:?}, try text or json"))),
    };
    let colors = !values.bool("no-color") && process_env("NO_COLOR").is_none();
    let log = Logger::new(values, leaf.path, if json { Format::Json } else { Format::Text { colors } });
    report_loading(&loaded, &log);
    log.check_profile(values.text("profile"))?;
    let token = token::resolve(values.text("token")).map_err(Failure::Fatal)?;
    surroundings::scrub_environment();
    let cpus = std::thread::available_parallelism().map_or(1, |n| u32::try_from(n.get()).unwrap_or(1));
    let checked = check::options(values, &process_env, cpus, &log)?;
    surroundings::descriptors(checked.spawn)?;
    info_lines(values, checked.plugins_enabled, &log);
    let tags = tags::collect(values, &log)?;
    surroundings::build_path(values.text("build-path"), &log)?;
    let shim = surroundings::Shim::make(&exe)
        .map_err(|e| Failure::Fatal(format!("could not make a directory for the name buildkite-agent in the temporary directory: {e}")))?;
    let around =
        Surroundings { config_path: &loaded.config_path, exe: &exe, shim_path: shim.path(), tags, json, debug_lines: log.enabled(Level::Debug) };
    let config = config::agent_config(values, checked, token, around);
    run::run(values, config, log, shim)
}

/// Loads the options: flags and environment first, so that their errors come before those of the file.
fn load(leaf: &'static Leaf, parsed: &Parsed, exe: &std::path::Path) -> Result<Loaded, Failure> {
    let first = Values::resolve(table::FLAGS, parsed, &process_env, None).map_err(Failure::Fatal)?.values;
    check::usage(&first).map_err(|text| usage_error(leaf, text))?;
    let plain = |text: String| Failure::Plain(text + "\n", 1);
    let found = find_config_file(first.text("config"), Some(exe), &process_env).map_err(plain)?;
    let (mut values, mut warnings, config_path) = match found {
        None => (first, Vec::new(), String::new()),
        Some((written, path)) => {
            let file = ConfigFile::read(&path).map_err(plain)?;
            let done = Values::resolve(table::FLAGS, parsed, &process_env, Some(&file)).map_err(plain)?;
            (done.values, done.warnings, written)
        }
    };
    for required in ["build-path", "token", "endpoint"] {
        if values.text(required).is_empty() {
            return Err(Failure::missing(required, leaf.path));
        }
    }
    warnings.extend(check::removed_options(&mut values)?);
    Ok(Loaded { values, warnings, config_path })
}

fn report_loading(loaded: &Loaded, log: &Logger) {
    for warning in &loaded.warnings {
        log.warn(warning);
    }
    if !loaded.config_path.is_empty() {
        log.write(Level::Info, None, "Configuration loaded", &[("path", loaded.config_path.clone())]);
    }
    let experiments = config::experiments(&loaded.values);
    for warning in experiment_warnings(&experiments) {
        log.warn(warning);
    }
    let known: Vec<&str> = experiments.iter().map(String::as_str).filter(|e| EXPERIMENTS.contains(e)).collect();
    if !known.is_empty() {
        log.write(Level::Info, None, "Experiments are enabled", &[("experiments", format!("[{}]", known.join(" ")))]);
    }
}

/// What is said before registration (start-flags §3, end; start-and-worker S8).
fn info_lines(values: &Values, plugins_enabled: bool, log: &Logger) {
    log.at(Level::Notice, format!("Starting {} v{} with PID: {}", crate::cli::NAME, version::VERSION, std::process::id()));
    let endpoint = values.text("endpoint");
    if endpoint != DEFAULT_ENDPOINT {
        log.info(format!("Connecting to custom endpoint {}", config::without_password(endpoint)));
    }
    for (applies, text) in [
        (values.bool("no-ssh-keyscan"), "Automatic ssh-keyscan has been disabled"),
        (values.bool("no-command-eval"), "Evaluating console commands has been disabled"),
        // Also when another restriction implies it (§2.6).
        (!plugins_enabled, "Plugins have been disabled"),
        (values.bool("no-pty"), "Running builds within a pseudoterminal (PTY) has been disabled"),
        (values.bool("disconnect-after-job"), "Agents will disconnect after a job run has completed"),
    ] {
        if applies {
            log.info(text);
        }
    }
    let seconds = |option: &str| u64::try_from(values.int(option)).ok().filter(|n| *n > 0).map(|n| duration_text(Duration::from_secs(n)));
    if let Some(d) = seconds("disconnect-after-idle-timeout") {
        log.info(format!("Agents will disconnect after {d} of inactivity"));
    }
    if let Some(d) = seconds("disconnect-after-uptime") {
        log.info(format!("Agents will disconnect after {d} of uptime and shut down after any running jobs complete"));
    }
    for (option, what) in [("allowed-repositories", "repositories"), ("allowed-plugins", "plugins")] {
        if !values.list(option).is_empty() {
            log.info(format!("Allowed {what} patterns: [{}]", values.list(option).join(" ")));
        }
    }
}
