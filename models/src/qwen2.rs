//! Qwen 2 and 2.5: Llama with biases of q, k and v.
//!
//! It reads metadata and names tensors; it must never compute anything.
//!
//! Start reading at [`FAMILY`].

use crate::check::limits;
use crate::families::{Family, GgufFacts};
use crate::hf_config::HfConfig;
use crate::{DecoderSpec, LayerTensor, ModelError, RopeLayout, plain};

pub(crate) const FAMILY: Family = Family {
    gguf_architecture: "qwen2",
    hf_model_types: &["qwen2"],
    gguf_rope_layout: RopeLayout::Halves,
    from_gguf,
    from_config,
    hf_layer_name: plain::hf_layer_name,
    gguf_layer_name: LayerTensor::gguf_suffix,
};

fn from_gguf(facts: &GgufFacts<'_>) -> Result<DecoderSpec, ModelError> {
    Ok(DecoderSpec { qkv_bias: true, ..plain::from_gguf(facts, RopeLayout::Halves)? })
}

fn from_config(config: &HfConfig) -> Result<DecoderSpec, ModelError> {
    let spec = plain::from_config(config, "qwen2")?;
    let sliding_window = windows(config, spec.n_layers)?;
    Ok(DecoderSpec { qkv_bias: true, sliding_window, ..spec })
}

/// Windows are switched on by a field of their own; then the layers from `max_window_layers` on have one, unless
/// `layer_types` says which.
pub(crate) fn windows(
    config: &HfConfig,
    n_layers: usize,
) -> Result<Vec<Option<usize>>, ModelError> {
    if !config.bool("use_sliding_window")?.unwrap_or(false) {
        return Ok(vec![None; n_layers]);
    }
    let window = config.need_size("sliding_window", limits::CONTEXT)?;
    let slides = match config.layer_types(n_layers)? {
        Some(slides) => slides,
        None => {
            let first = config.need_size("max_window_layers", limits::LAYERS)?;
            (0..n_layers).map(|layer_idx| layer_idx >= first).collect()
        }
    };
    Ok(slides.into_iter().map(|slides| slides.then_some(window)).collect())
}
