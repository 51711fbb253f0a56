//! Reading a request's body within its limits.
//!
//! It must never trust a Content-Length that promises little, and never hold more than the limits: of one body, and of
//! all that are open. Bytes count from when they arrive until the response has ended, as its prompt is kept so long.
//! Nor must it read more than a few bodies at once that are thrown away when their requests hold no place any more.
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

/// Bodies that are thrown away at once. Of more nothing is read: their connections end with the answer, which a client
/// that still writes may miss.
pub(crate) const MAX_DISCARDS: usize = 32;

/// Reads the whole body, unless the head says that it is too large. Its room is given back when the permit is dropped.
pub(crate) async fn read(
    headers: &HeaderMap,
    body: Body,
    app: &App,
) -> Result<(Vec<u8>, OwnedSemaphorePermit), ApiError> {
    let (limit, limit_bytes) = (app.config.body_timeout, app.config.max_body_bytes);
    if body.size_hint().lower() > limit_bytes as u64 {
        discard_beside(headers, body.into_data_stream(), &app.discards, limit);
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
/// on is not told. Without a place among [`MAX_DISCARDS`] nothing is read.
pub(crate) fn discard_beside(
    headers: &HeaderMap,
    mut chunks: BodyDataStream,
    places: &Arc<Semaphore>,
    limit: Duration,
) {
    if headers.contains_key(EXPECT) {
        return;
    }
    let Ok(place) = Arc::clone(places).try_acquire_owned() else { return };
    drop(tokio::spawn(async move {
        let _place = place;
        // Who is not done by then is left.
        let _ = timeout(limit, discard(&mut chunks)).await;
    }));
}

/// Throws a body away before its client is answered. Without a place among [`MAX_DISCARDS`] nothing is read.
pub(crate) async fn discard_first(
    chunks: &mut BodyDataStream,
    places: &Semaphore,
    limit: Duration,
) {
    let Ok(_place) = places.try_acquire() else { return };
    let _ = timeout(limit, discard(chunks)).await;
}

/// Throws a body away up to [`MAX_DISCARDED_BYTES`], while it comes.
async fn discard(chunks: &mut BodyDataStream) {
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

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use std::convert::Infallible;
    use std::task::Context;

    use axum::body::Bytes;
    use futures_util::stream::poll_fn;
    use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};

    use super::*;

    /// Nobody waits for so long.
    const LONG: Duration = Duration::from_hours(24);

    /// A body that ends with its sender.
    fn body() -> (UnboundedSender<Bytes>, BodyDataStream) {
        let (sender, mut receiver) = unbounded_channel::<Bytes>();
        let chunks = poll_fn(move |context: &mut Context<'_>| {
            receiver.poll_recv(context).map(|chunk| chunk.map(Ok::<Bytes, Infallible>))
        });
        (sender, Body::from_stream(chunks).into_data_stream())
    }

    #[tokio::test]
    async fn so_many_bodies_are_thrown_away_at_once_and_of_more_nothing_is_read() {
        let (places, headers) = (Arc::new(Semaphore::new(1)), HeaderMap::new());
        let (first, chunks) = body();
        discard_beside(&headers, chunks, &places, LONG);
        let (second, chunks) = body();
        discard_beside(&headers, chunks, &places, LONG);
        // Nobody holds it any more, so that its connection ends.
        assert!(second.is_closed() && !first.is_closed());
        let (third, mut chunks) = body();
        third.send(Bytes::from_static(b"unread")).unwrap();
        discard_first(&mut chunks, &places, LONG).await;
        assert_eq!(chunks.next().await.unwrap().unwrap(), "unread");
        drop(first);
        // The first one gives its place back when it ends.
        drop(places.acquire().await.unwrap());
        third.send(Bytes::from_static(b"read")).unwrap();
        drop(third);
        discard_first(&mut chunks, &places, LONG).await;
        assert!(chunks.next().await.is_none());
        assert_eq!(places.available_permits(), 1);
    }
}
