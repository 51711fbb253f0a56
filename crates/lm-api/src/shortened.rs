//! What clients sent, as errors show it: never whole.
//!
//! It must never split a character.
//!
//! Start reading at [`shorten`].

use serde_json::Value;

/// A value as JSON, shortened to 80 characters.
pub(crate) fn shown(value: &Value) -> String {
    shorten(&value.to_string())
}

/// A text of at most 80 characters.
pub(crate) fn shorten(text: &str) -> String {
    match text.char_indices().nth(80) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}
