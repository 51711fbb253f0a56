//! `GET /ops/v1/models` and `POST /ops/v1/models/{name}/load|unload|reload`.
//!
//! It must never know how a model is loaded.
//!
//! Start reading at [`act`].

use std::sync::Arc;

use axum::Extension;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, RawQuery, State};
use axum::http::StatusCode;
use axum::response::Response;
use lastmile::ModelStatus;
use lm_api::ApiError;
use serde_json::{Value, json};

use crate::app::App;
use crate::models::state_word;
use crate::reply;
use crate::request_log::RequestEntry;

pub(crate) async fn list(State(app): State<Arc<App>>) -> Response {
    let (ceiling, taken) = app.models.memory();
    let body = json!({
        "models": app.models.status().iter().map(described).collect::<Vec<_>>(),
        "memory": { "ceiling_bytes": ceiling, "planned_bytes": taken },
    });
    reply::json(StatusCode::OK, body.to_string())
}

/// A model's name may hold slashes, so that the verb is what follows the last one.
pub(crate) async fn act(
    State(app): State<Arc<App>>,
    Extension(entry): Extension<Arc<RequestEntry>>,
    RawQuery(query): RawQuery,
    rest: Result<Path<String>, PathRejection>,
) -> Response {
    let rest = rest.map_or_else(|_| String::new(), |Path(rest)| rest);
    let answer = async {
        let (name, verb) = rest.rsplit_once('/').unwrap_or((&rest, ""));
        let may_drain = drain_of(query.as_deref(), verb)?;
        match verb {
            "load" => drop(app.models.resolve(Some(name)).await?),
            "unload" => drop(app.models.unload(name)?),
            "reload" => app.models.reload(name, may_drain).await?,
            _ => {
                let path = format!("/ops/v1/models/{rest}");
                return Err(ApiError::route_not_found(&path));
            }
        }
        let status = app.models.status_of(name)?;
        Ok(reply::json(StatusCode::OK, described(&status).to_string()))
    };
    answer.await.unwrap_or_else(|error: ApiError| {
        entry.failed(&error);
        reply::error(&error)
    })
}

/// Whether the old engine may be dropped before the new one is loaded: `?drain=true`, of `reload` only.
fn drain_of(query: Option<&str>, verb: &str) -> Result<bool, ApiError> {
    let wanted = if verb == "reload" { "empty, drain=true or drain=false" } else { "empty" };
    match query {
        None | Some("") => Ok(false),
        Some("drain=true") if verb == "reload" => Ok(true),
        Some("drain=false") if verb == "reload" => Ok(false),
        Some(other) => Err(ApiError::Invalid {
            param: "query".to_owned(),
            found: format!("'{}'", other.chars().take(80).collect::<String>()),
            wanted: wanted.to_owned(),
        }),
    }
}

fn described(model: &ModelStatus) -> Value {
    let info = model.runtime.as_ref().map(|runtime| runtime.info());
    let stats = model.runtime.as_ref().map(|runtime| runtime.stats());
    json!({
        "name": model.name,
        "aliases": model.aliases,
        "state": state_word(model.state),
        "release": info.map(|info| info.release_hash.to_string()),
        "planned_bytes": model.runtime.as_ref().map(|runtime| runtime.planned_bytes()),
        "running": stats.as_ref().map(|stats| stats.n_running),
        "waiting": stats.as_ref().map(|stats| stats.n_waiting),
        "retiring_engines": model.n_retiring,
        "loads": model.n_loads,
    })
}
