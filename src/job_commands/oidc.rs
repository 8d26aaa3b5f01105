//! `oidc request-token` (commands §11.11).

use super::credentials::{Wording, redact};
use super::failed;
use crate::api::{Client, field, json, omit_empty};
use crate::cli::{Failure, Invocation, Leaf, Run, Section, print};
use crate::flags::Kind::{Bool, Int, List, Text};
use crate::flags::{API, Flag, GLOBAL, JOB, flag};
use ibex_core::api::escape_segment;
use ibex_core::retry;

static FLAGS: &[Flag] = &[
    flag("audience", Text, &[], "The audience that will consume the token"),
    flag("lifetime", Int, &[], "Seconds for which the token is valid; 0 is the server's default").or("0"),
    flag("subject-claim", Text, &["BUILDKITE_OIDC_TOKEN_SUBJECT_CLAIM"], "The claim to use as subject"),
    flag("claim", List, &["BUILDKITE_OIDC_TOKEN_CLAIMS"], "Optional claims to add").commas(),
    flag("aws-session-tag", List, &["BUILDKITE_OIDC_TOKEN_AWS_SESSION_TAGS"], "Claims to add as AWS session tags").commas(),
    flag("skip-redaction", Bool, &["BUILDKITE_AGENT_OIDC_REQUEST_TOKEN_SKIP_TOKEN_REDACTION"], "Do not mask the token in the job's log"),
    flag("format", Text, &[], "Output format: jwt or gcp").or("jwt"),
];

/// `oidc request-token`
pub(crate) static REQUEST_TOKEN: Leaf = Leaf {
    path: "oidc request-token",
    section: Section::Job,
    about: "Requests and prints an OIDC token from Buildkite with the specified audience",
    usage: "[options...]",
    description: "Prints an OpenID Connect token for this job.\n\nExample:\n\n    $ buildkite-agent oidc request-token --audience sts.amazonaws.com",
    flags: &[API, JOB, FLAGS, GLOBAL],
    run: Run::Resolved(request_token),
};

const WORDS: Wording = Wording {
    kind: "OIDC token",
    what: "the token",
    pronoun: "it",
    output: "the token",
    variable: "BUILDKITE_AGENT_OIDC_REQUEST_TOKEN_SKIP_TOKEN_REDACTION",
    refused: "failed to redact OIDC token",
};

fn request_token(call: &Invocation) -> Result<u8, Failure> {
    let v = &call.values;
    let lifetime = v.int("lifetime");
    if lifetime < 0 {
        return Err(Failure::Fatal(format!("lifetime {lifetime} must be a non-negative integer")));
    }
    let format = v.text("format");
    if !matches!(format, "jwt" | "gcp") {
        return Err(Failure::Fatal(format!("format {format:?} is not valid. Supported values are 'jwt' and 'gcp'")));
    }
    let client = Client::of(call)?;
    let body = omit_empty([
        ("audience", v.text("audience").into()),
        ("lifetime", lifetime.into()),
        ("claims", v.list("claim").into()),
        ("aws_session_tags", v.list("aws-session-tag").into()),
        ("subject_claim", v.text("subject-claim").into()),
    ]);
    let context = match v.text("audience") {
        "" => "could not obtain OIDC token for default audience".to_owned(),
        audience => format!("could not obtain OIDC token for audience {audience}"),
    };
    let path = format!("jobs/{}/oidc/tokens", escape_segment(v.text("job")));
    let reply = client.send_and_wait(json("POST", path, &body, true), &retry::OIDC).map_err(failed(&context))?;
    let token = field(&reply, "token");
    redact(call, &WORDS, std::iter::once(token.as_str()))?;
    match format {
        "gcp" => print(&format!(
            "{{\"id_token\":{},\"token_type\":\"urn:ietf:params:oauth:token-type:jwt\",\"version\":1,\"success\":true}}\n",
            serde_json::Value::from(token)
        )),
        _ => print(&format!("{token}\n")),
    }
}
