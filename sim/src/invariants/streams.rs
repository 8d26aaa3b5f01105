//! Streams: none is open for more than 60 s, one at a time, and attempts come in windows that double (start-and-worker §9.7, I36, I37).

use super::rows::Ref::S;
use super::view::{SLACK, View};
use super::{Invariant, Violation};
use crate::trace::{Fact, Op};
use ibex_core::limits::STREAM;
use ibex_core::machine::Instant;
use std::time::Duration;

pub(super) const INVARIANT: Invariant = Invariant {
    id: "streams",
    title: "stream attempts",
    rule: "start-and-worker §9.7, I36, I37: 60 s at most; attempt k in a window of min(2^k, 64) s that follows the one before",
    file: file!(),
    rows: &[S(36), S(37)],
    check,
};

/// The grid of simulated time.
const EARLY: Duration = Duration::from_millis(10);

fn check(v: &View<'_>, out: &mut Vec<Violation>) {
    let end = v.entries.last().map_or(Instant::ZERO, |e| e.at);
    for worker in 1..=v.setup.workers {
        let Some((_, mut window)) = v.serving(worker) else { continue };
        let gone = v.leaves(worker);
        let mut n = 0u32;
        let mut before: Option<usize> = None;
        for c in v.of_worker(worker, Op::Stream) {
            let length = Duration::from_secs(1 << n.min(6));
            n += 1;
            if c.sent_at + EARLY < window || c.sent_at > window + length + SLACK {
                let text = format!("{}: attempt {n} came {:?} after its window of {length:?} began", c.request, c.sent_at.since(window));
                out.push(Violation::at("streams", c.sent, text));
            }
            if before.is_some_and(|i| c.sent < i) {
                out.push(Violation::at("streams", c.sent, format!("{}: two are open", c.request)));
            }
            let (over, at) = c.returned.map_or((usize::MAX, end), |(i, at, _)| (i, at));
            if at.since(c.sent_at) > STREAM + SLACK {
                out.push(Violation::at("streams", c.sent, format!("{} was open for {:?}", c.request, at.since(c.sent_at))));
            }
            let spoke = |i: usize| match &v.entries[i].fact {
                Fact::Streamed { worker: w, kind, job } => *w == worker && (*kind != "job" || job.as_deref().is_some_and(|id| !id.is_empty())),
                _ => false,
            };
            if (c.sent..over.min(v.entries.len())).any(spoke) {
                n = 0;
            }
            window = at.max(window + length);
            before = Some(over);
        }
        // The next one is owed, unless the source has ended.
        let length = Duration::from_secs(1 << n.min(6));
        let over = v.steps(worker, "stream").any(|(_, t)| t.event == "final code");
        if v.setup.source != crate::schedule::Source::Poll && !over && before != Some(usize::MAX) && window + length + SLACK < gone {
            out.push(Violation::missing("streams", format!("worker {worker} opened no stream in its window from {window:?}")));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::story::Story;
    use super::*;
    use crate::schedule::Source;

    fn streams(times: &[(u64, u64)], spoke: bool) -> Story {
        let mut s = Story::new().with(|s| s.source = Source::Stream).connected(1);
        for ((from, to), call) in times.iter().zip(50..) {
            s = s.sent(*from, call, "stream", "w1", "");
            if spoke {
                s = s.fact(*from + 10, Fact::Streamed { worker: 1, kind: "resume", job: None });
            }
            s = s.failed(*to, call);
        }
        let end = times.last().map_or(0, |(_, to)| *to);
        s.exit(end, 0)
    }

    #[test]
    fn a_stream_that_is_open_for_too_long_is_seen() {
        streams(&[(500, 60_500)], true).holds(INVARIANT);
        streams(&[(500, 62_000)], true).breaks(INVARIANT);
    }

    #[test]
    fn an_attempt_before_or_after_its_window_is_seen() {
        // Windows begin at 0.02, 1.02, 3.02.
        streams(&[(500, 600), (1_500, 1_600), (6_900, 7_000)], false).holds(INVARIANT);
        streams(&[(500, 600), (900, 1_000)], false).breaks(INVARIANT);
        streams(&[(500, 600), (1_500, 1_600), (7_500, 7_600)], false).breaks(INVARIANT);
    }

    #[test]
    fn a_message_takes_the_windows_back_to_a_second() {
        streams(&[(500, 600), (1_100, 1_200), (2_100, 2_200)], true).holds(INVARIANT);
        streams(&[(500, 600), (1_100, 1_200), (4_500, 4_600)], true).breaks(INVARIANT);
    }

    #[test]
    fn two_streams_at_a_time_are_seen() {
        let s = Story::new().with(|s| s.source = Source::Stream).connected(1).sent(500, 1, "stream", "w1", "").sent(1_500, 2, "stream", "w1", "");
        s.exit(2_000, 0).breaks(INVARIANT);
    }
}
