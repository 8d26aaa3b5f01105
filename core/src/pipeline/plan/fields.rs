//! The fields of steps, one function each.

use super::{PlanError, Reader};
use crate::pipeline::yaml::{Node, Value};
use crate::pipeline::{Dependency, RetryRule, SoftFail, StatusMatch, WordMatch};
use std::time::Duration;

type Read<T> = Result<T, PlanError>;

/// Longest reason of `skip` (local-control-plane §4).
const SKIP_REASON_CHARACTERS: usize = 70;
/// Most retries of a rule (local-control-plane §5.5).
const RETRY_LIMIT: u32 = 10;

/// Line and column.
pub(super) fn at(node: &Node) -> (u32, u32) {
    (node.line, node.column)
}

/// What kind of thing it is.
pub(super) fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Int(_) | Value::Uint(_) | Value::Float(_) => "a number",
        Value::Timestamp(_) => "a timestamp",
        Value::Text(_) => "text",
        Value::List(_) => "a list",
        Value::Map(_) => "a mapping",
    }
}

/// A list of text; a scalar is a list of one, null is the empty list.
pub(super) fn texts(node: &Node) -> Option<Vec<String>> {
    match &node.value {
        Value::List(list) => list.iter().map(Node::text).collect(),
        Value::Null => Some(Vec::new()),
        _ => Some(vec![node.text()?]),
    }
}

fn wrong<T>(reader: &Reader, node: &Node, field: &str, want: &str) -> Read<T> {
    Err(reader.error(at(node), Some(field), format!("must be {want}, not {}", kind(&node.value))))
}

pub(super) fn text(reader: &Reader, node: &Node, field: &str) -> Read<String> {
    node.text().map_or_else(|| wrong(reader, node, field, "text"), Ok)
}

pub(super) fn boolean(reader: &Reader, node: &Node, field: &str) -> Read<bool> {
    match &node.value {
        Value::Null => Ok(false),
        Value::Bool(b) => Ok(*b),
        Value::Text(t) if t == "true" || t == "false" => Ok(t == "true"),
        _ => wrong(reader, node, field, "true or false"),
    }
}

pub(super) fn integer(reader: &Reader, node: &Node, field: &str) -> Read<i64> {
    let value = match &node.value {
        Value::Int(n) => Some(*n),
        Value::Text(t) => t.trim().parse().ok(),
        _ => None,
    };
    value.map_or_else(|| wrong(reader, node, field, "a whole number"), Ok)
}

/// A key, a list of keys, or a list of `{step, allow_failure}`; null is the empty list (local-control-plane §3.2).
pub(super) fn depends_on(reader: &Reader, node: &Node) -> Read<Vec<Dependency>> {
    const FIELD: &str = "depends_on";
    let one = |node: &Node| match &node.value {
        Value::Map(map) => {
            let Some(step) = map.get("step") else { return Err(reader.error(at(node), Some(FIELD), "an entry needs a `step`")) };
            if let Some((key, other)) = map.iter().find(|(k, _)| !["step", "allow_failure"].contains(&k.as_str())) {
                return Err(reader.unsupported(at(other), &format!("{FIELD}.{key}")));
            }
            let allow = map.get("allow_failure").map(|n| boolean(reader, n, "depends_on.allow_failure")).transpose()?;
            Ok(Dependency { step: text(reader, step, "depends_on.step")?, allow_failure: allow })
        }
        Value::List(_) | Value::Null => wrong(reader, node, FIELD, "a key or {step, allow_failure}"),
        _ => Ok(Dependency { step: text(reader, node, FIELD)?, allow_failure: None }),
    };
    match &node.value {
        Value::Null => Ok(Vec::new()),
        Value::List(list) => list.iter().map(one).collect(),
        _ => Ok(vec![one(node)?]),
    }
}

/// `true`, a rule, or a list of rules (local-control-plane §5.4).
pub(super) fn soft_fail(reader: &Reader, node: &Node) -> Read<SoftFail> {
    const FIELD: &str = "soft_fail";
    let rules = match &node.value {
        Value::List(list) => list.iter().collect(),
        Value::Map(_) => vec![node],
        _ => return Ok(if boolean(reader, node, FIELD)? { SoftFail::Always } else { SoftFail::Never }),
    };
    let mut statuses = Vec::new();
    for rule in rules {
        let Value::Map(map) = &rule.value else { return wrong(reader, rule, FIELD, "{exit_status: …}") };
        let Some(status) = map.get("exit_status").filter(|_| map.len() == 1) else {
            return Err(reader.error(at(rule), Some(FIELD), "a rule has an `exit_status`, and nothing else"));
        };
        match self::statuses(reader, status, "soft_fail.exit_status")? {
            None => return Ok(SoftFail::Always),
            Some(list) => statuses.extend(list),
        }
    }
    Ok(SoftFail::Statuses(statuses))
}

/// Exit statuses; `None`: `*`.
fn statuses(reader: &Reader, node: &Node, field: &str) -> Read<Option<Vec<i32>>> {
    let one = |node: &Node| {
        let n = integer(reader, node, field)?;
        i32::try_from(n).map_err(|_| reader.error(at(node), Some(field), format!("{n} is no exit status")))
    };
    match &node.value {
        Value::Text(t) if t == "*" => Ok(None),
        Value::List(list) if list.iter().any(|n| n.value == Value::Text("*".into())) => Ok(None),
        Value::List(list) => list.iter().map(one).collect::<Read<_>>().map(Some),
        _ => Ok(Some(vec![one(node)?])),
    }
}

/// Present and truthy: the reason, which may be empty.
pub(super) fn skip(reader: &Reader, node: &Node) -> Read<Option<String>> {
    match &node.value {
        Value::Bool(true) => Ok(Some(String::new())),
        Value::Bool(false) | Value::Null => Ok(None),
        Value::Text(t) if t.is_empty() || t == "false" => Ok(None),
        Value::Text(t) if t == "true" => Ok(Some(String::new())),
        Value::Text(t) if t.chars().count() > SKIP_REASON_CHARACTERS => {
            Err(reader.error(at(node), Some("skip"), format!("a reason has at most {SKIP_REASON_CHARACTERS} characters")))
        }
        Value::Text(t) => Ok(Some(t.clone())),
        _ => wrong(reader, node, "skip", "true, false or a reason"),
    }
}

pub(super) fn minutes(reader: &Reader, node: &Node, field: &str) -> Read<Option<Duration>> {
    if node.value == Value::Null {
        return Ok(None);
    }
    match u64::try_from(integer(reader, node, field)?) {
        Ok(n) if n > 0 => Ok(Some(Duration::from_secs(n.saturating_mul(60)))),
        _ => Err(reader.error(at(node), Some(field), "must be more than 0 minutes")),
    }
}

pub(super) fn parallelism(reader: &Reader, node: &Node) -> Read<Option<u32>> {
    if node.value == Value::Null {
        return Ok(None);
    }
    let n = integer(reader, node, "parallelism")?;
    u32::try_from(n).map(Some).map_err(|_| reader.error(at(node), Some("parallelism"), format!("{n} jobs are not possible")))
}

/// `retry.automatic`; `retry.manual` is for people with a button (local-control-plane §5.5).
pub(super) fn retry(reader: &Reader, node: &Node) -> Read<Vec<RetryRule>> {
    let map = match &node.value {
        Value::Null => return Ok(Vec::new()),
        Value::Map(map) => map,
        _ => return wrong(reader, node, "retry", "a mapping"),
    };
    if let Some((key, other)) = map.iter().find(|(k, _)| !["automatic", "manual"].contains(&k.as_str())) {
        return Err(reader.unsupported(at(other), &format!("retry.{key}")));
    }
    let Some(automatic) = map.get("automatic") else { return Ok(Vec::new()) };
    match &automatic.value {
        Value::List(list) => list.iter().map(|n| retry_rule(reader, n)).collect(),
        Value::Map(_) => Ok(vec![retry_rule(reader, automatic)?]),
        _ => Ok(if boolean(reader, automatic, "retry.automatic")? { vec![RetryRule::default()] } else { Vec::new() }),
    }
}

fn retry_rule(reader: &Reader, node: &Node) -> Read<RetryRule> {
    let Value::Map(map) = &node.value else { return wrong(reader, node, "retry.automatic", "a rule") };
    let mut rule = RetryRule::default();
    for (key, node) in map {
        let field = format!("retry.automatic.{key}");
        match key.as_str() {
            "exit_status" => rule.exit_status = statuses(reader, node, &field)?.map_or(StatusMatch::Failure, StatusMatch::OneOf),
            "signal" => rule.signal = words(reader, node, &field, |w| w.to_ascii_uppercase().trim_start_matches("SIG").to_owned())?,
            "signal_reason" => rule.signal_reason = words(reader, node, &field, |w| w.to_ascii_lowercase())?,
            "limit" => match u32::try_from(integer(reader, node, &field)?) {
                Ok(n) if n <= RETRY_LIMIT => rule.limit = n,
                _ => return Err(reader.error(at(node), Some(&field), format!("must be 0 to {RETRY_LIMIT}"))),
            },
            _ => return Err(reader.unsupported(at(node), &field)),
        }
    }
    // Reasons of jobs that never ran could not match otherwise.
    if !map.contains_key("exit_status") && rule.signal_reason != WordMatch::Any {
        rule.exit_status = StatusMatch::NotZero;
    }
    Ok(rule)
}

fn words(reader: &Reader, node: &Node, field: &str, form: impl Fn(&str) -> String) -> Read<WordMatch> {
    let list = texts(node).map_or_else(|| wrong(reader, node, field, "a word or a list of words"), Ok)?;
    if list.iter().any(|w| w == "*") {
        return Ok(WordMatch::Any);
    }
    Ok(WordMatch::OneOf(list.iter().map(|w| if w.eq_ignore_ascii_case("none") { String::new() } else { form(w) }).collect()))
}

/// A mapping, or a list of `key=value` (local-control-plane §5.2).
pub(super) fn agents(reader: &Reader, node: &Node) -> Read<Vec<(String, String)>> {
    match &node.value {
        Value::Null => Ok(Vec::new()),
        Value::Map(map) => map.iter().map(|(k, v)| Ok((k.clone(), text(reader, v, &format!("agents.{k}"))?))).collect(),
        Value::List(list) => {
            let pair = |t: String| match t.split_once('=') {
                Some((k, v)) => (k.trim().to_owned(), v.trim().to_owned()),
                // A word alone: any value.
                None => (t.trim().to_owned(), "*".to_owned()),
            };
            list.iter().map(|n| text(reader, n, "agents").map(pair)).collect()
        }
        _ => wrong(reader, node, "agents", "a mapping or a list of key=value"),
    }
}

/// Patterns, joined by blanks.
pub(super) fn branches(reader: &Reader, node: &Node) -> Read<String> {
    let list = texts(node).map_or_else(|| wrong(reader, node, "branches", "text or a list of text"), Ok)?;
    Ok(list.join(" "))
}

/// Whether patterns separated by blanks select a branch (local-control-plane §7.4).
pub(super) fn branch_matches(patterns: &str, branch: &str) -> bool {
    let (negative, positive): (Vec<&str>, Vec<&str>) = patterns.split_whitespace().partition(|p| p.starts_with('!'));
    !negative.iter().any(|p| glob(&p[1..], branch)) && (positive.is_empty() || positive.iter().any(|p| glob(p, branch)))
}

/// `*` is any run of characters; everything else is literal; the whole name.
fn glob(pattern: &str, name: &str) -> bool {
    let parts: Vec<&str> = pattern.split('*').collect();
    let [first, middle @ .., last] = &parts[..] else { return pattern == name };
    let Some(mut rest) = name.strip_prefix(first) else { return false };
    for part in middle {
        let Some(i) = rest.find(part) else { return false };
        rest = &rest[i + part.len()..];
    }
    rest.ends_with(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn branches_are_the_table_of_7_4() {
        for (patterns, expected) in [
            ("main", [true, false, false]),
            ("!main", [false, true, true]),
            ("feature/* v*", [false, true, true]),
            ("v* !v1.*", [false, false, false]),
            ("", [true, true, true]),
            ("*a*e*", [false, true, false]),
        ] {
            assert_eq!(["main", "feature/a/e", "v1.0"].map(|b| branch_matches(patterns, b)), expected, "{patterns}");
        }
        assert!(!glob("ab*ba", "aba"), "the ends do not overlap");
    }
}
