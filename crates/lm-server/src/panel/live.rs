//! `GET /ops/v1/now` and `GET /ops/v1/now/stream`: the state as JSON, once or each time it is taken.
//!
//! It must never keep a server from stopping: a stream ends when the server drains.
//!
//! Start reading at [`stream`].

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::Extension;
use axum::extract::State;
use axum::http::{HeaderValue, StatusCode};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::stream::unfold;
use lm_api::ApiError;
use lm_panel::Now;

use super::MAX_LIVE;
use crate::app::App;
use crate::event_body::X_ACCEL_BUFFERING;
use crate::reply;
use crate::request_log::RequestEntry;

const KEEP_ALIVE: Duration = Duration::from_secs(15);

pub(crate) async fn now(State(app): State<Arc<App>>) -> Response {
    let now = app.panel.newest().await;
    reply::json(StatusCode::OK, text(&now))
}

pub(crate) async fn stream(
    State(app): State<Arc<App>>,
    Extension(entry): Extension<Arc<RequestEntry>>,
) -> Response {
    let Ok(place) = Arc::clone(&app.panel.live).try_acquire_owned() else {
        let error = ApiError::TooManyRequests { limit: MAX_LIVE };
        entry.failed(&error);
        return reply::error(&error);
    };
    let mut states = app.panel.now.subscribe();
    // The state that there is already comes first.
    if states.borrow().at_ms > 0 {
        states.mark_changed();
    }
    let live = (states, app.drain_began(), place, entry);
    let events = unfold(live, |(mut states, mut drain, place, entry)| async move {
        let is_new = tokio::select! {
            changed = states.changed() => changed.is_ok(),
            _ = drain.wait_for(|began| *began) => false,
        };
        let event = is_new.then(|| Event::default().data(text(&states.borrow_and_update())))?;
        Some((Ok::<_, Infallible>(event), (states, drain, place, entry)))
    });
    let sse = Sse::new(events).keep_alive(KeepAlive::new().interval(KEEP_ALIVE));
    let mut response = sse.into_response();
    response.headers_mut().insert(X_ACCEL_BUFFERING, HeaderValue::from_static("no"));
    response
}

fn text(now: &Now) -> String {
    serde_json::to_string(now).expect("numbers and texts are JSON: this is a bug")
}
