//! The `LogStream` machine: one per running job, driven by a task of its own. Raw bytes in, ordered chunks out
//! (specification: job-runner-and-process §6, §8.3).

use super::buffer::Buffer;
use super::content::Content;
use super::context::{Context, Tee, binary_size};
use super::cutter::Cutter;
use super::header_times::HeaderTimes;
use super::window::Window;
use super::{LogCommand, LogConfig, LogEvent, TimestampMode};
use crate::agent::Level;
use crate::api::Outcome;
use crate::limits::{
    CHUNK_BYTES_DEFAULT, LOG_BURST_BYTES, LOG_CUT_EARLY_BYTES, LOG_PACE_PATIENCE, LOG_PACED_BYTES, LOG_RESUME_QUARTERS, LOG_SIZE_WARNING_BYTES,
    UPLOAD_TOTAL,
};
use crate::machine::{Instant, Machine, RequestId, RequestIds, Transition, earliest};
use crate::rng::Rng;
use crate::wall::WallTime;
use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// The log of one job.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct LogStream {
    config: LogConfig,
    ids: RequestIds,
    rng: Rng,
    content: Content,
    /// Bytes not cut yet.
    buffer: Buffer,
    window: Window,
    /// `None` with ANSI timestamps.
    header_times: Option<HeaderTimes>,
    /// The warning of job-runner §6.13 was written.
    size_warned: bool,
    /// Much was held since memory was last given back.
    burst: bool,
    phase: Phase,
    /// Events that came too late to matter: completions of nothing, output after the end.
    late: u32,
}

/// Where the stream stands (job-runner §8.3).
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
enum Phase {
    /// Takes bytes. The interval timer runs once the process has started.
    Open { cutter: Option<Cutter>, reading: Reading },
    /// Everything is cut; waits until it is settled.
    Flushing { until: Instant },
    /// The flush limit has passed: waits for the completions of what was aborted.
    Aborting,
    /// Done.
    Drained,
}

/// Whether the output of the process is read (job-runner §6.8).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
enum Reading {
    /// Read.
    On,
    /// Not read for a moment: uploads are fast, so a small buffer serves the job as well as a large one. Ends at `until` if
    /// uploads do not free room by then.
    Paced { until: Instant },
    /// Not read: the limit is exceeded.
    Stalled,
}

impl Phase {
    fn name(&self) -> &'static str {
        match self {
            Phase::Open { reading: Reading::On, .. } => "open",
            Phase::Open { reading: Reading::Paced { .. }, .. } => "paced",
            Phase::Open { reading: Reading::Stalled, .. } => "stalled",
            Phase::Flushing { .. } => "flushing",
            Phase::Aborting => "aborting",
            Phase::Drained => "drained",
        }
    }
}

impl Machine for LogStream {
    type Event = LogEvent;
    type Command = LogCommand;

    fn handle(&mut self, now: Instant, event: LogEvent, out: &mut Vec<LogCommand>) {
        let from = self.phase.name();
        match (&mut self.phase, event) {
            (Phase::Open { .. }, LogEvent::Bytes { wall, data }) => {
                self.take(now, wall, data, out);
                self.transition(from, "bytes", out);
            }
            (Phase::Open { .. }, LogEvent::Line { wall, data }) => {
                self.take(now, wall, data, out);
                self.transition(from, "line", out);
            }
            (Phase::Open { cutter: cutter @ None, .. }, LogEvent::ProcessStarted) => {
                // job-runner §6.10: timer started when the process starts.
                *cutter = Some(Cutter::new(self.config.interval, now, &mut self.rng));
                self.transition(from, "process_started", out);
            }
            (Phase::Open { .. }, LogEvent::Flush { limit, wall }) => {
                // job-runner §6.12: cut everything, accept nothing more. The limit is never above 1 h (W24).
                self.finish_content(now, wall, out);
                self.phase = Phase::Flushing { until: now + limit.min(UPLOAD_TOTAL) };
                self.transition(from, "flush", out);
                self.cut(now, self.buffer.len(), out);
                let (header_times, mut cx) = self.header_context(now, out);
                if let Some(h) = header_times {
                    h.end(&mut cx);
                }
            }
            (Phase::Flushing { until }, LogEvent::Flush { limit, .. }) => {
                // A forced stop has a smaller budget (job-runner §7.5); a repetition never prolongs.
                *until = (*until).min(now + limit);
                self.transition(from, "flush", out);
            }
            (Phase::Drained, LogEvent::Settled { .. }) => self.late += 1,
            (_, LogEvent::Settled { id, outcome, compressed }) => {
                let (window, mut cx) = self.window_context(now, out);
                if window.settled(id, &outcome, compressed, &mut cx) || self.header_settled(now, id, &outcome, out) {
                    self.transition(from, "settled", out);
                } else {
                    self.late += 1;
                }
            }
            // Output after the end (the reader was closed late), a second start, a flush of what is over.
            (_, LogEvent::Bytes { .. } | LogEvent::Line { .. } | LogEvent::ProcessStarted | LogEvent::Flush { .. }) => self.late += 1,
        }
        self.after(now, out);
    }

    fn deadline(&self) -> Option<Instant> {
        let own = match &self.phase {
            Phase::Open { cutter, reading } => {
                // A cut with an empty buffer does nothing, so a silent job wakes nobody.
                let cut = cutter.as_ref().map(Cutter::at).filter(|_| self.has_uncut());
                let pace = if let Reading::Paced { until } = reading { Some(*until) } else { None };
                earliest(cut, pace)
            }
            Phase::Flushing { until } => Some(*until),
            Phase::Aborting => None,
            Phase::Drained => return None,
        };
        earliest(earliest(own, self.window.deadline()), self.header_times.as_ref().and_then(HeaderTimes::deadline))
    }

    fn expire(&mut self, now: Instant, out: &mut Vec<LogCommand>) {
        let from = self.phase.name();
        let uncut = self.has_uncut();
        match &mut self.phase {
            Phase::Open { cutter: Some(cutter), .. } if uncut && cutter.at() <= now => {
                cutter.advance(now, &mut self.rng);
                self.cut_all(now, out);
            }
            Phase::Flushing { until } if *until <= now => {
                // job-runner §6.12: what is unsettled counts as given up.
                self.phase = Phase::Aborting;
                self.transition(from, "flush_limit", out);
                let (window, mut cx) = self.window_context(now, out);
                window.abandon(&mut cx);
                let (header_times, mut cx) = self.header_context(now, out);
                if let Some(h) = header_times {
                    h.abandon(&mut cx);
                }
            }
            _ => {}
        }
        if let Phase::Open { reading: Reading::Paced { until }, .. } = self.phase
            && until <= now
        {
            self.window.mark_slow();
        }
        let (window, mut cx) = self.window_context(now, out);
        window.expire(&mut cx);
        let (header_times, mut cx) = self.header_context(now, out);
        if let Some(h) = header_times {
            h.expire(&mut cx);
        }
        self.after(now, out);
    }
}

impl LogStream {
    /// A stream that takes bytes; its first chunk has sequence 1 and offset 0.
    pub fn new(mut config: LogConfig, now: Instant) -> LogStream {
        if config.chunk_bytes == 0 {
            config.chunk_bytes = CHUNK_BYTES_DEFAULT;
        }
        if config.size_warning == 0 {
            config.size_warning = LOG_SIZE_WARNING_BYTES;
        }
        config.buffer_bytes = config.buffer_bytes.max(8 * config.chunk_bytes);
        LogStream {
            ids: RequestIds::new(config.job),
            rng: Rng::from_seed(config.seed),
            content: Content::new(config.timestamps),
            buffer: Buffer::new(),
            window: Window::default(),
            header_times: (config.timestamps != TimestampMode::Ansi).then(|| HeaderTimes::new(now)),
            size_warned: false,
            burst: false,
            phase: Phase::Open { cutter: None, reading: Reading::On },
            late: 0,
            config,
        }
    }

    /// Whether `Drained` has been emitted.
    pub fn is_drained(&self) -> bool {
        self.phase == Phase::Drained
    }

    /// Events that were dropped because they came too late to matter.
    pub fn late(&self) -> u32 {
        self.late
    }

    /// Bytes buffered plus bytes of unsettled chunks (B of job-runner §6.8).
    pub fn outstanding_bytes(&self) -> u64 {
        self.buffer.len() + self.window.unsettled()
    }

    /// Lengths of the bounded queues: chunks begun, header times waiting.
    #[cfg(test)]
    pub(super) fn sizes(&self) -> [usize; 2] {
        [self.window.begun_len(), self.header_times.as_ref().map_or(0, HeaderTimes::waiting_len)]
    }

    /// Whether a cut would find anything.
    fn has_uncut(&self) -> bool {
        !self.buffer.is_empty() || self.content.holds()
    }

    /// A delivery: to stdout as it is, into the buffer (and the copy) with its timestamps.
    fn take(&mut self, now: Instant, wall: WallTime, data: Bytes, out: &mut Vec<LogCommand>) {
        if self.config.stdout.is_some() && !data.is_empty() {
            out.push(LogCommand::Stdout(data.clone()));
        }
        if !self.has_uncut() {
            // No deadline was armed while there was nothing to cut: pass over the cuts that did not happen.
            if let Phase::Open { cutter: Some(cutter), .. } = &mut self.phase {
                cutter.advance(now, &mut self.rng);
            }
        }
        let mut headers = Vec::new();
        let mut tee = Tee::new(&mut self.buffer, self.config.copy.is_some());
        self.content.push(wall, &data, &mut tee, |at| headers.push(at));
        tee.finish(out);
        self.headers_found(now, headers, out);
        // Output that comes faster than the interval allows for is cut into full chunks before, so that memory stays small.
        if self.buffer.len() >= LOG_CUT_EARLY_BYTES.max(self.config.chunk_bytes) {
            let whole = self.buffer.len() - self.buffer.len() % self.config.chunk_bytes;
            self.transition(self.phase.name(), "cut_early", out);
            self.cut(now, whole, out);
        }
    }

    /// A cut of the interval timer.
    fn cut_all(&mut self, now: Instant, out: &mut Vec<LogCommand>) {
        let mut tee = Tee::new(&mut self.buffer, self.config.copy.is_some());
        self.content.release(&mut tee);
        tee.finish(out);
        if !self.buffer.is_empty() {
            self.transition(self.phase.name(), "cut", out);
            self.cut(now, self.buffer.len(), out);
        }
    }

    fn finish_content(&mut self, now: Instant, wall: WallTime, out: &mut Vec<LogCommand>) {
        let mut headers = Vec::new();
        let mut tee = Tee::new(&mut self.buffer, self.config.copy.is_some());
        self.content.finish(wall, &mut tee, |at| headers.push(at));
        tee.finish(out);
        self.headers_found(now, headers, out);
    }

    /// job-runner §6.9: the first `bytes` bytes of the buffer, in chunks of at most M.
    fn cut(&mut self, now: Instant, mut bytes: u64, out: &mut Vec<LogCommand>) {
        while bytes > 0 {
            let n = bytes.min(self.config.chunk_bytes);
            let pieces = self.buffer.take(n);
            let (window, mut cx) = self.window_context(now, out);
            window.add(pieces, n, &mut cx);
            bytes -= n;
        }
        // job-runner §6.13: one warning, and uploading goes on.
        let total = self.window.bytes_cut();
        if total > self.config.size_warning && !self.size_warned {
            self.size_warned = true;
            let text = format!(
                "The job log has reached {} in size, which has exceeded the maximum size ({}). All of it is still uploaded, but the control plane may not keep what is beyond.",
                binary_size(total),
                binary_size(self.config.size_warning)
            );
            let (_, mut cx) = self.window_context(now, out);
            cx.log(Level::Warn, text);
        }
    }

    /// What follows from every event: back-pressure while open, the verdict at the end.
    fn after(&mut self, now: Instant, out: &mut Vec<LogCommand>) {
        let held = self.outstanding_bytes();
        if held > LOG_BURST_BYTES {
            self.burst = true;
        } else if self.burst && held <= self.config.chunk_bytes {
            self.burst = false;
            out.push(LogCommand::ReleaseMemory);
        }
        let settled = self.window.is_settled() && self.header_times.as_ref().is_none_or(HeaderTimes::is_settled);
        match self.phase {
            Phase::Open { .. } => self.balance(now, out),
            Phase::Flushing { .. } | Phase::Aborting if settled => {
                let from = self.phase.name();
                self.phase = Phase::Drained;
                self.transition(from, "all_settled", out);
                let failed = self.window.failed();
                if failed > 0 {
                    let (_, mut cx) = self.window_context(now, out);
                    cx.log(Level::Warn, format!("{failed} chunks failed to upload for this job"));
                }
                out.push(self.window.drained());
            }
            Phase::Flushing { .. } | Phase::Aborting | Phase::Drained => {}
        }
    }

    /// job-runner §6.8: reading stops above a limit and resumes below three quarters of it. The limit is the configured one; while
    /// uploads are fast it is a smaller one, because more memory would not make the job faster.
    fn balance(&mut self, now: Instant, out: &mut Vec<LogCommand>) {
        let held = self.outstanding_bytes();
        let (limit, slow) = (self.config.buffer_bytes, self.window.is_slow());
        let paced = LOG_PACED_BYTES.max(8 * self.config.chunk_bytes).min(limit);
        let below = |limit: u64| held < limit / 4 * LOG_RESUME_QUARTERS;
        let from = self.phase.name();
        let Phase::Open { reading, .. } = &mut self.phase else { return };
        let (next, event, command) = match *reading {
            Reading::On if held > limit => (Reading::Stalled, "full", LogCommand::StopReading),
            Reading::On if held > paced && !slow => (Reading::Paced { until: now + LOG_PACE_PATIENCE }, "ahead", LogCommand::StopReading),
            Reading::Paced { .. } if held <= limit && (slow || below(paced)) => (Reading::On, "room", LogCommand::ResumeReading),
            Reading::Stalled if below(limit) => (Reading::On, "room", LogCommand::ResumeReading),
            Reading::Paced { .. } if slow => {
                *reading = Reading::Stalled;
                return self.transition(from, "full", out);
            }
            Reading::On | Reading::Paced { .. } | Reading::Stalled => return,
        };
        *reading = next;
        self.transition(from, event, out);
        out.push(command);
    }

    fn headers_found(&mut self, now: Instant, headers: Vec<WallTime>, out: &mut Vec<LogCommand>) {
        if let (Some(h), mut cx) = self.header_context(now, out) {
            headers.into_iter().for_each(|at| h.found(at, &mut cx));
        }
    }

    fn header_settled(&mut self, now: Instant, id: RequestId, outcome: &Outcome, out: &mut Vec<LogCommand>) -> bool {
        let (header_times, mut cx) = self.header_context(now, out);
        header_times.is_some_and(|h| h.settled(id, outcome, &mut cx))
    }

    fn transition(&self, from: &'static str, event: &'static str, out: &mut Vec<LogCommand>) {
        let to = self.phase.name();
        out.push(LogCommand::Transition(Transition { owner: self.config.job, machine: "log", from, event, to }));
    }

    fn window_context<'a>(&'a mut self, now: Instant, out: &'a mut Vec<LogCommand>) -> (&'a mut Window, Context<'a>) {
        let LogStream { config, ids, rng, window, .. } = self;
        (window, Context { now, config, chunk_bytes: config.chunk_bytes, ids, rng, out })
    }

    fn header_context<'a>(&'a mut self, now: Instant, out: &'a mut Vec<LogCommand>) -> (Option<&'a mut HeaderTimes>, Context<'a>) {
        let LogStream { config, ids, rng, header_times, .. } = self;
        (header_times.as_mut(), Context { now, config, chunk_bytes: config.chunk_bytes, ids, rng, out })
    }
}
