//! Granite 3, dense: Llama with a multiplier at four places.
//!
//! It reads metadata and names tensors; it must never compute anything.
//!
//! Start reading at [`FAMILY`].

use crate::families::{Family, GgufFacts};
use crate::hf_config::HfConfig;
use crate::{DecoderSpec, LayerTensor, ModelError, RopeLayout, plain};

pub(crate) const FAMILY: Family = Family {
    gguf_architecture: "granite",
    hf_model_types: &["granite"],
    gguf_rope_layout: RopeLayout::Interleaved,
    from_gguf,
    from_config,
    hf_layer_name: plain::hf_layer_name,
    gguf_layer_name: LayerTensor::gguf_suffix,
};

fn from_gguf(facts: &GgufFacts<'_>) -> Result<DecoderSpec, ModelError> {
    let spec = plain::from_gguf(facts, RopeLayout::Interleaved)?;
    // 0 stands for no multiplier.
    let scale = |name, otherwise| {
        let scale = facts.f32(name)?.filter(|&scale| scale != 0.0);
        Ok::<_, ModelError>(scale.unwrap_or(otherwise))
    };
    Ok(DecoderSpec {
        attn_scale: scale("attention.scale", spec.attn_scale)?,
        embedding_scale: scale("embedding_scale", 1.0)?,
        residual_scale: scale("residual_scale", 1.0)?,
        logit_divisor: scale("logit_scale", 1.0)?,
        ..spec
    })
}

fn from_config(config: &HfConfig) -> Result<DecoderSpec, ModelError> {
    let scale = |name| Ok::<_, ModelError>(config.f32(name)?.unwrap_or(1.0));
    Ok(DecoderSpec {
        attn_scale: scale("attention_multiplier")?,
        embedding_scale: scale("embedding_multiplier")?,
        residual_scale: scale("residual_multiplier")?,
        logit_divisor: scale("logits_scaling")?,
        ..plain::from_config(config, "granite")?
    })
}
