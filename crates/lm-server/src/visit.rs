//! The frames of what operators look at and do: what they ask for is read here, and the work is done on a thread that may
//! wait.
//!
//! It must never do the work on a thread that serves.
//!
//! Start reading at [`looked`] and [`acted`].

use std::sync::Arc;

use axum::extract::Request;
use axum::http::{StatusCode, Uri};
use axum::response::Response;
use lm_api::ApiError;
use serde_json::Value;

use crate::app::App;
use crate::auth::Caller;
use crate::generate::off_thread;
use crate::panel::{Params, sees};
use crate::request_log::RequestEntry;
use crate::{body, reply};

/// What a page is told.
pub(crate) type Shown = Result<Value, ApiError>;

/// What the work of one request has.
pub(crate) struct Visit<K> {
    /// What keeps that which is looked at or changed.
    pub(crate) keeper: K,
    pub(crate) app: Arc<App>,
    /// As audit logs name them.
    pub(crate) who: String,
    pub(crate) uri: Uri,
    pub(crate) body: Vec<u8>,
}

/// Answers who may see pages: `read` says what the URL asks for, as work on what `keeper` finds.
pub(crate) async fn looked<K, W>(
    app: &App,
    caller: &Caller,
    uri: &Uri,
    keeper: impl FnOnce(&App) -> Result<K, ApiError>,
    read: impl FnOnce(&mut Params) -> Result<W, ApiError>,
) -> Response
where
    K: Send + 'static,
    W: FnOnce(K) -> Shown + Send + 'static,
{
    let shown = async {
        sees(app, caller)?;
        let mut params = Params::of(uri)?;
        let work = read(&mut params)?;
        params.end()?;
        let keeper = keeper(app)?;
        let body = off_thread(move || work(keeper)).await?;
        Ok(reply::json(StatusCode::OK, body.to_string()))
    };
    shown.await.unwrap_or_else(|error: ApiError| reply::error(&error))
}

/// Reads the body, and has the work done on what `keeper` finds. The work says the status, too.
pub(crate) async fn acted<K: Send + 'static>(
    app: Arc<App>,
    entry: &Arc<RequestEntry>,
    caller: &Caller,
    request: Request,
    keeper: impl FnOnce(&App) -> Result<K, ApiError>,
    work: impl FnOnce(&Visit<K>) -> Result<(StatusCode, Value), ApiError> + Send + 'static,
) -> Response {
    let done = async {
        let who = caller.who();
        let (head, body) = request.into_parts();
        let (body, room) = body::read(&head.headers, body, &app).await?;
        entry.hold_body(room);
        let keeper = keeper(&app)?;
        let visit = Visit { keeper, app, who, uri: head.uri, body };
        let (status, body) = off_thread(move || work(&visit)).await?;
        Ok(reply::json(status, body.to_string()))
    };
    done.await.unwrap_or_else(|error: ApiError| refused(entry, &error))
}

/// The answer to what cannot be done; its name is logged.
pub(crate) fn refused(entry: &RequestEntry, error: &ApiError) -> Response {
    entry.failed(error);
    reply::error(error)
}
