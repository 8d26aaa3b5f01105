//! The seam between the worlds: what a world must be able to do. Production implements it with tokio, hyper, terminals and
//! files; the simulator with hyper over a simulated network and with simulated processes. Nothing behind it decides.
//!
//! Everything runs on one thread in a `LocalSet`, so no method needs `Send`.

use crate::driver::Clock;
use bytes::Bytes;
use ibex_core::agent::{AgentLog, HookSpec, Metric, OsSignal, WorkerHealth};
use ibex_core::api::{RawRequest, RawResponse, TransportError};
use ibex_core::job::{JobFiles, JobFilesSpec, StdoutFormat};
use ibex_core::machine::Transition;
use ibex_core::process::{ExitStatus, ProcessSpec, SignalTarget};
use ibex_core::wall::WallClock;
use std::future::Future;
use std::rc::Rc;

/// A world.
pub trait Effects: Clone + 'static {
    /// A spawned process group.
    type Process: Process;
    /// The output of a spawned process.
    type Output: Output;
    /// A response whose body arrives piece by piece.
    type Streaming: Streaming;

    /// Maps the driver's clock to wall-clock time, as of now (see [`Clock::wall_clock`]).
    fn wall_clock(&self, clock: Clock) -> WallClock;

    /// One HTTP exchange, body read whole: no retry, no redirect, no interpretation. Dropping the future closes the exchange.
    fn exchange(&self, request: RawRequest) -> impl Future<Output = Result<RawResponse, TransportError>> + 'static;

    /// One HTTP exchange whose response body is read in frames (the ping stream). Dropping what comes back closes it.
    fn stream(&self, request: RawRequest) -> impl Future<Output = Result<Self::Streaming, TransportError>> + 'static;

    /// gzip, off the loop where that helps.
    fn compress(&self, pieces: Vec<Bytes>) -> impl Future<Output = Bytes> + 'static;

    /// Writes the env files (0600, exclusive), reserves the marker path, creates the log copy.
    fn write_job_files(&self, spec: JobFilesSpec) -> impl Future<Output = Result<JobFiles, String>> + 'static;

    /// Whether the executor of a job has left its word at [`JobFiles::status_file`]; asked before the files are removed. Worlds without
    /// an executor of ours have none.
    fn own_status(&self, _files: &JobFiles) -> bool {
        false
    }

    /// Removes all files of a job. Missing files are no error; the messages of other failures come back.
    fn remove_job_files(&self, files: JobFiles) -> impl Future<Output = Vec<String>> + 'static;

    /// Creates the timeout marker before it returns: `true`, 0644, exclusive, no links followed.
    fn write_marker(&self, path: &str) -> Result<(), String>;

    /// Appends to the log copy of a job.
    fn append_log_copy(&self, path: &str, data: &[u8]) -> Result<(), String>;

    /// Copies a delivery of job output to the agent's stdout.
    fn copy_to_stdout(&self, format: StdoutFormat, fields: &[(String, String)], data: &[u8]) -> Result<(), String>;

    /// Spawns a process in its own group. The exit is observed without reaping until [`Process::wait`] returns.
    fn spawn(&self, spec: ProcessSpec) -> impl Future<Output = Result<(Self::Process, Self::Output), String>> + 'static;

    /// The files that `hook` names, in the order in which they run. Empty: no such hook.
    fn find_hooks(&self, hook: &HookSpec) -> Vec<String>;

    /// Spawns one hook file without a terminal, in its own group, standard input empty.
    fn spawn_hook(&self, hook: &HookSpec, path: &str) -> impl Future<Output = Result<(Self::Process, Self::Output), String>> + 'static;

    /// Checks the signature of a job's step.
    fn verify(&self, job: Rc<ibex_core::api::AcceptedJob>) -> impl Future<Output = ibex_core::agent::SignatureVerdict> + 'static;

    /// Writes a line to the agent's log.
    fn log(&self, line: &AgentLog);

    /// Counts something.
    fn metric(&self, metric: &Metric);

    /// Exports what was counted and stops the exporter, without waiting. Only with OTLP metrics.
    fn flush_metrics(&self);

    /// Shows a worker's state.
    fn health(&self, health: &WorkerHealth);

    /// Tells observers of a transition.
    fn observe(&self, transition: &Transition);

    /// Sends `WATCHDOG=1`.
    fn notify_watchdog(&self);

    /// Gives memory that was freed back to the system, where the allocator keeps it. Nothing can be observed of it but the size of
    /// the process, so worlds without one do nothing.
    fn release_memory(&self) {}
}

/// Control over a spawned process group. Cheap to clone; all clones mean the same process.
pub trait Process: Clone + 'static {
    /// Pid of the leader, which is the process group.
    fn pid(&self) -> u32;

    /// Completes when the leader has ended; reaps it. Called once.
    fn wait(&self) -> impl Future<Output = ExitStatus> + 'static;

    /// Sends a signal. "No such process" is no error. After the leader was reaped it reaches nobody but members of the group
    /// that is known not to be empty.
    fn signal(&self, signal: OsSignal, target: SignalTarget) -> Result<(), String>;

    /// Whether the group has a living member (zombies do not count).
    fn group_alive(&self) -> bool;
}

/// Output of a spawned process, in order, without gaps.
pub trait Output: 'static {
    /// The next bytes; `None` at end of output (EIO of a terminal is the end). Cancel-safe.
    fn read(&mut self) -> impl Future<Output = Option<Bytes>>;
}

/// A response body in frames.
pub trait Streaming: 'static {
    /// HTTP status.
    fn status(&self) -> u16;
    /// Headers, names lower case.
    fn headers(&self) -> &[(String, String)];
    /// The next frame; `None` after the last. Cancel-safe.
    fn next(&mut self) -> impl Future<Output = Option<Result<StreamFrame, TransportError>>>;
}

/// A frame of a streamed body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StreamFrame {
    /// Bytes, split anywhere.
    Data(Bytes),
    /// Trailers, names lower case; the last frame.
    Trailers(Vec<(String, String)>),
}
