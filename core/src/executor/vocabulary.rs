//! What may happen to the executor, and what it may ask for (specification: bootstrap §2.1).

use super::env::Env;
use super::text::LineKind;
use crate::agent::OsSignal;
use crate::machine::{RequestId, Transition};
use crate::process::ExitStatus;
use crate::secret::Secret;
use serde::{Deserialize, Serialize};

/// What may happen to the executor.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum ExecutorEvent {
    /// The driver is ready. A signal that came earlier is fed before it.
    Begin,
    /// The process has received a signal.
    Signal {
        /// Which.
        signal: OsSignal,
        /// Whether the marker file of a job time-out exists at this moment.
        timed_out: bool,
    },
    /// Completes [`ExecutorCommand::File`].
    File {
        /// Which request.
        id: RequestId,
        /// What became of it.
        result: FileResult,
    },
    /// Something about a process started by [`ExecutorCommand::Exec`]; the last one is `NotStarted` or `Ended`.
    Process {
        /// The id of the exec.
        id: RequestId,
        /// What.
        event: ChildEvent,
    },
}

/// What happens to a child.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum ChildEvent {
    /// There is no process.
    NotStarted(StartFailure),
    /// The leader of the group has ended; it is not reaped yet, so that its group can still be signalled.
    Exited {
        /// How.
        status: ExitStatus,
        /// The group has other members.
        group_alive: bool,
    },
    /// A signal could not be sent for a reason other than "no such process".
    SignalFailed,
    /// All output that will be read was read.
    Ended {
        /// Captured output, white space around it removed; empty if nothing is captured.
        captured: String,
    },
}

/// Why a process did not start.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum StartFailure {
    /// The program was not found in `PATH`.
    LookUp(String),
    /// The working directory does not exist.
    NoDirectory,
    /// "Text file busy" to the end, or "no such file": the interpreter may be missing.
    NoInterpreter(String),
    /// A signal came for it before it ran: its program was busy, and is not tried again (bootstrap §3.8).
    Signalled,
    /// Anything else, in the operating system's words.
    Other(String),
}

/// What the executor asks of its driver. Commands are executed in order.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
pub enum ExecutorCommand {
    /// Nothing to do: tells observers what happened.
    Transition(Transition),
    /// Write a line of the job log to stderr, through the redactor.
    Log {
        /// Form.
        kind: LineKind,
        /// Text.
        text: String,
    },
    /// Write a line to stderr that is no part of the job log's forms.
    Complain(String),
    /// Do something with files; completes with `File`, before the next command is executed.
    File {
        /// Which request.
        id: RequestId,
        /// What.
        op: FileOp,
    },
    /// Start a process; `Process` events follow.
    Exec {
        /// Which.
        id: RequestId,
        /// What.
        spec: Box<ExecSpec>,
    },
    /// Send a signal to the group of a process. "No such process" is no error. A process that does not run yet is not started any
    /// more: it completes with [`StartFailure::Signalled`].
    Signal {
        /// The exec.
        id: RequestId,
        /// The signal.
        signal: OsSignal,
    },
    /// Stop reading the output of a process; `Ended` follows.
    CloseOutput {
        /// The exec.
        id: RequestId,
    },
    /// No more signals will be sent to the group: the leader may be reaped.
    Reap {
        /// The exec.
        id: RequestId,
    },
    /// The first signal was acted on: a second one has its default effect.
    RestoreSignals,
    /// Mask these values in everything written from now on.
    Redact(Vec<Secret>),
    /// No more bytes belong to what was written so far: release what the redactors withhold.
    Flush,
    /// Leave word that the exit status of 125 that follows is the job's own, and does not mean that the command never ran
    /// (job-runner W5).
    Vouch,
    /// End the process. The last command.
    Exit {
        /// Exit status; −1 is seen as 255.
        status: i32,
        /// End by this signal instead.
        by_signal: Option<OsSignal>,
    },
}

/// A process to start.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
pub struct ExecSpec {
    /// Program and arguments; a program without `/` is looked up in the `PATH` of `env`.
    pub argv: Vec<String>,
    /// The whole environment; `TERM` is added by a terminal.
    pub env: Env,
    /// Working directory.
    pub dir: String,
    /// In a terminal, or with a pipe and the null device.
    pub pty: bool,
    /// Terminal in raw mode.
    pub raw: bool,
    /// Keep the output instead of showing it.
    pub capture: bool,
}

/// Something to do with files. Each is short, and never waits.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum FileOp {
    /// Find the hook `name` in `dir`: the first of `name` and `name.ps1` that is not a directory (bootstrap §7.1).
    FindHook {
        /// Hook directory.
        dir: String,
        /// Name of the hook.
        name: String,
        /// The path may not leave this directory, neither by `..` nor by links.
        root: Option<String>,
    },
    /// Find out what kind of file a hook is (bootstrap §7.5).
    ClassifyHook {
        /// The hook.
        path: String,
    },
    /// Make the temporary directory of a wrapper (bootstrap §7.6).
    MakeWrapper {
        /// The hook.
        hook: String,
        /// The hook's own `#!` line, if it has one.
        shebang: Option<String>,
        /// Parent directory, made if missing.
        temp_dir: String,
    },
    /// Read what a wrapper has left, and remove its directory.
    TakeWrapper {
        /// As made.
        wrapper: Wrapper,
    },
    /// Find a program in a `PATH`.
    LookUp {
        /// Name.
        program: String,
        /// Value of `PATH`.
        path: String,
    },
    /// Find `ssh` and read its version where its file shows it: `Found` with the text that `ssh -V` begins with, or none.
    SshVersion {
        /// Value of `PATH`.
        path: String,
    },
    /// Tell about a file, links followed.
    Probe {
        /// Path.
        path: String,
        /// Directory below which it may have to be.
        base: String,
    },
    /// Add execute permission for the owner.
    MakeExecutable {
        /// Path.
        path: String,
    },
    /// Make a directory with its parents.
    MakeDir {
        /// Path.
        path: String,
    },
    /// Make a private temporary directory.
    MakeTempDir {
        /// Parent directory.
        parent: String,
        /// First part of the name.
        prefix: String,
    },
    /// Remove a directory with everything in it. A missing one is no error.
    RemoveTree {
        /// Path.
        path: String,
    },
}

/// A wrapper that was made.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Wrapper {
    /// Its private directory.
    pub dir: String,
    /// The script.
    pub script: String,
    /// Where the environment before the hook is written.
    pub before: String,
    /// Where the environment after the hook is written.
    pub after: String,
}

/// What became of a [`FileOp`].
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum FileResult {
    /// Done.
    Done,
    /// The operating system's message.
    Failed(String),
    /// The path found, or none.
    Found(Option<String>),
    /// Kind of a hook.
    Kind(HookKind),
    /// A wrapper.
    Wrapper(Wrapper),
    /// What a wrapper left.
    Dumps(Box<WrapperDumps>),
    /// About a file.
    Probed {
        /// What is there.
        file: FileKind,
        /// With all links resolved, it lies below the base.
        inside: bool,
        /// Its owner may execute it.
        executable: bool,
    },
}

/// What is at a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum FileKind {
    /// Nothing.
    Missing,
    /// A directory.
    Directory,
    /// Anything else.
    File,
}

/// What kind of file a hook is (bootstrap §7.5).
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum HookKind {
    /// To be sourced by a wrapper.
    Shell {
        /// Its `#!` line, if it has one.
        shebang: Option<String>,
    },
    /// For another interpreter.
    Script,
    /// An executable.
    Binary,
}

/// What a wrapper left behind.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct WrapperDumps {
    /// Environment before the hook.
    pub before: Result<Env, String>,
    /// Environment after the hook; `None` if the file is empty, as the hook ended the shell itself.
    pub after: Option<Result<Env, String>>,
    /// The recorded directory of the hook exists.
    pub directory_exists: bool,
    /// The script still exists.
    pub script_exists: bool,
}
