//! What the server tells an agent to use is used: the header set on every later request (agent-api §2.4), the endpoint once a test
//! of it succeeded (agent-api §7.3; start-and-worker §9.6); a job keeps what was in force when it was accepted.

use crate::invariants::Violation;
use crate::trace::{Credential, ENDPOINT, Fact, Got, JobId, Op, Request, Said, Trace};
use ibex_core::machine::Instant;
use std::collections::BTreeMap;

/// What one worker or job has to use, and what it had to use until this instant.
#[derive(Clone, Debug, PartialEq, Eq)]
struct InForce {
    headers: String,
    endpoint: String,
    since: Instant,
    before: Option<(String, String)>,
}

impl InForce {
    fn new() -> InForce {
        InForce { headers: String::new(), endpoint: ENDPOINT.into(), since: Instant::ZERO, before: None }
    }

    fn changed(&mut self, at: Instant, headers: Option<&str>, endpoint: Option<&str>) {
        if self.since < at || self.before.is_none() {
            self.before = Some((self.headers.clone(), self.endpoint.clone()));
        }
        self.since = at;
        self.headers = headers.unwrap_or(&self.headers).to_owned();
        self.endpoint = endpoint.unwrap_or(&self.endpoint).to_owned();
    }

    /// What was sent in the instant of a change may have been decided before it.
    fn allows(&self, at: Instant, headers: &str, endpoint: Option<&str>) -> bool {
        let fits = |h: &str, e: &str| h == headers && endpoint.is_none_or(|endpoint| endpoint == e);
        fits(&self.headers, &self.endpoint) || (at == self.since && self.before.as_ref().is_some_and(|(h, e)| fits(h, e)))
    }
}

#[derive(Default)]
struct Wire<'a> {
    workers: BTreeMap<u32, InForce>,
    jobs: BTreeMap<JobId, InForce>,
    calls: BTreeMap<u64, &'a Request>,
    /// An endpoint that the answer of this instant has named, by worker.
    named: BTreeMap<u32, (Instant, &'a str)>,
    /// Pings that test an endpoint.
    tests: BTreeMap<u64, &'a str>,
}

/// Checks a whole run.
pub fn check(trace: &Trace) -> Vec<Violation> {
    let mut out = Vec::new();
    let mut wire = Wire::default();
    let carried: BTreeMap<u64, &str> = trace
        .entries
        .iter()
        .filter_map(|e| match &e.fact {
            Fact::Carried { call, headers } => Some((*call, headers.as_str())),
            _ => None,
        })
        .collect();
    for (i, e) in trace.entries.iter().enumerate() {
        match &e.fact {
            Fact::Sent(r) => {
                let carried = carried.get(&r.call).copied().unwrap_or_default();
                if let Some(text) = wire.sent(e.at, r, carried) {
                    out.push(Violation::at("H", i, text));
                }
            }
            Fact::Given { worker, headers } => {
                wire.workers.entry(*worker).or_insert_with(InForce::new).changed(e.at, Some(headers), None);
            }
            Fact::Returned { call, got } => wire.returned(e.at, *call, got),
            _ => {}
        }
    }
    out
}

impl<'a> Wire<'a> {
    fn sent(&mut self, at: Instant, r: &'a Request, carried: &str) -> Option<String> {
        self.calls.insert(r.call, r);
        let in_force = match &r.credential {
            Credential::Worker(w) => self.workers.entry(*w).or_insert_with(InForce::new).clone(),
            Credential::Job(job) => self.jobs.get(job)?.clone(),
            _ => return None,
        };
        if let (Credential::Worker(w), Op::Ping) = (&r.credential, r.op)
            && let Some((_, endpoint)) = self.named.remove(w).filter(|(named, endpoint)| *named == at && *endpoint == r.endpoint)
        {
            self.tests.insert(r.call, endpoint);
            return (!in_force.allows(at, carried, None)).then(|| format!("{r}: the test carries {carried:?}, given was {:?}", in_force.headers));
        }
        // The stream's path is not one of the endpoint.
        let endpoint = (r.op != Op::Stream).then_some(r.endpoint);
        (!in_force.allows(at, carried, endpoint)).then(|| {
            let InForce { headers, endpoint, .. } = in_force;
            format!("{r}: it carries {carried:?} to {}, in force are {headers:?} and {endpoint}", r.endpoint)
        })
    }

    fn returned(&mut self, at: Instant, call: u64, got: &'a Got) {
        let Some(r) = self.calls.get(&call) else { return };
        let Credential::Worker(w) = r.credential else { return };
        let Got::Answer { status: 200..=299, said, .. } = got else { return };
        let in_force = self.workers.entry(w).or_insert_with(InForce::new);
        match (said, &r.job) {
            (Said::Ping { .. }, _) if self.tests.contains_key(&call) => in_force.changed(at, None, Some(self.tests[&call])),
            (Said::Ping { endpoint, .. }, _) if !endpoint.is_empty() && *endpoint != in_force.endpoint => {
                self.named.insert(w, (at, endpoint));
            }
            (Said::Job(_), Some(job)) => {
                self.jobs.insert(job.clone(), in_force.clone());
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trace::{OTHER_ENDPOINT, Payload};

    #[derive(Default)]
    struct Told(Trace, u64);

    impl Told {
        fn sent(mut self, ms: u64, who: Credential, op: Op, endpoint: &'static str, headers: &str) -> Told {
            self.1 += 1;
            let job = (op != Op::Ping).then(|| "J".into());
            let request = Request { call: self.1, credential: who, op, job, endpoint, payload: Payload::None };
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

        fn ping(self, ms: u64, endpoint: &'static str, headers: &str) -> Told {
            self.sent(ms, Credential::Worker(1), Op::Ping, endpoint, headers)
        }

        fn breaks(&self) -> usize {
            check(&self.0).len()
        }
    }

    fn names(endpoint: &str) -> Said {
        Said::Ping { action: String::new(), job: None, endpoint: endpoint.into() }
    }

    #[test]
    fn a_request_without_the_headers_that_were_given_is_seen() {
        let given = || Told::default().given(100, "Buildkite-Sim: 1");
        assert_eq!(given().ping(200, ENDPOINT, "Buildkite-Sim: 1").breaks(), 0);
        assert_eq!(given().ping(200, ENDPOINT, "").breaks(), 1);
        assert_eq!(given().given(150, "").ping(200, ENDPOINT, "Buildkite-Sim: 1").breaks(), 1, "an empty set clears");
    }

    #[test]
    fn a_job_keeps_the_headers_of_its_accept() {
        let job = |headers| {
            let accepted =
                Told::default().given(100, "a").sent(200, Credential::Worker(1), Op::Accept, ENDPOINT, "a").said(220, Said::Job("J".into()));
            accepted.given(300, "b").sent(400, Credential::Job("J".into()), Op::Start, ENDPOINT, headers)
        };
        assert_eq!((job("a").breaks(), job("b").breaks()), (0, 1));
    }

    #[test]
    fn an_endpoint_is_in_force_after_its_test_and_not_before() {
        let named = || Told::default().ping(100, ENDPOINT, "").said(120, names(OTHER_ENDPOINT));
        let tested = || named().ping(120, OTHER_ENDPOINT, "");
        assert_eq!(tested().said(140, names("")).ping(900, OTHER_ENDPOINT, "").breaks(), 0);
        assert_eq!(tested().said(140, names("")).ping(900, ENDPOINT, "").breaks(), 1, "it moved");
        assert_eq!(tested().ping(900, ENDPOINT, "").breaks(), 0, "the test got no answer");
        assert_eq!(named().ping(900, OTHER_ENDPOINT, "").breaks(), 1, "it was not tested");
    }
}
