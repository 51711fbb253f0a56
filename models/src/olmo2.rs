//! OLMo 2: norms behind attention and MLP instead of before them, and one of all heads of q and of k.
//!
//! It reads metadata and names tensors; it must never compute anything.
//!
//! Start reading at [`FAMILY`].

use crate::families::{Family, GgufFacts};
use crate::hf_config::HfConfig;
use crate::{DecoderSpec, LayerTensor, ModelError, NormPlacement, QkNorm, RopeLayout, plain};

pub(crate) const FAMILY: Family = Family {
    gguf_architecture: "olmo2",
    hf_model_types: &["olmo2"],
    gguf_rope_layout: RopeLayout::Halves,
    from_gguf,
    from_config,
    hf_layer_name: LayerTensor::hf_suffix,
    gguf_layer_name: LayerTensor::gguf_suffix,
};

fn from_gguf(facts: &GgufFacts<'_>) -> Result<DecoderSpec, ModelError> {
    // OLMo 3 has the same name there, and windows.
    facts.refuse(&["attention.sliding_window"])?;
    plain::from_gguf(facts, RopeLayout::Halves).map(as_olmo)
}

fn from_config(config: &HfConfig) -> Result<DecoderSpec, ModelError> {
    plain::from_config(config, "olmo2").map(as_olmo)
}

fn as_olmo(spec: DecoderSpec) -> DecoderSpec {
    DecoderSpec { norm_placement: NormPlacement::Post, qk_norm: QkNorm::Whole, ..spec }
}
