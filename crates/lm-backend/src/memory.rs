//! What an executor will need, before a weight is read.

/// The largest step that an executor must have room for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StepLimits {
    /// Tokens in one step.
    pub max_batch_tokens: usize,
    /// Rows of logits in one step.
    pub max_num_seqs: usize,
    /// Longest sequence.
    pub max_model_len: usize,
}

/// Bytes that an executor takes for a model, besides mapped files, which the system can drop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryNeed {
    /// Weights as the executor holds them.
    pub weights_bytes: u64,
    /// Tables and the buffers of the largest step.
    pub scratch_bytes: u64,
    /// One KV block.
    pub kv_block_bytes: u64,
    /// Positions in one KV block.
    pub block_size: usize,
}

impl MemoryNeed {
    /// KV blocks that fit `bytes`.
    #[must_use]
    pub fn n_blocks(&self, bytes: u64) -> u64 {
        bytes / self.kv_block_bytes.max(1)
    }

    /// Bytes of KV of `n_seqs` sequences of `len` tokens, in whole blocks.
    #[must_use]
    pub fn kv_bytes(&self, n_seqs: usize, len: usize) -> u64 {
        (n_seqs * len.div_ceil(self.block_size)) as u64 * self.kv_block_bytes
    }
}
