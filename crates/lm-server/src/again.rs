//! `POST /ops/v1/requests/{id}/replay`: a stored request, computed again by the model that serves now; and what probes say.
//!
//! It must never answer from what is stored: each verdict is of tokens that were drawn now.
//!
//! Start reading at [`replay`].

use std::sync::{Arc, Mutex, PoisonError};

use axum::Extension;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::Response;
use lastmile::{Aborter, Priority, RequestId};
use lm_api::ApiError;
use lm_ops::{Again, Bundle, ReplayError};
use serde_json::json;

use crate::app::{App, mint_id};
use crate::auth::Caller;
use crate::generate::off_thread;
use crate::request_log::RequestEntry;
use crate::{panel, reply};

/// `GET /ops/v1/probes`.
pub(crate) async fn probes(State(app): State<Arc<App>>) -> Response {
    let seconds = app.config.probe_interval.as_secs();
    let body = json!({ "interval_s": seconds, "data": app.probes.all() });
    reply::json(StatusCode::OK, body.to_string())
}

/// `POST /ops/v1/requests/{id}/replay`.
pub(crate) async fn replay(
    State(app): State<Arc<App>>,
    Extension(entry): Extension<Arc<RequestEntry>>,
    Extension(caller): Extension<Caller>,
    id: Result<Path<String>, PathRejection>,
) -> Response {
    let text = id.map_or_else(|_| String::new(), |Path(id)| id);
    let done = async {
        entry.hold(app.admit(&caller)?);
        let id: RequestId = panel::request_id(&text)?;
        app.idle.make_way();
        let running = Running::default();
        let listed = Arc::clone(&running.0);
        let answers = off_thread(move || computed(&app, id, &listed)).await?;
        let is_same = answers.iter().all(|again| again.verdict.is_identical());
        let verdict = if is_same { "identical" } else { "diverged" };
        let body = json!({ "id": text, "verdict": verdict, "answers": answers });
        Ok(reply::json(StatusCode::OK, body.to_string()))
    };
    done.await.unwrap_or_else(|error: ApiError| {
        entry.failed(&error);
        reply::error(&error)
    })
}

/// What is being computed; it ends when the client leaves.
#[derive(Default)]
struct Running(Arc<Mutex<Vec<Aborter>>>);

impl Drop for Running {
    fn drop(&mut self) {
        let mut aborters = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        aborters.drain(..).for_each(|aborter| aborter.abort());
    }
}

/// Computes all answers of a request beside each other.
fn computed(
    app: &App,
    id: RequestId,
    running: &Mutex<Vec<Aborter>>,
) -> Result<Vec<Again>, ApiError> {
    let reader = app.ops.reader();
    let refusal = |error: ReplayError| match error {
        ReplayError::NotStored { .. } => ApiError::RequestNotFound { id },
        ReplayError::Generate(error) => ApiError::Generate { error, prompt_param: "id" },
        other => ApiError::Invalid {
            param: "id".to_owned(),
            found: id.to_string(),
            wanted: format!("a request that can be computed again: {other}"),
        },
    };
    let bundle = Bundle::read(reader, id).map_err(refusal)?;
    let recorded = bundle.recorded(None).map_err(refusal)?;
    let stored = reader.request(id).map_err(|error| refusal(error.into()))?;
    let model = stored.ok_or_else(|| refusal(ReplayError::NotStored { id: id.to_string() }))?.model;
    let runtime = app.models.get(Some(&model))?.ok_or_else(|| ApiError::Invalid {
        param: "id".to_owned(),
        found: id.to_string(),
        wanted: format!("a request of a model that is loaded, and {model:?} is not"),
    })?;
    let begin = |recorded: &lm_ops::Recorded| {
        let stream = recorded.begin_again(&runtime, mint_id(), Priority::Batch)?;
        running.lock().unwrap_or_else(PoisonError::into_inner).push(stream.aborter());
        Ok(stream)
    };
    let streams: Result<Vec<_>, ReplayError> = recorded.iter().map(begin).collect();
    let all = recorded.iter().zip(streams.map_err(refusal)?);
    let told =
        all.map(|(recorded, stream)| Ok(recorded.again(&runtime, recorded.verdict(stream)?)));
    told.collect::<Result<_, ReplayError>>().map_err(refusal)
}
