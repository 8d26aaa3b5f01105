//! What the job log looks like: line forms, quoting, prompts (specification: bootstrap §4).

use serde::{Deserialize, Serialize};

/// Forms of a line that the executor itself writes (bootstrap §4.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum LineKind {
    /// The text alone.
    Plain,
    /// A collapsed group of the log viewer.
    Header,
    /// Grey, after `#`.
    Comment,
    /// After a grey `$`: something that is about to be run.
    Prompt,
    /// Red; expands the group it stands in.
    Error,
    /// Yellow; expands the group it stands in.
    Warning,
}

/// The bytes of one line, LF included. Colours are always emitted.
pub fn render(kind: LineKind, text: &str) -> String {
    match kind {
        LineKind::Plain => format!("{text}\n"),
        LineKind::Header => format!("~~~ {text}\n"),
        LineKind::Comment => format!("\x1b[90m# {text}\x1b[0m\n"),
        LineKind::Prompt => format!("\x1b[90m$\x1b[0m {text}\n"),
        LineKind::Error => format!("\x1b[31m🚨 Error: {text}\x1b[0m\n^^^ +++\n"),
        LineKind::Warning => format!("\x1b[33m⚠️ Warning: {text}\x1b[0m\n^^^ +++\n"),
    }
}

/// `%q`: in double quotes with backslash escapes (bootstrap, conventions; job-runner §3.7).
pub fn quote(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    for c in text.chars() {
        match c {
            '"' => quoted.push_str("\\\""),
            '\\' => quoted.push_str("\\\\"),
            '\x07' => quoted.push_str("\\a"),
            '\x08' => quoted.push_str("\\b"),
            '\x0c' => quoted.push_str("\\f"),
            '\n' => quoted.push_str("\\n"),
            '\r' => quoted.push_str("\\r"),
            '\t' => quoted.push_str("\\t"),
            '\x0b' => quoted.push_str("\\v"),
            c if (c as u32) < 0x20 || c as u32 == 0x7f => quoted.push_str(&format!("\\x{:02x}", c as u32)),
            c if c != ' ' && (c.is_control() || c.is_whitespace()) => quoted.push_str(&format!("\\u{:04x}", c as u32)),
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

/// Longest argument shown whole in a prompt, in bytes, when it has to be quoted.
const PROMPT_ARGUMENT_BYTES: usize = 120;

/// A command as the prompt shows it: program as given, arguments separated by spaces, those with spaces or newlines quoted.
pub(super) fn prompt(argv: &[String]) -> String {
    let mut shown = argv.first().cloned().unwrap_or_default();
    for argument in argv.iter().skip(1) {
        shown.push(' ');
        if argument.contains([' ', '\n']) {
            shown.push_str(&quote(&cut(argument)));
        } else {
            shown.push_str(argument);
        }
    }
    shown
}

fn cut(argument: &str) -> String {
    if argument.len() <= PROMPT_ARGUMENT_BYTES {
        return argument.to_owned();
    }
    let mut end = PROMPT_ARGUMENT_BYTES;
    while !argument.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}...", &argument[..end])
}

/// A path as the `cd` prompt shows it: shell specials escaped, in double quotes when it has white space.
pub(super) fn shell_path(path: &str) -> String {
    let spaced = path.contains(char::is_whitespace);
    let mut shown = String::with_capacity(path.len());
    for c in path.chars() {
        let special = if spaced { matches!(c, '"' | '\\' | '$' | '`') } else { "\"'\\$`!&;|<>()*?[]{}#~".contains(c) };
        if special {
            shown.push('\\');
        }
        shown.push(c);
    }
    if spaced { format!("\"{shown}\"") } else { shown }
}

/// `path` relative to `base` when it lies below it.
pub(super) fn relative_below<'a>(path: &'a str, base: &str) -> Option<&'a str> {
    let rest = path.strip_prefix(base.trim_end_matches('/'))?.strip_prefix('/')?;
    (!rest.is_empty()).then_some(rest)
}

/// The lexically cleaned form of an absolute path: no `.`, no `..`, no doubled slashes.
pub(super) fn clean_path(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    format!("/{}", parts.join("/"))
}

/// A word that a POSIX shell reads back as exactly `text`.
pub(super) fn single_quote(text: &str) -> String {
    format!("'{}'", text.replace('\'', "'\\''"))
}

/// How a death by signal reads in an error: `signal: terminated`.
pub(super) fn signal_text(number: i32) -> String {
    const NAMES: [&str; 15] = [
        "hangup",
        "interrupt",
        "quit",
        "illegal instruction",
        "trace/breakpoint trap",
        "aborted",
        "bus error",
        "floating point exception",
        "killed",
        "user defined signal 1",
        "segmentation fault",
        "user defined signal 2",
        "broken pipe",
        "alarm clock",
        "terminated",
    ];
    match usize::try_from(number - 1).ok().and_then(|i| NAMES.get(i)) {
        Some(name) => format!("signal: {name}"),
        None => format!("signal: signal {number}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_form_is_exact_to_the_byte() {
        assert_eq!(render(LineKind::Plain, "a"), "a\n");
        assert_eq!(render(LineKind::Header, "Running commands"), "~~~ Running commands\n");
        assert_eq!(render(LineKind::Comment, "c"), "\x1b[90m# c\x1b[0m\n");
        assert_eq!(render(LineKind::Prompt, "echo"), "\x1b[90m$\x1b[0m echo\n");
        assert_eq!(render(LineKind::Error, "e").as_bytes(), b"\x1b[31m\xf0\x9f\x9a\xa8 Error: e\x1b[0m\n^^^ +++\n");
        assert_eq!(render(LineKind::Warning, "w").as_bytes(), b"\x1b[33m\xe2\x9a\xa0\xef\xb8\x8f Warning: w\x1b[0m\n^^^ +++\n");
    }

    #[test]
    fn quoting_escapes_what_would_not_be_seen() {
        assert_eq!(quote("a\nb"), r#""a\nb""#);
        assert_eq!(quote("\"\\\x01\u{a0}é"), r#""\"\\\x01\u00a0é""#);
    }

    #[test]
    fn a_prompt_quotes_and_cuts_arguments_with_spaces() {
        let long = format!("a {}", "b".repeat(200));
        let argv = vec!["git".to_owned(), "log".to_owned(), "a b".to_owned(), long];
        let shown = prompt(&argv);
        assert!(shown.starts_with(r#"git log "a b" "a bbb"#), "{shown}");
        assert!(shown.ends_with(r#"bbb...""#), "{shown}");
    }

    #[test]
    fn a_cd_prompt_escapes_specials_and_quotes_white_space() {
        assert_eq!(shell_path("/tmp/x"), "/tmp/x");
        assert_eq!(shell_path("/tmp/a b$"), "\"/tmp/a b\\$\"");
        assert_eq!(shell_path("/tmp/$x"), "/tmp/\\$x");
    }

    #[test]
    fn paths_are_cleaned_by_their_text_alone() {
        assert_eq!(clean_path("/a/./b//../c/"), "/a/c");
        assert_eq!(clean_path("/../.."), "/");
        assert_eq!(relative_below("/a/b/c", "/a/b"), Some("c"));
        assert_eq!(relative_below("/a/bc", "/a/b"), None);
        assert_eq!(relative_below("/a/b", "/a/b"), None);
    }

    #[test]
    fn a_single_quoted_word_survives_the_shell() {
        assert_eq!(single_quote("a'b$`"), r"'a'\''b$`'");
    }
}
