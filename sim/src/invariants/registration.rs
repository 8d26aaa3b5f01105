//! All workers register before any connects, and one that cannot leaves all unconnected (start-and-worker §2, I51).

use super::rows::Ref::S;
use super::view::View;
use super::{Invariant, Violation};
use crate::trace::Op;

pub(super) const INVARIANT: Invariant = Invariant {
    id: "registration",
    title: "registration",
    rule: "start-and-worker §2, I51: as many registrations as workers before the first connect; none after a final failure",
    file: file!(),
    rows: &[S(51)],
    check,
};

fn check(v: &View<'_>, out: &mut Vec<Violation>) {
    let first = v.calls.values().filter(|c| c.request.op == Op::Connect).map(|c| c.sent).min();
    let registers = || v.calls.values().filter(|c| c.request.op == Op::Register);
    if let Some(connect) = first {
        let done = registers().filter(|c| c.ok() && c.returned.is_some_and(|(i, _, _)| i < connect)).count();
        if done != v.setup.workers as usize {
            out.push(Violation::at("registration", connect, format!("a connect after {done} registrations of {}", v.setup.workers)));
        }
        for c in registers().filter(|c| c.sent > connect) {
            out.push(Violation::at("registration", c.sent, "a registration after the first connect".into()));
        }
    }
    let Some((i, at, _)) = registers().filter(|c| c.rejected()).filter_map(|c| c.returned).min_by_key(|(i, _, _)| *i) else { return };
    for c in v.calls.values().filter(|c| c.sent > i && c.sent_at > at) {
        out.push(Violation::at("registration", c.sent, format!("{} after a registration was rejected", c.request)));
    }
}

#[cfg(test)]
mod tests {
    use super::super::story::Story;
    use super::*;

    fn registered(second: u16) -> Story {
        let s = Story::new().with(|s| s.workers = 2).sent(0, 1, "register", "registration", "").sent(0, 2, "register", "registration", "");
        s.got(20, 1, 200).got(30, 2, second)
    }

    #[test]
    fn a_connect_before_the_last_registration_is_seen() {
        registered(200).sent(30, 3, "connect", "w1", "").holds(INVARIANT);
        registered(503).sent(30, 3, "connect", "w1", "").breaks(INVARIANT);
    }

    #[test]
    fn a_request_after_a_rejected_registration_is_seen() {
        registered(401).exit(40, 1).holds(INVARIANT);
        registered(401).sent(90, 3, "register", "registration", "").breaks(INVARIANT);
    }
}
