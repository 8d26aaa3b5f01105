//! `artifact upload` (artifacts §1.1, §2, §8–10).

use super::collect::{Artifact, Rules, collect};
use super::transfer::{Instructions, Unit, send, units};
use crate::api::{Attempt, Client, block_on, json};
use crate::cli::{Failure, Invocation, Leaf, Run, Section};
use crate::flags::Kind::{Bool, Int, Text};
use crate::flags::{API, Flag, GLOBAL, flag};
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use ibex_core::api::{JsonReply, Outcome, escape_segment};
use ibex_core::artifact::{BATCH, HOSTED_BYTES_MAX, iec};
use ibex_core::retry::{self, Next};
use ibex_io::driver::Clock;
use ibex_io::tokio::Storage;
use serde_json::json;
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

static FLAGS: &[Flag] = &[
    flag("job", Text, &["BUILDKITE_JOB_ID"], "The job that owns the artifacts"),
    flag("content-type", Text, &["BUILDKITE_ARTIFACT_CONTENT_TYPE"], "Content type of every artifact, instead of one by extension"),
    flag("literal", Bool, &["BUILDKITE_AGENT_ARTIFACT_LITERAL"], "Read the argument as paths, not as patterns"),
    flag("delimiter", Text, &["BUILDKITE_AGENT_ARTIFACT_DELIMITER"], "What separates patterns; empty: nothing does").or(";"),
    flag("glob-resolve-follow-symlinks", Bool, &["BUILDKITE_AGENT_ARTIFACT_GLOB_RESOLVE_FOLLOW_SYMLINKS"], "Descend into links to directories"),
    flag("upload-skip-symlinks", Bool, &["BUILDKITE_ARTIFACT_UPLOAD_SKIP_SYMLINKS"], "Drop matches that are links"),
    flag("concurrency", Int, &["BUILDKITE_ARTIFACT_UPLOAD_CONCURRENCY"], "Parallel transfers; default: number of CPUs"),
    flag("no-multipart-artifact-upload", Bool, &["BUILDKITE_NO_MULTIPART_ARTIFACT_UPLOAD"], "Do not offer multipart uploads"),
];

/// `artifact upload`
pub(in crate::job_commands) static UPLOAD: Leaf = Leaf {
    path: "artifact upload",
    section: Section::Job,
    about: "Uploads files to a job as artifacts",
    usage: "<pattern> [destination] [options...]",
    description: "Uploads the files that match the pattern. Several patterns are separated by the delimiter.\n\nExample:\n\n    $ buildkite-agent artifact upload \"log/**/*.log;dist/*\"",
    flags: &[FLAGS, API, GLOBAL],
    run: Run::Resolved(upload),
};

/// Limits of the first four attempts (agent-api §4.4).
const CREATE_LIMIT: Duration = Duration::from_secs(10);
const STATE_LIMIT: Duration = Duration::from_secs(5);
const LIMITED_ATTEMPTS: u32 = 4;
/// How often new states are reported.
const REPORT_EVERY: Duration = Duration::from_secs(1);

fn upload(call: &Invocation) -> Result<u8, Failure> {
    let v = &call.values;
    let pattern = call.required_argument(0, "upload paths")?;
    if v.text("job").is_empty() {
        return Err(Failure::missing("job", call.leaf.path));
    }
    let client = Client::of(call)?;
    let rules = Rules {
        literal: v.bool("literal"),
        delimiter: v.text("delimiter"),
        follow_symlinks: v.bool("glob-resolve-follow-symlinks"),
        skip_symlinks: v.bool("upload-skip-symlinks"),
        content_type: v.text("content-type"),
    };
    let artifacts = collect(pattern, &rules, client.log())?;
    if artifacts.is_empty() {
        client.log().info(format!("No files matched paths: {pattern}"));
        return Ok(0);
    }
    client.log().info(format!("Found {} files that match {pattern:?}", artifacts.len()));
    let destination = match call.positionals.get(1) {
        Some(given) => given.clone(),
        None => std::env::var("BUILDKITE_ARTIFACT_UPLOAD_DESTINATION").unwrap_or_default(),
    };
    if !destination.is_empty() {
        return Err(Failure::Fatal(format!(
            "failed to upload artifacts: creating uploader: this version of the agent uploads to Buildkite's own storage only, not to {destination:?}; leave the destination out, and unset BUILDKITE_ARTIFACT_UPLOAD_DESTINATION"
        )));
    }
    client.log().info("Uploading to default Buildkite artifact storage");
    let storage = Storage::new().map_err(Failure::Fatal)?;
    block_on(async {
        for (n, group) in artifacts.chunks(BATCH).enumerate() {
            let from = n * BATCH;
            client.log().info(format!("Creating ({from}-{})/{} artifacts", from + group.len(), artifacts.len()));
            batch(call, &client, &storage, group).await?;
            client.log().info("Artifact uploads completed successfully");
        }
        Ok(0)
    })
}

fn limit(of: Duration) -> impl Fn(u32) -> Option<Duration> {
    move |attempt| (attempt < LIMITED_ATTEMPTS).then_some(of)
}

/// Creates a batch, transfers it, reports its states.
async fn batch(call: &Invocation, client: &Client, storage: &Storage, group: &[Artifact]) -> Result<(), Failure> {
    let failed = |why: &str| Failure::Fatal(format!("failed to upload artifacts: {why}"));
    let (ids, instructions) = create(call, client, group).await?;
    let mut queue: VecDeque<(usize, Unit)> = VecDeque::new();
    let mut states: Vec<State> = Vec::new();
    for (i, (artifact, id)) in group.iter().zip(&ids).enumerate() {
        if artifact.size > HOSTED_BYTES_MAX {
            let why = format!(
                "File size ({} bytes) exceeds the maximum supported by Buildkite's default artifact storage (5Gb). Alternative artifact storage options may support larger files.",
                artifact.size
            );
            client.log().error(format!("Couldn't create upload workers for artifact {:?}: {why}", artifact.path));
            return Err(failed(&why));
        }
        let units = units(artifact, &instructions[i]).map_err(|e| failed(&e))?;
        states.push(State { id: id.clone(), total: units.len(), left: units.len(), etags: BTreeMap::new(), failed: false, reported: false });
        queue.extend(units.into_iter().map(|u| (i, u)));
    }
    let mut errors: Vec<String> = Vec::new();
    let workers = match call.values.int("concurrency") {
        n if n > 0 => usize::try_from(n).unwrap_or(1),
        _ => std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
    };
    let mut running = FuturesUnordered::new();
    let mut tick = tokio::time::interval(REPORT_EVERY);
    tick.tick().await;
    loop {
        while running.len() < workers {
            // The other parts of an artifact that failed are not sent.
            match queue.pop_front() {
                Some((i, _)) if states[i].failed => {}
                Some((i, unit)) => running.push(transfer(client, storage, &group[i], &ids[i], i, unit)),
                None => break,
            }
        }
        if running.is_empty() {
            break;
        }
        tokio::select! {
            biased;
            Some((i, unit, result)) = running.next() => match result {
                Ok(etag) => {
                    states[i].left -= 1;
                    if let (Some(etag), Unit::Part { number, .. }) = (etag, &unit) {
                        states[i].etags.insert(*number, etag);
                    }
                }
                Err(e) => {
                    states[i].failed = true;
                    errors.push(e);
                }
            },
            _ = tick.tick() => {
                if let Err(e) = report(call, client, &mut states).await {
                    errors.push(e);
                }
            }
        }
    }
    if let Err(e) = report(call, client, &mut states).await {
        errors.push(e);
    }
    if errors.is_empty() { Ok(()) } else { Err(failed(&format!("uploading artifacts: errors uploading artifacts: {}", errors.join("\n")))) }
}

/// Where an artifact stands.
struct State {
    id: String,
    total: usize,
    left: usize,
    etags: BTreeMap<u64, String>,
    failed: bool,
    reported: bool,
}

impl State {
    fn word(&self) -> Option<&'static str> {
        match (self.failed, self.left) {
            (true, _) => Some("error"),
            (false, 0) => Some("finished"),
            _ => None,
        }
    }

    fn json(&self) -> Option<serde_json::Value> {
        let mut out = json!({ "id": self.id, "state": self.word()? });
        if self.total > 1 {
            out["multipart"] = true.into();
        }
        if !self.etags.is_empty() {
            out["multipart_etags"] = self.etags.iter().map(|(n, e)| json!({ "part_number": n, "etag": e })).collect();
        }
        Some(out)
    }
}

/// Reports every state that is new and final; none: no request. A state that could not be told is told again with the next.
async fn report(call: &Invocation, client: &Client, states: &mut [State]) -> Result<(), String> {
    let new: Vec<usize> = (0..states.len()).filter(|&i| !states[i].reported && states[i].word().is_some()).collect();
    if new.is_empty() {
        return Ok(());
    }
    let list: Vec<serde_json::Value> = new.iter().filter_map(|&i| states[i].json()).collect();
    let body = json!({ "artifacts": list });
    let path = format!("jobs/{}/artifacts", escape_segment(call.values.text("job")));
    let request = |_: Attempt| json("PUT", path.clone(), &body, false);
    // Every error is retried.
    let done = client.send_limited(request, &retry::ARTIFACT_STATE, |_| true, |_| false, limit(STATE_LIMIT)).await;
    done.map_err(|o| o.text().to_owned())?;
    new.into_iter().for_each(|i| states[i].reported = true);
    Ok(())
}

async fn create(call: &Invocation, client: &Client, group: &[Artifact]) -> Result<(Vec<String>, Vec<Instructions>), Failure> {
    let artifacts: Vec<serde_json::Value> = group
        .iter()
        .map(|a| {
            json!({
                "id": "", "path": a.path, "absolute_path": a.absolute, "glob_path": "", "file_size": a.size, "sha1sum": a.sha1, "sha256sum": a.sha256,
                "job_id": "", "created_at": "0001-01-01T00:00:00Z", "content_type": a.content_type,
            })
        })
        .collect();
    let mut body = json!({ "id": client.uuid(), "artifacts": artifacts, "upload_destination": "" });
    if !call.values.bool("no-multipart-artifact-upload") {
        body["multipart_supported"] = true.into();
    }
    let path = format!("jobs/{}/artifacts", escape_segment(call.values.text("job")));
    let request = |_: Attempt| json("POST", path.clone(), &body, true);
    // Every 4xx but 429 ends the loop.
    let rule = |o: &Outcome| !o.rejected();
    let reply = client.send_limited(request, &retry::ARTIFACT_CREATE, rule, |_| false, limit(CREATE_LIMIT)).await;
    let reply = reply.map_err(|o| {
        if let Some(status) = o.status().filter(|_| o.rejected()) {
            client.log().warn(format!("Artifact creation failed with status code {status}, breaking the retry loop"));
        }
        client.log().warn(o.text());
        Failure::Fatal(format!("failed to upload artifacts: {}", o.text()))
    })?;
    parse_created(&reply, group.len()).map_err(|why| Failure::Fatal(format!("failed to upload artifacts: {why}")))
}

/// Ids and instructions, one for each artifact.
fn parse_created(reply: &JsonReply, count: usize) -> Result<(Vec<String>, Vec<Instructions>), String> {
    #[derive(serde::Deserialize)]
    struct Created {
        #[serde(default)]
        artifact_ids: Vec<String>,
        #[serde(default)]
        upload_instructions: Option<Instructions>,
        #[serde(default)]
        per_artifact_instructions: Option<BTreeMap<String, Option<Instructions>>>,
    }
    let created: Created =
        serde_json::from_str(&reply.body).map_err(|e| format!("the control plane's answer to the batch is not understood: {e}"))?;
    if created.artifact_ids.len() != count {
        return Err(format!("the control plane gave {} ids for {count} artifacts", created.artifact_ids.len()));
    }
    let own = created.per_artifact_instructions.unwrap_or_default();
    let instructions =
        created.artifact_ids.iter().map(|id| own.get(id).cloned().flatten().or_else(|| created.upload_instructions.clone()).unwrap_or_default());
    let instructions = instructions.collect();
    Ok((created.artifact_ids, instructions))
}

/// One unit with its retries (R-transfer): any error is retried.
async fn transfer(
    client: &Client,
    storage: &Storage,
    artifact: &Artifact,
    id: &str,
    index: usize,
    unit: Unit,
) -> (usize, Unit, Result<Option<String>, String>) {
    let what = match &unit {
        Unit::Form { .. } => format!("{id} {} ({})", artifact.path, iec(artifact.size)),
        Unit::Part { number, of, range, .. } => {
            format!("{id} {} part {number}/{of} (~{} starting at ~{})", artifact.path, iec(range.size), iec(range.offset))
        }
    };
    client.log().info(format!("Uploading {what}"));
    let clock = Clock::start();
    let mut attempts = client.attempts(&retry::TRANSFER, clock.now());
    loop {
        let error = match send(client, storage, artifact, &unit).await {
            Ok(etag) => return (index, unit, Ok(etag)),
            Err(e) => e,
        };
        let next = attempts.failed(&retry::TRANSFER, clock.now(), None);
        client.log().warn(format!("{error} {}", attempts.text(&retry::TRANSFER, next)));
        match next {
            Next::At(at) => clock.reached(Some(at)).await,
            Next::GiveUp => {
                client.log().info(format!("Upload failed for {what}: {error}"));
                return (index, unit, Err(error));
            }
        }
        client.again(&mut attempts, &retry::TRANSFER);
    }
}
