//! The checkout phase, as far as it needs no git: a directory, hooks around it (specification: bootstrap §5 step 8, §9.1–9.3).

use super::child::Budget;
use super::failure::Failure;
use super::hook::Point;
use super::machine::{Executor, State};
use super::options::Opt;
use super::setup::CHECKOUT_PATH;
use super::text::{LineKind, quote};
use super::vocabulary::{ExecutorCommand, FileKind, FileOp, FileResult};
use crate::machine::Instant;
use std::time::Duration;

/// Tries to remove a checkout directory (bootstrap §9.1).
const REMOVE_TRIES: u32 = 10;
/// Between two of them.
const REMOVE_WAIT: Duration = Duration::from_secs(10);

impl Executor {
    /// bootstrap §5 step 8.
    pub(super) fn checkout_phase(&mut self, now: Instant, out: &mut Vec<ExecutorCommand>) {
        if self.errors.phase.is_none() && self.job.settings.include("checkout") {
            self.run_point(now, Point::PreCheckout, Budget::Cancellable, out);
        } else {
            self.pretend_checkout(now, out);
        }
    }

    /// bootstrap §9.2 step 3.
    pub(super) fn clean_checkout(&mut self, now: Instant, out: &mut Vec<ExecutorCommand>) {
        let path = self.job.env.text(CHECKOUT_PATH).to_owned();
        if self.job.settings.flag(Opt::CleanCheckout) && !path.is_empty() {
            self.job.log(out, LineKind::Header, "Cleaning pipeline checkout");
            self.job.root = None;
            self.remove_checkout(path, 0, out);
        } else {
            self.prepare_directory(now, out);
        }
    }

    pub(super) fn remove_checkout(&mut self, path: String, tries: u32, out: &mut Vec<ExecutorCommand>) {
        self.job.log(out, LineKind::Comment, format!("Removing {path}"));
        let id = self.job.file(out, FileOp::RemoveTree { path: path.clone() });
        self.state = State::Removing { id, path, tries: tries + 1 };
    }

    pub(super) fn removed_checkout(&mut self, now: Instant, path: String, tries: u32, result: FileResult, out: &mut Vec<ExecutorCommand>) {
        let FileResult::Failed(why) = result else { return self.prepare_directory(now, out) };
        self.job.log(out, LineKind::Error, format!("Failed to remove \"{path}\" ({why})"));
        if tries >= REMOVE_TRIES {
            return self.checkout_ended(now, Err(Failure::other(format!("failed to remove {path}"))), out);
        }
        if self.job.cancel.is_some() {
            return self.checkout_ended(now, Err(Failure::cancelled()), out);
        }
        self.job.log(out, LineKind::Comment, "Waiting 10 seconds");
        self.state = State::WaitingToRemove { path, tries, until: now + REMOVE_WAIT };
    }

    /// bootstrap §9.2 steps 4 to 6.
    fn prepare_directory(&mut self, now: Instant, out: &mut Vec<ExecutorCommand>) {
        if let Err(refused) = self.job.admit(Budget::Cancellable, now) {
            return self.checkout_ended(now, Err(refused), out);
        }
        self.job.log(out, LineKind::Header, "Preparing working directory");
        if self.job.settings.text(Opt::Repository).is_empty() {
            let prefix = format!("buildkite-job-{}", self.job.settings.text(Opt::Job));
            let id = self.job.file(out, FileOp::MakeTempDir { parent: self.job.temp_dir(), prefix });
            self.state = State::MakingTempDir { id };
        } else {
            self.probe_checkout(out);
        }
    }

    pub(super) fn temp_dir_made(&mut self, now: Instant, result: FileResult, out: &mut Vec<ExecutorCommand>) {
        match result {
            FileResult::Found(Some(path)) => {
                self.job.env.set(CHECKOUT_PATH, path.clone());
                self.clean_up.push(path);
                self.probe_checkout(out);
            }
            FileResult::Failed(why) => self.checkout_ended(now, Err(Failure::other(why)), out),
            _ => self.checkout_ended(now, Err(Failure::other("no temporary directory was made")), out),
        }
    }

    fn probe_checkout(&mut self, out: &mut Vec<ExecutorCommand>) {
        let path = self.job.env.text(CHECKOUT_PATH).to_owned();
        let id = self.job.file(out, FileOp::Probe { path: path.clone(), base: path.clone() });
        self.state = State::ProbingCheckout { id, path };
    }

    pub(super) fn checkout_probed(&mut self, now: Instant, path: String, result: &FileResult, out: &mut Vec<ExecutorCommand>) {
        if matches!(result, FileResult::Probed { file: FileKind::Missing, .. }) {
            self.job.log(out, LineKind::Comment, format!("Creating {}", quote(&path)));
            let id = self.job.file(out, FileOp::MakeDir { path: path.clone() });
            self.state = State::MakingCheckout { id, path };
        } else {
            self.open_checkout(now, path, matches!(result, FileResult::Probed { file: FileKind::Directory, .. }), out);
        }
    }

    pub(super) fn checkout_made(&mut self, now: Instant, path: String, result: FileResult, out: &mut Vec<ExecutorCommand>) {
        match result {
            FileResult::Failed(why) => self.checkout_ended(now, Err(Failure::other(why).context("creating checkout dir")), out),
            _ => self.open_checkout(now, path, true, out),
        }
    }

    /// The directory becomes checkout root and working directory.
    fn open_checkout(&mut self, now: Instant, path: String, is_directory: bool, out: &mut Vec<ExecutorCommand>) {
        if self.job.wd != path
            && let Err(failure) = self.job.change_dir(out, &path, is_directory)
        {
            return self.checkout_ended(now, Err(failure), out);
        }
        self.job.root = is_directory.then_some(path);
        // bootstrap §9.3: skip-checkout skips checkout hooks too.
        if self.job.settings.flag(Opt::SkipCheckout) {
            self.job.log(out, LineKind::Comment, "Skipping checkout, BUILDKITE_SKIP_CHECKOUT is set");
            self.run_point(now, Point::PostCheckout, Budget::Cancellable, out);
        } else {
            self.run_point(now, Point::Checkout, Budget::Cancellable, out);
        }
    }

    /// bootstrap §9.3 rules 3 to 6.
    pub(super) fn checkout_hooks_ended(&mut self, now: Instant, ran: bool, out: &mut Vec<ExecutorCommand>) {
        if ran {
            let text = "Couldn't send commit information to Buildkite: this version of the agent cannot do it yet";
            self.job.optional_warning(out, "git-commit-resolution-failed", text);
        } else if self.job.settings.text(Opt::Repository).is_empty() {
            self.job.log(out, LineKind::Comment, "Skipping checkout, BUILDKITE_REPO is empty");
        } else if self.computed_checkout_path().as_deref() != Some(self.job.env.text(CHECKOUT_PATH)) {
            // Somebody has chosen this directory: it is used as it is, and the log says so.
            let text = "This version of the agent cannot check out git repositories yet: BUILDKITE_BUILD_CHECKOUT_PATH is used as it is. \
                        Set BUILDKITE_SKIP_CHECKOUT=true to confirm";
            self.job.log(out, LineKind::Warning, text);
        } else {
            let text = "this version of the agent cannot check out git repositories yet. Set BUILDKITE_SKIP_CHECKOUT=true to run in an empty \
                        directory, set BUILDKITE_BUILD_CHECKOUT_PATH to a directory that has the sources, or check out in an agent `checkout` hook";
            return self.checkout_ended(now, Err(Failure::other(text)), out);
        }
        self.run_point(now, Point::PostCheckout, Budget::Cancellable, out);
    }

    /// bootstrap §9.2 step 9.
    pub(super) fn post_checkout_ended(&mut self, now: Instant, result: Result<(), Failure>, out: &mut Vec<ExecutorCommand>) {
        let path = self.job.env.text(CHECKOUT_PATH).to_owned();
        if result.is_ok() && !path.is_empty() && self.job.root.as_deref().is_some_and(|root| root != path) {
            let text = format!("A post-checkout hook has changed the working directory to \"{path}\"");
            self.job.log(out, LineKind::Header, text);
            let id = self.job.file(out, FileOp::Probe { path: path.clone(), base: path.clone() });
            self.state = State::ProbingNewCheckout { id, path };
        } else {
            self.checkout_ended(now, result, out);
        }
    }

    pub(super) fn new_checkout_probed(&mut self, now: Instant, path: &str, result: &FileResult, out: &mut Vec<ExecutorCommand>) {
        let exists = matches!(result, FileResult::Probed { file: FileKind::Directory, .. });
        let result = self.job.change_dir(out, path, exists);
        self.checkout_ended(now, result, out);
    }

    /// The phase is over: on to the command, or to the end.
    pub(super) fn checkout_ended(&mut self, now: Instant, result: Result<(), Failure>, out: &mut Vec<ExecutorCommand>) {
        match result {
            Ok(()) => self.command_phase(now, out),
            Err(failure) => {
                self.errors.phase = Some(failure);
                self.sequence_ended(now, out);
            }
        }
    }

    /// bootstrap §5 step 8, "otherwise".
    fn pretend_checkout(&mut self, now: Instant, out: &mut Vec<ExecutorCommand>) {
        match self.job.env.text(CHECKOUT_PATH).to_owned() {
            path if path.is_empty() => self.pretended(now, path, &FileResult::Done, out),
            path => {
                let id = self.job.file(out, FileOp::Probe { path: path.clone(), base: path.clone() });
                self.state = State::Pretending { id, path };
            }
        }
    }

    /// W3: a directory that is missing opens no root, and the working directory stays.
    pub(super) fn pretended(&mut self, now: Instant, path: String, result: &FileResult, out: &mut Vec<ExecutorCommand>) {
        if !path.is_empty() {
            let exists = matches!(result, FileResult::Probed { file: FileKind::Directory, .. });
            if self.job.change_dir(out, &path, exists).is_ok() {
                self.job.root = Some(path);
            }
        }
        if self.errors.phase.is_some() {
            self.sequence_ended(now, out);
        } else {
            self.command_phase(now, out);
        }
    }
}
