//! The paged KV cache, and where the tokens of a step stand in it.

use candle_core::{DType, Device, Result, Tensor};
use lm_backend::Batch;
use lm_models::DecoderSpec;

/// K and V of every layer, `[n_slots, n_kv_heads, head_dim]` f32 each. A slot is one position of one
/// block. Handed to the decoder for each step; the decoder keeps nothing of it.
#[derive(Debug)]
pub struct PagedKv {
    layers: Vec<(Tensor, Tensor)>,
}

/// Where the tokens of a step are written to and read from.
#[derive(Debug)]
pub struct StepSlots {
    /// Runs of neighbouring slots: (first token of the step, first slot, length).
    writes: Vec<(usize, usize, usize)>,
    /// One entry per sequence.
    pub(crate) sequences: Vec<SequenceSlots>,
}

/// One sequence of a step.
#[derive(Debug)]
pub(crate) struct SequenceSlots {
    /// Its tokens in the step.
    pub(crate) tokens: std::ops::Range<usize>,
    /// Its first token's position.
    pub(crate) first_position: usize,
    /// The slots of all its positions so far. `[context_len]` u32
    pub(crate) slots: Tensor,
}

impl PagedKv {
    /// An empty cache of `n_slots` positions.
    ///
    /// # Errors
    /// The device has not enough memory.
    pub fn new(spec: &DecoderSpec, n_slots: usize, device: &Device) -> Result<Self> {
        let shape = (n_slots, spec.n_kv_heads, spec.head_dim);
        let zeros = || Tensor::zeros(shape, DType::F32, device);
        let layers = (0..spec.n_layers).map(|_| Ok((zeros()?, zeros()?)));
        Ok(PagedKv { layers: layers.collect::<Result<_>>()? })
    }

    /// Writes K and V of the step's tokens, `[n_tokens, n_kv_heads, head_dim]`, into their slots.
    pub(crate) fn write(
        &mut self,
        layer: usize,
        k: &Tensor,
        v: &Tensor,
        slots: &StepSlots,
    ) -> Result<()> {
        let (k_cache, v_cache) = &self.layers[layer];
        for &(token, slot, len) in &slots.writes {
            k_cache.slice_set(&k.narrow(0, token, len)?.contiguous()?, 0, slot)?;
            v_cache.slice_set(&v.narrow(0, token, len)?.contiguous()?, 0, slot)?;
        }
        Ok(())
    }

    /// K and V at `slots`, `[n]` u32: `[n, n_kv_heads, head_dim]` each.
    pub(crate) fn read(&self, layer: usize, slots: &Tensor) -> Result<(Tensor, Tensor)> {
        let (k_cache, v_cache) = &self.layers[layer];
        Ok((k_cache.index_select(slots, 0)?, v_cache.index_select(slots, 0)?))
    }
}

impl StepSlots {
    /// Reads the slots of a batch out of its block tables.
    ///
    /// # Errors
    /// The device has not enough memory.
    pub fn new(batch: &Batch, block_size: usize, device: &Device) -> Result<Self> {
        let sequence = |s: usize| -> Result<SequenceSlots> {
            let tokens = batch.tokens_of(s);
            let table = batch.block_table_of(s);
            let slot =
                |p: usize| (table[p / block_size].index() * block_size + p % block_size) as u32;
            let context_len = batch.context_lens[s] as usize;
            let slots: Vec<u32> = (0..context_len).map(slot).collect();
            Ok(SequenceSlots {
                first_position: batch.positions[tokens.start] as usize,
                slots: Tensor::from_vec(slots, context_len, device)?,
                tokens,
            })
        };
        Ok(StepSlots {
            writes: runs(&batch.slot_mapping),
            sequences: (0..batch.n_sequences()).map(sequence).collect::<Result<_>>()?,
        })
    }
}

/// Joins neighbouring slots: (first index, first slot, length).
fn runs(slot_mapping: &[u32]) -> Vec<(usize, usize, usize)> {
    let mut runs: Vec<(usize, usize, usize)> = Vec::new();
    for (token, &slot) in slot_mapping.iter().enumerate() {
        match runs.last_mut() {
            Some((_, first, len)) if *first + *len == slot as usize => *len += 1,
            _ => runs.push((token, slot as usize, 1)),
        }
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbouring_slots_are_one_write() {
        assert_eq!(runs(&[4, 5, 6, 9, 2, 3]), [(0, 4, 3), (3, 9, 1), (4, 2, 2)]);
        assert_eq!(runs(&[]), []);
    }
}
