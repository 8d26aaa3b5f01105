//! `meta-data …` (commands §11.12–11.16).

use super::redact::Outgoing;
use super::{failed, require, value};
use crate::api::{Client, bare, block_on, field, json};
use crate::cli::{Failure, Invocation, Leaf, Run, Section, print};
use crate::flags::Kind::Text;
use crate::flags::{API, Flag, GLOBAL, JOB, REDACTION, Source, flag};
use ibex_core::api::{Outcome, escape_segment};
use ibex_core::retry;

/// Exit code of `exists` when the key is not there.
const ABSENT: u8 = 100;

/// Checked after the key.
static SET_JOB: &[Flag] = &[flag("job", Text, &["BUILDKITE_JOB_ID"], "Which job's build gets the meta-data")];
static SCOPE: &[Flag] = &[
    flag("job", Text, &["BUILDKITE_JOB_ID"], "Which job's build the meta-data is read from"),
    flag("build", Text, &["BUILDKITE_METADATA_BUILD_ID"], "Which build the meta-data is read from; wins over the job"),
];

/// `meta-data set`
pub(crate) static SET: Leaf = Leaf {
    path: "meta-data set",
    section: Section::Job,
    about: "Set data on a build",
    usage: "<key> [value] [options...]",
    description: "Sets a key of the build's meta-data. Without a value argument the value is read from standard input.\n\nExample:\n\n    $ buildkite-agent meta-data set release 1.2.3",
    flags: &[API, SET_JOB, REDACTION, GLOBAL],
    run: Run::Resolved(set),
};

fn set(call: &Invocation) -> Result<u8, Failure> {
    let key = call.required_argument(0, "meta-data key")?;
    let job = call.values.text("job");
    require(call, &[("job", job)])?;
    let client = Client::of(call)?;
    let value = value::argument_or_stdin(call, 1, client.log(), "Reading meta-data value from STDIN")?;
    not_blank("key", key)?;
    not_blank("value", &value)?;
    let value = Outgoing::of(call)?.text(&format!("Meta-data value for key {key:?}"), value, client.log());
    let body = serde_json::json!({ "key": key, "value": value });
    let path = format!("jobs/{}/data/set", escape_segment(job));
    client.send_and_wait(json("POST", path, &body, false), &retry::TEN_SUB).map_err(failed("failed to set meta-data"))?;
    Ok(0)
}

fn not_blank(what: &str, text: &str) -> Result<(), Failure> {
    match text.trim().is_empty() {
        true => Err(Failure::Fatal(format!("{what} cannot be empty, or composed of only whitespace characters"))),
        false => Ok(()),
    }
}

/// `meta-data set-batch`
pub(crate) static SET_BATCH: Leaf = Leaf {
    path: "meta-data set-batch",
    section: Section::Job,
    about: "Set several keys of a build's data at once",
    usage: "<key=value>... [options...]",
    description: "Sets several keys of the build's meta-data, all or none.\n\nExample:\n\n    $ buildkite-agent meta-data set-batch release=1.2.3 channel=beta",
    flags: &[API, JOB, REDACTION, GLOBAL],
    run: Run::Resolved(set_batch),
};

fn set_batch(call: &Invocation) -> Result<u8, Failure> {
    let pairs = pairs(&call.positionals).map_err(Failure::Fatal)?;
    let client = Client::of(call)?;
    let mut outgoing = Outgoing::of(call)?;
    let items: Vec<serde_json::Value> = pairs
        .into_iter()
        .map(|(key, value)| {
            let value = outgoing.text(&format!("Meta-data value for key {key:?}"), value.to_owned(), client.log());
            serde_json::json!({ "key": key, "value": value })
        })
        .collect();
    let path = format!("jobs/{}/data/set-batch", escape_segment(call.values.text("job")));
    let request = json("POST", path, &serde_json::json!({ "items": items }), false);
    block_on(client.send(request, &retry::BATCH, batch_rule)).map_err(failed("failed to set meta-data batch"))?;
    Ok(0)
}

/// Everything is retried but what cannot succeed for want of rights or a job (agent-api §4.4, R-batch).
fn batch_rule(outcome: &Outcome) -> bool {
    match outcome.status() {
        Some(401 | 404) => false,
        Some(_) => true,
        None => outcome.retryable(),
    }
}

fn pairs(arguments: &[String]) -> Result<Vec<(&str, &str)>, String> {
    if arguments.is_empty() {
        return Err("at least one key=value argument is required".into());
    }
    let pair = |a: &'_ String| -> Result<(usize, ()), String> {
        let Some((key, value)) = a.split_once('=') else { return Err(format!("invalid argument {a:?}: must be in key=value format")) };
        for (what, text) in [("key", key), ("value", value)] {
            if text.trim().is_empty() {
                return Err(format!("invalid argument {a:?}: {what} cannot be empty, or composed of only whitespace characters"));
            }
        }
        Ok((key.len(), ()))
    };
    arguments.iter().map(|a| pair(a).map(|(n, ())| (&a[..n], &a[n + 1..]))).collect()
}

static GET_FLAGS: &[Flag] = &[flag("default", Text, &[], "Printed if the key does not exist")];

/// `meta-data get`
pub(crate) static GET: Leaf = Leaf {
    path: "meta-data get",
    section: Section::Job,
    about: "Get data from a build",
    usage: "<key> [options...]",
    description: "Prints the value of a key of the build's meta-data.\n\nExample:\n\n    $ buildkite-agent meta-data get release --default none",
    flags: &[API, GET_FLAGS, SCOPE, GLOBAL],
    run: Run::Resolved(get),
};

fn get(call: &Invocation) -> Result<u8, Failure> {
    let key = call.required_argument(0, "meta-data key")?;
    let client = Client::of(call)?;
    let request = json("POST", scope(call) + "/data/get", &serde_json::json!({ "key": key }), true);
    let default = (call.values.source("default") == Source::CommandLine).then(|| call.values.text("default"));
    match (client.send_and_wait(request, &retry::TEN_BY_FIVE), default) {
        (Ok(reply), _) => print(&(field(&reply, "value") + "\n")),
        (Err(outcome), Some(default)) if outcome.status() == Some(404) => {
            client.log().warn(format!("No meta-data value exists with key {key:?}, returning the supplied default {default:?}"));
            print(&format!("{default}\n"))
        }
        (Err(outcome), _) => Err(failed("failed to get meta-data")(outcome)),
    }
}

/// `builds/…` or `jobs/…`
fn scope(call: &Invocation) -> String {
    match call.values.text("build") {
        "" => format!("jobs/{}", escape_segment(call.values.text("job"))),
        build => format!("builds/{}", escape_segment(build)),
    }
}

/// `meta-data exists`
pub(crate) static EXISTS: Leaf = Leaf {
    path: "meta-data exists",
    section: Section::Job,
    about: "Check to see if the meta data key exists for a build",
    usage: "<key> [options...]",
    description: "Exits with 0 if the key exists in the build's meta-data, and with 100 if it does not.\n\nExample:\n\n    $ buildkite-agent meta-data exists release",
    flags: &[API, SCOPE, GLOBAL],
    run: Run::Resolved(exists),
};

fn exists(call: &Invocation) -> Result<u8, Failure> {
    let key = call.required_argument(0, "meta-data key")?;
    let client = Client::of(call)?;
    let request = json("POST", scope(call) + "/data/exists", &serde_json::json!({ "key": key }), true);
    let reply = client.send_and_wait(request, &retry::TEN_BY_FIVE).map_err(failed("failed to see if meta-data exists"))?;
    let value: serde_json::Value = serde_json::from_str(&reply.body).unwrap_or_default();
    Ok(if value.get("exists").and_then(serde_json::Value::as_bool).unwrap_or_default() { 0 } else { ABSENT })
}

/// `meta-data keys`
pub(crate) static KEYS: Leaf = Leaf {
    path: "meta-data keys",
    section: Section::Job,
    about: "Lists all meta-data keys that have been previously set",
    usage: "[options...]",
    description: "Prints all keys of the build's meta-data, one per line.\n\nExample:\n\n    $ buildkite-agent meta-data keys",
    flags: &[API, SCOPE, GLOBAL],
    run: Run::Resolved(keys),
};

fn keys(call: &Invocation) -> Result<u8, Failure> {
    let client = Client::of(call)?;
    let request = bare("POST", scope(call) + "/data/keys", true);
    let reply = client.send_and_wait(request, &retry::TEN_BY_FIVE).map_err(failed("failed to find meta-data keys"))?;
    let keys: Vec<String> = serde_json::from_str(&reply.body)
        .map_err(|e| Failure::Fatal(format!("failed to find meta-data keys: the answer is no list of keys: {e}")))?;
    print(&keys.iter().map(|k| format!("{k}\n")).collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs_of(arguments: &[&str]) -> Result<Vec<(String, String)>, String> {
        let arguments: Vec<String> = arguments.iter().map(|a| (*a).to_owned()).collect();
        pairs(&arguments).map(|p| p.into_iter().map(|(k, v)| (k.to_owned(), v.to_owned())).collect())
    }

    #[test]
    fn pairs_are_split_at_the_first_equals_sign_and_keep_their_order() {
        let expected = [("b", "1"), ("a", "x=y"), ("b", "2")].map(|(k, v)| (k.to_owned(), v.to_owned()));
        assert_eq!(pairs_of(&["b=1", "a=x=y", "b=2"]).unwrap(), expected);
    }

    #[test]
    fn the_first_bad_pair_is_the_error() {
        for (arguments, text) in [
            (&[][..], "at least one key=value argument is required"),
            (&["a=1", "word", "=v"], "invalid argument \"word\": must be in key=value format"),
            (&["=v"], "invalid argument \"=v\": key cannot be empty, or composed of only whitespace characters"),
            (&["  =v"], "invalid argument \"  =v\": key cannot be empty, or composed of only whitespace characters"),
            (&["k=   "], "invalid argument \"k=   \": value cannot be empty, or composed of only whitespace characters"),
        ] {
            assert_eq!(pairs_of(arguments).unwrap_err(), text);
        }
    }
}
