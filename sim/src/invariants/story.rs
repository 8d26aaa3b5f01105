//! Hand-made traces for the tests of the properties.
#![cfg(test)]

use super::Invariant;
use super::view::{Setup, View};
use crate::trace::{Credential, ENDPOINT, Fact, Got, OTHER_ENDPOINT, Op, Payload, Request, Said, Trace};
use bytes::Bytes;
use ibex_core::agent::OsSignal;
use ibex_core::machine::{Instant, Owner, Transition};
use ibex_core::process::{ExitStatus, SignalTarget};

/// A trace that is being told.
#[derive(Clone, Default)]
pub(crate) struct Story {
    pub(crate) setup: Setup,
    trace: Trace,
}

const JOB: &str = "J";
const PID: u32 = 100;

fn op(name: &str) -> Op {
    [
        Op::Register,
        Op::Connect,
        Op::Disconnect,
        Op::Heartbeat,
        Op::Ping,
        Op::Stream,
        Op::Accept,
        Op::Acquire,
        Op::Start,
        Op::JobState,
        Op::Chunk,
        Op::HeaderTimes,
        Op::Finish,
    ]
    .into_iter()
    .find(|o| o.name() == name)
    .expect("an operation")
}

impl Story {
    pub(crate) fn new() -> Story {
        Story::default()
    }

    pub(crate) fn with(mut self, change: impl FnOnce(&mut Setup)) -> Story {
        change(&mut self.setup);
        self
    }

    pub(crate) fn fact(mut self, ms: u64, fact: Fact) -> Story {
        self.trace.push(Instant::from_millis(ms), fact);
        self
    }

    fn request(call: u64, op_name: &str, who: &str, job: &str, payload: Payload) -> Request {
        let credential = match who.strip_prefix('w').and_then(|n| n.parse().ok()) {
            Some(n) => Credential::Worker(n),
            None if who == "registration" => Credential::Registration,
            None => Credential::Job(who.into()),
        };
        Request { call, credential, op: op(op_name), job: (!job.is_empty()).then(|| job.into()), endpoint: ENDPOINT, payload }
    }

    pub(crate) fn sent(self, ms: u64, call: u64, op: &str, who: &str, job: &str) -> Story {
        self.fact(ms, Fact::Sent(Story::request(call, op, who, job, Payload::None)))
    }

    /// An attempt of worker 1 to acquire, with its number.
    pub(super) fn acquire(self, ms: u64, call: u64, job: &str, sequence: u64) -> Story {
        let payload = Payload::Acquire { sequence: Some(sequence), lock: true };
        self.fact(ms, Fact::Sent(Story::request(call, "acquire", "w1", job, payload)))
    }

    /// The same at the other endpoint.
    pub(crate) fn sent_at_other(self, ms: u64, call: u64, op: &str, who: &str) -> Story {
        self.fact(ms, Fact::Sent(Request { endpoint: OTHER_ENDPOINT, ..Story::request(call, op, who, "", Payload::None) }))
    }

    pub(crate) fn step(self, ms: u64, machine: &'static str, from: &'static str, event: &'static str, to: &'static str) -> Story {
        self.fact(ms, Fact::Transition(Transition { owner: Owner::Worker(1), machine, from, event, to }))
    }

    pub(crate) fn agent_step(self, ms: u64, from: &'static str, event: &'static str, to: &'static str) -> Story {
        self.fact(ms, Fact::Transition(Transition { owner: Owner::Agent, machine: "agent", from, event, to }))
    }

    pub(crate) fn pool_step(self, ms: u64, event: &'static str, to: &'static str) -> Story {
        self.fact(ms, Fact::Transition(Transition { owner: Owner::Agent, machine: "pool", from: "Running", event, to }))
    }

    pub(crate) fn got(self, ms: u64, call: u64, status: u16) -> Story {
        self.fact(ms, Fact::Returned { call, got: Got::Answer { status, said: Said::Nothing, retry_after_ms: None } })
    }

    pub(crate) fn said(self, ms: u64, call: u64, said: Said) -> Story {
        self.fact(ms, Fact::Returned { call, got: Got::Answer { status: 200, said, retry_after_ms: None } })
    }

    pub(crate) fn failed(self, ms: u64, call: u64) -> Story {
        self.fact(ms, Fact::Returned { call, got: Got::Failed("timeout") })
    }

    pub(crate) fn connected(self, worker: u32) -> Story {
        let call = 9_000 + u64::from(worker);
        self.sent(0, call, "connect", &format!("w{worker}"), "").got(20, call, 200)
    }

    pub(crate) fn signal(self, ms: u64, name: &str) -> Story {
        self.fact(ms, Fact::AgentSignal(OsSignal::parse(&format!("SIG{name}")).expect("a signal")))
    }

    pub(crate) fn exit(self, ms: u64, code: u8) -> Story {
        self.fact(ms, Fact::AgentExit { code, killed_jobs: false })
    }

    /// Job `J` is accepted by worker 1 (call 1).
    pub(crate) fn accepted(self, ms: u64) -> Story {
        self.sent(ms, 1, "accept", "w1", JOB).said(ms + 20, 1, Said::Job(JOB.into()))
    }

    /// Job `J` is accepted by worker 1 (calls 1 and 2) and started, its files written.
    pub(crate) fn started(self, ms: u64) -> Story {
        self.accepted(ms)
            .fact(ms + 20, Fact::FilesWritten { owner: Owner::Job { worker: 1, generation: 1 }, job: JOB.into() })
            .sent(ms + 20, 2, "start", JOB, JOB)
            .got(ms + 40, 2, 200)
    }

    pub(crate) fn spawned(self, ms: u64) -> Story {
        self.fact(ms, Fact::SpawnAsked { owner: Owner::Job { worker: 1, generation: 1 }, job: JOB.into() })
            .fact(ms, Fact::Spawned { pid: PID, job: JOB.into(), pty: true })
            .fact(ms, Fact::Members { pid: PID, alive: 1 })
    }

    pub(crate) fn printed(self, ms: u64, data: &'static str) -> Story {
        self.fact(ms, Fact::Printed { pid: PID, len: data.len() as u64 }).fact(ms, Fact::Read { pid: PID, data: Bytes::from_static(data.as_bytes()) })
    }

    pub(crate) fn signalled(self, ms: u64, signal: OsSignal) -> Story {
        self.fact(ms, Fact::Signalled { pid: PID, signal, target: SignalTarget::Group })
    }

    pub(crate) fn exited(self, ms: u64, status: ExitStatus) -> Story {
        self.fact(ms, Fact::LeaderEnded { pid: PID, status })
            .fact(ms, Fact::Members { pid: PID, alive: 0 })
            .fact(ms, Fact::Reaped { pid: PID, status })
            .fact(ms, Fact::OutputOver { pid: PID, cut: false })
    }

    pub(crate) fn chunk(self, ms: u64, call: u64, sequence: u64, offset: u64, data: &'static str) -> Story {
        let payload = Payload::Chunk { sequence, offset, size: data.len() as u64, data: Some(Bytes::from_static(data.as_bytes())) };
        self.fact(ms, Fact::Sent(Story::request(call, "chunk", JOB, JOB, payload)))
    }

    pub(crate) fn removed(self, ms: u64) -> Story {
        self.fact(ms, Fact::FilesRemoved { job: JOB.into() })
    }

    pub(crate) fn finish(self, ms: u64, call: u64, exit_status: &str, signal: &str, reason: &str, failed: u64) -> Story {
        let payload = Payload::Finish {
            exit_status: exit_status.into(),
            signal: signal.into(),
            signal_reason: reason.into(),
            chunks_failed: failed,
            ignore_agent: None,
            finished_at: None,
            body: format!("{exit_status} {signal} {reason} {failed}"),
        };
        self.fact(ms, Fact::Sent(Story::request(call, "finish", JOB, JOB, payload)))
    }

    /// A finish with the flag that no more work is wanted.
    pub(crate) fn asking(self, ms: u64, call: u64, ignore_agent: Option<bool>) -> Story {
        let payload = Payload::Finish {
            exit_status: "0".into(),
            signal: String::new(),
            signal_reason: String::new(),
            chunks_failed: 0,
            ignore_agent,
            finished_at: None,
            body: String::new(),
        };
        self.fact(ms, Fact::Sent(Story::request(call, "finish", JOB, JOB, payload)))
    }

    /// A start that tells this time.
    pub(super) fn start_at(self, ms: u64, call: u64, told: u64) -> Story {
        let payload = Payload::Start { started_at: Some(Instant::from_millis(told)) };
        self.fact(ms, Fact::Sent(Story::request(call, "start", JOB, JOB, payload)))
    }

    /// A finish that tells this time.
    pub(super) fn finish_at(self, ms: u64, call: u64, told: u64) -> Story {
        let payload = Payload::Finish {
            exit_status: "0".into(),
            signal: String::new(),
            signal_reason: String::new(),
            chunks_failed: 0,
            ignore_agent: None,
            finished_at: Some(Instant::from_millis(told)),
            body: String::new(),
        };
        self.fact(ms, Fact::Sent(Story::request(call, "finish", JOB, JOB, payload)))
    }

    /// A batch of header times.
    pub(super) fn headers(self, ms: u64, call: u64, indexes: &[u64]) -> Story {
        self.fact(ms, Fact::Sent(Story::request(call, "header-times", JOB, JOB, Payload::HeaderTimes(indexes.to_vec()))))
    }

    /// The state poll `call` is told `state`.
    pub(crate) fn polled(self, ms: u64, call: u64, state: &str) -> Story {
        self.sent(ms.saturating_sub(20), call, "job-state", JOB, JOB).said(ms, call, Said::State(state.into()))
    }

    fn violations(&self, invariant: &Invariant) -> Vec<super::Violation> {
        let mut out = Vec::new();
        (invariant.check)(&View::new(&self.setup, &self.trace), &mut out);
        out
    }

    pub(crate) fn holds(self, invariant: Invariant) {
        assert_eq!(self.violations(&invariant), [], "{} should hold", invariant.id);
    }

    pub(crate) fn breaks(self, invariant: Invariant) {
        let found = self.violations(&invariant);
        assert!(!found.is_empty(), "{} should not hold", invariant.id);
        assert!(found.iter().all(|f| f.property == invariant.id));
    }
}
