//! Errors, their codes, and the exit status of the process (specification: bootstrap §2.3, §13).

use super::text::signal_text;
use crate::process::ExitStatus;
use serde::{Deserialize, Serialize};

/// What is behind a failure, for its code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(super) enum Cause {
    /// A wrapped hook ended with this status; −1 if it was killed.
    Hook(i32),
    /// A process that was run directly ended like this.
    Process(ExitStatus),
    /// The job was cancelled before the step could be run.
    Cancelled,
    /// Anything else.
    Other,
}

/// A failure. Wrapping it with text does not change its code.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(super) struct Failure {
    pub(super) text: String,
    pub(super) cause: Cause,
}

impl Failure {
    pub(super) fn other(text: impl Into<String>) -> Failure {
        Failure { text: text.into(), cause: Cause::Other }
    }

    pub(super) fn cancelled() -> Failure {
        Failure { text: "context canceled".to_owned(), cause: Cause::Cancelled }
    }

    /// `None` for exit status 0.
    pub(super) fn of_process(status: ExitStatus) -> Option<Failure> {
        let text = match status {
            ExitStatus::Code(0) => return None,
            ExitStatus::Code(code) => format!("exit status {code}"),
            ExitStatus::Signal(number) => signal_text(number),
        };
        Some(Failure { text, cause: Cause::Process(status) })
    }

    pub(super) fn context(self, prefix: &str) -> Failure {
        Failure { text: format!("{prefix}: {}", self.text), cause: self.cause }
    }

    /// `code(err)`.
    pub(super) fn code(&self) -> i32 {
        match self.cause {
            Cause::Hook(code) | Cause::Process(ExitStatus::Code(code)) => code,
            Cause::Process(ExitStatus::Signal(_)) => -1,
            Cause::Cancelled | Cause::Other => 1,
        }
    }

    /// A hook or process has ended badly, as opposed to never having been run.
    pub(super) fn is_exit(&self) -> bool {
        matches!(self.cause, Cause::Hook(_) | Cause::Process(_))
    }
}

/// `code` of a result.
pub(super) fn code(failure: Option<&Failure>) -> i32 {
    failure.map_or(0, Failure::code)
}

/// The errors of a run, by the part of it they come from.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(super) struct Errors {
    pub(super) setup: Option<Failure>,
    pub(super) phase: Option<Failure>,
    pub(super) command: Option<Failure>,
    pub(super) artifact: Option<Failure>,
    pub(super) teardown: Option<Failure>,
}

/// Exit status that tells the job runner that the command never ran.
pub(super) const NEVER_RAN: i32 = 125;

impl Errors {
    /// The job was given up before anything of it had ended with a status.
    pub(super) fn never_ran(&self) -> bool {
        self.setup.as_ref().is_some_and(|setup| !setup.is_exit())
    }

    /// Status before teardown, rows 3 to 7 of bootstrap §13, and what is logged for it.
    /// `command_status` is the job env's `BUILDKITE_COMMAND_EXIT_STATUS` at this moment.
    pub(super) fn status(&self, command_status: Option<&str>) -> (i32, Option<String>) {
        match self {
            Errors { setup: Some(setup), .. } => {
                let status = if self.never_ran() { NEVER_RAN } else { setup.code() };
                (status, Some(format!("Error setting up job executor: {}", setup.text)))
            }
            // Logged where it happened.
            Errors { artifact: Some(artifact), command: None, .. } => (artifact.code(), None),
            Errors { phase: Some(phase), .. } => (phase.code(), Some(phase.text.clone())),
            _ => (command_status.and_then(|text| text.parse().ok()).unwrap_or(0), None),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hook(status: i32) -> Option<Failure> {
        Some(Failure { text: format!("hook {status}"), cause: Cause::Hook(status) })
    }

    #[test]
    fn codes_follow_the_kind_of_the_error() {
        assert_eq!(code(None), 0);
        assert_eq!(code(Failure::of_process(ExitStatus::Code(7)).as_ref()), 7);
        assert_eq!(code(Failure::of_process(ExitStatus::Signal(15)).map(|f| f.context("x")).as_ref()), -1);
        assert_eq!(Failure::of_process(ExitStatus::Signal(15)).unwrap().text, "signal: terminated");
        assert_eq!((Failure::cancelled().code(), Failure::other("x").code()), (1, 1));
        assert_eq!(code(hook(-1).as_ref()), -1);
    }

    #[test]
    fn the_consequences_listed_with_the_status_table_hold() {
        let status = |errors: Errors, command: Option<&str>| errors.status(command).0;
        let none = Errors::default;
        assert_eq!(status(Errors { command: hook(4), phase: hook(6), ..none() }, Some("4")), 6);
        assert_eq!(status(Errors { command: hook(4), artifact: hook(8), ..none() }, Some("4")), 4);
        assert_eq!(status(Errors { artifact: hook(8), phase: hook(6), ..none() }, Some("0")), 8);
        assert_eq!(status(Errors { phase: hook(7), artifact: hook(8), ..none() }, None), 8);
        assert_eq!(status(none(), Some("42")), 42);
        assert_eq!(status(none(), None), 0);
        assert_eq!(status(none(), Some("many")), 0);
    }

    #[test]
    fn only_a_set_up_failure_that_is_no_exit_is_125() {
        assert_eq!(Errors { setup: hook(3), ..Errors::default() }.status(None).0, 3);
        let unwrapped = Failure::of_process(ExitStatus::Code(5));
        assert_eq!(Errors { setup: unwrapped, ..Errors::default() }.status(None).0, 5);
        let (status, text) = Errors { setup: Some(Failure::other("no build path")), ..Errors::default() }.status(None);
        assert_eq!((status, text.as_deref()), (125, Some("Error setting up job executor: no build path")));
    }
}
