//! The settings of a job's log stream (job-runner §5, §6).

use super::JobStart;
use crate::agent::AgentConfig;
use crate::limits;
use crate::log::LogConfig;
use std::time::Duration;

/// Settings of the job's log stream. `copy` is the path of the log copy.
pub(super) fn log_config(start: &JobStart, copy: Option<String>, seed: u64, config: &AgentConfig) -> LogConfig {
    let job = &start.job;
    let or = |value: u64, default: u64| if value == 0 { default } else { value };
    // W2: without a chunk size the reference starts the job and never finishes it.
    let chunk_bytes = or(job.chunks_max_size_bytes, limits::CHUNK_BYTES_DEFAULT).min(limits::CHUNK_BYTES_MAX);
    LogConfig {
        job: start.owner,
        job_id: job.id.clone(),
        worker: start.worker.clone(),
        session: start.session.clone(),
        chunk_bytes,
        interval: Duration::from_secs(or(job.chunks_interval_seconds, 1)),
        size_warning: or(job.log_max_size_bytes, limits::LOG_SIZE_WARNING_BYTES),
        timestamps: config.job.timestamps,
        buffer_bytes: limits::LOG_BUFFER_BYTES.max(chunk_bytes.saturating_mul(8)),
        stdout: config.job.write_job_logs_to_stdout,
        stdout_fields: if config.job.write_job_logs_to_stdout.is_some() { stdout_fields(start) } else { Vec::new() },
        copy,
        seed,
    }
}

/// Fields of a JSON copy of job output after `ts`, `level` and `msg` (job-runner §6.7).
fn stdout_fields(start: &JobStart) -> Vec<(String, String)> {
    let job = &start.job;
    let of = |name: &str| job.env.get(name).unwrap_or_default().to_owned();
    let mut fields = vec![
        ("source", "job".to_owned()),
        ("org", of("BUILDKITE_ORGANIZATION_SLUG")),
        ("pipeline", of("BUILDKITE_PIPELINE_SLUG")),
        ("branch", of("BUILDKITE_BRANCH")),
        ("queue", of("BUILDKITE_AGENT_META_DATA_QUEUE")),
        ("build_id", of("BUILDKITE_BUILD_ID")),
        ("build_number", of("BUILDKITE_BUILD_NUMBER")),
        ("job_url", start.job_url()),
        ("build_url", of("BUILDKITE_BUILD_URL")),
        ("job_id", job.id.to_string()),
        ("step_key", of("BUILDKITE_STEP_KEY")),
    ];
    let parts: Vec<&str> = job.traceparent.split('-').collect();
    if let [_, trace, span, _, ..] = parts[..] {
        fields.push(("trace_id", trace.to_owned()));
        fields.push(("span_id", span.to_owned()));
    }
    fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}
