//! The command phase, the artifact phase, and the deletion of clean-up directories (specification: bootstrap §10–§12).

use super::child::{Budget, Child, ChildEnd};
use super::failure::{Cause, Failure, code};
use super::hook::Point;
use super::machine::{COMMAND_EXIT_STATUS, Executor, State};
use super::options::Opt;
use super::text::{LineKind, clean_path, quote, relative_below};
use super::vocabulary::{ExecutorCommand, FileKind, FileOp, FileResult};
use crate::machine::Instant;
use crate::process::ExitStatus;

/// What to do instead when commands may not be evaluated.
const ALLOW_EVAL: &str = "to allow this, re-run the agent without the `--no-command-eval` option or specify a script within your repository \
                          to run instead (such as scripts/test.sh)";

impl Executor {
    /// bootstrap §5 step 10.
    pub(super) fn command_phase(&mut self, now: Instant, out: &mut Vec<ExecutorCommand>) {
        if self.job.settings.include("command") {
            self.run_point(now, Point::PreCommand, Budget::Cancellable, out);
        } else {
            self.sequence_ended(now, out);
        }
    }

    /// bootstrap §10 step 2: the built-in command when there is no hook.
    pub(super) fn command_hooks_ended(&mut self, now: Instant, ran: bool, result: Result<(), Failure>, out: &mut Vec<ExecutorCommand>) {
        match result {
            Ok(()) if !ran => self.built_in(now, out),
            result => self.command_ended(now, result, out),
        }
    }

    /// bootstrap §10.1.
    fn built_in(&mut self, now: Instant, out: &mut Vec<ExecutorCommand>) {
        let command = self.job.settings.text(Opt::Command);
        if command.trim().is_empty() {
            let text = "the command phase has no `command` to execute; provide a `command` field in your step configuration or define a \
                        `command` hook in a step plugin, your repository `.buildkite/hooks`, or the agent `hooks-path`";
            return self.command_ended(now, Err(Failure::other(text)), out);
        }
        let name = command.replace('\n', "");
        let path = clean_path(&format!("{}/{name}", self.job.wd));
        let id = self.job.file(out, FileOp::Probe { path: path.clone(), base: self.job.wd.clone() });
        self.state = State::ProbingScript { id, name, path };
    }

    pub(super) fn script_probed(&mut self, now: Instant, name: &str, path: String, result: &FileResult, out: &mut Vec<ExecutorCommand>) {
        let evaluate = self.job.settings.flag(Opt::CommandEval);
        // W29: only what is no directory counts as a script.
        let (script, inside, executable) = match result {
            FileResult::Probed { file: FileKind::File, inside, executable } => (true, *inside, *executable),
            _ => (false, false, false),
        };
        if !evaluate {
            let refused = match (script, inside && relative_below(&path, &self.job.wd).is_some()) {
                (false, _) => Some("this agent is not allowed to evaluate console commands"),
                // W27: links are resolved before the check.
                (true, false) => Some("this agent is only allowed to run scripts within your repository"),
                (true, true) => None,
            };
            if let Some(refused) = refused {
                self.job.log(out, LineKind::Comment, format!("No such file: {}", quote(name)));
                return self.command_ended(now, Err(Failure::other(format!("{refused}; {ALLOW_EVAL}"))), out);
            }
        }
        match (script, evaluate && !executable) {
            (false, _) => self.run_command(now, "Running commands", self.job.settings.text(Opt::Command).to_owned(), out),
            (true, false) => self.run_script(now, &path, out),
            (true, true) => {
                let id = self.job.file(out, FileOp::MakeExecutable { path: path.clone() });
                self.state = State::MakingExecutable { id, path };
            }
        }
    }

    pub(super) fn made_executable(&mut self, now: Instant, path: &str, result: FileResult, out: &mut Vec<ExecutorCommand>) {
        if let FileResult::Failed(why) = result {
            let failure = Failure::other(format!("failed to mark script {} as executable: {why}", quote(path)));
            return self.command_ended(now, Err(failure), out);
        }
        self.run_script(now, path, out);
    }

    fn run_script(&mut self, now: Instant, path: &str, out: &mut Vec<ExecutorCommand>) {
        let text = match relative_below(path, &self.job.wd) {
            Some(relative) => format!("./{relative}"),
            None => path.to_owned(), // `../x`: only with command eval on.
        };
        self.run_command(now, "Running script", text, out);
    }

    fn run_command(&mut self, now: Instant, header: &str, text: String, out: &mut Vec<ExecutorCommand>) {
        let shell = self.job.settings.text(Opt::Shell);
        let argv = match shlex::split(shell) {
            None => Err(format!("failed to split shell ({}) into tokens: unterminated quote or escape", quote(shell))),
            Some(words) if words.is_empty() => Err("no shell set for job".to_owned()),
            Some(mut words) => {
                words.push(text.clone());
                Ok(words)
            }
        };
        let argv = match argv {
            Ok(argv) => argv,
            Err(why) => return self.command_ended(now, Err(Failure::other(why)), out),
        };
        if let Err(refused) = self.job.admit(Budget::Cancellable, now) {
            return self.command_ended(now, Err(refused), out);
        }
        self.job.log(out, LineKind::Header, header);
        if self.job.settings.flag(Opt::Debug) {
            self.job.show_prompt(out, &argv);
        } else {
            self.job.log(out, LineKind::Prompt, text);
        }
        let spec = self.job.exec(argv, &[]);
        match Child::start(&mut self.job, now, spec, Budget::Cancellable, out) {
            Ok(child) => self.state = State::Running(child),
            Err(refused) => self.command_ended(now, Err(refused), out),
        }
    }

    pub(super) fn command_ran(&mut self, now: Instant, end: ChildEnd, out: &mut Vec<ExecutorCommand>) {
        out.push(ExecutorCommand::Flush);
        let failure = match end {
            ChildEnd::Refused => Some(Failure::cancelled()),
            ChildEnd::NotStarted(why) => Some(self.job.start_failure(out, &why)),
            ChildEnd::Exited { status, .. } => Failure::of_process(status),
        };
        if failure.is_none() {
            self.job.refresh(out);
        }
        self.command_ended(now, failure.map_or(Ok(()), Err), out);
    }

    /// bootstrap §10 steps 3 to 5.
    fn command_ended(&mut self, now: Instant, result: Result<(), Failure>, out: &mut Vec<ExecutorCommand>) {
        let failure = result.err();
        self.job.env.set(COMMAND_EXIT_STATUS, code(failure.as_ref()).to_string());
        if let Some(failure) = failure {
            self.job.log(out, LineKind::Plain, "^^^ +++");
            let text = match failure.cause {
                Cause::Process(ExitStatus::Signal(_)) => format!("The command was interrupted by a signal: {}", failure.text),
                Cause::Process(_) | Cause::Hook(_) => format!("The command exited with status {}", failure.code()),
                Cause::Cancelled | Cause::Other => failure.text.clone(),
            };
            self.job.log(out, LineKind::Error, text);
            // An error that is no exit is dropped: only the status variable remembers it.
            self.errors.command = failure.is_exit().then_some(failure);
        }
        self.run_point(now, Point::PostCommand, Budget::Own { started: now }, out);
    }

    /// bootstrap §10 step 6.
    pub(super) fn post_command_ended(&mut self, now: Instant, result: Result<(), Failure>, out: &mut Vec<ExecutorCommand>) {
        self.errors.phase = result.err();
        if let Some(failure) = &self.errors.command {
            let text = format!("user command error: {}", failure.text);
            self.job.log(out, LineKind::Plain, text);
        }
        self.artifact_phase(now, out);
    }

    /// bootstrap §11.
    pub(super) fn artifact_phase(&mut self, now: Instant, out: &mut Vec<ExecutorCommand>) {
        if self.job.settings.text(Opt::ArtifactPaths).is_empty() {
            self.sequence_ended(now, out);
        } else {
            self.run_point(now, Point::PreArtifact, Budget::Job, out);
        }
    }

    pub(super) fn upload(&mut self, now: Instant, out: &mut Vec<ExecutorCommand>) {
        self.job.log(out, LineKind::Header, "Uploading artifacts");
        let settings = &self.job.settings;
        let mut argv = vec![self.job.executable.clone(), "artifact".to_owned(), "upload".to_owned()];
        argv.push(settings.text(Opt::ArtifactPaths).to_owned());
        let destination = settings.text(Opt::ArtifactDestination);
        if !destination.is_empty() {
            argv.push(destination.to_owned());
        }
        self.job.show_prompt(out, &argv);
        let spec = self.job.exec(argv, &[]);
        match Child::start(&mut self.job, now, spec, Budget::Job, out) {
            Ok(child) => self.state = State::Uploading(child),
            Err(refused) => self.artifacts_failed(now, refused, out),
        }
    }

    pub(super) fn uploaded(&mut self, now: Instant, end: ChildEnd, out: &mut Vec<ExecutorCommand>) {
        out.push(ExecutorCommand::Flush);
        let failure = match end {
            ChildEnd::Refused => Some(Failure::cancelled()),
            ChildEnd::NotStarted(why) => Some(self.job.start_failure(out, &why)),
            ChildEnd::Exited { status, .. } => Failure::of_process(status),
        };
        match failure {
            Some(failure) => self.artifacts_failed(now, failure, out),
            None => self.run_point(now, Point::PostArtifact, Budget::Job, out),
        }
    }

    pub(super) fn artifacts_failed(&mut self, now: Instant, failure: Failure, out: &mut Vec<ExecutorCommand>) {
        self.job.log(out, LineKind::Error, failure.text.clone());
        self.errors.artifact = Some(failure);
        self.sequence_ended(now, out);
    }

    pub(super) fn cleaned_up(&mut self, dir: &str, result: FileResult, out: &mut Vec<ExecutorCommand>) {
        if let FileResult::Failed(why) = result {
            self.job.log(out, LineKind::Warning, format!("Failed to remove dir {dir}: {why}"));
        }
        self.next_clean_up(out);
    }
}
