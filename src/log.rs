//! The agent's own log (start-flags §9, commands §6): text to stderr, or JSON to stdout.

use crate::cli::Failure;
use crate::flags::Values;
use ibex_core::agent::{AgentLog, Level};
use std::cell::RefCell;
use std::io::Write;
use std::sync::Arc;

/// What lines look like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    /// `2006-01-02 15:04:05 INFO   message`, on stderr.
    Text {
        /// With colours.
        colors: bool,
    },
    /// One object per line, on stdout.
    Json,
}

/// Writes lines that are severe enough.
#[derive(Debug)]
pub(crate) struct Logger {
    level: Level,
    format: Format,
    /// Full command name, shown with every line in debug mode.
    command: Option<String>,
    zone: jiff::tz::TimeZone,
    buffer: RefCell<String>,
}

impl Logger {
    /// A logger for these flags; the first line it writes may be the complaint about a bad level.
    pub(crate) fn new(values: &Values, path: &str, format: Format) -> Logger {
        let debug = values.bool("debug");
        let (level, complaint) = match parse_level(values.text("log-level")) {
            _ if debug => (Level::Debug, None),
            Some(level) => (level, None),
            None => {
                let text = format!(
                    "Error when setting log level: invalid log level: {}. Valid levels are: [DEBUG NOTICE INFO WARN ERROR FATAL]. Defaulting log level to NOTICE",
                    values.text("log-level")
                );
                (Level::Notice, Some(text))
            }
        };
        let command = debug.then(|| format!("{} {path}", crate::cli::NAME));
        let logger = Logger { level, format, command, zone: jiff::tz::TimeZone::system(), buffer: RefCell::default() };
        if let Some(text) = complaint {
            logger.warn(text);
        }
        logger
    }

    /// A text logger for an in-job command; known profiling modes are accepted, others are fatal (commands §3).
    pub(crate) fn of_command(values: &Values, path: &str) -> Result<Logger, Failure> {
        let logger = Logger::new(values, path, Format::Text { colors: !values.bool("no-color") && std::env::var_os("NO_COLOR").is_none() });
        for warning in experiment_warnings(values.list("experiment")) {
            logger.warn(warning);
        }
        logger.check_profile(values.text("profile"))?;
        Ok(logger)
    }

    /// Known profiling modes are accepted with a warning; unknown ones end the program.
    pub(crate) fn check_profile(&self, mode: &str) -> Result<(), Failure> {
        match mode {
            "" => Ok(()),
            "cpu" | "mem" | "memory" | "mutex" | "block" | "thread" | "trace" => {
                self.warn("Profiling is not available in this agent; going on without it");
                Ok(())
            }
            other => Err(self.fatal(format!("Unknown profile mode {other:?}"))),
        }
    }

    /// Whether lines of this level are written.
    pub(crate) fn enabled(&self, level: Level) -> bool {
        level >= self.level || level >= Level::Error
    }

    /// Writes a line.
    pub(crate) fn line(&self, line: &AgentLog) {
        self.write(line.level, line.worker.as_ref(), &line.text, &line.fields);
    }

    /// Writes a line without worker or fields.
    pub(crate) fn at(&self, level: Level, text: impl AsRef<str>) {
        self.write(level, None, text.as_ref(), &[]);
    }

    /// Writes an INFO line.
    pub(crate) fn info(&self, text: impl AsRef<str>) {
        self.at(Level::Info, text);
    }

    /// Writes a WARN line.
    pub(crate) fn warn(&self, text: impl AsRef<str>) {
        self.at(Level::Warn, text);
    }

    /// Writes an ERROR line.
    pub(crate) fn error(&self, text: impl AsRef<str>) {
        self.at(Level::Error, text);
    }

    /// Writes a DEBUG line.
    pub(crate) fn debug(&self, text: impl AsRef<str>) {
        self.at(Level::Debug, text);
    }

    /// Writes a FATAL line and gives the failure that ends the program without a further word.
    pub(crate) fn fatal(&self, text: impl AsRef<str>) -> Failure {
        self.at(Level::Fatal, text);
        Failure::Silent(1)
    }

    /// Writes a line with fields.
    pub(crate) fn write(&self, level: Level, worker: Option<&Arc<str>>, text: &str, fields: &[(&'static str, String)]) {
        if !self.enabled(level) {
            return;
        }
        let now = jiff::Timestamp::now().to_zoned(self.zone.clone());
        let mut out = self.buffer.borrow_mut();
        out.clear();
        let line = Line { level, worker: worker.map(|w| &**w), text, fields, command: self.command.as_deref() };
        // One write per line, so that lines of several processes do not mix. A closed stream leaves nobody to tell.
        let _ = match self.format {
            Format::Text { colors } => {
                line.text(&now, colors, &mut out);
                std::io::stderr().write_all(out.as_bytes())
            }
            Format::Json => {
                line.json(&now, &mut out);
                let mut stdout = std::io::stdout().lock();
                stdout.write_all(out.as_bytes()).and_then(|()| stdout.flush())
            }
        };
    }
}

/// One line to be written.
struct Line<'a> {
    level: Level,
    worker: Option<&'a str>,
    text: &'a str,
    fields: &'a [(&'static str, String)],
    command: Option<&'a str>,
}

impl Line<'_> {
    fn text(&self, now: &jiff::Zoned, colors: bool, out: &mut String) {
        use std::fmt::Write;
        let head = format!("{} {:<6}", now.strftime("%Y-%m-%d %H:%M:%S"), level_name(self.level));
        let hook = self.fields.iter().find(|(k, _)| *k == "hook").map(|(_, v)| v.as_str());
        let mut prefix = String::new();
        for part in [self.worker, hook].into_iter().flatten() {
            prefix.push_str(part);
            prefix.push(' ');
        }
        let message = self.text;
        let _ = if colors {
            let (level, text) = level_colors(self.level);
            let _ = write!(out, "\x1b[{level}m{head}\x1b[0m {prefix}\x1b[{text}m");
            // The sign of a lifecycle hook's prompt is grey (start-and-worker §3).
            match message.strip_prefix("$ ").filter(|_| hook.is_some()) {
                Some(path) => write!(out, "\x1b[90m$\x1b[0m {path}\x1b[0m"),
                None => write!(out, "{message}\x1b[0m"),
            }
        } else {
            write!(out, "{head} {prefix}{message}")
        };
        for (key, value) in self.all_fields().filter(|(k, _)| *k != "hook") {
            let _ = write!(out, " {key}={value}");
        }
        out.push('\n');
    }

    fn json(&self, now: &jiff::Zoned, out: &mut String) {
        let ts = now.timestamp().display_with_offset(now.offset());
        let mut object = serde_json::Map::new();
        let mut put = |key: &str, value: &str| object.insert(key.to_owned(), value.into());
        put("ts", &format!("{ts:.0}"));
        put("level", level_name(self.level));
        put("msg", self.text);
        if let Some(worker) = self.worker {
            put("agent", worker);
        }
        for (key, value) in self.all_fields() {
            put(key, value);
        }
        out.push_str(&serde_json::Value::Object(object).to_string());
        out.push('\n');
    }

    fn all_fields(&self) -> impl Iterator<Item = (&str, &str)> {
        let version = (self.level == Level::Debug).then_some(("agent_version", crate::version::VERSION));
        let command = self.command.map(|c| ("command", c));
        self.fields.iter().map(|(k, v)| (*k, v.as_str())).chain(command).chain(version)
    }
}

fn parse_level(text: &str) -> Option<Level> {
    Some(match text.to_ascii_lowercase().as_str() {
        "debug" => Level::Debug,
        "notice" => Level::Notice,
        "info" => Level::Info,
        "warn" | "warning" => Level::Warn,
        "error" => Level::Error,
        "fatal" => Level::Fatal,
        _ => return None,
    })
}

fn level_name(level: Level) -> &'static str {
    match level {
        Level::Debug => "DEBUG",
        Level::Notice => "NOTICE",
        Level::Info => "INFO",
        Level::Warn => "WARN",
        Level::Error => "ERROR",
        Level::Fatal => "FATAL",
    }
}

/// Of time and level, and of the message (commands §6).
fn level_colors(level: Level) -> (&'static str, &'static str) {
    match level {
        Level::Debug => ("38;5;251", "38;5;251"),
        Level::Notice => ("1;36", "0"),
        Level::Info => ("38;5;48", "0"),
        Level::Warn => ("33", "0"),
        Level::Error => ("31", "0"),
        Level::Fatal => ("31", "31"),
    }
}

/// Experiments that do something (start-flags §2.9).
pub(crate) const EXPERIMENTS: &[&str] = &["agent-api", "interpolation-prefers-runtime-env", "legacy-post-hook-order", "pty-raw", "zip-plugins"];

const PROMOTED: &[&str] = &[
    "descending-spawn-priority",
    "allow-artifact-path-traversal",
    "ansi-timestamps",
    "avoid-recursive-trap",
    "flock-file-locks",
    "git-mirrors",
    "inbuilt-status-page",
    "isolated-plugin-checkout",
    "job-api",
    "kubernetes-exec",
    "normalised-upload-paths",
    "override-zero-exit-on-cancel",
    "polyglot-hooks",
    "propagate-agent-config-vars",
    "resolve-commit-after-checkout",
    "use-zzglob",
];

/// What to say about experiments that are unknown or are experiments no longer.
pub(crate) fn experiment_warnings(names: &[String]) -> Vec<String> {
    names
        .iter()
        .filter(|n| !EXPERIMENTS.contains(&n.as_str()))
        .map(|n| match PROMOTED.contains(&n.as_str()) {
            true => format!("The experiment {n:?} is no longer one: what it did is the ordinary behavior, or was removed. Please stop naming it"),
            false => format!("Unknown experiment {n:?}"),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now() -> jiff::Zoned {
        "2026-11-24T17:05:09.5+02:00[+02:00]".parse().unwrap()
    }

    fn line<'a>(level: Level, fields: &'a [(&'static str, String)]) -> Line<'a> {
        Line { level, worker: Some("anna-1"), text: "Hello", fields, command: None }
    }

    #[test]
    fn a_text_line_has_local_time_level_worker_message_and_fields() {
        let fields = [("path", "/etc/x".to_owned())];
        let mut out = String::new();
        line(Level::Info, &fields).text(&now(), false, &mut out);
        assert_eq!(out, "2026-11-24 17:05:09 INFO   anna-1 Hello path=/etc/x\n");
    }

    #[test]
    fn a_hook_is_shown_as_prefix() {
        let fields = [("hook", "agent-startup".to_owned())];
        let mut out = String::new();
        Line { worker: None, ..line(Level::Info, &fields) }.text(&now(), false, &mut out);
        assert_eq!(out, "2026-11-24 17:05:09 INFO   agent-startup Hello\n");
    }

    #[test]
    fn the_sign_of_a_hooks_prompt_is_grey_unless_there_are_no_colours() {
        let fields = [("hook", "agent-startup".to_owned())];
        let prompt = Line { worker: None, text: "$ /h/agent-startup", ..line(Level::Info, &fields) };
        let mut out = String::new();
        prompt.text(&now(), true, &mut out);
        assert!(out.ends_with(" agent-startup \x1b[0m\x1b[90m$\x1b[0m /h/agent-startup\x1b[0m\n"), "{out:?}");
        out.clear();
        prompt.text(&now(), false, &mut out);
        assert!(out.ends_with(" agent-startup $ /h/agent-startup\n"), "{out:?}");
    }

    #[test]
    fn colours_wrap_time_and_message() {
        let mut out = String::new();
        Line { worker: None, ..line(Level::Notice, &[]) }.text(&now(), true, &mut out);
        assert_eq!(out, "\x1b[1;36m2026-11-24 17:05:09 NOTICE\x1b[0m \x1b[0mHello\x1b[0m\n");
    }

    #[test]
    fn a_json_line_has_its_keys_in_order() {
        let fields = [("path", "/etc/x".to_owned())];
        let mut out = String::new();
        line(Level::Debug, &fields).json(&now(), &mut out);
        let version = crate::version::VERSION;
        assert_eq!(
            out,
            format!(
                "{{\"ts\":\"2026-11-24T17:05:09+02:00\",\"level\":\"DEBUG\",\"msg\":\"Hello\",\"agent\":\"anna-1\",\"path\":\"/etc/x\",\"agent_version\":\"{version}\"}}\n"
            )
        );
    }

    #[test]
    fn notice_is_below_info_and_errors_are_always_shown() {
        let logger = |level| Logger { level, format: Format::Json, command: None, zone: jiff::tz::TimeZone::UTC, buffer: RefCell::default() };
        assert!(logger(Level::Notice).enabled(Level::Info));
        assert!(!logger(Level::Info).enabled(Level::Notice));
        assert!(logger(Level::Fatal).enabled(Level::Error));
        assert!(!logger(Level::Fatal).enabled(Level::Warn));
    }

    #[test]
    fn level_names_are_taken_in_any_case() {
        assert_eq!(parse_level("Warning"), Some(Level::Warn));
        assert_eq!(parse_level("verbose"), None);
    }
}
