//! What a sink is told: one JSON document.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::Utc;

/// A document on its way, as it is signed and sent: the same bytes in each attempt.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Message {
    /// Sorts by time.
    pub(crate) id: String,
    /// Unix milliseconds.
    pub(crate) made_ms: i64,
    /// A stable word such as `alert.opened`.
    pub(crate) kind: String,
    pub(crate) body: String,
}

impl Message {
    /// In the frame of the Standard Webhooks specification.
    pub(crate) fn new(kind: &str, data: &Value, now_ms: i64) -> Message {
        let timestamp = Utc(now_ms).to_string().replace(' ', "T");
        let body = json!({ "type": kind, "timestamp": timestamp, "data": data }).to_string();
        let id = format!("msg_{}", Uuid::now_v7().simple());
        Message { id, made_ms: now_ms, kind: kind.to_owned(), body }
    }

    pub(crate) fn test(now_ms: i64) -> Message {
        let what = "This is a test: lastmile monitor test-sink was run, and nothing is wrong";
        let version = env!("CARGO_PKG_VERSION");
        Message::new("alert.test", &json!({ "what": what, "version": version }), now_ms)
    }
}
