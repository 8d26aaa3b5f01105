//! `build cancel` (commands §11.3).

use super::failed;
use crate::api::{Client, bare, field};
use crate::cli::{Failure, Invocation, Leaf, Run, Section};
use crate::flags::{API, Flag, GLOBAL, Kind::Text, flag};
use ibex_core::api::escape_segment;
use ibex_core::retry;

static FLAGS: &[Flag] = &[flag("build", Text, &["BUILDKITE_BUILD_ID"], "The build UUID to cancel").required()];

/// `build cancel`
pub(crate) static CANCEL: Leaf = Leaf {
    path: "build cancel",
    section: Section::Job,
    about: "Cancel a build",
    usage: "[options...]",
    description: "Cancels a running build.\n\nExample:\n\n    $ buildkite-agent build cancel",
    flags: &[API, FLAGS, GLOBAL],
    run: Run::Resolved(cancel),
};

fn cancel(call: &Invocation) -> Result<u8, Failure> {
    let client = Client::of(call)?;
    let path = format!("builds/{}/cancel", escape_segment(call.values.text("build")));
    let reply = client.send_and_wait(bare("POST", path, true), &retry::FIVE_BY_ONE).map_err(failed("failed to cancel build"))?;
    client.log().info(format!("Successfully cancelled build {}", field(&reply, "uuid")));
    Ok(0)
}
