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
    let sinks = monitors.map(Monitors::sinks).unwrap_or_default();
    let is_on = monitors.is_some();
    let body = json!({ "is_on": is_on, "dropped": dropped, "sinks": sinks, "data": standing });
    reply::json(StatusCode::OK, body.to_string())
}

/// `GET /ops/v1/monitors/{model}/signals`: what is usual of each signal beside the newest answers.
pub(crate) async fn signals(
    State(app): State<Arc<App>>,
    model: Result<Path<String>, PathRejection>,
) -> Response {
    let model = model.map_or_else(|_| String::new(), |Path(model)| model);
    let shown = async {
        let unknown = || ApiError::route_not_found(&format!("/ops/v1/monitors/{model}/signals"));
        let monitors = app.ops.monitors().cloned().ok_or_else(unknown)?;
        let name = model.clone();
        let signals = off_thread(move || Ok(monitors.shapes(&name))).await?;
        let body = json!({ "model": model, "signals": signals.ok_or_else(unknown)? });
        Ok(reply::json(StatusCode::OK, body.to_string()))
    };
    shown.await.unwrap_or_else(|error: ApiError| reply::error(&error))
}

/// `POST /ops/v1/monitors/{model}/forget`: what is usual of a model is learned anew; `…/pause` and `…/resume`: its answers are
/// not watched in between.
pub(crate) async fn act(
    State(app): State<Arc<App>>,
    Extension(entry): Extension<Arc<RequestEntry>>,
    path: Result<Path<(String, String)>, PathRejection>,
) -> Response {
    let (model, verb) = path.map_or_else(|_| Default::default(), |Path(path)| path);
    let done = match verb.as_str() {
        "forget" => forget(&app, &model).await,
        "pause" => Ok(app.ops.monitors().and_then(|monitors| monitors.pause(&model, true))),
        "resume" => Ok(app.ops.monitors().and_then(|monitors| monitors.pause(&model, false))),
        _ => Ok(None),
    };
    let unknown = || ApiError::route_not_found(&format!("/ops/v1/monitors/{model}/{verb}"));
    match done.and_then(|state| state.ok_or_else(unknown)) {
        Ok(state) => {
            tracing::info!(model, verb, state, "monitors did as they were told");
            reply::json(StatusCode::OK, json!({ "model": model, "state": state }).to_string())
        }
        Err(error) => {
            entry.failed(&error);
            reply::error(&error)
        }
    }
}

/// `None` when there was nothing to forget.
async fn forget(app: &App, model: &str) -> Result<Option<&'static str>, ApiError> {
    let Some(monitors) = app.ops.monitors().cloned() else { return Ok(None) };
    let name = model.to_owned();
    let was_there = off_thread(move || {
        monitors.forget(&name).map_err(|error| {
            tracing::error!(%error, "what is usual cannot be removed");
            ApiError::Internal { what: "what is usual cannot be removed".to_owned() }
        })
    });
    Ok(was_there.await?.then_some("learning"))
}
