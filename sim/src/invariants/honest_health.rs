//! V16: health and watchdog are bad whenever no contact has succeeded for two intervals; the job shown is the job held
//! (races §0.1, R23; start-and-worker §7, §8, I59, I62).

use super::rows::Ref::S;
use super::view::{SLACK, View};
use super::{Invariant, Violation};
use crate::schedule::Source;
use crate::trace::{Entry, Fact, JobId, Op};
use ibex_core::machine::Instant;

pub(super) const INVARIANT: Invariant = Invariant {
    id: "V16",
    title: "honest health",
    rule: "start-and-worker §8, I59, I62: no watchdog without contact in 2 H; the status page shows the job held",
    file: file!(),
    rows: &[S(59), S(62)],
    check,
};

fn check(v: &View<'_>, out: &mut Vec<Violation>) {
    for (i, e) in v.entries.iter().enumerate() {
        match &e.fact {
            Fact::Metric(m) if m == "watchdog" => watchdog(v, i, out),
            Fact::Health { worker, job: Some(id), .. } => {
                let held = v.jobs.get(id).is_some_and(|j| {
                    let until = |over: usize, started: bool| if started { over } else { removed(v, id, over) };
                    let holds = |o: Option<usize>, started| o.is_none_or(|o| v.entries[until(o, started)].at >= e.at);
                    j.rounds.iter().any(|r| r.worker == *worker && r.accepted.0 <= i && holds(r.over, r.started))
                });
                if !held {
                    out.push(Violation::at("V16", i, format!("worker {worker} is shown with {id}, which it does not hold")));
                }
            }
            Fact::Health { worker, job: None, .. } => {
                let held = v.jobs.iter().find(|(_, j)| {
                    j.worker == Some(*worker)
                        && j.started.is_some_and(|(s, at)| s < i && at < e.at)
                        && j.over().is_none_or(|o| o > i)
                        && j.finishes.is_empty()
                });
                if let Some((id, _)) = held.filter(|_| v.exit.is_none_or(|(x, _, _)| x > i)) {
                    out.push(Violation::at("V16", i, format!("worker {worker} is shown as idle while it holds {id}")));
                }
            }
            _ => {}
        }
    }
}

/// Where a job whose start was refused is off its worker's hands: its files are removed first, so that nothing of it stays behind
/// (job-runner §2.1, W4; start-and-worker §9.10, step 5).
fn removed(v: &View<'_>, id: &JobId, over: usize) -> usize {
    let next = |e: &Entry| match &e.fact {
        Fact::FilesRemoved { job } => (job == id).then_some(true),
        // The worker has gone on to something else.
        Fact::Sent(r) if r.op == Op::Accept && r.job.as_ref() == Some(id) => Some(false),
        _ => None,
    };
    let found = v.entries.iter().enumerate().skip(over).find_map(|(i, e)| next(e).map(|removed| (i, removed)));
    found.filter(|(_, removed)| *removed).map_or(over, |(i, _)| i)
}

/// Who serves must have had contact, nobody may have failed, and the pool must still be there (§8, I59).
fn watchdog(v: &View<'_>, i: usize, out: &mut Vec<Violation>) {
    let at = v.entries[i].at;
    let mut fed = |text: String| out.push(Violation::at("V16", i, format!("the watchdog was fed, but {text}")));
    let over = |e: &Entry| matches!(&e.fact, Fact::Transition(t) if t.machine == "pool" && t.to == "Finished");
    if v.entries[..i].iter().any(over) {
        fed("the pool has finished".into());
    }
    for worker in 1..=v.setup.workers {
        let before = |r: Option<(usize, Instant)>| r.is_some_and(|(r, _)| r < i);
        let finished = v.steps(worker, "worker").find(|(s, t)| *s < i && matches!(t.to, "Closing" | "Finished"));
        if let Some((_, step)) = finished {
            let gave_up = step.from == "Connecting" && step.event == "gave up";
            if gave_up || before(v.heartbeat_rejected(worker)) || v.sources_ended(worker).is_some_and(|s| s < i && v.setup.source != Source::Auto) {
                fed(format!("worker {worker} has failed"));
            }
            continue;
        }
        let Some((_, since)) = v.connected(worker).filter(|(c, _)| *c < i) else { continue };
        if v.of_worker(worker, Op::Disconnect).iter().any(|c| c.sent < i) {
            continue;
        }
        let beats = v.of_worker(worker, Op::Heartbeat).into_iter().filter(|c| c.ok()).filter_map(|c| c.returned).filter(|r| r.0 < i);
        let contact = beats.map(|r| r.1).max().unwrap_or(since).max(since);
        if at.since(contact) > v.setup.heartbeat * 2 + SLACK {
            fed(format!("worker {worker} had no contact for {:?}", at.since(contact)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::story::Story;
    use super::*;

    #[test]
    fn a_watchdog_without_contact_is_seen() {
        let fed = |ms| Story::new().connected(1).fact(ms, Fact::Metric("watchdog".into()));
        fed(19_000).holds(INVARIANT);
        fed(31_000).breaks(INVARIANT);
    }

    #[test]
    fn a_watchdog_fed_for_a_failed_worker_or_after_the_pool_is_seen() {
        let fed = |s: Story| s.fact(900, Fact::Metric("watchdog".into()));
        let left = |status| {
            let beat = Story::new().connected(1).sent(500, 5, "heartbeat", "w1", "").got(520, 5, status);
            beat.sent(530, 6, "disconnect", "w1", "").got(550, 6, 200).step(550, "worker", "Disconnecting", "disconnected", "Finished")
        };
        fed(left(200)).holds(INVARIANT);
        fed(left(401)).breaks(INVARIANT);
        fed(left(200).pool_step(560, "worker finished", "Finished")).breaks(INVARIANT);
    }

    #[test]
    fn a_job_that_is_shown_and_not_held_is_seen() {
        let shown = |job: &str| Fact::Health { worker: 1, state: "running", job: Some(job.into()), bad: false };
        Story::new().connected(1).started(100).fact(200, shown("J")).holds(INVARIANT);
        Story::new().connected(1).started(100).fact(200, shown("K")).breaks(INVARIANT);
        let refused = || Story::new().connected(1).accepted(100).sent(130, 5, "start", "J", "J").got(150, 5, 422);
        refused().fact(400, shown("J")).removed(500).holds(INVARIANT);
        refused().removed(300).fact(400, shown("J")).breaks(INVARIANT);
        refused().fact(400, shown("J")).breaks(INVARIANT);
    }

    #[test]
    fn a_worker_shown_as_idle_with_a_job_is_seen() {
        Story::new().connected(1).started(100).fact(200, Fact::Health { worker: 1, state: "idle", job: None, bad: false }).breaks(INVARIANT);
    }
}
