//! Stories of one log stream, told through its commands.

mod contract;
mod exact;
mod headers;

use super::*;
use crate::agent::{Level, Metric};
use crate::api::{Outcome, Reply, Session, StatusError, TransportError, TransportKind};
use crate::limits::{LOG_BUFFER_BYTES, LOG_PACE_PATIENCE, LOG_PACED_BYTES};
use crate::machine::{Instant, Machine, Owner, RequestId};
use crate::wall::WallTime;
use bytes::Bytes;
use std::time::Duration;

const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3600);

pub(super) fn config(timestamps: TimestampMode) -> LogConfig {
    LogConfig {
        job: Owner::Job { worker: 1, generation: 1 },
        job_id: "j1".into(),
        worker: "w1".into(),
        session: Session {
            endpoint: "http://plane".into(),
            credential: crate::secret::Secret::new(crate::secret::MASK),
            headers: Default::default(),
        },
        chunk_bytes: 10,
        interval: SECOND,
        size_warning: 1 << 30,
        timestamps,
        buffer_bytes: LOG_BUFFER_BYTES,
        stdout: None,
        stdout_fields: Vec::new(),
        copy: None,
        seed: 7,
    }
}

fn ok() -> Outcome {
    Outcome::Ok(Reply::Empty)
}

fn status(status: u16, retry_after: Option<u64>) -> Outcome {
    Outcome::Status(Box::new(StatusError {
        status,
        status_text: String::new(),
        retry_after: retry_after.map(Duration::from_secs),
        text: format!("status {status}"),
    }))
}

fn timeout() -> Outcome {
    Outcome::Transport(Box::new(TransportError { kind: TransportKind::Timeout, text: "timed out".into() }))
}

/// One upload command.
#[derive(Clone, Debug, PartialEq)]
struct Up {
    id: RequestId,
    sequence: u64,
    offset: u64,
    data: String,
    attempt: u32,
}

/// A stream and everything it has said.
struct Rig {
    stream: LogStream,
    now: Instant,
    wall_ms: i64,
    seen: Vec<LogCommand>,
    /// Commands before this index were looked at.
    read: usize,
}

impl Rig {
    fn new(config: LogConfig) -> Rig {
        let mut rig = Rig { stream: LogStream::new(config, Instant::ZERO), now: Instant::ZERO, wall_ms: 1000, seen: Vec::new(), read: 0 };
        rig.event(LogEvent::ProcessStarted);
        rig
    }

    fn plain() -> Rig {
        Rig::new(config(TimestampMode::Plain))
    }

    fn event(&mut self, event: LogEvent) {
        let from = self.seen.len();
        self.stream.handle(self.now, event, &mut self.seen);
        self.note(from);
    }

    /// Transitions made are held against the list of those that exist.
    fn note(&self, from: usize) {
        for command in &self.seen[from..] {
            if let LogCommand::Transition(t) = command {
                crate::testing::transitions::made(t);
            }
        }
    }

    fn prints(&mut self, text: &str) {
        self.event(LogEvent::Bytes { wall: WallTime::from_nanos(self.wall_ms * 1_000_000), data: Bytes::copy_from_slice(text.as_bytes()) });
    }

    fn flush(&mut self, limit: Duration) {
        self.event(LogEvent::Flush { limit, wall: WallTime::from_nanos(self.wall_ms * 1_000_000) });
    }

    fn settle(&mut self, id: RequestId, outcome: Outcome) {
        self.event(LogEvent::Settled { id, outcome, compressed: 1 });
    }

    /// Time passes, timer by timer.
    fn pass(&mut self, d: Duration) {
        let end = self.now + d;
        while let Some(at) = self.stream.deadline().filter(|at| *at <= end) {
            self.now = self.now.max(at);
            let from = self.seen.len();
            self.stream.expire(self.now, &mut self.seen);
            self.note(from);
            assert!(self.stream.deadline().is_none_or(|d| d > self.now), "a timer that is due stays due");
        }
        self.now = end;
    }

    /// To the next timer; returns the time it took.
    fn next_timer(&mut self) -> Duration {
        let at = self.stream.deadline().expect("a timer");
        let took = at.since(self.now);
        self.pass(took);
        took
    }

    /// Commands since the last look, transitions and metrics left out.
    fn new_commands(&mut self) -> Vec<LogCommand> {
        let news = self.seen[self.read..].iter().filter(|c| !matches!(c, LogCommand::Transition(_) | LogCommand::Metric(_))).cloned().collect();
        self.read = self.seen.len();
        news
    }

    fn uploads(&mut self) -> Vec<Up> {
        self.new_commands().iter().filter_map(upload).collect()
    }

    fn logs(&self, level: Level) -> Vec<String> {
        let log = |c: &LogCommand| match c {
            LogCommand::Log(l) if l.level == level => Some(l.text.clone()),
            _ => None,
        };
        self.seen.iter().filter_map(log).collect()
    }

    fn metrics(&self) -> Vec<Metric> {
        self.seen.iter().filter_map(|c| if let LogCommand::Metric(m) = c { Some(m.clone()) } else { None }).collect()
    }

    fn drained(&self) -> Option<(u64, u64, u64)> {
        match self.seen.last() {
            Some(LogCommand::Drained { uploaded, failed, uploaded_bytes }) => Some((*uploaded, *failed, *uploaded_bytes)),
            _ => None,
        }
    }
}

fn upload(command: &LogCommand) -> Option<Up> {
    match command {
        LogCommand::Upload { id, sequence, offset, pieces, attempt } => Some(Up {
            id: *id,
            sequence: *sequence,
            offset: *offset,
            data: String::from_utf8_lossy(&pieces.concat()).into_owned(),
            attempt: *attempt,
        }),
        _ => None,
    }
}

fn batch(commands: &[LogCommand]) -> Option<(RequestId, Vec<(u64, String)>)> {
    commands.iter().find_map(|c| if let LogCommand::SendHeaderTimes { id, times } = c { Some((*id, times.clone())) } else { None })
}

#[test]
fn a_log_is_cut_at_the_interval_and_uploaded_three_at_a_time_in_order() {
    let mut rig = Rig::plain();
    rig.prints("0123456789abcdefghijABCDEFGHIJxyz");
    rig.prints("!!");
    assert!(rig.uploads().is_empty(), "nothing is cut before the interval");
    assert!(rig.next_timer() < SECOND, "the first cut comes after a jitter below the interval");
    let ups = rig.uploads();
    let told: Vec<_> = ups.iter().map(|u| (u.sequence, u.offset, u.data.as_str(), u.attempt)).collect();
    assert_eq!(told, [(1, 0, "0123456789", 1), (2, 10, "abcdefghij", 1), (3, 20, "ABCDEFGHIJ", 1)]);
    rig.settle(ups[1].id, ok());
    let fourth = rig.uploads();
    assert_eq!((fourth[0].sequence, fourth[0].offset, fourth[0].data.as_str()), (4, 30, "xyz!!"));
    rig.flush(HOUR);
    for id in [ups[0].id, ups[2].id, fourth[0].id] {
        assert_eq!(rig.drained(), None);
        rig.settle(id, ok());
    }
    assert_eq!(rig.drained(), Some((4, 0, 35)));
    assert!(rig.metrics().iter().any(|m| matches!(m, Metric::ChunkUploaded { bytes: 5, compressed: 1, .. })));
    assert_eq!(rig.stream.deadline(), None);
}

#[test]
fn i28_a_silent_job_uploads_nothing_and_arms_no_timer() {
    let mut rig = Rig::plain();
    assert_eq!(rig.stream.deadline(), None);
    rig.pass(HOUR);
    rig.flush(HOUR);
    assert_eq!(rig.drained(), Some((0, 0, 0)));
}

#[test]
fn i22_a_byte_is_cut_within_two_intervals_of_its_read() {
    let mut rig = Rig::plain();
    for i in 0..400_u64 {
        rig.pass(Duration::from_millis(37 + i % 53 * 100));
        rig.prints("x");
        let read = rig.now;
        rig.uploads();
        rig.next_timer();
        assert!(rig.now.since(read) <= 2 * SECOND);
        let ups = rig.uploads();
        assert_eq!(ups.len(), 1);
        rig.settle(ups[0].id, ok());
    }
}

#[test]
fn lines_of_the_runner_before_the_process_wait_for_its_start_or_for_the_flush() {
    let mut stream = LogStream::new(config(TimestampMode::Ansi), Instant::ZERO);
    let mut out = Vec::new();
    stream.handle(Instant::ZERO, LogEvent::Line { wall: WallTime::from_nanos(5_000_000), data: Bytes::from_static(b"no\n") }, &mut out);
    assert_eq!(stream.deadline(), None);
    stream.handle(Instant::ZERO, LogEvent::Flush { limit: HOUR, wall: WallTime::default() }, &mut out);
    let told: String = out.iter().filter_map(upload).map(|u| u.data).collect();
    assert_eq!(told, "\x1b_bk;t=5\x07no\n");
}

#[test]
fn a_chunk_that_fails_is_sent_again_unchanged_after_the_waits_of_the_table_and_given_up_after_twelve_attempts() {
    let mut rig = Rig::plain();
    rig.prints("hello");
    rig.next_timer();
    let first = rig.uploads().remove(0);
    let mut up = first.clone();
    for base in [2000, 3216, 5172, 8317, 13374, 21508, 34587, 55619, 89442, 143833, 231298] {
        rig.settle(up.id, if base % 2 == 0 { timeout() } else { status(503, Some(1)) });
        let wait = rig.next_timer();
        let base = Duration::from_millis(base);
        assert!(wait >= base && wait < base + SECOND, "{wait:?} for {base:?}");
        let again = rig.uploads().remove(0);
        assert_eq!(again, Up { id: again.id, attempt: up.attempt + 1, ..first.clone() });
        up = again;
    }
    rig.settle(up.id, status(500, None));
    assert_eq!(rig.logs(Level::Warn).len(), 12);
    assert!(rig.logs(Level::Warn)[0].starts_with("timed out (Attempt 1/12 Retrying in 2"));
    assert_eq!(rig.logs(Level::Warn)[11], "status 500 (Attempt 12/12)");
    assert_eq!(rig.logs(Level::Error), ["Giving up on uploading chunk 1, this will result in only a partial build log on Buildkite"]);
    // Later chunks keep their sequence and offset.
    rig.prints("world");
    rig.next_timer();
    let next = rig.uploads().remove(0);
    assert_eq!((next.sequence, next.offset), (2, 5));
    rig.settle(next.id, ok());
    rig.flush(HOUR);
    assert_eq!(rig.drained(), Some((1, 1, 5)));
    assert!(rig.metrics().contains(&Metric::ChunkGivenUp { bytes: 5 }));
    assert_eq!(rig.logs(Level::Warn).last().unwrap(), "1 chunks failed to upload for this job");
}

#[test]
fn i21_a_chunk_answered_4xx_is_not_sent_again() {
    for code in [400, 401, 404, 413, 422] {
        let mut rig = Rig::plain();
        rig.prints("hello");
        rig.flush(HOUR);
        let up = rig.uploads().remove(0);
        rig.settle(up.id, status(code, None));
        assert_eq!(rig.logs(Level::Warn)[0], format!("Buildkite rejected the chunk upload (status {code})"));
        assert_eq!(rig.drained(), Some((0, 1, 0)));
    }
}

#[test]
fn w23_a_chunk_answered_429_waits_at_least_retry_after() {
    let mut rig = Rig::plain();
    rig.prints("hello");
    rig.next_timer();
    let up = rig.uploads().remove(0);
    rig.settle(up.id, status(429, Some(30)));
    assert_eq!(rig.next_timer(), Duration::from_secs(30));
    let again = rig.uploads().remove(0);
    rig.settle(again.id, status(429, Some(1)));
    let wait = rig.next_timer();
    assert!(wait >= Duration::from_millis(3216), "a shorter Retry-After does not shorten the table: {wait:?}");
    assert_eq!(rig.uploads().len(), 1);
}

#[test]
fn chunks_between_attempts_keep_their_places_in_the_window() {
    let mut rig = Rig::plain();
    rig.prints(&"0123456789".repeat(5));
    rig.next_timer();
    let ups = rig.uploads();
    rig.settle(ups[0].id, timeout());
    assert!(rig.uploads().is_empty(), "the place of chunk 1 is not free");
    rig.settle(ups[1].id, ok());
    assert_eq!(rig.uploads()[0].sequence, 4);
}

#[test]
fn a_chunk_is_given_up_one_hour_after_its_first_attempt_also_in_flight() {
    let mut rig = Rig::plain();
    rig.prints("hello");
    rig.next_timer();
    let up = rig.uploads().remove(0);
    rig.pass(HOUR - SECOND);
    assert!(rig.new_commands().is_empty());
    rig.pass(SECOND);
    assert_eq!(rig.new_commands(), [LogCommand::Abort { id: up.id }]);
    rig.settle(up.id, Outcome::Aborted);
    assert_eq!(rig.logs(Level::Error).len(), 1);
    rig.flush(HOUR);
    assert_eq!(rig.drained(), Some((0, 1, 0)));
}

#[test]
fn w24_the_flush_limit_gives_up_what_is_unsettled_but_counts_what_was_answered_after_all() {
    let mut rig = Rig::plain();
    rig.prints(&"0123456789".repeat(6));
    rig.flush(HOUR * 10);
    let ups = rig.uploads();
    rig.settle(ups[0].id, timeout());
    rig.flush(Duration::from_secs(1));
    rig.flush(HOUR);
    rig.pass(SECOND);
    assert_eq!(rig.stream.deadline(), None);
    let aborted: Vec<_> = rig.new_commands().into_iter().filter(|c| matches!(c, LogCommand::Abort { .. })).collect();
    assert_eq!(aborted, [LogCommand::Abort { id: ups[1].id }, LogCommand::Abort { id: ups[2].id }]);
    assert_eq!(rig.drained(), None, "requests are still outstanding");
    rig.settle(ups[1].id, Outcome::Aborted);
    rig.settle(ups[2].id, ok());
    // I8: failed = sequences never answered 2xx.
    assert_eq!(rig.drained(), Some((1, 5, 10)));
    assert_eq!(rig.logs(Level::Error).len(), 5);
}

#[test]
fn w24_without_a_shorter_budget_the_flush_ends_after_one_hour() {
    let mut rig = Rig::plain();
    rig.prints("x");
    rig.flush(HOUR * 10);
    let up = rig.uploads().remove(0);
    rig.pass(HOUR);
    assert_eq!(rig.new_commands(), [LogCommand::Abort { id: up.id }]);
}

#[test]
fn output_after_the_flush_and_completions_of_nothing_are_counted_and_dropped() {
    let mut rig = Rig::plain();
    rig.flush(HOUR);
    let said = rig.seen.len();
    rig.prints("late");
    rig.settle(RequestId { owner: Owner::Agent, serial: 9 }, ok());
    rig.flush(HOUR);
    assert_eq!((rig.stream.late(), rig.seen.len()), (3, said));
}

#[test]
fn w22_reading_stops_above_the_limit_and_resumes_below_three_quarters_with_nothing_lost() {
    let mut rig = Rig::new(LogConfig { buffer_bytes: 100, ..config(TimestampMode::Plain) });
    rig.prints(&"x".repeat(100));
    assert!(!rig.seen.contains(&LogCommand::StopReading));
    rig.prints("y");
    assert_eq!(rig.new_commands(), [LogCommand::StopReading]);
    rig.pass(SECOND);
    let mut ups = rig.uploads();
    let mut uploaded = String::new();
    while let Some(up) = ups.pop() {
        uploaded.push_str(&up.data);
        rig.settle(up.id, ok());
        let news = rig.new_commands();
        let resumed = news.contains(&LogCommand::ResumeReading);
        // 101 bytes: after three chunks 71 are left.
        assert_eq!(resumed, uploaded.len() == 30, "after {} bytes", uploaded.len());
        ups.splice(0..0, news.iter().filter_map(upload));
    }
    assert_eq!(uploaded.len(), 101);
}

#[test]
fn while_uploads_are_fast_a_small_buffer_is_enough_and_a_plane_that_hangs_gives_the_job_the_whole_one() {
    let mut rig = Rig::new(LogConfig { chunk_bytes: 102_400, ..config(TimestampMode::Plain) });
    let mib = "x".repeat(1 << 20);
    for _ in 0..8 {
        rig.prints(&mib);
    }
    rig.prints("y");
    let news = rig.new_commands();
    assert_eq!(news.last(), Some(&LogCommand::StopReading));
    assert_eq!(rig.stream.outstanding_bytes(), LOG_PACED_BYTES + 1);
    // Uploads that come back quickly: reading goes on after a quarter.
    let mut ups: Vec<_> = news.iter().filter_map(upload).collect();
    let mut settled = 0;
    while !rig.seen.contains(&LogCommand::ResumeReading) {
        rig.settle(ups.remove(0).id, ok());
        settled += 1;
        ups.extend(rig.uploads());
    }
    assert_eq!(settled, 2 * (1 << 20) / 102_400 + 1);
    // Nothing comes back: after a second of patience the job may go on, up to the whole limit.
    rig.prints(&mib.repeat(3));
    assert_eq!(rig.new_commands().last(), Some(&LogCommand::StopReading));
    rig.pass(LOG_PACE_PATIENCE);
    assert!(rig.new_commands().contains(&LogCommand::ResumeReading));
    rig.prints(&mib.repeat(40));
    assert!(!rig.new_commands().contains(&LogCommand::StopReading));
    rig.prints(&mib.repeat(20));
    assert!(rig.new_commands().contains(&LogCommand::StopReading));
}

#[test]
fn when_a_burst_is_settled_memory_is_given_back_once_and_a_trickle_asks_for_nothing() {
    let mut rig = Rig::new(LogConfig { chunk_bytes: 102_400, ..config(TimestampMode::Plain) });
    let settle_all = |rig: &mut Rig| {
        let mut ups = rig.uploads();
        while !ups.is_empty() {
            rig.settle(ups.remove(0).id, ok());
            ups.extend(rig.uploads());
        }
    };
    let released = |rig: &Rig| rig.seen.iter().filter(|c| **c == LogCommand::ReleaseMemory).count();
    rig.prints(&"x".repeat(4 << 20));
    rig.prints("y");
    assert_eq!(released(&rig), 0);
    rig.pass(SECOND);
    settle_all(&mut rig);
    assert_eq!((released(&rig), rig.stream.outstanding_bytes()), (1, 0));
    rig.prints("a trickle");
    rig.pass(SECOND);
    settle_all(&mut rig);
    assert_eq!(released(&rig), 1);
}

#[test]
fn output_faster_than_the_interval_is_cut_before_it_in_full_chunks() {
    let mut rig = Rig::new(LogConfig { chunk_bytes: 102_400, ..config(TimestampMode::Plain) });
    rig.prints(&"x".repeat((1 << 20) - 1));
    assert!(rig.uploads().is_empty());
    rig.prints("x");
    assert!(rig.uploads().iter().all(|u| u.data.len() == 102_400));
    assert_eq!(rig.metrics().len(), 10);
}

#[test]
fn the_size_warning_is_written_once_and_uploading_goes_on() {
    let mut rig = Rig::new(LogConfig { size_warning: 1536, chunk_bytes: 1024, ..config(TimestampMode::Plain) });
    rig.prints(&"x".repeat(1536));
    rig.pass(2 * SECOND);
    assert!(rig.logs(Level::Warn).is_empty());
    for _ in 0..3 {
        rig.prints(&"x".repeat(600));
        rig.pass(2 * SECOND);
    }
    let warnings = rig.logs(Level::Warn);
    assert_eq!(warnings.len(), 1);
    assert!(warnings[0].starts_with("The job log has reached 2.1 KiB in size, which has exceeded the maximum size (1.5 KiB)"), "{warnings:?}");
}

#[test]
fn side_outputs_get_the_raw_delivery_and_exactly_the_bytes_that_are_uploaded() {
    let mut rig = Rig::new(LogConfig {
        stdout: Some(crate::job::StdoutFormat::Text),
        copy: Some("/tmp/copy".into()),
        chunk_bytes: 1000,
        ..config(TimestampMode::Ansi)
    });
    rig.prints("a\nb");
    rig.event(LogEvent::Line { wall: WallTime::from_nanos(1_000_000_000), data: Bytes::from_static(b"c\n") });
    rig.flush(HOUR);
    let all = rig.new_commands();
    let joined = |f: fn(&LogCommand) -> Option<&Bytes>| all.iter().filter_map(f).map(|b| String::from_utf8_lossy(b).into_owned()).collect::<Vec<_>>();
    assert_eq!(joined(|c| if let LogCommand::Stdout(b) = c { Some(b) } else { None }), ["a\nb", "c\n"]);
    let copied = joined(|c| if let LogCommand::Copy(b) = c { Some(b) } else { None }).concat();
    assert_eq!(copied, "\x1b_bk;t=1000\x07a\n\x1b_bk;t=1000\x07bc\n");
    assert_eq!(all.iter().find_map(upload).unwrap().data, copied);
}
