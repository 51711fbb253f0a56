//! The effect of a randomised change on a mean: how much more the candidate has than the primary.
//!
//! It must never know what was assigned otherwise than by the share that was agreed on before each trial.
//!
//! Start reading at [`Difference::add`].

use serde::{Deserialize, Serialize};

use crate::proportion::log_limit;
use crate::{Interval, solve};

/// Effects that are looked for, and the part of the prior that each has. Any gives a valid sequence; one near the truth
/// a shorter one.
const EFFECTS: [(f64, f64); 5] = [(0.02, 0.1), (0.04, 0.3), (0.07, 0.35), (0.14, 0.2), (0.3, 0.05)];
/// A bet must stay below what the worst trial can take.
const MAX_BET: f64 = 0.5;
/// Variance of a trial that is assumed at least, so that a rate near 0 or 1 is not trusted too early.
const MIN_VARIANCE: f64 = 0.01;

/// The mean of a candidate less the mean of a primary, of values from 0 to 1, when each trial is the candidate's with a
/// known probability.
///
/// Each value is centred by what is known before it and weighed by the probability of its arm, so that it estimates the
/// difference without bias; bets on it, sized for effects of many sizes, are supermartingales whatever the distribution.
/// Source: Howard, Ramdas, McAuliffe, Sekhon 2021, theorem 4, with a discrete mixture in the place of the gamma prior.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Difference {
    primary: Sum,
    candidate: Sum,
    /// For a difference above, by effect.
    above: [Bet; EFFECTS.len()],
    /// For one below.
    below: [Bet; EFFECTS.len()],
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Sum {
    n: u64,
    #[serde(with = "crate::exact")]
    sum: f64,
}

/// The logarithm of what one series of bets made, as a function of the difference: `won - difference * staked - cost`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Bet {
    #[serde(with = "crate::exact")]
    won: f64,
    #[serde(with = "crate::exact")]
    staked: f64,
    #[serde(with = "crate::exact")]
    cost: f64,
}

impl Difference {
    /// One more trial, which was the candidate's with probability `share`.
    ///
    /// # Panics
    /// When the value is not from 0 to 1, or the share not strictly between.
    pub fn add(&mut self, is_candidate: bool, share: f64, value: f64) {
        assert!((0.0..=1.0).contains(&value), "the value is {value}, but must be from 0 to 1");
        assert!(share > 0.0 && share < 1.0, "the share is {share}, but must be between 0 and 1");
        // All of these may know the trials before only.
        let n = (self.primary.n + self.candidate.n) as f64;
        let centre = (self.primary.sum + self.candidate.sum + 0.5) / (n + 1.0);
        let spread = 1.0 / share + 1.0 / (1.0 - share);
        let variance = (centre * (1.0 - centre)).max(MIN_VARIANCE) * spread;
        let x = match is_candidate {
            true => (value - centre) / share,
            false => -(value - centre) / (1.0 - share),
        };
        // How far below, and above, a trial can be.
        let lowest = (centre / share).max((1.0 - centre) / (1.0 - share));
        let highest = ((1.0 - centre) / share).max(centre / (1.0 - share));
        for (i, (effect, _)) in EFFECTS.into_iter().enumerate() {
            self.above[i].stake(effect / variance, x, lowest);
            self.below[i].stake(effect / variance, -x, highest);
        }
        let arm = if is_candidate { &mut self.candidate } else { &mut self.primary };
        arm.n += 1;
        arm.sum += value;
    }

    /// Trials of the primary and of the candidate.
    #[must_use]
    pub fn n(&self) -> (u64, u64) {
        (self.primary.n, self.candidate.n)
    }

    /// Means of the primary and of the candidate; 0 without trials.
    #[must_use]
    pub fn means(&self) -> (f64, f64) {
        (self.primary.mean(), self.candidate.mean())
    }

    /// The differences that the trials do not exclude. With probability at least `1 - alpha` the true one is in it after
    /// every trial.
    ///
    /// # Panics
    /// When `alpha` is not strictly between 0 and 1.
    #[must_use]
    pub fn interval(&self, alpha: f64) -> Interval {
        let limit = log_limit(alpha / 2.0);
        let middle = |bets: &[Bet; EFFECTS.len()]| {
            let staked: f64 = bets.iter().map(|bet| bet.staked).sum();
            let won: f64 = bets.iter().map(|bet| bet.won).sum();
            if staked > 0.0 { (won / staked).clamp(-1.0, 1.0) } else { 0.0 }
        };
        let low = solve::boundary(middle(&self.above), -1.0, |d| evidence(&self.above, d) < limit);
        let high =
            -solve::boundary(middle(&self.below), -1.0, |d| evidence(&self.below, d) < limit);
        Interval { low, high }
    }

    /// Whether the candidate's mean is known to be more than `difference` above the primary's, at `alpha / 2`.
    #[must_use]
    pub fn is_above(&self, difference: f64, alpha: f64) -> bool {
        evidence(&self.above, difference) >= log_limit(alpha / 2.0)
    }

    /// Whether it is known to be less than `difference` above it, at `alpha / 2`.
    #[must_use]
    pub fn is_below(&self, difference: f64, alpha: f64) -> bool {
        evidence(&self.below, -difference) >= log_limit(alpha / 2.0)
    }
}

impl Sum {
    fn mean(self) -> f64 {
        if self.n == 0 { 0.0 } else { self.sum / self.n as f64 }
    }
}

impl Bet {
    fn stake(&mut self, stake: f64, x: f64, worst: f64) {
        let stake = stake.min(MAX_BET / worst);
        let part = stake * worst;
        self.won += stake * x;
        self.staked += stake;
        self.cost += x * x * (-(1.0 - part).ln() - part) / (worst * worst);
    }
}

/// The logarithm of the mixture's wealth when the difference is `difference`.
fn evidence(bets: &[Bet; EFFECTS.len()], difference: f64) -> f64 {
    let logs = EFFECTS
        .iter()
        .zip(bets)
        .map(|((_, weight), bet)| weight.ln() + bet.won - difference * bet.staked - bet.cost);
    let greatest = logs.clone().fold(f64::NEG_INFINITY, f64::max);
    greatest + logs.map(|log| (log - greatest).exp()).sum::<f64>().ln()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_interval_says_what_the_tests_say() {
        let mut difference = Difference::default();
        assert_eq!(difference.interval(0.05), Interval { low: -1.0, high: 1.0 });
        for i in 0..2000_u32 {
            let is_candidate = i.is_multiple_of(2);
            let good = if is_candidate { !i.is_multiple_of(10) } else { !i.is_multiple_of(5) };
            difference.add(is_candidate, 0.5, f64::from(u8::from(good)));
        }
        let Interval { low, high } = difference.interval(0.05);
        assert!(low > -0.3 && high < 0.3 && low < high, "{low} {high}");
        for (at, above, below) in
            [(low - 1e-6, true, false), (low + 1e-6, false, false), (high + 1e-6, false, true)]
        {
            assert_eq!(difference.is_above(at, 0.05), above, "{at} of {low} {high}");
            assert_eq!(difference.is_below(at, 0.05), below, "{at} of {low} {high}");
        }
    }
}
