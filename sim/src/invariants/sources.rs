//! Work is asked for only while serving, and only in the way the ping mode has: no ping and no stream before, during an acquired job, or of
//! a source that has ended; no job without an id is taken (start-and-worker §9.1, §9.7, I12, I35, I41).

use super::rows::Ref::S;
use super::view::View;
use super::{Invariant, Violation};
use crate::schedule::Source;
use crate::trace::{Got, Op, Said};

pub(super) const INVARIANT: Invariant = Invariant {
    id: "sources",
    title: "ping sources",
    rule: "start-and-worker §9.1, §9.7, I12, I35, I41: sources exist while serving, by the ping mode, until they have ended",
    file: file!(),
    rows: &[S(12), S(35), S(41)],
    check,
};

fn check(v: &View<'_>, out: &mut Vec<Violation>) {
    for worker in 1..=v.setup.workers {
        let serving = v.serving(worker);
        let mut ended: Option<usize> = None;
        for op in [Op::Ping, Op::Stream] {
            for c in v.of_worker(worker, op) {
                if serving.is_none_or(|(i, _)| c.sent < i) {
                    out.push(Violation::at("sources", c.sent, format!("{} of a worker that does not serve", c.request)));
                }
                if matches!((op, v.setup.source), (Op::Ping, Source::Stream) | (Op::Stream, Source::Poll)) {
                    out.push(Violation::at("sources", c.sent, format!("{} in a mode that has none", c.request)));
                }
                if op == Op::Stream && ended.is_some_and(|i| c.sent > i) {
                    out.push(Violation::at("sources", c.sent, format!("{} after a final status", c.request)));
                }
                if let (Op::Stream, Some((i, _, Got::Answer { said: Said::Status(7 | 12 | 16), .. }))) = (op, c.returned) {
                    ended = Some(i);
                }
            }
        }
        for c in v.of_worker(worker, Op::Accept).iter().filter(|c| c.request.job.as_deref().unwrap_or_default().is_empty()) {
            out.push(Violation::at("sources", c.sent, format!("{} without an id", c.request)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::story::Story;
    use super::*;
    use crate::trace::Fact;

    #[test]
    fn a_ping_outside_of_serving_is_seen() {
        Story::new().connected(1).sent(100, 5, "ping", "w1", "").holds(INVARIANT);
        Story::new().sent(100, 5, "ping", "w1", "").breaks(INVARIANT);
        let acquires = |s: Story| s.with(|s| s.acquire = true);
        acquires(Story::new()).connected(1).sent(100, 5, "ping", "w1", "").breaks(INVARIANT);
        let acquired = acquires(Story::new()).connected(1).sent(50, 1, "acquire", "w1", "J").said(70, 1, Said::Job("J".into()));
        let started = acquired.sent(70, 2, "start", "J", "J").got(90, 2, 200);
        started.clone().sent(100, 5, "ping", "w1", "").breaks(INVARIANT);
        started.finish(200, 9, "0", "", "", 0).got(220, 9, 200).sent(300, 5, "ping", "w1", "").holds(INVARIANT);
    }

    #[test]
    fn a_source_that_the_mode_does_not_have_is_seen() {
        let both = |source| Story::new().with(|s| s.source = source).connected(1).sent(100, 5, "ping", "w1", "").sent(200, 6, "stream", "w1", "");
        both(Source::Auto).holds(INVARIANT);
        both(Source::Poll).breaks(INVARIANT);
        both(Source::Stream).breaks(INVARIANT);
    }

    #[test]
    fn a_stream_after_a_final_status_is_seen() {
        let again = |status| {
            let got = Got::Answer { status: 200, said: Said::Status(status), retry_after_ms: None };
            let s = Story::new().with(|s| s.source = Source::Auto).connected(1).sent(100, 5, "stream", "w1", "");
            s.fact(200, Fact::Returned { call: 5, got }).sent(900, 6, "stream", "w1", "")
        };
        again(14).holds(INVARIANT);
        again(12).breaks(INVARIANT);
    }

    #[test]
    fn an_accept_of_nothing_is_seen() {
        Story::new().connected(1).sent(100, 5, "accept", "w1", "J").holds(INVARIANT);
        Story::new().connected(1).sent(100, 5, "accept", "w1", "").breaks(INVARIANT);
    }
}
