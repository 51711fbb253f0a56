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
use lm_api::{ApiError, model_list, model_object};
use serde_json::{Value, json};

use crate::app::{App, unix_seconds};
use crate::{reply, routes};

pub(crate) async fn list(State(app): State<Arc<App>>) -> Response {
    reply::json(StatusCode::OK, model_list(vec![served(&app)]).to_string())
}

pub(crate) async fn one(
    State(app): State<Arc<App>>,
    id: Result<Path<String>, PathRejection>,
) -> Response {
    let name = &app.runtime.info().name;
    // An id that is not even text is not the model's name.
    let id = id.map_or_else(|_| "?".to_owned(), |Path(id)| id);
    if id != *name {
        return reply::error(&ApiError::model_not_found(&id, name));
    }
    reply::json(StatusCode::OK, served(&app).to_string())
}

pub(crate) async fn version(State(app): State<Arc<App>>) -> Response {
    let info = app.runtime.info();
    let body = json!({
        "version": env!("CARGO_PKG_VERSION"),
        "model": info.name,
        "release": info.release_hash.to_string(),
        "kernel_path": info.backend.kernel_path,
    });
    reply::json(StatusCode::OK, body.to_string())
}

pub(crate) async fn index(State(app): State<Arc<App>>) -> Response {
    let body = json!({
        "name": "lastmile",
        "version": env!("CARGO_PKG_VERSION"),
        "model": app.runtime.info().name,
        "routes": routes::ROUTES,
    });
    reply::json(StatusCode::OK, body.to_string())
}

fn served(app: &App) -> Value {
    let info = app.runtime.info();
    model_object(&info.name, unix_seconds(info.loaded_at), info.backend.max_model_len)
}
