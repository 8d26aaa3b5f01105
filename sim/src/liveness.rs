//! When the faults stop, everything must finish (races §0.1, "Liveness"): a queued job is accepted within `60 s + 2 P`, every
//! accepted job ends and is reported, every worker that should leave leaves, nothing is outstanding.

use crate::invariants::Violation;
use crate::invariants::rows::Ref;
use crate::invariants::view::{SLACK, Setup, View};
use crate::trace::{Fact, JobId, Op, Trace};
use ibex_core::machine::Instant;
use std::collections::BTreeMap;
use std::time::Duration;

/// Rows of the invariant tables that it watches.
pub const ROWS: &[Ref] = &[Ref::S(56)];

/// Checks a whole run.
pub fn check(setup: &Setup, trace: &Trace) -> Vec<Violation> {
    let v = View::new(setup, trace);
    let mut out = Vec::new();
    if v.exit.is_none() {
        out.push(Violation::missing("L1", "the agent never ended, although it was told to and all faults were over".into()));
    }
    for c in v.calls.values().filter(|c| c.returned.is_none() && c.request.op != Op::Stream) {
        if !v.ended_by_force() {
            out.push(Violation::at("L2", c.sent, format!("{} is outstanding at the end", c.request)));
        }
    }
    for (id, job) in &v.jobs {
        let owed = job.accepted.is_some() && job.over().is_none() && !v.ended_by_force();
        let given_up = job.finishes.len() >= ibex_core::retry::FINISH.attempts as usize
            || job.starts.len() >= ibex_core::retry::START.attempts as usize
            || job.worker.is_some_and(|w| v.forced_stop(w).is_some());
        if let (true, false, Some((i, _))) = (owed, given_up, job.accepted) {
            out.push(Violation::at("L3", i, format!("{id} was accepted and is not over")));
        }
    }
    if setup.expect_jobs {
        queued(&v, &mut out);
    }
    out
}

/// A job that is offered while a worker is free and faults are over is accepted in time.
fn queued(v: &View<'_>, out: &mut Vec<Violation>) {
    let Some(over) = v.faults_over else { return };
    let mut scheduled: BTreeMap<JobId, (usize, Instant)> = BTreeMap::new();
    for (i, e) in v.entries.iter().enumerate() {
        if let Fact::PlaneJob { job, state } = &e.fact {
            match state.as_str() {
                "scheduled" => {
                    scheduled.insert(job.clone(), (i, e.at));
                }
                _ => {
                    scheduled.remove(job);
                }
            }
        }
    }
    let bound = Duration::from_secs(60) + 2 * v.setup.ping + SLACK;
    // The control plane itself waits: for an accept that was lost it gives a worker up to a minute.
    let moved = v.entries.iter().rev().find(|e| matches!(e.fact, Fact::PlaneJob { .. })).map_or(over, |e| e.at);
    for (job, (i, at)) in scheduled {
        let from = at.max(over).max(moved);
        // From which instant on some worker was free for the whole time: connected, not stopped, without a job.
        let free = (1..=v.setup.workers).any(|w| {
            let Some((_, connected)) = v.connected(w) else { return false };
            let end = [
                v.stop(w).map(|(_, at)| at),
                v.of_worker(w, Op::Disconnect).first().map(|c| c.sent_at),
                v.exit.map(|(_, at, _)| at),
                Some(v.entries[v.entries.len() - 1].at),
            ]
            .into_iter()
            .flatten()
            .min()
            .unwrap_or(from);
            let busy_until = v
                .jobs
                .values()
                .filter(|j| j.worker == Some(w) && j.accepted.is_some())
                .map(|j| j.over().map_or(end, |o| v.entries[o].at))
                .max()
                .unwrap_or(connected);
            end > from.max(connected).max(busy_until) + bound
        });
        if free {
            out.push(Violation::at("L4", i, format!("{job} was not accepted within {bound:?} although a worker was free")));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trace::{Credential, Got, Payload, Request, Said};

    fn trace(facts: Vec<(u64, Fact)>) -> Trace {
        let mut t = Trace::default();
        for (ms, fact) in facts {
            t.push(Instant::from_millis(ms), fact);
        }
        t
    }

    fn call(ms: u64, call: u64, op: Op, job: Option<&str>, said: Said) -> Vec<(u64, Fact)> {
        let credential = Credential::Worker(1);
        let sent = Fact::Sent(Request { call, credential, op, job: job.map(Into::into), endpoint: crate::trace::ENDPOINT, payload: Payload::None });
        vec![(ms, sent), (ms + 20, Fact::Returned { call, got: Got::Answer { status: 200, said, retry_after_ms: None } })]
    }

    fn properties(facts: Vec<(u64, Fact)>) -> Vec<&'static str> {
        let setup = Setup { expect_jobs: true, ..Setup::default() };
        check(&setup, &trace(facts)).into_iter().map(|v| v.property).collect()
    }

    #[test]
    fn an_agent_that_never_ends_is_seen() {
        let connect = call(0, 1, Op::Connect, None, Said::Nothing);
        assert_eq!(properties(connect.clone()), ["L1"]);
        let ended = [connect, vec![(100, Fact::AgentExit { code: 0, killed_jobs: false })]].concat();
        assert_eq!(properties(ended), Vec::<&str>::new());
    }

    #[test]
    fn an_accepted_job_that_never_ends_is_seen() {
        let facts = [
            call(0, 1, Op::Connect, None, Said::Nothing),
            call(100, 2, Op::Accept, Some("J"), Said::Job("J".into())),
            vec![(200_000, Fact::AgentExit { code: 0, killed_jobs: false })],
        ];
        assert_eq!(properties(facts.concat()), ["L3"]);
    }

    #[test]
    fn a_queued_job_that_a_free_worker_leaves_is_seen() {
        let queued = |exit| {
            let facts = [
                call(0, 1, Op::Connect, None, Said::Nothing),
                vec![(100, Fact::FaultsOver), (200, Fact::PlaneJob { job: "J".into(), state: "scheduled".into() })],
                vec![(exit, Fact::AgentExit { code: 0, killed_jobs: false })],
            ];
            properties(facts.concat())
        };
        assert_eq!(queued(100_000), ["L4"]);
        assert_eq!(queued(30_000), Vec::<&str>::new());
    }
}
