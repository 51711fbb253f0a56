//! `GET /ops/v1/charts/{name}`: a picture, its legend and its table as JSON.
//!
//! It must never draw what nobody asked for: pictures are made on request, in a millisecond.
//!
//! Start reading at [`chart`].

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::http::{StatusCode, Uri};
use axum::response::Response;
use lm_api::ApiError;
use lm_panel::{Picture, Width};

use super::params::{Params, invalid};
use super::unix_ms;
use crate::app::App;
use crate::reply;

/// How much is kept.
const MOST_MINUTES: u32 = 60;
const DEFAULT_WIDTH: u32 = 640;

pub(crate) async fn chart(
    State(app): State<Arc<App>>,
    Path(name): Path<String>,
    uri: Uri,
) -> Response {
    match drawn(&app, &name, &uri).await {
        Ok(picture) => reply::json(StatusCode::OK, text(&picture)),
        Err(error) => reply::error(&error),
    }
}

async fn drawn(app: &App, name: &str, uri: &Uri) -> Result<Picture, ApiError> {
    let mut params = Params::of(uri)?;
    let width = width(&mut params)?;
    let minutes = params.number("minutes", 1..=MOST_MINUTES)?.unwrap_or(15);
    let model = params.text("model")?;
    params.end()?;
    if name == "memory" {
        return Ok(lm_panel::memory(&*app.panel.newest().await, width));
    }
    let now_ms = unix_ms();
    let since_ms = now_ms - i64::from(minutes) * 60_000;
    let points = {
        let history = app.panel.history();
        let model = model.or_else(|| history.first().map(str::to_owned)).unwrap_or_default();
        let found = history.points(&model, since_ms);
        found.ok_or_else(|| invalid("model", &model, "a model that is served".to_owned()))?
    };
    lm_panel::chart::draw(name, &points, now_ms, minutes, width).ok_or_else(|| {
        let names: Vec<&str> = lm_panel::chart::names().chain(["memory"]).collect();
        invalid("chart", name, format!("one of {}", names.join(", ")))
    })
}

/// How wide pictures are to be, in CSS pixels.
pub(crate) fn width(params: &mut Params) -> Result<Width, ApiError> {
    let pixels = params.number("width", 0..=u32::MAX)?.unwrap_or(DEFAULT_WIDTH);
    Width::new(pixels).map_err(|error| {
        let found = error.found.to_string();
        invalid("width", &found, "a number from 240 to 1600".to_owned())
    })
}

fn text(picture: &Picture) -> String {
    serde_json::to_string(picture).expect("numbers and texts are JSON: this is a bug")
}
