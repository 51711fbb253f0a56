//! `POST /v1/chat/completions`: the conversation.
//!
//! It must never know chat templates.
//!
//! Start reading at [`parse_chat`].

use lastmile::{ChatMessage, Prompt, Role};
use serde_json::Value;

use crate::error::{ApiError, shown};
use crate::fields::{Fields, Warnings};
use crate::params::{self, ParseOptions, Parsed};

/// Reads the body of a chat completion. Text parts of one message are joined by a line break.
///
/// # Errors
/// The first field that is malformed, outside its range, unsupported or, in strict mode, unknown.
pub fn parse_chat(body: &[u8], options: &ParseOptions<'_>) -> Result<Parsed, ApiError> {
    let mut fields = Fields::parse(body)?;
    let mut warnings = Warnings::default();
    let wanted = "an array of at least 1 message";
    let messages = match fields.take("messages") {
        Some(Value::Array(list)) if !list.is_empty() => list,
        Some(other) => return Err(ApiError::invalid("messages", &other, wanted)),
        None => return Err(ApiError::Missing { param: "messages".to_owned(), wanted }),
    };
    let messages = messages
        .into_iter()
        .enumerate()
        .map(|(i, value)| message(&format!("messages[{i}]"), value, options, &mut warnings))
        .collect::<Result<_, _>>()?;
    let logprobs = params::chat_logprobs(&mut fields)?;
    params::read(fields, warnings, vec![Prompt::Chat(messages)], logprobs, options)
}

fn message(
    path: &str,
    value: Value,
    options: &ParseOptions<'_>,
    warnings: &mut Warnings,
) -> Result<ChatMessage, ApiError> {
    let mut fields = Fields::nested(path, value)?;
    let role = role(&mut fields)?;
    for name in ["tool_calls", "function_call", "audio", "refusal"] {
        let asks = |value: &Value| !value.as_array().is_some_and(Vec::is_empty);
        if let Some(value) = fields.take(name).filter(asks) {
            return Err(ApiError::Unsupported { param: fields.path(name), found: shown(&value) });
        }
    }
    let param = fields.path("content");
    let content = match fields.take("content") {
        Some(Value::String(text)) => text,
        Some(Value::Array(parts)) => {
            let texts: Vec<String> = parts
                .into_iter()
                .enumerate()
                .map(|(i, part)| text_part(&format!("{param}[{i}]"), part, options, warnings))
                .collect::<Result<_, _>>()?;
            texts.join("\n")
        }
        None if role == Role::Assistant => String::new(),
        None => return Err(ApiError::Missing { param, wanted: "a string or an array of parts" }),
        Some(other) => {
            return Err(ApiError::invalid(param, &other, "a string or an array of parts"));
        }
    };
    fields.finish(options.strict, warnings)?;
    Ok(ChatMessage { role, content })
}

fn role(fields: &mut Fields) -> Result<Role, ApiError> {
    let wanted = "system, user, assistant, tool or developer";
    let param = fields.path("role");
    let Some(value) = fields.take("role") else {
        return Err(ApiError::Missing { param, wanted });
    };
    match value.as_str() {
        Some("system") => Ok(Role::System),
        Some("user") => Ok(Role::User),
        Some("assistant") => Ok(Role::Assistant),
        Some("tool") => Ok(Role::Tool),
        Some("developer") => Ok(Role::Developer),
        _ => Err(ApiError::invalid(param, &value, wanted)),
    }
}

fn text_part(
    path: &str,
    value: Value,
    options: &ParseOptions<'_>,
    warnings: &mut Warnings,
) -> Result<String, ApiError> {
    let mut fields = Fields::nested(path, value)?;
    let param = fields.path("type");
    match fields.string("type")? {
        Some(kind) if kind == "text" => {}
        Some(kind) => {
            return Err(ApiError::Unsupported { param, found: shown(&Value::String(kind)) });
        }
        None => return Err(ApiError::Missing { param, wanted: "\"text\"" }),
    }
    let param = fields.path("text");
    let text = fields.string("text")?.ok_or(ApiError::Missing { param, wanted: "a string" })?;
    fields.finish(options.strict, warnings)?;
    Ok(text)
}
