//! After a stop a worker disconnects at once, or with the one answer that must be awaited (connect and acquire 5 s at most, accept), or with
//! the end of its job (start-and-worker §9.11, I42).

use super::rows::Ref::S;
use super::view::{Job, Round, SLACK, View};
use super::{Invariant, Violation};
use crate::trace::Op;
use ibex_core::limits::STOP_WAITS_FOR_ANSWER;
use ibex_core::machine::Instant;
use std::time::Duration;

pub(super) const INVARIANT: Invariant = Invariant {
    id: "prompt-stop",
    title: "prompt stop",
    rule: "start-and-worker §9.11, I42: stop, at most one answer, at most one job, disconnect",
    file: file!(),
    rows: &[S(42)],
    check,
};

fn check(v: &View<'_>, out: &mut Vec<Violation>) {
    let end = v.entries.last().map_or(Instant::ZERO, |e| e.at);
    let end = v.exit.map_or(end, |(_, at, _)| at);
    for worker in 1..=v.setup.workers {
        let Some((stop, stopped)) = v.stop(worker) else { continue };
        let Some(limit) = limit(v, worker, stop, stopped) else { continue };
        // What is aborted must be gone first (§9.1, "Draining").
        let limit = limit + v.setup.abort + SLACK;
        match v.of_worker(worker, Op::Disconnect).first() {
            Some(c) if c.sent_at <= limit => {}
            Some(c) => {
                let text = format!("worker {worker} was stopped, and disconnected {:?} later than it should", c.sent_at.since(limit));
                out.push(Violation::at("prompt-stop", c.sent, text));
            }
            None if end <= limit => {}
            None => out.push(Violation::at("prompt-stop", stop, format!("worker {worker} was stopped, and has not disconnected by {limit:?}"))),
        }
    }
}

/// By when the disconnect is due; `None`: there will be none, or it waits for a job that does not end.
fn limit(v: &View<'_>, worker: u32, stop: usize, stopped: Instant) -> Option<Instant> {
    let jobs = || v.jobs.values().flat_map(|j| j.rounds.iter().map(move |r| (j, r))).filter(|(_, r)| r.worker == worker);
    let in_flight = |op| v.of_worker(worker, op).into_iter().find(|c| c.sent < stop && c.returned.is_none_or(|(i, at, _)| i > stop || at >= stopped));
    // In the instant of the stop an accept may have been sent, or its answer have come.
    let has_files = |j: &Job<'_>, r: &Round| !r.started && j.files_removed.is_some_and(|f| f > stop);
    if let Some((job, round)) = jobs().find(|(j, r)| r.over.is_none_or(|o| o > stop || v.entries[o].at == stopped) || has_files(j, r)) {
        return over(v, job, round).map(|at| at.max(stopped));
    }
    for op in [Op::Accept, Op::Acquire] {
        if let Some(c) = v.of_worker(worker, op).into_iter().find(|c| c.sent_at == stopped).or_else(|| in_flight(op)) {
            let (_, at, _) = c.returned?;
            return Some(if op == Op::Acquire { at.min(stopped + STOP_WAITS_FOR_ANSWER) } else { at }.max(stopped));
        }
    }
    if v.connected(worker).is_none_or(|(i, _)| i > stop) {
        // A second stop may be a forced one: the connect is given up then.
        let c = in_flight(Op::Connect)?;
        let (_, at, _) = c.returned.filter(|_| c.ok())?;
        return Some(at.min(stopped + STOP_WAITS_FOR_ANSWER));
    }
    Some(stopped)
}

/// When a job was over for its worker: settled, or after a forced stop with the answer of the start attempt in flight, and with the budget of
/// the finish (job-runner §7.5, §7.6). A graceful stop waits for as long as it takes.
fn over(v: &View<'_>, job: &Job<'_>, round: &Round) -> Option<Instant> {
    // A job that was not started is over when its files are gone (job-runner §2.1, step 3).
    let files = job.files_removed.filter(|_| !round.started).map_or(Instant::ZERO, |i| v.entries[i].at);
    if let Some(i) = round.over {
        return Some(v.entries[i].at.max(files));
    }
    let (_, forced) = v.forced_stop(round.worker)?;
    let (last, patience) =
        if round.started { (job.finishes.last()?, v.setup.signal_timeout + v.setup.cleanup_timeout) } else { (job.starts.last()?, Duration::ZERO) };
    last.returned.map(|(_, at, _)| at.max(forced + patience).max(files))
}

#[cfg(test)]
mod tests {
    use super::super::story::Story;
    use super::*;
    use crate::trace::Said;
    use ibex_core::process::ExitStatus;

    fn left(s: Story, ms: u64) -> Story {
        s.sent(ms, 90, "disconnect", "w1", "").got(ms + 20, 90, 200).exit(ms + 30, 0)
    }

    #[test]
    fn an_idle_worker_disconnects_at_once() {
        let idle = || Story::new().connected(1).signal(5_000, "TERM");
        left(idle(), 5_000).holds(INVARIANT);
        left(idle(), 7_000).breaks(INVARIANT);
        idle().exit(9_000, 0).breaks(INVARIANT);
    }

    #[test]
    fn an_accept_in_flight_is_awaited_and_nothing_else_is() {
        let calling = |op, job| Story::new().connected(1).sent(4_000, 1, op, "w1", job).signal(5_000, "TERM");
        left(calling("accept", "J").got(30_000, 1, 500), 30_000).holds(INVARIANT);
        left(calling("accept", "J").got(30_000, 1, 500), 33_000).breaks(INVARIANT);
        left(calling("ping", "").got(30_000, 1, 500), 30_000).breaks(INVARIANT);
    }

    #[test]
    fn an_acquire_in_flight_is_awaited_for_five_seconds() {
        let calling = |to| Story::new().with(|s| s.acquire = true).connected(1).acquire(4_000, 1, "J", 0).signal(5_000, "TERM").got(to, 1, 423);
        left(calling(9_000), 9_000).holds(INVARIANT);
        left(calling(30_000), 30_000).breaks(INVARIANT);
    }

    #[test]
    fn a_job_is_awaited_to_its_end_and_not_longer() {
        let job = Story::new().connected(1).started(100).spawned(200).signal(500, "TERM").exited(9_000, ExitStatus::Code(0));
        let over = || job.clone().finish(9_010, 9, "0", "", "", 0).got(9_030, 9, 200);
        left(over(), 9_030).holds(INVARIANT);
        left(over(), 11_000).breaks(INVARIANT);
    }

    #[test]
    fn the_files_of_a_job_whose_start_was_refused_before_the_stop_are_awaited() {
        let refused = || Story::new().connected(1).accepted(100).sent(130, 5, "start", "J", "J").got(150, 5, 422).signal(400, "TERM");
        left(refused().removed(900), 900).holds(INVARIANT);
        left(refused().removed(900), 1_500).breaks(INVARIANT);
        left(refused(), 900).breaks(INVARIANT);
    }

    #[test]
    fn a_start_that_is_retried_is_awaited_until_a_forced_stop() {
        let trying = Story::new().connected(1).accepted(100).sent(120, 2, "start", "J", "J").got(140, 2, 503).signal(500, "TERM");
        trying.clone().exit(900, 0).holds(INVARIANT);
        left(trying.clone().signal(700, "TERM"), 700).holds(INVARIANT);
        left(trying.signal(700, "TERM"), 3_000).breaks(INVARIANT);
    }

    #[test]
    fn a_connect_in_flight_is_awaited_for_five_seconds() {
        let connecting = || Story::new().sent(0, 1, "connect", "w1", "").signal(1_000, "TERM");
        left(connecting().got(3_000, 1, 200), 3_000).holds(INVARIANT);
        left(connecting().got(3_000, 1, 200), 5_000).breaks(INVARIANT);
        connecting().got(3_000, 1, 503).exit(3_010, 0).holds(INVARIANT);
    }

    #[test]
    fn the_servers_disconnect_is_a_stop() {
        let said = Said::Ping { action: "disconnect".into(), job: None, endpoint: String::new() };
        let told = Story::new().connected(1).sent(1_000, 1, "ping", "w1", "").said(1_020, 1, said);
        left(told.clone(), 1_020).holds(INVARIANT);
        left(told, 3_000).breaks(INVARIANT);
    }
}
