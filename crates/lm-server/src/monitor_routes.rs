//! `/ops/v1/monitors…`: whether answers are as usual.
//!
//! Start reading at [`list`].

use std::sync::Arc;

use axum::Extension;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, Request, State};
use axum::http::StatusCode;
use axum::response::Response;
use lm_api::ApiError;
use lm_ops::{MonitorAction, MonitorEntry, Monitors, now_ms};
use serde_json::json;

use crate::app::App;
use crate::auth::Caller;
use crate::fields::Fields;
use crate::generate::off_thread;
use crate::panel::invalid;
use crate::request_log::RequestEntry;
use crate::{body, reply};

const AUDIT_ENTRIES: usize = 1000;
/// Of why something was done.
const MAX_REASON_BYTES: usize = 1000;

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

/// `GET /ops/v1/monitors/audit`: what operators did to monitors.
pub(crate) async fn audit(State(app): State<Arc<App>>) -> Response {
    let monitors = app.ops.monitors().cloned();
    let read = off_thread(move || {
        let all = monitors.map_or_else(|| Ok(Vec::new()), |monitors| monitors.audit(AUDIT_ENTRIES));
        all.map_err(|error| internal("the monitors' audit log cannot be read", &error))
    });
    match read.await {
        Ok(all) => reply::json(StatusCode::OK, json!({ "data": all }).to_string()),
        Err(error) => reply::error(&error),
    }
}

/// `POST /ops/v1/monitors/{model}/forget`: what is usual of a model is learned anew; `…/pause` and `…/resume`: its answers are
/// not watched in between, also after a restart.
pub(crate) async fn act(
    State(app): State<Arc<App>>,
    Extension(entry): Extension<Arc<RequestEntry>>,
    Extension(caller): Extension<Caller>,
    path: Result<Path<(String, String)>, PathRejection>,
    request: Request,
) -> Response {
    let (model, verb) = path.map_or_else(|_| Default::default(), |Path(path)| path);
    let unknown = || ApiError::route_not_found(&format!("/ops/v1/monitors/{model}/{verb}"));
    let done = async {
        let action = match verb.as_str() {
            "forget" => MonitorAction::Forget,
            "pause" => MonitorAction::Pause,
            "resume" => MonitorAction::Resume,
            _ => return Err(unknown()),
        };
        let (head, body) = request.into_parts();
        let (body, room) = body::read(&head.headers, body, &app).await?;
        entry.hold_body(room);
        let mut fields = Fields::of(&body)?;
        let reason = fields.reason()?;
        fields.end()?;
        if reason.len() > MAX_REASON_BYTES {
            let found = format!("{} bytes long", reason.len());
            let wanted = format!("at most {MAX_REASON_BYTES} bytes long");
            return Err(invalid("reason", &found, wanted));
        }
        let (who, at_ms) = (caller.who(), now_ms());
        let act = MonitorEntry { at_ms, who, action, model: model.clone(), reason };
        let monitors = app.ops.monitors().cloned().ok_or_else(unknown)?;
        let state = off_thread(move || {
            let failed = |error| internal("the monitors could not be changed", &error);
            monitors.act(&act).map_err(failed)
        });
        state.await?.ok_or_else(unknown)
    };
    match done.await {
        Ok(state) => {
            tracing::info!(
                model,
                verb,
                state,
                who = caller.who(),
                "monitors did as they were told"
            );
            reply::json(StatusCode::OK, json!({ "model": model, "state": state }).to_string())
        }
        Err(error) => {
            entry.failed(&error);
            reply::error(&error)
        }
    }
}

/// Files are the operator's: a client is told no more than what could not be done.
fn internal(what: &str, error: &std::io::Error) -> ApiError {
    tracing::error!(%error, "{what}");
    ApiError::Internal { what: what.to_owned() }
}
