//! `pause`, `resume`, `stop` (commands §11.22): they act on the agent that owns the access token.

use super::failed;
use crate::api::{Client, bare, json, omit_empty};
use crate::cli::{Failure, Invocation, Leaf, Run, Section};
use crate::flags::Kind::{Bool, Int, Text};
use crate::flags::{API, Flag, GLOBAL, flag};
use ibex_core::retry;

static PAUSE_FLAGS: &[Flag] = &[
    flag("note", Text, &["BUILDKITE_AGENT_PAUSE_NOTE"], "A note about why the agent is paused"),
    flag("timeout-in-minutes", Int, &["BUILDKITE_AGENT_PAUSE_TIMEOUT_MINUTES"], "Minutes after which the agent resumes by itself"),
];

/// `pause`
pub(crate) static PAUSE: Leaf = Leaf {
    path: "pause",
    section: Section::Job,
    about: "Pause the agent",
    usage: "[options...]",
    description: "Pauses the agent: it finishes its job and takes no other until it is resumed.\n\nExample:\n\n    $ buildkite-agent pause --note \"disk is being replaced\" --timeout-in-minutes 60",
    flags: &[API, PAUSE_FLAGS, GLOBAL],
    run: Run::Resolved(pause),
};

fn pause(call: &Invocation) -> Result<u8, Failure> {
    let client = Client::of(call)?;
    let body = omit_empty([("note", call.values.text("note").into()), ("timeout_in_minutes", call.values.int("timeout-in-minutes").into())]);
    client.send_and_wait(json("POST", "pause".into(), &body, false), &retry::FIVE_BY_ONE).map_err(failed("failed to pause agent"))?;
    client.log().info("Successfully paused agent");
    Ok(0)
}

/// `resume`
pub(crate) static RESUME: Leaf = Leaf {
    path: "resume",
    section: Section::Job,
    about: "Resume the agent",
    usage: "[options...]",
    description: "Resumes the agent after it was paused.\n\nExample:\n\n    $ buildkite-agent resume",
    flags: &[API, GLOBAL],
    run: Run::Resolved(resume),
};

fn resume(call: &Invocation) -> Result<u8, Failure> {
    let client = Client::of(call)?;
    client.send_and_wait(bare("POST", "resume".into(), false), &retry::FIVE_BY_ONE).map_err(failed("failed to resume agent"))?;
    client.log().info("Successfully resumed agent");
    Ok(0)
}

static STOP_FLAGS: &[Flag] = &[flag("force", Bool, &[], "Cancel the running job instead of waiting for it")];

/// `stop`
pub(crate) static STOP: Leaf = Leaf {
    path: "stop",
    section: Section::Job,
    about: "Stop the agent",
    usage: "[options...]",
    description: "Stops the agent: it finishes its job and leaves.\n\nExample:\n\n    $ buildkite-agent stop",
    flags: &[API, STOP_FLAGS, GLOBAL],
    run: Run::Resolved(stop),
};

fn stop(call: &Invocation) -> Result<u8, Failure> {
    let client = Client::of(call)?;
    let body = omit_empty([("force", call.values.bool("force").into())]);
    client.send_and_wait(json("POST", "stop".into(), &body, false), &retry::FIVE_BY_ONE).map_err(failed("failed to stop agent"))?;
    client.log().info("Successfully stopped agent");
    Ok(0)
}
