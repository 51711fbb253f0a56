//! What a template does with tools by itself. Its text says little: it may mention tools and show none. So it is asked: it
//! renders conversations with texts that are found nowhere else, and these are looked for.
//!
//! It must never know requests.
//!
//! Start reading at [`Manners::of`].

use lm_types::{ChatMessage, Dialog, Role};
use serde_json::json;

/// What is looked for.
const TOOL: &str = "probe_tool_4f1c";
const CALL: &str = "probe_call_4f1c";
const RESULT: &str = "probe_result_4f1c";
const SYSTEM: &str = "probe_system_4f1c";
/// The roles that templates know results of calls by.
const RESULT_ROLES: [&str; 3] = ["tool", "tool_response", "tool_results"];

/// What a template does with tools by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Manners {
    pub(crate) tools: ToolsPlace,
    /// It shows the calls of earlier answers.
    pub(crate) shows_calls: bool,
    /// The role by which it knows results of calls.
    pub(crate) result_role: Option<&'static str>,
    /// It shows a system message.
    pub(crate) shows_system: bool,
}

/// Where a template expects tools.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ToolsPlace {
    /// In its variable `tools`.
    Variable,
    /// In the field `tools` of the system message, as text.
    SystemField,
    /// It knows none.
    Nowhere,
}

impl Manners {
    /// Asks a template: `shows` renders a conversation and says whether a text is in it.
    pub(crate) fn of(shows: impl Fn(&[ChatMessage], &Dialog, &str) -> bool) -> Self {
        let chat = [say(Role::System, SYSTEM), say(Role::User, "Hi")];
        let listed = Dialog { tools: Some(tools()), ..Dialog::default() };
        let in_system = with_fields(0, &json!({ "tools": TOOL }));
        let tools = if shows(&chat[1..], &listed, TOOL) || shows(&chat, &listed, TOOL) {
            ToolsPlace::Variable
        } else if shows(&chat, &in_system, TOOL) {
            ToolsPlace::SystemField
        } else {
            ToolsPlace::Nowhere
        };
        let manners = Manners {
            tools,
            shows_calls: false,
            result_role: None,
            shows_system: shows(&chat, &Dialog::default(), SYSTEM),
        };
        if tools == ToolsPlace::Nowhere {
            // Calls and results are as it is told in words, whatever it does with them.
            return manners;
        }
        let called = [chat[1].clone(), say(Role::Assistant, ""), say(Role::Tool, RESULT)];
        let calls = |role: &str| Dialog {
            tools: listed.tools.clone().filter(|_| tools == ToolsPlace::Variable),
            ..call_and_result(role)
        };
        let of_tool = calls(RESULT_ROLES[0]);
        let call_alone =
            Dialog { message_fields: of_tool.message_fields[..1].to_vec(), ..of_tool.clone() };
        let shows_result = |role: &&str| shows(&called, &calls(role), RESULT);
        Manners {
            shows_calls: shows(&called[..2], &call_alone, CALL) || shows(&called, &of_tool, CALL),
            result_role: RESULT_ROLES.into_iter().find(shows_result),
            ..manners
        }
    }

    /// Whether it needs no help.
    pub(crate) fn does_all(self) -> bool {
        let knows_results = self.result_role == Some(Role::Tool.as_str());
        self.tools == ToolsPlace::Variable && self.shows_calls && knows_results
    }
}

fn say(role: Role, content: &str) -> ChatMessage {
    ChatMessage { role, content: content.to_owned() }
}

fn tools() -> String {
    let parameters = json!({
        "type": "object",
        "properties": { "what": { "type": "string", "description": "What." } },
        "required": ["what"],
    });
    let function = json!({ "name": TOOL, "description": "Looks.", "parameters": parameters });
    json!([{ "type": "function", "function": function }]).to_string()
}

/// The fields of messages 1, a call, and 2, its result. Some templates want ids of nine letters and digits.
fn call_and_result(role: &str) -> Dialog {
    let function = json!({ "name": CALL, "arguments": { "what": "x" } });
    let calls = json!([{ "id": "abcdefgh1", "type": "function", "function": function }]);
    let result = json!({ "role": role, "tool_call_id": "abcdefgh1", "name": "looks" });
    let mut dialog = with_fields(1, &json!({ "tool_calls": calls }));
    dialog.message_fields.push((2, result.to_string()));
    dialog
}

fn with_fields(message: usize, fields: &serde_json::Value) -> Dialog {
    Dialog { message_fields: vec![(message, fields.to_string())], ..Dialog::default() }
}
