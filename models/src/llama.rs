//! Llama and what is built like it: Llama 2 and 3, SmolLM2, Mistral.
//!
//! It reads metadata and names tensors; it must never compute anything.
//!
//! Start reading at [`FAMILY`].

use crate::check::limits;
use crate::families::{Family, GgufFacts};
use crate::hf_config::HfConfig;
use crate::{
    Activation, DecoderSpec, LayerTensor, ModelError, NormPlacement, NormSpec, RopeLayout,
    RopeSpec, rope,
};

pub(crate) const FAMILY: Family = Family {
    gguf_architecture: "llama",
    hf_model_types: &["llama", "mistral"],
    gguf_rope_layout: RopeLayout::Interleaved,
    from_gguf,
    from_config,
    hf_layer_name,
};

const DEFAULT_THETA: f32 = 10_000.0;

fn from_gguf(facts: &GgufFacts<'_>) -> Result<DecoderSpec, ModelError> {
    facts.refuse(&[
        "expert_count",
        "logit_scale",
        "residual_scale",
        "embedding_scale",
        "attention.clamp_kqv",
        "attention.max_alibi_bias",
    ])?;
    let n_layers = facts.need_size("block_count", limits::LAYERS)?;
    let hidden_size = facts.need_size("embedding_length", limits::WIDTH)?;
    let n_heads = facts.need_size("attention.head_count", limits::HEADS)?;
    let key_length = facts.size("attention.key_length", limits::HEAD_DIM)?;
    let head_dim = key_length.unwrap_or(hidden_size / n_heads.max(1));
    let value_length = facts.size("attention.value_length", limits::HEAD_DIM)?;
    if value_length.is_some_and(|length| length != head_dim) {
        let found = value_length.unwrap_or_default();
        return Err(ModelError::unsupported(facts.key("attention.value_length"), found, "as keys"));
    }
    let scale = facts.f32("attention.scale")?.filter(|&scale| scale != 0.0);
    let window = facts.size("attention.sliding_window", limits::CONTEXT)?;
    Ok(DecoderSpec {
        family: "llama",
        n_layers,
        hidden_size,
        n_heads,
        n_kv_heads: facts.size("attention.head_count_kv", limits::HEADS)?.unwrap_or(n_heads),
        head_dim,
        intermediate_size: facts.need_size("feed_forward_length", limits::WIDTH)?,
        vocab_size: facts.vocab_size()?,
        max_position_embeddings: facts.need_size("context_length", limits::CONTEXT)?,
        norm: NormSpec {
            eps: facts.need_f32("attention.layer_norm_rms_epsilon")?,
            weight_offset: 0.0,
        },
        norm_placement: NormPlacement::Pre,
        qk_norm: false,
        rope: RopeSpec {
            layout: RopeLayout::Interleaved,
            n_dims: facts.size("rope.dimension_count", limits::HEAD_DIM)?.unwrap_or(head_dim),
            theta: facts.f32("rope.freq_base")?.unwrap_or(DEFAULT_THETA),
            theta_sliding: None,
            scaling: rope::from_gguf(facts)?,
        },
        attn_scale: scale.unwrap_or((head_dim as f32).sqrt().recip()),
        attn_softcap: None,
        logit_softcap: None,
        sliding_window: vec![window.filter(|&window| window > 0); n_layers],
        activation: Activation::Silu,
        qkv_bias: facts.has_tensor("blk.0.attn_q.bias"),
        tied_head: !facts.has_tensor("output.weight"),
        embedding_scale: 1.0,
    })
}

fn from_config(config: &HfConfig) -> Result<DecoderSpec, ModelError> {
    config.refuse_true("attention_bias")?;
    config.refuse_true("mlp_bias")?;
    config.refuse_other("hidden_act", "silu")?;
    let n_layers = config.need_size("num_hidden_layers", limits::LAYERS)?;
    let hidden_size = config.need_size("hidden_size", limits::WIDTH)?;
    let n_heads = config.need_size("num_attention_heads", limits::HEADS)?;
    let head_dim = config.size("head_dim", limits::HEAD_DIM)?;
    let head_dim = head_dim.unwrap_or(hidden_size / n_heads.max(1));
    let theta = rope::theta(config)?.unwrap_or(DEFAULT_THETA);
    let window = config.size("sliding_window", limits::CONTEXT)?;
    Ok(DecoderSpec {
        family: "llama",
        n_layers,
        hidden_size,
        n_heads,
        n_kv_heads: config.size("num_key_value_heads", limits::HEADS)?.unwrap_or(n_heads),
        head_dim,
        intermediate_size: config.need_size("intermediate_size", limits::WIDTH)?,
        vocab_size: config.need_size("vocab_size", limits::VOCAB)?,
        max_position_embeddings: config.need_size("max_position_embeddings", limits::CONTEXT)?,
        norm: NormSpec { eps: config.need_f32("rms_norm_eps")?, weight_offset: 0.0 },
        norm_placement: NormPlacement::Pre,
        qk_norm: false,
        rope: RopeSpec {
            layout: RopeLayout::Halves,
            n_dims: head_dim,
            theta,
            theta_sliding: None,
            scaling: rope::from_config(config, head_dim, theta)?,
        },
        attn_scale: (head_dim as f32).sqrt().recip(),
        attn_softcap: None,
        logit_softcap: None,
        sliding_window: vec![window; n_layers],
        activation: Activation::Silu,
        qkv_bias: false,
        tied_head: config.bool("tie_word_embeddings")?.unwrap_or(false),
        embedding_scale: 1.0,
    })
}

fn hf_layer_name(tensor: LayerTensor) -> &'static str {
    match tensor {
        LayerTensor::FfnNorm => "post_attention_layernorm.weight",
        other => other.hf_suffix(),
    }
}
