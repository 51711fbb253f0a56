//! `GET /v1/models`, `GET /v1/models/{id}`, `GET /version` and `GET /`.
//!
//! It must never touch the engine.
//!
//! Start reading at [`list`].

use std::sync::Arc;

use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::Response;
use lastmile::{AdapterSource, ModelState, ModelStatus};
use lm_api::{ModelEntry, model_list};
use serde_json::json;

use crate::app::{App, unix_seconds};
use crate::{reply, routes};

pub(crate) async fn list(State(app): State<Arc<App>>) -> Response {
    let models = app.models.status();
    let mut all: Vec<_> = models.iter().map(|model| entry(&app, model)).collect();
    for (model, adapter) in app.models.adapters() {
        let parent = models.iter().find(|status| status.name == model);
        all.extend(parent.map(|parent| adapter_entry(&app, parent, &adapter)));
    }
    reply::json(StatusCode::OK, model_list(&all).to_string())
}

pub(crate) async fn one(
    State(app): State<Arc<App>>,
    id: Result<Path<String>, PathRejection>,
) -> Response {
    // An id that is not even text is no model's name.
    let id = id.map_or_else(|_| "?".to_owned(), |Path(id)| id);
    match app.models.status_of(&id) {
        Ok(model) => {
            let adapters = app.models.adapters();
            let adapter = adapters.iter().find(|(_, adapter)| adapter.name == id);
            let entry = match adapter {
                Some((_, adapter)) => adapter_entry(&app, &model, adapter),
                None => entry(&app, &model),
            };
            reply::json(StatusCode::OK, json!(entry).to_string())
        }
        Err(error) => reply::error(&error),
    }
}

pub(crate) async fn version(State(app): State<Arc<App>>) -> Response {
    let all = app.models.status();
    let default = all.first().and_then(|model| model.runtime.as_ref());
    let info = default.map(|runtime| runtime.info());
    let body = json!({
        "version": env!("CARGO_PKG_VERSION"),
        "model": app.models.default_name(),
        "release": info.map(|info| info.release_hash.to_string()),
        "kernel_path": info.map(|info| info.backend.kernel_path.as_str()),
    });
    reply::json(StatusCode::OK, body.to_string())
}

pub(crate) async fn index(State(app): State<Arc<App>>) -> Response {
    let body = json!({
        "name": "lastmile",
        "version": env!("CARGO_PKG_VERSION"),
        "model": app.models.default_name(),
        "routes": routes::ROUTES,
    });
    reply::json(StatusCode::OK, body.to_string())
}

fn entry(app: &App, model: &ModelStatus) -> ModelEntry {
    let info = model.runtime.as_ref().map(|runtime| runtime.info());
    ModelEntry {
        id: model.name.clone(),
        object: "model",
        created: unix_seconds(info.map_or(app.started_at, |info| info.loaded_at)),
        owned_by: "lastmile",
        max_model_len: info.map(|info| info.backend.max_model_len),
        state: state_word(model.state),
        aliases: model.aliases.clone(),
        release: info.map(|info| info.release_hash.to_string()),
        parent: None,
        root: None,
    }
}

/// An adapter as a model, whose parent is `model`.
fn adapter_entry(app: &App, model: &ModelStatus, adapter: &AdapterSource) -> ModelEntry {
    let info = model.runtime.as_ref().and_then(|runtime| runtime.adapter(&adapter.name));
    ModelEntry {
        id: adapter.name.clone(),
        created: unix_seconds(info.as_ref().map_or(app.started_at, |info| info.loaded_at)),
        aliases: Vec::new(),
        release: info.map(|info| info.release_hash.to_string()),
        parent: Some(model.name.clone()),
        root: Some(adapter.path.display().to_string()),
        ..entry(app, model)
    }
}

pub(crate) fn state_word(state: ModelState) -> &'static str {
    match state {
        ModelState::Loaded => "loaded",
        ModelState::Loading => "loading",
        ModelState::Unloaded => "unloaded",
    }
}
