//! Retry plans as values: attempts, spacing, jitter, what they honour (agent-api §4, start-and-worker §0.3).

use crate::machine::Instant;
use crate::rng::Rng;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// Wait after attempt `n` (zero-based).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Spacing {
    /// Always the same.
    Const(Duration),
    /// 2^n seconds: 1, 2, 4, 8 …
    Exponential,
    /// `i^(1 + n/16)` milliseconds, rounded down, with `i` in milliseconds.
    SubExponential(u32),
}

/// Uniform random part of a wait, in milliseconds `[low, high)`; a negative sum means at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Jitter {
    /// Lower end, may be negative.
    pub low_ms: i64,
    /// Upper end, exclusive.
    pub high_ms: i64,
}

/// A retry plan of agent-api §4.4.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Plan {
    /// Name as in the specification, without the `R-`.
    #[serde(skip)]
    pub name: &'static str,
    /// Attempts, the first included.
    pub attempts: u32,
    /// Wait between attempts.
    pub spacing: Spacing,
    /// Random part of the wait.
    pub jitter: Option<Jitter>,
    /// Whether `Retry-After` replaces the wait.
    pub honours_retry_after: bool,
    /// Limit over all attempts, from the first one's start.
    pub total: Option<Duration>,
}

const fn constant(name: &'static str, attempts: u32, seconds: u64) -> Plan {
    Plan { name, attempts, spacing: Spacing::Const(Duration::from_secs(seconds)), jitter: None, honours_retry_after: false, total: None }
}

const UP_TO_1S: Option<Jitter> = Some(Jitter { low_ms: 0, high_ms: 1000 });
const ACQUIRE_JITTER: Option<Jitter> = Some(Jitter { low_ms: -1000, high_ms: 5000 });

/// R-register.
pub const REGISTER: Plan = constant("register", 30, 10);
/// R-connect.
pub const CONNECT: Plan = constant("connect", 10, 5);
/// R-disconnect.
pub const DISCONNECT: Plan = constant("disconnect", 4, 1);
/// R-heartbeat.
pub const HEARTBEAT: Plan = constant("heartbeat", 10, 5);
/// R-accept.
pub const ACCEPT: Plan = constant("accept", 30, 5);
/// R-acquire.
pub const ACQUIRE: Plan = Plan {
    name: "acquire",
    attempts: 7,
    spacing: Spacing::Exponential,
    jitter: ACQUIRE_JITTER,
    honours_retry_after: true,
    total: Some(Duration::from_secs(330)),
};
/// R-start.
pub const START: Plan = Plan { name: "start", attempts: 7, spacing: Spacing::Exponential, jitter: None, honours_retry_after: false, total: None };
/// R-chunk; 429 is retried and honours `Retry-After` (job-runner W23).
pub const CHUNK: Plan = Plan {
    name: "chunk",
    attempts: 12,
    spacing: Spacing::SubExponential(2000),
    jitter: UP_TO_1S,
    honours_retry_after: true,
    total: Some(Duration::from_secs(3600)),
};
/// R-finish.
pub const FINISH: Plan = Plan {
    name: "finish",
    attempts: 12,
    spacing: Spacing::SubExponential(2000),
    jitter: UP_TO_1S,
    honours_retry_after: false,
    total: Some(Duration::from_secs(3600)),
};
/// Header times (header-times, Streaming).
pub const HEADER_TIMES: Plan = constant("header-times", 10, 5);
/// R-5x1.
pub const FIVE_BY_ONE: Plan = Plan { jitter: UP_TO_1S, ..constant("5x1", 5, 1) };
/// R-10x5.
pub const TEN_BY_FIVE: Plan = constant("10x5", 10, 5);
/// R-10sub.
pub const TEN_SUB: Plan = Plan { spacing: Spacing::SubExponential(2000), ..constant("10sub", 10, 0) };
/// R-batch.
pub const BATCH: Plan = Plan { name: "batch", ..TEN_SUB };
/// R-upload.
pub const UPLOAD: Plan = constant("upload", 60, 5);
/// R-status.
pub const STATUS: Plan = Plan { honours_retry_after: true, ..constant("status", 60, 5) };
/// R-search.
pub const SEARCH: Plan = constant("search", 10, 5);
/// R-artcreate.
pub const ARTIFACT_CREATE: Plan = Plan { spacing: Spacing::SubExponential(500), ..constant("artcreate", 10, 0) };
/// R-artstate.
pub const ARTIFACT_STATE: Plan = Plan { spacing: Spacing::SubExponential(500), ..constant("artstate", 10, 0) };
/// R-transfer.
pub const TRANSFER: Plan = constant("transfer", 10, 5);
/// R-download.
pub const DOWNLOAD: Plan = constant("download", 5, 5);
/// R-oidc.
pub const OIDC: Plan = Plan { spacing: Spacing::Exponential, ..constant("oidc", 5, 0) };
/// R-secret.
pub const SECRET: Plan = Plan { spacing: Spacing::Exponential, jitter: ACQUIRE_JITTER, ..constant("secret", 3, 0) };
/// R-repo.
pub const REPOSITORY: Plan = Plan { honours_retry_after: true, ..constant("repo", 3, 5) };

impl Spacing {
    /// Wait after attempt `n`, zero-based, without jitter.
    pub fn after(self, n: u32) -> Duration {
        match self {
            Spacing::Const(d) => d,
            Spacing::Exponential => Duration::from_secs(1 << n.min(32)),
            Spacing::SubExponential(i) => {
                let exponent = 1.0 + f64::from(n) / 16.0;
                Duration::from_millis(f64::from(i).powf(exponent) as u64)
            }
        }
    }
}

/// Where a retry loop stands. The wait is drawn *before* the attempt, so that the attempt's failure line can name it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Attempts {
    /// Attempts begun, from 1 while the first is under way.
    pub begun: u32,
    /// Wait that will follow the attempt under way.
    pub wait: Duration,
    /// When the first attempt began.
    pub since: Instant,
}

/// What follows a failed attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Next {
    /// Try again at this instant.
    At(Instant),
    /// No attempt is left, or the total limit would be passed.
    GiveUp,
}

impl Attempts {
    /// Begins the first attempt.
    pub fn first(plan: &Plan, now: Instant, rng: &mut Rng) -> Attempts {
        Attempts { begun: 1, wait: draw(plan, 0, rng), since: now }
    }

    /// Begins the next attempt; call it when the wait is over.
    pub fn again(&mut self, plan: &Plan, rng: &mut Rng) {
        self.wait = draw(plan, self.begun, rng);
        self.begun += 1;
    }

    /// What follows the failure of the attempt under way. `retry_after` replaces the wait where the plan honours it.
    pub fn failed(&mut self, plan: &Plan, now: Instant, retry_after: Option<Duration>) -> Next {
        if let (true, Some(d)) = (plan.honours_retry_after, retry_after) {
            self.wait = d;
        }
        if self.begun >= plan.attempts {
            return Next::GiveUp;
        }
        let at = now + self.wait;
        match plan.total {
            Some(total) if at >= self.since + total => Next::GiveUp,
            _ => Next::At(at),
        }
    }

    /// Time left of the plan's total limit at `now`.
    pub fn left(&self, plan: &Plan, now: Instant) -> Option<Duration> {
        plan.total.map(|total| (self.since + total).since(now))
    }

    /// The tail of a failure line: `(Attempt 2/30 Retrying in 5s)` (agent-api §4.1).
    pub fn text(&self, plan: &Plan, next: Next) -> String {
        match next {
            Next::GiveUp => format!("(Attempt {}/{})", self.begun, plan.attempts),
            Next::At(_) if self.wait.is_zero() => format!("(Attempt {}/{} Retrying immediately)", self.begun, plan.attempts),
            Next::At(_) => format!("(Attempt {}/{} Retrying in {})", self.begun, plan.attempts, duration_text(self.wait)),
        }
    }
}

fn draw(plan: &Plan, n: u32, rng: &mut Rng) -> Duration {
    let base = plan.spacing.after(n);
    let Some(j) = plan.jitter else { return base };
    let span_ns = u64::try_from((j.high_ms - j.low_ms).max(0)).unwrap_or(0) * 1_000_000;
    let jitter_ns = i128::from(j.low_ms) * 1_000_000 + i128::from(rng.below(span_ns));
    let total_ns = base.as_nanos() as i128 + jitter_ns;
    Duration::from_nanos(u64::try_from(total_ns).unwrap_or(0))
}

/// A duration as users know it: `10s`, `1m30s`, `500ms`, `1h0m0s`, `0s`, `1.5s` (start-flags §1).
pub fn duration_text(d: Duration) -> String {
    let ns = d.as_nanos();
    let fraction = |value: u128, unit: u128| -> String {
        let (whole, rest) = (value / unit, value % unit);
        if rest == 0 {
            return whole.to_string();
        }
        let width = unit.ilog10() as usize;
        format!("{whole}.{}", format!("{rest:0width$}").trim_end_matches('0'))
    };
    match ns {
        0 => "0s".into(),
        1..1_000 => format!("{ns}ns"),
        1_000..1_000_000 => format!("{}µs", fraction(ns, 1_000)),
        1_000_000..1_000_000_000 => format!("{}ms", fraction(ns, 1_000_000)),
        _ => {
            let minutes = ns / 60_000_000_000;
            let seconds = format!("{}s", fraction(ns % 60_000_000_000, 1_000_000_000));
            match (minutes / 60, minutes % 60) {
                (0, 0) => seconds,
                (0, m) => format!("{m}m{seconds}"),
                (h, m) => format!("{h}h{m}m{seconds}"),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spacing_is_the_table_of_the_specification() {
        let got: Vec<u128> = (0..11).map(|n| CHUNK.spacing.after(n).as_millis()).collect();
        assert_eq!(got, [2000, 3216, 5172, 8317, 13374, 21508, 34587, 55619, 89442, 143833, 231298]);
        let got: Vec<u64> = (0..6).map(|n| START.spacing.after(n).as_secs()).collect();
        assert_eq!(got, [1, 2, 4, 8, 16, 32]);
    }

    #[test]
    fn durations_read_as_users_know_them() {
        for (ms, text) in [(0, "0s"), (500, "500ms"), (10_000, "10s"), (90_000, "1m30s"), (3_600_000, "1h0m0s"), (143_833, "2m23.833s")] {
            assert_eq!(duration_text(Duration::from_millis(ms)), text);
        }
    }

    #[test]
    fn the_last_attempt_has_no_wait() {
        let mut rng = Rng::from_seed(1);
        let mut a = Attempts::first(&DISCONNECT, Instant::ZERO, &mut rng);
        for _ in 1..4 {
            assert_eq!(a.failed(&DISCONNECT, Instant::ZERO, None), Next::At(Instant::from_millis(1000)));
            a.again(&DISCONNECT, &mut rng);
        }
        assert_eq!(a.failed(&DISCONNECT, Instant::ZERO, None), Next::GiveUp);
        assert_eq!(a.text(&DISCONNECT, Next::GiveUp), "(Attempt 4/4)");
    }
}
