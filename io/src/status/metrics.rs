//! The metrics of start-and-worker §7.1, as Prometheus text. Rendered by hand: the names of the histograms end in `_total`,
//! which the client library reserves for counters.

use super::histogram::Histogram;
use ibex_core::agent::Metric;
use std::collections::BTreeMap;
use std::fmt::Write;

const PREFIX: &str = "buildkite_agent_";

/// All metrics of the process, over all workers.
#[derive(Clone, Debug)]
pub(super) struct Metrics {
    workers_started: u64,
    workers_ended: u64,
    pings_sent: u64,
    pings_errors: u64,
    pings_actions: BTreeMap<String, u64>,
    pings_duration: Histogram,
    pings_wait: Histogram,
    /// By priority and queue: started, ended.
    jobs: BTreeMap<(i64, String), (u64, u64)>,
    chunks_uploaded: u64,
    bytes_uploaded: u64,
    compressed_bytes_uploaded: u64,
    chunks_given_up: u64,
    bytes_given_up: u64,
    upload_duration: Histogram,
    chunk_size: Histogram,
}

impl Default for Metrics {
    fn default() -> Metrics {
        Metrics {
            workers_started: 0,
            workers_ended: 0,
            pings_sent: 0,
            pings_errors: 0,
            pings_actions: BTreeMap::new(),
            pings_duration: Histogram::exponential(0.015625, 2.0, 12),
            pings_wait: Histogram::up_to(20),
            jobs: BTreeMap::new(),
            chunks_uploaded: 0,
            bytes_uploaded: 0,
            compressed_bytes_uploaded: 0,
            chunks_given_up: 0,
            bytes_given_up: 0,
            upload_duration: Histogram::exponential(0.015625, 2.0, 16),
            chunk_size: Histogram::exponential(256.0, 4.0, 10),
        }
    }
}

/// Actions that are told apart. The label is whatever text the server had: beyond the limit new ones are counted as `other`.
const ACTIONS: usize = 64;

impl Metrics {
    pub(super) fn count(&mut self, metric: &Metric) {
        match metric {
            Metric::WorkerStarted => self.workers_started += 1,
            Metric::WorkerEnded => self.workers_ended += 1,
            Metric::PingSent => self.pings_sent += 1,
            Metric::PingError => self.pings_errors += 1,
            Metric::PingAction { action } => {
                let known = self.pings_actions.contains_key(action) || self.pings_actions.len() < ACTIONS;
                *self.pings_actions.entry(if known { action.clone() } else { "other".to_owned() }).or_default() += 1;
            }
            Metric::PingDuration(d) => self.pings_duration.observe(d.as_secs_f64()),
            Metric::PingWait(d) => self.pings_wait.observe(d.as_secs_f64()),
            Metric::JobStarted { priority, queue } => self.jobs.entry((*priority, queue.to_string())).or_default().0 += 1,
            Metric::JobEnded { priority, queue } => self.jobs.entry((*priority, queue.to_string())).or_default().1 += 1,
            Metric::ChunkUploaded { bytes, compressed, took } => {
                self.chunks_uploaded += 1;
                self.bytes_uploaded += bytes;
                self.compressed_bytes_uploaded += compressed;
                self.upload_duration.observe(took.as_secs_f64());
            }
            Metric::ChunkCut { bytes } => self.chunk_size.observe(*bytes as f64),
            Metric::ChunkGivenUp { bytes } => {
                self.chunks_given_up += 1;
                self.bytes_given_up += bytes;
            }
            // Only exported through OTLP (start-and-worker §7.2).
            Metric::JobFinished { .. } | Metric::QueueTime { .. } => {}
        }
    }

    pub(super) fn render(&self) -> String {
        let mut out = String::new();
        let counters = [
            ("workers_started_total", "Workers begun.", self.workers_started),
            ("workers_ended_total", "Workers ended.", self.workers_ended),
            ("pings_sent_total", "Pings sent by polling.", self.pings_sent),
            ("pings_errors_total", "Pings that failed.", self.pings_errors),
            ("logs_chunks_uploaded_total", "Log chunks uploaded.", self.chunks_uploaded),
            ("logs_bytes_uploaded_total", "Log bytes uploaded, before compression.", self.bytes_uploaded),
            ("logs_compressed_bytes_uploaded_total", "Log bytes uploaded, compressed.", self.compressed_bytes_uploaded),
            ("logs_chunk_uploads_errored_total", "Log chunks given up.", self.chunks_given_up),
            ("logs_bytes_uploads_errored_total", "Log bytes given up.", self.bytes_given_up),
        ];
        for (name, help, value) in counters {
            head(&mut out, name, help, "counter");
            let _ = writeln!(out, "{PREFIX}{name} {value}");
        }
        head(&mut out, "pings_actions_total", "Actions handled, by their text.", "counter");
        for (action, n) in &self.pings_actions {
            let _ = writeln!(out, "{PREFIX}pings_actions_total{{action=\"{}\"}} {n}", escape(action));
        }
        self.render_jobs(&mut out);
        let histograms = [
            ("pings_duration_seconds_total", "Time that pings took.", &self.pings_duration),
            ("pings_wait_duration_seconds_total", "Time between pings.", &self.pings_wait),
            ("logs_upload_duration_seconds_total", "Time that uploads of chunks took.", &self.upload_duration),
            ("logs_chunk_size_bytes", "Sizes of log chunks.", &self.chunk_size),
        ];
        for (name, help, histogram) in histograms {
            head(&mut out, name, help, "histogram");
            histogram.render(&format!("{PREFIX}{name}"), &mut out);
        }
        out
    }

    fn render_jobs(&self, out: &mut String) {
        type Value = fn(&(u64, u64)) -> u64;
        let series: [(&str, &str, &str, Value); 3] = [
            ("jobs_started_total", "Jobs begun.", "counter", |(started, _)| *started),
            ("jobs_ended_total", "Jobs over.", "counter", |(_, ended)| *ended),
            ("jobs_running", "Jobs under way.", "gauge", |(started, ended)| started.saturating_sub(*ended)),
        ];
        for (name, help, kind, value) in series {
            head(out, name, help, kind);
            for ((priority, queue), counts) in &self.jobs {
                let _ = writeln!(out, "{PREFIX}{name}{{priority=\"{priority}\",queue=\"{}\"}} {}", escape(queue), value(counts));
            }
        }
    }
}

fn head(out: &mut String, name: &str, help: &str, kind: &str) {
    let _ = writeln!(out, "# HELP {PREFIX}{name} {help}\n# TYPE {PREFIX}{name} {kind}");
}

fn escape(label: &str) -> String {
    label.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn counters_exist_from_the_start_and_names_are_exact() {
        let text = Metrics::default().render();
        for name in [
            "workers_started_total",
            "workers_ended_total",
            "pings_sent_total",
            "pings_errors_total",
            "logs_chunks_uploaded_total",
            "logs_bytes_uploaded_total",
            "logs_compressed_bytes_uploaded_total",
            "logs_chunk_uploads_errored_total",
            "logs_bytes_uploads_errored_total",
        ] {
            assert!(text.contains(&format!("\nbuildkite_agent_{name} 0\n")), "{name}");
        }
        assert!(text.contains("\nbuildkite_agent_pings_duration_seconds_total_bucket{le=\"0.015625\"} 0\n"));
        assert!(text.contains("\nbuildkite_agent_pings_duration_seconds_total_bucket{le=\"32\"} 0\n"));
        assert!(text.contains("\nbuildkite_agent_pings_wait_duration_seconds_total_bucket{le=\"20\"} 0\n"));
        assert!(text.contains("\nbuildkite_agent_logs_upload_duration_seconds_total_bucket{le=\"512\"} 0\n"));
        assert!(text.contains("\nbuildkite_agent_logs_chunk_size_bytes_bucket{le=\"67108864\"} 0\n"));
    }

    #[test]
    fn what_is_counted_is_shown() {
        let mut m = Metrics::default();
        let queue: std::sync::Arc<str> = "a\"b".into();
        m.count(&Metric::PingAction { action: String::new() });
        m.count(&Metric::JobStarted { priority: -1, queue: queue.clone() });
        m.count(&Metric::JobStarted { priority: -1, queue: queue.clone() });
        m.count(&Metric::JobEnded { priority: -1, queue });
        m.count(&Metric::ChunkUploaded { bytes: 10, compressed: 4, took: Duration::from_millis(100) });
        m.count(&Metric::PingWait(Duration::from_secs(99)));
        let text = m.render();
        for line in [
            "buildkite_agent_pings_actions_total{action=\"\"} 1",
            "buildkite_agent_jobs_started_total{priority=\"-1\",queue=\"a\\\"b\"} 2",
            "buildkite_agent_jobs_running{priority=\"-1\",queue=\"a\\\"b\"} 1",
            "buildkite_agent_logs_bytes_uploaded_total 10",
            "buildkite_agent_logs_upload_duration_seconds_total_bucket{le=\"0.0625\"} 0",
            "buildkite_agent_logs_upload_duration_seconds_total_bucket{le=\"0.125\"} 1",
            "buildkite_agent_pings_wait_duration_seconds_total_bucket{le=\"20\"} 0",
            "buildkite_agent_pings_wait_duration_seconds_total_bucket{le=\"+Inf\"} 1",
        ] {
            assert!(text.lines().any(|l| l == line), "{line}\n{text}");
        }
    }
}
