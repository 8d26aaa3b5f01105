//! Scenarios of the agent's modes: streams, acquire mode, hooks, limits, header times, small buffers; and processes that are hard to end.

use super::{QUIT, TERM, jobs, star, status};
use crate::claims::Claim;
use crate::faults::{RequestFault, WorldFault};
use crate::schedule::{Flaw, Hooks, JobPlan, Schedule, Signatures, Source, Timestamps, When};
use crate::script::{Act, Fork, OnSignal, Script};
use crate::trace::Op;
use ibex_core::agent::OsSignal;

fn streaming(schedule: Schedule) -> Schedule {
    Schedule { ping_mode: Source::Auto, faults_over_ms: 60_000, ..schedule }
}

fn locked(code: u16, ms: u64) -> RequestFault {
    RequestFault::Status { code, retry_after_ms: Some(ms) }
}

pub(super) fn r02(place: u64) -> Schedule {
    let s = Schedule { workers: 4, claims: vec![Claim::OneFailsAll], ..Schedule::default() };
    let s = s.request(Op::Register, 1, RequestFault::Slow { ms: 300 }).request(Op::Register, 3, status(503));
    star(s.request(Op::Register, 4, RequestFault::Slow { ms: 4_000 }).request(Op::Register, 5, status(401)), place, TERM)
}

pub(super) fn r05(place: u64) -> Schedule {
    let s = streaming(Schedule { jobs: jobs([Script::simple(200, 3_000, 0)]), ..Schedule::default() });
    let late = JobPlan { at_ms: 110_000, script: Script::simple(200, 900, 0), timeout_s: 0 };
    let s = Schedule { jobs: s.jobs.iter().cloned().chain([late]).collect(), ..s };
    star(Schedule { faults_over_ms: 120_000, ..s }, place, WorldFault::Cut)
}

pub(super) fn r06(place: u64) -> Schedule {
    let s = Schedule { workers: 2, heartbeat_s: 5, faults_over_ms: 60_000, jobs: jobs([Script::simple(200, 8_000, 0)]), ..Schedule::default() };
    let s = Schedule { claims: vec![Claim::Fails], ..s };
    let s = if place.is_multiple_of(2) { s } else { Schedule { ping_mode: Source::Auto, ..s } };
    let s = star(s, place, WorldFault::Period { op: Some(Op::Heartbeat), fault: status(401), ms: 60_000 });
    star(s, place, WorldFault::Period { op: Some(Op::Ping), fault: status(401), ms: 60_000 })
}

pub(super) fn r11(place: u64) -> Schedule {
    star(Schedule { workers: 2, idle_s: 6, ..Schedule::default() }, place, WorldFault::Disconnect(1))
}

pub(super) fn r11p(place: u64) -> Schedule {
    let s = Schedule { workers: 2, idle_s: 6, ..Schedule::default() };
    star(s, place, WorldFault::Pause(1)).event(When::AtMs(18_000), WorldFault::Resume(1))
}

pub(super) fn r12(place: u64) -> Schedule {
    let s = streaming(Schedule { jobs: jobs([Script::simple(200, 3_000, 0), Script::simple(200, 500, 0)]), ..Schedule::default() });
    star((1..=8).fold(s, |s, n| s.request(Op::Stream, n, RequestFault::Twice)), place, WorldFault::Cut)
}

pub(super) fn r13(place: u64) -> Schedule {
    let s = streaming(Schedule { jobs: jobs([Script::talker(200, 4, 1_500), Script::simple(10, 100, 0)]), ..Schedule::default() });
    star(s, place, WorldFault::Pause(1)).event(When::AtMs(12_000), WorldFault::Resume(1))
}

pub(super) fn r13d(place: u64) -> Schedule {
    let s = streaming(Schedule { jobs: jobs([Script::talker(200, 4, 1_500), Script::simple(10, 100, 0)]), ..Schedule::default() });
    let s = s.event(When::AtMs(3_500), WorldFault::Pause(1)).event(When::AtMs(14_000), WorldFault::Resume(1));
    star(s, place, WorldFault::Disconnect(1))
}

pub(super) fn r14(place: u64) -> Schedule {
    let ping_mode = if place.is_multiple_of(2) { Source::Stream } else { Source::Auto };
    let s = streaming(Schedule { one_shot: true, jobs: jobs([Script::simple(200, 4_000, 0), Script::simple(10, 100, 0)]), ..Schedule::default() });
    star(Schedule { ping_mode, claims: vec![Claim::LeavesAtOnce], ..s }, place, TERM)
}

/// Every way in which a stream ends, one after the other.
fn flipping() -> Schedule {
    let ends = [(13, 400), (13, 0), (14, 200), (2, 100), (13, 10), (13, 10), (4, 300), (0, 100), (0, 900), (4, 2_000)];
    let s = streaming(Schedule { jobs: jobs([Script::simple(200, 2_000, 0)]), ..Schedule::default() });
    let s = ends.into_iter().zip(1..).fold(s, |s, ((code, after_ms), nth)| s.request(Op::Stream, nth, RequestFault::Grpc { code, after_ms }));
    let s = s.request(Op::Stream, 11, RequestFault::NamelessJob).request(Op::Stream, 12, status(503));
    let silent = [(13, 0), (13, 0), (13, 0), (4, 0), (13, 0), (13, 0), (4, 300), (13, 0), (13, 0), (0, 300)];
    let s = silent.into_iter().zip(15..).fold(s, |s, ((code, after_ms), nth)| s.request(Op::Stream, nth, RequestFault::Grpc { code, after_ms }));
    let s = s.request(Op::Stream, 13, RequestFault::Dumb { ms: 100 }).request(Op::Stream, 14, RequestFault::Dumb { ms: 70_000 });
    let s = s.request(Op::Stream, 25, RequestFault::Dumb { ms: 40_000 });
    Schedule { faults_over_ms: 600_000, ..s }
}

pub(super) fn r16(place: u64) -> Schedule {
    let mut s = flipping();
    if place % 3 == 1 {
        // Broken from the start, so that windows are long; then each end within a long window.
        s.requests.rotate_left(6);
        (1..).zip(&mut s.requests).for_each(|(nth, r)| r.nth = nth);
    } else if place % 3 == 2 {
        s.requests.reverse();
        (1..).zip(&mut s.requests).for_each(|(nth, r)| r.nth = nth);
    }
    star(s, place, TERM)
}

pub(super) fn r16e(place: u64) -> Schedule {
    let s = streaming(Schedule { jobs: jobs([Script::talker(100, 3, 1_000), Script::simple(10, 500, 0)]), ..Schedule::default() });
    let s = if place % 5 == 4 { Schedule { ping_mode: Source::Stream, ..s } } else { s };
    let s = s.request(Op::Stream, 1, RequestFault::Grpc { code: 12, after_ms: 40 * place });
    // While it is being accepted, too.
    if place.is_multiple_of(2) { s.request(Op::Accept, 1, RequestFault::Slow { ms: 2_000 }) } else { s }
}

/// What is pending while the stream ends for good: the poll side holds the gate, or a job is being accepted.
pub(super) fn r16p(place: u64) -> Schedule {
    let s = streaming(Schedule { jobs: jobs([0, 1, 2].map(|n| Script::simple(100, 900 + 300 * n, 0))), ..Schedule::default() });
    let ends = RequestFault::Grpc { code: 12, after_ms: 100 + 50 * (place / 4) };
    match place % 4 {
        0 => {
            let s = s.request(Op::Stream, 1, RequestFault::Grpc { code: 13, after_ms: 0 }).request(Op::Ping, 1, RequestFault::Slow { ms: 7_000 });
            // The stream breaks once more before it ends for good, with its first message waiting for the gate.
            let breaks = RequestFault::Grpc { code: 13, after_ms: 200 };
            s.request(Op::Stream, 2, if place.is_multiple_of(8) { breaks } else { ends.clone() }).request(Op::Stream, 3, ends)
        }
        1 => {
            let s = s.request(Op::Stream, 1, RequestFault::Grpc { code: 13, after_ms: 0 }).request(Op::Ping, 1, RequestFault::Slow { ms: 7_000 });
            s.request(Op::Stream, 2, RequestFault::Offer(3)).request(Op::Stream, 3, RequestFault::Offer(3))
        }
        2 => {
            let s =
                s.request(Op::Accept, 1, RequestFault::Slow { ms: 9_000 }).request(Op::Stream, 1, RequestFault::Grpc { code: 12, after_ms: 4_000 });
            star(s, 1 + place, WorldFault::Hold { ms: 10 })
                .event(When::AtMs(2_000 + 20 * place), WorldFault::Pause(1))
                .event(When::AtMs(15_000), WorldFault::Resume(1))
        }
        _ => s.request(Op::Stream, 1, RequestFault::Offer(3)).request(Op::Stream, 2, RequestFault::Offer(3)),
    }
}

/// Streams that bring jobs without an id, some of them when their window is over.
pub(super) fn nameless(seed: u64) -> Schedule {
    let s = streaming(Schedule { seed, workers: 8, jobs: jobs([Script::simple(100, 900, 0)]), ..Schedule::default() });
    s.event(When::AtMs(0), WorldFault::Period { op: Some(Op::Stream), fault: RequestFault::NamelessJob, ms: 50_000 })
}

/// A job that was run is offered again; to an agent that leaves, to a paused one.
pub(super) fn offered(place: u64) -> Schedule {
    let s = Schedule { jobs: jobs([Script::simple(200, 1_000, 0)]), ..Schedule::default() };
    let again = |s: Schedule, n| s.request(Op::Ping, n, RequestFault::Offer(1));
    let s = match place % 4 {
        0 => again(again(s, 3), 5),
        1 => again(again(Schedule { one_shot: true, ..s }, 2), 3),
        2 => again(again(again(s, 3).request(Op::Ping, 4, RequestFault::Action("pause".into())), 5), 6),
        _ => again(again(Schedule { acquire: true, ..s }, 1), 2),
    };
    star(s, place, WorldFault::Cut)
}

pub(super) fn r19(seed: u64) -> Schedule {
    let s = Schedule { seed, acquire: true, jobs: jobs([Script::talker(100, 30, 4_000)]), faults_over_ms: 480_000, ..Schedule::default() };
    (1..=6).fold(s, |s, n| s.request(Op::Acquire, n, locked(423, 40_000)))
}

pub(super) fn r23(place: u64) -> Schedule {
    let s = Schedule { workers: 2, heartbeat_s: 5, jobs: jobs([Script::talker(50, 10, 4_000)]), faults_over_ms: 150_000, ..Schedule::default() };
    let fault = if place.is_multiple_of(2) { status(503) } else { RequestFault::Hang { applied: false } };
    star(s, place, WorldFault::Period { op: Some(Op::Heartbeat), fault, ms: 100_000 })
}

pub(super) fn r28(place: u64) -> Schedule {
    let on_signal = if place.is_multiple_of(3) { OnSignal::Stubborn } else { OnSignal::Dies };
    let ms = if on_signal == OnSignal::Stubborn { 8_000 } else { 1_200 };
    let hook = Script { on_signal, ..Script::simple(80, ms, i32::from(place % 7 == 3)) };
    let hooks = Hooks { pre_bootstrap: Some(hook), ..Hooks::default() };
    let signatures = [Signatures::Valid, Signatures::InvalidButRun, Signatures::Off, Signatures::Invalid, Signatures::Broken][(place % 5) as usize];
    star(Schedule { hooks, signatures, jobs: jobs([Script::simple(200, 1_500, 0)]), ..Schedule::default() }, place, QUIT)
}

pub(super) fn r28s(place: u64) -> Schedule {
    let on_signal = if place.is_multiple_of(2) { OnSignal::Stubborn } else { OnSignal::Dies };
    let hook = |ms, code| Some(Script { on_signal, ..Script::simple(80, ms, code) });
    let hooks = Hooks { startup: hook(700, i32::from(place % 11 == 5)), shutdown: hook(20_000, 0), pre_bootstrap: None };
    let s = Schedule { hooks, workers: 2, jobs: jobs([Script::simple(200, 1_500, 0)]), ..Schedule::default() };
    let first = if place % 5 == 2 { WorldFault::Signal(OsSignal::Hup) } else { TERM };
    star(star(s, place, first), if place == 0 { 0 } else { place + 40 }, TERM)
}

pub(super) fn r29(place: u64) -> Schedule {
    let s = Schedule { jobs: jobs([Script::talker(900, 3, 500)]), ..Schedule::default() };
    let s = if place.is_multiple_of(2) {
        s.request(Op::Finish, 1, status(503)).request(Op::Finish, 2, RequestFault::Hang { applied: true })
    } else {
        Schedule { faults_over_ms: 150_000, ..s }.event(When::AtMs(0), WorldFault::Period { op: Some(Op::Finish), fault: status(503), ms: 120_000 })
    };
    star(s, place, QUIT)
}

pub(super) fn r33(seed: u64) -> Schedule {
    let line = [Act::Line(300_000), Act::Print(2_000), Act::Line(40_000), Act::Exit(0)];
    let script = Script { acts: line.to_vec(), ..Script::default() };
    Schedule { seed, pty: seed.is_multiple_of(2), chunk_bytes: 60_000, jobs: jobs([script]), faults_over_ms: 40_000, ..Schedule::default() }
}

pub(super) fn r34(seed: u64) -> Schedule {
    let acts =
        [vec![Act::Line(9_500_000)], std::iter::repeat_n([Act::Print(40), Act::Sleep(2_000)], 5).flatten().collect(), vec![Act::Line(3_000_000)]];
    let script = Script { acts: acts.concat(), ..Script::default() };
    let s = Schedule { seed, pty: false, chunk_bytes: 400_000, jobs: jobs([script]), faults_over_ms: 60_000, ..Schedule::default() };
    (1..=6).fold(s, |s, n| s.request(Op::Chunk, n, RequestFault::Slow { ms: if seed.is_multiple_of(2) { 700 } else { 4_000 } }))
}

pub(super) fn r34b(place: u64) -> Schedule {
    let s = Schedule { pty: place.is_multiple_of(2), tight_memory: true, chunk_bytes: 1_000, faults_over_ms: 40_000, ..Schedule::default() };
    let s = Schedule { jobs: jobs([Script::simple(60_000, 500, 0)]), ..s };
    star(s.event(When::AtMs(1_000), WorldFault::Period { op: Some(Op::Chunk), fault: status(503), ms: 15_000 }), place, QUIT)
}

pub(super) fn r36(seed: u64) -> Schedule {
    let script = |n: u64| Script { acts: vec![Act::Print(1 + 977 * n * n)], ..Script::default() };
    Schedule { seed, pty: seed.is_multiple_of(2), workers: 4, jobs: jobs((0..10).map(script)), ..Schedule::default() }
}

pub(super) fn acquire(place: u64) -> Schedule {
    let s = Schedule {
        acquire: true,
        jobs: jobs([Script::simple(200, 2_500, 0), Script::simple(10, 100, 0)]),
        faults_over_ms: 60_000,
        ..Schedule::default()
    };
    let s = s.request(Op::Acquire, 1, locked(423, 2_000)).request(Op::Acquire, 2, locked(429, 1_000)).request(Op::Acquire, 3, status(500));
    star(if place % 4 == 3 { Schedule { ping_mode: Source::Auto, ..s } } else { s }, place, if place.is_multiple_of(2) { TERM } else { QUIT })
}

pub(super) fn acquire_hangs(place: u64) -> Schedule {
    let s = Schedule { acquire: true, jobs: jobs([Script::simple(200, 2_500, 0)]), ..Schedule::default() };
    let fault =
        [RequestFault::Hang { applied: place.is_multiple_of(2) }, RequestFault::Slow { ms: 3_000 }, status(500)][(place % 3) as usize].clone();
    star(s.request(Op::Acquire, 1, fault.clone()).request(Op::Acquire, 2, RequestFault::Slow { ms: 2_000 }), place, TERM)
}

pub(super) fn acquire_refused(seed: u64) -> Schedule {
    let s = Schedule { seed, acquire: true, jobs: jobs([Script::simple(200, 2_500, 0)]), faults_over_ms: 400_000, ..Schedule::default() };
    match seed % 4 {
        0 => s.request(Op::Acquire, 1, status(422)),
        1 => s.request(Op::Acquire, 1, status(403)),
        2 => (1..=7).fold(s, |s, n| s.request(Op::Acquire, n, locked(423, 5_000))),
        // Taken, and a ping brings another job all the same.
        _ => Schedule { jobs: jobs([Script::simple(200, 1_000, 3), Script::simple(10, 100, 0)]), ..s },
    }
}

pub(super) fn uptime(place: u64) -> Schedule {
    let s = Schedule { uptime_s: 6, jobs: jobs([Script::simple(200, 3_000, 0)]), ..Schedule::default() };
    let s = if place.is_multiple_of(2) { s } else { Schedule { ping_mode: Source::Auto, ..s } };
    star(s, place, WorldFault::Pause(1)).event(When::AtMs(14_000), WorldFault::Resume(1))
}

pub(super) fn endpoint(place: u64) -> Schedule {
    let alt = || RequestFault::Endpoint("/alt/v3".into());
    let s = Schedule { jobs: jobs([Script::simple(200, 3_000, 0)]), ..Schedule::default() };
    let s = s.request(Op::Ping, 2, alt()).request(Op::Ping, 3, status(503)).request(Op::Ping, 5, alt());
    star(s.request(Op::Ping, 9, RequestFault::Endpoint("/v3".into())), place, TERM)
}

pub(super) fn times(place: u64) -> Schedule {
    let timestamps = if place.is_multiple_of(2) { Timestamps::Plain } else { Timestamps::Lines };
    let s = Schedule { timestamps, jobs: jobs([Script::talker(3_000, 8, 900)]), faults_over_ms: 90_000, ..Schedule::default() };
    let fault = [status(503), status(422), RequestFault::Hang { applied: false }, RequestFault::Slow { ms: 3_000 }, status(404)]
        [(place % 5) as usize]
        .clone();
    let s = if place.is_multiple_of(3) {
        s.event(When::AtMs(600), WorldFault::Period { op: Some(Op::HeaderTimes), fault, ms: 80_000 })
    } else {
        s.request(Op::HeaderTimes, 1, fault.clone()).request(Op::HeaderTimes, 3, fault)
    };
    star(s, place, QUIT)
}

pub(super) fn flawed(seed: u64) -> Schedule {
    let flaw = if seed.is_multiple_of(2) { Flaw::Bootstrap } else { Flaw::Metrics };
    Schedule { seed, flaw, jobs: jobs([Script::simple(200, 1_000, 0)]), ..Schedule::default() }
}

pub(super) fn exhausted(seed: u64) -> Schedule {
    let s = Schedule { seed, jobs: jobs([Script::simple(900, 1_000, 0)]), faults_over_ms: 2_400_000, ..Schedule::default() };
    // Seldom, as the run is long.
    let s = Schedule { ping_s: 20, job_state_s: 20, heartbeat_s: 60, ..s };
    let op = [Op::Connect, Op::Start, Op::Chunk, Op::Finish, Op::Heartbeat][(seed % 5) as usize];
    let s = if op == Op::Heartbeat { Schedule { faults_over_ms: 300_000, ..s } } else { s };
    s.event(When::AtMs(0), WorldFault::Period { op: Some(op), fault: status(503), ms: 2_300_000 })
}

pub(super) fn stuck(seed: u64) -> Schedule {
    let forced = seed.is_multiple_of(2);
    let script = match seed / 2 % 4 {
        0 => Script { on_signal: OnSignal::Stuck { ms: 2_500 }, ..Script::simple(100, 60_000, 0) },
        1 => Script { acts: vec![Act::Print(100), Act::Close, Act::Sleep(2_000), Act::Exit(3)], ..Script::default() },
        // A member that holds the output and cannot be ended for longer than the drain.
        2 => {
            let member = Act::Fork(Fork { ms: 90_000, stuck_ms: 25_000, holds: true, ..Fork::default() });
            Script { on_signal: OnSignal::Dies, acts: vec![member, Act::Print(100), Act::Sleep(60_000)], ..Script::default() }
        }
        _ => {
            let member = Act::Fork(Fork { ms: 3_200, stubborn: true, ..Fork::default() });
            Script { acts: vec![Act::Sleep(1_500), member, Act::Sleep(60_000)], ..Script::default() }
        }
    };
    let s = Schedule { seed, pty: false, jobs: jobs([script]), ..Schedule::default() };
    s.event(When::AtMs(5_000), if forced { QUIT } else { WorldFault::Cancel(0) })
}

pub(super) fn start_trouble(place: u64) -> Schedule {
    let s = Schedule { jobs: vec![JobPlan { at_ms: 500, script: Script::simple(100, 1_000, 0), timeout_s: 0 }], ..Schedule::default() };
    let s = if place.is_multiple_of(2) { s.event(When::AtMs(10), WorldFault::DiskFull { ms: 15_000 }) } else { s };
    let s = if place % 4 == 1 { Schedule { flaw: Flaw::Bootstrap, ..s } } else { s };
    let s = s.request(Op::Start, 1, status(503)).request(Op::Start, 2, status(503)).request(Op::Start, 3, RequestFault::Hang { applied: true });
    star(s, place, QUIT)
}

pub(super) fn second_kind(seed: u64) -> Schedule {
    let script = Script { on_signal: OnSignal::Stubborn, ..Script::simple(100, 30_000, 0) };
    let s = Schedule { seed, signal_timeout_ms: 6_000, jobs: jobs([script]), ..Schedule::default() };
    let state = |s: &str| RequestFault::State(s.into());
    let (first, second) =
        [("canceling", "timing_out"), ("timing_out", "canceled"), ("canceling", ""), ("timed_out", ""), ("", "canceling")][(seed % 5) as usize];
    let told = |what: &str| if what.is_empty() { status(401) } else { state(what) };
    s.request(Op::JobState, 2, told(first)).request(Op::JobState, 3, told(second)).event(When::AtMs(9_500), WorldFault::Signal(OsSignal::Hup))
}
