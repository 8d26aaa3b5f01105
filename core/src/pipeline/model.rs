//! The steps of a build, after parsing: what the control plane needs to know, and nothing about how it was written.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// One entry of a build's step list.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum StepSpec {
    /// Runs a command on an agent.
    Command(Box<CommandStep>),
    /// Holds everything after it until everything before it has ended.
    Wait(Box<WaitStep>),
}

impl StepSpec {
    /// The key by which other steps name it.
    pub fn key(&self) -> Option<&str> {
        match self {
            StepSpec::Command(c) => c.key.as_deref(),
            StepSpec::Wait(w) => w.key.as_deref(),
        }
    }

    /// Explicit dependencies; `None`: the implicit ones hold (local-control-plane §3.1, §3.2).
    pub fn depends_on(&self) -> Option<&[Dependency]> {
        match self {
            StepSpec::Command(c) => c.depends_on.as_deref(),
            StepSpec::Wait(w) => w.depends_on.as_deref(),
        }
    }

    /// Whether failed dependencies are tolerated.
    pub fn allow_dependency_failure(&self) -> bool {
        match self {
            StepSpec::Command(c) => c.allow_dependency_failure,
            StepSpec::Wait(w) => w.allow_dependency_failure,
        }
    }

    /// What people call the step: its label, else its key, else the first line of its command.
    pub fn title(&self) -> &str {
        match self {
            StepSpec::Command(c) => c.title(),
            StepSpec::Wait(_) => "wait",
        }
    }
}

/// A command step (pipeline §2.7).
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct CommandStep {
    /// Unique in the build.
    pub key: Option<String>,
    /// With `%n` and the like not yet replaced; may be empty.
    pub label: String,
    /// Commands joined with LF.
    pub command: String,
    /// Step env.
    pub env: BTreeMap<String, String>,
    /// Explicit dependencies; `None`: implicit ones.
    pub depends_on: Option<Vec<Dependency>>,
    /// Run although dependencies failed.
    pub allow_dependency_failure: bool,
    /// Which failures count as passed.
    pub soft_fail: SoftFail,
    /// Present: the step does not run; the reason may be empty.
    pub skip: Option<String>,
    /// Excluded by `branches`: the step is as if it had never been there.
    pub excluded: bool,
    /// From start to finish call.
    pub timeout: Option<Duration>,
    /// Number of parallel jobs; `None`: one, without `BUILDKITE_PARALLEL_JOB`.
    pub parallelism: Option<u32>,
    /// Automatic retry, first match decides.
    pub retry: Vec<RetryRule>,
    /// Tags that the agent must have, `queue` included.
    pub agents: Vec<(String, String)>,
    /// Higher first.
    pub priority: i64,
    /// Joined with `;` already.
    pub artifact_paths: String,
    /// The step as JSON, handed to the agent as it came; empty: `{}`.
    pub raw: Arc<str>,
    /// Line of the step in its document, 0 if unknown.
    pub line: u32,
}

impl CommandStep {
    /// A step that runs `command` and has no other attributes.
    pub fn new(command: impl Into<String>) -> CommandStep {
        CommandStep { command: command.into(), ..CommandStep::default() }
    }

    /// Label, else key, else the first line of the command.
    pub fn title(&self) -> &str {
        if !self.label.is_empty() {
            return &self.label;
        }
        match self.key.as_deref() {
            Some(k) if !k.is_empty() => k,
            _ => self.command.lines().next().unwrap_or("(no command)"),
        }
    }
}

impl From<CommandStep> for StepSpec {
    fn from(step: CommandStep) -> StepSpec {
        StepSpec::Command(Box::new(step))
    }
}

impl From<WaitStep> for StepSpec {
    fn from(step: WaitStep) -> StepSpec {
        StepSpec::Wait(Box::new(step))
    }
}

/// A wait step.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct WaitStep {
    /// Unique in the build.
    pub key: Option<String>,
    /// Pass once everything before has ended, failed or not.
    pub continue_on_failure: bool,
    /// Explicit dependencies; `None`: everything before.
    pub depends_on: Option<Vec<Dependency>>,
    /// Pass although dependencies failed.
    pub allow_dependency_failure: bool,
    /// Excluded by `branches`.
    pub excluded: bool,
    /// Line of the step in its document, 0 if unknown.
    pub line: u32,
}

/// One explicit dependency.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Dependency {
    /// Key of the step.
    pub step: String,
    /// Whether its failure is tolerated; `None`: as the step says.
    pub allow_failure: Option<bool>,
}

/// `soft_fail` (local-control-plane §5.4).
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum SoftFail {
    /// No failure is tolerated.
    #[default]
    Never,
    /// `true` or `*`: every failure is, −1 included.
    Always,
    /// Only these exit statuses are.
    Statuses(Vec<i32>),
}

impl SoftFail {
    /// Whether a failure with this exit status counts as passed.
    pub fn tolerates(&self, exit_status: i32) -> bool {
        match self {
            SoftFail::Never => false,
            SoftFail::Always => true,
            SoftFail::Statuses(list) => list.contains(&exit_status),
        }
    }
}

/// One rule of `retry.automatic`; missing conditions are `*` (local-control-plane §5.5).
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct RetryRule {
    /// Exit statuses.
    pub exit_status: StatusMatch,
    /// Signal of the process.
    pub signal: WordMatch,
    /// Signal reason.
    pub signal_reason: WordMatch,
    /// Retries by this rule, 0–10.
    pub limit: u32,
}

impl Default for RetryRule {
    /// What `automatic: true` means.
    fn default() -> RetryRule {
        RetryRule { exit_status: StatusMatch::Failure, signal: WordMatch::Any, signal_reason: WordMatch::Any, limit: 2 }
    }
}

impl RetryRule {
    /// Whether the rule speaks of a job that ended like this.
    pub fn matches(&self, exit_status: i32, signal: &str, signal_reason: &str) -> bool {
        let bare = |s: &str| s.trim_start_matches("SIG").to_owned();
        self.exit_status.matches(exit_status)
            && self.signal.matches(&bare(&signal.to_ascii_uppercase()))
            && self.signal_reason.matches(&signal_reason.to_ascii_lowercase())
    }
}

/// Condition on an exit status.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum StatusMatch {
    /// `*`: 1–255, so not −1.
    Failure,
    /// Absent beside an explicit signal reason: anything but 0.
    NotZero,
    /// One of these.
    OneOf(Vec<i32>),
}

impl StatusMatch {
    fn matches(&self, status: i32) -> bool {
        match self {
            StatusMatch::Failure => (1..=255).contains(&status),
            StatusMatch::NotZero => status != 0,
            StatusMatch::OneOf(list) => list.contains(&status),
        }
    }
}

/// Condition on a word; words are compared in one case and without `SIG`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum WordMatch {
    /// `*`
    Any,
    /// One of these; the empty word is `none`.
    OneOf(Vec<String>),
}

impl WordMatch {
    fn matches(&self, word: &str) -> bool {
        match self {
            WordMatch::Any => true,
            WordMatch::OneOf(list) => list.iter().any(|w| w == word),
        }
    }
}
