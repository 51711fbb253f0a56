//! What a step costs in time, as a sum over its parts: what a placeholder takes instead of computing.

use std::time::Duration;

use crate::Batch;

/// What a step consists of, as far as its duration depends on it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StepLoad {
    /// Rows of one token.
    pub n_decodes: u64,
    /// Tokens of longer rows.
    pub n_prefill_tokens: u64,
    /// KV tokens that decode rows attend to, summed over rows.
    pub decode_attended: u64,
    /// KV tokens that prefill tokens attend to, summed over tokens.
    pub prefill_attended: u64,
}

/// What a step costs. All zero is no cost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StepCosts {
    /// Nanoseconds of a step, whatever is in it.
    pub step_ns: u64,
    /// Nanoseconds of each begun group of [`StepCosts::TILE`] tokens, prompts' and others together.
    pub tile_ns: u64,
    /// Nanoseconds of a row of one token.
    pub decode_row_ns: u64,
    /// Nanoseconds of a token of a prompt.
    pub prefill_token_ns: u64,
    /// Picoseconds of a KV token that a decode row attends to.
    pub decode_context_ps: u64,
    /// Picoseconds of a KV token that a token of a prompt attends to.
    pub prefill_context_ps: u64,
}

impl StepLoad {
    /// Begun groups of [`StepCosts::TILE`] tokens.
    #[must_use]
    pub fn n_tiles(&self) -> u64 {
        (self.n_decodes + self.n_prefill_tokens).div_ceil(StepCosts::TILE)
    }

    /// What a batch consists of.
    #[must_use]
    pub fn of(batch: &Batch) -> StepLoad {
        let mut load = StepLoad::default();
        for s in 0..batch.n_sequences() {
            let n_tokens = batch.tokens_of(s).len() as u64;
            let start = u64::from(batch.context_lens[s]) - n_tokens;
            if n_tokens == 1 {
                load.n_decodes += 1;
                load.decode_attended += start + 1;
            } else {
                load.n_prefill_tokens += n_tokens;
                load.prefill_attended += n_tokens * start + n_tokens * (n_tokens + 1) / 2;
            }
        }
        load
    }
}

impl StepCosts {
    /// Kernels read weights once for so many tokens.
    pub const TILE: u64 = 4;

    /// How long a step takes.
    #[must_use]
    pub fn of(&self, load: &StepLoad) -> Duration {
        let parts = [
            self.step_ns,
            self.tile_ns.saturating_mul(load.n_tiles()),
            self.decode_row_ns.saturating_mul(load.n_decodes),
            self.prefill_token_ns.saturating_mul(load.n_prefill_tokens),
            self.decode_context_ps.saturating_mul(load.decode_attended) / 1000,
            self.prefill_context_ps.saturating_mul(load.prefill_attended) / 1000,
        ];
        Duration::from_nanos(parts.into_iter().fold(0, u64::saturating_add))
    }

    /// Whether steps take no time.
    #[must_use]
    pub fn is_zero(&self) -> bool {
        *self == StepCosts::default()
    }
}

#[cfg(test)]
mod tests {
    use lm_types::BlockIdx;

    use super::*;

    #[test]
    fn a_step_costs_the_sum_of_its_parts() {
        let (mut batch, table) = (Batch::default(), [BlockIdx(0), BlockIdx(1)]);
        batch.push_sequence(&[7], 5, &table, 4, None);
        batch.push_sequence(&[7, 8, 9], 2, &table, 4, None);
        let load = StepLoad::of(&batch);
        let expect = StepLoad {
            n_decodes: 1,
            n_prefill_tokens: 3,
            decode_attended: 6,
            prefill_attended: 3 + 4 + 5,
        };
        assert_eq!(load, expect);
        let costs = StepCosts {
            step_ns: 100_000,
            tile_ns: 1_000_000,
            decode_row_ns: 10_000,
            prefill_token_ns: 1000,
            decode_context_ps: 1_000_000,
            prefill_context_ps: 10_000,
        };
        let expect = 100_000 + 1_000_000 + 10_000 + 3000 + 6000 + 120;
        assert_eq!(costs.of(&load), Duration::from_nanos(expect));
        let five = StepLoad { n_decodes: 2, n_prefill_tokens: 3, ..StepLoad::default() };
        assert_eq!((five.n_tiles(), StepLoad::default().n_tiles()), (2, 0));
        assert!(StepCosts::default().is_zero() && StepCosts::default().of(&load).is_zero());
    }
}
