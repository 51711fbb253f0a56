//! A decoder's facts as GGUF metadata: the way back from what the families read.
//!
//! It must never know a family: a fact that a family's reader does not look for is found out when
//! the written file is opened again.
//!
//! Start reading at [`write_spec`].

use crate::gguf::{Metadata, Value};
use crate::{DecoderSpec, DefaultSampling, RopeScaling};

/// Writes the keys of the architecture.
pub(super) fn write_spec(metadata: &mut Metadata, spec: &DecoderSpec, name: &str) {
    let text = |text: &str| Value::String(text.to_owned());
    metadata.set("general.architecture", text(spec.family));
    metadata.set("general.type", text("model"));
    metadata.set("general.name", text(name));
    let mut set = |key: &str, value: Value| metadata.set(&format!("{}.{key}", spec.family), value);
    // `check_spec` keeps every size far below 2^32.
    let size = |value: usize| Value::U32(value as u32);
    set("block_count", size(spec.n_layers));
    set("context_length", size(spec.max_position_embeddings));
    set("embedding_length", size(spec.hidden_size));
    set("feed_forward_length", size(spec.intermediate_size));
    set("vocab_size", size(spec.vocab_size));
    set("attention.head_count", size(spec.n_heads));
    set("attention.head_count_kv", size(spec.n_kv_heads));
    set("attention.key_length", size(spec.head_dim));
    set("attention.value_length", size(spec.head_dim));
    set("attention.layer_norm_rms_epsilon", Value::F32(spec.norm.eps));
    set("rope.dimension_count", size(spec.rope.n_dims));
    set("rope.freq_base", Value::F32(spec.rope.theta));
    if let Some(theta) = spec.rope.theta_sliding {
        set("rope.freq_base_swa", Value::F32(theta));
    }
    // Factors per dimension are tensors.
    match spec.rope.scaling {
        RopeScaling::None | RopeScaling::PerDimension(_) => {}
        RopeScaling::Linear(factor) => {
            set("rope.scaling.type", text("linear"));
            set("rope.scaling.factor", Value::F32(factor));
        }
        RopeScaling::Long { original_context, magnitude, .. } => {
            set("rope.scaling.original_context_length", size(original_context));
            set("rope.scaling.attn_factor", Value::F32(magnitude));
        }
    }
    let root = |size: usize| (size as f32).sqrt();
    let scales = [
        ("attention.scale", spec.attn_scale, root(spec.head_dim).recip()),
        // Where it is the other one usual, the family alone says so.
        ("embedding_scale", spec.embedding_scale, root(spec.hidden_size)),
        ("residual_scale", spec.residual_scale, 1.0),
        ("logit_scale", spec.logit_divisor, 1.0),
    ];
    for (key, scale, usual) in scales {
        if ![usual, 1.0].contains(&scale) {
            set(key, Value::F32(scale));
        }
    }
    if let Some(cap) = spec.attn_softcap {
        set("attn_logit_softcapping", Value::F32(cap));
    }
    if let Some(cap) = spec.logit_softcap {
        set("final_logit_softcapping", Value::F32(cap));
    }
    if let Some(&window) = spec.sliding_window.iter().flatten().next() {
        set("attention.sliding_window", size(window));
        if let Some(first_full) = spec.sliding_window.iter().position(Option::is_none) {
            set("attention.sliding_window_pattern", size(first_full + 1));
        }
    }
}

/// Writes what the authors recommend; nothing where they say nothing.
pub(super) fn write_sampling(metadata: &mut Metadata, sampling: DefaultSampling) {
    let numbers = [
        ("temp", sampling.temperature),
        ("top_p", sampling.top_p),
        ("min_p", sampling.min_p),
        ("penalty_repeat", sampling.repetition_penalty),
    ];
    for (name, value) in numbers {
        if let Some(value) = value {
            metadata.set(&format!("general.sampling.{name}"), Value::F32(value));
        }
    }
    if let Some(top_k) = sampling.top_k {
        metadata.set("general.sampling.top_k", Value::U32(top_k));
    }
}
