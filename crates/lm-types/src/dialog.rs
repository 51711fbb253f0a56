//! What a chat template is given besides the messages: tools, calls, and the template's own switches.

/// What a chat template is given besides the messages. JSON as text: this crate knows none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Dialog {
    /// The tools that may be called: a JSON array of OpenAI's tool objects.
    pub tools: Option<String>,
    /// Fields of messages besides role and content, as JSON objects: `tool_calls`, `tool_call_id`,
    /// `name`, `reasoning_content`.
    pub message_fields: Vec<(usize, String)>,
    /// The template's own switches, such as `enable_thinking`: a JSON object.
    pub template_kwargs: Option<String>,
    /// The last message is the assistant's and is to be continued rather than answered.
    pub continues_last: bool,
    /// What templates print as the date, in seconds since 1970-01-01 in UTC; `None` is the request's arrival.
    pub now_unix_s: Option<i64>,
}

impl Dialog {
    /// Bytes of its texts.
    #[must_use]
    pub fn size_bytes(&self) -> usize {
        let length = |text: &Option<String>| text.as_ref().map_or(0, String::len);
        let fields: usize = self.message_fields.iter().map(|(_, json)| json.len() + 16).sum();
        length(&self.tools) + length(&self.template_kwargs) + fields
    }
}
