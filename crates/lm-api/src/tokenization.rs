//! `/tokenize`, `/detokenize`, `/apply-template` and `/abort`: what was asked.
//!
//! It must never know a vocabulary.
//!
//! Start reading at [`parse_tokenize`].

use lastmile::{Dialog, Prompt, RequestId, TextOptions};
use serde_json::Value;

use crate::error::shorten;
use crate::fields::{Fields, Warnings};
use crate::messages::conversation;
use crate::params::token_id;
use crate::prompts::text_options;
use crate::{ApiError, ParseOptions, reasoning, tools};

/// Tokens that are decoded at once.
const MAX_TOKENS: usize = 1 << 20;
/// Requests that are aborted at once.
const MAX_IDS: usize = 1024;

/// A text or a conversation.
#[derive(Clone, Debug, PartialEq)]
pub struct Text {
    /// What is to be tokenised.
    pub prompt: Prompt,
    /// What its template is given besides the messages.
    pub dialog: Dialog,
    /// How a text alone becomes tokens.
    pub how: TextOptions,
    /// The tokens' texts are wanted, too.
    pub wants_texts: bool,
    /// What was ignored.
    pub warnings: Vec<String>,
}

/// Reads the body of `POST /tokenize`: `prompt`, or `messages` with what belongs to them.
///
/// # Errors
/// The first field that is malformed or, in strict mode, unknown.
pub fn parse_tokenize(body: &[u8], options: &ParseOptions<'_>) -> Result<Text, ApiError> {
    let mut fields = Fields::parse(body)?;
    let how = text_options(&mut fields)?;
    let wants_texts = fields.boolean("return_token_strs")?.unwrap_or(false);
    match fields.string("prompt")? {
        Some(text) => {
            let mut warnings = Warnings::default();
            fields.take("model");
            fields.finish(options.strict, &mut warnings)?;
            let (prompt, dialog) = (Prompt::Text(text), Dialog::default());
            let warnings = warnings.into_list();
            Ok(Text { prompt, dialog, how, wants_texts, warnings })
        }
        None => Ok(Text { wants_texts, ..chat_text(fields, options)? }),
    }
}

/// Reads the body of `POST /apply-template`: a chat's `messages` and what belongs to them.
///
/// # Errors
/// The first field that is malformed or, in strict mode, unknown.
pub fn parse_template(body: &[u8], options: &ParseOptions<'_>) -> Result<Text, ApiError> {
    chat_text(Fields::parse(body)?, options)
}

fn chat_text(mut fields: Fields, options: &ParseOptions<'_>) -> Result<Text, ApiError> {
    let mut warnings = Warnings::default();
    let (messages, mut dialog) = conversation(&mut fields, options, &mut warnings)?;
    // What it may take changes no prompt.
    reasoning::read(&mut fields, &mut dialog, options)?;
    let tools = tools::tool_use(&mut fields, &mut warnings, options.strict)?;
    dialog.tools = tools.map(|tools| tools.json);
    fields.take("model");
    fields.finish(options.strict, &mut warnings)?;
    Ok(Text {
        prompt: Prompt::Chat(messages),
        dialog,
        how: TextOptions::default(),
        wants_texts: false,
        warnings: warnings.into_list(),
    })
}

/// Reads the body of `POST /detokenize`: `tokens`. Also gives what was ignored.
///
/// # Errors
/// The first field that is malformed or, in strict mode, unknown.
pub fn parse_detokenize(body: &[u8], strict: bool) -> Result<(Vec<u32>, Vec<String>), ApiError> {
    let (mut fields, mut warnings) = (Fields::parse(body)?, Warnings::default());
    let wanted = "an array of token ids";
    let Some(value) = fields.take("tokens") else {
        return Err(ApiError::Missing { param: "tokens".to_owned(), wanted });
    };
    let list = value.as_array().filter(|list| list.len() <= MAX_TOKENS);
    let tokens: Option<Vec<u32>> = list.and_then(|list| list.iter().map(token_id).collect());
    fields.take("model");
    fields.finish(strict, &mut warnings)?;
    let tokens = tokens.ok_or_else(|| ApiError::invalid("tokens", &value, wanted))?;
    Ok((tokens, warnings.into_list()))
}

/// Reads the body of `POST /abort`: `request_id`, one or several, with or without the prefix that a response
/// puts before it. Also gives what was ignored.
///
/// # Errors
/// The field is missing or names no request.
pub fn parse_abort(body: &[u8], strict: bool) -> Result<(Vec<RequestId>, Vec<String>), ApiError> {
    let (mut fields, mut warnings) = (Fields::parse(body)?, Warnings::default());
    let wanted = "a request's id, or an array of at most 1024";
    let asked = match fields.take("request_id") {
        Some(Value::Array(list)) if list.len() <= MAX_IDS => list,
        Some(other) => vec![other],
        None => return Err(ApiError::Missing { param: "request_id".to_owned(), wanted }),
    };
    fields.take("model");
    fields.finish(strict, &mut warnings)?;
    let id = |value: &Value| {
        let text = value.as_str().ok_or_else(|| ApiError::invalid("request_id", value, wanted))?;
        let bare = text.rsplit_once(['-', '_']).map_or(text, |_| unprefixed(text));
        bare.parse().map_err(|_| ApiError::NotRunning { id: shorten(text) })
    };
    let ids: Vec<RequestId> = asked.iter().map(id).collect::<Result<_, _>>()?;
    Ok((ids, warnings.into_list()))
}

fn unprefixed(text: &str) -> &str {
    let prefixes = ["chatcmpl-", "cmpl-", "msg_", "resp_"];
    prefixes.iter().find_map(|prefix| text.strip_prefix(prefix)).unwrap_or(text)
}
