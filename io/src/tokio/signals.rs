//! Signals of the agent process (start-and-worker §1, S16): held from the first instruction, so that none is lost and none
//! acts by default; delivered to the machine once its loop runs.

use super::group::{inherits_orphans, reap_orphans};
use ibex_core::agent::OsSignal;
use std::io;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;

/// Signals that wait for the machine. The kernel merges equal ones anyway.
const WAITING: usize = 16;

const HANDLED: [(libc::c_int, OsSignal); 4] =
    [(libc::SIGTERM, OsSignal::Term), (libc::SIGINT, OsSignal::Int), (libc::SIGQUIT, OsSignal::Quit), (libc::SIGHUP, OsSignal::Hup)];

/// Holds the handled signals back until [`deliver`], and ignores SIGPIPE. Call it first in `main`, before any thread exists:
/// threads inherit the mask. Children do not: they are spawned with an empty one.
pub fn hold() {
    // SAFETY: plain system calls on a set that lives on this stack.
    unsafe {
        libc::signal(libc::SIGPIPE, libc::SIG_IGN);
        libc::pthread_sigmask(libc::SIG_BLOCK, &raw const *handled_set(), std::ptr::null_mut());
    }
}

/// Installs the handlers, lets held signals through, and delivers all into the channel. Where orphans are handed to this
/// process, they are reaped from now on (job-runner §5.10.4). Must be called on the main thread,
/// inside a `LocalSet`.
pub fn deliver() -> io::Result<mpsc::Receiver<OsSignal>> {
    let mut streams: Vec<(Signal, OsSignal)> = Vec::new();
    for (number, name) in HANDLED {
        streams.push((signal(SignalKind::from_raw(number))?, name));
    }
    // SAFETY: as in `hold`.
    unsafe { libc::pthread_sigmask(libc::SIG_UNBLOCK, &raw const *handled_set(), std::ptr::null_mut()) };
    if inherits_orphans() {
        tokio::task::spawn_local(reap_orphans());
    }
    let (sender, receiver) = mpsc::channel(WAITING);
    for (mut stream, name) in streams {
        let sender = sender.clone();
        tokio::task::spawn_local(async move { while stream.recv().await.is_some() && sender.send(name).await.is_ok() {} });
    }
    Ok(receiver)
}

/// Ends this process by `signal`; where that does not work, with 128 + its number.
pub fn die_by(signal: OsSignal) -> ! {
    let number = match signal {
        OsSignal::Hup => libc::SIGHUP,
        OsSignal::Int => libc::SIGINT,
        OsSignal::Quit => libc::SIGQUIT,
        OsSignal::Kill => libc::SIGKILL,
        OsSignal::Usr1 => libc::SIGUSR1,
        OsSignal::Usr2 => libc::SIGUSR2,
        OsSignal::Term => libc::SIGTERM,
    };
    // SAFETY: plain system calls; the process ends here.
    unsafe {
        libc::signal(number, libc::SIG_DFL);
        libc::pthread_sigmask(libc::SIG_UNBLOCK, &raw const *handled_set(), std::ptr::null_mut());
        libc::raise(number);
    }
    std::process::exit(128 + number)
}

fn handled_set() -> Box<libc::sigset_t> {
    // SAFETY: the set is initialised by `sigemptyset` before anything reads it.
    unsafe {
        let mut set = Box::new(std::mem::zeroed::<libc::sigset_t>());
        libc::sigemptyset(&raw mut *set);
        for (number, _) in HANDLED {
            libc::sigaddset(&raw mut *set, number);
        }
        set
    }
}
