//! Header times: none where the log has timestamps; else numbered from 0 without a gap, by their retry plan, and no more of them once the
//! endpoint has turned out not to exist (header-times; job-runner I29).

use super::rows::Ref::R;
use super::view::{Call, SLACK, View};
use super::{Invariant, Violation};
use crate::schedule::Timestamps;
use crate::trace::Payload;
use ibex_core::retry::HEADER_TIMES;
use std::time::Duration;

pub(super) const INVARIANT: Invariant = Invariant {
    id: "header-times",
    title: "header times",
    rule: "header-times, job-runner I29: indexes 0…n−1 in batches, ten attempts 5 s apart, one batch at a time, 404 ends it",
    file: file!(),
    rows: &[R(29)],
    check,
};

fn check(v: &View<'_>, out: &mut Vec<Violation>) {
    for (id, job) in &v.jobs {
        let mut next = 0;
        let mut batch: Option<(&[u64], Vec<Call<'_>>)> = None;
        let mut none = false;
        for c in &job.header_times {
            let Payload::HeaderTimes(indexes) = &c.request.payload else { continue };
            let mut wrong = |text: String| out.push(Violation::at("header-times", c.sent, format!("{id}: {text}")));
            if v.setup.timestamps == Timestamps::Ansi {
                wrong("header times although the log has its own".into());
            }
            if none {
                wrong("more header times after the first were answered 404".into());
            }
            let mut sorted = indexes.clone();
            sorted.sort_unstable();
            match &mut batch {
                Some((of, attempts)) if *of == &indexes[..] => {
                    let last = attempts[attempts.len() - 1];
                    again(&last, c, &mut wrong);
                    attempts.push(*c);
                    if attempts.len() > HEADER_TIMES.attempts as usize {
                        wrong("an eleventh attempt".into());
                    }
                }
                _ => {
                    if sorted != (next..next + sorted.len() as u64).collect::<Vec<_>>() || sorted.is_empty() {
                        wrong(format!("indexes {sorted:?} where {next} is next"));
                    }
                    if let Some((_, attempts)) = &batch
                        && attempts[attempts.len() - 1].returned.is_none_or(|(i, _, _)| i > c.sent)
                    {
                        wrong("a batch while the one before is in flight".into());
                    }
                    next += sorted.len() as u64;
                    batch = Some((indexes, vec![*c]));
                }
            }
            none |= indexes.contains(&0) && c.status() == Some(404);
        }
    }
}

fn again(before: &Call<'_>, after: &Call<'_>, wrong: &mut impl FnMut(String)) {
    let Some((_, at, _)) = before.returned.filter(|(i, _, _)| *i < after.sent) else {
        return wrong("an attempt while the one before is in flight".into());
    };
    if before.ok() || before.status().is_some_and(|s| (400..500).contains(&s)) {
        wrong(format!("tried again after {:?}", before.status()));
    }
    let waited = after.sent_at.since(at);
    let plan = HEADER_TIMES.spacing.after(0);
    if waited + Duration::from_millis(1) < plan || waited > plan + SLACK {
        wrong(format!("tried again after {waited:?}, the plan says {plan:?}"));
    }
}

#[cfg(test)]
mod tests {
    use super::super::story::Story;
    use super::*;

    fn job() -> Story {
        Story::new().with(|s| s.timestamps = Timestamps::Plain).connected(1).started(100)
    }

    #[test]
    fn a_gap_or_a_repetition_is_seen() {
        let two = |second: &[u64]| job().headers(500, 5, &[0, 1]).got(520, 5, 200).headers(1_500, 6, second);
        two(&[2, 3]).holds(INVARIANT);
        two(&[3]).breaks(INVARIANT);
        two(&[1, 2]).breaks(INVARIANT);
    }

    #[test]
    fn header_times_beside_timestamps_are_seen() {
        job().with(|s| s.timestamps = Timestamps::Ansi).headers(500, 5, &[0]).breaks(INVARIANT);
    }

    #[test]
    fn attempts_follow_their_plan() {
        let again = |status, ms| job().headers(500, 5, &[0]).got(520, 5, status).headers(ms, 6, &[0]);
        again(503, 5_520).holds(INVARIANT);
        again(503, 3_000).breaks(INVARIANT);
        again(422, 5_520).breaks(INVARIANT);
    }

    #[test]
    fn after_a_404_for_the_first_there_are_no_more() {
        let then = |status| job().headers(500, 5, &[0]).got(520, 5, status).headers(1_600, 6, &[1]);
        then(200).holds(INVARIANT);
        then(404).breaks(INVARIANT);
    }
}
