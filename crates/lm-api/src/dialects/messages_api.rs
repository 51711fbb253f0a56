//! Anthropic's Messages API.
//!
//! It must never know OpenAI's answers.
//!
//! Start reading at [`parse_messages`] (in) and [`MessagesDialect`] (out).

use lastmile::{AnswerPart, FinishReason, Usage};
use serde_json::{Map, Value, json};

use super::{Block, Dialect, DialectHead, Ending, Frame, Framing, append, arguments};
use super::{finish, ignore, messages_input, refuse_unless, take_over};
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
    if let Some(metadata) = body.take("metadata") {
        let mut metadata = Fields::nested("metadata", metadata)?;
        take_over(&mut metadata, &mut chat, &[("user_id", "user")]);
        metadata.finish(options.strict, &mut warnings)?;
    }
    refuse(&mut body)?;
    messages_input::tools(&mut body, &mut chat, options, &mut warnings)?;
    let messages = messages_input::conversation(&mut body, options, &mut warnings)?;
    // The last message is gone on with when it is the model's own.
    if messages.last().is_some_and(|last| last["role"] == "assistant") {
        chat.insert("continue_final_message".to_owned(), true.into());
    }
    chat.insert("messages".to_owned(), Value::Array(messages));
    let parsed = finish(body, chat, warnings, options)?;
    let dialect = MessagesDialect { blocks: Vec::new() };
    Ok((parsed, Box::new(dialect)))
}

/// What would change the answer, or needs other machines.
fn refuse(body: &mut Fields) -> Result<(), ApiError> {
    refuse_unless(body, "service_tier", |tier| *tier == "auto" || *tier == "standard_only")?;
    refuse_unless(body, "mcp_servers", |list| *list == json!([]))?;
    for name in ["container", "output_format"] {
        refuse_unless(body, name, |_| false)?;
    }
    // Where blocks may be cached is the server's own business.
    ignore(body, &["cache_control"]);
    Ok(())
}

/// One answer as a message.
struct MessagesDialect {
    blocks: Vec<Block>,
}

impl MessagesDialect {
    fn stop<'a>(&self, ending: &'a Ending) -> (&'static str, Option<&'a str>) {
        let has_calls = self.blocks.iter().any(|block| matches!(block, Block::Call { .. }));
        match ending.reason {
            FinishReason::Length | FinishReason::Budget => ("max_tokens", None),
            FinishReason::Filtered => ("refusal", None),
            _ if has_calls => ("tool_use", None),
            _ => match ending.stop_string.as_deref() {
                None => ("end_turn", None),
                sequence => ("stop_sequence", sequence),
            },
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
            // How many of them the cache holds is known at the end.
            "usage": usage(&Usage { prompt_tokens: head.prompt_tokens, ..Usage::default() }),
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
            "usage": usage(&ending.usage),
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
            "usage": usage(&ending.usage),
        });
        warn(&mut body, head);
        body.to_string()
    }

    fn failed(&mut self, error: &ApiError) -> Frame {
        Frame { event: Some("error"), data: error.to_messages_json() }
    }
}

fn usage(usage: &Usage) -> Value {
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
