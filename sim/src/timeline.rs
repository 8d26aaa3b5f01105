//! A run as text: the whole of it in lanes, or the few events around a violation.

use crate::invariants::Violation;
use crate::trace::{Entry, Fact, Trace};
use std::fmt::Write;

/// Events shown before and after the one that broke a property.
const AROUND: usize = 12;

/// The trace, one line each.
pub fn text(trace: &Trace) -> String {
    trace.entries.iter().fold(String::new(), |mut s, e| {
        let _ = writeln!(s, "{e}");
        s
    })
}

/// Whose lane an observation belongs to.
fn lane(fact: &Fact) -> usize {
    match fact {
        Fact::Served { .. } | Fact::World(_) | Fact::PlaneJob { .. } | Fact::FaultsOver => 0,
        Fact::SpawnAsked { .. } | Fact::FilesWritten { .. } | Fact::FilesFailed { .. } | Fact::FilesRemoved { .. } | Fact::Marker { .. } => 2,
        Fact::Spawned { .. }
        | Fact::SpawnFailed { .. }
        | Fact::Signalled { .. }
        | Fact::Printed { .. }
        | Fact::LeaderEnded { .. }
        | Fact::Reaped { .. }
        | Fact::Members { .. }
        | Fact::Read { .. }
        | Fact::OutputOver { .. } => 3,
        Fact::Sent(r) if r.op.of_job() => 2,
        Fact::Transition(t) => match t.owner {
            ibex_core::machine::Owner::Job { .. } if t.machine == "process" => 3,
            ibex_core::machine::Owner::Job { .. } => 2,
            _ => 1,
        },
        _ => 1,
    }
}

/// The trace in four lanes: plane, worker, job, process.
pub fn lanes(trace: &Trace) -> String {
    let mut out = format!("{:>13} {:<44} {:<44} {:<44} {}\n", "time", "PLANE AND WORLD", "AGENT AND WORKERS", "JOBS", "PROCESSES");
    for e in &trace.entries {
        let line = e.to_string();
        let (time, what) = line.split_at(13);
        let lane = lane(&e.fact);
        let indent = lane * 45;
        let _ = writeln!(out, "{time} {:indent$}{}", "", what.trim_start());
    }
    out
}

/// The events around a violation; the one that broke the property is marked.
pub fn around(trace: &Trace, violation: &Violation) -> String {
    let Some(at) = violation.entry else { return String::new() };
    // Output and steps of other machines would push out what matters.
    let noise = |e: &Entry| matches!(e.fact, Fact::Printed { .. } | Fact::Metric(_) | Fact::Health { .. });
    let mut before: Vec<usize> = (0..at).rev().filter(|i| !noise(&trace.entries[*i])).take(AROUND).collect();
    before.reverse();
    let after = (at + 1..trace.entries.len()).filter(|i| !noise(&trace.entries[*i])).take(AROUND);
    before.into_iter().chain([at]).chain(after).fold(String::new(), |mut s, i| {
        let mark = if i == at { ">>" } else { "  " };
        let _ = writeln!(s, "{mark} {}", trace.entries[i]);
        s
    })
}
