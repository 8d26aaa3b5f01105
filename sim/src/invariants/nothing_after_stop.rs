//! V8: no accept or acquire is sent after a stop was observed (races §0.1, R08; start-and-worker §9.11, I3).

use super::rows::Ref::S;
use super::view::View;
use super::{Invariant, Violation};
use crate::trace::{Credential, Op};

pub(super) const INVARIANT: Invariant = Invariant {
    id: "V8",
    title: "nothing after stop",
    rule: "start-and-worker §9.11, I3: no new accept, acquire, ping or connect after a stop",
    file: file!(),
    rows: &[S(3), S(20)],
    check,
};

fn check(v: &View<'_>, out: &mut Vec<Violation>) {
    for c in v.calls.values() {
        let Credential::Worker(worker) = c.request.credential else { continue };
        if !matches!(c.request.op, Op::Accept | Op::Acquire | Op::Ping | Op::Connect) {
            continue;
        }
        // What was commanded in the instant of the stop may leave in that instant.
        if let Some((_, at)) = v.stop(worker).filter(|(i, at)| c.sent > *i && c.sent_at > *at) {
            out.push(Violation::at("V8", c.sent, format!("{} was sent {:?} after the stop of worker {worker}", c.request, c.sent_at.since(at))));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::story::Story;
    use super::*;
    use crate::trace::Said;

    #[test]
    fn an_accept_after_a_signal_is_seen() {
        Story::new().connected(1).sent(100, 1, "accept", "w1", "J").signal(200, "TERM").holds(INVARIANT);
        Story::new().connected(1).signal(50, "TERM").sent(100, 1, "accept", "w1", "J").breaks(INVARIANT);
        Story::new().connected(1).signal(50, "HUP").sent(100, 1, "accept", "w1", "J").holds(INVARIANT);
    }

    #[test]
    fn an_accept_after_the_server_said_disconnect_is_seen() {
        let told = Story::new().connected(1).sent(100, 3, "ping", "w1", "").said(
            120,
            3,
            Said::Ping { action: "disconnect".into(), job: None, endpoint: String::new() },
        );
        told.clone().sent(130, 1, "accept", "w1", "J").breaks(INVARIANT);
        told.sent(130, 1, "accept", "w2", "J").holds(INVARIANT);
    }
}
