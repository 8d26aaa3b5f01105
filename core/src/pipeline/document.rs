//! A pipeline as it is uploaded: which kind each step is, which of its fields are known, what falls back to "as written"
//! (pipeline §2.5–2.11). Interpolation works on this form ([`super::expand`]), JSON is made from it ([`super::json`]).

use super::fields::{self, FieldError};
use super::yaml::{Mapping, Node, Value};

/// A pipeline document.
#[derive(Clone, Debug, PartialEq)]
pub struct Document {
    /// Ordered; `None`: absent.
    pub env: Option<Vec<(String, String)>>,
    /// Steps.
    pub steps: Vec<Step>,
    /// Secrets, printed when not empty.
    pub secrets: Vec<SecretRef>,
    /// Checkout settings.
    pub checkout: Option<Checkout>,
    /// All other keys, as read.
    pub rest: Mapping,
    /// What was odd; a tree of lines.
    pub warnings: Vec<Warning>,
}

/// One entry of `steps`.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// Runs a command.
    Command(Box<CommandFields>),
    /// `wait`, `block`, `input` and the like as a word.
    Word(String),
    /// Wait, input or trigger as a mapping; keys are printed sorted.
    Plain(Mapping),
    /// A group of steps.
    Group(Box<GroupFields>),
    /// Anything else, printed as read.
    Unknown(Node),
}

/// A command step with its known fields taken out.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct CommandFields {
    /// Joined with LF.
    pub command: String,
    /// Key, empty: none.
    pub key: String,
    /// Label, empty: none.
    pub label: String,
    /// Step env, names sorted.
    pub env: Vec<(String, String)>,
    /// Full source and configuration.
    pub plugins: Vec<(String, Node)>,
    /// Secrets.
    pub secrets: Vec<SecretRef>,
    /// Cache settings, normalised.
    pub cache: Option<Node>,
    /// Checkout settings.
    pub checkout: Option<Checkout>,
    /// `algorithm`, `signed_fields`, `value`.
    pub signature: Option<Node>,
    /// Build matrix, normalised.
    pub matrix: Option<Node>,
    /// All other keys, as read.
    pub rest: Mapping,
}

/// A group step.
#[derive(Clone, Debug, PartialEq)]
pub struct GroupFields {
    /// Name; null is printed too.
    pub group: Option<String>,
    /// Key, empty: none.
    pub key: String,
    /// Inner steps.
    pub steps: Vec<Step>,
    /// All other keys, as read.
    pub rest: Mapping,
}

/// One entry of `secrets`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SecretRef {
    /// Key in the secret store.
    pub key: String,
    /// Variable, empty: none.
    pub environment_variable: String,
}

/// `checkout`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Checkout {
    /// `skip`, `submodules`, `ssh_secret`, `depth`, where given; never interpolated.
    pub known: Vec<(&'static str, Node)>,
    /// Other entries.
    pub rest: Mapping,
}

/// A line and the lines below it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning {
    /// The line.
    pub text: String,
    /// Causes.
    pub causes: Vec<Warning>,
}

impl Warning {
    fn new(text: impl Into<String>) -> Warning {
        Warning { text: text.into(), causes: Vec::new() }
    }

    fn of(text: impl Into<String>, causes: Vec<Warning>) -> Warning {
        Warning { text: text.into(), causes }
    }

    /// The tree as nested lines: each cause indented, behind an arrow.
    pub fn render(&self) -> String {
        let mut out = self.text.clone();
        for cause in &self.causes {
            for (i, line) in cause.render().lines().enumerate() {
                out.push_str(if i == 0 { "\n  ↳ " } else { "\n    " });
                out.push_str(line);
            }
        }
        out
    }
}

/// A document that is refused as a whole (pipeline §2.11).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct DocumentError(pub String);

const KINDS: &str = "[command commands plugins wait waiter block input manual trigger group]";

/// Reads a document.
///
/// # Errors
/// The shape of the document, of its typed keys or of a step item is not one of a pipeline.
pub fn read(node: Node) -> Result<Document, DocumentError> {
    let mut document = Document { env: None, steps: Vec::new(), secrets: Vec::new(), checkout: None, rest: Mapping::new(), warnings: Vec::new() };
    match node.value {
        Value::List(items) => {
            let (steps, warnings) = steps(items)?;
            document.steps = steps;
            document.warnings = match warnings.as_slice() {
                [_] | [] => warnings,
                _ => vec![Warning::of("while unmarshaling steps", warnings)],
            };
        }
        Value::Map(map) => mapping(map, &mut document)?,
        other => return Err(DocumentError(format!("unmarshaling Pipeline: unsupported type {}", fields::kind(&other)))),
    }
    Ok(document)
}

fn mapping(mut map: Mapping, document: &mut Document) -> Result<(), DocumentError> {
    let hard = |what: &str, e: FieldError| DocumentError(format!("unmarshaling Pipeline: unmarshaling {what}: {e}"));
    match map.shift_remove("steps").map(|n| n.value) {
        None => document.warnings.push(Warning::new("pipeline contains no steps")),
        Some(Value::Null) => {}
        Some(Value::List(items)) => {
            let (steps, warnings) = steps(items)?;
            document.steps = steps;
            if !warnings.is_empty() {
                document.warnings.push(Warning::of("while unmarshaling the value for key \"steps\" into struct field \"Steps\"", warnings));
            }
        }
        Some(other) => return Err(DocumentError(format!("unmarshaling Pipeline: unmarshaling steps: unsupported type {}", fields::kind(&other)))),
    }
    if let Some(env) = map.shift_remove("env")
        && env.value != Value::Null
    {
        document.env = Some(fields::env(&env).map_err(|e| hard("env", e))?);
    }
    if let Some(secrets) = map.shift_remove("secrets") {
        document.secrets = fields::secrets(&secrets).map_err(|e| hard("secrets", e))?;
    }
    if let Some(checkout) = map.shift_remove("checkout") {
        document.checkout = fields::checkout(&checkout).map_err(|e| hard("checkout", e))?;
    }
    document.rest = map;
    Ok(())
}

type Read = (Vec<Step>, Vec<Warning>);

fn steps(items: Vec<Node>) -> Result<Read, DocumentError> {
    let total = items.len();
    let (mut steps, mut warnings) = (Vec::with_capacity(total), Vec::new());
    for (i, item) in items.into_iter().enumerate() {
        let (read, causes) = step(item)?;
        steps.push(read);
        if !causes.is_empty() {
            warnings.push(Warning::of(format!("while unmarshaling step {} of {total}", i + 1), causes));
        }
    }
    Ok((steps, warnings))
}

/// Which kind a step is (pipeline §2.6), and how it reads.
fn step(item: Node) -> Result<(Step, Vec<Warning>), DocumentError> {
    let map = match &item.value {
        Value::Text(word) => {
            return Ok(match word.as_str() {
                "wait" | "waiter" | "block" | "input" | "manual" => (Step::Word(word.clone()), Vec::new()),
                _ => {
                    let warning = Warning::new(format!("unknown step type {word:?}, want one of [wait waiter block input manual]"));
                    (Step::Unknown(item), vec![warning])
                }
            });
        }
        Value::Map(map) => map,
        other => return Err(DocumentError(format!("unmarshaling step: unsupported type {}", fields::kind(other)))),
    };
    let has = |keys: &[&str]| keys.iter().any(|k| map.contains_key(*k));
    let kind = match map.get("type").map(|n| &n.value) {
        Some(Value::Text(t)) => t.as_str(),
        Some(other) => return Err(DocumentError(format!("unmarshaling step: step's `type` key was {}, want string", fields::kind(other)))),
        None if has(&["command", "commands", "plugins"]) => "command",
        None if has(&["wait", "waiter"]) => "wait",
        None if has(&["block", "input", "manual"]) => "input",
        None if has(&["trigger"]) => "trigger",
        None if has(&["group"]) => "group",
        None => {
            let warning = Warning::new(format!("cannot infer step type: need one of {KINDS}"));
            return Ok((Step::Unknown(item), vec![warning]));
        }
    };
    let result = match kind {
        "command" | "script" => command(map.clone()),
        "wait" | "waiter" | "block" | "input" | "manual" | "trigger" => Ok(Step::Plain(map.clone())),
        "group" => group(map.clone()),
        other => {
            let warning = Warning::new(format!("unknown step type {other:?}"));
            return Ok((Step::Unknown(item), vec![warning]));
        }
    };
    Ok(match result {
        Ok(step) => (step, Vec::new()),
        Err(cause) => (Step::Unknown(item), vec![Warning::of("fell back using unknown type of step due to an unmarshaling error", cause)]),
    })
}

fn cause(field: &str) -> impl Fn(FieldError) -> Vec<Warning> + '_ {
    move |e| vec![Warning::new(format!("unmarshaling {field}: {e}"))]
}

/// The first of alternative keys that is present, even with a null value; the others stay (pipeline §2.7).
fn first(map: &mut Mapping, keys: &[&str]) -> Option<Node> {
    let key = keys.iter().find(|k| map.contains_key(**k))?;
    map.shift_remove(*key)
}

fn text_of(map: &mut Mapping, keys: &[&str]) -> Result<String, Vec<Warning>> {
    let name = keys[0];
    first(map, keys).map_or(Ok(String::new()), |n| fields::text(&n).map_err(cause(name)))
}

fn command(mut map: Mapping) -> Result<Step, Vec<Warning>> {
    let mut step = CommandFields::default();
    if map.contains_key("commands") {
        // An unused `command` next to `commands` disappears; it must be a scalar.
        if let Some(unused) = map.shift_remove("command") {
            fields::text(&unused).map_err(cause("command"))?;
        }
    }
    if let Some(node) = first(&mut map, &["commands", "command"]) {
        step.command = fields::texts(&node).map_err(cause("command"))?.join("\n");
    }
    step.label = text_of(&mut map, &["label", "name"])?;
    step.key = text_of(&mut map, &["key", "id", "identifier"])?;
    if let Some(n) = map.shift_remove("plugins") {
        step.plugins = fields::plugins(&n).map_err(cause("plugins"))?;
    }
    if let Some(n) = map.shift_remove("env") {
        step.env = if n.value == Value::Null { Vec::new() } else { fields::env(&n).map_err(cause("env"))? };
        step.env.sort();
    }
    if let Some(n) = map.shift_remove("secrets") {
        step.secrets = fields::secrets(&n).map_err(cause("secrets"))?;
    }
    if let Some(n) = map.shift_remove("cache") {
        step.cache = fields::cache(&n).map_err(cause("cache"))?;
    }
    if let Some(n) = map.shift_remove("checkout") {
        step.checkout = fields::checkout(&n).map_err(cause("checkout"))?;
    }
    if let Some(n) = map.shift_remove("signature") {
        step.signature = fields::signature(&n).map_err(cause("signature"))?;
    }
    if let Some(n) = map.shift_remove("matrix") {
        step.matrix = fields::matrix(&n).map_err(cause("matrix"))?;
    }
    step.rest = map;
    Ok(Step::Command(Box::new(step)))
}

fn group(mut map: Mapping) -> Result<Step, Vec<Warning>> {
    let group = first(&mut map, &["group", "label", "name"]);
    let group = match group {
        Some(Node { value: Value::Null, .. }) | None => None,
        Some(n) => Some(fields::text(&n).map_err(cause("group"))?),
    };
    let key = text_of(&mut map, &["key", "id", "identifier"])?;
    let items = match map.shift_remove("steps").map(|n| n.value) {
        None | Some(Value::Null) => Vec::new(),
        Some(Value::List(items)) => items,
        Some(other) => return Err(vec![Warning::new(format!("unmarshaling steps: unsupported type {}", fields::kind(&other)))]),
    };
    // Any warning inside turns the whole group into an unknown step.
    let (steps, warnings) = steps(items).map_err(|e| vec![Warning::new(e.0)])?;
    if !warnings.is_empty() {
        return Err(warnings);
    }
    Ok(Step::Group(Box::new(GroupFields { group, key, steps, rest: map })))
}
