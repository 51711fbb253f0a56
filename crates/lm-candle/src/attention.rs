//! Attention of a ragged batch over the paged cache, sequence by sequence.

use candle_core::{D, Device, Result, Tensor};
use candle_nn::ops::softmax_last_dim;
use lm_models::DecoderSpec;

use crate::kv::SequenceSlots;
use crate::{PagedKv, StepSlots};

/// Attends from `q`, `[n_tokens, n_heads, head_dim]`, to what the cache holds of each token's own
/// sequence. Gives `[n_tokens, n_heads * head_dim]`.
pub(crate) fn attend(
    spec: &DecoderSpec,
    layer: usize,
    q: &Tensor,
    kv: &PagedKv,
    step: &StepSlots,
) -> Result<Tensor> {
    let window = spec.sliding_window[layer];
    let outputs = step.sequences.iter().map(|seq| {
        let q = q.narrow(0, seq.tokens.start, seq.tokens.len())?;
        attend_one(spec, layer, &q, kv, seq, window)
    });
    Tensor::cat(&outputs.collect::<Result<Vec<_>>>()?, 0)
}

fn attend_one(
    spec: &DecoderSpec,
    layer: usize,
    q: &Tensor,
    kv: &PagedKv,
    seq: &SequenceSlots,
    window: Option<usize>,
) -> Result<Tensor> {
    let (n, n_heads, n_kv_heads) = (seq.tokens.len(), spec.n_heads, spec.n_kv_heads);
    let group = n_heads / n_kv_heads;
    // What the first query cannot see any more, no later one can.
    let first_key = window.map_or(0, |window| (seq.first_position + 1).saturating_sub(window));
    let context_len = seq.slots.dim(0)?;
    let n_keys = context_len - first_key;
    let (k, v) = kv.read(layer, &seq.slots.narrow(0, first_key, n_keys)?)?;
    let k = k.transpose(0, 1)?; // [n_kv_heads, n_keys, head_dim]
    let v = v.transpose(0, 1)?.contiguous()?; // [n_kv_heads, n_keys, head_dim]
    let q = (q.transpose(0, 1)?.contiguous()? * f64::from(spec.attn_scale))?;
    let q = q.reshape((n_kv_heads, group * n, spec.head_dim))?;
    let mut scores = q.matmul(&k.transpose(1, 2)?.contiguous()?)?; // [n_kv_heads, group * n, n_keys]
    if let Some(cap) = spec.attn_softcap {
        scores = soft_cap(&scores, cap)?;
    }
    if n > 1 {
        let mask = mask(seq.first_position, n, first_key, n_keys, window, q.device())?;
        scores = scores
            .reshape((n_kv_heads, group, n, n_keys))?
            .broadcast_add(&mask)?
            .reshape((n_kv_heads, group * n, n_keys))?;
    }
    let output = softmax_last_dim(&scores)?.matmul(&v)?; // [n_kv_heads, group * n, head_dim]
    output
        .reshape((n_heads, n, spec.head_dim))?
        .transpose(0, 1)?
        .contiguous()?
        .reshape((n, n_heads * spec.head_dim))
}

/// 0 where the query at `first_query + i` sees the key at `first_key + j`, else -infinity.
/// `[n, n_keys]`
fn mask(
    first_query: usize,
    n: usize,
    first_key: usize,
    n_keys: usize,
    window: Option<usize>,
    device: &Device,
) -> Result<Tensor> {
    let sees =
        |query: usize, key: usize| key <= query && window.is_none_or(|window| query - key < window);
    let values: Vec<f32> = (first_query..first_query + n)
        .flat_map(|query| (first_key..first_key + n_keys).map(move |key| (query, key)))
        .map(|(query, key)| if sees(query, key) { 0.0 } else { f32::NEG_INFINITY })
        .collect();
    Tensor::from_vec(values, (n, n_keys), device)
}

/// `cap * tanh(x / cap)`.
pub(crate) fn soft_cap(x: &Tensor, cap: f32) -> Result<Tensor> {
    let cap = f64::from(cap);
    (x / cap)?.tanh()? * cap
}

/// Splits heads: `[n, n_heads * head_dim]` to `[n, n_heads, head_dim]`.
pub(crate) fn heads(x: &Tensor, n_heads: usize) -> Result<Tensor> {
    let (n, width) = (x.dim(0)?, x.dim(D::Minus1)?);
    x.reshape((n, n_heads, width / n_heads))
}
