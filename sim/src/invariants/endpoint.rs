//! Another endpoint is taken only after a test ping that succeeded, and then everything but a running job goes there; what a ping says and
//! the job that it offers come from one and the same answer (start-and-worker §9.6, I53, I54).

use super::rows::Ref::S;
use super::view::{Call, View};
use super::{Invariant, Violation};
use crate::schedule::Source;
use crate::trace::{Credential, ENDPOINT, Got, JobId, Op, Said};
use std::collections::BTreeMap;

pub(super) const INVARIANT: Invariant = Invariant {
    id: "endpoint",
    title: "endpoint switch",
    rule: "start-and-worker §9.6, I53, I54: one test, then all later requests; one answer counts",
    file: file!(),
    rows: &[S(53), S(54)],
    check,
};

/// An end of a request, or its beginning: what happens in order.
#[derive(Clone, Copy)]
enum Moment {
    Sent,
    Returned,
}

fn check(v: &View<'_>, out: &mut Vec<Violation>) {
    for worker in 1..=v.setup.workers {
        let mut in_force: String = ENDPOINT.to_owned();
        // The one before, where a stop came in the instant of the test's answer: it may have come first, and the answer is discarded then
        // (start-and-worker §0.2, §9.11). The next request tells.
        let mut or_before: Option<String> = None;
        // The answer that named an endpoint, and is to be tested.
        let mut named: Option<(String, Option<JobId>)> = None;
        let mut testing: Option<(u64, Option<JobId>)> = None;
        let mut offered: Option<JobId> = None;
        let mut of_jobs: BTreeMap<JobId, String> = BTreeMap::new();
        for (moment, c) in moments(v, worker) {
            match (moment, c.request.op) {
                (Moment::Sent, Op::Stream | Op::Register | Op::Other) => {}
                (Moment::Sent, op) if op.of_job() => {
                    let Some(job) = &c.request.job else { continue };
                    if of_jobs.get(job).is_some_and(|at| *at != c.request.endpoint) {
                        out.push(Violation::at("endpoint", c.sent, format!("{}: the job was accepted at another endpoint", c.request)));
                    }
                }
                (Moment::Sent, Op::Ping) if named.as_ref().is_some_and(|(at, _)| *at == c.request.endpoint) => {
                    testing = named.take().map(|(_, job)| (c.request.call, job));
                }
                (Moment::Sent, op) => {
                    in_force = or_before.take().filter(|before| before == c.request.endpoint).unwrap_or(in_force);
                    if *c.request.endpoint != in_force {
                        out.push(Violation::at("endpoint", c.sent, format!("{}: the endpoint in force is {in_force}", c.request)));
                    }
                    if op == Op::Accept && v.setup.source == Source::Poll && c.request.job != offered {
                        out.push(Violation::at("endpoint", c.sent, format!("{}: the answer that counts offered {offered:?}", c.request)));
                    }
                }
                (Moment::Returned, Op::Ping) => {
                    let test = testing.take_if(|(call, _)| *call == c.request.call);
                    match (c.returned, test) {
                        (Some((_, at, Got::Answer { status: 200..=299, said: Said::Ping { job, endpoint, .. }, .. })), test) => {
                            if test.is_some() {
                                or_before = v.stop(worker).filter(|(_, stopped)| *stopped == at).map(|_| in_force.clone());
                                c.request.endpoint.clone_into(&mut in_force);
                            } else if !endpoint.is_empty() && *endpoint != in_force {
                                named = Some((endpoint.clone(), job.clone()));
                            }
                            offered.clone_from(job);
                        }
                        // A test that failed: the first answer counts.
                        (_, Some((_, job))) => offered = job,
                        _ => {}
                    }
                }
                (Moment::Returned, Op::Accept | Op::Acquire) if c.ok() => {
                    if let Some(job) = &c.request.job {
                        of_jobs.insert(job.clone(), in_force.clone());
                    }
                }
                (Moment::Returned, _) => {}
            }
        }
    }
}

/// Requests of the worker and of its jobs, begun and ended, in order. What is answered in an instant is settled before what is sent in it.
fn moments<'v, 'a>(v: &'v View<'a>, worker: u32) -> Vec<(Moment, &'v Call<'a>)> {
    let ours = |c: &&Call<'_>| match &c.request.credential {
        Credential::Worker(w) => *w == worker,
        Credential::Job(id) => v.jobs.get(id).is_some_and(|j| j.worker == Some(worker)),
        _ => false,
    };
    let mut moments: Vec<(usize, Moment, &Call<'_>)> = Vec::new();
    for c in v.calls.values().filter(ours) {
        moments.push((c.sent, Moment::Sent, c));
        if let Some((i, _, _)) = c.returned {
            moments.push((i, Moment::Returned, c));
        }
    }
    moments.sort_by_key(|(i, _, _)| *i);
    moments.into_iter().map(|(_, moment, c)| (moment, c)).collect()
}

#[cfg(test)]
mod tests {
    use super::super::story::Story;
    use super::*;

    fn named() -> Story {
        let said = Said::Ping { action: String::new(), job: None, endpoint: "/alt/v3".into() };
        Story::new().connected(1).sent(1_000, 70, "ping", "w1", "").said(1_010, 70, said)
    }

    fn tested(status: u16) -> Story {
        let said = Said::Ping { action: String::new(), job: Some("J".into()), endpoint: String::new() };
        let s = named().sent_at_other(1_010, 71, "ping", "w1");
        if status == 200 { s.said(1_020, 71, said) } else { s.got(1_020, 71, status) }
    }

    #[test]
    fn a_request_at_the_wrong_endpoint_is_seen() {
        tested(200).sent_at_other(3_000, 72, "heartbeat", "w1").holds(INVARIANT);
        tested(200).sent(3_000, 72, "heartbeat", "w1", "").breaks(INVARIANT);
        tested(503).sent(3_000, 72, "heartbeat", "w1", "").holds(INVARIANT);
        tested(503).sent_at_other(3_000, 72, "heartbeat", "w1").breaks(INVARIANT);
        named().sent_at_other(3_000, 72, "heartbeat", "w1").breaks(INVARIANT);
    }

    #[test]
    fn a_job_of_the_answer_that_does_not_count_is_seen() {
        tested(503).sent(1_020, 72, "accept", "w1", "J").breaks(INVARIANT);
        let offered = Said::Ping { action: String::new(), job: Some("J".into()), endpoint: String::new() };
        let pinged = Story::new().connected(1).sent(1_000, 70, "ping", "w1", "").said(1_010, 70, offered);
        pinged.clone().sent(1_020, 72, "accept", "w1", "J").holds(INVARIANT);
        pinged.sent(1_020, 72, "accept", "w1", "K").breaks(INVARIANT);
    }

    #[test]
    fn a_running_job_keeps_its_endpoint() {
        let offered = Said::Ping { action: String::new(), job: Some("J".into()), endpoint: String::new() };
        let job = Story::new().connected(1).sent(50, 60, "ping", "w1", "").said(60, 60, offered).started(100);
        job.clone().chunk(500, 5, 1, 0, "x").holds(INVARIANT);
        job.fact(
            500,
            crate::trace::Fact::Sent(crate::trace::Request {
                call: 5,
                credential: Credential::Job("J".into()),
                op: Op::Chunk,
                job: Some("J".into()),
                endpoint: crate::trace::OTHER_ENDPOINT,
                payload: crate::trace::Payload::None,
            }),
        )
        .breaks(INVARIANT);
    }

    #[test]
    fn a_stop_in_the_instant_of_the_answer_may_discard_it_and_a_later_one_may_not() {
        let stopped = |ms| tested(200).signal(ms, "TERM").sent(ms, 90, "disconnect", "w1", "").got(ms + 20, 90, 200);
        stopped(1_020).holds(INVARIANT);
        stopped(1_520).breaks(INVARIANT);
    }
}
