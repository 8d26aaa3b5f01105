//! `secret get` (commands §11.10).

use super::credentials::{Wording, redact};
use crate::api::{Client, bare, block_on, field};
use crate::cli::{Failure, Invocation, Leaf, Run, Section, print};
use crate::flags::Kind::{Bool, Text};
use crate::flags::{API, Flag, GLOBAL, JOB, flag};
use ibex_core::api::{Outcome, escape_query, escape_segment};
use ibex_core::retry;
use std::collections::BTreeMap;
use std::rc::Rc;
use tokio::task::JoinSet;

/// Requests in flight.
const AT_ONCE: usize = 10;

static FLAGS: &[Flag] = &[
    flag("format", Text, &["BUILDKITE_AGENT_SECRET_GET_FORMAT"], "Output format: default (the value, or json for several), json or env")
        .or("default"),
    flag("skip-redaction", Bool, &["BUILDKITE_AGENT_SECRET_GET_SKIP_SECRET_REDACTION"], "Do not mask the values in the job's log"),
];

/// `secret get`
pub(crate) static GET: Leaf = Leaf {
    path: "secret get",
    section: Section::Job,
    about: "Get a list of secrets by their keys",
    usage: "<key>... [options...]",
    description: "Prints the values of secrets.\n\nExample:\n\n    $ buildkite-agent secret get deploy_key",
    flags: &[API, JOB, FLAGS, GLOBAL],
    run: Run::Resolved(get),
};

const WORDS: Wording = Wording {
    kind: "secret",
    what: "secret values",
    pronoun: "they",
    output: "the secret values",
    variable: "BUILDKITE_AGENT_SECRET_GET_SKIP_SECRET_REDACTION",
    refused: "failed to redact secrets",
};

fn get(call: &Invocation) -> Result<u8, Failure> {
    let keys = &call.positionals;
    if keys.is_empty() {
        return Err(Failure::Fatal("at least one secret key must be provided".into()));
    }
    let format = call.values.text("format");
    if !matches!(format, "default" | "json" | "env") {
        return Err(Failure::Fatal(format!("invalid format {format:?}: must be one of 'default', 'json', or 'env'")));
    }
    let client = Rc::new(Client::of(call)?);
    let job = escape_segment(call.values.text("job"));
    let secrets = block_on(fetch_all(client, &job, keys))?;
    redact(call, &WORDS, secrets.values().map(String::as_str))?;
    print(&shown(format, keys.len(), &secrets))
}

async fn fetch_all(client: Rc<Client>, job: &str, keys: &[String]) -> Result<BTreeMap<String, String>, Failure> {
    let mut running: JoinSet<(usize, Result<String, String>)> = JoinSet::new();
    let mut answers: Vec<Option<Result<String, String>>> = keys.iter().map(|_| None).collect();
    let mut waiting = keys.iter().enumerate();
    loop {
        while running.len() < AT_ONCE
            && let Some((i, key)) = waiting.next()
        {
            let (client, path) = (client.clone(), format!("jobs/{job}/secrets?key={}", escape_query(key)));
            running.spawn_local(async move {
                let reply = client.send(bare("GET", path, true), &retry::SECRET, Outcome::retryable).await;
                (i, reply.map(|r| field(&r, "value")).map_err(|e| e.text().to_owned()))
            });
        }
        match running.join_next().await {
            Some(Ok((i, answer))) => answers[i] = Some(answer),
            Some(Err(e)) => std::panic::resume_unwind(e.into_panic()),
            None => break,
        }
    }
    let mut secrets = BTreeMap::new();
    let mut failures = String::new();
    for (key, answer) in keys.iter().zip(answers.into_iter().flatten()) {
        match answer {
            Ok(value) => {
                secrets.insert(key.clone(), value);
            }
            Err(e) => failures.push_str(&format!(" - secret {key:?}: {e}\n")),
        }
    }
    if failures.is_empty() { Ok(secrets) } else { Err(Failure::Fatal(format!("Failed to fetch some secrets:\n{failures}"))) }
}

fn shown(format: &str, asked: usize, secrets: &BTreeMap<String, String>) -> String {
    match (format, asked) {
        ("env", _) => secrets.iter().map(|(k, v)| format!("{}='{}'\n", k.to_uppercase(), v.replace('\'', "'\\''"))).collect(),
        ("default", 1) => secrets.values().map(|v| format!("{v}\n")).collect(),
        _ => serde_json::to_string(secrets).unwrap_or_default() + "\n",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_formats() {
        let one: BTreeMap<String, String> = [("s".to_owned(), "it's".to_owned())].into();
        let two: BTreeMap<String, String> = [("two".to_owned(), "<2>".to_owned()), ("one".to_owned(), "1".to_owned())].into();
        for (format, asked, secrets, text) in [
            ("default", 1, &one, "it's\n"),
            ("default", 2, &one, "{\"s\":\"it's\"}\n"),
            ("json", 1, &one, "{\"s\":\"it's\"}\n"),
            ("env", 1, &one, "S='it'\\''s'\n"),
            ("default", 2, &two, "{\"one\":\"1\",\"two\":\"<2>\"}\n"),
            ("env", 2, &two, "ONE='1'\nTWO='<2>'\n"),
        ] {
            assert_eq!(shown(format, asked, secrets), text);
        }
    }
}
