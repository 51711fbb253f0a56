//! `POST /v1/chat/completions`: the conversation.
//!
//! It must never know chat templates.
//!
//! Start reading at [`parse_chat`].

use lastmile::{ChatMessage, Dialog, Prompt, Role};
use serde_json::Value;

use crate::error::{ApiError, shown};
use crate::fields::{Fields, Warnings};
use crate::params::{self, ParseOptions, Parsed};
use crate::prompt_report::Told;
use crate::{reasoning, tools};

/// Reads the body of a chat completion. Text parts of one message are joined by a line break.
///
/// # Errors
/// The first field that is malformed, outside its range, unsupported or, in strict mode, unknown.
pub fn parse_chat(body: &[u8], options: &ParseOptions<'_>) -> Result<Parsed, ApiError> {
    let mut fields = Fields::parse(body)?;
    let told = Told::of_chat(&mut fields)?;
    read_chat(fields, Warnings::default(), told, options)
}

/// Reads a chat completion whose fields are parsed already.
pub(crate) fn read_chat(
    mut fields: Fields,
    mut warnings: Warnings,
    told: Told,
    options: &ParseOptions<'_>,
) -> Result<Parsed, ApiError> {
    let (messages, mut dialog) = conversation(&mut fields, options, &mut warnings)?;
    let max_reasoning_tokens = reasoning::read(&mut fields, &mut dialog, options)?;
    let logprobs = params::chat_logprobs(&mut fields)?;
    let prompts = vec![Prompt::Chat(messages)];
    let mut parsed = params::read(fields, warnings, prompts, dialog, logprobs, told, options)?;
    parsed.stop.max_reasoning_tokens = max_reasoning_tokens;
    Ok(parsed)
}

/// The messages, and what the template is given besides them.
pub(crate) fn conversation(
    fields: &mut Fields,
    options: &ParseOptions<'_>,
    warnings: &mut Warnings,
) -> Result<(Vec<ChatMessage>, Dialog), ApiError> {
    let wanted = "an array of at least 1 message";
    let list = match fields.take("messages") {
        Some(Value::Array(list)) if !list.is_empty() => list,
        Some(other) => return Err(ApiError::invalid("messages", &other, wanted)),
        None => return Err(ApiError::Missing { param: "messages".to_owned(), wanted }),
    };
    let mut dialog = Dialog::default();
    let mut messages = Vec::with_capacity(list.len());
    for (i, value) in list.into_iter().enumerate() {
        let (message, more) = message(&format!("messages[{i}]"), value, options, warnings)?;
        messages.push(message);
        dialog.message_fields.extend(more.map(|more| (i, more)));
    }
    match fields.take("chat_template_kwargs") {
        Some(Value::Object(switches)) if switches.is_empty() => {}
        Some(Value::Object(switches)) => {
            dialog.template_kwargs = Some(Value::Object(switches).to_string());
        }
        Some(other) => return Err(ApiError::invalid("chat_template_kwargs", &other, "an object")),
        None => {}
    }
    dialog.continues_last = fields.boolean("continue_final_message")?.unwrap_or(false);
    if dialog.continues_last {
        // The two say the same, so `false` is what is meant.
        fields.boolean("add_generation_prompt")?;
        if messages.last().is_none_or(|last| last.role != Role::Assistant) {
            let last = messages.last().map_or("", |last| last.role.as_str());
            return Err(ApiError::Conflict {
                param: "continue_final_message",
                found: "true".to_owned(),
                other: "the last message",
                other_found: format!("the {last}'s"),
                wanted: "it must be the assistant's",
            });
        }
    }
    Ok((messages, dialog))
}

fn message(
    path: &str,
    value: Value,
    options: &ParseOptions<'_>,
    warnings: &mut Warnings,
) -> Result<(ChatMessage, Option<String>), ApiError> {
    let mut fields = Fields::nested(path, value)?;
    let role = role(&mut fields)?;
    let more = tools::message_fields(&mut fields, options.strict, warnings)?;
    for name in ["function_call", "audio", "refusal"] {
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
    Ok((ChatMessage { role, content }, more))
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
