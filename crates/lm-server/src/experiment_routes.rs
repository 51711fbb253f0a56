//! `/ops/v1/experiments…` for operators.
//!
//! It must never answer from the file on a thread that serves.
//!
//! Start reading at [`act`].

use std::sync::Arc;

use axum::Extension;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, Request, State};
use axum::http::{StatusCode, Uri};
use axum::response::Response;
use lm_api::{ApiError, OverrideRefusal};
use lm_ops::{Experiments, Forced, Point, Spec, experiment_refusal, now_ms};
use lm_panel::{Bounds, Picture, Width};
use serde::Deserialize;
use serde_json::json;

use crate::app::App;
use crate::auth::Caller;
use crate::generate::off_thread;
use crate::panel::Params;
use crate::request_log::RequestEntry;
use crate::visit::{Visit, acted};
use crate::{panel, reply};

const AUDIT_ENTRIES: u32 = 1000;

/// The body of a verb.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Why {
    #[serde(default)]
    reason: String,
    #[serde(default)]
    force: bool,
}

/// `GET /ops/v1/experiments`.
pub(crate) async fn list(State(app): State<Arc<App>>) -> Response {
    let listed = async {
        let (experiments, shadow) = (experiments(&app)?, app.shadow.counts());
        let body = off_thread(move || {
            experiments.act(|book| {
                let names: Vec<String> =
                    book.experiments()?.into_iter().map(|one| one.spec.name).collect();
                let reports: Result<Vec<_>, _> =
                    names.iter().map(|name| book.report(name)).collect();
                Ok(json!({ "experiments": reports?, "shadow": shadow }))
            })
        })
        .await?;
        Ok(reply::json(StatusCode::OK, body.to_string()))
    };
    listed.await.unwrap_or_else(|error: ApiError| reply::error(&error))
}

/// `POST /ops/v1/experiments`: begins one.
pub(crate) async fn start(
    State(app): State<Arc<App>>,
    Extension(entry): Extension<Arc<RequestEntry>>,
    Extension(caller): Extension<Caller>,
    request: Request,
) -> Response {
    acted(app, &entry, &caller, request, experiments, |visit: &Visit<Experiments>| {
        let text = String::from_utf8_lossy(&visit.body);
        let spec = Spec::parse(&text).map_err(experiment_refusal)?;
        let begun = visit.keeper.act(|book| book.start(&spec, &visit.who, now_ms()))?;
        Ok((StatusCode::CREATED, json!(begun)))
    })
    .await
}

/// `GET /ops/v1/experiments/{name}`: the evidence, how it came about, and what was done.
pub(crate) async fn show(
    State(app): State<Arc<App>>,
    name: Result<Path<String>, PathRejection>,
    uri: Uri,
) -> Response {
    let name = name.map_or_else(|_| String::new(), |Path(name)| name);
    let shown = async {
        let experiments = experiments(&app)?;
        let mut params = Params::of(&uri)?;
        let width = panel::width(&mut params)?;
        params.end()?;
        let body = off_thread(move || {
            experiments.act(|book| {
                let report = book.report(&name)?;
                let (spec, points) = (book.experiment(&name)?.spec, book.points(&name)?);
                let mut body = json!(report);
                body["picture"] = json!(picture(&spec, &points, width));
                (body["spec"], body["points"]) = (json!(spec), json!(points));
                body["audit"] = json!(book.audit(Some(&name), AUDIT_ENTRIES)?);
                Ok(body)
            })
        })
        .await?;
        Ok(reply::json(StatusCode::OK, body.to_string()))
    };
    shown.await.unwrap_or_else(|error: ApiError| reply::error(&error))
}

/// The interval so far, and what it must be above for the last step.
fn picture(spec: &Spec, points: &[Point], width: Width) -> Picture {
    let gain = spec.goal.min_gain;
    let wanted = if spec.is_costlier() { gain } else { -gain };
    let bounds = |point: &Point| Bounds {
        n: point.n,
        stage: point.stage.clone(),
        low: point.low,
        high: point.high,
    };
    let bounds: Vec<Bounds> = points.iter().map(bounds).collect();
    lm_panel::evidence(spec.goal.metric.as_str(), &bounds, wanted, width)
}

/// `POST /ops/v1/experiments/{name}/{promote|rollback|stop}`.
pub(crate) async fn act(
    State(app): State<Arc<App>>,
    Extension(entry): Extension<Arc<RequestEntry>>,
    Extension(caller): Extension<Caller>,
    rest: Result<Path<String>, PathRejection>,
    request: Request,
) -> Response {
    let rest = rest.map_or_else(|_| String::new(), |Path(rest)| rest);
    acted(app, &entry, &caller, request, experiments, move |visit: &Visit<Experiments>| {
        let Visit { keeper: experiments, who, body, .. } = visit;
        let unknown = || ApiError::route_not_found(&format!("/ops/v1/experiments/{rest}"));
        let (name, verb) = rest.split_once('/').ok_or_else(unknown)?;
        let why: Why = match body.as_slice() {
            [] => Why::default(),
            body => serde_json::from_slice(body).map_err(|error| ApiError::Json {
                param: "body".to_owned(),
                what: error.to_string(),
            })?,
        };
        let now_ms = now_ms();
        let done = experiments.act(|book| match verb {
            "promote" => {
                let forced = why.force.then(|| Forced { reason: why.reason.clone() });
                let gate = experiments.gate();
                book.promote(name, gate, forced.as_ref(), who, now_ms).map(Some)
            }
            "rollback" => book.rollback(name, &why.reason, who, now_ms).map(Some),
            "stop" => book.stop(name, &why.reason, who, now_ms).map(Some),
            _ => Ok(None),
        })?;
        Ok((StatusCode::OK, json!(done.ok_or_else(unknown)?)))
    })
    .await
}

fn experiments(app: &App) -> Result<Experiments, ApiError> {
    app.ops.experiments().cloned().ok_or_else(|| {
        let message = "this server keeps no experiments".to_owned();
        ApiError::Overridden(OverrideRefusal::Unknown { message })
    })
}
