//! The glob language of artifact patterns (artifacts §4): translated to an anchored regular expression whose automaton answers both
//! questions of a walk: is this path a match, and can any longer path still be one?

use regex_automata::hybrid::dfa::{Cache, DFA};
use regex_automata::util::start;
use regex_automata::{Anchored, util::syntax};
use std::cell::RefCell;

/// A pattern that cannot be read; the whole command fails.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GlobError {
    /// `{` without `}`.
    #[error("invalid glob pattern \"{0}\": unterminated alternation - missing closing brace")]
    Alternation(String),
    /// `[` without `]`.
    #[error("invalid glob pattern \"{0}\": unterminated char class - missing closing square bracket")]
    Class(String),
    /// `[^` without `]`.
    #[error("invalid glob pattern \"{0}\": unterminated negated char class - missing closing square bracket")]
    NegatedClass(String),
    /// The automaton would be too large.
    #[error("invalid glob pattern \"{0}\": too large")]
    TooLarge(String),
}

/// A parsed pattern.
pub struct Glob {
    literal: Option<String>,
    root: String,
    automaton: Option<(DFA, RefCell<Cache>)>,
}

/// What an entry of a walk is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A real directory.
    Directory,
    /// Anything else, symbolic links to directories included.
    Other,
}

/// What to do with an entry of a walk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Neither a match nor on the way to one; do not descend.
    Skip,
    /// A directory that may hold matches.
    Descend,
    /// A directory that matches: warn, and descend.
    DirectoryMatch,
    /// A match.
    Match,
}

impl Glob {
    /// Parses a pattern; a leading `~/` has been replaced by the caller.
    ///
    /// # Errors
    /// See [`GlobError`].
    pub fn parse(pattern: &str) -> Result<Glob, GlobError> {
        let tokens = Parser { pattern, chars: pattern.chars().collect(), at: 0 }.sequence(0)?;
        if let Some(text) = tokens.iter().map(Token::literal).collect::<Option<String>>() {
            return Ok(Glob { root: ".".into(), literal: Some(super::clean(&text)), automaton: None });
        }
        let prefix: String = tokens.iter().map_while(Token::literal).collect();
        let root = &prefix[..prefix.rfind('/').map_or(0, |i| i + 1)];
        let rest = &tokens[root.chars().count()..];
        let mut regex = String::new();
        translate(rest, true, &mut regex);
        let dfa = DFA::builder()
            .syntax(syntax::Config::new().dot_matches_new_line(true))
            .build(&regex)
            .map_err(|_| GlobError::TooLarge(pattern.to_owned()))?;
        let cache = RefCell::new(dfa.create_cache());
        Ok(Glob { literal: None, root: super::clean(root), automaton: Some((dfa, cache)) })
    }

    /// The one path that a pattern without wildcards, braces and classes names, cleaned.
    pub fn literal(&self) -> Option<&str> {
        self.literal.as_deref()
    }

    /// The directory that the walk starts at, cleaned.
    pub fn root(&self) -> &str {
        &self.root
    }

    /// Judges an entry by its path relative to [`Glob::root`].
    pub fn judge(&self, relative: &str, kind: Kind) -> Verdict {
        let Some((dfa, cache)) = &self.automaton else { return Verdict::Skip };
        let cache = &mut *cache.borrow_mut();
        // A lazy automaton can only fail by filling its cache; a candidate is then looked at again rather than lost.
        let (full, more) = walk(dfa, cache, relative, kind == Kind::Directory).unwrap_or((false, true));
        match (kind, full, more) {
            (Kind::Directory, true, _) => Verdict::DirectoryMatch,
            (Kind::Directory, false, true) => Verdict::Descend,
            (Kind::Other, true, _) => Verdict::Match,
            _ => Verdict::Skip,
        }
    }
}

/// Whether the path is a full match, and whether a longer one may be.
fn walk(dfa: &DFA, cache: &mut Cache, path: &str, slash: bool) -> Option<(bool, bool)> {
    let mut state = dfa.start_state(cache, &start::Config::new().anchored(Anchored::Yes)).ok()?;
    for byte in path.bytes().chain(slash.then_some(b'/')) {
        state = dfa.next_state(cache, state, byte).ok()?;
        if state.is_dead() {
            return Some((false, false));
        }
        if state.is_quit() {
            return None;
        }
    }
    let end = dfa.next_eoi_state(cache, state).ok()?;
    // The automaton reports a match one byte late, so a state from which nothing leads on need not be the dead one yet.
    let more = (0..=u8::MAX).any(|byte| dfa.next_state(cache, state, byte).is_ok_and(|next| !next.is_dead()));
    Some((end.is_match(), more))
}

#[derive(Debug, Clone)]
enum Token {
    Char(char),
    Any,
    Star,
    DoubleStar,
    Class { negated: bool, chars: Vec<char> },
    Alternatives(Vec<Vec<Token>>),
}

impl Token {
    fn literal(&self) -> Option<char> {
        match self {
            Token::Char(c) => Some(*c),
            _ => None,
        }
    }
}

struct Parser<'a> {
    pattern: &'a str,
    chars: Vec<char>,
    at: usize,
}

impl Parser<'_> {
    fn next(&mut self) -> Option<char> {
        let c = self.chars.get(self.at).copied();
        self.at += usize::from(c.is_some());
        c
    }

    fn peek(&self) -> Option<char> {
        self.chars.get(self.at).copied()
    }

    /// Reads tokens up to the end, or inside braces up to an unread `,` or `}`.
    fn sequence(&mut self, depth: usize) -> Result<Vec<Token>, GlobError> {
        let mut out = Vec::new();
        while let Some(c) = self.peek() {
            if depth > 0 && (c == ',' || c == '}') {
                break;
            }
            self.at += 1;
            out.push(match c {
                '\\' => Token::Char(self.next().unwrap_or('\\')),
                '?' => Token::Any,
                '*' if self.peek() == Some('*') => {
                    self.at += 1;
                    Token::DoubleStar
                }
                '*' => Token::Star,
                '[' if self.peek().is_some() => self.class()?,
                '{' => self.alternatives(depth)?,
                c => Token::Char(c),
            });
        }
        Ok(out)
    }

    fn alternatives(&mut self, depth: usize) -> Result<Token, GlobError> {
        let mut all = Vec::new();
        loop {
            all.push(self.sequence(depth + 1)?);
            match self.next() {
                Some(',') => {}
                Some('}') => return Ok(Token::Alternatives(all)),
                _ => return Err(GlobError::Alternation(self.pattern.to_owned())),
            }
        }
    }

    fn class(&mut self) -> Result<Token, GlobError> {
        let negated = self.peek() == Some('^');
        self.at += usize::from(negated);
        let mut chars = Vec::new();
        loop {
            match self.next() {
                Some(']') => return Ok(Token::Class { negated, chars }),
                Some('\\') => chars.extend(self.next()),
                Some(c) => chars.push(c),
                None if negated => return Err(GlobError::NegatedClass(self.pattern.to_owned())),
                None => return Err(GlobError::Class(self.pattern.to_owned())),
            }
        }
    }
}

/// `at_slash`: the tokens stand at the start of the pattern or right behind a separator.
fn translate(tokens: &[Token], mut at_slash: bool, out: &mut String) {
    let mut i = 0;
    while i < tokens.len() {
        match &tokens[i] {
            // `**/` may match no directory at all; only one of a run may.
            Token::DoubleStar if at_slash && matches!(tokens.get(i + 1), Some(Token::Char('/'))) => {
                out.push_str("(?:.*/)?");
                i += 1;
                at_slash = false;
            }
            Token::DoubleStar => {
                out.push_str(".*");
                at_slash = false;
            }
            Token::Star => {
                out.push_str("[^/]*");
                at_slash = false;
            }
            Token::Any => {
                out.push_str("[^/]");
                at_slash = false;
            }
            Token::Char(c) => {
                escape(*c, out);
                // A separator of a `**/` run that was read as part of it gives no second chance.
                at_slash = *c == '/' && !(i > 0 && matches!(tokens[i - 1], Token::DoubleStar));
            }
            Token::Class { negated, chars } => {
                match (negated, chars.is_empty()) {
                    (false, true) => out.push_str(r"[^\s\S]"),
                    (true, true) => out.push('.'),
                    _ => {
                        out.push_str(if *negated { "[^" } else { "[" });
                        chars.iter().for_each(|c| escape(*c, out));
                        out.push(']');
                    }
                }
                at_slash = false;
            }
            Token::Alternatives(all) => {
                out.push_str("(?:");
                for (n, one) in all.iter().enumerate() {
                    if n > 0 {
                        out.push('|');
                    }
                    translate(one, false, out);
                }
                out.push(')');
                at_slash = false;
            }
        }
        i += 1;
    }
}

fn escape(c: char, out: &mut String) {
    out.push_str(&format!("\\x{{{:X}}}", c as u32));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(pattern: &str, path: &str) -> bool {
        let glob = Glob::parse(pattern).unwrap();
        match glob.literal() {
            Some(l) => l == path,
            None => {
                let relative = if glob.root() == "." { Some(path) } else { path.strip_prefix(glob.root()).and_then(|p| p.strip_prefix('/')) };
                relative.is_some_and(|p| glob.judge(p, Kind::Other) == Verdict::Match)
            }
        }
    }

    #[test]
    fn patterns_match_what_the_table_says() {
        for (pattern, yes, no) in [
            ("*.log", vec!["top.log", "q?.log", "ünï.log"], vec!["a/one.log", "top.txt"]),
            ("**/*.log", vec!["top.log", "a/one.log", ".dir/in.log"], vec!["top.txt"]),
            ("**.log", vec!["top.log", "a/b/c/four.log"], vec!["top.txt"]),
            ("**/**/*.log", vec!["a/one.log", "a/b/c/four.log"], vec!["top.log"]),
            ("*/**/*.log", vec!["a/one.log"], vec!["top.log"]),
            ("a/**/*.log", vec!["a/one.log", "a/.hidden/h.log", "a/b/c/four.log"], vec!["top.log"]),
            ("a**.log", vec!["a/one.log", "a/b/three.log"], vec!["top.log"]),
            ("a***.log", vec!["a/one.log", "a/b/three.log"], vec!["top.log"]),
            ("a/**/**/four.log", vec!["a/b/c/four.log"], vec![]),
            ("{**,x}/four.log", vec!["a/b/c/four.log"], vec!["four.log"]),
            ("**/b/**", vec!["a/b/three.log", "a/b/c/four.log"], vec!["a/one.log"]),
            ("[!t]*.log", vec!["top.log"], vec!["ünï.log"]),
            ("[^t]*.log", vec!["ünï.log", "q?.log"], vec!["top.log"]),
            ("[a-z]*.log", vec!["a.log", "-x.log"], vec!["top.log"]),
            ("[]", vec![], vec!["a", ""]),
            ("[^]op.log", vec!["top.log"], vec!["op.log"]),
            ("{top,UP}.{log,LOG}", vec!["top.log", "UP.LOG"], vec!["top.txt"]),
            ("{,a/}*.log", vec!["top.log", "a/one.log"], vec!["a/b/three.log"]),
            ("{a/{one,b/three},top}.log", vec!["a/one.log", "a/b/three.log", "top.log"], vec!["a/two.txt"]),
            ("{com\\,ma,top}.log", vec!["com,ma.log", "top.log"], vec![]),
            ("q\\?.log", vec!["q?.log"], vec!["qx.log"]),
            ("a[/]one.log", vec!["a/one.log"], vec!["a-one.log"]),
            ("a[^x]one.log", vec!["a/one.log"], vec!["axone.log"]),
            ("a{/,x}one.log", vec!["a/one.log", "axone.log"], vec![]),
            ("a?one.log", vec!["a-one.log"], vec!["a/one.log"]),
            ("**/.*", vec![".hid", "a/.x"], vec!["a/x"]),
            ("br[1].log", vec!["br1.log"], vec!["br[1].log"]),
            ("\\a/one.log", vec!["a/one.log"], vec![]),
            ("a/../*.log", vec![], vec![]),
            ("a}", vec!["a}"], vec!["a"]),
            ("x[", vec!["x["], vec!["x"]),
        ] {
            for path in yes {
                assert!(matches(pattern, path), "{pattern} should match {path}");
            }
            for path in no {
                assert!(!matches(pattern, path), "{pattern} should not match {path}");
            }
        }
    }

    #[test]
    fn directories_are_pruned_when_nothing_below_can_match() {
        let g = Glob::parse("a/b/*.log").unwrap();
        assert_eq!((g.root(), g.judge("x.log", Kind::Other)), ("a/b", Verdict::Match));
        let g = Glob::parse("*/one.log").unwrap();
        assert_eq!(g.judge("a", Kind::Directory), Verdict::Descend);
        assert_eq!(g.judge("a/b", Kind::Directory), Verdict::Skip);
        assert_eq!(Glob::parse("**").unwrap().judge("a/b", Kind::Directory), Verdict::DirectoryMatch);
        assert_eq!(Glob::parse("*").unwrap().judge("a", Kind::Directory), Verdict::Skip);
        assert_eq!(Glob::parse("*/*").unwrap().judge("a", Kind::Directory), Verdict::DirectoryMatch);
    }

    #[test]
    fn a_pattern_that_is_not_closed_is_an_error() {
        assert!(matches!(Glob::parse("{a"), Err(GlobError::Alternation(_))));
        assert!(matches!(Glob::parse("[a"), Err(GlobError::Class(_))));
        assert!(matches!(Glob::parse("[^a"), Err(GlobError::NegatedClass(_))));
        assert!(matches!(Glob::parse("a/one.{log"), Err(GlobError::Alternation(_))));
    }
}
