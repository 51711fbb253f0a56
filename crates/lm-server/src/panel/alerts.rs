//! `GET /ops/v1/alerts`: what somebody should look at, since when, and what was and is over.
//!
//! It must never decide what an alert is: `lm-panel` does.
//!
//! Start reading at [`alerts`].

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use serde_json::json;

use crate::app::App;
use crate::reply;

pub(crate) async fn alerts(State(app): State<Arc<App>>) -> Response {
    // The first look at a server fills the log.
    let at_ms = app.panel.newest().await.at_ms;
    let body = {
        let log = app.panel.alerts();
        let past: Vec<_> = log.past().collect();
        json!({ "at_ms": at_ms, "open": log.open(), "past": past })
    };
    reply::json(StatusCode::OK, body.to_string())
}
