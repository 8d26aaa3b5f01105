//! YAML (and JSON, read as YAML) to an ordered tree (pipeline §2.1–2.3).
//!
//! The events come from a library; the composer is ours, because pipelines rely on rules that no ready-made loader has: merged keys
//! stand where `<<` stands, duplicates keep the first place and the last value, keys are canonical strings.

use super::scalar::{self, Key};
use crate::limits::YAML_NODES;
use indexmap::IndexMap;
use saphyr_parser::{Event, Marker, Parser, ScalarStyle, ScanError, Span, StrInput, Tag};
use std::borrow::Cow;
use std::collections::BTreeMap;

/// Entries in document order.
pub type Mapping = IndexMap<String, Node>;

/// A value and where it stands.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// The value.
    pub value: Value,
    /// Line, from 1; 0 if unknown.
    pub line: u32,
    /// Column, from 1; 0 if unknown.
    pub column: u32,
}

/// What YAML can say.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// Nothing.
    Null,
    /// `true`, `false`.
    Bool(bool),
    /// Fits 64 bits with sign.
    Int(i64),
    /// Above that, up to 2^64−1.
    Uint(u64),
    /// Any other number.
    Float(f64),
    /// A moment, printed as RFC 3339; it cannot be used as text.
    Timestamp(String),
    /// Text.
    Text(String),
    /// A sequence.
    List(Vec<Node>),
    /// A mapping.
    Map(Mapping),
}

impl Node {
    /// A node that no document holds.
    pub fn made(value: Value) -> Node {
        Node { value, line: 0, column: 0 }
    }

    /// The text form of a scalar (pipeline §2.4); `None` for what does not convert.
    pub fn text(&self) -> Option<String> {
        Some(match &self.value {
            Value::Null => String::new(),
            Value::Bool(b) => b.to_string(),
            Value::Int(i) => i.to_string(),
            Value::Float(f) => scalar::float_text(*f),
            Value::Text(t) => t.clone(),
            Value::Uint(_) | Value::Timestamp(_) | Value::List(_) | Value::Map(_) => return None,
        })
    }

    /// The entries, if it is a mapping.
    pub fn as_map(&self) -> Option<&Mapping> {
        match &self.value {
            Value::Map(m) => Some(m),
            _ => None,
        }
    }
}

/// A document that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}, col {column}: {text}")]
pub struct YamlError {
    /// Line, from 1.
    pub line: u32,
    /// Column, from 1.
    pub column: u32,
    /// What is wrong.
    pub text: String,
}

/// The documents of a stream, one at a time: an error in a later one shows when its turn comes.
pub struct Documents<'a> {
    source: &'a str,
    parser: Parser<'a, StrInput<'a>>,
    anchors: BTreeMap<usize, Anchor>,
    nodes: usize,
    count: usize,
    failed: bool,
}

enum Anchor {
    Open,
    Done(Node),
}

type Item<'a> = (Event<'a>, Span);

/// Reads a stream of documents.
pub fn documents(source: &str) -> Documents<'_> {
    let source = source.strip_prefix('\u{feff}').unwrap_or(source);
    Documents { source, parser: Parser::new_from_str(source), anchors: BTreeMap::new(), nodes: 0, count: 0, failed: false }
}

impl Iterator for Documents<'_> {
    type Item = Result<Node, YamlError>;

    fn next(&mut self) -> Option<Result<Node, YamlError>> {
        if self.failed {
            return None;
        }
        let result = self.document().transpose()?;
        if result.is_err() {
            self.failed = true;
            // JSON has two escapes that YAML has not: `\/` and surrogate pairs.
            if self.count == 0
                && let Ok(value) = serde_json::from_str::<serde_json::Value>(self.source)
            {
                return Some(Ok(from_json(value)));
            }
        }
        self.count += 1;
        Some(result)
    }
}

impl<'a> Documents<'a> {
    fn event(&mut self) -> Result<Item<'a>, YamlError> {
        match self.parser.next_event() {
            Some(Ok(item)) => Ok(item),
            Some(Err(e)) => Err(self.scan_error(&e)),
            None => Ok((Event::StreamEnd, Span::default())),
        }
    }

    fn scan_error(&self, e: &ScanError) -> YamlError {
        let mark = e.marker();
        let mut text = e.info().to_owned();
        if text.contains("unknown anchor") {
            let line = self.source.lines().nth(mark.line().saturating_sub(1)).unwrap_or_default();
            let name: String =
                line.chars().skip(mark.col()).skip_while(|c| *c == '*').take_while(|c| !c.is_whitespace() && !",]}".contains(*c)).collect();
            text = format!("unknown anchor '{name}' referenced");
        }
        at(*mark, text)
    }

    fn document(&mut self) -> Result<Option<Node>, YamlError> {
        loop {
            match self.event()? {
                (Event::StreamEnd, _) => return Ok(None),
                (Event::DocumentStart(_), _) => {
                    let item = self.event()?;
                    return self.node(item).map(Some);
                }
                _ => {}
            }
        }
    }

    fn node(&mut self, (event, span): Item<'a>) -> Result<Node, YamlError> {
        self.nodes += 1;
        if self.nodes > YAML_NODES {
            return Err(at(span.start, format!("more than {YAML_NODES} nodes")));
        }
        match event {
            Event::Scalar(text, style, anchor, tag) => {
                let value = scalar::value(&text, style == ScalarStyle::Plain, tag_name(tag.as_deref()));
                Ok(self.named(anchor, place(value, span.start)))
            }
            Event::SequenceStart(anchor, _) => {
                self.open(anchor);
                let mut items = Vec::new();
                loop {
                    match self.event()? {
                        (Event::SequenceEnd, _) => break,
                        item => items.push(self.node(item)?),
                    }
                }
                Ok(self.named(anchor, place(Value::List(items), span.start)))
            }
            Event::MappingStart(anchor, _) => {
                self.open(anchor);
                let map = self.mapping()?;
                Ok(self.named(anchor, place(Value::Map(map), span.start)))
            }
            Event::Alias(id) => match self.anchors.get(&id) {
                Some(Anchor::Done(node)) => {
                    let node = node.clone();
                    self.nodes += count(&node);
                    if self.nodes > YAML_NODES {
                        return Err(at(span.start, format!("more than {YAML_NODES} nodes after expanding aliases")));
                    }
                    Ok(node)
                }
                _ => Err(at(span.start, "infinite recursion")),
            },
            other => Err(at(span.start, format!("unexpected {other:?}"))),
        }
    }

    fn open(&mut self, anchor: usize) {
        if anchor > 0 {
            self.anchors.insert(anchor, Anchor::Open);
        }
    }

    fn named(&mut self, anchor: usize, node: Node) -> Node {
        if anchor > 0 {
            self.anchors.insert(anchor, Anchor::Done(node.clone()));
        }
        node
    }

    fn mapping(&mut self) -> Result<Mapping, YamlError> {
        let mut entries: Vec<Entry> = Vec::new();
        loop {
            match self.event()? {
                (Event::MappingEnd, _) => break,
                item => {
                    let entry = self.entry(item)?;
                    entries.push(entry);
                }
            }
        }
        // Own keys win wherever they stand; of duplicates the last value counts.
        let mut own: BTreeMap<String, Node> = BTreeMap::new();
        for entry in &entries {
            if let Entry::Own(key, node) = entry {
                own.insert(key.clone(), node.clone());
            }
        }
        let mut map = Mapping::new();
        for entry in entries {
            match entry {
                Entry::Own(key, _) => {
                    if let Some(node) = own.get(&key) {
                        map.entry(key).or_insert_with(|| node.clone());
                    }
                }
                Entry::Merge(maps) => {
                    for (key, node) in maps.into_iter().flatten() {
                        if !own.contains_key(&key) {
                            map.entry(key).or_insert(node);
                        }
                    }
                }
            }
        }
        Ok(map)
    }

    fn entry(&mut self, (event, span): Item<'a>) -> Result<Entry, YamlError> {
        let key = match &event {
            Event::Scalar(text, ScalarStyle::Plain, _, None) if text == "<<" => {
                let item = self.event()?;
                return Ok(Entry::Merge(self.merge(item)?));
            }
            Event::Scalar(text, style, _, tag) => scalar::key(text, *style == ScalarStyle::Plain, tag_name(tag.as_deref())),
            Event::Alias(id) => match self.anchors.get(id) {
                Some(Anchor::Done(node)) => scalar::key_of(&node.value),
                _ => return Err(at(span.start, "infinite recursion")),
            },
            Event::SequenceStart(..) => Key::Collection(2),
            _ => Key::Collection(4),
        };
        let key = match key {
            Key::Text(key) => key,
            Key::Null => return Err(at(span.start, "null not supported as a map key")),
            Key::Collection(kind) => return Err(at(span.start, format!("cannot use node kind {kind} as a map key"))),
        };
        if !matches!(event, Event::Alias(_)) {
            // An anchor on a key may be used later.
            self.node((event, span))?;
        }
        let item = self.event()?;
        Ok(Entry::Own(key, self.node(item)?))
    }

    /// The mappings that a `<<` names, in order.
    fn merge(&mut self, (event, span): Item<'a>) -> Result<Vec<Mapping>, YamlError> {
        let node = match event {
            // A mapping that merges itself merges nothing.
            Event::Alias(id) if matches!(self.anchors.get(&id), Some(Anchor::Open)) => return Ok(Vec::new()),
            Event::SequenceStart(anchor, _) => {
                self.open(anchor);
                let mut all = Vec::new();
                loop {
                    match self.event()? {
                        (Event::SequenceEnd, _) => return Ok(all),
                        item => all.extend(self.merge(item)?),
                    }
                }
            }
            event => self.node((event, span))?,
        };
        merged(node)
    }
}

fn merged(node: Node) -> Result<Vec<Mapping>, YamlError> {
    match node.value {
        Value::Map(map) => Ok(vec![map]),
        Value::List(items) => Ok(items.into_iter().map(merged).collect::<Result<Vec<_>, _>>()?.into_iter().flatten().collect()),
        _ => Err(YamlError { line: node.line, column: node.column, text: "cannot range over node kind 8".into() }),
    }
}

enum Entry {
    Own(String, Node),
    Merge(Vec<Mapping>),
}

fn count(node: &Node) -> usize {
    1 + match &node.value {
        Value::List(items) => items.iter().map(count).sum(),
        Value::Map(map) => map.values().map(count).sum(),
        _ => 0,
    }
}

fn tag_name(tag: Option<&Tag>) -> Option<&str> {
    tag.map(|t| if t.is_yaml_core_schema() || t.handle == "!!" { t.suffix.as_str() } else { "" })
}

fn place(value: Value, mark: Marker) -> Node {
    Node { value, line: line(mark), column: column(mark) }
}

fn at(mark: Marker, text: impl Into<Cow<'static, str>>) -> YamlError {
    YamlError { line: line(mark), column: column(mark), text: text.into().into_owned() }
}

fn line(mark: Marker) -> u32 {
    u32::try_from(mark.line()).unwrap_or(u32::MAX)
}

fn column(mark: Marker) -> u32 {
    u32::try_from(mark.col() + 1).unwrap_or(u32::MAX)
}

/// A tree of JSON, without places.
pub(super) fn from_json(value: serde_json::Value) -> Node {
    Node::made(match value {
        serde_json::Value::Null => Value::Null,
        serde_json::Value::Bool(b) => Value::Bool(b),
        serde_json::Value::Number(n) => match (n.as_i64(), n.as_u64()) {
            (Some(i), _) => Value::Int(i),
            (None, Some(u)) => Value::Uint(u),
            _ => Value::Float(n.as_f64().unwrap_or(f64::NAN)),
        },
        serde_json::Value::String(s) => Value::Text(s),
        serde_json::Value::Array(items) => Value::List(items.into_iter().map(from_json).collect()),
        serde_json::Value::Object(map) => Value::Map(map.into_iter().map(|(k, v)| (k, from_json(v))).collect()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn show(node: &Node) -> String {
        match &node.value {
            Value::Null => "~".into(),
            Value::List(items) => format!("[{}]", items.iter().map(show).collect::<Vec<_>>().join(", ")),
            Value::Map(map) => format!("{{{}}}", map.iter().map(|(k, v)| format!("{k}: {}", show(v))).collect::<Vec<_>>().join(", ")),
            Value::Text(t) => format!("{t:?}"),
            Value::Timestamp(t) => format!("@{t}"),
            Value::Uint(u) => format!("u{u}"),
            _ => node.text().unwrap(),
        }
    }

    fn read(text: &str) -> Result<String, String> {
        documents(text).map(|d| d.map(|n| show(&n)).map_err(|e| e.to_string())).collect::<Result<Vec<_>, _>>().map(|v| v.join(" --- "))
    }

    #[test]
    fn mappings_keep_their_order_and_merges_their_place() {
        for (text, expected) in [
            ("b: &b {x: 1, y: 2}\nr: {z: 0, <<: *b, y: 9, q: 1}", r#"{b: {x: 1, y: 2}, r: {z: 0, x: 1, y: 9, q: 1}}"#),
            ("a: 1\nb: 2\na: 3", "{a: 3, b: 2}"),
            ("0xb: 1\n11: 2", "{11: 2}"),
            ("true: 1\n1.5: 2\n010: 3", "{true: 1, 1.500000e+00: 2, 8: 3}"),
            ("x: &x {a: 1}\ny: &y {a: 2, b: 2}\nz: {<<: [*x, *y], c: 3}", "{x: {a: 1}, y: {a: 2, b: 2}, z: {a: 1, b: 2, c: 3}}"),
            ("\"<<\": 1", "{<<: 1}"),
            ("a: &a {<<: *a, b: 1}", "{a: {b: 1}}"),
            ("--- 1\n--- 2", "1 --- 2"),
            ("# nothing", ""),
            ("---", "~"),
        ] {
            assert_eq!(read(text).as_deref(), Ok(expected), "{text}");
        }
    }

    #[test]
    fn errors_name_line_and_column() {
        for (text, expected) in [
            ("a: &a [*a]", "infinite recursion"),
            ("~: 1", "line 1, col 1: null not supported as a map key"),
            ("[a]: 1", "cannot use node kind 2 as a map key"),
            ("{a: 1}: 1", "cannot use node kind 4 as a map key"),
            ("<<: 1", "cannot range over node kind 8"),
            ("a: *nope", "unknown anchor 'nope' referenced"),
        ] {
            let error = read(text).expect_err(text);
            assert!(error.contains(expected), "{text}: {error}");
        }
    }

    #[test]
    fn json_escapes_that_yaml_lacks_are_read() {
        assert_eq!(read(r#"{"a": "\/\ud83d\ude00"}"#).unwrap(), "{a: \"/😀\"}");
    }

    #[test]
    fn aliases_cannot_expand_without_bound() {
        let mut text = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
        for i in 1..9 {
            text += &format!("a{i}: &a{i} [{}]\n", vec![format!("*a{}", i - 1); 10].join(", "));
        }
        assert!(read(&text).unwrap_err().contains("nodes"));
    }

    #[test]
    fn a_later_document_fails_in_its_turn() {
        let mut all = documents("a: 1\n---\nb: [");
        assert!(all.next().unwrap().is_ok());
        assert!(all.next().unwrap().is_err());
        assert!(all.next().is_none());
    }
}
