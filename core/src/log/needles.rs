//! What is secret: needles of a text, and variables whose names say that their values are (job-runner §6.3).

use crate::job::envfile::quote;
use crate::secret::Secret;

/// Values of variables shorter than this, in bytes, are not redacted.
pub const REDACTION_MINIMUM_BYTES: usize = 6;

/// Text to look for: lines trimmed, joined by LF, which stands for any run of white space. Never empty.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Needle(String);

impl Needle {
    pub(crate) fn bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }

    fn new(text: &str) -> Option<Needle> {
        let lines: Vec<&str> = text.split('\n').map(str::trim).filter(|line| !line.is_empty()).collect();
        (!lines.is_empty()).then(|| Needle(lines.join("\n")))
    }
}

/// The secret itself, and its escaped form where that differs.
pub(crate) fn needles_of(secret: &str) -> Vec<Needle> {
    let mut needles: Vec<Needle> = Needle::new(secret).into_iter().collect();
    needles.extend(Needle::new(&escaped(secret)).filter(|n| !needles.contains(n)));
    needles
}

/// The quoting of job-runner §3.7 without the quotes around it.
fn escaped(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len() + 2);
    quote(text, &mut quoted);
    quoted[1..quoted.len() - 1].to_owned()
}

/// What [`secrets_from_env`] has to complain about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RedactionWarning {
    /// Variables whose values have 1 to 5 bytes and are not redacted, sorted by name.
    TooShort(Vec<String>),
    /// A pattern that cannot be read. It disables only itself (W17).
    BadPattern(String),
}

/// Values of the variables whose whole names match one of the patterns (`*`, `?`, `[set]`, `[^set]`, `\`; case-sensitive).
pub fn secrets_from_env<'a, N, V>(patterns: &[String], env: impl IntoIterator<Item = (&'a N, &'a V)>) -> (Vec<Secret>, Vec<RedactionWarning>)
where
    N: AsRef<str> + ?Sized + 'a,
    V: AsRef<str> + ?Sized + 'a,
{
    let mut warnings = Vec::new();
    let mut globs = Vec::new();
    for pattern in patterns {
        match parse(pattern) {
            Some(glob) => globs.push(glob),
            None => warnings.push(RedactionWarning::BadPattern(pattern.clone())),
        }
    }
    let (mut secrets, mut short) = (Vec::new(), Vec::new());
    for (name, value) in env {
        let (name, value) = (name.as_ref(), value.as_ref());
        let chars: Vec<char> = name.chars().collect();
        if value.is_empty() || !globs.iter().any(|g| matches(g, &chars)) {
            continue;
        }
        if value.len() < REDACTION_MINIMUM_BYTES {
            short.push(name.to_owned());
        } else {
            secrets.push(Secret::new(value));
        }
    }
    if !short.is_empty() {
        short.sort_unstable();
        warnings.push(RedactionWarning::TooShort(short));
    }
    (secrets, warnings)
}

enum Glob {
    Many,
    One,
    Literal(char),
    Set { negated: bool, ranges: Vec<(char, char)> },
}

/// `None` for a cut-off escape, a bracket that is not closed, or one with an empty set or range.
fn parse(pattern: &str) -> Option<Vec<Glob>> {
    let mut chars = pattern.chars().peekable();
    let mut globs = Vec::new();
    while let Some(c) = chars.next() {
        globs.push(match c {
            '*' => Glob::Many,
            '?' => Glob::One,
            '\\' => Glob::Literal(chars.next()?),
            '[' => {
                let negated = chars.next_if_eq(&'^').is_some();
                let mut ranges = Vec::new();
                while ranges.is_empty() || chars.next_if_eq(&']').is_none() {
                    let mut member = || match chars.next()? {
                        '\\' => chars.next(),
                        '-' | ']' => None,
                        c => Some(c),
                    };
                    let low = member()?;
                    let high = if chars.next_if_eq(&'-').is_some() {
                        match chars.next()? {
                            '\\' => chars.next()?,
                            '-' | ']' => return None,
                            c => c,
                        }
                    } else {
                        low
                    };
                    ranges.push((low, high));
                }
                Glob::Set { negated, ranges }
            }
            c => Glob::Literal(c),
        });
    }
    Some(globs)
}

fn matches(globs: &[Glob], name: &[char]) -> bool {
    let (mut g, mut n) = (0, 0);
    // Where to go on when the last `*` takes one more character.
    let mut retry = None;
    loop {
        match (globs.get(g), name.get(n)) {
            (None, None) => return true,
            (Some(Glob::Many), _) => {
                g += 1;
                retry = Some((g, n));
                continue;
            }
            (Some(glob), Some(&c)) if one(glob, c) => {
                (g, n) = (g + 1, n + 1);
                continue;
            }
            _ => {}
        }
        match retry {
            Some((after, at)) if name.get(at).is_some_and(|c| *c != '/') => {
                retry = Some((after, at + 1));
                (g, n) = (after, at + 1);
            }
            _ => return false,
        }
    }
}

fn one(glob: &Glob, c: char) -> bool {
    match glob {
        Glob::Many => false,
        Glob::One => c != '/',
        Glob::Literal(l) => *l == c,
        Glob::Set { negated, ranges } => ranges.iter().any(|(low, high)| (*low..=*high).contains(&c)) != *negated,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    #[test]
    fn needles_are_trimmed_line_by_line_and_come_with_their_escaped_form() {
        let texts = |s: &str| needles_of(s).iter().map(|n| n.0.clone()).collect::<Vec<_>>();
        assert_eq!(texts("  plain "), ["plain"]);
        assert_eq!(texts("\n a \n\n\tb\r\n"), ["a\nb", "\\n a \\n\\n\\tb\\r\\n"]);
        assert_eq!(
            texts("q\"\\\u{1}é\u{a0}\u{1f600}\u{e0001}\u{301}'"),
            ["q\"\\\u{1}é\u{a0}\u{1f600}\u{e0001}\u{301}'", "q\\\"\\\\\\x01é\\u00a0\u{1f600}\\U000e0001\u{301}'"]
        );
        assert!(texts("").is_empty() && texts(" \n\t").iter().all(|n| n.contains('\\')));
    }

    #[test]
    fn variables_are_chosen_by_whole_names() {
        let table = [
            ("*_TOKEN", "MY_TOKEN", true),
            ("*_TOKEN", "MY_TOKENS", false),
            ("*_TOKEN", "my_token", false),
            ("A?C", "ABC", true),
            ("A?C", "AC", false),
            ("A[BX-Z]C", "AYC", true),
            ("A[^B]C", "ABC", false),
            ("A[^B]C", "AXC", true),
            ("A\\*", "A*", true),
            ("A\\*", "AB", false),
            ("*A*B*", "xxAyyBzz", true),
            ("*A*B*", "xxByyAzz", false),
            ("*", "a/b", false),
        ];
        for (pattern, name, expected) in table {
            let env = BTreeMap::from([(name.to_owned(), "long enough".to_owned())]);
            assert_eq!(secrets_from_env(&[pattern.to_owned()], &env).0.len(), usize::from(expected), "{pattern} {name}");
        }
    }

    #[test]
    fn w17_a_bad_pattern_disables_only_itself_and_short_values_are_named() {
        let env: BTreeMap<String, String> = [("B_TOKEN", "12345"), ("A_TOKEN", "1"), ("C_TOKEN", "123456"), ("D_TOKEN", ""), ("OTHER", "123456")]
            .map(|(n, v)| (n.to_owned(), v.to_owned()))
            .into();
        let patterns = ["[", "a\\", "[]", "[a-]", "*_TOKEN"].map(str::to_owned);
        let (secrets, warnings) = secrets_from_env(&patterns, &env);
        assert_eq!(secrets, [Secret::new("123456")]);
        let mut expected: Vec<_> = patterns[..4].iter().cloned().map(RedactionWarning::BadPattern).collect();
        expected.push(RedactionWarning::TooShort(vec!["A_TOKEN".into(), "B_TOKEN".into()]));
        assert_eq!(warnings, expected);
    }
}
