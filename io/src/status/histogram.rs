//! A Prometheus histogram.

use std::fmt::Write;

/// Counts observations by upper bounds.
#[derive(Clone, Debug)]
pub(super) struct Histogram {
    bounds: Vec<f64>,
    /// One per bound, not cumulative; what is above the last bound is only in `count`.
    buckets: Vec<u64>,
    sum: f64,
    count: u64,
}

impl Histogram {
    /// Bounds `start`, `start * factor`, …
    pub(super) fn exponential(start: f64, factor: f64, buckets: i32) -> Histogram {
        Histogram::with_bounds((0..buckets).map(|k| start * factor.powi(k)).collect())
    }

    /// Bounds 1, 2, … `last`.
    pub(super) fn up_to(last: u32) -> Histogram {
        Histogram::with_bounds((1..=last).map(f64::from).collect())
    }

    fn with_bounds(bounds: Vec<f64>) -> Histogram {
        Histogram { buckets: vec![0; bounds.len()], bounds, sum: 0.0, count: 0 }
    }

    pub(super) fn observe(&mut self, value: f64) {
        if let Some(i) = self.bounds.iter().position(|bound| value <= *bound) {
            self.buckets[i] += 1;
        }
        self.sum += value;
        self.count += 1;
    }

    pub(super) fn render(&self, name: &str, out: &mut String) {
        let mut below = 0;
        for (bound, n) in self.bounds.iter().zip(&self.buckets) {
            below += n;
            let _ = writeln!(out, "{name}_bucket{{le=\"{bound}\"}} {below}");
        }
        let _ = writeln!(out, "{name}_bucket{{le=\"+Inf\"}} {0}\n{name}_sum {1}\n{name}_count {0}", self.count, self.sum);
    }
}
