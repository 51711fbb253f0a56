//! The table of families, and what a family's file reads its facts from.
//!
//! It must never know an executor. A new family is one file and one row here.
//!
//! Start reading at [`FAMILIES`].

use crate::gguf::{GgufFiles, Metadata};
use crate::hf_config::HfConfig;
use crate::{
    DecoderSpec, LayerTensor, ModelError, RopeLayout, TensorType, gemma2, gemma3, granite, llama,
    olmo2, phi3, qwen2, qwen3,
};

/// How one family's files are read.
pub(crate) struct Family {
    /// `general.architecture` of its GGUF files.
    pub(crate) gguf_architecture: &'static str,
    /// `model_type` of its config.json files.
    pub(crate) hf_model_types: &'static [&'static str],
    /// How its GGUF files lay the rows of q and k.
    pub(crate) gguf_rope_layout: RopeLayout,
    /// Reads GGUF metadata.
    pub(crate) from_gguf: fn(&GgufFacts<'_>) -> Result<DecoderSpec, ModelError>,
    /// Reads a config.json.
    pub(crate) from_config: fn(&HfConfig) -> Result<DecoderSpec, ModelError>,
    /// What a layer's tensor is called in safetensors, after `model.layers.N.`. Tensors with one name
    /// are one there: their rows one after another, in the order of [`crate::tensor_shapes`].
    pub(crate) hf_layer_name: fn(LayerTensor) -> &'static str,
    /// As `hf_layer_name`, in GGUF after `blk.N.`.
    pub(crate) gguf_layer_name: fn(LayerTensor) -> &'static str,
}

const KEY: &str = "general.architecture";

/// Every family that lastmile runs.
pub(crate) const FAMILIES: &[Family] = &[
    llama::FAMILY,
    qwen2::FAMILY,
    qwen3::FAMILY,
    phi3::FAMILY,
    gemma2::FAMILY,
    gemma3::FAMILY,
    granite::FAMILY,
    olmo2::FAMILY,
];

/// The family of a GGUF file.
///
/// # Errors
/// `MissingKey` or `Unsupported`, naming the architecture.
pub(crate) fn of_gguf(metadata: &Metadata) -> Result<&'static Family, ModelError> {
    named(metadata.str(KEY)?.ok_or_else(|| ModelError::MissingKey { key: KEY.to_owned() })?)
}

/// The family of an architecture's name.
///
/// # Errors
/// `Unsupported`, naming it.
pub(crate) fn named(name: &str) -> Result<&'static Family, ModelError> {
    FAMILIES.iter().find(|family| family.gguf_architecture == name).ok_or_else(|| {
        let known: Vec<_> = FAMILIES.iter().map(|family| family.gguf_architecture).collect();
        ModelError::unsupported(KEY, name, known.join(", "))
    })
}

/// The family of a config.json.
///
/// # Errors
/// `MissingKey` or `Unsupported`, naming the model type.
pub(crate) fn of_config(config: &HfConfig) -> Result<&'static Family, ModelError> {
    const KEY: &str = "model_type";
    let name = config.str(KEY)?.ok_or_else(|| ModelError::MissingKey { key: KEY.to_owned() })?;
    FAMILIES.iter().find(|family| family.hf_model_types.contains(&name)).ok_or_else(|| {
        let known: Vec<_> =
            FAMILIES.iter().flat_map(|family| family.hf_model_types).copied().collect();
        ModelError::unsupported(KEY, name, known.join(", "))
    })
}

/// The metadata and the tensor index of a GGUF file. Keys are given without the architecture in
/// front.
pub(crate) struct GgufFacts<'a> {
    files: &'a GgufFiles,
    architecture: &'static str,
}

impl<'a> GgufFacts<'a> {
    /// The facts of a file of this family.
    pub(crate) fn new(files: &'a GgufFiles, family: &Family) -> Self {
        GgufFacts { files, architecture: family.gguf_architecture }
    }

    /// The family's name.
    pub(crate) fn family(&self) -> &'static str {
        self.architecture
    }

    /// The key as the file holds it.
    pub(crate) fn key(&self, name: &str) -> String {
        format!("{}.{name}", self.architecture)
    }

    /// A size of at most `limit`.
    ///
    /// # Errors
    /// `Invalid` when it is no whole number, `TooLarge` over the limit.
    pub(crate) fn size(&self, name: &str, limit: usize) -> Result<Option<usize>, ModelError> {
        let Some(value) = self.files.metadata().u64(&self.key(name))? else { return Ok(None) };
        match usize::try_from(value) {
            Ok(size) if size <= limit => Ok(Some(size)),
            _ => Err(ModelError::TooLarge { what: self.key(name), value, limit: limit as u64 }),
        }
    }

    /// As [`Self::size`], and must be there.
    ///
    /// # Errors
    /// As [`Self::size`]; `MissingKey`.
    pub(crate) fn need_size(&self, name: &str, limit: usize) -> Result<usize, ModelError> {
        self.size(name, limit)?.ok_or_else(|| ModelError::MissingKey { key: self.key(name) })
    }

    /// A number.
    ///
    /// # Errors
    /// `Invalid` when it is something else.
    pub(crate) fn f32(&self, name: &str) -> Result<Option<f32>, ModelError> {
        self.files.metadata().f32(&self.key(name))
    }

    /// As [`Self::f32`], and must be there.
    ///
    /// # Errors
    /// As [`Self::f32`]; `MissingKey`.
    pub(crate) fn need_f32(&self, name: &str) -> Result<f32, ModelError> {
        self.f32(name)?.ok_or_else(|| ModelError::MissingKey { key: self.key(name) })
    }

    /// A text.
    ///
    /// # Errors
    /// `Invalid` when it is something else.
    pub(crate) fn str(&self, name: &str) -> Result<Option<&'a str>, ModelError> {
        self.files.metadata().str(&self.key(name))
    }

    /// Refuses keys whose meaning is not supported, unless they are 0.
    ///
    /// # Errors
    /// `Unsupported` with the first key that is there.
    pub(crate) fn refuse(&self, names: &[&str]) -> Result<(), ModelError> {
        for name in names {
            let key = self.key(name);
            let metadata = self.files.metadata();
            let zero = matches!(metadata.u64(&key), Ok(None | Some(0)))
                || matches!(metadata.f32(&key), Ok(Some(0.0)));
            if !zero {
                let found = metadata.get(&key).map(|value| format!("{value:?}"));
                return Err(ModelError::unsupported(key, found.unwrap_or_default(), "none"));
            }
        }
        Ok(())
    }

    /// Whether the file holds a tensor.
    pub(crate) fn has_tensor(&self, name: &str) -> bool {
        self.files.info(name).is_some()
    }

    /// Rows of the embedding: metadata need not say it.
    ///
    /// # Errors
    /// `MissingTensor` when there is no embedding.
    pub(crate) fn vocab_size(&self) -> Result<usize, ModelError> {
        let name = "token_embd.weight";
        let info = self.files.info(name);
        let info = info.ok_or_else(|| ModelError::MissingTensor { name: name.to_owned() })?;
        Ok(info.shape[0])
    }

    /// A tensor of numbers that each divide a frequency, when the file holds it. \[n_dims / 2\]
    ///
    /// # Errors
    /// `Unsupported` when it is not F32.
    pub(crate) fn rope_factors(&self, name: &str) -> Result<Option<Vec<f32>>, ModelError> {
        let Some(tensor) = self.files.tensor(name) else { return Ok(None) };
        if tensor.dtype != TensorType::F32 {
            let what = format!("tensor {name}: the type");
            return Err(ModelError::unsupported(what, tensor.dtype, "F32"));
        }
        let (values, _) = tensor.data.as_chunks::<4>();
        Ok(Some(values.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()))
    }
}

/// Tensors that are read into the spec when a model is opened; no role stands for them.
pub(crate) mod rope_factors {
    pub(crate) const ALL: &str = "rope_freqs.weight";
    pub(crate) const SHORT: &str = "rope_factors_short.weight";
    pub(crate) const LONG: &str = "rope_factors_long.weight";
}
