//! `workdir set`: the directory of later hooks and of the command (commands §11.8).

use super::job_env::job_api;
use crate::cli::{Failure, Invocation, Leaf, Run, Section, print};
use crate::flags::{Flag, GLOBAL, Kind::Text, clean, flag, os_text};
use serde_json::{Value, json};
use std::path::Path;

static FLAGS: &[Flag] =
    &[flag("output-format", Text, &["BUILDKITE_AGENT_WORKDIR_SET_OUTPUT_FORMAT"], "Output format: plain, json or quiet").or("plain")];

/// `workdir set`
pub(super) static SET: Leaf = Leaf {
    path: "workdir set",
    section: Section::Job,
    about: "Set the working directory of the rest of the job",
    usage: "<path> [options...]",
    description: "Sets the working directory in which later hooks and the command run.\n\nExample:\n\n    $ buildkite-agent workdir set ./app",
    flags: &[FLAGS, GLOBAL],
    run: Run::Resolved(set),
};

fn set(call: &Invocation) -> Result<u8, Failure> {
    let [path] = call.positionals.as_slice() else {
        return Err(Failure::Fatal(format!("expected exactly one argument (the working directory), got {}", call.positionals.len())));
    };
    let absolute = std::path::absolute(path).map_err(|e| Failure::Fatal(format!("checking working directory {path:?}: {}", os_text(&e))))?;
    let absolute = clean(&absolute);
    let meta =
        std::fs::metadata(Path::new(&absolute)).map_err(|e| Failure::Fatal(format!("checking working directory {absolute:?}: {}", os_text(&e))))?;
    if !meta.is_dir() {
        return Err(Failure::Fatal(format!("working directory {absolute:?} is not a directory")));
    }
    let answer = job_api()?
        .call("PUT", "/workdir", Some(&json!({ "workdir": absolute })))
        .map_err(|e| Failure::Fatal(format!("setting the job working directory: {e}")))?;
    let set = answer.get("workdir").and_then(Value::as_str).unwrap_or(&absolute);
    match call.values.text("output-format") {
        "quiet" => Ok(0),
        "plain" => print(&format!("{set}\n")),
        "json" => print(&format!("{}\n", json!({ "workdir": set }))),
        other => Err(Failure::Fatal(format!("invalid output format {other:?}"))),
    }
}
