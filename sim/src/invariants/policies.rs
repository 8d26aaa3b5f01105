//! V15: idle and one-shot exits never fire over a held or just delivered job, and do fire within a bound otherwise
//! (races §0.1, R09, R10, R14; start-and-worker §6, I25, I30).

use super::rows::Ref::S;
use super::view::{SLACK, View};
use super::{Invariant, Violation};
use crate::trace::{Got, Op, Said};
use std::time::Duration;

pub(super) const INVARIANT: Invariant = Invariant {
    id: "V15",
    title: "policies",
    rule: "start-and-worker §6, §9.9, I25, I30: one job in one-shot mode; idle exit only after T of idleness",
    file: file!(),
    rows: &[S(25), S(30)],
    check,
};

fn check(v: &View<'_>, out: &mut Vec<Violation>) {
    for worker in 1..=v.setup.workers {
        if v.setup.one_shot {
            one_shot(v, worker, out);
        }
        // With an uptime limit, or in acquire mode, a worker leaves for other reasons too, which the wire does not tell apart.
        if let Some(idle) = v.setup.idle.filter(|_| !v.setup.one_shot && !v.setup.acquire && v.setup.uptime.is_none()) {
            idle_exit(v, worker, idle, out);
        }
    }
}

fn one_shot(v: &View<'_>, worker: u32, out: &mut Vec<Violation>) {
    // A job that was started and is over; a later accept of this worker is one too many.
    let done = v.jobs.values().filter(|j| j.worker == Some(worker) && j.started.is_some()).filter_map(super::view::Job::over).min();
    let Some(done) = done else { return };
    let at = v.entries[done].at;
    if let Some(c) = v.of_worker(worker, Op::Accept).iter().find(|c| c.sent > done) {
        out.push(Violation::at("V15", c.sent, format!("{} of a one-shot worker that ran its job", c.request)));
    }
    // It leaves with the first ping that succeeds and is no pause: at most 2 P and an answer later.
    let told = v.of_worker(worker, Op::Ping).into_iter().find_map(|c| match c.returned {
        Some((i, at, Got::Answer { status: 200..=299, said: Said::Ping { action, .. }, .. })) if i > done && action != "pause" => Some(at),
        _ => None,
    });
    let left = v.of_worker(worker, Op::Disconnect).first().map(|c| c.sent_at);
    match (told, left) {
        (Some(told), None) if v.entries.last().is_some_and(|e| e.at > told + SLACK) && v.exit.is_none_or(|(_, at, _)| at > told + SLACK) => {
            out.push(Violation::at("V15", done, format!("one-shot worker {worker} ran its job, was told of no pause, and stays")));
        }
        (Some(told), Some(left)) if left > told + SLACK => {
            out.push(Violation::at("V15", done, format!("one-shot worker {worker} left {:?} after the ping that let it", left.since(told))));
        }
        _ => {}
    }
    // An acquired job does not ask for it (job-runner §2.3).
    for c in v.jobs.values().filter(|j| j.worker == Some(worker) && !v.setup.acquire).flat_map(|j| &j.finishes) {
        if !matches!(c.request.payload, crate::trace::Payload::Finish { ignore_agent: Some(true), .. }) {
            out.push(Violation::at("V15", c.sent, "a finish of a one-shot worker does not ask for no more work".into()));
        }
    }
    let _ = at;
}

fn idle_exit(v: &View<'_>, worker: u32, idle: Duration, out: &mut Vec<Violation>) {
    let Some(left) = v.of_worker(worker, Op::Disconnect).first().copied().copied() else { return };
    if v.stop(worker).is_some_and(|(i, _)| i < left.sent) || v.of_worker(worker, Op::Ping).iter().any(|c| c.rejected()) {
        return;
    }
    // Nobody may leave for idleness within T of any job of the pool that was still going on.
    for (id, job) in &v.jobs {
        let Some((accepted, _)) = job.accepted.filter(|(i, _)| *i < left.sent) else { continue };
        let over = job.over().map(|i| (i, v.entries[i].at));
        match over {
            Some((i, at)) if i < left.sent && left.sent_at + SLACK >= at + idle => {}
            // The worker that held it has died.
            _ if job.worker.is_some_and(|w| v.of_worker(w, Op::Disconnect).iter().any(|c| c.sent > accepted && c.sent < left.sent)) => {}
            _ => out.push(Violation::at("V15", left.sent, format!("worker {worker} left for idleness over {id}"))),
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
}
