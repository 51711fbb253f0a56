//! The conversation and the tools of OpenAI's Responses API, as a chat's.
//!
//! It must never pass over a field: of each object, what nobody took is unknown.
//!
//! Start reading at [`conversation`].

use serde_json::{Map, Value, json};

use super::{array, call, ignore, refuse_unless, tool};
use crate::error::shown;
use crate::fields::{Fields, Warnings};
use crate::{ApiError, ParseOptions};

/// What a client has of an earlier response and sends back; no answer depends on it.
const OF_ITEMS: [&str; 3] = ["type", "id", "status"];

/// Fills in the chat's tools; gives them and the choice back as the response repeats them.
pub(super) fn tools(
    body: &mut Fields,
    chat: &mut Map<String, Value>,
    options: &ParseOptions<'_>,
    warnings: &mut Warnings,
) -> Result<(Vec<Value>, Value), ApiError> {
    let list = array(body, "tools")?.unwrap_or_default();
    let mut translated = Vec::new();
    for (i, one) in list.iter().enumerate() {
        let mut one = Fields::nested(&format!("tools[{i}]"), one.clone())?;
        let param = one.path("type");
        let kind = one.take("type").unwrap_or_default();
        if kind != "function" {
            return Err(ApiError::Unsupported { param, found: shown(&kind) });
        }
        translated.push(tool(&mut one, "parameters"));
        one.finish(options.strict, warnings)?;
    }
    if !translated.is_empty() {
        chat.insert("tools".to_owned(), Value::Array(translated));
    }
    let Some(choice) = body.take("tool_choice") else { return Ok((list, json!("auto"))) };
    let translated = match &choice {
        Value::Object(fields) if choice["type"] == "function" => {
            let mut fields = Fields::nested("tool_choice", Value::Object(fields.clone()))?;
            let name = fields.take("name");
            fields.take("type");
            fields.finish(options.strict, warnings)?;
            json!({ "type": "function", "function": { "name": name } })
        }
        other => other.clone(),
    };
    chat.insert("tool_choice".to_owned(), translated);
    Ok((list, choice))
}

/// `text.format` is flat where a chat's `response_format` is nested.
pub(super) fn text_format(
    body: &mut Fields,
    chat: &mut Map<String, Value>,
    options: &ParseOptions<'_>,
    warnings: &mut Warnings,
) -> Result<(), ApiError> {
    let Some(text) = body.take("text") else { return Ok(()) };
    let mut fields = Fields::nested("text", text)?;
    refuse_unless(&mut fields, "verbosity", |value| *value == "medium")?;
    if let Some(mut format) = fields.take("format") {
        if format["type"] == "json_schema"
            && let Some(inner) = format.as_object_mut()
        {
            inner.shift_remove("type");
            format = json!({ "type": "json_schema", "json_schema": inner });
        }
        chat.insert("response_format".to_owned(), format);
    }
    fields.finish(options.strict, warnings)
}

/// Takes out `input`: a chat's messages.
pub(super) fn conversation(
    body: &mut Fields,
    options: &ParseOptions<'_>,
    warnings: &mut Warnings,
) -> Result<Vec<Value>, ApiError> {
    let wanted = "a string or an array of at least 1 item";
    let items = match body.take("input") {
        Some(text @ Value::String(_)) => {
            return Ok(vec![json!({ "role": "user", "content": text })]);
        }
        Some(Value::Array(items)) if !items.is_empty() => items,
        Some(other) => return Err(ApiError::invalid("input", &other, wanted)),
        None => return Err(ApiError::Missing { param: "input".to_owned(), wanted }),
    };
    let mut messages: Vec<Value> = Vec::new();
    // Reasoning is an item before the answer that it belongs to.
    let mut thought: Option<String> = None;
    for (i, item) in items.into_iter().enumerate() {
        let path = format!("input[{i}]");
        let kind = item.get("type").filter(|kind| !kind.is_null()).cloned();
        let kind = kind.unwrap_or_else(|| json!("message"));
        let item = Fields::nested(&path, item)?;
        match kind.as_str() {
            Some("message") => {
                let mut message = message(item, options, warnings)?;
                think_before(&mut message, thought.take());
                messages.push(message);
            }
            Some("reasoning") => thought = reasoning(item, options, warnings)?,
            Some("function_call") => {
                let one = function_call(item, options, warnings)?;
                // Calls of one answer are items side by side.
                match messages.last_mut().and_then(|last| last.get_mut("tool_calls")) {
                    Some(Value::Array(calls)) => calls.push(one),
                    _ => {
                        let mut message =
                            json!({ "role": "assistant", "content": "", "tool_calls": [one] });
                        think_before(&mut message, thought.take());
                        messages.push(message);
                    }
                }
            }
            Some("function_call_output") => {
                thought = None;
                messages.push(call_output(item, options, warnings)?);
            }
            _ => {
                let param = item.path("type");
                return Err(ApiError::Unsupported { param, found: shown(&kind) });
            }
        }
    }
    Ok(messages)
}

/// What an item of reasoning holds that can be read; of what is encrypted, nothing.
fn reasoning(
    mut item: Fields,
    options: &ParseOptions<'_>,
    warnings: &mut Warnings,
) -> Result<Option<String>, ApiError> {
    let mut texts = |name: &str| {
        let list = item.take(name).unwrap_or_default();
        let parts = list.as_array().into_iter().flatten();
        let texts: Vec<&str> = parts.filter_map(|part| part["text"].as_str()).collect();
        (!texts.is_empty()).then(|| texts.join("\n"))
    };
    let (content, summary) = (texts("content"), texts("summary"));
    ignore(&mut item, &OF_ITEMS);
    ignore(&mut item, &["encrypted_content"]);
    item.finish(options.strict, warnings)?;
    Ok(content.or(summary))
}

/// An answer came after this reasoning.
fn think_before(message: &mut Value, thought: Option<String>) {
    if let Some(thought) = thought.filter(|_| message["role"] == "assistant") {
        message["reasoning_content"] = thought.into();
    }
}

fn message(
    mut item: Fields,
    options: &ParseOptions<'_>,
    warnings: &mut Warnings,
) -> Result<Value, ApiError> {
    let role = item.take("role");
    let param = item.path("content");
    let content = match item.take("content") {
        Some(Value::Array(parts)) => joined(&param, parts, options, warnings)?.into(),
        other => other.unwrap_or_default(),
    };
    ignore(&mut item, &OF_ITEMS);
    item.finish(options.strict, warnings)?;
    Ok(json!({ "role": role, "content": content }))
}

fn function_call(
    mut item: Fields,
    options: &ParseOptions<'_>,
    warnings: &mut Warnings,
) -> Result<Value, ApiError> {
    let mut take = |name: &str| item.take(name).unwrap_or_default();
    let one = call(&take("call_id"), &take("name"), &take("arguments"));
    ignore(&mut item, &OF_ITEMS);
    item.finish(options.strict, warnings)?;
    Ok(one)
}

fn call_output(
    mut item: Fields,
    options: &ParseOptions<'_>,
    warnings: &mut Warnings,
) -> Result<Value, ApiError> {
    let id = item.take("call_id");
    let param = item.path("output");
    let output = match item.take("output") {
        Some(Value::String(text)) => text,
        Some(Value::Array(parts)) => joined(&param, parts, options, warnings)?,
        Some(other) => {
            return Err(ApiError::invalid(param, &other, "a string or an array of parts"));
        }
        None => return Err(ApiError::Missing { param, wanted: "a string or an array of parts" }),
    };
    ignore(&mut item, &OF_ITEMS);
    item.finish(options.strict, warnings)?;
    Ok(json!({ "role": "tool", "tool_call_id": id, "content": output }))
}

/// Parts of text, joined by line breaks.
fn joined(
    path: &str,
    parts: Vec<Value>,
    options: &ParseOptions<'_>,
    warnings: &mut Warnings,
) -> Result<String, ApiError> {
    let mut texts = Vec::new();
    for (i, part) in parts.into_iter().enumerate() {
        let mut part = Fields::nested(&format!("{path}[{i}]"), part)?;
        let param = part.path("type");
        let kind = part.take("type").unwrap_or_default();
        if kind != "input_text" && kind != "output_text" {
            return Err(ApiError::Unsupported { param, found: shown(&kind) });
        }
        let param = part.path("text");
        let text = part.string("text")?;
        texts.push(text.ok_or(ApiError::Missing { param, wanted: "a string" })?);
        // They are part of answers that clients send back; the model never saw them.
        ignore(&mut part, &["annotations", "logprobs"]);
        part.finish(options.strict, warnings)?;
    }
    Ok(texts.join("\n"))
}
