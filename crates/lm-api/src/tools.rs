//! Tools: what may be called, what must be, and the calls and results within a conversation.
//!
//! It must never know how a model writes a call.
//!
//! Start reading at [`ToolUse`].

use std::collections::BTreeSet;

use lastmile::{AnswerForm, Constraint, MustCall, RequestId, ToolFormat};
use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::ApiError;
use crate::error::shown;
use crate::fields::{Fields, Warnings};

/// Tools of one request.
const MAX_TOOLS: usize = 128;
/// Characters of a function's name.
const MAX_NAME: usize = 64;

/// The tools that an answer may call.
#[derive(Clone, Debug, PartialEq)]
pub struct ToolUse {
    /// A JSON array of OpenAI's tool objects, as the template sees it.
    pub json: String,
    /// The functions' names.
    pub names: Vec<String>,
    /// What must be called.
    pub must: Option<MustCall>,
    /// Whether an answer may call several.
    pub parallel: bool,
}

/// One call as it stands in an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ToolCall {
    /// Names the call for its result.
    pub id: String,
    /// The function.
    pub name: String,
    /// JSON as text.
    pub arguments: String,
}

/// OpenAI's body of a call.
#[derive(Serialize)]
pub(crate) struct CallBody<'a> {
    id: &'a str,
    #[serde(rename = "type")]
    kind: &'static str,
    function: FunctionBody<'a>,
}

#[derive(Serialize)]
struct FunctionBody<'a> {
    name: &'a str,
    arguments: &'a str,
}

impl ToolCall {
    pub(crate) fn body(&self) -> CallBody<'_> {
        let function = FunctionBody { name: &self.name, arguments: &self.arguments };
        CallBody { id: &self.id, kind: "function", function }
    }
}

/// The id of a call: nine letters and digits, as the templates that check it want.
#[must_use]
pub fn call_id(request: RequestId, choice: usize, index: usize) -> String {
    const DIGITS: &[u8; 36] = b"0123456789abcdefghijklmnopqrstuvwxyz";
    // SplitMix64 over the request's random half.
    let mut state = (request.0 as u64) ^ ((choice as u64) << 32 | index as u64);
    state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    state = (state ^ state >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    state = (state ^ state >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    state ^= state >> 31;
    let digit = |i: u32| DIGITS[(state / 36_u64.pow(i) % 36) as usize] as char;
    (0..9).map(digit).collect()
}

/// Takes out `tools`, `tool_choice` and `parallel_tool_calls`. `None` when nothing may be called.
pub(crate) fn tool_use(
    fields: &mut Fields,
    warnings: &mut Warnings,
    strict: bool,
) -> Result<Option<ToolUse>, ApiError> {
    let parallel = fields.boolean("parallel_tool_calls")?.unwrap_or(true);
    let tools = match fields.take("tools") {
        Some(Value::Array(list)) if list.len() <= MAX_TOOLS => list,
        Some(other) => {
            let wanted = format!("an array of at most {MAX_TOOLS} tools");
            return Err(ApiError::invalid("tools", &other, wanted));
        }
        None => Vec::new(),
    };
    let mut names = BTreeSet::new();
    let mut seen = Vec::new();
    for (i, tool) in tools.into_iter().enumerate() {
        let path = format!("tools[{i}]");
        let (name, tool) = one_tool(&path, tool, strict, warnings)?;
        if !names.insert(name.clone()) {
            let param = format!("{path}.function.name");
            return Err(ApiError::invalid(param, &Value::from(name), "unlike the others"));
        }
        seen.push(tool);
    }
    let choice = fields.take("tool_choice");
    let must = match &choice {
        None => None,
        Some(Value::String(word)) if matches!(word.as_str(), "auto" | "none") => None,
        Some(Value::String(word)) if word == "required" => Some(MustCall::Any),
        Some(Value::Object(_)) if named(&choice).is_some_and(|name| names.contains(name)) => {
            named(&choice).map(|name| MustCall::Named(name.to_owned()))
        }
        Some(other) => {
            let wanted = "auto, none, required, or the function of one of tools";
            return Err(ApiError::invalid("tool_choice", other, wanted));
        }
    };
    if let Some(choice @ Value::Object(_)) = &choice {
        no_more(choice, strict, warnings)?;
    }
    if seen.is_empty() && must.is_some() {
        let param = "tools".to_owned();
        return Err(ApiError::Missing { param, wanted: "an array with what tool_choice requires" });
    }
    if seen.is_empty() || choice.as_ref().and_then(Value::as_str) == Some("none") {
        return Ok(None);
    }
    let json = Value::Array(seen).to_string();
    Ok(Some(ToolUse { json, names: names.into_iter().collect(), must, parallel }))
}

/// A choice says which function, and nothing else.
fn no_more(choice: &Value, strict: bool, warnings: &mut Warnings) -> Result<(), ApiError> {
    let mut fields = Fields::nested("tool_choice", choice.clone())?;
    fields.take("type");
    if let Some(function) = fields.take("function") {
        let mut function = Fields::nested("tool_choice.function", function)?;
        function.take("name");
        function.finish(strict, warnings)?;
    }
    fields.finish(strict, warnings)
}

fn named(choice: &Option<Value>) -> Option<&str> {
    let choice = choice.as_ref()?;
    (choice["type"] == "function").then_some(())?;
    choice["function"]["name"].as_str()
}

/// A tool's name, and the tool as templates expect it.
fn one_tool(
    path: &str,
    value: Value,
    strict: bool,
    warnings: &mut Warnings,
) -> Result<(String, Value), ApiError> {
    let mut fields = Fields::nested(path, value)?;
    let param = fields.path("type");
    match fields.string("type")?.as_deref() {
        Some("function") => {}
        Some(other) => {
            return Err(ApiError::Unsupported { param, found: shown(&Value::from(other)) });
        }
        None => return Err(ApiError::Missing { param, wanted: "\"function\"" }),
    }
    let param = fields.path("function");
    let wanted = "an object with name and parameters";
    let function = fields.take("function");
    let mut function = Fields::nested(
        &param,
        function.ok_or(ApiError::Missing { param: param.clone(), wanted })?,
    )?;
    let param = function.path("name");
    let wanted = "1 to 64 letters, digits, underscores, dashes or dots";
    let name =
        function.string("name")?.ok_or(ApiError::Missing { param: param.clone(), wanted })?;
    let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
    if name.is_empty() || name.len() > MAX_NAME || !name.chars().all(is_plain) {
        return Err(ApiError::invalid(param, &Value::from(name), wanted));
    }
    let mut body = Map::new();
    body.insert("name".to_owned(), Value::from(name.as_str()));
    if let Some(description) = function.string("description")? {
        body.insert("description".to_owned(), Value::from(description));
    }
    let param = function.path("parameters");
    match function.take("parameters") {
        Some(schema @ Value::Object(_)) => _ = body.insert("parameters".to_owned(), schema),
        Some(other) => return Err(ApiError::invalid(param, &other, "a JSON schema of an object")),
        None => {}
    }
    // A call that is enforced follows its schema in any case; one that is not, is the model's own.
    function.boolean("strict")?;
    function.finish(strict, warnings)?;
    fields.finish(strict, warnings)?;
    Ok((name, json!({ "type": "function", "function": body })))
}

/// What enforces `tool_choice`.
pub(crate) fn enforced(
    tools: &ToolUse,
    format: ToolFormat,
) -> Result<Option<Constraint>, ApiError> {
    let Some(must) = &tools.must else { return Ok(None) };
    let calls = format.calls(&tools.json, must, tools.parallel).map_err(|error| {
        let param = "tool_choice".to_owned();
        ApiError::Invalid { param, found: "unusable".to_owned(), wanted: error.to_string() }
    })?;
    Ok(Some(Constraint { field: "tool_choice", form: AnswerForm::Calls(calls) }))
}

/// Takes the fields of calls, results and reasoning out of a message: what a template sees besides role and content.
pub(crate) fn message_fields(
    fields: &mut Fields,
    strict: bool,
    warnings: &mut Warnings,
) -> Result<Option<String>, ApiError> {
    let mut seen = Map::new();
    let param = fields.path("tool_calls");
    match fields.take("tool_calls") {
        Some(Value::Array(list)) if !list.is_empty() => {
            let calls = list.into_iter().enumerate();
            let calls: Result<Vec<Value>, ApiError> = calls
                .map(|(i, call)| past_call(&format!("{param}[{i}]"), call, strict, warnings))
                .collect();
            seen.insert("tool_calls".to_owned(), Value::Array(calls?));
        }
        Some(Value::Array(_)) | None => {}
        Some(other) => return Err(ApiError::invalid(param, &other, "an array of calls")),
    }
    let texts = [
        ("tool_call_id", "tool_call_id"),
        ("name", "name"),
        // What the model thought before: two names on the wire, one in templates.
        ("reasoning", "reasoning_content"),
        ("reasoning_content", "reasoning_content"),
    ];
    for (name, in_template) in texts {
        if let Some(text) = fields.string(name)? {
            seen.insert(in_template.to_owned(), Value::from(text));
        }
    }
    Ok((!seen.is_empty()).then(|| Value::Object(seen).to_string()))
}

/// A call of an earlier answer. Templates expect its arguments as an object rather than as text.
fn past_call(
    path: &str,
    value: Value,
    strict: bool,
    warnings: &mut Warnings,
) -> Result<Value, ApiError> {
    let wanted = "{\"id\", \"type\": \"function\", \"function\": {\"name\", \"arguments\"}}";
    if !value["function"]["name"].is_string() {
        return Err(ApiError::invalid(path, &value, wanted));
    }
    let mut fields = Fields::nested(path, value)?;
    let mut function =
        Fields::nested(&fields.path("function"), fields.take("function").unwrap_or_default())?;
    let name = function.take("name");
    let param = function.path("arguments");
    let found = function.take("arguments").unwrap_or_default();
    let arguments = match &found {
        Value::String(text) if text.trim().is_empty() => Some(json!({})),
        Value::String(text) => serde_json::from_str(text).ok(),
        Value::Null => Some(json!({})),
        other => Some(other.clone()),
    };
    let arguments = arguments.filter(Value::is_object);
    let arguments =
        arguments.ok_or_else(|| ApiError::invalid(param, &found, "a JSON object as text"))?;
    let id = fields.take("id");
    // Of all kinds only functions can be called, and a piece of a stream has its place in it.
    for name in ["type", "index"] {
        fields.take(name);
    }
    function.finish(strict, warnings)?;
    fields.finish(strict, warnings)?;
    let function = json!({ "name": name, "arguments": arguments });
    Ok(json!({ "id": id, "type": "function", "function": function }))
}
