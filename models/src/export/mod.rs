//! A model as the GGUF file that it could be: its metadata, and each tensor as GGUF names and lays it.
//!
//! It must never turn numbers of one type into another: whoever writes the file does.
//!
//! Start reading at [`Export`].

mod recipe;
mod shape;
mod spec_keys;
mod vocab_keys;

#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::collections::HashMap;
use std::path::{Path, PathBuf};

pub use recipe::{Assigned, RECIPES, Recipe};
pub use shape::{SHAPES, shape};

use crate::families::{self, rope_factors};
use crate::gguf::{GgufFiles, Metadata, Value};
use crate::model::{Files, Naming, StoredTensor};
use crate::random::random_tensor;
use crate::roles::tensor_shape;
use crate::{
    DecoderSpec, LayerTensor, Model, ModelError, NormSpec, RopeLayout, RopeScaling, RopeSpec,
    TensorRole, TensorType, TensorView, TokenizerSource, WeightsFrom,
};

/// ggml's version of its block layouts. Source: `GGML_QNT_VERSION` of ggml.
const QUANTIZATION_VERSION: u32 = 2;

/// A model that can be written as one GGUF file.
#[derive(Debug)]
pub struct Export {
    weights: Weights,
    metadata: Metadata,
    tensors: Vec<ExportTensor>,
    /// The decoder as the written file must say it.
    spec: DecoderSpec,
    /// Tokens that must end a generation in the written file too.
    eos: Vec<u32>,
}

/// One tensor of the file.
#[derive(Clone, Debug, PartialEq)]
pub struct ExportTensor {
    /// GGUF's name.
    pub name: String,
    /// Whose rows it holds, one after another; none for what is kept as it stands, such as the factors of RoPE.
    pub roles: Vec<TensorRole>,
    /// `[out, in]`, row-major.
    pub shape: Vec<usize>,
    /// How the source stores it.
    pub dtype: TensorType,
    /// Must be added to every number: GGUF's norms have no offset.
    pub add: f32,
}

#[derive(Debug)]
enum Weights {
    Model(Box<Model>),
    Random { spec: Box<DecoderSpec>, seed: u64 },
}

impl Weights {
    fn spec(&self) -> &DecoderSpec {
        match self {
            Weights::Model(model) => &model.spec,
            Weights::Random { spec, .. } => spec,
        }
    }

    fn tensor_type(&self, role: TensorRole) -> Result<TensorType, ModelError> {
        match self {
            Weights::Model(model) => model.tensor_type(role),
            Weights::Random { .. } => Ok(TensorType::F32),
        }
    }
}

impl Export {
    /// A model from its files. A GGUF file keeps its metadata and its tensors' order; safetensors
    /// get both anew, with the tokenizer of `tokenizer_from` (a GGUF file) or else their own.
    ///
    /// # Errors
    /// `Unsupported` when a tokenizer.json has no equal in GGUF.
    pub fn of(model: Model, tokenizer_from: Option<&Path>) -> Result<Export, ModelError> {
        if let Files::Gguf(files) = &model.files {
            let (mut metadata, infos) = files.reread()?;
            // The file that is written is one file, aligned by the default.
            metadata.retain(|key| !key.starts_with("split.") && key != "general.alignment");
            let stored = model.naming.stored(&model.spec).into_iter();
            let mut roles: HashMap<String, Vec<TensorRole>> =
                stored.map(|stored| (stored.name, stored.roles)).collect();
            let tensors = infos.into_iter().map(|info| ExportTensor {
                roles: roles.remove(&info.name).unwrap_or_default(),
                name: info.name,
                shape: info.shape,
                dtype: info.dtype,
                add: 0.0,
            });
            let tensors = tensors.collect();
            let (spec, eos) = (model.spec.clone(), model.eos.clone());
            return Ok(Export {
                weights: Weights::Model(model.into()),
                metadata,
                tensors,
                spec,
                eos,
            });
        }
        let mut metadata = Metadata::default();
        let vocab_size = model.spec.vocab_size;
        let mut eos = model.eos.clone();
        match (tokenizer_from, &model.tokenizer) {
            (Some(path), _) => {
                let n_tokens = vocab_keys::copy(path, &mut metadata)?;
                if n_tokens != vocab_size {
                    let wanted = format!("{vocab_size}, the rows of the embedding");
                    let what = "the number of tokens";
                    return Err(ModelError::invalid(what, n_tokens, wanted).in_file(path));
                }
                eos.clear();
            }
            (None, TokenizerSource::HuggingFace { tokenizer_json, tokenizer_config }) => {
                let vocab = vocab_keys::read(&model, tokenizer_json, tokenizer_config.as_deref())?;
                vocab_keys::write(vocab, &mut metadata);
            }
            (None, _) => {}
        }
        if let Some(template) = &model.chat_template {
            metadata.set("tokenizer.chat_template", Value::String(template.clone()));
        }
        spec_keys::write_sampling(&mut metadata, model.default_sampling.unwrap_or_default());
        let name = model.name.clone();
        Export::anew(Weights::Model(model.into()), &name, metadata, eos)
    }

    /// Random weights of seed `seed` for the decoder `spec`, with the tokenizer of a GGUF file: as
    /// many rows of the embedding as it has tokens.
    ///
    /// # Errors
    /// What is wrong with the tokenizer's file.
    pub fn random(
        name: &str,
        mut spec: DecoderSpec,
        seed: u64,
        tokenizer_from: &Path,
    ) -> Result<Export, ModelError> {
        let mut metadata = Metadata::default();
        spec.vocab_size = vocab_keys::copy(tokenizer_from, &mut metadata)?;
        Export::anew(Weights::Random { spec: Box::new(spec), seed }, name, metadata, Vec::new())
    }

    /// The keys and tensors of weights that are in no GGUF file yet.
    fn anew(
        weights: Weights,
        name: &str,
        mut metadata: Metadata,
        eos: Vec<u32>,
    ) -> Result<Export, ModelError> {
        let source = weights.spec();
        let family = families::named(source.family)?;
        let spec = DecoderSpec {
            norm: NormSpec { weight_offset: 0.0, ..source.norm },
            rope: RopeSpec { layout: family.gguf_rope_layout, ..source.rope.clone() },
            ..source.clone()
        };
        spec_keys::write_spec(&mut metadata, &spec, name);
        let factors = factors(&spec.rope.scaling).into_iter().map(|(name, factors)| ExportTensor {
            name: name.to_owned(),
            roles: Vec::new(),
            shape: vec![factors.len()],
            dtype: TensorType::F32,
            add: 0.0,
        });
        let mut tensors: Vec<ExportTensor> = factors.collect();
        for StoredTensor { name, roles, shape } in Naming::gguf(family).stored(&spec) {
            let is_norm = roles[0].is_norm();
            tensors.push(ExportTensor {
                dtype: weights.tensor_type(roles[0])?,
                name,
                roles,
                shape,
                add: if is_norm { source.norm.weight_offset } else { 0.0 },
            });
        }
        Ok(Export { weights, metadata, tensors, spec, eos })
    }

    /// The decoder as the written file says it.
    #[must_use]
    pub fn spec(&self) -> &DecoderSpec {
        &self.spec
    }

    /// The tensors in the order in which they are written.
    #[must_use]
    pub fn tensors(&self) -> &[ExportTensor] {
        &self.tensors
    }

    /// The metadata of a file whose tensors are stored as `recipe` says.
    #[must_use]
    pub fn metadata(&self, recipe: &Recipe) -> Metadata {
        let mut metadata = self.metadata.clone();
        metadata.set("general.file_type", Value::U32(recipe.file_type));
        metadata.set("general.quantization_version", Value::U32(QUANTIZATION_VERSION));
        metadata
    }

    /// The source's weight files; none for random weights.
    #[must_use]
    pub fn source_files(&self) -> Vec<PathBuf> {
        match &self.weights {
            Weights::Model(model) => model.files.paths(),
            Weights::Random { .. } => Vec::new(),
        }
    }

    /// Bytes of the source's weight files; of f32 tensors for random weights.
    #[must_use]
    pub fn source_bytes(&self) -> u64 {
        match &self.weights {
            Weights::Model(model) => model.size_bytes(),
            Weights::Random { .. } => {
                let n_params = |tensor: &ExportTensor| tensor.shape.iter().product::<usize>();
                (self.tensors.iter().map(n_params).sum::<usize>() * size_of::<f32>()) as u64
            }
        }
    }

    /// One tensor's rows in the order of the file, with the source's type; [`ExportTensor::add`] is
    /// not added yet.
    ///
    /// # Errors
    /// `MissingTensor` when it is none of [`Self::tensors`].
    pub fn tensor(&self, tensor: &ExportTensor) -> Result<TensorView<'_>, ModelError> {
        let missing = || ModelError::MissingTensor { name: tensor.name.clone() };
        match tensor.roles.as_slice() {
            [] => {
                if let Weights::Model(model) = &self.weights
                    && let Files::Gguf(files) = &model.files
                {
                    return files.tensor(&tensor.name).ok_or_else(missing);
                }
                let mut factors = factors(&self.spec.rope.scaling).into_iter();
                let (_, values) = factors.find(|(n, _)| *n == tensor.name).ok_or_else(missing)?;
                Ok(f32_view(values))
            }
            [role] => self.of_role(*role),
            roles => {
                let parts: Result<Vec<_>, _> = roles.iter().map(|r| self.of_role(*r)).collect();
                let parts = parts?;
                let alike = parts.iter().all(|part| part.dtype == tensor.dtype);
                assert!(alike, "what is one tensor in GGUF is one in its source: this is a bug");
                let data: Vec<u8> =
                    parts.iter().flat_map(|part| part.data.iter().copied()).collect();
                let (shape, dtype) = (tensor.shape.clone(), tensor.dtype);
                Ok(TensorView { shape, dtype, data: data.into() })
            }
        }
    }

    /// The rows of one role in the order of the file.
    fn of_role(&self, role: TensorRole) -> Result<TensorView<'_>, ModelError> {
        let view = match &self.weights {
            Weights::Model(model) => model.tensor(role)?,
            Weights::Random { spec, seed } => {
                let shape = tensor_shape(spec, role).expect("it is of this spec: this is a bug");
                random_tensor(role, shape, *seed, spec.norm.weight_offset)
            }
        };
        let stored = self.weights.spec().rope.layout;
        if stored == self.spec.rope.layout || !is_rotated(role) {
            return Ok(view);
        }
        assert_eq!(stored, RopeLayout::Halves, "only halves are interleaved: this is a bug");
        Ok(interleave_heads(&view, self.spec.head_dim))
    }

    /// Opens a file that was written and compares what it says with what was meant.
    ///
    /// # Errors
    /// As [`crate::open`]; `Unsupported` when GGUF cannot say a fact of this model.
    pub fn check_written(&self, path: &Path) -> Result<(), ModelError> {
        let written = crate::open(path, WeightsFrom::File)?;
        if written.spec != self.spec {
            let (wanted, found) = (format!("{:#?}", self.spec), format!("{:#?}", written.spec));
            let mut lines = wanted.lines().zip(found.lines());
            let (wanted, found) = lines.find(|(a, b)| a != b).unwrap_or_default();
            let what = format!("as GGUF of {}, the value", self.spec.family);
            return Err(ModelError::unsupported(what, wanted.trim(), found.trim()));
        }
        match self.eos.iter().find(|id| !written.eos.contains(id)) {
            None => Ok(()),
            Some(id) => {
                let what = "as GGUF, a generation that ends at token";
                Err(ModelError::unsupported(what, id, format!("{:?}", written.eos)))
            }
        }
    }
}

/// The tensors that a rule of RoPE is in GGUF, by name.
fn factors(scaling: &RopeScaling) -> Vec<(&'static str, &[f32])> {
    match scaling {
        RopeScaling::None | RopeScaling::Linear(_) => Vec::new(),
        RopeScaling::PerDimension(factors) => vec![(rope_factors::ALL, factors)],
        RopeScaling::Long { short, long, .. } => {
            vec![(rope_factors::LONG, long), (rope_factors::SHORT, short)]
        }
    }
}

fn is_rotated(role: TensorRole) -> bool {
    use LayerTensor as T;
    matches!(role, TensorRole::Layer(_, T::AttnQ | T::AttnK | T::AttnQBias | T::AttnKBias))
}

/// Rows of each head from (0, n/2), (1, n/2 + 1), … to (0, 1), (2, 3), …: row `s * n/2 + j` of a head
/// becomes row `2j + s`. Source: `permute` of llama.cpp's convert_hf_to_gguf.py.
pub(crate) fn interleave_heads<'a>(view: &TensorView<'_>, head_dim: usize) -> TensorView<'a> {
    let row_bytes = view.data.len() / view.shape[0];
    let half = head_dim / 2;
    let mut data = Vec::with_capacity(view.data.len());
    for head in view.data.chunks_exact(head_dim * row_bytes) {
        for row in 0..head_dim {
            let from = (row % 2) * half + row / 2;
            data.extend_from_slice(&head[from * row_bytes..(from + 1) * row_bytes]);
        }
    }
    TensorView { shape: view.shape.clone(), dtype: view.dtype, data: Cow::Owned(data) }
}

fn f32_view(values: &[f32]) -> TensorView<'static> {
    let data: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    TensorView { shape: vec![values.len()], dtype: TensorType::F32, data: data.into() }
}

/// The GGUF file of a path: itself, or the one model in a folder.
fn gguf_files(path: &Path) -> Result<GgufFiles, ModelError> {
    let files = if path.is_dir() {
        GgufFiles::open(&crate::open::only_gguf(path)?)
    } else {
        GgufFiles::open(path)
    };
    files.map_err(|error| error.in_file(path))
}
