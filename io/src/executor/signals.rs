//! Signals of the `bootstrap` process: caught from the first moment on, remembered until somebody asks, given back to the
//! system after the first (specification: bootstrap §14.1, W11; job-runner §5.11).

use ibex_core::agent::OsSignal;
use rustix::fd::{IntoRawFd, OwnedFd};
use std::io;
use std::sync::atomic::{AtomicI32, Ordering};
use tokio::io::unix::AsyncFd;

/// Those that mean "cancel".
const CAUGHT: [(OsSignal, i32); 6] = [
    (OsSignal::Hup, libc::SIGHUP),
    (OsSignal::Int, libc::SIGINT),
    (OsSignal::Quit, libc::SIGQUIT),
    (OsSignal::Term, libc::SIGTERM),
    (OsSignal::Usr1, libc::SIGUSR1),
    (OsSignal::Usr2, libc::SIGUSR2),
];

/// Where the handler writes the number of the signal; −1 before there is a pipe.
static PIPE: AtomicI32 = AtomicI32::new(-1);

extern "C" fn remember(signal: libc::c_int) {
    // SAFETY: `write` and the location of errno are async-signal-safe; the byte lives on this stack.
    unsafe {
        let errno = libc::__errno_location();
        let before = *errno;
        let byte = u8::try_from(signal).unwrap_or(0);
        libc::write(PIPE.load(Ordering::Relaxed), (&raw const byte).cast(), 1);
        *errno = before;
    }
}

/// Caught signals, in order of arrival.
#[derive(Debug)]
pub struct Signals {
    read: OwnedFd,
}

impl Signals {
    /// Catches signals from now on. Call it first of all, and once.
    ///
    /// # Errors
    /// There are no descriptors left.
    pub fn catch() -> io::Result<Signals> {
        use rustix::pipe::{PipeFlags, pipe_with};
        let (read, write) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        // Kept open for the life of the process: the handler may run at any time.
        PIPE.store(write.into_raw_fd(), Ordering::Relaxed);
        for (_, number) in CAUGHT {
            set_handler(number, remember as *const () as libc::sighandler_t)?;
        }
        Ok(Signals { read })
    }

    /// Gives the signals back: the next one has its default effect.
    pub fn restore() {
        for (_, number) in CAUGHT {
            // It worked the other way round before.
            let _ = set_handler(number, libc::SIG_DFL);
        }
    }

    /// The first signal that waits.
    fn pending(&self) -> Option<OsSignal> {
        let mut byte = [0];
        match rustix::io::read(&self.read, &mut byte) {
            Ok(1) => CAUGHT.iter().find(|(_, number)| *number == i32::from(byte[0])).map(|(signal, _)| *signal),
            _ => None,
        }
    }

    /// Makes them awaitable in a runtime.
    ///
    /// # Errors
    /// The runtime cannot watch the pipe.
    pub(super) fn watch(self) -> io::Result<Watched> {
        let fd = self.read.try_clone()?;
        // SAFETY: the descriptor is owned by the registration and stays open as long as it.
        let fd = unsafe { AsyncFd::register_with_interest(fd, tokio::io::Interest::READABLE) }?;
        Ok(Watched { fd, signals: self })
    }
}

/// Signals inside a runtime.
#[derive(Debug)]
pub(super) struct Watched {
    fd: AsyncFd<OwnedFd>,
    signals: Signals,
}

impl Watched {
    pub(super) fn pending(&self) -> Option<OsSignal> {
        self.signals.pending()
    }

    /// The next signal. Cancel-safe.
    pub(super) async fn next(&self) -> OsSignal {
        loop {
            if let Some(signal) = self.pending() {
                return signal;
            }
            match self.fd.readable().await {
                Ok(mut ready) => ready.clear_ready(),
                Err(_) => std::future::pending().await,
            }
        }
    }
}

fn set_handler(number: i32, handler: libc::sighandler_t) -> io::Result<()> {
    // SAFETY: an all-zero `sigaction` is valid; no flags: a blocking call is interrupted, so that a signal is seen at once.
    let result = unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = handler;
        libc::sigaction(number, &raw const action, std::ptr::null_mut())
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Ends this process by `signal`, as if it had never been caught. Returns if it is still alive after ten seconds.
pub fn die_by(signal: OsSignal) {
    Signals::restore();
    let number = CAUGHT.iter().find(|(s, _)| *s == signal).map_or(libc::SIGTERM, |(_, number)| *number);
    // SAFETY: plain system calls on this process and this stack.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        libc::sigaddset(&raw mut set, number);
        libc::sigprocmask(libc::SIG_UNBLOCK, &raw const set, std::ptr::null_mut());
        libc::kill(libc::getpid(), number);
    }
    std::thread::sleep(std::time::Duration::from_secs(10));
}
