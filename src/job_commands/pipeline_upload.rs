//! `pipeline upload` (specification: pipeline §1, agent-api §10): reads, expands and uploads pipelines, document by document.
//!
//! Not in this version, and refused rather than ignored: signing, `if_changed`, YAML output.

use super::redact::Outgoing;
use crate::api::{Attempt, Client, block_on};
use crate::cli::{Failure, Invocation, Leaf, NAME, Run, Section, print};
use crate::flags::Kind::{Bool, Text};
use crate::flags::{API_OPTIONAL_TOKEN, Flag, GLOBAL, REDACTION, flag};
use ibex_core::api::{JsonReply, JsonRequest, Outcome, escape_segment};
use ibex_core::pipeline::document::{Document, Step};
use ibex_core::pipeline::{DEFAULT_FILES, document, expand, json, yaml};
use ibex_core::retry;
use std::collections::BTreeMap;
use std::io::Read;
use std::os::unix::fs::FileTypeExt;
use std::time::Duration;

static FLAGS: &[Flag] = &[
    flag("replace", Bool, &["BUILDKITE_PIPELINE_REPLACE"], "Replace the rest of the existing pipeline with the steps uploaded"),
    flag("job", Text, &["BUILDKITE_JOB_ID"], "The job that is making the changes to its build"),
    flag("dry-run", Bool, &["BUILDKITE_PIPELINE_UPLOAD_DRY_RUN"], "Print the pipeline instead of uploading it"),
    flag("format", Text, &["BUILDKITE_PIPELINE_UPLOAD_DRY_RUN_FORMAT"], "Form of a dry run: json").or("json"),
    flag("no-interpolation", Bool, &["BUILDKITE_PIPELINE_NO_INTERPOLATION"], "Do not expand variables"),
    flag("allow-secrets", Bool, &["BUILDKITE_AGENT_PIPELINE_UPLOAD_ALLOW_SECRETS"], "Upload although the pipeline holds values of secrets"),
    flag("reject-parse-warnings", Bool, &["BUILDKITE_AGENT_PIPELINE_UPLOAD_REJECT_PARSE_WARNINGS"], "Let a warning fail the upload"),
    flag(
        "apply-if-changed",
        Bool,
        &["BUILDKITE_AGENT_APPLY_IF_CHANGED", "BUILDKITE_AGENT_APPLY_SKIP_IF_UNCHANGED"],
        "Evaluate if_changed; false only strips it",
    )
    .or("true"),
    flag("jwks-file", Text, &["BUILDKITE_AGENT_JWKS_FILE"], "Key set to sign with; not in this version"),
    flag("signing-aws-kms-key", Text, &["BUILDKITE_AGENT_AWS_KMS_KEY"], "AWS KMS key to sign with; not in this version"),
    flag("signing-gcp-kms-key", Text, &["BUILDKITE_AGENT_GCP_KMS_KEY"], "GCP KMS key to sign with; not in this version"),
];

/// `pipeline upload`
pub(crate) static UPLOAD: Leaf = Leaf {
    path: "pipeline upload",
    section: Section::Job,
    about: "Uploads a description of a build pipeline and adds it to the currently running build after the current job",
    usage: "[file...] [options...]",
    description: "Adds steps to the running build after the current job. Without a file, standard input is read if it is a pipe or a\nfile, else the one default file that exists: buildkite.yml, .buildkite/pipeline.yml, and so on.\n\nExample:\n\n    $ buildkite-agent pipeline upload\n    $ ./generate-steps | buildkite-agent pipeline upload",
    flags: &[FLAGS, REDACTION, API_OPTIONAL_TOKEN, GLOBAL],
    run: Run::Resolved(upload),
};

fn fatal<T>(text: impl Into<String>) -> Result<T, Failure> {
    Err(Failure::Fatal(text.into()))
}

fn upload(call: &Invocation) -> Result<u8, Failure> {
    let v = &call.values;
    for key in ["jwks-file", "signing-aws-kms-key", "signing-gcp-kms-key"] {
        if !v.text(key).is_empty() {
            return fatal(format!("--{key} is set, but this version of the agent cannot sign pipelines yet; unset it to upload without a signature"));
        }
    }
    if v.bool("dry-run") && v.text("format") != "json" {
        return fatal(match v.text("format") {
            "yaml" => "--format yaml is not in this version; use --format json".to_owned(),
            other => format!("unknown output format {other:?}"),
        });
    }
    let client = Client::of(call)?;
    let mut vars: BTreeMap<String, String> =
        std::env::vars_os().map(|(k, v)| (k.to_string_lossy().into_owned(), v.to_string_lossy().into_owned())).collect();
    if !v.bool("no-interpolation") {
        resolve_commit(&mut vars, &client);
    }
    for (source, text) in inputs(call, &client)? {
        for (n, parsed) in yaml::documents(&text).enumerate() {
            let node = parsed.map_err(|e| Failure::Fatal(format!("pipeline parsing of {source:?} failed: line {}: {}", e.line, e.text)))?;
            let document = read(call, &client, &source, node, &mut vars)?;
            if v.bool("dry-run") {
                print(&json::pretty(&document).map_err(|e| Failure::Fatal(e.to_string()))?)?;
                continue;
            }
            let text = json::compact(&document).map_err(|e| Failure::Fatal(e.to_string()))?;
            block_on(send(call, &client, &text))?;
            client.log().info(format!("Successfully parsed and uploaded pipeline #{} from {source:?}", n + 1));
        }
    }
    Ok(0)
}

/// Reads, expands and checks one document (pipeline §1.3).
fn read(call: &Invocation, client: &Client, source: &str, node: yaml::Node, vars: &mut BTreeMap<String, String>) -> Result<Document, Failure> {
    let v = &call.values;
    let mut document = document::read(node).map_err(|e| Failure::Fatal(format!("pipeline parsing of {source:?} failed: {e}")))?;
    if !v.bool("no-interpolation") {
        let prefer = v.list("experiment").iter().any(|e| e == "interpolation-prefers-runtime-env");
        expand::expand(&mut document, vars, prefer).map_err(|e| Failure::Fatal(format!("pipeline interpolation of {source:?} failed: {e}")))?;
    }
    if !document.warnings.is_empty() {
        let tree = document.warnings.iter().map(document::Warning::render).collect::<Vec<_>>().join("\n");
        if v.bool("reject-parse-warnings") {
            return fatal(format!("pipeline {source:?} parsed with warnings; refusing upload because --reject-parse-warnings is enabled:\n{tree}"));
        }
        client.log().warn(format!("There were some issues with the pipeline input - pipeline upload will proceed, but might not succeed:\n{tree}"));
    }
    secret_check(call, client, source, &document, vars)?;
    strip_if_changed(&mut document.steps, v.bool("apply-if-changed"))?;
    Ok(document)
}

/// `BUILDKITE_COMMIT` as the commit it names (pipeline §1.3).
fn resolve_commit(vars: &mut BTreeMap<String, String>, client: &Client) {
    let Some(commit) = vars.get("BUILDKITE_COMMIT").cloned() else { return };
    let failed = |why: String| client.log().warn(format!("Error running git rev-parse {commit:?}: {why}"));
    match std::process::Command::new("git").args(["rev-parse", &commit]).output() {
        Ok(out) if out.status.success() => {
            let resolved = String::from_utf8_lossy(&out.stdout).trim().to_owned();
            client.log().info(format!("Updating BUILDKITE_COMMIT to {resolved:?}"));
            vars.insert("BUILDKITE_COMMIT".into(), resolved);
        }
        Ok(out) => failed(out.status.to_string()),
        Err(e) => failed(e.to_string()),
    }
}

/// Source name and text of every input (pipeline §1.2).
fn inputs(call: &Invocation, client: &Client) -> Result<Vec<(String, String)>, Failure> {
    let base = |path: &str| path.rsplit('/').next().unwrap_or(path).to_owned();
    let open = |path: &str| -> Result<(String, String), Failure> {
        let bytes = std::fs::read(path).map_err(|e| Failure::Fatal(format!("failed to read file: open {path}: {}", reason(&e))))?;
        if bytes.is_empty() {
            return fatal(format!("pipeline file {path:?} is empty"));
        }
        Ok((base(path), decode(bytes, &base(path))?))
    };
    if !call.positionals.is_empty() {
        client
            .log()
            .info(format!("Reading pipeline configs from [{}]", call.positionals.iter().map(|p| format!("{p:?}")).collect::<Vec<_>>().join(" ")));
        return call.positionals.iter().map(|p| open(p)).collect();
    }
    if stdin_has_data() {
        client.log().info("Reading pipeline config from STDIN");
        let mut bytes = Vec::new();
        std::io::stdin().read_to_end(&mut bytes).map_err(|e| Failure::Fatal(format!("failed to read standard input: {e}")))?;
        return Ok(vec![("(stdin)".into(), decode(bytes, "(stdin)")?)]);
    }
    client.log().info("Searching for pipeline config...");
    let found: Vec<&str> = DEFAULT_FILES.into_iter().filter(|p| std::path::Path::new(p).exists()).collect();
    match found.as_slice() {
        [one] => {
            client.log().info(format!("Found config file {one:?}"));
            Ok(vec![open(one)?])
        }
        [] => fatal(format!("could not find a default pipeline configuration file; see `{NAME} pipeline upload --help` for more information")),
        many => fatal(format!("found multiple configuration files: {}; please keep only 1 configuration file present", many.join(", "))),
    }
}

fn reason(e: &std::io::Error) -> String {
    match e.kind() {
        std::io::ErrorKind::NotFound => "no such file or directory".into(),
        std::io::ErrorKind::PermissionDenied => "permission denied".into(),
        _ => e.to_string(),
    }
}

/// UTF-8, or UTF-16 with a byte order mark.
fn decode(bytes: Vec<u8>, source: &str) -> Result<String, Failure> {
    let wide = |order: fn([u8; 2]) -> u16| {
        let units: Vec<u16> = bytes[2..].chunks_exact(2).map(|c| order([c[0], c[1]])).collect();
        String::from_utf16(&units).ok()
    };
    let text = match bytes.as_slice() {
        [0xff, 0xfe, ..] => wide(u16::from_le_bytes),
        [0xfe, 0xff, ..] => wide(u16::from_be_bytes),
        _ => String::from_utf8(bytes.clone()).ok(),
    };
    text.map_or_else(|| fatal(format!("pipeline parsing of {source:?} failed: invalid UTF-8")), Ok)
}

/// Whether standard input is anything but a character device.
fn stdin_has_data() -> bool {
    use std::os::fd::AsFd;
    let Ok(fd) = std::io::stdin().as_fd().try_clone_to_owned() else { return false };
    std::fs::File::from(fd).metadata().is_ok_and(|m| !m.file_type().is_char_device())
}

/// Refuses values of secret variables in the pipeline (pipeline §1.5).
fn secret_check(call: &Invocation, client: &Client, source: &str, document: &Document, vars: &BTreeMap<String, String>) -> Result<(), Failure> {
    if call.values.list("redacted-vars").is_empty() {
        return Ok(());
    }
    let text = json::compact(document).map_err(|_| {
        Failure::Fatal(format!(
            "couldn’t scan the {source:?} pipeline for redacted variables. This parsed pipeline could not be serialized, ensure the pipeline YAML is valid, or ignore interpolated secrets for this upload by passing --redacted-vars=''. (it contains NaN or an infinity)"
        ))
    })?;
    let names = Outgoing::names_in(call, client.log(), vars, &declared(document), &text);
    if names.is_empty() {
        return Ok(());
    }
    let list = names.join(" ");
    if !call.values.bool("allow-secrets") {
        return fatal(format!(
            "pipeline {source:?} contains values interpolated from the following secret environment variables: [{list}], and cannot be uploaded to Buildkite"
        ));
    }
    for line in [
        format!("Pipeline {source:?} contains values interpolated from the following secret environment variables: [{list}], which could leak sensitive information into the Buildkite UI."),
        "This pipeline will still be uploaded, because you've used the `--allow-secrets` flag or the `BUILDKITE_AGENT_PIPELINE_UPLOAD_ALLOW_SECRETS` environment variable.".into(),
        "This behaviour is insecure, and may be removed in a future version of the agent".into(),
    ] {
        client.log().warn(line);
    }
    Ok(())
}

/// Variables that the pipeline itself sets: its env, the env of its command steps.
fn declared(document: &Document) -> Vec<(String, String)> {
    fn of_steps(steps: &[Step], out: &mut Vec<(String, String)>) {
        for step in steps {
            match step {
                Step::Command(c) => out.extend(c.env.iter().cloned()),
                Step::Group(g) => of_steps(&g.steps, out),
                Step::Plain(map) => {
                    let env = map.get("build").and_then(|b| b.as_map()).and_then(|b| b.get("env")).and_then(|e| e.as_map());
                    out.extend(env.into_iter().flatten().filter_map(|(k, v)| Some((k.clone(), v.text()?))));
                }
                Step::Word(_) | Step::Unknown(_) => {}
            }
        }
    }
    let mut out = document.env.clone().unwrap_or_default();
    of_steps(&document.steps, &mut out);
    out
}

/// `if_changed` is removed from every step that may have it; where it would have to be evaluated the upload is refused.
fn strip_if_changed(steps: &mut [Step], evaluate: bool) -> Result<(), Failure> {
    for step in steps {
        let rest = match step {
            Step::Command(c) => &mut c.rest,
            Step::Group(g) => {
                strip_if_changed(&mut g.steps, evaluate)?;
                &mut g.rest
            }
            Step::Plain(map) if map.contains_key("trigger") => map,
            _ => continue,
        };
        let condition = rest.shift_remove("if_changed");
        if evaluate && condition.is_some_and(|n| n.value != yaml::Value::Null) {
            return fatal(
                "a step has `if_changed`, which this version of the agent cannot evaluate yet; pass --apply-if-changed=false to upload the step without the condition",
            );
        }
    }
    Ok(())
}

/// One upload, and polling until it is applied (agent-api §10).
async fn send(call: &Invocation, client: &Client, pipeline: &str) -> Result<(), Failure> {
    let v = &call.values;
    for (flag, name) in [
        ("job", "job parameter; this is usually set in the environment for a Buildkite job via BUILDKITE_JOB_ID"),
        (
            "agent-access-token",
            "agent-access-token parameter; this is usually set in the environment for a Buildkite job via BUILDKITE_AGENT_ACCESS_TOKEN",
        ),
    ] {
        if v.text(flag).is_empty() {
            return fatal(format!("missing {name}"));
        }
    }
    let uuid = client.uuid();
    let couldnt = |why: String| {
        client.log().error(format!("Couldn't upload: {why}"));
        Failure::Silent(1)
    };
    let job = escape_segment(v.text("job"));
    let replace = if v.bool("replace") { ",\"replace\":true" } else { "" };
    let body = format!("{{\"uuid\":\"{uuid}\",\"pipeline\":{pipeline}{replace}}}");
    let post = |attempt: Attempt| JsonRequest {
        method: "POST",
        path: format!("jobs/{job}/pipelines?async=true"),
        body: Some(body.clone()),
        headers: vec![("x-buildkite-backoff-sequence", attempt.number.to_string())],
        decoded: false,
    };
    // A 202 that says nothing of where to look is a failed attempt.
    let reply = client.send_each(post, &retry::UPLOAD, Outcome::retryable, |r| r.status == 202 && r.location.is_none()).await;
    let reply = reply.map_err(|o| couldnt(format!("failed to upload and accept pipeline: {}", o.text())))?;
    let (202, Some(location)) = (reply.status, &reply.location) else { return Ok(()) };
    client.pause(reply.retry_after.unwrap_or(Duration::from_secs(1))).await;
    check_location(location, v.text("job"), &uuid).map_err(|why| couldnt(format!("failed to parse location to check status of pipeline: {why}")))?;
    let get = |attempt: Attempt| JsonRequest {
        method: "GET",
        path: format!("jobs/{job}/pipelines/{uuid}"),
        body: None,
        headers: vec![("x-buildkite-backoff-sequence", attempt.number.to_string())],
        decoded: true,
    };
    let state = |r: &JsonReply| crate::api::field(r, "state");
    let pending = |r: &JsonReply| {
        let waiting = matches!(state(r).as_str(), "pending" | "processing");
        if waiting {
            client.log().info(format!("pipeline upload not yet applied: {}", state(r)));
        }
        waiting
    };
    // Only a 422 ends the polling; other errors pass.
    let reply = client.send_each(get, &retry::STATUS, |o| o.status() != Some(422), pending).await;
    let failed = |why: String| couldnt(format!("failed to upload and process pipeline: {why}"));
    let reply = reply.map_err(|o| failed(o.text().to_owned()))?;
    match state(&reply).as_str() {
        "applied" => Ok(()),
        word @ ("rejected" | "failed") => Err(failed(format!("pipeline upload {word}: {}", crate::api::field(&reply, "message")))),
        other => Err(failed(format!("unexpected pipeline upload state from API: {other}"))),
    }
}

/// The location must speak of this job and this upload.
fn check_location(location: &str, job: &str, uuid: &str) -> Result<(), String> {
    let path = location.split(['?', '#']).next().unwrap_or_default();
    let parts: Vec<&str> = path.split('/').collect();
    let found = parts.windows(4).find_map(|w| match w {
        ["jobs", a, "pipelines", b] if !a.is_empty() && !b.is_empty() => Some((*a, *b)),
        _ => None,
    });
    match found {
        None => Err(format!("could not extract job and upload UUIDs from Location {location}")),
        Some((a, _)) if a != job => Err(format!("job ID from API {a:?} does not match request {job}")),
        Some((_, b)) if b != uuid => Err(format!("pipeline upload UUID from API {b:?} does not match request {uuid}")),
        Some(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_location_must_name_job_and_upload() {
        assert_eq!(check_location("http://h/v3/jobs/j/pipelines/u?x", "j", "u"), Ok(()));
        assert_eq!(check_location("/v3/jobs/j/pipelines/u", "j", "u"), Ok(()));
        assert_eq!(check_location("/v3/jobs/x/pipelines/u", "j", "u").unwrap_err(), "job ID from API \"x\" does not match request j");
        assert_eq!(check_location("/v3/jobs/j/pipelines/x", "j", "u").unwrap_err(), "pipeline upload UUID from API \"x\" does not match request u");
        assert!(check_location("/elsewhere", "j", "u").unwrap_err().starts_with("could not extract"));
    }

    #[test]
    fn utf_16_is_read() {
        let mut bytes = vec![0xff, 0xfe];
        bytes.extend("a: 1".encode_utf16().flat_map(u16::to_le_bytes));
        assert_eq!(decode(bytes, "x").unwrap(), "a: 1");
        assert!(decode(vec![0xc3], "x").is_err());
    }
}
