//! `GET /v1/requests`, `GET /v1/requests/{id}/page` and `GET /v1/requests/{id}/timeline`: what was asked and answered, as it is stored.
//!
//! It must never show a request to who did not send it, but to operators.
//!
//! Start reading at [`search`].

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Extension;
use axum::extract::{Path, State};
use axum::http::{StatusCode, Uri};
use axum::response::Response;
use lastmile::{RequestId, TenantId, TraceId};
use lm_api::{ApiError, Denial};
use lm_ops::{MAX_FOUND, RequestPage, Search};
use lm_panel::{AttemptTimes, Picture};
use serde::Serialize;
use serde_json::{Value, json};

use super::charts::width;
use super::params::{Params, invalid};
use crate::app::App;
use crate::auth::Caller;
use crate::reply;

/// What `GET /v1/requests/{id}/page` says.
#[derive(Serialize)]
struct Shown {
    #[serde(flatten)]
    page: RequestPage,
    /// Whole numbers of `params` that a reader with 53 bits for them would round, such as a seed, in digits.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    exact_params: BTreeMap<String, String>,
    picture: Picture,
}

/// Longest text that is looked for.
const MAX_TEXT_BYTES: usize = 1000;
const DEFAULT_FOUND: u32 = 50;
/// Bare ids are UUIDs; those of answers carry a prefix.
const ID_PREFIXES: [&str; 6] = ["chatcmpl-", "cmpl-", "embd-", "rerank-", "score-", "classify-"];

pub(crate) async fn search(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Caller>,
    uri: Uri,
) -> Response {
    let found = async {
        let search = wanted(&uri, sees(&app, &caller)?)?;
        let found = app.ops.search(search).await?;
        Ok(json!({ "object": "list", "data": found }).to_string())
    };
    answered(found.await)
}

pub(crate) async fn one(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
    uri: Uri,
) -> Response {
    let shown = async {
        let mut params = Params::of(&uri)?;
        let width = width(&mut params)?;
        params.end()?;
        let page = app.ops.request_page(request_id(&id)?, sees(&app, &caller)?).await?;
        let times = page.request.attempts.iter().map(|attempt| AttemptTimes {
            choice: attempt.choice,
            queue_wait_ms: attempt.queue_wait_ms,
            ttft_ms: attempt.ttft_ms,
            e2e_ms: attempt.e2e_ms,
        });
        let picture = lm_panel::attempts(&times.collect::<Vec<_>>(), width);
        let exact_params = exact(&page.request.params);
        serde_json::to_string(&Shown { page, exact_params, picture })
            .map_err(|error| ApiError::Internal { what: error.to_string() })
    };
    answered(shown.await)
}

/// The greatest whole number up to which JavaScript has all of them.
const MAX_EXACT: u64 = (1 << 53) - 1;

fn exact(params: &Value) -> BTreeMap<String, String> {
    let large = |(name, value): (&String, &Value)| {
        let number = value.as_u64().or_else(|| value.as_i64().map(i64::unsigned_abs))?;
        (number > MAX_EXACT).then(|| (name.clone(), value.to_string()))
    };
    params.as_object().into_iter().flatten().filter_map(large).collect()
}

pub(crate) async fn timeline(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
    uri: Uri,
) -> Response {
    let told = async {
        Params::of(&uri)?.end()?;
        let page = app.ops.timeline(request_id(&id)?, sees(&app, &caller)?).await?;
        serde_json::to_string(&page).map_err(|error| ApiError::Internal { what: error.to_string() })
    };
    answered(told.await)
}

pub(crate) fn request_id(text: &str) -> Result<RequestId, ApiError> {
    let wanted = "the id of a request: a UUID";
    bare(text).parse().map_err(|_| invalid("id", text, wanted.to_owned()))
}

fn answered(answer: Result<String, ApiError>) -> Response {
    match answer {
        Ok(body) => reply::json(StatusCode::OK, body),
        Err(error) => reply::error(&error),
    }
}

/// Whose requests the caller sees. Without keys those are what came without one, and only who is on
/// this machine sees them: what people wrote is not for a whole network.
pub(crate) fn sees(app: &App, caller: &Caller) -> Result<Option<TenantId>, ApiError> {
    let is_local = app.config.address.ip().to_canonical().is_loopback();
    match caller.holder {
        None if !is_local => Err(ApiError::Denied(Denial::KeyMissing)),
        _ => Ok(caller.sees()),
    }
}

fn bare(id: &str) -> &str {
    ID_PREFIXES.iter().find_map(|prefix| id.strip_prefix(prefix)).unwrap_or(id)
}

fn wanted(uri: &Uri, own: Option<TenantId>) -> Result<Search, ApiError> {
    let mut params = Params::of(uri)?;
    let id_prefix = params.text("id")?.map(|id| bare(id.trim()).to_ascii_lowercase());
    if let Some(id) = id_prefix.as_deref()
        && !id.bytes().all(|c| c.is_ascii_hexdigit() || c == b'-')
    {
        return Err(invalid("id", id, "how the id of a request begins, a UUID".to_owned()));
    }
    let text = params.text("text")?;
    if let Some(text) = text.as_deref().filter(|text| text.len() > MAX_TEXT_BYTES) {
        let found = format!("{} bytes long", text.len());
        return Err(invalid("text", &found, format!("at most {MAX_TEXT_BYTES} bytes long")));
    }
    let tenant = params.text("tenant")?.map(|text| tenant(&text)).transpose()?;
    if let (Some(own), Some(tenant)) = (own, tenant)
        && own != tenant
    {
        let wanted = "your own: only keys with the scope ops see those of others";
        return Err(invalid("tenant", &format!("{:016x}", tenant.0), wanted.to_owned()));
    }
    let search = Search {
        tenant: own.or(tenant),
        id_prefix,
        trace: params.text("trace")?.map(|text| trace(&text)).transpose()?,
        status: params.text("status")?,
        model: params.text("model")?,
        text,
        since_ms: params.number("since_ms", 0..=i64::MAX)?,
        before_ms: params.number("before_ms", 0..=i64::MAX)?,
        limit: params.number("limit", 1..=MAX_FOUND)?.unwrap_or(DEFAULT_FOUND),
    };
    params.end()?;
    Ok(search)
}

/// As it stands in a `traceparent` and in the log.
fn trace(text: &str) -> Result<TraceId, ApiError> {
    let wanted = "the id of a trace: 32 hexadecimal digits, not all of them 0";
    let id = TraceId::parse(&text.to_ascii_lowercase());
    id.ok_or_else(|| invalid("trace", text, wanted.to_owned()))
}

/// 16 hexadecimal digits, or `none` for who came without a key.
fn tenant(text: &str) -> Result<TenantId, ApiError> {
    if text == "none" {
        return Ok(TenantId::ANONYMOUS);
    }
    let is_id = text.len() == 16 && text.bytes().all(|c| c.is_ascii_hexdigit());
    let id = u64::from_str_radix(text, 16).ok().filter(|_| is_id);
    id.map(TenantId).ok_or_else(|| {
        invalid("tenant", text, "a key's id, 16 hexadecimal digits, or none".to_owned())
    })
}
