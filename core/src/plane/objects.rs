//! What a plane keeps: agents, builds, steps, jobs (local-control-plane §1). Fields are public to read; only the plane has
//! them mutable.

use super::{AgentNo, AgentState, BuildSpec, BuildState, ControlAction, JobLog, JobState, StepState};
use crate::api::FinishRequest;
use crate::machine::Instant;
use crate::pipeline::{CommandStep, StepSpec};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::Arc;

/// A token that the plane gave out. It is not printed. It is stored with the plane, as the plane's generator is, from which
/// all its tokens come.
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Token(pub(super) Arc<str>);

impl Token {
    /// The token itself; only for the wire.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(crate::secret::MASK)
    }
}

/// An agent's session.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct PlaneAgent {
    /// UUID.
    pub id: Arc<str>,
    /// Registered name.
    pub name: String,
    /// Session token.
    pub token: Token,
    /// `key=value` or a bare word.
    pub tags: Vec<String>,
    /// Gets no jobs offered.
    pub ignore_in_dispatches: bool,
    /// Where the session stands.
    pub state: AgentState,
    /// Last sign of life.
    pub last_seen: Instant,
    /// What its next ping is told; `None`: nothing special.
    pub control: Option<ControlAction>,
    /// Index of the job that it was offered or has.
    pub job: Option<usize>,
    /// It has asked for work while it has a job, without a word about that job since.
    pub doubted: Option<Instant>,
}

/// One run of a pipeline.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct PlaneBuild {
    /// UUID.
    pub id: Arc<str>,
    /// From 1.
    pub number: u32,
    /// UUID of the pipeline.
    pub pipeline_id: Arc<str>,
    /// What it was made of; its steps are in `steps`.
    pub spec: BuildSpec,
    /// In list order.
    pub steps: Vec<PlaneStep>,
    /// Where it stands.
    pub state: BuildState,
    /// Cancelled as a whole.
    pub canceled: bool,
    /// Meta-data.
    pub meta_data: BTreeMap<String, String>,
    /// Uploads by UUID.
    pub uploads: BTreeMap<String, PlaneUpload>,
    /// Annotations by scope, then context.
    pub annotations: BTreeMap<String, BTreeMap<String, Annotation>>,
}

/// An annotation.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Annotation {
    /// Markdown.
    pub body: String,
    /// `info`, `error`, …
    pub style: String,
    /// 1–10.
    pub priority: i64,
}

/// A step of a build.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct PlaneStep {
    /// UUID.
    pub id: Arc<str>,
    /// What it is.
    pub spec: StepSpec,
    /// Indexes of its jobs, retried ones included.
    pub jobs: Vec<usize>,
    /// Where it stands.
    pub state: StepState,
    /// Where it came from, if not with the build.
    pub uploaded: Option<Uploaded>,
    /// Taken out by an upload that replaces; kept for its place and its jobs only.
    pub removed: bool,
}

/// Where an uploaded step came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Uploaded {
    /// Index of the uploading step; the step depends on it.
    pub by: usize,
    /// What its jobs have waited since, in the order of runnable jobs: as long as the uploading one (local-control-plane §5.2).
    pub since: Instant,
}

/// An upload that was answered.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct PlaneUpload {
    /// Index of the uploading job.
    pub job: usize,
    /// Notes on what was passed over, or why nothing was applied.
    pub result: Result<Vec<String>, String>,
}

/// One execution of a command step.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct PlaneJob {
    /// UUID.
    pub id: Arc<str>,
    /// Index of its build.
    pub build: usize,
    /// Index of its step in the build's list.
    pub step: usize,
    /// Parallel index and count.
    pub parallel: Option<(u32, u32)>,
    /// Retries before it.
    pub retry_count: u32,
    /// Retries so far, by rule.
    pub rule_retries: Vec<u32>,
    /// The job that replaced it.
    pub retried_by: Option<usize>,
    /// Where it stands.
    pub state: JobState,
    /// Job token.
    pub token: Token,
    /// With `%n` and the like replaced.
    pub label: String,
    /// When it was made.
    pub created_at: Instant,
    /// When it became ready.
    pub runnable_at: Option<Instant>,
    /// Time of the accept call.
    pub accepted_at: Option<Instant>,
    /// Time of the start call.
    pub started_at: Option<Instant>,
    /// The finish body that was taken; at most one ever is.
    pub finish: Option<FinishRequest>,
    /// Exit status that it promised to fail with.
    pub promised: Option<i32>,
    /// Agents that have accepted it; at most one ever does.
    pub accepted_by: Vec<AgentNo>,
    /// Times it was offered.
    pub offers: u32,
    /// Its log.
    pub log: JobLog,
    /// Header times by index.
    pub header_times: BTreeMap<u64, String>,
}

impl PlaneBuild {
    /// Index of the step with this key.
    pub fn step_by_key(&self, key: &str) -> Option<usize> {
        self.steps.iter().position(|s| !s.removed && s.spec.key() == Some(key))
    }

    /// The command step at `step`.
    pub(super) fn command(&self, step: usize) -> Option<&CommandStep> {
        match &self.steps.get(step)?.spec {
            StepSpec::Command(c) => Some(c),
            StepSpec::Wait(_) => None,
        }
    }
}

impl PlaneAgent {
    /// Whether it has the tag `key` with `value`, which may be `*`.
    pub(super) fn has_tag(&self, key: &str, value: &str) -> bool {
        self.tags.iter().filter_map(|t| t.split_once('=')).any(|(k, v)| k == key && (value == "*" || v == value))
    }

    /// Its queue.
    pub(super) fn queue(&self) -> &str {
        self.tags.iter().filter_map(|t| t.split_once('=')).find(|(k, _)| *k == "queue").map_or("default", |(_, v)| v)
    }
}
