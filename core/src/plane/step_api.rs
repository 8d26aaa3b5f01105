//! What jobs ask of steps of their build (agent-api §14).

use super::route::{Answer, Refusal, body, json};
use super::{Out, Plane, PlaneRequest, PlaneStep, StepOutcome, StepState};
use crate::machine::Instant;
use crate::pipeline::StepSpec;
use serde::Deserialize;
use serde_json::{Value, json};

#[derive(Deserialize)]
struct StepRequest {
    #[serde(default)]
    build_id: String,
    #[serde(default)]
    attribute: String,
    #[serde(default)]
    format: String,
}

impl Plane {
    /// `POST steps/{step}/export`
    pub(super) fn export_step(&self, job: usize, step: &str, request: &PlaneRequest) -> Answer {
        let wanted: StepRequest = body(request)?;
        let all = attributes(self.step_of(job, step, &wanted.build_id)?);
        let value = match wanted.attribute.as_str() {
            "" => all,
            name => {
                all.get(name).cloned().ok_or_else(|| Refusal::unprocessable(format!("this control plane knows no attribute `{name}` of a step")))?
            }
        };
        let output = match (&value, wanted.format.as_str()) {
            (Value::String(text), "" | "string") => text.clone(),
            (value, "" | "string" | "json") => value.to_string(),
            (_, format) => return Err(Refusal::unprocessable(format!("unknown format `{format}`"))),
        };
        json(200, &json!({ "output": output }))
    }

    /// `POST steps/{step}/cancel`
    pub(super) fn cancel_step(&mut self, now: Instant, job: usize, step: &str, request: &PlaneRequest, out: &mut Out) -> Answer {
        let wanted: StepRequest = body(request)?;
        if !self.jobs[job].state.is_active() {
            return Err(Refusal::unprocessable("the job is not running"));
        }
        let step = self.step_of(job, step, &wanted.build_id)?;
        let (id, jobs) = (step.id.clone(), step.jobs.clone());
        for job in jobs {
            if !self.jobs[job].state.is_terminal() {
                self.cancel_job(now, job, out);
            }
        }
        json(200, &json!({ "uuid": id }))
    }

    /// The step with this id or key, of the build of `job`.
    fn step_of(&self, job: usize, step: &str, build: &str) -> Result<&PlaneStep, Refusal> {
        let b = &self.builds[self.jobs[job].build];
        if !build.is_empty() && build != &*b.id {
            return Err(Refusal::unknown("build"));
        }
        let index = b.steps.iter().position(|s| !s.removed && &*s.id == step).or_else(|| b.step_by_key(step));
        index.map(|i| &b.steps[i]).ok_or_else(|| Refusal::unknown("step"))
    }
}

fn attributes(step: &PlaneStep) -> Value {
    let outcome = match step.state {
        StepState::Finished(outcome) => outcome.name(),
        // Words of the specification for what ends without a result of its own.
        StepState::Canceled => StepOutcome::Errored.name(),
        StepState::WaitingFailed => StepOutcome::HardFailed.name(),
        StepState::Ignored => StepOutcome::Neutral.name(),
        _ => "",
    };
    let (kind, label, command) = match &step.spec {
        StepSpec::Command(c) => ("command", c.label.as_str(), c.command.as_str()),
        StepSpec::Wait(_) => ("wait", "", ""),
    };
    json!({
        "id": step.id, "key": step.spec.key().unwrap_or_default(), "type": kind, "label": label, "command": command,
        "state": step.state.name(), "outcome": outcome,
    })
}
