//! V1: after any cause of stopping the process ends within its stated bound, whatever network and children do
//! (races §0.1; start-and-worker §1 S16, §4, I43, I44).

use super::rows::Ref::{R, S};
use super::view::{SLACK, View};
use super::{Invariant, Violation};
use crate::trace::Fact;
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
    if let Some(first) = v.signal_before_handlers() {
        within(first, Duration::from_secs(1), "a signal before S16");
        // Nothing is begun any more; what was commanded in that instant may leave in it.
        for (i, e) in v.entries.iter().enumerate().filter(|(i, e)| *i > first.0 && e.at > first.1) {
            match &e.fact {
                Fact::Sent(r) => out.push(Violation::at("V1", i, format!("{r} after a signal before S16"))),
                Fact::HookBegun { name, .. } => out.push(Violation::at("V1", i, format!("{name} was begun after a signal before S16"))),
                _ => {}
            }
        }
    }
    if let Some((third, at)) = v.third_signal() {
        for c in v.calls.values().filter(|c| c.sent > third && c.sent_at > at) {
            out.push(Violation::at("V1", c.sent, format!("{} after the third signal", c.request)));
        }
    }
    force_timer(v, out);
}

/// The force timer is set by the first forced stop, and never moved: whoever ends by it ends exactly then, with 1 (I46).
fn force_timer(v: &View<'_>, out: &mut Vec<Violation>) {
    let by_timer = |e: &crate::trace::Entry| matches!(&e.fact, Fact::Log { text, .. } if text.contains("Timed out waiting for agents to exit"));
    let Some((i, said)) = v.entries.iter().enumerate().find(|(_, e)| by_timer(e)) else { return };
    let due = v.forced_by_signal().map(|(_, at)| at + v.setup.signal_timeout + v.setup.cleanup_timeout + Duration::from_secs(1));
    match due {
        Some(due) if said.at >= due && said.at <= due + SLACK => {}
        _ => out.push(Violation::at("V1", i, format!("the force timer fired at another time than {due:?}"))),
    }
    if v.exit.is_some_and(|(_, _, code)| code != 1) {
        out.push(Violation::at("V1", i, "the force timer ends the process with 1".into()));
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
    fn a_request_after_the_third_signal_is_seen() {
        let story = Story::new().connected(1).signal(5_000, "INT").signal(5_200, "TERM").signal(5_400, "INT");
        story.sent(5_410, 7, "disconnect", "w1", "").exit(5_420, 1).breaks(INVARIANT);
    }

    #[test]
    fn any_signal_while_registering_ends_it_in_a_second_and_begins_nothing() {
        for name in ["TERM", "INT", "HUP", "QUIT"] {
            let story = |exit_ms| Story::new().sent(0, 1, "register", "registration", "").signal(500, name).exit(exit_ms, 143);
            story(600).holds(INVARIANT);
            story(9_000).breaks(INVARIANT);
            Story::new().signal(500, name).sent(600, 1, "connect", "w1", "").exit(700, 143).breaks(INVARIANT);
        }
    }

    /// A startup hook that failed leads to the shutdown hook, whose signals have rules of their own (§4); one that a signal killed does not.
    #[test]
    fn only_a_startup_hook_that_failed_by_itself_ends_the_rule_before_s16() {
        let failed = |s: Story, ms| s.agent_step(ms, "StartupHook", "hook failed", "ShutdownHook");
        failed(Story::new(), 400).signal(500, "TERM").exit(9_000, 1).holds(INVARIANT);
        failed(Story::new().signal(500, "TERM"), 510).exit(9_000, 1).breaks(INVARIANT);
    }

    #[test]
    fn a_hangup_of_a_pool_is_no_stop() {
        Story::new().connected(1).signal(500, "HUP").exit(60_000, 0).holds(INVARIANT);
    }

    #[test]
    fn a_force_timer_that_was_moved_is_seen() {
        let fired = |ms| {
            let text = "Timed out waiting for agents to exit; exiting immediately with status 1".to_owned();
            let forced = Story::new().connected(1).signal(1_000, "QUIT").signal(3_000, "QUIT");
            forced.fact(ms, Fact::Log { level: "info", text }).exit(ms, 1)
        };
        fired(17_000).holds(INVARIANT);
        fired(16_000).breaks(INVARIANT);
        fired(19_000).breaks(INVARIANT);
    }
}
