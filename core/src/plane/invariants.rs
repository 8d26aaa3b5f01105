//! What must hold at every moment (local-control-plane §12); called by tests and by the simulator.

use super::{AgentState, JobState, Plane, StepState};
use crate::pipeline::StepSpec;
use std::collections::BTreeSet;

impl Plane {
    /// The first invariant that is broken, as a sentence.
    pub fn check_invariants(&self) -> Result<(), String> {
        self.check_assignments()?;
        self.check_streams()?;
        self.check_jobs()?;
        self.check_steps()?;
        self.check_builds()
    }

    /// §12.1: a job is assigned to at most one agent at a time, and an agent has at most one job.
    fn check_assignments(&self) -> Result<(), String> {
        for (no, agent) in &self.agents {
            let has: Vec<usize> = (0..self.jobs.len()).filter(|j| self.jobs[*j].state.agent() == Some(*no)).collect();
            if has != Vec::from_iter(agent.job) {
                return Err(format!("agent {no} believes in job {:?}, the jobs say {has:?}", agent.job));
            }
            if agent.state == AgentState::Disconnected && agent.job.is_some() {
                return Err(format!("agent {no} has left and still has a job"));
            }
        }
        Ok(())
    }

    /// Every stream belongs to an agent that is there.
    fn check_streams(&self) -> Result<(), String> {
        match self.streams.keys().find(|no| self.agents.get(no).is_none_or(|a| a.state != AgentState::Connected)) {
            Some(no) => Err(format!("agent {no} is not connected and has a ping stream")),
            None => Ok(()),
        }
    }

    /// §12.1, §12.4, §12.5.
    fn check_jobs(&self) -> Result<(), String> {
        let mut ids = BTreeSet::new();
        for (i, job) in self.jobs.iter().enumerate() {
            let build = &self.builds[job.build];
            if !ids.insert(&job.id) {
                return Err(format!("job id {} is used twice", job.id));
            }
            if !build.steps[job.step].jobs.contains(&i) {
                return Err(format!("job {i} is unknown to its step"));
            }
            if job.accepted_by.len() > 1 {
                return Err(format!("job {i} was accepted by {:?}", job.accepted_by));
            }
            if job.state.is_active() == job.accepted_by.is_empty() && !job.state.is_terminal() {
                return Err(format!("job {i} is {} and was accepted by {:?}", job.state.name(), job.accepted_by));
            }
            if job.finish.is_some() && !job.state.is_terminal() {
                return Err(format!("job {i} has a finish body and is {}", job.state.name()));
            }
            if (job.state == JobState::Scheduled) != self.ready.contains(&self.ready_key(i)) {
                return Err(format!("job {i} is {} and its place among the runnable ones says otherwise", job.state.name()));
            }
            let Some(step) = build.command(job.step) else { return Err(format!("job {i} belongs to a wait")) };
            let over = job.rule_retries.iter().zip(&step.retry).any(|(used, rule)| *used > rule.limit.min(10));
            if over || job.rule_retries.iter().sum::<u32>() != job.retry_count {
                return Err(format!("job {i} was retried more often than its rules allow: {:?}", job.rule_retries));
            }
            if job.retried_by.is_some() && matches!(job.state, JobState::Canceled(_)) {
                return Err(format!("job {i} was canceled and retried"));
            }
            let times = [Some(job.created_at), job.runnable_at, job.accepted_at, job.started_at, job.state.report().map(|r| r.at)];
            if !times.iter().flatten().is_sorted() {
                return Err(format!("the times of job {i} are out of order: {times:?}"));
            }
        }
        Ok(())
    }

    /// §12.2, §12.4.
    fn check_steps(&self) -> Result<(), String> {
        for build in &self.builds {
            for (i, step) in build.steps.iter().enumerate() {
                let waits = step.state == StepState::WaitingForDependencies;
                if waits && step.jobs.iter().any(|j| !matches!(self.jobs[*j].state, JobState::Waiting | JobState::Canceled(None))) {
                    return Err(format!("step {i} waits, and one of its jobs does not"));
                }
                if step.removed && (step.state != StepState::Ignored || step.jobs.iter().any(|j| !self.jobs[*j].state.is_terminal())) {
                    return Err(format!("step {i} was replaced and is {}", step.state.name()));
                }
                if let Some(u) = step.uploaded {
                    // Nothing runs before the end of what uploaded it, but what says that it depends on nothing.
                    let free = step.spec.depends_on().is_some_and(<[_]>::is_empty);
                    let begun = step.jobs.iter().any(|j| self.jobs[*j].runnable_at.is_some());
                    if u.by >= i || (begun && !free && !build.steps[u.by].state.is_over()) {
                        return Err(format!("step {i} was uploaded by step {}, which is not over", u.by));
                    }
                }
                if let StepSpec::Command(c) = &step.spec {
                    let current = step.jobs.iter().filter(|j| self.jobs[**j].retried_by.is_none()).count();
                    if current != c.parallelism.map_or(1, |n| n as usize) {
                        return Err(format!("step {i} has {current} current jobs"));
                    }
                }
            }
        }
        Ok(())
    }

    /// §12.8.
    fn check_builds(&self) -> Result<(), String> {
        for build in &self.builds {
            let due = self.build_state(build);
            if build.state != due {
                return Err(format!("build {} is {}, its jobs say {}", build.number, build.state.name(), due.name()));
            }
            if build.uploads.len() > crate::limits::PLANE_UPLOADS_PER_BUILD {
                return Err(format!("build {} took {} uploads", build.number, build.uploads.len()));
            }
            let open = build.steps.iter().flat_map(|s| &s.jobs).any(|j| !self.jobs[*j].state.is_terminal());
            if build.state.is_terminal() && open {
                return Err(format!("build {} is over, one of its jobs is not", build.number));
            }
        }
        Ok(())
    }
}
