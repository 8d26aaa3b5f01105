//! The header set that the server gave is on every later request; a job keeps the one that was in force when it was accepted
//! (agent-api §2.4).

use crate::invariants::Violation;
use crate::trace::{Credential, Fact, Got, JobId, Op, Request, Said, Trace};
use ibex_core::agent::OsSignal;
use ibex_core::machine::Instant;
use std::collections::{BTreeMap, BTreeSet};

/// What one worker or job has to send.
#[derive(Clone, Debug, PartialEq, Eq)]
struct InForce {
    headers: String,
    since: Instant,
    /// The set before, while it may still be the one: in the instant of the change, and after it where a stop of that instant may have
    /// discarded the answer (start-and-worker §0.2, §9.11). The first request after it tells.
    or: Option<String>,
}

impl InForce {
    fn new() -> InForce {
        InForce { headers: String::new(), since: Instant::ZERO, or: None }
    }

    fn changed(&mut self, at: Instant, headers: &str) {
        self.or = Some(std::mem::replace(&mut self.headers, headers.to_owned()));
        self.since = at;
    }

    /// A request that carries `carried`. `stopped`: the instants of stops. False: it may not.
    fn sent(&mut self, at: Instant, carried: &str, stopped: &BTreeSet<Instant>) -> bool {
        let before = self.or.as_deref() == Some(carried);
        if at == self.since {
            return before || self.headers == carried;
        }
        if let Some(or) = self.or.take().filter(|_| before && stopped.contains(&self.since)) {
            self.headers = or;
        }
        self.headers == carried
    }
}

/// Checks a whole run.
pub fn check(trace: &Trace) -> Vec<Violation> {
    let carried: BTreeMap<u64, &str> = trace
        .entries
        .iter()
        .filter_map(|e| match &e.fact {
            Fact::Carried { call, headers } => Some((*call, headers.as_str())),
            _ => None,
        })
        .collect();
    let mut calls: BTreeMap<u64, &Request> = BTreeMap::new();
    let (mut workers, mut jobs) = (BTreeMap::<u32, InForce>::new(), BTreeMap::<JobId, InForce>::new());
    let stopped = stops(trace);
    let mut out = Vec::new();
    for (i, e) in trace.entries.iter().enumerate() {
        match &e.fact {
            Fact::Sent(r) => {
                calls.insert(r.call, r);
                let in_force = match &r.credential {
                    Credential::Worker(w) => Some(workers.entry(*w).or_insert_with(InForce::new)),
                    Credential::Job(job) => jobs.get_mut(job),
                    _ => None,
                };
                let carried = carried.get(&r.call).copied().unwrap_or_default();
                if let Some(in_force) = in_force
                    && !in_force.sent(e.at, carried, &stopped)
                {
                    out.push(Violation::at("H", i, format!("{r}: it carries {carried:?}, in force is {:?}", in_force.headers)));
                }
            }
            Fact::Given { worker, headers } => workers.entry(*worker).or_insert_with(InForce::new).changed(e.at, headers),
            Fact::Returned { call, got: Got::Answer { status: 200..=299, said: Said::Job(_), .. } } => {
                if let Some(Request { credential: Credential::Worker(w), job: Some(job), .. }) = calls.get(call) {
                    jobs.insert(job.clone(), workers.entry(*w).or_insert_with(InForce::new).clone());
                }
            }
            _ => {}
        }
    }
    out
}

/// When a signal or a rejected heartbeat stopped somebody.
fn stops(trace: &Trace) -> BTreeSet<Instant> {
    let mut beats = BTreeSet::new();
    let mut out = BTreeSet::new();
    for e in &trace.entries {
        match &e.fact {
            Fact::Sent(r) if r.op == Op::Heartbeat => {
                beats.insert(r.call);
            }
            Fact::Returned { call, got: Got::Answer { status: 400..=499, .. } } if beats.contains(call) => {
                out.insert(e.at);
            }
            Fact::AgentSignal(OsSignal::Term | OsSignal::Int | OsSignal::Quit) => {
                out.insert(e.at);
            }
            _ => {}
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trace::{ENDPOINT, Payload};

    #[derive(Default)]
    struct Told(Trace, u64);

    impl Told {
        fn sent(mut self, ms: u64, who: Credential, op: Op, headers: &str) -> Told {
            self.1 += 1;
            let job = (op != Op::Ping).then(|| "J".into());
            let request = Request { call: self.1, credential: who, op, job, endpoint: ENDPOINT, payload: Payload::None };
            self.0.push(Instant::from_millis(ms), Fact::Sent(request));
            if !headers.is_empty() {
                self.0.push(Instant::from_millis(ms), Fact::Carried { call: self.1, headers: headers.into() });
            }
            self
        }

        fn given(mut self, ms: u64, headers: &str) -> Told {
            self.0.push(Instant::from_millis(ms), Fact::Given { worker: 1, headers: headers.into() });
            self
        }

        fn said(mut self, ms: u64, said: Said) -> Told {
            let got = Got::Answer { status: 200, said, retry_after_ms: None };
            self.0.push(Instant::from_millis(ms), Fact::Returned { call: self.1, got });
            self
        }

        fn ping(self, ms: u64, headers: &str) -> Told {
            self.sent(ms, Credential::Worker(1), Op::Ping, headers)
        }

        fn breaks(&self) -> usize {
            check(&self.0).len()
        }
    }

    #[test]
    fn a_request_without_the_headers_that_were_given_is_seen() {
        let given = || Told::default().given(100, "Buildkite-Sim: 1");
        assert_eq!(given().ping(200, "Buildkite-Sim: 1").breaks(), 0);
        assert_eq!(given().ping(200, "").breaks(), 1);
        assert_eq!(given().given(150, "").ping(200, "Buildkite-Sim: 1").breaks(), 1, "an empty set clears");
    }

    #[test]
    fn a_job_keeps_the_headers_of_its_accept() {
        let job = |headers| {
            let accepted = Told::default().given(100, "a").sent(200, Credential::Worker(1), Op::Accept, "a").said(220, Said::Job("J".into()));
            accepted.given(300, "b").sent(400, Credential::Job("J".into()), Op::Start, headers)
        };
        assert_eq!((job("a").breaks(), job("b").breaks()), (0, 1));
    }

    #[test]
    fn a_set_whose_answer_a_stop_of_that_instant_discarded_is_not_in_force() {
        let stop = |ms| {
            let mut told = Told::default().given(100, "a").ping(150, "a").given(200, "b");
            told.0.push(Instant::from_millis(ms), Fact::AgentSignal(OsSignal::Term));
            told.ping(900, "a")
        };
        assert_eq!((stop(200).breaks(), stop(300).breaks()), (0, 1));
        assert_eq!(stop(200).ping(950, "b").breaks(), 1, "it was discarded");
    }
}
