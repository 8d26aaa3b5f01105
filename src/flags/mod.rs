//! Flags: one table per command from which parser, environment and file layers, help and documents are made
//! (specification: start-flags §1, commands §2).

mod common;
mod config_file;
mod parse;
mod scalar;
mod values;

pub(crate) use common::{API, API_OPTIONAL_TOKEN, API_WITHOUT_DUMPS, DEFAULT_ENDPOINT, DEFAULT_REDACTED, GLOBAL, JOB, REDACTION};
pub(crate) use config_file::{ConfigFile, clean, expand_path, find_config_file, os_text};
pub(crate) use parse::{ParseError, Parsed, parse};
pub(crate) use scalar::GoDuration;
pub(crate) use values::{Source, Value, Values};

/// Type of a flag's value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A string.
    Text,
    /// `1 t T TRUE true True 0 f F FALSE false False`; alone it means true.
    Bool,
    /// Decimal, or with a base prefix; underscores allowed.
    Int,
    /// Go's grammar: `1h30m`, `500ms`.
    Duration,
    /// Comma-separated; repeated flags accumulate.
    List,
}

impl Kind {
    /// What the help shows for the value.
    pub(crate) fn placeholder(self) -> &'static str {
        match self {
            Kind::Text | Kind::List => "string",
            Kind::Bool => "",
            Kind::Int => "int",
            Kind::Duration => "duration",
        }
    }

    /// As error messages call it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Kind::Text => "string",
            Kind::Bool => "bool",
            Kind::Int => "int64",
            Kind::Duration => "time.Duration",
            Kind::List => "[]string",
        }
    }
}

/// What is done to a value once it is known (start-flags §1.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Normal {
    /// Nothing.
    AsIs,
    /// Variables and `~` expanded, then made absolute.
    Path,
    /// Expanded; made absolute only if a file of that whole name exists.
    Command,
    /// Every element of the list split again at commas, trimmed, empty ones dropped.
    Commas,
}

/// One flag.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Flag {
    /// Name without dashes; also the key of the configuration file.
    pub(crate) name: &'static str,
    /// Environment variables; the first that is set counts.
    pub(crate) env: &'static [&'static str],
    /// Type.
    pub(crate) kind: Kind,
    /// Default, written as on the command line; computed ones are empty here.
    pub(crate) default: &'static str,
    /// What happens to the value.
    pub(crate) normal: Normal,
    /// Help.
    pub(crate) doc: &'static str,
    /// Not shown in the help.
    pub(crate) hidden: bool,
    /// Must not be empty.
    pub(crate) required: bool,
}

/// A flag without default.
pub(crate) const fn flag(name: &'static str, kind: Kind, env: &'static [&'static str], doc: &'static str) -> Flag {
    Flag { name, env, kind, default: "", normal: Normal::AsIs, doc, hidden: false, required: false }
}

impl Flag {
    /// With this default.
    pub(crate) const fn or(mut self, default: &'static str) -> Flag {
        self.default = default;
        self
    }

    /// A path (start-flags §1.3).
    pub(crate) const fn path(mut self) -> Flag {
        self.normal = Normal::Path;
        self
    }

    /// A command (start-flags §1.3).
    pub(crate) const fn command(mut self) -> Flag {
        self.normal = Normal::Command;
        self
    }

    /// A list whose elements are trimmed and whose empty elements are dropped.
    pub(crate) const fn commas(mut self) -> Flag {
        self.normal = Normal::Commas;
        self
    }

    /// Not in the help.
    pub(crate) const fn hidden(mut self) -> Flag {
        self.hidden = true;
        self
    }

    /// Must not be empty.
    pub(crate) const fn required(mut self) -> Flag {
        self.required = true;
        self
    }

    /// The default as the help shows it.
    pub(crate) fn default_text(&self) -> &'static str {
        self.default
    }
}

/// A variable of the process's environment.
pub(crate) fn process_env(name: &str) -> Option<String> {
    std::env::var_os(name).map(|v| v.to_string_lossy().into_owned())
}
