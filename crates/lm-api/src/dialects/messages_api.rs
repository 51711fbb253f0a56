//! Anthropic's Messages API.
//!
//! It must never know OpenAI's answers.
//!
//! Start reading at [`parse_messages`] (in) and [`MessagesDialect`] (out).

use lastmile::{AnswerPart, FinishReason};
use serde_json::{Map, Value, json};

use super::{Block, Dialect, DialectHead, Ending, Frame, Framing, append, arguments};
use super::{array, call, finish, take_over, tool};
use crate::error::shown;
use crate::fields::{Fields, Warnings};
use crate::{ApiError, ParseOptions, Parsed, reasoning};

/// Clients must have a signature of what was thought. It proves nothing here, and is not looked at when it comes back.
const SIGNATURE: &str = "unsigned";

/// Reads the body of `POST /v1/messages`, and of `/v1/messages/count_tokens`, which has no `max_tokens`.
///
/// # Errors
/// The first field that is malformed, outside its range, unsupported or, in strict mode, unknown.
pub fn parse_messages(
    body: &[u8],
    counts_only: bool,
    options: &ParseOptions<'_>,
) -> Result<(Parsed, Box<dyn Dialect>), ApiError> {
    let mut body = Fields::parse(body)?;
    let (mut chat, mut warnings) = (Map::new(), Warnings::default());
    let names = [
        ("model", "model"),
        ("max_tokens", "max_tokens"),
        ("temperature", "temperature"),
        ("top_k", "top_k"),
        ("top_p", "top_p"),
        ("stop_sequences", "stop"),
        ("stream", "stream"),
    ];
    take_over(&mut body, &mut chat, &names);
    if !counts_only && !chat.contains_key("max_tokens") {
        let param = "max_tokens".to_owned();
        return Err(ApiError::Missing { param, wanted: "an integer of at least 1" });
    }
    reasoning::of_messages(&mut body, &mut chat, &mut warnings, options)?;
    if let Some(user) =
        body.take("metadata").and_then(|mut metadata| metadata.get_mut("user_id").map(Value::take))
    {
        chat.insert("user".to_owned(), user);
    }
    // Where blocks may be cached is the server's own business.
    for name in ["service_tier", "cache_control"] {
        body.take(name);
    }
    tools(&mut body, &mut chat)?;
    let mut messages = system(&mut body)?;
    let list = array(&mut body, "messages")?;
    let wanted = "an array of at least 1 message";
    let list = list.ok_or(ApiError::Missing { param: "messages".to_owned(), wanted })?;
    for (i, message) in list.into_iter().enumerate() {
        turn(&format!("messages[{i}]"), message, &mut messages)?;
    }
    // The last message is gone on with when it is the model's own.
    if messages.last().is_some_and(|last| last["role"] == "assistant") {
        chat.insert("continue_final_message".to_owned(), true.into());
    }
    chat.insert("messages".to_owned(), Value::Array(messages));
    let parsed = finish(body, chat, warnings, options)?;
    let dialect = MessagesDialect {
        only_stop: match parsed.stop.stop_strings.as_slice() {
            [only] => Some(only.clone()),
            _ => None,
        },
        blocks: Vec::new(),
    };
    Ok((parsed, Box::new(dialect)))
}

fn tools(body: &mut Fields, chat: &mut Map<String, Value>) -> Result<(), ApiError> {
    if let Some(list) = array(body, "tools")? {
        let mut tools = Vec::new();
        for (i, one) in list.iter().enumerate() {
            // Tools that run at Anthropic have a type of their own.
            if one.get("type").is_some_and(|kind| kind != "custom" && !kind.is_null()) {
                let param = format!("tools[{i}].type");
                return Err(ApiError::Unsupported { param, found: shown(&one["type"]) });
            }
            tools.push(tool(&one["name"], &one["description"], &one["input_schema"]));
        }
        chat.insert("tools".to_owned(), Value::Array(tools));
    }
    let Some(choice) = body.take("tool_choice") else { return Ok(()) };
    let translated = match choice["type"].as_str() {
        Some("auto") => json!("auto"),
        Some("any") => json!("required"),
        Some("none") => json!("none"),
        Some("tool") => json!({ "type": "function", "function": { "name": choice["name"] } }),
        _ => {
            let wanted = "an object of type auto, any, tool or none";
            return Err(ApiError::invalid("tool_choice", &choice, wanted));
        }
    };
    chat.insert("tool_choice".to_owned(), translated);
    if choice["disable_parallel_tool_use"] == true {
        chat.insert("parallel_tool_calls".to_owned(), false.into());
    }
    Ok(())
}

fn system(body: &mut Fields) -> Result<Vec<Value>, ApiError> {
    match body.take("system") {
        None => Ok(Vec::new()),
        Some(Value::Array(blocks)) => {
            let texts: Result<Vec<String>, ApiError> =
                blocks.iter().enumerate().map(|(i, b)| text(&format!("system[{i}]"), b)).collect();
            Ok(vec![json!({ "role": "system", "content": texts?.join("\n") })])
        }
        Some(text @ Value::String(_)) => Ok(vec![json!({ "role": "system", "content": text })]),
        Some(other) => Err(ApiError::invalid("system", &other, "a string or an array of blocks")),
    }
}

fn text(path: &str, block: &Value) -> Result<String, ApiError> {
    match (block["type"].as_str(), block["text"].as_str()) {
        (Some("text"), Some(text)) => Ok(text.to_owned()),
        (Some(_), None) => {
            let param = format!("{path}.type");
            Err(ApiError::Unsupported { param, found: shown(&block["type"]) })
        }
        _ => Err(ApiError::invalid(path, block, "a block of text")),
    }
}

/// One turn may hold several of OpenAI's messages: results of tools stand in the user's.
fn turn(path: &str, message: Value, messages: &mut Vec<Value>) -> Result<(), ApiError> {
    let role = message["role"].as_str().filter(|role| matches!(*role, "user" | "assistant"));
    let role = role.ok_or_else(|| {
        ApiError::invalid(format!("{path}.role"), &message["role"], "user or assistant")
    })?;
    let blocks = match &message["content"] {
        text @ Value::String(_) => {
            messages.push(json!({ "role": role, "content": text }));
            return Ok(());
        }
        Value::Array(blocks) => blocks,
        other => {
            let wanted = "a string or an array of blocks";
            return Err(ApiError::invalid(format!("{path}.content"), other, wanted));
        }
    };
    let (mut texts, mut calls, mut thoughts) = (Vec::new(), Vec::new(), Vec::new());
    for (i, block) in blocks.iter().enumerate() {
        let path = format!("{path}.content[{i}]");
        match block["type"].as_str() {
            Some("tool_use") if role == "assistant" => {
                calls.push(call(&block["id"], &block["name"], &block["input"]));
            }
            Some("thinking") if role == "assistant" => {
                let thought = block["thinking"].as_str();
                let param = || format!("{path}.thinking");
                thoughts.push(
                    thought.ok_or_else(|| {
                        ApiError::invalid(param(), &block["thinking"], "a string")
                    })?,
                );
            }
            // Nobody can read it but who wrote it.
            Some("redacted_thinking") if role == "assistant" => {}
            Some("tool_result") if role == "user" => {
                let content = match &block["content"] {
                    Value::Array(parts) => {
                        let texts: Result<Vec<String>, ApiError> = parts
                            .iter()
                            .map(|part| text(&format!("{path}.content"), part))
                            .collect();
                        Value::from(texts?.join("\n"))
                    }
                    Value::Null => Value::from(""),
                    other => other.clone(),
                };
                let id = &block["tool_use_id"];
                messages.push(json!({ "role": "tool", "tool_call_id": id, "content": content }));
            }
            _ => texts.push(text(&path, block)?),
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

/// One answer as a message.
struct MessagesDialect {
    /// The stop sequence, when there is only one that can have ended the answer.
    only_stop: Option<String>,
    blocks: Vec<Block>,
}

impl MessagesDialect {
    fn stop(&self, ending: &Ending) -> (&'static str, Option<&str>) {
        let has_calls = self.blocks.iter().any(|block| matches!(block, Block::Call { .. }));
        match ending.reason {
            FinishReason::Length | FinishReason::Budget => ("max_tokens", None),
            FinishReason::Filtered => ("refusal", None),
            _ if has_calls => ("tool_use", None),
            _ if ending.by_stop_string => ("stop_sequence", self.only_stop.as_deref()),
            _ => ("end_turn", None),
        }
    }

    /// Closes the last of the first `n` blocks.
    fn close_block(&self, n: usize, frames: &mut Vec<Frame>) {
        let Some(index) = n.checked_sub(1) else { return };
        if matches!(self.blocks.get(index), Some(Block::Reasoning(_))) {
            let delta = json!({ "type": "signature_delta", "signature": SIGNATURE });
            frames.push(delta_frame(index, delta));
        }
        let data = json!({ "type": "content_block_stop", "index": index });
        frames.push(frame("content_block_stop", &data));
    }
}

impl Dialect for MessagesDialect {
    fn framing(&self) -> Framing {
        Framing::Events
    }

    fn begin(&mut self, head: &DialectHead) -> Vec<Frame> {
        let message = json!({
            "id": format!("msg_{}", head.id),
            "type": "message",
            "role": "assistant",
            "model": head.model,
            "content": [],
            "stop_reason": null,
            "stop_sequence": null,
            "usage": { "input_tokens": 0, "output_tokens": 0 },
        });
        vec![frame("message_start", &json!({ "type": "message_start", "message": message }))]
    }

    fn part(&mut self, _: &DialectHead, part: &AnswerPart, call_id: &str) -> Vec<Frame> {
        let mut frames = Vec::new();
        let n_before = self.blocks.len();
        append(&mut self.blocks, part, call_id);
        let index = self.blocks.len().saturating_sub(1);
        if self.blocks.len() > n_before {
            self.close_block(n_before, &mut frames);
            let block = match part {
                AnswerPart::CallBegins { name, .. } => {
                    json!({ "type": "tool_use", "id": call_id, "name": name, "input": {} })
                }
                AnswerPart::Reasoning(_) => {
                    json!({ "type": "thinking", "thinking": "", "signature": "" })
                }
                _ => json!({ "type": "text", "text": "" }),
            };
            let data =
                json!({ "type": "content_block_start", "index": index, "content_block": block });
            frames.push(frame("content_block_start", &data));
        }
        let delta = match part {
            AnswerPart::Reasoning(text) => json!({ "type": "thinking_delta", "thinking": text }),
            AnswerPart::Text(text) => json!({ "type": "text_delta", "text": text }),
            AnswerPart::Arguments { json, .. } => {
                json!({ "type": "input_json_delta", "partial_json": json })
            }
            AnswerPart::CallBegins { .. } => return frames,
        };
        frames.push(delta_frame(index, delta));
        frames
    }

    fn end(&mut self, head: &DialectHead, ending: &Ending) -> Vec<Frame> {
        let mut frames = Vec::new();
        self.close_block(self.blocks.len(), &mut frames);
        let (reason, sequence) = self.stop(ending);
        let mut data = json!({
            "type": "message_delta",
            "delta": { "stop_reason": reason, "stop_sequence": sequence },
            "usage": usage(ending),
        });
        warn(&mut data, head);
        frames.push(frame("message_delta", &data));
        frames.push(frame("message_stop", &json!({ "type": "message_stop" })));
        frames
    }

    fn whole(&mut self, head: &DialectHead, ending: &Ending) -> String {
        let (reason, sequence) = self.stop(ending);
        let block = |block: &Block| match block {
            Block::Reasoning(text) => {
                json!({ "type": "thinking", "thinking": text, "signature": SIGNATURE })
            }
            Block::Text(text) => json!({ "type": "text", "text": text }),
            Block::Call { id, name, json } => {
                json!({ "type": "tool_use", "id": id, "name": name, "input": arguments(json) })
            }
        };
        let mut body = json!({
            "id": format!("msg_{}", head.id),
            "type": "message",
            "role": "assistant",
            "model": head.model,
            "content": self.blocks.iter().map(block).collect::<Vec<_>>(),
            "stop_reason": reason,
            "stop_sequence": sequence,
            "usage": usage(ending),
        });
        warn(&mut body, head);
        body.to_string()
    }

    fn failed(&mut self, error: &ApiError) -> Frame {
        Frame { event: Some("error"), data: error.to_messages_json() }
    }
}

fn usage(ending: &Ending) -> Value {
    let usage = ending.usage;
    json!({
        "input_tokens": usage.prompt_tokens.saturating_sub(usage.cached_tokens),
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": usage.cached_tokens,
        "output_tokens": usage.completion_tokens,
    })
}

fn warn(body: &mut Value, head: &DialectHead) {
    if !head.warnings.is_empty() {
        body["warnings"] = json!(head.warnings);
    }
}

fn delta_frame(index: usize, delta: Value) -> Frame {
    let data = json!({ "type": "content_block_delta", "index": index, "delta": delta });
    frame("content_block_delta", &data)
}

fn frame(event: &'static str, data: &Value) -> Frame {
    Frame { event: Some(event), data: data.to_string() }
}
