//! Wilson's score interval: for ranking, at one fixed look.
//!
//! It must never be used to decide while watching: [`crate::compare`] is for that.
//!
//! Start reading at [`wilson`].

use crate::{Counts, Interval};

/// Standard deviations of a two-sided 95 % interval.
pub const Z_95: f64 = 1.959_963_984_540_054;

/// The rates within `z` standard deviations. Source: Wilson 1927.
///
/// # Panics
/// When there are more hits than trials.
#[must_use]
pub fn wilson(counts: Counts, z: f64) -> Interval {
    crate::proportion::assert_counts(counts);
    if counts.n == 0 {
        return Interval { low: 0.0, high: 1.0 };
    }
    let (n, p, z2) = (counts.n as f64, counts.rate(), z * z);
    let centre = (p + z2 / (2.0 * n)) / (1.0 + z2 / n);
    let margin = z / (1.0 + z2 / n) * (p * (1.0 - p) / n + z2 / (4.0 * n * n)).sqrt();
    Interval { low: (centre - margin).max(0.0), high: (centre + margin).min(1.0) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(hits: u64, n: u64, low: f64, high: f64) {
        let found = wilson(Counts { n, hits }, Z_95);
        assert!((found.low - low).abs() < 1e-4 && (found.high - high).abs() < 1e-4, "{found:?}");
    }

    /// Values of R's `prop.test(hits, n, correct = FALSE)`.
    #[test]
    fn published_values() {
        check(0, 0, 0.0, 1.0);
        check(0, 10, 0.0, 0.2775);
        check(10, 10, 0.7225, 1.0);
        check(81, 263, 0.2553, 0.3662);
        check(15, 148, 0.0624, 0.1605);
    }
}
