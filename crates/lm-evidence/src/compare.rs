//! Two rates: what was before and what is after, and the interval of their difference.
//!
//! It must never call a change on less than the agreed evidence, however often it is asked.
//!
//! Start reading at [`compare`].

use crate::proportion::{assert_counts, log_likelihood, log_limit};
use crate::{Counts, Interval, Proportion, solve};

/// What two counts say of a failure rate.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Comparison {
    /// The rate after less the rate before.
    pub change: Interval,
    /// What may be said.
    pub verdict: Verdict,
}

/// What may be said of a failure rate. At most `alpha` of all comparisons of equal rates are ever called other than
/// undecided, however often one looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It fell.
    Improved,
    /// It rose.
    Worse,
    /// Neither can be said yet.
    Undecided,
}

/// Compares how often something failed before and after.
///
/// Each side has its own mixture; their product is a martingale at the true pair of rates, in whatever order the trials
/// came. The interval holds the differences of all pairs that it does not exclude; a change is called when the interval
/// is on one side of 0.
///
/// The trials of a side must be independent with one rate, and must not have been chosen for their outcome.
///
/// # Panics
/// When a side has more hits than trials, or `alpha` is not strictly between 0 and 1.
#[must_use]
pub fn compare(before: Counts, after: Counts, alpha: f64) -> Comparison {
    assert_counts(before);
    assert_counts(after);
    let limit = log_limit(alpha);
    let mixture =
        Proportion::default().log_mixture(before) + Proportion::default().log_mixture(after);
    // The least evidence against any pair of rates that differ so.
    let evidence = |change: f64| {
        let (low, high) = ((-change).max(0.0), (1.0 - change).min(1.0));
        mixture
            + solve::least(low, high, |p| {
                let after_p = (p + change).clamp(0.0, 1.0);
                -log_likelihood(before, p) - log_likelihood(after, after_p)
            })
    };
    let seen = after.rate() - before.rate();
    let inside = |change| evidence(change) < limit;
    let verdict = verdict(before, after, alpha);
    let mut change = Interval {
        low: solve::boundary(seen, -1.0, inside),
        high: solve::boundary(seen, 1.0, inside),
    };
    // Rounding must not make the interval say another thing than the verdict.
    match verdict {
        Verdict::Improved => change.high = change.high.min(-f64::EPSILON),
        Verdict::Worse => change.low = change.low.max(f64::EPSILON),
        Verdict::Undecided => {
            change = Interval { low: change.low.min(0.0), high: change.high.max(0.0) };
        }
    }
    Comparison { change, verdict }
}

/// The verdict alone: of the pairs of equal rates the pooled one is excluded last.
pub(crate) fn verdict(before: Counts, after: Counts, alpha: f64) -> Verdict {
    let pooled = Counts { n: before.n + after.n, hits: before.hits + after.hits };
    let p = pooled.rate();
    let evidence = Proportion::default().log_evidence(before, p)
        + Proportion::default().log_evidence(after, p);
    if evidence < log_limit(alpha) {
        Verdict::Undecided
    } else if after.rate() < before.rate() {
        Verdict::Improved
    } else {
        Verdict::Worse
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(before: (u64, u64), after: (u64, u64), expect: Verdict) {
        let counts = |(hits, n)| Counts { n, hits };
        let found = compare(counts(before), counts(after), 0.05);
        assert_eq!(found.verdict, expect, "{found:?}");
        let seen = counts(after).rate() - counts(before).rate();
        assert!(found.change.contains(seen), "{seen} is not in {found:?}");
        assert_eq!(found.change.contains(0.0), expect == Verdict::Undecided, "{found:?}");
        // The same the other way round.
        let other = compare(counts(after), counts(before), 0.05).change;
        assert!((other.low + found.change.high).abs() < 1e-6, "{other:?} {found:?}");
    }

    #[test]
    fn a_change_is_called_when_the_interval_excludes_none() {
        check((0, 0), (0, 0), Verdict::Undecided);
        check((200, 1000), (100, 1000), Verdict::Improved);
        check((100, 1000), (200, 1000), Verdict::Worse);
        check((20, 100), (10, 100), Verdict::Undecided);
        check((0, 1000), (0, 1000), Verdict::Undecided);
        check((50, 50), (0, 50), Verdict::Improved);
        check((200, 1000), (0, 0), Verdict::Undecided);
    }
}
