//! Stories of one job, told against a scripted world and a simulated clock.

mod admission;
mod before;
mod cancel;
mod contract;
mod envfile;
mod environment;
mod report;
mod running;
mod stop;

use super::*;
use crate::agent::{AgentCommand, AgentConfig, AgentEvent, HookEnd, OsSignal, PingMode, Priority, SignatureVerdict};
use crate::api::{
    AcceptedJob, ApiCall, FinishRequest, JobEnv, Operation, Outcome, RegisterRequest, Reply, Session, StatusError, TransportError, TransportKind,
};
use crate::machine::{Instant, Owner, RequestId};
use crate::process::{ExitStatus, ProcessEvent, SignalTarget};
use crate::rng::Rng;
use crate::secret::Secret;
use crate::wall::{WallClock, WallTime};
use std::sync::Arc;
use std::time::Duration;

pub(super) const OWNER: Owner = Owner::Job { worker: 1, generation: 1 };
/// 2023-11-14T22:13:20Z
const BASE: i64 = 1_700_000_000_000_000_000;

pub(super) fn config() -> AgentConfig {
    AgentConfig {
        spawn: 1,
        name: "ibex-%spawn".into(),
        priority: Priority::Static(String::new()),
        token: Secret::new("registration"),
        endpoint: "https://api.test/v3".into(),
        request_headers: Vec::new(),
        register: RegisterRequest::default(),
        ping_mode: PingMode::PollOnly,
        kubernetes_exec: false,
        acquire_job: None,
        reflect_exit_status: false,
        disconnect_after_job: false,
        disconnect_after_idle: None,
        disconnect_after_uptime: None,
        cancel_signal_timeout: Duration::from_secs(10),
        cancel_cleanup_timeout: Duration::from_secs(5),
        watchdog: None,
        otlp: None,
        cancel_signal: OsSignal::Term,
        job: JobConfig {
            bootstrap_script: "'/opt/the agent/ibex' bootstrap".into(),
            build_path: "/builds".into(),
            pty: true,
            command_eval: true,
            plugins_enabled: true,
            ..JobConfig::default()
        },
    }
}

pub(super) fn job(env: &[(&str, &str)]) -> AcceptedJob {
    let mut vars = vec![("BUILDKITE_BUILD_URL", "https://ci.test/b/1"), ("BUILDKITE_JOB_ID", "j1"), ("BUILDKITE_REPO", "git@host:repo.git")];
    vars.extend_from_slice(env);
    AcceptedJob {
        id: "j1".into(),
        env: vars.into_iter().map(|(k, v)| (k.to_owned(), v.to_owned())).collect(),
        chunks_max_size_bytes: 1000,
        token: Secret::new("job-token"),
        ..AcceptedJob::default()
    }
}

/// How a job ends, as its report says it: status, signal, reason.
type Said = (String, String, String);

/// A runner in a scripted world. Commands collect in `out` until they are looked at.
#[derive(Clone)]
struct Bench {
    config: AgentConfig,
    clock: WallClock,
    now: Instant,
    runner: JobRunner,
    out: Vec<AgentCommand>,
    /// Everything that was ever commanded.
    trace: Vec<(Instant, AgentCommand)>,
    end: Option<JobEnd>,
}

impl Bench {
    fn start(job: AcceptedJob) -> JobStart {
        JobStart {
            owner: OWNER,
            worker: "ibex-1".into(),
            job,
            session: Session { endpoint: "https://api.test/v3".into(), credential: Secret::new("agent-token"), headers: Arc::default() },
            status_interval: Duration::from_secs(4),
            tracing: None,
            ignore_agent_in_dispatches: false,
            stopped: false,
            acquired: false,
        }
    }

    fn new(config: AgentConfig, start: JobStart) -> Bench {
        let clock = WallClock { base: WallTime::from_nanos(BASE), utc_offset_seconds: 0 };
        let (now, mut out) = (Instant::from_millis(1000), Vec::new());
        let cx = JobContext { config: &config, clock: &clock };
        let runner = JobRunner::begin(now, start, Rng::from_seed(7), &cx, &mut out);
        let mut bench = Bench { config, clock, now, runner, out, trace: Vec::new(), end: None };
        bench.record(0);
        bench
    }

    /// An ordinary job in an ordinary agent.
    fn plain() -> Bench {
        Bench::new(config(), Bench::start(job(&[])))
    }

    fn record(&mut self, from: usize) {
        for command in &self.out[from..] {
            if let AgentCommand::Transition(t) = command {
                crate::testing::transitions::made(t);
            }
        }
        self.trace.extend(self.out[from..].iter().map(|c| (self.now, c.clone())));
    }

    fn step(&mut self, f: impl FnOnce(&mut JobRunner, Instant, &JobContext<'_>, &mut Vec<AgentCommand>) -> Option<JobEnd>) -> &mut Bench {
        assert!(self.end.is_none(), "the job is over");
        let from = self.out.len();
        let cx = JobContext { config: &self.config, clock: &self.clock };
        self.end = f(&mut self.runner, self.now, &cx, &mut self.out);
        self.record(from);
        self
    }

    fn feed(&mut self, event: AgentEvent) -> &mut Bench {
        self.step(|runner, now, cx, out| runner.handle(now, event, cx, out))
    }

    fn stop(&mut self) -> &mut Bench {
        self.step(|runner, now, cx, out| runner.stop(now, cx, out))
    }

    fn cancel(&mut self, kind: CancelKind) -> &mut Bench {
        self.step(|runner, now, _, out| runner.cancel(now, kind, out))
    }

    /// Lets time pass, firing every timer on the way.
    fn pass(&mut self, time: Duration) -> &mut Bench {
        let until = self.now + time;
        while self.end.is_none()
            && let Some(at) = self.runner.deadline()
            && at <= until
        {
            self.now = self.now.max(at);
            self.step(|runner, now, cx, out| runner.expire(now, cx, out));
        }
        self.now = until;
        self
    }

    fn secs(&mut self, seconds: u64) -> &mut Bench {
        self.pass(Duration::from_secs(seconds))
    }

    /// The commands since the last look, transitions left out.
    fn take(&mut self) -> Vec<AgentCommand> {
        self.out.drain(..).filter(|c| !matches!(c, AgentCommand::Transition(_))).collect()
    }

    /// The newest id that a command of this kind carries.
    fn id(&self, pick: impl Fn(&AgentCommand) -> Option<RequestId>) -> RequestId {
        self.trace.iter().rev().find_map(|(_, c)| pick(c)).expect("such a command was given")
    }

    fn calls(&self, name: &str) -> Vec<(Instant, RequestId, ApiCall)> {
        let pick = |(at, c): &(Instant, AgentCommand)| match c {
            AgentCommand::Call { id, call } if operation(&call.operation) == name => Some((*at, *id, (**call).clone())),
            _ => None,
        };
        self.trace.iter().filter_map(pick).collect()
    }

    fn answer(&mut self, name: &str, outcome: Outcome) -> &mut Bench {
        let id = self.calls(name).last().unwrap_or_else(|| panic!("no {name} was sent")).1;
        self.feed(AgentEvent::Completed { id, outcome })
    }

    fn files(&mut self) -> &mut Bench {
        let id = self.id(|c| if let AgentCommand::WriteJobFiles { id, .. } = c { Some(*id) } else { None });
        let files = JobFiles {
            env_file: "/tmp/job-env-j1".into(),
            env_json_file: "/tmp/job-env-json-j1".into(),
            timeout_file: "/tmp/job-timeout-j1".into(),
            log_copy: self.config.job.job_log_tmpfile.then(|| "/tmp/buildkite_job_log1".into()),
        };
        self.feed(AgentEvent::JobFilesWritten { id, result: Ok(Box::new(files)) })
    }

    fn files_failed(&mut self, error: &str) -> &mut Bench {
        let id = self.id(|c| if let AgentCommand::WriteJobFiles { id, .. } = c { Some(*id) } else { None });
        self.feed(AgentEvent::JobFilesWritten { id, result: Err(error.to_owned()) })
    }

    fn started(&mut self) -> &mut Bench {
        self.answer("start", Outcome::Ok(Reply::Empty))
    }

    fn verified(&mut self, verdict: SignatureVerdict) -> &mut Bench {
        let id = self.id(|c| if let AgentCommand::VerifySignature { id, .. } = c { Some(*id) } else { None });
        self.feed(AgentEvent::Verified { id, verdict })
    }

    fn hook(&mut self, end: HookEnd) -> &mut Bench {
        let id = self.id(|c| if let AgentCommand::RunHook { id, .. } = c { Some(*id) } else { None });
        self.feed(AgentEvent::HookEnded { id, end })
    }

    fn process(&mut self, event: ProcessEvent) -> &mut Bench {
        let id = self.id(|c| if let AgentCommand::Spawn { id, .. } = c { Some(*id) } else { None });
        self.feed(AgentEvent::Process { id, event })
    }

    /// Up to a running process.
    fn running(&mut self) -> &mut Bench {
        self.files().started().process(ProcessEvent::Started { pid: 42 })
    }

    fn exited(&mut self, status: ExitStatus) -> &mut Bench {
        self.process(ProcessEvent::Exited(status))
    }

    fn eof(&mut self) -> &mut Bench {
        self.process(ProcessEvent::OutputEnded { cut: false })
    }

    fn group(&mut self, alive: bool) -> &mut Bench {
        self.process(ProcessEvent::Group { alive })
    }

    fn drained(&mut self, failed: u64) -> &mut Bench {
        self.feed(AgentEvent::LogDrained { job: OWNER, failed, uploaded_bytes: 0 })
    }

    fn removed(&mut self) -> &mut Bench {
        let id = self.id(|c| if let AgentCommand::RemoveJobFiles { id, .. } = c { Some(*id) } else { None });
        self.feed(AgentEvent::JobFilesRemoved { id, own_status: false })
    }

    /// From the flush to the end; hands back what finish said.
    fn report(&mut self) -> Said {
        // As the driver does with a call that was given up.
        if let Some(id) = self.runner.straggler {
            self.feed(AgentEvent::Completed { id, outcome: Outcome::Aborted });
        }
        self.drained(0);
        if self.count(|c| matches!(c, AgentCommand::RemoveJobFiles { .. })) == 1 {
            self.removed();
        }
        let body = self.finish();
        self.answer("finish", Outcome::Ok(Reply::Empty));
        assert!(self.end.is_some(), "a settled finish ends the job");
        (body.exit_status, body.signal, body.signal_reason)
    }

    fn finish(&self) -> FinishRequest {
        match &self.calls("finish").last().expect("a finish was sent").2.operation {
            Operation::Finish { body, .. } => (**body).clone(),
            _ => unreachable!(),
        }
    }

    fn count(&self, pick: impl Fn(&AgentCommand) -> bool) -> usize {
        self.trace.iter().filter(|(_, c)| pick(c)).count()
    }

    /// What the runner wrote into the job log.
    fn job_log(&self) -> String {
        let line = |c: &AgentCommand| match c {
            AgentCommand::LogLine { line, .. } => Some(String::from_utf8(line.to_vec()).unwrap()),
            _ => None,
        };
        self.trace.iter().filter_map(|(_, c)| line(c)).collect()
    }

    /// The lines of the agent's log.
    fn agent_log(&self) -> Vec<String> {
        self.trace.iter().filter_map(|(_, c)| if let AgentCommand::Log(line) = c { Some(line.text.clone()) } else { None }).collect()
    }

    fn logged(&self, text: &str) -> bool {
        self.agent_log().iter().any(|line| line == text)
    }

    /// Signals sent, with their moments.
    fn signals(&self) -> Vec<(u64, OsSignal, SignalTarget)> {
        let signal = |(at, c): &(Instant, AgentCommand)| match c {
            AgentCommand::Signal { signal, target, .. } => Some((at.as_nanos() / 1_000_000, *signal, *target)),
            _ => None,
        };
        self.trace.iter().filter_map(signal).collect()
    }

    fn state(&self) -> &'static str {
        self.runner.state.name()
    }

    fn spawned(&self) -> bool {
        self.count(|c| matches!(c, AgentCommand::Spawn { .. })) > 0
    }

    fn flush_limits(&self) -> Vec<Duration> {
        self.trace.iter().filter_map(|(_, c)| if let AgentCommand::LogFlush { limit, .. } = c { Some(*limit) } else { None }).collect()
    }
}

fn operation(operation: &Operation) -> &'static str {
    match operation {
        Operation::Start { .. } => "start",
        Operation::JobState { .. } => "state",
        Operation::Finish { .. } => "finish",
        _ => "other",
    }
}

fn status(status: u16) -> Outcome {
    let text = format!("PUT https://api.test/v3/x: {status}");
    Outcome::Status(Box::new(StatusError { status, status_text: status.to_string(), retry_after: None, text }))
}

fn timeout() -> Outcome {
    Outcome::Transport(Box::new(TransportError { kind: TransportKind::Timeout, text: "PUT https://api.test/v3/x: timed out".into() }))
}

fn state(state: &str) -> Outcome {
    Outcome::Ok(Reply::State(state.into()))
}

fn said(exit_status: &str, signal: &str, reason: &str) -> Said {
    (exit_status.to_owned(), signal.to_owned(), reason.to_owned())
}

fn env(pairs: &[(&str, &str)]) -> JobEnv {
    pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
}
