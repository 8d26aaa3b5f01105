//! What people see, as plain text or as JSON, and the one thing that they can do: make a build.

use super::route::{Answer, Refusal, Target, json};
use super::{BuildSpec, Out, Plane, PlaneBuild, PlaneCommand, PlaneRequest, PlaneResponse};
use crate::machine::Instant;
use crate::pipeline::StepSpec;
use crate::pipeline::plan::{self, PlanOptions};
use serde_json::{Value, json};
use std::fmt::Write as _;

/// Ends the page at `/`.
const HELP: &str = "
GET  /builds/{number}              one build; ?format=json for programs
GET  /jobs/{job}/log               the log of a job
POST /builds                       makes a build of the pipeline text in the body; ?message=, ?branch=, ?commit=
Each takes the token that the plane printed, as ?token=… or in the header `Authorization: Token …`:

    curl --data-binary @pipeline.yml '{base}/builds?token=…'
";

impl Plane {
    /// `GET /`: every build, the last one first.
    pub(super) fn build_page(&self) -> Answer {
        let mut page = String::from("Ibex control plane\n");
        for b in self.builds.iter().rev() {
            page.push('\n');
            self.describe(b, &mut page);
        }
        let agents = self.agents.values().filter(|a| a.state == super::AgentState::Connected).count();
        let _ = writeln!(page, "\n{agents} agents connected");
        page.push_str(&HELP.replace("{base}", &self.config.base_url));
        Ok(text(page))
    }

    /// `POST /builds`: a build like the first one of this plane, but for its pipeline and what the query says.
    pub(super) fn post_build(&mut self, now: Instant, request: &PlaneRequest, target: &Target, out: &mut Out) -> Answer {
        let first = self.builds.first().map(|b| b.spec.clone()).unwrap_or_default();
        let or = |key: &str, old: String| target.query(key).map_or(old, str::to_owned);
        let mut spec =
            BuildSpec { message: or("message", first.message), branch: or("branch", first.branch), commit: or("commit", first.commit), ..first };
        let options = PlanOptions { environment: spec.upload_env(), branch: spec.branch.clone(), ..PlanOptions::default() };
        let plan = plan::read("pipeline", &request.body, options).map_err(|e| Refusal::unprocessable(e.to_string()))?;
        let plan = plan.ok_or_else(|| Refusal::unprocessable("there is no pipeline in the body"))?;
        (spec.steps, spec.pipeline_env) = (plan.steps, plan.env);
        let build = self.create_build(now, spec, out).map_err(Refusal::unprocessable)?;
        let number = self.build(&build).map_or(0, |b| b.number);
        let answer = json!({
            "id": build, "number": number, "url": format!("{}/builds/{number}", self.config.base_url), "notes": plan.notes,
        });
        out.push(PlaneCommand::BuildCreated { build });
        json(201, &answer)
    }

    /// `GET /builds/{number}`
    pub(super) fn numbered_page(&self, number: &str, target: &Target) -> Answer {
        let build = self.builds.iter().find(|b| b.number.to_string() == number).ok_or_else(|| Refusal::unknown("build"))?;
        if target.query("format") == Some("json") {
            return json(200, &self.build_json(build));
        }
        let mut page = String::new();
        self.describe(build, &mut page);
        Ok(text(page))
    }

    /// `GET /jobs/{job}/log`
    pub(super) fn log_page(&self, id: &str) -> Answer {
        let job = self.job(id).ok_or_else(|| Refusal::unknown("job"))?;
        Ok(text(job.log.contents()))
    }

    /// A build for programs; times are RFC 3339, `null` where the thing has not happened.
    fn build_json(&self, b: &PlaneBuild) -> Value {
        let time = |at: Option<Instant>| at.map(|at| self.clock.at(at).rfc3339_utc());
        let jobs = b.steps.iter().flat_map(|s| &s.jobs).map(|j| &self.jobs[*j]).map(|j| {
            let report = j.state.report();
            let picked_up = j.runnable_at.zip(j.accepted_at).map(|(ready, accepted)| accepted.since(ready).as_micros() as u64);
            json!({
                "id": j.id, "step": b.steps[j.step].spec.title(), "state": j.state.name(),
                "exit_status": report.map(|r| r.exit_status), "retry_count": j.retry_count,
                "created_at": time(Some(j.created_at)), "runnable_at": time(j.runnable_at), "accepted_at": time(j.accepted_at),
                "started_at": time(j.started_at), "finished_at": time(report.map(|r| r.at)),
                "accepted_after_microseconds": picked_up,
            })
        });
        json!({"id": b.id, "number": b.number, "state": b.state.name(), "jobs": jobs.collect::<Vec<_>>()})
    }

    fn describe(&self, b: &PlaneBuild, page: &mut String) {
        let pipeline = if b.spec.pipeline.is_empty() { "the pipeline" } else { &b.spec.pipeline };
        let _ = writeln!(page, "build {} of {pipeline}: {}", b.number, b.state.name());
        for s in b.steps.iter().filter(|s| !s.removed) {
            let outcome = match s.state {
                super::StepState::Finished(outcome) => outcome.name(),
                state => state.name(),
            };
            if let StepSpec::Wait(_) = s.spec {
                let _ = writeln!(page, "  -- wait -- {outcome}");
                continue;
            }
            let _ = writeln!(page, "  {}: {outcome}", s.spec.title());
            for j in s.jobs.iter().map(|j| &self.jobs[*j]) {
                let exit = j.state.report().map_or(String::new(), |r| format!(", exit status {}", r.exit_status));
                let _ = writeln!(page, "    job {}: {}{exit}   /jobs/{}/log", j.id, j.state.name(), j.id);
            }
        }
    }
}

fn text(body: impl Into<bytes::Bytes>) -> PlaneResponse {
    PlaneResponse {
        status: 200,
        headers: vec![
            ("content-type".into(), "text/plain; charset=utf-8".into()),
            // A log is shown, never run.
            ("x-content-type-options".into(), "nosniff".into()),
        ],
        body: body.into(),
    }
}
