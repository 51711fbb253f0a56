//! How far forecasts are from what came: their calibration, and whether they say more than one number for all would.
//!
//! It must never judge a forecast by the examples that it was made from.
//!
//! Start reading at [`held_out`].

use crate::{Isotonic, Scored};

/// What was foretold, and what came.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Forecast {
    /// The probability that it is good, from 0 to 1.
    pub probability: f64,
    /// What it turned out to be.
    pub is_good: bool,
}

/// A forecast for each example, by a fit of the others: in `n_folds` parts, of which each is foretold by the rest. As
/// those of one part lie apart in their scores, the order of the examples does not matter. `least` as for [`Isotonic::fit`].
///
/// # Panics
/// With fewer than 2 folds, or with fewer examples than folds.
#[must_use]
pub fn held_out(examples: &[Scored], n_folds: usize, least: u64) -> Vec<Forecast> {
    assert!(n_folds >= 2 && examples.len() >= n_folds, "{} in {n_folds} folds", examples.len());
    let mut sorted = examples.to_vec();
    sorted.sort_by(|a, b| a.score.total_cmp(&b.score).then(a.is_good.cmp(&b.is_good)));
    let mut forecasts = Vec::with_capacity(sorted.len());
    for fold in 0..n_folds {
        let part = |is_in: bool| {
            let all = sorted.iter().enumerate();
            all.filter(move |(i, _)| (i % n_folds == fold) == is_in).map(|(_, one)| *one)
        };
        let fit = Isotonic::fit(&part(false).collect::<Vec<_>>(), least);
        let foretold = |Scored { score, is_good }| {
            let probability = fit.at(score).rate;
            Forecast { probability, is_good }
        };
        forecasts.extend(part(true).map(foretold));
    }
    forecasts
}

/// Expected calibration error: forecasts in `n_bins` bins of equal width, and how far the mean forecast of each is from
/// the share of good ones in it, weighed by size. 0 is calibrated; 0 without forecasts.
///
/// Source: Naeini, Cooper, Hauskrecht 2015.
#[must_use]
pub fn calibration_error(forecasts: &[Forecast], n_bins: usize) -> f64 {
    let mut gaps = vec![0.0; n_bins.max(1)];
    for one in forecasts {
        let bin = (one.probability * gaps.len() as f64) as usize;
        let bin = bin.min(gaps.len() - 1);
        gaps[bin] += one.probability - f64::from(u8::from(one.is_good));
    }
    gaps.iter().map(|gap: &f64| gap.abs()).sum::<f64>() / forecasts.len().max(1) as f64
}

/// Which part of the squared error of foretelling the same rate for all is gone with these forecasts: 1 is perfect, 0 tells
/// nothing, less misleads; 0 when all came out alike. Also known as the Brier skill score.
///
/// Source: Brier 1950; Murphy 1973.
#[must_use]
pub fn skill(forecasts: &[Forecast]) -> f64 {
    let n = forecasts.len().max(1) as f64;
    let rate = forecasts.iter().filter(|one| one.is_good).count() as f64 / n;
    let error = |one: &Forecast| one.probability - f64::from(u8::from(one.is_good));
    let brier = forecasts.iter().map(|one| error(one) * error(one)).sum::<f64>() / n;
    let constant = rate * (1.0 - rate);
    if constant > 0.0 { 1.0 - brier / constant } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn forecasts(all: &[(f64, u8)]) -> Vec<Forecast> {
        let one = |(probability, good): &(f64, u8)| Forecast {
            probability: *probability,
            is_good: *good == 1,
        };
        all.iter().map(one).collect()
    }

    #[track_caller]
    fn check(all: &[(f64, u8)], n_bins: usize, error: f64, gain: f64) {
        let all = forecasts(all);
        let found = (calibration_error(&all, n_bins), skill(&all));
        assert!((found.0 - error).abs() < 1e-12 && (found.1 - gain).abs() < 1e-12, "{found:?}");
    }

    #[test]
    fn values_by_hand() {
        check(&[], 10, 0.0, 0.0);
        check(&[(1.0, 1), (0.0, 0)], 10, 0.0, 1.0);
        check(&[(1.0, 0), (0.0, 1)], 10, 1.0, -3.0);
        // Two bins: |0.25 * 2 - 1| and |0.75 * 2 - 1| of four.
        check(&[(0.25, 0), (0.25, 1), (0.75, 1), (0.75, 0)], 2, 0.25, -0.25);
        // One bin hides it.
        check(&[(0.25, 0), (0.25, 1), (0.75, 1), (0.75, 0)], 1, 0.0, -0.25);
        check(&[(0.5, 0), (0.5, 1)], 10, 0.0, 0.0);
        check(&[(0.9, 1), (0.9, 1)], 10, 0.1, 0.0);
    }

    /// Scores of which each says exactly how often it is good, in an order that tells nothing.
    fn known(n: u32) -> Vec<Scored> {
        let one = |i: u32| {
            let score = f64::from(i * 7919 % n) / f64::from(n);
            // A sequence of low discrepancy in the place of chance.
            let draw = (f64::from(i) * 0.618_033_988_749_895).fract();
            Scored { score, is_good: draw < score }
        };
        (0..n).map(one).collect()
    }

    #[test]
    fn what_was_held_out_is_foretold_well_where_the_score_tells_something() {
        let all = known(2000);
        let found = held_out(&all, 5, 20);
        assert_eq!(found.len(), all.len());
        let (error, gain) = (calibration_error(&found, 10), skill(&found));
        assert!(error < 0.05, "{error}");
        assert!(gain > 0.25, "{gain}");
        let mut reversed = all.clone();
        reversed.reverse();
        assert_eq!(held_out(&reversed, 5, 20), found);
    }

    #[test]
    fn a_score_that_tells_nothing_gains_nothing() {
        let good = |i: u32| Scored { score: f64::from(i), is_good: i.is_multiple_of(3) };
        let all: Vec<Scored> = (0..600).map(good).collect();
        let found = held_out(&all, 5, 20);
        assert!(skill(&found) < 0.05, "{}", skill(&found));
        assert!(calibration_error(&found, 10) < 0.1);
    }
}
