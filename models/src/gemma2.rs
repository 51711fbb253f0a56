//! Gemma 2.
//!
//! It reads metadata and names tensors; it must never compute anything.
//!
//! Start reading at [`FAMILY`].

use crate::check::limits;
use crate::families::{Family, GgufFacts};
use crate::hf_config::HfConfig;
use crate::{
    Activation, DecoderSpec, LayerTensor, ModelError, NormPlacement, NormSpec, RopeLayout, gemma3,
    plain,
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

const DEFAULT_WINDOW: usize = 4_096;
const DEFAULT_ATTN_SOFTCAP: f32 = 50.0;
const DEFAULT_LOGIT_SOFTCAP: f32 = 30.0;
/// Every second layer sees everything.
const PATTERN: usize = 2;
/// The 27B model alone scales attention by the width per head; its GGUF files do not say so.
const N_LAYERS_27B: usize = 46;

fn from_gguf(facts: &GgufFacts<'_>) -> Result<DecoderSpec, ModelError> {
    let spec = plain::from_gguf(facts, RopeLayout::Halves)?;
    let window = facts.size("attention.sliding_window", limits::CONTEXT)?;
    let attn_softcap = facts.f32("attn_logit_softcapping")?.unwrap_or(DEFAULT_ATTN_SOFTCAP);
    let logit_softcap = facts.f32("final_logit_softcapping")?.unwrap_or(DEFAULT_LOGIT_SOFTCAP);
    let is_27b = spec.n_layers == N_LAYERS_27B;
    let scale_dim = if is_27b { spec.hidden_size / spec.n_heads } else { spec.head_dim };
    let window = window.unwrap_or(DEFAULT_WINDOW);
    Ok(as_gemma(DecoderSpec {
        attn_scale: (scale_dim as f32).sqrt().recip(),
        attn_softcap: Some(attn_softcap),
        logit_softcap: Some(logit_softcap),
        sliding_window: gemma3::windows(spec.n_layers, window, PATTERN),
        ..spec
    }))
}

fn from_config(config: &HfConfig) -> Result<DecoderSpec, ModelError> {
    config.refuse_true("use_bidirectional_attention")?;
    config.refuse_other("hidden_activation", "gelu_pytorch_tanh")?;
    let spec = plain::from_config(&config.without("hidden_act"), "gemma2")?;
    let scale_dim = config.f32("query_pre_attn_scalar")?.unwrap_or(256.0);
    let window = config.size("sliding_window", limits::CONTEXT)?.unwrap_or(DEFAULT_WINDOW);
    Ok(as_gemma(DecoderSpec {
        attn_scale: scale_dim.sqrt().recip(),
        attn_softcap: config.f32("attn_logit_softcapping")?,
        logit_softcap: config.f32("final_logit_softcapping")?,
        norm: NormSpec { weight_offset: 1.0, ..spec.norm },
        sliding_window: match config.layer_types(spec.n_layers)? {
            Some(sliding) => sliding.into_iter().map(|slides| slides.then_some(window)).collect(),
            None => gemma3::windows(spec.n_layers, window, PATTERN),
        },
        tied_head: config.bool("tie_word_embeddings")?.unwrap_or(true),
        ..spec
    }))
}

fn as_gemma(spec: DecoderSpec) -> DecoderSpec {
    DecoderSpec {
        norm_placement: NormPlacement::PreAndPost,
        activation: Activation::GeluTanh,
        embedding_scale: (spec.hidden_size as f32).sqrt(),
        ..spec
    }
}
