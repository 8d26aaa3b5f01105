//! The agent's own hooks: startup succeeds before any connect, shutdown runs once, after the last worker, on every normal way out, and cut
//! off by nothing but the third signal and the force timer (start-and-worker §1, §3, §4, I48, I50).

use super::rows::Ref::S;
use super::view::View;
use super::{Invariant, Violation};
use crate::trace::{Fact, Op};

pub(super) const INVARIANT: Invariant = Invariant {
    id: "hooks",
    title: "lifecycle hooks",
    rule: "start-and-worker §3, §4, I48, I50: startup, then connects; all workers gone, then shutdown, once, to its end",
    file: file!(),
    rows: &[S(48), S(50)],
    check,
};

fn check(v: &View<'_>, out: &mut Vec<Violation>) {
    let begun = |hook: &str| -> Vec<usize> {
        v.entries.iter().enumerate().filter(|(_, e)| matches!(&e.fact, Fact::HookBegun { name, .. } if *name == hook)).map(|(i, _)| i).collect()
    };
    let over = |hook: &str| {
        v.entries.iter().enumerate().find_map(|(i, e)| match &e.fact {
            Fact::HookOver { name, ok, .. } if *name == hook => Some((i, *ok)),
            _ => None,
        })
    };
    let (startup, shutdown) = (begun("agent-startup"), begun("agent-shutdown"));
    for again in startup.iter().skip(1).chain(shutdown.iter().skip(1)) {
        out.push(Violation::at("hooks", *again, "a hook of the agent ran a second time".into()));
    }
    if v.setup.hooks.startup.is_some()
        && let Some(connect) = v.calls.values().filter(|c| c.request.op == Op::Connect).map(|c| c.sent).min()
        && !over("agent-startup").is_some_and(|(i, ok)| ok && i < connect)
    {
        out.push(Violation::at("hooks", connect, "a connect before the startup hook had succeeded".into()));
    }
    let Some(&shutdown) = shutdown.first() else {
        let normal = v.exit.filter(|_| !v.ended_by_force() && v.handlers().is_some());
        if let (Some(_), Some((i, _, _))) = (&v.setup.hooks.shutdown, normal) {
            out.push(Violation::at("hooks", i, "the agent ended without its shutdown hook".into()));
        }
        return;
    };
    for c in v.calls.values() {
        if c.sent > shutdown || c.returned.is_none_or(|(i, _, _)| i > shutdown) {
            out.push(Violation::at("hooks", shutdown, format!("the shutdown hook ran before {} was over", c.request)));
        }
    }
    if let Some((exit, _, _)) = v.exit.filter(|_| !v.ended_by_force())
        && over("agent-shutdown").is_none_or(|(i, _)| i > exit)
    {
        out.push(Violation::at("hooks", exit, "the agent ended before its shutdown hook".into()));
    }
}

#[cfg(test)]
mod tests {
    use super::super::story::Story;
    use super::*;
    use crate::script::Script;

    fn with(startup: bool) -> Story {
        let script = || Some(Script::simple(10, 100, 0));
        Story::new().with(|s| if startup { s.hooks.startup = script() } else { s.hooks.shutdown = script() })
    }

    fn run(s: Story, name: &'static str, from: u64, to: u64, ok: bool) -> Story {
        s.fact(from, Fact::HookBegun { name, job: None }).fact(to, Fact::HookOver { name, job: None, ok })
    }

    #[test]
    fn a_connect_without_the_startup_hook_is_seen() {
        let then = |ok| run(with(true), "agent-startup", 0, 10, ok).sent(20, 1, "connect", "w1", "");
        then(true).holds(INVARIANT);
        then(false).breaks(INVARIANT);
        with(true).sent(20, 1, "connect", "w1", "").breaks(INVARIANT);
    }

    #[test]
    fn a_shutdown_hook_that_is_missing_early_cut_off_or_doubled_is_seen() {
        let left = || with(false).connected(1).sent(500, 7, "disconnect", "w1", "").got(520, 7, 200);
        run(left(), "agent-shutdown", 530, 630, true).exit(630, 0).holds(INVARIANT);
        left().exit(530, 0).breaks(INVARIANT);
        left().fact(530, Fact::HookBegun { name: "agent-shutdown", job: None }).signal(540, "TERM").exit(550, 0).breaks(INVARIANT);
        run(run(left(), "agent-shutdown", 530, 630, true), "agent-shutdown", 640, 650, true).exit(660, 0).breaks(INVARIANT);
        run(with(false).connected(1).sent(500, 7, "disconnect", "w1", ""), "agent-shutdown", 510, 515, true).got(520, 7, 200).breaks(INVARIANT);
    }

    #[test]
    fn a_third_signal_cuts_the_shutdown_hook_off() {
        let left = with(false).connected(1).sent(500, 7, "disconnect", "w1", "").got(520, 7, 200);
        let s = left.fact(530, Fact::HookBegun { name: "agent-shutdown", job: None });
        s.signal(540, "TERM").signal(650, "TERM").signal(760, "INT").exit(760, 1).holds(INVARIANT);
    }
}
