//! The bytes that are not cut yet: each is copied once, into large blocks; chunks are slices of them.

use super::sink::Sink;
use bytes::{Bytes, BytesMut};
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;

/// Size of one block. Large enough that chunks have few pieces, small enough that a quiet job holds little.
const BLOCK_BYTES: usize = 64 * 1024;

/// A queue of bytes.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) struct Buffer {
    sealed: VecDeque<Bytes>,
    block: BytesMut,
    /// Bytes ever put into `block`, those already taken included. Piece boundaries follow from this alone, never from a
    /// capacity, so that a clone cuts the same pieces.
    block_used: usize,
    len: u64,
}

impl Buffer {
    pub(crate) fn new() -> Buffer {
        Buffer { sealed: VecDeque::new(), block: BytesMut::new(), block_used: BLOCK_BYTES, len: 0 }
    }

    /// Bytes held.
    pub(crate) fn len(&self) -> u64 {
        self.len
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Takes `min(n, len)` bytes from the front.
    pub(crate) fn take(&mut self, n: u64) -> Vec<Bytes> {
        let mut left = n.min(self.len);
        self.len -= left;
        let mut pieces = Vec::new();
        while left > 0 {
            let Some(mut front) = self.sealed.pop_front() else {
                // What remains is in the open block.
                let n = usize::try_from(left).unwrap_or(usize::MAX).min(self.block.len());
                assert!(n > 0, "the buffer holds fewer bytes than it counts");
                pieces.push(self.block.split_to(n).freeze());
                left -= n as u64;
                continue;
            };
            if front.len() as u64 > left {
                let rest = front.split_off(left as usize);
                self.sealed.push_front(rest);
            }
            left -= front.len() as u64;
            pieces.push(front);
        }
        pieces
    }
}

impl Sink for Buffer {
    fn append(&mut self, mut bytes: &[u8]) {
        self.len += bytes.len() as u64;
        while !bytes.is_empty() {
            if self.block_used == BLOCK_BYTES {
                let full = std::mem::replace(&mut self.block, BytesMut::with_capacity(BLOCK_BYTES));
                if !full.is_empty() {
                    self.sealed.push_back(full.freeze());
                }
                self.block_used = 0;
            }
            let n = bytes.len().min(BLOCK_BYTES - self.block_used);
            self.block.extend_from_slice(&bytes[..n]);
            self.block_used += n;
            bytes = &bytes[n..];
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_come_out_in_order_and_a_clone_cuts_the_same_pieces() {
        let mut b = Buffer::new();
        let mut expected = Vec::new();
        let mut got = Vec::new();
        for i in 0..40_u8 {
            let part = vec![i; 7919];
            expected.extend_from_slice(&part);
            b.append(&part);
            let mut twin = b.clone();
            let n = u64::from(i) * 500;
            let pieces = b.take(n);
            assert_eq!(twin.take(n), pieces);
            assert_eq!(twin, b);
            twin.append(&[1; 100_000]);
            let mut same = b.clone();
            same.append(&[1; 100_000]);
            assert_eq!(twin.take(u64::MAX), same.take(u64::MAX));
            got.extend(pieces.concat());
        }
        got.extend(b.take(u64::MAX).concat());
        assert!(b.is_empty());
        assert_eq!(got, expected);
    }
}
