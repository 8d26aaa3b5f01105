//! Tags and where they come from (start-flags §5).

mod host;
mod pairs;

use crate::cli::Failure;
use crate::flags::Values;
use crate::log::Logger;

/// All tags in the order in which they are sent. Sources that ask the network are asked here.
pub(crate) fn collect(values: &Values, log: &Logger) -> Result<Vec<String>, Failure> {
    let mut tags = values.list("tags").to_vec();
    if values.bool("tags-from-host") {
        tags.extend(host::tags());
    }
    let queue = values.text("queue");
    if !queue.is_empty() {
        if conflicts(&tags) {
            return Err(log.fatal("Queue must be present in only one of the --tags or the --queue flags"));
        }
        tags.push(format!("queue={queue}"));
    }
    Ok(tags)
}

/// Whether a tag names a queue (§3, row 19).
fn conflicts(tags: &[String]) -> bool {
    tags.iter().any(|t| t.trim().starts_with("queue="))
}
