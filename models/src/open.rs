//! Opens a model: finds its files, reads its family's facts, and checks every tensor against them.
//!
//! It must never fetch anything, nor read a tensor's bytes.
//!
//! Start reading at [`open`].

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use crate::check::check_spec;
use crate::families::{self, GgufFacts, rope_factors};
use crate::gguf::{GgufFiles, read_vocab};
use crate::hf_config::{HfConfig, read_bounded, read_json};
use crate::model::{Files, Naming, StoredTensor, combine_digests};
use crate::safetensors::{CONFIG, JSON_LIMIT_BYTES, SafeTensorsFolder};
use crate::{DecoderSpec, DefaultSampling, Model, ModelError, TokenizerSource, fetch};

/// Where the numbers come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WeightsFrom {
    /// The file's own.
    File,
    /// The file's architecture with pseudo-random f32 weights.
    Random {
        /// Equal seeds draw equal weights.
        seed: u64,
    },
}

/// Opens a GGUF file (any shard of a split one), a folder of safetensors, or a folder with one GGUF
/// model.
///
/// # Errors
/// What is wrong with which file: unreadable, malformed, of an unsupported architecture, or with a
/// tensor that is missing or of another shape than the metadata asks for.
pub fn open(path: &Path, weights: WeightsFrom) -> Result<Model, ModelError> {
    let metadata = std::fs::metadata(path)
        .map_err(|source| ModelError::Io { action: "open the model", source }.in_file(path))?;
    let mut model = if !metadata.is_dir() {
        open_gguf(path)
    } else if path.join(CONFIG).exists() {
        open_safetensors(path)
    } else {
        open_gguf(&only_gguf(path)?)
    }
    .map_err(|error| error.in_file(path))?;
    if let WeightsFrom::Random { seed } = weights {
        model.random_seed = Some(seed);
    }
    Ok(model)
}

/// The one GGUF model of a folder; the shards of a split one count as one.
pub(crate) fn only_gguf(folder: &Path) -> Result<PathBuf, ModelError> {
    let io = |source| ModelError::Io { action: "list the folder", source }.in_file(folder);
    let mut names = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(io)? {
        let name = entry.map_err(io)?.file_name().to_string_lossy().into_owned();
        let later_shard = name.contains("-of-") && !name.contains("-00001-of-");
        if name.ends_with(".gguf") && !later_shard && !name.starts_with('.') {
            names.push(name);
        }
    }
    names.sort();
    match names.as_slice() {
        [one] => Ok(folder.join(one)),
        [] => Err(ModelError::NoModel.in_file(folder)),
        _ => Err(ModelError::SeveralModels { files: names }.in_file(folder)),
    }
}

fn open_gguf(path: &Path) -> Result<Model, ModelError> {
    let mut files = GgufFiles::open(path)?;
    let family = families::of_gguf(files.metadata())?;
    let spec = (family.from_gguf)(&GgufFacts::new(&files, family))?;
    check_spec(&spec)?;
    let vocab = read_vocab(files.metadata_mut(), spec.vocab_size)?;
    let metadata = files.metadata();
    let name = metadata.str("general.name")?.map_or_else(|| stem(path), str::to_owned);
    let chat_template = metadata.str("tokenizer.chat_template")?.map(str::to_owned);
    let sampling = |key: &str| metadata.f32(&format!("general.sampling.{key}"));
    let default_sampling = DefaultSampling {
        temperature: sampling("temp")?,
        top_k: metadata.u32("general.sampling.top_k")?,
        top_p: sampling("top_p")?,
        min_p: sampling("min_p")?,
        repetition_penalty: sampling("penalty_repeat")?,
    };
    let default_sampling = default_sampling.checked(|name| {
        let own = match name {
            "temperature" => "temp",
            "repetition_penalty" => "penalty_repeat",
            same => same,
        };
        format!("general.sampling.{own}")
    })?;
    let (bos, eos_token) = (vocab.bos, vocab.eos);
    let eos = vocab.eos.into_iter().chain(vocab.eot).chain(vocab.eog.iter().copied()).collect();
    let files = Files::Gguf(files);
    finish(Model {
        name,
        spec,
        tokenizer: TokenizerSource::Gguf(Box::new(vocab)),
        chat_template,
        bos,
        eos,
        eos_token,
        default_sampling,
        naming: Naming::gguf(family),
        random_seed: None,
        recorded_digest: recorded_digest(&files.paths()),
        files,
        digest: OnceLock::new(),
    })
}

fn open_safetensors(folder: &Path) -> Result<Model, ModelError> {
    let config_path = folder.join(CONFIG);
    let config = HfConfig::read(&config_path, JSON_LIMIT_BYTES)?;
    let in_config = |error: ModelError| error.in_file(&config_path);
    if let Some(rule) = config.get("quantization_config") {
        let found = rule.get("quant_method").unwrap_or(rule).to_string();
        let supported = "safetensors of F32, F16 and BF16";
        return Err(in_config(ModelError::unsupported("quantization_config", found, supported)));
    }
    let family = families::of_config(&config).map_err(in_config)?;
    let spec = (family.from_config)(&config).map_err(in_config)?;
    check_spec(&spec).map_err(in_config)?;
    let files = SafeTensorsFolder::open(folder)?;
    let prefix = weights_prefix(&files);
    let tokenizer_json = folder.join("tokenizer.json");
    if !tokenizer_json.exists() {
        return Err(ModelError::MissingKey { key: "the file tokenizer.json".to_owned() });
    }
    let beside = |name: &str| Some(folder.join(name)).filter(|path| path.exists());
    let tokenizer_config = beside("tokenizer_config.json");
    let generation = match beside("generation_config.json") {
        Some(path) => Some((HfConfig::read(&path, JSON_LIMIT_BYTES)?, path)),
        None => None,
    };
    let mut eos = Vec::new();
    let mut default_sampling = None;
    if let Some((generation, path)) = &generation {
        eos = generation.token_ids("eos_token_id").map_err(|error| error.in_file(path))?;
        default_sampling = read_sampling(generation).map_err(|error| error.in_file(path))?;
    }
    let of_config = config.token_ids("eos_token_id").map_err(in_config)?;
    let eos_token = of_tokenizer(tokenizer_config.as_deref())?.or(of_config.first().copied());
    if eos.is_empty() {
        eos = of_config;
    }
    let files = Files::SafeTensors(files);
    finish(Model {
        name: stem(folder),
        spec,
        chat_template: read_chat_template(folder, tokenizer_config.as_deref())?,
        tokenizer: TokenizerSource::HuggingFace { tokenizer_json, tokenizer_config },
        bos: config.token_ids("bos_token_id").map_err(in_config)?.first().copied(),
        eos,
        eos_token,
        default_sampling,
        naming: Naming::hugging_face(family, prefix),
        random_seed: None,
        recorded_digest: recorded_digest(&files.paths()),
        files,
        digest: OnceLock::new(),
    })
}

/// Sorts the end tokens and checks every tensor.
fn finish(mut model: Model) -> Result<Model, ModelError> {
    model.eos.sort_unstable();
    model.eos.dedup();
    for id in model.eos.iter().chain(&model.bos).chain(&model.eos_token) {
        if *id as usize >= model.spec.vocab_size {
            let wanted = format!("below the vocabulary size, {}", model.spec.vocab_size);
            return Err(ModelError::invalid("a special token id", id, wanted));
        }
    }
    check_tensors(&model.files, model.naming, &model.spec)?;
    Ok(model)
}

fn check_tensors(files: &Files, naming: Naming, spec: &DecoderSpec) -> Result<(), ModelError> {
    let mut expected = std::collections::HashSet::new();
    for StoredTensor { name, shape: wanted, .. } in naming.stored(spec) {
        match files.info(&name)? {
            None => return Err(ModelError::MissingTensor { name }),
            Some((found, _)) if found != wanted => {
                return Err(ModelError::TensorShape { name, found: found.to_vec(), wanted });
            }
            Some(_) => expected.insert(name),
        };
    }
    let mut rest = files.names();
    rest.retain(|name| !expected.contains(*name) && !is_harmless(name, spec));
    rest.sort_unstable();
    match rest.as_slice() {
        [] => Ok(()),
        [first, others @ ..] => Err(ModelError::UnexpectedTensor {
            name: (*first).to_owned(),
            family: spec.family,
            n_more: others.len(),
        }),
    }
}

/// Tensors that no role stands for and that change nothing: what is worked out anyway, a stored
/// copy of a tied head, and the vision part of a model that is run on text alone.
///
/// A config.json says whether the head is tied, and then a stored `lm_head` is a copy that the
/// authors' own code ties over. GGUF has no such key: there the head is tied exactly when no
/// `output.weight` is stored, so one that is stored always has a role.
fn is_harmless(name: &str, spec: &DecoderSpec) -> bool {
    const VISION: [&str; 4] = [
        "vision_tower.",
        "multi_modal_projector.",
        "model.vision_tower.",
        "model.multi_modal_projector.",
    ];
    [rope_factors::ALL, rope_factors::SHORT, rope_factors::LONG].contains(&name)
        || name.ends_with(".rotary_emb.inv_freq")
        || (spec.tied_head && name.ends_with("lm_head.weight"))
        || VISION.iter().any(|prefix| name.starts_with(prefix))
}

/// What stands before `embed_tokens.weight`; multimodal folders nest the decoder.
fn weights_prefix(files: &SafeTensorsFolder) -> &'static str {
    const PREFIXES: [&str; 3] = ["model.", "language_model.model.", "model.language_model."];
    let naming_holds = |prefix: &str| {
        let embedding = format!("{prefix}embed_tokens.weight");
        files.names().any(|name| name == embedding)
    };
    PREFIXES.into_iter().find(|prefix| naming_holds(prefix)).unwrap_or(PREFIXES[0])
}

fn read_chat_template(
    folder: &Path,
    tokenizer_config: Option<&Path>,
) -> Result<Option<String>, ModelError> {
    let own_file = folder.join("chat_template.jinja");
    if own_file.exists() {
        let bytes = read_bounded(&own_file, JSON_LIMIT_BYTES)?;
        let text = String::from_utf8(bytes).map_err(|_| {
            ModelError::invalid("the chat template", "other bytes", "UTF-8").in_file(&own_file)
        })?;
        return Ok(Some(text));
    }
    let Some(path) = tokenizer_config else { return Ok(None) };
    let config = read_json(path, JSON_LIMIT_BYTES)?;
    // A list of named templates: the one named `default` is for plain conversations.
    let template = match config.get("chat_template") {
        Some(serde_json::Value::Array(named)) => named
            .iter()
            .find(|entry| entry.get("name").is_some_and(|name| name == "default"))
            .and_then(|entry| entry.get("template")),
        other => other,
    };
    Ok(template.and_then(|template| template.as_str()).map(str::to_owned))
}

/// The token that tokenizer_config.json calls `eos_token`, by the ids that it lists itself.
fn of_tokenizer(tokenizer_config: Option<&Path>) -> Result<Option<u32>, ModelError> {
    let Some(path) = tokenizer_config else { return Ok(None) };
    let config = read_json(path, JSON_LIMIT_BYTES)?;
    // A token is written as its text, or as an object that holds it.
    let text = |token: &serde_json::Value| -> Option<String> {
        token.as_str().or_else(|| token.get("content")?.as_str()).map(str::to_owned)
    };
    let eos = config.get("eos_token").and_then(text);
    let listed = config.get("added_tokens_decoder").and_then(|listed| listed.as_object());
    let (Some(eos), Some(listed)) = (eos, listed) else { return Ok(None) };
    let found = listed.iter().find(|(_, token)| text(token).is_some_and(|text| text == eos));
    Ok(found.and_then(|(id, _)| id.parse().ok()))
}

/// What generation_config.json recommends. Without `do_sample` the authors say nothing: that their
/// library is greedy then is its own default.
fn read_sampling(config: &HfConfig) -> Result<Option<DefaultSampling>, ModelError> {
    let repetition_penalty = config.f32("repetition_penalty")?;
    let sampling = match config.bool("do_sample")? {
        None => return Ok(None),
        // Greedy; the parameters of sampling are ignored, but the penalty acts on logits.
        Some(false) => DefaultSampling {
            temperature: Some(0.0),
            repetition_penalty,
            ..DefaultSampling::default()
        },
        Some(true) => DefaultSampling {
            temperature: config.f32("temperature")?,
            top_k: config.u32("top_k")?,
            top_p: config.f32("top_p")?,
            min_p: config.f32("min_p")?,
            repetition_penalty,
        },
    };
    sampling.checked(|name| config.path(name))
}

pub(crate) fn stem(path: &Path) -> String {
    let name = if path.is_dir() { path.file_name() } else { path.file_stem() };
    name.map_or_else(|| "model".to_owned(), |name| name.to_string_lossy().into_owned())
}

/// The digest that the install recorded, when all files are its own and have the recorded sizes.
fn recorded_digest(paths: &[PathBuf]) -> Option<[u8; 32]> {
    let digests: Option<Vec<_>> = paths.iter().map(|path| fetch::recorded_sha256(path)).collect();
    digests.map(|digests| combine_digests(&digests))
}
