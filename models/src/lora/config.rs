//! `adapter_config.json`: rank, scale, and everything that an adapter may ask for besides, which is refused.
//!
//! It must never ignore a field that would change a number. Source: `LoraConfig` of peft.
//!
//! Start reading at [`LoraConfig`].

use std::path::Path;

use serde_json::Value;

use super::MAX_RANK;
use crate::ModelError;
use crate::hf_config::HfConfig;

const LIMIT_BYTES: u64 = 1 << 20;

/// Fields that are read here, and fields that decide nothing once an adapter is trained.
const KNOWN: &[&str] = &[
    "peft_type",
    "r",
    "lora_alpha",
    "use_rslora",
    "rank_pattern",
    "alpha_pattern",
    "target_modules",
    "bias",
    "init_lora_weights",
    "auto_mapping",
    "base_model_name_or_path",
    "corda_config",
    "eva_config",
    "exclude_modules",
    "inference_mode",
    "layers_pattern",
    "layers_to_transform",
    "loftq_config",
    "lora_dropout",
    "lora_ga_config",
    "megatron_config",
    "megatron_core",
    "peft_version",
    "qalora_group_size",
    "revision",
    "runtime_config",
    "task_type",
];

/// What the adapters of all modules have in common, and where they differ.
#[derive(Debug)]
pub(super) struct LoraConfig {
    rank: usize,
    alpha: f64,
    is_rank_stabilised: bool,
    /// Ranks and alphas of modules whose names end so.
    rank_pattern: Vec<(String, f64)>,
    alpha_pattern: Vec<(String, f64)>,
    targets: Targets,
    /// Names, or ends of names, of modules that have none.
    excluded: Vec<String>,
    /// The only layers that have any; empty when all may.
    layers: Vec<u64>,
}

/// Which modules the adapter says that it is of.
#[derive(Debug, PartialEq)]
enum Targets {
    /// Names, or the ends of names.
    Named(Vec<String>),
    /// A pattern: the tensors alone say which.
    Unchecked,
}

impl LoraConfig {
    /// # Errors
    /// The file, or the first field that is wrong or asks for what is not supported.
    pub(super) fn read(path: &Path) -> Result<Self, ModelError> {
        let config = HfConfig::read(path, LIMIT_BYTES)?;
        LoraConfig::of(&config).map_err(|error| error.in_file(path))
    }

    pub(super) fn of(config: &HfConfig) -> Result<Self, ModelError> {
        let peft_type = config.str("peft_type")?;
        if peft_type != Some("LORA") {
            let found = peft_type.unwrap_or("missing");
            return Err(ModelError::unsupported("peft_type", found, "LORA"));
        }
        config.refuse_other("bias", "none")?;
        refuse_others(config)?;
        let rank = config.need_size("r", MAX_RANK)?;
        if rank == 0 {
            return Err(ModelError::invalid("r", 0, format!("1 to {MAX_RANK}")));
        }
        Ok(LoraConfig {
            rank,
            alpha: alpha(config)?,
            is_rank_stabilised: config.bool("use_rslora")?.unwrap_or(false),
            rank_pattern: pattern(config, "rank_pattern")?,
            alpha_pattern: pattern(config, "alpha_pattern")?,
            targets: targets(config)?,
            excluded: excluded(config)?,
            layers: layers(config)?,
        })
    }

    /// The rank of a module's matrices.
    ///
    /// # Errors
    /// Two patterns that disagree, or a rank that cannot be.
    pub(super) fn rank(&self, module: &str) -> Result<usize, ModelError> {
        let Some(rank) = matching("rank_pattern", &self.rank_pattern, module)? else {
            return Ok(self.rank);
        };
        if rank.fract() != 0.0 || !(1.0..=MAX_RANK as f64).contains(&rank) {
            let what = format!("rank_pattern of {module}");
            return Err(ModelError::invalid(what, rank, format!("1 to {MAX_RANK}")));
        }
        Ok(rank as usize)
    }

    /// What a module's product is multiplied by.
    ///
    /// # Errors
    /// Two patterns that disagree.
    pub(super) fn scale(&self, module: &str, rank: usize) -> Result<f32, ModelError> {
        let alpha = matching("alpha_pattern", &self.alpha_pattern, module)?.unwrap_or(self.alpha);
        let rank = rank as f64;
        let divisor = if self.is_rank_stabilised { rank.sqrt() } else { rank };
        Ok((alpha / divisor) as f32)
    }

    /// Whether the modules that have tensors are those that the adapter says it is of.
    ///
    /// # Errors
    /// The first that is not named or is excluded, or the first name that no module has.
    pub(super) fn check_modules<'a>(
        &self,
        modules: impl Iterator<Item = &'a str> + Clone,
    ) -> Result<(), ModelError> {
        let is_one_of =
            |module: &str, names: &[String]| names.iter().any(|name| is_end(module, name));
        let wrong = |module: &str, wanted: String| {
            Err(ModelError::invalid("an adapted module", module, wanted))
        };
        if let Some(module) = modules.clone().find(|module| is_one_of(module, &self.excluded)) {
            let names = self.excluded.join(", ");
            return wrong(module, format!("none of exclude_modules: {names}"));
        }
        let Targets::Named(names) = &self.targets else { return Ok(()) };
        if let Some(module) = modules.clone().find(|module| !is_one_of(module, names)) {
            return wrong(module, format!("in target_modules: {}", names.join(", ")));
        }
        let unused = names.iter().find(|name| !modules.clone().any(|module| is_end(module, name)));
        match unused {
            Some(name) => {
                let what = "the number of tensors for target_modules entry";
                Err(ModelError::invalid(format!("{what} {name}"), 0, "1 or more"))
            }
            None => Ok(()),
        }
    }

    /// Whether a module of this layer may have tensors.
    ///
    /// # Errors
    /// `layers_to_transform` does not name the layer.
    pub(super) fn check_layer(&self, module: &str, layer: usize) -> Result<(), ModelError> {
        if self.layers.is_empty() || self.layers.contains(&(layer as u64)) {
            return Ok(());
        }
        let wanted = format!("in layers_to_transform: {:?}", self.layers);
        Err(ModelError::invalid(format!("the layer of adapted module {module}"), layer, wanted))
    }
}

fn alpha(config: &HfConfig) -> Result<f64, ModelError> {
    let alpha = config.typed("lora_alpha", "a number", Value::as_f64)?;
    let alpha = alpha.ok_or_else(|| ModelError::MissingKey { key: "lora_alpha".to_owned() })?;
    if alpha.is_finite() && (alpha as f32).is_finite() {
        Ok(alpha)
    } else {
        Err(ModelError::invalid("lora_alpha", alpha, "finite"))
    }
}

/// Whatever else an adapter asks for: another product, other weights of the model, other tokens.
fn refuse_others(config: &HfConfig) -> Result<(), ModelError> {
    // Ways to begin that also change the model's own weights.
    if let Some(init) = config.get("init_lora_weights") {
        let changes_nothing = match init {
            Value::Bool(_) => true,
            Value::String(name) => {
                ["gaussian", "eva", "orthogonal"].contains(&name.to_lowercase().as_str())
            }
            _ => false,
        };
        if !changes_nothing {
            let supported = "true, false, gaussian, eva, orthogonal";
            return Err(ModelError::unsupported("init_lora_weights", init, supported));
        }
    }
    for (name, value) in config.entries() {
        let is_empty = match value {
            Value::Null | Value::Bool(false) => true,
            Value::String(text) => text.is_empty(),
            Value::Array(items) => items.is_empty(),
            Value::Object(fields) => fields.is_empty(),
            Value::Bool(true) | Value::Number(_) => false,
        };
        if !is_empty && !KNOWN.contains(&name) {
            let brief: String = value.to_string().chars().take(60).collect();
            return Err(ModelError::unsupported(name, brief, "an adapter without it"));
        }
    }
    Ok(())
}

fn targets(config: &HfConfig) -> Result<Targets, ModelError> {
    let wanted = "a list of names, a pattern, or all-linear";
    let found = config.typed("target_modules", wanted, |value| match value {
        Value::String(_) => Some(Targets::Unchecked),
        Value::Array(items) => names(items).map(Targets::Named),
        _ => None,
    })?;
    Ok(found.unwrap_or(Targets::Unchecked))
}

/// The names of `exclude_modules`. Of a pattern none: as with `target_modules`, the tensors alone say.
fn excluded(config: &HfConfig) -> Result<Vec<String>, ModelError> {
    let found =
        config.typed("exclude_modules", "a list of names, or a pattern", |value| match value {
            Value::String(_) => Some(Vec::new()),
            Value::Array(items) => names(items),
            _ => None,
        })?;
    Ok(found.unwrap_or_default())
}

fn names(items: &[Value]) -> Option<Vec<String>> {
    items.iter().map(|item| item.as_str().map(str::to_owned)).collect()
}

fn layers(config: &HfConfig) -> Result<Vec<u64>, ModelError> {
    let wanted = "a layer, or a list of layers";
    let found = config.typed("layers_to_transform", wanted, |value| match value {
        Value::Array(items) => items.iter().map(Value::as_u64).collect(),
        one => one.as_u64().map(|layer| vec![layer]),
    })?;
    Ok(found.unwrap_or_default())
}

/// Names, or ends of names, with a number each. Other regular expressions are refused.
fn pattern(config: &HfConfig, field: &'static str) -> Result<Vec<(String, f64)>, ModelError> {
    let Some(object) = config.object(field)? else { return Ok(Vec::new()) };
    let is_name =
        |name: &str| name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_.".contains(&byte));
    let one = |(name, value): (&str, &Value)| {
        if !is_name(name) {
            let what = format!("{field}: the name");
            return Err(ModelError::unsupported(what, name, "letters, digits, '_' and '.'"));
        }
        let wrong = || ModelError::invalid(format!("{field}.{name}"), value, "a number");
        Ok((name.to_owned(), value.as_f64().filter(|n| n.is_finite()).ok_or_else(wrong)?))
    };
    object.entries().map(one).collect()
}

/// The number of the names that `module` ends with, which must be one. PEFT matches them as regular
/// expressions, so a dot in them is any character.
fn matching(
    field: &'static str,
    pattern: &[(String, f64)],
    module: &str,
) -> Result<Option<f64>, ModelError> {
    let mut values = pattern.iter().filter(|(name, _)| is_matched_end(module, name));
    let Some((first, value)) = values.next() else { return Ok(None) };
    match values.find(|(_, other)| other != value) {
        None => Ok(Some(*value)),
        Some((second, _)) => {
            let what = format!("{field} of {module}");
            let found = format!("given by {first} and by {second}");
            Err(ModelError::invalid(what, found, "one number"))
        }
    }
}

/// Whether `module` is `name`, or ends with it after a dot.
fn is_end(module: &str, name: &str) -> bool {
    module.strip_suffix(name).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}

/// As [`is_end`], with any character where `name` has a dot.
fn is_matched_end(module: &str, name: &str) -> bool {
    let Some(first) = module.len().checked_sub(name.len()) else { return false };
    let (rest, end) = module.as_bytes().split_at(first);
    let fits = |(byte, wanted): (&u8, u8)| wanted == b'.' || *byte == wanted;
    end.iter().zip(name.bytes()).all(fits) && (rest.is_empty() || rest.ends_with(b"."))
}
