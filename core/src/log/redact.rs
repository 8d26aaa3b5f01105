//! Redaction: a transducer that replaces secrets in a stream of bytes (job-runner §6.3, bootstrap §15).

use super::needles::{Needle, needles_of};
use crate::limits::REDACTION_HELD_BYTES;
use std::collections::VecDeque;

/// What stands in place of a secret.
pub const REDACTED: &[u8] = b"[REDACTED]";

/// Replaces every occurrence of every needle by [`REDACTED`], however the stream is cut into pieces.
///
/// Overlapping occurrences become one replacement, touching ones stay two. Output is withheld from the earliest place where a
/// needle may have begun; [`Redactor::flush`] says that nothing follows and passes it on. Needles are added at any time and
/// apply to bytes that come after; they are never removed.
///
/// ```
/// let mut redactor = ibex_core::log::Redactor::new();
/// redactor.add("hunter2");
/// let mut out = Vec::new();
/// redactor.push(b"password: hun", &mut out);
/// assert_eq!(out, b"password: ");
/// redactor.push(b"ter2!", &mut out);
/// assert_eq!(out, b"password: [REDACTED]!");
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct Redactor {
    /// All needles as one tree, its root first.
    nodes: Vec<Node>,
    /// Bit `256 × a + b`: some needle may begin with the bytes `a`, `b`.
    pairs: Vec<u64>,
    /// Length of the longest needle.
    longest: usize,
    /// Position of the next byte in the stream.
    at: u64,
    /// Needles under way, the earliest first.
    partial: Vec<Partial>,
    /// Room for those of the byte before; empty between calls.
    before: Vec<Partial>,
    /// The last bytes of the stream, withheld.
    held: Vec<u8>,
    /// Completed ranges among them, ascending, united where they overlap.
    ranges: VecDeque<(u64, u64)>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Node {
    /// Next byte and node, ascending by byte.
    children: Vec<(u8, u32)>,
    /// Node after a run of white space, which is what LF in a needle stands for.
    blank: Option<u32>,
    /// Reached by such a run: more white space stays here.
    in_blank: bool,
    /// A needle ends here; the stream position at which it was added.
    ends: Option<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Partial {
    node: u32,
    start: u64,
}

const ROOT: u32 = 0;

impl Default for Redactor {
    fn default() -> Redactor {
        Redactor {
            nodes: vec![Node::default()],
            pairs: vec![0; 65536 / 64],
            longest: 0,
            at: 0,
            partial: Vec::new(),
            before: Vec::new(),
            held: Vec::new(),
            ranges: VecDeque::new(),
        }
    }
}

impl std::fmt::Debug for Redactor {
    /// Sizes only: the tree is made of secrets.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Redactor").field("nodes", &self.nodes.len()).field("at", &self.at).field("held", &self.held.len()).finish_non_exhaustive()
    }
}

impl Redactor {
    /// A redactor without needles: bytes pass through.
    pub fn new() -> Redactor {
        Redactor::default()
    }

    /// Adds a secret and its escaped form as needles, whatever its length. Text of white space alone has no effect.
    pub fn add(&mut self, secret: &str) {
        for needle in needles_of(secret) {
            self.insert(&needle);
        }
    }

    /// Passes `bytes` on into `out`, as far as they are decided.
    pub fn push(&mut self, bytes: &[u8], out: &mut Vec<u8>) {
        let mut rest = bytes;
        while !rest.is_empty() {
            if self.partial.is_empty() {
                // Nothing is withheld: pass over everything in which no needle can begin.
                let n = self.skip(rest);
                out.extend_from_slice(&rest[..n]);
                self.at += n as u64;
                rest = &rest[n..];
            }
            let Some((&byte, after)) = rest.split_first() else { break };
            self.step(byte);
            rest = after;
            if self.held.len() > REDACTION_HELD_BYTES.max(2 * self.longest) {
                // A run of white space inside a needle has no length limit; what is withheld has.
                self.release(out);
                self.drop_oldest_if_full();
            }
            if self.partial.is_empty() {
                self.release(out);
            }
        }
        self.release(out);
    }

    /// No more bytes belong to what was pushed: passes everything on. Needles stay.
    pub fn flush(&mut self, out: &mut Vec<u8>) {
        self.partial.clear();
        self.release(out);
    }

    /// The whole of `text`, redacted: for texts that are no streams.
    pub fn redact(&mut self, text: &[u8]) -> Vec<u8> {
        let mut out = Vec::with_capacity(text.len());
        self.push(text, &mut out);
        self.flush(&mut out);
        out
    }

    fn insert(&mut self, needle: &Needle) {
        let mut node = ROOT;
        for &byte in needle.bytes() {
            node = self.child_or_new(node, byte);
        }
        let ends = &mut self.nodes[node as usize].ends;
        ends.get_or_insert(self.at);
        self.longest = self.longest.max(needle.bytes().len());
        let [first, rest @ ..] = needle.bytes() else { return };
        for second in 0..=255_u8 {
            let follows = match rest.first() {
                None => true,
                Some(b'\n') => is_blank(second),
                Some(byte) => *byte == second,
            };
            if follows {
                let bit = usize::from(*first) << 8 | usize::from(second);
                self.pairs[bit / 64] |= 1 << (bit % 64);
            }
        }
    }

    fn child_or_new(&mut self, node: u32, byte: u8) -> u32 {
        let new = u32::try_from(self.nodes.len()).unwrap_or(u32::MAX);
        let parent = &mut self.nodes[node as usize];
        let existing = if byte == b'\n' {
            *parent.blank.get_or_insert(new)
        } else {
            match parent.children.binary_search_by_key(&byte, |c| c.0) {
                Ok(i) => parent.children[i].1,
                Err(i) => {
                    parent.children.insert(i, (byte, new));
                    new
                }
            }
        };
        if existing == new {
            self.nodes.push(Node { in_blank: byte == b'\n', ..Node::default() });
        }
        existing
    }

    /// Number of leading bytes at which no needle can begin. The last byte counts by itself: what follows is not known.
    fn skip(&self, bytes: &[u8]) -> usize {
        let pairs = &self.pairs[..1024];
        let hit = bytes.windows(2).position(|w| {
            let bit = usize::from(w[0]) << 8 | usize::from(w[1]);
            pairs[bit / 64] >> (bit % 64) & 1 == 1
        });
        hit.unwrap_or_else(|| match bytes.last() {
            Some(last) if self.child(ROOT, *last).is_some() => bytes.len() - 1,
            _ => bytes.len(),
        })
    }

    fn child(&self, node: u32, byte: u8) -> Option<u32> {
        let children = &self.nodes[node as usize].children;
        match children.as_slice() {
            [] => None,
            [(b, next)] => (*b == byte).then_some(*next),
            many => many.binary_search_by_key(&byte, |c| c.0).ok().map(|i| many[i].1),
        }
    }

    /// Takes one byte: needles under way go on or end, and a new one may begin.
    fn step(&mut self, byte: u8) {
        self.held.push(byte);
        let mut before = std::mem::take(&mut self.before);
        std::mem::swap(&mut before, &mut self.partial);
        for Partial { node, start } in before.drain(..) {
            if let Some(next) = self.child(node, byte) {
                self.reach(next, start);
            }
            if is_blank(byte) {
                let Node { in_blank, blank, .. } = self.nodes[node as usize];
                if in_blank {
                    self.partial.push(Partial { node, start });
                } else if let Some(next) = blank {
                    self.partial.push(Partial { node: next, start });
                }
            }
        }
        self.before = before;
        if let Some(next) = self.child(ROOT, byte) {
            self.reach(next, self.at);
        }
        self.at += 1;
    }

    fn drop_oldest_if_full(&mut self) {
        if self.held.len() > REDACTION_HELD_BYTES.max(2 * self.longest)
            && let Some(&Partial { start, .. }) = self.partial.first()
        {
            self.partial.retain(|p| p.start != start);
        }
    }

    fn reach(&mut self, node: u32, start: u64) {
        let Node { ends, ref children, blank, .. } = self.nodes[node as usize];
        let goes_on = !children.is_empty() || blank.is_some();
        if ends.is_some_and(|added| start >= added) {
            self.complete(start);
        }
        if goes_on {
            self.partial.push(Partial { node, start });
        }
    }

    /// A needle ends with the byte at `self.at`.
    fn complete(&mut self, mut start: u64) {
        while let Some(&(from, to)) = self.ranges.back() {
            if to <= start {
                break;
            }
            start = start.min(from);
            self.ranges.pop_back();
        }
        self.ranges.push_back((start, self.at + 1));
    }

    /// Passes on what no needle under way can change any more.
    fn release(&mut self, out: &mut Vec<u8>) {
        let mut until = self.partial.first().map_or(self.at, |p| p.start);
        if let Some(&(from, _)) = self.ranges.iter().find(|(from, to)| *from < until && until < *to) {
            until = from;
        }
        let mut from = self.at - self.held.len() as u64;
        let base = from;
        let index = |position: u64| (position - base) as usize;
        while let Some(&(start, end)) = self.ranges.front().filter(|r| r.1 <= until) {
            out.extend_from_slice(&self.held[index(from)..index(start)]);
            out.extend_from_slice(REDACTED);
            from = end;
            self.ranges.pop_front();
        }
        out.extend_from_slice(&self.held[index(from)..index(until)]);
        if until == self.at {
            self.held.clear();
            // A burst does not keep its memory.
            self.held.shrink_to(4096);
        } else {
            self.held.drain(..index(until));
        }
    }
}

/// White space that LF in a needle stands for.
fn is_blank(byte: u8) -> bool {
    matches!(byte, b'\t'..=b'\r' | b' ')
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The rule of §6.3 on a whole text: for every place and every needle, the longest and every other way to match there.
    fn oracle(needles: &[&str], text: &[u8]) -> Vec<u8> {
        fn ends(needle: &[u8], text: &[u8], at: usize, found: &mut Vec<usize>) {
            match needle.split_first() {
                None => found.push(at),
                Some((b'\n', rest)) => {
                    let mut end = at;
                    while text.get(end).is_some_and(|b| is_blank(*b)) {
                        end += 1;
                        ends(rest, text, end, found);
                    }
                }
                Some((b, rest)) if text.get(at) == Some(b) => ends(rest, text, at + 1, found),
                Some(_) => {}
            }
        }
        let mut ranges = Vec::new();
        for needle in needles.iter().flat_map(|n| needles_of(n)) {
            for start in 0..text.len() {
                let mut found = Vec::new();
                ends(needle.bytes(), text, start, &mut found);
                ranges.extend(found.into_iter().map(|end| (start, end)));
            }
        }
        ranges.sort_unstable();
        let mut united: Vec<(usize, usize)> = Vec::new();
        for (start, end) in ranges {
            match united.last_mut() {
                Some(last) if start < last.1 => last.1 = last.1.max(end),
                _ => united.push((start, end)),
            }
        }
        let (mut out, mut at) = (Vec::new(), 0);
        for (start, end) in united {
            out.extend_from_slice(&text[at..start]);
            out.extend_from_slice(REDACTED);
            at = end;
        }
        out.extend_from_slice(&text[at..]);
        out
    }

    fn redacted(needles: &[&str], parts: &[&str]) -> String {
        let mut r = Redactor::new();
        needles.iter().for_each(|n| r.add(n));
        let mut out = Vec::new();
        for part in parts {
            r.push(part.as_bytes(), &mut out);
        }
        r.flush(&mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn check_values_of_the_specification() {
        type Row = (&'static [&'static str], &'static [&'static str], &'static str);
        let table: [Row; 8] = [
            (&["ipsum dolor", "dolor sit"], &["Lorem ipsum dolor sit amet"], "Lorem [REDACTED] amet"),
            (&["ipsum dolor", "dolor sEt", "sit amet"], &["Lorem ipsum dolor sit amet"], "Lorem [REDACTED] [REDACTED]"),
            (&["Lorem ipsum dolor sEt", "ipsum", "dolor"], &["Lorem ipsum dolor sit amet"], "Lorem [REDACTED] [REDACTED] sit amet"),
            (&["ipsum dolor", "um do"], &["Lorem ipsum dol", "or sit amet"], "Lorem [REDACTED] sit amet"),
            (&["secret\n1"], &["secret\n1 secret\\n1 s"], "[REDACTED] [REDACTED] s"),
            (&["A\nB"], &["x A\nB y"], "x [REDACTED] y"),
            (&["A\nB"], &["x A\r\r\nB y"], "x [REDACTED] y"),
            (&["A\nB"], &["x A B y"], "x [REDACTED] y"),
        ];
        for (needles, parts, expected) in table {
            assert_eq!(redacted(needles, parts), expected, "{needles:?}");
            let bytes: Vec<&str> = parts.iter().flat_map(|p| p.split_inclusive(|_| true)).collect();
            assert_eq!(redacted(needles, &bytes), expected, "{needles:?}, byte by byte");
        }
    }

    #[test]
    fn touching_ranges_stay_two_and_overlapping_ones_become_one() {
        assert_eq!(redacted(&["abc"], &["abcabc"]), "[REDACTED][REDACTED]");
        assert_eq!(redacted(&["aba"], &["ababa"]), "[REDACTED]");
        assert_eq!(redacted(&["REDACTED", "x"], &["x"]), "[REDACTED]");
    }

    #[test]
    fn only_what_may_still_become_a_needle_is_withheld() {
        let mut r = Redactor::new();
        r.add("secret-one");
        let mut out = Vec::new();
        r.push(b"a secret-o", &mut out);
        assert_eq!(out, b"a ");
        r.push(b"x se", &mut out);
        assert_eq!(out, b"a secret-ox ");
        r.flush(&mut out);
        assert_eq!(out, b"a secret-ox se");
        // After the flush the withheld bytes are no longer a beginning.
        r.push(b"cret-one", &mut out);
        r.flush(&mut out);
        assert_eq!(out, b"a secret-ox secret-one");
    }

    #[test]
    fn a_needle_added_later_applies_to_bytes_that_come_after_it() {
        let mut r = Redactor::new();
        r.add("abcX");
        let mut out = Vec::new();
        r.push(b"abcY abc", &mut out);
        r.add("abcY");
        r.push(b"Y abcY abc", &mut out);
        r.add("unrelated");
        r.push(b"X", &mut out);
        r.flush(&mut out);
        assert_eq!(String::from_utf8(out).unwrap(), "abcY abcY [REDACTED] [REDACTED]");
    }

    #[test]
    fn a_run_of_white_space_without_end_is_not_withheld_without_end() {
        let mut r = Redactor::new();
        r.add("A\nB");
        let mut out = Vec::new();
        r.push(b"A", &mut out);
        for _ in 0..REDACTION_HELD_BYTES / 1000 + 2 {
            r.push(&[b' '; 1000], &mut out);
        }
        assert!(r.held.len() <= REDACTION_HELD_BYTES + 1);
        assert!(out.len() > REDACTION_HELD_BYTES / 2);
    }

    #[test]
    fn debug_output_shows_no_secret() {
        let mut r = Redactor::new();
        r.add("hunter2");
        r.push(b"hunt", &mut Vec::new());
        assert_eq!(format!("{r:?}"), "Redactor { nodes: 8, at: 4, held: 4, .. }");
    }

    fn words() -> impl Strategy<Value = Vec<u8>> {
        let atom = prop_oneof![Just("a"), Just("b"), Just("ab"), Just(" "), Just("\n"), Just("\r\n"), Just("\\n"), Just("\"")];
        proptest::collection::vec(atom, 0..30).prop_map(|v| v.concat().into_bytes())
    }

    proptest! {
        #[test]
        fn equals_the_oracle_under_every_split(
            needles in proptest::collection::vec("[ab \n\"]{0,6}", 0..5),
            text in words(),
            cuts in proptest::collection::vec(0_usize..60, 0..8),
        ) {
            let needles: Vec<&str> = needles.iter().map(String::as_str).collect();
            let mut r = Redactor::new();
            needles.iter().for_each(|n| r.add(n));
            let mut cuts: Vec<usize> = cuts.into_iter().map(|c| c.min(text.len())).chain([0, text.len()]).collect();
            cuts.sort_unstable();
            let mut out = Vec::new();
            for w in cuts.windows(2) {
                r.push(&text[w[0]..w[1]], &mut out);
            }
            r.flush(&mut out);
            let expected = oracle(&needles, &text);
            prop_assert_eq!(String::from_utf8_lossy(&out), String::from_utf8_lossy(&expected));
        }
    }
}
