//! From the last output to the report (job-runner §2.4, §2.6, §7.5).

use super::retrying::{Phase, Retrying};
use super::runner::{Report, State};
use super::{JobContext, JobEnd, JobResult, JobRunner};
use crate::agent::{AgentCommand, Level, Metric};
use crate::api::{FinishRequest, Operation, Outcome};
use crate::limits;
use crate::machine::{Instant, RequestId};
use crate::retry::{FINISH, Next};
use std::time::Duration;

impl JobRunner {
    /// Clean-up begins, steps 2 and 3: this is the moment that `finished_at` names.
    pub(super) fn flush(
        &mut self,
        event: &'static str,
        now: Instant,
        result: JobResult,
        cx: &JobContext<'_>,
        out: &mut Vec<AgentCommand>,
    ) -> Option<JobEnd> {
        // A wall clock that was set back must not make a job end before it began (I12).
        let finished_at = (now, cx.clock.at(now).max(self.started_at.1));
        self.enter(event, State::Flushing { result, finished_at }, out);
        out.push(AgentCommand::LogFlush { job: self.start.owner, limit: self.flush_limit(now) });
        None
    }

    fn flush_limit(&self, now: Instant) -> Duration {
        self.give_up_at().map_or(limits::UPLOAD_TOTAL, |at| at.since(now).min(limits::UPLOAD_TOTAL))
    }

    /// A forced stop during the flush.
    pub(super) fn shorten_flush(&mut self, now: Instant, out: &mut Vec<AgentCommand>) {
        out.push(AgentCommand::LogFlush { job: self.start.owner, limit: self.flush_limit(now) });
    }

    /// Step 4 is over; step 5.
    pub(super) fn log_drained(&mut self, now: Instant, failed: u64, out: &mut Vec<AgentCommand>) -> Option<JobEnd> {
        let State::Flushing { result, finished_at } = &self.state else { return self.late() };
        let report = Report { result: result.clone(), finished_at: *finished_at, chunks_failed: failed };
        if !self.has_files() {
            self.report("LogDrained", now, report, out);
            return None;
        }
        let request = self.ids.issue();
        self.enter("LogDrained", State::Removing { request, report }, out);
        out.push(AgentCommand::RemoveJobFiles { id: request, job: self.start.owner });
        None
    }

    pub(super) fn files_removed(&mut self, now: Instant, id: RequestId, own_status: bool, out: &mut Vec<AgentCommand>) -> Option<JobEnd> {
        match &self.state {
            State::Removing { request, report } if *request == id => {
                let mut report = report.clone();
                if own_status {
                    report.result = report.result.own();
                }
                self.report("FilesRemoved", now, report, out);
                None
            }
            State::Abandoned { request, error } if *request == id => {
                let error = error.clone();
                self.enter("FilesRemoved", State::Done, out);
                Some(JobEnd::NotStarted(error))
            }
            _ => self.late(),
        }
    }

    /// Steps 6 and 7: finish is the last request of a job, because it may bring new work at once.
    fn report(&mut self, event: &'static str, now: Instant, report: Report, out: &mut Vec<AgentCommand>) {
        let Report { result, finished_at, chunks_failed } = report;
        let ran = finished_at.0.since(self.started_at.0);
        let attributes = self.attributes().with("exit_code", &result.exit_status.to_string());
        out.push(AgentCommand::Metric(Metric::JobFinished { ran, attributes }));
        let body = FinishRequest {
            exit_status: result.exit_status.to_string(),
            signal: result.signal.clone(),
            signal_reason: result.signal_reason.clone(),
            finished_at: finished_at.1.rfc3339_utc(),
            chunks_failed_count: chunks_failed,
            ignore_agent_in_dispatches: (self.start.ignore_agent_in_dispatches && !self.start.acquired).then_some(true),
        };
        let id = self.ids.issue();
        let call = Retrying::first(&FINISH, now, id, &mut self.rng);
        self.enter(event, State::Finishing { body: Box::new(body), call, result }, out);
        self.send_finish(now, id, out);
    }

    fn send_finish(&mut self, now: Instant, id: RequestId, out: &mut Vec<AgentCommand>) {
        let State::Finishing { body, call, .. } = &self.state else { return };
        let left = call.attempts.left(&FINISH, now).unwrap_or(limits::UPLOAD_TOTAL);
        let operation = Operation::Finish { job: self.start.job.id.clone(), body: body.clone() };
        self.call(id, operation, left.min(limits::EXCHANGE), u64::try_from(left.as_millis()).ok(), out);
    }

    /// The answer to an attempt of finish; the caller has checked the id.
    pub(super) fn finish_answer(&mut self, now: Instant, outcome: &Outcome, out: &mut Vec<AgentCommand>) -> Option<JobEnd> {
        let stop_end = self.stop_end();
        let State::Finishing { call, .. } = &mut self.state else { return self.late() };
        match outcome {
            Outcome::Ok(_) => self.done("FinishAnswer(ok)", out),
            failure if failure.retryable() => {
                let (mut next, line) = call.failed(&FINISH, now, failure);
                // job-runner §7.5: retries stop at the end of the budget.
                if let (Next::At(at), Some(end)) = (next, stop_end)
                    && at >= end
                {
                    next = Next::GiveUp;
                }
                if let Next::At(at) = next {
                    call.phase = Phase::Waiting(at);
                    self.log(Level::Warn, line, out);
                    self.stay("FinishAnswer(retryable)", out);
                    return None;
                }
                self.not_finished("FinishAnswer(exhausted)", failure.text(), out)
            }
            // Closed or taken away on the server, or the token is no longer valid: one attempt is enough (§2.4, R40).
            failure => self.not_finished("FinishAnswer(final)", failure.text(), out),
        }
    }

    /// The next attempt is due.
    pub(super) fn finish_timer(&mut self, now: Instant, out: &mut Vec<AgentCommand>) -> Option<JobEnd> {
        if let State::Finishing { call, .. } = &mut self.state
            && let Phase::Waiting(at) = call.phase
            && at <= now
        {
            let id = self.ids.issue();
            call.again(&FINISH, now, id, &mut self.rng);
            self.stay("FinishTimer", out);
            self.send_finish(now, id, out);
        }
        None
    }

    /// A forced stop while finish is retried: a wait that would end after the budget ends now.
    pub(super) fn shorten_finish(&mut self, out: &mut Vec<AgentCommand>) -> Option<JobEnd> {
        let State::Finishing { call, .. } = &self.state else { return None };
        match (&call.phase, self.stop_end()) {
            (Phase::Waiting(at), Some(end)) if *at >= end => self.not_finished("StopBudget", "agent is stopping", out),
            _ => None,
        }
    }

    fn not_finished(&mut self, event: &'static str, error: &str, out: &mut Vec<AgentCommand>) -> Option<JobEnd> {
        self.log(Level::Error, format!("Couldn't mark job as finished: {error}"), out);
        self.done(event, out)
    }

    fn done(&mut self, event: &'static str, out: &mut Vec<AgentCommand>) -> Option<JobEnd> {
        let State::Finishing { result, .. } = &self.state else { return self.late() };
        let JobResult { exit_status, signal, signal_reason } = result.clone();
        self.log(Level::Info, format!("Finished job at {}", self.start.job_url()), out);
        let end = JobEnd::Finished { exit_status, signal, signal_reason };
        if self.straggler.is_some() {
            self.enter(event, State::Closing { end }, out);
            return None;
        }
        self.enter(event, State::Done, out);
        Some(end)
    }
}
