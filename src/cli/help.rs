//! Help texts (commands §4), drawn from the command and flag tables.

use super::{Command, Group, Leaf, NAME, Section};
use crate::flags::{Flag, Kind};
use std::fmt::Write;

/// Root help.
pub(super) fn root(commands: &'static [Command]) -> String {
    let mut out = format!("Usage:\n  {NAME} <command> [options...]\n\nA Buildkite-compatible agent. `ibex` and `{NAME}` are the same program.\n");
    for (section, title) in [
        (Section::Main, "Available commands are:"),
        (Section::Job, "Commands that can be run within a Buildkite job:"),
        (Section::Internal, "Internal commands, not intended to be run by users:"),
    ] {
        let mut lines: Vec<(&str, &str)> = commands
            .iter()
            .filter_map(|c| match c {
                Command::Leaf(l) if l.section == section => Some((l.path, l.about)),
                Command::Group(g) if g.leaves.first().is_some_and(|l| l.section == section) => Some((g.name, g.about)),
                _ => None,
            })
            .collect();
        if section == Section::Main {
            lines.push(("help, h", "Shows a list of commands or help for one command"));
        }
        if !lines.is_empty() {
            let _ = write!(out, "\n{title}\n\n{}", columns(&lines));
        }
    }
    let _ = writeln!(out, "\nUse \"{NAME} <command> --help\" for more information about a command.");
    out
}

/// The commands of a group.
pub(super) fn group(group: &'static Group) -> String {
    let lines: Vec<(&str, &str)> = group.leaves.iter().map(|l| (l.path.split_once(' ').map_or(l.path, |(_, w)| w), l.about)).collect();
    format!(
        "{}\n\nUsage:\n\n    {NAME} {} <command> [options...]\n\nAvailable commands are:\n\n{}\nUse \"{NAME} {} <command> --help\" for more information about a command.\n",
        group.about,
        group.name,
        columns(&lines),
        group.name
    )
}

/// One command with its flags.
pub(super) fn leaf(leaf: &'static Leaf) -> String {
    let mut out = format!("Usage:\n\n    {NAME} {} {}\n\nDescription:\n\n", leaf.path, leaf.usage);
    for line in leaf.description.lines() {
        let _ = if line.is_empty() { writeln!(out) } else { writeln!(out, "    {line}") };
    }
    let _ = write!(out, "\nOptions:\n\n");
    let rows: Vec<(String, String)> = leaf.flags.iter().copied().flatten().filter(|f| !f.hidden).map(|f| (left(f), right(f))).collect();
    let lines: Vec<(&str, &str)> = rows.iter().map(|(a, b)| (a.as_str(), b.as_str())).collect();
    out.push_str(&columns(&lines));
    let _ = writeln!(out, "  --help, -h   show this help");
    out
}

fn left(f: &Flag) -> String {
    match f.kind {
        Kind::Bool => format!("--{}", f.name),
        kind => format!("--{} {}", f.name, kind.placeholder()),
    }
}

fn right(f: &Flag) -> String {
    let mut out = f.doc.to_owned();
    let default = f.default_text();
    if !default.is_empty() {
        let _ = write!(out, " (default: {default})");
    }
    if !f.env.is_empty() {
        let names: Vec<String> = f.env.iter().map(|e| format!("${e}")).collect();
        let _ = write!(out, " [{}]", names.join(", "));
    }
    out
}

fn columns(lines: &[(&str, &str)]) -> String {
    // Very long names do not push every other line to the right.
    let width = lines.iter().map(|(a, _)| a.len()).filter(|n| *n <= 40).max().unwrap_or(0);
    let mut out = String::new();
    for (a, b) in lines {
        let _ = writeln!(out, "  {a:width$}   {b}");
    }
    out
}
