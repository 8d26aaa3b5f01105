//! `env dump`: this process's environment as JSON (commands §11.4). The hook runner parses what it prints.

use crate::cli::{Failure, Invocation, Leaf, Run, Section, print};
use crate::flags::{Flag, GLOBAL, Kind, flag};
use std::collections::BTreeMap;

static FLAGS: &[Flag] = &[flag("format", Kind::Text, &["BUILDKITE_AGENT_ENV_DUMP_FORMAT"], "Output format: json or json-pretty").or("json")];

/// `env dump`
pub(crate) static DUMP: Leaf = Leaf {
    path: "env dump",
    section: Section::Job,
    about: "Print the environment of the current process as a JSON object",
    usage: "[options]",
    description: "Prints the environment of this process as one JSON object with sorted keys.\n\nExample:\n\n    $ buildkite-agent env dump --format json-pretty",
    flags: &[FLAGS, GLOBAL],
    run: Run::Resolved(dump),
};

fn dump(call: &Invocation) -> Result<u8, Failure> {
    // The standard library drops entries without `=` already.
    let env: BTreeMap<String, String> = std::env::vars_os()
        .map(|(k, v)| (k.to_string_lossy().into_owned(), v.to_string_lossy().into_owned()))
        .filter(|(k, _)| !k.is_empty())
        .collect();
    let text = match call.values.text("format") {
        "json-pretty" => serde_json::to_string_pretty(&env),
        _ => serde_json::to_string(&env),
    };
    print(&(text.map_err(|e| Failure::Fatal(format!("could not encode the environment: {e}")))? + "\n"))
}
