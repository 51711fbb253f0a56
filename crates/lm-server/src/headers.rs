//! Headers that tell browsers what not to do, and pages of other origins what they may.
//!
//! It must never echo an origin that nobody listed.
//!
//! Start reading at [`secure`]; cross-origin requests go on at [`cors`].

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_HEADERS,
    ACCESS_CONTROL_REQUEST_METHOD, CACHE_CONTROL, CONTENT_SECURITY_POLICY, ORIGIN, REFERRER_POLICY,
    VARY, X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS,
};
use axum::http::{HeaderName, HeaderValue, Method, StatusCode};
use axum::middleware::Next;
use axum::response::Response;

use crate::app::App;

const SECURE: [(HeaderName, &str); 4] = [
    (X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (REFERRER_POLICY, "no-referrer"),
    (X_FRAME_OPTIONS, "DENY"),
    (CACHE_CONTROL, "no-store"),
];

/// Without a word of what headers a page wants to send, those of this server.
const PREFLIGHT: [(HeaderName, &str); 3] = [
    (ACCESS_CONTROL_ALLOW_METHODS, "GET, POST"),
    (
        ACCESS_CONTROL_ALLOW_HEADERS,
        "authorization, content-type, x-api-key, x-request-id, x-lastmile-deadline-ms, \
         x-lastmile-max-queue-ms, x-lastmile-priority",
    ),
    (ACCESS_CONTROL_MAX_AGE, "600"),
];

/// Answers are nobody's to guess at, frame, keep or be led from.
pub(crate) async fn secure(request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    set(&mut response, &SECURE);
    // The dashboard's files say what they need; nothing else is a page.
    let policy = response.headers_mut().entry(CONTENT_SECURITY_POLICY);
    policy.or_insert(HeaderValue::from_static("default-src 'none'; frame-ancestors 'none'"));
    response
}

/// Lets pages of the listed origins read answers. Without a list no page of another origin can.
pub(crate) async fn cors(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    let origin = request.headers().get(ORIGIN).cloned();
    let is_listed = |origin: &HeaderValue| {
        app.config.cors_origins.iter().any(|listed| listed.as_bytes() == origin.as_bytes())
    };
    let Some(origin) = origin.filter(is_listed) else { return next.run(request).await };
    let asks = request.headers().contains_key(ACCESS_CONTROL_REQUEST_METHOD);
    let mut response = if request.method() == Method::OPTIONS && asks {
        // Browsers ask first, and show no key when they do.
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::NO_CONTENT;
        set(&mut response, &PREFLIGHT);
        // Clients send headers of their own (x-stainless-…, anthropic-version); a listed page may send any.
        if let Some(asked) = request.headers().get(ACCESS_CONTROL_REQUEST_HEADERS) {
            response.headers_mut().insert(ACCESS_CONTROL_ALLOW_HEADERS, asked.clone());
        }
        response
    } else {
        next.run(request).await
    };
    let exposed = [(ACCESS_CONTROL_EXPOSE_HEADERS, "x-request-id, retry-after, retry-after-ms")];
    set(&mut response, &exposed);
    response.headers_mut().insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
    response.headers_mut().append(VARY, HeaderValue::from_static("origin"));
    response.headers_mut().append(VARY, HeaderValue::from_static("access-control-request-headers"));
    response
}

fn set(response: &mut Response, headers: &[(HeaderName, &'static str)]) {
    for (name, value) in headers {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
}
