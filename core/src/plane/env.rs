//! The environment of a job (local-control-plane §9).

use super::{BuildSpec, Plane, PlaneAgent};
use crate::limits::MESSAGE_BYTES;
use std::collections::BTreeMap;

impl Plane {
    /// Pipeline env, then build env, then step env, then the standard variables; later wins.
    pub(super) fn job_env(&self, job: usize, agent: &PlaneAgent) -> BTreeMap<String, String> {
        let j = &self.jobs[job];
        let b = &self.builds[j.build];
        let spec = &b.spec;
        let mut env = spec.pipeline_env.clone();
        env.extend(spec.env.clone());
        let Some(step) = b.command(j.step) else { return env };
        env.extend(step.env.clone());

        env.extend(spec.standard_env());
        let key = step.key.clone().unwrap_or_default();
        let minutes = step.timeout.map_or("false".into(), |t| t.as_secs().div_ceil(60).to_string());
        let mut set = |name: &str, value: String| drop(env.insert(name.to_owned(), value));
        set("BUILDKITE_PIPELINE_ID", b.pipeline_id.to_string());
        set("BUILDKITE_SCRIPT_PATH", step.command.clone());
        set("BUILDKITE_BUILD_ID", b.id.to_string());
        set("BUILDKITE_BUILD_NUMBER", b.number.to_string());
        set("BUILDKITE_BUILD_URL", format!("{}/builds/{}", self.config.base_url, b.number));
        set("BUILDKITE_JOB_ID", j.id.to_string());
        set("BUILDKITE_STEP_ID", b.steps[j.step].id.to_string());
        set("BUILDKITE_STEP_KEY", key.clone());
        set("BUILDKITE_STEP_IDENTIFIER", key);
        set("BUILDKITE_LABEL", j.label.clone());
        set("BUILDKITE_COMMAND", step.command.clone());
        set("BUILDKITE_ARTIFACT_PATHS", step.artifact_paths.clone());
        set("BUILDKITE_TIMEOUT", minutes);
        set("BUILDKITE_RETRY_COUNT", j.retry_count.to_string());
        if let Some((i, n)) = j.parallel {
            set("BUILDKITE_PARALLEL_JOB", i.to_string());
            set("BUILDKITE_PARALLEL_JOB_COUNT", n.to_string());
        }
        set("BUILDKITE_AGENT_ID", agent.id.to_string());
        set("BUILDKITE_AGENT_NAME", agent.name.clone());
        for tag in &agent.tags {
            let (tag, value) = tag.split_once('=').unwrap_or((tag, "true"));
            let name: String = tag.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' }).collect();
            set(&format!("BUILDKITE_AGENT_META_DATA_{name}"), value.to_owned());
        }
        set("BUILDKITE_COMPUTE_TYPE", "self-hosted".into());
        env
    }
}

impl BuildSpec {
    /// The variables of every job of such a build that do not depend on its number and ids.
    fn standard_env(&self) -> BTreeMap<String, String> {
        let or = |value: &str, default: &str| if value.is_empty() { default.to_owned() } else { value.to_owned() };
        let organization = or(&self.organization, "local");
        let pipeline = or(&self.pipeline, "pipeline");
        let mut env = BTreeMap::new();
        let mut set = |name: &str, value: String| drop(env.insert(name.to_owned(), value));
        for (name, value) in [("CI", "true"), ("BUILDKITE", "true"), ("BUILDKITE_SOURCE", "api"), ("BUILDKITE_PULL_REQUEST", "false")] {
            set(name, value.into());
        }
        set("BUILDKITE_ORGANIZATION_SLUG", organization.clone());
        set("BUILDKITE_ORGANIZATION_ID", organization.clone());
        set("BUILDKITE_PIPELINE_SLUG", pipeline.clone());
        set("BUILDKITE_PIPELINE_NAME", pipeline.clone());
        set("BUILDKITE_PIPELINE_DEFAULT_BRANCH", or(&self.default_branch, "main"));
        set("BUILDKITE_PIPELINE_PROVIDER", "git".into());
        set("BUILDKITE_PIPELINE_TEAMS", String::new());
        set("BUILDKITE_PROJECT_SLUG", format!("{organization}/{pipeline}"));
        set("BUILDKITE_PROJECT_PROVIDER", "git".into());
        set("BUILDKITE_BUILD_CREATOR", self.creator.clone());
        set("BUILDKITE_BUILD_CREATOR_EMAIL", self.author_email.clone());
        set("BUILDKITE_BUILD_CREATOR_TEAMS", String::new());
        set("BUILDKITE_BUILD_AUTHOR", self.author.clone());
        set("BUILDKITE_BUILD_AUTHOR_EMAIL", self.author_email.clone());
        set("BUILDKITE_REPO", self.repository.clone());
        set("BUILDKITE_BRANCH", or(&self.branch, "main"));
        set("BUILDKITE_COMMIT", or(&self.commit, "HEAD"));
        set("BUILDKITE_TAG", self.tag.clone());
        set("BUILDKITE_MESSAGE", cut(&self.message, MESSAGE_BYTES).to_owned());
        for name in ["BASE_BRANCH", "REPO", "LABELS"] {
            set(&format!("BUILDKITE_PULL_REQUEST_{name}"), String::new());
        }
        for name in ["REBUILT_FROM_BUILD_ID", "REBUILT_FROM_BUILD_NUMBER"] {
            set(&format!("BUILDKITE_{name}"), String::new());
        }
        for name in ["ID", "NUMBER", "PIPELINE_SLUG"] {
            set(&format!("BUILDKITE_TRIGGERED_FROM_BUILD_{name}"), String::new());
        }
        env
    }

    /// What a pipeline document is interpolated with: as an uploading job would have it (local-control-plane §2.1, a decision).
    pub fn upload_env(&self) -> BTreeMap<String, String> {
        let mut env = self.env.clone();
        env.extend(self.standard_env());
        env
    }
}

/// At most `max` bytes of `text`, cut between characters.
fn cut(text: &str, max: usize) -> &str {
    &text[..text.floor_char_boundary(max)]
}
