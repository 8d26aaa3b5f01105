//! What may go wrong, as named kinds. A run's faults are drawn from its seed before it begins (each run with a random subset of the
//! kinds), so that a run is a list of data that can be read, stored and made smaller.

use crate::trace::Op;
use ibex_core::agent::OsSignal;
use ibex_core::rng::Rng;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// Around one request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RequestFault {
    /// This status, and the control plane does not see the request.
    Status {
        /// Status.
        code: u16,
        /// `Retry-After`, in seconds and hundredths.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        retry_after_ms: Option<u64>,
    },
    /// 200 with a page of HTML.
    Html {
        /// The control plane saw the request.
        applied: bool,
    },
    /// 200 with nothing.
    Empty {
        /// The control plane saw the request.
        applied: bool,
    },
    /// The connection is closed, and the control plane does not see the request.
    ResetBefore,
    /// The connection is closed in the middle of the answer.
    ResetInside,
    /// The connection is closed a moment after the answer.
    ResetAfter,
    /// The call is applied, its answer lost, the connection closed.
    Lost,
    /// No answer ever comes.
    Hang {
        /// The control plane saw the request.
        applied: bool,
    },
    /// The call is applied, and its answer takes its time.
    Slow {
        /// Delay in milliseconds.
        ms: u64,
    },
    /// A job-state poll is told this state, whatever the state is.
    State(String),
    /// A ping is told this action, and its job is hidden.
    Action(String),
    /// A ping is told to go on at another endpoint (another path of the same host), and its job is hidden.
    Endpoint(String),
    /// The answer gives a set of server-specified headers (0: it clears them), and names an endpoint unless that is empty.
    Headers {
        /// Number of the set.
        set: u64,
        /// Path on the same host.
        #[serde(default, skip_serializing_if = "String::is_empty")]
        endpoint: String,
    },
    /// A ping stream is ended with this gRPC status after so many milliseconds.
    Grpc {
        /// gRPC status.
        code: u32,
        /// When.
        after_ms: u64,
    },
    /// A ping stream is opened, and says nothing for so many milliseconds; then it is ended cleanly.
    Dumb {
        /// For how long.
        ms: u64,
    },
    /// A ping stream brings a job without an id.
    NamelessJob,
    /// A ping stream says each thing twice.
    Twice,
    /// A ping, or the beginning of a stream, brings the first so many jobs of the run, whatever has become of them (a ping: the last
    /// of them).
    Offer(usize),
}

/// To the world.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum WorldFault {
    /// Nothing listens, open connections are cut.
    Refuse {
        /// For how long, in milliseconds.
        ms: u64,
    },
    /// Nothing gets through.
    Partition {
        /// For how long, in milliseconds.
        ms: u64,
    },
    /// Requests arrive, answers do not.
    Deaf {
        /// For how long, in milliseconds.
        ms: u64,
    },
    /// Requests do not arrive.
    Mute {
        /// For how long, in milliseconds.
        ms: u64,
    },
    /// Everything is held back, and arrives later.
    Hold {
        /// For how long, in milliseconds.
        ms: u64,
    },
    /// All connections are cut at once.
    Cut,
    /// Every request (of one operation) meets this fault.
    Period {
        /// Which; `None`: all.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        op: Option<Op>,
        /// The fault.
        fault: RequestFault,
        /// For how long, in milliseconds.
        ms: u64,
    },
    /// Env files cannot be written.
    DiskFull {
        /// For how long, in milliseconds.
        ms: u64,
    },
    /// A signal to the agent.
    Signal(OsSignal),
    /// Somebody cancels the job with this number (from 0, in the order of the schedule).
    Cancel(usize),
    /// Somebody pauses the worker.
    Pause(u32),
    /// Somebody resumes the worker.
    Resume(u32),
    /// The control plane tells the worker to disconnect.
    Disconnect(u32),
}

impl RequestFault {
    /// Whether it can happen to this operation.
    pub(crate) fn fits(&self, op: Op) -> bool {
        match self {
            RequestFault::State(_) => op == Op::JobState,
            RequestFault::Action(_) | RequestFault::Endpoint(_) => op == Op::Ping,
            RequestFault::Headers { .. } => matches!(op, Op::Register | Op::Ping),
            RequestFault::Offer(_) => matches!(op, Op::Ping | Op::Stream),
            RequestFault::Grpc { .. } | RequestFault::Dumb { .. } | RequestFault::NamelessJob | RequestFault::Twice => op == Op::Stream,
            _ => true,
        }
    }

    /// Whether the control plane sees the request all the same.
    pub(crate) fn reaches(&self, op: Op) -> bool {
        match self {
            RequestFault::Html { applied } | RequestFault::Empty { applied } | RequestFault::Hang { applied } => *applied,
            RequestFault::Status { .. } | RequestFault::ResetBefore | RequestFault::Action(_) | RequestFault::Endpoint(_) => false,
            RequestFault::Offer(_) => op == Op::Stream,
            _ => true,
        }
    }

    /// Its name in traces and tables.
    pub fn name(&self) -> String {
        match self {
            RequestFault::Status { code, retry_after_ms: None } => format!("status {code}"),
            RequestFault::Status { code, retry_after_ms: Some(ms) } => format!("status {code} retry-after {ms} ms"),
            RequestFault::Html { applied } => format!("html{}", applied_text(*applied)),
            RequestFault::Empty { applied } => format!("empty{}", applied_text(*applied)),
            RequestFault::ResetBefore => "reset before".into(),
            RequestFault::ResetInside => "reset inside".into(),
            RequestFault::ResetAfter => "reset after".into(),
            RequestFault::Lost => "answer lost".into(),
            RequestFault::Hang { applied } => format!("hang{}", applied_text(*applied)),
            RequestFault::Slow { ms } => format!("slow {ms} ms"),
            RequestFault::State(state) => format!("state {state}"),
            RequestFault::Action(action) => format!("action {action}"),
            RequestFault::Endpoint(path) => format!("endpoint {path}"),
            RequestFault::Headers { set, endpoint } => format!("header set {set} {endpoint}"),
            RequestFault::Grpc { code, after_ms } => format!("grpc status {code} after {after_ms} ms"),
            RequestFault::Dumb { ms } => format!("silent for {ms} ms"),
            RequestFault::NamelessJob => "job without id".into(),
            RequestFault::Twice => "everything twice".into(),
            RequestFault::Offer(n) => format!("offer of {n} jobs"),
        }
    }
}

fn applied_text(applied: bool) -> &'static str {
    if applied { " after" } else { "" }
}

impl WorldFault {
    /// Its name in traces and tables.
    pub fn name(&self) -> String {
        match self {
            WorldFault::Refuse { ms } => format!("refuse for {ms} ms"),
            WorldFault::Partition { ms } => format!("partition for {ms} ms"),
            WorldFault::Deaf { ms } => format!("partition towards the agent for {ms} ms"),
            WorldFault::Mute { ms } => format!("partition towards the plane for {ms} ms"),
            WorldFault::Hold { ms } => format!("hold for {ms} ms"),
            WorldFault::Cut => "cut all connections".into(),
            WorldFault::Period { op, fault, ms } => format!("{} for {} for {ms} ms", fault.name(), op.map_or("all", Op::name)),
            WorldFault::DiskFull { ms } => format!("disk full for {ms} ms"),
            WorldFault::Signal(s) => format!("send {}", s.name()),
            WorldFault::Cancel(n) => format!("cancel job {n}"),
            WorldFault::Pause(w) => format!("pause worker {w}"),
            WorldFault::Resume(w) => format!("resume worker {w}"),
            WorldFault::Disconnect(w) => format!("disconnect worker {w}"),
        }
    }
}

/// The kinds of which each run enables a random subset.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs)]
pub enum Kind {
    ServerError,
    RateLimit,
    Rejection,
    Html,
    Empty,
    ResetBefore,
    ResetInside,
    ResetAfter,
    Lost,
    Hang,
    Slow,
    Refuse,
    Partition,
    OneWay,
    Hold,
    Cut,
    Period,
    DiskFull,
    Signal,
    Cancel,
    Pause,
    Disconnect,
    StaleState,
    Stream,
    Endpoint,
    Offer,
    Headers,
}

/// All kinds.
pub const KINDS: &[Kind] = &[
    Kind::ServerError,
    Kind::RateLimit,
    Kind::Rejection,
    Kind::Html,
    Kind::Empty,
    Kind::ResetBefore,
    Kind::ResetInside,
    Kind::ResetAfter,
    Kind::Lost,
    Kind::Hang,
    Kind::Slow,
    Kind::Refuse,
    Kind::Partition,
    Kind::OneWay,
    Kind::Hold,
    Kind::Cut,
    Kind::Period,
    Kind::DiskFull,
    Kind::Signal,
    Kind::Cancel,
    Kind::Pause,
    Kind::Disconnect,
    Kind::StaleState,
    Kind::Stream,
    Kind::Endpoint,
    Kind::Offer,
    Kind::Headers,
];

/// A subset of the kinds.
pub fn swarm(rng: &mut Rng) -> BTreeSet<Kind> {
    let density = 1 + rng.below(6);
    KINDS.iter().copied().filter(|_| rng.below(10) < density).collect()
}

/// A fault for one request of `op`, if the enabled kinds have one.
pub fn for_request(rng: &mut Rng, kinds: &BTreeSet<Kind>, op: Op) -> Option<RequestFault> {
    let coin = |rng: &mut Rng| rng.below(2) == 0;
    let able: Vec<Kind> = kinds
        .iter()
        .copied()
        .filter(|k| match k {
            Kind::ServerError
            | Kind::RateLimit
            | Kind::Html
            | Kind::Empty
            | Kind::ResetBefore
            | Kind::ResetInside
            | Kind::ResetAfter
            | Kind::Lost
            | Kind::Hang
            | Kind::Slow => true,
            // A rejection ends a worker or a process: it is kept rare where it would end the run before it began.
            Kind::Rejection => !matches!(op, Op::Register | Op::Ping | Op::Heartbeat | Op::Stream | Op::Acquire) || rng.below(8) == 0,
            Kind::StaleState => op == Op::JobState,
            Kind::Stream => op == Op::Stream,
            Kind::Endpoint => op == Op::Ping,
            Kind::Offer => matches!(op, Op::Ping | Op::Stream),
            Kind::Headers => matches!(op, Op::Ping | Op::Register),
            _ => false,
        })
        .collect();
    let kind = *able.get(rng.below(able.len() as u64) as usize)?;
    Some(match kind {
        Kind::ServerError => RequestFault::Status { code: [500, 502, 503, 504, 529][rng.below(5) as usize], retry_after_ms: None },
        Kind::RateLimit => {
            let retry_after_ms = coin(rng).then(|| 10 * rng.below(1_000));
            RequestFault::Status { code: 429, retry_after_ms }
        }
        Kind::Rejection => RequestFault::Status { code: [400, 401, 403, 404, 409, 422][rng.below(6) as usize], retry_after_ms: None },
        Kind::Html => RequestFault::Html { applied: coin(rng) },
        Kind::Empty => RequestFault::Empty { applied: coin(rng) },
        Kind::ResetBefore => RequestFault::ResetBefore,
        Kind::ResetInside => RequestFault::ResetInside,
        Kind::ResetAfter => RequestFault::ResetAfter,
        Kind::Lost => RequestFault::Lost,
        Kind::Hang => RequestFault::Hang { applied: coin(rng) },
        Kind::Stream => match rng.below(5) {
            0 => RequestFault::NamelessJob,
            1 => RequestFault::Twice,
            2 => RequestFault::Dumb { ms: rng.below(70_000) },
            _ => RequestFault::Grpc { code: [0, 4, 13, 14, 2, 8][rng.below(6) as usize], after_ms: rng.below(20_000) },
        },
        Kind::Offer => RequestFault::Offer(1 + rng.below(4) as usize),
        Kind::Endpoint => RequestFault::Endpoint(["/alt/v3", "/v3"][rng.below(2) as usize].into()),
        Kind::Headers => {
            let endpoint = if op == Op::Ping { ["", "", "/alt/v3"][rng.below(3) as usize] } else { "" };
            RequestFault::Headers { set: rng.below(4), endpoint: endpoint.into() }
        }
        Kind::StaleState => RequestFault::State(["running", "accepted", "canceled", "timing_out"][rng.below(4) as usize].into()),
        _ => RequestFault::Slow { ms: 50 + rng.below(20_000) },
    })
}

/// A fault of the world, if the enabled kinds have one.
pub fn for_world(rng: &mut Rng, kinds: &BTreeSet<Kind>) -> Option<WorldFault> {
    let able: Vec<Kind> = kinds
        .iter()
        .copied()
        .filter(|k| matches!(k, Kind::Refuse | Kind::Partition | Kind::OneWay | Kind::Hold | Kind::Cut | Kind::Period | Kind::DiskFull))
        .collect();
    let kind = *able.get(rng.below(able.len() as u64) as usize)?;
    let ms = 200 + rng.below(15_000);
    Some(match kind {
        Kind::Refuse => WorldFault::Refuse { ms },
        Kind::Partition => WorldFault::Partition { ms },
        Kind::OneWay if rng.below(2) == 0 => WorldFault::Deaf { ms },
        Kind::OneWay => WorldFault::Mute { ms },
        Kind::Hold => WorldFault::Hold { ms },
        Kind::Cut => WorldFault::Cut,
        Kind::DiskFull => WorldFault::DiskFull { ms },
        _ => {
            let op = [Op::Ping, Op::Heartbeat, Op::Accept, Op::Start, Op::Chunk, Op::Finish, Op::Disconnect, Op::JobState][rng.below(8) as usize];
            let soft: BTreeSet<Kind> = kinds.iter().copied().filter(|k| *k != Kind::Rejection).collect();
            let fault = for_request(rng, &soft, op).unwrap_or(RequestFault::Status { code: 503, retry_after_ms: None });
            WorldFault::Period { op: Some(op), fault, ms }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_seed_draws_is_always_the_same() {
        let draw = |seed| {
            let mut rng = Rng::from_seed(seed);
            let kinds = swarm(&mut rng);
            (for_request(&mut rng, &kinds, Op::Chunk), for_world(&mut rng, &kinds))
        };
        assert_eq!(draw(7), draw(7));
        assert!((0..50).any(|s| draw(s) != draw(s + 1)));
    }

    #[test]
    fn every_kind_is_enabled_by_some_seed() {
        let seen: BTreeSet<Kind> = (0..60).flat_map(|s| swarm(&mut Rng::from_seed(s))).collect();
        assert_eq!(seen.len(), KINDS.len());
    }
}
