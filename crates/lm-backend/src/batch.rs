//! One step's work, as flat vectors that are reused from step to step.

use lm_types::{BlockIdx, TokenId};

/// A ragged batch: decode rows and prefill chunks together. Sequence `s` owns tokens
/// `cu_seqlens_q[s]..cu_seqlens_q[s + 1]` and blocks `cu_blocks[s]..cu_blocks[s + 1]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    /// Token ids. `[n_tokens]`
    pub input_ids: Vec<TokenId>,
    /// Position of each token in its sequence. `[n_tokens]`
    pub positions: Vec<u32>,
    /// Where K and V of each token go: `block * block_size + offset`. `[n_tokens]`
    pub slot_mapping: Vec<u32>,
    /// Cumulated tokens of the sequences. `[n_sequences + 1]`
    pub cu_seqlens_q: Vec<u32>,
    /// Tokens of each sequence in the cache after this step. `[n_sequences]`
    pub context_lens: Vec<u32>,
    /// The sequences' blocks, one after another. `[sum of blocks]`
    pub block_tables: Vec<BlockIdx>,
    /// Cumulated blocks of the sequences. `[n_sequences + 1]`
    pub cu_blocks: Vec<u32>,
    /// The adapter of each sequence; 0 is none. `[n_sequences]`
    pub adapter_ids: Vec<u32>,
    /// The tokens after which something is drawn, in order. `[n_sample_rows]`
    pub sample_rows: Vec<SampleRow>,
}

/// A token after which something is drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SampleRow {
    /// Index into `input_ids`.
    pub token_idx: u32,
    /// How much of the logits the sampler will look at.
    pub want: Want,
}

/// How much of a row of logits the sampler will look at, so that a backend may skip work. A backend
/// that skips nothing is right, too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Want {
    /// Only which entry is the greatest (the lowest index among equals).
    Argmax,
    /// The k greatest entries.
    TopK(u32),
    /// Every entry.
    Full,
}

impl Default for Batch {
    fn default() -> Self {
        Batch::with_capacity(0, 0, 0)
    }
}

impl Batch {
    /// An empty batch with room for `n_tokens` tokens of `n_sequences` sequences with
    /// `n_blocks` table entries in all.
    #[must_use]
    pub fn with_capacity(n_tokens: usize, n_sequences: usize, n_blocks: usize) -> Self {
        let mut batch = Batch {
            input_ids: Vec::with_capacity(n_tokens),
            positions: Vec::with_capacity(n_tokens),
            slot_mapping: Vec::with_capacity(n_tokens),
            cu_seqlens_q: Vec::with_capacity(n_sequences + 1),
            context_lens: Vec::with_capacity(n_sequences),
            block_tables: Vec::with_capacity(n_blocks),
            cu_blocks: Vec::with_capacity(n_sequences + 1),
            adapter_ids: Vec::with_capacity(n_sequences),
            sample_rows: Vec::with_capacity(n_sequences),
        };
        batch.clear();
        batch
    }

    /// Empties the batch and keeps its memory.
    pub fn clear(&mut self) {
        self.input_ids.clear();
        self.positions.clear();
        self.slot_mapping.clear();
        self.cu_seqlens_q.clear();
        self.cu_seqlens_q.push(0);
        self.context_lens.clear();
        self.block_tables.clear();
        self.cu_blocks.clear();
        self.cu_blocks.push(0);
        self.adapter_ids.clear();
        self.sample_rows.clear();
    }

    /// Appends a sequence's chunk `tokens`, which stands at positions `start..start + tokens.len()`.
    /// With `sample`, something is drawn after its last token.
    ///
    /// # Panics
    /// When the chunk is empty, or the table has no block for one of its positions.
    pub fn push_sequence(
        &mut self,
        tokens: &[TokenId],
        start: usize,
        block_table: &[BlockIdx],
        block_size: usize,
        sample: Option<Want>,
    ) {
        let end = start + tokens.len();
        let n_blocks = end.div_ceil(block_size);
        assert!(!tokens.is_empty(), "a scheduled sequence has tokens");
        assert!(n_blocks <= block_table.len(), "every position has a block");
        self.input_ids.extend_from_slice(tokens);
        for position in start..end {
            let block = block_table[position / block_size].index();
            self.positions.push(narrow(position));
            self.slot_mapping.push(narrow(block * block_size + position % block_size));
        }
        self.cu_seqlens_q.push(narrow(self.input_ids.len()));
        self.context_lens.push(narrow(end));
        self.block_tables.extend_from_slice(&block_table[..n_blocks]);
        self.cu_blocks.push(narrow(self.block_tables.len()));
        self.adapter_ids.push(0);
        if let Some(want) = sample {
            self.sample_rows.push(SampleRow { token_idx: narrow(self.input_ids.len() - 1), want });
        }
    }

    /// Draws after each of the last `n` tokens of the sequence that was appended last.
    ///
    /// # Panics
    /// When it has fewer.
    pub fn sample_last(&mut self, n: usize, want: Want) {
        let end = self.input_ids.len();
        let n_tokens = self.n_sequences().checked_sub(1).map_or(0, |s| self.tokens_of(s).len());
        assert!(n <= n_tokens, "a sequence has a token for each of its rows of logits");
        let row = |token_idx| SampleRow { token_idx: narrow(token_idx), want };
        self.sample_rows.extend((end - n..end).map(row));
    }

    /// The adapter of the sequence that was appended last; 0 is none.
    ///
    /// # Panics
    /// When there is no sequence.
    pub fn set_adapter(&mut self, id: u32) {
        *self.adapter_ids.last_mut().expect("an adapter belongs to a sequence") = id;
    }

    /// Tokens in the step.
    #[must_use]
    pub fn n_tokens(&self) -> usize {
        self.input_ids.len()
    }

    /// Sequences in the step.
    #[must_use]
    pub fn n_sequences(&self) -> usize {
        self.context_lens.len()
    }

    /// The tokens of sequence `s`, as a range of `input_ids`.
    #[must_use]
    pub fn tokens_of(&self, s: usize) -> std::ops::Range<usize> {
        self.cu_seqlens_q[s] as usize..self.cu_seqlens_q[s + 1] as usize
    }

    /// The block table of sequence `s`.
    #[must_use]
    pub fn block_table_of(&self, s: usize) -> &[BlockIdx] {
        &self.block_tables[self.cu_blocks[s] as usize..self.cu_blocks[s + 1] as usize]
    }
}

fn narrow(value: usize) -> u32 {
    u32::try_from(value).expect("a step holds less than 2^32 tokens and slots: this is a bug")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_sequences_share_a_batch() {
        let mut batch = Batch::with_capacity(8, 2, 8);
        // Positions 3..6 of a sequence in blocks 7, 2; then position 0 of one in block 5.
        batch.push_sequence(&[11, 12, 13], 3, &[BlockIdx(7), BlockIdx(2), BlockIdx(9)], 4, None);
        batch.push_sequence(&[21], 0, &[BlockIdx(5)], 4, Some(Want::Argmax));
        assert_eq!(batch.positions, [3, 4, 5, 0]);
        assert_eq!(batch.slot_mapping, [31, 8, 9, 20]);
        assert_eq!(batch.cu_seqlens_q, [0, 3, 4]);
        assert_eq!(batch.context_lens, [6, 1]);
        assert_eq!(batch.block_table_of(0), [BlockIdx(7), BlockIdx(2)]);
        assert_eq!(batch.tokens_of(1), 3..4);
        assert_eq!(batch.sample_rows, [SampleRow { token_idx: 3, want: Want::Argmax }]);
    }

    #[test]
    #[should_panic(expected = "every position has a block")]
    fn a_position_without_a_block_is_a_bug() {
        Batch::default().push_sequence(&[1], 4, &[BlockIdx(0)], 4, None);
    }
}
