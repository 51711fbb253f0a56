//! What an error looks like in a body.
//!
//! It must never decide what an error is called; `ApiError` does.
//!
//! Start reading at [`ErrorBody`].

use serde::Serialize;

/// OpenAI's error object: what stands under the key `error`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ErrorBody {
    /// The sentence for people.
    pub message: String,
    /// The kind, in OpenAI's words.
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// The field at fault.
    pub param: Option<String>,
    /// The stable word for programs.
    pub code: &'static str,
}
