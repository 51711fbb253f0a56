//! Qwen 3: Llama with norms of each head of q and k.
//!
//! It reads metadata and names tensors; it must never compute anything.
//!
//! Start reading at [`FAMILY`].

use crate::families::{Family, GgufFacts};
use crate::hf_config::HfConfig;
use crate::{DecoderSpec, LayerTensor, ModelError, QkNorm, RopeLayout, plain, qwen2};

pub(crate) const FAMILY: Family = Family {
    gguf_architecture: "qwen3",
    hf_model_types: &["qwen3"],
    gguf_rope_layout: RopeLayout::Halves,
    from_gguf,
    from_config,
    hf_layer_name: plain::hf_layer_name,
    gguf_layer_name: LayerTensor::gguf_suffix,
};

fn from_gguf(facts: &GgufFacts<'_>) -> Result<DecoderSpec, ModelError> {
    Ok(DecoderSpec { qk_norm: QkNorm::PerHead, ..plain::from_gguf(facts, RopeLayout::Halves)? })
}

fn from_config(config: &HfConfig) -> Result<DecoderSpec, ModelError> {
    let spec = plain::from_config(config, "qwen3")?;
    let sliding_window = qwen2::windows(config, spec.n_layers)?;
    Ok(DecoderSpec { qk_norm: QkNorm::PerHead, sliding_window, ..spec })
}
