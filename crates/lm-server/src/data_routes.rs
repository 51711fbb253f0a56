//! `GET /ops/v1/datasets…`: versions, what differs between two, quarantine and coverage.
//!
//! It must never show rows to a whole network, nor read a file on a thread that serves.
//!
//! Start reading at [`one`].

use std::sync::Arc;

use axum::Extension;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::Uri;
use axum::response::Response;
use lm_api::{ApiError, OpsRefusal};
use lm_ops::{CoverageView, DatasetPage, Datasets, VersionView, Wanted};
use lm_panel::{BarGroup, Bars, Picture, Width};
use serde_json::json;

use crate::app::App;
use crate::auth::Caller;
use crate::panel::{invalid, width};
use crate::visit::{Shown, looked};

const MAX_DATASETS: usize = 100;
const DEFAULT_DATASETS: usize = 50;
const MAX_VERSIONS: usize = 50;
const DEFAULT_VERSIONS: usize = 12;
const MAX_ROWS: usize = 50;
const DEFAULT_ROWS: usize = 10;
/// Columns whose values are strata.
const MAX_COLUMNS: usize = 3;
/// Strata and rules that pictures show.
const N_DRAWN: usize = 15;

type Name = Result<Path<String>, PathRejection>;

/// `GET /ops/v1/datasets`.
pub(crate) async fn list(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Caller>,
    uri: Uri,
) -> Response {
    looked(&app, &caller, &uri, datasets, |params| {
        let after = params.text("after")?;
        let limit = params.number("limit", 1..=MAX_DATASETS)?.unwrap_or(DEFAULT_DATASETS);
        Ok(move |datasets: Datasets| -> Shown {
            // One more says whether there is a next page.
            let mut data = datasets.list(after.as_deref(), limit + 1)?;
            let is_more = data.len() > limit;
            data.truncate(limit);
            let next = data.last().filter(|_| is_more).map(|last| last.name.clone());
            Ok(json!({ "data": data, "next": next }))
        })
    })
    .await
}

/// `GET /ops/v1/datasets/{name}`: its versions, newest first, and pictures of them.
pub(crate) async fn one(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Caller>,
    name: Name,
    uri: Uri,
) -> Response {
    let name = text(name);
    looked(&app, &caller, &uri, datasets, |params| {
        let before = params.number("before", 0..=u64::MAX)?;
        let limit = params.number("limit", 1..=MAX_VERSIONS)?.unwrap_or(DEFAULT_VERSIONS);
        let width = width(params)?;
        Ok(move |datasets: Datasets| -> Shown {
            let page = datasets.page(&name, before, limit)?;
            let pictures = json!({
                "versions": versions_picture(&page, width),
                "rules": rules_picture(page.versions.first(), width),
            });
            let mut body = json!(page);
            body["pictures"] = pictures;
            Ok(body)
        })
    })
    .await
}

/// `GET /ops/v1/datasets/{name}/diff`.
pub(crate) async fn diff(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Caller>,
    name: Name,
    uri: Uri,
) -> Response {
    let name = text(name);
    looked(&app, &caller, &uri, datasets, |params| {
        let (from, to) = (params.text("from")?, params.text("to")?);
        Ok(move |datasets: Datasets| -> Shown {
            Ok(json!(datasets.diff(&name, from.as_deref(), to.as_deref())?))
        })
    })
    .await
}

/// `GET /ops/v1/datasets/{name}/quarantine`.
pub(crate) async fn quarantine(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Caller>,
    name: Name,
    uri: Uri,
) -> Response {
    let name = text(name);
    looked(&app, &caller, &uri, datasets, |params| {
        let unpublished = params.text("unpublished")?;
        let unpublished = match unpublished.as_deref() {
            None | Some("false") => false,
            Some("true") => true,
            Some(other) => return Err(invalid("unpublished", other, "true or false".to_owned())),
        };
        let wanted = Wanted {
            version: params.text("version")?,
            unpublished,
            rule: params.text("rule")?,
            from: params.number("from", 0..=u64::MAX)?.unwrap_or(0),
            limit: params.number("limit", 1..=MAX_ROWS)?.unwrap_or(DEFAULT_ROWS),
        };
        Ok(move |datasets: Datasets| -> Shown { Ok(json!(datasets.quarantine(&name, &wanted)?)) })
    })
    .await
}

/// `GET /ops/v1/datasets/{name}/coverage`.
pub(crate) async fn coverage(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Caller>,
    name: Name,
    uri: Uri,
) -> Response {
    let name = text(name);
    looked(&app, &caller, &uri, datasets, |params| {
        let by = params.text("by")?.unwrap_or_default();
        let columns: Vec<String> = by
            .split(',')
            .map(|column| column.trim().to_owned())
            .filter(|c| !c.is_empty())
            .collect();
        if columns.len() > MAX_COLUMNS {
            let found = format!("{} columns", columns.len());
            return Err(invalid("by", &found, format!("at most {MAX_COLUMNS}")));
        }
        let traffic = params.text("traffic")?;
        let width = width(params)?;
        Ok(move |datasets: Datasets| -> Shown {
            let found = datasets.coverage(&name, &columns, traffic.as_deref())?;
            let picture = coverage_picture(&found, traffic.is_some(), width);
            let mut body = json!(found);
            body["picture"] = json!(picture);
            Ok(body)
        })
    })
    .await
}

fn datasets(app: &App) -> Result<Datasets, ApiError> {
    app.ops.datasets().cloned().ok_or_else(|| {
        let message = "this server shows no datasets".to_owned();
        ApiError::Ops(OpsRefusal::Unknown { message })
    })
}

/// A name that is no text is no dataset's.
fn text(name: Name) -> String {
    name.map_or_else(|_| String::new(), |Path(name)| name)
}

fn versions_picture(page: &DatasetPage, width: Width) -> Picture {
    let group = |version: &VersionView| BarGroup {
        name: version.version.chars().take(12).collect(),
        values: vec![Some(version.rows_published as f64), Some(version.rows_quarantined as f64)],
    };
    Bars {
        title: "Rows of versions, newest first".to_owned(),
        of: "version",
        unit: "",
        series: vec!["published", "in quarantine"],
        groups: page.versions.iter().map(group).collect(),
    }
    .draw(width)
}

/// Rules by how many rows of the newest version broke them.
fn rules_picture(newest: Option<&VersionView>, width: Width) -> Picture {
    let mut rules: Vec<(&String, &u64)> = newest.into_iter().flat_map(|one| &one.by_rule).collect();
    rules.sort_by(|a, b| b.1.cmp(a.1).then_with(|| a.0.cmp(b.0)));
    let group =
        |(rule, n): (&String, &u64)| BarGroup { name: rule.clone(), values: vec![Some(*n as f64)] };
    Bars {
        title: "Rows in quarantine by rule".to_owned(),
        of: "rule",
        unit: "",
        series: vec!["rows"],
        groups: rules.into_iter().take(N_DRAWN).map(group).collect(),
    }
    .draw(width)
}

fn coverage_picture(found: &CoverageView, is_compared: bool, width: Width) -> Picture {
    let groups = found.strata.iter().take(N_DRAWN).map(|stratum| {
        let mut values = vec![Some(100.0 * stratum.share)];
        if is_compared {
            values.push(Some(100.0 * stratum.traffic_share));
        }
        let lacking = if stratum.lacking { "lacking: " } else { "" };
        BarGroup { name: format!("{lacking}{}", stratum.values.join(", ")), values }
    });
    let mut series = vec!["this dataset"];
    if is_compared {
        series.push("the traffic");
    }
    Bars {
        title: "Share of rows".to_owned(),
        of: "stratum",
        unit: " %",
        series,
        groups: groups.collect(),
    }
    .draw(width)
}
