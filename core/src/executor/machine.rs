//! The executor: set-up → environment → (plugins) → checkout → pre-command → command → post-command → artifacts → pre-exit
//! (specification: bootstrap §5, §14, §19). Its steps are in `setup.rs`, `checkout.rs` and `command.rs`.

use super::child::{Budget, Child};
use super::failure::{Errors, Failure, NEVER_RAN, code};
use super::hook::{Point, PointEnd, PointRun};
use super::job::{Cancel, ExecutorConfig, Job};
use super::text::LineKind;
use super::vocabulary::{ExecutorCommand, ExecutorEvent, FileOp};
use crate::agent::OsSignal;
use crate::machine::{Instant, Machine, Owner, RequestId, Transition, earliest};
use serde::{Deserialize, Serialize};

/// What `bootstrap` does, as a machine of phases.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Executor {
    pub(super) job: Job,
    pub(super) state: State,
    pub(super) errors: Errors,
    /// Directories to delete at teardown.
    pub(super) clean_up: Vec<String>,
    /// Exit status as of the end of the sequence; teardown may override it.
    status: i32,
}

/// Where in the sequence it is.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(super) enum State {
    /// Not begun.
    New,
    /// Does the file of `ssh` show its version (bootstrap §6.4)?
    ReadingSsh { id: RequestId },
    /// `ssh -V` runs (bootstrap §6.4).
    CheckingSsh(Child),
    /// The hooks of a point run.
    Hooks(Box<PointRun>),
    /// clean-checkout: the checkout directory is being removed (bootstrap §9.1).
    Removing { id: RequestId, path: String, tries: u32 },
    /// It could not be removed; the next try comes at `until`.
    WaitingToRemove { path: String, tries: u32, until: Instant },
    /// A directory for a job without a repository is being made.
    MakingTempDir { id: RequestId },
    /// Does the checkout directory exist?
    ProbingCheckout { id: RequestId, path: String },
    /// The checkout directory is being made.
    MakingCheckout { id: RequestId, path: String },
    /// A post-checkout hook has named another directory: does it exist?
    ProbingNewCheckout { id: RequestId, path: String },
    /// No checkout phase: is there a directory left by an earlier one?
    Pretending { id: RequestId, path: String },
    /// Is the command the name of a script?
    ProbingScript { id: RequestId, name: String, path: String },
    /// The script gets execute permission.
    MakingExecutable { id: RequestId, path: String },
    /// The built-in command runs.
    Running(Child),
    /// `artifact upload` runs.
    Uploading(Child),
    /// Clean-up directories are being deleted.
    CleaningUp { id: RequestId, dir: String },
    /// `Exit` was emitted.
    Done,
}

impl State {
    fn name(&self) -> &'static str {
        match self {
            State::New => "new",
            State::ReadingSsh { .. } | State::CheckingSsh(_) => "set-up",
            State::Hooks(run) => run.point.name(),
            State::Removing { .. } | State::WaitingToRemove { .. } => "clean",
            State::MakingTempDir { .. } | State::ProbingCheckout { .. } | State::MakingCheckout { .. } => "make-dir",
            State::ProbingNewCheckout { .. } => "change-dir",
            State::Pretending { .. } => "pretend-checkout",
            State::ProbingScript { .. } | State::MakingExecutable { .. } => "command-probe",
            State::Running(_) => "command-running",
            State::Uploading(_) => "upload",
            State::CleaningUp { .. } => "clean-up",
            State::Done => "done",
        }
    }
}

impl Executor {
    /// An executor that has not begun.
    pub fn new(config: ExecutorConfig) -> Executor {
        Executor { job: Job::new(config), state: State::New, errors: Errors::default(), clean_up: Vec::new(), status: 0 }
    }

    /// Whether `Exit` was emitted.
    pub fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// Completions that nobody waited for.
    pub fn late(&self) -> u32 {
        self.job.late
    }

    /// bootstrap §14.1: the first signal cancels, later ones change nothing.
    fn signal(&mut self, now: Instant, signal: OsSignal, timed_out: bool, out: &mut Vec<ExecutorCommand>) -> bool {
        if self.job.cancel.is_some() || self.state == State::Done || signal == OsSignal::Kill {
            self.job.late += 1;
            return false;
        }
        self.job.env.set("BUILDKITE_JOB_CANCELLED", "true");
        if timed_out {
            self.job.env.set("BUILDKITE_JOB_TIMED_OUT", "true");
        }
        self.job.cancel = Some(Cancel { signal, at: now });
        out.push(ExecutorCommand::RestoreSignals);
        self.job.log(out, LineKind::Comment, "Received cancellation signal, interrupting");
        match &mut self.state {
            State::Hooks(run) => run.cancel(&self.job, now, out),
            State::CheckingSsh(child) | State::Running(child) | State::Uploading(child) => child.cancel(&self.job, now, out),
            // W19: the wait for another try ends.
            State::WaitingToRemove { .. } => self.checkout_ended(now, Err(Failure::cancelled()), out),
            _ => {}
        }
        true
    }

    /// Starts a hook point; what comes after it follows when it is over.
    pub(super) fn run_point(&mut self, now: Instant, point: Point, budget: Budget, out: &mut Vec<ExecutorCommand>) {
        let (run, end) = PointRun::start(&mut self.job, point, budget, out);
        self.state = State::Hooks(Box::new(run));
        if let Some(end) = end {
            self.point_ended(now, point, end, out);
        }
    }

    /// bootstrap §5: what follows each point.
    fn point_ended(&mut self, now: Instant, point: Point, end: PointEnd, out: &mut Vec<ExecutorCommand>) {
        match (point, end.result) {
            (Point::Environment, Ok(())) => self.plugin_phase(now, out),
            (Point::Environment, Err(failure)) => self.setup_failed(now, failure, out),
            (Point::PreCheckout, Ok(())) => self.clean_checkout(now, out),
            (Point::PreCheckout | Point::Checkout, Err(failure)) => self.checkout_ended(now, Err(failure), out),
            (Point::Checkout, Ok(())) => self.checkout_hooks_ended(now, end.ran, out),
            (Point::PostCheckout, result) => self.post_checkout_ended(now, result, out),
            (Point::PreCommand, Ok(())) => self.run_point(now, Point::Command, Budget::Cancellable, out),
            (Point::PreCommand, Err(failure)) => {
                self.errors.phase = Some(failure);
                self.artifact_phase(now, out);
            }
            (Point::Command, result) => self.command_hooks_ended(now, end.ran, result, out),
            (Point::PostCommand, result) => self.post_command_ended(now, result, out),
            (Point::PreArtifact, Ok(())) => self.upload(now, out),
            (Point::PreArtifact, Err(failure)) => self.artifacts_failed(now, failure, out),
            (Point::PostArtifact, Ok(())) => self.sequence_ended(now, out),
            (Point::PostArtifact, Err(failure)) => self.artifacts_failed(now, failure, out),
            (Point::PreExit, result) => self.pre_exit_ended(result, out),
        }
    }

    /// bootstrap §5, step 11 and 12: the status so far is now known; teardown may override it.
    pub(super) fn sequence_ended(&mut self, now: Instant, out: &mut Vec<ExecutorCommand>) {
        let (status, text) = self.errors.status(self.job.env.get(COMMAND_EXIT_STATUS));
        if let Some(text) = text {
            self.job.log(out, LineKind::Error, text);
        }
        // pre-exit hooks come too late to change it through the job env.
        self.status = status;
        if self.job.settings.include("command") {
            self.run_point(now, Point::PreExit, Budget::Job, out);
        } else {
            self.pre_exit_ended(Ok(()), out);
        }
    }

    fn pre_exit_ended(&mut self, result: Result<(), Failure>, out: &mut Vec<ExecutorCommand>) {
        if let Err(failure) = result {
            self.job.log(out, LineKind::Error, format!("Error tearing down job executor: {}", failure.text));
            self.errors.teardown = Some(failure);
        }
        self.next_clean_up(out);
    }

    /// W10: also after a failed pre-exit hook.
    pub(super) fn next_clean_up(&mut self, out: &mut Vec<ExecutorCommand>) {
        if self.clean_up.is_empty() {
            return self.exit(out);
        }
        let dir = self.clean_up.remove(0);
        let id = self.job.file(out, FileOp::RemoveTree { path: dir.clone() });
        self.state = State::CleaningUp { id, dir };
    }

    /// bootstrap §13 rows T and S, §14.4.
    fn exit(&mut self, out: &mut Vec<ExecutorCommand>) {
        // W18: what is left of interrupted groups goes with this process.
        for (id, _) in std::mem::take(&mut self.job.sweeps) {
            out.push(ExecutorCommand::Signal { id, signal: OsSignal::Kill });
            out.push(ExecutorCommand::Reap { id });
        }
        out.push(ExecutorCommand::Flush);
        let status = if self.errors.teardown.is_some() { code(self.errors.teardown.as_ref()) } else { self.status };
        let (status, by_signal) = match self.job.cancel {
            Some(Cancel { signal: OsSignal::Quit, .. }) => (QUIT_STATUS, None),
            Some(Cancel { signal, .. }) => (status, Some(signal)),
            None => (status, None),
        };
        let never_ran = self.errors.teardown.is_none() && self.errors.never_ran();
        if status == NEVER_RAN && by_signal.is_none() && !never_ran {
            out.push(ExecutorCommand::Vouch);
        }
        out.push(ExecutorCommand::Exit { status, by_signal });
        self.state = State::Done;
    }
}

impl Machine for Executor {
    type Event = ExecutorEvent;
    type Command = ExecutorCommand;

    fn handle(&mut self, now: Instant, event: ExecutorEvent, out: &mut Vec<ExecutorCommand>) {
        let (from, name, start) = (self.state.name(), event_name(&event), out.len());
        let late = self.job.late;
        let acted = match event {
            ExecutorEvent::Signal { signal, timed_out } => self.signal(now, signal, timed_out, out),
            event => {
                self.step(now, event, out);
                self.job.late == late
            }
        };
        if acted {
            let to = self.state.name();
            let transition = Transition { owner: Owner::Executor, machine: "executor", from, event: name, to };
            out.insert(start, ExecutorCommand::Transition(transition));
        }
    }

    fn deadline(&self) -> Option<Instant> {
        let own = match &self.state {
            State::Hooks(run) => run.deadline(&self.job),
            State::CheckingSsh(child) | State::Running(child) | State::Uploading(child) => child.deadline(&self.job),
            State::WaitingToRemove { until, .. } => Some(*until),
            _ => None,
        };
        self.job.sweeps.iter().map(|(_, at)| *at).fold(own, |least, at| earliest(least, Some(at)))
    }

    fn expire(&mut self, now: Instant, out: &mut Vec<ExecutorCommand>) {
        let (due, rest): (Vec<_>, Vec<_>) = std::mem::take(&mut self.job.sweeps).into_iter().partition(|(_, at)| *at <= now);
        self.job.sweeps = rest;
        for (id, _) in due {
            out.push(ExecutorCommand::Signal { id, signal: OsSignal::Kill });
            out.push(ExecutorCommand::Reap { id });
        }
        match &mut self.state {
            State::Hooks(run) => run.expire(&self.job, now, out),
            State::CheckingSsh(child) | State::Running(child) | State::Uploading(child) => child.expire(&self.job, now, out),
            State::WaitingToRemove { path, tries, until } if *until <= now => {
                let (path, tries) = (path.clone(), *tries);
                self.remove_checkout(path, tries, out);
            }
            _ => {}
        }
    }
}

impl Executor {
    /// Everything but signals.
    fn step(&mut self, now: Instant, event: ExecutorEvent, out: &mut Vec<ExecutorCommand>) {
        use ExecutorEvent::{Begin, File, Process};
        match (std::mem::replace(&mut self.state, State::Done), event) {
            (State::New, Begin) => self.begin(now, out),
            (State::ReadingSsh { id }, File { id: got, result }) if id == got => self.ssh_read(now, result, out),
            (State::CheckingSsh(mut child), Process { id, event }) if id == child.id() => match child.handle(&mut self.job, now, event, out) {
                Some(end) => self.ssh_checked(now, end, out),
                None => self.state = State::CheckingSsh(child),
            },
            (State::Hooks(mut run), event) => match run.handle(&mut self.job, now, event, out) {
                Some(end) => {
                    let point = run.point;
                    self.state = State::Hooks(run);
                    self.point_ended(now, point, end, out);
                }
                None => self.state = State::Hooks(run),
            },
            (State::Removing { id, path, tries }, File { id: got, result }) if id == got => {
                self.removed_checkout(now, path, tries, result, out);
            }
            (State::MakingTempDir { id }, File { id: got, result }) if id == got => self.temp_dir_made(now, result, out),
            (State::ProbingCheckout { id, path }, File { id: got, result }) if id == got => {
                self.checkout_probed(now, path, &result, out);
            }
            (State::MakingCheckout { id, path }, File { id: got, result }) if id == got => {
                self.checkout_made(now, path, result, out);
            }
            (State::ProbingNewCheckout { id, path }, File { id: got, result }) if id == got => {
                self.new_checkout_probed(now, &path, &result, out);
            }
            (State::Pretending { id, path }, File { id: got, result }) if id == got => self.pretended(now, path, &result, out),
            (State::ProbingScript { id, name, path }, File { id: got, result }) if id == got => {
                self.script_probed(now, &name, path, &result, out);
            }
            (State::MakingExecutable { id, path }, File { id: got, result }) if id == got => {
                self.made_executable(now, &path, result, out);
            }
            (State::Running(mut child), Process { id, event }) if id == child.id() => match child.handle(&mut self.job, now, event, out) {
                Some(end) => self.command_ran(now, end, out),
                None => self.state = State::Running(child),
            },
            (State::Uploading(mut child), Process { id, event }) if id == child.id() => match child.handle(&mut self.job, now, event, out) {
                Some(end) => self.uploaded(now, end, out),
                None => self.state = State::Uploading(child),
            },
            (State::CleaningUp { id, dir }, File { id: got, result }) if id == got => {
                self.cleaned_up(&dir, result, out);
            }
            // A completion nobody waits for, or a second Begin.
            (state, _) => {
                self.state = state;
                self.job.late += 1;
            }
        }
    }
}

fn event_name(event: &ExecutorEvent) -> &'static str {
    use super::vocabulary::ChildEvent;
    match event {
        ExecutorEvent::Begin => "Begin",
        ExecutorEvent::Signal { .. } => "Signal",
        ExecutorEvent::File { .. } => "File",
        ExecutorEvent::Process { event, .. } => match event {
            ChildEvent::NotStarted(_) => "NotStarted",
            ChildEvent::Exited { .. } => "Exited",
            ChildEvent::SignalFailed => "SignalFailed",
            ChildEvent::Ended { .. } => "Ended",
        },
    }
}

/// Status of the command, and in the end of the job (bootstrap §13 row 7).
pub(super) const COMMAND_EXIT_STATUS: &str = "BUILDKITE_COMMAND_EXIT_STATUS";
/// Exit status after SIGQUIT.
const QUIT_STATUS: i32 = 131;
