//! Reading a request's body within its limits.
//!
//! It must never trust a Content-Length, and never hold more than the limit.
//!
//! Start reading at [`read`].

use axum::body::Body;
use futures_util::StreamExt;
use lm_api::ApiError;

use crate::ServerConfig;

/// A body over the limit is read on and thrown away up to here: a client that still writes would
/// otherwise see a broken pipe instead of the answer.
const MAX_DISCARDED_BYTES: usize = 64 << 20;

/// Reads the whole body.
pub(crate) async fn read(body: Body, config: &ServerConfig) -> Result<Vec<u8>, ApiError> {
    let limit = config.body_timeout;
    match tokio::time::timeout(limit, read_bounded(body, config.max_body_bytes)).await {
        Ok(result) => result,
        Err(_) => Err(ApiError::BodyTimeout { limit_ms: limit.as_millis() }),
    }
}

async fn read_bounded(body: Body, limit_bytes: usize) -> Result<Vec<u8>, ApiError> {
    let mut chunks = body.into_data_stream();
    let (mut kept, mut n_bytes) = (Vec::new(), 0_usize);
    while let Some(chunk) = chunks.next().await {
        let chunk = chunk.map_err(|error| ApiError::BodyBroken { what: error.to_string() })?;
        n_bytes = n_bytes.saturating_add(chunk.len());
        if n_bytes <= limit_bytes {
            kept.extend_from_slice(&chunk);
        } else if n_bytes > MAX_DISCARDED_BYTES {
            break;
        } else {
            kept = Vec::new();
        }
    }
    if n_bytes > limit_bytes { Err(ApiError::BodyTooLarge { limit_bytes }) } else { Ok(kept) }
}
