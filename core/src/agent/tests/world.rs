//! The scripted world: answers calls by rules, runs streams and processes, and keeps the order of §0.2 (what arrives at an
//! instant is delivered before the timers of that instant).

use super::*;
use crate::api::{
    AcceptedJob, GrpcCode, Operation, Outcome, PingReply, RegisterRequest, Registered, Reply, StatusError, StreamEnd, StreamMessage, TransportError,
    TransportKind,
};
use crate::job::{JobConfig, JobFiles};
use crate::machine::{Instant, Machine, Owner, RequestId, Transition};
use crate::process::{ExitStatus, ProcessEvent};
use crate::secret::Secret;
use crate::wall::WallClock;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

pub(super) fn secs(s: f64) -> Instant {
    Instant::from_nanos((s * 1e9).round() as u64)
}

pub(super) fn dur(s: f64) -> Duration {
    Duration::from_secs_f64(s)
}

pub(super) fn t(at: Instant) -> f64 {
    (at.as_nanos() as f64 / 1e6).round() / 1e3
}

pub(super) fn config() -> AgentConfig {
    AgentConfig {
        spawn: 1,
        name: "box-%spawn".into(),
        priority: Priority::Static(String::new()),
        token: Secret::new("registration"),
        endpoint: "http://plane/v3".into(),
        request_headers: Vec::new(),
        register: RegisterRequest::default(),
        ping_mode: PingMode::PollOnly,
        acquire_job: None,
        reflect_exit_status: false,
        disconnect_after_job: false,
        disconnect_after_idle: None,
        disconnect_after_uptime: None,
        cancel_signal_timeout: Duration::from_secs(10),
        cancel_cleanup_timeout: Duration::from_secs(5),
        kubernetes_exec: false,
        watchdog: None,
        otlp: None,
        cancel_signal: OsSignal::Term,
        job: JobConfig { bootstrap_script: "true".into(), build_path: "/builds".into(), ..JobConfig::default() },
    }
}

pub(super) fn registered(n: u32) -> Registered {
    Registered {
        id: format!("uuid-{n}").into(),
        name: format!("agent-{n}").into(),
        access_token: Secret::new("session"),
        endpoint: String::new(),
        request_headers: None,
        ping_interval: Duration::from_secs(10),
        job_status_interval: Duration::from_secs(1),
        heartbeat_interval: Duration::from_secs(60),
        meta_data: vec!["queue=default".into()],
        tracing: None,
    }
}

pub(super) fn status(code: u16) -> Outcome {
    let status_text = match code {
        401 => "401 Unauthorized".to_owned(),
        422 => "422 Unprocessable Entity".to_owned(),
        423 => "423 Locked".to_owned(),
        500 => "500 Internal Server Error".to_owned(),
        code => code.to_string(),
    };
    let text = format!("CALL http://plane/v3: {status_text}");
    Outcome::Status(Box::new(StatusError { status: code, status_text, retry_after: None, text }))
}

pub(super) fn retry_after(code: u16, seconds: u64) -> Outcome {
    match status(code) {
        Outcome::Status(e) => Outcome::Status(Box::new(StatusError { retry_after: Some(Duration::from_secs(seconds)), ..*e })),
        other => other,
    }
}

pub(super) fn reset() -> Outcome {
    Outcome::Transport(Box::new(TransportError { kind: TransportKind::Reset, text: "CALL http://plane/v3: connection reset".into() }))
}

pub(super) fn ping(action: &str) -> Outcome {
    Outcome::Ok(Reply::Ping(Box::new(PingReply { action: action.into(), ..PingReply::default() })))
}

pub(super) fn ping_job(id: &str) -> Outcome {
    Outcome::Ok(Reply::Ping(Box::new(PingReply { job: Some(id.into()), ..PingReply::default() })))
}

pub(super) fn ok() -> Outcome {
    Outcome::Ok(Reply::Empty)
}

pub(super) fn failure(code: GrpcCode) -> StreamEnd {
    StreamEnd::Code { code, text: "stream broke".into() }
}

/// How a call is answered.
pub(super) enum Answer {
    Now(Outcome),
    After(f64, Outcome),
    /// At this very instant.
    At(f64, Outcome),
    Never,
}

/// What a stream says, and when after its opening.
pub(super) enum Say {
    M(StreamMessage),
    End(StreamEnd),
}

type Rule = Box<dyn FnMut(u32, f64) -> Answer>;
type StreamRule = Box<dyn FnMut(u32, f64) -> Vec<(f64, Say)>>;

/// How the job's process behaves: it runs for some seconds, exits with a code, and ends on the interrupt signal if it is polite.
#[derive(Clone, Copy, Debug)]
struct Behaviour {
    runs: f64,
    code: i32,
    polite: bool,
}

/// An agent and what surrounds it.
pub(super) struct World {
    pub(super) agent: Agent,
    pub(super) now: Instant,
    inbox: BTreeMap<(Instant, u64), AgentEvent>,
    serial: u64,
    pub(super) trace: Vec<(Instant, AgentCommand)>,
    rules: BTreeMap<&'static str, Rule>,
    counts: BTreeMap<&'static str, u32>,
    streams: StreamRule,
    behaviour: Behaviour,
    pub(super) open_stream: BTreeMap<u32, RequestId>,
    outstanding: BTreeSet<RequestId>,
    exited: BTreeSet<RequestId>,
    hooks: BTreeMap<&'static str, (f64, HookEnd)>,
}

pub(super) fn operation_name(operation: &Operation) -> &'static str {
    match operation {
        Operation::Register(_) => "register",
        Operation::Connect => "connect",
        Operation::Disconnect => "disconnect",
        Operation::Heartbeat { .. } => "heartbeat",
        Operation::Ping => "ping",
        Operation::Accept { .. } => "accept",
        Operation::Acquire { .. } => "acquire",
        Operation::Start { .. } => "start",
        Operation::JobState { .. } => "state",
        Operation::Chunk { .. } => "chunk",
        Operation::HeaderTimes { .. } => "header-times",
        Operation::Finish { .. } => "finish",
        Operation::Json(_) => "json",
    }
}

impl World {
    /// A world in which everything is answered at once and well, pings say idle, streams say resume.
    pub(super) fn new(config: AgentConfig) -> World {
        World::seeded(config, 1)
    }

    pub(super) fn seeded(config: AgentConfig, seed: u8) -> World {
        let agent = Agent::new(Arc::new(config), WallClock::default(), [seed; 32]);
        let mut world = World {
            agent,
            now: Instant::ZERO,
            inbox: BTreeMap::new(),
            serial: 0,
            trace: Vec::new(),
            rules: BTreeMap::new(),
            counts: BTreeMap::new(),
            streams: Box::new(|_, _| vec![(0.0, Say::M(StreamMessage::Resume))]),
            behaviour: Behaviour { runs: 10.0, code: 0, polite: true },
            open_stream: BTreeMap::new(),
            outstanding: BTreeSet::new(),
            exited: BTreeSet::new(),
            hooks: BTreeMap::new(),
        };
        world.at(0.0, AgentEvent::Begin);
        world
    }

    /// Answers every call of this kind by a rule that is told its number (from 1) and the time.
    pub(super) fn on(mut self, operation: &'static str, rule: impl FnMut(u32, f64) -> Answer + 'static) -> World {
        self.rules.insert(operation, Box::new(rule));
        self
    }

    /// What streams say.
    pub(super) fn streams(mut self, rule: impl FnMut(u32, f64) -> Vec<(f64, Say)> + 'static) -> World {
        self.streams = Box::new(rule);
        self
    }

    pub(super) fn hook(mut self, name: &'static str, runs: f64, end: HookEnd) -> World {
        self.hooks.insert(name, (runs, end));
        self
    }

    pub(super) fn job(mut self, runs: f64, code: i32, polite: bool) -> World {
        self.behaviour = Behaviour { runs, code, polite };
        self
    }

    /// Schedules an event.
    pub(super) fn at(&mut self, when: f64, event: AgentEvent) {
        self.push(secs(when), event);
    }

    pub(super) fn signal(mut self, when: f64, signal: OsSignal) -> World {
        self.at(when, AgentEvent::Signal(signal));
        self
    }

    fn push(&mut self, when: Instant, event: AgentEvent) {
        self.serial += 1;
        self.inbox.insert((when.max(self.now), self.serial), event);
    }

    fn drop_answers(&mut self, id: RequestId) {
        self.inbox.retain(|_, event| {
            !matches!(event, AgentEvent::Completed { id: i, .. } | AgentEvent::StreamMessage { id: i, .. } | AgentEvent::StreamEnded { id: i, .. } if *i == id)
        });
    }

    /// Lets time pass, the given instant included.
    pub(super) fn run(mut self, until: f64) -> World {
        self.run_on(until);
        self
    }

    pub(super) fn run_on(&mut self, until: f64) {
        let until = secs(until);
        for _ in 0..200_000 {
            let event = self.inbox.first_key_value().map(|((at, _), _)| *at);
            let timer = self.agent.deadline();
            let next = match (event, timer) {
                (None, None) => return,
                (Some(a), None) | (None, Some(a)) => a,
                (Some(a), Some(b)) => a.min(b),
            };
            if next > until || self.agent.is_dead() {
                self.now = self.now.max(until);
                return;
            }
            self.now = self.now.max(next);
            let mut out = Vec::new();
            if event.is_some_and(|at| at <= self.now) {
                let Some((_, event)) = self.inbox.pop_first() else { return };
                self.completed(&event);
                self.agent.handle(self.now, event, &mut out);
            } else {
                self.agent.expire(self.now, &mut out);
            }
            for command in out {
                if let AgentCommand::Transition(t) = &command {
                    crate::testing::transitions::made(t);
                }
                self.execute(&command);
                self.trace.push((self.now, command));
            }
        }
        panic!("the world never comes to rest: {:?}", self.tail());
    }

    fn completed(&mut self, event: &AgentEvent) {
        match event {
            AgentEvent::Completed { id, .. } => assert!(self.outstanding.remove(id), "{id:?} was completed twice"),
            AgentEvent::StreamEnded { id, .. } => {
                assert!(self.outstanding.remove(id), "{id:?} ended twice");
                self.open_stream.retain(|_, open| open != id);
            }
            _ => {}
        }
    }

    fn execute(&mut self, command: &AgentCommand) {
        let now = self.now;
        match command {
            AgentCommand::Call { id, call } => {
                assert!(self.outstanding.insert(*id), "{id:?} was started twice");
                let name = operation_name(&call.operation);
                let n = self.counts.entry(name).and_modify(|n| *n += 1).or_insert(1);
                let answer = match self.rules.get_mut(name) {
                    Some(rule) => rule(*n, now.as_nanos() as f64 / 1e9),
                    None => Answer::Now(match &call.operation {
                        Operation::Register(_) => Outcome::Ok(Reply::Registered(Box::new(registered(id.serial)))),
                        Operation::Ping => ping("idle"),
                        Operation::Accept { job } | Operation::Acquire { job, .. } => {
                            Outcome::Ok(Reply::Job(Box::new(AcceptedJob { id: job.clone(), ..AcceptedJob::default() })))
                        }
                        Operation::JobState { .. } => Outcome::Ok(Reply::State("running".into())),
                        _ => ok(),
                    }),
                };
                // A rule that says "ok" for a call whose answer carries something gets the ordinary answer.
                let fix = |outcome: Outcome| match (&call.operation, outcome) {
                    (Operation::Register(_), Outcome::Ok(Reply::Empty)) => Outcome::Ok(Reply::Registered(Box::new(registered(id.serial)))),
                    (Operation::Accept { job } | Operation::Acquire { job, .. }, Outcome::Ok(Reply::Empty)) => {
                        Outcome::Ok(Reply::Job(Box::new(AcceptedJob { id: job.clone(), ..AcceptedJob::default() })))
                    }
                    (_, outcome) => outcome,
                };
                match answer {
                    Answer::Now(outcome) => self.push(now, AgentEvent::Completed { id: *id, outcome: fix(outcome) }),
                    Answer::After(delay, outcome) => self.push(now + dur(delay), AgentEvent::Completed { id: *id, outcome: fix(outcome) }),
                    Answer::At(at, outcome) => self.push(secs(at), AgentEvent::Completed { id: *id, outcome: fix(outcome) }),
                    Answer::Never => {}
                }
            }
            AgentCommand::AbortCall { id } if self.outstanding.contains(id) => {
                self.drop_answers(*id);
                self.push(now, AgentEvent::Completed { id: *id, outcome: Outcome::Aborted });
            }
            AgentCommand::OpenStream { id, .. } => {
                assert!(self.outstanding.insert(*id), "{id:?} was started twice");
                if let Owner::Worker(w) = id.owner {
                    self.open_stream.insert(w, *id);
                }
                let n = self.counts.entry("stream").and_modify(|n| *n += 1).or_insert(1);
                let script = (self.streams)(*n, t(now));
                let mut ends = false;
                for (after, say) in script {
                    let event = match say {
                        Say::M(message) => AgentEvent::StreamMessage { id: *id, message },
                        Say::End(end) => {
                            ends = true;
                            AgentEvent::StreamEnded { id: *id, end }
                        }
                    };
                    self.push(now + dur(after), event);
                }
                if !ends {
                    self.push(now + dur(60.0), AgentEvent::StreamEnded { id: *id, end: failure(GrpcCode::DeadlineExceeded) });
                }
            }
            AgentCommand::CloseStream { id } => {
                self.drop_answers(*id);
                self.push(now, AgentEvent::StreamEnded { id: *id, end: StreamEnd::Closed });
            }
            AgentCommand::WriteJobFiles { id, .. } => {
                self.push(now, AgentEvent::JobFilesWritten { id: *id, result: Ok(Box::new(JobFiles::default())) });
            }
            AgentCommand::RemoveJobFiles { id, .. } => self.push(now, AgentEvent::JobFilesRemoved { id: *id, own_status: false }),
            AgentCommand::RunHook { id, hook } => {
                let (after, end) = self.hooks.get(hook.name).cloned().unwrap_or((0.0, HookEnd::Missing));
                self.push(now + dur(after), AgentEvent::HookEnded { id: *id, end });
            }
            AgentCommand::Spawn { id, .. } => {
                self.push(now, AgentEvent::Process { id: *id, event: ProcessEvent::Started { pid: 7 } });
                self.exit(*id, now + dur(self.behaviour.runs), ExitStatus::Code(self.behaviour.code));
            }
            AgentCommand::Signal { id, signal, .. } if (*signal == OsSignal::Kill || self.behaviour.polite) && !self.exited.contains(id) => {
                self.inbox.retain(|_, event| {
                    !matches!(event, AgentEvent::Process { id: i, event: ProcessEvent::Exited(_) | ProcessEvent::OutputEnded { .. } } if i == id)
                });
                let number = if *signal == OsSignal::Kill { 9 } else { 15 };
                self.exit(*id, now, ExitStatus::Signal(number));
                self.exited.insert(*id);
            }
            AgentCommand::QueryGroup { id } => self.push(now, AgentEvent::Process { id: *id, event: ProcessEvent::Group { alive: false } }),
            AgentCommand::LogFlush { job, .. } => {
                self.push(now, AgentEvent::LogDrained { job: *job, failed: 0, uploaded_bytes: 0 });
            }
            _ => {}
        }
    }

    fn exit(&mut self, id: RequestId, at: Instant, status: ExitStatus) {
        self.push(at, AgentEvent::Process { id, event: ProcessEvent::Exited(status) });
        self.push(at, AgentEvent::Process { id, event: ProcessEvent::OutputEnded { cut: false } });
    }

    // What was seen.

    /// Calls in order: time, worker (0: the agent itself), operation.
    pub(super) fn calls(&self) -> Vec<(f64, u32, &'static str)> {
        let all = self.trace.iter().filter_map(|(at, command)| {
            let (id, name) = match command {
                AgentCommand::Call { id, call } => (id, operation_name(&call.operation)),
                AgentCommand::OpenStream { id, .. } => (id, "stream"),
                _ => return None,
            };
            let worker = match id.owner {
                Owner::Worker(worker) | Owner::Job { worker, .. } => worker,
                _ => 0,
            };
            Some((t(*at), worker, name))
        });
        all.collect()
    }

    /// Times at which calls of this kind were sent.
    pub(super) fn times(&self, operation: &str) -> Vec<f64> {
        self.calls().iter().filter(|(_, _, name)| *name == operation).map(|(at, _, _)| *at).collect()
    }

    /// Lines of the log at or above notice, without their time.
    pub(super) fn lines(&self) -> Vec<String> {
        let all = self.trace.iter().filter_map(|(_, command)| match command {
            AgentCommand::Log(line) if line.level > Level::Notice => Some(line.text.clone()),
            _ => None,
        });
        all.collect()
    }

    pub(super) fn logged(&self, part: &str) -> usize {
        self.lines().iter().filter(|line| line.contains(part)).count()
    }

    /// Lines of a level.
    pub(super) fn level(&self, level: Level) -> Vec<String> {
        let all = self.trace.iter().filter_map(|(_, command)| match command {
            AgentCommand::Log(line) if line.level == level => Some(line.text.clone()),
            _ => None,
        });
        all.collect()
    }

    pub(super) fn metrics(&self, of: impl Fn(&Metric) -> bool) -> usize {
        self.trace.iter().filter(|(_, command)| matches!(command, AgentCommand::Metric(m) if of(m))).count()
    }

    pub(super) fn count(&self, of: impl Fn(&AgentCommand) -> bool) -> usize {
        self.trace.iter().filter(|(_, command)| of(command)).count()
    }

    pub(super) fn signals_sent(&self) -> Vec<(f64, OsSignal)> {
        let all = self.trace.iter().filter_map(|(at, command)| match command {
            AgentCommand::Signal { signal, .. } => Some((t(*at), *signal)),
            _ => None,
        });
        all.collect()
    }

    pub(super) fn finishes(&self) -> Vec<crate::api::FinishRequest> {
        let all = self.trace.iter().filter_map(|(_, command)| match command {
            AgentCommand::Call { call, .. } => match &call.operation {
                Operation::Finish { body, .. } => Some((**body).clone()),
                _ => None,
            },
            _ => None,
        });
        all.collect()
    }

    /// Time, code and message of the end.
    pub(super) fn exit_seen(&self) -> Option<(f64, u8, Option<String>)> {
        self.trace.iter().find_map(|(at, command)| match command {
            AgentCommand::Exit(exit) => Some((t(*at), exit.code, exit.message.clone())),
            _ => None,
        })
    }

    #[track_caller]
    pub(super) fn exits(&self, code: u8) -> f64 {
        let Some((at, got, message)) = self.exit_seen() else { panic!("the process has not ended\n{}", self.tail()) };
        assert_eq!(got, code, "exit code; message {message:?}\n{}", self.tail());
        at
    }

    pub(super) fn transitions(&self) -> Vec<Transition> {
        let all = self.trace.iter().filter_map(|(_, command)| match command {
            AgentCommand::Transition(transition) => Some(*transition),
            _ => None,
        });
        all.collect()
    }

    /// The trace as text, for failures and for reading.
    pub(super) fn tail(&self) -> String {
        let all = self.trace.iter().filter_map(|(at, command)| {
            let text = match command {
                AgentCommand::Log(line) => format!("{:?} {}", line.level, line.text),
                AgentCommand::Call { id, call } => format!("{:?} -> {}", id.owner, operation_name(&call.operation)),
                AgentCommand::Transition(s) => format!("    {} {} --{}--> {}", s.machine, s.from, s.event, s.to),
                AgentCommand::Metric(_) | AgentCommand::Health(_) => return None,
                other => format!("{other:?}"),
            };
            Some(format!("{:9.3} {text}", t(*at)))
        });
        let all: Vec<String> = all.collect();
        all[all.len().saturating_sub(120)..].join("\n")
    }
}
