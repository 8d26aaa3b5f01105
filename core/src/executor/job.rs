//! What all parts of the executor share: the job env, the working directory, the options, and the lines they write.

use super::child::Budget;
use super::env::{Change, Diff, Env, HOOK_WORKING_DIR};
use super::failure::Failure;
use super::options::Opt;
use super::protect::{is_locked, is_protected};
use super::settings::{LiveChange, Settings};
use super::text::{LineKind, prompt, quote, shell_path};
use super::vocabulary::{ExecSpec, ExecutorCommand, FileOp, StartFailure};
use crate::agent::OsSignal;
use crate::log::{REDACTION_MINIMUM_BYTES, RedactionWarning, secrets_from_env};
use crate::machine::{Instant, Owner, RequestId, RequestIds};
use serde::{Deserialize, Serialize};

/// What the executor is told at construction.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ExecutorConfig {
    /// The options.
    pub settings: Settings,
    /// Own env.
    pub env: Env,
    /// Directory the process was started in, absolute.
    pub start_dir: String,
    /// Absolute path of this executable.
    pub executable: String,
}

/// The first signal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(super) struct Cancel {
    pub(super) signal: OsSignal,
    pub(super) at: Instant,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(super) struct Job {
    pub(super) settings: Settings,
    pub(super) env: Env,
    /// Current directory for processes; this process itself never changes directory.
    pub(super) wd: String,
    pub(super) executable: String,
    /// Confines look-ups of repository hooks; none before there is a checkout.
    pub(super) root: Option<String>,
    pub(super) cancel: Option<Cancel>,
    /// Groups that outlived their interrupted leader, and when they are killed.
    pub(super) sweeps: Vec<(RequestId, Instant)>,
    pub(super) ids: RequestIds,
    /// Completions nobody waits for, and events that came at no time for them.
    pub(super) late: u32,
}

impl Job {
    pub(super) fn new(config: ExecutorConfig) -> Job {
        Job {
            settings: config.settings,
            env: config.env,
            wd: config.start_dir,
            executable: config.executable,
            root: None,
            cancel: None,
            sweeps: Vec::new(),
            ids: RequestIds::new(Owner::Executor),
            late: 0,
        }
    }

    pub(super) fn log(&self, out: &mut Vec<ExecutorCommand>, kind: LineKind, text: impl Into<String>) {
        out.push(ExecutorCommand::Log { kind, text: text.into() });
    }

    /// A comment that only a debug log has.
    pub(super) fn debug(&self, out: &mut Vec<ExecutorCommand>, text: impl FnOnce() -> String) {
        if self.settings.flag(Opt::Debug) {
            self.log(out, LineKind::Comment, text());
        }
    }

    /// A warning that can be turned into a plain line by its id (bootstrap §4.1).
    pub(super) fn optional_warning(&self, out: &mut Vec<ExecutorCommand>, id: &str, text: &str) {
        if self.settings.list(Opt::DisableWarningsFor).iter().any(|disabled| disabled == id) {
            self.log(out, LineKind::Plain, text);
        } else {
            let advice = format!("{text}. You can disable this warning by passing the `--disable-warnings-for {id}` flag");
            self.log(out, LineKind::Warning, advice);
        }
    }

    pub(super) fn file(&mut self, out: &mut Vec<ExecutorCommand>, op: FileOp) -> RequestId {
        let id = self.ids.issue();
        out.push(ExecutorCommand::File { id, op });
        id
    }

    /// Directory for temporary files.
    pub(super) fn temp_dir(&self) -> String {
        match self.env.text("TMPDIR") {
            "" => "/tmp".to_owned(),
            dir => dir.trim_end_matches('/').to_owned(),
        }
    }

    /// A process of the job: job env, then `PWD`, then what only this process gets (bootstrap §3.2).
    pub(super) fn exec(&self, argv: Vec<String>, extra: &[(&str, &str)]) -> ExecSpec {
        let mut env = self.env.clone();
        env.set("PWD", self.wd.clone());
        for (name, value) in extra {
            env.set(*name, *value);
        }
        ExecSpec { argv, env, dir: self.wd.clone(), pty: self.settings.flag(Opt::Pty), raw: self.settings.experiment("pty-raw"), capture: false }
    }

    /// The line that announces a process.
    pub(super) fn show_prompt(&self, out: &mut Vec<ExecutorCommand>, argv: &[String]) {
        self.log(out, LineKind::Prompt, prompt(argv));
    }

    /// The error of a process that did not start (bootstrap §3.1, §3.3).
    pub(super) fn start_failure(&self, out: &mut Vec<ExecutorCommand>, why: &StartFailure) -> Failure {
        match why {
            StartFailure::LookUp(reason) => {
                self.log(out, LineKind::Error, format!("Error building command: {reason}"));
                Failure::other(reason.clone())
            }
            StartFailure::Signalled => Failure::cancelled(),
            StartFailure::NoDirectory => Failure::other(format!("process working directory {} doesn't exist", quote(&self.wd))),
            StartFailure::NoInterpreter(reason) | StartFailure::Other(reason) => Failure::other(reason.clone()),
        }
    }

    /// Changes the directory of later processes: the prompt comes before the check (bootstrap §4.1).
    pub(super) fn change_dir(&mut self, out: &mut Vec<ExecutorCommand>, path: &str, exists: bool) -> Result<(), Failure> {
        self.log(out, LineKind::Prompt, format!("cd {}", shell_path(path)));
        if !exists {
            return Err(Failure::other("failed to change working directory: directory does not exist"));
        }
        self.wd = path.to_owned();
        Ok(())
    }

    /// After every hook that succeeded and after the built-in command (bootstrap §7.8.4–5, W4).
    pub(super) fn refresh(&mut self, out: &mut Vec<ExecutorCommand>) -> Vec<LiveChange> {
        self.add_redactions(out);
        let (changes, complaints) = self.settings.refresh(&self.env);
        out.extend(complaints.into_iter().map(ExecutorCommand::Complain));
        if self.settings.flag(Opt::GitLfs) {
            self.env.set("GIT_LFS_SKIP_SMUDGE", "1");
        }
        changes
    }

    /// Adds the values of the job env that its names tell to be secret (bootstrap §15).
    pub(super) fn add_redactions(&self, out: &mut Vec<ExecutorCommand>) {
        let (secrets, warnings) = secrets_from_env(self.settings.list(Opt::RedactedVars), self.env.iter());
        if !secrets.is_empty() {
            out.push(ExecutorCommand::Redact(secrets));
        }
        for warning in warnings {
            match warning {
                RedactionWarning::BadPattern(glob) => {
                    let text = format!("Couldn't match environment variable names against redacted-vars: {}", quote(&glob));
                    self.optional_warning(out, "bad-redacted-vars", &text);
                }
                RedactionWarning::TooShort(names) => {
                    let text = format!(
                        "Some variables have values below minimum length ({REDACTION_MINIMUM_BYTES} bytes) and will not be redacted: {}",
                        names.join(", ")
                    );
                    self.optional_warning(out, "short-redacted-vars", &text);
                }
            }
        }
    }

    /// Takes over what a wrapped hook has changed (bootstrap §7.8).
    pub(super) fn apply_hook(&mut self, out: &mut Vec<ExecutorCommand>, before: &Env, after: &Env, directory_exists: bool) {
        let directory = after.text(HOOK_WORKING_DIR);
        if !directory.is_empty() && directory != self.wd {
            // A failure is ignored: the hook's last directory may be gone.
            let _ = self.change_dir(out, directory, directory_exists);
        }
        let mut diff = Diff::between(before, after);
        let mode = self.settings.override_mode;
        let blocked = diff.block(|name| is_protected(name) || is_locked(name, mode));
        if !blocked.is_empty() {
            let text = format!("Changes to some env vars were blocked; the affected vars are: [{}]", blocked.join(" "));
            self.log(out, LineKind::Comment, text);
        }
        diff.apply(&mut self.env);
        let live = self.refresh(out);
        let mut lines: Vec<(String, String)> = Vec::new();
        for change in &live {
            let text = match diff.0.get(change.env) {
                Some(Change::Changed(_)) => format!("{} was {} and is now {}", change.env, quote(&change.old), quote(&change.new)),
                _ => format!("{} is now {}", change.env, quote(&change.new)),
            };
            lines.push((change.env.to_owned(), text));
        }
        for (name, change) in &diff.0 {
            if live.iter().any(|l| l.env == name) {
                continue;
            }
            let verb = match change {
                Change::Added(_) => "added",
                Change::Changed(_) => "changed",
                Change::Removed => "removed",
            };
            lines.push((name.clone(), format!("{name} {verb}")));
        }
        // W28: sorted, where the reference's order is random.
        lines.sort();
        for (_, text) in lines {
            self.log(out, LineKind::Comment, text);
        }
    }

    /// Whether a step of this budget may still start.
    pub(super) fn admit(&self, budget: Budget, now: Instant) -> Result<(), Failure> {
        if budget.refuses(self, now) { Err(Failure::cancelled()) } else { Ok(()) }
    }
}
