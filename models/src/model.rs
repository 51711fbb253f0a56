//! An opened model: its spec, its tokenizer's source, and its weights by role.
//!
//! It must never know how a decoder is run, nor how the files were found.
//!
//! Start reading at [`Model`].

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::path::PathBuf;
use std::sync::OnceLock;

use lm_tokenizer::GgufVocab;
use lm_types::{InvalidParam, SamplingParams};
use serde::Deserialize;
use sha2::{Digest, Sha256};

use crate::families::Family;
use crate::gguf::GgufFiles;
use crate::mapped::MappedFile;
use crate::random::random_tensor;
use crate::roles::{layer_shapes, tensor_shape, tensor_shapes};
use crate::safetensors::SafeTensorsFolder;
use crate::{DecoderSpec, LayerTensor, ModelError, TensorRole, TensorType, TensorView};

/// A decoder whose tensors were all found and have the shapes that the spec asks for.
#[derive(Debug)]
pub struct Model {
    /// What the file calls itself, else the file's or folder's name.
    pub name: String,
    /// The decoder.
    pub spec: DecoderSpec,
    /// Where the tokenizer comes from.
    pub tokenizer: TokenizerSource,
    /// A Jinja template that renders conversations; base models have none.
    pub chat_template: Option<String>,
    /// Begins a text.
    pub bos: Option<u32>,
    /// Every token that ends a generation, in ascending order.
    pub eos: Vec<u32>,
    /// The one that the files themselves call the end of a sequence: what chat templates name
    /// `eos_token`.
    pub eos_token: Option<u32>,
    /// What the model's authors recommend, when the files say it.
    pub default_sampling: Option<DefaultSampling>,
    pub(crate) files: Files,
    pub(crate) naming: Naming,
    pub(crate) random_seed: Option<u64>,
    pub(crate) recorded_digest: Option<[u8; 32]>,
    pub(crate) digest: OnceLock<[u8; 32]>,
}

/// Where a model's tokenizer comes from.
#[derive(Clone, Debug, PartialEq)]
pub enum TokenizerSource {
    /// The metadata of a GGUF file.
    Gguf(Box<GgufVocab>),
    /// Files of a safetensors folder.
    HuggingFace {
        /// tokenizer.json; it exists.
        tokenizer_json: PathBuf,
        /// tokenizer_config.json, when it exists.
        tokenizer_config: Option<PathBuf>,
    },
    /// Bytes stand for themselves; no file needed.
    Placeholder,
}

/// Sampling parameters that the model's authors recommend, each within its range; `None` where they
/// say nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DefaultSampling {
    /// As `temperature` of lm-types' `SamplingParams`.
    pub temperature: Option<f32>,
    /// As `top_k` of lm-types' `SamplingParams`.
    pub top_k: Option<u32>,
    /// As `top_p` of lm-types' `SamplingParams`.
    pub top_p: Option<f32>,
    /// As `min_p` of lm-types' `SamplingParams`.
    pub min_p: Option<f32>,
    /// As `repetition_penalty` of lm-types' `SamplingParams`.
    pub repetition_penalty: Option<f32>,
}

impl DefaultSampling {
    /// Itself, unless it says nothing. `key` is what the file calls a parameter.
    ///
    /// # Errors
    /// `Invalid` with the first parameter that is outside of its range.
    pub(crate) fn checked(
        self,
        key: impl Fn(&str) -> String,
    ) -> Result<Option<DefaultSampling>, ModelError> {
        let neutral = SamplingParams::default();
        let params = SamplingParams {
            temperature: self.temperature.unwrap_or(neutral.temperature),
            top_k: self.top_k.unwrap_or(neutral.top_k),
            top_p: self.top_p.unwrap_or(neutral.top_p),
            min_p: self.min_p.unwrap_or(neutral.min_p),
            repetition_penalty: self.repetition_penalty.unwrap_or(neutral.repetition_penalty),
            ..neutral
        };
        let outside = |bad: InvalidParam| ModelError::invalid(key(bad.name), bad.value, bad.limit);
        params.validate().map_err(outside)?;
        Ok((self != DefaultSampling::default()).then_some(self))
    }
}

/// The mapped files.
#[derive(Debug)]
pub(crate) enum Files {
    Gguf(GgufFiles),
    SafeTensors(SafeTensorsFolder),
}

/// How a role becomes a tensor's name.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Naming {
    /// In safetensors what stands before `layers.N.`, `embed_tokens.` and `norm.`.
    hf_prefix: Option<&'static str>,
    layer_name: fn(LayerTensor) -> &'static str,
}

/// A tensor of a file, and the roles whose rows it holds, one after another.
#[derive(Clone, Debug)]
pub(crate) struct StoredTensor {
    pub(crate) name: String,
    pub(crate) roles: Vec<TensorRole>,
    /// `[out, in]`, of all roles.
    pub(crate) shape: Vec<usize>,
}

impl Naming {
    /// The names of a family's GGUF files.
    pub(crate) fn gguf(family: &Family) -> Naming {
        Naming { hf_prefix: None, layer_name: family.gguf_layer_name }
    }

    /// The names of a family's safetensors.
    pub(crate) fn hugging_face(family: &Family, prefix: &'static str) -> Naming {
        Naming { hf_prefix: Some(prefix), layer_name: family.hf_layer_name }
    }

    /// The name of the tensor that holds a role's rows.
    pub(crate) fn name(self, role: TensorRole) -> String {
        match (self.hf_prefix, role) {
            (Some(prefix), TensorRole::TokenEmbedding) => format!("{prefix}embed_tokens.weight"),
            (Some(prefix), TensorRole::OutputNorm) => format!("{prefix}norm.weight"),
            (Some(_), TensorRole::OutputHead) => "lm_head.weight".to_owned(),
            (Some(prefix), TensorRole::Layer(layer_idx, tensor)) => {
                format!("{prefix}layers.{layer_idx}.{}", (self.layer_name)(tensor))
            }
            (None, TensorRole::Layer(layer_idx, tensor)) => {
                format!("blk.{layer_idx}.{}", (self.layer_name)(tensor))
            }
            (None, other) => other.gguf_name(),
        }
    }

    /// Every tensor of a file that holds a decoder of this spec.
    pub(crate) fn stored(self, spec: &DecoderSpec) -> Vec<StoredTensor> {
        let mut all: Vec<StoredTensor> = Vec::new();
        let mut indexes = HashMap::new();
        for (role, shape) in tensor_shapes(spec) {
            let name = self.name(role);
            match indexes.entry(name.clone()) {
                Entry::Occupied(entry) => {
                    let stored: &mut StoredTensor = &mut all[*entry.get()];
                    stored.roles.push(role);
                    stored.shape[0] += shape[0];
                }
                Entry::Vacant(entry) => {
                    entry.insert(all.len());
                    all.push(StoredTensor { name, roles: vec![role], shape });
                }
            }
        }
        all
    }

    /// The row of its tensor at which a role's rows begin.
    fn first_row(self, spec: &DecoderSpec, role: TensorRole) -> usize {
        let TensorRole::Layer(_, wanted) = role else { return 0 };
        let name = (self.layer_name)(wanted);
        let before = layer_shapes(spec).into_iter().take_while(|(tensor, _)| *tensor != wanted);
        before.filter(|(tensor, _)| (self.layer_name)(*tensor) == name).map(|(_, s)| s[0]).sum()
    }
}

impl Files {
    /// A tensor's shape and type.
    pub(crate) fn info(&self, name: &str) -> Result<Option<(&[usize], TensorType)>, ModelError> {
        match self {
            Files::Gguf(files) => Ok(files.info(name).map(|i| (i.shape.as_slice(), i.dtype))),
            Files::SafeTensors(folder) => folder.info(name),
        }
    }

    /// Every tensor's name, in no order.
    pub(crate) fn names(&self) -> Vec<&str> {
        match self {
            Files::Gguf(files) => files.tensors().map(|info| info.name.as_str()).collect(),
            Files::SafeTensors(folder) => folder.names().collect(),
        }
    }

    /// Where the weight files are, in order.
    pub(crate) fn paths(&self) -> Vec<PathBuf> {
        self.mapped().into_iter().map(|file| file.path().to_path_buf()).collect()
    }

    /// The mapped weight files, in order.
    fn mapped(&self) -> Vec<&MappedFile> {
        match self {
            Files::Gguf(files) => files.files().collect(),
            Files::SafeTensors(folder) => folder.files().collect(),
        }
    }
}

impl Model {
    /// One tensor. Its shape is what [`tensor_shapes`] says; its type is whatever the file holds.
    ///
    /// # Errors
    /// `NoSuchRole` when a decoder of this spec has no such tensor.
    pub fn tensor(&self, role: TensorRole) -> Result<TensorView<'_>, ModelError> {
        let shape = self.shape(role)?;
        if let Some(seed) = self.random_seed {
            return Ok(random_tensor(role, shape, seed, self.spec.norm.weight_offset));
        }
        let name = self.naming.name(role);
        let found = match &self.files {
            Files::Gguf(files) => files.tensor(&name),
            Files::SafeTensors(folder) => folder.tensor(&name)?,
        };
        let tensor = found.ok_or(ModelError::MissingTensor { name })?;
        if tensor.shape == shape {
            return Ok(tensor);
        }
        let first = self.naming.first_row(&self.spec, role);
        Ok(tensor.into_rows(first..first + shape[0]))
    }

    /// How one tensor's numbers are stored, without touching them.
    ///
    /// # Errors
    /// As [`Self::tensor`].
    pub fn tensor_type(&self, role: TensorRole) -> Result<TensorType, ModelError> {
        self.shape(role)?;
        if self.random_seed.is_some() {
            return Ok(TensorType::F32);
        }
        let name = self.naming.name(role);
        let dtype = self.files.info(&name)?.map(|(_, dtype)| dtype);
        dtype.ok_or(ModelError::MissingTensor { name })
    }

    /// Gives back the memory that the weights took as they were read, on Unix. They can be read again, from the files.
    pub fn release_pages(&self) {
        self.files.mapped().into_iter().for_each(MappedFile::release_pages);
    }

    /// Bytes of a tensor that is in no file; 0 of one that is.
    ///
    /// # Errors
    /// As [`Self::tensor`].
    pub fn made_up_bytes(&self, role: TensorRole) -> Result<usize, ModelError> {
        let n: usize = self.shape(role)?.iter().product();
        Ok(if self.random_seed.is_some() { n * size_of::<f32>() } else { 0 })
    }

    /// Bytes of the weight files; with random weights, of the f32 weights that stand for them.
    #[must_use]
    pub fn size_bytes(&self) -> u64 {
        if self.random_seed.is_some() {
            return self.n_params() * size_of::<f32>() as u64;
        }
        self.files.mapped().iter().map(|file| file.bytes().len() as u64).sum()
    }

    /// Numbers in all tensors.
    #[must_use]
    pub fn n_params(&self) -> u64 {
        let shapes = tensor_shapes(&self.spec);
        shapes.iter().map(|(_, shape)| shape.iter().product::<usize>() as u64).sum()
    }

    /// SHA-256 of the weights. For one file it is the file's own, as a card or an install recorded
    /// it; for several, that of the files' digests in order. Read from the record when there is
    /// one, else worked out over all bytes at the first call, which takes about a second per GB.
    pub fn weights_digest(&self) -> [u8; 32] {
        *self.digest.get_or_init(|| match (self.random_seed, self.recorded_digest) {
            (Some(seed), _) => {
                let spec = format!("random weights, seed {seed}, of {:?}", self.spec);
                Sha256::digest(spec).into()
            }
            (None, Some(recorded)) => recorded,
            (None, None) => {
                let files = self.files.mapped().into_iter();
                let digests = files.map(|file| Sha256::digest(file.bytes()).into());
                combine_digests(&digests.collect::<Vec<_>>())
            }
        })
    }

    fn shape(&self, role: TensorRole) -> Result<Vec<usize>, ModelError> {
        tensor_shape(&self.spec, role).ok_or_else(|| ModelError::NoSuchRole {
            family: self.spec.family,
            role: role.gguf_name(),
        })
    }
}

/// The digest of a model from those of its weight files.
pub(crate) fn combine_digests(digests: &[[u8; 32]]) -> [u8; 32] {
    match digests {
        [one] => *one,
        several => {
            let mut all = Sha256::new();
            several.iter().for_each(|digest| all.update(digest));
            all.finalize().into()
        }
    }
}
