//! What people see: plain text.

use super::route::{Answer, Refusal};
use super::{Plane, PlaneBuild, PlaneResponse};
use crate::pipeline::StepSpec;
use std::fmt::Write as _;

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
        Ok(text(page))
    }

    /// `GET /builds/{number}`
    pub(super) fn numbered_page(&self, number: &str) -> Answer {
        let build = self.builds.iter().find(|b| b.number.to_string() == number).ok_or_else(|| Refusal::unknown("build"))?;
        let mut page = String::new();
        self.describe(build, &mut page);
        Ok(text(page))
    }

    /// `GET /jobs/{job}/log`
    pub(super) fn log_page(&self, id: &str) -> Answer {
        let job = self.job(id).ok_or_else(|| Refusal::unknown("job"))?;
        Ok(text(job.log.contents()))
    }

    fn describe(&self, b: &PlaneBuild, page: &mut String) {
        let pipeline = if b.spec.pipeline.is_empty() { "the pipeline" } else { &b.spec.pipeline };
        let _ = writeln!(page, "build {} of {pipeline}: {}", b.number, b.state.name());
        for s in &b.steps {
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
