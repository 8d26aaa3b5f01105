//! V13: no state of one worker or job is visible in another: credentials, output, files
//! (races §0.1; start-and-worker I52; job-runner I47).
//!
//! Simulated processes print the id of their job in every line, so that a byte in the wrong log is seen.

use super::rows::Ref::S;
use super::view::View;
use super::{Invariant, Violation};
use crate::trace::{Credential, Op};

pub(super) const INVARIANT: Invariant = Invariant {
    id: "V13",
    title: "isolation",
    rule: "start-and-worker I52: each credential on its own requests only; each byte in its own log",
    file: file!(),
    rows: &[S(52)],
    check,
};

fn check(v: &View<'_>, out: &mut Vec<Violation>) {
    for c in v.calls.values() {
        let right = match (c.request.op, &c.request.credential, &c.request.job) {
            (Op::Register, who, _) => *who == Credential::Registration,
            (Op::Other, ..) => true,
            (op, Credential::Job(of), Some(job)) if op.of_job() => of == job,
            (op, Credential::Worker(_), _) => !op.of_job(),
            _ => false,
        };
        if !right {
            out.push(Violation::at("V13", c.sent, format!("{}: this credential is not for this request", c.request)));
        }
    }
    let ids: Vec<&str> = v.jobs.keys().map(AsRef::as_ref).collect();
    for (id, job) in &v.jobs {
        for c in &job.chunks {
            let Some((_, _, _, Some(data))) = View::chunk(c) else { continue };
            for other in ids.iter().filter(|o| **o != &**id && !id.contains(*o) && !o.contains(&**id) && o.len() >= 8) {
                if data.windows(other.len()).any(|w| w == other.as_bytes()) {
                    out.push(Violation::at("V13", c.sent, format!("a chunk of {id} has output of {other}")));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::story::Story;
    use super::*;

    #[test]
    fn a_foreign_credential_is_seen() {
        Story::new().sent(10, 1, "chunk", "J", "J").holds(INVARIANT);
        Story::new().sent(10, 1, "chunk", "K", "J").breaks(INVARIANT);
        Story::new().sent(10, 1, "chunk", "w1", "J").breaks(INVARIANT);
        Story::new().sent(10, 1, "ping", "registration", "").breaks(INVARIANT);
    }

    #[test]
    fn output_in_a_foreign_log_is_seen() {
        let s = Story::new().sent(10, 1, "start", "job-other", "job-other");
        s.clone().chunk(20, 2, 1, 0, "job-mine 1\n").holds(INVARIANT);
        s.chunk(20, 2, 1, 0, "job-other 1\n").breaks(INVARIANT);
    }
}
