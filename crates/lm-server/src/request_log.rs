//! One entry for each HTTP request: its id, one log line and one count, written when it is over.
//!
//! It must never hold a prompt, an answer or a key.
//!
//! Start reading at [`track`]; the entry is written by [`RequestEntry`]'s `Drop`, so a client that
//! leaves early is logged too.

use std::sync::atomic::{AtomicU16, AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method};
use axum::middleware::Next;
use axum::response::Response;
use lastmile::{RequestId, TraceParent, Usage};
use lm_api::ApiError;
use lm_keys::KeyId;

use tokio::sync::OwnedSemaphorePermit;

use crate::app::{App, mint_id};
use crate::auth::Caller;
use crate::lease::{Estimate, Lease, Place};
use crate::routes::ROUTES;

const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// Says who answered in the place of the model.
const X_LASTMILE_OVERRIDE: HeaderName = HeaderName::from_static("x-lastmile-override");
/// Says which side of an experiment answered.
const X_LASTMILE_ARM: HeaderName = HeaderName::from_static("x-lastmile-arm");
/// Says which trace of its sender's a request is part of.
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
/// Says whether the answer came from the response cache.
const X_LASTMILE_CACHE: HeaderName = HeaderName::from_static("x-lastmile-cache");
/// What is logged when the client left before the end of the response.
const CLIENT_GONE: u16 = 499;
/// Characters of what the client chose that a log line holds.
const MAX_LOGGED: usize = 128;

/// One HTTP request. Handlers and response bodies share it; the last to let go writes it out.
pub(crate) struct RequestEntry {
    app: Arc<App>,
    pub(crate) id: RequestId,
    method: Method,
    path: String,
    route: String,
    client_id: Option<String>,
    /// Where its sender's trace stands.
    pub(crate) trace: Option<TraceParent>,
    started: Instant,
    status: AtomicU16,
    prompt_tokens: AtomicU32,
    completion_tokens: AtomicU32,
    error: OnceLock<&'static str>,
    key: OnceLock<KeyId>,
    place: OnceLock<Place>,
    /// The rule, or who else, in the place of the model.
    overridden: OnceLock<String>,
    /// Experiment and arm.
    arm: OnceLock<String>,
    /// What the response cache had to do with it.
    cached: OnceLock<&'static str>,
    /// What the body takes of the room for all.
    body_room: OnceLock<OwnedSemaphorePermit>,
}

/// Gives each request its id and its entry.
pub(crate) async fn track(
    State(app): State<Arc<App>>,
    mut request: Request,
    next: Next,
) -> Response {
    let entry = Arc::new(RequestEntry::new(app, &request));
    request.extensions_mut().insert(Arc::clone(&entry));
    let mut response = next.run(request).await;
    entry.status.store(response.status().as_u16(), Relaxed);
    let id = HeaderValue::from_str(&entry.id.to_string())
        .expect("a UUID is a header value: this is a bug");
    response.headers_mut().insert(X_REQUEST_ID, id);
    let by = entry.overridden.get().and_then(|by| HeaderValue::from_str(by).ok());
    if let Some(by) = by {
        response.headers_mut().insert(X_LASTMILE_OVERRIDE, by);
    }
    if let Some(arm) = entry.arm.get().and_then(|arm| HeaderValue::from_str(arm).ok()) {
        response.headers_mut().insert(X_LASTMILE_ARM, arm);
    }
    if let Some(&cached) = entry.cached.get() {
        response.headers_mut().insert(X_LASTMILE_CACHE, HeaderValue::from_static(cached));
    }
    response
}

impl RequestEntry {
    fn new(app: Arc<App>, request: &Request) -> Self {
        let route = request.extensions().get::<MatchedPath>().map(MatchedPath::as_str);
        let client_id = request.headers().get(&X_REQUEST_ID).and_then(|id| id.to_str().ok());
        RequestEntry {
            app,
            id: mint_id(),
            method: request.method().clone(),
            path: request.uri().path().chars().take(MAX_LOGGED).collect(),
            route: route.unwrap_or("none").to_owned(),
            client_id: client_id.map(|id| id.chars().take(MAX_LOGGED).collect()),
            trace: trace_parent(request.headers()),
            started: Instant::now(),
            status: AtomicU16::new(CLIENT_GONE),
            prompt_tokens: AtomicU32::new(0),
            completion_tokens: AtomicU32::new(0),
            error: OnceLock::new(),
            key: OnceLock::new(),
            place: OnceLock::new(),
            overridden: OnceLock::new(),
            arm: OnceLock::new(),
            cached: OnceLock::new(),
            body_room: OnceLock::new(),
        }
    }

    /// The route, as the router names it.
    pub(crate) fn route(&self) -> &'static str {
        let paths = ROUTES.iter().filter_map(|route| route.split(' ').nth(1));
        paths.into_iter().find(|path| *path == self.route).unwrap_or_default()
    }

    /// Somebody else than the model answers.
    pub(crate) fn overridden(&self, by: &str) {
        self.overridden.get_or_init(|| by.to_owned());
    }

    /// It is part of an experiment.
    pub(crate) fn is_in(&self, arm: String) {
        self.arm.get_or_init(|| arm);
    }

    /// `hit`, `miss` or `bypass`: what the response cache had to do with it.
    pub(crate) fn cached(&self, word: &'static str) {
        self.cached.get_or_init(|| word);
    }

    /// Keeps the place among the open requests until the response has ended.
    pub(crate) fn hold(&self, place: Place) {
        // A handler admits once, so there is nothing to replace.
        self.place.get_or_init(|| place);
    }

    /// Keeps the body's room until the response has ended.
    pub(crate) fn hold_body(&self, room: OwnedSemaphorePermit) {
        // A handler reads one body, so there is nothing to replace.
        self.body_room.get_or_init(|| room);
    }

    /// Sets aside at the caller's meter, where there is one.
    pub(crate) fn reserve(&self, estimate: impl FnOnce() -> Estimate) -> Result<(), ApiError> {
        self.lease().map_or(Ok(()), |lease| lease.reserve(estimate()))
    }

    /// The caller's place at its meter, where there is one.
    pub(crate) fn lease(&self) -> Option<&Lease> {
        self.place.get().and_then(|place| place.lease.as_ref())
    }

    /// Who asks.
    pub(crate) fn is_from(&self, caller: &Caller) {
        if let Some(holder) = &caller.holder {
            self.key.get_or_init(|| holder.record.id);
        }
    }

    /// The client left before the response had ended.
    pub(crate) fn client_left(&self) {
        self.status.store(CLIENT_GONE, Relaxed);
    }

    pub(crate) fn used(&self, usage: Usage) {
        self.prompt_tokens.store(usage.prompt_tokens, Relaxed);
        self.completion_tokens.store(usage.completion_tokens, Relaxed);
    }

    pub(crate) fn failed(&self, error: &ApiError) {
        self.error.get_or_init(|| error.code());
        if let ApiError::Denied(denial) = error {
            self.app.denials.count(denial.code());
            if let Some(key) = self.key.get() {
                self.app.limited.count(*key, denial.code());
            }
        }
    }
}

/// By W3C's Trace Context: one that is wrong, or given twice, is as if it were not there.
fn trace_parent(headers: &HeaderMap) -> Option<TraceParent> {
    let mut all = headers.get_all(&TRACEPARENT).into_iter();
    let parent = TraceParent::parse(all.next()?.to_str().ok()?)?;
    all.next().is_none().then_some(parent)
}

impl Drop for RequestEntry {
    fn drop(&mut self) {
        let status = self.status.load(Relaxed);
        self.app.http.count(&self.route, status);
        tracing::info!(
            method = %self.method,
            path = self.path,
            status,
            ms = self.started.elapsed().as_millis() as u64,
            request_id = %self.id,
            key = self.key.get().map(tracing::field::display),
            client_request_id = self.client_id,
            trace_id = self.trace.map(|trace| tracing::field::display(trace.trace_id)),
            prompt_tokens = self.prompt_tokens.load(Relaxed),
            completion_tokens = self.completion_tokens.load(Relaxed),
            error = self.error.get(),
            overridden = self.overridden.get(),
            arm = self.arm.get(),
            cache = self.cached.get(),
            "request"
        );
    }
}
