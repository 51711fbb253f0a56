//! A confidence sequence for a quantile, as of latencies, whose mean says little.
//!
//! It must never assume a distribution.
//!
//! Start reading at [`quantile_ranks`].

use crate::proportion::log_limit;
use crate::{Counts, Interval, Proportion};

/// Between which of the values in order, from 0, a quantile is. `None` is before the first or after the last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QuantileRanks {
    /// Of the lower end.
    pub low: Option<u64>,
    /// Of the upper end.
    pub high: Option<u64>,
}

/// How many trials the prior weighs: it is centred on the share that the quantile has by definition.
const PRIOR_WEIGHT: f64 = 20.0;

/// The ranks between which the quantile `q` of independent values is at all times, with probability at least
/// `1 - alpha`: how many values are below the true quantile is binomial with the rate `q`, whatever they are.
/// Source: Howard and Ramdas 2022, section 3, with the mixture of [`Proportion`].
///
/// # Panics
/// When `q` or `alpha` is not strictly between 0 and 1.
#[must_use]
pub fn quantile_ranks(n: u64, q: f64, alpha: f64) -> QuantileRanks {
    let limit = log_limit(alpha);
    let prior = Proportion::around(q, PRIOR_WEIGHT);
    // Whether `hits` of the values may be below the quantile. Evidence is convex in `hits`.
    let may_be = |hits: u64| prior.log_evidence(Counts { n, hits }, q) < limit;
    let middle = ((q * n as f64).round() as u64).min(n);
    let first = last_so(middle, |step| middle - step, &may_be);
    let last = last_so(n - middle, |step| middle + step, &may_be);
    // With k values below it the quantile is between the k-th and the one after.
    QuantileRanks { low: first.checked_sub(1), high: (last < n).then_some(last) }
}

/// The quantile `q` of values in ascending order. An end without a value is infinite.
///
/// # Panics
/// When `q` or `alpha` is not strictly between 0 and 1.
#[must_use]
pub fn quantile_interval(ascending: &[f64], q: f64, alpha: f64) -> Interval {
    let ranks = quantile_ranks(ascending.len() as u64, q, alpha);
    let at =
        |rank: u64| ascending[usize::try_from(rank).expect("a rank is an index: this is a bug")];
    Interval {
        low: ranks.low.map_or(f64::NEG_INFINITY, at),
        high: ranks.high.map_or(f64::INFINITY, at),
    }
}

/// The furthest of the counts `at(0)`, `at(1)`, ... that may be, by halving.
fn last_so(n_steps: u64, at: impl Fn(u64) -> u64, may_be: &impl Fn(u64) -> bool) -> u64 {
    let (mut inner, mut outer) = (0, n_steps + 1);
    while inner + 1 < outer {
        let middle = inner + (outer - inner) / 2;
        if may_be(at(middle)) {
            inner = middle;
        } else {
            outer = middle;
        }
    }
    at(inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_surround_the_quantile() {
        assert_eq!(quantile_ranks(0, 0.5, 0.05), QuantileRanks { low: None, high: None });
        // One value in a hundred is above the quantile: not all of three are.
        assert_eq!(quantile_ranks(3, 0.99, 0.05), QuantileRanks { low: Some(0), high: None });
        let ranks = quantile_ranks(10_000, 0.5, 0.05);
        let (low, high) = (ranks.low.unwrap_or(0), ranks.high.unwrap_or(10_000));
        assert!((4700..5000).contains(&low) && (5000..5300).contains(&high), "{ranks:?}");
        let values: Vec<f64> = (0..1000).map(f64::from).collect();
        let found = quantile_interval(&values, 0.9, 0.05);
        assert!(found.low < 900.0 && found.high > 900.0 && found.high.is_finite(), "{found:?}");
    }
}
