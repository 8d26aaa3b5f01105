//! Reads what a process prints: as much as is there, handed out without copies.

use crate::effects::Output;
use bytes::{Bytes, BytesMut};
use rustix::fd::OwnedFd;
use rustix::io::Errno;
use std::io;
use tokio::io::unix::AsyncFd;

/// Memory taken at a time; slices of it are handed out until it is used up. Blocks of less than 128 KiB would come from the heap and
/// spare the kernel the clearing of pages, but the shorter reads of a pipe cost more than that.
const BLOCK_BYTES: usize = 256 * 1024;
/// Room below which a new block is taken.
const ROOM_BYTES: usize = 32 * 1024;
/// Bytes gathered from a terminal, which gives at most 4 KiB per read, before they are handed out.
const GATHER_BYTES: usize = 64 * 1024;

/// The reading end of a terminal or a pipe. Dropping it closes it.
#[derive(Debug)]
pub struct ReadEnd {
    fd: AsyncFd<OwnedFd>,
    /// A terminal hands out little per read, so several reads are gathered.
    gather: bool,
    block: BytesMut,
    ended: bool,
}

impl ReadEnd {
    pub(super) fn new(fd: OwnedFd, terminal: bool) -> io::Result<ReadEnd> {
        let flags = rustix::fs::fcntl_getfl(&fd)?;
        rustix::fs::fcntl_setfl(&fd, flags | rustix::fs::OFlags::NONBLOCK)?;
        // SAFETY: an `OwnedFd` stays open, and the same, until the `AsyncFd` that owns it is dropped.
        let fd = unsafe { AsyncFd::register_with_interest(fd, tokio::io::Interest::READABLE) }?;
        Ok(ReadEnd { fd, gather: terminal, block: BytesMut::new(), ended: false })
    }
}

impl Output for ReadEnd {
    async fn read(&mut self) -> Option<Bytes> {
        while !self.ended {
            // Fails only when the runtime is going away.
            let mut ready = self.fd.readable().await.ok()?;
            match read_now(self.fd.get_ref(), &mut self.block, self.gather) {
                Read::Data(data) => return Some(data),
                Read::Last(data) => {
                    self.ended = true;
                    return (!data.is_empty()).then_some(data);
                }
                // Through the same guard: a notice that came since is not lost.
                Read::Nothing => ready.clear_ready(),
            }
        }
        None
    }
}

enum Read {
    /// More may follow.
    Data(Bytes),
    /// The end, and what came before it.
    Last(Bytes),
    /// Nothing is there now.
    Nothing,
}

fn read_now(fd: &OwnedFd, block: &mut BytesMut, gather: bool) -> Read {
    if block.capacity() < ROOM_BYTES {
        *block = BytesMut::with_capacity(BLOCK_BYTES);
    }
    loop {
        let had = block.len();
        let read = rustix::io::read(fd, block.spare_capacity_mut()).map(|(read, _)| read.len());
        match read {
            Ok(0) => return Read::Last(block.split().freeze()),
            Ok(n) => {
                // SAFETY: the kernel has just initialised these bytes.
                unsafe { block.set_len(had + n) };
                if !gather || had + n >= GATHER_BYTES || block.capacity() == had + n {
                    return Read::Data(block.split().freeze());
                }
            }
            Err(Errno::INTR) => {}
            Err(Errno::WOULDBLOCK) if had == 0 => return Read::Nothing,
            Err(Errno::WOULDBLOCK) => return Read::Data(block.split().freeze()),
            // EIO is how a terminal says that nobody has it open any more (job-runner §5.3); no other error leaves more to read.
            Err(_) => return Read::Last(block.split().freeze()),
        }
    }
}
