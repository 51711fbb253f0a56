//! Decoders without weights, by name or as a config.json says them.
//!
//! It must never know where weights come from.
//!
//! Start reading at [`shape`].

use std::path::Path;

use crate::check::check_spec;
use crate::families;
use crate::hf_config::HfConfig;
use crate::safetensors::JSON_LIMIT_BYTES;
use crate::{DecoderSpec, ModelError};

/// Names of shapes that need no file, and their config.json.
pub const SHAPES: &[(&str, &str)] = &[("llama-1b", include_str!("../../shapes/llama-1b.json"))];

/// The decoder of a name of [`SHAPES`], or of the config.json at a path.
///
/// # Errors
/// What is wrong with the file: unreadable, malformed, or of an unsupported architecture.
pub fn shape(name_or_file: &str) -> Result<DecoderSpec, ModelError> {
    let config = match SHAPES.iter().find(|(name, _)| *name == name_or_file) {
        Some((_, text)) => HfConfig::parse(text)?,
        None => HfConfig::read(Path::new(name_or_file), JSON_LIMIT_BYTES)?,
    };
    let read = || {
        let spec = (families::of_config(&config)?.from_config)(&config)?;
        check_spec(&spec)?;
        Ok(spec)
    };
    read().map_err(|error: ModelError| error.in_file(Path::new(name_or_file)))
}
