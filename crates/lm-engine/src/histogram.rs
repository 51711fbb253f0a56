//! Latency distributions that are recorded without waiting and without allocating.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// Buckets for each doubling. Percentiles are read from these; what is exposed has one for each
/// doubling.
const PER_DOUBLING: usize = 4;
/// Doublings below 1 ms: the finest bound is 62.5 us.
const BELOW_MS: usize = 4;
/// Doublings from 1 ms on, up to about two minutes.
const ABOVE_MS: usize = 17;
const N_BOUNDS: usize = (BELOW_MS + ABOVE_MS) * PER_DOUBLING + 1;

/// Upper bounds of the buckets, in nanoseconds, each larger by the fourth root of two.
const BOUNDS_NANOS: [u64; N_BOUNDS] = {
    /// 2^(k/4) in millionths.
    const ROOTS: [u64; PER_DOUBLING] = [1_000_000, 1_189_207, 1_414_214, 1_681_793];
    let mut bounds = [0; N_BOUNDS];
    let mut i = 0;
    while i < N_BOUNDS {
        bounds[i] = (62_500 * ROOTS[i % PER_DOUBLING] / 1_000_000) << (i / PER_DOUBLING);
        i += 1;
    }
    bounds
};

/// Durations counted in exponential buckets.
#[derive(Debug)]
pub struct Histogram {
    buckets: [AtomicU64; N_BOUNDS + 1],
    sum_micros: AtomicU64,
}

/// What a histogram held at one moment.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct HistogramSnapshot {
    /// Upper bound in seconds and number of observations at or below it: from 1 ms, doubling; the last
    /// bound is infinite.
    pub cumulative: Vec<(f64, u64)>,
    /// Sum of all observations, in seconds.
    pub sum_seconds: f64,
    /// Observations in each of the fine buckets.
    fine: Vec<u64>,
}

impl Default for Histogram {
    fn default() -> Self {
        let buckets = std::array::from_fn(|_| AtomicU64::new(0));
        Histogram { buckets, sum_micros: AtomicU64::new(0) }
    }
}

impl Histogram {
    /// Counts one duration.
    pub fn record(&self, duration: Duration) {
        let nanos = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        let bucket = BOUNDS_NANOS.partition_point(|&bound| bound < nanos);
        self.buckets[bucket].fetch_add(1, Relaxed);
        self.sum_micros.fetch_add(nanos / 1000, Relaxed);
    }

    /// Reads all buckets.
    #[must_use]
    pub fn snapshot(&self) -> HistogramSnapshot {
        let fine: Vec<u64> = self.buckets.iter().map(|bucket| bucket.load(Relaxed)).collect();
        HistogramSnapshot::new(fine, self.sum_micros.load(Relaxed) as f64 / 1e6)
    }
}

impl HistogramSnapshot {
    fn new(fine: Vec<u64>, sum_seconds: f64) -> Self {
        let mut count = 0;
        let mut cumulative = Vec::with_capacity(ABOVE_MS + 2);
        for (i, n) in fine.iter().enumerate() {
            count += n;
            let is_exposed = i >= BELOW_MS * PER_DOUBLING && i % PER_DOUBLING == 0;
            match BOUNDS_NANOS.get(i) {
                Some(&nanos) if is_exposed => cumulative.push((nanos as f64 / 1e9, count)),
                Some(_) => {}
                None => cumulative.push((f64::INFINITY, count)),
            }
        }
        HistogramSnapshot { cumulative, sum_seconds, fine }
    }

    /// Observations in all.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.cumulative.last().map_or(0, |&(_, count)| count)
    }

    /// What was observed after `earlier`, a snapshot of the same histogram.
    #[must_use]
    pub fn since(&self, earlier: &HistogramSnapshot) -> HistogramSnapshot {
        let before = earlier.fine.iter().copied().chain(std::iter::repeat(0));
        let fine = self.fine.iter().zip(before).map(|(now, before)| now.saturating_sub(before));
        let sum_seconds = (self.sum_seconds - earlier.sum_seconds).max(0.0);
        HistogramSnapshot::new(fine.collect(), sum_seconds)
    }

    /// The value in seconds that a share `q` of the observations, from 0 to 1, does not exceed: by
    /// interpolation inside of a bucket, so up to a fifth off. `None` without observations. Beyond the
    /// last bound, about two minutes, it is that bound.
    #[must_use]
    pub fn quantile(&self, q: f64) -> Option<f64> {
        let n = self.fine.iter().sum::<u64>();
        let rank = (q * n as f64).ceil().max(1.0);
        let mut below = 0.0;
        for (i, &n) in self.fine.iter().enumerate().filter(|(_, n)| **n > 0) {
            let upper = BOUNDS_NANOS.get(i).or(BOUNDS_NANOS.last())?;
            let lower = if i == 0 { 0 } else { BOUNDS_NANOS[i - 1] };
            if below + n as f64 >= rank {
                let share = (rank - below) / n as f64;
                return Some((lower as f64 + share * (upper - lower) as f64) / 1e9);
            }
            below += n as f64;
        }
        None
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
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

    #[test]
    fn bounds_that_are_exposed_double_from_a_millisecond() {
        let found = Histogram::default().snapshot();
        assert_eq!(found.cumulative.len(), 19);
        for (i, (bound, _)) in found.cumulative.iter().enumerate().take(18) {
            assert_eq!(*bound, f64::from(1 << i) / 1000.0);
        }
    }

    #[test]
    fn quantiles_are_a_fifth_off_at_most() {
        let histogram = Histogram::default();
        assert_eq!(histogram.snapshot().quantile(0.5), None);
        for micros in 1..=10_000_u64 {
            histogram.record(Duration::from_micros(micros * 10));
        }
        let found = histogram.snapshot();
        for q in [0.01, 0.1, 0.5, 0.9, 0.99, 1.0] {
            let (value, expect) = (found.quantile(q).unwrap(), q * 0.1);
            assert!((value / expect - 1.0).abs() < 0.2, "{q}: {value} instead of {expect}");
        }
        histogram.record(Duration::from_secs(3600));
        assert_eq!(histogram.snapshot().quantile(1.0), Some(131.072));
    }

    #[test]
    fn what_came_since_is_told_from_what_was_before() {
        let histogram = Histogram::default();
        histogram.record(Duration::from_millis(1));
        let before = histogram.snapshot();
        histogram.record(Duration::from_millis(80));
        let since = histogram.snapshot().since(&before);
        assert_eq!(since.count(), 1);
        assert!((since.sum_seconds - 0.08).abs() < 1e-9);
        assert!(since.quantile(0.5).unwrap() > 0.07);
        assert_eq!(histogram.snapshot().since(&HistogramSnapshot::default()).count(), 2);
    }
}
