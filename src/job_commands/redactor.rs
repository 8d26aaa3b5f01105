//! `redactor add`: values that the executor masks in the job's log from now on (commands §11.9).

use super::value;
use crate::cli::{Failure, Invocation, Leaf, Run, Section};
use crate::flags::Kind::{Bool, List, Text};
use crate::flags::{API, DEFAULT_REDACTED, Flag, GLOBAL, flag, os_text, process_env};
use crate::job_api::JobApi;
use crate::log::Logger;
use ibex_core::log::{RedactionWarning, secrets_from_env};
use std::collections::BTreeMap;

static FLAGS: &[Flag] = &[
    flag("format", Text, &["BUILDKITE_AGENT_REDACT_ADD_FORMAT"], "Input format: none (all of it is one secret) or json (an object of secrets)")
        .or("none"),
    flag("apply-vars-filter", Bool, &["BUILDKITE_AGENT_REDACT_VARS_FILTER"], "With json: only values whose names match redacted-vars"),
    flag("redacted-vars", List, &["BUILDKITE_REDACTED_VARS"], "Glob patterns of names, for apply-vars-filter").or(DEFAULT_REDACTED),
];

/// `redactor add`
pub(super) static ADD: Leaf = Leaf {
    path: "redactor add",
    section: Section::Job,
    about: "Add values to redact from a job's log output",
    usage: "[file] [options...]",
    description: "Reads secrets from a file or standard input; they are masked in everything that the job prints from now on.\n\nExample:\n\n    $ echo \"$token\" | buildkite-agent redactor add",
    flags: &[API, FLAGS, GLOBAL],
    run: Run::Resolved(add),
};

fn add(call: &Invocation) -> Result<u8, Failure> {
    let v = &call.values;
    let format = v.text("format");
    if !matches!(format, "json" | "none") {
        return Err(Failure::Fatal(format!("invalid format: {format}, must be one of [\"json\" \"none\"]")));
    }
    let log = Logger::of_command(v, call.leaf.path)?;
    // The real error may quote the secret.
    let hidden = |text: &str, error: String| Failure::Fatal(if v.bool("debug") { format!("{text}: {error}") } else { text.to_owned() });
    let input = match call.positionals.first() {
        Some(path) => {
            let opened = std::fs::read_to_string(path).map_err(|e| Failure::Fatal(format!("failed to open file {path}: {}", os_text(&e))))?;
            log.info(format!("Reading secrets from {path} for redaction"));
            opened
        }
        None => {
            log.info("Reading secrets from (stdin) for redaction");
            value::stdin()?
        }
    };
    let filter = v.bool("apply-vars-filter").then(|| v.list("redacted-vars"));
    let (secrets, short) = secrets(format, &input, filter).map_err(|e| hidden("failed to parse secrets", e))?;
    if !short.is_empty() {
        let names = short.join(", ");
        log.warn(format!("Some object keys had values below minimum length (6 bytes) and will not be redacted: {names}"));
    }
    let api = JobApi::from_env(&process_env).map_err(|reason| Failure::Fatal(format!("failed to create Job API client: {reason}")))?;
    for secret in secrets {
        api.redact(&secret).map_err(|e| hidden("failed to redact secrets", e))?;
    }
    Ok(0)
}

/// Secrets of the input, and names whose values are too short to be masked.
fn secrets(format: &str, input: &str, filter: Option<&[String]>) -> Result<(Vec<String>, Vec<String>), String> {
    if format == "none" {
        return Ok((vec![input.trim().to_owned()], Vec::new()));
    }
    let first = serde_json::Deserializer::from_str(input).into_iter::<BTreeMap<String, String>>().next();
    let object = first.ok_or("there is no JSON in the input")?.map_err(|e| e.to_string())?;
    let Some(patterns) = filter else { return Ok((object.into_values().collect(), Vec::new())) };
    let (secrets, warnings) = secrets_from_env(patterns, &object);
    let mut short = Vec::new();
    for warning in warnings {
        match warning {
            RedactionWarning::TooShort(names) => short.extend(names),
            RedactionWarning::BadPattern(pattern) => return Err(format!("bad pattern {pattern:?}")),
        }
    }
    Ok((secrets.iter().map(|s| s.expose().to_owned()).collect(), short))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_input_is_one_trimmed_secret() {
        assert_eq!(secrets("none", " a b \n", None), Ok((vec!["a b".into()], vec![])));
        assert_eq!(secrets("none", "", None), Ok((vec![String::new()], vec![])));
    }

    #[test]
    fn json_is_an_object_of_strings_which_may_be_filtered() {
        let input = r#"{"MY_TOKEN":"long-enough","X_TOKEN":"tiny","OTHER":"value-of-other"} rest"#;
        assert_eq!(secrets("json", input, None).unwrap().0.len(), 3);
        let patterns = ["*_TOKEN".to_owned()];
        assert_eq!(secrets("json", input, Some(&patterns)), Ok((vec!["long-enough".into()], vec!["X_TOKEN".into()])));
        assert!(secrets("json", r#"{"a":1}"#, None).is_err());
        assert!(secrets("json", "", None).is_err());
    }
}
