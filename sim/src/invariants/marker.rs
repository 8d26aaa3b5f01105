//! The timeout marker is there when the interrupt is sent if, and only if, the first cause is a timeout (job-runner §3.8, §7.3, I41).

use super::rows::Ref::R;
use super::view::{Cause, View};
use super::{Invariant, Violation};
use crate::trace::Fact;
use ibex_core::agent::OsSignal;

pub(super) const INVARIANT: Invariant = Invariant {
    id: "marker",
    title: "timeout marker",
    rule: "job-runner §3.8, §7.3, I41: written before the interrupt exactly if a timeout came first",
    file: file!(),
    rows: &[R(41)],
    check,
};

fn check(v: &View<'_>, out: &mut Vec<Violation>) {
    for (id, job) in &v.jobs {
        let Some(&(first, at, _)) = job.causes.first() else {
            if let Some(marker) = job.marker {
                out.push(Violation::at("marker", marker, format!("{id} has a timeout marker, and was not cancelled")));
            }
            continue;
        };
        // Of one instant either may have come first.
        let kinds: Vec<Cause> = job.causes.iter().filter(|(_, c, _)| *c == at).map(|(_, _, kind)| *kind).collect();
        if let Some(marker) = job.marker
            && !kinds.contains(&Cause::Timeout)
        {
            out.push(Violation::at("marker", marker, format!("{id} has a timeout marker, but {kinds:?} came first")));
        }
        let Some(&(sent, _, _)) = job.signals.iter().find(|(_, _, s)| *s != OsSignal::Kill) else { continue };
        // A disk that is full takes no marker; the interrupt is sent all the same.
        let full = v.entries[..sent].iter().any(|e| matches!(&e.fact, Fact::World(w) if w.starts_with("disk full")));
        if kinds == [Cause::Timeout] && job.marker.is_none_or(|m| m > sent) && !full {
            out.push(Violation::at("marker", first, format!("{id} timed out, and was interrupted without a marker")));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::story::Story;
    use super::*;

    fn job(state: &str, marker: Option<u64>) -> Story {
        let s = Story::new().connected(1).started(100).spawned(200).polled(1_000, 5, state);
        let s = if marker == Some(1_000) { s.fact(1_000, Fact::Marker { job: "J".into() }) } else { s };
        let s = s.signalled(1_000, OsSignal::Term);
        if marker == Some(1_500) { s.fact(1_500, Fact::Marker { job: "J".into() }) } else { s }
    }

    #[test]
    fn a_timeout_without_a_marker_before_the_interrupt_is_seen() {
        job("timing_out", Some(1_000)).holds(INVARIANT);
        job("timing_out", None).breaks(INVARIANT);
        job("timing_out", Some(1_500)).breaks(INVARIANT);
    }

    #[test]
    fn a_marker_without_a_timeout_is_seen() {
        job("canceling", None).holds(INVARIANT);
        job("canceling", Some(1_000)).breaks(INVARIANT);
        job("running", Some(1_000)).breaks(INVARIANT);
    }
}
