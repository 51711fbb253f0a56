//! Other APIs than OpenAI's chat: their bodies become a chat's fields, their answers are told from the same parts.
//!
//! It must never know sockets: frames are texts.
//!
//! Start reading at [`Dialect`].

mod messages_api;
mod messages_input;
mod ollama;
mod ollama_load;
mod responses;
mod responses_input;

use std::time::{Duration, SystemTime};

use lastmile::{AnswerPart, FinishReason, Timings, Usage};
use serde_json::{Map, Value, json};

use crate::fields::{Fields, Warnings};
use crate::messages::read_chat;
use crate::prompt_report::Told;
use crate::{ApiError, ParseOptions, Parsed};

pub use messages_api::parse_messages;
pub(crate) use ollama::keep_alive;
pub use ollama::{parse_ollama_chat, parse_ollama_generate};
pub use ollama_load::{OllamaLoad, parse_ollama_load};
pub use responses::parse_responses;

/// How frames are parted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// Server-sent events.
    Events,
    /// One JSON document on each line.
    Lines,
}

/// One event of a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// The event's name, where the API has names.
    pub event: Option<&'static str>,
    /// JSON.
    pub data: String,
}

/// What all parts of a response have in common.
#[derive(Clone, Debug, PartialEq)]
pub struct DialectHead {
    /// The request's id, without a prefix.
    pub id: String,
    /// The model's name as served.
    pub model: String,
    /// When the answer began.
    pub created: SystemTime,
    /// How long the model took to load; zero when it was there.
    pub load: Duration,
    /// Tokens of the prompt; 0 when no model answers.
    pub prompt_tokens: u32,
    /// What was ignored.
    pub warnings: Vec<String>,
}

/// How an answer ended.
#[derive(Clone, Debug, PartialEq)]
pub struct Ending {
    /// Why.
    pub reason: FinishReason,
    /// The stop string that ended it rather than the model.
    pub stop_string: Option<String>,
    /// Tokens in and out.
    pub usage: Usage,
    /// Where the time went.
    pub timings: Timings,
}

/// One answer in the words of one API. Its methods are called in order: `begin`, `part` for each, then `end`
/// of a stream, or `whole`.
pub trait Dialect: Send {
    /// How frames are parted.
    fn framing(&self) -> Framing;
    /// Whether the API has a word for an answer that was ended from outside. Without one it has failed, by
    /// [`ApiError::Aborted`].
    fn tells_aborts(&self) -> bool {
        false
    }
    /// What opens a stream.
    fn begin(&mut self, head: &DialectHead) -> Vec<Frame>;
    /// More of the answer. `call_id` is that of the call the part belongs to.
    fn part(&mut self, head: &DialectHead, part: &AnswerPart, call_id: &str) -> Vec<Frame>;
    /// What closes a stream.
    fn end(&mut self, head: &DialectHead, ending: &Ending) -> Vec<Frame>;
    /// The whole response as one body.
    fn whole(&mut self, head: &DialectHead, ending: &Ending) -> String;
    /// What ends a stream that failed.
    fn failed(&mut self, error: &ApiError) -> Frame;
}

/// A part of an answer that is complete but for its end.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Block {
    Reasoning(String),
    Text(String),
    Call { id: String, name: String, json: String },
}

/// Appends a part.
pub(crate) fn append(blocks: &mut Vec<Block>, part: &AnswerPart, call_id: &str) {
    match (part, blocks.last_mut()) {
        (AnswerPart::Text(more), Some(Block::Text(text)))
        | (AnswerPart::Reasoning(more), Some(Block::Reasoning(text))) => text.push_str(more),
        (AnswerPart::Arguments { json: more, .. }, Some(Block::Call { json, .. })) => {
            json.push_str(more);
        }
        (AnswerPart::Reasoning(text), _) => blocks.push(Block::Reasoning(text.clone())),
        (AnswerPart::Text(text), _) => blocks.push(Block::Text(text.clone())),
        (AnswerPart::CallBegins { name, .. }, _) => {
            let (id, name) = (call_id.to_owned(), name.clone());
            blocks.push(Block::Call { id, name, json: String::new() });
        }
        // Arguments come after the beginning of their call.
        (AnswerPart::Arguments { .. }, _) => {}
    }
}

/// A call's arguments as JSON; what was cut off stays text.
pub(crate) fn arguments(json: &str) -> Value {
    serde_json::from_str(json).unwrap_or_else(|_| Value::from(json))
}

/// Reads the fields of a chat that another API's body was turned into. What is left of the body is unknown.
pub(crate) fn finish(
    body: Fields,
    mut chat: Map<String, Value>,
    mut warnings: Warnings,
    options: &ParseOptions<'_>,
) -> Result<Parsed, ApiError> {
    body.finish(options.strict, &mut warnings)?;
    chat.retain(|_, value| !value.is_null());
    read_chat(Fields::of(chat), warnings, Told::default(), options)
}

/// Moves fields that both APIs have under their names.
pub(crate) fn take_over(
    body: &mut Fields,
    chat: &mut Map<String, Value>,
    names: &[(&'static str, &'static str)],
) {
    for (from, to) in names {
        if let Some(value) = body.take(from) {
            chat.insert((*to).to_owned(), value);
        }
    }
}

/// A tool in OpenAI's words. Takes out its fields; `parameters` is their name in the other API.
pub(crate) fn tool(fields: &mut Fields, parameters: &'static str) -> Value {
    let mut function = Map::new();
    function.insert("name".to_owned(), fields.take("name").unwrap_or_default());
    let names = [("description", "description"), (parameters, "parameters"), ("strict", "strict")];
    take_over(fields, &mut function, &names);
    json!({ "type": "function", "function": function })
}

/// A call in OpenAI's words.
pub(crate) fn call(id: &Value, name: &Value, arguments: &Value) -> Value {
    json!({ "id": id, "type": "function", "function": { "name": name, "arguments": arguments } })
}

/// The field must hold an array.
pub(crate) fn array(body: &mut Fields, name: &'static str) -> Result<Option<Vec<Value>>, ApiError> {
    match body.take(name) {
        Some(Value::Array(list)) => Ok(Some(list)),
        Some(other) => Err(ApiError::invalid(body.path(name), &other, "an array")),
        None => Ok(None),
    }
}

/// Takes out fields that cannot change an answer.
pub(crate) fn ignore(fields: &mut Fields, names: &[&str]) {
    for name in names {
        fields.take(name);
    }
}

/// Refuses a field unless it is absent or neutral.
pub(crate) fn refuse_unless(
    body: &mut Fields,
    name: &'static str,
    is_neutral: impl Fn(&Value) -> bool,
) -> Result<(), ApiError> {
    match body.take(name) {
        Some(value) if !is_neutral(&value) => {
            let param = body.path(name);
            Err(ApiError::Unsupported { param, found: crate::error::shown(&value) })
        }
        _ => Ok(()),
    }
}
