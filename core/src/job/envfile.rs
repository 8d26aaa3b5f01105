//! The exact text of both env files (job-runner §3.7). This is not shell quoting, and consumers must not source the file.

use crate::api::JobEnv;
use std::fmt::Write as _;

/// Names written bare at the head of the shell-format file, so that `docker --env-file` forwards them.
pub const FORWARDED: [&str; 31] = [
    "BUILDKITE_GIT_CHECKOUT_FLAGS",
    "BUILDKITE_ARTIFACT_UPLOAD_CONCURRENCY",
    "BUILDKITE_GIT_CLEAN_FLAGS",
    "BUILDKITE_GIT_CLONE_FLAGS",
    "BUILDKITE_GIT_CLONE_MIRROR_FLAGS",
    "BUILDKITE_GIT_MIRROR_CHECKOUT_MODE",
    "BUILDKITE_GIT_FETCH_FLAGS",
    "BUILDKITE_GIT_MIRRORS_LOCK_TIMEOUT",
    "BUILDKITE_GIT_MIRRORS_PATH",
    "BUILDKITE_GIT_MIRRORS_SKIP_UPDATE",
    "BUILDKITE_GIT_SUBMODULES",
    "BUILDKITE_GIT_SUBMODULE_CLONE_CONFIG",
    "BUILDKITE_CHECKOUT_OVERRIDE_MODE",
    "BUILDKITE_CANCEL_SIGNAL_TIMEOUT",
    "BUILDKITE_CANCEL_CLEANUP_TIMEOUT",
    "BUILDKITE_COMMAND_EVAL",
    "BUILDKITE_LOCAL_HOOKS_ENABLED",
    "BUILDKITE_PLUGINS_ENABLED",
    "BUILDKITE_REDACTED_VARS",
    "BUILDKITE_SHELL",
    "BUILDKITE_HOOKS_SHELL",
    "BUILDKITE_SSH_KEYSCAN",
    "BUILDKITE_STRICT_SINGLE_HOOKS",
    "BUILDKITE_OPENTELEMETRY_TRACING",
    "BUILDKITE_TELEMETRY_SERVICE_NAME",
    "BUILDKITE_TRACING_TRACEPARENT",
    "BUILDKITE_TRACING_TRACESTATE",
    "BUILDKITE_AGENT_AWS_KMS_KEY",
    "BUILDKITE_AGENT_GCP_KMS_KEY",
    "BUILDKITE_AGENT_JWKS_FILE",
    "BUILDKITE_AGENT_JWKS_KEY_ID",
];

/// The shell-format file: the bare names, then `NAME="value"` per variable, sorted by name.
pub fn shell_file(env: &JobEnv) -> String {
    let mut text = String::new();
    for name in FORWARDED {
        text.push_str(name);
        text.push('\n');
    }
    for (name, value) in env.0.iter() {
        text.push_str(name);
        text.push('=');
        quote(value, &mut text);
        text.push('\n');
    }
    text
}

/// The JSON file: one object of string to string, keys sorted, one trailing LF.
pub fn json_file(env: &JobEnv) -> String {
    let object = env.0.iter().map(|(name, value)| (name.clone(), serde_json::Value::from(value.as_str()))).collect();
    format!("{}\n", serde_json::Value::Object(object))
}

/// Appends `value` in double quotes, with the escapes of job-runner §3.7.
pub fn quote(value: &str, text: &mut String) {
    text.push('"');
    for c in value.chars() {
        match c {
            '"' => text.push_str("\\\""),
            '\\' => text.push_str("\\\\"),
            '\x07' => text.push_str("\\a"),
            '\x08' => text.push_str("\\b"),
            '\x0c' => text.push_str("\\f"),
            '\n' => text.push_str("\\n"),
            '\r' => text.push_str("\\r"),
            '\t' => text.push_str("\\t"),
            '\x0b' => text.push_str("\\v"),
            ' '..='~' => text.push(c),
            '\0'..='\x1f' | '\x7f' => escape(text, 'x', 2, c),
            c if printable(c) => text.push(c),
            c if u32::from(c) < 0x1_0000 => escape(text, 'u', 4, c),
            c => escape(text, 'U', 8, c),
        }
    }
    text.push('"');
}

fn escape(text: &mut String, letter: char, width: usize, c: char) {
    let _ = write!(text, "\\{letter}{:0width$x}", u32::from(c));
}

/// Whether a non-ASCII character is printable: a letter, mark, number, punctuation or symbol. White space other than U+0020,
/// controls, format characters, surrogates, private use and unassigned code points are not.
fn printable(c: char) -> bool {
    // The standard library's table answers for everything but grapheme extenders, which it escapes although they are marks.
    let mut escaped = c.escape_debug();
    escaped.next() == Some(c) || EXTENDER.is_match(c.encode_utf8(&mut [0; 4]))
}

static EXTENDER: std::sync::LazyLock<regex::Regex> =
    std::sync::LazyLock::new(|| regex::Regex::new(r"^[\p{M}\p{L}\p{S}]$").expect("the pattern is constant and valid"));
