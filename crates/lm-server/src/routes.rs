//! Which path goes where.
//!
//! It must never hold logic.
//!
//! Start reading at [`router`].

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{Method, StatusCode, Uri};
use axum::response::Response;
use axum::routing::{get, post};
use axum::{Extension, Router, middleware};
use lm_api::ApiError;

use crate::app::App;
use crate::auth::{Caller, authenticate};
use crate::headers::{cors, secure};
use crate::origin::guard;
use crate::request_log::{RequestEntry, track};
use crate::{
    adapters, again, body, costs, data_routes, dialects, edit, encoders, experiment_routes,
    generate, health, ingest_routes, loop_routes, metrics, model_ops, models, monitor_routes,
    ollama_models, openapi, override_routes, panel, reply, response_cache, texts,
};

/// Every route, as `GET /` lists them.
pub(crate) const ROUTES: &[&str] = &[
    "POST /v1/chat/completions",
    "POST /v1/completions",
    "POST /v1/responses",
    "POST /v1/responses/{id}/edit",
    "POST /v1/messages",
    "POST /v1/messages/count_tokens",
    "POST /v1/embeddings",
    "POST /v1/rerank",
    "POST /v2/rerank",
    "POST /v1/score",
    "POST /v1/classify",
    "POST /v1/feedback",
    "POST /tokenize",
    "POST /detokenize",
    "POST /apply-template",
    "POST /abort",
    "POST /api/chat",
    "POST /api/generate",
    "POST /api/embed",
    "POST /api/embeddings",
    "POST /api/show",
    "GET /api/tags",
    "GET /api/ps",
    "GET /api/version",
    "GET /v1/models",
    "GET /v1/models/{id}",
    "POST /v1/load_lora_adapter",
    "POST /v1/unload_lora_adapter",
    "GET /ops/v1/models",
    "POST /ops/v1/models/{name}/load",
    "POST /ops/v1/models/{name}/unload",
    "POST /ops/v1/models/{name}/reload",
    "GET /ops/v1/overrides",
    "POST /ops/v1/overrides",
    "GET /ops/v1/overrides/{id}",
    "POST /ops/v1/overrides/{verb}",
    "GET /v1/overrides/items/{id}",
    "POST /ops/v1/requests/{id}/replay",
    "GET /ops/v1/probes",
    "GET /ops/v1/monitors",
    "GET /ops/v1/monitors/audit",
    "GET /ops/v1/monitors/{model}/signals",
    "POST /ops/v1/monitors/{model}/forget",
    "GET /ops/v1/alerts",
    "POST /ops/v1/monitors/{model}/pause",
    "POST /ops/v1/monitors/{model}/resume",
    "GET /ops/v1/experiments",
    "POST /ops/v1/experiments",
    "GET /ops/v1/experiments/{name}",
    "POST /ops/v1/experiments/{verb}",
    "GET /ops/v1/ingest/{source}",
    "POST /ops/v1/ingest/{source}",
    "GET /ops/v1/datasets",
    "GET /ops/v1/datasets/{name}",
    "GET /ops/v1/datasets/{name}/diff",
    "GET /ops/v1/datasets/{name}/quarantine",
    "GET /ops/v1/datasets/{name}/coverage",
    "GET /ops/v1/failures",
    "GET /ops/v1/failures/{cluster}",
    "GET /ops/v1/fixes",
    "GET /ops/v1/learning",
    "POST /ops/v1/review/lease",
    "POST /ops/v1/review/verdict",
    "POST /ops/v1/review/undo",
    "POST /ops/v1/review/give-back",
    "GET /health",
    "GET /health/live",
    "GET /health/ready",
    "GET /metrics",
    "GET /version",
    "GET /v1/requests",
    "GET /v1/requests/{id}/page",
    "GET /v1/requests/{id}/timeline",
    "GET /ops/v1/now",
    "GET /ops/v1/now/stream",
    "GET /ops/v1/cost",
    "GET /ops/v1/charts/{name}",
    "GET /openapi.json",
    "GET /docs",
    "GET /panel/{file}",
    "GET /",
];

pub(crate) fn router(app: Arc<App>) -> Router {
    Router::new()
        .route("/v1/chat/completions", post(generate::chat))
        .route("/v1/completions", post(generate::completion))
        .route("/v1/responses", post(dialects::responses))
        .route("/v1/responses/{id}/edit", post(edit::edit))
        .route("/v1/messages", post(dialects::messages))
        .route("/v1/messages/count_tokens", post(dialects::count_tokens))
        .route("/api/chat", post(dialects::ollama_chat))
        .route("/api/generate", post(dialects::ollama_generate))
        .route("/v1/embeddings", post(encoders::embeddings))
        .route("/v1/rerank", post(encoders::rerank))
        .route("/v2/rerank", post(encoders::rerank))
        .route("/v1/score", post(encoders::score))
        .route("/v1/classify", post(encoders::classify))
        .route("/api/embed", post(encoders::ollama_embed))
        .route("/api/embeddings", post(encoders::ollama_embeddings))
        .route("/api/show", post(ollama_models::show))
        .route("/api/tags", get(ollama_models::tags))
        .route("/api/ps", get(ollama_models::ps))
        .route("/api/version", get(ollama_models::version))
        .route("/tokenize", post(texts::tokenize))
        .route("/detokenize", post(texts::detokenize))
        .route("/apply-template", post(texts::apply_template))
        .route("/abort", post(texts::abort))
        .route("/v1/feedback", post(feedback))
        .route("/v1/load_lora_adapter", post(adapters::load))
        .route("/v1/unload_lora_adapter", post(adapters::unload))
        .route("/v1/models", get(models::list))
        .route("/v1/models/{*id}", get(models::one))
        .route("/v1/overrides/items/{id}", get(override_routes::item))
        .route("/health", get(health::health))
        .route("/health/live", get(health::live))
        .route("/health/ready", get(health::health))
        .route("/metrics", get(metrics::metrics))
        .route("/version", get(models::version))
        .route("/v1/requests", get(panel::search))
        .route("/v1/requests/{id}/page", get(panel::one))
        .route("/v1/requests/{id}/timeline", get(panel::timeline))
        .route("/openapi.json", get(openapi::document))
        .route("/docs", get(openapi::docs))
        .route("/panel/{file}", get(panel::page_file))
        .route("/", get(panel::root))
        .merge(ops_routes())
        .fallback(no_route)
        .method_not_allowed_fallback(wrong_method)
        // The last layer is the outermost.
        .layer(middleware::from_fn(body::part))
        .layer(middleware::from_fn_with_state(Arc::clone(&app), authenticate))
        .layer(middleware::from_fn_with_state(Arc::clone(&app), cors))
        .layer(middleware::from_fn_with_state(Arc::clone(&app), guard))
        .layer(middleware::from_fn(reply::in_own_words))
        .layer(middleware::from_fn(secure))
        .layer(middleware::from_fn_with_state(Arc::clone(&app), track))
        .with_state(app)
}

/// What is for operators.
fn ops_routes() -> Router<Arc<App>> {
    Router::new()
        .route("/ops/v1/models", get(model_ops::list))
        .route("/ops/v1/models/{*rest}", post(model_ops::act))
        .route("/ops/v1/overrides", get(override_routes::list).post(override_routes::add))
        .route("/ops/v1/overrides/{*rest}", get(override_routes::show).post(override_routes::act))
        .route("/ops/v1/requests/{id}/replay", post(again::replay))
        .route("/ops/v1/probes", get(again::probes))
        .route("/ops/v1/monitors", get(monitor_routes::list))
        .route("/ops/v1/monitors/audit", get(monitor_routes::audit))
        .route("/ops/v1/monitors/{model}/signals", get(monitor_routes::signals))
        .route("/ops/v1/alerts", get(panel::alerts))
        .route("/ops/v1/monitors/{model}/{verb}", post(monitor_routes::act))
        .route("/ops/v1/experiments", get(experiment_routes::list).post(experiment_routes::start))
        .route(
            "/ops/v1/experiments/{*rest}",
            get(experiment_routes::show).post(experiment_routes::act),
        )
        .route("/ops/v1/ingest/{source}", get(ingest_routes::show).post(ingest_routes::take))
        .route("/ops/v1/now", get(panel::now))
        .route("/ops/v1/now/stream", get(panel::stream))
        .route("/ops/v1/cost", get(costs::cost))
        .route("/ops/v1/charts/{name}", get(panel::chart))
        .merge(feedback_routes())
}

/// Datasets, and the loop from failures to fixes.
fn feedback_routes() -> Router<Arc<App>> {
    Router::new()
        .route("/ops/v1/datasets", get(data_routes::list))
        .route("/ops/v1/datasets/{name}", get(data_routes::one))
        .route("/ops/v1/datasets/{name}/diff", get(data_routes::diff))
        .route("/ops/v1/datasets/{name}/quarantine", get(data_routes::quarantine))
        .route("/ops/v1/datasets/{name}/coverage", get(data_routes::coverage))
        .route("/ops/v1/failures", get(loop_routes::problems))
        .route("/ops/v1/failures/{cluster}", get(loop_routes::problem))
        .route("/ops/v1/fixes", get(loop_routes::fixes))
        .route("/ops/v1/learning", get(loop_routes::learning))
        .route("/ops/v1/review/lease", post(loop_routes::lease))
        .route("/ops/v1/review/verdict", post(loop_routes::verdict))
        .route("/ops/v1/review/undo", post(loop_routes::undo))
        .route("/ops/v1/review/give-back", post(loop_routes::give_back))
}

async fn feedback(
    State(app): State<Arc<App>>,
    Extension(entry): Extension<Arc<RequestEntry>>,
    Extension(caller): Extension<Caller>,
    request: Request,
) -> Response {
    let answer = async {
        entry.hold(app.admit(&caller)?);
        let (head, body) = request.into_parts();
        let (body, room) = body::read(&head.headers, body, &app).await?;
        entry.hold_body(room);
        let receipt = app.ops.feedback(&body, caller.sees(), app.config.strict).await?;
        response_cache::heed(&app, &receipt).await?;
        let body = serde_json::to_string(&receipt)
            .map_err(|error| ApiError::Internal { what: error.to_string() })?;
        Ok(reply::json(StatusCode::CREATED, body))
    };
    answer.await.unwrap_or_else(|error: ApiError| {
        entry.failed(&error);
        reply::error(&error)
    })
}

async fn no_route(request: Request) -> Response {
    reply::error(&ApiError::route_not_found(request.uri().path()))
}

async fn wrong_method(method: Method, uri: Uri) -> Response {
    reply::error(&ApiError::method_not_allowed(method.as_str(), uri.path()))
}
