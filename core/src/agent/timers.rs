//! The least of many deadlines, kept in step: a tournament over the workers, so that an event of one of a thousand workers
//! costs ten comparisons and no allocation.

use crate::machine::Instant;
use serde::{Deserialize, Serialize};

/// No deadline: an instant that never comes.
const NEVER: u64 = u64::MAX;

/// Deadlines by index.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) struct Timers {
    /// `nodes[1]` is the root, `nodes[leaves + i]` belongs to index `i`; every node is the least of its two children.
    nodes: Vec<u64>,
    leaves: usize,
}

impl Timers {
    /// `count` indices without a deadline.
    pub(crate) fn new(count: usize) -> Timers {
        let leaves = count.next_power_of_two();
        Timers { nodes: vec![NEVER; 2 * leaves], leaves }
    }

    /// Replaces the deadline of `index`.
    pub(crate) fn set(&mut self, index: usize, deadline: Option<Instant>) {
        let value = deadline.map_or(NEVER, Instant::as_nanos);
        let mut node = self.leaves + index;
        if self.nodes[node] == value {
            return;
        }
        self.nodes[node] = value;
        while node > 1 {
            node /= 2;
            let least = self.nodes[2 * node].min(self.nodes[2 * node + 1]);
            if self.nodes[node] == least {
                return;
            }
            self.nodes[node] = least;
        }
    }

    /// The earliest deadline.
    pub(crate) fn least(&self) -> Option<Instant> {
        Some(self.nodes[1]).filter(|v| *v != NEVER).map(Instant::from_nanos)
    }

    /// The index whose deadline is the earliest, the lowest index first, if it is due at `now`.
    pub(crate) fn due(&self, now: Instant) -> Option<usize> {
        let least = self.least().filter(|at| *at <= now)?.as_nanos();
        let mut node = 1;
        while node < self.leaves {
            node *= 2;
            if self.nodes[node] != least {
                node += 1;
            }
        }
        Some(node - self.leaves)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Rng;

    /// Given random changes of 13 deadlines, when asked, then the tournament answers like a scan over all of them.
    #[test]
    fn the_tournament_is_a_scan() {
        let mut rng = Rng::from_seed(7);
        let mut timers = Timers::new(13);
        let mut all = [None; 13];
        for _ in 0..5000 {
            let (index, at) = (rng.below(13) as usize, rng.below(40));
            all[index] = (at < 30).then(|| Instant::from_millis(at));
            timers.set(index, all[index]);
            let least = all.iter().flatten().min().copied();
            assert_eq!(timers.least(), least);
            let now = Instant::from_millis(rng.below(40));
            let due = (0..13).filter(|i| all[*i] == least && all[*i].is_some_and(|at| at <= now)).min();
            assert_eq!(timers.due(now), due);
        }
    }

    #[test]
    fn one_index_is_enough_for_a_tree() {
        let mut timers = Timers::new(1);
        assert_eq!(timers.due(Instant::from_millis(9)), None);
        timers.set(0, Some(Instant::from_millis(9)));
        assert_eq!(timers.due(Instant::from_millis(9)), Some(0));
    }
}
