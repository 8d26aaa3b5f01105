//! ANSI timestamps: an escape prefix at every line start (job-runner §6.4).

use super::escape::{ESC, EscapeParser};
use super::sink::Sink;
use crate::wall::WallTime;
use serde::{Deserialize, Serialize};
use std::io::Write;

/// Time after the last timestamp beyond which a delivery in the middle of a line begins with another (strictly more).
const IN_LINE_NANOS: i64 = 1_000_000_000;

/// Inserts `ESC _bk;t=<milliseconds> BEL` before the first byte of every line, and inside a line after a pause.
///
/// Line breaks (LF and the erase-line sequences) are recognised over the continuous stream, so the result does not depend on
/// how the stream is cut into deliveries (W19). A timestamp that falls due inside an escape sequence waits for its end.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Timestamper {
    start_of_line: bool,
    last: Option<WallTime>,
    in_line_nanos: i64,
    parser: EscapeParser,
    erase: Erase,
}

impl Default for Timestamper {
    fn default() -> Self {
        Timestamper { start_of_line: true, last: None, in_line_nanos: IN_LINE_NANOS, parser: EscapeParser::default(), erase: Erase::default() }
    }
}

impl Timestamper {
    /// Passes one delivery, read at `wall`, into `out`.
    pub fn push(&mut self, wall: WallTime, data: &[u8], out: &mut impl Sink) {
        let mut stamp = Stamp::new(wall);
        let mut rest = data;
        while !rest.is_empty() {
            if !self.parser.inside() && self.due(wall) {
                out.append(stamp.text());
                self.start_of_line = false;
                self.last = Some(wall);
            }
            let n = if self.parser.inside() || self.erase != Erase::None { self.step_bytes(wall, rest) } else { self.step_text(rest) };
            out.append(&rest[..n]);
            rest = &rest[n..];
        }
    }

    fn due(&self, wall: WallTime) -> bool {
        self.start_of_line || self.last.is_some_and(|last| wall.as_nanos().saturating_sub(last.as_nanos()) > self.in_line_nanos)
    }

    /// Ordinary text up to and including the next byte that may matter. Most bytes go this way.
    fn step_text(&mut self, rest: &[u8]) -> usize {
        let Some(at) = memchr::memchr2(b'\n', ESC, rest) else { return rest.len() };
        if rest[at] == b'\n' {
            self.start_of_line = true;
        } else {
            self.parser.feed(ESC);
            self.erase = Erase::Escape;
        }
        at + 1
    }

    /// Bytes of a sequence, up to the place where a timestamp may be due, or where ordinary text begins.
    fn step_bytes(&mut self, wall: WallTime, rest: &[u8]) -> usize {
        for (i, &byte) in rest.iter().enumerate() {
            self.parser.feed(byte);
            let (erase, line_break) = self.erase.next(byte);
            self.erase = erase;
            self.start_of_line |= line_break;
            if !self.parser.inside() && (erase == Erase::None || self.due(wall)) {
                return i + 1;
            }
        }
        rest.len()
    }
}

/// How far a line break (LF, `ESC[K`, `ESC[0K`, `ESC[1K`, `ESC[2K`) has been seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
enum Erase {
    #[default]
    None,
    Escape,
    Bracket,
    Digit,
}

impl Erase {
    /// The state after `byte`, and whether it completes a line break.
    fn next(self, byte: u8) -> (Erase, bool) {
        match (self, byte) {
            (_, b'\n') | (Erase::Bracket | Erase::Digit, b'K') => (Erase::None, true),
            (_, ESC) => (Erase::Escape, false),
            (Erase::Escape, b'[') => (Erase::Bracket, false),
            (Erase::Bracket, b'0'..=b'2') => (Erase::Digit, false),
            _ => (Erase::None, false),
        }
    }
}

/// The text of a timestamp, made once per delivery and only when one is due.
struct Stamp {
    wall: WallTime,
    text: [u8; 32],
    len: usize,
}

impl Stamp {
    fn new(wall: WallTime) -> Stamp {
        Stamp { wall, text: [0; 32], len: 0 }
    }

    fn text(&mut self) -> &[u8] {
        if self.len == 0 {
            let mut room = &mut self.text[..];
            // 7 + at most 20 + 1 bytes: it always fits.
            let _ = write!(room, "\x1b_bk;t={}\x07", self.wall.as_millis());
            let left = room.len();
            self.len = self.text.len() - left;
        }
        &self.text[..self.len]
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at_ms(ms: i64) -> WallTime {
        WallTime::from_nanos(ms * 1_000_000)
    }

    /// The rule of §6.4 with continuous recognition, one byte at a time.
    fn oracle(deliveries: &[(i64, Vec<u8>)]) -> Vec<u8> {
        const BREAKS: [&[u8]; 5] = [b"\n", b"\x1b[K", b"\x1b[0K", b"\x1b[1K", b"\x1b[2K"];
        let (mut out, mut stream) = (Vec::new(), Vec::new());
        let (mut start, mut last, mut parser) = (true, 0, EscapeParser::default());
        for (ms, bytes) in deliveries {
            for &b in bytes {
                if !parser.inside() && (start || ms - last > 1000) {
                    out.extend_from_slice(format!("\x1b_bk;t={ms}\x07").as_bytes());
                    (start, last) = (false, *ms);
                }
                out.push(b);
                stream.push(b);
                parser.feed(b);
                start |= BREAKS.iter().any(|s| stream.ends_with(s));
            }
        }
        out
    }

    #[test]
    fn check_values_of_the_specification() {
        type Row = (&'static str, &'static [(i64, &'static str)], &'static str);
        let table: [Row; 6] = [
            ("two lines", &[(0, "alpacas\nllamas\n")], "#alpacas\n#llamas\n"),
            ("erase to end", &[(0, "blah\x1b[Kbler\x1bgh")], "#blah\x1b[K#bler\x1bgh"),
            ("erase line", &[(0, "blah\x1b[2Kblergh")], "#blah\x1b[2K#blergh"),
            ("cursor moves", &[(0, "blah\x1b[1B\x1b[1A\x1b[2Kblergh")], "#blah\x1b[1B\x1b[1A\x1b[2K#blergh"),
            ("bare [K", &[(0, "foo\n\x1b[1B later [Kllama")], "#foo\n#\x1b[1B later [Kllama"),
            (
                "in-line, after the sequence that is open",
                &[(0, "I see you "), (0, "shiver with antici\x1b["), (100, "1mpation")],
                "#I see you shiver with antici\x1b[1m@pation",
            ),
        ];
        for (name, deliveries, expected) in table {
            let mut t = Timestamper { in_line_nanos: 10_000_000, ..Timestamper::default() };
            let mut out = Vec::new();
            for (ms, text) in deliveries {
                t.push(at_ms(1_700_000_000_000 + ms), text.as_bytes(), &mut out);
            }
            let expected = expected.replace('#', "\x1b_bk;t=1700000000000\x07").replace('@', "\x1b_bk;t=1700000000100\x07");
            assert_eq!(String::from_utf8(out).unwrap(), expected, "{name}");
        }
    }

    #[test]
    fn w19_a_break_inside_an_open_sequence_is_remembered_until_its_end() {
        let mut t = Timestamper::default();
        let mut out = Vec::new();
        for part in ["a\x1b]0;ti", "t\nle\x07b", "\x1b[", "2", "K", "c"] {
            t.push(at_ms(5), part.as_bytes(), &mut out);
        }
        let s = "\x1b_bk;t=5\x07";
        assert_eq!(String::from_utf8(out).unwrap(), format!("{s}a\x1b]0;tit\nle\x07{s}b\x1b[2K{s}c"));
    }

    #[test]
    fn a_wall_clock_that_jumps_back_suppresses_nothing() {
        let mut t = Timestamper::default();
        let mut out = Vec::new();
        t.push(at_ms(10_000), b"a\n", &mut out);
        t.push(at_ms(10), b"b\n", &mut out);
        assert_eq!(out, b"\x1b_bk;t=10000\x07a\n\x1b_bk;t=10\x07b\n");
    }

    /// Text in which everything that matters is frequent.
    pub(in crate::log) fn spicy() -> impl Strategy<Value = Vec<u8>> {
        let atom = prop_oneof![
            Just(&b"\n"[..]),
            Just(&b"\r"[..]),
            Just(&b"\x1b"[..]),
            Just(&b"["[..]),
            Just(&b"K"[..]),
            Just(&b"2"[..]),
            Just(&b"0K"[..]),
            Just(&b"\x1b[K"[..]),
            Just(&b"\x1b[1m"[..]),
            Just(&b"]"[..]),
            Just(&b"\x07"[..]),
            Just(&b"\\"[..]),
            Just(&b" "[..]),
            Just(&b"abc"[..]),
            Just(&b"---"[..]),
            Just(&b"--- x"[..]),
            Just(&b"^^^ +++"[..]),
            Just(&b"\xff\x00"[..]),
        ];
        proptest::collection::vec(atom, 0..40).prop_map(|v| v.concat())
    }

    proptest! {
        #[test]
        fn equals_the_byte_by_byte_rule(parts in proptest::collection::vec((0_i64..1500, spicy()), 0..6)) {
            let mut now = 0;
            let deliveries: Vec<_> = parts.into_iter().map(|(d, b)| { now += d; (now, b) }).collect();
            let mut t = Timestamper::default();
            let mut out = Vec::new();
            for (ms, bytes) in &deliveries {
                t.push(at_ms(*ms), bytes, &mut out);
            }
            prop_assert_eq!(out, oracle(&deliveries));
        }

        #[test]
        fn does_not_depend_on_delivery_boundaries(text in spicy(), cuts in proptest::collection::vec(0_usize..200, 0..8)) {
            let (mut whole, mut split) = (Vec::new(), Vec::new());
            Timestamper::default().push(at_ms(7), &text, &mut whole);
            let mut cuts: Vec<usize> = cuts.into_iter().map(|c| c.min(text.len())).chain([0, text.len()]).collect();
            cuts.sort_unstable();
            let mut t = Timestamper::default();
            for w in cuts.windows(2) {
                t.push(at_ms(7), &text[w[0]..w[1]], &mut split);
            }
            prop_assert_eq!(whole, split);
        }
    }
}
