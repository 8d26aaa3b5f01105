//! Booleans, integers and durations as users of the reference agent write them (start-flags §1, commands §2).

use std::time::Duration;

/// A signed duration in nanoseconds, in Go's grammar.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct GoDuration(pub(crate) i64);

impl GoDuration {
    /// The duration, if it is not negative.
    pub(crate) fn positive(self) -> Option<Duration> {
        u64::try_from(self.0).ok().map(Duration::from_nanos)
    }

    /// A signed sequence of decimal numbers with unit; a bare number is an error except `0`.
    pub(crate) fn parse(text: &str) -> Result<GoDuration, String> {
        let bad = |why: &str| format!("{why} in duration {text:?} (examples: 10s, 1m30s, 500ms)");
        let (negative, mut rest) = match text.as_bytes().first() {
            Some(b'-') => (true, &text[1..]),
            Some(b'+') => (false, &text[1..]),
            _ => (false, text),
        };
        if rest == "0" {
            return Ok(GoDuration(0));
        }
        if rest.is_empty() {
            return Err(bad("no number"));
        }
        let mut exact: i128 = 0;
        while !rest.is_empty() {
            let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
            let (number, tail) = rest.split_at(end);
            if !number.bytes().any(|b| b.is_ascii_digit()) || number.matches('.').count() > 1 {
                return Err(bad("invalid number"));
            }
            let end = tail.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(tail.len());
            let (unit, tail) = tail.split_at(end);
            let nanos: i128 = match unit {
                "ns" => 1,
                "us" | "µs" | "μs" => 1_000,
                "ms" => 1_000_000,
                "s" => 1_000_000_000,
                "m" => 60_000_000_000,
                "h" => 3_600_000_000_000,
                "" => return Err(bad("missing unit")),
                _ => return Err(bad("unknown unit")),
            };
            let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
            let whole: i128 = if whole.is_empty() { 0 } else { whole.parse().map_err(|_| bad("number too large"))? };
            // A fraction of more than 18 digits cannot change a nanosecond.
            let digits = &fraction[..fraction.len().min(18)];
            let fraction: i128 = if digits.is_empty() { 0 } else { digits.parse().map_err(|_| bad("invalid number"))? };
            let scale = 10_i128.pow(u32::try_from(digits.len()).unwrap_or(0));
            let part = whole.checked_mul(nanos).and_then(|n| n.checked_add(fraction * nanos / scale));
            exact = part.and_then(|p| exact.checked_add(p)).ok_or_else(|| bad("number too large"))?;
            rest = tail;
        }
        let exact = if negative { -exact } else { exact };
        i64::try_from(exact).map(GoDuration).map_err(|_| bad("number too large"))
    }
}

/// The words that mean true and false.
pub(crate) fn parse_bool(text: &str) -> Result<bool, String> {
    match text {
        "1" | "t" | "T" | "TRUE" | "true" | "True" => Ok(true),
        "0" | "f" | "F" | "FALSE" | "false" | "False" => Ok(false),
        _ => Err(format!("{text:?} is neither true nor false (use true, false, 1 or 0)")),
    }
}

/// Integers with base prefixes and underscores: `0x10` = 16, `010` = 8, `1_0` = 10.
pub(crate) fn parse_int(text: &str) -> Result<i64, String> {
    let bad = || format!("{text:?} is not a whole number");
    let (negative, digits) = match text.as_bytes().first() {
        Some(b'-') => (true, &text[1..]),
        Some(b'+') => (false, &text[1..]),
        _ => (false, text),
    };
    let lower = digits.to_ascii_lowercase();
    let (radix, digits) = if let Some(d) = lower.strip_prefix("0x") {
        (16, d)
    } else if let Some(d) = lower.strip_prefix("0b") {
        (2, d)
    } else if let Some(d) = lower.strip_prefix("0o") {
        (8, d)
    } else if lower.len() > 1 && lower.starts_with('0') {
        (8, &lower[1..])
    } else {
        (10, lower.as_str())
    };
    // Underscores separate digits; they neither begin nor end a decimal number and never stand twice.
    if digits.ends_with('_') || digits.contains("__") || (radix == 10 && digits.starts_with('_')) {
        return Err(bad());
    }
    let digits: String = digits.chars().filter(|c| *c != '_').collect();
    if digits.is_empty() || digits.starts_with(['+', '-']) {
        return Err(bad());
    }
    let magnitude = i128::from_str_radix(&digits, radix).map_err(|_| bad())?;
    i64::try_from(if negative { -magnitude } else { magnitude }).map_err(|_| format!("{text:?} is out of range"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_follow_go() {
        const S: i64 = 1_000_000_000;
        for (text, nanos) in [
            ("0", 0),
            ("-0", 0),
            ("10s", 10 * S),
            ("1.5h", 5400 * S),
            ("2h45m", 9900 * S),
            ("300ms", 300_000_000),
            ("1m30s", 90 * S),
            ("-5s", -5 * S),
            ("+5s", 5 * S),
            (".5s", S / 2),
            ("1.s", S),
            ("7us", 7_000),
            ("7µs", 7_000),
            ("1ns", 1),
        ] {
            assert_eq!(GoDuration::parse(text), Ok(GoDuration(nanos)), "{text}");
        }
        for text in ["", "10", "s", "1d", "1 s", ".s", "1..5s", "9999999999h", "-", "1s5"] {
            assert!(GoDuration::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn booleans_are_the_twelve_words() {
        for text in ["1", "t", "T", "TRUE", "true", "True"] {
            assert_eq!(parse_bool(text), Ok(true));
        }
        for text in ["0", "f", "F", "FALSE", "false", "False"] {
            assert_eq!(parse_bool(text), Ok(false));
        }
        for text in ["yes", "on", "tRUE", "", " true", "2"] {
            assert!(parse_bool(text).is_err(), "{text}");
        }
    }

    #[test]
    fn integers_take_prefixes_and_underscores() {
        for (text, n) in [("0", 0), ("10", 10), ("0x10", 16), ("010", 8), ("1_0", 10), ("-3", -3), ("+3", 3), ("0b11", 3), ("0o17", 15)] {
            assert_eq!(parse_int(text), Ok(n), "{text}");
        }
        for text in ["", "x", "1.5", "1_", "1__0", "_1", "0x", "09", "99999999999999999999", "--1", "- 1"] {
            assert!(parse_int(text).is_err(), "{text}");
        }
    }
}
