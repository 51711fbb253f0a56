//! JSON and errors as HTTP responses.
//!
//! It must never decide what an error is called; `lm-api` does.
//!
//! Start reading at [`error`].

use axum::http::header::{CONTENT_TYPE, RETRY_AFTER};
use axum::http::{HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use lm_api::ApiError;

const RETRY_AFTER_MS: HeaderName = HeaderName::from_static("retry-after-ms");

/// A JSON text with a status.
pub(crate) fn json(status: StatusCode, body: String) -> Response {
    (status, [(CONTENT_TYPE, HeaderValue::from_static("application/json"))], body).into_response()
}

/// An error with its status, body and, where it helps, when to try again.
pub(crate) fn error(error: &ApiError) -> Response {
    let status =
        StatusCode::from_u16(error.status()).expect("errors have HTTP statuses: this is a bug");
    let mut response = json(status, error.to_json());
    if let Some(wait) = error.retry_after() {
        // Whoever knows whole seconds only comes a little later rather than too early.
        let millis = wait.as_millis() as u64;
        let seconds = millis.div_ceil(1000).max(1);
        let headers = response.headers_mut();
        headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
        headers.insert(RETRY_AFTER_MS, HeaderValue::from(millis));
    }
    response
}
