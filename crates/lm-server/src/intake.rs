//! From a request on the wire to its body and the model that it names.
//!
//! It must never read JSON on a thread that serves other connections: a body may have a mebibyte.
//!
//! Start reading at [`take`].

use std::sync::Arc;

use axum::extract::Request;
use axum::http::HeaderMap;
use lm_api::{ApiError, asked_model};

use crate::app::App;
use crate::auth::Caller;
use crate::body;
use crate::generate::off_thread;
use crate::request_log::RequestEntry;

/// What was asked, unread but for the model's name.
pub(crate) struct Asked {
    pub(crate) headers: HeaderMap,
    pub(crate) body: Vec<u8>,
    /// The model that it names, if it names one.
    pub(crate) model: Option<String>,
}

/// Finds a place for the request and reads its body. Place and room are held until the response has ended.
///
/// # Errors
/// There is no place, or the body is not as it may be.
pub(crate) async fn take(
    app: &App,
    entry: &Arc<RequestEntry>,
    caller: &Caller,
    request: Request,
) -> Result<Asked, ApiError> {
    entry.hold(app.admit(caller)?);
    let (head, body) = request.into_parts();
    let (body, room) = body::read(&head.headers, body, app).await?;
    entry.hold_body(room);
    off_thread(move || {
        let model = asked_model(&body);
        Ok(Asked { headers: head.headers, body, model })
    })
    .await
}
