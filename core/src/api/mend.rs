//! JSON whose strings are not quite text: the reference agent reads what is no Unicode as U+FFFD, and so a job whose commit message
//! was cut in the middle of a character still runs.

use std::borrow::Cow;

/// `json` with U+FFFD for bytes that are not UTF-8 and for escapes of half a surrogate pair. Everything else stays as it is.
pub(super) fn mended(json: &[u8]) -> Cow<'_, str> {
    let text = String::from_utf8_lossy(json);
    if has_surrogates(&text) { Cow::Owned(without_lone_surrogates(&text)) } else { text }
}

fn has_surrogates(text: &str) -> bool {
    text.contains("\\ud") || text.contains("\\uD")
}

fn without_lone_surrogates(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('\\') {
        out.push_str(&rest[..at]);
        rest = &rest[at..];
        let taken = match (escape(rest), rest.get(6..).and_then(escape)) {
            (Some(0xd800..=0xdbff), Some(0xdc00..=0xdfff)) => 12,
            (Some(0xd800..=0xdfff), _) => {
                out.push_str("\\ufffd");
                rest = &rest[6..];
                continue;
            }
            (Some(_), _) => 6,
            // The backslash and whatever it escapes: a backslash, perhaps.
            (None, _) => 1 + rest[1..].chars().next().map_or(0, char::len_utf8),
        };
        out.push_str(&rest[..taken]);
        rest = &rest[taken..];
    }
    out + rest
}

/// The number of a `\uXXXX` at the start of `text`.
fn escape(text: &str) -> Option<u32> {
    let digits = text.strip_prefix("\\u")?.get(..4)?;
    if digits.bytes().all(|b| b.is_ascii_hexdigit()) { u32::from_str_radix(digits, 16).ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_unicode_is_replaced_and_everything_else_stays() {
        for (json, want) in [
            (r#"{"a":"\ud83d\ude00 \u00e9 \n"}"#, r#"{"a":"\ud83d\ude00 \u00e9 \n"}"#),
            (r#"{"a":"cut \ud83d"}"#, r#"{"a":"cut \ufffd"}"#),
            (r#"{"a":"\uDE00\uD83D\uD83D\uDE00"}"#, r#"{"a":"\ufffd\ufffd\uD83D\uDE00"}"#),
            // An escaped backslash is no beginning of an escape.
            (r#"{"a":"\\ud83d"}"#, r#"{"a":"\\ud83d"}"#),
            (r#"{"a":"\ud83d\\ude00"}"#, r#"{"a":"\ufffd\\ude00"}"#),
            (r#"{"a":"\ud8"#, r#"{"a":"\ud8"#),
            ("\\ud83d\\", "\\ufffd\\"),
            ("\\é\\ud83dé", "\\é\\ufffdé"),
        ] {
            assert_eq!(mended(json.as_bytes()), want, "{json}");
        }
        assert_eq!(mended(b"{\"a\":\"\xff\xc3\"}"), "{\"a\":\"\u{fffd}\u{fffd}\"}");
        assert!(matches!(mended("{\"a\":\"é\"}".as_bytes()), Cow::Borrowed(_)), "costs nothing");
    }
}
