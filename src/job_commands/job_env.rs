//! `env get`, `env set`, `env unset`: the job's environment, through the Job API (commands §11.5–11.7).

use super::value;
use crate::cli::{Failure, Invocation, Leaf, Run, Section, print};
use crate::flags::{Flag, GLOBAL, Kind::Text, flag, process_env};
use crate::job_api::JobApi;
use crate::log::Logger;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

/// Longest line of standard input.
const LINE_BYTES: usize = 64 * 1024;

static GET_FLAGS: &[Flag] = &[flag("format", Text, &["BUILDKITE_AGENT_ENV_GET_FORMAT"], "Output format: plain, json or json-pretty").or("plain")];

/// `env get`
pub(super) static GET: Leaf = Leaf {
    path: "env get",
    section: Section::Job,
    about: "Get variables of the job's environment",
    usage: "[name]... [options...]",
    description: "Prints variables of the environment of the job, as later hooks and commands will see them.\n\nExample:\n\n    $ buildkite-agent env get MESSAGE",
    flags: &[GET_FLAGS, GLOBAL],
    run: Run::Resolved(get),
};

/// A client, or the message of `env …` and `workdir set` when there is none (commands §10).
pub(super) fn job_api() -> Result<JobApi, Failure> {
    JobApi::from_env(&process_env).map_err(|reason| {
        Failure::Fatal(format!(
            "could not create Job API client: {reason}\nthis command can only be used from hooks or plugins running under a job executor\nwhere the agent's job API is available in Buildkite Agent v3.64.0 and later"
        ))
    })
}

fn get(call: &Invocation) -> Result<u8, Failure> {
    let log = Logger::of_command(&call.values, call.leaf.path)?;
    let format = call.values.text("format");
    if !matches!(format, "plain" | "json" | "json-pretty") {
        return Err(Failure::Fatal(format!("Invalid output format {format:?}: use plain, json or json-pretty")));
    }
    let answer =
        job_api()?.call("GET", "/env", None).map_err(|e| Failure::Fatal(format!("couldn't fetch the job executor environment variables: {e}")))?;
    let all: BTreeMap<String, String> =
        answer.get("env").and_then(Value::as_object).map(|env| env.iter().map(|(k, v)| (k.clone(), text_of(v))).collect()).unwrap_or_default();
    let names = &call.positionals;
    let missing: Vec<&String> = names.iter().filter(|n| !all.contains_key(*n)).collect();
    let found: BTreeMap<&str, &str> =
        all.iter().filter(|(k, _)| names.is_empty() || names.contains(k)).map(|(k, v)| (k.as_str(), v.as_str())).collect();
    print(&shown(format, names.len(), &found))?;
    for name in &missing {
        log.warn(format!("{name:?} is not set"));
    }
    Ok(u8::from(!missing.is_empty()))
}

fn text_of(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn shown(format: &str, asked: usize, found: &BTreeMap<&str, &str>) -> String {
    match (format, asked) {
        ("json", _) => serde_json::to_string(found).unwrap_or_default() + "\n",
        ("json-pretty", _) => serde_json::to_string_pretty(found).unwrap_or_default() + "\n",
        (_, 1) => found.values().map(|v| format!("{v}\n")).collect(),
        _ => {
            // Sorted as whole lines: `A=1` comes after `A-B=1`.
            let mut lines: Vec<String> = found.iter().map(|(k, v)| format!("{k}={v}\n")).collect();
            lines.sort();
            lines.concat()
        }
    }
}

static SET_FLAGS: &[Flag] = &[
    flag("input-format", Text, &["BUILDKITE_AGENT_ENV_SET_INPUT_FORMAT"], "Input format: plain or json").or("plain"),
    flag("output-format", Text, &["BUILDKITE_AGENT_ENV_SET_OUTPUT_FORMAT"], "Output format: plain, json, json-pretty or quiet").or("plain"),
];

/// `env set`
pub(super) static SET: Leaf = Leaf {
    path: "env set",
    section: Section::Job,
    about: "Set variables of the job's environment",
    usage: "[NAME=value | -]... [options...]",
    description: "Sets variables of the environment of the job. `-` reads lines from standard input.\n\nExample:\n\n    $ buildkite-agent env set LLAMA=grumpy",
    flags: &[SET_FLAGS, GLOBAL],
    run: Run::Resolved(set),
};

fn set(call: &Invocation) -> Result<u8, Failure> {
    let format = input_format(call)?;
    let mut env = Map::new();
    each_item(call, |item| match format {
        "json" => {
            let object: BTreeMap<String, String> = serde_json::from_str(item).map_err(|e| e.to_string())?;
            env.extend(object.into_iter().map(|(k, v)| (k, Value::from(v))));
            Ok(())
        }
        _ => match item.split_once('=') {
            Some((name, value)) if !name.is_empty() => {
                env.insert(name.to_owned(), value.into());
                Ok(())
            }
            _ => Err(format!("{item:?} is not in key=value format")),
        },
    })?;
    let answer = job_api()?
        .call("PATCH", "/env", Some(&json!({ "env": env })))
        .map_err(|e| Failure::Fatal(format!("couldn't update the job executor environment: {e}")))?;
    let (added, updated) = (names(&answer, "added"), names(&answer, "updated"));
    match call.values.text("output-format") {
        "quiet" => Ok(0),
        "plain" => {
            let mut out = listed("Added:", '+', &added) + &listed("Updated:", '~', &updated);
            if out.is_empty() {
                out = "No variables added or updated.\n".into();
            }
            print(&out)
        }
        format @ ("json" | "json-pretty") => print(&encoded(format, &json!({ "added": added, "updated": updated }))),
        other => Err(Failure::Fatal(format!("invalid output format {other:?}"))),
    }
}

static UNSET_FLAGS: &[Flag] = &[
    flag("input-format", Text, &["BUILDKITE_AGENT_ENV_UNSET_INPUT_FORMAT"], "Input format: plain or json").or("plain"),
    flag("output-format", Text, &["BUILDKITE_AGENT_ENV_UNSET_OUTPUT_FORMAT"], "Output format: plain, json, json-pretty or quiet").or("plain"),
];

/// `env unset`
pub(super) static UNSET: Leaf = Leaf {
    path: "env unset",
    section: Section::Job,
    about: "Unset variables of the job's environment",
    usage: "[NAME | -]... [options...]",
    description: "Removes variables from the environment of the job. `-` reads lines from standard input.\n\nExample:\n\n    $ buildkite-agent env unset LLAMA",
    flags: &[UNSET_FLAGS, GLOBAL],
    run: Run::Resolved(unset),
};

fn unset(call: &Invocation) -> Result<u8, Failure> {
    let format = input_format(call)?;
    let mut keys: Vec<String> = Vec::new();
    each_item(call, |item| {
        match format {
            "json" => keys.extend(serde_json::from_str::<Vec<String>>(item).map_err(|e| e.to_string())?),
            _ => keys.push(item.to_owned()),
        }
        Ok(())
    })?;
    let answer = job_api()?
        .call("DELETE", "/env", Some(&json!({ "keys": keys })))
        .map_err(|e| Failure::Fatal(format!("couldn't unset the job executor environment variables: {e}")))?;
    let deleted = names(&answer, "deleted");
    match call.values.text("output-format") {
        "quiet" => Ok(0),
        "plain" if deleted.is_empty() => print("No variables unset.\n"),
        "plain" => print(&listed("Unset:", '-', &deleted)),
        format @ ("json" | "json-pretty") => print(&encoded(format, &json!(deleted))),
        other => Err(Failure::Fatal(format!("invalid output format {other:?}"))),
    }
}

fn input_format(call: &Invocation) -> Result<&str, Failure> {
    match call.values.text("input-format") {
        format @ ("plain" | "json") => Ok(format),
        other => Err(Failure::Fatal(format!("invalid input format {other:?}"))),
    }
}

/// Gives `take` every argument, and every line of standard input in place of `-`.
fn each_item(call: &Invocation, mut take: impl FnMut(&str) -> Result<(), String>) -> Result<(), Failure> {
    for argument in &call.positionals {
        if argument != "-" {
            take(argument).map_err(|e| Failure::Fatal(format!("couldn't parse the command-line argument {argument:?}: {e}")))?;
            continue;
        }
        let input = value::stdin()?;
        for (i, line) in input.lines().enumerate() {
            if line.len() > LINE_BYTES {
                return Err(Failure::Fatal("couldn't scan the input buffer: a line is longer than 64 KiB".into()));
            }
            take(line).map_err(|e| Failure::Fatal(format!("couldn't parse input line {}: {e}", i + 1)))?;
        }
    }
    Ok(())
}

fn names(answer: &Value, key: &str) -> Vec<String> {
    let mut names: Vec<String> = answer.get(key).and_then(Value::as_array).map(|a| a.iter().map(text_of).collect()).unwrap_or_default();
    names.sort();
    names
}

fn listed(title: &str, sign: char, names: &[String]) -> String {
    match names {
        [] => String::new(),
        names => format!("{title}\n") + &names.iter().map(|n| format!("{sign} {n}\n")).collect::<String>(),
    }
}

fn encoded(format: &str, value: &Value) -> String {
    let text = if format == "json" { serde_json::to_string(value) } else { serde_json::to_string_pretty(value) };
    text.unwrap_or_default() + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_output_depends_on_how_many_names_were_asked_for() {
        let found: BTreeMap<&str, &str> = [("A", "1"), ("A-B", "2")].into();
        assert_eq!(shown("plain", 2, &found), "A-B=2\nA=1\n");
        assert_eq!(shown("plain", 1, &[("A", "<1>")].into()), "<1>\n");
        assert_eq!(shown("json", 1, &[("A", "<1>")].into()), "{\"A\":\"<1>\"}\n");
        assert_eq!(shown("json-pretty", 0, &[("A", "1")].into()), "{\n  \"A\": \"1\"\n}\n");
    }

    #[test]
    fn lists_have_a_title_only_if_they_have_names() {
        assert_eq!(listed("Added:", '+', &["A".into(), "B".into()]), "Added:\n+ A\n+ B\n");
        assert_eq!(listed("Added:", '+', &[]), "");
    }
}
