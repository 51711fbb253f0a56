//! `GET /v1/models`: what is served.
//!
//! It must never know how a model is loaded.
//!
//! Start reading at [`model_object`].

use serde_json::{Value, json};

/// One model. `created` is Unix seconds; `max_model_len` is its context in tokens.
#[must_use]
pub fn model_object(name: &str, created: u64, max_model_len: usize) -> Value {
    json!({
        "id": name,
        "object": "model",
        "created": created,
        "owned_by": "lastmile",
        "max_model_len": max_model_len,
    })
}

/// A list of models.
#[must_use]
pub fn model_list(models: Vec<Value>) -> Value {
    json!({ "object": "list", "data": models })
}
