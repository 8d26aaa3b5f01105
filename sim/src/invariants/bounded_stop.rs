//! V1: after any cause of stopping the process ends within its stated bound, whatever network and children do
//! (races §0.1; start-and-worker §1 S16, §4, I43, I44).

use super::rows::Ref::{R, S};
use super::view::{SLACK, View};
use super::{Invariant, Violation};
use crate::trace::{Fact, Op};
use ibex_core::machine::Instant;
use std::time::Duration;

pub(super) const INVARIANT: Invariant = Invariant {
    id: "V1",
    title: "bounded stop",
    rule: "start-and-worker §4: force timer at T + S + C + 1 s; third signal at once",
    file: file!(),
    rows: &[S(43), S(44), S(46), R(45)],
    check,
};

fn check(v: &View<'_>, out: &mut Vec<Violation>) {
    let end = v.exit.map(|(_, at, _)| at);
    let mut within = |from: (usize, Instant), limit: Duration, why: &str| {
        let last = end.unwrap_or_else(|| v.entries.last().map_or(Instant::ZERO, |e| e.at));
        if last > from.1 + limit + SLACK {
            let text = format!(
                "{why}: the process should end within {limit:?}, but {} after {:?}",
                if end.is_some() { "ended" } else { "still runs" },
                last.since(from.1)
            );
            out.push(Violation::at("V1", from.0, text));
        }
    };
    if let Some(forced) = v.forced_by_signal() {
        let s = v.setup;
        within(forced, s.signal_timeout + s.cleanup_timeout + Duration::from_secs(1), "forced stop (T + S + C + 1 s)");
    }
    if let Some(third) = v.third_signal() {
        within(third, Duration::ZERO, "third signal");
    }
    if let Some(first) = v.first_stop_signal()
        && !v.calls.values().any(|c| c.request.op == Op::Connect)
        // A startup hook that failed leads to the shutdown hook, not to S16.
        && !v.entries.iter().any(|e| matches!(e.fact, Fact::HookOver { name: "agent-startup", ok: false, .. }) && e.at <= first.1)
    {
        within(first, Duration::from_secs(1), "stop before anything was connected (S16)");
    }
}

#[cfg(test)]
mod tests {
    use super::super::story::Story;
    use super::*;

    #[test]
    fn a_forced_stop_that_lasts_too_long_is_seen() {
        let story = |exit_ms| Story::new().connected(1).signal(5_000, "TERM").signal(6_000, "TERM").exit(exit_ms, 1);
        story(22_000).holds(INVARIANT);
        story(23_000).breaks(INVARIANT);
    }

    #[test]
    fn a_third_signal_that_is_not_obeyed_is_seen() {
        let story = |exit_ms| Story::new().connected(1).signal(5_000, "INT").signal(5_200, "TERM").signal(5_400, "INT").exit(exit_ms, 1);
        story(5_400).holds(INVARIANT);
        story(7_000).breaks(INVARIANT);
    }

    #[test]
    fn a_stop_while_registering_takes_a_second_at_most() {
        let story = |exit_ms| Story::new().sent(0, 1, "register", "registration", "").signal(500, "TERM").exit(exit_ms, 143);
        story(600).holds(INVARIANT);
        story(9_000).breaks(INVARIANT);
    }
}
