//! OpenAI's Responses API.
//!
//! It must never keep a response: nothing is stored under its id.
//!
//! Start reading at [`parse_responses`] (in) and [`ResponsesDialect`] (out).

use std::time::UNIX_EPOCH;

use lastmile::{AnswerPart, FinishReason};
use serde_json::{Map, Value, json};

use super::{Block, Dialect, DialectHead, Ending, Frame, Framing, append};
use super::{finish, ignore, refuse_unless, responses_input, take_over};
use crate::fields::{Fields, Warnings};
use crate::{ApiError, ParseOptions, Parsed, reasoning};

/// Reads the body of `POST /v1/responses`.
///
/// # Errors
/// The first field that is malformed, outside its range, unsupported or, in strict mode, unknown.
pub fn parse_responses(
    body: &[u8],
    options: &ParseOptions<'_>,
) -> Result<(Parsed, Box<dyn Dialect>), ApiError> {
    let mut body = Fields::parse(body)?;
    let (mut chat, mut warnings) = (Map::new(), Warnings::default());
    let names = [
        ("model", "model"),
        ("max_output_tokens", "max_tokens"),
        ("temperature", "temperature"),
        ("top_p", "top_p"),
        ("stream", "stream"),
        ("parallel_tool_calls", "parallel_tool_calls"),
        ("top_k", "top_k"),
        ("min_p", "min_p"),
        ("seed", "seed"),
        ("user", "user"),
        ("safety_identifier", "safety_identifier"),
    ];
    take_over(&mut body, &mut chat, &names);
    refuse(&mut body)?;
    reasoning::of_responses(&mut body, &mut chat, &mut warnings, options)?;
    if body.boolean("store")? == Some(true) {
        warnings.push("store is true, but responses are not kept for later requests".to_owned());
    }
    let metadata = match body.take("metadata") {
        None => json!({}),
        Some(metadata @ Value::Object(_)) => metadata,
        Some(other) => return Err(ApiError::invalid("metadata", &other, "an object")),
    };
    ignore(&mut body, &["prompt_cache_key", "prompt_cache_retention"]);
    if let Some(stream) = body.take("stream_options") {
        let mut stream = Fields::nested("stream_options", stream)?;
        // Padding against traffic analysis: absent or present, the answer is the same.
        stream.boolean("include_obfuscation")?;
        stream.finish(options.strict, &mut warnings)?;
    }
    let (tools, tool_choice) =
        responses_input::tools(&mut body, &mut chat, options, &mut warnings)?;
    responses_input::text_format(&mut body, &mut chat, options, &mut warnings)?;
    let instructions = body.string("instructions")?;
    let mut messages = responses_input::conversation(&mut body, options, &mut warnings)?;
    if let Some(text) = &instructions {
        messages.insert(0, json!({ "role": "system", "content": text }));
    }
    chat.insert("messages".to_owned(), Value::Array(messages));
    let parsed = finish(body, chat, warnings, options)?;
    let echoed = json!({
        "instructions": instructions,
        "metadata": metadata,
        "temperature": parsed.sampling.temperature,
        "top_p": parsed.sampling.top_p,
        "max_output_tokens": parsed.stop.max_tokens,
        "tools": tools,
        "tool_choice": tool_choice,
        "parallel_tool_calls": parsed.tools.as_ref().is_none_or(|tools| tools.parallel),
    });
    let dialect = ResponsesDialect { echoed, blocks: Vec::new(), n_events: 0 };
    Ok((parsed, Box::new(dialect)))
}

/// What needs earlier responses, other machines or other models.
fn refuse(body: &mut Fields) -> Result<(), ApiError> {
    for name in ["previous_response_id", "conversation", "prompt", "max_tool_calls"] {
        refuse_unless(body, name, |_| false)?;
    }
    refuse_unless(body, "service_tier", |tier| *tier == "auto" || *tier == "default")?;
    refuse_unless(body, "background", |value| *value == false)?;
    refuse_unless(body, "truncation", |value| *value == "disabled")?;
    refuse_unless(body, "include", |value| *value == json!([]))?;
    refuse_unless(body, "top_logprobs", |value| *value == 0)
}

/// One answer as a response of items.
struct ResponsesDialect {
    /// Fields of the request that the response repeats.
    echoed: Value,
    blocks: Vec<Block>,
    n_events: u64,
}

impl ResponsesDialect {
    fn event(&mut self, name: &'static str, mut data: Value) -> Frame {
        data["type"] = name.into();
        data["sequence_number"] = self.n_events.into();
        self.n_events += 1;
        Frame { event: Some(name), data: data.to_string() }
    }

    fn item(head: &DialectHead, index: usize, block: &Block, status: &str) -> Value {
        match block {
            Block::Reasoning(text) => {
                let part = reasoning_part(text);
                let content = if status == "in_progress" { json!([]) } else { json!([part]) };
                json!({
                    "id": format!("rs_{}_{index}", head.id),
                    "type": "reasoning",
                    "status": status,
                    "summary": [],
                    "content": content,
                })
            }
            Block::Text(text) => {
                let part = text_part(text);
                let content = if status == "in_progress" { json!([]) } else { json!([part]) };
                json!({
                    "id": format!("msg_{}_{index}", head.id),
                    "type": "message",
                    "status": status,
                    "role": "assistant",
                    "content": content,
                })
            }
            Block::Call { id, name, json } => json!({
                "id": format!("fc_{}_{index}", head.id),
                "type": "function_call",
                "status": status,
                "call_id": id,
                "name": name,
                "arguments": json,
            }),
        }
    }

    fn response(&self, head: &DialectHead, ending: Option<&Ending>) -> Value {
        let is_cut = ending.is_some_and(|ending| is_cut(ending.reason));
        let status = match ending {
            None => "in_progress",
            Some(_) if is_cut => "incomplete",
            Some(_) => "completed",
        };
        let output: Vec<Value> = match ending {
            None => Vec::new(),
            Some(_) => {
                // What is cut is cut in its last item.
                let n_whole = self.blocks.len().saturating_sub(1);
                let status = |i: usize| if i < n_whole { "completed" } else { status };
                let items = self.blocks.iter().enumerate();
                items.map(|(i, block)| Self::item(head, i, block, status(i))).collect()
            }
        };
        let usage = ending.map(|ending| {
            let usage = ending.usage;
            json!({
                "input_tokens": usage.prompt_tokens,
                "input_tokens_details": { "cached_tokens": usage.cached_tokens },
                "output_tokens": usage.completion_tokens,
                "output_tokens_details": { "reasoning_tokens": usage.reasoning_tokens },
                "total_tokens": u64::from(usage.prompt_tokens) + u64::from(usage.completion_tokens),
            })
        });
        let created = head.created.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let why = match ending.map(|ending| ending.reason) {
            Some(FinishReason::Filtered) => "content_filter",
            Some(FinishReason::Abort) => "abort",
            _ => "max_output_tokens",
        };
        let mut body = json!({
            "id": format!("resp_{}", head.id),
            "object": "response",
            "created_at": created,
            "status": status,
            "error": null,
            "incomplete_details": is_cut.then(|| json!({ "reason": why })),
            "model": head.model,
            "output": output,
            "usage": usage,
            "store": false,
        });
        if let (Some(body), Some(echoed)) = (body.as_object_mut(), self.echoed.as_object()) {
            body.extend(echoed.clone());
            if !head.warnings.is_empty() {
                body.insert("warnings".to_owned(), json!(head.warnings));
            }
        }
        body
    }

    fn close(&mut self, head: &DialectHead, status: &str, frames: &mut Vec<Frame>) {
        let Some(block) = self.blocks.last().cloned() else { return };
        let index = self.blocks.len() - 1;
        let item = Self::item(head, index, &block, status);
        let id = item["id"].clone();
        match &block {
            Block::Reasoning(text) => {
                let done = json!({ "item_id": id, "output_index": index, "content_index": 0,
                    "text": text });
                frames.push(self.event("response.reasoning_text.done", done));
                let done = json!({ "item_id": id, "output_index": index, "content_index": 0,
                    "part": reasoning_part(text) });
                frames.push(self.event("response.content_part.done", done));
            }
            Block::Text(text) => {
                let done = json!({ "item_id": id, "output_index": index, "content_index": 0,
                    "text": text, "logprobs": [] });
                frames.push(self.event("response.output_text.done", done));
                let done = json!({ "item_id": id, "output_index": index, "content_index": 0,
                    "part": text_part(text) });
                frames.push(self.event("response.content_part.done", done));
            }
            Block::Call { name, json, .. } => {
                let done = json!({ "item_id": id, "output_index": index, "name": name,
                    "arguments": json });
                frames.push(self.event("response.function_call_arguments.done", done));
            }
        }
        let done = json!({ "output_index": index, "item": item });
        frames.push(self.event("response.output_item.done", done));
    }

    fn open(&mut self, head: &DialectHead, frames: &mut Vec<Frame>) {
        let Some(block) = self.blocks.last() else { return };
        let index = self.blocks.len() - 1;
        let empty = match block {
            Block::Reasoning(_) => Block::Reasoning(String::new()),
            Block::Text(_) => Block::Text(String::new()),
            Block::Call { id, name, .. } => {
                Block::Call { id: id.clone(), name: name.clone(), json: String::new() }
            }
        };
        let item = Self::item(head, index, &empty, "in_progress");
        let added = json!({ "output_index": index, "item": item });
        frames.push(self.event("response.output_item.added", added));
        let part = match empty {
            Block::Reasoning(_) => Some(reasoning_part("")),
            Block::Text(_) => Some(text_part("")),
            Block::Call { .. } => None,
        };
        if let Some(part) = part {
            let added = json!({ "item_id": item["id"], "output_index": index, "content_index": 0,
                "part": part });
            frames.push(self.event("response.content_part.added", added));
        }
    }
}

impl Dialect for ResponsesDialect {
    fn framing(&self) -> Framing {
        Framing::Events
    }

    fn tells_aborts(&self) -> bool {
        true
    }

    fn begin(&mut self, head: &DialectHead) -> Vec<Frame> {
        let response = self.response(head, None);
        let begun = |name| (name, json!({ "response": response }));
        ["response.created", "response.in_progress"]
            .map(begun)
            .map(|(name, data)| self.event(name, data))
            .into()
    }

    fn part(&mut self, head: &DialectHead, part: &AnswerPart, call_id: &str) -> Vec<Frame> {
        let mut frames = Vec::new();
        let continues = matches!(
            (part, self.blocks.last()),
            (AnswerPart::Text(_), Some(Block::Text(_)))
                | (AnswerPart::Reasoning(_), Some(Block::Reasoning(_)))
                | (AnswerPart::Arguments { .. }, _)
        );
        if !continues {
            self.close(head, "completed", &mut frames);
        }
        append(&mut self.blocks, part, call_id);
        if !continues {
            self.open(head, &mut frames);
        }
        let Some(block) = self.blocks.last() else { return frames };
        let index = self.blocks.len() - 1;
        let id = Self::item(head, index, block, "in_progress")["id"].clone();
        match part {
            AnswerPart::Reasoning(text) => {
                let delta = json!({ "item_id": id, "output_index": index, "content_index": 0,
                    "delta": text });
                frames.push(self.event("response.reasoning_text.delta", delta));
            }
            AnswerPart::Text(text) => {
                let delta = json!({ "item_id": id, "output_index": index, "content_index": 0,
                    "delta": text, "logprobs": [] });
                frames.push(self.event("response.output_text.delta", delta));
            }
            AnswerPart::Arguments { json, .. } => {
                let delta = json!({ "item_id": id, "output_index": index, "delta": json });
                frames.push(self.event("response.function_call_arguments.delta", delta));
            }
            AnswerPart::CallBegins { .. } => {}
        }
        frames
    }

    fn end(&mut self, head: &DialectHead, ending: &Ending) -> Vec<Frame> {
        let mut frames = Vec::new();
        let is_cut = is_cut(ending.reason);
        let (status, name) = match is_cut {
            true => ("incomplete", "response.incomplete"),
            false => ("completed", "response.completed"),
        };
        self.close(head, status, &mut frames);
        let response = self.response(head, Some(ending));
        frames.push(self.event(name, json!({ "response": response })));
        frames
    }

    fn whole(&mut self, head: &DialectHead, ending: &Ending) -> String {
        self.response(head, Some(ending)).to_string()
    }

    fn failed(&mut self, error: &ApiError) -> Frame {
        let body = error.body();
        let data = json!({ "code": body.code, "message": body.message, "param": body.param });
        self.event("error", data)
    }
}

/// Whether there is less of an answer than its model would have said.
fn is_cut(reason: FinishReason) -> bool {
    reason != FinishReason::Stop
}

fn reasoning_part(text: &str) -> Value {
    json!({ "type": "reasoning_text", "text": text })
}

fn text_part(text: &str) -> Value {
    json!({ "type": "output_text", "text": text, "annotations": [], "logprobs": [] })
}
