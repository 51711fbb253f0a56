//! `POST /v1/chat/completions/{id}/edit`, `/v1/completions/{id}/edit` and `/v1/responses/{id}/edit`: an answer is changed at
//! one place and goes on from there, on the KV of what stays.
//!
//! An ordinary request: its prompt is what was asked before, and its answers begin with the tokens that stay and the text
//! that was put in.
//!
//! It must never find an answer of somebody else.
//!
//! Start reading at [`Edit::apply`].

use std::sync::Arc;

use axum::Extension;
use axum::extract::{Path, Request, State};
use axum::http::StatusCode;
use axum::response::Response;
use lastmile::{GenerateRequest, RequestId, Runtime, TokenId};
use lm_api::{ApiError, EditAt, EditRequest, Style, parse_edit};
use lm_ops::KeptAnswer;
use serde_json::json;

use crate::app::App;
use crate::auth::Caller;
use crate::generate::{self, Call, off_thread};
use crate::intake::{Asked, take};
use crate::request_log::RequestEntry;
use crate::{dialects, reply};

/// What is changed of which answer.
#[derive(Debug)]
pub(crate) struct Edit {
    asked: EditRequest,
    answer: Arc<KeptAnswer>,
}

/// What stays of an answer, and what is put in.
struct Beginning {
    text: String,
    tokens: Vec<TokenId>,
}

/// A handler of one API.
macro_rules! handler {
    ($name:ident, $style:expr) => {
        pub(crate) async fn $name(
            State(app): State<Arc<App>>,
            Extension(entry): Extension<Arc<RequestEntry>>,
            Extension(caller): Extension<Caller>,
            Path(id): Path<String>,
            request: Request,
        ) -> Response {
            respond(app, entry, caller, id, request, $style).await
        }
    };
}

handler!(chat, Some(Style::Chat));
handler!(completion, Some(Style::Text));
handler!(response, None);

async fn respond(
    app: Arc<App>,
    entry: Arc<RequestEntry>,
    caller: Caller,
    id: String,
    request: Request,
    style: Option<Style>,
) -> Response {
    let answer = async {
        let Asked { headers, body, .. } = take(&app, &entry, &caller, request).await?;
        let edit = find(&app, &caller, &id, &body)?;
        let runtime = app.models.resolve(Some(&edit.answer.model)).await?;
        if !edit.asked.continues {
            return off_thread(move || edit.only(&app, &runtime)).await;
        }
        let tools = edit.answer.request.dialog.tools.clone();
        let body = edit.asked.stand_in(style.is_none(), tools.as_deref(), style == Some(Style::Text));
        let call = Call {
            entry: Arc::clone(&entry),
            caller,
            headers,
            body,
            style: style.unwrap_or(Style::Chat),
            edit: Some(edit),
        };
        match style {
            Some(_) => generate::answered(app, runtime, call).await,
            None => dialects::answered(app, runtime, call).await,
        }
    };
    answer.await.unwrap_or_else(|error: ApiError| {
        entry.failed(&error);
        reply::error(&error)
    })
}

/// The answer that is to be changed.
fn find(app: &App, caller: &Caller, id: &str, body: &[u8]) -> Result<Edit, ApiError> {
    let asked = parse_edit(body, app.config.strict)?;
    let prefixes = ["chatcmpl-", "cmpl-", "resp_"];
    let bare = prefixes.iter().find_map(|prefix| id.strip_prefix(prefix)).unwrap_or(id);
    let wanted: RequestId = bare.parse().map_err(|_| ApiError::Invalid {
        param: "id".to_owned(),
        found: id.chars().take(80).collect(),
        wanted: "the id of a response or its x-request-id".to_owned(),
    })?;
    let found = app.ops.kept().and_then(|kept| kept.get(wanted, asked.choice));
    let is_own = |answer: &Arc<KeptAnswer>| {
        caller.sees().is_none_or(|tenant| tenant == answer.request.tenant)
    };
    let answer = found.filter(is_own).ok_or(ApiError::RequestNotFound { id: wanted })?;
    Ok(Edit { asked, answer })
}

impl Edit {
    /// Turns the one request of a stand-in into the one that goes on.
    pub(crate) fn apply(
        &self,
        request: &mut GenerateRequest,
        runtime: &Runtime,
    ) -> Result<(), ApiError> {
        let before = &self.answer.request;
        let beginning = self.beginning(runtime)?;
        request.prompt = before.prompt.clone();
        request.dialog = before.dialog.clone();
        request.constraint = before.constraint.clone();
        request.sampling = before.sampling.clone();
        request.sampling.seed = before.sampling.seed.wrapping_add(u64::from(self.answer.choice));
        request.sampling.logprobs = None;
        request.stop = before.stop.clone();
        let left = before.stop.max_tokens.map(|all| all.saturating_sub(beginning.tokens.len() as u32));
        request.stop.max_tokens = self.asked.max_tokens.or(left);
        request.stop.min_tokens = 0;
        request.steering.opening = beginning.text;
        request.steering.opening_tokens = Some(beginning.tokens);
        Ok(())
    }

    /// Answers with the changed text alone.
    fn only(&self, app: &App, runtime: &Runtime) -> Result<Response, ApiError> {
        let beginning = self.beginning(runtime)?;
        app.ops.note_edit(&self.answer, &beginning.text);
        let id = self.answer.request.id.to_string();
        let body = json!({ "id": id, "object": "edit", "text": beginning.text });
        Ok(reply::json(StatusCode::OK, body.to_string()))
    }

    /// The text and the tokens from which the answer goes on.
    fn beginning(&self, runtime: &Runtime) -> Result<Beginning, ApiError> {
        let refuse = |found: String, wanted: String| ApiError::Invalid {
            param: "at".to_owned(),
            found,
            wanted,
        };
        let text = &self.answer.text;
        let places = self.places(runtime)?;
        let (n_kept, cut) = match self.asked.at {
            EditAt::Token(n) => match places.get(n) {
                Some(&(end, true)) => (n, end),
                Some(_) => return Err(refuse(n.to_string(), "between two characters".to_owned())),
                None => {
                    let wanted = format!("at most {}, the answer's tokens", places.len() - 1);
                    return Err(refuse(n.to_string(), wanted));
                }
            },
            EditAt::Char(n) => {
                let n_chars = text.chars().count();
                let all = text.char_indices().map(|(at, _)| at).chain([text.len()]);
                let cut = all.into_iter().nth(n).ok_or_else(|| {
                    refuse(n.to_string(), format!("at most {n_chars}, the answer's characters"))
                })?;
                let fits = |&(end, is_whole): &(usize, bool)| is_whole && end <= cut;
                (places.iter().rposition(fits).unwrap_or(0), cut)
            }
        };
        let tokens = self.tokens(runtime)?;
        let kept_end = places[n_kept].0;
        // The rest of a token that the edit cuts is spelled together with what is put in.
        let new = format!("{}{}", &text[kept_end..cut], self.asked.text);
        let mut beginning =
            Beginning { text: format!("{}{}", &text[..cut], self.asked.text), tokens: tokens[..n_kept].to_vec() };
        if !new.is_empty() {
            let spelled = runtime.tokenize(&new, false);
            beginning.tokens.extend(spelled.map_err(|error| ApiError::Generate { error, prompt_param: "text" })?);
        }
        Ok(beginning)
    }

    /// The answer's tokens: as they were drawn where those spell its text, else as they would be read.
    fn tokens(&self, runtime: &Runtime) -> Result<Vec<TokenId>, ApiError> {
        let KeptAnswer { tokens, text, .. } = &*self.answer;
        let shown: Vec<TokenId> =
            tokens.iter().copied().filter(|&token| !runtime.ends_answer(token)).collect();
        let bytes: Vec<u8> =
            shown.iter().flat_map(|&token| runtime.token_bytes(token).to_vec()).collect();
        // An opening has no drawn tokens; a cut by a stop string leaves more tokens than text.
        let n_same = bytes.iter().zip(text.as_bytes()).take_while(|(a, b)| a == b).count();
        if n_same == text.len() {
            let mut n_bytes = 0;
            let fits = |token: &TokenId| {
                n_bytes += runtime.token_bytes(*token).len();
                n_bytes <= text.len()
            };
            return Ok(shown.iter().copied().take_while(fits).collect());
        }
        let read = runtime.tokenize(text, false);
        read.map_err(|error| ApiError::Generate { error, prompt_param: "text" })
    }

    /// The places before, between and after the tokens: the byte, and whether it lies between characters.
    fn places(&self, runtime: &Runtime) -> Result<Vec<(usize, bool)>, ApiError> {
        let text = &self.answer.text;
        let mut end = 0;
        let mut places = vec![(0, true)];
        for token in self.tokens(runtime)? {
            end = (end + runtime.token_bytes(token).len()).min(text.len());
            places.push((end, text.is_char_boundary(end)));
        }
        Ok(places)
    }
}
