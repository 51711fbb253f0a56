//! Reading a request's body within its limits.
//!
//! It must never trust a Content-Length that promises little, and never hold more than the limits: of one body, and of
//! all that are open. Bytes count from when they arrive until the response has ended, as its prompt is kept so long.
//!
//! Start reading at [`read`].

use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, BodyDataStream, HttpBody};
use axum::extract::Request;
use axum::http::header::{CONNECTION, EXPECT};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::middleware::Next;
use axum::response::Response;
use futures_util::StreamExt;
use lm_api::ApiError;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use crate::app::App;

/// A body over the limit is read on and thrown away up to here: a client that still writes would
/// otherwise see a broken pipe instead of the answer.
const MAX_DISCARDED_BYTES: usize = 64 << 20;

/// How long a client whose body is thrown away may stand still until it is left.
const STANDS_STILL: Duration = Duration::from_secs(1);

/// Reads the whole body, unless the head says that it is too large. Its room is given back when the permit is dropped.
pub(crate) async fn read(
    headers: &HeaderMap,
    body: Body,
    app: &App,
) -> Result<(Vec<u8>, OwnedSemaphorePermit), ApiError> {
    let (limit, limit_bytes) = (app.config.body_timeout, app.config.max_body_bytes);
    if body.size_hint().lower() > limit_bytes as u64 {
        discard_beside(headers, body.into_data_stream(), limit);
        return Err(ApiError::BodyTooLarge { limit_bytes });
    }
    match timeout(limit, read_bounded(body, app)).await {
        Ok(result) => result,
        Err(_) => Err(ApiError::BodyTimeout { limit_ms: limit.as_millis() }),
    }
}

/// Who is told that a body is too large is not to send another one behind it.
pub(crate) async fn part(request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    if response.status() == StatusCode::PAYLOAD_TOO_LARGE {
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

/// Throws a body away while its client is answered, so that who still writes sees the answer. Who waits to be told to go
/// on is not told.
pub(crate) fn discard_beside(headers: &HeaderMap, mut chunks: BodyDataStream, limit: Duration) {
    if headers.contains_key(EXPECT) {
        return;
    }
    drop(tokio::spawn(timeout(limit, async move { discard(&mut chunks).await })));
}

/// Throws a body away up to [`MAX_DISCARDED_BYTES`], while it comes.
pub(crate) async fn discard(chunks: &mut BodyDataStream) {
    let mut n_bytes = 0_usize;
    while n_bytes <= MAX_DISCARDED_BYTES
        && let Ok(Some(Ok(chunk))) = timeout(STANDS_STILL, chunks.next()).await
    {
        n_bytes += chunk.len();
    }
}

async fn read_bounded(body: Body, app: &App) -> Result<(Vec<u8>, OwnedSemaphorePermit), ApiError> {
    let limit_bytes = app.config.max_body_bytes;
    let mut chunks = body.into_data_stream();
    let (mut kept, mut n_bytes, mut refusal) = (Vec::new(), 0_usize, None);
    let mut room = take_room(&app.body_room, 0).ok_or_else(|| full(app))?;
    while let Some(chunk) = chunks.next().await {
        let chunk = chunk.map_err(|error| ApiError::BodyBroken { what: error.to_string() })?;
        n_bytes = n_bytes.saturating_add(chunk.len());
        if n_bytes > limit_bytes {
            refusal = Some(ApiError::BodyTooLarge { limit_bytes });
        } else if refusal.is_none() {
            match take_room(&app.body_room, chunk.len()) {
                Some(more) => {
                    room.merge(more);
                    kept.extend_from_slice(&chunk);
                }
                None => refusal = Some(full(app)),
            }
        }
        if refusal.is_some() {
            kept = Vec::new();
            drop(room.split(room.num_permits()));
        }
        if n_bytes > MAX_DISCARDED_BYTES {
            break;
        }
    }
    match refusal {
        Some(refusal) => Err(refusal),
        None => Ok((kept, room)),
    }
}

fn take_room(room: &Arc<Semaphore>, n_bytes: usize) -> Option<OwnedSemaphorePermit> {
    Arc::clone(room).try_acquire_many_owned(u32::try_from(n_bytes).ok()?).ok()
}

fn full(app: &App) -> ApiError {
    ApiError::BodiesFull { limit_bytes: app.config.max_open_body_bytes }
}
