//! The bodies of `POST /v1/load_lora_adapter` and `POST /v1/unload_lora_adapter`, in vLLM's words.
//!
//! It must never read a file.
//!
//! Start reading at [`parse_load_adapter`].

use crate::ApiError;
use crate::fields::{Fields, Warnings};

/// An adapter to load.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoadAdapterRequest {
    /// The name that requests will ask for.
    pub lora_name: String,
    /// A folder on the server's machine.
    pub lora_path: String,
    /// The model that it is for; the default one where nothing is said.
    pub base_model_name: Option<String>,
}

/// Reads what is to be loaded. Fields that nobody knows are refused: there is no client that sends others.
///
/// # Errors
/// The first field that is missing, malformed or unknown.
pub fn parse_load_adapter(body: &[u8]) -> Result<LoadAdapterRequest, ApiError> {
    let mut fields = Fields::parse(body)?;
    let request = LoadAdapterRequest {
        lora_name: needed(&mut fields, "lora_name", "the name that requests will ask for")?,
        lora_path: needed(&mut fields, "lora_path", "a folder with adapter_config.json")?,
        base_model_name: fields.string("base_model_name")?,
    };
    fields.finish(true, &mut Warnings::default())?;
    Ok(request)
}

/// Reads the name of what is to be unloaded.
///
/// # Errors
/// As [`parse_load_adapter`].
pub fn parse_unload_adapter(body: &[u8]) -> Result<String, ApiError> {
    let mut fields = Fields::parse(body)?;
    let name = needed(&mut fields, "lora_name", "the name of an adapter that is loaded")?;
    fields.finish(true, &mut Warnings::default())?;
    Ok(name)
}

fn needed(fields: &mut Fields, name: &str, wanted: &'static str) -> Result<String, ApiError> {
    let missing = || ApiError::Missing { param: name.to_owned(), wanted };
    fields.string(name)?.ok_or_else(missing)
}
