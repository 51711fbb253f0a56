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
use lastmile::{Prompt, ReadAs, RequestId, Runtime, SamplingParams, TenantId, TokenId};
use lm_api::{ApiError, Parsed, Style};
use lm_ops::{Bundle, Recorded, ReplayError};
use serde_json::{Map, Value, json};

use crate::app::App;
use crate::auth::Caller;
use crate::edit_cut::Cut;
use crate::generate::{Call, off_thread, parse, parse_options};
use crate::intake::{Asked, take};
use crate::request_log::RequestEntry;
use crate::running::may_tell;
use crate::steer::Started;
use crate::{edit_feedback, panel, read_as, reply, response_cache, steer, streamed, whole};

/// An answer that has just ended is stored within this.
const STORED_WITHIN: Duration = Duration::from_millis(500);
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// What a body says of the edit; the rest of it is as of `/v1/completions`.
pub(crate) struct Edit {
    pub(crate) at: At,
    pub(crate) text: String,
    pub(crate) goes_on: bool,
    choice: u32,
    /// Whether the body says so, and not the answer.
    has_max_tokens: bool,
    has_stop: bool,
}

/// Where the change begins.
#[derive(Clone, Copy)]
pub(crate) enum At {
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
    /// It is no longer what the model said.
    is_other: bool,
    read_as: Arc<ReadAs>,
}

impl Edited {
    /// Whether what was edited may be told back to `tenant`, who came by `route`.
    fn may_be_told(
        &self,
        app: &App,
        tenant: TenantId,
        route: &'static str,
    ) -> Result<(), ApiError> {
        let mut asked = self.recorded.request.clone();
        (asked.tenant, asked.steering.route) = (tenant, route);
        asked.steering.read_as = Some(Arc::clone(&self.read_as));
        may_tell(app, &asked, &self.model, &self.text)
    }

    /// What a body asks for that goes on from the edit; what it does not say is as it was.
    fn goes_on(
        &self,
        app: &App,
        call: &Call,
        runtime: &Runtime,
        edit: &Edit,
    ) -> Result<Parsed, ApiError> {
        let defaults = &self.recorded.request.sampling;
        let options = parse_options(app, runtime, defaults, call.entry.id);
        let mut parsed = parse(call, &options)?;
        if !parsed.has_seed {
            (parsed.sampling.seed, parsed.has_seed) = (defaults.seed, true);
        }
        let mut stop = self.recorded.request.stop.clone();
        // What is left of what the answer could have.
        stop.max_tokens = match edit.has_max_tokens {
            true => parsed.stop.max_tokens,
            false => stop.max_tokens.map(|n| n.saturating_sub(self.n_kept as u32).max(1)),
        };
        if edit.has_stop {
            stop.stop_strings.clone_from(&parsed.stop.stop_strings);
        }
        stop.min_tokens = parsed.stop.min_tokens;
        stop.ignore_eos |= parsed.stop.ignore_eos;
        parsed.stop = stop;
        parsed.prompts = vec![Prompt::Tokens(self.tokens.clone())];
        Ok(parsed)
    }
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
        let (its, tenant, route) = (Arc::clone(&app), caller.tenant(), entry.route());
        let (edit, rest, edited) = off_thread(move || {
            let (edit, rest) = read(&body)?;
            let edited = edited(&its, id, sees, &edit)?;
            if !edit.goes_on {
                edited.may_be_told(&its, tenant, route)?;
            }
            Ok((edit, rest, edited))
        })
        .await?;
        if !edit.goes_on {
            return kept(&app, id, &caller, &edit, &edited).await;
        }
        if steer::asked_model(&app, Some(edited.model.clone()))?.as_ref() != Some(&edited.model) {
            let wanted = "an answer of the model that is pinned".to_owned();
            return Err(panel::invalid("id", &format!("an answer of {}", edited.model), wanted));
        }
        let runtime = loaded(&app, &edited.model)?;
        let read_as = Some(Arc::clone(&edited.read_as));
        let adapter = edited.recorded.request.adapter.clone();
        let changed = edited.is_other.then_some((edit.choice, edited.n_kept));
        let (style, by, caller) = (Style::Text, caller.sees(), caller.clone());
        let call = Call {
            entry: Arc::clone(&entry),
            caller,
            headers,
            body: rest,
            style,
            adapter,
            read_as,
        };
        let read = move |app: &App, call: &Call, runtime: &Runtime, _: &SamplingParams| {
            Ok((edited.goes_on(app, call, runtime, &edit)?, ()))
        };
        let started = steer::start(Arc::clone(&app), runtime, Duration::ZERO, call, read).await?.0;
        edit_feedback::tell(&app, &started, (id, by), changed);
        match started {
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
    response_cache::heed(app, &receipt).await?;
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
    if let Some(name) =
        ["prompt", "suffix", "model", "echo"].into_iter().find(|n| fields.contains_key(*n))
    {
        let wanted = "absent: an edit goes on with its answer's".to_owned();
        return Err(panel::invalid(name, &fields[name].to_string(), wanted));
    }
    if let (false, Some(name)) = (goes_on, fields.keys().next()) {
        let wanted = "absent where continue is false".to_owned();
        return Err(panel::invalid(name, &fields[name].to_string(), wanted));
    }
    let (has_max_tokens, has_stop) =
        (fields.contains_key("max_tokens"), fields.contains_key("stop"));
    // The tokens take its place.
    fields.insert("prompt".to_owned(), json!(""));
    let choice = u32::try_from(choice).unwrap_or(u32::MAX);
    let edit = Edit { at, text, goes_on, choice, has_max_tokens, has_stop };
    Ok((edit, Value::Object(fields).to_string().into_bytes()))
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
        other => panel::invalid("id", &id.to_string(), format!("an answer that was kept: {other}")),
    };
    let stored = wait_for(app, id, sees)?.ok_or(ApiError::RequestNotFound { id })?;
    let model = stored.model.clone();
    let bundle = Bundle::read(app.ops.reader(), id).map_err(refusal)?;
    if !bundle.answers.iter().any(|answer| answer.choice == edit.choice) {
        let wanted = format!("below {}, as the request has so many answers", bundle.answers.len());
        return Err(panel::invalid("choice", &edit.choice.to_string(), wanted));
    }
    let recorded = bundle.recorded(Some(edit.choice)).map_err(refusal)?.remove(0);
    let runtime = loaded(app, &model)?;
    if edit.goes_on && recorded.request.constraint.is_some() {
        let wanted = "an answer without response_format or tools, or continue: false".to_owned();
        return Err(panel::invalid("id", "an answer of a form that was asked for", wanted));
    }
    let cut = Cut::of(&runtime, &recorded.output_tokens, edit)?;
    let change = format!("{}{}", cut.rest, edit.text);
    let change = runtime
        .tokenize_continuing(&change)
        .map_err(|error| ApiError::Generate { error, prompt_param: "text" })?;
    let mut tokens = recorded.prompt_tokens.clone();
    tokens.extend_from_slice(&recorded.output_tokens[..cut.n_kept]);
    tokens.extend(change);
    let text = cut.text + &edit.text;
    let said: Vec<u8> = recorded
        .output_tokens
        .iter()
        .flat_map(|token| runtime.token_bytes(*token))
        .copied()
        .collect();
    let is_other = String::from_utf8_lossy(&said) != text;
    let read_as = read_as::of_edit(&runtime, &stored, &recorded, &edit.text, &text);
    Ok(Edited { recorded, model, tokens, n_kept: cut.n_kept, text, is_other, read_as })
}

/// A request of the store; one that has just ended may be on its way there.
fn wait_for(
    app: &App,
    id: RequestId,
    sees: Option<TenantId>,
) -> Result<Option<lm_ops::StoredRequest>, ApiError> {
    let began = Instant::now();
    loop {
        let found = app.ops.reader().request(id).map_err(|error| {
            tracing::error!(%error, "the store could not be read");
            ApiError::Internal { what: "the store could not be read".to_owned() }
        })?;
        // Another tenant's looks like one that is not there.
        let found = found.filter(|request| {
            sees.is_none_or(|tenant| request.tenant == lm_ops::tenant_text(tenant))
        });
        if found.is_some() || began.elapsed() > STORED_WITHIN {
            return Ok(found);
        }
        std::thread::sleep(LOOK_EVERY);
    }
}
