//! Whether the numbers of a spec make a decoder at all.
//!
//! It must never know a family or a file. What passes here can be multiplied without overflow.
//!
//! Start reading at [`check_spec`].

use crate::{DecoderSpec, ModelError, RopeScaling};

/// What is taken for a decoder at all: far above any that exists, far below what overflows.
pub(crate) mod limits {
    pub(crate) const LAYERS: usize = 1_024;
    pub(crate) const WIDTH: usize = 1 << 20;
    pub(crate) const HEADS: usize = 4_096;
    pub(crate) const HEAD_DIM: usize = 4_096;
    pub(crate) const VOCAB: usize = 1 << 23;
    pub(crate) const CONTEXT: usize = 1 << 28;
}

/// Checks every number of the spec.
///
/// # Errors
/// `Invalid` or `TooLarge` with the first field that fails.
pub(crate) fn check_spec(spec: &DecoderSpec) -> Result<(), ModelError> {
    check_sizes(spec)?;
    check_heads(spec)?;
    check_rope(spec)?;
    positive("the norm's epsilon", spec.norm.eps)?;
    positive("the scale of attention", spec.attn_scale)?;
    positive("the scale of the embedding", spec.embedding_scale)?;
    positive("the scale of the residual", spec.residual_scale)?;
    positive("what divides the logits", spec.logit_divisor)?;
    positive("the soft-cap of attention", spec.attn_softcap.unwrap_or(1.0))?;
    positive("the soft-cap of logits", spec.logit_softcap.unwrap_or(1.0))
}

fn check_sizes(spec: &DecoderSpec) -> Result<(), ModelError> {
    for (what, value, limit) in [
        ("the number of layers", spec.n_layers, limits::LAYERS),
        ("the hidden size", spec.hidden_size, limits::WIDTH),
        ("the number of heads", spec.n_heads, limits::HEADS),
        ("the number of KV heads", spec.n_kv_heads, limits::HEADS),
        ("the head dimension", spec.head_dim, limits::HEAD_DIM),
        ("the intermediate size", spec.intermediate_size, limits::WIDTH),
        ("the vocabulary size", spec.vocab_size, limits::VOCAB),
        ("the context length", spec.max_position_embeddings, limits::CONTEXT),
    ] {
        if value == 0 {
            return Err(ModelError::invalid(what, 0, "at least 1"));
        }
        if value > limit {
            let (value, limit) = (value as u64, limit as u64);
            return Err(ModelError::TooLarge { what: what.to_owned(), value, limit });
        }
    }
    Ok(())
}

fn check_heads(spec: &DecoderSpec) -> Result<(), ModelError> {
    if !spec.n_heads.is_multiple_of(spec.n_kv_heads) {
        let wanted = format!("a divisor of the number of heads, {}", spec.n_heads);
        return Err(ModelError::invalid("the number of KV heads", spec.n_kv_heads, wanted));
    }
    if !spec.head_dim.is_multiple_of(2) {
        return Err(ModelError::invalid("the head dimension", spec.head_dim, "even"));
    }
    if spec.sliding_window.len() != spec.n_layers {
        let wanted = format!("one for each of {} layers", spec.n_layers);
        return Err(ModelError::invalid(
            "the number of sliding windows",
            spec.sliding_window.len(),
            wanted,
        ));
    }
    if spec.sliding_window.contains(&Some(0)) {
        return Err(ModelError::invalid("the sliding window", 0, "at least 1"));
    }
    Ok(())
}

fn check_rope(spec: &DecoderSpec) -> Result<(), ModelError> {
    let n_dims = spec.rope.n_dims;
    if n_dims == 0 || !n_dims.is_multiple_of(2) || n_dims > spec.head_dim {
        let wanted = format!("even and between 2 and the head dimension, {}", spec.head_dim);
        return Err(ModelError::invalid("the number of rotated dimensions", n_dims, wanted));
    }
    positive("the base of RoPE", spec.rope.theta)?;
    positive("the base of RoPE in sliding layers", spec.rope.theta_sliding.unwrap_or(1.0))?;
    match &spec.rope.scaling {
        RopeScaling::None => Ok(()),
        RopeScaling::Linear(factor) => positive("the factor of RoPE scaling", *factor),
        RopeScaling::PerDimension(factors) => check_factors(factors, n_dims),
        RopeScaling::Long { short, long, original_context, magnitude } => {
            check_factors(short, n_dims)?;
            check_factors(long, n_dims)?;
            positive("the magnitude of RoPE", *magnitude)?;
            match original_context {
                0 => Err(ModelError::invalid("the original context length", 0, "at least 1")),
                _ => Ok(()),
            }
        }
    }
}

fn check_factors(factors: &[f32], n_dims: usize) -> Result<(), ModelError> {
    if factors.len() != n_dims / 2 {
        let wanted = format!("half of the rotated dimensions, {}", n_dims / 2);
        return Err(ModelError::invalid("the number of RoPE factors", factors.len(), wanted));
    }
    factors.iter().try_for_each(|&factor| positive("a factor of RoPE scaling", factor))
}

fn positive(what: &str, value: f32) -> Result<(), ModelError> {
    if value.is_finite() && value > 0.0 {
        Ok(())
    } else {
        Err(ModelError::invalid(what, value, "above 0 and finite"))
    }
}
