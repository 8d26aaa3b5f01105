//! Line timestamps: `[2026-11-23T03:04:05Z] ` before every line that is neither a header nor an expansion (header-times).

use super::escape::EscapeParser;
use super::headers::{LineKind, LineStart};
use super::sink::Sink;
use crate::limits::LINE_START_BYTES;
use crate::wall::WallTime;
use serde::{Deserialize, Serialize};

/// Puts a timestamp before plain lines, with the time at which their first byte was read.
///
/// Whether a line is a header is known after a few bytes; until then these are held. [`LineStamper::release`] passes them on as a
/// plain line. A line that begins inside an escape sequence gets no timestamp, as it would become part of that sequence.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct LineStamper {
    line: Line,
    parser: EscapeParser,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
enum Line {
    /// The kind is not known yet.
    Start { held: Vec<u8>, start: LineStart, first: WallTime },
    /// The kind is known; bytes go through.
    Rest,
}

impl Default for Line {
    fn default() -> Line {
        Line::Start { held: Vec::new(), start: LineStart::default(), first: WallTime::default() }
    }
}

impl LineStamper {
    /// Passes one delivery, read at `wall`, into `out`.
    pub fn push(&mut self, wall: WallTime, mut data: &[u8], out: &mut impl Sink) {
        while let Some((&byte, rest)) = data.split_first() {
            match &mut self.line {
                Line::Rest => {
                    let n = memchr::memchr(b'\n', data).map_or(data.len(), |at| at + 1);
                    if data[n - 1] == b'\n' {
                        self.line = Line::default();
                    }
                    self.parser.feed_all(&data[..n]);
                    out.append(&data[..n]);
                    data = &data[n..];
                }
                Line::Start { held, .. } if held.is_empty() && self.parser.inside() => self.line = Line::Rest,
                Line::Start { held, start, first } => {
                    if held.is_empty() {
                        *first = wall;
                    }
                    held.push(byte);
                    data = rest;
                    self.parser.feed(byte);
                    let kind = if byte == b'\n' || held.len() >= LINE_START_BYTES { Some(LineKind::Plain) } else { start.feed(byte) };
                    if let Some(kind) = kind {
                        self.decide(kind, out);
                        if byte == b'\n' {
                            self.line = Line::default();
                        }
                    }
                }
            }
        }
    }

    /// Passes on what is held, as a plain line. Returns whether there was anything.
    pub fn release(&mut self, out: &mut impl Sink) -> bool {
        let holds = self.holds();
        if holds {
            self.decide(LineKind::Plain, out);
        }
        holds
    }

    /// Whether bytes are held.
    pub fn holds(&self) -> bool {
        matches!(&self.line, Line::Start { held, .. } if !held.is_empty())
    }

    fn decide(&mut self, kind: LineKind, out: &mut impl Sink) {
        if let Line::Start { held, first, .. } = std::mem::replace(&mut self.line, Line::Rest) {
            if kind == LineKind::Plain {
                out.append(stamp(first).as_bytes());
            }
            out.append(&held);
        }
    }
}

fn stamp(wall: WallTime) -> String {
    const SECOND: i64 = 1_000_000_000;
    format!("[{}] ", WallTime::from_nanos(wall.as_nanos().div_euclid(SECOND) * SECOND).rfc3339_utc())
}

#[cfg(test)]
mod tests {
    use super::*;

    const T: WallTime = WallTime::from_nanos(1_763_866_445_678_000_000);

    fn stamped(parts: &[&str]) -> String {
        let mut s = LineStamper::default();
        let mut out = Vec::new();
        for part in parts {
            s.push(T, part.as_bytes(), &mut out);
        }
        s.release(&mut out);
        String::from_utf8(out).unwrap().replace(&stamp(T), "#")
    }

    #[test]
    fn the_time_is_rfc3339_in_whole_seconds() {
        assert_eq!(stamp(T), "[2025-11-23T02:54:05Z] ");
    }

    #[test]
    fn plain_lines_are_stamped_headers_and_expansions_are_not() {
        let text = "a\n\n--- head\r\n^^^ +++\nb\n\x1b[1m+++ x\n----\n---\r\nz";
        let expected = "#a\n#\n--- head\r\n^^^ +++\n#b\n\x1b[1m+++ x\n#----\n#---\r\n#z";
        assert_eq!(stamped(&[text]), expected);
        let bytes: Vec<&str> = text.split_inclusive(|_| true).collect();
        assert_eq!(stamped(&bytes), expected);
    }

    #[test]
    fn a_line_that_begins_inside_a_sequence_is_left_alone() {
        assert_eq!(stamped(&["a\x1b]0;t\nb\x07c\nd"]), "#a\x1b]0;t\nb\x07c\n#d");
    }

    #[test]
    fn held_bytes_are_bounded() {
        let mut s = LineStamper::default();
        let mut out = Vec::new();
        s.push(T, "\x1b[0m".repeat(LINE_START_BYTES).as_bytes(), &mut out);
        assert_eq!(out.len(), stamp(T).len() + 4 * LINE_START_BYTES);
    }
}
