//! When the buffer is cut into chunks (job-runner §6.10).

use crate::machine::Instant;
use crate::rng::Rng;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// Cuts of one run.
const CUTS: u32 = 32;
/// Intervals from the start of one run to the start of the next.
const RUN_INTERVALS: u32 = 33;

/// The cut schedule: runs of 32 cuts, `I` apart, every run on a grid of 33 × `I` and with a fresh jitter in `[0, I)`.
///
/// A jitter larger than the one before would put more than 2 × `I` between the last cut of one run and the first of the next; in that
/// case the first cut alone comes earlier, so that a byte is always cut at most 2 × `I` after it was read (I22).
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) struct Cutter {
    interval: Duration,
    run_began: Instant,
    jitter: Duration,
    /// Jitter of the run before.
    jitter_before: Option<Duration>,
    /// Cuts of this run that are over.
    done: u32,
}

impl Cutter {
    /// The timer starts at `now`.
    pub(crate) fn new(interval: Duration, now: Instant, rng: &mut Rng) -> Cutter {
        // An interval of zero would never let time pass.
        let interval = interval.max(Duration::from_millis(1));
        Cutter { interval, run_began: now, jitter: rng.duration_below(interval), jitter_before: None, done: 0 }
    }

    /// The next cut.
    pub(crate) fn at(&self) -> Instant {
        match (self.done, self.jitter_before) {
            (0, Some(before)) => self.run_began + self.jitter.min(before),
            _ => self.run_began + self.jitter + self.interval * self.done,
        }
    }

    /// Passes over all cuts up to and including `now`.
    pub(crate) fn advance(&mut self, now: Instant, rng: &mut Rng) {
        while self.at() <= now {
            self.done += 1;
            if self.done == CUTS {
                self.run_began = self.run_began + self.interval * RUN_INTERVALS;
                self.jitter_before = Some(self.jitter);
                self.jitter = rng.duration_below(self.interval);
                self.done = 0;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_of_32_cuts_start_on_the_grid_and_no_gap_exceeds_two_intervals() {
        let interval = Duration::from_secs(1);
        for seed in 0..200 {
            let mut rng = Rng::from_seed(seed);
            let start = Instant::from_millis(12_345);
            let mut cutter = Cutter::new(interval, start, &mut rng);
            let mut cuts = Vec::new();
            for _ in 0..32 * 4 {
                cuts.push(cutter.at());
                cutter.advance(cutter.at(), &mut rng);
            }
            assert!(cuts[0].since(start) < interval);
            for (i, pair) in cuts.windows(2).enumerate() {
                let gap = pair[1].since(pair[0]);
                assert!(gap <= 2 * interval, "seed {seed}, cut {i}: {gap:?}");
                if i % 32 != 31 && i % 32 != 0 {
                    assert_eq!(gap, interval, "seed {seed}, cut {i}");
                }
            }
            for (run, cuts) in cuts.chunks(32).enumerate() {
                let grid = start + interval * 33 * u32::try_from(run).unwrap();
                assert!(cuts[0] >= grid && cuts[1] < grid + 2 * interval, "seed {seed}, run {run}");
            }
        }
    }

    #[test]
    fn a_long_silence_is_skipped_in_one_step() {
        let mut rng = Rng::from_seed(3);
        let mut cutter = Cutter::new(Duration::from_secs(1), Instant::ZERO, &mut rng);
        let late = Instant::from_millis(36_000_500);
        cutter.advance(late, &mut rng);
        assert!(cutter.at() > late && cutter.at().since(late) <= Duration::from_secs(2));
    }
}
