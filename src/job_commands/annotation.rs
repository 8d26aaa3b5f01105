//! `annotate` and `annotation remove` (commands §11.1, §11.2).

use super::redact::Outgoing;
use super::{failed, value};
use crate::api::{Client, bare, json, omit_empty};
use crate::cli::{Failure, Invocation, Leaf, Run, Section};
use crate::flags::Kind::{Bool, Int, Text};
use crate::flags::{API, Flag, GLOBAL, JOB, REDACTION, flag};
use ibex_core::api::{escape_query, escape_segment};
use ibex_core::retry;

/// Longest body, in bytes after redaction.
const BODY_BYTES: usize = 1_048_576;

static SCOPE: &[Flag] =
    &[flag("scope", Text, &["BUILDKITE_ANNOTATION_SCOPE"], "Where the annotation is shown: build (all of the build) or job").or("build")];

static ANNOTATE_FLAGS: &[Flag] = &[
    flag("context", Text, &["BUILDKITE_ANNOTATION_CONTEXT"], "Which annotation of the build this is; one with the same context is replaced"),
    flag("style", Text, &["BUILDKITE_ANNOTATION_STYLE"], "success, info, warning or error"),
    flag("append", Bool, &["BUILDKITE_ANNOTATION_APPEND"], "Append to the body of an existing annotation"),
    flag("priority", Int, &["BUILDKITE_ANNOTATION_PRIORITY"], "1 to 10; annotations with a higher priority are shown first").or("3"),
];

/// `annotate`
pub(crate) static ANNOTATE: Leaf = Leaf {
    path: "annotate",
    section: Section::Job,
    about: "Annotate the build page with information from within a Buildkite job",
    usage: "[body] [options...]",
    description: "Adds an annotation to the build, or changes one. Without a body argument the body is read from standard\ninput.\n\nExample:\n\n    $ buildkite-agent annotate \"All tests passed\" --style success --context tests",
    flags: &[API, ANNOTATE_FLAGS, SCOPE, JOB, REDACTION, GLOBAL],
    run: Run::Resolved(annotate),
};

fn annotate(call: &Invocation) -> Result<u8, Failure> {
    let client = Client::of(call)?;
    let v = &call.values;
    let body = match call.positionals.first() {
        Some(body) if !body.is_empty() => body.clone(),
        _ if value::stdin_is_data() => {
            client.log().info("Reading annotation body from STDIN");
            value::stdin()?
        }
        _ => String::new(),
    };
    let body = Outgoing::of(call)?.text("Annotation body", body, client.log());
    if body.len() > BODY_BYTES {
        return Err(Failure::Fatal(format!("annotation body size ({}B) exceeds maximum ({BODY_BYTES}B)", body.len())));
    }
    let request = omit_empty([
        ("body", body.into()),
        ("context", v.text("context").into()),
        ("style", v.text("style").into()),
        ("append", v.bool("append").into()),
        ("priority", v.int("priority").into()),
        ("scope", v.text("scope").into()),
    ]);
    let path = format!("jobs/{}/annotations", escape_segment(v.text("job")));
    client.send_and_wait(json("POST", path, &request, false), &retry::FIVE_BY_ONE).map_err(failed("failed to annotate build"))?;
    Ok(0)
}

static REMOVE_FLAGS: &[Flag] = &[flag("context", Text, &["BUILDKITE_ANNOTATION_CONTEXT"], "Which annotation of the build").or("default").required()];

/// `annotation remove`
pub(crate) static REMOVE: Leaf = Leaf {
    path: "annotation remove",
    section: Section::Job,
    about: "Remove an existing annotation from a Buildkite build",
    usage: "[options...]",
    description: "Removes an annotation that was added with annotate.\n\nExample:\n\n    $ buildkite-agent annotation remove --context tests",
    flags: &[API, REMOVE_FLAGS, SCOPE, JOB, GLOBAL],
    run: Run::Resolved(remove),
};

fn remove(call: &Invocation) -> Result<u8, Failure> {
    let client = Client::of(call)?;
    let v = &call.values;
    let (job, context) = (escape_segment(v.text("job")), escape_segment(v.text("context")));
    let path = format!("jobs/{job}/annotations/{context}?scope={}", escape_query(v.text("scope")));
    client.send_and_wait(bare("DELETE", path, false), &retry::FIVE_BY_ONE).map_err(failed("failed to remove annotation"))?;
    Ok(0)
}
