//! A pipeline as JSON: which mappings are sorted, how strings and numbers are written (pipeline §2.12).

use super::document::{Checkout, CommandFields, Document, SecretRef, Step};
use super::yaml::{Mapping, Node, Value};
use std::fmt::Write;

/// A number that JSON has not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unsupported value: NaN or infinity")]
pub struct NotANumber;

/// JSON as a tree that keeps numbers as they are written.
enum Json {
    Raw(String),
    Text(String),
    List(Vec<Json>),
    Object(Vec<(String, Json)>),
}

/// The compact form, as uploaded. The characters `<`, `>` and `&` are escaped.
///
/// # Errors
/// A NaN or infinity in the document.
pub fn compact(document: &Document) -> Result<String, NotANumber> {
    let mut out = String::new();
    write(&pipeline(document)?, None, &mut out);
    Ok(out)
}

/// The form of a dry run: indented with two blanks, ending in a newline.
///
/// # Errors
/// A NaN or infinity in the document.
pub fn pretty(document: &Document) -> Result<String, NotANumber> {
    let mut out = String::new();
    write(&pipeline(document)?, Some(0), &mut out);
    out.push('\n');
    Ok(out)
}

/// One step in the compact form, as it is handed to an agent.
pub(super) fn compact_step(one: &Step) -> Result<String, NotANumber> {
    let mut out = String::new();
    write(&step(one)?, None, &mut out);
    Ok(out)
}

fn sorted(mut entries: Vec<(String, Json)>) -> Json {
    entries.sort_by(|a, b| a.0.as_bytes().cmp(b.0.as_bytes()));
    Json::Object(entries)
}

fn pipeline(document: &Document) -> Result<Json, NotANumber> {
    let mut out = kept(&document.rest)?;
    if let Some(env) = &document.env {
        out.push(("env".into(), Json::Object(env.iter().map(|(k, v)| (k.clone(), Json::Text(v.clone()))).collect())));
    }
    out.push(("steps".into(), steps(&document.steps)?));
    if !document.secrets.is_empty() {
        out.push(("secrets".into(), secrets(&document.secrets)));
    }
    if let Some(c) = &document.checkout {
        out.push(("checkout".into(), checkout(c)?));
    }
    Ok(sorted(out))
}

fn steps(steps: &[Step]) -> Result<Json, NotANumber> {
    Ok(Json::List(steps.iter().map(step).collect::<Result<_, _>>()?))
}

fn step(step: &Step) -> Result<Json, NotANumber> {
    Ok(match step {
        Step::Word(word) => Json::Text(word.clone()),
        Step::Plain(map) => sorted(kept(map)?),
        Step::Unknown(node) => any(node)?,
        Step::Group(group) => {
            let mut out = kept(&group.rest)?;
            out.push(("group".into(), group.group.clone().map_or(Json::Raw("null".into()), Json::Text)));
            if !group.key.is_empty() {
                out.push(("key".into(), Json::Text(group.key.clone())));
            }
            out.push(("steps".into(), steps(&group.steps)?));
            sorted(out)
        }
        Step::Command(command) => sorted(command_entries(command)?),
    })
}

fn command_entries(step: &CommandFields) -> Result<Vec<(String, Json)>, NotANumber> {
    let known = ["command", "key", "label", "env", "plugins", "secrets", "cache", "checkout", "signature", "matrix"];
    let mut out = vec![("command".to_owned(), Json::Text(step.command.clone()))];
    for (key, value) in [("key", &step.key), ("label", &step.label)] {
        if !value.is_empty() {
            out.push((key.into(), Json::Text(value.clone())));
        }
    }
    if !step.env.is_empty() {
        out.push(("env".into(), sorted(step.env.iter().map(|(k, v)| (k.clone(), Json::Text(v.clone()))).collect())));
    }
    if !step.plugins.is_empty() {
        let list = step.plugins.iter().map(|(source, config)| Ok(Json::Object(vec![(source.clone(), sorted_deep(config)?)])));
        out.push(("plugins".into(), Json::List(list.collect::<Result<_, _>>()?)));
    }
    if !step.secrets.is_empty() {
        out.push(("secrets".into(), secrets(&step.secrets)));
    }
    if let Some(c) = &step.checkout {
        out.push(("checkout".into(), checkout(c)?));
    }
    for (key, node) in [("cache", &step.cache), ("signature", &step.signature)] {
        if let Some(node) = node {
            out.push((key.into(), sorted_once(node)?));
        }
    }
    if let Some(node) = &step.matrix {
        out.push(("matrix".into(), sorted_deep(node)?));
    }
    // A known name wins over an unknown key that interpolation turned into it; an unused alternative is no known name.
    for (key, value) in kept(&step.rest)? {
        if !known.contains(&key.as_str()) || !out.iter().any(|(k, _)| *k == key) {
            out.push((key, value));
        }
    }
    Ok(out)
}

fn secrets(list: &[SecretRef]) -> Json {
    let one = |s: &SecretRef| {
        let mut entries = vec![("key".to_owned(), Json::Text(s.key.clone()))];
        if !s.environment_variable.is_empty() {
            entries.push(("environment_variable".into(), Json::Text(s.environment_variable.clone())));
        }
        sorted(entries)
    };
    Json::List(list.iter().map(one).collect())
}

fn checkout(checkout: &Checkout) -> Result<Json, NotANumber> {
    let mut out = kept(&checkout.rest)?;
    for (key, value) in &checkout.known {
        out.push(((*key).to_owned(), any(value)?));
    }
    Ok(sorted(out))
}

fn kept(map: &Mapping) -> Result<Vec<(String, Json)>, NotANumber> {
    map.iter().map(|(k, v)| Ok((k.clone(), any(v)?))).collect()
}

/// A value as read.
fn any(node: &Node) -> Result<Json, NotANumber> {
    tree(node, &|entries, _| Json::Object(entries), 0)
}

/// Keys sorted at every depth.
fn sorted_deep(node: &Node) -> Result<Json, NotANumber> {
    tree(node, &|entries, _| sorted(entries), 0)
}

/// Keys sorted at the top only.
fn sorted_once(node: &Node) -> Result<Json, NotANumber> {
    tree(node, &|entries, depth| if depth == 0 { sorted(entries) } else { Json::Object(entries) }, 0)
}

fn tree(node: &Node, object: &dyn Fn(Vec<(String, Json)>, usize) -> Json, depth: usize) -> Result<Json, NotANumber> {
    Ok(match &node.value {
        Value::Null => Json::Raw("null".into()),
        Value::Bool(b) => Json::Raw(b.to_string()),
        Value::Int(i) => Json::Raw(i.to_string()),
        Value::Uint(u) => Json::Raw(u.to_string()),
        Value::Float(f) => Json::Raw(number(*f)?),
        Value::Timestamp(t) | Value::Text(t) => Json::Text(t.clone()),
        Value::List(items) => Json::List(items.iter().map(|n| tree(n, object, depth + 1)).collect::<Result<_, _>>()?),
        Value::Map(map) => object(map.iter().map(|(k, v)| Ok((k.clone(), tree(v, object, depth + 1)?))).collect::<Result<_, _>>()?, depth),
    })
}

/// Shortest digits, without exponent for 1e−6 ≤ |x| < 1e21.
fn number(f: f64) -> Result<String, NotANumber> {
    if !f.is_finite() {
        return Err(NotANumber);
    }
    if f == 0.0 || (1e-6..1e21).contains(&f.abs()) {
        return Ok(format!("{f}"));
    }
    let form = format!("{f:e}");
    Ok(match form.split_once('e') {
        Some((digits, exponent)) if !exponent.starts_with('-') => format!("{digits}e+{exponent}"),
        _ => form,
    })
}

fn write(json: &Json, indent: Option<usize>, out: &mut String) {
    let line = |out: &mut String, depth: usize| {
        out.push('\n');
        out.push_str(&"  ".repeat(depth));
    };
    match json {
        Json::Raw(text) => out.push_str(text),
        Json::Text(text) => string(text, out),
        Json::List(items) if items.is_empty() => out.push_str("[]"),
        Json::Object(entries) if entries.is_empty() => out.push_str("{}"),
        Json::List(items) => {
            out.push('[');
            for (i, item) in items.iter().enumerate() {
                if i > 0 {
                    out.push(',');
                }
                if let Some(depth) = indent {
                    line(out, depth + 1);
                }
                write(item, indent.map(|d| d + 1), out);
            }
            if let Some(depth) = indent {
                line(out, depth);
            }
            out.push(']');
        }
        Json::Object(entries) => {
            out.push('{');
            for (i, (key, value)) in entries.iter().enumerate() {
                if i > 0 {
                    out.push(',');
                }
                if let Some(depth) = indent {
                    line(out, depth + 1);
                }
                string(key, out);
                out.push_str(if indent.is_some() { ": " } else { ":" });
                write(value, indent.map(|d| d + 1), out);
            }
            if let Some(depth) = indent {
                line(out, depth);
            }
            out.push('}');
        }
    }
}

fn string(text: &str, out: &mut String) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '<' | '>' | '&' | '\u{2028}' | '\u{2029}' | '\u{0}'..='\u{1f}' => {
                let _ = write!(out, "\\u{:04x}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out.push('"');
}

#[cfg(test)]
mod tests {
    use super::super::{document, yaml};
    use super::*;

    fn upload(text: &str) -> String {
        let node = yaml::documents(text).next().unwrap().unwrap();
        compact(&document::read(node).unwrap()).unwrap()
    }

    fn step(text: &str) -> String {
        let all = upload(&format!("steps:\n{text}"));
        all.strip_prefix("{\"steps\":").and_then(|r| r.strip_suffix('}')).unwrap_or(&all).to_owned()
    }

    #[test]
    fn the_examples_of_the_specification() {
        for (text, expected) in [
            ("- {commands: [a, 1, true, 2.5, ~]}", r#"[{"command":"a\n1\ntrue\n2.5\n"}]"#),
            ("- {command: \"a && b\", name: T, id: k}", r#"[{"command":"a \u0026\u0026 b","key":"k","label":"T"}]"#),
            ("- wait\n- wait:\n- {type: waiter, if: x}", r#"["wait",{"wait":null},{"if":"x","type":"waiter"}]"#),
            ("- {type: wait, command: x}", r#"[{"command":"x","type":"wait"}]"#),
            ("- {plugins: ~}", r#"[{"command":""}]"#),
            (
                "- {command: x, plugins: {b#v1: {z: 1, a: {}}, a#v1: ~}}",
                r#"[{"command":"x","plugins":[{"github.com/buildkite-plugins/b-buildkite-plugin#v1":{"a":{},"z":1}},{"github.com/buildkite-plugins/a-buildkite-plugin#v1":null}]}]"#,
            ),
            ("- {command: x, env: {B: 1.50, A: 010, C: yes}}", r#"[{"command":"x","env":{"A":"8","B":"1.5","C":"yes"}}]"#),
            ("- {command: x, env: [A=b]}", r#"[{"command":"x","env":["A=b"]}]"#),
            ("- {command: x, agents: {queue: z, arch: a}, zz: ~}", r#"[{"agents":{"queue":"z","arch":"a"},"command":"x","zz":null}]"#),
            ("- {command: x, matrix: [1, true]}", r#"[{"command":"x","matrix":["1","true"]}]"#),
            ("- {group: ~, label: L, steps: }", r#"[{"group":null,"label":"L","steps":[]}]"#),
            ("- {group: g, steps: [{commands: [a]}, oops]}", r#"[{"group":"g","steps":[{"commands":["a"]},"oops"]}]"#),
            ("- {weird: 1, aaa: 2}", r#"[{"weird":1,"aaa":2}]"#),
            ("- {trigger: p, async: true, build: {env: {B: 1, A: 2}}}", r#"[{"async":true,"build":{"env":{"B":1,"A":2}},"trigger":"p"}]"#),
            ("- {command: x, cache: [p, 1], checkout: {skip: false}}", r#"[{"cache":{"paths":["p","1"]},"checkout":{"skip":false},"command":"x"}]"#),
            ("- {command: x, secrets: {E: k}}", r#"[{"command":"x","secrets":[{"environment_variable":"E","key":"k"}]}]"#),
            ("- {label: l, name: n, command: x}", r#"[{"command":"x","label":"l","name":"n"}]"#),
            ("- {key: \"\", id: y, command: x}", r#"[{"command":"x","id":"y"}]"#),
            ("- {commands: ~, command: a}", r#"[{"command":""}]"#),
        ] {
            assert_eq!(step(text), expected, "{text}");
        }
        assert_eq!(upload("foo: bar"), r#"{"foo":"bar","steps":[]}"#);
        assert_eq!(upload("env: {Z: 1, A: ~}\nsteps: ~"), r#"{"env":{"Z":"1","A":""},"steps":[]}"#);
    }

    #[test]
    fn warnings_form_a_tree() {
        let node = yaml::documents("steps: [a, wait, {x: 1}]").next().unwrap().unwrap();
        let warnings = document::read(node).unwrap().warnings;
        assert_eq!(
            warnings[0].render(),
            "while unmarshaling the value for key \"steps\" into struct field \"Steps\"\n  ↳ while unmarshaling step 1 of 3\n      ↳ unknown step type \"a\", want one of [wait waiter block input manual]\n  ↳ while unmarshaling step 3 of 3\n      ↳ cannot infer step type: need one of [command commands plugins wait waiter block input manual trigger group]"
        );
    }

    #[test]
    fn documents_of_a_wrong_shape_are_refused() {
        for (text, part) in [
            ("hello", "unmarshaling Pipeline: unsupported type"),
            ("---", "unmarshaling Pipeline: unsupported type"),
            ("steps: 1", "unmarshaling Pipeline: unmarshaling steps:"),
            ("env: [A]", "unmarshaling Pipeline: unmarshaling env"),
            ("steps: [1]", "unmarshaling step: unsupported type"),
            ("steps: [{type: 1}]", "unmarshaling step: step's `type` key was"),
            ("checkout: true", "'checkout: true' is not valid"),
        ] {
            let node = yaml::documents(text).next().unwrap().unwrap();
            let error = document::read(node).unwrap_err().to_string();
            assert!(error.contains(part), "{text}: {error}");
        }
    }

    #[test]
    fn numbers_are_written_as_json_does() {
        for (f, expected) in [(3.0, "3"), (1e20, "100000000000000000000"), (1e21, "1e+21"), (1e-7, "1e-7"), (-0.0, "-0"), (2.5, "2.5")] {
            assert_eq!(number(f).unwrap(), expected);
        }
        assert_eq!(number(f64::NAN), Err(NotANumber));
    }

    #[test]
    fn a_dry_run_is_indented() {
        let node = yaml::documents("steps: [{command: x, a: {}}]").next().unwrap().unwrap();
        assert_eq!(
            pretty(&document::read(node).unwrap()).unwrap(),
            "{\n  \"steps\": [\n    {\n      \"a\": {},\n      \"command\": \"x\"\n    }\n  ]\n}\n"
        );
    }
}
