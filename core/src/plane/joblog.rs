//! The log of one job: chunks by sequence, told in order (agent-api §9.6).

use crate::limits::{PLANE_CHUNK_BYTES, PLANE_CHUNKS, PLANE_LOG_BYTES};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io::Read;

/// What came in of a job's log.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct JobLog {
    chunks: BTreeMap<u64, LogChunk>,
    told: u64,
    kept_bytes: u64,
    repeats: u32,
}

/// One chunk.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct LogChunk {
    /// Byte offset in the log.
    pub offset: u64,
    /// Bytes.
    pub size: u64,
    /// Contents; `None` beyond [`PLANE_LOG_BYTES`].
    pub data: Option<Bytes>,
}

/// A piece of log in order: offset and bytes.
pub(super) type Piece = (u64, Bytes);

impl JobLog {
    /// Chunks by sequence.
    pub fn chunks(&self) -> &BTreeMap<u64, LogChunk> {
        &self.chunks
    }

    /// Chunks that came more than once.
    pub fn repeats(&self) -> u32 {
        self.repeats
    }

    /// What was kept, in order, gaps closed.
    pub fn contents(&self) -> Vec<u8> {
        self.chunks.values().filter_map(|c| c.data.as_ref()).flatten().copied().collect()
    }

    /// Bytes received that were not kept.
    pub fn discarded_bytes(&self) -> u64 {
        self.chunks.values().filter(|c| c.data.is_none()).map(|c| c.size).sum()
    }

    /// Whether exactly this chunk has come before. Contents that were not kept cannot be compared.
    pub(super) fn repeated(&mut self, sequence: u64, offset: u64, data: &Bytes) -> Option<bool> {
        let known = self.chunks.get(&sequence)?;
        let same = known.offset == offset && known.size == data.len() as u64 && known.data.as_ref().is_none_or(|d| d == data);
        self.repeats = self.repeats.saturating_add(u32::from(same));
        Some(same)
    }

    /// Takes a chunk that is new.
    pub(super) fn insert(&mut self, sequence: u64, offset: u64, data: Bytes) -> Result<(), String> {
        let size = data.len() as u64;
        if sequence == 0 {
            return Err("chunk sequences start at 1".into());
        }
        if self.chunks.len() >= PLANE_CHUNKS {
            return Err(format!("a job has at most {PLANE_CHUNKS} chunks"));
        }
        let Some(end) = offset.checked_add(size) else { return Err("offset out of range".into()) };
        let before = self.chunks.range(..sequence).next_back();
        let after = self.chunks.range(sequence..).next();
        let fits_before = before.is_none_or(|(s, c)| {
            let its_end = c.offset + c.size;
            if *s + 1 == sequence { its_end == offset } else { its_end <= offset }
        });
        let fits_after = after.is_none_or(|(s, c)| if sequence + 1 == *s { end == c.offset } else { end <= c.offset });
        if !fits_before || !fits_after || (sequence == 1 && offset != 0) {
            return Err(format!("chunk {sequence} at offset {offset} does not join its neighbours"));
        }
        self.kept_bytes += size;
        self.chunks.insert(sequence, LogChunk { offset, size, data: Some(data) });
        Ok(())
    }

    /// What can be told now: everything that joins what was told; at the end of the job everything.
    pub(super) fn tell(&mut self, ended: bool) -> Vec<Piece> {
        let mut pieces = Vec::new();
        loop {
            let next = match self.chunks.range_mut(self.told + 1..).next() {
                Some((s, c)) if ended || *s == self.told + 1 => (*s, c),
                _ => return pieces,
            };
            let (sequence, chunk) = next;
            self.told = sequence;
            if let Some(data) = chunk.data.clone() {
                pieces.push((chunk.offset, data));
            }
            // What was told can be let go, once too much is kept.
            if self.kept_bytes > PLANE_LOG_BYTES {
                self.kept_bytes -= chunk.size;
                chunk.data = None;
            }
        }
    }
}

/// The uncompressed bytes of a chunk body.
pub(super) fn gunzip(body: &Bytes) -> Result<Bytes, String> {
    if !body.starts_with(&[0x1f, 0x8b]) {
        return Ok(body.clone());
    }
    let mut out = Vec::new();
    let mut reader = flate2::read::MultiGzDecoder::new(&body[..]).take(PLANE_CHUNK_BYTES + 1);
    reader.read_to_end(&mut out).map_err(|e| format!("chunk is not gzip: {e}"))?;
    if out.len() as u64 > PLANE_CHUNK_BYTES {
        return Err(format!("a chunk has at most {PLANE_CHUNK_BYTES} bytes"));
    }
    Ok(out.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_that_come_out_of_order_are_told_in_order() {
        let mut log = JobLog::default();
        log.insert(2, 3, Bytes::from("def")).unwrap();
        assert!(log.tell(false).is_empty());
        log.insert(1, 0, Bytes::from("abc")).unwrap();
        assert_eq!(log.tell(false), [(0, Bytes::from("abc")), (3, Bytes::from("def"))]);
        assert_eq!(log.contents(), b"abcdef");
    }

    #[test]
    fn a_gap_is_passed_over_only_at_the_end() {
        let mut log = JobLog::default();
        log.insert(1, 0, Bytes::from("abc")).unwrap();
        log.insert(3, 9, Bytes::from("x")).unwrap();
        assert_eq!(log.tell(false).len(), 1);
        assert_eq!(log.tell(true), [(9, Bytes::from("x"))]);
        assert!(log.tell(true).is_empty());
    }

    #[test]
    fn a_chunk_that_overlaps_its_neighbour_is_refused() {
        let mut log = JobLog::default();
        log.insert(1, 0, Bytes::from("abc")).unwrap();
        assert!(log.insert(2, 2, Bytes::from("x")).is_err());
        assert!(log.insert(2, 4, Bytes::from("x")).is_err());
        assert!(log.insert(3, 2, Bytes::from("x")).is_err());
        assert!(log.insert(0, 0, Bytes::from("x")).is_err());
    }

    #[test]
    fn a_repeated_chunk_is_known_and_a_different_one_is_told_apart() {
        let mut log = JobLog::default();
        log.insert(1, 0, Bytes::from("abc")).unwrap();
        assert_eq!(log.repeated(1, 0, &Bytes::from("abc")), Some(true));
        assert_eq!(log.repeated(1, 0, &Bytes::from("abd")), Some(false));
        assert_eq!(log.repeated(2, 3, &Bytes::from("abc")), None);
    }
}
