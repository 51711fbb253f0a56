//! Ollama's routes about models: `/api/tags`, `/api/ps`, `/api/show`, `/api/version`.
//!
//! It must never touch an engine.
//!
//! Start reading at [`tags`].

use std::sync::Arc;

use axum::Extension;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::Response;
use lastmile::{ModelStatus, Runtime};
use lm_api::{ApiError, rfc3339};
use serde_json::{Value, json};

use crate::app::App;
use crate::auth::Caller;
use crate::intake::{Asked, take};
use crate::reply;
use crate::request_log::RequestEntry;

/// The models that there are, loaded or not, and their adapters.
pub(crate) async fn tags(State(app): State<Arc<App>>) -> Response {
    let named = |status: &ModelStatus| match &status.runtime {
        Some(runtime) => model(runtime),
        None => unloaded(&app, &status.name),
    };
    let mut all: Vec<Value> = app.models.status().iter().map(named).collect();
    for (parent, adapter) in app.models.adapters() {
        let mut model = unloaded(&app, &adapter.name);
        model["details"]["parent_model"] = parent.into();
        all.push(model);
    }
    reply::json(StatusCode::OK, json!({ "models": all }).to_string())
}

/// The models that are loaded.
pub(crate) async fn ps(State(app): State<Arc<App>>) -> Response {
    let running = |runtime: &Arc<Runtime>| {
        let mut model = model(runtime);
        // A model stays as long as the server runs.
        model["expires_at"] = "9999-12-31T23:59:59Z".into();
        model["size_vram"] = 0.into();
        model["context_length"] = runtime.info().backend.max_model_len.into();
        model
    };
    let all: Vec<Value> = app.models.loaded().iter().map(running).collect();
    reply::json(StatusCode::OK, json!({ "models": all }).to_string())
}

/// One model.
pub(crate) async fn show(
    State(app): State<Arc<App>>,
    Extension(entry): Extension<Arc<RequestEntry>>,
    Extension(caller): Extension<Caller>,
    request: Request,
) -> Response {
    let answer = async {
        let Asked { model: asked, .. } = take(&app, &entry, &caller, request).await?;
        let param = "model".to_owned();
        let asked = asked.ok_or(ApiError::Missing { param, wanted: "a model's name" })?;
        let runtime = app.models.resolve(Some(asked.trim_end_matches(":latest"))).await?;
        let info = runtime.info();
        let capabilities: &[&str] = match (&info.encoder, info.has_chat_template) {
            (Some(_), _) => &["embedding"],
            (None, true) => &["completion", "tools"],
            (None, false) => &["completion"],
        };
        let body = json!({
            "modelfile": "",
            "parameters": "",
            "template": "",
            "details": details(),
            "model_info": {
                "general.name": info.name,
                "context_length": info.backend.max_model_len,
                "vocab_size": info.backend.vocab_size,
            },
            "capabilities": capabilities,
            "modified_at": rfc3339(info.loaded_at),
        });
        Ok(reply::json(StatusCode::OK, body.to_string()))
    };
    answer.await.unwrap_or_else(|error: ApiError| {
        entry.failed(&error);
        reply::error(&error)
    })
}

/// The version that clients ask for before they begin.
pub(crate) async fn version() -> Response {
    reply::json(StatusCode::OK, json!({ "version": env!("CARGO_PKG_VERSION") }).to_string())
}

fn model(runtime: &Runtime) -> Value {
    let info = runtime.info();
    json!({
        "name": info.name,
        "model": info.name,
        "modified_at": rfc3339(info.loaded_at),
        "size": info.backend.weights_bytes,
        "digest": info.release_hash.to_string(),
        "details": details(),
    })
}

/// What is known of a model that is in no memory.
fn unloaded(app: &App, name: &str) -> Value {
    json!({
        "name": name,
        "model": name,
        "modified_at": rfc3339(app.started_at),
        "size": 0,
        "digest": "",
        "details": details(),
    })
}

fn details() -> Value {
    json!({
        "parent_model": "",
        "format": "gguf",
        "family": "",
        "families": [],
        "parameter_size": "",
        "quantization_level": "",
    })
}
