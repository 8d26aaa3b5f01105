//! The typed fields of a pipeline: how each is read (pipeline §2.4, §2.7–2.9, §4.1).

use super::document::{Checkout, SecretRef};
use super::plugin::full_source;
use super::yaml::{Mapping, Node, Value};

/// A value that does not fit its field.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(super) struct FieldError(String);

fn error<T>(text: impl Into<String>) -> Result<T, FieldError> {
    Err(FieldError(text.into()))
}

/// A value's kind, for messages.
pub(super) fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Int(_) | Value::Uint(_) => "integer",
        Value::Float(_) => "float",
        Value::Timestamp(_) => "timestamp",
        Value::Text(_) => "string",
        Value::List(_) => "list",
        Value::Map(_) => "mapping",
    }
}

/// Text (pipeline §2.4).
pub(super) fn text(node: &Node) -> Result<String, FieldError> {
    node.text().map_or_else(|| error(format!("unsupported type {}, want string", kind(&node.value))), Ok)
}

/// List of text: a sequence element-wise, a scalar as one, null as none.
pub(super) fn texts(node: &Node) -> Result<Vec<String>, FieldError> {
    match &node.value {
        Value::Null => Ok(Vec::new()),
        Value::List(items) => items.iter().map(text).collect(),
        _ => Ok(vec![text(node)?]),
    }
}

/// Name to text, in order.
pub(super) fn env(node: &Node) -> Result<Vec<(String, String)>, FieldError> {
    let Value::Map(map) = &node.value else { return error(format!("unsupported type {}, want mapping", kind(&node.value))) };
    map.iter().map(|(k, v)| Ok((k.clone(), text(v)?))).collect()
}

pub(super) fn secrets(node: &Node) -> Result<Vec<SecretRef>, FieldError> {
    let string = |n: &Node| match &n.value {
        Value::Text(t) if !t.is_empty() => Ok(t.clone()),
        other => error(format!("unsupported type {}, want non-empty string", kind(other))),
    };
    match &node.value {
        Value::List(items) => items
            .iter()
            .map(|item| match &item.value {
                Value::Text(s) => Ok(SecretRef { key: s.clone(), environment_variable: s.clone() }),
                Value::Map(map) => Ok(SecretRef {
                    key: map.get("key").map_or_else(|| error("a secret has no key"), string)?,
                    environment_variable: match map.get("environment_variable").map(|n| &n.value) {
                        None | Some(Value::Null) => String::new(),
                        Some(Value::Text(t)) => t.clone(),
                        Some(other) => return error(format!("environment_variable has unsupported type {}", kind(other))),
                    },
                }),
                other => error(format!("unsupported type {}", kind(other))),
            })
            .collect(),
        Value::Map(map) => map
            .iter()
            .map(|(name, key)| {
                if name.is_empty() {
                    return error("a secret has an empty variable name");
                }
                Ok(SecretRef { key: string(key)?, environment_variable: name.clone() })
            })
            .collect(),
        other => error(format!("unsupported type {}", kind(other))),
    }
}

/// `false` prints `false`, `true` prints `{}`; otherwise a mapping without empty fields.
pub(super) fn cache(node: &Node) -> Result<Option<Node>, FieldError> {
    let paths = |list: Vec<String>| {
        let items = list.into_iter().map(|p| Node::made(Value::Text(p))).collect();
        Node::made(Value::List(items))
    };
    Ok(Some(match &node.value {
        Value::Null => return Ok(None),
        Value::Bool(false) => Node::made(Value::Bool(false)),
        Value::Bool(true) => Node::made(Value::Map(Mapping::new())),
        Value::Text(_) | Value::List(_) => Node::made(Value::Map(Mapping::from([("paths".to_owned(), paths(texts(node)?))]))),
        Value::Map(map) => {
            if let Some(Value::Bool(true)) = map.get("disabled").map(|n| &n.value) {
                return Ok(Some(Node::made(Value::Bool(false))));
            }
            let mut out = Mapping::new();
            for (key, value) in map {
                match key.as_str() {
                    "paths" => {
                        let list = texts(value)?;
                        if !list.is_empty() {
                            out.insert(key.clone(), paths(list));
                        }
                    }
                    "name" | "size" => {
                        let t = text(value)?;
                        if !t.is_empty() {
                            out.insert(key.clone(), Node::made(Value::Text(t)));
                        }
                    }
                    "disabled" => {
                        if !matches!(value.value, Value::Bool(_) | Value::Null) {
                            return error(format!("disabled has unsupported type {}", kind(&value.value)));
                        }
                    }
                    _ => {
                        out.insert(key.clone(), value.clone());
                    }
                }
            }
            Node::made(Value::Map(out))
        }
        other => return error(format!("unsupported type {}", kind(other))),
    }))
}

pub(super) fn checkout(node: &Node) -> Result<Option<Checkout>, FieldError> {
    let map = match &node.value {
        Value::Null => return Ok(None),
        Value::Map(map) => map,
        Value::Bool(true) => return error("'checkout: true' is not valid; omit the field or use 'checkout: { skip: false }'"),
        Value::Bool(false) => return error("'checkout: false' is not valid; use 'checkout: { skip: true }' to opt out"),
        other => return error(format!("unsupported type {}", kind(other))),
    };
    let mut out = Checkout::default();
    for (key, value) in map {
        let name = match key.as_str() {
            "skip" => "skip",
            "submodules" => "submodules",
            "ssh_secret" => "ssh_secret",
            "depth" => "depth",
            _ => {
                out.rest.insert(key.clone(), value.clone());
                continue;
            }
        };
        let value = match (name, &value.value) {
            (_, Value::Null) => continue,
            ("skip" | "submodules", Value::Bool(_)) | ("depth", Value::Int(_)) => value.clone(),
            ("ssh_secret", _) => Node::made(Value::Text(text(value)?)),
            (name, other) => return error(format!("{name} has unsupported type {}", kind(other))),
        };
        out.known.push((name, value));
    }
    Ok(Some(out))
}

pub(super) fn signature(node: &Node) -> Result<Option<Node>, FieldError> {
    let Value::Map(map) = &node.value else {
        return if node.value == Value::Null { Ok(None) } else { error(format!("unsupported type {}", kind(&node.value))) };
    };
    let take = |key: &str| map.get(key).map_or_else(|| Ok(String::new()), text);
    let signed = match map.get("signed_fields") {
        Some(n) if n.value != Value::Null => Value::List(texts(n)?.into_iter().map(|t| Node::made(Value::Text(t))).collect()),
        _ => Value::Null,
    };
    let made = Mapping::from([
        ("algorithm".to_owned(), Node::made(Value::Text(take("algorithm")?))),
        ("signed_fields".to_owned(), Node::made(signed)),
        ("value".to_owned(), Node::made(Value::Text(take("value")?))),
    ]);
    Ok(Some(Node::made(Value::Map(made))))
}

/// One plugin for each entry, in order, with its full source.
pub(super) fn plugins(node: &Node) -> Result<Vec<(String, Node)>, FieldError> {
    let mut out = Vec::new();
    let entries = |map: &Mapping, out: &mut Vec<(String, Node)>| {
        for (source, config) in map {
            out.push((full_source(source), empty_as_null(config)));
        }
    };
    match &node.value {
        Value::Null => {}
        Value::Map(map) => entries(map, &mut out),
        Value::List(items) => {
            for item in items {
                match &item.value {
                    Value::Text(source) => out.push((full_source(source), Node::made(Value::Null))),
                    Value::Map(map) => entries(map, &mut out),
                    other => return error(format!("unsupported type {}", kind(other))),
                }
            }
        }
        other => return error(format!("unsupported type {}", kind(other))),
    }
    Ok(out)
}

/// An empty mapping or list as configuration prints as null.
fn empty_as_null(config: &Node) -> Node {
    let empty = match &config.value {
        Value::Map(m) => m.is_empty(),
        Value::List(l) => l.is_empty(),
        _ => false,
    };
    if empty { Node::made(Value::Null) } else { config.clone() }
}

/// Elements of a matrix are text (pipeline §4.1); everything else stays as read.
pub(super) fn matrix(node: &Node) -> Result<Option<Node>, FieldError> {
    let list = |n: &Node| -> Result<Node, FieldError> {
        let items = texts(n)?.into_iter().map(|t| Node::made(Value::Text(t))).collect();
        Ok(Node::made(Value::List(items)))
    };
    Ok(Some(match &node.value {
        Value::Null => return Ok(None),
        Value::List(_) => list(node)?,
        Value::Map(map) => {
            let mut out = map.clone();
            if let Some(setup) = out.get_mut("setup") {
                match &mut setup.value {
                    Value::Map(dimensions) => {
                        for values in dimensions.values_mut() {
                            *values = list(values)?;
                        }
                    }
                    _ => *setup = list(setup)?,
                }
            }
            Node::made(Value::Map(out))
        }
        other => return error(format!("unsupported type {}", kind(other))),
    }))
}
