//! Whether the process lives and whether it should get work.
//!
//! It must never wait for the engine: it reads counters.
//!
//! Start reading at [`health`].

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use serde_json::json;

use crate::app::App;
use crate::reply;
use crate::watchdog::Condition;

/// The state in numbers; 200 when ready, else 503. `/health/ready` is the same.
pub(crate) async fn health(State(app): State<Arc<App>>) -> Response {
    let stats = app.runtime.stats();
    let (status, word) = if app.is_draining() {
        (StatusCode::SERVICE_UNAVAILABLE, "draining")
    } else {
        match Condition::of(&stats, app.runtime.info().backend.weights_bytes) {
            Condition::Going => (StatusCode::OK, "ok"),
            Condition::Stalled => (StatusCode::SERVICE_UNAVAILABLE, "stalled"),
            Condition::Died => (StatusCode::SERVICE_UNAVAILABLE, "died"),
        }
    };
    let body = json!({
        "status": word,
        "heartbeat_age_ms": stats.heartbeat_age.as_millis() as u64,
        "longest_step_ms": stats.longest_step.as_millis() as u64,
        "running": stats.n_running,
        "waiting": stats.n_waiting,
    });
    reply::json(status, body.to_string())
}

/// 200 as long as the process can answer at all: with a dead engine only a restart helps.
pub(crate) async fn live(State(app): State<Arc<App>>) -> Response {
    let (status, word) = match app.runtime.stats().died {
        true => (StatusCode::SERVICE_UNAVAILABLE, "died"),
        false => (StatusCode::OK, "live"),
    };
    reply::json(status, json!({ "status": word }).to_string())
}
