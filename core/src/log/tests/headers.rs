//! Stories of header times, and of the modes that send them.

use super::*;

#[test]
fn header_times_are_batched_a_second_apart_and_flushed_at_the_end() {
    let mut rig = Rig::plain();
    rig.prints("--- a\nplain\n+++ b\n");
    rig.pass(Duration::from_millis(999));
    assert_eq!(batch(&rig.new_commands()), None);
    rig.pass(Duration::from_millis(1));
    let (id, times) = batch(&rig.new_commands()).unwrap();
    assert_eq!(times, [(0, "1970-01-01T00:00:01Z".to_owned()), (1, "1970-01-01T00:00:01Z".to_owned())]);
    // The wall clock jumps back: times do not decrease with the index.
    rig.wall_ms = 500;
    rig.prints("~~~ c\n");
    rig.wall_ms = 2500;
    rig.prints("--- unterminated");
    rig.pass(5 * SECOND);
    assert_eq!(batch(&rig.new_commands()), None, "one batch at a time");
    rig.settle(id, ok());
    rig.flush(HOUR);
    let news = rig.new_commands();
    let (id, times) = batch(&news).unwrap();
    assert_eq!(times, [(2, "1970-01-01T00:00:01Z".to_owned()), (3, "1970-01-01T00:00:02.5Z".to_owned())]);
    let mut ups: Vec<_> = rig.seen.iter().filter_map(upload).collect();
    while !ups.is_empty() {
        rig.settle(ups.remove(0).id, ok());
        ups.extend(rig.uploads());
    }
    assert_eq!(rig.drained(), None, "finish waits for the header times");
    rig.settle(id, ok());
    assert!(rig.drained().is_some());
}

#[test]
fn a_batch_that_fails_is_lost_as_a_whole_and_later_ones_keep_their_indexes() {
    let mut rig = Rig::plain();
    rig.prints("--- a\n");
    rig.pass(SECOND);
    let (mut id, _) = batch(&rig.new_commands()).unwrap();
    let chunk = rig.seen.iter().find_map(upload).unwrap();
    rig.settle(chunk.id, ok());
    rig.new_commands();
    for _ in 1..10 {
        rig.settle(id, timeout());
        assert_eq!(rig.next_timer(), 5 * SECOND);
        id = batch(&rig.new_commands()).unwrap().0;
    }
    rig.settle(id, timeout());
    assert_eq!(rig.logs(Level::Error), ["Ultimately unable to upload header times: timed out"]);
    assert_eq!(rig.logs(Level::Warn)[0], "timed out (Attempt 1/10 Retrying in 5s)");
    rig.prints("--- b\n");
    rig.pass(SECOND);
    let (id, times) = batch(&rig.new_commands()).unwrap();
    assert_eq!(times[0].0, 1);
    rig.settle(id, status(429, None));
    assert_eq!(rig.logs(Level::Warn).last().unwrap(), "Buildkite rejected the header times (status 429)");
}

#[test]
fn a_404_on_the_first_batch_means_that_there_is_no_such_endpoint() {
    let mut rig = Rig::plain();
    rig.prints("--- a\n");
    rig.pass(SECOND);
    let (id, _) = batch(&rig.new_commands()).unwrap();
    rig.prints("--- b\n");
    rig.settle(id, status(404, None));
    rig.prints("--- c\n");
    rig.pass(5 * SECOND);
    rig.flush(HOUR);
    assert_eq!(batch(&rig.new_commands()), None);
}

#[test]
fn header_times_beyond_the_limit_are_dropped_with_one_warning_and_output_flows_on() {
    let mut rig = Rig::new(LogConfig { chunk_bytes: 1 << 20, ..config(TimestampMode::Lines) });
    rig.prints(&"--- a\n".repeat(10_005));
    assert_eq!(rig.logs(Level::Warn).len(), 1);
    rig.pass(SECOND);
    let (id, times) = batch(&rig.new_commands()).unwrap();
    assert_eq!(times.len(), 10_000);
    rig.prints("--- z\n");
    rig.settle(id, ok());
    rig.pass(SECOND);
    assert_eq!(batch(&rig.new_commands()).unwrap().1[0].0, 10_005, "what was dropped keeps its index");
}

#[test]
fn the_flush_limit_ends_header_times_too() {
    let mut rig = Rig::plain();
    rig.prints("--- a\n");
    rig.flush(SECOND);
    let news = rig.new_commands();
    let (id, _) = batch(&news).unwrap();
    rig.settle(news.iter().find_map(upload).unwrap().id, ok());
    rig.pass(SECOND);
    assert_eq!(rig.new_commands(), [LogCommand::Abort { id }]);
    rig.settle(id, Outcome::Aborted);
    assert_eq!(rig.drained(), Some((1, 0, 6)));
}

#[test]
fn in_line_mode_a_cut_takes_what_is_held_and_it_stays_a_plain_line() {
    let mut rig = Rig::new(LogConfig { chunk_bytes: 1000, ..config(TimestampMode::Lines) });
    rig.prints("--");
    rig.pass(SECOND);
    let up = rig.uploads().remove(0);
    assert_eq!(up.data, "[1970-01-01T00:00:01Z] --");
    rig.settle(up.id, ok());
    rig.prints("- x\n--- y\n");
    rig.flush(HOUR);
    let news = rig.new_commands();
    assert_eq!(news.iter().find_map(upload).unwrap().data, "- x\n--- y\n");
    assert_eq!(batch(&news).unwrap().1.len(), 1);
}

#[test]
fn i29_no_header_times_with_ansi_timestamps() {
    let mut rig = Rig::new(config(TimestampMode::Ansi));
    rig.prints("--- a\n+++ b\n");
    rig.pass(5 * SECOND);
    rig.flush(HOUR);
    assert_eq!(batch(&rig.seen), None);
}
