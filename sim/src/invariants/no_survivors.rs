//! V4: when a cancelled job's finish is sent, no process is left in the groups the specification makes us responsible for
//! (races §0.1; job-runner §5.10, I38, I39).

use super::rows::Ref::R;
use super::view::View;
use super::{Invariant, Violation};

pub(super) const INVARIANT: Invariant = Invariant {
    id: "V4",
    title: "no survivors",
    rule: "job-runner I38, I39: leader reaped, group empty before finish after a cancel",
    file: file!(),
    rows: &[R(38), R(39)],
    check,
};

fn check(v: &View<'_>, out: &mut Vec<Violation>) {
    for (id, job) in &v.jobs {
        let (Some(finish), Some((spawned, _))) = (job.finishes.first(), job.spawned) else { continue };
        if spawned > finish.sent {
            continue;
        }
        let Some((reaped, reaped_at, _)) = job.reaped.filter(|(i, _, _)| *i < finish.sent) else {
            out.push(Violation::at("V4", finish.sent, format!("finish of {id} was sent before its leader was reaped")));
            continue;
        };
        let cancelled = job.causes.first().is_some_and(|&(i, at, _)| i < reaped && at < reaped_at);
        let alive = job.members.iter().rev().find(|(i, _)| *i < finish.sent).map_or(0, |(_, n)| *n);
        if cancelled && alive > 0 {
            out.push(Violation::at("V4", finish.sent, format!("{id} was cancelled, and {alive} of its group lived on when its finish was sent")));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::story::Story;
    use super::*;
    use crate::trace::Fact;
    use ibex_core::process::ExitStatus;

    fn story(state: &str, swept: bool) -> Story {
        let s = Story::new().connected(1).started(100).spawned(200).fact(300, Fact::Members { pid: 100, alive: 2 });
        let s = s.polled(1_000, 5, state).exited(1_100, ExitStatus::Signal(15)).fact(1_100, Fact::Members { pid: 100, alive: 1 });
        let s = if swept { s.fact(11_000, Fact::Members { pid: 100, alive: 0 }) } else { s };
        s.finish(11_100, 9, "-1", "SIGTERM", "cancel", 0)
    }

    #[test]
    fn a_member_that_outlives_a_cancel_is_seen() {
        story("canceling", true).holds(INVARIANT);
        story("canceling", false).breaks(INVARIANT);
        story("running", false).holds(INVARIANT);
    }

    #[test]
    fn a_finish_before_the_leader_is_gone_is_seen() {
        Story::new().connected(1).started(100).spawned(200).finish(300, 9, "0", "", "", 0).breaks(INVARIANT);
    }
}
