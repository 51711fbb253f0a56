//! What stands beside an encoder's weights: its labels, and what sentence-transformers writes of pooling and lengths.
//!
//! It must never guess: what is asked for and not supported is refused by name.
//!
//! Start reading at [`read_pooling`].

use std::path::{Path, PathBuf};

use crate::hf_config::HfConfig;
use crate::safetensors::JSON_LIMIT_BYTES;
use crate::{LabelHead, ModelError, Pooling};

const MAX_LABELS: usize = 65_536;
/// Where the repository has it, and where a card installs it.
const POOLING: [&str; 2] = ["1_Pooling/config.json", "pooling.json"];
const LIMITS: &str = "sentence_bert_config.json";

/// The classifier of a config, when its architecture has one.
pub(crate) fn read_head(config: &HfConfig) -> Result<Option<LabelHead>, ModelError> {
    let names = config.typed("architectures", "a list of names", |list| {
        list.as_array()?.iter().map(|name| name.as_str()).collect::<Option<Vec<_>>>()
    })?;
    let Some(architecture) = names.and_then(|names| names.first().copied()) else {
        return Ok(None);
    };
    if architecture.ends_with("ForSequenceClassification") {
        let is_multi_label = config.str("problem_type")? == Some("multi_label_classification");
        return Ok(Some(LabelHead { labels: read_labels(config)?, is_multi_label }));
    }
    // What stands on top of a language model's encoder is not needed for vectors.
    match architecture.ends_with("Model") || architecture.ends_with("ForMaskedLM") {
        true => Ok(None),
        false => {
            let known = "…Model, …ForMaskedLM and …ForSequenceClassification";
            Err(ModelError::unsupported("architectures", architecture, known))
        }
    }
}

fn read_labels(config: &HfConfig) -> Result<Vec<String>, ModelError> {
    let wanted = "an object from 0, 1, … to names";
    let named = config.typed("id2label", wanted, |labels| {
        let labels = labels.as_object()?;
        let name = |i: usize| Some(labels.get(&i.to_string())?.as_str()?.to_owned());
        (0..labels.len()).map(name).collect::<Option<Vec<String>>>()
    })?;
    let labels = match (named, config.size("num_labels", MAX_LABELS)?) {
        (Some(labels), _) => labels,
        (None, n) => (0..n.unwrap_or(2)).map(|i| format!("LABEL_{i}")).collect(),
    };
    match labels.len() {
        1..=MAX_LABELS => Ok(labels),
        n => Err(ModelError::invalid("id2label", n, format!("1 to {MAX_LABELS} labels"))),
    }
}

/// How tokens are pooled: what the model's own file says, else the mean.
pub(crate) fn read_pooling(folder: &Path) -> Result<Pooling, ModelError> {
    let Some(path) = found(folder, &POOLING) else { return Ok(Pooling::Mean) };
    let config = HfConfig::read(&path, JSON_LIMIT_BYTES)?;
    let modes = [
        ("pooling_mode_mean_tokens", Some(Pooling::Mean)),
        ("pooling_mode_cls_token", Some(Pooling::Cls)),
        ("pooling_mode_max_tokens", Some(Pooling::Max)),
        ("pooling_mode_mean_sqrt_len_tokens", None),
        ("pooling_mode_weightedmean_tokens", None),
        ("pooling_mode_lasttoken", None),
    ];
    let mut chosen = Vec::new();
    for (name, pooling) in modes {
        if config.bool(name).map_err(|error| error.in_file(&path))?.unwrap_or(false) {
            chosen.push((name, pooling));
        }
    }
    match chosen.as_slice() {
        [(_, Some(pooling))] => Ok(*pooling),
        others => {
            let names: Vec<_> = others.iter().map(|(name, _)| *name).collect();
            let known = "one of pooling_mode_mean_tokens, _cls_token and _max_tokens";
            Err(ModelError::unsupported("the pooling", names.join(" + "), known).in_file(&path))
        }
    }
}

/// The longest text that the model's authors recommend, in tokens.
pub(crate) fn read_limits(folder: &Path) -> Result<Option<usize>, ModelError> {
    let Some(path) = found(folder, &[LIMITS]) else { return Ok(None) };
    let config = HfConfig::read(&path, JSON_LIMIT_BYTES)?;
    config.size("max_seq_length", 1 << 20).map_err(|error| error.in_file(&path))
}

fn found(folder: &Path, names: &[&str]) -> Option<PathBuf> {
    names.iter().map(|name| folder.join(name)).find(|path| path.exists())
}
