//! Expanding variables in a text (pipeline §3.1–3.4). Parsing comes first, as a syntax error always counts, also in an operand that is
//! not needed.

use std::fmt::Write;

/// Where values come from.
pub trait Env {
    /// The value of a variable, if it is set (possibly empty).
    fn get(&self, name: &str) -> Option<String>;
}

impl<F: Fn(&str) -> Option<String>> Env for F {
    fn get(&self, name: &str) -> Option<String> {
        self(name)
    }
}

/// Why a text cannot be expanded (pipeline §3.4).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InterpolateError {
    /// After `${`.
    #[error("Expected identifier to start with a letter, got {0}")]
    Identifier(char),
    /// After a name in braces.
    #[error("Expected an operator, got {0}")]
    Operator(char),
    /// Where `}` is missing.
    #[error("Expected brace expansion to end with }}, got {0}")]
    Brace(char),
    /// An offset or length that is no number: which, the text, and why.
    #[error("Unable to parse {0}: strconv.Atoi: parsing {1:?}: {2}")]
    Number(&'static str, String, &'static str),
    /// `${X?…}` of an unset variable.
    #[error("${0}: {1}")]
    Required(String, String),
}

/// What stands for the end of the input in messages.
const END: char = '\u{fffd}';

#[derive(Clone, Debug, PartialEq, Eq)]
enum Item {
    Text(String),
    Variable(String),
    Default { name: String, operand: Vec<Item>, also_empty: bool },
    Required { name: String, message: Vec<Item> },
    Substring { name: String, offset: i64, length: Option<i64> },
}

/// Expands `text` with `env`.
///
/// # Errors
/// See [`InterpolateError`].
pub fn interpolate(text: &str, env: &dyn Env) -> Result<String, InterpolateError> {
    if !text.contains(['$', '\\']) {
        return Ok(text.to_owned());
    }
    let items = Parser { chars: text.chars().collect(), at: 0 }.expression(false)?;
    expand(&items, env)
}

fn expand(items: &[Item], env: &dyn Env) -> Result<String, InterpolateError> {
    let mut out = String::new();
    for item in items {
        match item {
            Item::Text(text) => out.push_str(text),
            Item::Variable(name) => out.push_str(&env.get(name).unwrap_or_default()),
            Item::Default { name, operand, also_empty } => match env.get(name) {
                Some(value) if !(*also_empty && value.is_empty()) => out.push_str(&value),
                _ => out.push_str(&expand(operand, env)?),
            },
            Item::Required { name, message } => match env.get(name) {
                Some(value) => out.push_str(&value),
                None => {
                    let message = expand(message, env)?;
                    return Err(InterpolateError::Required(name.clone(), if message.is_empty() { "not set".into() } else { message }));
                }
            },
            Item::Substring { name, offset, length } => {
                let value = env.get(name).unwrap_or_default();
                let _ = write!(out, "{}", substring(&value, *offset, *length));
            }
        }
    }
    Ok(out)
}

/// In bytes, clamped (pipeline §3.2); a cut inside a character leaves the replacement character.
fn substring(value: &str, offset: i64, length: Option<i64>) -> String {
    let n = value.len() as i64;
    let start = if offset < 0 { (offset.saturating_add(n)).clamp(0, n) } else { offset.min(n) };
    let end = match length {
        None => n,
        Some(l) if l >= 0 => start.saturating_add(l).min(n),
        Some(l) => n.saturating_add(l),
    };
    if end <= start {
        return String::new();
    }
    String::from_utf8_lossy(&value.as_bytes()[start as usize..end as usize]).into_owned()
}

struct Parser {
    chars: Vec<char>,
    at: usize,
}

impl Parser {
    fn peek(&self) -> Option<char> {
        self.chars.get(self.at).copied()
    }

    fn starts(&self, with: &str) -> bool {
        with.chars().enumerate().all(|(i, c)| self.chars.get(self.at + i) == Some(&c))
    }

    fn expression(&mut self, in_braces: bool) -> Result<Vec<Item>, InterpolateError> {
        let mut items: Vec<Item> = Vec::new();
        let text = |items: &mut Vec<Item>, s: &str| match items.last_mut() {
            Some(Item::Text(t)) => t.push_str(s),
            _ => items.push(Item::Text(s.to_owned())),
        };
        while let Some(c) = self.peek() {
            if in_braces && c == '}' {
                break;
            }
            if self.starts("\\\\") {
                self.at += 2;
                text(&mut items, "\\\\");
            } else if self.starts("\\$") || self.starts("$$") {
                self.at += 2;
                text(&mut items, "$");
            } else if self.starts("${") {
                self.at += 2;
                items.push(self.braces()?);
            } else if c == '$' {
                self.at += 1;
                match self.name() {
                    Some(name) => items.push(Item::Variable(name)),
                    None => text(&mut items, "$"),
                }
            } else {
                self.at += 1;
                text(&mut items, c.encode_utf8(&mut [0; 4]));
            }
        }
        Ok(items)
    }

    /// The longest name here, if one starts here.
    fn name(&mut self) -> Option<String> {
        self.peek().filter(|c| c.is_alphabetic())?;
        let rest = &self.chars[self.at..];
        let name: String = rest.iter().take_while(|c| c.is_alphabetic() || c.is_numeric() || **c == '_').collect();
        self.at += name.chars().count();
        Some(name)
    }

    fn braces(&mut self) -> Result<Item, InterpolateError> {
        let name = self.name().ok_or_else(|| InterpolateError::Identifier(self.peek().unwrap_or(END)))?;
        let operand = |parser: &mut Parser, skip: usize| -> Result<Vec<Item>, InterpolateError> {
            parser.at += skip;
            parser.expression(true)
        };
        let item = match self.peek() {
            Some('}') => Item::Variable(name),
            Some(':') if self.starts(":-") => Item::Default { name, operand: operand(self, 2)?, also_empty: true },
            Some('-') => Item::Default { name, operand: operand(self, 1)?, also_empty: false },
            Some('?') => Item::Required { name, message: operand(self, 1)? },
            Some(':') => {
                self.at += 1;
                let offset = self.integer("offset")?;
                let length = if self.peek() == Some('}') {
                    None
                } else {
                    self.at += usize::from(self.peek().is_some());
                    Some(self.length()?)
                };
                Item::Substring { name, offset, length }
            }
            c => return Err(InterpolateError::Operator(c.unwrap_or(END))),
        };
        match self.peek() {
            Some('}') => {
                self.at += 1;
                Ok(item)
            }
            c => Err(InterpolateError::Brace(c.unwrap_or(END))),
        }
    }

    /// Text up to `:` or `}` as an integer.
    fn integer(&mut self, what: &'static str) -> Result<i64, InterpolateError> {
        let rest = &self.chars[self.at..];
        let text: String = rest.iter().take_while(|c| **c != ':' && **c != '}').collect();
        self.at += text.chars().count();
        parse_integer(what, &text)
    }

    /// Text up to `}`; a further `:` belongs to it and makes it no number. An input that ends here has no length.
    fn length(&mut self) -> Result<i64, InterpolateError> {
        let rest = &self.chars[self.at..];
        let text: String = rest.iter().take_while(|c| **c != '}').collect();
        let closed = rest.len() > text.chars().count();
        self.at += text.chars().count();
        parse_integer("length", if closed { &text } else { "" })
    }
}

fn parse_integer(what: &'static str, text: &str) -> Result<i64, InterpolateError> {
    let trimmed = text.trim();
    let digits = trimmed.strip_prefix(['+', '-']).unwrap_or(trimmed);
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return Err(InterpolateError::Number(what, trimmed.to_owned(), "invalid syntax"));
    }
    trimmed.parse().map_err(|_| InterpolateError::Number(what, trimmed.to_owned(), "value out of range"))
}

#[cfg(test)]
mod tests;
