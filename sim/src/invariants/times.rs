//! Times told of a job are in order: started, the leader's exit, finished, the first finish request (job-runner §2.4, I12).

use super::rows::Ref::R;
use super::view::View;
use super::{Invariant, Violation};
use crate::trace::Payload;
use ibex_core::machine::Instant;
use std::time::Duration;

pub(super) const INVARIANT: Invariant = Invariant {
    id: "times",
    title: "times told",
    rule: "job-runner §2.1, §2.4, I12: started_at ≤ exit ≤ finished_at ≤ the first finish request",
    file: file!(),
    rows: &[R(12)],
    check,
};

/// A clock that is read in the middle of an instant.
const CLOCK: Duration = Duration::from_millis(10);

fn check(v: &View<'_>, out: &mut Vec<Violation>) {
    for (id, job) in &v.jobs {
        let started = |c: &super::view::Call<'_>| match c.request.payload {
            Payload::Start { started_at } => started_at,
            _ => None,
        };
        for starts in job.starts_by_round() {
            for c in starts {
                let told = started(c);
                if told.is_none_or(|at| at > c.sent_at + CLOCK) || told != started(&starts[0]) {
                    out.push(Violation::at("times", c.sent, format!("{id} was started at {told:?}, as an attempt says")));
                }
            }
        }
        let Some(finish) = job.finishes.first() else { continue };
        let Payload::Finish { finished_at, .. } = finish.request.payload else { continue };
        let Some(finished) = finished_at else {
            out.push(Violation::at("times", finish.sent, format!("the finish of {id} tells no time")));
            continue;
        };
        let begun = job.starts.iter().rev().find(|c| c.ok()).and_then(started).unwrap_or(Instant::ZERO);
        let exit = job.reaped.map_or(Instant::ZERO, |(_, at, _)| at);
        if finished < begun || finished + CLOCK < exit || finished > finish.sent_at + CLOCK {
            let text = format!("{id} finished at {finished:?}: started at {begun:?}, exit at {exit:?}, request at {:?}", finish.sent_at);
            out.push(Violation::at("times", finish.sent, text));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::story::Story;
    use super::*;
    use ibex_core::process::ExitStatus;

    fn told(start: u64, finish: u64) -> Story {
        let s = Story::new().connected(1).accepted(100).start_at(120, 2, start).got(140, 2, 200).spawned(200).exited(900, ExitStatus::Code(0));
        s.finish_at(1_000, 9, finish)
    }

    #[test]
    fn times_out_of_order_are_seen() {
        told(120, 950).holds(INVARIANT);
        told(500, 950).breaks(INVARIANT);
        told(120, 500).breaks(INVARIANT);
        told(120, 1_100).breaks(INVARIANT);
    }

    #[test]
    fn attempts_of_a_start_that_tell_different_times_are_seen() {
        let twice = |again| Story::new().connected(1).accepted(100).start_at(120, 2, 120).got(140, 2, 503).start_at(1_140, 3, again);
        twice(120).holds(INVARIANT);
        twice(1_140).breaks(INVARIANT);
    }
}
