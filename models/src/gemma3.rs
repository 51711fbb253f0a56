//! Gemma 3, text only.
//!
//! It reads metadata and names tensors; it must never compute anything.
//!
//! Start reading at [`FAMILY`].

use crate::check::limits;
use crate::families::{Family, GgufFacts};
use crate::hf_config::HfConfig;
use crate::{
    Activation, DecoderSpec, LayerTensor, ModelError, NormPlacement, NormSpec, QkNorm, RopeLayout,
    RopeSpec, rope,
};

pub(crate) const FAMILY: Family = Family {
    gguf_architecture: "gemma3",
    hf_model_types: &["gemma3_text", "gemma3"],
    gguf_rope_layout: RopeLayout::Halves,
    from_gguf,
    from_config,
    hf_layer_name: LayerTensor::hf_suffix,
    gguf_layer_name: LayerTensor::gguf_suffix,
};

const DEFAULT_THETA: f32 = 1_000_000.0;
const DEFAULT_THETA_SLIDING: f32 = 10_000.0;
/// Every sixth layer sees everything.
const DEFAULT_PATTERN: usize = 6;
/// The 27B model alone scales attention by the width per head; its GGUF files do not say so.
const N_LAYERS_27B: usize = 62;

fn from_gguf(facts: &GgufFacts<'_>) -> Result<DecoderSpec, ModelError> {
    facts.refuse(&["expert_count", "attn_logit_softcapping"])?;
    let n_layers = facts.need_size("block_count", limits::LAYERS)?;
    let hidden_size = facts.need_size("embedding_length", limits::WIDTH)?;
    let n_heads = facts.need_size("attention.head_count", limits::HEADS)?;
    let head_dim = facts.size("attention.key_length", limits::HEAD_DIM)?.unwrap_or(256);
    let scale_dim = if n_layers == N_LAYERS_27B { hidden_size / n_heads.max(1) } else { head_dim };
    let window = facts.need_size("attention.sliding_window", limits::CONTEXT)?;
    let pattern = facts.size("attention.sliding_window_pattern", limits::LAYERS)?;
    let theta_sliding = facts.f32("rope.freq_base_swa")?.unwrap_or(DEFAULT_THETA_SLIDING);
    Ok(DecoderSpec {
        family: "gemma3",
        n_layers,
        hidden_size,
        n_heads,
        head_dim,
        norm_placement: NormPlacement::PreAndPost,
        qk_norm: QkNorm::PerHead,
        activation: Activation::GeluTanh,
        n_kv_heads: facts.need_size("attention.head_count_kv", limits::HEADS)?,
        intermediate_size: facts.need_size("feed_forward_length", limits::WIDTH)?,
        vocab_size: facts.vocab_size()?,
        max_position_embeddings: facts.need_size("context_length", limits::CONTEXT)?,
        norm: NormSpec {
            eps: facts.need_f32("attention.layer_norm_rms_epsilon")?,
            weight_offset: 0.0,
        },
        rope: RopeSpec {
            layout: RopeLayout::Halves,
            n_dims: head_dim,
            theta: facts.f32("rope.freq_base")?.unwrap_or(DEFAULT_THETA),
            theta_sliding: Some(theta_sliding),
            scaling: rope::from_gguf(facts)?,
        },
        attn_scale: (scale_dim as f32).sqrt().recip(),
        attn_softcap: None,
        logit_softcap: facts.f32("final_logit_softcapping")?,
        sliding_window: windows(n_layers, window, pattern.unwrap_or(DEFAULT_PATTERN)),
        tied_head: !facts.has_tensor("output.weight"),
        qkv_bias: false,
        embedding_scale: (hidden_size as f32).sqrt(),
        residual_scale: 1.0,
        logit_divisor: 1.0,
    })
}

fn from_config(config: &HfConfig) -> Result<DecoderSpec, ModelError> {
    let nested = config.object("text_config")?;
    let config = nested.as_ref().unwrap_or(config);
    config.refuse_true("attention_bias")?;
    config.refuse_true("use_bidirectional_attention")?;
    config.refuse_other("hidden_activation", "gelu_pytorch_tanh")?;
    let n_layers = config.need_size("num_hidden_layers", limits::LAYERS)?;
    let hidden_size = config.need_size("hidden_size", limits::WIDTH)?;
    let n_heads = config.size("num_attention_heads", limits::HEADS)?.unwrap_or(8);
    let head_dim = config.size("head_dim", limits::HEAD_DIM)?.unwrap_or(256);
    let theta = rope::theta(config)?.unwrap_or(DEFAULT_THETA);
    let theta_sliding = rope::theta_sliding(config)?.unwrap_or(DEFAULT_THETA_SLIDING);
    let scale_dim = config.f32("query_pre_attn_scalar")?.unwrap_or(head_dim as f32);
    let window = config.need_size("sliding_window", limits::CONTEXT)?;
    let pattern = match config.size("sliding_window_pattern", limits::LAYERS)? {
        Some(pattern) => Some(pattern),
        None => config.size("_sliding_window_pattern", limits::LAYERS)?,
    };
    Ok(DecoderSpec {
        family: "gemma3",
        n_layers,
        hidden_size,
        n_heads,
        head_dim,
        norm_placement: NormPlacement::PreAndPost,
        qk_norm: QkNorm::PerHead,
        activation: Activation::GeluTanh,
        n_kv_heads: config.size("num_key_value_heads", limits::HEADS)?.unwrap_or(4),
        intermediate_size: config.need_size("intermediate_size", limits::WIDTH)?,
        vocab_size: config.size("vocab_size", limits::VOCAB)?.unwrap_or(262_208),
        max_position_embeddings: config
            .size("max_position_embeddings", limits::CONTEXT)?
            .unwrap_or(131_072),
        norm: NormSpec { eps: config.f32("rms_norm_eps")?.unwrap_or(1e-6), weight_offset: 1.0 },
        rope: RopeSpec {
            layout: RopeLayout::Halves,
            n_dims: head_dim,
            theta,
            theta_sliding: Some(theta_sliding),
            scaling: rope::from_config(config, head_dim, theta)?,
        },
        attn_scale: scale_dim.sqrt().recip(),
        attn_softcap: config.f32("attn_logit_softcapping")?,
        logit_softcap: config.f32("final_logit_softcapping")?,
        sliding_window: match config.layer_types(n_layers)? {
            Some(sliding) => sliding.into_iter().map(|slides| slides.then_some(window)).collect(),
            None => windows(n_layers, window, pattern.unwrap_or(DEFAULT_PATTERN)),
        },
        tied_head: config.bool("tie_word_embeddings")?.unwrap_or(true),
        qkv_bias: false,
        embedding_scale: (hidden_size as f32).sqrt(),
        residual_scale: 1.0,
        logit_divisor: 1.0,
    })
}

/// All layers slide but each `pattern`-th.
pub(crate) fn windows(n_layers: usize, window: usize, pattern: usize) -> Vec<Option<usize>> {
    let slides = |layer_idx: usize| pattern == 0 || !(layer_idx + 1).is_multiple_of(pattern);
    (0..n_layers).map(|layer_idx| slides(layer_idx).then_some(window)).collect()
}
