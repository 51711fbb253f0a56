//! What who gave feedback is told.
//!
//! It must never hold what was said. Start reading at [`FeedbackReceipt`].

use serde::Serialize;

/// The answer to a feedback.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FeedbackReceipt {
    /// The feedback's own id.
    pub id: String,
    /// The request that it is about, without a prefix.
    pub request_id: String,
    /// What was not understood and is ignored.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
    /// Whether it says that the answer is bad, or what it should have been.
    #[serde(skip)]
    pub is_negative: bool,
}
