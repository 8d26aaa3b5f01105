//! Pipelines that jobs upload (local-control-plane §2.2, §2.3; agent-api §10). An upload is applied at once, as a whole or not
//! at all; its steps stand directly behind the uploading step and depend on it.

use super::create::check_steps;
use super::route::{Answer, Refusal, Target, body, json};
use super::{JobState, Out, Plane, PlaneBuild, PlaneRequest, PlaneResponse, PlaneStep, PlaneUpload, StepState, Uploaded, transition};
use crate::limits::{PLANE_JOBS_PER_BUILD, PLANE_UPLOADS_PER_BUILD};
use crate::machine::Instant;
use crate::pipeline::StepSpec;
use crate::pipeline::plan::{self, Plan, PlanOptions};
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::BTreeSet;

#[derive(Deserialize)]
struct UploadRequest {
    uuid: String,
    pipeline: Value,
    #[serde(default)]
    replace: bool,
}

impl Plane {
    /// `POST jobs/{job}/pipelines`
    pub(super) fn upload(&mut self, now: Instant, job: usize, request: &PlaneRequest, target: &Target, out: &mut Out) -> Answer {
        let upload: UploadRequest = body(request)?;
        let build = self.jobs[job].build;
        if uuid::Uuid::try_parse(&upload.uuid).is_err() {
            return Err(Refusal::unprocessable("the upload needs a UUID"));
        }
        // The answer to the first call may have been lost.
        match self.builds[build].uploads.get(&upload.uuid) {
            Some(known) if known.job == job => return self.upload_answer(job, &upload.uuid, target),
            Some(_) => return Err(Refusal::unprocessable("another job has made an upload with this UUID")),
            None => {}
        }
        let b = &self.builds[build];
        if !self.jobs[job].state.is_active() || b.canceled || b.state.is_terminal() {
            return Err(Refusal::unprocessable("the job or its build is over, or the build was canceled"));
        }
        if b.uploads.len() >= PLANE_UPLOADS_PER_BUILD {
            return Err(Refusal::unprocessable(format!("a build takes at most {PLANE_UPLOADS_PER_BUILD} uploads")));
        }
        // The uploader has interpolated the document.
        let options = PlanOptions { no_interpolation: true, branch: b.spec.branch.clone(), ..PlanOptions::default() };
        let plan = plan::read_json("upload", upload.pipeline, options).map_err(|e| e.to_string());
        let result = plan.and_then(|plan| self.apply(now, job, plan, upload.replace, out));
        let word = if result.is_ok() { "applied" } else { "rejected" };
        out.push(transition("plane-upload", "none", "upload", word));
        self.builds[build].uploads.insert(upload.uuid.clone(), PlaneUpload { job, result });
        self.settle(now, build, out);
        self.upload_answer(job, &upload.uuid, target)
    }

    /// 200 for what was applied; a refusal is told where it is asked for, or at once to those who do not ask.
    fn upload_answer(&self, job: usize, uuid: &str, target: &Target) -> Answer {
        let j = &self.jobs[job];
        match self.builds[j.build].uploads.get(uuid).map(|u| &u.result) {
            Some(Ok(_)) => json(200, &json!({})),
            Some(Err(_)) if target.query("async") == Some("true") => Ok(PlaneResponse {
                status: 202,
                headers: vec![
                    ("location".into(), format!("{}/v3/jobs/{}/pipelines/{uuid}", self.config.base_url, j.id)),
                    ("retry-after".into(), "0".into()),
                ],
                body: bytes::Bytes::new(),
            }),
            Some(Err(why)) => Err(Refusal::unprocessable(why.clone())),
            None => Err(Refusal::unknown("upload")),
        }
    }

    /// `GET jobs/{job}/pipelines/{uuid}`
    pub(super) fn upload_state(&self, job: usize, uuid: &str) -> Answer {
        let upload = self.builds[self.jobs[job].build].uploads.get(uuid).filter(|u| u.job == job);
        match &upload.ok_or_else(|| Refusal::unknown("upload"))?.result {
            Ok(notes) => json(200, &json!({"state": "applied", "message": notes.join("\n")})),
            Err(why) => json(200, &json!({"state": "rejected", "message": why})),
        }
    }

    /// Everything is judged before anything is changed.
    fn apply(&mut self, now: Instant, job: usize, plan: Plan, replace: bool, out: &mut Out) -> Result<Vec<String>, String> {
        let (build, uploader) = (self.jobs[job].build, self.jobs[job].step);
        let removed: BTreeSet<usize> = if replace { self.not_started(build) } else { BTreeSet::new() };
        let b = &self.builds[build];
        let mut list: Vec<(&StepSpec, Option<usize>)> = Vec::new();
        // Places in `list` of the steps that stay.
        let mut places = vec![usize::MAX; b.steps.len()];
        for (i, step) in b.steps.iter().enumerate() {
            if step.removed || removed.contains(&i) {
                continue;
            }
            places[i] = list.len();
            // An uploading step has started, so it stays, and stands before what it uploaded.
            list.push((&step.spec, step.uploaded.map(|u| places[u.by])));
            if i == uploader {
                let place = places[i];
                list.extend(plan.steps.iter().map(|s| (s, Some(place))));
            }
        }
        let new = places[uploader] + 1..places[uploader] + 1 + plan.steps.len();
        let jobs = check_steps(&list, new)?;
        if jobs + b.steps.iter().map(|s| s.jobs.len()).sum::<usize>() > PLANE_JOBS_PER_BUILD {
            return Err(format!("a build has at most {PLANE_JOBS_PER_BUILD} jobs"));
        }
        if replace {
            self.remove(build, &removed, out);
        }
        self.builds[build].spec.pipeline_env.extend(plan.env);
        self.insert(now, job, plan.steps, out);
        Ok(plan.notes)
    }

    /// Steps of which nothing has started.
    fn not_started(&self, build: usize) -> BTreeSet<usize> {
        let steps = self.builds[build].steps.iter().enumerate().filter(|(_, s)| match s.state {
            StepState::WaitingForDependencies | StepState::Ignored => true,
            StepState::Ready => s.jobs.iter().all(|j| self.is_unstarted(*j)),
            _ => false,
        });
        steps.map(|(i, _)| i).collect()
    }

    /// A retry is a part of something that has started.
    fn is_unstarted(&self, job: usize) -> bool {
        let j = &self.jobs[job];
        j.retry_count == 0 && matches!(j.state, JobState::Waiting | JobState::Scheduled | JobState::Assigned { .. })
    }

    /// `replace`: what has not started goes, also of steps that have (local-control-plane §2.3). Jobs are history and stay
    /// known; they never run.
    fn remove(&mut self, build: usize, steps: &BTreeSet<usize>, out: &mut Out) {
        let jobs: Vec<usize> = self.builds[build].steps.iter().flat_map(|s| s.jobs.iter().copied()).filter(|j| self.is_unstarted(*j)).collect();
        for job in jobs {
            self.set_job(job, "replaced", JobState::Broken, out);
        }
        for step in steps {
            self.builds[build].steps[*step].removed = true;
            self.set_step(build, *step, StepState::Ignored, "replaced", out);
        }
    }

    /// Puts steps directly behind the one of the uploading job, and makes their jobs.
    fn insert(&mut self, now: Instant, job: usize, specs: Vec<StepSpec>, out: &mut Out) {
        let (build, by) = (self.jobs[job].build, self.jobs[job].step);
        let uploaded = Some(Uploaded { by, since: self.ready_since(job) });
        let steps: Vec<PlaneStep> = specs.into_iter().map(|spec| self.new_step(spec, uploaded)).collect();
        let (at, count) = (by + 1, steps.len());
        let b = &mut self.builds[build];
        for step in &mut b.steps[at..] {
            step.jobs.iter().for_each(|j| self.jobs[*j].step += count);
            if let Some(u) = step.uploaded.as_mut().filter(|u| u.by >= at) {
                u.by += count;
            }
        }
        b.steps.splice(at..at, steps);
        for step in at..at + count {
            self.create_jobs(now, build, step, out);
        }
    }
}

impl PlaneBuild {
    /// Whether `step` was uploaded by `ancestor`, or by a step that was, and so on.
    pub(super) fn came_from(&self, step: usize, ancestor: usize) -> bool {
        let mut at = step;
        while let Some(u) = self.steps[at].uploaded {
            if u.by == ancestor {
                return true;
            }
            at = u.by;
        }
        false
    }
}
