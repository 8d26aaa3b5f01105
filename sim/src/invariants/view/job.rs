//! Exchanges, and jobs with their rounds.

use crate::trace::{Got, Request, Said};
use ibex_core::agent::OsSignal;
use ibex_core::machine::Instant;
use ibex_core::process::ExitStatus;
use ibex_core::retry::{self, Plan};

/// Why a job was asked to stop (job-runner §7.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Cause {
    /// The state poll said so, or answered 401.
    Cancel,
    /// The state poll told of a timeout.
    Timeout,
    /// A forced stop of the worker.
    AgentStop,
}

/// One exchange of the agent.
#[derive(Clone, Copy, Debug)]
pub struct Call<'a> {
    /// Position in the trace.
    pub sent: usize,
    /// When.
    pub sent_at: Instant,
    /// What.
    pub request: &'a Request,
    /// Position, time and result of its end.
    pub returned: Option<(usize, Instant, &'a Got)>,
}

impl Call<'_> {
    /// HTTP status, if an answer came.
    pub fn status(&self) -> Option<u16> {
        match self.returned {
            Some((_, _, Got::Answer { status, .. })) => Some(*status),
            _ => None,
        }
    }

    /// A 2xx with a body that can be used.
    pub fn ok(&self) -> bool {
        matches!(self.returned, Some((_, _, Got::Answer { status: 200..=299, said, .. })) if *said != Said::Garbage || !self.request.op.decoded())
    }

    /// An answer that is not 2xx, not 429 and below 500.
    pub fn rejected(&self) -> bool {
        self.status().is_some_and(|s| !(200..300).contains(&s) && s != 429 && s < 500)
    }
}

/// From one accept or acquire that succeeded to the end of what came of it. A job whose start was refused is given back, and may be
/// offered and accepted again (races R18): it then has several.
#[derive(Clone, Copy, Debug)]
pub struct Round {
    /// Who accepted it.
    pub worker: u32,
    /// Position and time of the success.
    pub accepted: (usize, Instant),
    /// It was started.
    pub started: bool,
    /// Where it was over for the worker.
    pub over: Option<usize>,
}

/// One job as the trace tells it.
#[derive(Clone, Debug, Default)]
pub struct Job<'a> {
    /// Worker that started it, or else that accepted it last.
    pub worker: Option<u32>,
    /// Accept and acquire attempts.
    pub accepts: Vec<Call<'a>>,
    /// Position and time of the first accept's success.
    pub accepted: Option<(usize, Instant)>,
    /// One for each accept that succeeded.
    pub rounds: Vec<Round>,
    /// Start attempts.
    pub starts: Vec<Call<'a>>,
    /// Position and time of the start's success.
    pub started: Option<(usize, Instant)>,
    /// State polls.
    pub polls: Vec<Call<'a>>,
    /// Chunk attempts.
    pub chunks: Vec<Call<'a>>,
    /// Header-times attempts.
    pub header_times: Vec<Call<'a>>,
    /// Finish attempts.
    pub finishes: Vec<Call<'a>>,
    /// Causes of a cancel, in the order in which they were observed.
    pub causes: Vec<(usize, Instant, Cause)>,
    /// Spawns asked for.
    pub spawns: Vec<(usize, Instant)>,
    /// Process that came of it.
    pub pid: Option<u32>,
    /// When it ran.
    pub spawned: Option<(usize, Instant)>,
    /// No process came of it.
    pub spawn_failed: bool,
    /// Its files could not be written.
    pub files_failed: bool,
    /// The pre-bootstrap hook failed.
    pub hook_refused: Option<(usize, Instant)>,
    /// The verifier did not find its signature valid.
    pub bad_signature: Option<usize>,
    /// Files written and removed.
    pub files_written: Option<usize>,
    /// Last removal.
    pub files_removed: Option<usize>,
    /// Timeout marker written.
    pub marker: Option<usize>,
    /// The exit as the agent observed it.
    pub reaped: Option<(usize, Instant, ExitStatus)>,
    /// End of output.
    pub output_over: Option<(usize, bool)>,
    /// Signals sent to the group.
    pub signals: Vec<(usize, Instant, OsSignal)>,
    /// Bytes read, in order.
    pub read: Vec<u8>,
    /// Bytes that the process's group printed.
    pub printed: u64,
    /// Living members after each change.
    pub members: Vec<(usize, u32)>,
}

impl<'a> Job<'a> {
    /// Where the job was over for its worker: finish settled, or start failed for good (or nothing was tried).
    pub fn over(&self) -> Option<usize> {
        self.rounds.last().map_or_else(|| self.over_of(&self.starts, self.started.is_some()), |r| r.over)
    }

    /// Attempts to start it, by the accept that they follow.
    pub fn starts_by_round(&self) -> impl Iterator<Item = &[Call<'a>]> {
        self.starts.chunk_by(|a, b| self.rounds_before(a.sent) == self.rounds_before(b.sent))
    }

    fn rounds_before(&self, entry: usize) -> usize {
        self.rounds.iter().filter(|r| r.accepted.0 < entry).count()
    }

    /// Where it was over that these attempts to start belong to.
    fn over_of(&self, starts: &[Call<'_>], started: bool) -> Option<usize> {
        let settled = |c: &Call<'_>| match c.returned {
            Some((i, _, _)) if c.ok() || c.rejected() => Some(i),
            _ => None,
        };
        // Settled, or the last attempt that the plan allows.
        let last = |calls: &[Call<'_>], plan: &Plan| {
            let last = calls.last()?;
            settled(last).or_else(|| last.returned.filter(|_| calls.len() >= plan.attempts as usize).map(|(i, _, _)| i))
        };
        if started { self.finishes.iter().find_map(settled).or_else(|| last(&self.finishes, &retry::FINISH)) } else { last(starts, &retry::START) }
    }

    /// Completes the rounds, and with them the worker.
    pub(super) fn close_rounds(&mut self) {
        for n in 0..self.rounds.len() {
            let from = self.rounds[n].accepted.0;
            let to = self.rounds.get(n + 1).map_or(usize::MAX, |r| r.accepted.0);
            let starts: Vec<_> = self.starts.iter().filter(|c| c.sent > from && c.sent < to).copied().collect();
            let started = starts.iter().any(Call::ok);
            let over = self.over_of(&starts, started);
            self.rounds[n] = Round { started, over, ..self.rounds[n] };
        }
        self.worker = self.rounds.iter().find(|r| r.started).or(self.rounds.last()).map(|r| r.worker);
    }
}
