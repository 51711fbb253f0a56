//! Many positive numbers in little room: how many there were of each size, within 1 %.
//!
//! It must never lose one: what is too small or too large is in the outermost bin.
//!
//! Start reading at [`Sketch::interval`].

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{Interval, quantile_ranks};

/// Numbers by size, each bin 1 % wider than the one before; plain counts are the whole state.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sketch {
    n: u64,
    bins: BTreeMap<u16, u64>,
}

const WIDTH: f64 = 1.01;
/// What is below is in bin 0.
const SMALLEST: f64 = 1e-6;
/// 1.01^4000 is 1.9e17 times the smallest.
const N_BINS: u16 = 4000;

impl Sketch {
    /// One more number. NaN counts as 0.
    pub fn add(&mut self, value: f64) {
        let steps = (value.max(SMALLEST) / SMALLEST).ln() / WIDTH.ln();
        let bin = if steps >= f64::from(N_BINS) { N_BINS } else { steps as u16 };
        *self.bins.entry(bin).or_default() += 1;
        self.n += 1;
    }

    /// How many there were.
    #[must_use]
    pub fn n(&self) -> u64 {
        self.n
    }

    /// The quantile `q` of what was seen, within 1 %; `None` of nothing.
    #[must_use]
    pub fn quantile(&self, q: f64) -> Option<f64> {
        let rank = ((q * self.n as f64) as u64).min(self.n.checked_sub(1)?);
        Some(edge(self.bin_of(rank)?) * WIDTH.sqrt())
    }

    /// Where the quantile `q` of all there will be is, at all times, with probability at least `1 - alpha`. The ends are
    /// those of bins, so that it is too long by 1 % rather than too short. An end without a value is 0 or infinite.
    ///
    /// # Panics
    /// When `q` or `alpha` is not strictly between 0 and 1.
    #[must_use]
    pub fn interval(&self, q: f64, alpha: f64) -> Interval {
        let ranks = quantile_ranks(self.n, q, alpha);
        let bin = |rank: Option<u64>| rank.and_then(|rank| self.bin_of(rank));
        let low = bin(ranks.low).map_or(0.0, |bin| if bin == 0 { 0.0 } else { edge(bin) });
        let high = bin(ranks.high).filter(|bin| *bin < N_BINS);
        Interval { low, high: high.map_or(f64::INFINITY, |bin| edge(bin + 1)) }
    }

    fn bin_of(&self, rank: u64) -> Option<u16> {
        let mut n_before = 0;
        let found = self.bins.iter().find(|(_, n)| {
            n_before += **n;
            n_before > rank
        });
        found.map(|(bin, _)| *bin)
    }
}

fn edge(bin: u16) -> f64 {
    SMALLEST * WIDTH.powi(i32::from(bin))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_within_a_hundredth() {
        let mut sketch = Sketch::default();
        assert_eq!(sketch.quantile(0.5), None);
        assert_eq!(sketch.interval(0.5, 0.05), Interval { low: 0.0, high: f64::INFINITY });
        (1..=1000).for_each(|i| sketch.add(f64::from(i)));
        let median = sketch.quantile(0.5).unwrap_or_default();
        assert!((median / 500.0 - 1.0).abs() < 0.015, "{median}");
        let found = sketch.interval(0.5, 0.05);
        assert!(found.low > 400.0 && found.low < 500.0 && found.high < 600.0, "{found:?}");
        for extreme in [0.0, -1.0, f64::NAN, 1e300, f64::INFINITY] {
            sketch.add(extreme);
        }
        assert_eq!(sketch.n(), 1005);
    }
}
