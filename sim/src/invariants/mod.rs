//! What must hold on every trace, whatever went wrong: one file per property, each citing the rule that it checks
//! (races §0.1; the invariant tables of start-and-worker §12 and job-runner §11).

pub mod rows;
pub(crate) mod story;
pub mod view;

mod acquire;
mod bounded_resources;
mod bounded_stop;
mod counts;
mod endpoint;
mod exact_log;
mod exit_code;
mod gate;
mod header_times;
mod heartbeats;
mod honest_health;
mod hooks;
mod idle;
mod isolation;
mod leaving;
mod log_times;
mod marker;
mod no_survivors;
mod nothing_after_stop;
mod offers;
mod one_run;
mod one_terminal_report;
mod order;
mod paused;
mod ping_rate;
mod policies;
mod prompt_finish;
mod prompt_stop;
mod registration;
mod retry_hygiene;
mod sources;
mod sticky_cancel;
mod streams;
mod times;
mod true_result;

use crate::trace::Trace;
use view::{Setup, View};

/// A property that did not hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Which property: `V1` …, or `L1` … for liveness.
    pub property: &'static str,
    /// The entry that broke it, as an index into the trace.
    pub entry: Option<usize>,
    /// What happened against which rule.
    pub text: String,
}

impl Violation {
    /// A violation of `property` by the entry at `entry`.
    pub fn at(property: &'static str, entry: usize, text: String) -> Violation {
        Violation { property, entry: Some(entry), text }
    }

    /// A violation by something that is missing.
    pub fn missing(property: &'static str, text: String) -> Violation {
        Violation { property, entry: None, text }
    }
}

/// A property of a trace.
pub struct Invariant {
    /// `V1` …
    pub id: &'static str,
    /// A few words.
    pub title: &'static str,
    /// Where the specification says so.
    pub rule: &'static str,
    /// The file that it is in.
    pub file: &'static str,
    /// Rows of the invariant tables that it watches.
    pub rows: &'static [rows::Ref],
    /// Appends what does not hold.
    pub check: fn(&View<'_>, &mut Vec<Violation>),
}

/// All of them, in order.
pub const ALL: &[Invariant] = &[
    bounded_stop::INVARIANT,
    one_terminal_report::INVARIANT,
    sticky_cancel::INVARIANT,
    no_survivors::INVARIANT,
    exact_log::INVARIANT,
    order::INVARIANT,
    heartbeats::INVARIANT,
    nothing_after_stop::INVARIANT,
    one_run::INVARIANT,
    retry_hygiene::INVARIANT,
    bounded_resources::INVARIANT,
    true_result::INVARIANT,
    isolation::INVARIANT,
    policies::INVARIANT,
    honest_health::INVARIANT,
    ping_rate::INVARIANT,
    acquire::INVARIANT,
    counts::INVARIANT,
    hooks::INVARIANT,
    registration::INVARIANT,
    sources::INVARIANT,
    streams::INVARIANT,
    gate::INVARIANT,
    paused::INVARIANT,
    leaving::INVARIANT,
    idle::INVARIANT,
    prompt_stop::INVARIANT,
    exit_code::INVARIANT,
    endpoint::INVARIANT,
    times::INVARIANT,
    prompt_finish::INVARIANT,
    log_times::INVARIANT,
    header_times::INVARIANT,
    marker::INVARIANT,
    offers::INVARIANT,
];

/// Checks every property.
pub fn check(setup: &Setup, trace: &Trace) -> Vec<Violation> {
    let view = View::new(setup, trace);
    let mut out = Vec::new();
    for invariant in ALL {
        (invariant.check)(&view, &mut out);
    }
    out
}
