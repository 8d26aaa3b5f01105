//! V5: bytes read = bytes in acknowledged chunks + bytes in chunks counted as failed. No overlap; offsets and sequences
//! contiguous (races §0.1; job-runner I8, I15–I18, I28).

use super::rows::Ref::R;
use super::view::{Job, SLACK, View};
use super::{Invariant, Violation};
use crate::schedule::Timestamps;
use crate::trace::Payload;
use std::collections::BTreeMap;
use std::time::Duration;

pub(super) const INVARIANT: Invariant = Invariant {
    id: "V5",
    title: "exact log",
    rule: "job-runner I8, I15–I18: every byte read is in one chunk, uploaded or counted",
    file: file!(),
    rows: &[R(8), R(15), R(16), R(17), R(18), R(24), R(28), R(30)],
    check,
};

struct Chunk {
    entry: usize,
    offset: u64,
    data: Vec<u8>,
    acknowledged: bool,
}

fn check(v: &View<'_>, out: &mut Vec<Violation>) {
    for (id, job) in &v.jobs {
        let chunks = collect(v, id, job, out);
        let mut expected = 0;
        for ((sequence, c), n) in chunks.iter().zip(1..) {
            if *sequence != n {
                out.push(Violation::at("V5", c.entry, format!("{id}: sequence {sequence} where {n} is next")));
                return;
            }
            if c.offset != expected {
                out.push(Violation::at("V5", c.entry, format!("{id}: chunk {sequence} has offset {} where {expected} is next", c.offset)));
            }
            expected += c.data.len() as u64;
        }
        if let Some((i, false)) = job.output_over
            && (job.read.len() as u64) < job.printed
        {
            out.push(Violation::at("V5", i, format!("{id}: {} bytes were printed, {} were read", job.printed, job.read.len())));
        }
        if let Some(finish) = job.finishes.first() {
            contents(v, id, job, &chunks, finish.sent, out);
        }
    }
}

fn collect(v: &View<'_>, id: &str, job: &Job<'_>, out: &mut Vec<Violation>) -> BTreeMap<u64, Chunk> {
    let mut chunks: BTreeMap<u64, Chunk> = BTreeMap::new();
    for c in &job.chunks {
        let Some((sequence, offset, size, data)) = View::chunk(c) else { continue };
        let Some(data) = data.filter(|d| d.len() as u64 == size) else {
            out.push(Violation::at("V5", c.sent, format!("{id}: chunk {sequence} says {size} bytes, and its body does not have them")));
            continue;
        };
        if size == 0 || size > v.setup.chunk_bytes {
            out.push(Violation::at("V5", c.sent, format!("{id}: chunk {sequence} has {size} bytes, allowed are 1 to {}", v.setup.chunk_bytes)));
        }
        let chunk = chunks.entry(sequence).or_insert_with(|| Chunk { entry: c.sent, offset, data: data.to_vec(), acknowledged: false });
        if chunk.offset != offset || chunk.data != data[..] {
            out.push(Violation::at("V5", c.sent, format!("{id}: chunk {sequence} is not the same in every attempt")));
        }
        chunk.acknowledged |= c.ok();
    }
    chunks
}

/// The chunks together are what was read; those that never arrived are counted in the finish.
fn contents(v: &View<'_>, id: &str, job: &Job<'_>, chunks: &BTreeMap<u64, Chunk>, finish: usize, out: &mut Vec<Violation>) {
    let Some(Payload::Finish { chunks_failed, .. }) = job.finishes.first().map(|c| &c.request.payload) else { return };
    let lost = chunks.values().filter(|c| !c.acknowledged).count() as u64;
    // The flush of a forced stop ends a second before its budget (job-runner §7.5); whatever is unsettled then counts as failed, also what
    // nobody has seen.
    let budget = v.setup.signal_timeout + v.setup.cleanup_timeout;
    let ends = job.worker.and_then(|w| v.forced_stop(w)).map(|(_, at)| at + budget.saturating_sub(Duration::from_secs(1)));
    let forced = ends.is_some_and(|ends| v.entries[finish].at + SLACK >= ends);
    let known = *chunks_failed == lost;
    // Chunks that were cut but never sent are seen by nobody; only a stop budget may leave them.
    if *chunks_failed < lost || (!known && !forced) {
        out.push(Violation::at("V5", finish, format!("{id}: {lost} chunks were never acknowledged, the finish tells of {chunks_failed}")));
    }
    let stream: Vec<u8> = chunks.values().flat_map(|c| c.data.iter().copied()).collect();
    let text = match v.setup.timestamps {
        Timestamps::Ansi => without_timestamps(&stream),
        Timestamps::Lines => without_line_times(&stream),
        Timestamps::Plain => stream,
    };
    let own = own_lines(&text);
    let rest = &text[own..];
    let whole = rest == &job.read[..] || text[..] == job.read[..];
    // What was given up may begin inside a timestamp.
    let last_line = rest.rsplit(|b| *b == b'\n').next().unwrap_or_default();
    let inside = match v.setup.timestamps {
        Timestamps::Ansi => (1..TIMESTAMP.len()).rev().find(|n| rest.ends_with(&TIMESTAMP[..*n])).unwrap_or(0),
        Timestamps::Lines if last_line.starts_with(b"[2") && last_line.len() < LINE_TIME || last_line == b"[" => last_line.len(),
        Timestamps::Lines | Timestamps::Plain => 0,
    };
    let part = !known && (job.read.starts_with(rest) || job.read.starts_with(&text) || job.read.starts_with(&rest[..rest.len() - inside]));
    // Lines of the runner come before the process or instead of it, so what follows them is the process's.
    if !whole && !part {
        let same = rest.iter().zip(&job.read).take_while(|(a, b)| a == b).count();
        let text = format!("{id}: {} bytes were read, {} are in chunks, and they differ from byte {same} on", job.read.len(), rest.len());
        out.push(Violation::at("V5", finish, text));
    }
}

/// Length of the lines at the start that the runner wrote itself (job-runner §2.5).
fn own_lines(text: &[u8]) -> usize {
    const OWN: [&[u8]; 7] = [
        b"Error running job: ",
        b"Job was cancelled before its process was started\n",
        b"pre-bootstrap hook rejected this job, see the buildkite-agent logs for more details\n",
        b"signature: ",
        b"error: ",
        b"Job will be run without verification\n",
        b"no signature in job\n",
    ];
    const SECTIONS: [&str; 3] =
        ["~~~ ✅ Job signature verified\n", "+++ ⚠️ Job signature verification failed\n", "+++ ⛔ Job signature verification failed\n"];
    let own = || OWN.iter().copied().chain(SECTIONS.iter().map(|s| s.as_bytes()));
    let mut at = 0;
    while let Some(line) = own().find(|l| text[at..].starts_with(l)) {
        let _ = line;
        match text[at..].iter().position(|b| *b == b'\n') {
            Some(n) => at += n + 1,
            None => return text.len(),
        }
    }
    at
}

/// How a timestamp begins.
const TIMESTAMP: &[u8] = b"\x1b_bk;t=";

/// Removes `ESC _bk;t=<digits> BEL`, also one that the end cuts off (job-runner §6.4, I24).
fn without_timestamps(stream: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(stream.len());
    let mut rest = stream;
    while !rest.is_empty() {
        if rest.starts_with(TIMESTAMP) {
            match rest.iter().position(|b| *b == 7) {
                Some(end) if rest[TIMESTAMP.len()..end].iter().all(u8::is_ascii_digit) => {
                    rest = &rest[end + 1..];
                    continue;
                }
                None => return out,
                Some(_) => {}
            }
        }
        out.push(rest[0]);
        rest = &rest[1..];
    }
    out
}

/// Length of `[2026-01-01T00:00:00Z] `.
const LINE_TIME: usize = 23;

/// Removes `[<RFC 3339 in UTC, whole seconds>] ` at the starts of lines (header-times).
fn without_line_times(stream: &[u8]) -> Vec<u8> {
    let is_time = |b: &[u8]| b.len() >= LINE_TIME && b[0] == b'[' && &b[LINE_TIME - 3..LINE_TIME] == b"Z] " && b[1..5].iter().all(u8::is_ascii_digit);
    let mut out = Vec::with_capacity(stream.len());
    for line in stream.split_inclusive(|b| *b == b'\n') {
        out.extend_from_slice(if is_time(line) { &line[LINE_TIME..] } else { line });
    }
    out
}

#[cfg(test)]
mod tests {
    use super::super::story::Story;
    use super::*;
    use ibex_core::process::ExitStatus;

    fn job() -> Story {
        Story::new().connected(1).started(100).spawned(200).printed(300, "hello\nworld\n").exited(400, ExitStatus::Code(0))
    }

    #[test]
    fn all_bytes_in_chunks_is_well() {
        job()
            .chunk(500, 5, 1, 0, "\x1b_bk;t=17\x07hello\n")
            .got(520, 5, 200)
            .chunk(530, 6, 2, 16, "\x1b_bk;t=18\x07world\n")
            .got(540, 6, 200)
            .finish(600, 9, "0", "", "", 0)
            .holds(INVARIANT);
    }

    #[test]
    fn a_lost_byte_is_seen() {
        job().chunk(500, 5, 1, 0, "hello\nworld").got(520, 5, 200).finish(600, 9, "0", "", "", 0).breaks(INVARIANT);
        job().chunk(500, 5, 1, 0, "hello\nworld\n").got(520, 5, 200).finish(600, 9, "0", "", "", 0).holds(INVARIANT);
    }

    #[test]
    fn an_offset_counted_twice_is_seen() {
        job().chunk(500, 5, 1, 0, "hello\n").got(520, 5, 200).chunk(530, 6, 2, 12, "world\n").got(540, 6, 200).breaks(INVARIANT);
    }

    #[test]
    fn a_gap_in_the_sequence_is_seen() {
        job().chunk(500, 5, 1, 0, "hello\n").got(520, 5, 200).chunk(530, 6, 3, 6, "world\n").got(540, 6, 200).breaks(INVARIANT);
    }

    #[test]
    fn a_failed_chunk_that_is_not_counted_is_seen() {
        let story = |failed| job().chunk(500, 5, 1, 0, "hello\nworld\n").got(520, 5, 400).finish(600, 9, "0", "", "", failed);
        story(1).holds(INVARIANT);
        story(0).breaks(INVARIANT);
    }

    /// Chunks that a stop budget left uncut are seen by nobody, so the log may end anywhere, also inside the time of a line.
    #[test]
    fn a_log_that_a_stop_budget_cuts_inside_a_line_time_is_well_and_a_lost_byte_before_it_is_not() {
        let story = |data| {
            let cut = job().with(|s| s.timestamps = Timestamps::Lines).signal(410, "QUIT").chunk(500, 5, 1, 0, data).got(520, 5, 400);
            move |ms| cut.finish(ms, 9, "0", "", "agent_stop", 2)
        };
        // S + C = 15 s: the flush ends 14 s after the stop, and not before it has nothing to give up.
        story("[2026-01-01T00:00:00Z] hello\n[2026-01-01T00:0")(14_410).holds(INVARIANT);
        story("[2026-01-01T00:00:00Z] hllo\n[2026-01-01T00:0")(14_410).breaks(INVARIANT);
        story("[2026-01-01T00:00:00Z] hello\n[2026-01-01T00:0")(9_000).breaks(INVARIANT);
    }

    #[test]
    fn a_chunk_that_changes_between_attempts_is_seen() {
        job().chunk(500, 5, 1, 0, "hello\nworld\n").got(520, 5, 500).chunk(2_600, 6, 1, 0, "hello\nWORLD\n").breaks(INVARIANT);
    }

    #[test]
    fn lines_of_the_runner_are_part_of_the_log() {
        Story::new()
            .connected(1)
            .started(100)
            .chunk(500, 5, 1, 0, "Error running job: no\n")
            .got(520, 5, 200)
            .finish(600, 9, "-1", "", "process_run_error", 0)
            .holds(INVARIANT);
    }
}
