//! Llama and what is built like it: Llama 2 and 3, SmolLM2, Mistral.
//!
//! It reads metadata and names tensors; it must never compute anything.
//!
//! Start reading at [`FAMILY`].

use crate::check::limits;
use crate::families::{Family, GgufFacts};
use crate::hf_config::HfConfig;
use crate::{DecoderSpec, LayerTensor, ModelError, RopeLayout, plain};

pub(crate) const FAMILY: Family = Family {
    gguf_architecture: "llama",
    hf_model_types: &["llama", "mistral"],
    gguf_rope_layout: RopeLayout::Interleaved,
    from_gguf,
    from_config,
    hf_layer_name: plain::hf_layer_name,
    gguf_layer_name: LayerTensor::gguf_suffix,
};

fn from_gguf(facts: &GgufFacts<'_>) -> Result<DecoderSpec, ModelError> {
    facts.refuse(&["logit_scale", "residual_scale", "embedding_scale"])?;
    let spec = plain::from_gguf(facts, RopeLayout::Interleaved)?;
    let scale = facts.f32("attention.scale")?.filter(|&scale| scale != 0.0);
    let window = facts.size("attention.sliding_window", limits::CONTEXT)?;
    Ok(DecoderSpec {
        attn_scale: scale.unwrap_or(spec.attn_scale),
        sliding_window: plain::all_slide(window, spec.n_layers),
        qkv_bias: facts.has_tensor("blk.0.attn_q.bias"),
        ..spec
    })
}

fn from_config(config: &HfConfig) -> Result<DecoderSpec, ModelError> {
    let spec = plain::from_config(config, "llama")?;
    let window = config.size("sliding_window", limits::CONTEXT)?;
    Ok(DecoderSpec { sliding_window: plain::all_slide(window, spec.n_layers), ..spec })
}
