//! One job, from accept to finish (agent-api §9), and what ends it early (local-control-plane §5.6).

use super::joblog::gunzip;
use super::route::{Answer, Refusal, Target, body, json, no_content};
use super::{AgentNo, JobReport, JobState, Out, Plane, PlaneCommand, PlaneRequest, ReportSource, transition};
use crate::api::FinishRequest;
use crate::limits::{PLANE_HEADER_TIMES, PLANE_START};
use crate::machine::Instant;
use serde::Deserialize;
use serde_json::json;
use serde_json::value::RawValue;
use std::collections::BTreeMap;

impl Plane {
    /// `PUT jobs/{job}/accept` (agent-api §9.2).
    pub(super) fn accept(&mut self, now: Instant, no: AgentNo, id: &str, out: &mut Out) -> Answer {
        self.alive(now, no, "accept", out);
        let job = *self.job_index.get(id).ok_or_else(|| Refusal::unknown("job"))?;
        match self.jobs[job].state {
            JobState::Assigned { agent, .. } if agent == no => self.take(now, no, job, "accept", out),
            JobState::Accepted { agent, .. } if agent == no && self.config.accept_again => self.job_object(job, no),
            _ => Err(Refusal::unprocessable("job is not assigned to this agent")),
        }
    }

    /// `PUT jobs/{job}/acquire` (agent-api §9.3).
    pub(super) fn acquire(&mut self, now: Instant, no: AgentNo, id: &str, out: &mut Out) -> Answer {
        self.alive(now, no, "acquire", out);
        let job = *self.job_index.get(id).ok_or_else(|| Refusal::unknown("job"))?;
        match self.jobs[job].state {
            JobState::Waiting => Err(Refusal(423, "job is waiting for its dependencies".into())),
            JobState::Scheduled if self.agent(no).job.is_none() => self.take(now, no, job, "acquire", out),
            JobState::Accepted { agent, .. } if agent == no && self.config.accept_again => self.job_object(job, no),
            _ => Err(Refusal::unprocessable("job is taken or over")),
        }
    }

    fn take(&mut self, now: Instant, no: AgentNo, job: usize, event: &'static str, out: &mut Out) -> Answer {
        self.jobs[job].accepted_by.push(no);
        self.jobs[job].accepted_at = Some(now);
        self.set_job(job, event, JobState::Accepted { agent: no, until: now + PLANE_START }, out);
        self.settle(now, self.jobs[job].build, out);
        self.job_object(job, no)
    }

    /// The job object (agent-api §9.1).
    fn job_object(&self, job: usize, no: AgentNo) -> Answer {
        #[derive(serde::Serialize)]
        struct Object<'a> {
            id: &'a str,
            env: BTreeMap<String, String>,
            step: &'a RawValue,
            token: &'a str,
            chunks_max_size_bytes: u64,
            chunks_interval_seconds: u64,
            runnable_at: String,
            priority: i64,
        }
        let j = &self.jobs[job];
        let step = self.builds[j.build].command(j.step).ok_or_else(|| Refusal::unknown("step"))?;
        let raw = if step.raw.is_empty() { "{}" } else { &*step.raw };
        let object = Object {
            id: &j.id,
            env: self.job_env(job, self.agent(no)),
            step: serde_json::from_str(raw).map_err(|e| Refusal(500, e.to_string()))?,
            token: j.token.expose(),
            chunks_max_size_bytes: self.config.chunk_bytes,
            chunks_interval_seconds: self.config.chunk_interval,
            runnable_at: self.clock.at(j.runnable_at.unwrap_or_default()).rfc3339_utc(),
            priority: step.priority,
        };
        json(200, &object)
    }

    /// `PUT jobs/{job}/start` (agent-api §9.4). A repeated call is answered as the first one: its answer may have been lost.
    pub(super) fn start(&mut self, now: Instant, job: usize, out: &mut Out) -> Answer {
        match self.jobs[job].state {
            JobState::Accepted { agent, .. } => {
                let j = &self.jobs[job];
                let limit = self.builds[j.build].command(j.step).and_then(|c| c.timeout);
                self.jobs[job].started_at = Some(now);
                self.set_job(job, "start", JobState::Running { agent, started: now, timeout: limit.map(|l| now + l) }, out);
                self.settle(now, self.jobs[job].build, out);
                no_content()
            }
            JobState::Running { .. } | JobState::TimingOut { .. } | JobState::Canceling { started: Ok(_), .. } => no_content(),
            // Cancelled between accept and start: after this refusal the agent drops the job without a finish.
            JobState::Canceling { started: Err(_), .. } => {
                self.end_job(now, job, "start", JobState::Canceled(None), out);
                Err(Refusal::unprocessable("job was canceled"))
            }
            _ => Err(Refusal::unprocessable("job is not assigned")),
        }
    }

    /// `GET jobs/{job}` (agent-api §9.5). The token of a job that was taken for lost is void: an agent that is still at it stops.
    pub(super) fn poll_job(&self, job: usize, _out: &mut Out) -> Answer {
        let state = &self.jobs[job].state;
        if state.report().is_some_and(|r| r.source != ReportSource::Agent) {
            return Err(Refusal(401, "the agent was taken for lost and the job has ended".into()));
        }
        json(200, &json!({"state": state.name()}))
    }

    /// `PUT jobs/{job}/finish` (agent-api §9.7). Only of an active job, so at most once (local-control-plane §12.1).
    pub(super) fn finish(&mut self, now: Instant, job: usize, request: &PlaneRequest, out: &mut Out) -> Answer {
        let finish: FinishRequest = body(request)?;
        let exit_status: i32 = finish.exit_status.trim().parse().map_err(|_| Refusal::unprocessable("exit_status is not a number"))?;
        let report = JobReport {
            exit_status,
            signal: finish.signal.clone(),
            signal_reason: finish.signal_reason.clone(),
            source: ReportSource::Agent,
            at: now,
        };
        let (to, no) = match self.jobs[job].state {
            JobState::Accepted { agent, .. } | JobState::Running { agent, .. } => (JobState::Finished(report), agent),
            JobState::Canceling { agent, .. } => (JobState::Canceled(Some(report)), agent),
            // Exit status 0 counts as passed even so.
            JobState::TimingOut { agent, .. } if exit_status == 0 => (JobState::Finished(report), agent),
            JobState::TimingOut { agent, .. } => (JobState::TimedOut(report), agent),
            _ => {
                self.late = self.late.saturating_add(1);
                return Err(Refusal::unprocessable("job is not running"));
            }
        };
        if finish.ignore_agent_in_dispatches == Some(true) {
            self.agent_mut(no).ignore_in_dispatches = true;
        }
        self.jobs[job].finish = Some(finish);
        self.end_job(now, job, "finish", to, out);
        no_content()
    }

    /// `POST jobs/{job}/chunks` (agent-api §9.6). The same chunk again is fine: its answer may have been lost.
    pub(super) fn chunk(&mut self, job: usize, request: &PlaneRequest, target: &Target, out: &mut Out) -> Answer {
        let (sequence, offset, size) = (target.number("sequence")?, target.number("offset")?, target.number("size")?);
        let data = gunzip(&request.body).map_err(Refusal::unprocessable)?;
        if data.len() as u64 != size {
            return Err(Refusal::unprocessable(format!("chunk has {} bytes, announced were {size}", data.len())));
        }
        let j = &mut self.jobs[job];
        match j.log.repeated(sequence, offset, &data) {
            Some(true) => return json(201, &json!({})),
            Some(false) => return Err(Refusal::unprocessable(format!("chunk {sequence} has come before, with other contents"))),
            None => {}
        }
        if !j.state.is_active() {
            return Err(Refusal::unprocessable("job is not running"));
        }
        j.log.insert(sequence, offset, data).map_err(Refusal::unprocessable)?;
        self.tell_log(job, false, out);
        json(201, &json!({}))
    }

    fn tell_log(&mut self, job: usize, ended: bool, out: &mut Out) {
        let j = &mut self.jobs[job];
        let id = j.id.clone();
        out.extend(j.log.tell(ended).into_iter().map(|(offset, data)| PlaneCommand::JobLog { job: id.clone(), offset, data }));
    }

    /// `POST jobs/{job}/header_times`
    pub(super) fn header_times(&mut self, job: usize, request: &PlaneRequest) -> Answer {
        #[derive(Deserialize)]
        struct Times {
            header_times: BTreeMap<String, String>,
        }
        let times: Times = body(request)?;
        let j = &mut self.jobs[job];
        for (index, time) in times.header_times {
            let index = index.parse().map_err(|_| Refusal::unprocessable("header times are numbered"))?;
            if j.header_times.len() < PLANE_HEADER_TIMES {
                j.header_times.insert(index, time);
            }
        }
        no_content()
    }

    /// `PUT jobs/{job}/promise_failure` (agent-api §9.8).
    pub(super) fn promise(&mut self, now: Instant, job: usize, request: &PlaneRequest, out: &mut Out) -> Answer {
        #[derive(Deserialize)]
        struct Promise {
            exit_status: i32,
        }
        let promise: Promise = body(request)?;
        let j = &mut self.jobs[job];
        if promise.exit_status <= 0 || !matches!(j.state, JobState::Running { .. }) {
            return Err(Refusal::unprocessable("the job is not running, or the status is no failure"));
        }
        match j.promised {
            Some(known) if known != promise.exit_status => return Err(Refusal(409, format!("exit status {known} was promised before"))),
            _ => j.promised = Some(promise.exit_status),
        }
        out.push(transition("plane-job", "running", "promise", "running"));
        self.settle(now, self.jobs[job].build, out);
        no_content()
    }

    /// Cancels one job (local-control-plane §5.6).
    pub(super) fn cancel_job(&mut self, now: Instant, job: usize, out: &mut Out) {
        self.cancel(job, out);
        self.settle(now, self.jobs[job].build, out);
    }

    fn cancel(&mut self, job: usize, out: &mut Out) {
        match self.jobs[job].state {
            JobState::Waiting | JobState::Scheduled | JobState::Assigned { .. } => {
                self.set_job(job, "cancel", JobState::Canceled(None), out);
            }
            JobState::Accepted { agent, until } => {
                self.set_job(job, "cancel", JobState::Canceling { agent, started: Err(until) }, out);
            }
            JobState::Running { agent, started, .. } => {
                self.set_job(job, "cancel", JobState::Canceling { agent, started: Ok(started) }, out);
            }
            // Stopping already, or over.
            _ => self.late = self.late.saturating_add(1),
        }
    }

    /// Cancels a build: what has not started never will, what runs is asked to stop.
    pub(super) fn cancel_build(&mut self, now: Instant, build: usize, out: &mut Out) {
        let b = &mut self.builds[build];
        if b.canceled || b.state.is_terminal() {
            self.late = self.late.saturating_add(1);
            return;
        }
        b.canceled = true;
        let jobs: Vec<usize> = b.steps.iter().flat_map(|s| s.jobs.iter().copied()).collect();
        for job in jobs {
            let state = &self.jobs[job].state;
            if !state.is_terminal() && !matches!(state, JobState::Canceling { .. } | JobState::TimingOut { .. }) {
                self.cancel(job, out);
            }
        }
        self.settle(now, build, out);
    }

    /// The timer of a job's state is due.
    pub(super) fn job_timer(&mut self, now: Instant, job: usize, out: &mut Out) {
        match self.jobs[job].state {
            JobState::Assigned { .. } => self.schedule(now, job, "not accepted", out),
            JobState::Accepted { .. } | JobState::Canceling { started: Err(_), .. } => self.lose_job(now, job, out),
            JobState::Running { agent, started, .. } => self.set_job(job, "timeout", JobState::TimingOut { agent, started }, out),
            _ => self.late = self.late.saturating_add(1),
        }
    }

    /// Nobody will report this job: it ends with exit status −1.
    pub(super) fn lose_job(&mut self, now: Instant, job: usize, out: &mut Out) {
        let report = |source| JobReport { exit_status: -1, signal: String::new(), signal_reason: String::new(), source, at: now };
        let to = match self.jobs[job].state {
            JobState::Accepted { .. } => JobState::Finished(report(ReportSource::NeverStarted)),
            JobState::Running { .. } => JobState::Finished(report(ReportSource::Lost)),
            JobState::Canceling { .. } => JobState::Canceled(Some(report(ReportSource::Lost))),
            JobState::TimingOut { .. } => JobState::TimedOut(report(ReportSource::Lost)),
            _ => return,
        };
        self.end_job(now, job, "lost", to, out);
    }

    /// Every end of a job goes through here.
    fn end_job(&mut self, now: Instant, job: usize, event: &'static str, to: JobState, out: &mut Out) {
        self.tell_log(job, true, out);
        self.set_job(job, event, to, out);
        self.retry(now, job, out);
        self.settle(now, self.jobs[job].build, out);
    }
}
