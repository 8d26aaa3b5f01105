//! V15: idle and one-shot exits never fire over a held or just delivered job, and do fire within a bound otherwise
//! (races §0.1, R09, R10, R14; start-and-worker §6, I25, I30).

use super::rows::Ref::S;
use super::view::{SLACK, View};
use super::{Invariant, Violation};
use crate::trace::{Got, Op, Payload, Said};
use std::time::Duration;

pub(super) const INVARIANT: Invariant = Invariant {
    id: "V15",
    title: "policies",
    rule: "start-and-worker §6, §9.9, I25, I30: one job in one-shot mode; idle exit only after T of idleness",
    file: file!(),
    rows: &[S(25), S(29), S(30)],
    check,
};

fn check(v: &View<'_>, out: &mut Vec<Violation>) {
    for worker in 1..=v.setup.workers {
        if v.setup.one_shot {
            one_shot(v, worker, out);
        }
        // An acquired job does not ask for it (§9.4; job-runner §2.4).
        let asks = (v.setup.one_shot && !v.setup.acquire).then_some(true);
        for c in v.jobs.values().filter(|j| j.worker == Some(worker)).flat_map(|j| &j.finishes) {
            if !matches!(c.request.payload, Payload::Finish { ignore_agent, .. } if ignore_agent == asks) {
                out.push(Violation::at("V15", c.sent, format!("a finish should tell of no more work as {asks:?}")));
            }
        }
        // A worker that has done what it acquired, or its one job, leaves with the next message, whoever else is busy (§9.9, 6 and 7).
        if let Some(idle) = v.setup.idle.filter(|_| !v.setup.one_shot && !v.setup.acquire) {
            idle_exit(v, worker, idle, out);
        }
        if let Some(uptime) = v.setup.uptime {
            old(v, worker, uptime, out);
        }
    }
}

fn one_shot(v: &View<'_>, worker: u32, out: &mut Vec<Violation>) {
    // A job that was started and is over; a later accept of this worker is one too many.
    let done = v.jobs.values().filter(|j| j.worker == Some(worker) && j.started.is_some()).filter_map(super::view::Job::over).min();
    let Some(done) = done else { return };
    if let Some(c) = v.of_worker(worker, Op::Accept).iter().find(|c| c.sent > done) {
        out.push(Violation::at("V15", c.sent, format!("{} of a one-shot worker that ran its job", c.request)));
    }
    // It leaves with the first ping that succeeds and is no pause: at most 2 P and an answer later.
    let told = v.of_worker(worker, Op::Ping).into_iter().find_map(|c| match c.returned {
        Some((i, at, Got::Answer { status: 200..=299, said: Said::Ping { action, .. }, .. })) if i > done && action != "pause" => Some(at),
        _ => None,
    });
    // The disconnect waits for a heartbeat that is aborted to be gone (§9.1, "Draining").
    let slack = SLACK + v.setup.abort;
    let left = v.of_worker(worker, Op::Disconnect).first().map(|c| c.sent_at);
    match (told, left) {
        (Some(told), None) if v.entries.last().is_some_and(|e| e.at > told + slack) && v.exit.is_none_or(|(_, at, _)| at > told + slack) => {
            out.push(Violation::at("V15", done, format!("one-shot worker {worker} ran its job, was told of no pause, and stays")));
        }
        (Some(told), Some(left)) if left > told + slack => {
            out.push(Violation::at("V15", done, format!("one-shot worker {worker} left {:?} after the ping that let it", left.since(told))));
        }
        _ => {}
    }
}

/// After the limit nothing new is accepted, but a job of that very instant is (§0.2); attempts of an accept that was begun go on (I29).
fn old(v: &View<'_>, worker: u32, uptime: Duration, out: &mut Vec<Violation>) {
    let Some((_, from)) = v.serving(worker) else { return };
    let mut begun: Option<&crate::trace::JobId> = None;
    for c in v.of_worker(worker, Op::Accept) {
        let again = begun == c.request.job.as_ref();
        if c.sent_at > from + uptime + SLACK && !again {
            out.push(Violation::at("V15", c.sent, format!("{} {:?} after the uptime limit", c.request, c.sent_at.since(from + uptime))));
        }
        // Only a failure without an answer is followed by another attempt.
        begun = c.request.job.as_ref().filter(|_| c.status().is_none_or(|s| (200..300).contains(&s)) && !c.ok());
    }
}

fn idle_exit(v: &View<'_>, worker: u32, idle: Duration, out: &mut Vec<Violation>) {
    let Some(left) = v.of_worker(worker, Op::Disconnect).first().copied().copied() else { return };
    if v.stop(worker).is_some_and(|(i, _)| i < left.sent) || v.sources_ended(worker).is_some_and(|i| i < left.sent) {
        return;
    }
    // Once the uptime limit has fired it left for that.
    if let (Some(uptime), Some((_, from))) = (v.setup.uptime, v.serving(worker))
        && left.sent_at >= from + uptime
    {
        return;
    }
    // Nobody may leave for idleness within T of any job of the pool that was still going on.
    for (id, job) in &v.jobs {
        for r in job.rounds.iter().filter(|r| r.accepted.0 < left.sent) {
            match r.over.map(|i| (i, v.entries[i].at)) {
                Some((i, at)) if i < left.sent && left.sent_at + SLACK >= at + idle => {}
                // The worker that held it has died.
                _ if v.of_worker(r.worker, Op::Disconnect).iter().any(|c| c.sent > r.accepted.0 && c.sent < left.sent) => {}
                _ => out.push(Violation::at("V15", left.sent, format!("worker {worker} left for idleness over {id}"))),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::story::Story;
    use super::*;
    use ibex_core::process::ExitStatus;

    fn job() -> Story {
        Story::new().connected(1).started(100).spawned(200).exited(300, ExitStatus::Code(0)).finish(310, 9, "0", "", "", 0).got(320, 9, 200)
    }

    #[test]
    fn a_second_job_of_a_one_shot_agent_is_seen() {
        job().sent(900, 20, "accept", "w1", "K").holds(INVARIANT);
        job().with(|s| s.one_shot = true).sent(900, 20, "accept", "w1", "K").breaks(INVARIANT);
    }

    #[test]
    fn an_idle_exit_over_a_job_is_seen() {
        let story = |ms| job().with(|s| s.idle = Some(Duration::from_secs(30))).sent(ms, 7, "disconnect", "w1", "").exit(ms + 30, 0);
        story(30_400).holds(INVARIANT);
        story(20_000).breaks(INVARIANT);
    }

    #[test]
    fn an_idle_exit_over_a_job_is_seen_also_with_an_uptime_limit_that_has_not_fired() {
        let story = |uptime| {
            let set = job().with(|s| s.idle = Some(Duration::from_secs(30))).with(|s| s.uptime = Some(Duration::from_secs(uptime)));
            set.sent(20_000, 7, "disconnect", "w1", "").exit(20_030, 0)
        };
        story(19).holds(INVARIANT);
        story(25).breaks(INVARIANT);
    }

    #[test]
    fn an_accept_after_the_uptime_limit_is_seen() {
        let limit = |s: &mut crate::invariants::view::Setup| s.uptime = Some(Duration::from_secs(10));
        let at = |ms| Story::new().connected(1).with(limit).sent(ms, 20, "accept", "w1", "K");
        at(9_900).holds(INVARIANT);
        at(12_000).breaks(INVARIANT);
        at(9_900).failed(9_950, 20).sent(14_950, 21, "accept", "w1", "K").holds(INVARIANT);
        at(9_900).got(9_950, 20, 500).sent(14_950, 21, "accept", "w1", "K").breaks(INVARIANT);
    }

    #[test]
    fn a_finish_that_asks_for_no_more_work_without_need_is_seen() {
        let asks = |s: Story| s.asking(310, 9, Some(true)).got(320, 9, 200);
        let base = || Story::new().connected(1).started(100).spawned(200).exited(300, ExitStatus::Code(0));
        asks(base()).breaks(INVARIANT);
        asks(base()).with(|s| s.one_shot = true).holds(INVARIANT);
        asks(base()).with(|s| (s.one_shot, s.acquire) = (true, true)).breaks(INVARIANT);
        job().with(|s| s.one_shot = true).breaks(INVARIANT);
    }
}
