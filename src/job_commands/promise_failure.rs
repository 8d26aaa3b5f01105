//! `job promise-failure` (commands §11.21): the exit status that the job will end with, told before it ends.

use super::redact::Outgoing;
use crate::api::{Client, json, omit_empty};
use crate::cli::{Failure, Invocation, Leaf, Run, Section};
use crate::flags::{API, Flag, GLOBAL, Kind::Text, REDACTION, flag, process_env};
use crate::job_api::JobApi;
use ibex_core::agent::Level;
use ibex_core::api::escape_segment;
use ibex_core::retry;
use serde_json::Value;

static FLAGS: &[Flag] = &[flag("reason", Text, &[], "Why the job will fail")];

/// `job promise-failure`
pub(super) static PROMISE_FAILURE: Leaf = Leaf {
    path: "job promise-failure",
    section: Section::Job,
    about: "Declare that the job will fail, before it ends",
    usage: "<exit-status> [options...]",
    description: "Tells the control plane with which exit status this job will fail.\n\nExample:\n\n    $ buildkite-agent job promise-failure 1 --reason \"unit tests failed\"",
    flags: &[API, FLAGS, REDACTION, GLOBAL],
    run: Run::Resolved(promise),
};

fn promise(call: &Invocation) -> Result<u8, Failure> {
    let text = call.required_argument(0, "exit status")?;
    let status: i64 = text.parse().map_err(|e| Failure::Fatal(format!("exit status must be an integer: {text:?}: {e}")))?;
    if status <= 0 {
        return Err(Failure::Fatal(
            "exit status must be a positive integer: a promised failure cannot have a zero (successful) or negative exit status".into(),
        ));
    }
    let Some(job) = process_env("BUILDKITE_JOB_ID").filter(|j| !j.is_empty()) else {
        return Err(Failure::Fatal("BUILDKITE_JOB_ID is not set: this command must be run from within a job".into()));
    };
    let client = Client::of(call)?;
    let what = format!("The promise-failure reason for job {job:?}");
    let reason = Outgoing::of(call)?.text(&what, call.values.text("reason").to_owned(), client.log());
    let body = omit_empty([("exit_status", status.into()), ("reason", reason.into())]);
    match JobApi::from_env(&process_env) {
        Err(reason) => client.log().at(Level::Debug, format!("The Job API is not available: {reason}")),
        Ok(api) => match api.call("POST", "/promise-failure", Some(&body)) {
            Ok(answer) => return by_executor(&client, &answer, status, &job),
            Err(e) => client.log().warn(format!("Couldn't reach the Job API to declare the promised failure; declaring it directly: {e}")),
        },
    }
    let request = json("PUT", format!("jobs/{}/promise_failure", escape_segment(&job)), &body, false);
    client.send_and_wait(request, &retry::TEN_SUB).map_err(|e| refused(e.status(), e.text()))?;
    declared(&client, status, &job);
    Ok(0)
}

fn by_executor(client: &Client, answer: &Value, status: i64, job: &str) -> Result<u8, Failure> {
    if !answer.get("accepted").and_then(Value::as_bool).unwrap_or_default() {
        let error = answer.get("error").and_then(Value::as_str).unwrap_or_default();
        let upstream = answer.get("upstream_status").and_then(Value::as_u64).and_then(|s| u16::try_from(s).ok());
        return Err(refused(upstream, error));
    }
    match answer.get("outcome").and_then(Value::as_str) {
        Some("debounced") => client.log().at(Level::Debug, format!("Promised exit status {status} for job {job} was declared before")),
        _ => declared(client, status, job),
    }
    Ok(0)
}

fn declared(client: &Client, status: i64, job: &str) {
    client.log().info(format!("Declared promised exit status {status} for job {job}"));
}

fn refused(status: Option<u16>, error: &str) -> Failure {
    let error = if error.is_empty() { "buildkite API rejected the promised failure" } else { error };
    Failure::Fatal(match status {
        Some(409) => format!("a different promised exit status has already been declared for this job: {error}"),
        Some(422) => format!("the job is no longer running and cannot accept a promised failure: {error}"),
        _ => format!("failed to declare promised job failure: {error}"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_are_told_by_status() {
        for (status, text) in [
            (Some(409), "a different promised exit status has already been declared for this job: e"),
            (Some(422), "the job is no longer running and cannot accept a promised failure: e"),
            (None, "failed to declare promised job failure: e"),
        ] {
            assert_eq!(refused(status, "e"), Failure::Fatal(text.into()));
        }
        assert_eq!(refused(None, ""), Failure::Fatal("failed to declare promised job failure: buildkite API rejected the promised failure".into()));
    }
}
