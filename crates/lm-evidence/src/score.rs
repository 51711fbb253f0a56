//! A confidence sequence for the mean of bounded scores: empirical Bernstein with predictable weights.
//!
//! It must never keep the scores: a handful of sums is its state.
//!
//! Start reading at [`BoundedScore::add`].

use crate::Interval;
use crate::proportion::log_limit;

/// The mean of scores from 0 to 1. Source: Waudby-Smith and Ramdas 2024, theorem 2.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BoundedScore {
    alpha: f64,
    n: u64,
    sum: f64,
    /// Of squared distances from the mean so far.
    squares: f64,
    weights: f64,
    weighted: f64,
    /// What the weights cost.
    penalty: f64,
}

/// Weights must stay below 1, where their cost has a pole.
const MAX_WEIGHT: f64 = 0.5;

impl BoundedScore {
    /// For an interval that holds at all times with probability at least `1 - alpha`.
    ///
    /// # Panics
    /// When `alpha` is not strictly between 0 and 1.
    #[must_use]
    pub fn new(alpha: f64) -> BoundedScore {
        // Each end may fail with half of it.
        log_limit(alpha);
        BoundedScore {
            alpha,
            n: 0,
            sum: 0.0,
            squares: 0.0,
            weights: 0.0,
            weighted: 0.0,
            penalty: 0.0,
        }
    }

    /// One more score.
    ///
    /// # Panics
    /// When the score is not from 0 to 1.
    pub fn add(&mut self, score: f64) {
        assert!((0.0..=1.0).contains(&score), "the score is {score}, but must be from 0 to 1");
        let n = (self.n + 1) as f64;
        // All of these may know the scores before only.
        let mean_before = (0.5 + self.sum) / n;
        let variance = (0.25 + self.squares) / n;
        let weight = (2.0 * log_limit(self.alpha / 2.0) / (variance * n * (1.0 + n).ln())).sqrt();
        let weight = weight.min(MAX_WEIGHT);
        let distance = score - mean_before;
        self.weights += weight;
        self.weighted += weight * score;
        self.penalty += distance * distance * (-(1.0 - weight).ln() - weight);
        self.n += 1;
        self.sum += score;
        let mean = (0.5 + self.sum) / (n + 1.0);
        self.squares += (score - mean) * (score - mean);
    }

    /// How many scores there were.
    #[must_use]
    pub fn n(&self) -> u64 {
        self.n
    }

    /// The means that the scores do not exclude.
    #[must_use]
    pub fn interval(&self) -> Interval {
        if self.n == 0 {
            return Interval { low: 0.0, high: 1.0 };
        }
        let centre = self.weighted / self.weights;
        let margin = (log_limit(self.alpha / 2.0) + self.penalty) / self.weights;
        Interval { low: (centre - margin).max(0.0), high: (centre + margin).min(1.0) }
    }

    /// The mean after less the mean before. Each of the two holds with its own `alpha`; this one with their sum.
    #[must_use]
    pub fn change(before: &BoundedScore, after: &BoundedScore) -> Interval {
        let (before, after) = (before.interval(), after.interval());
        Interval { low: after.low - before.high, high: after.high - before.low }
    }
}
