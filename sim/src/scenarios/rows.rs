//! Families of rows of `races` that had no marked event of their own at first: the trouble of the row begins at ★.

use super::{QUIT, TERM, jobs, star, status};
use crate::claims::Claim;
use crate::faults::{RequestFault, WorldFault};
use crate::schedule::{JobPlan, Schedule};
use crate::script::Script;
use crate::trace::Op;

fn period(op: impl Into<Option<Op>>, fault: RequestFault, ms: u64) -> WorldFault {
    WorldFault::Period { op: op.into(), fault, ms }
}

/// The trouble, by the place, is a dead listener, a partition, or errors; a job is made when it is over.
pub(super) fn r04(place: u64) -> Schedule {
    let job = |at_ms| JobPlan { at_ms, script: Script::simple(100, 500, 0), timeout_s: 0 };
    let s = Schedule { jobs: vec![job(4_000), job(60_500)], faults_over_ms: 60_000, ..Schedule::default() };
    let trouble =
        [WorldFault::Refuse { ms: 40_000 }, WorldFault::Partition { ms: 40_000 }, period(None, status(502), 40_000)][(place % 3) as usize].clone();
    star(s, place, trouble)
}

/// Twelve workers; with errors, or told to wait.
pub(super) fn r07(place: u64) -> Schedule {
    let s = Schedule { workers: 12, faults_over_ms: 60_000, claims: vec![Claim::NoHerd], ..Schedule::default() };
    let told = RequestFault::Status { code: 429, retry_after_ms: Some(3_000) };
    let fault = [status(503), told][(place % 2) as usize].clone();
    star(s, place, period(None, fault, 24_000))
}

pub(super) fn r17(place: u64) -> Schedule {
    let s = Schedule { jobs: jobs([Script::simple(10, 900, 0), Script::simple(10, 10, 0), Script::simple(10, 10, 0)]), ..Schedule::default() };
    star(s, place, WorldFault::DiskFull { ms: 6_000 })
}

/// The job is offered again, whatever has become of it.
pub(super) fn r18(place: u64) -> Schedule {
    let s = Schedule { jobs: jobs([Script::simple(10, 900, 0), Script::simple(10, 900, 0)]), ..Schedule::default() };
    let s = (3..=8).fold(s, |s, n| s.request(Op::Ping, n, RequestFault::Offer(1)));
    star(s, place, period(Op::Start, status([422, 401, 404][(place % 3) as usize]), 12_000))
}

/// Acquired in the fourth minute; the job runs for two more.
pub(super) fn r19(place: u64) -> Schedule {
    let s = Schedule { acquire: true, jobs: jobs([Script::talker(100, 30, 4_000)]), faults_over_ms: 420_000, ..Schedule::default() };
    let locked = RequestFault::Status { code: 423, retry_after_ms: Some(38_000) };
    let s = (1..=6).fold(s, |s, n| s.request(Op::Acquire, n, locked.clone()));
    star(s, place, WorldFault::Cut)
}

pub(super) fn r20(place: u64) -> Schedule {
    let page = if place.is_multiple_of(2) { RequestFault::Html { applied: false } } else { RequestFault::Empty { applied: false } };
    let s = Schedule { jobs: jobs([Script::simple(400, 2_500, 3)]), faults_over_ms: 40_000, ..Schedule::default() };
    let s = if place % 4 >= 2 { Schedule { acquire: true, ..s } } else { s };
    star(s, place, period(None, page, 7_000))
}

/// Heartbeats hang to their limit, and by the place everything else does too.
pub(super) fn r22(place: u64) -> Schedule {
    let s = Schedule { heartbeat_s: 5, jobs: jobs([Script::talker(900, 10, 3_000)]), faults_over_ms: 120_000, ..Schedule::default() };
    let op = if place.is_multiple_of(2) { Some(Op::Heartbeat) } else { None };
    star(s, place, period(op, RequestFault::Hang { applied: false }, 20_000))
}

/// ★ cancel, while start takes its time; by the place the process is gone before the first poll.
pub(super) fn r27(place: u64) -> Schedule {
    let script = Script::simple(200, if place.is_multiple_of(2) { 20_000 } else { 20 }, 0);
    let s = Schedule { jobs: jobs([script]), ..Schedule::default() }.request(Op::Start, 1, RequestFault::Slow { ms: 1_500 });
    star(s, place, WorldFault::Cancel(0))
}

pub(super) fn r39(place: u64) -> Schedule {
    let what = [TERM, QUIT, WorldFault::Cut][(place % 3) as usize].clone();
    star(Schedule { jobs: jobs([Script::default(), Script::simple(0, 2_000, 0)]), ..Schedule::default() }, place, what)
}

/// The first finish is applied and its answer lost; ★ TERM, or all connections are cut.
pub(super) fn r40(place: u64) -> Schedule {
    let s = Schedule { jobs: jobs([Script::simple(100, 500, 0), Script::simple(100, 500, 0)]), ..Schedule::default() };
    star(s.request(Op::Finish, 1, RequestFault::Lost), place, [TERM, WorldFault::Cut][(place % 2) as usize].clone())
}

/// Header sets are given, replaced, cleared by register and pings, at two endpoints, while jobs run; ★ TERM.
pub(super) fn headers(place: u64) -> Schedule {
    let headers = |set| RequestFault::Headers { set, endpoint: String::new() };
    let moved = |set| RequestFault::Headers { set, endpoint: "/alt/v3".into() };
    let s = Schedule { jobs: jobs([Script::talker(500, 3, 900), Script::simple(50, 900, 0)]), faults_over_ms: 30_000, ..Schedule::default() };
    let s = s.request(Op::Register, 1, headers(1)).request(Op::Ping, 2, headers([2, 0][(place % 2) as usize])).request(Op::Ping, 4, moved(3));
    let s = s.request(Op::Ping, 6, RequestFault::Headers { set: 4, endpoint: "/v3".into() });
    let s = if place % 3 == 2 { s.request(Op::Ping, 5, status(404)) } else { s.request(Op::Ping, 5, headers(5)) };
    star(s, place, TERM)
}
