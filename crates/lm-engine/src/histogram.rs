//! Latency distributions that are recorded without waiting and without allocating.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// Upper bounds of the buckets, in microseconds: 1 ms, doubling, up to about two minutes.
const BOUNDS_MICROS: [u64; 18] = {
    let mut bounds = [0; 18];
    let mut i = 0;
    while i < bounds.len() {
        bounds[i] = 1000 << i;
        i += 1;
    }
    bounds
};

/// Durations counted in exponential buckets.
#[derive(Debug, Default)]
pub struct Histogram {
    buckets: [AtomicU64; BOUNDS_MICROS.len() + 1],
    sum_micros: AtomicU64,
}

/// What a histogram held at one moment.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct HistogramSnapshot {
    /// Upper bound in seconds and number of observations at or below it; the last bound is infinite.
    pub cumulative: Vec<(f64, u64)>,
    /// Sum of all observations, in seconds.
    pub sum_seconds: f64,
}

impl Histogram {
    /// Counts one duration.
    pub fn record(&self, duration: Duration) {
        let micros = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        let bucket = BOUNDS_MICROS.partition_point(|&bound| bound < micros);
        self.buckets[bucket].fetch_add(1, Relaxed);
        self.sum_micros.fetch_add(micros, Relaxed);
    }

    /// Reads all buckets.
    #[must_use]
    pub fn snapshot(&self) -> HistogramSnapshot {
        let mut count = 0;
        let bounds = BOUNDS_MICROS.iter().map(|&micros| micros as f64 / 1e6);
        let cumulative = bounds
            .chain([f64::INFINITY])
            .zip(&self.buckets)
            .map(|(bound, bucket)| {
                count += bucket.load(Relaxed);
                (bound, count)
            })
            .collect();
        let sum_seconds = self.sum_micros.load(Relaxed) as f64 / 1e6;
        HistogramSnapshot { cumulative, sum_seconds }
    }
}

impl HistogramSnapshot {
    /// Observations in all.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.cumulative.last().map_or(0, |&(_, count)| count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn observations_fall_at_or_below_their_bound() {
        let histogram = Histogram::default();
        for micros in [0, 1000, 1001, 2000, 500_000_000] {
            histogram.record(Duration::from_micros(micros));
        }
        let found = histogram.snapshot();
        assert_eq!(found.cumulative[0], (0.001, 2));
        assert_eq!(found.cumulative[1], (0.002, 4));
        assert_eq!(found.cumulative.last(), Some(&(f64::INFINITY, 5)));
        assert!((found.sum_seconds - 500.004_001).abs() < 1e-9);
    }
}
