//! What is spawned, what may happen to it, and how its end is named.

use crate::agent::OsSignal;
use crate::job::ChildEnv;
use crate::machine::Owner;
use serde::{Deserialize, Serialize};

/// A process to spawn (job-runner §5.2–5.4).
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
pub struct ProcessSpec {
    /// Whose log stream takes the output.
    pub job: Owner,
    /// Program and arguments. A program without `/` is looked up in the agent's own `PATH`.
    pub argv: Vec<String>,
    /// Overlay on the agent's own environment.
    pub env: ChildEnv,
    /// Working directory; it must exist.
    pub dir: String,
    /// In a terminal, or with a pipe and the null device.
    pub pty: bool,
    /// Terminal in raw mode.
    pub raw: bool,
}

/// What happens to a spawned process. `Started` comes first or `SpawnFailed` alone; `Exited` and `OutputEnded` exactly once each,
/// `OutputEnded` last (`Group` may come any time in between).
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum ProcessEvent {
    /// exec has succeeded.
    Started {
        /// Leader; also the process group.
        pid: u32,
    },
    /// Nothing of the group exists.
    SpawnFailed(String),
    /// The leader has ended and was reaped.
    Exited(ExitStatus),
    /// Answers `QueryGroup`.
    Group {
        /// The group has members.
        alive: bool,
    },
    /// A signal could not be sent for a reason other than "no such process".
    SignalFailed(String),
    /// All output that will be read has been given to the log stream.
    OutputEnded {
        /// Closed by us, not by its writers.
        cut: bool,
    },
}

/// Wait status.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum ExitStatus {
    /// Exited with this code.
    Code(i32),
    /// Ended by this signal number.
    Signal(i32),
}

/// Whom a signal reaches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum SignalTarget {
    /// The leader's process group.
    Group,
    /// The group, and every group led by a direct child of the leader, collected first (job-runner §5.10).
    Tree,
}

/// Name of a signal number as reported (`SIGTERM`), or the decimal number when it has none.
pub fn signal_name(number: i32) -> String {
    const NAMES: [&str; 31] = [
        "SIGHUP",
        "SIGINT",
        "SIGQUIT",
        "SIGILL",
        "SIGTRAP",
        "SIGABRT",
        "SIGBUS",
        "SIGFPE",
        "SIGKILL",
        "SIGUSR1",
        "SIGSEGV",
        "SIGUSR2",
        "SIGPIPE",
        "SIGALRM",
        "SIGTERM",
        "SIGSTKFLT",
        "SIGCHLD",
        "SIGCONT",
        "SIGSTOP",
        "SIGTSTP",
        "SIGTTIN",
        "SIGTTOU",
        "SIGURG",
        "SIGXCPU",
        "SIGXFSZ",
        "SIGVTALRM",
        "SIGPROF",
        "SIGWINCH",
        "SIGIO",
        "SIGPWR",
        "SIGSYS",
    ];
    match usize::try_from(number - 1).ok().and_then(|i| NAMES.get(i)) {
        Some(name) => (*name).to_owned(),
        None => number.to_string(),
    }
}

/// The signal actually sent to interrupt the executor (job-runner §5.6: never SIGKILL).
pub fn interrupt_signal(cancel_signal: OsSignal) -> OsSignal {
    if cancel_signal == OsSignal::Kill { OsSignal::Term } else { cancel_signal }
}
