//! `/ops/v1/monitors…`: whether answers are as usual.
//!
//! Start reading at [`list`].

use std::sync::Arc;

use axum::Extension;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::Response;
use lm_api::ApiError;
use lm_ops::Monitors;
use serde_json::json;

use crate::app::App;
use crate::generate::off_thread;
use crate::reply;
use crate::request_log::RequestEntry;

/// `GET /ops/v1/monitors`.
pub(crate) async fn list(State(app): State<Arc<App>>) -> Response {
    let monitors = app.ops.monitors();
    let standing = monitors.map(Monitors::standing).unwrap_or_default();
    let dropped = monitors.map_or(0, Monitors::n_dropped);
    let body = json!({ "is_on": monitors.is_some(), "dropped": dropped, "data": standing });
    reply::json(StatusCode::OK, body.to_string())
}

/// `POST /ops/v1/monitors/{model}/forget`: what is usual of a model is learned anew.
pub(crate) async fn forget(
    State(app): State<Arc<App>>,
    Extension(entry): Extension<Arc<RequestEntry>>,
    model: Result<Path<String>, PathRejection>,
) -> Response {
    let model = model.map_or_else(|_| String::new(), |Path(model)| model);
    let done = async {
        let unknown = || ApiError::route_not_found(&format!("/ops/v1/monitors/{model}/forget"));
        let monitors = app.ops.monitors().cloned().ok_or_else(unknown)?;
        let name = model.clone();
        let was_there = off_thread(move || {
            monitors.forget(&name).map_err(|error| {
                tracing::error!(%error, "what is usual cannot be removed");
                ApiError::Internal { what: "what is usual cannot be removed".to_owned() }
            })
        });
        match was_there.await? {
            true => {
                let body = json!({ "model": model, "state": "learning" });
                Ok(reply::json(StatusCode::OK, body.to_string()))
            }
            false => Err(unknown()),
        }
    };
    done.await.unwrap_or_else(|error: ApiError| {
        entry.failed(&error);
        reply::error(&error)
    })
}
