//! The rows of the embedding, as f32.

use std::borrow::Cow;

use lm_kernels::{Pool, dequantize_row};
use lm_models::{DecoderSpec, Model, TensorRole, TensorType, TensorView};
use lm_types::TokenId;

use crate::LoadError;
use crate::executor::{StepError, scale};
use crate::matrix::{Stacked, stored_type};

/// Where the embedding's rows are. A few of them are read in a step, so that they need be nowhere fast.
#[derive(Debug)]
pub(crate) enum Embedding {
    /// They are the head's.
    Head,
    /// In the mapped file.
    File(Box<Model>),
    /// Made up, `[vocab_size, hidden_size]`.
    Memory { dtype: TensorType, rows: Vec<u8> },
}

impl Embedding {
    /// Of a model whose other weights were read. What is not needed of its files is given back.
    pub(crate) fn of(model: Model) -> Result<Self, LoadError> {
        if model.spec.tied_head {
            return Ok(Embedding::Head);
        }
        let TensorView { dtype, data, .. } = model.tensor(TensorRole::TokenEmbedding)?;
        if let Cow::Owned(rows) = data {
            return Ok(Embedding::Memory { dtype, rows });
        }
        model.release_pages();
        Ok(Embedding::File(Box::new(model)))
    }

    /// Of memory of its own.
    pub(crate) fn size_bytes(&self) -> usize {
        match self {
            Embedding::Memory { rows, .. } => rows.len(),
            Embedding::Head | Embedding::File(_) => 0,
        }
    }

    /// Fills `x` with the rows of `tokens`. `[m, hidden_size]`
    pub(crate) fn fill(
        &self,
        pool: &mut Pool,
        (spec, head): (&DecoderSpec, &Stacked),
        tokens: &[TokenId],
        x: &mut [f32],
    ) -> Result<(), StepError> {
        let n = spec.hidden_size;
        match self {
            Embedding::Head => pool.for_chunks(x, n, |row, x| {
                head.dequantize_row(tokens[row] as usize, x);
                scale(x, spec.embedding_scale);
            }),
            Embedding::Memory { dtype, rows } => fill_from(pool, spec, (*dtype, rows), tokens, x),
            Embedding::File(model) => {
                let view = model.tensor(TensorRole::TokenEmbedding)?;
                fill_from(pool, spec, (view.dtype, &view.data), tokens, x);
            }
        }
        Ok(())
    }
}

/// As [`Embedding::fill`], from rows as they are stored.
fn fill_from(
    pool: &mut Pool,
    spec: &DecoderSpec,
    (dtype, rows): (TensorType, &[u8]),
    tokens: &[TokenId],
    x: &mut [f32],
) {
    let stored = stored_type(dtype).expect("it was checked at load: this is a bug");
    let row_bytes = stored.row_bytes(spec.hidden_size).expect("it was checked at load");
    pool.for_chunks(x, spec.hidden_size, |row, x| {
        let token = tokens[row] as usize;
        dequantize_row(stored, &rows[token * row_bytes..][..row_bytes], x);
        scale(x, spec.embedding_scale);
    });
}
