//! From the arguments to a command's function and from its result to an exit code (specification: commands §2, §4, §5).

mod failure;
mod help;

pub(crate) use failure::{Failure, NAME};

use crate::flags::{self, Flag, ParseError, Parsed, Values};
use std::io::Write;
use std::process::ExitCode;

/// A command or a group of commands.
pub(crate) enum Command {
    /// `ibex start`
    Leaf(&'static Leaf),
    /// `ibex meta-data …`
    Group(&'static Group),
}

/// Commands below one word.
pub(crate) struct Group {
    /// The word.
    pub(crate) name: &'static str,
    /// One line for the help.
    pub(crate) about: &'static str,
    /// What is below.
    pub(crate) leaves: &'static [&'static Leaf],
}

/// Where the root help lists a command (commands §4).
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Section {
    /// First.
    Main,
    /// `Commands that can be run within a Buildkite job`.
    Job,
    /// `Internal commands, not intended to be run by users`.
    Internal,
}

/// A command that does something.
pub(crate) struct Leaf {
    /// Words after the program's name, e.g. `meta-data get`.
    pub(crate) path: &'static str,
    /// Where the root help lists it (of a group: where the group is listed).
    pub(crate) section: Section,
    /// One line for lists of commands.
    pub(crate) about: &'static str,
    /// Arguments as the usage line shows them, e.g. `<key> [options...]`.
    pub(crate) usage: &'static str,
    /// What it does, for its own help.
    pub(crate) description: &'static str,
    /// Its flags, in tables that commands share.
    pub(crate) flags: &'static [&'static [Flag]],
    /// How it is run.
    pub(crate) run: Run,
}

/// How a command is run. The result is the exit code.
#[derive(Clone, Copy)]
pub(crate) enum Run {
    /// Flags are parsed and resolved from command line, environment and defaults first; required ones are there.
    Resolved(fn(&Invocation) -> Result<u8, Failure>),
    /// Flags are parsed; the command resolves them itself (it reads a configuration file).
    Parsed(fn(&'static Leaf, Parsed) -> Result<u8, Failure>),
    /// The command reads its arguments itself.
    Raw(fn(&[String]) -> Result<u8, Failure>),
}

/// A command as it was called.
pub(crate) struct Invocation {
    /// Which command.
    pub(crate) leaf: &'static Leaf,
    /// Its flags' values.
    pub(crate) values: Values,
    /// Its arguments.
    pub(crate) positionals: Vec<String>,
}

impl Invocation {
    /// The argument at `index`, or the error about a missing required value called `label` (commands §5).
    pub(crate) fn required_argument(&self, index: usize, label: &str) -> Result<&str, Failure> {
        match self.positionals.get(index) {
            Some(s) if !s.is_empty() => Ok(s),
            _ => Err(Failure::missing(label, self.leaf.path)),
        }
    }
}

/// Runs the program.
pub(crate) fn main(commands: &'static [Command]) -> ExitCode {
    let args: Vec<String> = std::env::args_os().skip(1).map(|a| a.to_string_lossy().into_owned()).collect();
    let code = match dispatch(commands, &args) {
        Ok(code) => code,
        Err(failure) => failure.print(),
    };
    ExitCode::from(code)
}

fn dispatch(commands: &'static [Command], args: &[String]) -> Result<u8, Failure> {
    let Some(first) = args.first() else { return print(&help::root(commands)) };
    match first.as_str() {
        "--version" | "-v" | "-version" => return print(&format!("{NAME} version {}\n", crate::version::full())),
        "help" | "h" if args.len() > 1 => return topic(commands, &args[1..]),
        "help" | "h" | "--help" | "-h" | "-help" => return print(&help::root(commands)),
        _ => {}
    }
    let rest = &args[1..];
    let found = commands.iter().find(|c| match c {
        Command::Leaf(l) => l.path == first,
        Command::Group(g) => g.name == first,
    });
    match found {
        Some(Command::Leaf(leaf)) => run(leaf, rest),
        Some(Command::Group(group)) => {
            let Some(second) = rest.first() else { return print(&help::group(group)) };
            match second.as_str() {
                "help" | "h" => match rest.get(1) {
                    Some(word) => print(&help::leaf(below(group, word)?)),
                    None => print(&help::group(group)),
                },
                "--help" | "-h" | "-help" => print(&help::group(group)),
                word => run(below(group, word)?, &rest[1..]),
            }
        }
        None if first.starts_with('-') => {
            let text = format!("flag provided but not defined: -{}", first.trim_start_matches('-'));
            let _ = write!(std::io::stderr(), "Incorrect Usage: {text}\n\n{}", help::root(commands));
            Err(Failure::Fatal(text))
        }
        None => Err(Failure::Plain(format!("{NAME}: unknown subcommand {first:?}\nRun '{NAME} --help' for usage.\n"), 1)),
    }
}

fn below(group: &'static Group, word: &str) -> Result<&'static Leaf, Failure> {
    let found = group.leaves.iter().find(|l| l.path.split_once(' ').is_some_and(|(_, w)| w == word));
    found.copied().ok_or_else(|| Failure::Plain(format!("No help topic for '{word}'\n"), 3))
}

/// `help <command> [<subcommand>]`.
fn topic(commands: &'static [Command], words: &[String]) -> Result<u8, Failure> {
    for command in commands {
        match command {
            Command::Leaf(l) if l.path == words[0] => return print(&help::leaf(l)),
            Command::Group(g) if g.name == words[0] => {
                return match words.get(1) {
                    Some(word) => print(&help::leaf(below(g, word)?)),
                    None => print(&help::group(g)),
                };
            }
            _ => {}
        }
    }
    Err(Failure::Plain(format!("No help topic for '{}'\n", words[0]), 3))
}

fn run(leaf: &'static Leaf, args: &[String]) -> Result<u8, Failure> {
    if let Run::Raw(f) = leaf.run {
        return f(args);
    }
    let parsed = match flags::parse(leaf.flags, args) {
        Ok(parsed) => parsed,
        Err(ParseError::Help) => return print(&help::leaf(leaf)),
        Err(ParseError::Usage(text)) => return Err(usage_error(leaf, text)),
    };
    match leaf.run {
        Run::Parsed(f) => f(leaf, parsed),
        Run::Resolved(f) => {
            let values = Values::resolve(leaf.flags, &parsed, &flags::process_env, None).map_err(Failure::Fatal)?.values;
            values.check_required(leaf.flags, leaf.path)?;
            f(&Invocation { leaf, values, positionals: parsed.positionals })
        }
        Run::Raw(f) => f(args),
    }
}

/// `Incorrect Usage` and the help; on stderr for `start` (start-flags §1), help on stdout elsewhere (commands §5).
pub(crate) fn usage_error(leaf: &'static Leaf, text: String) -> Failure {
    let _ = write!(std::io::stderr(), "Incorrect Usage: {text}\n\n");
    if leaf.path == "start" {
        let _ = write!(std::io::stderr(), "{}", help::leaf(leaf));
    } else {
        let _ = print(&help::leaf(leaf));
    }
    Failure::Fatal(text)
}

/// Writes a command's payload to stdout. A closed pipe is no error: whoever read the help has seen enough.
pub(crate) fn print(text: &str) -> Result<u8, Failure> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(e) if e.kind() != std::io::ErrorKind::BrokenPipe => Err(Failure::Fatal(format!("could not write to stdout: {e}"))),
        _ => Ok(0),
    }
}
