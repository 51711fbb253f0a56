//! `/ops/v1/overrides…` for operators, and `/v1/overrides/items/{id}` for who waits for a person.
//!
//! It must never answer from the file on a thread that serves.
//!
//! Start reading at [`act`].

use std::sync::Arc;
use std::time::Duration;

use axum::Extension;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, Request, State};
use axum::http::{StatusCode, Uri};
use axum::response::Response;
use lm_api::{ApiError, OverrideRefusal};
use lm_ops::{
    Desk, Item, ItemState, Overrides, RolloutError, Standing, dry_run, now_ms, parse_rule,
    tenant_text,
};
use serde_json::{Value, json};

use crate::app::App;
use crate::auth::Caller;
use crate::fields::Fields;
use crate::generate::off_thread;
use crate::panel::{Params, invalid};
use crate::request_log::RequestEntry;
use crate::{reply, visit};

/// The routes whose answers are computed.
pub const KILLABLE_ROUTES: &[&str] = &[
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/responses",
    "/v1/responses/{id}/edit",
    "/v1/messages",
    "/api/chat",
    "/api/generate",
    "/v1/embeddings",
    "/v1/rerank",
    "/v2/rerank",
    "/v1/score",
    "/v1/classify",
    "/api/embed",
    "/api/embeddings",
];
/// How long one poll waits at most.
const MAX_WAIT_MS: u64 = 60_000;
const DAY_MS: i64 = 86_400_000;
const AUDIT_ENTRIES: u32 = 1000;

type Visit = visit::Visit<Overrides>;

/// `GET /ops/v1/overrides`.
pub(crate) async fn list(State(app): State<Arc<App>>) -> Response {
    let listed = async {
        let overrides = overrides(&app)?;
        let body = off_thread(move || {
            let now_ms = now_ms();
            let (rules, hits, operator) = overrides
                .read_apart(|desk| Ok((desk.rules()?, desk.hits(0)?, desk.operator()?)))?;
            let one = |standing: &Standing| {
                let mut one = described(standing, now_ms);
                one["hits"] = hits.get(&standing.rule.id).copied().unwrap_or(0).into();
                one
            };
            Ok(json!({
                "rules": rules.iter().map(one).collect::<Vec<_>>(),
                "operator": operator,
                "routes": KILLABLE_ROUTES,
                "breakers": overrides.breakers().states(),
                "dropped_hits": overrides.n_dropped_hits(),
            }))
        })
        .await?;
        Ok(reply::json(StatusCode::OK, body.to_string()))
    };
    listed.await.unwrap_or_else(|error: ApiError| reply::error(&error))
}

/// `POST /ops/v1/overrides`: a rule, as a draft or with `?publish=true`.
pub(crate) async fn add(
    State(app): State<Arc<App>>,
    Extension(entry): Extension<Arc<RequestEntry>>,
    Extension(caller): Extension<Caller>,
    request: Request,
) -> Response {
    visited(app, &entry, &caller, request, |visit| {
        let mut params = Params::of(&visit.uri)?;
        let publish = match params.text("publish")?.as_deref() {
            Some("true") => true,
            None | Some("false") => false,
            Some(other) => return Err(invalid("publish", other, "true or false".to_owned())),
        };
        params.end()?;
        let text = String::from_utf8_lossy(&visit.body);
        let rule = parse_rule(&text).map_err(lm_ops::override_refusal)?;
        let now_ms = now_ms();
        let standing = visit.keeper.act(|desk| {
            let standing = desk.add(&rule, &visit.who, now_ms)?;
            match publish {
                true => desk.publish(&rule.id, &visit.who, now_ms),
                false => Ok(standing),
            }
        })?;
        Ok((StatusCode::CREATED, described(&standing, now_ms)))
    })
    .await
}

/// `GET /ops/v1/overrides/{id|audit|queue}`.
pub(crate) async fn show(
    State(app): State<Arc<App>>,
    rest: Result<Path<String>, PathRejection>,
) -> Response {
    let rest = rest.map_or_else(|_| String::new(), |Path(rest)| rest);
    let shown = async {
        let overrides = overrides(&app)?;
        let body = off_thread(move || {
            let now_ms = now_ms();
            match rest.as_str() {
                "audit" => Ok(json!(overrides.read_apart(|desk| desk.audit(AUDIT_ENTRIES))?)),
                "queue" => Ok(json!(overrides.read(|desk| desk.waiting(now_ms))?)),
                id => Ok(described(&overrides.read(|desk| desk.rule(id))?, now_ms)),
            }
        })
        .await?;
        Ok(reply::json(StatusCode::OK, body.to_string()))
    };
    shown.await.unwrap_or_else(|error: ApiError| reply::error(&error))
}

/// `POST /ops/v1/overrides/{kill|pin|rollback|queue/ID|ID/publish|ID/expire|ID/remove|ID/dry-run}`.
pub(crate) async fn act(
    State(app): State<Arc<App>>,
    Extension(entry): Extension<Arc<RequestEntry>>,
    Extension(caller): Extension<Caller>,
    rest: Result<Path<String>, PathRejection>,
    request: Request,
) -> Response {
    let rest = rest.map_or_else(|_| String::new(), |Path(rest)| rest);
    visited(app, &entry, &caller, request, move |visit| {
        let now_ms = now_ms();
        let done = match rest.split_once('/') {
            None => switch(visit, &rest, now_ms),
            Some(("queue", id)) => answer(visit, id, now_ms),
            Some((id, verb)) => on_rule(visit, id, verb, now_ms),
        };
        done?
            .map(|body| (StatusCode::OK, body))
            .ok_or_else(|| ApiError::route_not_found(&format!("/ops/v1/overrides/{rest}")))
    })
    .await
}

/// `GET /v1/overrides/items/{id}?wait_ms=`: waits until a person answered, the deadline came, or the time is over.
pub(crate) async fn item(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
    uri: Uri,
) -> Response {
    let waited = async {
        let overrides = overrides(&app)?;
        let mut params = Params::of(&uri)?;
        let wait_ms = params.number("wait_ms", 0..=MAX_WAIT_MS)?.unwrap_or(0);
        params.end()?;
        let until = tokio::time::Instant::now() + Duration::from_millis(wait_ms);
        let mut changes = overrides.changes();
        loop {
            changes.mark_unchanged();
            let (desk, wanted) = (overrides.clone(), id.clone());
            let item = off_thread(move || desk.read(|desk| desk.item(&wanted, now_ms()))).await?;
            // Somebody else's item looks like one that never was.
            if caller.sees().is_some_and(|tenant| tenant_text(tenant) != item.tenant) {
                let message = format!("there is no queue item {id:?}");
                return Err(ApiError::Overridden(OverrideRefusal::Unknown { message }));
            }
            let left_ms = u64::try_from(item.deadline_ms - now_ms()).unwrap_or(0);
            let due = tokio::time::Instant::now() + Duration::from_millis(left_ms);
            let is_over = tokio::time::Instant::now() >= until || app.is_draining();
            if item.state != ItemState::Waiting || is_over {
                return Ok(reply::json(StatusCode::OK, told(&item).to_string()));
            }
            let _ = tokio::time::timeout_at(until.min(due), changes.changed()).await;
        }
    };
    waited.await.unwrap_or_else(|error: ApiError| reply::error(&error))
}

fn told(item: &Item) -> Value {
    json!({
        "id": item.id,
        "object": "override.item",
        "state": item.state,
        "deadline_ms": item.deadline_ms,
        "text": item.answer,
        "by": match item.state {
            ItemState::Waiting => None,
            ItemState::Answered => Some("human"),
            ItemState::Late => Some("canned"),
        },
    })
}

fn switch(visit: &Visit, verb: &str, now_ms: i64) -> Result<Option<Value>, ApiError> {
    let Visit { keeper: overrides, app, who, .. } = visit;
    let mut fields = Fields::of(&visit.body)?;
    Ok(match verb {
        "kill" => {
            let (route, reason) = (fields.wanted("route")?, fields.reason()?);
            fields.end()?;
            if !KILLABLE_ROUTES.contains(&route.as_str()) {
                let wanted = format!("one of {}", KILLABLE_ROUTES.join(", "));
                return Err(ApiError::Invalid { param: "route".to_owned(), found: route, wanted });
            }
            let operator = overrides.switch(|desk| desk.kill(&route, &reason, who, now_ms))?;
            // Who is told that it holds finds nothing of the route in the next step.
            app.aborts.abort_route(&route);
            Some(json!(operator))
        }
        "pin" => {
            let (target, reason) = (fields.wanted("target")?, fields.reason()?);
            fields.end()?;
            Some(json!(overrides.switch(|desk| desk.pin(&target, &reason, who, now_ms))?))
        }
        "rollback" => {
            let reason = fields.reason()?;
            fields.end()?;
            let undone = overrides.switch(|desk| desk.rollback(&reason, who, now_ms))?;
            if undone.of_rules {
                overrides.act(|_| Ok(()))?;
            }
            Some(json!({ "undone": undone.what, "operator": overrides.policy().operator() }))
        }
        _ => None,
    })
}

fn answer(visit: &Visit, id: &str, now_ms: i64) -> Result<Option<Value>, ApiError> {
    let mut fields = Fields::of(&visit.body)?;
    let text = fields.wanted("text")?;
    fields.end()?;
    let item = visit.keeper.act(|desk| desk.answer(id, &text, &visit.who, now_ms))?;
    Ok(Some(told(&item)))
}

fn on_rule(visit: &Visit, id: &str, verb: &str, now_ms: i64) -> Result<Option<Value>, ApiError> {
    let (overrides, who) = (&visit.keeper, visit.who.as_str());
    let change = |change: fn(&mut Desk, &str, &str, i64) -> Result<Standing, RolloutError>| {
        overrides.act(|desk| change(desk, id, who, now_ms))
    };
    if ["publish", "expire", "remove", "dry-run"].contains(&verb) {
        Fields::of(&visit.body)?.end()?;
    }
    let standing = match verb {
        "publish" => change(Desk::publish)?,
        "expire" => change(Desk::expire)?,
        "remove" => change(Desk::remove)?,
        "dry-run" => {
            let mut params = Params::of(&visit.uri)?;
            let since_ms = params.number("since_ms", 0..=i64::MAX)?.unwrap_or(now_ms - 7 * DAY_MS);
            params.end()?;
            let reader = visit.app.ops.reader();
            let run = overrides.read_apart(|desk| dry_run(desk, reader, id, since_ms, now_ms))?;
            return Ok(Some(json!(run)));
        }
        _ => return Ok(None),
    };
    Ok(Some(described(&standing, now_ms)))
}

/// Where there is a place for the request.
async fn visited(
    app: Arc<App>,
    entry: &Arc<RequestEntry>,
    caller: &Caller,
    request: Request,
    work: impl FnOnce(&Visit) -> Result<(StatusCode, Value), ApiError> + Send + 'static,
) -> Response {
    match app.admit(caller) {
        Ok(place) => entry.hold(place),
        Err(error) => return visit::refused(entry, &error),
    }
    visit::acted(app, entry, caller, request, overrides, work).await
}

fn overrides(app: &App) -> Result<Overrides, ApiError> {
    app.ops.overrides().cloned().ok_or_else(|| {
        let message = "this server keeps no overrides".to_owned();
        ApiError::Overridden(OverrideRefusal::Unknown { message })
    })
}

fn described(standing: &Standing, now_ms: i64) -> Value {
    let mut one = json!(standing);
    one["state"] = standing.state(now_ms).into();
    one["id"] = standing.rule.id.as_str().into();
    one
}
