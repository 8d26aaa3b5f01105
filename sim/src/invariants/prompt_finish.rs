//! A job is reported as soon as it can be: output is read for a bounded time after the exit, and a second after all that must come before
//! it the finish is sent (job-runner §5.8, §7.4, I14, I40).

use super::rows::Ref::R;
use super::view::{SLACK, View};
use super::{Invariant, Violation};
use crate::trace::Fact;
use ibex_core::limits::PTY_DRAIN;
use std::time::Duration;

pub(super) const INVARIANT: Invariant = Invariant {
    id: "prompt-finish",
    title: "prompt finish",
    rule: "job-runner §5.8, §7.4, I14, I40: drain of 10 s or S + 1 s; finish within a second of what it waits for",
    file: file!(),
    rows: &[R(14), R(40)],
    check,
};

fn check(v: &View<'_>, out: &mut Vec<Violation>) {
    for (id, job) in &v.jobs {
        let Some((_, reaped, _)) = job.reaped else { continue };
        let at = |i: usize| v.entries[i].at;
        let terminal = job.spawned.is_some_and(|(i, _)| matches!(v.entries[i].fact, Fact::Spawned { pty: true, .. }));
        let bound = if terminal { PTY_DRAIN } else { v.setup.signal_timeout + Duration::from_secs(1) };
        if let Some((i, _)) = job.output_over
            && at(i) > reaped + bound + SLACK
        {
            out.push(Violation::at("prompt-finish", i, format!("the output of {id} was read for {:?} after its exit", at(i).since(reaped))));
        }
        let Some(finish) = job.finishes.first() else { continue };
        let settled = job.chunks.iter().chain(&job.header_times).filter_map(|c| c.returned).map(|(_, at, _)| at);
        // The sweep of a cancelled group, a start that was given up, files that take their time.
        let members = job.members.iter().map(|(i, _)| at(*i));
        let others = job.output_over.map(|(i, _)| at(i)).into_iter().chain(job.files_removed.map(at));
        let ready = settled.chain(members).chain(others).filter(|t| *t <= finish.sent_at).fold(reaped, Ord::max);
        if finish.sent_at > ready + Duration::from_secs(1) + v.setup.abort + SLACK {
            out.push(Violation::at(
                "prompt-finish",
                finish.sent,
                format!("finish of {id} was sent {:?} after it could be", finish.sent_at.since(ready)),
            ));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::story::Story;
    use super::*;
    use ibex_core::process::ExitStatus;

    fn job() -> Story {
        Story::new().connected(1).started(100).spawned(200).exited(300, ExitStatus::Code(0))
    }

    #[test]
    fn a_finish_that_waits_for_nothing_is_seen() {
        job().finish(900, 9, "0", "", "", 0).holds(INVARIANT);
        job().finish(3_000, 9, "0", "", "", 0).breaks(INVARIANT);
        job().chunk(310, 5, 1, 0, "x").got(2_500, 5, 200).finish(3_000, 9, "0", "", "", 0).holds(INVARIANT);
    }

    #[test]
    fn a_drain_beyond_its_bound_is_seen() {
        let drained = |ms| {
            let s = Story::new().connected(1).started(100).spawned(200).fact(300, Fact::Reaped { pid: 100, status: ExitStatus::Code(0) });
            s.fact(ms, Fact::OutputOver { pid: 100, cut: true })
        };
        drained(10_300).holds(INVARIANT);
        drained(12_000).breaks(INVARIANT);
    }
}
