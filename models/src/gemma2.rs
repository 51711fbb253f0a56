//! Gemma 2: soft caps on attention and logits, norms around both blocks, and a window in every second layer.
//!
//! It reads metadata and names tensors; it must never compute anything.
//!
//! Start reading at [`FAMILY`].

use crate::check::limits;
use crate::families::{Family, GgufFacts};
use crate::gemma3::windows;
use crate::hf_config::HfConfig;
use crate::{
    Activation, DecoderSpec, LayerTensor, ModelError, NormPlacement, NormSpec, QkNorm, RopeLayout,
    RopeSpec, rope,
};

pub(crate) const FAMILY: Family = Family {
    gguf_architecture: "gemma2",
    hf_model_types: &["gemma2"],
    gguf_rope_layout: RopeLayout::Halves,
    from_gguf,
    from_config,
    hf_layer_name: LayerTensor::hf_suffix,
    gguf_layer_name: LayerTensor::gguf_suffix,
};

const DEFAULT_THETA: f32 = 10_000.0;
const DEFAULT_WINDOW: usize = 4096;
/// The first layer slides, the second sees everything, and so on.
const PATTERN: usize = 2;
const DEFAULT_ATTN_SOFTCAP: f32 = 50.0;
const DEFAULT_LOGIT_SOFTCAP: f32 = 30.0;
/// The 27B model alone scales attention by the width per head; its GGUF files do not say so.
const N_LAYERS_27B: usize = 46;

/// What both kinds of metadata say.
struct Facts {
    n_layers: usize,
    hidden_size: usize,
    n_heads: usize,
    n_kv_heads: usize,
    head_dim: usize,
    window: usize,
    pattern: usize,
    attn_scale: f32,
    eps: f32,
    rope: RopeSpec,
    softcaps: [Option<f32>; 2],
}

impl Facts {
    /// These facts; sizes that are left out are filled in by the caller.
    fn spec(self) -> DecoderSpec {
        let [attn_softcap, logit_softcap] = self.softcaps;
        DecoderSpec {
            family: "gemma2",
            n_layers: self.n_layers,
            hidden_size: self.hidden_size,
            n_heads: self.n_heads,
            n_kv_heads: self.n_kv_heads,
            head_dim: self.head_dim,
            intermediate_size: 0,
            vocab_size: 0,
            max_position_embeddings: 0,
            norm: NormSpec { eps: self.eps, weight_offset: 0.0 },
            norm_placement: NormPlacement::PreAndPost,
            qk_norm: QkNorm::None,
            rope: self.rope,
            attn_scale: self.attn_scale,
            attn_softcap,
            logit_softcap,
            sliding_window: windows(self.n_layers, self.window, self.pattern),
            activation: Activation::GeluTanh,
            qkv_bias: false,
            tied_head: true,
            embedding_scale: (self.hidden_size as f32).sqrt(),
            residual_scale: 1.0,
            logit_divisor: 1.0,
        }
    }
}

fn from_gguf(facts: &GgufFacts<'_>) -> Result<DecoderSpec, ModelError> {
    facts.refuse(&["expert_count"])?;
    let n_layers = facts.need_size("block_count", limits::LAYERS)?;
    let hidden_size = facts.need_size("embedding_length", limits::WIDTH)?;
    let n_heads = facts.need_size("attention.head_count", limits::HEADS)?;
    let head_dim = facts.size("attention.key_length", limits::HEAD_DIM)?.unwrap_or(256);
    let scale_dim = if n_layers == N_LAYERS_27B { hidden_size / n_heads.max(1) } else { head_dim };
    let scale = facts.f32("attention.scale")?.filter(|&scale| scale != 0.0);
    let window = facts.size("attention.sliding_window", limits::CONTEXT)?;
    let pattern = facts.size("attention.sliding_window_pattern", limits::LAYERS)?;
    // 0 stands for no cap; a file that says nothing is older than its key.
    let softcap = |name, default| {
        let cap = facts.f32(name)?.unwrap_or(default);
        Ok::<_, ModelError>(Some(cap).filter(|&cap| cap != 0.0))
    };
    let spec = Facts {
        n_layers,
        hidden_size,
        n_heads,
        n_kv_heads: facts.need_size("attention.head_count_kv", limits::HEADS)?,
        head_dim,
        window: window.unwrap_or(DEFAULT_WINDOW),
        pattern: pattern.unwrap_or(PATTERN),
        attn_scale: scale.unwrap_or((scale_dim as f32).sqrt().recip()),
        eps: facts.need_f32("attention.layer_norm_rms_epsilon")?,
        rope: RopeSpec {
            layout: RopeLayout::Halves,
            n_dims: head_dim,
            theta: facts.f32("rope.freq_base")?.unwrap_or(DEFAULT_THETA),
            theta_sliding: None,
            scaling: rope::from_gguf(facts)?,
        },
        softcaps: [
            softcap("attn_logit_softcapping", DEFAULT_ATTN_SOFTCAP)?,
            softcap("final_logit_softcapping", DEFAULT_LOGIT_SOFTCAP)?,
        ],
    };
    Ok(DecoderSpec {
        intermediate_size: facts.need_size("feed_forward_length", limits::WIDTH)?,
        vocab_size: facts.vocab_size()?,
        max_position_embeddings: facts.need_size("context_length", limits::CONTEXT)?,
        tied_head: !facts.has_tensor("output.weight"),
        ..spec.spec()
    })
}

fn from_config(config: &HfConfig) -> Result<DecoderSpec, ModelError> {
    config.refuse_true("attention_bias")?;
    config.refuse_true("use_bidirectional_attention")?;
    config.refuse_other("hidden_activation", "gelu_pytorch_tanh")?;
    let n_layers = config.need_size("num_hidden_layers", limits::LAYERS)?;
    let hidden_size = config.need_size("hidden_size", limits::WIDTH)?;
    let head_dim = config.size("head_dim", limits::HEAD_DIM)?.unwrap_or(256);
    let theta = rope::theta(config)?.unwrap_or(DEFAULT_THETA);
    let scale_dim = config.f32("query_pre_attn_scalar")?.unwrap_or(256.0);
    let window = config.size("sliding_window", limits::CONTEXT)?.unwrap_or(DEFAULT_WINDOW);
    let spec = Facts {
        n_layers,
        hidden_size,
        n_heads: config.size("num_attention_heads", limits::HEADS)?.unwrap_or(8),
        n_kv_heads: config.size("num_key_value_heads", limits::HEADS)?.unwrap_or(4),
        head_dim,
        window,
        pattern: PATTERN,
        attn_scale: scale_dim.sqrt().recip(),
        eps: config.f32("rms_norm_eps")?.unwrap_or(1e-6),
        rope: RopeSpec {
            layout: RopeLayout::Halves,
            n_dims: head_dim,
            theta,
            theta_sliding: None,
            scaling: rope::from_config(config, head_dim, theta)?,
        },
        softcaps: [
            config.f32_or("attn_logit_softcapping", DEFAULT_ATTN_SOFTCAP)?,
            config.f32_or("final_logit_softcapping", DEFAULT_LOGIT_SOFTCAP)?,
        ],
    };
    let spec = spec.spec();
    Ok(DecoderSpec {
        intermediate_size: config.need_size("intermediate_size", limits::WIDTH)?,
        vocab_size: config.size("vocab_size", limits::VOCAB)?.unwrap_or(256_000),
        max_position_embeddings: config
            .size("max_position_embeddings", limits::CONTEXT)?
            .unwrap_or(8192),
        norm: NormSpec { weight_offset: 1.0, ..spec.norm },
        sliding_window: match config.layer_types(n_layers)? {
            Some(sliding) => sliding.into_iter().map(|slides| slides.then_some(window)).collect(),
            None => spec.sliding_window.clone(),
        },
        tied_head: config.bool("tie_word_embeddings")?.unwrap_or(true),
        ..spec
    })
}
