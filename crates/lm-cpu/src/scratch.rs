//! The rows of a step, and the buffers between its phases. Reused from step to step.

use lm_backend::{Batch, Greatest};

use crate::attention::Plan;
use crate::lora::StepAdapters;
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
    /// `[n_sequences + 1]`
    cu_seqlens: Vec<u32>,
    /// The sequences' blocks, one after another.
    blocks: Vec<u32>,
    cu_blocks: Vec<u32>,
}

impl StepRows {
    pub(crate) fn fill(&mut self, batch: &Batch) {
        self.positions.clone_from(&batch.positions);
        self.slots.clone_from(&batch.slot_mapping);
        self.cu_seqlens.clone_from(&batch.cu_seqlens_q);
        self.cu_blocks.clone_from(&batch.cu_blocks);
        self.blocks.clear();
        self.blocks.extend(batch.block_tables.iter().map(|block| block.0));
        self.sequences.clear();
        for s in 0..batch.n_sequences() {
            self.sequences.extend(batch.tokens_of(s).map(|_| s as u32));
        }
    }

    /// Forgets all rows but `kept`, in ascending order.
    fn keep(&mut self, kept: &[u32]) {
        keep_rows(&mut self.positions, 1, kept);
        keep_rows(&mut self.slots, 1, kept);
        keep_rows(&mut self.sequences, 1, kept);
        for end in &mut self.cu_seqlens {
            *end = kept.partition_point(|row| row < end) as u32;
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.positions.len()
    }

    /// Rows of the same sequence from `row` on, in the order of their positions.
    pub(crate) fn n_adjacent(&self, row: usize) -> usize {
        self.cu_seqlens[self.sequences[row] as usize + 1] as usize - row
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
    /// The adapters of the rows.
    pub(crate) adapters: StepAdapters,
    /// Attention of the layers with each window.
    pub(crate) plans: Vec<Plan>,
    /// The residual stream. `[m, hidden_size]`
    pub(crate) x: Vec<f32>,
    /// What a block added to it, if that is normed first. `[m, hidden_size]`
    pub(crate) added: Vec<f32>,
    /// What the next matrices multiply.
    pub(crate) acts: RowActs,
    /// What the last matrix of an MLP multiplies.
    pub(crate) hidden: RowActs,
    /// `[m, (n_heads + 2 * n_kv_heads) * head_dim]`
    pub(crate) qkv: Vec<f32>,
    /// Of attention's work items.
    pub(crate) partials: Vec<f32>,
    /// The rows that sample.
    pub(crate) sampled: Vec<u32>,
    /// Of each work item of the head: its greatest logit of each row. `[n_items, n_rows]`
    pub(crate) greatest: Vec<Greatest>,
}

impl Scratch {
    /// Forgets the rows that do not sample; false where there are none, or those that do are not named once each and in order.
    /// `qkv` has `qkv_width` columns.
    pub(crate) fn keep_sampled(&mut self, hidden_size: usize, qkv_width: usize) -> bool {
        let kept = &mut self.sampled;
        if kept.len() == self.rows.len() || !kept.is_sorted_by(|a, b| a < b) {
            return false;
        }
        self.rows.keep(kept);
        self.adapters.keep(kept);
        keep_rows(&mut self.x, hidden_size, kept);
        keep_rows(&mut self.qkv, qkv_width, kept);
        kept.iter_mut().zip(0..).for_each(|(row, i)| *row = i);
        true
    }
}

/// Moves rows `kept`, in ascending order, to the front of `data`, and forgets the others.
fn keep_rows<T: Copy>(data: &mut Vec<T>, width: usize, kept: &[u32]) {
    for (to, &from) in kept.iter().enumerate() {
        let from = from as usize * width;
        data.copy_within(from..from + width, to * width);
    }
    data.truncate(kept.len() * width);
}
