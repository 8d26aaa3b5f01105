//! Interpolating a whole pipeline: its env block first, in order, then everything else (pipeline §3.5, §3.6).

use super::document::{Checkout, CommandFields, Document, Step};
use super::interpolate::{InterpolateError, interpolate};
use super::plugin::full_source;
use super::yaml::{Mapping, Node, Value};
use std::collections::BTreeMap;

/// An error and where it occurred.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{place}{error}")]
pub struct ExpandError {
    /// Prefix such as `interpolating command: `.
    pub place: String,
    /// The error.
    pub error: InterpolateError,
}

type Vars = BTreeMap<String, String>;

/// Expands a document with `vars`, which takes up the document's env block. With `prefer_runtime`, a variable that is set already keeps
/// its value there (experiment `interpolation-prefers-runtime-env`).
///
/// # Errors
/// The first text that cannot be expanded.
pub fn expand(document: &mut Document, vars: &mut Vars, prefer_runtime: bool) -> Result<(), ExpandError> {
    if let Some(env) = &mut document.env {
        let mut i = 0;
        while i < env.len() {
            let name = text(&env[i].0, vars, "")?;
            let value = text(&env[i].1, vars, "")?;
            env[i] = (name.clone(), value.clone());
            // A name that becomes equal to another entry's removes that entry.
            let mut at = 0;
            env.retain(|(n, _)| {
                at += 1;
                at - 1 == i || *n != name
            });
            i = env.iter().position(|(n, _)| *n == name).map_or(env.len(), |p| p + 1);
            if !(prefer_runtime && vars.contains_key(&name)) {
                vars.insert(name, value);
            }
        }
    }
    for step in &mut document.steps {
        expand_step(step, vars)?;
    }
    if let Some(checkout) = &mut document.checkout {
        expand_checkout(checkout, vars, "")?;
    }
    expand_map(&mut document.rest, vars, "")
}

pub(super) fn expand_step(step: &mut Step, vars: &Vars) -> Result<(), ExpandError> {
    match step {
        Step::Word(_) => Ok(()),
        Step::Plain(map) => expand_map(map, vars, ""),
        Step::Unknown(node) => expand_node(node, vars, ""),
        Step::Group(group) => {
            if let Some(name) = &mut group.group {
                *name = text(name, vars, "")?;
            }
            group.key = text(&group.key, vars, "")?;
            for step in &mut group.steps {
                expand_step(step, vars)?;
            }
            expand_map(&mut group.rest, vars, "")
        }
        Step::Command(command) => expand_command(command, vars),
    }
}

fn expand_command(step: &mut CommandFields, vars: &Vars) -> Result<(), ExpandError> {
    step.command = text(&step.command, vars, "interpolating command: ")?;
    step.label = text(&step.label, vars, "interpolating label: ")?;
    for (source, config) in &mut step.plugins {
        *source = full_source(&text(source, vars, "interpolating plugins: ")?);
        expand_node(config, vars, "interpolating plugins: ")?;
    }
    if let Some(Node { value: Value::Map(cache), .. }) = &mut step.cache {
        for key in ["name", "paths", "size"] {
            if let Some(node) = cache.get_mut(key) {
                expand_node(node, vars, &format!("interpolating cache: interpolating cache {key}: "))?;
            }
        }
    }
    if let Some(checkout) = &mut step.checkout {
        expand_checkout(checkout, vars, "interpolating checkout: ")?;
    }
    step.key = text(&step.key, vars, "interpolating key: ")?;
    let mut env = BTreeMap::new();
    for (name, value) in &step.env {
        env.insert(text(name, vars, "interpolating env: ")?, text(value, vars, "interpolating env: ")?);
    }
    step.env = env.into_iter().collect();
    if let Some(matrix) = &mut step.matrix {
        expand_matrix(matrix, vars)?;
    }
    expand_map(&mut step.rest, vars, "interpolating remaining fields: ")
}

fn expand_matrix(matrix: &mut Node, vars: &Vars) -> Result<(), ExpandError> {
    const PLACE: &str = "interpolating matrix: ";
    // `skip` of an adjustment is left alone.
    let mut skips = Vec::new();
    if let Some(Node { value: Value::List(adjustments), .. }) = matrix.as_map().and_then(|m| m.get("adjustments")) {
        skips = adjustments.iter().map(|a| a.as_map().and_then(|m| m.get("skip")).cloned()).collect();
    }
    expand_node(matrix, vars, PLACE)?;
    if let Value::Map(map) = &mut matrix.value
        && let Some(Node { value: Value::List(adjustments), .. }) = map.get_mut("adjustments")
    {
        for (adjustment, skip) in adjustments.iter_mut().zip(skips) {
            if let (Value::Map(map), Some(skip)) = (&mut adjustment.value, skip) {
                map.insert("skip".into(), skip);
            }
        }
    }
    Ok(())
}

fn expand_checkout(checkout: &mut Checkout, vars: &Vars, place: &str) -> Result<(), ExpandError> {
    expand_map(&mut checkout.rest, vars, place)
}

fn expand_map(map: &mut Mapping, vars: &Vars, place: &str) -> Result<(), ExpandError> {
    let mut out = Mapping::with_capacity(map.len());
    let mut changed = Vec::new();
    for (key, mut node) in std::mem::take(map) {
        let name = text(&key, vars, place)?;
        expand_node(&mut node, vars, place)?;
        // An interpolated key wins over an existing one, which disappears.
        if name != key {
            out.shift_remove(&name);
            changed.push(name.clone());
        } else if changed.contains(&name) {
            continue;
        }
        out.insert(name, node);
    }
    *map = out;
    Ok(())
}

fn expand_node(node: &mut Node, vars: &Vars, place: &str) -> Result<(), ExpandError> {
    match &mut node.value {
        Value::Text(t) => *t = text(t, vars, place)?,
        Value::List(items) => items.iter_mut().try_for_each(|n| expand_node(n, vars, place))?,
        Value::Map(map) => expand_map(map, vars, place)?,
        _ => {}
    }
    Ok(())
}

fn text(text: &str, vars: &Vars, place: &str) -> Result<String, ExpandError> {
    interpolate(text, &|name: &str| vars.get(name).cloned()).map_err(|error| ExpandError { place: place.to_owned(), error })
}

#[cfg(test)]
mod tests {
    use super::super::{document, json, yaml};
    use super::*;

    fn run(text: &str, runtime: &[(&str, &str)], prefer: bool) -> Result<String, String> {
        let node = yaml::documents(text).next().unwrap().unwrap();
        let mut document = document::read(node).unwrap();
        let mut vars = runtime.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        expand(&mut document, &mut vars, prefer).map_err(|e| e.to_string())?;
        Ok(json::compact(&document).unwrap())
    }

    #[test]
    fn the_env_block_comes_first_and_in_order() {
        let tail = "\nsteps: [{command: \"echo $B\"}]";
        for (runtime, env, plain, preferred) in [
            (("A", "rt"), "{A: pl, B: \"$A\"}", "echo pl", "echo rt"),
            (("A", "rt"), "{B: \"$A\", A: pl}", "echo rt", "echo rt"),
            (("B", "rt"), "{B: pl}", "echo pl", "echo rt"),
            (("B", "/p"), "{B: \"$B:/x\"}", "echo /p:/x", "echo /p"),
        ] {
            for (prefer, expected) in [(false, plain), (true, preferred)] {
                let got = run(&format!("env: {env}{tail}"), &[runtime], prefer).unwrap();
                assert!(got.contains(&format!("\"command\":\"{expected}\"")), "{env}: {got}");
            }
        }
        assert!(run("env: {\"${K}\": \"1\", key: \"2\"}", &[("K", "key")], false).unwrap().starts_with(r#"{"env":{"key":"1"}"#));
    }

    #[test]
    fn what_is_interpolated_and_what_is_not() {
        let vars = [("X", "v")];
        for (text, expected) in [
            ("- {command: c, agents: {\"$X\": \"$X\"}, n: 1}", r#"[{"agents":{"v":"v"},"command":"c","n":1}]"#),
            ("- {command: c, secrets: [\"$X\"]}", r#"[{"command":"c","secrets":[{"environment_variable":"$X","key":"$X"}]}]"#),
            ("- {command: c, checkout: {ssh_secret: \"$X\", z: \"$X\"}}", r#"[{"checkout":{"ssh_secret":"$X","z":"v"},"command":"c"}]"#),
            (
                "- {command: c, plugins: [\"$X#1\": {\"$X\": \"$X\"}]}",
                r#"[{"command":"c","plugins":[{"github.com/buildkite-plugins/v-buildkite-plugin#1":{"v":"v"}}]}]"#,
            ),
            ("- {wait: \"$X\"}", r#"[{"wait":"v"}]"#),
            ("- \"$X\"", r#"["v"]"#),
        ] {
            let got = run(&format!("steps:\n{text}"), &vars, false).unwrap();
            assert_eq!(got, format!("{{\"steps\":{expected}}}"), "{text}");
        }
    }

    #[test]
    fn errors_say_where() {
        assert_eq!(run("steps: [{command: \"${X?}\"}]", &[], false).unwrap_err(), "interpolating command: $X: not set");
        assert_eq!(run("steps: [{command: c, if: \"${X?no}\"}]", &[], false).unwrap_err(), "interpolating remaining fields: $X: no");
        assert_eq!(run("steps: [{wait: \"${X?no}\"}]", &[], false).unwrap_err(), "$X: no");
    }
}
