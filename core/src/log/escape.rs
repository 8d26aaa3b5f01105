//! Where a stream of terminal output is inside an escape sequence (job-runner §6.5).

use crate::limits::ESCAPE_SEQUENCE_BYTES;
use serde::{Deserialize, Serialize};

/// First byte of every escape sequence.
pub(crate) const ESC: u8 = 0x1b;
const BEL: u8 = 0x07;

/// Follows escape sequences through a stream of bytes, whatever its deliveries.
///
/// A sequence that does not end (binary output contains `ESC P` by chance) counts as ended after
/// [`ESCAPE_SEQUENCE_BYTES`], so that it cannot suppress timestamps for ever.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct EscapeParser {
    state: State,
    /// Bytes of the sequence so far, its ESC included; 0 outside.
    bytes: usize,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
enum State {
    #[default]
    Normal,
    Escape,
    Parameters,
    Intermediates,
    String,
    StringEscape,
}

impl EscapeParser {
    /// Whether the next byte belongs to a sequence that has begun.
    pub fn inside(&self) -> bool {
        self.state != State::Normal
    }

    /// Takes one byte.
    pub fn feed(&mut self, byte: u8) {
        self.state = next(self.state, byte);
        if self.state == State::Normal {
            self.bytes = 0;
            return;
        }
        self.bytes += 1;
        if self.bytes >= ESCAPE_SEQUENCE_BYTES {
            *self = EscapeParser::default();
        }
    }

    /// Takes many bytes; ordinary text is skipped at memory speed.
    pub fn feed_all(&mut self, mut bytes: &[u8]) {
        while let Some((&first, rest)) = bytes.split_first() {
            if self.inside() {
                self.feed(first);
                bytes = rest;
            } else {
                let Some(at) = memchr::memchr(ESC, bytes) else { return };
                self.feed(ESC);
                bytes = &bytes[at + 1..];
            }
        }
    }
}

/// The table of job-runner §6.5.
fn next(state: State, byte: u8) -> State {
    match (state, byte) {
        (State::Normal, ESC) => State::Escape,
        (State::Normal, _) => State::Normal,
        (State::Escape, b'[') => State::Parameters,
        (State::Escape, b']' | b'P' | b'X' | b'^' | b'_') => State::String,
        (State::Escape, _) => State::Normal,
        (State::Parameters, 0x30..=0x3f) => State::Parameters,
        (State::Parameters | State::Intermediates, 0x20..=0x2f) => State::Intermediates,
        (State::Parameters | State::Intermediates, _) => State::Normal,
        (State::String, BEL) => State::Normal,
        (State::String, ESC) => State::StringEscape,
        (State::String, _) => State::String,
        (State::StringEscape, b'\\') => State::Normal,
        (State::StringEscape, _) => State::String,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn inside_after(bytes: &[u8]) -> bool {
        let mut p = EscapeParser::default();
        bytes.iter().for_each(|&b| p.feed(b));
        let mut all = EscapeParser::default();
        all.feed_all(bytes);
        assert_eq!(p, all, "feed_all differs for {bytes:?}");
        p.inside()
    }

    #[test]
    fn sequences_begin_and_end_as_the_table_says() {
        for open in ["\x1b", "\x1b[", "\x1b[1;31", "\x1b[1 ", "\x1b]0;title", "\x1bPq\x1b", "\x1b_bk;t=1", "text\x1bX", "\x1b^\x1bx"] {
            assert!(inside_after(open.as_bytes()), "{open:?} should be open");
        }
        for closed in ["", "text", "\x1b\x1b", "\x1bM", "\x1b[1m", "\x1b[1 q", "\x1b]0;t\x07", "\x1bPq\x1b\\", "\x1b[\n", "\x1b[1 1"] {
            assert!(!inside_after(closed.as_bytes()), "{closed:?} should be closed");
        }
    }

    #[test]
    fn a_sequence_without_end_counts_as_ended_after_64_kib() {
        let mut p = EscapeParser::default();
        p.feed_all(b"\x1bP");
        p.feed_all(&vec![b'x'; ESCAPE_SEQUENCE_BYTES - 3]);
        assert!(p.inside());
        p.feed(b'x');
        assert!(!p.inside());
    }
}
