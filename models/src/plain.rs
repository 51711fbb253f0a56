//! What the metadata of most families say in the same words: the facts of a decoder as Llama's, which a
//! family's file overrides where it differs.
//!
//! It must never know a family.
//!
//! Start reading at [`from_gguf`].

use crate::check::limits;
use crate::families::GgufFacts;
use crate::hf_config::HfConfig;
use crate::{
    Activation, DecoderSpec, LayerTensor, ModelError, NormPlacement, NormSpec, QkNorm, RopeLayout,
    RopeScaling, RopeSpec, rope,
};

const DEFAULT_THETA: f32 = 10_000.0;

/// The facts of GGUF metadata, with no window, bias or norm beyond the usual ones.
///
/// # Errors
/// What is missing, wrong or unsupported.
pub(crate) fn from_gguf(
    facts: &GgufFacts<'_>,
    layout: RopeLayout,
) -> Result<DecoderSpec, ModelError> {
    facts.refuse(&["expert_count", "attention.clamp_kqv", "attention.max_alibi_bias"])?;
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
    let plain = Plain {
        family: facts.family(),
        n_layers,
        hidden_size,
        n_heads,
        n_kv_heads: facts.size("attention.head_count_kv", limits::HEADS)?.unwrap_or(n_heads),
        head_dim,
        eps: facts.need_f32("attention.layer_norm_rms_epsilon")?,
    };
    Ok(DecoderSpec {
        intermediate_size: facts.need_size("feed_forward_length", limits::WIDTH)?,
        vocab_size: facts.vocab_size()?,
        max_position_embeddings: facts.need_size("context_length", limits::CONTEXT)?,
        rope: RopeSpec {
            layout,
            n_dims: facts.size("rope.dimension_count", limits::HEAD_DIM)?.unwrap_or(head_dim),
            theta: facts.f32("rope.freq_base")?.unwrap_or(DEFAULT_THETA),
            theta_sliding: None,
            scaling: rope::from_gguf(facts)?,
        },
        tied_head: !facts.has_tensor("output.weight"),
        ..plain.spec()
    })
}

/// The facts of a config.json, with no window, bias or norm beyond the usual ones.
///
/// # Errors
/// What is missing, wrong or unsupported.
pub(crate) fn from_config(
    config: &HfConfig,
    family: &'static str,
) -> Result<DecoderSpec, ModelError> {
    config.refuse_true("attention_bias")?;
    config.refuse_true("mlp_bias")?;
    config.refuse_other("hidden_act", "silu")?;
    let n_layers = config.need_size("num_hidden_layers", limits::LAYERS)?;
    let hidden_size = config.need_size("hidden_size", limits::WIDTH)?;
    let n_heads = config.need_size("num_attention_heads", limits::HEADS)?;
    let head_dim = config.size("head_dim", limits::HEAD_DIM)?;
    let head_dim = head_dim.unwrap_or(hidden_size / n_heads.max(1));
    let theta = rope::theta(config)?.unwrap_or(DEFAULT_THETA);
    let n_dims = rope::n_dims(config, head_dim)?;
    let plain = Plain {
        family,
        n_layers,
        hidden_size,
        n_heads,
        n_kv_heads: config.size("num_key_value_heads", limits::HEADS)?.unwrap_or(n_heads),
        head_dim,
        eps: config.need_f32("rms_norm_eps")?,
    };
    Ok(DecoderSpec {
        intermediate_size: config.need_size("intermediate_size", limits::WIDTH)?,
        vocab_size: config.need_size("vocab_size", limits::VOCAB)?,
        max_position_embeddings: config.need_size("max_position_embeddings", limits::CONTEXT)?,
        rope: RopeSpec {
            layout: RopeLayout::Halves,
            n_dims,
            theta,
            theta_sliding: None,
            scaling: rope::from_config(config, n_dims, theta)?,
        },
        tied_head: config.bool("tie_word_embeddings")?.unwrap_or(false),
        ..plain.spec()
    })
}

/// What a layer's tensor is called in safetensors where only two norms stand in a layer.
pub(crate) fn hf_layer_name(tensor: LayerTensor) -> &'static str {
    match tensor {
        LayerTensor::FfnNorm => "post_attention_layernorm.weight",
        other => other.hf_suffix(),
    }
}

/// Every layer slides by `window`; 0 is none.
pub(crate) fn all_slide(window: Option<usize>, n_layers: usize) -> Vec<Option<usize>> {
    vec![window.filter(|&window| window > 0); n_layers]
}

/// What both kinds of metadata begin with.
struct Plain {
    family: &'static str,
    n_layers: usize,
    hidden_size: usize,
    n_heads: usize,
    n_kv_heads: usize,
    head_dim: usize,
    eps: f32,
}

impl Plain {
    /// These facts; what is left out is as in Llama, or is filled in by the caller.
    fn spec(self) -> DecoderSpec {
        DecoderSpec {
            family: self.family,
            n_layers: self.n_layers,
            hidden_size: self.hidden_size,
            n_heads: self.n_heads,
            n_kv_heads: self.n_kv_heads,
            head_dim: self.head_dim,
            intermediate_size: 0,
            vocab_size: 0,
            max_position_embeddings: 0,
            norm: NormSpec { eps: self.eps, weight_offset: 0.0 },
            norm_placement: NormPlacement::Pre,
            qk_norm: QkNorm::None,
            rope: RopeSpec {
                layout: RopeLayout::Halves,
                n_dims: self.head_dim,
                theta: DEFAULT_THETA,
                theta_sliding: None,
                scaling: RopeScaling::None,
            },
            attn_scale: (self.head_dim as f32).sqrt().recip(),
            attn_softcap: None,
            logit_softcap: None,
            sliding_window: vec![None; self.n_layers],
            activation: Activation::Silu,
            qkv_bias: false,
            tied_head: false,
            embedding_scale: 1.0,
            residual_scale: 1.0,
            logit_divisor: 1.0,
        }
    }
}
