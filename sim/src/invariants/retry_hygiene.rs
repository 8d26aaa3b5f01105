//! V10: classification is total; every attempt has its own limit; every sleep ends on cancel; the request rate is bounded under
//! every fault (races §0.1; agent-api §4; start-and-worker §0.3, I6, I15–I17; job-runner §1, I1, I19–I21).

use super::rows::Ref::{R, S};
use super::view::{Call, SLACK, View};
use super::{Invariant, Violation};
use crate::trace::{Got, Op};
use ibex_core::limits::{CHUNKS_IN_FLIGHT, EXCHANGE};
use ibex_core::machine::Instant;
use ibex_core::retry::{self, Plan};
use std::collections::BTreeMap;
use std::time::Duration;

pub(super) const INVARIANT: Invariant = Invariant {
    id: "V10",
    title: "retry hygiene",
    rule: "agent-api §4, job-runner §1, I19–I21: plans, limits and classification of every retry",
    file: file!(),
    rows: &[S(6), S(17), S(61), R(1), R(19), R(20), R(21)],
    check,
};

fn check(v: &View<'_>, out: &mut Vec<Violation>) {
    let end = v.entries.last().map_or(Instant::ZERO, |e| e.at);
    for c in v.calls.values() {
        let until = c.returned.map_or(end, |(_, at, _)| at);
        if c.request.op != Op::Stream && until.since(c.sent_at) > EXCHANGE + SLACK {
            out.push(Violation::at("V10", c.sent, format!("{} lasted {:?}, its limit is 60 s", c.request, until.since(c.sent_at))));
        }
    }
    for job in v.jobs.values() {
        for starts in job.starts_by_round() {
            plan(&retry::START, starts, None, out);
        }
        plan(&retry::FINISH, &job.finishes, None, out);
        let mut by_sequence: BTreeMap<u64, Vec<Call<'_>>> = BTreeMap::new();
        for c in &job.chunks {
            if let Some((sequence, ..)) = View::chunk(c) {
                by_sequence.entry(sequence).or_default().push(*c);
            }
        }
        for attempts in by_sequence.values() {
            plan(&retry::CHUNK, attempts, None, out);
        }
        window(&job.chunks, out);
        for w in 1..=v.setup.workers {
            let accepts: Vec<_> = job
                .accepts
                .iter()
                .filter(|c| c.request.op == Op::Accept && c.request.credential == crate::trace::Credential::Worker(w))
                .copied()
                .collect();
            accept(&accepts, out);
        }
    }
    for w in 1..=v.setup.workers {
        let calls = |op| v.of_worker(w, op).into_iter().copied().collect::<Vec<_>>();
        plan(&retry::CONNECT, &calls(Op::Connect), Some(true), out);
        plan(&retry::DISCONNECT, &calls(Op::Disconnect), Some(true), out);
        one_at_a_time(&calls(Op::Heartbeat), out);
    }
}

/// Number, spacing and causes of the attempts of one operation. `any`: every failure is retried, rejections too.
fn plan(plan: &Plan, attempts: &[Call<'_>], any: Option<bool>, out: &mut Vec<Violation>) {
    if let Some(extra) = attempts.get(plan.attempts as usize) {
        out.push(Violation::at("V10", extra.sent, format!("{}: more than {} attempts", extra.request, plan.attempts)));
    }
    for (n, pair) in (0u32..).zip(attempts.windows(2)) {
        let (before, after) = (&pair[0], &pair[1]);
        let Some((i, at, got)) = before.returned.filter(|(i, _, _)| *i < after.sent) else {
            out.push(Violation::at("V10", after.sent, format!("{}: an attempt while the one before is in flight", after.request)));
            continue;
        };
        if before.ok() {
            out.push(Violation::at("V10", after.sent, format!("{}: sent again after a success", after.request)));
        }
        if before.rejected() && any.is_none() {
            out.push(Violation::at(
                "V10",
                after.sent,
                format!("{}: tried again after {}, which is final", after.request, before.status().unwrap_or(0)),
            ));
        }
        let _ = i;
        let waited = after.sent_at.since(at);
        let told = match got {
            Got::Answer { retry_after_ms: Some(ms), .. } if plan.honours_retry_after => Some(Duration::from_millis(*ms)),
            _ => None,
        };
        let (low, high) = match (told, plan.jitter) {
            (Some(d), _) => (d, d),
            (None, None) => (plan.spacing.after(n), plan.spacing.after(n)),
            (None, Some(j)) => (plan.spacing.after(n), plan.spacing.after(n) + Duration::from_millis(j.high_ms.max(0) as u64)),
        };
        // A chunk may wait for a place in the window besides.
        let late = after.request.op != Op::Chunk && waited > high + SLACK;
        if waited + Duration::from_millis(1) < low || late {
            out.push(Violation::at(
                "V10",
                after.sent,
                format!("{}: attempt {} after {waited:?}, the plan says {low:?} to {high:?}", after.request, n + 2),
            ));
        }
    }
}

/// Accept: transport failures and undecodable answers are retried; any status ends it (R-accept).
fn accept(attempts: &[Call<'_>], out: &mut Vec<Violation>) {
    for pair in attempts.windows(2) {
        let (before, after) = (&pair[0], &pair[1]);
        // The same job may be offered again with a later ping; a retry comes 5 s after its failure.
        let Some((_, at, _)) = before.returned else { continue };
        let waited = after.sent_at.since(at);
        let status = before.status().filter(|s| !(200..300).contains(s));
        if status.is_none() && !before.ok() && waited + Duration::from_millis(1) < Duration::from_secs(5) {
            out.push(Violation::at("V10", after.sent, format!("{}: tried again after {waited:?}, the plan says 5 s", after.request)));
        }
    }
}

fn window(chunks: &[Call<'_>], out: &mut Vec<Violation>) {
    for c in chunks {
        let open = chunks.iter().filter(|o| o.sent < c.sent && o.returned.is_none_or(|(i, _, _)| i > c.sent)).count();
        if open >= CHUNKS_IN_FLIGHT {
            out.push(Violation::at("V10", c.sent, format!("{}: a fourth chunk in flight", c.request)));
        }
    }
    let mut firsts = 0;
    for c in chunks {
        let Some((sequence, ..)) = View::chunk(c) else { continue };
        if sequence > firsts + 1 {
            out.push(Violation::at("V10", c.sent, format!("{}: started before chunk {}", c.request, firsts + 1)));
        }
        firsts = firsts.max(sequence);
    }
}

fn one_at_a_time(calls: &[Call<'_>], out: &mut Vec<Violation>) {
    for pair in calls.windows(2) {
        if pair[0].returned.is_none_or(|(i, _, _)| i > pair[1].sent) {
            out.push(Violation::at("V10", pair[1].sent, format!("{}: two in flight", pair[1].request)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::story::Story;
    use super::*;
    use crate::trace::Fact;

    fn starts(status: u16, again: u64) -> Story {
        Story::new().connected(1).sent(100, 1, "start", "J", "J").got(120, 1, status).sent(again, 2, "start", "J", "J").got(again + 20, 2, 200)
    }

    #[test]
    fn a_rejection_that_is_retried_is_seen() {
        starts(503, 1_120).holds(INVARIANT);
        starts(422, 1_120).breaks(INVARIANT);
    }

    #[test]
    fn an_attempt_too_early_or_too_late_is_seen() {
        starts(503, 700).breaks(INVARIANT);
        starts(503, 3_000).breaks(INVARIANT);
    }

    #[test]
    fn retry_after_of_a_chunk_is_met() {
        let story = |again| {
            let told = Fact::Returned { call: 5, got: Got::Answer { status: 429, said: crate::trace::Said::Nothing, retry_after_ms: Some(7_000) } };
            Story::new().connected(1).chunk(100, 5, 1, 0, "x").fact(120, told).chunk(again, 6, 1, 0, "x").got(again + 20, 6, 200)
        };
        story(7_120).holds(INVARIANT);
        story(3_000).breaks(INVARIANT);
    }

    #[test]
    fn a_fifth_disconnect_is_seen() {
        let mut s = Story::new().connected(1);
        for (n, ms) in (0u64..5).zip([1_000, 2_020, 3_040, 4_060, 5_080]) {
            if n == 4 {
                s.clone().holds(INVARIANT);
            }
            s = s.sent(ms, 60 + n, "disconnect", "w1", "").got(ms + 20, 60 + n, 500);
        }
        s.breaks(INVARIANT);
    }

    #[test]
    fn a_call_without_a_limit_is_seen() {
        Story::new().connected(1).sent(100, 5, "ping", "w1", "").failed(60_100, 5).holds(INVARIANT);
        Story::new().connected(1).sent(100, 5, "ping", "w1", "").failed(75_000, 5).breaks(INVARIANT);
    }

    #[test]
    fn a_fourth_chunk_in_flight_is_seen() {
        let three = Story::new().chunk(100, 5, 1, 0, "x").chunk(100, 6, 2, 1, "x").chunk(100, 7, 3, 2, "x");
        three.clone().holds(INVARIANT);
        three.chunk(110, 8, 4, 3, "x").breaks(INVARIANT);
    }
}
