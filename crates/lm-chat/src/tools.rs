//! How a model is told of tools, and in which form it calls them.
//!
//! It must never know what a tool does, nor who asked.
//!
//! Start reading at [`ToolFormat`].

use lm_types::{CallForm, ChatMessage, Dialog, Role};
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
    /// `[TOOL_CALLS][{"name": …, "arguments": …}]`: Mistral.
    Mistral,
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
    /// The form that a template's own text shows.
    #[must_use]
    pub fn of_template(source: &str) -> Self {
        if source.contains("<tool_call>") {
            ToolFormat::Hermes
        } else if source.contains("[TOOL_CALLS]") {
            ToolFormat::Mistral
        } else if source.contains("tools") && source.contains("parameters") {
            ToolFormat::Llama
        } else {
            ToolFormat::Hermes
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
        };
        Ok(match self {
            ToolFormat::Hermes => CallForm {
                begin: "<tool_call>\n".into(),
                end: "\n</tool_call>".into(),
                between: "\n".into(),
                ..bare
            },
            ToolFormat::Llama => CallForm { between: "; ".into(), ..bare },
            ToolFormat::Mistral => {
                CallForm { open: "[".into(), between: ", ".into(), close: "]".into(), ..bare }
            }
        })
    }
}

/// A function that may be called.
struct Function {
    name: String,
    parameters: Value,
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

/// A conversation for a template that knows no tools: they are described in the system message, calls are
/// written out as Hermes writes them, and results come as messages of the user.
pub(crate) fn written_out(
    messages: &[ChatMessage],
    dialog: &Dialog,
) -> Result<Vec<ChatMessage>, ChatError> {
    let mut written = messages.to_vec();
    for (i, fields) in &dialog.message_fields {
        let Some(message) = written.get_mut(*i) else { continue };
        let fields: Value = serde_json::from_str(fields)
            .map_err(|error| ChatError::Tools { message: error.to_string() })?;
        for call in fields["tool_calls"].as_array().into_iter().flatten() {
            let function = &call["function"];
            let call = json!({ "name": function["name"], "arguments": function["arguments"] });
            let separator = if message.content.is_empty() { "" } else { "\n" };
            message.content.push_str(&format!("{separator}<tool_call>\n{call}\n</tool_call>"));
        }
    }
    for message in written.iter_mut().filter(|message| message.role == Role::Tool) {
        message.role = Role::User;
        message.content = format!("<tool_response>\n{}\n</tool_response>", message.content);
    }
    if let Some(tools) = &dialog.tools {
        let described = description(tools)?;
        match written.first_mut().filter(|m| matches!(m.role, Role::System | Role::Developer)) {
            Some(system) => system.content = format!("{}\n\n{described}", system.content),
            None => written.insert(0, ChatMessage { role: Role::System, content: described }),
        }
    }
    Ok(written)
}

fn description(tools: &str) -> Result<String, ChatError> {
    let tools: Vec<Value> = serde_json::from_str(tools)
        .map_err(|error| ChatError::Tools { message: error.to_string() })?;
    let lines: Vec<String> = tools.iter().map(Value::to_string).collect();
    Ok(format!(
        "You can call functions. These are their descriptions, one on each line:\n<tools>\n{}\n</tools>\n\
         To call one, write its name and arguments as JSON:\n<tool_call>\n\
         {{\"name\": \"<name>\", \"arguments\": {{<arguments>}}}}\n</tool_call>\n\
         Results come within <tool_response></tool_response>.",
        lines.join("\n")
    ))
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
        check("{% if tools %}{\"name\": name, \"parameters\": dict}", ToolFormat::Llama);
        check("{{ messages }}", ToolFormat::Hermes);
    }

    #[test]
    fn a_dialog_is_written_out_for_templates_without_tools() {
        let say = |role, text: &str| ChatMessage { role, content: text.to_owned() };
        let messages = [say(Role::User, "hi"), say(Role::Assistant, ""), say(Role::Tool, "42")];
        let call = r#"{"tool_calls":[{"function":{"name":"f","arguments":{"x":1}}}]}"#;
        let dialog = Dialog {
            tools: Some(TOOLS.to_owned()),
            message_fields: vec![(1, call.to_owned())],
            ..Dialog::default()
        };
        let written = written_out(&messages, &dialog).unwrap();
        assert!(written[0].role == Role::System && written[0].content.contains("\"name\":\"f\""));
        let expect = "<tool_call>\n{\"name\":\"f\",\"arguments\":{\"x\":1}}\n</tool_call>";
        assert_eq!(written[2].content, expect);
        assert_eq!(written[3], say(Role::User, "<tool_response>\n42\n</tool_response>"));
    }
}
