//! `POST /v1/responses/{id}/edit`: an answer that its user changes, and that goes on from the change.
//!
//! What stays of the answer is in the prefix cache, so that only the change is computed; the continuation is what a fresh
//! request with the same tokens would get, bit for bit.
//!
//! It must never show an answer to whoever may not see it.
//!
//! Start reading at [`edit`].

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Extension;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, Request, State};
use axum::http::StatusCode;
use axum::response::Response;
use lastmile::{Prompt, RequestId, Runtime, SamplingParams, TenantId, TextOptions, TokenId};
use lm_api::{ApiError, Style};
use lm_ops::{Bundle, Recorded, ReplayError};
use serde_json::{Map, Value, json};

use crate::app::App;
use crate::auth::Caller;
use crate::generate::{Call, off_thread, parse};
use crate::intake::{Asked, take};
use crate::request_log::RequestEntry;
use crate::steer::Started;
use crate::{panel, reply, steer, streamed, whole};

/// An answer that has just ended is stored within this.
const STORED_WITHIN: Duration = Duration::from_secs(2);
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// What a body says of the edit; the rest of it is as of `/v1/completions`.
struct Edit {
    at: At,
    text: String,
    goes_on: bool,
    choice: u32,
}

/// Where the change begins.
#[derive(Clone, Copy)]
enum At {
    /// After so many tokens of the answer.
    Token(usize),
    /// After so many characters of it.
    Char(usize),
}

/// What stays, with the change, and what it was.
struct Edited {
    recorded: Recorded,
    model: String,
    /// The prompt's tokens and what stays of the answer's.
    tokens: Vec<TokenId>,
    n_kept: usize,
    /// What stays of the answer and the change.
    text: String,
}

pub(crate) async fn edit(
    State(app): State<Arc<App>>,
    Extension(entry): Extension<Arc<RequestEntry>>,
    Extension(caller): Extension<Caller>,
    id: Result<Path<String>, PathRejection>,
    request: Request,
) -> Response {
    let id = id.map_or_else(|_| String::new(), |Path(id)| id);
    let answer = async {
        let Asked { headers, body, .. } = take(&app, &entry, &caller, request).await?;
        let sees = panel::sees(&app, &caller)?;
        let id = panel::request_id(&id)?;
        let its = Arc::clone(&app);
        let (edit, rest, edited) = off_thread(move || {
            let (edit, rest) = read(&body)?;
            let edited = edited(&its, id, sees, &edit)?;
            Ok((edit, rest, edited))
        })
        .await?;
        if !edit.goes_on {
            return kept(&app, id, &caller, &edit, &edited).await;
        }
        let runtime = loaded(&app, &edited.model)?;
        let adapter = edited.recorded.request.adapter.clone();
        let (style, caller) = (Style::Text, caller.clone());
        let call = Call { entry: Arc::clone(&entry), caller, headers, body: rest, style, adapter };
        let read = move |app: &App, call: &Call, runtime: &Runtime, _: &SamplingParams| {
            let defaults = &edited.recorded.request.sampling;
            let mut parsed = parse(call, defaults, runtime.tool_format(), app.config.strict)?;
            let stop = &edited.recorded.request.stop;
            if !parsed.has_seed {
                (parsed.sampling.seed, parsed.has_seed) = (defaults.seed, true);
            }
            if parsed.stop.stop_strings.is_empty() {
                parsed.stop.stop_strings.clone_from(&stop.stop_strings);
            }
            parsed.prompts = vec![Prompt::Tokens(edited.tokens.clone())];
            Ok((parsed, ()))
        };
        match steer::start(Arc::clone(&app), runtime, Duration::ZERO, call, read).await?.0 {
            Started::Told(response) => Ok(response),
            Started::Running(running) if running.stream => {
                Ok(streamed::response(Arc::clone(&entry), *running))
            }
            Started::Running(running) => whole::response(&entry, *running).await,
        }
    };
    answer.await.unwrap_or_else(|error: ApiError| {
        entry.failed(&error);
        reply::error(&error)
    })
}

/// Keeps an edit that does not go on as what the answer should have been.
async fn kept(
    app: &App,
    id: RequestId,
    caller: &Caller,
    edit: &Edit,
    edited: &Edited,
) -> Result<Response, ApiError> {
    let said = json!({
        "request_id": id.to_string(), "choice": edit.choice, "correction": edited.text,
    });
    let receipt = app.ops.feedback(said.to_string().as_bytes(), caller.sees(), true).await?;
    let body = json!({
        "object": "response.edit",
        "request_id": id.to_string(),
        "choice": edit.choice,
        "at": edited.n_kept,
        "text": edited.text,
        "feedback_id": receipt.id,
    });
    Ok(reply::json(StatusCode::OK, body.to_string()))
}

fn loaded(app: &App, model: &str) -> Result<Arc<Runtime>, ApiError> {
    app.models.get(Some(model))?.ok_or_else(|| {
        let wanted = "an answer of a model that is loaded".to_owned();
        panel::invalid("id", &format!("an answer of {model}"), wanted)
    })
}

/// Takes what is said of the edit out of a body; what is left is a body of `/v1/completions`.
fn read(body: &[u8]) -> Result<(Edit, Vec<u8>), ApiError> {
    let mut fields: Map<String, Value> = serde_json::from_slice(body)
        .map_err(|error| ApiError::Json { param: "body".to_owned(), what: error.to_string() })?;
    let mut number = |name: &'static str| match fields.remove(name) {
        None => Ok(None),
        Some(value) => match value.as_u64().and_then(|n| usize::try_from(n).ok()) {
            Some(n) => Ok(Some(n)),
            None => {
                Err(panel::invalid(name, &value.to_string(), "a whole number from 0".to_owned()))
            }
        },
    };
    let choice = number("choice")?.unwrap_or(0);
    let at = match (number("at")?, number("at_char")?) {
        (Some(n), None) => At::Token(n),
        (None, Some(n)) => At::Char(n),
        (Some(n), Some(_)) => {
            let wanted = "absent where at_char is given".to_owned();
            return Err(panel::invalid("at", &n.to_string(), wanted));
        }
        (None, None) => {
            let wanted = "how many tokens of the answer stay, or at_char: how many characters";
            return Err(ApiError::Missing { param: "at".to_owned(), wanted });
        }
    };
    let text = match fields.remove("text") {
        Some(Value::String(text)) => text,
        None => String::new(),
        Some(other) => {
            return Err(panel::invalid("text", &other.to_string(), "a text".to_owned()));
        }
    };
    let goes_on = match fields.remove("continue") {
        None => true,
        Some(Value::Bool(goes_on)) => goes_on,
        Some(other) => {
            return Err(panel::invalid("continue", &other.to_string(), "true or false".to_owned()));
        }
    };
    if let Some(name) = ["prompt", "model", "echo"].into_iter().find(|n| fields.contains_key(*n)) {
        let wanted = "absent: an edit goes on with its answer's".to_owned();
        return Err(panel::invalid(name, &fields[name].to_string(), wanted));
    }
    // The tokens take its place.
    fields.insert("prompt".to_owned(), json!(""));
    let choice = u32::try_from(choice).unwrap_or(u32::MAX);
    Ok((Edit { at, text, goes_on, choice }, Value::Object(fields).to_string().into_bytes()))
}

/// The answer as far as it stays, with the change behind it.
fn edited(
    app: &App,
    id: RequestId,
    sees: Option<TenantId>,
    edit: &Edit,
) -> Result<Edited, ApiError> {
    let refusal = |error: ReplayError| match error {
        ReplayError::NotStored { .. } => ApiError::RequestNotFound { id },
        ReplayError::NoChoice { choice, .. } => {
            panel::invalid("choice", &choice.to_string(), "one of the request's answers".to_owned())
        }
        other => panel::invalid("id", &id.to_string(), format!("an answer that was kept: {other}")),
    };
    let stored = wait_for(app, id)?;
    let stored = stored
        .filter(|request| sees.is_none_or(|tenant| request.tenant == lm_ops::tenant_text(tenant)));
    let model = stored.ok_or(ApiError::RequestNotFound { id })?.model;
    let bundle = Bundle::read(app.ops.reader(), id).map_err(refusal)?;
    let recorded = bundle.recorded(Some(edit.choice)).map_err(refusal)?.remove(0);
    let runtime = loaded(app, &model)?;
    if edit.goes_on && recorded.request.constraint.is_some() {
        let wanted = "an answer without response_format or tools, or continue: false".to_owned();
        return Err(panel::invalid("id", "an answer of a form that was asked for", wanted));
    }
    let (n_kept, mut text) = kept_part(&runtime, &recorded.output_tokens, edit.at)?;
    text.push_str(&edit.text);
    let kept_text = runtime
        .detokenize(&recorded.output_tokens[..n_kept])
        .map_err(|error| ApiError::Generate { error, prompt_param: "id" })?;
    // Characters of a token that is cut are a part of the change.
    let change = text.strip_prefix(&kept_text).unwrap_or(&edit.text);
    let plain = TextOptions { add_special: false, parse_special: false };
    let change = runtime
        .tokenize_as(change, plain)
        .map_err(|error| ApiError::Generate { error, prompt_param: "text" })?;
    let mut tokens = recorded.prompt_tokens.clone();
    tokens.extend_from_slice(&recorded.output_tokens[..n_kept]);
    tokens.extend(change);
    Ok(Edited { recorded, model, tokens, n_kept, text })
}

/// A request of the store; one that has just ended may be on its way there.
fn wait_for(app: &App, id: RequestId) -> Result<Option<lm_ops::StoredRequest>, ApiError> {
    let began = Instant::now();
    loop {
        let found = app.ops.reader().request(id).map_err(|error| {
            tracing::error!(%error, "the store could not be read");
            ApiError::Internal { what: "the store could not be read".to_owned() }
        })?;
        if found.is_some() || began.elapsed() > STORED_WITHIN {
            return Ok(found);
        }
        std::thread::sleep(LOOK_EVERY);
    }
}

/// How many tokens stay, and the text up to the change.
fn kept_part(runtime: &Runtime, tokens: &[TokenId], at: At) -> Result<(usize, String), ApiError> {
    // What ended the answer is no part of its text.
    let n_text = tokens.len()
        - tokens.iter().rev().take_while(|t| runtime.token_bytes(**t).is_empty()).count();
    let bytes = |n: usize| -> Vec<u8> {
        tokens[..n].iter().flat_map(|token| runtime.token_bytes(*token)).copied().collect()
    };
    let text = |n: usize| String::from_utf8_lossy(&bytes(n)).into_owned();
    match at {
        At::Token(n) if n > n_text => {
            let wanted = format!("at most the answer's {n_text} tokens");
            Err(panel::invalid("at", &n.to_string(), wanted))
        }
        At::Token(n) => Ok((n, text(n))),
        At::Char(n) => {
            let whole = text(n_text);
            let Some(end) = whole.char_indices().map(|(i, _)| i).chain([whole.len()]).nth(n) else {
                let wanted = format!("at most the answer's {} characters", whole.chars().count());
                return Err(panel::invalid("at_char", &n.to_string(), wanted));
            };
            let mut n_bytes = 0;
            let fits = |token: &&TokenId| {
                n_bytes += runtime.token_bytes(**token).len();
                n_bytes <= end
            };
            let n_kept = tokens[..n_text].iter().take_while(fits).count();
            Ok((n_kept, whole[..end].to_owned()))
        }
    }
}
