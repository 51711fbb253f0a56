//! The rows of a step, and the buffers between its phases. Reused from step to step.

use lm_backend::Batch;

use crate::attention::Partials;
use crate::matrix::RowActs;

/// What the phases need to know of each row of a step.
#[derive(Debug, Default)]
pub(crate) struct StepRows {
    /// `[m]`
    pub(crate) positions: Vec<u32>,
    /// `[m]`
    pub(crate) slots: Vec<u32>,
    /// The sequence of each row. `[m]`
    sequences: Vec<u32>,
    /// The sequences' blocks, one after another.
    blocks: Vec<u32>,
    cu_blocks: Vec<u32>,
}

impl StepRows {
    pub(crate) fn fill(&mut self, batch: &Batch) {
        self.positions.clone_from(&batch.positions);
        self.slots.clone_from(&batch.slot_mapping);
        self.cu_blocks.clone_from(&batch.cu_blocks);
        self.blocks.clear();
        self.blocks.extend(batch.block_tables.iter().map(|block| block.0));
        self.sequences.clear();
        for s in 0..batch.n_sequences() {
            self.sequences.extend(batch.tokens_of(s).map(|_| s as u32));
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.positions.len()
    }

    pub(crate) fn block_table(&self, row: usize) -> &[u32] {
        let s = self.sequences[row] as usize;
        &self.blocks[self.cu_blocks[s] as usize..self.cu_blocks[s + 1] as usize]
    }
}

/// Buffers between the phases of a step.
#[derive(Debug, Default)]
pub(crate) struct Scratch {
    pub(crate) rows: StepRows,
    /// The residual stream. `[m, hidden_size]`
    pub(crate) x: Vec<f32>,
    /// What the next matrices multiply.
    pub(crate) acts: RowActs,
    /// What they gave. `[n_panels, m, 16]`
    pub(crate) product: Vec<f32>,
    /// `[m, n_heads * head_dim]`
    pub(crate) q: Vec<f32>,
    /// K, then V, of each row. `[m, 2 * n_kv_heads * head_dim]`
    pub(crate) kv: Vec<f32>,
    pub(crate) partials: Partials,
    /// Gate and up products, then the hidden values, of 32 columns each:
    /// `[intermediate_size / 32, 96 * m]`
    pub(crate) hidden: Vec<f32>,
}
