//! From a job's end to the build's (local-control-plane §3, §5.5, §8.2, §8.3). States of steps and builds are functions of
//! the states of jobs; `settle` brings them up to date until nothing changes any more.

use super::create::NewJob;
use super::verdict::Verdict;
use super::{BuildState, JobState, Out, Plane, PlaneBuild, PlaneCommand, StepOutcome, StepState, transition};
use crate::limits::PLANE_JOBS_PER_BUILD;
use crate::machine::Instant;
use crate::pipeline::StepSpec;

/// What dependencies say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Decision {
    Open,
    Ready,
    Failed,
}

/// What one dependency says (local-control-plane §3.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Edge {
    Open,
    Satisfied,
    /// Failed, timed out, or never ran as its own dependencies failed: may be tolerated.
    Failed,
    /// Cancelled: never tolerated.
    Canceled,
    /// No such step, so far.
    Missing,
}

impl Plane {
    /// Brings steps and build up to date.
    pub(super) fn settle(&mut self, now: Instant, build: usize, out: &mut Out) {
        loop {
            let mut changed = false;
            for step in 0..self.builds[build].steps.len() {
                changed |= self.settle_step(now, build, step, out);
            }
            if !changed && !self.fail_stuck(build, out) {
                break;
            }
        }
        self.settle_build(build, out);
    }

    fn settle_step(&mut self, now: Instant, build: usize, step: usize, out: &mut Out) -> bool {
        let b = &self.builds[build];
        let s = &b.steps[step];
        let is_wait = matches!(s.spec, StepSpec::Wait(_));
        let to = match s.state {
            StepState::WaitingForDependencies => {
                let jobs_over = !s.jobs.is_empty() && s.jobs.iter().all(|j| self.jobs[*j].state.is_terminal());
                match b.decide(step) {
                    _ if jobs_over || (b.canceled && s.jobs.is_empty()) => StepState::Canceled,
                    Decision::Open => return false,
                    Decision::Ready if is_wait => StepState::Finished(StepOutcome::Neutral),
                    Decision::Ready => {
                        let jobs = s.jobs.clone();
                        for job in jobs {
                            if self.jobs[job].state == JobState::Waiting {
                                self.schedule(now, job, "dependencies satisfied", out);
                            }
                        }
                        self.state_by_jobs(build, step)
                    }
                    Decision::Failed => {
                        self.fail_waiting(build, step, out);
                        return true;
                    }
                }
            }
            StepState::Ready | StepState::Running | StepState::Failing => self.state_by_jobs(build, step),
            StepState::Ignored | StepState::Finished(_) | StepState::Canceled | StepState::WaitingFailed => return false,
        };
        self.set_step(build, step, to, "settle", out)
    }

    /// A dependency failed: the step never runs.
    fn fail_waiting(&mut self, build: usize, step: usize, out: &mut Out) {
        for job in self.builds[build].steps[step].jobs.clone() {
            if self.jobs[job].state == JobState::Waiting {
                self.set_job(job, "dependency failed", JobState::WaitingFailed, out);
            }
        }
        self.set_step(build, step, StepState::WaitingFailed, "settle", out);
    }

    /// When nothing else can run, steps that wait for what does not exist fail (local-control-plane §2.2, §3.2).
    fn fail_stuck(&mut self, build: usize, out: &mut Out) -> bool {
        let b = &self.builds[build];
        if b.steps.iter().any(|s| matches!(s.state, StepState::Ready | StepState::Running | StepState::Failing)) {
            return false;
        }
        let waiting = |i: &usize| b.steps[*i].state == StepState::WaitingForDependencies;
        let missing: Vec<usize> = (0..b.steps.len()).filter(waiting).filter(|i| b.edges(*i).iter().any(|(e, _)| *e == Edge::Missing)).collect();
        let stuck = if missing.is_empty() { (0..b.steps.len()).filter(waiting).collect() } else { missing };
        stuck.iter().for_each(|step| self.fail_waiting(build, *step, out));
        !stuck.is_empty()
    }

    /// State of a step whose dependencies are satisfied.
    fn state_by_jobs(&self, build: usize, step: usize) -> StepState {
        let s = &self.builds[build].steps[step];
        let StepSpec::Command(command) = &s.spec else { return s.state };
        let current = || s.jobs.iter().copied().filter(|j| self.jobs[*j].retried_by.is_none());
        let verdicts: Vec<Verdict> = current().map(|j| self.verdict(j)).collect();
        let any = |outcome| verdicts.contains(&Verdict::Ended(outcome));
        let hard = any(StepOutcome::HardFailed) || any(StepOutcome::Errored) || verdicts.contains(&Verdict::Canceled { tolerated: false });
        if verdicts.contains(&Verdict::Open) {
            return match () {
                () if hard || current().any(|j| self.promised_failure(j, command)) => StepState::Failing,
                () if s.jobs.iter().any(|j| self.jobs[*j].started_at.is_some()) => StepState::Running,
                () => StepState::Ready,
            };
        }
        if verdicts.iter().any(|v| matches!(v, Verdict::Canceled { .. })) {
            return StepState::Canceled;
        }
        let worst = [StepOutcome::HardFailed, StepOutcome::Errored, StepOutcome::SoftFailed].into_iter().find(|o| any(*o));
        StepState::Finished(worst.unwrap_or(StepOutcome::Passed))
    }

    pub(super) fn set_step(&mut self, build: usize, step: usize, to: StepState, event: &'static str, out: &mut Out) -> bool {
        let s = &mut self.builds[build].steps[step];
        let from = s.state;
        s.state = to;
        if from != to {
            out.push(transition("plane-step", from.name(), event, to.name()));
        }
        from != to
    }

    fn settle_build(&mut self, build: usize, out: &mut Out) {
        let b = &self.builds[build];
        let (from, to) = (b.state, self.build_state(b));
        // Once terminal it does not change (local-control-plane §12.8).
        if from == to || from.is_terminal() {
            return;
        }
        let id = b.id.clone();
        self.builds[build].state = to;
        out.push(transition("plane-build", from.name(), "settle", to.name()));
        if to.is_terminal() {
            out.push(PlaneCommand::BuildFinished { build: id, state: to.name() });
        }
    }

    /// State of a build, from its steps and jobs alone.
    pub(super) fn build_state(&self, b: &PlaneBuild) -> BuildState {
        let untolerated = |s: &super::PlaneStep| {
            let current = s.jobs.iter().filter(|j| self.jobs[**j].retried_by.is_none());
            current.clone().any(|j| self.verdict(*j) == Verdict::Canceled { tolerated: false }) || current.count() == 0
        };
        let failed = b.steps.iter().any(|s| match s.state {
            StepState::Failing | StepState::WaitingFailed => true,
            StepState::Finished(outcome) => !outcome.is_good(),
            StepState::Canceled => untolerated(s),
            _ => false,
        });
        let over = b.steps.iter().all(|s| s.state.is_over());
        let started = b.steps.iter().flat_map(|s| &s.jobs).any(|j| self.jobs[*j].started_at.is_some());
        match () {
            () if over && b.canceled => BuildState::Canceled,
            () if over && failed => BuildState::Failed,
            () if over && b.steps.iter().all(|s| s.state == StepState::Ignored) => BuildState::NotRun,
            () if over => BuildState::Passed,
            () if b.canceled => BuildState::Canceling,
            () if failed => BuildState::Failing,
            () if started => BuildState::Running,
            () => BuildState::Scheduled,
        }
    }

    /// Makes a new job of one that failed, if a rule says so (local-control-plane §5.5).
    pub(super) fn retry(&mut self, now: Instant, job: usize, out: &mut Out) {
        let j = &self.jobs[job];
        let b = &self.builds[j.build];
        let (JobState::Finished(report) | JobState::TimedOut(report)) = &j.state else { return };
        let Some(step) = b.command(j.step).filter(|_| report.exit_status != 0 && !b.canceled) else { return };
        // The agent reports no reason for a job that timed out before its process could be told.
        let reason = match (&j.state, report.signal_reason.as_str()) {
            (JobState::TimedOut(_), "") => "cancel",
            (_, reason) => reason,
        };
        let Some(rule) = self.retry_rule(job, step, report.exit_status, &report.signal, reason) else { return };
        if b.steps.iter().map(|s| s.jobs.len()).sum::<usize>() >= PLANE_JOBS_PER_BUILD {
            return;
        }
        let mut rule_retries = j.rule_retries.clone();
        rule_retries.resize(step.retry.len(), 0);
        rule_retries[rule] += 1;
        let new = NewJob { state: JobState::Waiting, parallel: j.parallel, retry_count: j.retry_count + 1, rule_retries };
        let (build, step) = (j.build, j.step);
        let next = self.create_job(now, build, step, new, out);
        self.jobs[job].retried_by = Some(next);
        self.schedule(now, next, "retry", out);
    }
}

impl PlaneBuild {
    /// What the dependencies of `step` say together.
    fn decide(&self, step: usize) -> Decision {
        let edges = self.edges(step);
        if edges.iter().any(|(e, _)| matches!(e, Edge::Open | Edge::Missing)) {
            return Decision::Open;
        }
        let holds = |(edge, tolerated): &(Edge, bool)| *edge == Edge::Satisfied || (*edge == Edge::Failed && *tolerated);
        if edges.iter().all(holds) { Decision::Ready } else { Decision::Failed }
    }

    /// The dependencies of a step, each with whether its failure is tolerated.
    fn edges(&self, step: usize) -> Vec<(Edge, bool)> {
        let spec = &self.steps[step].spec;
        let tolerant = spec.allow_dependency_failure();
        let continues = matches!(spec, StepSpec::Wait(w) if w.continue_on_failure);
        let by_upload = self.steps[step].uploaded.map(|u| (self.edge(u.by), tolerant || continues));
        if let Some(list) = spec.depends_on() {
            let edge = |d: &crate::pipeline::Dependency| {
                let edge = self.step_by_key(&d.step).map_or(Edge::Missing, |i| self.edge_with_uploads(step, i));
                (edge, d.allow_failure.unwrap_or(tolerant || continues))
            };
            // An explicit empty list frees an uploaded step even from the one that uploaded it (local-control-plane §2.3 [D]).
            return list.iter().map(edge).chain(by_upload.filter(|_| !list.is_empty())).collect();
        }
        let before = self.steps.iter().enumerate().take(step);
        if !matches!(spec, StepSpec::Wait(_)) {
            // Between barriers nothing is ordered: only the waits before count.
            return before.filter(|(_, s)| matches!(s.spec, StepSpec::Wait(_))).map(|(i, _)| (self.edge(i), tolerant)).chain(by_upload).collect();
        }
        // `continue_on_failure` tolerates failed steps, but not a wait that has failed (local-control-plane §3.4).
        before.map(|(i, s)| (self.edge(i), tolerant || (continues && !matches!(s.spec, StepSpec::Wait(_))))).collect()
    }

    /// Depending on a step that uploads means depending on everything it uploads, but not for what it has uploaded itself
    /// (local-control-plane §3.2).
    fn edge_with_uploads(&self, step: usize, on: usize) -> Edge {
        if self.uploads.is_empty() || self.came_from(step, on) {
            return self.edge(on);
        }
        let uploaded = (on + 1..self.steps.len()).filter(|s| self.came_from(*s, on));
        let edges: Vec<Edge> = uploaded.chain([on]).map(|s| self.edge(s)).collect();
        [Edge::Open, Edge::Canceled, Edge::Failed].into_iter().find(|e| edges.contains(e)).unwrap_or(Edge::Satisfied)
    }

    fn edge(&self, on: usize) -> Edge {
        match self.steps[on].state {
            StepState::Ignored => Edge::Satisfied,
            StepState::Finished(outcome) if outcome.is_good() => Edge::Satisfied,
            StepState::Finished(_) | StepState::WaitingFailed => Edge::Failed,
            StepState::Canceled => Edge::Canceled,
            StepState::WaitingForDependencies | StepState::Ready | StepState::Running | StepState::Failing => Edge::Open,
        }
    }
}
