//! The values of the options: read once from flags and environment, and the live ones again after every hook
//! (specification: bootstrap §1.1, §7.9).

use super::env::Env;
use super::options::{Kind, OPTIONS, Opt, OptionSpec, Value};
use super::protect::is_locked;
use super::text::{clean_path, quote};
use crate::agent::OsSignal;
use crate::job::OverrideMode;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// What the parser has to know of the machine it runs on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Surroundings {
    /// Home directory, if there is one.
    pub home: Option<String>,
    /// Directory the process was started in, absolute.
    pub start_dir: String,
    /// Temporary directory.
    pub temp_dir: String,
    /// Default of the `shell` option.
    pub shell: String,
}

/// Why `bootstrap` does not start. Exit 1, nothing else happens.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StartError {
    /// A required option is empty.
    #[error("Missing {0}. See: `buildkite-agent bootstrap --help`")]
    Missing(&'static str),
    /// Anything else.
    #[error("buildkite-agent: fatal: {0}")]
    Invalid(String),
}

/// What the command line asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// Show the options.
    Help,
    /// Run the job.
    Run(Box<Settings>),
}

/// Values of all options.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Settings {
    values: Vec<Value>,
    /// `checkout-override-mode`, `strict` when commands may not be evaluated.
    pub override_mode: OverrideMode,
    /// `cancel-signal`
    pub cancel_signal: OsSignal,
}

/// A live option that a hook has changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct LiveChange {
    pub(super) env: &'static str,
    pub(super) old: String,
    pub(super) new: String,
}

impl Settings {
    /// Reads the command line (without the name of the sub-command), then the environment, then the defaults.
    ///
    /// # Errors
    /// Unknown flags, values that do not parse, values that are not allowed, required options that are empty.
    pub fn parse(arguments: &[String], env: &Env, at: &Surroundings) -> Result<Request, StartError> {
        let mut flags: Vec<Option<Vec<String>>> = vec![None; OPTIONS.len()];
        let mut words = arguments.iter();
        while let Some(word) = words.next() {
            if word == "--" {
                break;
            }
            let Some(name) = word.strip_prefix("--").or_else(|| word.strip_prefix('-')).filter(|name| !name.is_empty()) else {
                continue; // Positional arguments are ignored.
            };
            if name == "help" || name == "h" {
                return Ok(Request::Help);
            }
            let (name, value) = match name.split_once('=') {
                Some((name, value)) => (name, Some(value.to_owned())),
                None => (name, None),
            };
            let Some((opt, spec)) = OPTIONS.iter().find(|(_, spec)| spec.flag == name) else {
                return Err(StartError::Invalid(format!("flag provided but not defined: -{name}")));
            };
            let value = match (value, spec.kind) {
                (Some(value), _) => value,
                (None, Kind::Bool) => "true".to_owned(),
                (None, _) => words.next().cloned().ok_or_else(|| StartError::Invalid(format!("flag needs an argument: -{name}")))?,
            };
            flags[*opt as usize].get_or_insert_default().push(value);
        }
        let mut values = Vec::with_capacity(OPTIONS.len());
        for (opt, spec) in OPTIONS {
            values.push(value_of(*opt, spec, flags[*opt as usize].as_deref(), env, at)?);
        }
        let mut settings = Settings { values, override_mode: OverrideMode::FromJob, cancel_signal: OsSignal::Term };
        settings.validate()?;
        Ok(Request::Run(Box::new(settings)))
    }

    fn validate(&mut self) -> Result<(), StartError> {
        for (opt, spec) in OPTIONS {
            if spec.required && self.text(*opt).is_empty() {
                return Err(StartError::Missing(spec.flag));
            }
        }
        let invalid = |text: String| Err(StartError::Invalid(text));
        self.override_mode = match self.text(Opt::OverrideMode) {
            "strict" => OverrideMode::Strict,
            "from-job" | "" => OverrideMode::FromJob,
            "none" => OverrideMode::None,
            other => {
                return invalid(format!("invalid checkout-override mode {}, must be one of [strict from-job none]", quote(other)));
            }
        };
        if !self.flag(Opt::CommandEval) {
            self.override_mode = OverrideMode::Strict;
        }
        let verification = self.text(Opt::GitCommitVerification);
        if !matches!(verification, "strict" | "off") {
            return invalid(format!("invalid value for --git-commit-verification: {} (must be \"strict\" or \"off\")", quote(verification)));
        }
        let sparse = self.text(Opt::GitSparseMode);
        if !matches!(sparse, "cone" | "no-cone" | "") {
            return invalid(format!("invalid sparse checkout mode {}, must be one of [cone no-cone]", quote(sparse)));
        }
        let mirror = self.text(Opt::GitMirrorMode);
        if !matches!(mirror, "dissociate" | "reference") {
            return invalid(format!("invalid git mirror checkout mode {}, must be one of [dissociate reference]", quote(mirror)));
        }
        if let Some(phase) = self.list(Opt::Phases).iter().find(|p| !matches!(p.as_str(), "plugin" | "checkout" | "command")) {
            return invalid(format!("invalid phase {}", quote(phase)));
        }
        let signal = self.text(Opt::CancelSignal);
        self.cancel_signal = match OsSignal::parse(signal) {
            Some(signal) => signal,
            None => return invalid(format!("failed to parse cancel-signal: unknown signal {}", quote(signal))),
        };
        Ok(())
    }

    /// Value of a text or path option.
    pub fn text(&self, opt: Opt) -> &str {
        match &self.values[opt as usize] {
            Value::Text(text) => text,
            other => unreachable!("{opt:?} is {other:?}, not a text"),
        }
    }

    /// Value of a boolean option.
    pub fn flag(&self, opt: Opt) -> bool {
        matches!(self.values[opt as usize], Value::Bool(true))
    }

    /// Value of a list option.
    pub fn list(&self, opt: Opt) -> &[String] {
        match &self.values[opt as usize] {
            Value::List(items) => items,
            other => unreachable!("{opt:?} is {other:?}, not a list"),
        }
    }

    /// Grace: time between the cancel signal and the kill.
    pub fn grace(&self) -> Duration {
        match self.values[Opt::CancelSignalTimeout as usize] {
            Value::Duration(grace) => grace,
            _ => Duration::ZERO,
        }
    }

    /// Whether the phase is to be run.
    pub(super) fn include(&self, phase: &str) -> bool {
        let phases = self.list(Opt::Phases);
        phases.is_empty() || phases.iter().any(|p| p == phase)
    }

    /// Whether an experiment is on.
    pub(super) fn experiment(&self, name: &str) -> bool {
        self.list(Opt::Experiment).iter().any(|e| e == name)
    }

    /// Re-reads the live options from the job env. Returns what changed, and a line of complaint per value that does not parse.
    pub(super) fn refresh(&mut self, env: &Env) -> (Vec<LiveChange>, Vec<String>) {
        let (mut changes, mut complaints) = (Vec::new(), Vec::new());
        for (opt, spec) in OPTIONS.iter().filter(|(_, spec)| spec.live) {
            let Some(text) = env.get(spec.env).filter(|_| !is_locked(spec.env, self.override_mode)) else { continue };
            match Value::parse(spec.kind, text) {
                Ok(value) if value != self.values[*opt as usize] => {
                    let old = std::mem::replace(&mut self.values[*opt as usize], value);
                    changes.push(LiveChange { env: spec.env, old: old.shown(), new: self.values[*opt as usize].shown() });
                }
                Ok(_) => {}
                Err(kind) => complaints.push(format!("warning: cannot parse {} as {kind}, ignoring", spec.env)),
            }
        }
        (changes, complaints)
    }
}

/// Flag before variable before default.
fn value_of(opt: Opt, spec: &OptionSpec, flags: Option<&[String]>, env: &Env, at: &Surroundings) -> Result<Value, StartError> {
    let default = match opt {
        Opt::Shell => at.shell.clone(),
        Opt::SocketsPath => match &at.home {
            Some(home) => format!("{home}/.buildkite-agent/sockets"),
            None => format!("{}/buildkite-sockets", at.temp_dir),
        },
        _ => spec.default.to_owned(),
    };
    let (text, origin) = match (flags, env.get(spec.env)) {
        (Some(given), _) if spec.kind == Kind::List => (given.join(","), format!("flag -{}", spec.flag)),
        (Some(given), _) => (given.last().cloned().unwrap_or_default(), format!("flag -{}", spec.flag)),
        (None, Some("")) if matches!(spec.kind, Kind::Int | Kind::Duration | Kind::List) => (default, String::new()),
        (None, Some(text)) => (text.to_owned(), format!("environment variable {}", quote(spec.env))),
        (None, None) => (default, String::new()),
    };
    if spec.kind == Kind::Path {
        return expand_path(&text, env, at).map(Value::Text);
    }
    Value::parse(spec.kind, &text).map_err(|kind| StartError::Invalid(format!("could not parse {} as {kind} value from {origin}", quote(&text))))
}

/// Variables, then a leading `~`, then against the start directory (bootstrap §1.1).
fn expand_path(text: &str, env: &Env, at: &Surroundings) -> Result<String, StartError> {
    if text.is_empty() {
        return Ok(String::new());
    }
    let expanded = expand_variables(text, env);
    let expanded = match expanded.strip_prefix('~') {
        Some(rest) if rest.is_empty() || rest.starts_with('/') => match &at.home {
            Some(home) => format!("{home}{rest}"),
            None => return Err(StartError::Invalid(format!("cannot expand {}: no home directory", quote(text)))),
        },
        Some(_) => return Err(StartError::Invalid(format!("cannot expand {}: cannot expand user-specific home dir", quote(text)))),
        None => expanded,
    };
    Ok(if expanded.starts_with('/') { clean_path(&expanded) } else { clean_path(&format!("{}/{expanded}", at.start_dir)) })
}

fn expand_variables(text: &str, env: &Env) -> String {
    let mut expanded = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        expanded.push_str(&rest[..at]);
        let after = &rest[at + 1..];
        let (name, skip) = match after.strip_prefix('{') {
            Some(braced) => match braced.find('}') {
                Some(end) => (&braced[..end], end + 2),
                None => ("", 0),
            },
            None => {
                let end = after.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(after.len());
                (&after[..end], end)
            }
        };
        if name.is_empty() {
            expanded.push('$');
        } else {
            expanded.push_str(env.text(name));
        }
        rest = &after[skip..];
    }
    expanded.push_str(rest);
    expanded
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at() -> Surroundings {
        Surroundings { home: Some("/home/u".into()), start_dir: "/start".into(), temp_dir: "/tmp".into(), shell: "/bin/bash -e -c".into() }
    }

    const REQUIRED: [(&str, &str); 8] = [
        ("BUILDKITE_JOB_ID", "j"),
        ("BUILDKITE_REPO", "r"),
        ("BUILDKITE_COMMIT", "HEAD"),
        ("BUILDKITE_BRANCH", "main"),
        ("BUILDKITE_AGENT_NAME", "a"),
        ("BUILDKITE_ORGANIZATION_SLUG", "o"),
        ("BUILDKITE_PIPELINE_SLUG", "p"),
        ("BUILDKITE_PIPELINE_PROVIDER", "git"),
    ];

    fn parse(arguments: &[&str], variables: &[(&str, &str)]) -> Result<Settings, String> {
        let env = REQUIRED.iter().chain(variables).map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
        let arguments: Vec<String> = arguments.iter().map(|a| (*a).to_owned()).collect();
        match Settings::parse(&arguments, &env, &at()) {
            Ok(Request::Run(settings)) => Ok(*settings),
            Ok(Request::Help) => Err("help".into()),
            Err(e) => Err(e.to_string()),
        }
    }

    #[test]
    fn a_flag_wins_over_a_variable_and_a_variable_over_the_default() {
        let settings = parse(&["--command", "flag", "ignored", "--pty=false"], &[("BUILDKITE_COMMAND", "env"), ("BUILDKITE_TAG", "v1")]).unwrap();
        assert_eq!((settings.text(Opt::Command), settings.text(Opt::Tag)), ("flag", "v1"));
        assert_eq!((settings.flag(Opt::Pty), settings.text(Opt::Shell)), (false, "/bin/bash -e -c"));
    }

    #[test]
    fn an_empty_variable_is_empty_text_and_false_but_the_default_of_numbers_durations_and_lists() {
        let settings =
            parse(&[], &[("BUILDKITE_SHELL", ""), ("BUILDKITE_PTY", ""), ("BUILDKITE_CANCEL_SIGNAL_TIMEOUT", ""), ("BUILDKITE_REDACTED_VARS", "")])
                .unwrap();
        assert_eq!((settings.text(Opt::Shell), settings.flag(Opt::Pty)), ("", false));
        assert_eq!((settings.grace(), settings.list(Opt::RedactedVars).len()), (Duration::from_secs(10), 9));
    }

    #[test]
    fn what_cannot_be_read_is_refused_with_its_name() {
        assert_eq!(parse(&["--job="], &[]).unwrap_err(), "Missing job. See: `buildkite-agent bootstrap --help`");
        assert_eq!(parse(&["--nope"], &[]).unwrap_err(), "buildkite-agent: fatal: flag provided but not defined: -nope");
        assert!(parse(&[], &[("BUILDKITE_PTY", "maybe")]).unwrap_err().contains("BUILDKITE_PTY"));
        assert!(parse(&["--phases", "plugin,lunch"], &[]).unwrap_err().ends_with("invalid phase \"lunch\""));
        let unknown = parse(&["--cancel-signal", "TERM"], &[]).unwrap_err();
        assert!(unknown.ends_with("failed to parse cancel-signal: unknown signal \"TERM\""), "{unknown}");
        assert!(parse(&["--git-commit-verification", ""], &[]).unwrap_err().contains("(must be \"strict\" or \"off\")"));
        assert!(parse(&["--git-mirror-checkout-mode="], &[]).unwrap_err().contains("must be one of [dissociate reference]"));
    }

    #[test]
    fn paths_are_expanded_and_made_absolute_against_the_start_directory() {
        let settings = parse(&["--build-path", "~/builds", "--hooks-path", "${BUILDKITE_TAG}/./hooks"], &[("BUILDKITE_TAG", "etc")]).unwrap();
        assert_eq!((settings.text(Opt::BuildPath), settings.text(Opt::HooksPath)), ("/home/u/builds", "/start/etc/hooks"));
        assert!(parse(&["--build-path", "~root/x"], &[]).is_err());
    }

    #[test]
    fn command_eval_off_forces_the_strict_override_mode() {
        let settings = parse(&["--command-eval=false", "--checkout-override-mode", "none"], &[]).unwrap();
        assert_eq!(settings.override_mode, OverrideMode::Strict);
    }

    #[test]
    fn only_live_options_are_refreshed_and_lists_stay_trimmed() {
        let mut settings = parse(&[], &[("BUILDKITE_GIT_SPARSE_CHECKOUT_PATHS", "a, b")]).unwrap();
        let env = [
            ("BUILDKITE_COMMAND", "other"),
            ("BUILDKITE_SKIP_CHECKOUT", "true"),
            ("BUILDKITE_GIT_LFS_ENABLED", "perhaps"),
            ("BUILDKITE_GIT_SPARSE_CHECKOUT_PATHS", "a, b"),
        ];
        let env = env.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
        let (changes, complaints) = settings.refresh(&env);
        assert_eq!(changes, [LiveChange { env: "BUILDKITE_SKIP_CHECKOUT", old: "false".into(), new: "true".into() }]);
        assert_eq!(complaints, ["warning: cannot parse BUILDKITE_GIT_LFS_ENABLED as bool, ignoring"]);
        assert_eq!(settings.text(Opt::Command), "");
    }
}
