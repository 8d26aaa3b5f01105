//! From the accept to the spawn (job-runner §2.1 steps 2–12, §4, §7.6).

use super::retrying::{Phase, Retrying};
use super::runner::{Files, HookLadder, State};
use super::{
    EnvInputs, FailureBehavior, JobConfig, JobContext, JobEnd, JobFiles, JobFilesSpec, JobResult, JobRunner, SignatureCheck, SignatureOutcome,
    allow_lists, cache_notice, child_env, edit, mirror_notice, signature_check, signature_failure, signature_verdict,
};
use crate::agent::{AgentCommand, HookEnd, HookSpec, Level, Metric, MetricAttributes, OsSignal, SignatureVerdict};
use crate::api::{Operation, Outcome};
use crate::limits;
use crate::machine::{Instant, RequestId};
use crate::process::{Process, ProcessRules, ProcessSpec};
use crate::retry::{Next, START};
use crate::secret::Secret;
use std::time::Duration;

/// What a job that was cancelled before its process was spawned shows (job-runner §2.5).
const CANCELLED: &str = "Job was cancelled before its process was started\n";
/// What a job refused by the hook shows.
const HOOK_REFUSED: &str = "pre-bootstrap hook rejected this job, see the buildkite-agent logs for more details\n";

impl JobRunner {
    /// Step 2. What fails here is remembered, and told after the start (W3).
    pub(super) fn prepare(&mut self, now: Instant, cx: &JobContext<'_>, out: &mut Vec<AgentCommand>) {
        let config = &cx.config.job;
        if !self.causes.is_empty() {
            // job-runner §7.6: a job that will have no process needs no files.
            return self.send_first_start(now, cx, out, "Begin(stopped)");
        }
        if let Err(error) = FailureBehavior::parse(&config.verification_failure_behavior).and_then(|_| words(config)) {
            self.files = Files::Failed { error, touched: false };
            return self.send_first_start(now, cx, out, "Begin(bad configuration)");
        }
        let edited = edit(&self.start.job.env, config);
        for name in &edited.skipped {
            let text = format!("Ignoring a variable of job {} that cannot be represented: {name:?}", self.start.job.id);
            self.log(Level::Warn, text, out);
        }
        let request = self.ids.issue();
        self.enter("Begin", State::Preparing { request }, out);
        let files = JobFilesSpec {
            job: self.start.owner,
            job_id: self.start.job.id.clone(),
            dir: config.job_context_dir.clone(),
            env: edited.env,
            log_copy_dir: config.job_log_tmpfile.then(|| config.job_log_path.clone()),
            nonce: self.rng.next_u64(),
        };
        out.push(AgentCommand::WriteJobFiles { id: request, files: Box::new(files) });
    }

    pub(super) fn files_written(
        &mut self,
        now: Instant,
        id: RequestId,
        result: Result<Box<JobFiles>, String>,
        cx: &JobContext<'_>,
        out: &mut Vec<AgentCommand>,
    ) -> Option<JobEnd> {
        if !matches!(&self.state, State::Preparing { request } if *request == id) {
            return self.late();
        }
        let event = match result {
            Ok(files) => {
                self.files = Files::Ready(files);
                "FilesReady"
            }
            Err(error) => {
                self.files = Files::Failed { error, touched: true };
                "FilesFailed"
            }
        };
        self.send_first_start(now, cx, out, event);
        None
    }

    /// Step 3: one `started_at` for all attempts.
    fn send_first_start(&mut self, now: Instant, cx: &JobContext<'_>, out: &mut Vec<AgentCommand>, event: &'static str) {
        self.started_at = (now, cx.clock.at(now));
        let id = self.ids.issue();
        let call = Retrying::first(&START, now, id, &mut self.rng);
        self.enter(event, State::Starting { call }, out);
        self.send_start(id, out);
    }

    fn send_start(&mut self, id: RequestId, out: &mut Vec<AgentCommand>) {
        let operation = Operation::Start { job: self.start.job.id.clone(), started_at: self.started_at.1.rfc3339_utc() };
        self.call(id, operation, limits::EXCHANGE, None, out);
    }

    /// The answer to an attempt of start; the caller has checked the id.
    pub(super) fn start_answer(&mut self, now: Instant, outcome: &Outcome, cx: &JobContext<'_>, out: &mut Vec<AgentCommand>) -> Option<JobEnd> {
        let State::Starting { call } = &mut self.state else { return self.late() };
        match outcome {
            Outcome::Ok(_) => self.started(now, cx, out),
            failure if failure.retryable() && self.causes.is_empty() => {
                let (next, line) = call.failed(&START, now, failure);
                self.log(Level::Warn, line, out);
                match (next, &mut self.state) {
                    (Next::At(at), State::Starting { call }) => {
                        call.phase = Phase::Waiting(at);
                        self.stay("StartAnswer(retryable)", out);
                        None
                    }
                    _ => self.abandon("StartAnswer(exhausted)", failure.text().to_owned(), out),
                }
            }
            // job-runner §7.6: after a cancel no further attempt is made.
            failure if failure.retryable() => self.abandon("StartAnswer(retryable, cancelled)", failure.text().to_owned(), out),
            failure => {
                if failure.rejected() {
                    self.log(Level::Warn, format!("Buildkite rejected the call to start the job ({})", failure.text()), out);
                }
                self.abandon("StartAnswer(rejected)", failure.text().to_owned(), out)
            }
        }
    }

    /// The next attempt is due, or a forced stop's budget ends the one under way.
    pub(super) fn start_timer(&mut self, now: Instant, out: &mut Vec<AgentCommand>) -> Option<JobEnd> {
        let State::Starting { call } = &mut self.state else { return None };
        match call.phase {
            Phase::Waiting(at) if at <= now => {
                let id = self.ids.issue();
                call.again(&START, now, id, &mut self.rng);
                self.stay("StartTimer", out);
                self.send_start(id, out);
            }
            Phase::InFlight { id, .. } => {
                call.phase = Phase::Aborting(id);
                self.stay("StopBudget", out);
                out.push(AgentCommand::AbortCall { id });
            }
            Phase::Waiting(_) | Phase::Aborting(_) => {}
        }
        None
    }

    /// No process, no chunks, no finish; nothing stays behind (W4).
    pub(super) fn abandon(&mut self, event: &'static str, error: String, out: &mut Vec<AgentCommand>) -> Option<JobEnd> {
        if self.has_files() {
            let request = self.ids.issue();
            self.enter(event, State::Abandoned { request, error }, out);
            out.push(AgentCommand::RemoveJobFiles { id: request, job: self.start.owner });
            return None;
        }
        self.enter(event, State::Done, out);
        Some(JobEnd::NotStarted(error))
    }

    /// Whether something was, or may have been, written.
    pub(super) fn has_files(&self) -> bool {
        matches!(self.files, Files::Ready(_) | Files::Failed { touched: true, .. })
    }

    /// Steps 4 to 6: from here on exactly one finish is owed.
    fn started(&mut self, now: Instant, cx: &JobContext<'_>, out: &mut Vec<AgentCommand>) -> Option<JobEnd> {
        self.queue_time(out);
        let copy = if let Files::Ready(files) = &self.files { files.log_copy.clone() } else { None };
        let seed = self.rng.next_u64();
        let log = super::stream::log_config(&self.start, copy, seed, cx.config);
        if self.start.job.chunks_max_size_bytes == 0 {
            let text = format!("Job {} has no maximum chunk size, using {} bytes", self.start.job.id, log.chunk_bytes);
            self.log(Level::Warn, text, out);
        }
        out.push(AgentCommand::LogBegin { job: self.start.owner, config: Box::new(log) });
        if !self.causes.is_empty() {
            return self.cancelled_before_spawn("StartAnswer(ok)", now, cx, out);
        }
        if let Files::Failed { error, .. } = &self.files {
            let line = format!("Error running job: {error}\n");
            self.job_log(line, out);
            return self.flush("StartAnswer(ok)", now, JobResult::without_process("process_run_error"), cx, out);
        }
        match signature_check(cx.config.job.verification_keys, &self.start.job) {
            SignatureCheck::NotRequired => self.check("StartAnswer(ok)", now, cx, out),
            SignatureCheck::Ask => {
                let request = self.ids.issue();
                self.enter("StartAnswer(ok)", State::Verifying { request }, out);
                out.push(AgentCommand::VerifySignature { id: request, job: Box::new(self.start.job.clone()) });
                None
            }
            SignatureCheck::Failed(failure) => {
                let outcome = signature_failure(failure, behavior(cx), &self.start.job);
                self.judged("StartAnswer(ok)", now, outcome, cx, out)
            }
        }
    }

    /// What the metrics of start-and-worker §7.2 tell of this job.
    pub(super) fn attributes(&self) -> MetricAttributes {
        MetricAttributes::of_job(&self.start.worker, &self.start.job.env)
    }

    fn queue_time(&self, out: &mut Vec<AgentCommand>) {
        let runnable_at = &self.start.job.runnable_at;
        if runnable_at.is_empty() {
            return;
        }
        match runnable_at.parse::<jiff::Timestamp>() {
            Ok(at) => {
                let waited = i128::from(self.started_at.1.as_nanos()) - at.as_nanosecond();
                let waited = u64::try_from(waited.max(0)).unwrap_or(u64::MAX);
                let (waited, attributes) = (Duration::from_nanos(waited), self.attributes());
                out.push(AgentCommand::Metric(Metric::QueueTime { waited, attributes }));
            }
            Err(error) => self.log(Level::Error, format!("Metric submission failed to parse {runnable_at}: {error}"), out),
        }
    }

    pub(super) fn verified(
        &mut self,
        now: Instant,
        id: RequestId,
        verdict: SignatureVerdict,
        cx: &JobContext<'_>,
        out: &mut Vec<AgentCommand>,
    ) -> Option<JobEnd> {
        if !matches!(&self.state, State::Verifying { request } if *request == id) {
            return self.late();
        }
        if !self.causes.is_empty() {
            return self.cancelled_before_spawn("Verified", now, cx, out);
        }
        let outcome = signature_verdict(verdict, behavior(cx), &self.start.job);
        self.judged("Verified", now, outcome, cx, out)
    }

    /// Step 6 decided.
    fn judged(
        &mut self,
        event: &'static str,
        now: Instant,
        outcome: SignatureOutcome,
        cx: &JobContext<'_>,
        out: &mut Vec<AgentCommand>,
    ) -> Option<JobEnd> {
        let job = ("job", self.start.job.id.to_string());
        match outcome.error {
            None => self.log_with(Level::Info, "Successfully verified job".to_owned(), vec![job], out),
            Some(error) => self.log_with(Level::Warn, "Job verification failed".to_owned(), vec![job, ("error", error)], out),
        }
        for line in outcome.lines {
            self.job_log(line, out);
        }
        if outcome.runs { self.check(event, now, cx, out) } else { self.flush(event, now, JobResult::without_process("signature_rejected"), cx, out) }
    }

    /// Steps 7 to 10.
    fn check(&mut self, event: &'static str, now: Instant, cx: &JobContext<'_>, out: &mut Vec<AgentCommand>) -> Option<JobEnd> {
        for line in cache_notice(&self.start.job).into_iter().flatten() {
            self.job_log(line, out);
        }
        if let Err(refusal) = allow_lists(&cx.config.job, &self.start.job) {
            self.job_log(format!("{refusal}\n"), out);
            self.log(Level::Error, refusal, out);
            return self.flush(event, now, JobResult::without_process("agent_refused"), cx, out);
        }
        if let Some(url) = edit(&self.start.job.env, &cx.config.job).dropped_mirror {
            self.job_log(mirror_notice(&url), out);
        }
        match &self.files {
            // Only the main hooks path is searched (job-runner §4.5).
            Files::Ready(files) if !cx.config.job.hooks_path.is_empty() => {
                let hook = HookSpec { name: "pre-bootstrap", env: self.hook_env(files, cx), all: false, worker: Some(self.start.worker.clone()) };
                let request = self.ids.issue();
                self.enter(event, State::Hook { request, ladder: HookLadder::Undisturbed }, out);
                out.push(AgentCommand::RunHook { id: request, hook: Box::new(hook) });
                None
            }
            _ => self.spawn(event, now, cx, out),
        }
    }

    /// No job variable: the job env is untrusted and only readable through the files (job-runner §4.5).
    fn hook_env(&self, files: &JobFiles, cx: &JobContext<'_>) -> Vec<(String, Secret)> {
        let config = &cx.config.job;
        let plain = |name: &str, value: &str| (name.to_owned(), Secret::new(value));
        vec![
            plain("BUILDKITE_ENV_FILE", &files.env_file),
            plain("BUILDKITE_ENV_JSON_FILE", &files.env_json_file),
            plain("BUILDKITE_JOB_ID", &self.start.job.id),
            ("BUILDKITE_AGENT_ACCESS_TOKEN".to_owned(), self.start.session.credential.clone()),
            plain("BUILDKITE_AGENT_ENDPOINT", &self.start.session.endpoint),
            plain("BUILDKITE_NO_HTTP2", &config.no_http2.to_string()),
            plain("BUILDKITE_AGENT_DEBUG", &config.debug.to_string()),
            plain("BUILDKITE_AGENT_DEBUG_HTTP", &config.debug_http.to_string()),
        ]
    }

    pub(super) fn hook_ended(
        &mut self,
        now: Instant,
        id: RequestId,
        end: HookEnd,
        cx: &JobContext<'_>,
        out: &mut Vec<AgentCommand>,
    ) -> Option<JobEnd> {
        if !matches!(&self.state, State::Hook { request, .. } if *request == id) {
            return self.late();
        }
        if !self.causes.is_empty() {
            return self.cancelled_before_spawn("HookEnded", now, cx, out);
        }
        match end {
            HookEnd::Missing | HookEnd::Succeeded => self.spawn("HookEnded", now, cx, out),
            HookEnd::Failed(_) => {
                self.job_log(HOOK_REFUSED.to_owned(), out);
                self.flush("HookEnded(refused)", now, JobResult::without_process("agent_refused"), cx, out)
            }
        }
    }

    /// A cancel while the hook runs (W10).
    pub(super) fn interrupt_hook(&mut self, now: Instant, out: &mut Vec<AgentCommand>) {
        let State::Hook { request, ladder } = &mut self.state else { return };
        if *ladder == HookLadder::Undisturbed {
            *ladder = HookLadder::Interrupted { kill_at: now + self.grace };
            out.push(AgentCommand::SignalHook { id: *request, signal: OsSignal::Term });
        }
    }

    pub(super) fn hook_timer(&mut self, out: &mut Vec<AgentCommand>) -> Option<JobEnd> {
        let State::Hook { request, ladder } = &mut self.state else { return None };
        let id = *request;
        *ladder = HookLadder::Killed;
        self.stay("GraceTimer", out);
        out.push(AgentCommand::SignalHook { id, signal: OsSignal::Kill });
        None
    }

    /// Step 11: a cancel was requested, so nothing is spawned (W27, W29).
    fn cancelled_before_spawn(&mut self, event: &'static str, now: Instant, cx: &JobContext<'_>, out: &mut Vec<AgentCommand>) -> Option<JobEnd> {
        self.job_log(CANCELLED.to_owned(), out);
        let reason = self.causes.reason().unwrap_or("cancel");
        self.flush(event, now, JobResult::without_process(reason), cx, out)
    }

    /// Step 12.
    fn spawn(&mut self, event: &'static str, now: Instant, cx: &JobContext<'_>, out: &mut Vec<AgentCommand>) -> Option<JobEnd> {
        match self.process_spec(cx) {
            Ok(spec) => {
                let rules = ProcessRules {
                    job_id: self.start.job.id.clone(),
                    worker: self.start.worker.clone(),
                    cancel_signal: cx.config.cancel_signal,
                    grace: self.grace,
                    pty: spec.pty,
                };
                // The transition comes before the command that it explains.
                let mut commands = Vec::new();
                let process = Process::spawn(self.ids.issue(), spec, rules, &mut commands);
                self.enter(event, State::Spawning { process }, out);
                out.append(&mut commands);
                None
            }
            Err(error) => {
                self.job_log(format!("Error running job: {error}\n"), out);
                self.flush(event, now, JobResult::without_process("process_run_error"), cx, out)
            }
        }
    }

    fn process_spec(&self, cx: &JobContext<'_>) -> Result<ProcessSpec, String> {
        let config = &cx.config.job;
        let Files::Ready(files) = &self.files else { return Err("the job's files were not written".to_owned()) };
        let edited = edit(&self.start.job.env, config);
        let env = child_env(EnvInputs {
            config: cx.config,
            job: &self.start.job,
            edited: &edited.env,
            session: &self.start.session,
            tracing: self.start.tracing.as_ref(),
            files,
        });
        // job-runner §3.1: what cannot be handed to a process makes the spawn fail, visibly.
        let nul = |text: &str| text.contains('\0');
        if let Some((name, _)) = env.0.iter().find(|(name, value)| nul(name) || value.as_deref().is_some_and(nul)) {
            let what = if config.pty { "pty" } else { "command" };
            return Err(format!("error starting {what}: variable {name:?} contains a NUL byte"));
        }
        Ok(ProcessSpec { job: self.start.owner, argv: words(config)?, env, dir: config.build_path.clone(), pty: config.pty, raw: config.pty_raw })
    }
}

/// Program and arguments of the bootstrap script (job-runner §5.2).
fn words(config: &JobConfig) -> Result<Vec<String>, String> {
    match shlex::split(&config.bootstrap_script) {
        None => Err(format!("splitting bootstrap-script ({:?}) into words: unmatched quote", config.bootstrap_script)),
        Some(words) if words.is_empty() => Err(format!("bootstrap-script ({:?}) has no words", config.bootstrap_script)),
        Some(words) => Ok(words),
    }
}

/// Validated while preparing: a job does not come here with another word.
fn behavior(cx: &JobContext<'_>) -> FailureBehavior {
    FailureBehavior::parse(&cx.config.job.verification_failure_behavior).unwrap_or(FailureBehavior::Block)
}
