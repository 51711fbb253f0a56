//! Evidence that may be looked at at any time: intervals that hold at every moment at once, so that
//! whoever watches them step by step is misled with at most the probability that was agreed on.
//!
//! It must never know what the numbers are about, read a clock, or draw at random. The state of each
//! sequence is plain counts and sums: stored and read again, it concludes the same.
//!
//! Start reading at [`Proportion`] (one rate), then [`compare`] (two rates, before and after), and [`Difference`] (two means
//! side by side, by lot). [`Isotonic`] is for one look: what a score foretells.

mod calibration;
mod compare;
mod difference;
mod exact;
mod isotonic;
mod proportion;
mod quantile;
mod ratio;
mod score;
mod sketch;
mod solve;
mod wilson;

pub use calibration::{Forecast, calibration_error, held_out, skill};
pub use compare::{Comparison, Verdict, compare};
pub use difference::Difference;
pub use isotonic::{Isotonic, Scored, Step};
pub use proportion::{Counts, Proportion};
pub use quantile::{QuantileRanks, quantile_interval, quantile_ranks};
pub use ratio::SampleRatio;
pub use score::BoundedScore;
pub use sketch::Sketch;
pub use wilson::{Z_95, wilson};

/// Both ends belong to it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Interval {
    /// The lower end.
    pub low: f64,
    /// The upper end.
    pub high: f64,
}

impl Interval {
    /// Whether the value is in it.
    #[must_use]
    pub fn contains(&self, value: f64) -> bool {
        (self.low..=self.high).contains(&value)
    }
}

#[cfg(test)]
mod experiments;
#[cfg(test)]
mod simulations;
