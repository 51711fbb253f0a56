//! `GET /v1/models`: what is served.
//!
//! It must never know how a model is loaded.
//!
//! Start reading at [`ModelEntry`].

use serde::Serialize;
use serde_json::{Value, json};

/// A model, as the list shows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ModelEntry {
    /// The name that clients ask for.
    pub id: String,
    /// `model`.
    pub object: &'static str,
    /// Unix seconds: when it was loaded, or when the server began.
    pub created: u64,
    /// Who serves it.
    pub owned_by: &'static str,
    /// Its context in tokens; known while it is loaded.
    pub max_model_len: Option<usize>,
    /// `loaded`, `loading` or `unloaded`: then it is loaded when somebody asks for it.
    pub state: &'static str,
    /// Other names for it.
    pub aliases: Vec<String>,
    /// What its answers depend on, as a digest; known while it is loaded.
    pub release: Option<String>,
    /// Of an adapter: the model that it is for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parent: Option<String>,
    /// Of an adapter: where it was read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub root: Option<String>,
}

/// A list of models.
#[must_use]
pub fn model_list(models: &[ModelEntry]) -> Value {
    json!({ "object": "list", "data": models })
}
