//! Fields that clients know from OpenAI's and others' APIs and that this server does not implement.
//!
//! It must never let one pass that would change the answer: only its neutral value is accepted.
//!
//! Start reading at [`TABLE`].

use serde_json::Value;

use crate::ApiError;
use crate::error::shown;
use crate::fields::Fields;

/// The value with which a field asks for nothing.
enum Neutral {
    /// None: the field is refused whenever it is given.
    Never,
    /// `[]`, `{}` or `""`.
    Empty,
    /// This boolean.
    Is(bool),
    /// This number.
    Number(f64),
    /// One of these words.
    Word(&'static [&'static str]),
    /// `["text"]`.
    OnlyText,
    /// Anything: the field cannot change an answer.
    Any,
}

const TABLE: &[(&str, Neutral)] = &[
    ("prompt_cache_key", Neutral::Any),
    ("prompt_cache_retention", Neutral::Any),
    // A chat takes these before; without messages there is nothing they could mean.
    ("reasoning_effort", Neutral::Word(&["none"])),
    ("max_reasoning_tokens", Neutral::Number(0.0)),
    ("parallel_tool_calls", Neutral::Any),
    ("tools", Neutral::Empty),
    ("tool_choice", Neutral::Word(&["none", "auto"])),
    ("continue_final_message", Neutral::Is(false)),
    ("chat_template_kwargs", Neutral::Empty),
    ("functions", Neutral::Empty),
    ("function_call", Neutral::Word(&["none", "auto"])),
    ("suffix", Neutral::Empty),
    ("best_of", Neutral::Number(1.0)),
    // A completion takes these two before, and a chat the second one.
    ("echo", Neutral::Is(false)),
    ("prompt_logprobs", Neutral::Never),
    ("audio", Neutral::Never),
    ("modalities", Neutral::OnlyText),
    ("prediction", Neutral::Never),
    ("web_search_options", Neutral::Never),
    ("verbosity", Neutral::Word(&["medium"])),
    ("service_tier", Neutral::Word(&["auto", "default"])),
    ("add_generation_prompt", Neutral::Is(true)),
    ("add_special_tokens", Neutral::Never),
    ("skip_special_tokens", Neutral::Is(true)),
    ("include_stop_str_in_output", Neutral::Is(false)),
    ("chat_template", Neutral::Never),
    ("documents", Neutral::Empty),
    ("length_penalty", Neutral::Number(1.0)),
    ("use_beam_search", Neutral::Is(false)),
    ("logits_processors", Neutral::Empty),
    ("grammar", Neutral::Empty),
    ("json_schema", Neutral::Never),
];

/// Takes out every field of the table.
///
/// # Errors
/// `Unsupported` for the first that is not neutral.
pub(crate) fn refuse(fields: &mut Fields) -> Result<(), ApiError> {
    for (name, neutral) in TABLE {
        if let Some(value) = fields.take(name)
            && !neutral.accepts(&value)
        {
            return Err(ApiError::Unsupported { param: fields.path(name), found: shown(&value) });
        }
    }
    Ok(())
}

impl Neutral {
    fn accepts(&self, value: &Value) -> bool {
        match self {
            Neutral::Never => false,
            Neutral::Any => true,
            Neutral::Empty => match value {
                Value::Array(list) => list.is_empty(),
                Value::Object(map) => map.is_empty(),
                Value::String(text) => text.is_empty(),
                _ => false,
            },
            Neutral::Is(neutral) => value.as_bool() == Some(*neutral),
            Neutral::Number(neutral) => value.as_f64() == Some(*neutral),
            Neutral::Word(words) => value.as_str().is_some_and(|word| words.contains(&word)),
            Neutral::OnlyText => *value == serde_json::json!(["text"]),
        }
    }
}
