//! From a list of steps to a build and its jobs (local-control-plane §2.2, §5.1).

use super::{BuildSpec, BuildState, JobLog, JobState, Out, Plane, PlaneBuild, PlaneCommand, PlaneJob, PlaneStep, StepState, Uploaded, transition};
use crate::limits::{PLANE_BUILDS, PLANE_JOBS_PER_DOCUMENT};
use crate::machine::Instant;
use crate::pipeline::StepSpec;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;

impl Plane {
    /// Makes a build, or says why not; then nothing was made.
    pub(super) fn create_build(&mut self, now: Instant, mut spec: BuildSpec, out: &mut Out) -> Result<Arc<str>, String> {
        if self.builds.len() >= PLANE_BUILDS {
            return Err(format!("this plane has room for {PLANE_BUILDS} builds"));
        }
        check_steps(&spec.steps.iter().map(|s| (s, None)).collect::<Vec<_>>(), 0..spec.steps.len())?;
        let steps = std::mem::take(&mut spec.steps);
        let index = self.builds.len();
        let id = self.new_id();
        let steps: Vec<PlaneStep> = steps.into_iter().map(|spec| self.new_step(spec, None)).collect();
        let build = PlaneBuild {
            id: id.clone(),
            number: index as u32 + 1,
            pipeline_id: self.new_id(),
            spec,
            steps,
            state: BuildState::Scheduled,
            canceled: false,
            meta_data: BTreeMap::new(),
            uploads: BTreeMap::new(),
            annotations: BTreeMap::new(),
        };
        self.builds.push(build);
        out.push(transition("plane-build", "none", "create", "scheduled"));
        for step in 0..self.builds[index].steps.len() {
            self.create_jobs(now, index, step, out);
        }
        self.settle(now, index, out);
        Ok(id)
    }

    pub(super) fn new_step(&mut self, spec: StepSpec, uploaded: Option<Uploaded>) -> PlaneStep {
        let state = if excluded(&spec) { StepState::Ignored } else { StepState::WaitingForDependencies };
        PlaneStep { id: self.new_id(), state, spec, jobs: Vec::new(), uploaded, removed: false }
    }

    pub(super) fn create_jobs(&mut self, now: Instant, build: usize, step: usize, out: &mut Out) {
        let Some(command) = self.builds[build].command(step) else { return };
        let state = match command {
            c if c.excluded => JobState::Broken,
            c if c.skip.is_some() => JobState::Skipped,
            _ => JobState::Waiting,
        };
        match command.parallelism {
            None => drop(self.create_job(now, build, step, NewJob { state, parallel: None, retry_count: 0, rule_retries: Vec::new() }, out)),
            Some(n) => {
                for i in 0..n {
                    let new = NewJob { state: state.clone(), parallel: Some((i, n)), retry_count: 0, rule_retries: Vec::new() };
                    self.create_job(now, build, step, new, out);
                }
            }
        }
    }

    pub(super) fn create_job(&mut self, now: Instant, build: usize, step: usize, new: NewJob, out: &mut Out) -> usize {
        let index = self.jobs.len();
        let (id, token) = (self.new_id(), self.new_token("job", index as u64));
        let label = self.builds[build].command(step).map_or(String::new(), |c| label(&c.label, new.parallel));
        let name = new.state.name();
        self.jobs.push(PlaneJob {
            id: id.clone(),
            build,
            step,
            parallel: new.parallel,
            retry_count: new.retry_count,
            rule_retries: new.rule_retries,
            retried_by: None,
            state: new.state,
            token,
            label,
            created_at: now,
            runnable_at: None,
            accepted_at: None,
            started_at: None,
            finish: None,
            promised: None,
            accepted_by: Vec::new(),
            offers: 0,
            log: JobLog::default(),
            header_times: BTreeMap::new(),
        });
        self.job_index.insert(id.clone(), index);
        self.builds[build].steps[step].jobs.push(index);
        out.push(transition("plane-job", "none", "create", name));
        out.push(PlaneCommand::JobChanged { job: id, state: name });
        index
    }
}

/// What distinguishes a new job from its siblings.
pub(super) struct NewJob {
    pub(super) state: JobState,
    pub(super) parallel: Option<(u32, u32)>,
    pub(super) retry_count: u32,
    pub(super) rule_retries: Vec<u32>,
}

fn excluded(spec: &StepSpec) -> bool {
    match spec {
        StepSpec::Command(c) => c.excluded || c.skip.is_some(),
        StepSpec::Wait(w) => w.excluded,
    }
}

/// `%n` index from 0, `%N` from 1, `%t` and `%T` number of jobs (local-control-plane §5.1).
fn label(label: &str, parallel: Option<(u32, u32)>) -> String {
    let Some((i, n)) = parallel else { return label.to_owned() };
    let (number, count) = ((i + 1).to_string(), n.to_string());
    label.replace("%n", &i.to_string()).replace("%N", &number).replace("%t", &count).replace("%T", &count)
}

/// The rejections of local-control-plane §2.2 that concern the list as a whole: each step with the place of the one that
/// uploaded it. Steps in `new` are the ones on trial, numbered from 1 in messages; their jobs are counted.
pub(super) fn check_steps(steps: &[(&StepSpec, Option<usize>)], new: Range<usize>) -> Result<usize, String> {
    let number = |i: usize| i + 1 - new.start;
    let mut keys: BTreeSet<&str> = steps.iter().enumerate().filter(|(i, _)| !new.contains(i)).filter_map(|(_, (s, _))| s.key()).collect();
    let mut jobs: usize = 0;
    for (i, (step, _)) in steps.iter().enumerate().filter(|(i, _)| new.contains(i)) {
        if let Some(key) = step.key() {
            if uuid::Uuid::try_parse(key).is_ok() && key.len() == 36 {
                return Err(format!("step {}: the key `{key}` looks like a UUID", number(i)));
            }
            if !keys.insert(key) {
                return Err(format!("step {}: the key `{key}` is used by another step", number(i)));
            }
        }
        if let StepSpec::Command(c) = step {
            jobs = jobs.saturating_add(c.parallelism.map_or(1, |n| n as usize));
        }
    }
    if jobs > PLANE_JOBS_PER_DOCUMENT {
        return Err(format!("the pipeline makes {jobs} jobs; at most {PLANE_JOBS_PER_DOCUMENT} are possible"));
    }
    match cycle(steps) {
        Some(i) if new.contains(&i) => Err(format!("step {} (`{}`): its dependencies lead back to itself", number(i), steps[i].0.title())),
        // The list was in order before: the new steps have closed the circle.
        Some(i) => Err(format!("the new steps make the dependencies of `{}` lead back to itself", steps[i].0.title())),
        None => Ok(jobs),
    }
}

/// What each step depends on, explicitly, implicitly, and by its upload (local-control-plane §2.3, §3.1, §3.2).
fn dependencies(steps: &[(&StepSpec, Option<usize>)]) -> Vec<Vec<usize>> {
    let keys: BTreeMap<&str, usize> = steps.iter().enumerate().filter_map(|(i, (s, _))| Some((s.key()?, i))).collect();
    let comes_from = |step: usize, ancestor: usize| std::iter::successors(steps[step].1, |u| steps[*u].1).any(|u| u == ancestor);
    let uploads = steps.iter().any(|(_, u)| u.is_some());
    let of = |i: usize| -> Vec<usize> {
        let (step, uploader) = steps[i];
        let Some(list) = step.depends_on() else {
            let is_wait = |s: &StepSpec| matches!(s, StepSpec::Wait(_));
            return (0..i).filter(|before| is_wait(step) || is_wait(steps[*before].0)).chain(uploader).collect();
        };
        let named: Vec<usize> = list.iter().filter_map(|d| keys.get(d.step.as_str()).copied()).collect();
        let with_uploads = |on: &usize| uploads && !comes_from(i, *on);
        let of_named = named.iter().filter(|on| with_uploads(on)).flat_map(|on| (0..steps.len()).filter(|s| comes_from(*s, *on)));
        let of_named: Vec<usize> = of_named.collect();
        named.into_iter().chain(of_named).chain(uploader.filter(|_| !list.is_empty())).collect()
    };
    (0..steps.len()).map(of).collect()
}

/// The first step that depends on itself.
fn cycle(steps: &[(&StepSpec, Option<usize>)]) -> Option<usize> {
    let edges = dependencies(steps);
    // Repeatedly drop the steps whose dependencies are all dropped; what stays is on a cycle or behind one.
    let mut left: BTreeSet<usize> = (0..steps.len()).collect();
    loop {
        let free: Vec<usize> = left.iter().copied().filter(|i| edges[*i].iter().all(|d| !left.contains(d))).collect();
        if free.is_empty() {
            break;
        }
        left.retain(|i| !free.contains(i));
    }
    // Of those, one that reaches itself.
    left.iter().copied().find(|start| {
        let (mut seen, mut todo) = (BTreeSet::new(), edges[*start].clone());
        while let Some(i) = todo.pop() {
            if i == *start {
                return true;
            }
            if seen.insert(i) {
                todo.extend(&edges[i]);
            }
        }
        false
    })
}
