//! `POST /v1/completions`: one or several raw prompts.
//!
//! It must never know the vocabulary: token ids are checked by the runtime.
//!
//! Start reading at [`parse_completion`].

use lastmile::{Dialog, Prompt, TextOptions};
use serde_json::Value;

use crate::ApiError;
use crate::error::shown;
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
    let mut prompts = match fields.take("prompt") {
        Some(value) => {
            prompts(&value).ok_or_else(|| ApiError::invalid("prompt", &value, WANTED))?
        }
        None => return Err(ApiError::Missing { param: "prompt".to_owned(), wanted: WANTED }),
    };
    let logprobs = params::completion_logprobs(&mut fields)?;
    let told = Told::of_completion(&mut fields, logprobs)?;
    let mut usual = TextOptions::default();
    if let Some(suffix) = fields.string("suffix")?.filter(|suffix| !suffix.is_empty()) {
        prompts = with_gaps(prompts, &suffix)?;
        check_echo(told.echo, logprobs, &suffix)?;
        // What stands around a gap is mostly code: names of control tokens in it are text.
        usual.parse_special = false;
    }
    let text = text_options(&mut fields, usual)?;
    let mut parsed = {
        let dialog = Dialog::default();
        params::read(fields, Warnings::default(), prompts, dialog, logprobs, told, options)?
    };
    parsed.text = text;
    parsed.stop.max_tokens.get_or_insert(DEFAULT_MAX_TOKENS.max(parsed.stop.min_tokens));
    Ok(parsed)
}

/// Each prompt stands before a gap, and `suffix` after it.
fn with_gaps(prompts: Vec<Prompt>, suffix: &str) -> Result<Vec<Prompt>, ApiError> {
    let with_gap = |prompt: Prompt| match prompt {
        Prompt::Text(prefix) => Ok(Prompt::Infill { prefix, suffix: suffix.to_owned() }),
        _ => Err(ApiError::Conflict {
            param: "suffix",
            found: shown(&suffix.into()),
            other: "prompt",
            other_found: "given as token ids".to_owned(),
            wanted: "a suffix follows a prompt that is text",
        }),
    };
    prompts.into_iter().map(with_gap).collect()
}

/// The tokens of a prompt with a gap do not stand in the order of the text that is told back.
fn check_echo(echo: bool, logprobs: Option<u32>, suffix: &str) -> Result<(), ApiError> {
    match logprobs {
        Some(_) if echo => Err(ApiError::Conflict {
            param: "suffix",
            found: shown(&suffix.into()),
            other: "echo",
            other_found: "true with logprobs".to_owned(),
            wanted: "leave one of the three out",
        }),
        _ => Ok(()),
    }
}

/// Reads `add_special_tokens` and `parse_special`, which are as `usual` unless the body says otherwise.
///
/// # Errors
/// A field is no boolean.
pub(crate) fn text_options(
    fields: &mut Fields,
    usual: TextOptions,
) -> Result<TextOptions, ApiError> {
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
