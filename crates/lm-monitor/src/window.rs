//! How different two windows are: of numbers, and of counts by category.
//!
//! It must never say whether that is much: limits are apart.
//!
//! Start reading at [`Deciles`] and [`psi`].

use crate::tail::{chi_square_limit, chi_square_tail, kolmogorov_tail};

/// Bins that are frozen at the deciles of a reference, so that later windows are counted alike.
#[derive(Clone, Debug, PartialEq)]
pub struct Deciles {
    /// Nine or fewer, ascending: equal ones are one.
    edges: Vec<f64>,
}

/// An index below this does not matter.
pub(crate) const LEAST_PSI: f64 = 0.1;
/// A share that stands for an empty bin: half a value.
const HALF: f64 = 0.5;

impl Deciles {
    /// Of values in any order; a value belongs to the bin below the edge that it equals. `None` for no values.
    #[must_use]
    pub fn of(reference: &[f64]) -> Option<Deciles> {
        let mut sorted = reference.to_vec();
        sorted.sort_by(f64::total_cmp);
        let last = sorted.len().checked_sub(1)?;
        let mut edges: Vec<f64> = (1..10).map(|i| sorted[last * i / 10]).collect();
        edges.dedup();
        Some(Deciles { edges })
    }

    /// How many values are in each bin.
    #[must_use]
    pub fn count(&self, values: &[f64]) -> Vec<u64> {
        let mut counts = vec![0; self.edges.len() + 1];
        for value in values {
            counts[self.edges.partition_point(|edge| edge < value)] += 1;
        }
        counts
    }
}

/// The population stability index of two counts by bin. An empty bin counts as half a value.
///
/// # Panics
/// When the two do not have the same bins.
#[must_use]
pub fn psi(reference: &[u64], window: &[u64]) -> f64 {
    let shares = |counts: &[u64]| -> Vec<f64> {
        let total = counts.iter().sum::<u64>().max(1) as f64;
        counts.iter().map(|n| (*n as f64).max(HALF) / total).collect()
    };
    assert_same_bins(reference, window);
    let (p, q) = (shares(reference), shares(window));
    p.iter().zip(&q).map(|(p, q)| (q - p) * (q / p).ln()).sum()
}

/// What the index of windows of `n` and `m` values exceeds by chance with probability `alpha`, and never less than 0.1,
/// below which a shift does not matter. Source: Yurdakul and Naranjo 2020.
///
/// # Panics
/// When there are fewer than 2 bins or no values.
#[must_use]
pub fn psi_limit(n: u64, m: u64, n_bins: usize, alpha: f64) -> f64 {
    assert!(n_bins > 1 && n > 0 && m > 0, "{n_bins} bins, {n} and {m} values");
    let n_free = u32::try_from(n_bins - 1).unwrap_or(u32::MAX);
    let limit = chi_square_limit(alpha, n_free) * (1.0 / n as f64 + 1.0 / m as f64);
    limit.max(LEAST_PSI)
}

/// The greatest distance of two empirical distributions, and its asymptotic p-value. `None` when one is empty.
#[must_use]
pub fn kolmogorov_smirnov(a: &[f64], b: &[f64]) -> Option<(f64, f64)> {
    let mut greatest = 0.0_f64;
    each_step(a, b, |share_a, share_b, _| greatest = greatest.max((share_a - share_b).abs()))?;
    let (n, m) = (a.len() as f64, b.len() as f64);
    Some((greatest, kolmogorov_tail(greatest * (n * m / (n + m)).sqrt())))
}

/// The first Wasserstein distance, in units of the values. `None` when one is empty.
#[must_use]
pub fn wasserstein(a: &[f64], b: &[f64]) -> Option<f64> {
    let mut area = 0.0;
    each_step(a, b, |share_a, share_b, width| area += (share_a - share_b).abs() * width)?;
    Some(area)
}

/// The Jensen-Shannon distance of two counts by category, by natural logarithms: from 0 to 0.8326.
///
/// # Panics
/// When the two do not have the same categories.
#[must_use]
pub fn jensen_shannon(reference: &[u64], window: &[u64]) -> f64 {
    let towards = |p: f64, q: f64| if p > 0.0 { p * (2.0 * p / (p + q)).ln() } else { 0.0 };
    let divergence = over_shares(reference, window, |p, q| towards(p, q) + towards(q, p));
    (divergence / 2.0).max(0.0).sqrt()
}

/// The Hellinger distance of two counts by category: from 0 to 1.
///
/// # Panics
/// When the two do not have the same categories.
#[must_use]
pub fn hellinger(reference: &[u64], window: &[u64]) -> f64 {
    let squares = over_shares(reference, window, |p, q| (p.sqrt() - q.sqrt()).powi(2));
    (squares / 2.0).sqrt()
}

/// Pearson's chi-square of homogeneity of two counts by category, and its p-value. Categories that both lack do not count;
/// `None` with fewer than two others, or when one side is empty.
///
/// # Panics
/// When the two do not have the same categories.
#[must_use]
pub fn chi_square(a: &[u64], b: &[u64]) -> Option<(f64, f64)> {
    assert_same_bins(a, b);
    let total = |counts: &[u64]| counts.iter().sum::<u64>() as f64;
    let (n, m) = (total(a), total(b));
    let pairs = a.iter().zip(b).map(|(a, b)| (*a as f64, *b as f64));
    let pairs: Vec<(f64, f64)> = pairs.filter(|(a, b)| a + b > 0.0).collect();
    let n_free = u32::try_from(pairs.len()).ok()?.checked_sub(1).filter(|n| *n > 0)?;
    if n == 0.0 || m == 0.0 {
        return None;
    }
    let statistic = pairs.iter().map(|(a, b)| {
        let (of_a, of_b) = ((a + b) * n / (n + m), (a + b) * m / (n + m));
        (a - of_a).powi(2) / of_a + (b - of_b).powi(2) / of_b
    });
    let statistic = statistic.sum();
    Some((statistic, chi_square_tail(statistic, n_free)))
}

/// Walks two empirical distributions together: after each value their shares so far, and how far the next value is.
fn each_step(a: &[f64], b: &[f64], mut step: impl FnMut(f64, f64, f64)) -> Option<()> {
    if a.is_empty() || b.is_empty() {
        return None;
    }
    let sorted = |values: &[f64]| {
        let mut values = values.to_vec();
        values.sort_by(f64::total_cmp);
        values
    };
    let (a, b) = (sorted(a), sorted(b));
    let (mut i, mut j) = (0, 0);
    while i < a.len() || j < b.len() {
        let next = |i: usize, j: usize| match (a.get(i), b.get(j)) {
            (Some(a), Some(b)) => a.min(*b),
            (Some(one), None) | (None, Some(one)) => *one,
            (None, None) => f64::NAN,
        };
        let value = next(i, j);
        i += a[i..].partition_point(|one| *one <= value);
        j += b[j..].partition_point(|one| *one <= value);
        let width = if i < a.len() || j < b.len() { next(i, j) - value } else { 0.0 };
        step(i as f64 / a.len() as f64, j as f64 / b.len() as f64, width);
    }
    Some(())
}

fn over_shares(a: &[u64], b: &[u64], term: impl Fn(f64, f64) -> f64) -> f64 {
    assert_same_bins(a, b);
    let total = |counts: &[u64]| counts.iter().sum::<u64>().max(1) as f64;
    let (n, m) = (total(a), total(b));
    a.iter().zip(b).map(|(a, b)| term(*a as f64 / n, *b as f64 / m)).sum()
}

fn assert_same_bins(a: &[u64], b: &[u64]) {
    assert_eq!(a.len(), b.len(), "two counts must have the same bins");
}
