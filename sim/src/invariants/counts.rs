//! The counters that the metrics page shows: workers and jobs are counted when they begin and when they end (start-and-worker §7.1, I58).

use super::rows::Ref::S;
use super::view::View;
use super::{Invariant, Violation};
use crate::trace::Fact;

pub(super) const INVARIANT: Invariant = Invariant {
    id: "counts",
    title: "counters",
    rule: "start-and-worker §7.1, §9.10, I58: started − ended = those that live",
    file: file!(),
    rows: &[S(58)],
    check,
};

fn check(v: &View<'_>, out: &mut Vec<Violation>) {
    let rounds: Vec<_> = v.jobs.values().flat_map(|j| &j.rounds).collect();
    let (mut workers, mut jobs) = ((0, 0), (0, 0));
    for (i, e) in v.entries.iter().enumerate() {
        let Fact::Metric(name) = &e.fact else { continue };
        match name.as_str() {
            "worker started" => workers.0 += 1,
            "worker ended" => workers.1 += 1,
            "job started" => jobs.0 += 1,
            "job ended" => jobs.1 += 1,
            _ => continue,
        }
        if workers.1 > workers.0 || jobs.1 > jobs.0 || workers.0 > v.setup.workers {
            out.push(Violation::at("counts", i, format!("{workers:?} workers and {jobs:?} jobs have begun and ended")));
        }
        // A job is counted in the step in which its accept succeeds.
        let accepted = rounds.iter().filter(|r| r.accepted.0 < i).count();
        if name == "job started" && jobs.0 > accepted {
            out.push(Violation::at("counts", i, format!("{} jobs are counted, {accepted} were accepted", jobs.0)));
        }
    }
    let Some((exit, ended, _)) = v.exit else { return };
    let normal = !v.ended_by_force() && v.handlers().is_some();
    if normal && (workers.0 != workers.1 || jobs.0 != jobs.1) {
        out.push(Violation::at("counts", exit, format!("{workers:?} workers and {jobs:?} jobs had begun and ended at the end")));
    }
    let accepted = rounds.iter().filter(|r| v.entries[r.accepted.0].at < ended).count();
    if jobs.0 < accepted {
        out.push(Violation::at("counts", exit, format!("{accepted} jobs were accepted, {} were counted", jobs.0)));
    }
}

#[cfg(test)]
mod tests {
    use super::super::story::Story;
    use super::*;

    fn counted(names: &[&str]) -> Story {
        let s = Story::new().connected(1).started(100);
        names.iter().fold(s, |s, name| s.fact(200, Fact::Metric((*name).into()))).exit(900, 0)
    }

    #[test]
    fn counters_that_do_not_balance_are_seen() {
        counted(&["worker started", "job started", "job ended", "worker ended"]).holds(INVARIANT);
        counted(&["worker started", "job started", "worker ended"]).breaks(INVARIANT);
        counted(&["worker started", "job started", "job ended", "job ended", "worker ended"]).breaks(INVARIANT);
        counted(&["worker started", "job started", "job ended"]).breaks(INVARIANT);
    }

    #[test]
    fn a_job_that_is_not_counted_or_counted_twice_is_seen() {
        counted(&["worker started", "worker ended"]).breaks(INVARIANT);
        counted(&["worker started", "job started", "job started", "job ended", "job ended", "worker ended"]).breaks(INVARIANT);
    }
}
