//! Opens and sizes a terminal (job-runner §5.3).

use super::spawn::duplicate;
use portable_pty::{PtySize, native_pty_system};
use rustix::fd::{BorrowedFd, OwnedFd};
use rustix::fs::{Mode, OFlags};
use rustix::termios::{OptionalActions, tcgetattr, tcsetattr};
use std::io;

/// Rows and columns of a job's terminal.
pub const SIZE: (u16, u16) = (100, 160);

/// Both ends of a terminal.
pub(super) struct Pty {
    pub(super) master: OwnedFd,
    pub(super) slave: OwnedFd,
}

pub(super) fn open(raw: bool) -> io::Result<Pty> {
    let size = PtySize { rows: SIZE.0, cols: SIZE.1, pixel_width: 0, pixel_height: 0 };
    let pair = native_pty_system().openpty(size).map_err(io::Error::other)?;
    let (fd, name) = match (pair.master.as_raw_fd(), pair.master.tty_name()) {
        (Some(fd), Some(name)) => (fd, name),
        _ => return Err(io::Error::other("the terminal has no name")),
    };
    // SAFETY: the descriptor belongs to `pair.master`, which outlives this borrow.
    let master = duplicate(unsafe { BorrowedFd::borrow_raw(fd) })?;
    // Opened by name, so that none of the library's own handles is involved in the spawn.
    let slave = rustix::fs::open(name, OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC, Mode::empty())?;
    if raw {
        // Before the spawn, so that no early output is translated.
        let mut modes = tcgetattr(&slave)?;
        modes.make_raw();
        tcsetattr(&slave, OptionalActions::Now, &modes)?;
    }
    Ok(Pty { master, slave })
}
