//! The body of `POST …/{id}/edit`: where an answer is changed, into what, and whether it goes on.
//!
//! It must never know the answer.
//!
//! Start reading at [`parse_edit`].

use serde_json::{Value, json};

use crate::ApiError;
use crate::fields::{Fields, Warnings};

/// An edit of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EditRequest {
    /// Where.
    pub at: EditAt,
    /// What stands there from then on; what came after is gone.
    pub text: String,
    /// Whether the model goes on from there.
    pub continues: bool,
    /// Which of the request's answers.
    pub choice: u32,
    /// At most so many tokens more; what is left of the request's own limit when absent.
    pub max_tokens: Option<u32>,
    /// Answer by server-sent events.
    pub stream: bool,
    /// What was not understood and is ignored.
    pub warnings: Vec<String>,
}

/// A place in an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EditAt {
    /// Before this character, counted from 0.
    Char(usize),
    /// Before this token, counted from 0.
    Token(usize),
}

/// Reads the body of an edit: `{"at": 12, "text": "…", "continue": true}`; `at` is a character, or with `{"token": 3}` a token.
///
/// # Errors
/// The first field that is malformed, outside its range or, in strict mode, unknown.
pub fn parse_edit(body: &[u8], strict: bool) -> Result<EditRequest, ApiError> {
    let mut fields = Fields::parse(body)?;
    let mut warnings = Warnings::default();
    let edit = EditRequest {
        at: at(&mut fields)?,
        text: fields.string("text")?.unwrap_or_default(),
        continues: fields.boolean("continue")?.unwrap_or(true),
        choice: fields.count("choice", 0)?.unwrap_or(0),
        max_tokens: fields.count("max_tokens", 1)?,
        stream: fields.boolean("stream")?.unwrap_or(false),
        warnings: Vec::new(),
    };
    fields.finish(strict, &mut warnings)?;
    Ok(EditRequest { warnings: warnings.into_list(), ..edit })
}

fn at(fields: &mut Fields) -> Result<EditAt, ApiError> {
    let wanted = "a character's number from 0 on, {\"char\": n} or {\"token\": n}";
    let Some(value) = fields.take("at") else {
        return Err(ApiError::Missing { param: "at".to_owned(), wanted });
    };
    let index = |value: &Value| value.as_u64().and_then(|n| usize::try_from(n).ok());
    let one = value.as_object().filter(|fields| fields.len() == 1);
    let named = |name: &str| one.and_then(|fields| fields.get(name)).and_then(index);
    let place = index(&value).or_else(|| named("char")).map(EditAt::Char);
    place
        .or_else(|| named("token").map(EditAt::Token))
        .ok_or_else(|| ApiError::invalid("at", &value, wanted))
}

impl EditRequest {
    /// The body of a request whose answer has the form of the edited one's: a chat, or a response. The prompt is a
    /// stand-in for the one that was kept.
    #[must_use]
    pub fn stand_in(&self, of_responses: bool, tools: Option<&str>) -> Vec<u8> {
        let mut body = match of_responses {
            true => json!({ "input": "…", "stream": self.stream }),
            false => json!({ "messages": [{ "role": "user", "content": "…" }], "stream": self.stream }),
        };
        let tools = tools.and_then(|tools| serde_json::from_str::<Value>(tools).ok());
        if let Some(tools) = tools.filter(|_| !of_responses) {
            body["tools"] = tools;
        }
        body.to_string().into_bytes()
    }
}
