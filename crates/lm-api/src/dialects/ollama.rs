//! Ollama's API: chat and generate.
//!
//! It must never know files of models.
//!
//! Start reading at [`parse_ollama_chat`] (in) and [`OllamaDialect`] (out).

use std::time::Duration;

use lastmile::{AnswerPart, FinishReason, Prompt};
use serde_json::{Map, Value, json};

use super::{Block, Dialect, DialectHead, Ending, Frame, Framing, append, arguments};
use super::{array, finish, refuse_unless, take_over};
use crate::error::shown;
use crate::fields::{Fields, Warnings};
use crate::{ApiError, ParseOptions, Parsed, parse_completion, reasoning, rfc3339};

/// What chat and generate share: Ollama's name and OpenAI's.
const OPTIONS: [(&str, &str); 17] = [
    ("temperature", "temperature"),
    ("top_k", "top_k"),
    ("top_p", "top_p"),
    ("min_p", "min_p"),
    ("typical_p", "typical_p"),
    ("seed", "seed"),
    ("stop", "stop"),
    ("repeat_penalty", "repetition_penalty"),
    ("presence_penalty", "presence_penalty"),
    ("frequency_penalty", "frequency_penalty"),
    ("top_n_sigma", "top_n_sigma"),
    ("dry_multiplier", "dry_multiplier"),
    ("dry_base", "dry_base"),
    ("dry_allowed_length", "dry_allowed_length"),
    ("logit_bias", "logit_bias"),
    ("bad_words", "bad_words"),
    ("min_tokens", "min_tokens"),
];

/// Reads the body of `POST /api/chat`.
///
/// # Errors
/// The first field that is malformed, outside its range, unsupported or, in strict mode, unknown.
pub fn parse_ollama_chat(
    body: &[u8],
    options: &ParseOptions<'_>,
) -> Result<(Parsed, Box<dyn Dialect>), ApiError> {
    let mut body = Fields::parse(body)?;
    let (mut chat, mut warnings) = (Map::new(), Warnings::default());
    shared(&mut body, &mut chat, &mut warnings, options)?;
    if let Some(tools) = body.take("tools") {
        chat.insert("tools".to_owned(), tools);
    }
    let list = array(&mut body, "messages")?;
    let wanted = "an array of at least 1 message";
    let mut list = list.ok_or(ApiError::Missing { param: "messages".to_owned(), wanted })?;
    let mut calls = PastCalls::default();
    for (i, message) in list.iter_mut().enumerate() {
        translate(&format!("messages[{i}]"), message, &mut calls)?;
    }
    chat.insert("messages".to_owned(), Value::Array(list));
    let mut parsed = finish(body, chat, warnings, options)?;
    parsed.model = parsed.model.map(untagged);
    Ok((parsed, Box::new(OllamaDialect { is_chat: true, blocks: Vec::new(), is_told: 0 })))
}

/// Reads the body of `POST /api/generate`. With `raw` the prompt is taken as it is; else it is a message.
///
/// # Errors
/// The first field that is malformed, outside its range, unsupported or, in strict mode, unknown.
pub fn parse_ollama_generate(
    body: &[u8],
    options: &ParseOptions<'_>,
) -> Result<(Parsed, Box<dyn Dialect>), ApiError> {
    let mut body = Fields::parse(body)?;
    let (mut chat, mut warnings) = (Map::new(), Warnings::default());
    shared(&mut body, &mut chat, &mut warnings, options)?;
    let param = "prompt".to_owned();
    let prompt = body.string("prompt")?.ok_or(ApiError::Missing { param, wanted: "a string" })?;
    let (raw, system) = (body.boolean("raw")?.unwrap_or(false), body.string("system")?);
    for name in ["suffix", "images", "template", "context"] {
        let is_empty = |value: &Value| match value {
            Value::String(text) => text.is_empty(),
            Value::Array(list) => list.is_empty(),
            _ => false,
        };
        refuse_unless(&mut body, name, is_empty)?;
    }
    let mut parsed = if raw {
        if let Some(system) = system.filter(|text| !text.is_empty()) {
            return Err(ApiError::Conflict {
                param: "system",
                found: shown(&system.into()),
                other: "raw",
                other_found: "true".to_owned(),
                wanted: "a raw prompt is taken as it is, so what the system says is to stand in it",
            });
        }
        // A raw prompt is not answered in turns, so nothing can be thought before.
        if let Some(word) = chat.shift_remove("reasoning_effort").filter(|word| *word != "none") {
            let param = "think".to_owned();
            return Err(ApiError::Unsupported { param, found: shown(&word) });
        }
        body.finish(options.strict, &mut warnings)?;
        chat.insert("prompt".to_owned(), prompt.into());
        // Without a limit Ollama generates until the model ends.
        let has_limit = chat.contains_key("max_tokens");
        let mut parsed = parse_completion(Value::Object(chat).to_string().as_bytes(), options)?;
        if !has_limit {
            parsed.stop.max_tokens = None;
        }
        parsed.warnings.extend(warnings.into_list());
        parsed
    } else {
        let mut messages = vec![json!({ "role": "user", "content": prompt })];
        if let Some(system) = system.filter(|text| !text.is_empty()) {
            messages.insert(0, json!({ "role": "system", "content": system }));
        }
        chat.insert("messages".to_owned(), Value::Array(messages));
        finish(body, chat, warnings, options)?
    };
    debug_assert!(matches!(parsed.prompts[..], [Prompt::Chat(_) | Prompt::Text(_)]));
    parsed.model = parsed.model.map(untagged);
    Ok((parsed, Box::new(OllamaDialect { is_chat: false, blocks: Vec::new(), is_told: 0 })))
}

/// Ollama's clients name a model with a tag; the usual one says nothing.
fn untagged(model: String) -> String {
    model.strip_suffix(":latest").map(str::to_owned).unwrap_or(model)
}

/// Takes out what says how long a model stays: that is the server's to say.
pub(crate) fn keep_alive(body: &mut Fields, warnings: &mut Warnings) {
    if let Some(asked) = body.take("keep_alive") {
        let asked = shown(&asked);
        warnings
            .push(format!("keep_alive is {asked}, but models stay as --model-idle-timeout says"));
    }
}

/// What chat and generate have in common, in a chat's words.
pub(super) fn shared(
    body: &mut Fields,
    chat: &mut Map<String, Value>,
    warnings: &mut Warnings,
    parse: &ParseOptions<'_>,
) -> Result<(), ApiError> {
    take_over(body, chat, &[("model", "model")]);
    chat.insert("stream".to_owned(), body.boolean("stream")?.unwrap_or(true).into());
    keep_alive(body, warnings);
    reasoning::of_ollama(body, chat, parse)?;
    match body.take("format") {
        Some(Value::String(text)) if text.is_empty() => {}
        Some(Value::String(text)) if text == "json" => {
            chat.insert("response_format".to_owned(), json!({ "type": "json_object" }));
        }
        Some(schema @ Value::Object(_)) => {
            let named = json!({ "name": "format", "schema": schema });
            let format = json!({ "type": "json_schema", "json_schema": named });
            chat.insert("response_format".to_owned(), format);
        }
        Some(other) => {
            return Err(ApiError::invalid("format", &other, "\"json\" or a JSON schema"));
        }
        None => {}
    }
    let Some(options) = body.take("options") else { return Ok(()) };
    let mut options = Fields::nested("options", options)?;
    take_over(&mut options, chat, &OPTIONS);
    // Below 0 is without a limit.
    if let Some(limit) = options.take("num_predict").filter(|n| n.as_i64().is_none_or(|n| n >= 0)) {
        chat.insert("max_tokens".to_owned(), limit);
    }
    options.finish(parse.strict, warnings)
}

/// The calls of a conversation so far.
#[derive(Default)]
struct PastCalls {
    n: usize,
    /// Ids and functions of those that have no result yet.
    open: Vec<(Value, Value)>,
}

impl PastCalls {
    /// Gives a call an id, unless it has one.
    fn add(&mut self, one: &mut Value) {
        let Some(fields) = one.as_object_mut() else { return };
        let id = fields.shift_remove("id").filter(|id| !id.is_null());
        let id = id.unwrap_or_else(|| format!("call{:05}", self.n).into());
        self.n += 1;
        if let Some(function) = fields.get_mut("function").and_then(Value::as_object_mut) {
            // Its place among others; they stand in it.
            function.shift_remove("index");
        }
        let name = fields.get("function").map_or(Value::Null, |function| function["name"].clone());
        self.open.push((id.clone(), name));
        fields.insert("id".to_owned(), id);
    }

    /// The id of the first call without a result: of this function, if any is.
    fn first_open(&self, name: Option<&Value>) -> Option<Value> {
        let of_name = self.open.iter().find(|(_, function)| Some(function) == name);
        of_name.or(self.open.first()).map(|(id, _)| id.clone())
    }
}

/// Names calls and their results, which need no ids in Ollama's API.
fn translate(path: &str, message: &mut Value, calls: &mut PastCalls) -> Result<(), ApiError> {
    let Some(fields) = message.as_object_mut() else {
        return Err(ApiError::invalid(path, message, "an object"));
    };
    if let Some(images) = fields.shift_remove("images").filter(|images| *images != json!([])) {
        let found = shown(&images);
        return Err(ApiError::Unsupported { param: format!("{path}.images"), found });
    }
    if let Some(thinking) = fields.shift_remove("thinking") {
        fields.insert("reasoning_content".to_owned(), thinking);
    }
    if let Some(name) = fields.shift_remove("tool_name") {
        fields.insert("name".to_owned(), name);
    }
    if let Some(Value::Array(list)) = fields.get_mut("tool_calls") {
        list.iter_mut().for_each(|one| calls.add(one));
    }
    if fields.get("role").is_some_and(|role| role == "tool") {
        let given = fields.get("tool_call_id").filter(|id| !id.is_null());
        let id = given.cloned().or_else(|| calls.first_open(fields.get("name")));
        calls.open.retain(|(open, _)| Some(open) != id.as_ref());
        fields.extend(id.map(|id| ("tool_call_id".to_owned(), id)));
    }
    Ok(())
}

/// One answer in lines.
struct OllamaDialect {
    is_chat: bool,
    blocks: Vec<Block>,
    /// Blocks that a stream told already.
    is_told: usize,
}

impl OllamaDialect {
    fn line(
        &self,
        head: &DialectHead,
        (thinking, text): (&str, &str),
        calls: &[Value],
    ) -> Map<String, Value> {
        let mut line = Map::new();
        line.insert("model".to_owned(), head.model.clone().into());
        line.insert("created_at".to_owned(), rfc3339(head.created).into());
        if self.is_chat {
            let mut message = json!({ "role": "assistant", "content": text });
            if !thinking.is_empty() {
                message["thinking"] = thinking.into();
            }
            if !calls.is_empty() {
                message["tool_calls"] = json!(calls);
            }
            line.insert("message".to_owned(), message);
        } else {
            if !thinking.is_empty() {
                line.insert("thinking".to_owned(), thinking.into());
            }
            line.insert("response".to_owned(), text.into());
        }
        line.insert("done".to_owned(), false.into());
        line
    }

    /// Calls that are complete and not told: all but the last while the answer goes on.
    fn new_calls(&mut self, is_over: bool) -> Vec<Value> {
        let n = self.blocks.len() - usize::from(!is_over && !self.blocks.is_empty());
        let from = self.is_told.min(n);
        self.is_told = n;
        let call = |block: &Block| match block {
            Block::Call { name, json, .. } => {
                Some(json!({ "function": { "name": name, "arguments": arguments(json) } }))
            }
            Block::Text(_) | Block::Reasoning(_) => None,
        };
        self.blocks[from..n].iter().filter_map(call).collect()
    }

    fn last(&self, mut line: Map<String, Value>, head: &DialectHead, ending: &Ending) -> String {
        let reason = match ending.reason {
            FinishReason::Length | FinishReason::Budget => FinishReason::Length.as_str(),
            reason => reason.as_str(),
        };
        let (timings, usage) = (ending.timings, ending.usage);
        let nanos = |time: Duration| Value::from(time.as_nanos() as u64);
        let more = [
            ("done", true.into()),
            ("done_reason", reason.into()),
            ("total_duration", nanos(head.load + timings.e2e)),
            ("load_duration", nanos(head.load)),
            ("prompt_eval_count", usage.prompt_tokens.into()),
            ("prompt_eval_duration", nanos(timings.ttft.saturating_sub(timings.queue_wait))),
            ("eval_count", usage.completion_tokens.into()),
            ("eval_duration", nanos(timings.e2e.saturating_sub(timings.ttft))),
        ];
        line.extend(more.map(|(name, value)| (name.to_owned(), value)));
        if !head.warnings.is_empty() {
            line.insert("warnings".to_owned(), json!(head.warnings));
        }
        Value::Object(line).to_string()
    }
}

impl Dialect for OllamaDialect {
    fn framing(&self) -> Framing {
        Framing::Lines
    }

    fn begin(&mut self, _: &DialectHead) -> Vec<Frame> {
        Vec::new()
    }

    fn part(&mut self, head: &DialectHead, part: &AnswerPart, call_id: &str) -> Vec<Frame> {
        append(&mut self.blocks, part, call_id);
        let calls = self.new_calls(false);
        let said = match part {
            AnswerPart::Reasoning(thinking) => (thinking.as_str(), ""),
            AnswerPart::Text(text) => ("", text.as_str()),
            AnswerPart::CallBegins { .. } | AnswerPart::Arguments { .. } => ("", ""),
        };
        if said == ("", "") && calls.is_empty() {
            return Vec::new();
        }
        let data = Value::Object(self.line(head, said, &calls)).to_string();
        vec![Frame { event: None, data }]
    }

    fn end(&mut self, head: &DialectHead, ending: &Ending) -> Vec<Frame> {
        let calls = self.new_calls(true);
        let line = self.line(head, ("", ""), &calls);
        vec![Frame { event: None, data: self.last(line, head, ending) }]
    }

    fn whole(&mut self, head: &DialectHead, ending: &Ending) -> String {
        self.is_told = 0;
        let calls = self.new_calls(true);
        let (mut thinking, mut text) = (String::new(), String::new());
        for block in &self.blocks {
            match block {
                Block::Reasoning(more) => thinking.push_str(more),
                Block::Text(more) => text.push_str(more),
                Block::Call { .. } => {}
            }
        }
        let line = self.line(head, (&thinking, &text), &calls);
        self.last(line, head, ending)
    }

    fn failed(&mut self, error: &ApiError) -> Frame {
        Frame { event: None, data: error.to_ollama_json() }
    }
}
