//! What a body of the Responses API says before the answer: items become messages.
//!
//! It must never know an answer.
//!
//! Start reading at [`input`].

use serde_json::{Value, json};

use super::call;
use crate::ApiError;
use crate::error::shown;
use crate::fields::Fields;

/// Reads `input`: a text, or items.
pub(crate) fn input(body: &mut Fields) -> Result<Vec<Value>, ApiError> {
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
        match item["type"].as_str() {
            None | Some("message") => {
                let mut message = message(&path, &item)?;
                think_before(&mut message, thought.take());
                messages.push(message);
            }
            Some("reasoning") => thought = reasoning(&item),
            Some("function_call") => {
                let one = call(&item["call_id"], &item["name"], &item["arguments"]);
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
                let (id, output) = (&item["call_id"], &item["output"]);
                let output = output.as_str().map_or_else(|| output.to_string(), str::to_owned);
                messages.push(json!({ "role": "tool", "tool_call_id": id, "content": output }));
            }
            Some(_) => {
                let param = format!("{path}.type");
                return Err(ApiError::Unsupported { param, found: shown(&item["type"]) });
            }
        }
    }
    Ok(messages)
}

/// What an item of reasoning holds that can be read; of what is encrypted, nothing.
fn reasoning(item: &Value) -> Option<String> {
    let texts = |name: &str| {
        let parts = item[name].as_array().into_iter().flatten();
        let texts: Vec<&str> = parts.filter_map(|part| part["text"].as_str()).collect();
        (!texts.is_empty()).then(|| texts.join("\n"))
    };
    texts("content").or_else(|| texts("summary"))
}

/// An answer came after this reasoning.
fn think_before(message: &mut Value, thought: Option<String>) {
    if let Some(thought) = thought.filter(|_| message["role"] == "assistant") {
        message["reasoning_content"] = thought.into();
    }
}

fn message(path: &str, item: &Value) -> Result<Value, ApiError> {
    let parts = match &item["content"] {
        Value::Array(parts) => parts,
        other => return Ok(json!({ "role": item["role"], "content": other })),
    };
    let mut texts = Vec::new();
    for (i, part) in parts.iter().enumerate() {
        match (part["type"].as_str(), &part["text"]) {
            (Some("input_text" | "output_text"), Value::String(text)) => texts.push(text.as_str()),
            _ => {
                let param = format!("{path}.content[{i}].type");
                return Err(ApiError::Unsupported { param, found: shown(&part["type"]) });
            }
        }
    }
    Ok(json!({ "role": item["role"], "content": texts.join("\n") }))
}
