//! The upload window: chunks waiting, in flight, between attempts, and what became of them (job-runner §6.11, §8.3).

use super::LogCommand;
use super::context::Context;
use crate::agent::{Level, Metric};
use crate::api::Outcome;
use crate::limits::{CHUNKS_IN_FLIGHT, LOG_PACED_BYTES};
use crate::machine::{Instant, RequestId, earliest};
use crate::retry::{Attempts, CHUNK, Next};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use std::time::Duration;

/// Longest time in which uploads may need to free [`LOG_PACED_BYTES`] and still count as fast.
const FAST: Duration = Duration::from_secs(1);

/// All chunks of a job that are not settled, and the accounts of those that are.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) struct Window {
    /// Cut, not begun; in sequence order.
    queued: VecDeque<Chunk>,
    /// Begun, at most [`CHUNKS_IN_FLIGHT`]; in sequence order.
    begun: Vec<Begun>,
    /// Sequence of the last chunk cut.
    sequence: u64,
    /// Bytes cut.
    offset: u64,
    /// Bytes of `queued` and `begun`.
    unsettled: u64,
    uploaded: u64,
    uploaded_bytes: u64,
    failed: u64,
    slow: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
struct Chunk {
    sequence: u64,
    offset: u64,
    bytes: u64,
    pieces: Vec<Bytes>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
struct Begun {
    chunk: Chunk,
    attempts: Attempts,
    state: Upload,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
enum Upload {
    InFlight {
        id: RequestId,
        since: Instant,
    },
    /// In flight, but its time is over: whatever comes but a success gives it up.
    Aborting {
        id: RequestId,
        since: Instant,
    },
    Waiting {
        until: Instant,
    },
}

impl Begun {
    fn deadline(&self) -> Option<Instant> {
        match self.state {
            Upload::Waiting { until } => Some(until),
            Upload::InFlight { .. } => CHUNK.total.map(|total| self.attempts.since + total),
            Upload::Aborting { .. } => None,
        }
    }

    fn request(&self) -> Option<(RequestId, Instant)> {
        match self.state {
            Upload::InFlight { id, since } | Upload::Aborting { id, since } => Some((id, since)),
            Upload::Waiting { .. } => None,
        }
    }
}

impl Window {
    /// Adds a chunk of `bytes` bytes and starts what has room.
    pub(crate) fn add(&mut self, pieces: Vec<Bytes>, bytes: u64, cx: &mut Context) {
        assert!(bytes > 0, "a chunk is never empty");
        self.sequence += 1;
        self.queued.push_back(Chunk { sequence: self.sequence, offset: self.offset, bytes, pieces });
        self.offset += bytes;
        self.unsettled += bytes;
        cx.metric(Metric::ChunkCut { bytes });
        self.fill(cx);
    }

    /// Completes an upload; false if `id` is none of ours.
    pub(crate) fn settled(&mut self, id: RequestId, outcome: &Outcome, compressed: u64, cx: &mut Context) -> bool {
        let Some((at, since)) = self.begun.iter().enumerate().find_map(|(i, b)| b.request().filter(|r| r.0 == id).map(|r| (i, r.1))) else {
            return false;
        };
        let begun = &mut self.begun[at];
        let took = cx.now.since(since);
        match (&begun.state, outcome) {
            // 2xx. Also when we had given up on the exchange: the server has the chunk, so it did not fail (I8).
            (_, Outcome::Ok(_)) => {
                let chunk = self.begun.remove(at).chunk;
                self.unsettled -= chunk.bytes;
                self.uploaded += 1;
                self.uploaded_bytes += chunk.bytes;
                cx.transition("chunk", "in_flight", "ok", "uploaded");
                cx.metric(Metric::ChunkUploaded { bytes: chunk.bytes, compressed, took });
                self.slow = !fast(took, cx.chunk_bytes);
            }
            // Chunk limit or flush limit.
            (Upload::Aborting { .. }, _) => {
                cx.transition("chunk", "in_flight", "limit", "given_up");
                self.give_up(at, cx);
            }
            // 4xx but 429: final (job-runner §6.11, W23).
            (_, Outcome::Status(e)) if (400..500).contains(&e.status) && e.status != 429 => {
                cx.log(Level::Warn, format!("Buildkite rejected the chunk upload ({})", e.text));
                cx.transition("chunk", "in_flight", "rejected", "given_up");
                self.give_up(at, cx);
            }
            // 5xx, 429 and every transport error (job-runner §6.11). 429 waits at least `Retry-After`.
            (_, failure) => {
                self.slow = true;
                let retry_after = failure.retry_after().filter(|_| failure.status() == Some(429)).map(|d| d.max(begun.attempts.wait));
                let next = begun.attempts.failed(&CHUNK, cx.now, retry_after);
                cx.log(Level::Warn, format!("{} {}", failure.text(), begun.attempts.text(&CHUNK, next)));
                match next {
                    Next::At(until) => {
                        begun.state = Upload::Waiting { until };
                        cx.transition("chunk", "in_flight", "failed", "waiting");
                    }
                    Next::GiveUp => {
                        cx.transition("chunk", "in_flight", "failed", "given_up");
                        self.give_up(at, cx);
                    }
                }
            }
        }
        self.fill(cx);
        true
    }

    /// Fires the timers due: next attempts, and the chunk limit of 1 h.
    pub(crate) fn expire(&mut self, cx: &mut Context) {
        let mut due: Vec<(Instant, u64)> =
            self.begun.iter().filter_map(|b| b.deadline().filter(|d| *d <= cx.now).map(|d| (d, b.chunk.sequence))).collect();
        due.sort_unstable();
        for (_, sequence) in due {
            let Some(begun) = self.begun.iter_mut().find(|b| b.chunk.sequence == sequence) else { continue };
            match begun.state {
                Upload::Waiting { .. } => {
                    begun.attempts.again(&CHUNK, cx.rng);
                    cx.transition("chunk", "waiting", "timer", "in_flight");
                    begun.send(cx);
                }
                Upload::InFlight { .. } => begun.abort(cx),
                Upload::Aborting { .. } => {}
            }
        }
    }

    /// The flush limit has passed: everything unsettled counts as given up, but for what is answered 2xx after all.
    pub(crate) fn abandon(&mut self, cx: &mut Context) {
        let mut at = 0;
        while let Some(begun) = self.begun.get_mut(at) {
            match begun.state {
                Upload::Waiting { .. } => {
                    cx.transition("chunk", "waiting", "limit", "given_up");
                    self.give_up(at, cx);
                }
                Upload::InFlight { .. } | Upload::Aborting { .. } => {
                    begun.abort(cx);
                    at += 1;
                }
            }
        }
        for chunk in std::mem::take(&mut self.queued) {
            cx.transition("chunk", "queued", "limit", "given_up");
            self.count_failure(&chunk, cx);
        }
    }

    /// Earliest timer.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.begun.iter().fold(None, |d, b| earliest(d, b.deadline()))
    }

    /// Whether every chunk is settled.
    pub(crate) fn is_settled(&self) -> bool {
        self.begun.is_empty() && self.queued.is_empty()
    }

    /// Bytes of unsettled chunks.
    pub(crate) fn unsettled(&self) -> u64 {
        self.unsettled
    }

    /// Bytes cut so far.
    pub(crate) fn bytes_cut(&self) -> u64 {
        self.offset
    }

    /// Whether uploads free room so slowly that the job should have the whole buffer.
    pub(crate) fn is_slow(&self) -> bool {
        self.slow
    }

    /// No upload has settled for too long to call them fast.
    pub(crate) fn mark_slow(&mut self) {
        self.slow = true;
    }

    /// The final account.
    pub(crate) fn drained(&self) -> LogCommand {
        assert_eq!(self.sequence, self.uploaded + self.failed, "every chunk is uploaded or given up");
        LogCommand::Drained { uploaded: self.uploaded, failed: self.failed, uploaded_bytes: self.uploaded_bytes }
    }

    /// Chunks given up.
    pub(crate) fn failed(&self) -> u64 {
        self.failed
    }

    #[cfg(test)]
    pub(crate) fn begun_len(&self) -> usize {
        self.begun.len()
    }

    /// First attempts start in sequence order, up to three chunks begun (I19). A chunk between attempts keeps its place.
    fn fill(&mut self, cx: &mut Context) {
        while self.begun.len() < CHUNKS_IN_FLIGHT {
            let Some(chunk) = self.queued.pop_front() else { return };
            let attempts = Attempts::first(&CHUNK, cx.now, cx.rng);
            let mut begun = Begun { chunk, attempts, state: Upload::Waiting { until: cx.now } };
            cx.transition("chunk", "queued", "room", "in_flight");
            begun.send(cx);
            self.begun.push(begun);
        }
    }

    fn give_up(&mut self, at: usize, cx: &mut Context) {
        let chunk = self.begun.remove(at).chunk;
        self.count_failure(&chunk, cx);
    }

    fn count_failure(&mut self, chunk: &Chunk, cx: &mut Context) {
        self.unsettled -= chunk.bytes;
        self.failed += 1;
        let text = format!("Giving up on uploading chunk {}, this will result in only a partial build log on Buildkite", chunk.sequence);
        cx.log(Level::Error, text);
        cx.metric(Metric::ChunkGivenUp { bytes: chunk.bytes });
    }
}

impl Begun {
    fn send(&mut self, cx: &mut Context) {
        let id = cx.ids.issue();
        self.state = Upload::InFlight { id, since: cx.now };
        let Chunk { sequence, offset, ref pieces, .. } = self.chunk;
        cx.out.push(LogCommand::Upload { id, sequence, offset, pieces: pieces.clone(), attempt: self.attempts.begun });
    }

    fn abort(&mut self, cx: &mut Context) {
        if let Upload::InFlight { id, since } = self.state {
            self.state = Upload::Aborting { id, since };
            cx.transition("chunk", "in_flight", "limit", "in_flight");
            cx.out.push(LogCommand::Abort { id });
        }
    }
}

/// Whether uploads that take `took` free [`LOG_PACED_BYTES`] in a second, three chunks at a time.
fn fast(took: Duration, chunk_bytes: u64) -> bool {
    let rounds = LOG_PACED_BYTES.div_ceil(chunk_bytes * CHUNKS_IN_FLIGHT as u64);
    took * u32::try_from(rounds).unwrap_or(u32::MAX) <= FAST
}
