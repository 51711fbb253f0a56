//! The files of the pages. `/` is the page for who takes HTML, and JSON for everybody else.
//!
//! It must never say anything of this server: the files are handed out without a key.
//!
//! Start reading at [`root`].

use std::sync::Arc;

use axum::extract::{Path, Request, State};
use axum::http::header::{ACCEPT, CONTENT_SECURITY_POLICY, CONTENT_TYPE, VARY};
use axum::http::{HeaderMap, HeaderValue};
use axum::response::{IntoResponse, Response};
use lm_api::ApiError;

use crate::app::App;
use crate::{models, reply};

/// Scripts, styles and data come from this server alone, and nothing is inline.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; \
                      connect-src 'self'; base-uri 'none'; form-action 'none'; \
                      frame-ancestors 'none'";

/// Whether somebody wants to look at a page.
pub(crate) fn wants_page(headers: &HeaderMap) -> bool {
    let mut accepted = headers.get_all(ACCEPT).into_iter().filter_map(|value| value.to_str().ok());
    accepted.any(|types| types.split(',').any(|kind| kind.trim().starts_with("text/html")))
}

pub(crate) async fn root(state: State<Arc<App>>, headers: HeaderMap) -> Response {
    let mut response = match lm_panel::file("index.html") {
        Some(file) if wants_page(&headers) => answer(file),
        _ => models::index(state).await,
    };
    response.headers_mut().insert(VARY, HeaderValue::from_static("accept"));
    response
}

pub(crate) async fn page_file(Path(name): Path<String>, request: Request) -> Response {
    match lm_panel::file(&name) {
        Some(file) => answer(file),
        None => reply::error(&ApiError::route_not_found(request.uri().path())),
    }
}

/// A page of its own; its name is one of the files'.
pub(crate) fn page(name: &str) -> Response {
    answer(lm_panel::file(name).expect("the page is in the binary: this is a bug"))
}

fn answer(file: lm_panel::File) -> Response {
    let headers = [(CONTENT_TYPE, file.media_type), (CONTENT_SECURITY_POLICY, POLICY)];
    (headers, file.text).into_response()
}
