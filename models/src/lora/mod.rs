//! Low-rank adapters in PEFT's form: what they add to which projections of a decoder.
//!
//! It must never multiply anything, nor know an executor: it hands out matrices as they are stored, and a
//! scale. Adapter files are untrusted input. What an adapter asks for besides is refused by name.
//!
//! Start reading at [`open_lora`].

mod config;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use sha2::{Digest, Sha256};

use crate::export::interleave_heads;
use crate::families;
use crate::model::{Naming, StoredTensor};
use crate::roles::tensor_shape;
use crate::safetensors::SafeTensorsFolder;
use crate::{DecoderSpec, LayerTensor, ModelError, RopeLayout, TensorRole, TensorView};
use config::LoraConfig;

const CONFIG: &str = "adapter_config.json";
const WEIGHTS: &str = "adapter_model.safetensors";
/// What PEFT puts before the names of the model that it wraps.
const PEFT_PREFIX: &str = "base_model.model.";
/// What stands before `layers.N.` in the names of most models.
const MODEL_PREFIX: &str = "model.";
/// The same, where the decoder is a part of a larger model.
const NESTED_PREFIX: &str = "language_model.";
/// Largest rank: more is another model rather than an adapter.
pub(crate) const MAX_RANK: usize = 512;

/// What an adapter adds to the projections of one decoder.
#[derive(Clone, Debug, PartialEq)]
pub struct LoraAdapter {
    /// Of everything that decides what it adds.
    pub digest: [u8; 32],
    /// One for each projection that it adds to, in the order of the layers.
    pub parts: Vec<LoraPart>,
}

/// `scale * b · (a · x)` is added to what a projection makes of `x`. Source: Hu et al. 2021, eq. 3.
#[derive(Clone, Debug, PartialEq)]
pub struct LoraPart {
    /// The layer, from 0.
    pub layer: usize,
    /// The projection.
    pub tensor: LayerTensor,
    /// `lora_alpha / r`, or `lora_alpha / sqrt(r)` where the adapter is rank-stabilised.
    pub scale: f32,
    /// `[rank, in]`, F32, F16 or BF16.
    pub a: TensorView<'static>,
    /// `[out, rank]`, rows in the order of the decoder's own.
    pub b: TensorView<'static>,
}

impl LoraAdapter {
    /// The largest rank of its parts.
    #[must_use]
    pub fn max_rank(&self) -> usize {
        self.parts.iter().map(LoraPart::rank).max().unwrap_or(0)
    }

    /// Bytes of its matrices as stored.
    #[must_use]
    pub fn size_bytes(&self) -> u64 {
        self.parts.iter().map(|part| (part.a.data.len() + part.b.data.len()) as u64).sum()
    }
}

impl LoraPart {
    /// Rows of `a`.
    #[must_use]
    pub fn rank(&self) -> usize {
        self.a.shape[0]
    }
}

/// Reads the adapter in `folder` for a decoder of this spec: `adapter_config.json` and
/// `adapter_model.safetensors`.
///
/// # Errors
/// What is missing, of another shape than the decoder, or not supported, naming file and field or tensor.
pub fn open_lora(folder: &Path, spec: &DecoderSpec) -> Result<LoraAdapter, ModelError> {
    let config_path = folder.join(CONFIG);
    let config = LoraConfig::read(&config_path)?;
    let path = folder.join(WEIGHTS);
    let file = SafeTensorsFolder::open_file(&path)?;
    let adapter = parts(&file, &config, spec).map_err(|error| error.in_file(&path))?;
    Ok(LoraAdapter { digest: digest(&adapter), parts: adapter })
}

/// The two matrices of a module.
struct Pair<'a> {
    /// The module as the adapter calls it.
    module: &'a str,
    a: Option<&'a str>,
    b: Option<&'a str>,
}

fn parts(
    file: &SafeTensorsFolder,
    config: &LoraConfig,
    spec: &DecoderSpec,
) -> Result<Vec<LoraPart>, ModelError> {
    let family = families::named(spec.family)?;
    let stored = Naming::hugging_face(family, MODEL_PREFIX).stored(spec);
    let modules: BTreeMap<&str, &StoredTensor> = stored
        .iter()
        .filter(|stored| stored.shape.len() == 2)
        .filter_map(|stored| Some((stored.name.strip_suffix(".weight")?, stored)))
        .collect();
    let mut pairs: BTreeMap<String, Pair<'_>> = BTreeMap::new();
    let names: BTreeSet<&str> = file.names().collect();
    for name in names {
        let (own, module, is_a) = module_of(name)?;
        let pair = pairs.entry(own).or_insert(Pair { module, a: None, b: None });
        if pair.module != module {
            let found = format!("{} and {module}", pair.module);
            return Err(ModelError::invalid("the name of an adapted module", found, "one name"));
        }
        *(if is_a { &mut pair.a } else { &mut pair.b }) = Some(name);
    }
    config.check_modules(pairs.values().map(|pair| pair.module))?;
    let mut parts = Vec::new();
    for (own, pair) in &pairs {
        let module = pair.module;
        let known = modules.get(own.as_str()).filter(|stored| is_projection(stored));
        let stored = known.ok_or_else(|| {
            let supported = "attention and MLP projections of this model's layers";
            let what = "an adapter of module";
            ModelError::unsupported(what, format!("{module} (of {})", spec.family), supported)
        })?;
        parts.extend(module_parts(file, config, spec, pair, stored)?);
    }
    if parts.is_empty() {
        return Err(ModelError::invalid("the number of adapted modules", 0, "1 or more"));
    }
    parts.sort_by_key(|part| (part.layer, part.tensor as usize));
    Ok(parts)
}

/// The module that a tensor belongs to, as the decoder and as the adapter call it, and whether it is its `a`.
fn module_of(name: &str) -> Result<(String, &str, bool), ModelError> {
    let module = match (name.strip_suffix(".lora_A.weight"), name.strip_suffix(".lora_B.weight")) {
        (Some(module), _) => Some((module, true)),
        (None, Some(module)) => Some((module, false)),
        (None, None) => None,
    };
    let supported = format!("{PEFT_PREFIX}MODULE.lora_A.weight and lora_B.weight");
    let unsupported = || ModelError::unsupported("tensor", name, supported.clone());
    let (module, is_a) = module.ok_or_else(unsupported)?;
    let module = module.strip_prefix(PEFT_PREFIX).ok_or_else(unsupported)?;
    let inner = [MODEL_PREFIX, NESTED_PREFIX, MODEL_PREFIX]
        .iter()
        .fold(module, |module, prefix| module.strip_prefix(prefix).unwrap_or(module));
    let is_layer = inner.starts_with("layers.");
    let own = if is_layer { format!("{MODEL_PREFIX}{inner}") } else { module.to_owned() };
    Ok((own, module, is_a))
}

fn is_projection(stored: &StoredTensor) -> bool {
    matches!(stored.roles.first(), Some(TensorRole::Layer(..)))
}

/// A module's matrices; one part for each projection whose rows the module holds.
fn module_parts(
    file: &SafeTensorsFolder,
    config: &LoraConfig,
    spec: &DecoderSpec,
    pair: &Pair<'_>,
    stored: &StoredTensor,
) -> Result<Vec<LoraPart>, ModelError> {
    let module = pair.module;
    let rank = config.rank(module)?;
    let matrix = |name: Option<&str>, which: &str, wanted: Vec<usize>| {
        let missing =
            || ModelError::MissingTensor { name: format!("{PEFT_PREFIX}{module}.{which}.weight") };
        let name = name.ok_or_else(missing)?;
        let view = file.tensor(name)?.ok_or_else(missing)?;
        if view.shape != wanted {
            let (name, found) = (name.to_owned(), view.shape);
            return Err(ModelError::TensorShape { name, found, wanted });
        }
        let data = view.data.into_owned();
        Ok(TensorView { shape: view.shape, dtype: view.dtype, data: data.into() })
    };
    let (n_out, n_in) = (stored.shape[0], stored.shape[1]);
    let a: TensorView<'static> = matrix(pair.a, "lora_A", vec![rank, n_in])?;
    let b: TensorView<'static> = matrix(pair.b, "lora_B", vec![n_out, rank])?;
    let scale = config.scale(module, rank)?;
    let mut first = 0;
    let mut parts = Vec::new();
    for role in &stored.roles {
        let TensorRole::Layer(layer, tensor) = *role else { continue };
        config.check_layer(module, layer)?;
        let n_rows = tensor_shape(spec, *role).map_or(0, |shape| shape[0]);
        let rows = b.clone().into_rows(first..first + n_rows);
        let is_rotated = matches!(tensor, LayerTensor::AttnQ | LayerTensor::AttnK);
        let b = match spec.rope.layout {
            // Adapters are trained on the other layout, whatever file the decoder comes from.
            RopeLayout::Interleaved if is_rotated => interleave_heads(&rows, spec.head_dim),
            _ => rows,
        };
        parts.push(LoraPart { layer, tensor, scale, a: a.clone(), b });
        first += n_rows;
    }
    Ok(parts)
}

fn digest(parts: &[LoraPart]) -> [u8; 32] {
    let mut hasher = Sha256::new();
    for part in parts {
        let numbers = [part.layer, part.tensor as usize, part.rank(), part.b.shape[0]];
        for number in numbers {
            hasher.update((number as u64).to_le_bytes());
        }
        hasher.update(part.scale.to_bits().to_le_bytes());
        for matrix in [&part.a, &part.b] {
            hasher.update(matrix.dtype.as_str());
            hasher.update((matrix.data.len() as u64).to_le_bytes());
            hasher.update(&*matrix.data);
        }
    }
    hasher.finalize().into()
}
