//! What the parts of a stream share: the way to its commands, and where its bytes go.

use super::buffer::Buffer;
use super::sink::Sink;
use super::{LogCommand, LogConfig};
use crate::agent::{AgentLog, Level, Metric};
use crate::machine::{Instant, RequestIds, Transition};
use crate::rng::Rng;
use std::sync::Arc;

/// What the parts of the stream need to act.
pub(crate) struct Context<'a> {
    pub(crate) now: Instant,
    pub(crate) config: &'a LogConfig,
    pub(crate) chunk_bytes: u64,
    pub(crate) ids: &'a mut RequestIds,
    pub(crate) rng: &'a mut Rng,
    pub(crate) out: &'a mut Vec<LogCommand>,
}

impl Context<'_> {
    pub(crate) fn log(&mut self, level: Level, text: String) {
        let worker = Some(Arc::clone(&self.config.worker));
        self.out.push(LogCommand::Log(AgentLog { level, worker, text, fields: Vec::new() }));
    }

    pub(crate) fn metric(&mut self, metric: Metric) {
        self.out.push(LogCommand::Metric(metric));
    }

    pub(crate) fn transition(&mut self, machine: &'static str, from: &'static str, event: &'static str, to: &'static str) {
        self.out.push(LogCommand::Transition(Transition { owner: self.config.job, machine, from, event, to }));
    }
}

/// The buffer, and the log copy beside it if there is one (job-runner §6.7).
pub(crate) struct Tee<'a> {
    buffer: &'a mut Buffer,
    copy: Option<Vec<u8>>,
}

impl Tee<'_> {
    pub(crate) fn new(buffer: &mut Buffer, copy: bool) -> Tee<'_> {
        Tee { buffer, copy: copy.then(Vec::new) }
    }

    pub(crate) fn finish(self, out: &mut Vec<LogCommand>) {
        if let Some(copy) = self.copy.filter(|c| !c.is_empty()) {
            out.push(LogCommand::Copy(copy.into()));
        }
    }
}

impl Sink for Tee<'_> {
    fn append(&mut self, bytes: &[u8]) {
        self.buffer.append(bytes);
        if let Some(copy) = &mut self.copy {
            copy.extend_from_slice(bytes);
        }
    }
}

/// `1023 B`, `1.0 GiB`, `12 MiB`: one decimal below ten.
pub(crate) fn binary_size(bytes: u64) -> String {
    const UNITS: [&str; 7] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    let unit = (bytes.max(1).ilog2() / 10) as usize;
    if unit == 0 {
        return format!("{bytes} B");
    }
    let value = (bytes as f64 / (1_u64 << (10 * unit)) as f64 * 10.0).round() / 10.0;
    if value < 10.0 { format!("{value:.1} {}", UNITS[unit]) } else { format!("{value:.0} {}", UNITS[unit]) }
}

#[cfg(test)]
mod tests {
    use super::binary_size;

    #[test]
    fn sizes_read_as_users_know_them() {
        for (bytes, text) in [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (12 << 20, "12 MiB"), (1 << 30, "1.0 GiB"), (3 << 29, "1.5 GiB")] {
            assert_eq!(binary_size(bytes), text);
        }
    }
}
