//! Which lines are headers, and when they were read (header-times).

use super::escape::ESC;
use crate::wall::WallTime;
use serde::{Deserialize, Serialize};

/// What a line is, told by how it begins once colour and erase sequences are removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum LineKind {
    /// `---`, `+++` or `~~~` and one white-space character. (The CRs that end a line of a terminal do not count as that.)
    Header,
    /// `^^^ +++`
    Expansion,
    /// Anything else.
    Plain,
}

/// Tells the kind of one line from its first bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) struct LineStart {
    /// Visible bytes seen so far that can still become a marker.
    visible: u8,
    /// The first of them.
    first: u8,
    /// After three equal marks, a CR that may be the end of the line.
    carriage_return: bool,
    sequence: Sequence,
}

/// `ESC [ digits-and-semicolons m|K`, which is not visible.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
enum Sequence {
    #[default]
    None,
    Escape,
    Parameters,
}

const EXPANSION: &[u8; 7] = b"^^^ +++";

impl LineStart {
    /// Takes the next byte of the line (not its LF); `Some` when the kind is known.
    pub(crate) fn feed(&mut self, byte: u8) -> Option<LineKind> {
        match (self.sequence, byte) {
            (Sequence::None, ESC) => self.sequence = Sequence::Escape,
            (Sequence::None, _) => return self.visible(byte),
            (Sequence::Escape, b'[') => self.sequence = Sequence::Parameters,
            (Sequence::Parameters, b'0'..=b'9' | b';') => {}
            (Sequence::Parameters, b'm' | b'K') => self.sequence = Sequence::None,
            // Not one of the sequences that are removed: its ESC stands at the line's start, and that is no marker; unless
            // the line is a header already but for the byte after the marks, which is white space only as a CR.
            (Sequence::Escape | Sequence::Parameters, _) => {
                return Some(if self.carriage_return { LineKind::Header } else { LineKind::Plain });
            }
        }
        None
    }

    fn visible(&mut self, byte: u8) -> Option<LineKind> {
        if self.carriage_return {
            return (byte != b'\r').then_some(LineKind::Header);
        }
        let at = self.visible;
        self.visible += 1;
        match (at, self.first, byte) {
            (0, _, b'-' | b'+' | b'~' | b'^') => self.first = byte,
            (1 | 2, first, _) if byte == first => {}
            (3, b'-' | b'+' | b'~', b' ' | b'\t' | 0x0b | 0x0c) => return Some(LineKind::Header),
            (3, b'-' | b'+' | b'~', b'\r') => self.carriage_return = true,
            (6, b'^', b'+') => return Some(LineKind::Expansion),
            (3..=5, b'^', _) if byte == EXPANSION[usize::from(at)] => {}
            _ => return Some(LineKind::Plain),
        }
        None
    }
}

/// Finds header lines in a stream and reports when the end of each was read.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct HeaderScanner {
    start: LineStart,
    /// Kind of the line under way, once known.
    kind: Option<LineKind>,
}

impl HeaderScanner {
    /// Takes one delivery; `found` is called once per header line whose LF it contains, with the time of the delivery.
    pub fn push(&mut self, wall: WallTime, mut data: &[u8], mut found: impl FnMut(WallTime)) {
        while let Some((&byte, rest)) = data.split_first() {
            if byte == b'\n' {
                self.end(wall, &mut found);
                data = rest;
            } else if self.kind.is_none() {
                self.kind = self.start.feed(byte);
                data = rest;
            } else {
                let Some(at) = memchr::memchr(b'\n', data) else { return };
                data = &data[at..];
            }
        }
    }

    /// The output has ended: a header line without LF counts.
    pub fn finish(&mut self, wall: WallTime, mut found: impl FnMut(WallTime)) {
        self.end(wall, &mut found);
    }

    /// The line under way is not a header, whatever follows: its beginning is already in the log behind a timestamp.
    pub(crate) fn disown(&mut self) {
        self.kind = Some(LineKind::Plain);
    }

    fn end(&mut self, wall: WallTime, found: &mut impl FnMut(WallTime)) {
        if self.kind == Some(LineKind::Header) {
            found(wall);
        }
        *self = HeaderScanner::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kinds(text: &str) -> Vec<LineKind> {
        text.split('\n')
            .map(|line| {
                let mut start = LineStart::default();
                line.bytes().find_map(|b| start.feed(b)).unwrap_or(LineKind::Plain)
            })
            .collect()
    }

    #[test]
    fn lines_are_told_apart_by_how_they_begin() {
        use LineKind::{Expansion, Header, Plain};
        let table = [
            ("--- a", Header),
            ("+++ ", Header),
            ("~~~\tx", Header),
            ("---", Plain),
            ("----", Plain),
            ("---x", Plain),
            ("--+ x", Plain),
            (" --- x", Plain),
            ("", Plain),
            ("^^^ +++", Expansion),
            ("^^^ +++ more", Expansion),
            ("^^^ ++", Plain),
            ("^^^ a", Plain),
            ("\x1b[90m--- a", Header),
            ("\x1b[K\x1b[0;1m-\x1b[m-- a", Header),
            ("\x1b[1A--- a", Plain),
            ("\x1bM--- a", Plain),
            // A terminal ends lines in CR LF, or in CR CR LF after two of them: a YAML document mark is no header.
            ("---\r", Plain),
            ("---\r\r", Plain),
            ("---\r\x1b[0m\r", Plain),
            ("---\rprogress", Header),
        ];
        for (line, kind) in table {
            assert_eq!(kinds(line), [kind], "{line:?}");
        }
    }

    #[test]
    fn a_header_gets_the_time_at_which_its_end_was_read_however_it_was_delivered() {
        let mut s = HeaderScanner::default();
        let mut times = Vec::new();
        for (t, part) in [(1, "-"), (2, "-- a"), (3, "bc"), (4, "\r\n+++"), (5, " x\n~~~ y\nplain\n"), (6, "--- last")] {
            s.push(WallTime::from_nanos(t), part.as_bytes(), |w| times.push(w.as_nanos()));
        }
        s.finish(WallTime::from_nanos(7), |w| times.push(w.as_nanos()));
        assert_eq!(times, [4, 5, 5, 7]);
    }
}
