//! The conversation and the tools of Anthropic's Messages API, as a chat's.
//!
//! It must never pass over a field: of each object, what nobody took is unknown.
//!
//! Start reading at [`conversation`].

use serde_json::{Map, Value, json};

use super::{array, call, ignore, refuse_unless, tool};
use crate::error::shown;
use crate::fields::{Fields, Warnings};
use crate::{ApiError, ParseOptions};

/// Takes out `tools` and `tool_choice`.
pub(super) fn tools(
    body: &mut Fields,
    chat: &mut Map<String, Value>,
    options: &ParseOptions<'_>,
    warnings: &mut Warnings,
) -> Result<(), ApiError> {
    if let Some(list) = array(body, "tools")? {
        let mut tools = Vec::new();
        for (i, one) in list.into_iter().enumerate() {
            let mut one = Fields::nested(&format!("tools[{i}]"), one)?;
            // Tools that run at Anthropic have a type of their own.
            refuse_unless(&mut one, "type", |kind| *kind == "custom")?;
            tools.push(tool(&mut one, "input_schema"));
            // Arguments are streamed as they come, in any case.
            ignore(&mut one, &["cache_control", "eager_input_streaming"]);
            one.finish(options.strict, warnings)?;
        }
        chat.insert("tools".to_owned(), Value::Array(tools));
    }
    let Some(choice) = body.take("tool_choice") else { return Ok(()) };
    let mut choice = Fields::nested("tool_choice", choice)?;
    let kind = choice.take("type").unwrap_or_default();
    let translated = match kind.as_str() {
        Some("auto") => json!("auto"),
        Some("any") => json!("required"),
        Some("none") => json!("none"),
        Some("tool") => {
            json!({ "type": "function", "function": { "name": choice.take("name") } })
        }
        _ => {
            let wanted = "auto, any, tool or none";
            return Err(ApiError::invalid("tool_choice.type", &kind, wanted));
        }
    };
    chat.insert("tool_choice".to_owned(), translated);
    if choice.boolean("disable_parallel_tool_use")? == Some(true) {
        chat.insert("parallel_tool_calls".to_owned(), false.into());
    }
    choice.finish(options.strict, warnings)
}

/// Takes out `system` and `messages`: a chat's messages.
pub(super) fn conversation(
    body: &mut Fields,
    options: &ParseOptions<'_>,
    warnings: &mut Warnings,
) -> Result<Vec<Value>, ApiError> {
    let mut messages = system(body, options, warnings)?;
    let list = array(body, "messages")?;
    let wanted = "an array of at least 1 message";
    let list = list.ok_or(ApiError::Missing { param: "messages".to_owned(), wanted })?;
    for (i, message) in list.into_iter().enumerate() {
        turn(&format!("messages[{i}]"), message, &mut messages, options, warnings)?;
    }
    Ok(messages)
}

fn system(
    body: &mut Fields,
    options: &ParseOptions<'_>,
    warnings: &mut Warnings,
) -> Result<Vec<Value>, ApiError> {
    match body.take("system") {
        None => Ok(Vec::new()),
        Some(Value::Array(blocks)) => {
            let text = joined("system", blocks, options, warnings)?;
            Ok(vec![json!({ "role": "system", "content": text })])
        }
        Some(text @ Value::String(_)) => Ok(vec![json!({ "role": "system", "content": text })]),
        Some(other) => Err(ApiError::invalid("system", &other, "a string or an array of blocks")),
    }
}

/// Blocks of text, joined by line breaks.
fn joined(
    path: &str,
    blocks: Vec<Value>,
    options: &ParseOptions<'_>,
    warnings: &mut Warnings,
) -> Result<String, ApiError> {
    let texts: Vec<String> = blocks
        .into_iter()
        .enumerate()
        .map(|(i, block)| text(Fields::nested(&format!("{path}[{i}]"), block)?, options, warnings))
        .collect::<Result<_, _>>()?;
    Ok(texts.join("\n"))
}

fn text(
    mut block: Fields,
    options: &ParseOptions<'_>,
    warnings: &mut Warnings,
) -> Result<String, ApiError> {
    let param = block.path("type");
    match block.take("type") {
        Some(kind) if kind == "text" => {}
        Some(kind) => return Err(ApiError::Unsupported { param, found: shown(&kind) }),
        None => {
            return Err(ApiError::Missing { param, wanted: "the kind of a block, as \"text\"" });
        }
    }
    let param = block.path("text");
    let text = block.string("text")?.ok_or(ApiError::Missing { param, wanted: "a string" })?;
    // Citations are part of answers that clients send back; the model never saw them.
    ignore(&mut block, &["cache_control", "citations"]);
    block.finish(options.strict, warnings)?;
    Ok(text)
}

/// One turn may hold several of OpenAI's messages: results of tools stand in the user's.
fn turn(
    path: &str,
    message: Value,
    messages: &mut Vec<Value>,
    options: &ParseOptions<'_>,
    warnings: &mut Warnings,
) -> Result<(), ApiError> {
    let mut fields = Fields::nested(path, message)?;
    let role = fields.take("role").unwrap_or_default();
    let is_user = match role.as_str() {
        Some("user") => true,
        Some("assistant") => false,
        _ => return Err(ApiError::invalid(fields.path("role"), &role, "user or assistant")),
    };
    let param = fields.path("content");
    let content = fields.take("content").unwrap_or_default();
    fields.finish(options.strict, warnings)?;
    let blocks = match content {
        text @ Value::String(_) => {
            messages.push(json!({ "role": role, "content": text }));
            return Ok(());
        }
        Value::Array(blocks) => blocks,
        other => {
            return Err(ApiError::invalid(param, &other, "a string or an array of blocks"));
        }
    };
    let (mut texts, mut calls, mut thoughts) = (Vec::new(), Vec::new(), Vec::new());
    for (i, block) in blocks.into_iter().enumerate() {
        let path = format!("{param}[{i}]");
        let kind = block.get("type").cloned().unwrap_or_default();
        let block = Fields::nested(&path, block)?;
        match kind.as_str() {
            Some("tool_use") if !is_user => calls.push(tool_use(block, options, warnings)?),
            Some("thinking" | "redacted_thinking") if !is_user => {
                thoughts.extend(thought(block, options, warnings)?);
            }
            Some("tool_result") if is_user => {
                messages.push(tool_result(block, options, warnings)?);
            }
            _ => texts.push(text(block, options, warnings)?),
        }
    }
    if !texts.is_empty() || !calls.is_empty() || !thoughts.is_empty() {
        let mut message = json!({ "role": role, "content": texts.join("\n") });
        if !calls.is_empty() {
            message["tool_calls"] = Value::Array(calls);
        }
        if !thoughts.is_empty() {
            message["reasoning_content"] = thoughts.join("\n").into();
        }
        messages.push(message);
    }
    Ok(())
}

/// What was thought; what is redacted, nobody can read but who wrote it.
fn thought(
    mut block: Fields,
    options: &ParseOptions<'_>,
    warnings: &mut Warnings,
) -> Result<Option<String>, ApiError> {
    let is_redacted = block.take("type").is_some_and(|kind| kind == "redacted_thinking");
    let (param, wanted) = (block.path("thinking"), "a string");
    let text = block.string("thinking")?;
    if text.is_none() && !is_redacted {
        return Err(ApiError::Missing { param, wanted });
    }
    ignore(&mut block, &["signature", "data", "cache_control"]);
    block.finish(options.strict, warnings)?;
    Ok(text)
}

fn tool_use(
    mut block: Fields,
    options: &ParseOptions<'_>,
    warnings: &mut Warnings,
) -> Result<Value, ApiError> {
    let mut take = |name: &str| block.take(name).unwrap_or_default();
    let one = call(&take("id"), &take("name"), &take("input"));
    // Who called is always the model itself.
    ignore(&mut block, &["type", "cache_control", "caller"]);
    block.finish(options.strict, warnings)?;
    Ok(one)
}

/// Templates know no failed results, so that it failed stands in the text.
fn tool_result(
    mut block: Fields,
    options: &ParseOptions<'_>,
    warnings: &mut Warnings,
) -> Result<Value, ApiError> {
    let id = block.take("tool_use_id");
    let param = block.path("content");
    let mut content = match block.take("content") {
        None => String::new(),
        Some(Value::String(text)) => text,
        Some(Value::Array(parts)) => joined(&param, parts, options, warnings)?,
        Some(other) => {
            return Err(ApiError::invalid(param, &other, "a string or an array of blocks"));
        }
    };
    if block.boolean("is_error")? == Some(true) {
        content.insert_str(0, "Error: ");
    }
    ignore(&mut block, &["type", "cache_control"]);
    block.finish(options.strict, warnings)?;
    Ok(json!({ "role": "tool", "tool_call_id": id, "content": content }))
}
