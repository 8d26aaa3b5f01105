//! The scenarios by name: `random`, the families of `races` with their marked event at every place, and the stored schedules.
//!
//! In a family the seed is the place of the marked event ★: it happens right after the observation with that number. Seed 0 is the
//! run without it.

mod corners;
mod modes;
mod rows;

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
    /// What its seeds are.
    pub seeds: Seeds,
}

/// What the seeds of a scenario are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seeds {
    /// Any number is another run.
    Random,
    /// Places of a marked event: all up to the number of observations are worth playing.
    Places,
    /// So many hand-made variants.
    Variants(u64),
}

impl Scenario {
    /// About `places` seeds of a family, evenly spread over its baseline run; all variants of another scenario.
    pub fn sample(&self, places: u64) -> impl Iterator<Item = u64> {
        let (end, step) = match self.seeds {
            Seeds::Places => {
                let steps = crate::run::run(&(self.schedule)(0)).trace.entries.len() as u64;
                // Families may vary with the remainder of the place: an odd distance meets all remainders.
                (steps, (steps / places.max(1)) | 1)
            }
            Seeds::Variants(n) => (n - 1, 1),
            Seeds::Random => (places, 1),
        };
        (0..=end).step_by(step as usize)
    }
}

const fn family(name: &'static str, about: &'static str, schedule: fn(u64) -> Schedule) -> Scenario {
    Scenario { name, about, schedule, seeds: Seeds::Places }
}

const fn variants(name: &'static str, n: u64, about: &'static str, schedule: fn(u64) -> Schedule) -> Scenario {
    Scenario { name, about, schedule, seeds: Seeds::Variants(n) }
}

/// All scenarios.
pub const ALL: &[Scenario] = &[
    Scenario {
        name: "random", about: "1–4 workers, several jobs, a random subset of all faults", schedule: Schedule::random, seeds: Seeds::Random
    },
    family("r01", "stop while registering or connecting: ★ TERM", r01),
    family("r01q", "forced stop while registering or connecting: ★ QUIT", r01q),
    family("r02", "one of four registrations fails, one waits for its retry: ★ TERM", modes::r02),
    family("r03", "error exits pass through the disconnect: ping rejected, ★ TERM", r03),
    variants("r04v", 2, "five minutes of server trouble, then a job is taken in time", r04),
    family("r05", "a stream that was open for long is reset: ★ cut", modes::r05),
    family("r06", "the registration is gone: pings and heartbeats are answered 401 from ★ on", modes::r06),
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
    variants("r17v", 2, "host without disk space: jobs are reported, nothing is left", r17),
    variants("r18v", 2, "start rejected: the job is dropped, the pace is the usual one", r18),
    variants("r19v", 2, "acquired after four minutes of retries, then a long job", modes::r19),
    variants("r20v", 2, "a page instead of JSON on every call", r20),
    family("r21", "heartbeats during a graceful drain: ★ TERM, the job needs 40 s", r21),
    variants("r22v", 2, "heartbeats that hang while chunks and pings hang", r22),
    family("r23", "health: heartbeats fail from ★ on, for longer than a whole cycle", modes::r23),
    family("r24", "cancel crosses the natural exit: ★ cancel", r24),
    family("r25", "two causes: a server cancel at 3 s, ★ QUIT", r25),
    family("r26", "cancel inside the retries of start: ★ QUIT", r26),
    variants("r27v", 2, "cancel known at the first poll", r27),
    family("r28", "pre-bootstrap hook and signature check: ★ QUIT", modes::r28),
    family("r28s", "startup and shutdown hooks: ★ TERM, TERM 1 s later", modes::r28s),
    family("r29", "clean-up of a job whose finish hangs: ★ QUIT", modes::r29),
    family("r30", "second and third signal: TERM, TERM 1 s later, ★ INT; a stubborn job", r30),
    family("r30q", "QUIT at every step, a job that leaves a member behind", r30q),
    family("r31", "forced stop truncates no other log: two jobs print, ★ QUIT", r31),
    family("r32", "spot notice: ★ TERM, second TERM 20 s later", r32),
    variants("r33", 2, "one endless line, then normal ones", modes::r33),
    variants("r34", 2, "a burst, then a trickle", modes::r34),
    family("r34b", "a burst into a small buffer while chunks fail: ★ QUIT", modes::r34b),
    variants("r35", 2, "who closes the output: a child that escaped keeps it open", r35),
    variants("r36", 2, "exits in the first millisecond, many times", modes::r36),
    family("r37", "done before copied: slow chunks, ★ TERM", r37),
    family("r38", "chunks not wanted: 404 from ★ on", r38),
    family("acquire", "acquire mode: locked, limited, then given: ★ TERM", modes::acquire),
    family("acquireq", "acquire mode, no answer: ★ TERM", modes::acquire_hangs),
    variants("acquire-no", 4, "acquire mode: refused in every way", modes::acquire_refused),
    family("uptime", "uptime limit of 6 s with a job: ★ pause", modes::uptime),
    family("r16p", "messages wait while the stream ends for good at ★", modes::r16p),
    variants("nameless", 3, "streams bring jobs without an id", modes::nameless),
    family("offered", "a job is offered again: to its agent, a leaving one, a paused one; ★ cut", modes::offered),
    family("endpoint", "another endpoint is told, tested, taken or not: ★ TERM", modes::endpoint),
    family("times", "header times while their endpoint fails: ★ QUIT", modes::times),
    variants("late-flaw", 2, "a configuration that is found wrong late", modes::flawed),
    variants("long-trouble", 5, "connect, start or chunk fail until their plans are exhausted", modes::exhausted),
    variants("stuck", 8, "processes that cannot be killed for a time, close their output, leave members", modes::stuck),
    family("start-trouble", "no disk, start fails: ★ QUIT", modes::start_trouble),
    variants("second-kind", 5, "a cancel, then a second kind of it", modes::second_kind),
    family("r01h", "SIGHUP while registering and in the startup hook: ★ HUP", corners::r01h),
    family("r01c", "a connect that gets no answer: ★ TERM", corners::r01c),
    family("r08a", "an accept that gets no answer: ★ TERM or QUIT", corners::r08a),
    family("r13l", "a paused worker is told to leave: ★ disconnect", corners::r13l),
    variants("crossing", 36, "a cancel is told in the instant of the exit, and handled later", corners::crossing),
    family("late", "a poll that is given up with the exit completes late: ★ TERM", corners::late),
    family("tiny", "chunks of four bytes: ★ QUIT", corners::tiny),
    family("no-times", "header times are not known, chunks hang: ★ QUIT", corners::no_times),
    family("r04", "a server in trouble for 40 s: ★ dead listener, partition, errors; then a job", rows::r04),
    family("r07", "twelve workers meet the same outage: ★ errors or Retry-After for 24 s", rows::r07),
    family("r17", "host without disk space: ★ disk full", rows::r17),
    family("r18", "start is rejected from ★ on, and the job offered again and again", rows::r18),
    family("r19", "acquired after four minutes of retries, then a long job: ★ cut", rows::r19),
    family("r20", "pages or nothing instead of JSON from ★ on, for 7 s", rows::r20),
    family("r22", "heartbeats, or all calls, hang from ★ on, for 20 s", rows::r22),
    family("r27", "cancelled before the first poll, or with no process left: ★ cancel", rows::r27),
    family("r39", "empty ends: jobs that print nothing; ★ TERM, QUIT, cut", rows::r39),
    family("r40", "the answer of a finish is lost: ★ TERM, cut", rows::r40),
    family("headers", "sets of headers are given, replaced, cleared, at two endpoints: ★ TERM", rows::headers),
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
        assert!(find("random").is_some_and(|s| s.seeds == Seeds::Random));
    }

    /// The other rows are of real processes and byte streams (races, tiers F and R); r33 to r36 are simulated besides.
    #[test]
    fn every_row_of_the_worker_and_its_control_plane_is_a_family() {
        for row in (1..=32).chain(37..=40) {
            let name = format!("r{row:02}");
            assert!(find(&name).is_some_and(|s| s.seeds == Seeds::Places), "{name} has no event at every step");
        }
    }

    #[test]
    fn the_table_of_races_names_every_row_and_only_what_exists() {
        let text = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/races.md")).expect("the table is there");
        let rows: Vec<Vec<&str>> = text.lines().filter(|l| l.starts_with("| R")).map(|l| l.split('|').map(str::trim).collect()).collect();
        assert_eq!(rows.iter().map(|row| row[1].to_owned()).collect::<Vec<_>>(), (1..=40).map(|n| format!("R{n:02}")).collect::<Vec<_>>());
        for row in rows {
            let names: Vec<&str> = row[2].split_whitespace().map(|name| name.trim_matches('`')).collect();
            assert!(names.iter().all(|name| find(name).is_some()), "{row:?}");
            assert!(names.contains(&row[1].to_lowercase().as_str()), "{row:?}");
        }
    }

    #[test]
    fn the_place_of_the_star_is_the_seed() {
        let s = (find("r08").expect("a scenario").schedule)(12);
        assert_eq!(s.events.last().map(|e| e.when), Some(When::AfterStep(12)));
        assert!((find("r08").expect("a scenario").schedule)(0).events.is_empty());
    }
}
