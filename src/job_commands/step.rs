//! `step get`, `step update`, `step cancel` (commands §11.17–11.19).

use super::redact::Outgoing;
use super::{failed, require, value};
use crate::api::{Client, field, json, omit_empty};
use crate::cli::{Failure, Invocation, Leaf, Run, Section, print};
use crate::flags::Kind::{Bool, Int, Text};
use crate::flags::{API, Flag, GLOBAL, REDACTION, flag};
use ibex_core::api::escape_segment;
use ibex_core::retry;

/// Checked after a command's own arguments.
static STEP: &[Flag] = &[flag("step", Text, &["BUILDKITE_STEP_ID"], "The step, by its id or its key")];
static BUILD: &[Flag] = &[flag("build", Text, &["BUILDKITE_BUILD_ID"], "The build in which the step is, needed with a step's key")];
static HIDDEN_BUILD: &[Flag] = &[flag("build", Text, &["BUILDKITE_BUILD_ID"], "").hidden()];

static GET_FLAGS: &[Flag] = &[flag("format", Text, &["BUILDKITE_STEP_GET_FORMAT"], "Format of the attribute's value, e.g. json")];

/// `step get`
pub(crate) static GET: Leaf = Leaf {
    path: "step get",
    section: Section::Job,
    about: "Get the value of an attribute",
    usage: "[attribute] [options...]",
    description: "Prints an attribute of a step, or all of them.\n\nExample:\n\n    $ buildkite-agent step get label --step test",
    flags: &[API, STEP, BUILD, GET_FLAGS, GLOBAL],
    run: Run::Resolved(get),
};

fn get(call: &Invocation) -> Result<u8, Failure> {
    let v = &call.values;
    require(call, &[("step", v.text("step"))])?;
    let client = Client::of(call)?;
    let attribute = call.positionals.first().cloned().unwrap_or_default();
    let body = omit_empty([("attribute", attribute.into()), ("build_id", v.text("build").into()), ("format", v.text("format").into())]);
    let path = format!("steps/{}/export", escape_segment(v.text("step")));
    let reply = client.send_and_wait(json("POST", path, &body, true), &retry::TEN_BY_FIVE).map_err(failed("failed to get step"))?;
    print(&(field(&reply, "output") + "\n"))
}

static UPDATE_FLAGS: &[Flag] = &[flag("append", Bool, &["BUILDKITE_STEP_UPDATE_APPEND"], "Append to the value instead of replacing it")];

/// `step update`
pub(crate) static UPDATE: Leaf = Leaf {
    path: "step update",
    section: Section::Job,
    about: "Change the value of an attribute",
    usage: "<attribute> [value] [options...]",
    description: "Changes an attribute of a step. Without a value argument the value is read from standard input.\n\nExample:\n\n    $ buildkite-agent step update label \"Tests (3 of 4)\"",
    flags: &[API, STEP, BUILD, UPDATE_FLAGS, REDACTION, GLOBAL],
    run: Run::Resolved(update),
};

fn update(call: &Invocation) -> Result<u8, Failure> {
    let v = &call.values;
    let attribute = call.required_argument(0, "attribute")?;
    let step = v.text("step");
    require(call, &[("step", step)])?;
    let client = Client::of(call)?;
    let value = value::argument_or_stdin(call, 1, client.log(), "Reading value from STDIN")?;
    let what = format!("New value for step {step:?} attribute {attribute:?}");
    let value = Outgoing::of(call)?.text(&what, value, client.log());
    // Made once, so that all attempts are one change.
    let body = omit_empty([
        ("idempotency_uuid", client.uuid().into()),
        ("build_id", v.text("build").into()),
        ("attribute", attribute.into()),
        ("value", value.into()),
        ("append", v.bool("append").into()),
    ]);
    let path = format!("steps/{}", escape_segment(step));
    client.send_and_wait(json("PUT", path, &body, false), &retry::TEN_BY_FIVE).map_err(failed("failed to change step"))?;
    Ok(0)
}

static CANCEL_FLAGS: &[Flag] = &[
    flag("force", Bool, &["BUILDKITE_STEP_CANCEL_FORCE"], "Do not wait for agents to end the jobs"),
    flag("force-grace-period-seconds", Int, &["BUILDKITE_STEP_CANCEL_FORCE_GRACE_PERIOD_SECONDS"], "Seconds before jobs are cancelled by force")
        .or("15"),
];

/// `step cancel`
pub(crate) static CANCEL: Leaf = Leaf {
    path: "step cancel",
    section: Section::Job,
    about: "Cancel all unfinished jobs for a step",
    usage: "[options...]",
    description: "Cancels all unfinished jobs of a step.\n\nExample:\n\n    $ buildkite-agent step cancel --step test",
    flags: &[API, STEP, HIDDEN_BUILD, CANCEL_FLAGS, GLOBAL],
    run: Run::Resolved(cancel),
};

fn cancel(call: &Invocation) -> Result<u8, Failure> {
    let v = &call.values;
    require(call, &[("step", v.text("step"))])?;
    let client = Client::of(call)?;
    let grace = v.int("force-grace-period-seconds");
    if grace < 0 {
        return Err(Failure::Fatal("the value of \u{2032}--force-grace-period-seconds\u{2032} must be greater than or equal to 0".into()));
    }
    let body = serde_json::json!({ "build_id": v.text("build"), "force": v.bool("force"), "force_grace_period": grace });
    let path = format!("steps/{}/cancel", escape_segment(v.text("step")));
    let reply = client.send_and_wait(json("POST", path, &body, true), &retry::TEN_BY_FIVE).map_err(failed("failed to cancel step"))?;
    client.log().info(format!("Successfully cancelled step: {}", field(&reply, "uuid")));
    Ok(0)
}
