//! Tags and where they come from (start-flags §5).

mod ec2;
mod ecs;
mod fetch;
mod gcp;
mod host;
mod pairs;
mod sigv4;

use crate::cli::Failure;
use crate::flags::{Values, process_env};
use crate::log::Logger;
use fetch::Fetch;
use ibex_core::agent::Level;
use std::time::Duration;

/// All tags in the order in which they are sent. Sources that ask the network are asked here, one after the other.
pub(crate) fn collect(values: &Values, log: &Logger) -> Result<Vec<String>, Failure> {
    let mut tags = values.list("tags").to_vec();
    if values.bool("tags-from-host") {
        tags.extend(host::tags());
    }
    if from_network(values) {
        crate::api::block_on(network(values, log, &mut tags))?;
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

fn from_network(values: &Values) -> bool {
    ["tags-from-ec2-meta-data", "tags-from-ec2-tags", "tags-from-ecs-meta-data", "tags-from-gcp-meta-data", "tags-from-gcp-labels"]
        .iter()
        .any(|f| values.bool(f))
        || ["tags-from-ec2-meta-data-paths", "tags-from-gcp-meta-data-paths"].iter().any(|f| !values.list(f).is_empty())
}

async fn network(values: &Values, log: &Logger, tags: &mut Vec<String>) -> Result<(), Failure> {
    let fetch = Fetch::new();
    let limit = |name: &str| values.duration(name).positive().unwrap_or_default();
    let mut sources = Sources { strict: values.bool("fail-on-missing-tags"), log, tags };
    if values.bool("tags-from-ec2-meta-data") {
        let wait = limit("wait-for-ec2-meta-data-timeout");
        sources.take("EC2 meta-data", fetch.fifth_of(wait, async || ec2::meta_data(&fetch, &process_env).await).await)?;
    }
    if let Some(pairs) = sources.pairs(values.list("tags-from-ec2-meta-data-paths")) {
        sources.take("EC2 meta-data from paths", ec2::paths(&fetch, &process_env, &pairs).await)?;
    }
    if values.bool("tags-from-ec2-tags") {
        let wait = limit("wait-for-ec2-tags-timeout");
        sources.take("EC2 tags", fetch.fifth_of(wait, async || ec2::tags(&fetch, &process_env).await).await)?;
    }
    if values.bool("tags-from-ecs-meta-data") {
        let wait = limit("wait-for-ecs-meta-data-timeout");
        sources.take("ECS meta-data", fetch.fifth_of(wait, async || ecs::meta_data(&fetch, &process_env).await).await)?;
    }
    if values.bool("tags-from-gcp-meta-data") {
        sources.take("GCP meta-data", fetch.tries(Duration::from_secs(1), async || gcp::meta_data(&fetch, &process_env).await).await)?;
    }
    if let Some(pairs) = sources.pairs(values.list("tags-from-gcp-meta-data-paths")) {
        sources.take("GCP meta-data from paths", gcp::paths(&fetch, &process_env, &pairs).await)?;
    }
    if values.bool("tags-from-gcp-labels") {
        let wait = limit("wait-for-gcp-labels-timeout");
        sources.take("GCP instance labels", fetch.fifth_of(wait, async || gcp::labels(&fetch, &process_env).await).await)?;
    }
    Ok(())
}

/// Where the tags of sources go, and what a failed source means.
struct Sources<'a> {
    strict: bool,
    log: &'a Logger,
    tags: &'a mut Vec<String>,
}

impl Sources<'_> {
    /// A failed source is an error line, or ends the start with fail-on-missing-tags.
    fn take(&mut self, source: &str, result: Result<Vec<String>, String>) -> Result<(), Failure> {
        match result {
            Ok(tags) => self.tags.extend(tags),
            Err(e) if self.strict => return Err(self.log.fatal(format!("failed to fetch {source}: {e}"))),
            Err(e) => self.log.at(Level::Error, format!("failed to fetch {source}: {e}")),
        }
        Ok(())
    }

    /// The pairs before the first malformed one, which is logged. `None`: there is nothing to ask for.
    fn pairs(&self, list: &[String]) -> Option<Vec<(String, String)>> {
        let (pairs, error) = pairs::parse(list);
        if let Some(error) = error {
            self.log.at(Level::Error, error);
        }
        (!pairs.is_empty()).then_some(pairs)
    }
}

#[cfg(test)]
mod tests {
    use super::super::table::FLAGS;
    use super::*;
    use crate::flags::parse;
    use crate::log::Format;

    fn collect_from(args: &[&str]) -> Result<Vec<String>, Failure> {
        let args: Vec<String> = args.iter().map(|s| (*s).to_owned()).collect();
        let values = Values::resolve(FLAGS, &parse(FLAGS, &args).unwrap(), &|_| None, None).unwrap().values;
        collect(&values, &Logger::new(&values, "start", Format::Text { colors: false }))
    }

    #[test]
    fn own_tags_come_first_then_the_hosts_and_the_queue_last() {
        let tags = collect_from(&["--queue=q", "--tags", "a=1, b", "--tags-from-host"]).unwrap();
        assert_eq!(tags[..2], ["a=1", "b"]);
        assert!(tags[2].starts_with("hostname=") && tags[3].starts_with("os=") && tags[4].starts_with("arch="));
        assert_eq!(tags.last().unwrap(), "queue=q");
    }

    #[test]
    fn a_queue_among_the_tags_and_as_option_is_a_conflict() {
        assert_eq!(collect_from(&["--queue=q", "--tags=queue=other"]), Err(Failure::Silent(1)));
        assert_eq!(collect_from(&["--tags=queue=q"]).unwrap(), ["queue=q"]);
    }
}
