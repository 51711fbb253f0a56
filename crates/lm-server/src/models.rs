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
use lastmile::Runtime;
use lm_api::{model_list, model_object};
use serde_json::{Value, json};

use crate::app::{App, unix_seconds};
use crate::{reply, routes};

pub(crate) async fn list(State(app): State<Arc<App>>) -> Response {
    let all = app.models.loaded().iter().map(|runtime| served(runtime)).collect();
    reply::json(StatusCode::OK, model_list(all).to_string())
}

pub(crate) async fn one(
    State(app): State<Arc<App>>,
    id: Result<Path<String>, PathRejection>,
) -> Response {
    // An id that is not even text is not the model's name.
    let id = id.map_or_else(|_| "?".to_owned(), |Path(id)| id);
    match app.models.resolve(Some(&id)).await {
        Ok(runtime) => reply::json(StatusCode::OK, served(&runtime).to_string()),
        Err(error) => reply::error(&error),
    }
}

pub(crate) async fn version(State(app): State<Arc<App>>) -> Response {
    let loaded = app.models.loaded();
    let info = loaded.first().map(|runtime| runtime.info());
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

fn served(runtime: &Runtime) -> Value {
    let info = runtime.info();
    model_object(&info.name, unix_seconds(info.loaded_at), info.backend.max_model_len)
}
