//! A JSON object of a Hugging Face folder with typed, bounded getters.
//!
//! It must never know which fields exist: families ask for them.
//!
//! Start reading at [`HfConfig`].

use std::io::Read;
use std::path::Path;

use serde_json::{Map, Value};

use crate::ModelError;

/// An object of `config.json`, `tokenizer_config.json`, …; `null` counts as absent.
#[derive(Clone, Debug)]
pub(crate) struct HfConfig {
    prefix: String,
    fields: Map<String, Value>,
}

/// Reads a JSON file of at most `limit_bytes`.
///
/// # Errors
/// `Io`, `TooLarge` or `Json`, naming the file.
pub(crate) fn read_json(path: &Path, limit_bytes: u64) -> Result<Value, ModelError> {
    let bytes = read_bounded(path, limit_bytes)?;
    serde_json::from_slice(&bytes).map_err(|source| ModelError::Json { source }.in_file(path))
}

/// Reads a whole file of at most `limit_bytes`.
///
/// # Errors
/// `Io` or `TooLarge`, naming the file.
pub(crate) fn read_bounded(path: &Path, limit_bytes: u64) -> Result<Vec<u8>, ModelError> {
    let io = |action| move |source| ModelError::Io { action, source }.in_file(path);
    let file = std::fs::File::open(path).map_err(io("open the file"))?;
    let mut bytes = Vec::new();
    file.take(limit_bytes + 1).read_to_end(&mut bytes).map_err(io("read the file"))?;
    if bytes.len() as u64 > limit_bytes {
        let what = "the file's size in bytes (so far)".to_owned();
        let error = ModelError::TooLarge { what, value: bytes.len() as u64, limit: limit_bytes };
        return Err(error.in_file(path));
    }
    Ok(bytes)
}

impl HfConfig {
    /// Reads a file whose top is an object.
    ///
    /// # Errors
    /// As [`read_json`]; `Invalid` when the top is something else.
    pub(crate) fn read(path: &Path, limit_bytes: u64) -> Result<HfConfig, ModelError> {
        Self::of(read_json(path, limit_bytes)?).map_err(|error| error.in_file(path))
    }

    /// Reads a text whose top is an object.
    ///
    /// # Errors
    /// `Json`; `Invalid` when the top is something else.
    pub(crate) fn parse(text: &str) -> Result<HfConfig, ModelError> {
        Self::of(serde_json::from_str(text).map_err(|source| ModelError::Json { source })?)
    }

    fn of(top: Value) -> Result<HfConfig, ModelError> {
        match top {
            Value::Object(fields) => Ok(HfConfig { prefix: String::new(), fields }),
            other => Err(ModelError::invalid("the top", brief(&other), "an object")),
        }
    }

    /// The field's name with the objects around it.
    pub(crate) fn path(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    /// The raw value, unless it is absent or `null`.
    pub(crate) fn get(&self, name: &str) -> Option<&Value> {
        self.fields.get(name).filter(|value| !value.is_null())
    }

    /// All fields, `null` ones too.
    pub(crate) fn entries(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.fields.iter().map(|(name, value)| (name.as_str(), value))
    }

    /// A text.
    ///
    /// # Errors
    /// `Invalid` when it is something else.
    pub(crate) fn str(&self, name: &str) -> Result<Option<&str>, ModelError> {
        self.typed(name, "a string", Value::as_str)
    }

    /// Yes or no.
    ///
    /// # Errors
    /// `Invalid` when it is something else.
    pub(crate) fn bool(&self, name: &str) -> Result<Option<bool>, ModelError> {
        self.typed(name, "true or false", Value::as_bool)
    }

    /// A number.
    ///
    /// # Errors
    /// `Invalid` when it is something else.
    pub(crate) fn f32(&self, name: &str) -> Result<Option<f32>, ModelError> {
        Ok(self.typed(name, "a number", Value::as_f64)?.map(|value| value as f32))
    }

    /// A number; `null` is none, and what is absent is `default`.
    ///
    /// # Errors
    /// `Invalid` when it is something else.
    pub(crate) fn f32_or(&self, name: &str, default: f32) -> Result<Option<f32>, ModelError> {
        if self.fields.contains_key(name) { self.f32(name) } else { Ok(Some(default)) }
    }

    /// A whole number that fits 32 bits, such as a token id.
    ///
    /// # Errors
    /// `Invalid` when it is something else.
    pub(crate) fn u32(&self, name: &str) -> Result<Option<u32>, ModelError> {
        self.typed(name, "a whole number that fits 32 bits", as_u32)
    }

    /// A size of at most `limit`.
    ///
    /// # Errors
    /// `Invalid` when it is no whole number, `TooLarge` over the limit.
    pub(crate) fn size(&self, name: &str, limit: usize) -> Result<Option<usize>, ModelError> {
        let Some(value) = self.typed(name, "a whole number from 0", Value::as_u64)? else {
            return Ok(None);
        };
        match usize::try_from(value) {
            Ok(size) if size <= limit => Ok(Some(size)),
            _ => Err(ModelError::TooLarge { what: self.path(name), value, limit: limit as u64 }),
        }
    }

    /// An object inside of this one.
    ///
    /// # Errors
    /// `Invalid` when it is something else.
    pub(crate) fn object(&self, name: &str) -> Result<Option<HfConfig>, ModelError> {
        let fields = self.typed(name, "an object", Value::as_object)?;
        let prefix = format!("{}{name}.", self.prefix);
        Ok(fields.map(|fields| HfConfig { prefix, fields: fields.clone() }))
    }

    /// As [`Self::size`], and must be there.
    ///
    /// # Errors
    /// As [`Self::size`]; `MissingKey`.
    pub(crate) fn need_size(&self, name: &str, limit: usize) -> Result<usize, ModelError> {
        self.size(name, limit)?.ok_or_else(|| ModelError::MissingKey { key: self.path(name) })
    }

    /// As [`Self::f32`], and must be there.
    ///
    /// # Errors
    /// As [`Self::f32`]; `MissingKey`.
    pub(crate) fn need_f32(&self, name: &str) -> Result<f32, ModelError> {
        self.f32(name)?.ok_or_else(|| ModelError::MissingKey { key: self.path(name) })
    }

    /// Refuses a field that is true, because what it switches on is not supported.
    ///
    /// # Errors
    /// `Unsupported` when it is true.
    pub(crate) fn refuse_true(&self, name: &str) -> Result<(), ModelError> {
        match self.bool(name)? {
            Some(true) => Err(ModelError::unsupported(self.path(name), true, "false")),
            _ => Ok(()),
        }
    }

    /// Refuses a field that names another thing than the one that is supported.
    ///
    /// # Errors
    /// `Unsupported` when it is there and says something else.
    pub(crate) fn refuse_other(&self, name: &str, supported: &str) -> Result<(), ModelError> {
        match self.str(name)? {
            Some(found) if found != supported => {
                Err(ModelError::unsupported(self.path(name), found, supported))
            }
            _ => Ok(()),
        }
    }

    /// A list of numbers.
    ///
    /// # Errors
    /// `Invalid` when it is something else; `MissingKey`.
    pub(crate) fn need_f32s(&self, name: &str) -> Result<Vec<f32>, ModelError> {
        let numbers = self.typed(name, "a list of numbers", |value| {
            let numbers = value.as_array()?.iter().map(Value::as_f64);
            numbers.map(|number| number.map(|number| number as f32)).collect::<Option<Vec<f32>>>()
        })?;
        numbers.ok_or_else(|| ModelError::MissingKey { key: self.path(name) })
    }

    /// `layer_types`: for each layer, whether it has a sliding window.
    ///
    /// # Errors
    /// `Invalid` when it is no list of `n_layers` known types.
    pub(crate) fn layer_types(&self, n_layers: usize) -> Result<Option<Vec<bool>>, ModelError> {
        let wanted = format!("{n_layers} of full_attention and sliding_attention");
        self.typed("layer_types", &wanted, |value| {
            let slides = |item: &Value| match item.as_str() {
                Some("full_attention") => Some(false),
                Some("sliding_attention") => Some(true),
                _ => None,
            };
            let items = value.as_array().filter(|items| items.len() == n_layers)?;
            items.iter().map(slides).collect()
        })
    }

    /// One token id or a list of them.
    ///
    /// # Errors
    /// `Invalid` when it is something else.
    pub(crate) fn token_ids(&self, name: &str) -> Result<Vec<u32>, ModelError> {
        let ids = self.typed(name, "a token id or a list of them", |value| match value {
            Value::Array(items) => items.iter().map(as_u32).collect::<Option<Vec<u32>>>(),
            one => as_u32(one).map(|id| vec![id]),
        })?;
        Ok(ids.unwrap_or_default())
    }

    /// A value read by `get`, which gives nothing for a wrong type.
    ///
    /// # Errors
    /// `Invalid` when it is there and `get` gives nothing.
    pub(crate) fn typed<'a, T>(
        &'a self,
        name: &str,
        wanted: &str,
        get: impl FnOnce(&'a Value) -> Option<T>,
    ) -> Result<Option<T>, ModelError> {
        let Some(value) = self.get(name) else { return Ok(None) };
        let wrong = || ModelError::invalid(self.path(name), brief(value), wanted);
        get(value).map(Some).ok_or_else(wrong)
    }
}

fn as_u32(value: &Value) -> Option<u32> {
    value.as_u64().and_then(|id| u32::try_from(id).ok())
}

fn brief(value: &Value) -> String {
    let text = value.to_string();
    let short: String = text.chars().take(60).collect();
    if short.len() < text.len() { format!("{short}…") } else { short }
}
