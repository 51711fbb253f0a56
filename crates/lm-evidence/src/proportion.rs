//! A confidence sequence for one rate: the beta-binomial mixture.
//!
//! It must never see anything but counts.
//!
//! Start reading at [`Proportion::interval`].

use libm::lgamma;

use crate::{Interval, solve};

/// How often something was looked for, and how often it was so.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Trials.
    pub n: u64,
    /// Of them those that had it. At most `n`.
    pub hits: u64,
}

/// The mixture of binomial likelihood ratios over a beta prior.
///
/// Source: Robbins 1970; Howard, Ramdas, McAuliffe, Sekhon 2021, section 3.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Proportion {
    a: f64,
    b: f64,
}

impl Default for Proportion {
    /// Beta(1/2, 1/2): at any rate within half a logarithm of the number of trials of the best prior.
    fn default() -> Self {
        Proportion { a: 0.5, b: 0.5 }
    }
}

impl Counts {
    /// One more trial.
    pub fn add(&mut self, hit: bool) {
        self.n += 1;
        self.hits += u64::from(hit);
    }

    /// Hits by trials; 0 without trials.
    #[must_use]
    pub fn rate(&self) -> f64 {
        if self.n == 0 { 0.0 } else { self.hits as f64 / self.n as f64 }
    }
}

impl Proportion {
    /// A prior whose mean is `rate` and that weighs as much as `weight` trials. Any prior gives a valid sequence; one
    /// near the truth gives a shorter one.
    ///
    /// # Panics
    /// When `rate` is not strictly between 0 and 1 or `weight` is not positive.
    #[must_use]
    pub fn around(rate: f64, weight: f64) -> Proportion {
        assert!(rate > 0.0 && rate < 1.0 && weight > 0.0, "rate {rate}, weight {weight}");
        Proportion { a: rate * weight, b: (1.0 - rate) * weight }
    }

    /// The logarithm of the evidence against the rate `p`: of a martingale that begins at 1 when `p` is true.
    pub(crate) fn log_evidence(&self, counts: Counts, p: f64) -> f64 {
        self.log_mixture(counts) - log_likelihood(counts, p)
    }

    /// The part of it that does not depend on the rate.
    pub(crate) fn log_mixture(&self, counts: Counts) -> f64 {
        let (hits, misses) = (counts.hits as f64, (counts.n - counts.hits) as f64);
        log_beta(self.a + hits, self.b + misses) - log_beta(self.a, self.b)
    }

    /// The rates that the counts do not exclude. With probability at least `1 - alpha` the true rate is in it after
    /// every trial, however many there will be; so one may look after each and stop when one likes.
    ///
    /// Trials must be independent given the rate. Within their mean for ever: the rate must not change.
    ///
    /// # Panics
    /// When `hits` is greater than `n`, or `alpha` is not strictly between 0 and 1.
    #[must_use]
    pub fn interval(&self, counts: Counts, alpha: f64) -> Interval {
        assert_counts(counts);
        let limit = log_limit(alpha);
        let mixture = self.log_mixture(counts);
        let inside = |p: f64| mixture - log_likelihood(counts, p) < limit;
        let rate = counts.rate();
        Interval {
            low: solve::boundary(rate, 0.0, inside),
            high: solve::boundary(rate, 1.0, inside),
        }
    }
}

/// What evidence must exceed to be called.
pub(crate) fn log_limit(alpha: f64) -> f64 {
    assert!(alpha > 0.0 && alpha < 1.0, "alpha is {alpha}, but must be between 0 and 1");
    -alpha.ln()
}

pub(crate) fn assert_counts(counts: Counts) {
    assert!(counts.hits <= counts.n, "{} hits in {} trials", counts.hits, counts.n);
}

pub(crate) fn log_likelihood(counts: Counts, p: f64) -> f64 {
    times_log(counts.hits, p) + times_log(counts.n - counts.hits, 1.0 - p)
}

/// `n log x`, where 0 log 0 is 0.
fn times_log(n: u64, x: f64) -> f64 {
    if n == 0 { 0.0 } else { n as f64 * x.ln() }
}

fn log_beta(a: f64, b: f64) -> f64 {
    lgamma(a) + lgamma(b) - lgamma(a + b)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(hits: u64, n: u64, expect: (f64, f64)) {
        let found = Proportion::default().interval(Counts { n, hits }, 0.05);
        let near = |a: f64, b: f64| (a - b).abs() < 5e-4;
        assert!(near(found.low, expect.0) && near(found.high, expect.1), "{found:?}");
    }

    #[test]
    fn intervals_shrink_with_trials_and_hold_the_rate() {
        check(0, 0, (0.0, 1.0));
        // A uniform prior has a closed form: (n + 1) binom(n, hits) p^hits (1 - p)^(n - hits) = alpha.
        let uniform = Proportion::around(0.5, 2.0).interval(Counts { n: 10, hits: 0 }, 0.05);
        assert!((uniform.high - (1.0 - (0.05_f64 / 11.0).powf(0.1))).abs() < 1e-9, "{uniform:?}");
        assert_eq!(uniform.low, 0.0);
        let (small, large) = (Counts { n: 100, hits: 20 }, Counts { n: 10_000, hits: 2000 });
        let small = Proportion::default().interval(small, 0.05);
        let large = Proportion::default().interval(large, 0.05);
        assert!(small.contains(0.2) && large.contains(0.2));
        assert!(large.high - large.low < 0.15 * (small.high - small.low), "{small:?} {large:?}");
    }
}
