//! JSON and errors as HTTP responses.
//!
//! It must never decide what an error is called; `lm-api` does.
//!
//! Start reading at [`error`]; [`in_own_words`] gives an error the shape of the API that its path belongs to.

use axum::extract::Request;
use axum::http::header::{CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderName, HeaderValue, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use lm_api::ApiError;

const RETRY_AFTER_MS: HeaderName = HeaderName::from_static("retry-after-ms");

/// What a response refuses, for [`in_own_words`].
#[derive(Clone)]
struct Refused(ApiError);

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
        // Rounded up: who comes a moment early comes in vain.
        let millis = wait.as_nanos().div_ceil(1_000_000) as u64;
        let seconds = millis.div_ceil(1000).max(1);
        let headers = response.headers_mut();
        headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
        headers.insert(RETRY_AFTER_MS, HeaderValue::from(millis));
    }
    if error.status() == 401 {
        response.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    response.extensions_mut().insert(Refused(error.clone()));
    response
}

/// Tells errors in the words of the API that the path belongs to, whoever refused: a route, or what is before all routes.
pub(crate) async fn in_own_words(request: Request, next: Next) -> Response {
    let path = request.uri().path();
    let is_in = |api: &str| {
        path.strip_prefix(api).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    let words = if is_in("/v1/messages") {
        ApiError::to_messages_json
    } else if is_in("/api") {
        ApiError::to_ollama_json
    } else {
        return next.run(request).await;
    };
    let mut response = next.run(request).await;
    if let Some(Refused(error)) = response.extensions_mut().remove() {
        *response.body_mut() = words(&error).into();
    }
    response
}
