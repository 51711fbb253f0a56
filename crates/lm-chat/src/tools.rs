//! How a model is told of tools, and in which form it calls them.
//!
//! It must never know what a tool does, nor who asked.
//!
//! Start reading at [`ToolFormat`].

use lm_types::CallForm;
use serde_json::{Map, Value, json};

use crate::ChatError;

/// Calls that one answer may hold when a grammar enforces them.
const MAX_CALLS: usize = 16;

/// The form in which a model calls tools.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ToolFormat {
    /// `<tool_call>{"name": …, "arguments": …}</tool_call>`: Hermes, Qwen, and every model whose template knows no tools.
    Hermes,
    /// `{"name": …, "parameters": …}` as the whole answer: Llama 3.
    Llama,
    /// `[TOOL_CALLS][{"name": …, "arguments": …}]`: Mistral, before version 11 of its tokenizers.
    Mistral,
    /// `[TOOL_CALLS]name[ARGS]{…}`, in version 11 with `[CALL_ID]` and an id before `[ARGS]`: Mistral since then.
    MistralArgs,
    /// `<|tool_call|>[{"name": …, "arguments": …}]`: Granite 3.
    Granite,
    /// `<|tool_call|>[{"name": …, "arguments": …}]<|/tool_call|>`: Phi-4-mini.
    Phi,
}

/// Which tools an answer must call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MustCall {
    /// One or more of these.
    Any,
    /// This one.
    Named(String),
}

impl ToolFormat {
    /// The form that the text of a template shows which lists tools.
    #[must_use]
    pub fn of_template(source: &str) -> Self {
        let marks = [
            ("<tool_call>", ToolFormat::Hermes),
            ("[ARGS]", ToolFormat::MistralArgs),
            ("[TOOL_CALLS]", ToolFormat::Mistral),
            ("<|/tool_call|>", ToolFormat::Phi),
            ("<|tool_call|>", ToolFormat::Granite),
            ("parameters", ToolFormat::Llama),
        ];
        let shown = marks.into_iter().find(|(mark, _)| source.contains(*mark));
        shown.map_or(ToolFormat::Hermes, |(_, format)| format)
    }

    /// What calls are written with besides JSON. Where these are names of control tokens, such a token is a part of
    /// what the model says.
    #[must_use]
    pub fn marks(self) -> &'static [&'static str] {
        match self {
            ToolFormat::Hermes => &["<tool_call>", "</tool_call>"],
            // Its own call has no mark; `<|python_tag|>` is for programs.
            ToolFormat::Llama => &[],
            ToolFormat::Mistral => &["[TOOL_CALLS]"],
            ToolFormat::MistralArgs => &["[TOOL_CALLS]", "[CALL_ID]", "[ARGS]"],
            ToolFormat::Granite | ToolFormat::Phi => &["<|tool_call|>", "<|/tool_call|>"],
        }
    }

    /// The form of answers that call `tools` and say nothing else. `tools` is a JSON array of OpenAI's
    /// tool objects.
    ///
    /// # Errors
    /// `Tools` when they are no such array, or the named one is not among them.
    pub fn calls(
        self,
        tools: &str,
        must: &MustCall,
        parallel: bool,
    ) -> Result<CallForm, ChatError> {
        let functions = functions(tools)?;
        let wanted = |function: &&Function| match must {
            MustCall::Any => true,
            MustCall::Named(name) => function.name == *name,
        };
        let chosen: Vec<&Function> = functions.iter().filter(wanted).collect();
        if chosen.is_empty() {
            let message = format!("no function of tools fits {must:?}");
            return Err(ChatError::Tools { message });
        }
        let key = if self == ToolFormat::Llama { "parameters" } else { "arguments" };
        let several = parallel && *must == MustCall::Any;
        let bare = CallForm {
            schema: call_schema(&chosen, key).to_string(),
            open: "".into(),
            begin: "".into(),
            end: "".into(),
            between: "".into(),
            close: "".into(),
            max_calls: if several { MAX_CALLS } else { 1 },
            others: Vec::new(),
        };
        Ok(match self {
            ToolFormat::Hermes => CallForm {
                begin: "<tool_call>\n".into(),
                end: "\n</tool_call>".into(),
                between: "\n".into(),
                ..bare
            },
            ToolFormat::Llama => CallForm { between: "; ".into(), ..bare },
            ToolFormat::Mistral => listed("[TOOL_CALLS][", "]", bare),
            ToolFormat::MistralArgs => headed(&chosen, bare),
            ToolFormat::Granite => listed("<|tool_call|>[", "]", bare),
            ToolFormat::Phi => listed("<|tool_call|>[", "]<|/tool_call|>", bare),
        })
    }

    /// Calls as text: JSON objects with `name` and `arguments`.
    pub(crate) fn written(self, calls: &[Value]) -> String {
        let texts = |one: fn(&Value) -> String| calls.iter().map(one).collect::<Vec<String>>();
        let list = || texts(Value::to_string).join(", ");
        match self {
            ToolFormat::Hermes => {
                texts(|call: &Value| format!("<tool_call>\n{call}\n</tool_call>")).join("\n")
            }
            ToolFormat::Llama => {
                let renamed = |call: &Value| {
                    json!({ "name": call["name"], "parameters": call["arguments"] }).to_string()
                };
                texts(renamed).join("; ")
            }
            ToolFormat::Mistral => format!("[TOOL_CALLS][{}]", list()),
            ToolFormat::MistralArgs => texts(|call: &Value| {
                let name = call["name"].as_str().unwrap_or_default();
                format!("[TOOL_CALLS]{name}[ARGS]{}", call["arguments"])
            })
            .concat(),
            ToolFormat::Granite => format!("<|tool_call|>[{}]", list()),
            ToolFormat::Phi => format!("<|tool_call|>[{}]<|/tool_call|>", list()),
        }
    }
}

/// A function that may be called.
struct Function {
    name: String,
    parameters: Value,
}

/// Calls within one list.
fn listed(open: &'static str, close: &'static str, bare: CallForm) -> CallForm {
    CallForm { open: open.into(), between: ", ".into(), close: close.into(), ..bare }
}

/// Calls whose function stands before the arguments.
fn headed(functions: &[&Function], bare: CallForm) -> CallForm {
    let one = |function: &&Function| {
        (format!("[TOOL_CALLS]{}[ARGS]", function.name), function.parameters.to_string())
    };
    let mut all = functions.iter().map(one);
    let (begin, schema) = all.next().unwrap_or_default();
    CallForm { begin: begin.into(), schema, others: all.collect(), ..bare }
}

/// The names of `tools`.
///
/// # Errors
/// `Tools` when it is no array of OpenAI's tool objects.
pub fn tool_names(tools: &str) -> Result<Vec<String>, ChatError> {
    Ok(functions(tools)?.into_iter().map(|function| function.name).collect())
}

fn functions(tools: &str) -> Result<Vec<Function>, ChatError> {
    let broken = |message: String| ChatError::Tools { message };
    let tools: Vec<Value> =
        serde_json::from_str(tools).map_err(|error| broken(error.to_string()))?;
    let function = |tool: &Value| {
        let function = &tool["function"];
        let name = function["name"].as_str().ok_or_else(|| broken("a tool has no name".into()))?;
        let any = || json!({ "type": "object" });
        let parameters = function.get("parameters").filter(|schema| !schema.is_null());
        let parameters = parameters.cloned().unwrap_or_else(any);
        Ok(Function { name: name.to_owned(), parameters })
    };
    tools.iter().map(function).collect()
}

/// The schema of one call of any of `functions`. References within a function's own schema are moved along.
fn call_schema(functions: &[&Function], key: &str) -> Value {
    let mut definitions = Map::new();
    let mut options = Vec::new();
    for (i, function) in functions.iter().enumerate() {
        let (id, mut parameters) = (format!("tool{i}"), function.parameters.clone());
        move_references(&mut parameters, &format!("#/$defs/{id}"));
        definitions.insert(id.clone(), parameters);
        options.push(json!({
            "type": "object",
            "properties": {
                "name": { "const": function.name },
                key: { "$ref": format!("#/$defs/{id}") },
            },
            "required": ["name", key],
            "additionalProperties": false,
        }));
    }
    json!({
        "$defs": definitions,
        "anyOf": options,
    })
}

fn move_references(schema: &mut Value, to: &str) {
    match schema {
        Value::Object(fields) => {
            for (name, value) in fields.iter_mut() {
                match value {
                    Value::String(path) if name == "$ref" && path.starts_with('#') => {
                        *path = format!("{to}{}", &path[1..]);
                    }
                    other => move_references(other, to),
                }
            }
        }
        Value::Array(list) => list.iter_mut().for_each(|value| move_references(value, to)),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    const TOOLS: &str = r##"[{"type":"function","function":{"name":"f","parameters":
        {"type":"object","properties":{"x":{"$ref":"#/$defs/y"}},"$defs":{"y":{"type":"integer"}}}}}]"##;

    #[test]
    fn references_of_a_tool_stay_its_own() {
        let form = ToolFormat::Hermes.calls(TOOLS, &MustCall::Any, true).unwrap();
        assert!(form.schema.contains("#/$defs/tool0/$defs/y"), "{form:?}");
        let named = MustCall::Named("g".to_owned());
        assert!(ToolFormat::Llama.calls(TOOLS, &named, false).is_err());
    }

    #[test]
    fn formats_are_known_by_the_template() {
        let check = |source, expect| assert_eq!(ToolFormat::of_template(source), expect);
        check("{% for tool in tools %}<tool_call>", ToolFormat::Hermes);
        check("{{ '[TOOL_CALLS]' }}", ToolFormat::Mistral);
        check("{{ '[TOOL_CALLS]' + name + '[ARGS]' }}", ToolFormat::MistralArgs);
        check("respond with <|tool_call|> followed by a list", ToolFormat::Granite);
        check("{{ '<|tool_call|>' + calls + '<|/tool_call|>' }}", ToolFormat::Phi);
        check("{% if tools %}{\"name\": name, \"parameters\": dict}", ToolFormat::Llama);
        check("{{ messages }}", ToolFormat::Hermes);
    }
}
