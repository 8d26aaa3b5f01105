//! Commands that run inside a job (specification: commands §11). They talk to the control plane with the job's credential.

mod agent_control;
mod annotation;
mod artifact;
mod build;
mod credentials;
mod env_dump;
mod git_credentials;
mod job;
mod job_env;
mod meta_data;
mod oidc;
mod pipeline_upload;
mod promise_failure;
mod redact;
mod redactor;
mod secret;
mod step;
mod value;
mod workdir;

pub(crate) use agent_control::{PAUSE, RESUME, STOP};
pub(crate) use annotation::ANNOTATE;
pub(crate) use git_credentials::GIT_CREDENTIALS_HELPER;

use crate::cli::{Failure, Group, Invocation};
use ibex_core::api::Outcome;

/// `annotation …`
pub(crate) static ANNOTATION: Group = Group { name: "annotation", about: "Make changes to annotations on builds", leaves: &[&annotation::REMOVE] };
/// `artifact …`
pub(crate) static ARTIFACT: Group = Group { name: "artifact", about: "Upload artifacts from Buildkite jobs", leaves: &[&artifact::UPLOAD] };
/// `build …`
pub(crate) static BUILD: Group = Group { name: "build", about: "Interact with a build", leaves: &[&build::CANCEL] };
/// `env …`
pub(crate) static ENV: Group = Group {
    name: "env",
    about: "Interact with the environment of the process",
    leaves: &[&env_dump::DUMP, &job_env::GET, &job_env::SET, &job_env::UNSET],
};
/// `job …`
pub(crate) static JOB: Group = Group { name: "job", about: "Interact with a job", leaves: &[&job::UPDATE, &promise_failure::PROMISE_FAILURE] };
/// `meta-data …`
pub(crate) static META_DATA: Group = Group {
    name: "meta-data",
    about: "Get and set metadata from Buildkite jobs",
    leaves: &[&meta_data::SET, &meta_data::SET_BATCH, &meta_data::GET, &meta_data::EXISTS, &meta_data::KEYS],
};
/// `oidc …`
pub(crate) static OIDC: Group = Group { name: "oidc", about: "Interact with Buildkite OpenID Connect (OIDC)", leaves: &[&oidc::REQUEST_TOKEN] };
/// `pipeline …`
pub(crate) static PIPELINE: Group =
    Group { name: "pipeline", about: "Make changes to the pipeline of the currently running build", leaves: &[&pipeline_upload::UPLOAD] };
/// `redactor …`
pub(crate) static REDACTOR: Group = Group { name: "redactor", about: "Redact sensitive information from logs", leaves: &[&redactor::ADD] };
/// `secret …`
pub(crate) static SECRET: Group = Group { name: "secret", about: "Interact with Pipelines Secrets", leaves: &[&secret::GET] };
/// `step …`
pub(crate) static STEP: Group = Group {
    name: "step",
    about: "Get or update an attribute of a build step, or cancel unfinished jobs for a step",
    leaves: &[&step::GET, &step::UPDATE, &step::CANCEL],
};
/// `workdir …`
pub(crate) static WORKDIR: Group = Group { name: "workdir", about: "Change the working directory of the job", leaves: &[&workdir::SET] };

/// `<context>: <error>`
fn failed(context: &str) -> impl Fn(Outcome) -> Failure + '_ {
    move |outcome| Failure::Fatal(format!("{context}: {}", outcome.text()))
}

/// The required arguments and flags of a command, in the order in which they are checked: `label` and value.
fn require(call: &Invocation, checks: &[(&str, &str)]) -> Result<(), Failure> {
    match checks.iter().find(|(_, value)| value.is_empty()) {
        Some((label, _)) => Err(Failure::missing(label, call.leaf.path)),
        None => Ok(()),
    }
}
