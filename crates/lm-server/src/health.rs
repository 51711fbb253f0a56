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

/// Idle, the engine goes round its loop twice a second; so long it may always take.
const LEAST_STALE: Duration = Duration::from_secs(5);
/// No step is so long.
const MOST_STALE: Duration = Duration::from_secs(120);
/// A step may take so many times as long as the longest of late: a long prompt may follow.
const LONGER_STEP: u32 = 5;

/// The state in numbers; 200 when ready, else 503. `/health/ready` is the same.
pub(crate) async fn health(State(app): State<Arc<App>>) -> Response {
    let stats = app.runtime.stats();
    let (status, word) = if app.is_draining() {
        (StatusCode::SERVICE_UNAVAILABLE, "draining")
    } else if stats.died {
        (StatusCode::SERVICE_UNAVAILABLE, "died")
    } else if stats.heartbeat_age > stale_after(stats.longest_step) {
        (StatusCode::SERVICE_UNAVAILABLE, "stalled")
    } else {
        (StatusCode::OK, "ok")
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

/// An engine that did not go round its loop for longer than this is not ready: it does so once a
/// step, and a step of a large model may take many seconds.
fn stale_after(longest_step: Duration) -> Duration {
    longest_step.saturating_mul(LONGER_STEP).clamp(LEAST_STALE, MOST_STALE)
}

/// 200 as long as the process can answer at all: with a dead engine only a restart helps.
pub(crate) async fn live(State(app): State<Arc<App>>) -> Response {
    let (status, word) = match app.runtime.stats().died {
        true => (StatusCode::SERVICE_UNAVAILABLE, "died"),
        false => (StatusCode::OK, "live"),
    };
    reply::json(status, json!({ "status": word }).to_string())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::stale_after;

    #[test]
    fn long_steps_are_waited_for_but_not_for_ever() {
        #[track_caller]
        fn check(longest_step_s: u64, expect_s: u64) {
            let found = stale_after(Duration::from_secs(longest_step_s));
            assert_eq!(found, Duration::from_secs(expect_s));
        }
        check(0, 5);
        check(1, 5);
        check(4, 20);
        check(24, 120);
        check(25, 120);
        check(u64::MAX, 120);
    }
}
