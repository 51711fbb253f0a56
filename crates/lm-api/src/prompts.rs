//! `POST /v1/completions`: one or several raw prompts.
//!
//! It must never know the vocabulary: token ids are checked by the runtime.
//!
//! Start reading at [`parse_completion`].

use lastmile::{Dialog, Prompt, TextOptions};
use serde_json::Value;

use crate::ApiError;
use crate::fields::{Fields, Warnings};
use crate::params::{self, ParseOptions, Parsed, token_id};
use crate::prompt_report::Told;

/// Prompts of one request.
const MAX_PROMPTS: usize = 64;
/// What OpenAI's API generates when nobody says how much.
const DEFAULT_MAX_TOKENS: u32 = 16;
const WANTED: &str =
    "a string, an array of 1 to 64 strings, an array of token ids, or 1 to 64 arrays of token ids";

/// Reads the body of a completion. Without `max_tokens` it is 16, as in OpenAI's API.
///
/// # Errors
/// The first field that is malformed, outside its range, unsupported or, in strict mode, unknown.
pub fn parse_completion(body: &[u8], options: &ParseOptions<'_>) -> Result<Parsed, ApiError> {
    let mut fields = Fields::parse(body)?;
    let prompts = match fields.take("prompt") {
        Some(value) => {
            prompts(&value).ok_or_else(|| ApiError::invalid("prompt", &value, WANTED))?
        }
        None => return Err(ApiError::Missing { param: "prompt".to_owned(), wanted: WANTED }),
    };
    let logprobs = params::completion_logprobs(&mut fields)?;
    let told = Told::of_completion(&mut fields, logprobs)?;
    let text = text_options(&mut fields)?;
    let mut parsed = {
        let dialog = Dialog::default();
        params::read(fields, Warnings::default(), prompts, dialog, logprobs, told, options)?
    };
    parsed.text = text;
    parsed.stop.max_tokens.get_or_insert(DEFAULT_MAX_TOKENS.max(parsed.stop.min_tokens));
    Ok(parsed)
}

/// Reads `add_special_tokens` and `parse_special`, both true unless the body says otherwise.
///
/// # Errors
/// A field is no boolean.
pub(crate) fn text_options(fields: &mut Fields) -> Result<TextOptions, ApiError> {
    let usual = TextOptions::default();
    Ok(TextOptions {
        add_special: fields.boolean("add_special_tokens")?.unwrap_or(usual.add_special),
        parse_special: fields.boolean("parse_special")?.unwrap_or(usual.parse_special),
    })
}

fn prompts(value: &Value) -> Option<Vec<Prompt>> {
    if let Some(text) = value.as_str() {
        return Some(vec![Prompt::Text(text.to_owned())]);
    }
    let list = value.as_array()?;
    match list.first()? {
        Value::Number(_) => Some(vec![tokens(list)?]),
        _ if list.len() > MAX_PROMPTS => None,
        Value::String(_) => list.iter().map(|v| Some(Prompt::Text(v.as_str()?.into()))).collect(),
        Value::Array(_) => list.iter().map(|v| tokens(v.as_array()?)).collect(),
        _ => None,
    }
}

fn tokens(list: &[Value]) -> Option<Prompt> {
    list.iter().map(token_id).collect::<Option<_>>().map(Prompt::Tokens)
}
