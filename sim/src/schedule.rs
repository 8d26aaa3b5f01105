//! A run as data: the settings, the jobs, and everything that goes wrong and when.

use crate::claims::Claim;
use crate::faults::{self, Kind, RequestFault, WorldFault};
use crate::invariants::view::Setup;
use crate::script::{OnSignal, Script};
use crate::trace::Op;
use ibex_core::agent::OsSignal;
use ibex_core::rng::Rng;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// Everything that a run depends on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Schedule {
    /// What it shows, for people.
    pub about: String,
    /// Seed of the machines, the network and the contents.
    pub seed: u64,
    /// Workers.
    pub workers: u32,
    /// P in seconds.
    pub ping_s: u64,
    /// Q in seconds.
    pub job_state_s: u64,
    /// H in seconds.
    pub heartbeat_s: u64,
    /// S in milliseconds.
    pub signal_timeout_ms: u64,
    /// C in milliseconds.
    pub cleanup_timeout_ms: u64,
    /// M.
    pub chunk_bytes: u64,
    /// Jobs run in a terminal.
    pub pty: bool,
    /// How times of lines are told.
    pub timestamps: Timestamps,
    /// Where work comes from.
    pub ping_mode: Source,
    /// The first job is acquired: it exists before the agent, and is not offered.
    pub acquire: bool,
    /// The agent's own hooks.
    pub hooks: Hooks,
    /// Verification keys, and what the verifier says.
    pub signatures: Signatures,
    /// Something about the configuration that is found wrong late.
    pub flaw: Flaw,
    /// The log's buffer is as small as it may be.
    pub tight_memory: bool,
    /// Exchanges that were given up complete late.
    pub late_aborts: bool,
    /// What writing or removing files takes, in milliseconds.
    pub disk_ms: u64,
    /// disconnect-after-uptime, in seconds; 0: none.
    pub uptime_s: u64,
    /// disconnect-after-job.
    pub one_shot: bool,
    /// disconnect-after-idle-timeout, in seconds; 0: none.
    pub idle_s: u64,
    /// Jobs.
    pub jobs: Vec<JobPlan>,
    /// Faults around single requests.
    pub requests: Vec<RequestPlan>,
    /// Faults and doings of the world.
    pub events: Vec<EventPlan>,
    /// What the run must show beyond the properties of every run.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub claims: Vec<Claim>,
    /// From here on nothing goes wrong any more.
    pub faults_over_ms: u64,
    /// How long after that the agent is told to stop.
    pub settle_ms: u64,
}

/// `ansi`, `lines` or `plain` (header-times).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Timestamps {
    /// An escape prefix at line starts.
    #[default]
    Ansi,
    /// A time before each plain line; header times.
    Lines,
    /// Nothing in the log; header times.
    Plain,
}

/// `ping-mode`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Source {
    /// Polls.
    #[default]
    Poll,
    /// A stream, and polls while it is not healthy.
    Auto,
    /// A stream only.
    Stream,
}

/// Scripts of the agent's own hooks; `None`: there is no such hook.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
pub struct Hooks {
    /// agent-startup.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub startup: Option<Script>,
    /// agent-shutdown.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shutdown: Option<Script>,
    /// pre-bootstrap.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pre_bootstrap: Option<Script>,
}

/// What the verifier of job signatures says, after a moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Signatures {
    /// There are no keys.
    #[default]
    Off,
    /// Valid.
    Valid,
    /// Not valid; the job is refused.
    Invalid,
    /// Not valid; the job is run with a warning.
    InvalidButRun,
    /// The verifier breaks.
    Broken,
}

/// A configuration that is found wrong when it is needed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Flaw {
    /// Nothing is wrong.
    #[default]
    None,
    /// The bootstrap script cannot be split into words.
    Bootstrap,
    /// Metrics cannot be exported.
    Metrics,
}

/// A job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobPlan {
    /// When it is made.
    pub at_ms: u64,
    /// What its process does.
    pub script: Script,
    /// Timeout in seconds; 0: none.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub timeout_s: u64,
}

fn is_zero(n: &u64) -> bool {
    *n == 0
}

/// A fault around one request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RequestPlan {
    /// Which operation.
    pub op: Op,
    /// Which of its requests, from 1, counted where they arrive.
    pub nth: u64,
    /// The fault.
    pub fault: RequestFault,
}

/// When.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum When {
    /// At this time.
    AtMs(u64),
    /// Right after the observation with this number (from 1) was made.
    AfterStep(u64),
}

/// A fault or a doing of the world.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventPlan {
    /// When.
    pub when: When,
    /// What.
    pub what: WorldFault,
}

impl Default for Schedule {
    fn default() -> Schedule {
        Schedule {
            about: String::new(),
            seed: 0,
            workers: 1,
            ping_s: 2,
            job_state_s: 1,
            heartbeat_s: 10,
            signal_timeout_ms: 3_000,
            cleanup_timeout_ms: 2_000,
            chunk_bytes: 4_096,
            pty: true,
            timestamps: Timestamps::Ansi,
            ping_mode: Source::Poll,
            acquire: false,
            hooks: Hooks::default(),
            signatures: Signatures::Off,
            flaw: Flaw::None,
            tight_memory: false,
            late_aborts: false,
            disk_ms: 1,
            uptime_s: 0,
            one_shot: false,
            idle_s: 0,
            jobs: Vec::new(),
            requests: Vec::new(),
            events: Vec::new(),
            claims: Vec::new(),
            faults_over_ms: 20_000,
            settle_ms: 1_000,
        }
    }
}

const OPS: [Op; 14] = [
    Op::Register,
    Op::Connect,
    Op::Disconnect,
    Op::Heartbeat,
    Op::Ping,
    Op::Accept,
    Op::Start,
    Op::JobState,
    Op::Chunk,
    Op::HeaderTimes,
    Op::Finish,
    Op::Other,
    Op::Stream,
    Op::Acquire,
];

impl Schedule {
    /// One worker, one job, nothing goes wrong.
    pub fn one_job(script: Script) -> Schedule {
        Schedule { jobs: vec![JobPlan { at_ms: 500, script, timeout_s: 0 }], ..Schedule::default() }
    }

    /// Adds a fault or doing of the world.
    #[must_use]
    pub fn event(mut self, when: When, what: WorldFault) -> Schedule {
        self.events.push(EventPlan { when, what });
        self
    }

    /// Adds a fault around a request.
    #[must_use]
    pub fn request(mut self, op: Op, nth: u64, fault: RequestFault) -> Schedule {
        self.requests.push(RequestPlan { op, nth, fault });
        self
    }

    /// The workload of the scenario `random`.
    pub fn random(seed: u64) -> Schedule {
        let mut rng = Rng::from_seed(seed ^ 0x1be7);
        let r = &mut rng;
        let mut s = Schedule {
            seed,
            workers: 1 + r.below(4) as u32,
            ping_s: 1 + r.below(3),
            job_state_s: 1 + r.below(2),
            heartbeat_s: 4 + r.below(8),
            signal_timeout_ms: 500 * r.below(10),
            cleanup_timeout_ms: 1_000 + 500 * r.below(8),
            chunk_bytes: 200 + r.below(6_000),
            pty: r.below(4) != 0,
            timestamps: if r.below(4) == 0 { Timestamps::Plain } else { Timestamps::Ansi },
            one_shot: r.below(8) == 0,
            idle_s: if r.below(8) == 0 { 5 + r.below(20) } else { 0 },
            faults_over_ms: 20_000 + r.below(25_000),
            settle_ms: 1_000 + r.below(10_000),
            ..Schedule::default()
        };
        for _ in 0..1 + r.below(5) {
            let at_ms = r.below(s.faults_over_ms);
            s.jobs.push(JobPlan { at_ms, script: Script::random(r), timeout_s: if r.below(10) == 0 { 1 + r.below(10) } else { 0 } });
        }
        s.jobs.sort_by_key(|j| j.at_ms);
        let kinds = faults::swarm(r);
        let density = [0, 2, 8, 25][r.below(4) as usize];
        for op in OPS {
            for nth in 1..=40 {
                if r.below(100) < density
                    && let Some(fault) = faults::for_request(r, &kinds, op)
                {
                    s.requests.push(RequestPlan { op, nth, fault });
                }
            }
        }
        for _ in 0..r.below(4) {
            let at = r.below(s.faults_over_ms);
            if let Some(what) = faults::for_world(r, &kinds) {
                s.events.push(EventPlan { when: When::AtMs(at), what });
            }
        }
        s.people(r, &kinds);
        s.modes(r);
        s
    }

    /// Modes of the agent beside the ordinary one.
    fn modes(&mut self, r: &mut Rng) {
        self.ping_mode = [Source::Poll, Source::Poll, Source::Poll, Source::Auto, Source::Auto, Source::Stream][r.below(6) as usize];
        self.acquire = r.below(10) == 0;
        if self.acquire {
            self.workers = 1;
        }
        let mut hook = |one_in: u64| {
            (r.below(one_in) == 0).then(|| {
                let code = if r.below(4) == 0 { 1 } else { 0 };
                let on_signal = if r.below(3) == 0 { OnSignal::Stubborn } else { OnSignal::Dies };
                Script { on_signal, ..Script::simple(50, r.below(3_000), code) }
            })
        };
        self.hooks = Hooks { startup: hook(12), shutdown: hook(8), pre_bootstrap: hook(6) };
        if r.below(6) == 0 {
            self.signatures =
                [Signatures::Valid, Signatures::Valid, Signatures::Invalid, Signatures::InvalidButRun, Signatures::Broken][r.below(5) as usize];
        }
        self.flaw = if r.below(40) == 0 { Flaw::Bootstrap } else { Flaw::None };
        self.tight_memory = r.below(5) == 0;
        self.uptime_s = if r.below(10) == 0 { 3 + r.below(30) } else { 0 };
        if self.timestamps == Timestamps::Plain && r.below(2) == 0 {
            self.timestamps = Timestamps::Lines;
        }
        self.late_aborts = r.below(5) == 0;
        if r.below(8) == 0 {
            self.disk_ms = r.below(900);
        }
    }

    /// What people and supervisors do: signals, cancels, pauses.
    fn people(&mut self, r: &mut Rng, kinds: &std::collections::BTreeSet<Kind>) {
        let end = self.faults_over_ms;
        // Half of what people do comes right after some observation: windows that are open for an instant are hit that way.
        let mut add_when = |when, what| self.events.push(EventPlan { when, what });
        if kinds.contains(&Kind::Signal) {
            let by_step = r.below(2) == 0;
            let (mut at, mut step) = (r.below(end), r.below(400));
            let gap = [300, 3_000, 12_000][r.below(3) as usize];
            for _ in 0..1 + r.below(4) {
                let signal = [OsSignal::Term, OsSignal::Int, OsSignal::Quit, OsSignal::Hup, OsSignal::Term][r.below(5) as usize];
                add_when(if by_step { When::AfterStep(step) } else { When::AtMs(at) }, WorldFault::Signal(signal));
                at += r.below(gap);
                step += 1 + r.below(gap / 100);
            }
        }
        if kinds.contains(&Kind::Cancel) {
            for n in 0..self.jobs.len() {
                match r.below(3) {
                    0 => add_when(When::AtMs(self.jobs[n].at_ms + r.below(12_000)), WorldFault::Cancel(n)),
                    1 => add_when(When::AfterStep(r.below(600)), WorldFault::Cancel(n)),
                    _ => {}
                }
            }
        }
        let mut add = |at: u64, what| self.events.push(EventPlan { when: When::AtMs(at), what });
        if kinds.contains(&Kind::Pause) {
            let (worker, at) = (1 + r.below(u64::from(self.workers)) as u32, r.below(end));
            add(at, WorldFault::Pause(worker));
            add((at + r.below(15_000)).min(end), WorldFault::Resume(worker));
        }
        if kinds.contains(&Kind::Disconnect) && r.below(3) == 0 {
            add(r.below(end), WorldFault::Disconnect(1 + r.below(u64::from(self.workers)) as u32));
        }
    }

    /// What the properties need to know of it.
    pub fn setup(&self) -> Setup {
        Setup {
            workers: self.workers,
            ping: Duration::from_secs(self.ping_s),
            job_state: Duration::from_secs(self.job_state_s),
            heartbeat: Duration::from_secs(self.heartbeat_s),
            signal_timeout: Duration::from_millis(self.signal_timeout_ms),
            cleanup_timeout: Duration::from_millis(self.cleanup_timeout_ms),
            chunk_bytes: self.chunk_bytes,
            timestamps: self.timestamps,
            source: self.ping_mode,
            acquire: self.acquire,
            hooks: self.hooks.clone(),
            signatures: self.signatures,
            flaw: self.flaw,
            uptime: (self.uptime_s > 0).then(|| Duration::from_secs(self.uptime_s)),
            one_shot: self.one_shot,
            abort: if self.late_aborts { crate::late::LATE } else { Duration::ZERO },
            tight_memory: self.tight_memory,
            idle: (self.idle_s > 0).then(|| Duration::from_secs(self.idle_s)),
            // An agent that acquires accepts nothing that is offered (start-and-worker §9.4).
            expect_jobs: !self.jobs.is_empty() && !self.acquire,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_schedule_survives_json() {
        for seed in 0..50 {
            let s = Schedule::random(seed);
            let text = serde_json::to_string(&s).expect("plain data");
            assert_eq!(serde_json::from_str::<Schedule>(&text).expect("its own text"), s);
            assert_eq!(s, Schedule::random(seed));
        }
    }
}
