//! Which values are secrets, by the names of their variables (specification: bootstrap §15, job-runner §6.3).

use super::env::Env;
use crate::secret::Secret;

/// Values shorter than this are not redacted, in bytes.
const SHORTEST_BYTES: usize = 6;

/// What the redacted-vars globs select.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Needles {
    /// Values to mask.
    pub(super) values: Vec<Secret>,
    /// Names whose values are too short, sorted.
    pub(super) short: Vec<String>,
    /// Globs that cannot be read; each disables only itself.
    pub(super) malformed: Vec<String>,
}

/// Selects from `env` by `globs`.
pub(super) fn needles(env: &Env, globs: &[String]) -> Needles {
    let mut found = Needles::default();
    let (globs, malformed): (Vec<&String>, Vec<&String>) = globs.iter().partition(|glob| is_well_formed(glob));
    found.malformed = malformed.into_iter().cloned().collect();
    for (name, value) in env.iter() {
        if value.is_empty() || !globs.iter().any(|glob| matches(glob, name)) {
            continue;
        }
        if value.len() < SHORTEST_BYTES {
            found.short.push(name.to_owned());
        } else {
            found.values.push(Secret::new(value));
        }
    }
    found
}

/// Whether every bracket is closed and not empty, and no escape is cut off.
fn is_well_formed(glob: &str) -> bool {
    let mut rest: Vec<char> = glob.chars().collect();
    rest.reverse();
    while let Some(c) = rest.pop() {
        match c {
            '\\' if rest.pop().is_none() => return false,
            '[' => match class(&mut rest, '\0') {
                Some(_) => {}
                None => return false,
            },
            _ => {}
        }
    }
    true
}

/// Matches a whole name: `*` (no `/`), `?`, `[set]`, `[^set]`, `\` escapes. The glob is well-formed.
fn matches(glob: &str, name: &str) -> bool {
    let glob: Vec<char> = glob.chars().collect();
    let name: Vec<char> = name.chars().collect();
    // Where to go on after the last `*`: one more character of the name is given to it.
    let mut retry: Option<(usize, usize)> = None;
    let (mut g, mut n) = (0, 0);
    loop {
        if g < glob.len() && glob[g] == '*' {
            retry = Some((g + 1, n));
            g += 1;
            continue;
        }
        if g == glob.len() && n == name.len() {
            return true;
        }
        if n < name.len()
            && let Some(used) = one(&glob[g..], name[n])
        {
            g += used;
            n += 1;
            continue;
        }
        match retry {
            Some((after, at)) if at < name.len() && name[at] != '/' => {
                retry = Some((after, at + 1));
                (g, n) = (after, at + 1);
            }
            _ => return false,
        }
    }
}

/// Length of the glob's first element if it matches `c`.
fn one(glob: &[char], c: char) -> Option<usize> {
    match glob {
        ['?', ..] => (c != '/').then_some(1),
        ['\\', escaped, ..] => (*escaped == c).then_some(2),
        ['[', rest @ ..] => {
            let mut reversed: Vec<char> = rest.iter().rev().copied().collect();
            let hit = class(&mut reversed, c)?;
            hit.then_some(1 + rest.len() - reversed.len())
        }
        [literal, ..] => (*literal == c).then_some(1),
        [] => None,
    }
}

/// Reads a bracket expression from a reversed stack; whether it contains `c`. `None` if it is malformed.
fn class(rest: &mut Vec<char>, c: char) -> Option<bool> {
    let negated = rest.last() == Some(&'^');
    if negated {
        rest.pop();
    }
    let mut hit = false;
    let mut count = 0;
    loop {
        if rest.last() == Some(&']') && count > 0 {
            rest.pop();
            return Some(hit != negated);
        }
        let low = member(rest)?;
        let high = if rest.last() == Some(&'-') {
            rest.pop();
            member(rest)?
        } else {
            low
        };
        hit |= (low..=high).contains(&c);
        count += 1;
    }
}

fn member(rest: &mut Vec<char>) -> Option<char> {
    match rest.pop()? {
        '\\' => rest.pop(),
        '-' | ']' => None,
        c => Some(c),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn globs_match_whole_names_case_sensitively() {
        for (glob, name, expected) in [
            ("*_TOKEN", "A_TOKEN", true),
            ("*_TOKEN", "A_TOKENS", false),
            ("*_TOKEN", "a_token", false),
            ("*_TOKEN", "A_TOKEN_B_TOKEN", true),
            ("*", "A/B", false),
            ("A?C", "ABC", true),
            ("A?C", "A/C", false),
            ("A[0-9X]C", "A5C", true),
            ("A[^0-9]C", "A5C", false),
            ("A\\*C", "A*C", true),
            ("A\\*C", "ABC", false),
            ("", "", true),
            ("*B*C", "aBbCcBC", true),
        ] {
            assert_eq!(matches(glob, name), expected, "{glob} {name}");
        }
    }

    #[test]
    fn a_malformed_glob_disables_only_itself() {
        let env = [("A_TOKEN", "long enough"), ("B_TOKEN", "tiny"), ("C_TOKEN", "")];
        let env = env.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
        let globs = ["[".to_owned(), "[]a]".to_owned(), "x\\".to_owned(), "*_TOKEN".to_owned()];
        let found = needles(&env, &globs);
        assert_eq!(found.malformed, ["[", "[]a]", "x\\"]);
        assert_eq!((found.values, found.short), (vec![Secret::new("long enough")], vec!["B_TOKEN".to_owned()]));
    }
}
