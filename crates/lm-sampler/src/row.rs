//! The greatest logits of a row's blocks, by which most of it can be passed over, and its weights.
//! Must never know a parameter of sampling.
//! Start at [`Blocks::look_through`]: the other methods want the row that it saw last.

use lm_kernels::{Isa, PanelMax, allow_panel, argmax_panel, exp_in_place};
use lm_types::{TokenId, TokenMask};

use crate::SampleError;

/// Logits of a block.
const BLOCK: usize = 128;
/// The weight of what lies so far below the greatest logit is 0, as [`exp_in_place`] has it.
const NO_WEIGHT: f32 = -87.3;

/// What is known of the blocks of a row. Reused from row to row.
#[derive(Clone, Debug)]
pub(crate) struct Blocks {
    isa: Isa,
    /// The greatest logit of each block.
    greatest: Vec<f32>,
    /// The weights of each block, summed.
    sums: Vec<f32>,
    sorted: Vec<f32>,
}

/// The greatest logit of a row, a number, and the first token that has it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Best {
    pub(crate) logit: f32,
    pub(crate) token: TokenId,
}

impl Default for Blocks {
    fn default() -> Self {
        Blocks::with_capacity(0)
    }
}

impl Blocks {
    pub(crate) fn with_capacity(vocab_size: usize) -> Self {
        let n = vocab_size.div_ceil(BLOCK);
        let room = || Vec::with_capacity(n);
        Blocks { isa: Isa::detect_vectors(), greatest: room(), sums: room(), sorted: room() }
    }

    /// Looks a row through.
    ///
    /// # Errors
    /// The row holds NaN or +infinity, or nothing but -infinity.
    pub(crate) fn look_through(&mut self, logits: &[f32]) -> Result<Best, SampleError> {
        self.greatest.clear();
        let mut best = None;
        for block in logits.chunks(BLOCK) {
            let found = checked(argmax_panel(self.isa, block))?;
            self.note(found, &mut best);
        }
        best.ok_or(SampleError::NothingLeft)
    }

    /// Looks a row through, and what of it `mask` allows: that goes to `allowed`, and is what is known from then on.
    ///
    /// # Errors
    /// The row holds NaN or +infinity anywhere, or what is allowed nothing but -infinity.
    pub(crate) fn look_through_allowed(
        &mut self,
        logits: &[f32],
        mask: &TokenMask,
        allowed: &mut Vec<f32>,
    ) -> Result<Best, SampleError> {
        self.greatest.clear();
        allowed.resize(logits.len(), 0.0);
        let mut best = None;
        let mut words = mask.words();
        for (block, allowed) in logits.chunks(BLOCK).zip(allowed.chunks_mut(BLOCK)) {
            let (here, rest) = words.split_at(words.len().min(BLOCK / 32));
            words = rest;
            let found = checked(allow_panel(self.isa, block, here, allowed))?;
            self.note(found, &mut best);
        }
        best.ok_or(SampleError::NothingLeft)
    }

    /// Notes the greatest logit of the next block.
    fn note(&mut self, found: PanelMax, best: &mut Option<Best>) {
        let greatest = best.map_or(f32::NEG_INFINITY, |best| best.logit);
        if found.value > greatest {
            let token = (self.greatest.len() * BLOCK + found.idx) as TokenId;
            *best = Some(Best { logit: found.value, token });
        }
        self.greatest.push(found.value);
    }

    /// A logit that at least `n` tokens reach, if there are as many.
    pub(crate) fn reached_by(&mut self, n: usize) -> f32 {
        if n == 0 || n > self.greatest.len() {
            return f32::NEG_INFINITY;
        }
        self.sorted.clone_from(&self.greatest);
        let (_, nth, _) = self.sorted.select_nth_unstable_by(n - 1, |a, b| b.total_cmp(a));
        *nth
    }

    /// The sum of `e^((logit - max) * factor)` over a row.
    pub(crate) fn weigh(&mut self, logits: &[f32], max: f32, factor: f32) -> f64 {
        self.sums.clear();
        let mut weights = [0.0; BLOCK];
        for (block, greatest) in logits.chunks(BLOCK).zip(&self.greatest) {
            let is_weightless = (greatest - max) * factor < NO_WEIGHT;
            self.sums.push(match is_weightless {
                true => 0.0,
                false => weigh_block(self.isa, block, max, factor, &mut weights),
            });
        }
        self.sums.iter().map(|&sum| f64::from(sum)).sum()
    }

    /// The token at `at` of the weights that [`Blocks::weigh`] summed, in order of token id.
    pub(crate) fn at(&self, logits: &[f32], max: f32, factor: f32, at: f64) -> Option<TokenId> {
        let mut left = at;
        let block = self.sums.iter().position(|&sum| {
            let is_here = left < f64::from(sum);
            if !is_here {
                left -= f64::from(sum);
            }
            is_here
        })?;
        let logits = &logits[block * BLOCK..];
        let logits = &logits[..BLOCK.min(logits.len())];
        let mut weights = [0.0; BLOCK];
        weigh_block(self.isa, logits, max, factor, &mut weights);
        let weights = &weights[..logits.len()];
        let place = weights.iter().position(|&weight| {
            left -= f64::from(weight);
            left < 0.0
        });
        // The block's sum was rounded: it may be a little more than what its weights add up to.
        let place = place.or_else(|| weights.iter().rposition(|&weight| weight > 0.0))?;
        Some((block * BLOCK + place) as TokenId)
    }

    /// Calls `visit(logit, token)` for each finite logit of at least `threshold`, in order of token id.
    pub(crate) fn for_each_from(
        &self,
        logits: &[f32],
        threshold: f32,
        mut visit: impl FnMut(f32, TokenId),
    ) {
        for (i, (block, &greatest)) in logits.chunks(BLOCK).zip(&self.greatest).enumerate() {
            if greatest < threshold || greatest == f32::NEG_INFINITY {
                continue;
            }
            for (place, &logit) in block.iter().enumerate() {
                if logit >= threshold && logit > f32::NEG_INFINITY {
                    visit(logit, (i * BLOCK + place) as TokenId);
                }
            }
        }
    }
}

/// The greatest logit of a block of numbers.
fn checked(found: PanelMax) -> Result<PanelMax, SampleError> {
    match found.value.is_nan() || found.value == f32::INFINITY {
        true => Err(SampleError::NotFinite),
        false => Ok(found),
    }
}

/// Weights of a block, and their sum.
fn weigh_block(isa: Isa, logits: &[f32], max: f32, factor: f32, weights: &mut [f32; BLOCK]) -> f32 {
    let weights = &mut weights[..logits.len()];
    for (weight, logit) in weights.iter_mut().zip(logits) {
        *weight = (logit - max) * factor;
    }
    exp_in_place(isa, weights, 0.0)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    #[test]
    fn what_is_passed_over_would_have_weighed_nothing() {
        // Blocks near to the greatest logit, about as far below it as weights reach, far below, and forbidden.
        let below = [0.0, 87.0, 87.3, 87.4, 300.0, f32::INFINITY];
        let logit = |i: usize| 3.0 - below[i / BLOCK % below.len()] - (i % 7) as f32 * 0.01;
        let logits: Vec<f32> = (0..9 * BLOCK + 5).map(logit).collect();
        let mut blocks = Blocks::with_capacity(logits.len());
        let best = blocks.look_through(&logits).unwrap();
        for factor in [0.5, 1.0, 1.7] {
            let mut weights = [0.0; BLOCK];
            let sums = logits.chunks(BLOCK).map(|block| {
                f64::from(weigh_block(blocks.isa, block, best.logit, factor, &mut weights))
            });
            let expect: f64 = sums.sum();
            assert_eq!(blocks.weigh(&logits, best.logit, factor), expect);
        }
    }
}
