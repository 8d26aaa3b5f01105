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
