//! What is accepted was offered to that worker before, and jobs of a stream are taken in the order in which they came
//! (start-and-worker §9.8, §9.10, I34).

use super::rows::Ref::S;
use super::view::View;
use super::{Invariant, Violation};
use crate::trace::{Credential, Fact, Got, JobId, Op, Said};
use std::collections::BTreeMap;

pub(super) const INVARIANT: Invariant = Invariant {
    id: "offers",
    title: "offers",
    rule: "start-and-worker §9.8, §9.10, I34: accepted is what was offered, a stream's jobs in their order",
    file: file!(),
    rows: &[S(34)],
    check,
};

fn check(v: &View<'_>, out: &mut Vec<Violation>) {
    // By worker: the offers of each job, and those that a stream brought first, in order.
    let mut offered: BTreeMap<u32, BTreeMap<JobId, usize>> = BTreeMap::new();
    let mut queue: BTreeMap<u32, Vec<JobId>> = BTreeMap::new();
    for (i, e) in v.entries.iter().enumerate() {
        match &e.fact {
            Fact::Returned { call, got: Got::Answer { status: 200..=299, said: Said::Ping { job: Some(job), .. }, .. } } => {
                if let Some(Credential::Worker(w)) = v.calls.get(call).map(|c| &c.request.credential) {
                    *offered.entry(*w).or_default().entry(job.clone()).or_default() += 1;
                }
            }
            Fact::Streamed { worker, job: Some(job), .. } if !job.is_empty() => {
                let count = offered.entry(*worker).or_default().entry(job.clone()).or_default();
                *count += 1;
                if *count == 1 {
                    queue.entry(*worker).or_default().push(job.clone());
                }
            }
            Fact::Sent(r) if r.op == Op::Accept => {
                let (Credential::Worker(w), Some(job)) = (&r.credential, &r.job) else { continue };
                if offered.get(w).is_none_or(|o| !o.contains_key(job)) {
                    out.push(Violation::at("offers", i, format!("{r}, which nobody offered")));
                }
                let queue = queue.entry(*w).or_default();
                if let Some(place) = queue.iter().position(|id| id == job) {
                    // What is offered again has another place then; only what came once is compared.
                    let once = |id: &JobId| offered.get(w).and_then(|o| o.get(id)) == Some(&1);
                    if let Some(before) = queue[..place].iter().find(|id| once(id)).filter(|_| once(job)) {
                        out.push(Violation::at("offers", i, format!("{r} before {before}, which the stream brought earlier")));
                    }
                    queue.remove(place);
                }
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::story::Story;
    use super::*;

    fn brought(jobs: &[&str]) -> Story {
        let s = Story::new().connected(1);
        jobs.iter().fold(s, |s, id| s.fact(100, Fact::Streamed { worker: 1, kind: "job", job: Some((*id).into()) }))
    }

    #[test]
    fn an_accept_of_what_nobody_offered_is_seen() {
        brought(&["J"]).sent(200, 5, "accept", "w1", "J").holds(INVARIANT);
        brought(&["J"]).sent(200, 5, "accept", "w1", "K").breaks(INVARIANT);
        brought(&["J"]).sent(200, 5, "accept", "w2", "J").breaks(INVARIANT);
    }

    #[test]
    fn jobs_of_a_stream_out_of_order_are_seen() {
        let both = |a, b| brought(&["J", "K"]).sent(200, 5, "accept", "w1", a).got(220, 5, 409).sent(300, 6, "accept", "w1", b);
        both("J", "K").holds(INVARIANT);
        both("K", "J").breaks(INVARIANT);
    }
}
