//! Whatever the process prints, however it is read, and whatever the control plane answers: the log is exact.

use super::super::timestamps::tests::spicy;
use super::*;
use crate::rng::Rng;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

/// What a control plane would have, and what happened on the way.
#[derive(Default)]
struct Plane {
    /// Sequence to (offset, data), the same in every attempt (I15).
    chunks: BTreeMap<u64, (u64, Vec<u8>)>,
    answered: BTreeSet<u64>,
    in_flight: Vec<(RequestId, Option<u64>)>,
    indexes: Vec<u64>,
    reading: bool,
    first_attempts: u64,
    looked: usize,
    drained: Option<(u64, u64, u64)>,
}

impl Plane {
    fn look(&mut self, rig: &Rig, m: u64) {
        for command in &rig.seen[self.looked..] {
            assert!(self.drained.is_none(), "{command:?} after the last command");
            match command {
                LogCommand::Upload { id, sequence, offset, pieces, attempt } => {
                    let data = pieces.concat();
                    assert!(!data.is_empty() && data.len() as u64 <= m, "I16: size of chunk {sequence}");
                    if *attempt == 1 {
                        self.first_attempts += 1;
                        assert_eq!(*sequence, self.first_attempts, "I19: first attempts start in order");
                    }
                    assert!(*attempt <= 12, "I20");
                    assert!(!self.answered.contains(sequence), "chunk {sequence} is sent after its 2xx");
                    let chunk = (*offset, data);
                    assert_eq!(self.chunks.entry(*sequence).or_insert_with(|| chunk.clone()), &chunk, "I15: a chunk never changes");
                    self.in_flight.push((*id, Some(*sequence)));
                    assert!(self.in_flight.iter().filter(|f| f.1.is_some()).count() <= 3, "I19: three in flight");
                }
                LogCommand::SendHeaderTimes { id, times } => {
                    self.indexes.extend(times.iter().map(|t| t.0));
                    assert!(times.is_sorted(), "times do not decrease with the index");
                    self.in_flight.push((*id, None));
                }
                LogCommand::StopReading => assert!(std::mem::replace(&mut self.reading, false), "stopped twice"),
                LogCommand::ResumeReading => assert!(!std::mem::replace(&mut self.reading, true), "resumed twice"),
                LogCommand::Drained { uploaded, failed, uploaded_bytes } => self.drained = Some((*uploaded, *failed, *uploaded_bytes)),
                _ => {}
            }
        }
        self.looked = rig.seen.len();
    }

    fn answer(&mut self, rig: &mut Rig, rng: &mut Rng, failures: u64, m: u64) {
        if self.in_flight.is_empty() {
            return;
        }
        let (id, sequence) = self.in_flight.remove(rng.below(self.in_flight.len() as u64) as usize);
        let outcome = match rng.below(100) {
            n if n >= failures => ok(),
            n if n % 8 == 0 => status(400, None),
            n if n % 2 == 0 => status(500, None),
            _ => timeout(),
        };
        if let (Outcome::Ok(_), Some(sequence)) = (&outcome, sequence) {
            self.answered.insert(sequence);
        }
        rig.settle(id, outcome);
        self.look(rig, m);
    }
}

/// Removes what the agent inserts; the texts printed contain no such thing.
fn without_timestamps(mut log: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    while let Some(at) = log.windows(7).position(|w| w == b"\x1b_bk;t=") {
        out.extend_from_slice(&log[..at]);
        let end = log[at..].iter().position(|b| *b == 7).expect("a timestamp ends");
        log = &log[at + end + 1..];
    }
    out.extend_from_slice(log);
    out
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, ..ProptestConfig::default() })]
    #[test]
    fn the_log_is_exact_and_every_chunk_is_accounted_for(
        texts in proptest::collection::vec(spicy(), 0..30),
        seed in any::<u64>(),
        ansi in any::<bool>(),
        failures in prop_oneof![Just(0_u64), Just(40), Just(95)],
        m in 1_u64..60,
    ) {
        let mut rng = Rng::from_seed(seed);
        let mode = if ansi { TimestampMode::Ansi } else { TimestampMode::Plain };
        let limit = 8 * m;
        let mut rig = Rig::new(LogConfig { chunk_bytes: m, buffer_bytes: limit, seed, ..config(mode) });
        let mut plane = Plane { reading: true, ..Plane::default() };
        let mut printed = Vec::new();
        for text in &texts {
            // The process writes only while it is read (I23).
            while !plane.reading {
                rig.pass(SECOND);
                plane.look(&rig, m);
                plane.answer(&mut rig, &mut rng, failures, m);
            }
            let before = rig.stream.outstanding_bytes();
            prop_assert!(before <= limit);
            rig.wall_ms += 700;
            rig.event(LogEvent::Bytes { wall: WallTime::from_nanos(rig.wall_ms * 1_000_000), data: Bytes::copy_from_slice(text) });
            printed.extend_from_slice(text);
            plane.look(&rig, m);
            for _ in 0..rng.below(4) {
                plane.answer(&mut rig, &mut rng, failures, m);
            }
            rig.pass(rng.duration_below(SECOND));
            plane.look(&rig, m);
        }
        rig.flush(HOUR);
        plane.look(&rig, m);
        while plane.drained.is_none() {
            plane.answer(&mut rig, &mut rng, failures, m);
            rig.pass(SECOND / 2);
            plane.look(&rig, m);
        }
        // I15, I16: consecutive sequences, contiguous offsets. Chunks that the flush limit took were never sent.
        let mut log = Vec::new();
        for (i, (sequence, (offset, data))) in plane.chunks.iter().enumerate() {
            prop_assert_eq!((*sequence, *offset), (i as u64 + 1, log.len() as u64));
            log.extend_from_slice(data);
        }
        // I8: failed = sequences never answered 2xx.
        let (uploaded, failed, bytes) = plane.drained.unwrap();
        prop_assert_eq!(uploaded, plane.answered.len() as u64);
        prop_assert_eq!(bytes, plane.answered.iter().map(|s| plane.chunks[s].1.len() as u64).sum::<u64>());
        prop_assert!(plane.in_flight.is_empty());
        if uploaded + failed == plane.chunks.len() as u64 {
            // I17, I18, I24
            prop_assert_eq!(without_timestamps(&log), printed.clone());
        } else {
            prop_assert!(uploaded + failed > plane.chunks.len() as u64 && failures == 95);
        }
        if failures == 0 && !ansi {
            // Indexes 0…n-1, n = header lines (header-times, checkable properties).
            let headers = headers_of(&printed);
            prop_assert_eq!(plane.indexes, (0..headers).collect::<Vec<u64>>());
        }
    }
}

/// Counts header lines the slow way.
fn headers_of(log: &[u8]) -> u64 {
    let colours = regex::bytes::Regex::new(r"(?-u)\x1b\[[0-9;]*[mK]").unwrap();
    let header = regex::bytes::Regex::new(r"^(?-u)(---|\+\+\+|~~~)[ \t\x0b\x0c\r]").unwrap();
    let line_end = regex::bytes::Regex::new(r"(?-u)\r+$").unwrap();
    let is_header = |line: &&[u8]| header.is_match(&line_end.replace(&colours.replace_all(line, &b""[..]), &b""[..]));
    log.split(|b| *b == b'\n').filter(is_header).count() as u64
}
