//! Scenarios of corners: what happens in one instant, exchanges that were given up and complete late, chunks smaller than a line.

use super::{QUIT, TERM, jobs, star, status};
use crate::faults::{RequestFault, WorldFault};
use crate::run::run;
use crate::schedule::{Hooks, Schedule, Signatures, Source, Timestamps, When};
use crate::script::{Act, Fork, Script};
use crate::trace::{Fact, Op};
use ibex_core::agent::OsSignal;
use ibex_core::machine::Instant;

/// When the first process came, and when the answer to this state poll.
fn moments(s: &Schedule, poll: usize) -> Option<(Instant, Instant)> {
    let trace = run(s).trace;
    let spawned = trace.entries.iter().find(|e| matches!(e.fact, Fact::Spawned { .. }))?.at;
    let mut polls = trace.entries.iter().filter_map(|e| match &e.fact {
        Fact::Sent(r) if r.op == Op::JobState => Some(r.call),
        _ => None,
    });
    let call = polls.nth(poll - 1)?;
    let answered = trace.entries.iter().find(|e| matches!(e.fact, Fact::Returned { call: c, .. } if c == call))?.at;
    Some((spawned, answered))
}

/// The second state poll tells of a cancel, and the process exits in the instant of its answer; by the place: what the answer says,
/// where the job stands when the answer is handled, and how many turns of the instant the exit comes later.
pub(super) fn crossing(place: u64) -> Schedule {
    let told = [RequestFault::State("canceling".into()), RequestFault::State("timing_out".into()), status(401)][(place % 3) as usize].clone();
    let where_to = place / 3 % 4;
    let s = Schedule { seed: 7, pty: false, late_aborts: true, faults_over_ms: 25_000, ..Schedule::default() };
    let s = match where_to {
        2 => Schedule { disk_ms: 600, ..s },
        3 => s.request(Op::Finish, 1, RequestFault::Slow { ms: 900 }),
        1 => s.request(Op::Chunk, 1, RequestFault::Slow { ms: 4_000 }).request(Op::Chunk, 2, RequestFault::Slow { ms: 4_000 }),
        _ => s,
    };
    let script = |ms| {
        let member = Act::Fork(Fork { ms: 30_000, stubborn: true, holds: true, ..Fork::default() });
        let before = match where_to {
            0 => vec![member],
            1 => vec![Act::Print(300)],
            _ => vec![],
        };
        Script { acts: [before, vec![Act::Sleep(ms), Act::Turns(place / 12 % 3)]].concat(), ..Script::default() }
    };
    let with = |ms| Schedule { jobs: jobs([script(ms)]), ..s.clone() }.request(Op::JobState, 2, told.clone());
    let ms = moments(&with(15_000), 2).map_or(2_000, |(from, to)| to.since(from).as_millis() as u64);
    with(ms)
}

/// A poll of the state is under way when the process exits, and is gone only when the job is over, or the worker has left; ★ TERM.
pub(super) fn late(place: u64) -> Schedule {
    let s = Schedule { late_aborts: true, disk_ms: [1, 600][(place % 2) as usize], ..Schedule::default() };
    let s = (1..=4).fold(s, |s, n| s.request(Op::JobState, n, RequestFault::Hang { applied: true }));
    let s = if place % 4 >= 2 { s.request(Op::Finish, 1, status(422)) } else { s };
    let s = if place % 5 == 4 { s.request(Op::Finish, 1, RequestFault::Slow { ms: 700 }) } else { s };
    let s = Schedule { jobs: jobs([Script::simple(0, 2_500, 0)]), faults_over_ms: 15_000, ..s };
    star(if place % 3 == 2 { Schedule { ping_mode: Source::Auto, ..s } } else { s }, place, TERM)
}

/// Chunks of a few bytes, so that lines of the runner alone fill the buffer; ★ QUIT.
pub(super) fn tiny(place: u64) -> Schedule {
    let signatures = [Signatures::Valid, Signatures::InvalidButRun, Signatures::Invalid][(place % 3) as usize];
    let s = Schedule { tight_memory: true, chunk_bytes: 4, signatures, timestamps: Timestamps::Plain, ..Schedule::default() };
    star(Schedule { jobs: jobs([Script::simple(60, 900, 0)]), ..s }, place, QUIT)
}

/// The endpoint of header times does not exist, and chunks get no answer until the flush is cut short; ★ QUIT.
pub(super) fn no_times(place: u64) -> Schedule {
    let s = Schedule { timestamps: Timestamps::Plain, jobs: jobs([Script::talker(2_000, 3, 900)]), faults_over_ms: 60_000, ..Schedule::default() };
    let s = s.event(When::AtMs(0), WorldFault::Period { op: Some(Op::HeaderTimes), fault: status(404), ms: 60_000 });
    let hang = RequestFault::Hang { applied: false };
    star(s.event(When::AtMs(0), WorldFault::Period { op: Some(Op::Chunk), fault: hang, ms: 60_000 }), place, QUIT)
}

/// SIGHUP before anything is connected, and in the startup hook.
pub(super) fn r01h(place: u64) -> Schedule {
    let hooks = Hooks { startup: Some(Script::simple(50, 900, 0)), ..Hooks::default() };
    let s = Schedule { hooks, workers: 2, ..Schedule::default() }.request(Op::Register, 1, status(503));
    star(s.request(Op::Connect, 1, status(500)), place, WorldFault::Signal(OsSignal::Hup))
}

/// A stop while a connect gets no answer.
pub(super) fn r01c(place: u64) -> Schedule {
    let s = Schedule { faults_over_ms: 30_000, ..Schedule::default() };
    star(s.request(Op::Connect, 1, RequestFault::Hang { applied: place.is_multiple_of(2) }), place, TERM)
}

/// A stop while an accept is in flight that will fail.
pub(super) fn r08a(place: u64) -> Schedule {
    let s = Schedule { jobs: jobs([Script::simple(100, 900, 0)]), ..Schedule::default() };
    star(s.request(Op::Accept, 1, RequestFault::Hang { applied: place.is_multiple_of(2) }), place, if place % 4 < 2 { TERM } else { QUIT })
}

/// Told to leave while it is paused; by the place by poll or by stream.
pub(super) fn r13l(place: u64) -> Schedule {
    let s = Schedule { jobs: jobs([Script::simple(100, 900, 0)]), ..Schedule::default() };
    let s = if place.is_multiple_of(2) { s } else { Schedule { ping_mode: Source::Auto, ..s } };
    star(s.event(When::AtMs(1_500), WorldFault::Pause(1)), place, WorldFault::Disconnect(1))
}
