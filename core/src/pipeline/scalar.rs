//! Plain scalars: the YAML 1.2 core schema with some 1.1 remains (pipeline §2.2), their text forms (§2.4) and their use as keys (§2.3).

use super::yaml::Value;

/// What a mapping key turns out to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Key {
    /// A canonical string.
    Text(String),
    /// Null is no key.
    Null,
    /// A collection is no key: node kind 2 for a sequence, 4 for a mapping.
    Collection(u8),
}

/// The value of a scalar. `tag`: `str`, `int`, …, or empty for an unknown one.
pub(super) fn value(text: &str, plain: bool, tag: Option<&str>) -> Value {
    match tag {
        Some("str" | "") => Value::Text(text.to_owned()),
        Some("int") => match resolve(text) {
            v @ (Value::Int(_) | Value::Uint(_)) => v,
            _ => Value::Text(text.to_owned()),
        },
        Some("float") => match resolve(text) {
            Value::Int(i) => Value::Float(i as f64),
            v @ Value::Float(_) => v,
            _ => Value::Text(text.to_owned()),
        },
        Some("binary") => Value::Text(String::from_utf8_lossy(&base64(text)).into_owned()),
        _ if plain || matches!(tag, Some("bool" | "null" | "timestamp")) => resolve(text),
        _ => Value::Text(text.to_owned()),
    }
}

/// A scalar as a key.
pub(super) fn key(text: &str, plain: bool, tag: Option<&str>) -> Key {
    match value(text, plain, tag) {
        // A timestamp key is the text as written.
        Value::Timestamp(_) => Key::Text(text.to_owned()),
        v => key_of(&v),
    }
}

/// A value as a key.
pub(super) fn key_of(value: &Value) -> Key {
    Key::Text(match value {
        Value::Null => return Key::Null,
        Value::List(_) => return Key::Collection(2),
        Value::Map(_) => return Key::Collection(4),
        Value::Bool(b) => b.to_string(),
        Value::Int(i) => i.to_string(),
        Value::Uint(u) => u.to_string(),
        Value::Float(f) => exponent_form(*f),
        Value::Timestamp(t) | Value::Text(t) => t.clone(),
    })
}

fn resolve(text: &str) -> Value {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Value::Null,
        "true" | "True" | "TRUE" => return Value::Bool(true),
        "false" | "False" | "FALSE" => return Value::Bool(false),
        ".nan" | ".NaN" | ".NAN" => return Value::Float(f64::NAN),
        _ => {}
    }
    let (sign, rest) = match text.strip_prefix(['+', '-']) {
        Some(rest) => (&text[..1], rest),
        None => ("", text),
    };
    if matches!(rest, ".inf" | ".Inf" | ".INF") {
        return Value::Float(if sign == "-" { f64::NEG_INFINITY } else { f64::INFINITY });
    }
    if !rest.starts_with(|c: char| c.is_ascii_digit() || c == '.') {
        return Value::Text(text.to_owned());
    }
    timestamp(text).or_else(|| integer(sign, rest)).or_else(|| float(sign, rest)).unwrap_or_else(|| Value::Text(text.to_owned()))
}

fn integer(sign: &str, rest: &str) -> Option<Value> {
    let digits: String = rest.chars().enumerate().filter(|(i, c)| *i == 0 || *c != '_').map(|(_, c)| c).collect();
    let (radix, digits) = match digits.as_bytes() {
        [b'0', b'b', ..] => (2, &digits[2..]),
        [b'0', b'x', ..] => (16, &digits[2..]),
        [b'0', b'o', ..] => (8, &digits[2..]),
        [b'0', _, ..] => (8, &digits[1..]),
        _ => (10, digits.as_str()),
    };
    if digits.is_empty() || !digits.chars().all(|c| c.is_digit(radix)) {
        return None;
    }
    let Ok(n) = u128::from_str_radix(digits, radix) else {
        return digits.parse().ok().filter(|_| radix == 10).map(Value::Float);
    };
    let signed = if sign == "-" { i128::try_from(n).ok()?.checked_neg()? } else { i128::try_from(n).ok()? };
    if let Ok(i) = i64::try_from(signed) {
        return Some(Value::Int(i));
    }
    if let Ok(u) = u64::try_from(signed) {
        return Some(Value::Uint(u));
    }
    (radix == 10).then_some(Value::Float(signed as f64))
}

fn float(sign: &str, rest: &str) -> Option<Value> {
    let digits: String = rest.chars().enumerate().filter(|(i, c)| *i == 0 || *c != '_').map(|(_, c)| c).collect();
    let (mantissa, exponent) = match digits.find(['e', 'E']) {
        Some(i) => (&digits[..i], Some(&digits[i + 1..])),
        None => (digits.as_str(), None),
    };
    let all_digits = |s: &str| !s.is_empty() && s.bytes().all(|b| b.is_ascii_digit());
    let mantissa_ok = match mantissa.split_once('.') {
        Some(("", fraction)) => all_digits(fraction),
        Some((whole, fraction)) => all_digits(whole) && (fraction.is_empty() || all_digits(fraction)),
        None => all_digits(mantissa),
    };
    let exponent_ok = exponent.is_none_or(|e| all_digits(e.strip_prefix(['+', '-']).unwrap_or(e)));
    if !mantissa_ok || !exponent_ok {
        return None;
    }
    let f: f64 = format!("{sign}{digits}").parse().ok()?;
    f.is_finite().then_some(Value::Float(f))
}

/// `2001-01-02`, `2001-1-2`, `2001-01-02T03:04:05.5Z`, `2001-01-02 03:04:05` (blank: without zone).
fn timestamp(text: &str) -> Option<Value> {
    let number = |s: &str, widths: std::ops::RangeInclusive<usize>| -> Option<i16> {
        (widths.contains(&s.len()) && s.bytes().all(|b| b.is_ascii_digit())).then(|| s.parse().ok()).flatten()
    };
    let (date, rest) = match text.find(['T', 't', ' ']) {
        Some(i) => (&text[..i], Some((&text[i..=i], &text[i + 1..]))),
        None => (text, None),
    };
    let mut parts = date.splitn(3, '-');
    let (year, month, day) = (number(parts.next()?, 4..=4)?, number(parts.next()?, 1..=2)?, number(parts.next()?, 1..=2)?);
    let date = jiff::civil::Date::new(year, i8::try_from(month).ok()?, i8::try_from(day).ok()?).ok()?;
    let date = format!("{:04}-{:02}-{:02}", date.year(), date.month(), date.day());
    let Some((separator, time)) = rest else { return Some(Value::Timestamp(format!("{date}T00:00:00Z"))) };
    let zone_at = time.find(['Z', '+', '-']);
    let (clock, zone) = zone_at.map_or((time, ""), |i| (&time[..i], &time[i..]));
    // `T` needs a zone, a blank must have none.
    if (separator == " ") != zone.is_empty() {
        return None;
    }
    let (clock, fraction) = clock.split_once('.').map_or((clock, ""), |(c, f)| (c, f));
    if !fraction.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let mut parts = clock.splitn(3, ':');
    let (h, m, s) = (number(parts.next()?, 1..=2)?, number(parts.next()?, 2..=2)?, number(parts.next()?, 2..=2)?);
    if h > 23 || m > 59 || s > 59 {
        return None;
    }
    let zone = match zone {
        "" | "Z" | "+00:00" => "Z",
        z if z.len() == 6 && z.as_bytes()[3] == b':' => z,
        _ => return None,
    };
    let fraction = fraction.trim_end_matches('0');
    let dot = if fraction.is_empty() { "" } else { "." };
    Some(Value::Timestamp(format!("{date}T{h:02}:{m:02}:{s:02}{dot}{fraction}{zone}")))
}

/// Shortest digits; plain when the decimal exponent is −4…5, otherwise `d.ddde±XX` (pipeline §2.4).
pub(super) fn float_text(f: f64) -> String {
    if f.is_nan() {
        return "NaN".into();
    }
    if f.is_infinite() {
        return if f > 0.0 { "+Inf".into() } else { "-Inf".into() };
    }
    let form = format!("{f:e}");
    let (digits, exponent) = form.split_once('e').unwrap_or((&form, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if f == 0.0 || (-4..=5).contains(&exponent) {
        return format!("{f}");
    }
    format!("{digits}e{}{:02}", if exponent < 0 { '-' } else { '+' }, exponent.abs())
}

/// `%e`: six decimals, at least two exponent digits.
fn exponent_form(f: f64) -> String {
    if !f.is_finite() {
        return float_text(f);
    }
    let form = format!("{f:.6e}");
    let (digits, exponent) = form.split_once('e').unwrap_or((&form, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    format!("{digits}e{}{:02}", if exponent < 0 { '-' } else { '+' }, exponent.abs())
}

fn base64(text: &str) -> Vec<u8> {
    let mut out = Vec::new();
    let (mut bits, mut held) = (0u32, 0);
    for b in text.bytes() {
        let v = match b {
            b'A'..=b'Z' => b - b'A',
            b'a'..=b'z' => b - b'a' + 26,
            b'0'..=b'9' => b - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => continue,
        };
        bits = (bits << 6) | u32::from(v);
        held += 6;
        if held >= 8 {
            held -= 8;
            out.push((bits >> held) as u8);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_scalars_are_what_the_table_says() {
        let text = |t: &str| Value::Text(t.into());
        let stamp = |t: &str| Value::Timestamp(t.into());
        for (plain, expected) in [
            ("", Value::Null),
            ("~", Value::Null),
            ("NULL", Value::Null),
            ("True", Value::Bool(true)),
            ("yes", text("yes")),
            ("off", text("off")),
            ("017", Value::Int(15)),
            ("0755", Value::Int(493)),
            ("0b101", Value::Int(5)),
            ("0o17", Value::Int(15)),
            ("0x10", Value::Int(16)),
            ("1_000", Value::Int(1000)),
            ("-3", Value::Int(-3)),
            ("9223372036854775808", Value::Uint(1 << 63)),
            ("08", Value::Float(8.0)),
            ("1.50", Value::Float(1.5)),
            (".5", Value::Float(0.5)),
            ("5.", Value::Float(5.0)),
            ("1e3", Value::Float(1000.0)),
            ("1e400", text("1e400")),
            (".inf", Value::Float(f64::INFINITY)),
            ("2001-01-02", stamp("2001-01-02T00:00:00Z")),
            ("2001-1-2", stamp("2001-01-02T00:00:00Z")),
            ("2001-01-02T03:04:05Z", stamp("2001-01-02T03:04:05Z")),
            ("2001-01-02t03:04:05.50+01:00", stamp("2001-01-02T03:04:05.5+01:00")),
            ("2001-01-02 03:04:05.5", stamp("2001-01-02T03:04:05.5Z")),
            ("2001-01-02T03:04:05", text("2001-01-02T03:04:05")),
            ("2001-13-45", text("2001-13-45")),
            ("12:30:45", text("12:30:45")),
            ("0o8", text("0o8")),
            ("1.5.2", text("1.5.2")),
            ("=", text("=")),
            ("-", text("-")),
        ] {
            assert_eq!(value(plain, true, None), expected, "{plain}");
        }
        assert_eq!(value("1", false, None), text("1"));
        assert_eq!(value("1", true, Some("str")), text("1"));
        assert_eq!(value("3", false, Some("int")), Value::Int(3));
        assert_eq!(value("aGk=", true, Some("binary")), text("hi"));
        assert_eq!(value("x", true, Some("")), text("x"));
    }

    #[test]
    fn floats_become_text_as_the_table_says() {
        for (f, expected) in
            [(1.5, "1.5"), (3.0, "3"), (100000.0, "100000"), (1e6, "1e+06"), (1234567.5, "1.2345675e+06"), (0.00001, "1e-05"), (0.0001, "0.0001")]
        {
            assert_eq!(float_text(f), expected);
        }
    }
}
