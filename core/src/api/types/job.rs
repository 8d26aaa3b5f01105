//! The job as a control plane gives it away (agent-api §9.1), and what is recorded of it.

use crate::secret::Secret;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::Arc;

/// The job object (agent-api §9.1).
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct AcceptedJob {
    /// Job id.
    pub id: Arc<str>,
    /// Job env.
    pub env: JobEnv,
    /// What the runner reads of the step.
    pub step: Step,
    /// For the signature.
    pub matrix_permutation: BTreeMap<String, String>,
    /// Job token, empty if none.
    pub token: Secret,
    /// M; 0 if absent.
    pub chunks_max_size_bytes: u64,
    /// I in seconds; 0 if absent.
    pub chunks_interval_seconds: u64,
    /// 0 if absent.
    pub log_max_size_bytes: u64,
    /// RFC 3339.
    pub runnable_at: String,
    /// W3C trace context.
    pub traceparent: String,
    /// W3C trace context.
    pub tracestate: String,
    /// Metric label.
    pub priority: i64,
}

/// What the runner reads of the signed step.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Step {
    /// Cache paths of the step.
    pub cache_paths: Vec<String>,
    /// Whether the step's cache is not disabled.
    pub cache_enabled: bool,
    /// Secrets as the JSON array that is handed to the executor; empty if none.
    pub secrets_config: String,
    /// `signature.value`, if the step is signed.
    pub signature: Option<String>,
    /// The step as received, for verification; not recorded.
    #[serde(skip)]
    pub raw: Option<Arc<str>>,
}

/// Environment of a job, by name. Values are kept out of recordings, except those the core itself reads.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct JobEnv(pub Arc<BTreeMap<String, String>>);

/// Variables whose values are recorded: the core decides or logs by them, and they hold no secrets.
pub const RECORDED_VARIABLES: &[&str] = &[
    "BUILDKITE_AGENT_META_DATA_QUEUE",
    "BUILDKITE_BRANCH",
    "BUILDKITE_BUILD_ID",
    "BUILDKITE_BUILD_NUMBER",
    "BUILDKITE_BUILD_URL",
    "BUILDKITE_COMPUTE_TYPE",
    "BUILDKITE_JOB_ID",
    "BUILDKITE_ORGANIZATION_SLUG",
    "BUILDKITE_PIPELINE_SLUG",
    "BUILDKITE_PLUGIN_VALIDATION",
    "BUILDKITE_SOURCE",
    "BUILDKITE_STEP_KEY",
];

/// What is recorded of a value: all, the part that the core decides by, or its length. Recording what was recorded changes nothing.
fn recorded(name: &str, value: &str) -> String {
    let sources = |value| {
        let sources: Vec<String> = crate::job::plugin_sources(value).ok()?.iter().map(|source| crate::job::masked_url(source)).collect();
        serde_json::to_string(&sources).ok()
    };
    match name {
        "BUILDKITE_REPO" | "BUILDKITE_GIT_REMOTE_MIRROR_URL" => return crate::job::masked_url(value),
        "BUILDKITE_PLUGINS" => {
            if let Some(sources) = sources(value) {
                return sources;
            }
        }
        name if RECORDED_VARIABLES.contains(&name) => return value.to_owned(),
        _ => {}
    }
    if value.starts_with('«') && value.ends_with('»') { value.to_owned() } else { format!("«{}»", value.len()) }
}

impl JobEnv {
    /// Value of `name`, if present.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }
}

impl FromIterator<(String, String)> for JobEnv {
    fn from_iter<I: IntoIterator<Item = (String, String)>>(iter: I) -> JobEnv {
        JobEnv(Arc::new(iter.into_iter().collect()))
    }
}

impl Serialize for JobEnv {
    /// Values that are not recorded become `«length»`; serialising such a placeholder again leaves it as it is. Of the plugin list
    /// the sources are recorded, of repository URLs everything but the password.
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_map(self.0.iter().map(|(k, v)| (k, recorded(k, v))))
    }
}

impl<'de> Deserialize<'de> for JobEnv {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<JobEnv, D::Error> {
        Ok(JobEnv(Arc::new(BTreeMap::deserialize(d)?)))
    }
}
