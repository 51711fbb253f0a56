//! `/tokenize`, `/detokenize`, `/apply-template` and `/abort`.
//!
//! It must never touch the engine but to end an answer.
//!
//! Start reading at [`tokenize`].

use std::sync::Arc;

use axum::Extension;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::Response;
use lastmile::{GenerateError, Prompt, Runtime};
use lm_api::{
    ApiError, ParseOptions, parse_abort, parse_detokenize, parse_template, parse_tokenize,
};
use serde_json::{Value, json};

use crate::app::App;
use crate::auth::Caller;
use crate::generate::{off_thread, parse_options};
use crate::intake::{Asked, take};
use crate::reply;
use crate::request_log::RequestEntry;

pub(crate) async fn tokenize(
    State(app): State<Arc<App>>,
    Extension(entry): Extension<Arc<RequestEntry>>,
    Extension(caller): Extension<Caller>,
    request: Request,
) -> Response {
    respond(app, entry, caller, request, |body, runtime, options| {
        let text = parse_tokenize(body, options)?;
        let tokens = runtime.prompt_tokens(&text.prompt, text.how, &text.dialog);
        let tokens = tokens.map_err(refused)?;
        let texts = text.wants_texts.then(|| {
            tokens.iter().map(|&token| runtime.token_text(token)).collect::<Vec<String>>()
        });
        let body = json!({
            "count": tokens.len(),
            "max_model_len": runtime.info().backend.max_model_len,
            "tokens": tokens,
            "token_strs": texts,
        });
        Ok(warned(body, &text.warnings))
    })
    .await
}

pub(crate) async fn detokenize(
    State(app): State<Arc<App>>,
    Extension(entry): Extension<Arc<RequestEntry>>,
    Extension(caller): Extension<Caller>,
    request: Request,
) -> Response {
    respond(app, entry, caller, request, |body, runtime, options| {
        let (tokens, warnings) = parse_detokenize(body, options.strict)?;
        let prompt = runtime
            .detokenize(&tokens)
            .map_err(|error| ApiError::Generate { error, prompt_param: "tokens" })?;
        Ok(warned(json!({ "prompt": prompt }), &warnings))
    })
    .await
}

pub(crate) async fn apply_template(
    State(app): State<Arc<App>>,
    Extension(entry): Extension<Arc<RequestEntry>>,
    Extension(caller): Extension<Caller>,
    request: Request,
) -> Response {
    respond(app, entry, caller, request, |body, runtime, options| {
        let text = parse_template(body, options)?;
        let messages = match &text.prompt {
            Prompt::Chat(messages) => messages.as_slice(),
            _ => &[],
        };
        let prompt = runtime.apply_template(messages, &text.dialog).map_err(refused)?;
        Ok(warned(json!({ "prompt": prompt }), &text.warnings))
    })
    .await
}

/// Ends answers that run, by the ids of their requests.
pub(crate) async fn abort(
    State(app): State<Arc<App>>,
    Extension(entry): Extension<Arc<RequestEntry>>,
    Extension(caller): Extension<Caller>,
    request: Request,
) -> Response {
    let answer = async {
        let Asked { body, .. } = take(&app, &entry, &caller, request).await?;
        let tenant = caller.tenant();
        // No model is asked for: one that is not loaded has nothing to end.
        let body = off_thread(move || {
            let (asked, warnings) = parse_abort(&body, app.config.strict)?;
            let found = asked.iter().filter(|id| app.aborts.abort(tenant, **id)).count();
            match asked.first() {
                Some(id) if found == 0 => Err(ApiError::NotRunning { id: id.to_string() }),
                _ => Ok(warned(json!({ "aborted": found }), &warnings)),
            }
        })
        .await?;
        Ok(reply::json(StatusCode::OK, body.to_string()))
    };
    or_refused(answer.await, &entry)
}

async fn respond(
    app: Arc<App>,
    entry: Arc<RequestEntry>,
    caller: Caller,
    request: Request,
    work: impl FnOnce(&[u8], &Runtime, &ParseOptions<'_>) -> Result<Value, ApiError> + Send + 'static,
) -> Response {
    let answer = async {
        let Asked { body, model, .. } = take(&app, &entry, &caller, request).await?;
        let runtime = app.models.resolve(model.as_deref()).await?;
        let id = entry.id;
        let body = off_thread(move || {
            let defaults = runtime.default_sampling();
            work(&body, &runtime, &parse_options(&app, &runtime, &defaults, id))
        })
        .await?;
        Ok(reply::json(StatusCode::OK, body.to_string()))
    };
    or_refused(answer.await, &entry)
}

fn or_refused(answer: Result<Response, ApiError>, entry: &RequestEntry) -> Response {
    answer.unwrap_or_else(|error| {
        entry.failed(&error);
        reply::error(&error)
    })
}

/// With what was ignored, if anything was.
pub(crate) fn warned(mut body: Value, warnings: &[String]) -> Value {
    if !warnings.is_empty() {
        body["warnings"] = json!(warnings);
    }
    body
}

fn refused(error: GenerateError) -> ApiError {
    ApiError::Generate { error, prompt_param: "prompt" }
}
