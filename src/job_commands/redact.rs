//! Redaction of text that leaves the machine (commands §9): values of variables of this process's own environment.

use crate::cli::{Failure, Invocation};
use crate::log::Logger;
use ibex_core::log::{RedactionWarning, Redactor, secrets_from_env};
use std::collections::BTreeMap;

/// Removes secrets from texts of one command.
pub(super) struct Outgoing {
    redactor: Redactor,
}

impl Outgoing {
    /// With the secrets that the patterns of `call` select.
    pub(super) fn of(call: &Invocation) -> Result<Outgoing, Failure> {
        let env: BTreeMap<String, String> =
            std::env::vars_os().map(|(k, v)| (k.to_string_lossy().into_owned(), v.to_string_lossy().into_owned())).collect();
        let (secrets, warnings) = secrets_from_env(call.values.list("redacted-vars"), &env);
        let bad: Vec<String> = warnings
            .into_iter()
            .filter_map(|w| match w {
                RedactionWarning::BadPattern(p) => Some(format!("{p:?}")),
                RedactionWarning::TooShort(_) => None,
            })
            .collect();
        if !bad.is_empty() {
            return Err(Failure::Fatal(format!("finding env vars to redact: bad patterns: [{}]", bad.join(" "))));
        }
        let mut redactor = Redactor::new();
        for secret in &secrets {
            redactor.add(secret.expose());
        }
        Ok(Outgoing { redactor })
    }

    /// Names of secret variables whose value stands in a pipeline (pipeline §1.5): `declared` by the pipeline itself, or of `vars`
    /// and found in its JSON.
    pub(super) fn names_in(
        call: &Invocation,
        log: &Logger,
        vars: &BTreeMap<String, String>,
        declared: &[(String, String)],
        json: &str,
    ) -> Vec<String> {
        let patterns = call.values.list("redacted-vars");
        let (_, warnings) = secrets_from_env(patterns, vars);
        let (mut bad, mut short) = (Vec::new(), Vec::new());
        for warning in warnings {
            match warning {
                RedactionWarning::BadPattern(p) => bad.push(format!("{p:?}")),
                RedactionWarning::TooShort(names) => short.extend(names),
            }
        }
        if !bad.is_empty() {
            log.warn(format!("Couldn't match environment variable names against redacted-vars: bad patterns: [{}]", bad.join(" ")));
            return Vec::new();
        }
        if !short.is_empty() {
            log.warn(format!("Some variables have values below minimum length (6 bytes) and will not be redacted: {}", short.join(", ")));
        }
        // One variable at a time, so that the name of what is found is known.
        let secret = |name: &str, value: &str| {
            let one = BTreeMap::from([(name.to_owned(), value.to_owned())]);
            !secrets_from_env(patterns, &one).0.is_empty()
        };
        let reference = |value: &str| {
            let empty = |_: &str| None;
            value.starts_with('$') && ibex_core::pipeline::interpolate::interpolate(value, &empty).is_ok_and(|v| v.is_empty())
        };
        let leaked = |value: &str| {
            let escaped = serde_json::to_string(value).unwrap_or_default();
            let inner = escaped.trim_matches('"');
            // In the JSON the characters <, > and & are escaped, too.
            let upload = inner.replace('<', "\\u003c").replace('>', "\\u003e").replace('&', "\\u0026");
            json.contains(value) || json.contains(inner) || json.contains(&upload)
        };
        let mut names: Vec<String> = declared.iter().filter(|(n, v)| secret(n, v) && !reference(v)).map(|(n, _)| n.clone()).collect();
        names.extend(vars.iter().filter(|(n, v)| secret(n, v) && leaked(v)).map(|(n, _)| n.clone()));
        names.sort();
        names.dedup();
        names
    }

    /// `text` without secrets; `what` begins the warning if there were any.
    pub(super) fn text(&mut self, what: &str, text: String, log: &Logger) -> String {
        let redacted = self.redactor.redact(text.as_bytes());
        if redacted == text.as_bytes() {
            return text;
        }
        log.warn(format!(
            "{what} contained one or more secrets from environment variables that have been redacted. If this is deliberate, pass --redacted-vars='' or a list of patterns that does not match the variable containing the secret"
        ));
        String::from_utf8_lossy(&redacted).into_owned()
    }
}
