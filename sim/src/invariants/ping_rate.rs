//! How often a worker pings: the first one at a random instant of the first interval, later ones at the pace of the grid, one more for
//! each job and each fallback, none after a rejection (start-and-worker §9.6, I14–I16).

use super::rows::Ref::S;
use super::view::{Call, SLACK, View};
use super::{Invariant, Violation};
use crate::schedule::Source;
use crate::trace::{Got, Op, Said};
use std::time::Duration;

pub(super) const INVARIANT: Invariant = Invariant {
    id: "pings",
    title: "ping rate",
    rule: "start-and-worker §9.6, I14–I16: at most floor(L/P) + 2 in any window, and one for each job and fallback in it",
    file: file!(),
    rows: &[S(14), S(15), S(16)],
    check,
};

/// Windows up to so many pings are looked at.
const WINDOW: usize = 12;
/// The grid of simulated time.
const TICK: Duration = Duration::from_millis(20);

fn check(v: &View<'_>, out: &mut Vec<Violation>) {
    for worker in 1..=v.setup.workers {
        let all = v.of_worker(worker, Op::Ping);
        let pings: Vec<_> = all.iter().zip(tests(&all)).filter(|(_, test)| !test).map(|(ping, _)| *ping).collect();
        if let Some((i, at, _)) = pings.iter().find(|c| c.rejected()).and_then(|c| c.returned)
            && let Some(later) = pings.iter().find(|c| c.sent > i && c.sent_at > at)
        {
            out.push(Violation::at("pings", later.sent, format!("{}: a ping after one was rejected", later.request)));
        }
        for pair in all.windows(2) {
            if pair[0].returned.is_none_or(|(i, _, _)| i > pair[1].sent) {
                out.push(Violation::at("pings", pair[1].sent, format!("{}: two in flight", pair[1].request)));
            }
        }
        first(v, worker, &pings, out);
        rate(v, worker, &pings, out);
    }
}

/// Which pings test the endpoint that the one before has named: those do not count, and what becomes of them concerns that endpoint only;
/// what a test names is not followed (§9.6, "Endpoint switch").
fn tests(pings: &[&Call<'_>]) -> Vec<bool> {
    let mut tests: Vec<bool> = Vec::new();
    for (n, ping) in pings.iter().enumerate() {
        let before = n.checked_sub(1).filter(|m| !tests[*m]).map(|m| pings[m]);
        tests.push(before.is_some_and(|b| {
            matches!(b.returned, Some((_, at, Got::Answer { status: 200..=299, said: Said::Ping { endpoint, .. }, .. }))
                if at == ping.sent_at && *endpoint == ping.request.endpoint && *endpoint != b.request.endpoint)
        }));
    }
    tests
}

/// In poll-only the first ping comes within the first interval of serving (I14).
fn first(v: &View<'_>, worker: u32, pings: &[&Call<'_>], out: &mut Vec<Violation>) {
    let Some((from, at)) = v.serving(worker) else { return };
    if v.setup.source != Source::Poll {
        return;
    }
    let limit = at + v.setup.ping + SLACK;
    let gone = v.leaves(worker);
    match pings.first() {
        Some(p) if p.sent_at < at || p.sent_at > limit => {
            let text = format!("the first ping of worker {worker} came {:?} after serving began, P is {:?}", p.sent_at.since(at), v.setup.ping);
            out.push(Violation::at("pings", p.sent, text));
        }
        None if gone > limit => out.push(Violation::at("pings", from, format!("worker {worker} serves, and never pings"))),
        _ => {}
    }
}

fn rate(v: &View<'_>, worker: u32, pings: &[&Call<'_>], out: &mut Vec<Violation>) {
    let ends: Vec<_> =
        v.jobs.values().flat_map(|j| &j.rounds).filter(|r| r.worker == worker && r.started).filter_map(|r| Some(v.entries[r.over?].at)).collect();
    let fallbacks: Vec<_> = v.steps(worker, "gate").filter(|(_, t)| t.event == "stream lets go").map(|(i, _)| v.entries[i].at).collect();
    // A tick that passes before the answer is kept; it begins its random wait with the answer. The ping after it may be later than its own
    // interval, which the plain bound does not allow for: one more in the windows that begin with it.
    let kept: Vec<_> =
        v.steps(worker, "poll").filter(|(_, t)| t.from == "AwaitDone" && t.event == "done" && t.to == "Jitter").map(|(i, _)| i).collect();
    let p = v.setup.ping.as_nanos().max(1);
    for a in 0..pings.len() {
        let before = a.checked_sub(1).map_or(0, |n| pings[n].sent);
        let late = u128::from(kept.iter().any(|i| *i > before && *i < pings[a].sent));
        for b in a + 2..pings.len().min(a + WINDOW) {
            let (from, to) = (pings[a].sent_at, pings[b].sent_at);
            let within = |times: &[ibex_core::machine::Instant]| times.iter().filter(|t| **t >= from && **t <= to).count() as u128;
            let length = to.since(from);
            let allowed = (length + TICK).as_nanos() / p + 2 + within(&ends) + within(&fallbacks) + late;
            let count = (b - a + 1) as u128;
            if count > allowed {
                let text = format!("worker {worker}: {count} pings within {length:?}, allowed are {allowed}");
                out.push(Violation::at("pings", pings[b].sent, text));
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::story::Story;
    use super::*;

    fn pings(times: &[u64], status: u16) -> Story {
        let mut s = Story::new().connected(1);
        for (ms, call) in times.iter().zip(70..) {
            s = s.sent(*ms, call, "ping", "w1", "").got(ms + 10, call, status);
        }
        s
    }

    #[test]
    fn a_storm_of_pings_is_seen() {
        pings(&[1_000, 3_000, 5_000, 7_000], 200).holds(INVARIANT);
        pings(&[1_000, 1_100, 1_200], 200).breaks(INVARIANT);
    }

    #[test]
    fn a_failed_ping_that_is_retried_by_itself_is_seen() {
        pings(&[1_900, 2_000, 4_000], 503).holds(INVARIANT);
        pings(&[1_900, 2_000, 3_000], 503).breaks(INVARIANT);
    }

    /// The first of three that come together was late by a tick that its predecessor's answer had missed.
    #[test]
    fn a_kept_tick_allows_one_more_ping_and_nothing_else_does() {
        let story = |kept| {
            let hanging = Story::new().connected(1).sent(1_000, 70, "ping", "w1", "").got(3_900, 70, 200);
            let s = if kept { hanging.step(3_900, "poll", "AwaitDone", "done", "Jitter") } else { hanging };
            [5_800, 5_850, 6_000].into_iter().zip(71..).fold(s, |s, (ms, call)| s.sent(ms, call, "ping", "w1", "").got(ms + 10, call, 200))
        };
        story(true).holds(INVARIANT);
        story(false).breaks(INVARIANT);
    }

    #[test]
    fn a_first_ping_outside_its_interval_is_seen() {
        pings(&[2_000], 200).holds(INVARIANT);
        pings(&[2_500], 200).breaks(INVARIANT);
        Story::new().connected(1).exit(1_000, 0).holds(INVARIANT);
        Story::new().connected(1).exit(9_000, 0).breaks(INVARIANT);
    }

    #[test]
    fn a_ping_after_a_rejection_is_seen() {
        pings(&[1_000], 401).holds(INVARIANT);
        pings(&[1_000, 3_000], 401).breaks(INVARIANT);
    }

    /// The test of another endpoint is no ping of the grid, and its rejection rejects the endpoint only.
    #[test]
    fn only_the_ping_after_another_endpoint_was_named_is_a_test() {
        let story = |endpoint: &str| {
            let said = Said::Ping { action: String::new(), job: None, endpoint: endpoint.into() };
            let named = Story::new().connected(1).sent(1_000, 70, "ping", "w1", "").said(1_010, 70, said);
            named.sent_at_other(1_010, 71, "ping", "w1").got(1_020, 71, 401).sent(3_000, 72, "ping", "w1", "").got(3_010, 72, 200)
        };
        story("/alt/v3").holds(INVARIANT);
        story("").breaks(INVARIANT);
    }

    #[test]
    fn two_pings_in_flight_are_seen() {
        Story::new().connected(1).sent(100, 5, "ping", "w1", "").sent(1_900, 6, "ping", "w1", "").breaks(INVARIANT);
    }
}
