//! From a document to what the embedded plane runs (local-control-plane §2.2, §3–5). What the plane does not do is refused here,
//! by file, line, step and field; nothing is passed over in silence.

mod error;
mod fields;
#[cfg(test)]
mod tests;

pub use error::PlanError;

use super::document::{self, CommandFields, Step};
use super::expand::{expand, expand_step};
use super::json::compact_step;
use super::model::{CommandStep, StepSpec, WaitStep};
use super::yaml::{self, Mapping, Node, Value};
use fields::at;
use std::collections::BTreeMap;

/// How a document is read.
#[derive(Clone, Debug, Default)]
pub struct PlanOptions {
    /// Variables for interpolation; the document's own env block is added as it is read.
    pub environment: BTreeMap<String, String>,
    /// Leave `$` alone.
    pub no_interpolation: bool,
    /// The branch that `branches` speaks of.
    pub branch: String,
}

/// What a document asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Env of the whole build.
    pub env: BTreeMap<String, String>,
    /// Steps in order.
    pub steps: Vec<StepSpec>,
    /// What was passed over, for people.
    pub notes: Vec<String>,
}

/// Reads a source. `None`: it holds no document at all.
///
/// # Errors
/// The first thing that is wrong, with its place.
pub fn read(source_name: &str, bytes: &[u8], options: PlanOptions) -> Result<Option<Plan>, PlanError> {
    let reader = Reader::new(source_name, &options);
    let text = std::str::from_utf8(bytes).map_err(|e| {
        let before = &bytes[..e.valid_up_to()];
        let line = before.iter().filter(|b| **b == b'\n').count() as u32 + 1;
        reader.error((line, 1), None, "invalid UTF-8")
    })?;
    let mut documents = Vec::new();
    for document in yaml::documents(text) {
        documents.push(document.map_err(|e| reader.error((e.line, e.column), None, e.text))?);
    }
    match documents.len() {
        0 => Ok(None),
        1 => plan(source_name, documents.remove(0), options).map(Some),
        n => Err(reader.error(at(&documents[1]), None, format!("the file holds {n} documents; one is run at a time"))),
    }
}

/// Reads a document that came as JSON, as an upload does.
///
/// # Errors
/// The first thing that is wrong, without a place.
pub fn read_json(source_name: &str, json: serde_json::Value, options: PlanOptions) -> Result<Plan, PlanError> {
    plan(source_name, yaml::from_json(json), options)
}

/// Reads a tree.
///
/// # Errors
/// The first thing that is wrong, with its place.
pub fn plan(source_name: &str, root: Node, mut options: PlanOptions) -> Result<Plan, PlanError> {
    let mut reader = Reader::new(source_name, &options);
    // Places are lost when the document is normalised, so the tree as written is kept beside it.
    let items = reader.check(&root)?;
    let mut document = document::read(root).map_err(|e| reader.error((0, 0), None, e.0))?;
    let steps = std::mem::take(&mut document.steps);
    if !options.no_interpolation {
        expand(&mut document, &mut options.environment, false).map_err(|e| reader.error((0, 0), None, e.to_string()))?;
    }
    let mut plan = Plan { env: document.env.unwrap_or_default().into_iter().collect(), ..Plan::default() };
    let mut defaults = CommandStep::default();
    for (key, node) in &document.rest {
        match key.as_str() {
            "agents" => defaults.agents = fields::agents(&reader, node)?,
            "priority" => defaults.priority = fields::integer(&reader, node, key)?,
            "image" => return Err(reader.unsupported(at(node), key)),
            "notify" => plan.notes.push("`notify` is recorded, not sent".into()),
            _ => plan.notes.push(format!("`{key}` is not a setting of a pipeline; it is passed over")),
        }
    }
    for (i, (mut step, item)) in steps.into_iter().zip(&items).enumerate() {
        reader.step = Some((i + 1, name_of(item)));
        if !options.no_interpolation {
            expand_step(&mut step, &options.environment).map_err(|e| {
                let field = e.place.split_whitespace().nth(1).map(|f| f.trim_end_matches(':').to_owned());
                let node = field.as_deref().and_then(|f| written(item, f)).unwrap_or(item);
                reader.error(at(node), None, e.to_string())
            })?;
        }
        plan.steps.push(reader.step(&step, item, &defaults, &mut plan.notes)?);
    }
    Ok(plan)
}

/// Reads one document; knows where it is, for messages.
struct Reader {
    source_name: std::sync::Arc<str>,
    step: Option<(usize, String)>,
    branch: String,
}

impl Reader {
    fn new(source_name: &str, options: &PlanOptions) -> Reader {
        Reader { source_name: source_name.into(), step: None, branch: options.branch.clone() }
    }

    fn error(&self, at: (u32, u32), field: Option<&str>, message: impl Into<String>) -> PlanError {
        let (step, field) = (self.step.clone(), field.map(str::to_owned));
        PlanError { source_name: self.source_name.clone(), at, step, field, message: message.into(), help: None }
    }

    fn unsupported(&self, at: (u32, u32), field: &str) -> PlanError {
        let mut e = self.error(at, Some(field), "the embedded control plane does not do this");
        e.help = Some("remove it, or run the pipeline on Buildkite with `ibex start`");
        e
    }

    /// The shape of the document, before anything is normalised; its step items as written.
    fn check(&mut self, root: &Node) -> Result<Vec<Node>, PlanError> {
        let items = match &root.value {
            Value::List(items) => items.clone(),
            Value::Map(map) => {
                for key in ["checkout", "secrets"] {
                    if let Some(node) = map.get(key) {
                        return Err(self.unsupported(at(node), key));
                    }
                }
                if let Some(env) = map.get("env") {
                    self.check_env(env)?;
                }
                match map.get("steps").map(|n| (&n.value, n)) {
                    None => return Err(self.error(at(root), Some("steps"), "the pipeline has no steps")),
                    Some((Value::List(items), _)) => items.clone(),
                    Some((Value::Null, _)) => Vec::new(),
                    Some((other, node)) => {
                        return Err(self.error(at(node), Some("steps"), format!("must be a list, not {}", fields::kind(other))));
                    }
                }
            }
            other => {
                let kind = fields::kind(other);
                return Err(self.error(at(root), None, format!("a pipeline is a mapping with `steps`, or a list of steps, not {kind}")));
            }
        };
        for (i, item) in items.iter().enumerate() {
            self.step = Some((i + 1, name_of(item)));
            self.check_item(item)?;
        }
        self.step = None;
        Ok(items)
    }

    fn check_env(&self, env: &Node) -> Result<(), PlanError> {
        let map = match &env.value {
            Value::Map(map) => map,
            Value::Null => return Ok(()),
            other => return Err(self.error(at(env), Some("env"), format!("must be a mapping, not {}", fields::kind(other)))),
        };
        match map.iter().find(|(_, node)| node.text().is_none()) {
            Some((name, node)) => Err(self.error(at(node), Some(&format!("env.{name}")), format!("must be text, not {}", fields::kind(&node.value)))),
            None => Ok(()),
        }
    }

    /// What the document reader would turn into an unknown step is refused with its reason.
    fn check_item(&self, item: &Node) -> Result<(), PlanError> {
        let place = at(item);
        let map = match &item.value {
            Value::Text(word) => match word.as_str() {
                "wait" | "waiter" => return Ok(()),
                "block" | "input" | "manual" => return Err(self.unsupported(place, word)),
                _ => {
                    let mut e = self.error(place, None, format!("unknown step type {word:?}, want one of [wait waiter block input manual]"));
                    e.help = Some("to run a command, write `command: …`");
                    return Err(e);
                }
            },
            Value::Map(map) => map,
            other => return Err(self.error(place, None, format!("a step is a mapping or a word, not {}", fields::kind(other)))),
        };
        let kind = match map.get("type") {
            Some(node) => match &node.value {
                Value::Text(word) => word.as_str(),
                other => return Err(self.error(at(node), Some("type"), format!("must be text, not {}", fields::kind(other)))),
            },
            None => {
                const WORDS: [&str; 10] = ["command", "commands", "plugins", "wait", "waiter", "block", "input", "manual", "trigger", "group"];
                WORDS
                    .iter()
                    .find(|w| map.contains_key(**w))
                    .copied()
                    .ok_or_else(|| self.error(place, None, format!("cannot infer step type: need one of [{}]", WORDS.join(" "))))?
            }
        };
        match kind {
            "command" | "commands" | "script" | "plugins" => self.check_command(map),
            "wait" | "waiter" => Ok(()),
            "block" | "input" | "manual" | "trigger" | "group" => Err(self.unsupported(map.get(kind).map_or(place, at), kind)),
            _ => Err(self.error(place, Some("type"), format!("unknown step type {kind:?}"))),
        }
    }

    fn check_command(&self, map: &Mapping) -> Result<(), PlanError> {
        for key in ["plugins", "secrets", "cache", "checkout", "signature", "matrix"] {
            if let Some(node) = map.get(key) {
                return Err(self.unsupported(at(node), key));
            }
        }
        for key in ["command", "commands"] {
            if let Some(node) = map.get(key).filter(|n| fields::texts(n).is_none()) {
                return Err(self.error(at(node), Some(key), "must be text or a list of text"));
            }
        }
        for key in ["label", "name", "key", "id", "identifier"] {
            if let Some(node) = map.get(key) {
                fields::text(self, node, key)?;
            }
        }
        map.get("env").map_or(Ok(()), |env| self.check_env(env))
    }

    fn step(&self, step: &Step, item: &Node, defaults: &CommandStep, notes: &mut Vec<String>) -> Result<StepSpec, PlanError> {
        let raw = compact_step(step).map_err(|e| self.error(at(item), None, e.to_string()))?;
        match step {
            Step::Word(_) => Ok(WaitStep { line: item.line, ..WaitStep::default() }.into()),
            Step::Plain(map) => self.wait(map, item).map(Into::into),
            Step::Command(fields) => self.command(fields, raw, item, defaults, notes).map(Into::into),
            Step::Group(_) => Err(self.unsupported(at(item), "group")),
            Step::Unknown(_) => Err(self.error(at(item), None, "the step cannot be read")),
        }
    }

    fn command(
        &self,
        from: &CommandFields,
        raw: String,
        item: &Node,
        defaults: &CommandStep,
        notes: &mut Vec<String>,
    ) -> Result<CommandStep, PlanError> {
        let mut step = CommandStep {
            key: Some(from.key.clone()).filter(|k| !k.is_empty()),
            label: from.label.clone(),
            command: from.command.clone(),
            env: from.env.iter().cloned().collect(),
            raw: raw.into(),
            line: item.line,
            ..defaults.clone()
        };
        for (key, node) in &from.rest {
            match key.as_str() {
                // The alternative that was not used says the same in other words.
                "type" | "label" | "name" | "key" | "id" | "identifier" => {}
                "depends_on" => step.depends_on = Some(fields::depends_on(self, node)?),
                "allow_dependency_failure" => step.allow_dependency_failure = fields::boolean(self, node, key)?,
                "soft_fail" => step.soft_fail = fields::soft_fail(self, node)?,
                "skip" => step.skip = fields::skip(self, node)?,
                "timeout_in_minutes" | "timeout" => step.timeout = fields::minutes(self, node, key)?,
                "parallelism" => step.parallelism = fields::parallelism(self, node)?,
                "retry" => step.retry = fields::retry(self, node)?,
                "agents" => step.agents = fields::agents(self, node)?,
                "priority" => step.priority = fields::integer(self, node, key)?,
                "branches" => step.excluded = !fields::branch_matches(&fields::branches(self, node)?, &self.branch),
                "artifact_paths" | "artifacts" => notes.push(format!("{}: files of `{key}` stay in the working tree", self.place())),
                _ => return Err(self.unsupported(at(node), key)),
            }
        }
        Ok(step)
    }

    fn wait(&self, map: &Mapping, item: &Node) -> Result<WaitStep, PlanError> {
        let mut step = WaitStep { line: item.line, ..WaitStep::default() };
        for (key, node) in map {
            match key.as_str() {
                "type" | "wait" | "waiter" | "label" | "name" => {}
                "key" | "id" | "identifier" => {
                    let text = fields::text(self, node, key)?;
                    step.key = step.key.or(Some(text)).filter(|k| !k.is_empty());
                }
                "continue_on_failure" => step.continue_on_failure = fields::boolean(self, node, key)?,
                "allow_dependency_failure" => step.allow_dependency_failure = fields::boolean(self, node, key)?,
                "depends_on" => step.depends_on = Some(fields::depends_on(self, node)?),
                "branches" => step.excluded = !fields::branch_matches(&fields::branches(self, node)?, &self.branch),
                _ => return Err(self.unsupported(at(node), key)),
            }
        }
        Ok(step)
    }

    fn place(&self) -> String {
        match &self.step {
            Some((number, title)) => format!("step {number} ({title})"),
            None => "the pipeline".into(),
        }
    }
}

/// A field of a step as it was written.
fn written<'a>(item: &'a Node, field: &str) -> Option<&'a Node> {
    let map = item.as_map()?;
    let names: &[&str] = match field {
        "command" => &["commands", "command"],
        "label" => &["label", "name"],
        "key" => &["key", "id", "identifier"],
        _ => return map.get(field),
    };
    names.iter().find_map(|n| map.get(*n))
}

/// What people call a step that has not been read yet.
fn name_of(item: &Node) -> String {
    let Some(map) = item.as_map() else { return item.text().unwrap_or_default() };
    let names = ["label", "name", "key", "id", "identifier", "group", "trigger", "block", "input", "command", "commands"];
    let name = names.iter().filter_map(|n| fields::texts(map.get(*n)?)).flatten().find(|t| !t.is_empty());
    name.and_then(|n| n.lines().next().map(str::to_owned)).unwrap_or_default()
}
