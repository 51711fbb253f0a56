//! A conversation with tools for a template that does not do all with them by itself: what it leaves out is written into
//! contents.
//!
//! It must never know what a tool does.
//!
//! Start reading at [`written_out`].

use lm_types::{ChatMessage, Dialog, Role};
use serde_json::{Map, Value, json};

use crate::ChatError;
use crate::manners::{Manners, ToolsPlace};
use crate::tools::ToolFormat;

/// What a model is told that expects tools beside a system message, when there is none.
const WITH_TOOLS: &str = "You are a helpful assistant with some tools.";

/// A message on its way.
struct Turn {
    message: ChatMessage,
    fields: Map<String, Value>,
    /// Its content or role is not as it was.
    is_changed: bool,
}

/// A conversation as a template of these manners takes it. Where it lists no tools, they are described in the system
/// message, or before the user's first words where it takes no such message; calls are written as the model writes them;
/// and results come as messages of the user, those that follow each other in one, because roles may have to alternate.
///
/// # Errors
/// `Tools` when what belongs to the messages is no JSON of the expected form.
pub(crate) fn written_out(
    messages: &[ChatMessage],
    dialog: &Dialog,
    manners: Manners,
    format: ToolFormat,
) -> Result<(Vec<ChatMessage>, Dialog), ChatError> {
    let mut turns = turns(messages, dialog)?;
    for turn in &mut turns {
        if !manners.shows_calls {
            turn.write_calls(format);
        }
        if turn.message.role == Role::Tool {
            turn.write_result(manners.result_role);
        }
    }
    let mut turns = merged(turns);
    let mut rest = Dialog { message_fields: Vec::new(), ..dialog.clone() };
    if manners.tools != ToolsPlace::Variable
        && let Some(tools) = rest.tools.take()
    {
        let tools: Vec<Value> = parsed(&tools)?;
        match manners.tools {
            ToolsPlace::SystemField => put_beside_system(&mut turns, &tools),
            _ => describe(&mut turns, &tools, manners.shows_system),
        }
    }
    let fields = turns.iter().enumerate().filter(|(_, turn)| !turn.fields.is_empty());
    rest.message_fields =
        fields.map(|(i, turn)| (i, Value::Object(turn.fields.clone()).to_string())).collect();
    Ok((turns.into_iter().map(|turn| turn.message).collect(), rest))
}

fn turns(messages: &[ChatMessage], dialog: &Dialog) -> Result<Vec<Turn>, ChatError> {
    let plain = |message: &ChatMessage| Turn::new(message.clone());
    let mut turns: Vec<Turn> = messages.iter().map(plain).collect();
    for (i, fields) in &dialog.message_fields {
        if let Some(turn) = turns.get_mut(*i) {
            turn.fields = parsed(fields)?;
        }
    }
    Ok(turns)
}

impl Turn {
    fn new(message: ChatMessage) -> Self {
        Turn { message, fields: Map::new(), is_changed: false }
    }

    fn write_calls(&mut self, format: ToolFormat) {
        let Some(Value::Array(calls)) = self.fields.remove("tool_calls") else { return };
        let call = |call: &Value| {
            let function = &call["function"];
            json!({ "name": function["name"], "arguments": function["arguments"] })
        };
        let calls: Vec<Value> = calls.iter().map(call).collect();
        let is_marked = !matches!(format, ToolFormat::Hermes | ToolFormat::Llama);
        let content = &mut self.message.content;
        if !content.is_empty() && !is_marked {
            content.push('\n');
        }
        content.push_str(&format.written(&calls));
        self.is_changed = true;
    }

    fn write_result(&mut self, role: Option<&str>) {
        match role {
            Some(role) if role == Role::Tool.as_str() => {}
            Some(role) => _ = self.fields.insert("role".to_owned(), role.into()),
            None => {
                let content = &self.message.content;
                let content = format!("<tool_response>\n{content}\n</tool_response>");
                self.message = ChatMessage { role: Role::User, content };
                self.fields.clear();
                self.is_changed = true;
            }
        }
    }
}

/// What follows a message of the same side is put to it, if one of them was changed.
fn merged(turns: Vec<Turn>) -> Vec<Turn> {
    let mut all: Vec<Turn> = Vec::with_capacity(turns.len());
    for turn in turns {
        let role = &turn.message.role;
        let may_merge = matches!(role, Role::User | Role::Assistant);
        let last = all.last_mut().filter(|last| {
            may_merge && last.message.role == *role && (last.is_changed || turn.is_changed)
        });
        let Some(last) = last else {
            all.push(turn);
            continue;
        };
        let content = &mut last.message.content;
        if !content.is_empty() && !turn.message.content.is_empty() {
            content.push('\n');
        }
        content.push_str(&turn.message.content);
        last.fields.extend(turn.fields);
        last.is_changed = true;
    }
    all
}

fn is_system(turn: &Turn) -> bool {
    matches!(turn.message.role, Role::System | Role::Developer)
}

/// The functions as text, in the field `tools` of the system message.
fn put_beside_system(turns: &mut Vec<Turn>, tools: &[Value]) {
    let functions = tools.iter().map(|tool| tool["function"].clone()).collect();
    if !turns.first().is_some_and(is_system) {
        let content = WITH_TOOLS.to_owned();
        turns.insert(0, Turn::new(ChatMessage { role: Role::System, content }));
    }
    let text = Value::Array(functions).to_string();
    turns[0].fields.insert("tools".to_owned(), text.into());
}

/// The tools in words.
fn describe(turns: &mut Vec<Turn>, tools: &[Value], shows_system: bool) {
    let described = description(tools);
    let (role, place) = match shows_system {
        true => (Role::System, turns.iter().take(1).position(is_system)),
        false => (Role::User, turns.iter().position(|turn| turn.message.role == Role::User)),
    };
    let Some(place) = place else {
        turns.insert(0, Turn::new(ChatMessage { role, content: described }));
        return;
    };
    let content = &mut turns[place].message.content;
    *content = match shows_system {
        true => format!("{content}\n\n{described}"),
        false => format!("{described}\n\n{content}"),
    };
}

fn description(tools: &[Value]) -> String {
    let lines: Vec<String> = tools.iter().map(Value::to_string).collect();
    format!(
        "You can call functions. These are their descriptions, one on each line:\n<tools>\n{}\n</tools>\n\
         To call one, write its name and arguments as JSON:\n<tool_call>\n\
         {{\"name\": \"<name>\", \"arguments\": {{<arguments>}}}}\n</tool_call>\n\
         Results come within <tool_response></tool_response>.",
        lines.join("\n")
    )
}

fn parsed<T: serde::de::DeserializeOwned>(json: &str) -> Result<T, ChatError> {
    serde_json::from_str(json).map_err(|error| ChatError::Tools { message: error.to_string() })
}
