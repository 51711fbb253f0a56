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
use crate::watchdog::Condition;

/// The state of all engines in numbers; 200 when ready, else 503. `/health/ready` is the same.
pub(crate) async fn health(State(app): State<Arc<App>>) -> Response {
    let loaded = app.models.engines();
    let all: Vec<_> = loaded.iter().map(|runtime| (runtime, runtime.stats())).collect();
    let conditions = all
        .iter()
        .map(|(runtime, stats)| Condition::of(stats, runtime.info().backend.weights_bytes));
    let (status, word) = if app.is_draining() {
        (StatusCode::SERVICE_UNAVAILABLE, "draining")
    } else {
        match conditions.max().unwrap_or(Condition::Going) {
            Condition::Going => (StatusCode::OK, "ok"),
            Condition::Stalled => (StatusCode::SERVICE_UNAVAILABLE, "stalled"),
            Condition::Died => (StatusCode::SERVICE_UNAVAILABLE, "died"),
        }
    };
    let stats = || all.iter().map(|(_, stats)| stats);
    let longest = |times: &mut dyn Iterator<Item = Duration>| {
        times.max().unwrap_or_default().as_millis() as u64
    };
    let body = json!({
        "status": word,
        "heartbeat_age_ms": longest(&mut stats().map(|stats| stats.heartbeat_age)),
        "longest_step_ms": longest(&mut stats().map(|stats| stats.longest_step)),
        "running": stats().map(|stats| stats.n_running).sum::<u64>(),
        "waiting": stats().map(|stats| stats.n_waiting).sum::<u64>(),
    });
    reply::json(status, body.to_string())
}

/// 200 as long as the process can answer at all: with a dead engine only a restart helps.
pub(crate) async fn live(State(app): State<Arc<App>>) -> Response {
    let (status, word) = match app.models.engines().iter().any(|runtime| runtime.stats().died) {
        true => (StatusCode::SERVICE_UNAVAILABLE, "died"),
        false => (StatusCode::OK, "live"),
    };
    reply::json(status, json!({ "status": word }).to_string())
}
