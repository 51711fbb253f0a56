//! Ollama's way to have a model loaded: a chat without messages, or a prompt that is empty.
//!
//! It must never load a model itself.
//!
//! Start reading at [`parse_ollama_load`].

use std::time::{Duration, SystemTime};

use serde_json::{Map, Value, json};

use super::{ignore, ollama};
use crate::fields::{Fields, Warnings};
use crate::{ApiError, ParseOptions, rfc3339};

/// A body that asks for no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OllamaLoad {
    is_chat: bool,
    warnings: Vec<String>,
}

/// Reads the body of `POST /api/chat` or `/api/generate`, if it asks for no answer.
///
/// # Errors
/// The body is not JSON; or it asks for no answer, and a field is malformed, unsupported or, in strict mode, unknown.
pub fn parse_ollama_load(
    body: &[u8],
    is_chat: bool,
    options: &ParseOptions<'_>,
) -> Result<Option<OllamaLoad>, ApiError> {
    let mut body = Fields::parse(body)?;
    let is_empty = |value: &Value| match value {
        Value::Array(list) => list.is_empty(),
        Value::String(text) => !is_chat && text.is_empty(),
        _ => false,
    };
    let asked = if is_chat { &["messages"][..] } else { &["prompt", "suffix", "images"][..] };
    if asked.iter().any(|name| body.take(name).is_some_and(|value| !is_empty(&value))) {
        return Ok(None);
    }
    let (mut chat, mut warnings) = (Map::new(), Warnings::default());
    ollama::shared(&mut body, &mut chat, &mut warnings, options)?;
    // Without an answer there is nothing that they could change.
    ignore(&mut body, &["tools", "raw", "system", "template", "context"]);
    body.finish(options.strict, &mut warnings)?;
    Ok(Some(OllamaLoad { is_chat, warnings: warnings.into_list() }))
}

impl OllamaLoad {
    /// The response once the model is loaded, which took so long.
    #[must_use]
    pub fn to_json(&self, model: &str, took: Duration) -> String {
        let mut body = json!({ "model": model, "created_at": rfc3339(SystemTime::now()) });
        match self.is_chat {
            true => body["message"] = json!({ "role": "assistant", "content": "" }),
            false => body["response"] = "".into(),
        }
        body["done"] = true.into();
        body["done_reason"] = "load".into();
        for name in ["total_duration", "load_duration"] {
            body[name] = (took.as_nanos() as u64).into();
        }
        if !self.warnings.is_empty() {
            body["warnings"] = json!(self.warnings);
        }
        body.to_string()
    }
}
