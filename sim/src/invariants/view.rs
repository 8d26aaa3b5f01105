//! The trace by call, by job and by worker: what the properties have in common.

mod job;

pub use job::{Call, Cause, Job, Round};

use crate::schedule::{Flaw, Hooks, Signatures, Source, Timestamps};
use crate::trace::{Credential, Entry, Fact, Got, JobId, Op, Payload, Said, Trace};
use ibex_core::agent::OsSignal;
use ibex_core::machine::{Instant, Owner, Transition};
use std::collections::BTreeMap;
use std::time::Duration;

/// What a run was set up with, as far as properties depend on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setup {
    /// Workers of the process.
    pub workers: u32,
    /// P.
    pub ping: Duration,
    /// Q.
    pub job_state: Duration,
    /// H.
    pub heartbeat: Duration,
    /// S.
    pub signal_timeout: Duration,
    /// C.
    pub cleanup_timeout: Duration,
    /// M.
    pub chunk_bytes: u64,
    /// How times of lines are told.
    pub timestamps: Timestamps,
    /// Where work comes from.
    pub source: Source,
    /// Acquire mode.
    pub acquire: bool,
    /// The agent's own hooks.
    pub hooks: Hooks,
    /// What the verifier says.
    pub signatures: Signatures,
    /// What is wrong with the configuration.
    pub flaw: Flaw,
    /// disconnect-after-uptime.
    pub uptime: Option<Duration>,
    /// disconnect-after-job.
    pub one_shot: bool,
    /// disconnect-after-idle-timeout.
    pub idle: Option<Duration>,
    /// What an abort may take until the aborted exchange is gone.
    pub abort: Duration,
    /// The log's buffer is as small as it may be.
    pub tight_memory: bool,
    /// The workload brings at least one job, and somebody should run it.
    pub expect_jobs: bool,
}

impl Default for Setup {
    fn default() -> Setup {
        Setup {
            workers: 1,
            ping: Duration::from_secs(2),
            job_state: Duration::from_secs(1),
            heartbeat: Duration::from_secs(10),
            signal_timeout: Duration::from_secs(10),
            cleanup_timeout: Duration::from_secs(5),
            chunk_bytes: 4096,
            timestamps: Timestamps::Ansi,
            source: Source::Poll,
            acquire: false,
            hooks: Hooks::default(),
            signatures: Signatures::Off,
            flaw: Flaw::None,
            uptime: None,
            one_shot: false,
            idle: None,
            abort: Duration::ZERO,
            tight_memory: false,
            expect_jobs: false,
        }
    }
}

/// Clocks of two hosts may differ by a tick, and a reaction may take one.
pub const SLACK: Duration = Duration::from_millis(100);

/// The trace, indexed.
pub struct View<'a> {
    /// The setup of the run.
    pub setup: &'a Setup,
    /// The entries.
    pub entries: &'a [Entry],
    /// Exchanges by number.
    pub calls: BTreeMap<u64, Call<'a>>,
    /// Jobs by id.
    pub jobs: BTreeMap<JobId, Job<'a>>,
    /// Signals the agent got.
    pub signals: Vec<(usize, Instant, OsSignal)>,
    /// The agent's end: position, time, code.
    pub exit: Option<(usize, Instant, u8)>,
    /// End of all faults.
    pub faults_over: Option<Instant>,
}

impl<'a> View<'a> {
    /// Indexes a trace.
    pub fn new(setup: &'a Setup, trace: &'a Trace) -> View<'a> {
        let mut v = View {
            setup,
            entries: &trace.entries,
            calls: BTreeMap::new(),
            jobs: BTreeMap::new(),
            signals: Vec::new(),
            exit: None,
            faults_over: None,
        };
        for (i, e) in trace.entries.iter().enumerate() {
            match &e.fact {
                Fact::Sent(r) => {
                    v.calls.insert(r.call, Call { sent: i, sent_at: e.at, request: r, returned: None });
                }
                Fact::Returned { call, got } => {
                    if let Some(c) = v.calls.get_mut(call) {
                        c.returned = Some((i, e.at, got));
                    }
                }
                Fact::AgentSignal(s) => v.signals.push((i, e.at, *s)),
                Fact::AgentExit { code, .. } => v.exit = Some((i, e.at, *code)),
                Fact::FaultsOver => v.faults_over = Some(e.at),
                _ => {}
            }
        }
        v.index_jobs();
        v
    }

    fn index_jobs(&mut self) {
        let mut pids: BTreeMap<u32, JobId> = BTreeMap::new();
        let mut jobs: BTreeMap<JobId, Job<'a>> = BTreeMap::new();
        for c in self.calls.values() {
            let Some(id) = &c.request.job else { continue };
            let job = jobs.entry(id.clone()).or_default();
            match c.request.op {
                Op::Accept | Op::Acquire => {
                    job.accepts.push(*c);
                    if let (true, Some((i, at, _)), Credential::Worker(worker)) = (c.ok(), c.returned, &c.request.credential) {
                        job.rounds.push(Round { worker: *worker, accepted: (i, at), started: false, over: None });
                    }
                }
                Op::Start => {
                    job.starts.push(*c);
                    if let (true, None, Some((i, at, _))) = (c.ok(), job.started, c.returned) {
                        job.started = Some((i, at));
                    }
                }
                Op::JobState => {
                    job.polls.push(*c);
                    let cause = match c.returned {
                        Some((_, _, Got::Answer { status: 200..=299, said: Said::State(s), .. })) => match s.as_str() {
                            "canceling" | "canceled" => Some(Cause::Cancel),
                            "timing_out" | "timed_out" => Some(Cause::Timeout),
                            _ => None,
                        },
                        Some((_, _, Got::Answer { status: 401, .. })) => Some(Cause::Cancel),
                        _ => None,
                    };
                    if let (Some(cause), Some((i, at, _))) = (cause, c.returned) {
                        job.causes.push((i, at, cause));
                    }
                }
                Op::Chunk => job.chunks.push(*c),
                Op::HeaderTimes => job.header_times.push(*c),
                Op::Finish => job.finishes.push(*c),
                _ => {}
            }
        }
        for (i, e) in self.entries.iter().enumerate() {
            let by_pid = |pid: &u32| pids.get(pid).cloned();
            match &e.fact {
                Fact::SpawnAsked { job, .. } => jobs.entry(job.clone()).or_default().spawns.push((i, e.at)),
                Fact::Spawned { pid, job, .. } => {
                    pids.insert(*pid, job.clone());
                    let j = jobs.entry(job.clone()).or_default();
                    j.pid = Some(*pid);
                    j.spawned = Some((i, e.at));
                }
                Fact::SpawnFailed { job } => jobs.entry(job.clone()).or_default().spawn_failed = true,
                Fact::FilesFailed { job } => jobs.entry(job.clone()).or_default().files_failed = true,
                Fact::HookOver { job: Some(job), ok: false, .. } => jobs.entry(job.clone()).or_default().hook_refused = Some((i, e.at)),
                Fact::Verified { job, text } if *text != "valid" => jobs.entry(job.clone()).or_default().bad_signature = Some(i),
                Fact::FilesWritten { job, .. } => jobs.entry(job.clone()).or_default().files_written = Some(i),
                Fact::FilesRemoved { job } => jobs.entry(job.clone()).or_default().files_removed = Some(i),
                Fact::Marker { job } => jobs.entry(job.clone()).or_default().marker = Some(i),
                Fact::Signalled { pid, signal, .. } => {
                    if let Some(j) = by_pid(pid).and_then(|id| jobs.get_mut(&id)) {
                        j.signals.push((i, e.at, *signal));
                    }
                }
                Fact::Reaped { pid, status } => {
                    if let Some(j) = by_pid(pid).and_then(|id| jobs.get_mut(&id)) {
                        j.reaped = Some((i, e.at, *status));
                    }
                }
                Fact::OutputOver { pid, cut } => {
                    if let Some(j) = by_pid(pid).and_then(|id| jobs.get_mut(&id)) {
                        j.output_over = Some((i, *cut));
                    }
                }
                Fact::Read { pid, data } => {
                    if let Some(j) = by_pid(pid).and_then(|id| jobs.get_mut(&id)) {
                        j.read.extend_from_slice(data);
                    }
                }
                Fact::Printed { pid, len } => {
                    if let Some(j) = by_pid(pid).and_then(|id| jobs.get_mut(&id)) {
                        j.printed += len;
                    }
                }
                Fact::Members { pid, alive } => {
                    if let Some(j) = by_pid(pid).and_then(|id| jobs.get_mut(&id)) {
                        j.members.push((i, *alive));
                    }
                }
                _ => {}
            }
        }
        for job in jobs.values_mut() {
            job.rounds.sort_by_key(|r| r.accepted.0);
            job.accepted = job.rounds.first().map(|r| r.accepted);
            job.close_rounds();
            if let Some((i, at)) = job.worker.and_then(|w| self.forced_stop(w)) {
                job.causes.push((i, at, Cause::AgentStop));
            }
            job.causes.sort();
        }
        self.jobs = jobs;
    }

    /// The calls of one worker with its session token.
    pub fn of_worker(&self, worker: u32, op: Op) -> Vec<&Call<'a>> {
        self.calls.values().filter(|c| c.request.op == op && c.request.credential == Credential::Worker(worker)).collect()
    }

    /// Where the worker's connect succeeded.
    pub fn connected(&self, worker: u32) -> Option<(usize, Instant)> {
        self.of_worker(worker, Op::Connect).iter().find(|c| c.ok()).and_then(|c| c.returned).map(|(i, at, _)| (i, at))
    }

    /// Steps that a machine of the worker made.
    pub fn steps<'s>(&'s self, worker: u32, machine: &'s str) -> impl Iterator<Item = (usize, &'a Transition)> + 's {
        self.entries.iter().enumerate().filter_map(move |(i, e)| match &e.fact {
            Fact::Transition(t) if t.owner == Owner::Worker(worker) && t.machine == machine => Some((i, t)),
            _ => None,
        })
    }

    /// Where the worker began to serve: it was connected, and an acquired job is over.
    pub fn serving(&self, worker: u32) -> Option<(usize, Instant)> {
        let connected = self.connected(worker)?;
        if !self.setup.acquire {
            return Some(connected);
        }
        let over = self.jobs.values().flat_map(|j| &j.rounds).filter(|r| r.worker == worker).find_map(|r| r.over)?;
        Some((over, self.entries[over].at))
    }

    /// When the worker left, was told to, or was not watched any longer: nothing can be expected of it from here on.
    pub fn leaves(&self, worker: u32) -> Instant {
        let end = self.entries.last().map_or(Instant::ZERO, |e| e.at);
        [self.stop(worker).map(|(_, at)| at), self.of_worker(worker, Op::Disconnect).first().map(|c| c.sent_at), self.exit.map(|(_, at, _)| at)]
            .into_iter()
            .flatten()
            .min()
            .unwrap_or(end)
    }

    /// The first forced stop of the process: second TERM or INT, or QUIT.
    pub fn forced_by_signal(&self) -> Option<(usize, Instant)> {
        let mut count = 0;
        self.signals.iter().find_map(|&(i, at, s)| {
            match s {
                OsSignal::Term | OsSignal::Int => count += 1,
                OsSignal::Quit => return Some((i, at)),
                _ => {}
            }
            (count == 2).then_some((i, at))
        })
    }

    /// The third TERM or INT.
    pub fn third_signal(&self) -> Option<(usize, Instant)> {
        self.signals.iter().filter(|(_, _, s)| matches!(s, OsSignal::Term | OsSignal::Int)).nth(2).map(|&(i, at, _)| (i, at))
    }

    /// The first stop signal of any kind.
    pub fn first_stop_signal(&self) -> Option<(usize, Instant)> {
        self.signals.iter().find(|(_, _, s)| matches!(s, OsSignal::Term | OsSignal::Int | OsSignal::Quit)).map(|&(i, at, _)| (i, at))
    }

    /// Where handlers were installed (S16): the pool was started, or the shutdown hook after a startup hook that failed.
    pub fn handlers(&self) -> Option<(usize, Instant)> {
        let step = self.entries.iter().position(|e| match &e.fact {
            Fact::Transition(t) => t.machine == "agent" && t.from == "StartupHook" && matches!(t.to, "Pool" | "ShutdownHook"),
            Fact::Sent(r) => r.op == Op::Connect,
            _ => false,
        })?;
        Some((step, self.entries[step].at))
    }

    /// The first signal before that; SIGHUP counts (start-and-worker §1). In the instant of it either may come first.
    pub fn signal_before_handlers(&self) -> Option<(usize, Instant)> {
        let handlers = self.handlers();
        self.signals.first().map(|&(i, at, _)| (i, at)).filter(|(_, at)| handlers.is_none_or(|(_, from)| *at < from))
    }

    /// A rejected heartbeat of the worker.
    pub fn heartbeat_rejected(&self, worker: u32) -> Option<(usize, Instant)> {
        self.of_worker(worker, Op::Heartbeat).iter().find(|c| c.rejected()).and_then(|c| c.returned).map(|(i, at, _)| (i, at))
    }

    /// First forced stop of the worker, whatever the cause.
    pub fn forced_stop(&self, worker: u32) -> Option<(usize, Instant)> {
        [self.forced_by_signal(), self.heartbeat_rejected(worker)].into_iter().flatten().min()
    }

    /// First stop of the worker, graceful or forced: signals, rejected heartbeat, `disconnect` in a ping.
    pub fn stop(&self, worker: u32) -> Option<(usize, Instant)> {
        let told = self.of_worker(worker, Op::Ping).iter().find_map(|c| match c.returned {
            Some((i, at, Got::Answer { status: 200..=299, said: Said::Ping { action, .. }, .. })) if action == "disconnect" => Some((i, at)),
            _ => None,
        });
        let streamed = self.streamed(worker, "disconnect").next();
        [self.first_stop_signal(), self.heartbeat_rejected(worker), told, streamed].into_iter().flatten().min()
    }

    /// Where the last ping source of the worker ended: polls by a rejection, streams by a final status (start-and-worker §9.7).
    pub fn sources_ended(&self, worker: u32) -> Option<usize> {
        let polls = self.steps(worker, "poll").find(|(_, t)| t.event == "rejected").map(|(i, _)| i);
        let streams = self.steps(worker, "stream").find(|(_, t)| t.event == "final code").map(|(i, _)| i);
        match self.setup.source {
            Source::Poll => {
                self.of_worker(worker, Op::Ping).iter().find(|c| c.rejected() && polls.is_some()).and_then(|c| c.returned).map(|(i, _, _)| i)
            }
            Source::Stream => streams,
            Source::Auto => Some(polls?.max(streams?)),
        }
    }

    /// Messages of this kind that streams of the worker brought.
    pub fn streamed<'s>(&'s self, worker: u32, kind: &'s str) -> impl Iterator<Item = (usize, Instant)> + 's {
        self.entries.iter().enumerate().filter_map(move |(i, e)| match &e.fact {
            Fact::Streamed { worker: w, kind: k, .. } if *w == worker && *k == kind => Some((i, e.at)),
            _ => None,
        })
    }

    /// The process ended by the force timer.
    pub fn by_force_timer(&self) -> bool {
        let force = self.setup.signal_timeout + self.setup.cleanup_timeout + Duration::from_secs(1);
        let (Some((_, exit, 1)), Some((_, at))) = (self.exit, self.forced_by_signal()) else { return false };
        exit.since(at) >= force
    }

    /// The process ended at once: third signal, or the force timer.
    pub fn ended_by_force(&self) -> bool {
        let Some((_, exit, _)) = self.exit else { return false };
        let third = self.third_signal().is_some();
        // In the instant of S16 a signal may still have been the end of it.
        let early = self.signals.first().is_some_and(|(_, at, _)| self.handlers().is_none_or(|(_, from)| *at < from || (*at == from && exit == *at)));
        third || self.by_force_timer() || early
    }

    /// A chunk of an attempt.
    pub fn chunk<'c>(call: &Call<'c>) -> Option<(u64, u64, u64, Option<&'c bytes::Bytes>)> {
        match &call.request.payload {
            Payload::Chunk { sequence, offset, size, data } => Some((*sequence, *offset, *size, data.as_ref())),
            _ => None,
        }
    }

    /// The number of the runner that an owner names.
    pub fn owner_worker(owner: Owner) -> Option<u32> {
        match owner {
            Owner::Worker(n) | Owner::Job { worker: n, .. } => Some(n),
            _ => None,
        }
    }
}
