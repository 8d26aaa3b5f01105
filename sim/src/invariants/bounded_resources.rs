//! V11: files, exchanges and outputs return to their baseline after every job, also one that never ran
//! (races §0.1; job-runner §2.6, W4, I42).

use super::rows::Ref::R;
use super::view::View;
use super::{Invariant, Violation};
use crate::trace::Fact;

pub(super) const INVARIANT: Invariant = Invariant {
    id: "V11",
    title: "bounded resources",
    rule: "job-runner §2.6, W4, I42: files of a job exist from before start until before finish",
    file: file!(),
    rows: &[R(42)],
    check,
};

fn check(v: &View<'_>, out: &mut Vec<Violation>) {
    for (id, job) in &v.jobs {
        let Some(finish) = job.finishes.first() else { continue };
        match (job.files_written, job.files_removed) {
            (Some(written), _) if written > finish.sent => {
                out.push(Violation::at("V11", written, format!("files of {id} were written after its finish")))
            }
            (Some(written), None) => out.push(Violation::at("V11", written, format!("files of {id} were never removed"))),
            (Some(_), Some(removed)) if removed > finish.sent => {
                out.push(Violation::at("V11", finish.sent, format!("finish of {id} was sent before its files were removed")));
            }
            (Some(_), Some(removed)) => {
                if let Some((reaped, _, _)) = job.reaped.filter(|(i, _, _)| removed < *i) {
                    out.push(Violation::at("V11", reaped, format!("files of {id} were removed while its process ran")));
                }
            }
            (None, _) => {}
        }
    }
    if v.ended_by_force() {
        return;
    }
    for (i, e) in v.entries.iter().enumerate() {
        if let Fact::Leftovers { files, exchanges, outputs } = e.fact
            && files + exchanges + outputs > 0
        {
            out.push(Violation::at("V11", i, format!("the agent ended and left {files} files, {exchanges} exchanges, {outputs} outputs")));
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
    fn files_that_stay_are_seen() {
        job().removed(310).finish(320, 9, "0", "", "", 0).holds(INVARIANT);
        job().finish(320, 9, "0", "", "", 0).breaks(INVARIANT);
        job().finish(320, 9, "0", "", "", 0).removed(330).breaks(INVARIANT);
    }

    #[test]
    fn leftovers_of_the_process_are_seen() {
        let left = |files| Story::new().connected(1).exit(500, 0).fact(500, Fact::Leftovers { files, exchanges: 0, outputs: 0 });
        left(0).holds(INVARIANT);
        left(2).breaks(INVARIANT);
    }
}
