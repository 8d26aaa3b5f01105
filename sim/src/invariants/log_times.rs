//! Timestamps in the log: they do not decrease, and every line begins with one (job-runner §6.4, I24, I25).

use super::rows::Ref::R;
use super::view::View;
use super::{Invariant, Violation};
use crate::schedule::Timestamps;
use std::collections::BTreeMap;

pub(super) const INVARIANT: Invariant = Invariant {
    id: "log-times",
    title: "times in the log",
    rule: "job-runner §6.4, I24, I25: a time before every line, none earlier than the one before",
    file: file!(),
    rows: &[R(24), R(25)],
    check,
};

const TIMESTAMP: &[u8] = b"\x1b_bk;t=";

fn check(v: &View<'_>, out: &mut Vec<Violation>) {
    if v.setup.timestamps != Timestamps::Ansi {
        return;
    }
    for (id, job) in &v.jobs {
        let mut chunks: BTreeMap<u64, (usize, &[u8])> = BTreeMap::new();
        for c in &job.chunks {
            if let Some((sequence, _, _, Some(data))) = View::chunk(c) {
                chunks.entry(sequence).or_insert((c.sent, data));
            }
        }
        let Some((last, _)) = chunks.values().next_back() else { continue };
        // What was never sent leaves the end open, and nothing else: sequences have no gap (V5).
        let stream: Vec<u8> = chunks.values().flat_map(|(_, data)| data.iter().copied()).collect();
        if let Err(text) = well(&stream) {
            out.push(Violation::at("log-times", *last, format!("{id}: {text}")));
        }
    }
}

fn well(stream: &[u8]) -> Result<(), String> {
    let mut latest = 0;
    // Inside a sequence of the process itself no time may be put; the world's own ones have no line break in them.
    for (number, line) in stream.split_inclusive(|b| *b == b'\n').enumerate() {
        let begins = line.starts_with(TIMESTAMP) || TIMESTAMP.starts_with(line);
        if !begins {
            return Err(format!("line {} has no time", number + 1));
        }
        for at in line.windows(TIMESTAMP.len()).enumerate().filter(|(_, w)| *w == TIMESTAMP).map(|(at, _)| at + TIMESTAMP.len()) {
            let digits: String = line[at..].iter().take_while(|b| b.is_ascii_digit()).map(|b| char::from(*b)).collect();
            let ended = line.get(at + digits.len()) == Some(&7);
            match digits.parse::<u64>() {
                Ok(ms) if ended && ms < latest => return Err(format!("line {} goes back from {latest} to {ms}", number + 1)),
                Ok(ms) if ended => latest = ms,
                _ if at + digits.len() == line.len() => {}
                _ => return Err(format!("line {} has a time that is none", number + 1)),
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::story::Story;
    use super::*;

    fn log(data: &'static str) -> Story {
        Story::new().connected(1).started(100).chunk(500, 5, 1, 0, data)
    }

    #[test]
    fn a_line_without_a_time_is_seen() {
        log("\x1b_bk;t=17\x07one\n\x1b_bk;t=18\x07two\n").holds(INVARIANT);
        log("\x1b_bk;t=17\x07one\ntwo\n").breaks(INVARIANT);
        log("one\n").breaks(INVARIANT);
    }

    #[test]
    fn a_time_that_goes_back_is_seen() {
        log("\x1b_bk;t=17\x07one\n\x1b_bk;t=16\x07two\n").breaks(INVARIANT);
        log("\x1b_bk;t=17\x07one\x1b_bk;t=16\x07two\n").breaks(INVARIANT);
    }

    #[test]
    fn a_log_that_ends_inside_a_time_is_well() {
        log("\x1b_bk;t=17\x07one\n\x1b_bk").holds(INVARIANT);
        log("\x1b_bk;t=17\x07one\n\x1b_bk;t=1").holds(INVARIANT);
        log("\x1b_bk;t=17\x07one\n\x1b_bk;t=1x").breaks(INVARIANT);
    }

    #[test]
    fn other_modes_have_no_times() {
        log("one\n").with(|s| s.timestamps = Timestamps::Plain).holds(INVARIANT);
    }
}
