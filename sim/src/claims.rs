//! What single families claim beyond the properties that hold on every run; a schedule names its claims.

use crate::invariants::Violation;
use crate::invariants::view::{SLACK, Setup, View};
use crate::schedule::Source;
use crate::trace::{Op, Trace};
use ibex_core::machine::Instant;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::time::Duration;

/// A claim of a family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Claim {
    /// R02: a rejected registration ends all others at once, and the process fails.
    OneFailsAll,
    /// R06: a rejected heartbeat, or a rejected ping where nothing else brings work, ends in exit 1, for the supervisor to restart.
    Fails,
    /// R07: no matter what all workers have met in the same second, their pings are spread over P.
    NoHerd,
    /// R14: a one-shot worker with a stream leaves within a second of its job's end.
    LeavesAtOnce,
}

/// Checks the claims of a run.
pub fn check(claims: &[Claim], setup: &Setup, trace: &Trace) -> Vec<Violation> {
    let v = View::new(setup, trace);
    let mut out = Vec::new();
    for claim in claims {
        match claim {
            Claim::OneFailsAll => one_fails_all(&v, &mut out),
            Claim::Fails => fails(&v, &mut out),
            Claim::NoHerd => no_herd(&v, &mut out),
            Claim::LeavesAtOnce => leaves_at_once(&v, &mut out),
        }
    }
    out
}

fn one_fails_all(v: &View<'_>, out: &mut Vec<Violation>) {
    let rejected =
        v.calls.values().filter(|c| c.request.op == Op::Register && c.rejected()).filter_map(|c| c.returned).map(|(i, at, _)| (i, at)).min();
    let Some((first, at)) = rejected else { return };
    for c in v.calls.values().filter(|c| c.sent > first && c.sent_at > at) {
        out.push(Violation::at("R02", c.sent, format!("{} after a registration was rejected", c.request)));
    }
    match v.exit {
        Some((_, end, code)) if v.signals.is_empty() && (code != 1 || end > at + SLACK) => {
            out.push(Violation::at(
                "R02",
                first,
                format!("a registration was rejected, and the process ended with {code} {:?} later", end.since(at)),
            ));
        }
        _ => {}
    }
}

/// A stop before it makes the end an ordinary one.
fn fails(v: &View<'_>, out: &mut Vec<Violation>) {
    let told = (1..=v.setup.workers).filter_map(|w| {
        let beats = v.heartbeat_rejected(w);
        let pings = v.of_worker(w, Op::Ping).into_iter().filter(|c| c.rejected() && v.setup.source == Source::Poll).find_map(|c| c.returned);
        [beats, pings.map(|(i, at, _)| (i, at))].into_iter().flatten().min()
    });
    let Some((i, _)) = told.min().filter(|(i, _)| v.first_stop_signal().is_none_or(|(stop, _)| stop > *i)) else { return };
    match v.exit {
        Some((_, _, code)) if code != 1 && v.third_signal().is_none() => {
            out.push(Violation::at("R06", i, format!("a worker was rejected, and the process ended with {code}")));
        }
        _ => {}
    }
}

/// Within an eighth of P at most three quarters of the workers ping: with random waits of U[0, P) (start-and-worker §9.6) that many
/// of twelve fall together once in ten million times, without them all do.
fn no_herd(v: &View<'_>, out: &mut Vec<Violation>) {
    let mut pings: Vec<(Instant, usize, u32)> =
        (1..=v.setup.workers).flat_map(|w| v.of_worker(w, Op::Ping).into_iter().map(move |c| (c.sent_at, c.sent, w))).collect();
    pings.sort_unstable();
    for (n, (from, entry, _)) in pings.iter().enumerate() {
        let together: BTreeSet<u32> = pings[n..].iter().take_while(|(at, _, _)| *at < *from + v.setup.ping / 8).map(|(_, _, w)| *w).collect();
        if together.len() as u32 * 4 > v.setup.workers * 3 {
            let text = format!("{} of {} workers ping within {:?}", together.len(), v.setup.workers, v.setup.ping / 8);
            return out.push(Violation::at("R07", *entry, text));
        }
    }
}

fn leaves_at_once(v: &View<'_>, out: &mut Vec<Violation>) {
    for job in v.jobs.values().filter(|j| j.started.is_some()) {
        let (Some(over), Some(worker)) = (job.over(), job.worker) else { continue };
        let done = v.entries[over].at;
        let left = v.of_worker(worker, Op::Disconnect).first().map(|c| c.sent_at);
        let last = left.or(v.exit.map(|(_, at, _)| at)).unwrap_or_else(|| v.entries[v.entries.len() - 1].at);
        if last > done + Duration::from_secs(1) + SLACK {
            out.push(Violation::at("R14", over, format!("one-shot worker {worker} lingers for {:?} after its job", last.since(done))));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::invariants::Invariant;
    use crate::invariants::story::Story;
    use ibex_core::process::ExitStatus;

    fn claim(id: &'static str, check: fn(&View<'_>, &mut Vec<Violation>)) -> Invariant {
        Invariant { id, title: "", rule: "", file: "", rows: &[], check }
    }

    #[test]
    fn a_registration_that_goes_on_after_another_was_rejected_is_seen() {
        let rejected = || Story::new().sent(0, 1, "register", "registration", "").sent(0, 2, "register", "registration", "").got(50, 1, 401);
        rejected().exit(60, 1).holds(claim("R02", one_fails_all));
        rejected().exit(60, 0).breaks(claim("R02", one_fails_all));
        rejected().got(60, 2, 200).sent(70, 3, "connect", "w2", "").exit(90, 1).breaks(claim("R02", one_fails_all));
    }

    #[test]
    fn a_rejected_worker_that_ends_well_is_seen() {
        let rejected = || Story::new().connected(1).sent(5_000, 1, "heartbeat", "w1", "").got(5_020, 1, 401);
        rejected().exit(6_000, 1).holds(claim("R06", fails));
        rejected().exit(6_000, 0).breaks(claim("R06", fails));
        Story::new()
            .connected(1)
            .signal(4_000, "TERM")
            .sent(5_000, 1, "heartbeat", "w1", "")
            .got(5_020, 1, 401)
            .exit(6_000, 0)
            .holds(claim("R06", fails));
    }

    #[test]
    fn workers_that_ping_in_lock_step_are_seen() {
        let pings = |apart: u64| {
            let setup = Story::new().with(|s| (s.workers, s.ping) = (8, Duration::from_secs(2)));
            (1..=8).fold(setup, |s, w| s.sent(9_000 + w * apart, w, "ping", &format!("w{w}"), ""))
        };
        pings(200).holds(claim("R07", no_herd));
        pings(10).breaks(claim("R07", no_herd));
    }

    #[test]
    fn a_one_shot_worker_that_lingers_is_seen() {
        let job =
            Story::new().connected(1).started(100).spawned(200).exited(300, ExitStatus::Code(0)).finish(310, 9, "0", "", "", 0).got(320, 9, 200);
        job.clone().sent(400, 10, "disconnect", "w1", "").holds(claim("R14", leaves_at_once));
        job.sent(3_000, 10, "disconnect", "w1", "").breaks(claim("R14", leaves_at_once));
    }
}
