//! The exact text of the env files (job-runner §3.7).

use super::env;
use crate::job::envfile::{FORWARDED, json_file, quote, shell_file};

fn quoted(value: &str) -> String {
    let mut text = String::new();
    quote(value, &mut text);
    text
}

#[test]
fn trap_6_the_shell_file_starts_with_31_bare_names_and_then_has_the_variables_sorted() {
    let text = shell_file(&env(&[("B", "2"), ("A", "1"), ("BUILDKITE_GIT_REMOTE_MIRROR_URL", "")]));
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines[..31], FORWARDED);
    assert_eq!(lines[31..], ["A=\"1\"", "B=\"2\"", "BUILDKITE_GIT_REMOTE_MIRROR_URL=\"\""]);
    assert!(text.ends_with("\"\"\n") && !text.contains('\r'));
    assert_eq!((FORWARDED[0], FORWARDED[30]), ("BUILDKITE_GIT_CHECKOUT_FLAGS", "BUILDKITE_AGENT_JWKS_KEY_ID"));
}

#[test]
fn values_are_quoted_by_the_table() {
    for (value, expected) in [
        ("plain $HOME `x` 'y'", r#""plain $HOME `x` 'y'""#),
        ("say \"hi\" \\", r#""say \"hi\" \\""#),
        ("\x07\x08\x0c\n\r\t\x0b", r#""\a\b\f\n\r\t\v""#),
        ("\0\x1b\x1f\x7f", r#""\x00\x1b\x1f\x7f""#),
        ("grün 日本 🦙 é", "\"grün 日本 🦙 é\""),
        // Spaces other than U+0020, format characters, line separators, private use.
        ("\u{a0}\u{2003}\u{3000}", r#""\u00a0\u2003\u3000""#),
        ("\u{ad}\u{200b}\u{200d}\u{2028}\u{feff}\u{85}", r#""\u00ad\u200b\u200d\u2028\ufeff\u0085""#),
        ("\u{e000}\u{10ffff}\u{e0001}", r#""\ue000\U0010ffff\U000e0001""#),
        // Combining marks and letters that extend the one before are printable.
        ("e\u{301}\u{9be}\u{ff9e}", "\"e\u{301}\u{9be}\u{ff9e}\""),
    ] {
        assert_eq!(quoted(value), expected);
    }
}

#[test]
fn the_json_file_is_one_sorted_object_with_one_trailing_line_feed() {
    let text = json_file(&env(&[("B", "2\n\"<"), ("A", "1")]));
    assert!(text.ends_with("}\n") && !text.ends_with("\n\n"));
    assert!(text.find("\"A\"").unwrap() < text.find("\"B\"").unwrap());
    let parsed: std::collections::BTreeMap<String, String> = serde_json::from_str(&text).unwrap();
    assert_eq!(parsed["B"], "2\n\"<");
}
