//! `job update` (commands §11.20).

use super::redact::Outgoing;
use super::{failed, require, value};
use crate::api::{Client, json};
use crate::cli::{Failure, Invocation, Leaf, Run, Section};
use crate::flags::{API, Flag, GLOBAL, Kind::Text, REDACTION, flag};
use ibex_core::api::escape_segment;
use ibex_core::retry;

/// Checked after the attribute.
static FLAGS: &[Flag] = &[flag("job", Text, &["BUILDKITE_JOB_ID"], "The job UUID to update")];

/// `job update`
pub(crate) static UPDATE: Leaf = Leaf {
    path: "job update",
    section: Section::Job,
    about: "Change the value of a job attribute",
    usage: "<attribute> [value] [options...]",
    description: "Changes an attribute of a job. Without a value argument the value is read from standard input.\n\nExample:\n\n    $ buildkite-agent job update timeout_in_minutes 20",
    flags: &[API, FLAGS, REDACTION, GLOBAL],
    run: Run::Resolved(update),
};

fn update(call: &Invocation) -> Result<u8, Failure> {
    let attribute = call.required_argument(0, "attribute")?;
    let job = call.values.text("job");
    require(call, &[("job", job)])?;
    let client = Client::of(call)?;
    let value = value::argument_or_stdin(call, 1, client.log(), "Reading value from STDIN")?;
    let what = format!("New value for job {job:?} attribute {attribute:?}");
    let value = Outgoing::of(call)?.text(&what, value, client.log());
    let body = serde_json::json!({ attribute: value });
    let path = format!("jobs/{}", escape_segment(job));
    client.send_and_wait(json("PUT", path, &body, true), &retry::TEN_SUB).map_err(failed("failed to update job"))?;
    Ok(0)
}
