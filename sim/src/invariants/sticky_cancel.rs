//! V3: after a cancel or forced stop was observed for a job, in whatever state, its process is not spawned, and a running one
//! is being ended: one interrupt, then a kill after the grace period and not earlier
//! (races §0.1; start-and-worker I4, I5; job-runner §7.3, I32–I37, I44).

use super::rows::Ref::{R, S};
use super::view::{Job, SLACK, View};
use super::{Invariant, Violation};
use ibex_core::agent::OsSignal;
use ibex_core::machine::Instant;
use std::time::Duration;

pub(super) const INVARIANT: Invariant = Invariant {
    id: "V3",
    title: "sticky cancel",
    rule: "job-runner I32–I36: no spawn after a cancel; interrupt once, kill after S",
    file: file!(),
    rows: &[S(4), S(5), S(20), S(24), R(32), R(33), R(34), R(35), R(36), R(37), R(44), R(46)],
    check,
};

fn check(v: &View<'_>, out: &mut Vec<Violation>) {
    for (id, job) in &v.jobs {
        let cause = job.causes.first().copied();
        if let Some((_, at, _)) = cause {
            for &(i, spawn_at) in job.spawns.iter().filter(|(_, s)| *s > at) {
                out.push(Violation::at("V3", i, format!("{id} was spawned {:?} after its cancel was observed", spawn_at.since(at))));
            }
        }
        if let Some((_, at, _)) = cause {
            // The attempt in flight may complete, and one attempt is owed; no other is made (job-runner §7.6).
            for c in job.starts.iter().skip(1).filter(|c| c.sent_at > at) {
                out.push(Violation::at("V3", c.sent, format!("start of {id} was tried again {:?} after its cancel", c.sent_at.since(at))));
            }
        }
        // Once the leader is reaped only members of a group that is known not to be empty may be signalled (job-runner I37).
        // In the instant of the exit the agent may not have heard of it yet; the world then lets the signal reach nobody.
        let gone = job.reaped.map(|(i, at, _)| (i, at));
        for &(i, at, s) in job.signals.iter().filter(|(i, at, _)| gone.is_some_and(|(r, reaped)| r < *i && reaped < *at)) {
            let alive = job.members.iter().rev().find(|(m, _)| *m < i).map_or(0, |(_, alive)| *alive);
            if alive == 0 && v.exit.is_none_or(|(_, exit, _)| exit != at) {
                out.push(Violation::at("V3", i, format!("{} was sent to the group of {id}, which is gone", s.name())));
            }
        }
        let interrupts: Vec<_> = job.signals.iter().filter(|(_, _, s)| *s != OsSignal::Kill).collect();
        if let Some(&&(i, _, _)) = interrupts.get(1) {
            out.push(Violation::at("V3", i, format!("a second interrupt was sent to {id}")));
        }
        match cause {
            None => {
                if let Some(&(i, _, s)) = job.signals.first() {
                    out.push(Violation::at("V3", i, format!("{id} was never cancelled, but its group was sent {}", s.name())));
                }
            }
            Some((_, at, _)) => ladder(v, id, job, at, out),
        }
    }
}

/// Interrupt at the cancel (or at the start of the process), kill `S` later.
fn ladder(v: &View<'_>, id: &str, job: &Job<'_>, cancelled: Instant, out: &mut Vec<Violation>) {
    let Some((spawn_entry, spawned)) = job.spawned else { return };
    let due = cancelled.max(spawned);
    let end = v.exit.map_or_else(|| v.entries.last().map_or(due, |e| e.at), |(_, at, _)| at);
    let ended_by = |limit: Instant| job.reaped.is_some_and(|(_, at, _)| at <= limit) || end <= limit;
    let interrupt = job.signals.iter().find(|(_, _, s)| *s != OsSignal::Kill).copied();
    let kill = job.signals.iter().find(|(_, _, s)| *s == OsSignal::Kill).copied();
    match interrupt {
        None if !ended_by(due + SLACK) => {
            out.push(Violation::at("V3", spawn_entry, format!("{id} was cancelled while its process ran, and it was not interrupted")));
        }
        Some((i, at, _)) if at > due + SLACK => {
            out.push(Violation::at("V3", i, format!("{id} was interrupted {:?} after its cancel", at.since(due))));
        }
        _ => {}
    }
    let Some((_, first, _)) = interrupt else { return };
    match kill {
        // A process that exits at once takes its jobs along (start-and-worker §4).
        Some((_, at, _)) if v.ended_by_force() && v.exit.is_some_and(|(_, exit, _)| exit == at) => {}
        Some((i, at, _)) if at < first + v.setup.signal_timeout => {
            out.push(Violation::at("V3", i, format!("{id} was killed {:?} after its interrupt, before its grace period was over", at.since(first))));
        }
        None if !ended_by(first + v.setup.signal_timeout + Duration::from_millis(250) + SLACK) => {
            out.push(Violation::at("V3", spawn_entry, format!("{id} survived its grace period, and nobody killed it")));
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::super::story::Story;
    use super::*;
    use ibex_core::process::ExitStatus;

    fn running() -> Story {
        Story::new().connected(1).started(100).spawned(200)
    }

    #[test]
    fn a_spawn_after_a_forced_stop_is_seen() {
        Story::new().connected(1).started(100).signal(150, "QUIT").spawned(200).exit(900, 0).breaks(INVARIANT);
        Story::new().connected(1).started(100).signal(150, "TERM").spawned(200).exit(900, 0).holds(INVARIANT);
    }

    #[test]
    fn a_kill_before_the_grace_period_is_seen() {
        let story = |kill| {
            running()
                .polled(1_000, 5, "canceling")
                .signalled(1_000, OsSignal::Term)
                .signalled(kill, OsSignal::Kill)
                .exited(kill + 10, ExitStatus::Signal(9))
                .exit(60_000, 0)
        };
        story(11_000).holds(INVARIANT);
        story(9_000).breaks(INVARIANT);
    }

    #[test]
    fn a_cancel_that_is_forgotten_is_seen() {
        running().polled(1_000, 5, "canceling").exited(9_000, ExitStatus::Code(0)).exit(10_000, 0).breaks(INVARIANT);
        running().polled(1_000, 5, "running").exited(9_000, ExitStatus::Code(0)).exit(10_000, 0).holds(INVARIANT);
    }

    #[test]
    fn a_process_that_is_never_killed_is_seen() {
        running().polled(1_000, 5, "canceled").signalled(1_000, OsSignal::Term).exited(30_000, ExitStatus::Code(0)).exit(31_000, 0).breaks(INVARIANT);
    }

    #[test]
    fn a_start_that_goes_on_after_a_stop_is_seen() {
        let started = |at| Story::new().connected(1).started(100).signal(at, "QUIT").sent(1_140, 3, "start", "J", "J").exit(2_000, 0);
        started(1_500).holds(INVARIANT);
        started(500).breaks(INVARIANT);
    }

    #[test]
    fn a_signal_to_a_group_that_is_gone_is_seen() {
        let reaped = running().polled(1_000, 5, "canceling").signalled(1_000, OsSignal::Term).exited(2_000, ExitStatus::Signal(15));
        reaped.signalled(11_000, OsSignal::Kill).exit(12_000, 0).breaks(INVARIANT);
    }

    #[test]
    fn a_second_interrupt_is_seen() {
        running()
            .polled(1_000, 5, "canceling")
            .signalled(1_000, OsSignal::Term)
            .signalled(2_000, OsSignal::Term)
            .exited(2_100, ExitStatus::Signal(15))
            .exit(3_000, 0)
            .breaks(INVARIANT);
    }

    #[test]
    fn a_signal_to_a_job_nobody_cancelled_is_seen() {
        running().signal(900, "TERM").signalled(1_000, OsSignal::Term).exited(1_100, ExitStatus::Signal(15)).exit(3_000, 0).breaks(INVARIANT);
    }
}
