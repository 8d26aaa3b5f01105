//! From a list of steps to a build and its jobs (local-control-plane §2.2, §5.1).

use super::{BuildSpec, BuildState, JobLog, JobState, Out, Plane, PlaneBuild, PlaneCommand, PlaneJob, PlaneStep, StepState, transition};
use crate::limits::{PLANE_BUILDS, PLANE_JOBS_PER_DOCUMENT};
use crate::machine::Instant;
use crate::pipeline::StepSpec;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

impl Plane {
    /// Makes a build, or says why not; then nothing was made.
    pub(super) fn create_build(&mut self, now: Instant, mut spec: BuildSpec, out: &mut Out) -> Result<Arc<str>, String> {
        if self.builds.len() >= PLANE_BUILDS {
            return Err(format!("this plane has room for {PLANE_BUILDS} builds"));
        }
        check_steps(&spec.steps)?;
        let steps = std::mem::take(&mut spec.steps);
        let index = self.builds.len();
        let id = self.new_id();
        let steps = steps.into_iter().map(|spec| PlaneStep {
            id: self.new_id(),
            state: if excluded(&spec) { StepState::Ignored } else { StepState::WaitingForDependencies },
            spec,
            jobs: Vec::new(),
        });
        let steps: Vec<PlaneStep> = steps.collect();
        let build = PlaneBuild {
            id: id.clone(),
            number: index as u32 + 1,
            pipeline_id: self.new_id(),
            spec,
            steps,
            state: BuildState::Scheduled,
            canceled: false,
            meta_data: BTreeMap::new(),
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

    fn create_jobs(&mut self, now: Instant, build: usize, step: usize, out: &mut Out) {
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

/// The rejections of local-control-plane §2.2 that concern the list as a whole.
fn check_steps(steps: &[StepSpec]) -> Result<(), String> {
    let mut keys: BTreeSet<&str> = BTreeSet::new();
    let mut jobs: usize = 0;
    for (i, step) in steps.iter().enumerate() {
        if let Some(key) = step.key() {
            if uuid::Uuid::try_parse(key).is_ok() && key.len() == 36 {
                return Err(format!("step {}: the key `{key}` looks like a UUID", i + 1));
            }
            if !keys.insert(key) {
                return Err(format!("step {}: the key `{key}` is used by another step", i + 1));
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
        Some(i) => Err(format!("step {} (`{}`): its dependencies lead back to itself", i + 1, steps[i].title())),
        None => Ok(()),
    }
}

/// The first step that depends on itself, through explicit or implicit dependencies.
fn cycle(steps: &[StepSpec]) -> Option<usize> {
    let keys: BTreeMap<&str, usize> = steps.iter().enumerate().filter_map(|(i, s)| Some((s.key()?, i))).collect();
    let edges: Vec<Vec<usize>> = (0..steps.len())
        .map(|i| match steps[i].depends_on() {
            Some(list) => list.iter().filter_map(|d| keys.get(d.step.as_str()).copied()).collect(),
            None => (0..i).filter(|before| matches!(steps[i], StepSpec::Wait(_)) || matches!(steps[*before], StepSpec::Wait(_))).collect(),
        })
        .collect();
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
