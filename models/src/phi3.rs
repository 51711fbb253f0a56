//! Phi 3, 3.5 and 4 mini: Llama whose q, k and v are one tensor, gate and up another.
//!
//! It reads metadata and names tensors; it must never compute anything.
//!
//! Start reading at [`FAMILY`].

use crate::check::limits;
use crate::families::{Family, GgufFacts};
use crate::hf_config::HfConfig;
use crate::{DecoderSpec, LayerTensor, ModelError, RopeLayout, plain};

pub(crate) const FAMILY: Family = Family {
    gguf_architecture: "phi3",
    hf_model_types: &["phi3"],
    gguf_rope_layout: RopeLayout::Halves,
    from_gguf,
    from_config,
    hf_layer_name,
    gguf_layer_name,
};

fn from_gguf(facts: &GgufFacts<'_>) -> Result<DecoderSpec, ModelError> {
    let spec = plain::from_gguf(facts, RopeLayout::Halves)?;
    let window = facts.size("attention.sliding_window", limits::CONTEXT)?;
    Ok(DecoderSpec { sliding_window: plain::all_slide(window, spec.n_layers), ..spec })
}

fn from_config(config: &HfConfig) -> Result<DecoderSpec, ModelError> {
    let spec = plain::from_config(config, "phi3")?;
    let window = config.size("sliding_window", limits::CONTEXT)?;
    Ok(DecoderSpec { sliding_window: plain::all_slide(window, spec.n_layers), ..spec })
}

fn hf_layer_name(tensor: LayerTensor) -> &'static str {
    match tensor {
        LayerTensor::AttnQ | LayerTensor::AttnK | LayerTensor::AttnV => "self_attn.qkv_proj.weight",
        LayerTensor::FfnGate | LayerTensor::FfnUp => "mlp.gate_up_proj.weight",
        other => plain::hf_layer_name(other),
    }
}

fn gguf_layer_name(tensor: LayerTensor) -> &'static str {
    match tensor {
        LayerTensor::AttnQ | LayerTensor::AttnK | LayerTensor::AttnV => "attn_qkv.weight",
        LayerTensor::FfnGate | LayerTensor::FfnUp => "ffn_up.weight",
        other => other.gguf_suffix(),
    }
}
