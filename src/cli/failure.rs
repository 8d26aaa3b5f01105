//! How a command fails: the one place that turns errors into text on stderr and an exit code (commands §5).

use std::io::Write;

/// The name under which scripts know the program; it begins every fatal message.
pub(crate) const NAME: &str = "buildkite-agent";

/// A failed command.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    /// `buildkite-agent: fatal: <message>`, exit 1.
    Fatal(String),
    /// This text as it is, and this exit code.
    Plain(String, u8),
    /// This text as it is on **stdout**, exit 1 (start-flags §2.1, log-format).
    PlainOut(String),
    /// Everything was said already.
    Silent(u8),
}

impl Failure {
    /// The first missing required value (commands §5).
    pub(crate) fn missing(label: &str, path: &str) -> Failure {
        Failure::Plain(format!("Missing {label}. See: `{NAME} {path} --help`\n"), 1)
    }

    /// Prints the failure and gives its exit code.
    pub(crate) fn print(self) -> u8 {
        let mut err = std::io::stderr().lock();
        // A closed stderr leaves nobody to tell.
        match self {
            Failure::Fatal(text) => {
                let _ = writeln!(err, "{NAME}: fatal: {text}");
                1
            }
            Failure::Plain(text, code) => {
                let _ = err.write_all(text.as_bytes());
                code
            }
            Failure::PlainOut(text) => {
                let _ = writeln!(std::io::stdout(), "{text}");
                1
            }
            Failure::Silent(code) => code,
        }
    }
}
