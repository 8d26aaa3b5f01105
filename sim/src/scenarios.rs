//! The scenarios by name: `random`, the families of `races` with their marked event at every place, and the stored schedules.
//!
//! In a family the seed is the place of the marked event ★: it happens right after the observation with that number. Seed 0 is the
//! run without it.

mod modes;

use crate::faults::{RequestFault, WorldFault};
use crate::schedule::{EventPlan, JobPlan, Schedule, When};
use crate::script::{Act, Fork, OnSignal, Script, SpawnHow};
use crate::trace::Op;
use ibex_core::agent::OsSignal;

/// A scenario.
pub struct Scenario {
    /// Its name on the command line.
    pub name: &'static str,
    /// What it shows, and where it comes from.
    pub about: &'static str,
    /// The schedule of a seed.
    pub schedule: fn(u64) -> Schedule,
    /// Seeds are places of a marked event: all up to the number of observations are worth playing.
    pub family: bool,
}

const fn family(name: &'static str, about: &'static str, schedule: fn(u64) -> Schedule) -> Scenario {
    Scenario { name, about, schedule, family: true }
}

/// All scenarios.
pub const ALL: &[Scenario] = &[
    Scenario { name: "random", about: "1–4 workers, several jobs, a random subset of all faults", schedule: Schedule::random, family: false },
    family("r01", "stop while registering or connecting: ★ TERM", r01),
    family("r01q", "forced stop while registering or connecting: ★ QUIT", r01q),
    family("r02", "one of four registrations fails, one waits for its retry: ★ TERM", modes::r02),
    family("r03", "error exits pass through the disconnect: ping rejected, ★ TERM", r03),
    Scenario { name: "r04", about: "five minutes of server trouble, then a job is taken in time", schedule: r04, family: false },
    family("r05", "a stream that was open for long is reset: ★ cut", modes::r05),
    family("r06", "the registration is gone: pings and heartbeats are answered 401 from ★ on", modes::r06),
    Scenario { name: "r07", about: "four workers meet the same outage and Retry-After", schedule: modes::r07, family: false },
    family("r08", "a job after the stop: ★ TERM, one job running, one queued", r08),
    family("r09", "a one-shot agent gets a second job: ★ TERM", r09),
    family("r10", "idle timeout meets a job: ★ TERM", r10),
    family("r11", "idle timeout with a worker that was told to leave: ★ disconnect", modes::r11),
    family("r11p", "idle timeout with a paused worker: ★ pause", modes::r11p),
    family("r12", "the same job by stream and by poll, said twice: ★ cut", modes::r12),
    family("r13", "control messages during a streamed job: ★ pause, resumed later", modes::r13),
    family("r13d", "control messages during a streamed job: ★ disconnect", modes::r13d),
    family("r14", "a one-shot agent with a stream that says nothing more: ★ TERM", modes::r14),
    family("r15", "half-open connection: ★ answers do not arrive for 70 s", r15),
    family("r16", "a stream that is healthy, broken, silent in turn: ★ TERM", modes::r16),
    family("r16e", "the stream ends for good at ★", modes::r16e),
    Scenario { name: "r17", about: "host without disk space: jobs are reported, nothing is left", schedule: r17, family: false },
    Scenario { name: "r18", about: "start rejected: the job is dropped, the pace is the usual one", schedule: r18, family: false },
    Scenario { name: "r19", about: "acquired after four minutes of retries, then a long job", schedule: modes::r19, family: false },
    Scenario { name: "r20", about: "a page instead of JSON on every call", schedule: r20, family: false },
    family("r21", "heartbeats during a graceful drain: ★ TERM, the job needs 40 s", r21),
    Scenario { name: "r22", about: "heartbeats that hang while chunks and pings hang", schedule: r22, family: false },
    family("r23", "health: heartbeats fail from ★ on, for longer than a whole cycle", modes::r23),
    family("r24", "cancel crosses the natural exit: ★ cancel", r24),
    family("r25", "two causes: a server cancel at 3 s, ★ QUIT", r25),
    family("r26", "cancel inside the retries of start: ★ QUIT", r26),
    Scenario { name: "r27", about: "cancel known at the first poll", schedule: r27, family: false },
    family("r28", "pre-bootstrap hook and signature check: ★ QUIT", modes::r28),
    family("r28s", "startup and shutdown hooks: ★ TERM, TERM 1 s later", modes::r28s),
    family("r29", "clean-up of a job whose finish hangs: ★ QUIT", modes::r29),
    family("r30", "second and third signal: TERM, TERM 1 s later, ★ INT; a stubborn job", r30),
    family("r30q", "QUIT at every step, a job that leaves a member behind", r30q),
    family("r31", "forced stop truncates no other log: two jobs print, ★ QUIT", r31),
    family("r32", "spot notice: ★ TERM, second TERM 20 s later", r32),
    Scenario { name: "r33", about: "one endless line, then normal ones", schedule: modes::r33, family: false },
    Scenario { name: "r34", about: "a burst, then a trickle", schedule: modes::r34, family: false },
    family("r34b", "a burst into a small buffer while chunks fail: ★ QUIT", modes::r34b),
    Scenario { name: "r35", about: "who closes the output: a child that escaped keeps it open", schedule: r35, family: false },
    Scenario { name: "r36", about: "exits in the first millisecond, many times", schedule: modes::r36, family: false },
    family("r37", "done before copied: slow chunks, ★ TERM", r37),
    family("r38", "chunks not wanted: 404 from ★ on", r38),
    Scenario { name: "r39", about: "empty ends: a job that prints nothing", schedule: r39, family: false },
    Scenario { name: "r40", about: "finish answer lost, second attempt 422", schedule: r40, family: false },
    family("acquire", "acquire mode: locked, limited, then given: ★ TERM", modes::acquire),
    family("acquireq", "acquire mode, no answer: ★ TERM", modes::acquire_hangs),
    Scenario { name: "acquire-no", about: "acquire mode: refused in every way", schedule: modes::acquire_refused, family: false },
    family("uptime", "uptime limit of 6 s with a job: ★ pause", modes::uptime),
    family("r16p", "messages wait while the stream ends for good at ★", modes::r16p),
    Scenario { name: "nameless", about: "streams bring jobs without an id", schedule: modes::nameless, family: false },
    family("offered", "a job is offered again: to its agent, a leaving one, a paused one; ★ cut", modes::offered),
    family("endpoint", "another endpoint is told, tested, taken or not: ★ TERM", modes::endpoint),
    family("times", "header times while their endpoint fails: ★ QUIT", modes::times),
    Scenario { name: "late-flaw", about: "a configuration that is found wrong late", schedule: modes::flawed, family: false },
    Scenario {
        name: "long-trouble",
        about: "connect, start or chunk fail until their plans are exhausted",
        schedule: modes::exhausted,
        family: false,
    },
    Scenario {
        name: "stuck",
        about: "processes that cannot be killed for a time, close their output, leave members",
        schedule: modes::stuck,
        family: false,
    },
    family("start-trouble", "no disk, start fails: ★ QUIT", modes::start_trouble),
    Scenario { name: "second-kind", about: "a cancel, then a second kind of it", schedule: modes::second_kind, family: false },
    family("cut", "all connections are cut at ★", cut),
    family("lost-leader", "the executor is killed from outside, a member stays: ★ cancel", lost_leader),
];

/// The scenario of this name.
pub fn find(name: &str) -> Option<&'static Scenario> {
    ALL.iter().find(|s| s.name == name)
}

fn star(schedule: Schedule, place: u64, what: WorldFault) -> Schedule {
    let schedule = Schedule { seed: 7, ..schedule };
    if place == 0 { schedule } else { schedule.event(When::AfterStep(place), what) }
}

const TERM: WorldFault = WorldFault::Signal(OsSignal::Term);
const QUIT: WorldFault = WorldFault::Signal(OsSignal::Quit);

fn status(code: u16) -> RequestFault {
    RequestFault::Status { code, retry_after_ms: None }
}

fn jobs(scripts: impl IntoIterator<Item = Script>) -> Vec<JobPlan> {
    scripts.into_iter().map(|script| JobPlan { at_ms: 500, script, timeout_s: 0 }).collect()
}

fn r01(place: u64) -> Schedule {
    let slow = Schedule { workers: 2, faults_over_ms: 15_000, ..Schedule::default() };
    let slow = slow.request(Op::Register, 1, status(503)).request(Op::Register, 2, RequestFault::Slow { ms: 700 });
    star(slow.request(Op::Connect, 1, status(500)).request(Op::Connect, 2, RequestFault::Slow { ms: 8_000 }), place, TERM)
}

fn r01q(place: u64) -> Schedule {
    let mut s = r01(place);
    s.events.iter_mut().for_each(|e| e.what = QUIT);
    s
}

fn r03(place: u64) -> Schedule {
    let s = Schedule { workers: 2, jobs: jobs([Script::simple(300, 4_000, 0)]), ..Schedule::default() };
    star(s.request(Op::Ping, 5, status(403)), place, TERM)
}

fn r04(seed: u64) -> Schedule {
    let mut s = Schedule { seed, faults_over_ms: 300_000, ..Schedule::default() };
    let mut at = 5_000;
    for n in 0..40 {
        let ms = 3_000 + (seed * 31 + n * 17) % 4_000;
        let what = match (seed + n) % 4 {
            0 => WorldFault::Refuse { ms },
            1 => WorldFault::Partition { ms },
            2 => WorldFault::Period { op: None, fault: status(502), ms },
            _ => WorldFault::Cut,
        };
        s.events.push(EventPlan { when: When::AtMs(at), what });
        at += 7_000;
    }
    s.jobs.push(JobPlan { at_ms: 300_500, script: Script::simple(100, 500, 0), timeout_s: 0 });
    s
}

fn r08(place: u64) -> Schedule {
    let s = Schedule { jobs: jobs([Script::simple(500, 2_500, 0), Script::simple(10, 100, 0)]), ..Schedule::default() };
    star(s, place, TERM)
}

fn r09(place: u64) -> Schedule {
    let s = Schedule { one_shot: true, jobs: jobs([Script::simple(500, 2_000, 0), Script::simple(10, 100, 0)]), ..Schedule::default() };
    star(s, place, TERM)
}

fn r10(place: u64) -> Schedule {
    let mut s = Schedule { workers: 2, idle_s: 6, ..Schedule::default() };
    s.jobs = vec![
        JobPlan { at_ms: 500, script: Script::simple(100, 3_000, 0), timeout_s: 0 },
        JobPlan { at_ms: 9_000, script: Script::simple(100, 3_000, 0), timeout_s: 0 },
    ];
    star(s, place, TERM)
}

fn r15(place: u64) -> Schedule {
    let s = Schedule { jobs: jobs([Script::talker(800, 4, 700)]), faults_over_ms: 90_000, ..Schedule::default() };
    star(s, place, WorldFault::Deaf { ms: 70_000 })
}

fn r17(seed: u64) -> Schedule {
    let s = Schedule { seed, jobs: jobs([Script::simple(10, 10, 0), Script::simple(10, 10, 0), Script::simple(10, 10, 0)]), ..Schedule::default() };
    s.event(When::AtMs(100), WorldFault::DiskFull { ms: 12_000 })
}

fn r18(seed: u64) -> Schedule {
    let s = Schedule { seed, jobs: jobs([Script::simple(10, 10, 0)]), ..Schedule::default() };
    (1..=6).fold(s, |s, n| s.request(Op::Start, n, status(422)))
}

fn r20(seed: u64) -> Schedule {
    let mut s = Schedule { seed, jobs: jobs([Script::simple(400, 1_500, 3)]), faults_over_ms: 60_000, ..Schedule::default() };
    for op in [Op::Register, Op::Connect, Op::Heartbeat, Op::Ping, Op::Accept, Op::Start, Op::JobState, Op::Chunk, Op::Finish, Op::Disconnect] {
        let fault = if seed.is_multiple_of(2) { RequestFault::Html { applied: false } } else { RequestFault::Empty { applied: false } };
        s = s.request(op, 1, fault);
    }
    s
}

fn r21(place: u64) -> Schedule {
    star(Schedule { heartbeat_s: 5, jobs: jobs([Script::talker(100, 8, 5_000)]), faults_over_ms: 60_000, ..Schedule::default() }, place, TERM)
}

fn r22(seed: u64) -> Schedule {
    let s = Schedule { seed, heartbeat_s: 5, jobs: jobs([Script::talker(2_000, 10, 2_000)]), faults_over_ms: 150_000, ..Schedule::default() };
    let hang = RequestFault::Hang { applied: false };
    s.request(Op::Heartbeat, 2, hang.clone()).request(Op::Chunk, 1, hang.clone()).request(Op::Chunk, 2, hang.clone()).request(Op::Ping, 3, hang)
}

fn r24(place: u64) -> Schedule {
    let script = Script { on_signal: OnSignal::Exits { code: 0, after_ms: 200 }, ..Script::simple(200, 2_000, 0) };
    star(Schedule { jobs: jobs([script]), ..Schedule::default() }, place, WorldFault::Cancel(0))
}

fn r25(place: u64) -> Schedule {
    let script = Script { on_signal: OnSignal::DiesLater { after_ms: 1_500 }, ..Script::simple(200, 9_000, 0) };
    let s = Schedule { jobs: jobs([script]), ..Schedule::default() }.event(When::AtMs(4_000), WorldFault::Cancel(0));
    star(s, place, QUIT)
}

fn r26(place: u64) -> Schedule {
    let s = Schedule { jobs: jobs([Script { spawn: SpawnHow::Slow(1_500), ..Script::simple(200, 2_000, 0) }]), ..Schedule::default() };
    star(s.request(Op::Start, 1, status(503)).request(Op::Start, 2, RequestFault::Slow { ms: 900 }), place, QUIT)
}

fn r27(seed: u64) -> Schedule {
    let s = Schedule { seed, jobs: jobs([Script::simple(200, 20_000, 0)]), ..Schedule::default() };
    s.request(Op::JobState, 1, RequestFault::State("canceling".into()))
}

fn r30(place: u64) -> Schedule {
    let script = Script { on_signal: OnSignal::Stubborn, ..Script::simple(200, 30_000, 0) };
    let s = Schedule { jobs: jobs([script]), ..Schedule::default() };
    let s = s.event(When::AtMs(5_000), TERM).event(When::AtMs(6_000), TERM);
    star(s, place, WorldFault::Signal(OsSignal::Int))
}

fn r30q(place: u64) -> Schedule {
    let member = Act::Fork(Fork { ms: 30_000, stubborn: true, holds: true, ..Fork::default() });
    let script = Script { acts: vec![member, Act::Print(300), Act::Sleep(4_000)], ..Script::default() };
    star(Schedule { pty: false, jobs: jobs([script]), ..Schedule::default() }, place, QUIT)
}

fn r31(place: u64) -> Schedule {
    star(Schedule { workers: 2, jobs: jobs([Script::talker(3_000, 12, 400), Script::talker(2_500, 12, 450)]), ..Schedule::default() }, place, QUIT)
}

fn r32(place: u64) -> Schedule {
    let s = Schedule { jobs: jobs([Script::talker(200, 30, 2_000)]), faults_over_ms: 60_000, ..Schedule::default() };
    star(s.event(When::AtMs(25_000), TERM), place, TERM)
}

fn r35(seed: u64) -> Schedule {
    let child = Act::Fork(Fork { ms: 40_000, stubborn: true, holds: true, escaped: true, ..Fork::default() });
    let script = Script { acts: vec![child, Act::Print(500), Act::Exit(7)], ..Script::default() };
    Schedule { seed, pty: seed.is_multiple_of(2), jobs: jobs([script]), ..Schedule::default() }
}

fn r37(place: u64) -> Schedule {
    let s = Schedule { jobs: jobs([Script::talker(1_000, 3, 600)]), one_shot: true, ..Schedule::default() };
    star((1..=6).fold(s, |s, n| s.request(Op::Chunk, n, RequestFault::Slow { ms: 900 + 300 * n })), place, TERM)
}

fn r38(place: u64) -> Schedule {
    let s = Schedule { jobs: jobs([Script::talker(900, 6, 700)]), ..Schedule::default() };
    star(s, place, WorldFault::Period { op: Some(Op::Chunk), fault: status(404), ms: 60_000 })
}

fn r39(seed: u64) -> Schedule {
    Schedule { seed, jobs: jobs([Script::default(), Script::simple(0, 2_000, 0)]), ..Schedule::default() }
}

fn r40(seed: u64) -> Schedule {
    Schedule { seed, jobs: jobs([Script::simple(100, 500, 0)]), ..Schedule::default() }.request(Op::Finish, 1, RequestFault::Lost)
}

fn cut(place: u64) -> Schedule {
    star(Schedule { workers: 2, jobs: jobs([Script::talker(700, 4, 800)]), ..Schedule::default() }, place, WorldFault::Cut)
}

fn lost_leader(place: u64) -> Schedule {
    let member = Act::Fork(Fork { ms: 6_000, stubborn: true, ..Fork::default() });
    let script = Script { acts: vec![member, Act::Print(100), Act::Sleep(2_500), Act::Die(9)], ..Script::default() };
    star(Schedule { jobs: jobs([script]), ..Schedule::default() }, place, WorldFault::Cancel(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique() {
        let mut names: Vec<&str> = ALL.iter().map(|s| s.name).collect();
        names.sort_unstable();
        let all = names.len();
        names.dedup();
        assert_eq!(names.len(), all);
        assert!(find("random").is_some_and(|s| !s.family));
    }

    #[test]
    fn the_place_of_the_star_is_the_seed() {
        let s = (find("r08").expect("a scenario").schedule)(12);
        assert_eq!(s.events.last().map(|e| e.when), Some(When::AfterStep(12)));
        assert!((find("r08").expect("a scenario").schedule)(0).events.is_empty());
    }
}
