//! The limits that a scheduler keeps.

use std::time::Duration;

/// The limits that a scheduler keeps. All are checked by [`SchedulerConfig::validate`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SchedulerConfig {
    /// Positions in one KV block.
    pub block_size: usize,
    /// KV blocks in the pool.
    pub n_blocks: usize,
    /// Longest sequence, prompt and answer together.
    pub max_model_len: usize,
    /// Sequences that run at once.
    pub max_num_seqs: usize,
    /// Tokens in one step, decodes and prefill chunks together.
    pub max_batch_tokens: usize,
    /// Tokens of one sequence in one step.
    pub max_prefill_chunk: usize,
    /// Sequences that wait for their first step; more are refused.
    pub max_queued_requests: usize,
    /// Prompt tokens of all that wait; more are refused, unless nothing else waits.
    pub max_queued_tokens: usize,
    /// The longest time between two tokens of a running answer, as far as the scheduler can predict
    /// it. Zero is no bound.
    pub max_token_gap: Duration,
    /// A batch sequence that waited so long is interactive from then on.
    pub batch_patience: Duration,
    /// Whether blocks of equal prefixes are shared.
    pub prefix_cache: bool,
    /// Whether tokens are guessed and verified where that is expected to pay.
    pub speculate: bool,
    /// Rows of logits in one step beyond one for each sequence: after guesses, and after tokens of prompts.
    pub max_extra_logits: usize,
}

/// Limits that contradict each other.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// A limit must be at least 1.
    #[error("{name} is 0, but must be at least 1")]
    Zero {
        /// The limit's name.
        name: &'static str,
    },
    /// A limit for which memory is set aside at the start.
    #[error("{name} is {value}, but must be at most {limit}")]
    TooLarge {
        /// The limit's name.
        name: &'static str,
        /// What was given.
        value: usize,
        /// What is allowed.
        limit: usize,
    },
    /// Every running sequence decodes one token a step, so they must fit in one.
    #[error(
        "max_num_seqs is {max_num_seqs}, but must be at most max_batch_tokens, \
         which is {max_batch_tokens}"
    )]
    MoreSequencesThanTokens {
        /// Sequences that run at once.
        max_num_seqs: usize,
        /// Tokens in one step.
        max_batch_tokens: usize,
    },
    /// One sequence of full length must fit the pool.
    #[error(
        "max_model_len is {max_model_len}, but the KV pool holds {n_blocks} blocks of {block_size}"
    )]
    PoolTooSmall {
        /// Longest sequence.
        max_model_len: usize,
        /// KV blocks in the pool.
        n_blocks: usize,
        /// Positions in one block.
        block_size: usize,
    },
}

impl SchedulerConfig {
    /// Checks that the limits are possible together.
    ///
    /// # Errors
    /// The first limit that is not.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let at_least_one = [
            ("block_size", self.block_size),
            ("n_blocks", self.n_blocks),
            ("max_model_len", self.max_model_len),
            ("max_num_seqs", self.max_num_seqs),
            ("max_batch_tokens", self.max_batch_tokens),
            ("max_prefill_chunk", self.max_prefill_chunk),
            ("max_queued_requests", self.max_queued_requests),
            ("max_queued_tokens", self.max_queued_tokens),
        ];
        if let Some(&(name, _)) = at_least_one.iter().find(|(_, value)| *value == 0) {
            return Err(ConfigError::Zero { name });
        }
        let at_most = [
            ("block_size", self.block_size, 1 << 12),
            ("n_blocks", self.n_blocks, 1 << 28),
            ("max_model_len", self.max_model_len, 1 << 28),
            ("max_num_seqs", self.max_num_seqs, 1 << 14),
            ("max_extra_logits", self.max_extra_logits, 1 << 14),
            ("max_batch_tokens", self.max_batch_tokens, 1 << 18),
            ("max_queued_requests", self.max_queued_requests, 1 << 16),
            ("max_queued_tokens", self.max_queued_tokens, 1 << 28),
            ("max_token_gap in ms", self.max_token_gap.as_millis() as usize, 60_000),
        ];
        if let Some(&(name, value, limit)) = at_most.iter().find(|(_, v, limit)| v > limit) {
            return Err(ConfigError::TooLarge { name, value, limit });
        }
        if self.max_num_seqs > self.max_batch_tokens {
            return Err(ConfigError::MoreSequencesThanTokens {
                max_num_seqs: self.max_num_seqs,
                max_batch_tokens: self.max_batch_tokens,
            });
        }
        if self.max_model_len.div_ceil(self.block_size) > self.n_blocks {
            return Err(ConfigError::PoolTooSmall {
                max_model_len: self.max_model_len,
                n_blocks: self.n_blocks,
                block_size: self.block_size,
            });
        }
        Ok(())
    }
}
