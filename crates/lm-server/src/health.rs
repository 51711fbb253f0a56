//! Whether the process lives and whether it should get work.
//!
//! It must never wait for the engine: it reads counters.
//!
//! Start reading at [`health`].

use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use serde_json::json;

use crate::app::App;
use crate::reply;

/// An engine that did not go round its loop for so long is not ready. Idle, it does twice a second.
const STALE: Duration = Duration::from_secs(5);

/// The state in numbers; 200 when ready, else 503. `/health/ready` is the same.
pub(crate) async fn health(State(app): State<Arc<App>>) -> Response {
    let stats = app.runtime.stats();
    let (status, word) = if app.is_draining() {
        (StatusCode::SERVICE_UNAVAILABLE, "draining")
    } else if stats.heartbeat_age >= STALE {
        (StatusCode::SERVICE_UNAVAILABLE, "stalled")
    } else {
        (StatusCode::OK, "ok")
    };
    let body = json!({
        "status": word,
        "heartbeat_age_ms": stats.heartbeat_age.as_millis() as u64,
        "running": stats.n_running,
        "waiting": stats.n_waiting,
    });
    reply::json(status, body.to_string())
}

/// 200 as long as the process answers at all.
pub(crate) async fn live() -> Response {
    reply::json(StatusCode::OK, json!({ "status": "live" }).to_string())
}
