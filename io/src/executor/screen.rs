//! What this process writes: output of children to stdout, lines of its own to stderr, each through its own redactor, in order
//! (specification: bootstrap §3.6, §15; job-runner §6.3).
//!
//! Whoever reads may stop reading for a while. A terminal or pipe is therefore written without blocking, through a
//! description of its own: what does not fit waits here, and children are not read until it has gone.

use ibex_core::log::Redactor;
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;
use std::collections::VecDeque;
use tokio::io::unix::AsyncFd;

/// One of the two streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stream {
    /// Output of children.
    Out,
    /// Lines of the executor.
    Err,
}

pub(super) struct Screen {
    out: Sink,
    err: Sink,
    children: Redactor,
    lines: Redactor,
    /// What did not fit, in order.
    waiting: VecDeque<(Stream, Vec<u8>)>,
    buffer: Vec<u8>,
}

enum Sink {
    /// Our own, non-blocking description.
    Own(OwnedFd),
    /// As inherited: a file, or something that cannot be opened again.
    Inherited(Stream),
    /// The reader has gone.
    Closed,
}

impl Sink {
    fn open(stream: Stream) -> Sink {
        let fd = inherited(stream);
        let reopen = rustix::fs::fstat(fd).is_ok_and(|stat| match FileType::from_raw_mode(stat.st_mode) {
            FileType::Fifo => true,
            FileType::CharacterDevice => rustix::termios::isatty(fd),
            _ => false,
        });
        let flags = OFlags::WRONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        match reopen.then(|| rustix::fs::open(format!("/proc/self/fd/{}", number(stream)), flags, Mode::empty())) {
            Some(Ok(fd)) => Sink::Own(fd),
            _ => Sink::Inherited(stream),
        }
    }

    fn fd(&self) -> Option<BorrowedFd<'_>> {
        match self {
            Sink::Own(fd) => Some(fd.as_fd()),
            Sink::Inherited(stream) => Some(inherited(*stream)),
            Sink::Closed => None,
        }
    }

    /// Writes as much as fits; the number of bytes dealt with.
    fn write(&mut self, bytes: &[u8]) -> usize {
        let mut done = 0;
        while done < bytes.len() {
            let Some(fd) = self.fd() else { return bytes.len() };
            match rustix::io::write(fd, &bytes[done..]) {
                Ok(n) => done += n,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return done,
                // Nobody reads any more: the job goes on without a log.
                Err(_) => *self = Sink::Closed,
            }
        }
        done
    }
}

fn inherited(stream: Stream) -> BorrowedFd<'static> {
    // SAFETY: this process never closes its standard output and error.
    unsafe { BorrowedFd::borrow_raw(number(stream)) }
}

fn number(stream: Stream) -> i32 {
    match stream {
        Stream::Out => 1,
        Stream::Err => 2,
    }
}

impl Screen {
    pub(super) fn new() -> Screen {
        Screen {
            out: Sink::open(Stream::Out),
            err: Sink::open(Stream::Err),
            children: Redactor::new(),
            lines: Redactor::new(),
            waiting: VecDeque::new(),
            buffer: Vec::new(),
        }
    }

    /// Masks `secret` in what is written from now on.
    pub(super) fn redact(&mut self, secret: &str) {
        self.children.add(secret);
        self.lines.add(secret);
    }

    pub(super) fn write(&mut self, stream: Stream, bytes: &[u8]) {
        let mut buffer = std::mem::take(&mut self.buffer);
        match stream {
            Stream::Out => self.children.push(bytes, &mut buffer),
            Stream::Err => self.lines.push(bytes, &mut buffer),
        }
        self.put(stream, buffer);
    }

    /// A line of the executor is whole: what it withholds can no longer become a secret.
    pub(super) fn line(&mut self, text: &str) {
        let mut buffer = std::mem::take(&mut self.buffer);
        self.lines.push(text.as_bytes(), &mut buffer);
        self.put(Stream::Err, buffer);
    }

    /// Nothing belongs to what was written so far: the redactors pass on what they withhold.
    pub(super) fn flush(&mut self) {
        for stream in [Stream::Out, Stream::Err] {
            let mut buffer = std::mem::take(&mut self.buffer);
            match stream {
                Stream::Out => self.children.flush(&mut buffer),
                Stream::Err => self.lines.flush(&mut buffer),
            }
            self.put(stream, buffer);
        }
    }

    fn put(&mut self, stream: Stream, mut bytes: Vec<u8>) {
        if self.waiting.is_empty() {
            let done = self.sink(stream).write(&bytes);
            if done == bytes.len() {
                bytes.clear();
                self.buffer = bytes;
                return;
            }
            bytes.drain(..done);
        }
        if !bytes.is_empty() {
            self.waiting.push_back((stream, bytes));
        }
    }

    fn sink(&mut self, stream: Stream) -> &mut Sink {
        match stream {
            Stream::Out => &mut self.out,
            Stream::Err => &mut self.err,
        }
    }

    /// Something waits to be written: children are not read.
    pub(super) fn is_blocked(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Completes when nothing waits. Cancel-safe.
    pub(super) async fn drained(&mut self) {
        while let Some((stream, mut bytes)) = self.waiting.pop_front() {
            let sink = self.sink(stream);
            let done = sink.write(&bytes);
            if done < bytes.len() {
                let copy = sink.fd().map(|fd| fd.try_clone_to_owned());
                bytes.drain(..done);
                self.waiting.push_front((stream, bytes));
                match copy {
                    Some(Ok(fd)) => writable(fd).await,
                    _ => *self.sink(stream) = Sink::Closed,
                }
            }
        }
    }
}

/// A duplicate for the time of the wait: watching costs nothing as long as everything fits.
async fn writable(fd: OwnedFd) {
    // SAFETY: the descriptor is owned by the registration and stays open as long as it.
    if let Ok(fd) = unsafe { AsyncFd::register_with_interest(fd, tokio::io::Interest::WRITABLE) } {
        // An error is seen by the next write.
        let _ = fd.writable().await;
    }
}
