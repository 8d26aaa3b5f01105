//! Acquire mode: one job id, numbered attempts that lock, their plan, and no other way to work (start-and-worker §9.4, I26–I28).

use super::rows::Ref::S;
use super::view::{Call, SLACK, View};
use super::{Invariant, Violation};
use crate::trace::{Got, Op, Payload};
use ibex_core::retry::ACQUIRE;
use std::time::Duration;

pub(super) const INVARIANT: Invariant = Invariant {
    id: "acquire",
    title: "acquire mode",
    rule: "start-and-worker §9.4, I26–I28: one job id, seven attempts within 330 s, 422 is final, nothing is accepted",
    file: file!(),
    rows: &[S(26), S(27), S(28)],
    check,
};

fn check(v: &View<'_>, out: &mut Vec<Violation>) {
    let calls: Vec<Call<'_>> = v.calls.values().filter(|c| c.request.op == Op::Acquire).copied().collect();
    if !v.setup.acquire {
        for c in &calls {
            out.push(Violation::at("acquire", c.sent, format!("{} of an agent that acquires nothing", c.request)));
        }
        return;
    }
    for c in v.calls.values().filter(|c| c.request.op == Op::Accept) {
        out.push(Violation::at("acquire", c.sent, format!("{} in acquire mode", c.request)));
    }
    let Some(first) = calls.first() else { return };
    let end = first.sent_at + ACQUIRE.total.unwrap_or_default();
    for (n, c) in (0u64..).zip(&calls) {
        let mut wrong = |text: &str| out.push(Violation::at("acquire", c.sent, format!("{}: {text}", c.request)));
        if c.request.job != first.request.job {
            wrong("another job than the one before");
        }
        if c.request.payload != (Payload::Acquire { sequence: Some(n), lock: true }) {
            wrong("the headers should say that it locks, and which attempt it is");
        }
        if n >= u64::from(ACQUIRE.attempts) {
            wrong("one attempt too many");
        }
        if c.sent_at > end || c.returned.is_some_and(|(_, at, _)| at > end + SLACK) {
            wrong("beyond the limit of 330 s");
        }
    }
    for (n, pair) in (0u32..).zip(calls.windows(2)) {
        spacing(n, &pair[0], &pair[1], out);
    }
    if calls.last().is_some_and(|c| c.status() == Some(422)) {
        for c in v.calls.values().filter(|c| c.request.op == Op::Ping) {
            out.push(Violation::at("acquire", c.sent, format!("{} although the acquisition was rejected", c.request)));
        }
    }
}

fn spacing(n: u32, before: &Call<'_>, after: &Call<'_>, out: &mut Vec<Violation>) {
    let Some((_, at, got)) = before.returned.filter(|(i, _, _)| *i < after.sent) else {
        return out.push(Violation::at("acquire", after.sent, format!("{}: two in flight", after.request)));
    };
    // 423 waits for a dependency; every other 4xx but 429 is final.
    if before.ok() || (before.status() != Some(423) && before.status().is_some_and(|s| (400..500).contains(&s) && s != 429)) {
        out.push(Violation::at("acquire", after.sent, format!("{}: tried again after a final answer", after.request)));
    }
    let waited = after.sent_at.since(at);
    let jitter = ACQUIRE.jitter.map_or((0, 0), |j| (j.low_ms, j.high_ms));
    let ms = |d: Duration| i64::try_from(d.as_millis()).unwrap_or(i64::MAX);
    let plan = |extra: i64| Duration::from_millis(u64::try_from(ms(ACQUIRE.spacing.after(n)) + extra).unwrap_or(0));
    let (low, high) = match got {
        Got::Answer { status: 423 | 429 | 500.., retry_after_ms: Some(told), .. } => (Duration::from_millis(*told), Duration::from_millis(*told)),
        _ => (plan(jitter.0), plan(jitter.1)),
    };
    if waited + Duration::from_millis(1) < low || waited > high + SLACK {
        out.push(Violation::at("acquire", after.sent, format!("{}: after {waited:?}, the plan says {low:?} to {high:?}", after.request)));
    }
}

#[cfg(test)]
mod tests {
    use super::super::story::Story;
    use super::*;

    fn story() -> Story {
        Story::new().with(|s| s.acquire = true).connected(1)
    }

    fn tried(second: u64, status: u16, after: u64) -> Story {
        story().acquire(100, 1, "J", 0).got(120, 1, status).acquire(after, 2, "J", second).got(after + 20, 2, 200)
    }

    #[test]
    fn an_attempt_with_the_wrong_number_or_after_a_final_answer_is_seen() {
        tried(1, 423, 2_120).holds(INVARIANT);
        tried(0, 423, 2_120).breaks(INVARIANT);
        tried(1, 422, 2_120).breaks(INVARIANT);
        tried(1, 404, 2_120).breaks(INVARIANT);
    }

    #[test]
    fn an_attempt_too_early_or_too_late_is_seen() {
        tried(1, 503, 130).holds(INVARIANT);
        tried(1, 503, 6_100).holds(INVARIANT);
        tried(1, 503, 6_300).breaks(INVARIANT);
    }

    #[test]
    fn another_job_an_accept_and_a_ping_after_a_rejection_are_seen() {
        story().acquire(100, 1, "J", 0).got(120, 1, 423).acquire(2_120, 2, "K", 1).breaks(INVARIANT);
        story().sent(100, 1, "accept", "w1", "J").breaks(INVARIANT);
        let rejected = story().acquire(100, 1, "J", 0).got(120, 1, 422);
        rejected.clone().exit(900, 27).holds(INVARIANT);
        rejected.sent(500, 2, "ping", "w1", "").breaks(INVARIANT);
        Story::new().connected(1).acquire(100, 1, "J", 0).breaks(INVARIANT);
    }

    #[test]
    fn attempts_beyond_330_seconds_are_seen() {
        let held = |ms| story().acquire(100, 1, "J", 0).fact(ms, crate::trace::Fact::Returned { call: 1, got: Got::Dropped });
        held(330_100).holds(INVARIANT);
        held(331_000).breaks(INVARIANT);
    }
}
