//! `POST /v1/load_lora_adapter` and `POST /v1/unload_lora_adapter`.
//!
//! It must never know how an adapter is read.
//!
//! Start reading at [`load`].

use std::path::Path;
use std::sync::Arc;

use axum::Extension;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::Response;
use lm_api::{ApiError, parse_load_adapter, parse_unload_adapter};
use serde_json::{Value, json};

use crate::app::App;
use crate::auth::Caller;
use crate::generate::off_thread;
use crate::request_log::RequestEntry;
use crate::{body, reply};

pub(crate) async fn load(
    State(app): State<Arc<App>>,
    Extension(entry): Extension<Arc<RequestEntry>>,
    Extension(caller): Extension<Caller>,
    request: Request,
) -> Response {
    acted(app, entry, caller, request, |app, body| {
        let asked = parse_load_adapter(body)?;
        let (model, path) = (asked.base_model_name.as_deref(), Path::new(&asked.lora_path));
        let adapter = app.models.load_adapter(model, &asked.lora_name, path)?;
        Ok(json!({
            "lora_name": adapter.name,
            "rank": adapter.rank,
            "size_bytes": adapter.size_bytes,
            "release": adapter.release_hash.to_string(),
        }))
    })
    .await
}

pub(crate) async fn unload(
    State(app): State<Arc<App>>,
    Extension(entry): Extension<Arc<RequestEntry>>,
    Extension(caller): Extension<Caller>,
    request: Request,
) -> Response {
    acted(app, entry, caller, request, |app, body| {
        let name = parse_unload_adapter(body)?;
        app.models.unload_adapter(&name)?;
        Ok(json!({ "lora_name": name }))
    })
    .await
}

/// Reads the body, and acts on a thread that may block.
async fn acted(
    app: Arc<App>,
    entry: Arc<RequestEntry>,
    caller: Caller,
    request: Request,
    act: impl FnOnce(&App, &[u8]) -> Result<Value, ApiError> + Send + 'static,
) -> Response {
    let answer = async {
        entry.hold(app.admit(&caller)?);
        let (head, body) = request.into_parts();
        let (body, room) = body::read(&head.headers, body, &app).await?;
        entry.hold_body(room);
        let body = off_thread(move || act(&app, &body)).await?;
        Ok(reply::json(StatusCode::OK, body.to_string()))
    };
    answer.await.unwrap_or_else(|error: ApiError| {
        entry.failed(&error);
        reply::error(&error)
    })
}
