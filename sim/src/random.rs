//! The only source of randomness in a simulation.

use lm_sampler::uniform;

/// A stream of draws that its seed determines.
#[derive(Clone, Debug)]
pub(crate) struct Random {
    seed: u64,
    n_drawn: u64,
}

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Random { seed, n_drawn: 0 }
    }

    /// A number in `low..=high`.
    pub(crate) fn between(&mut self, low: usize, high: usize) -> usize {
        self.n_drawn += 1;
        low + (uniform(self.seed, self.n_drawn) * (high - low + 1) as f64) as usize
    }

    /// True `percent` times in a hundred.
    pub(crate) fn chance(&mut self, percent: usize) -> bool {
        self.between(1, 100) <= percent
    }

    pub(crate) fn pick<'a, T>(&mut self, choices: &'a [T]) -> &'a T {
        &choices[self.between(0, choices.len() - 1)]
    }
}
