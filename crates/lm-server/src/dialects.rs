//! The routes of other APIs: Responses, Anthropic's Messages, Ollama's chat and generate.
//!
//! It must never know their JSON; `lm-api` does.
//!
//! Start reading at [`respond`].

use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant, SystemTime};

use axum::Extension;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::Response;
use futures_util::StreamExt;
use lastmile::{
    AnswerPart, AnswerReader, FinishReason, GenerateError, GenerateEvent, RequestId, Runtime,
    SamplingParams,
};
use lm_api::{
    ApiError, Dialect, DialectHead, Ending, Frame, Framing, ParseOptions, Parsed, Style,
    parse_messages, parse_ollama_chat, parse_ollama_generate, parse_ollama_load, parse_responses,
};
use serde_json::json;

use crate::app::App;
use crate::auth::Caller;
use crate::ended_by::StopTail;
use crate::event_body::{Told, events, lines, push_event};
use crate::generate::{Call, off_thread, parse_options, refused, with_headers};
use crate::intake::{Asked, take};
use crate::request_log::RequestEntry;
use crate::running::Running;
use crate::steer::{Started, asked_model};
use crate::texts::warned;
use crate::{reply, steer};

/// One of the APIs.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Api {
    Responses,
    Messages,
    OllamaChat,
    OllamaGenerate,
}

impl Api {
    fn parse(
        self,
        body: &[u8],
        options: &ParseOptions<'_>,
    ) -> Result<(Parsed, Box<dyn Dialect>), ApiError> {
        match self {
            Api::Responses => parse_responses(body, options),
            Api::Messages => parse_messages(body, false, options),
            Api::OllamaChat => parse_ollama_chat(body, options),
            Api::OllamaGenerate => parse_ollama_generate(body, options),
        }
    }
}

/// A handler of one API.
macro_rules! handler {
    ($name:ident, $api:expr) => {
        pub(crate) async fn $name(
            State(app): State<Arc<App>>,
            Extension(entry): Extension<Arc<RequestEntry>>,
            Extension(caller): Extension<Caller>,
            request: Request,
        ) -> Response {
            respond(app, entry, caller, request, $api).await
        }
    };
}

handler!(responses, Api::Responses);
handler!(messages, Api::Messages);
handler!(ollama_chat, Api::OllamaChat);
handler!(ollama_generate, Api::OllamaGenerate);

/// `POST /v1/messages/count_tokens`: the tokens of a prompt that is not answered.
pub(crate) async fn count_tokens(
    State(app): State<Arc<App>>,
    Extension(entry): Extension<Arc<RequestEntry>>,
    Extension(caller): Extension<Caller>,
    request: Request,
) -> Response {
    let answer = async {
        let Asked { body, model, .. } = take(&app, &entry, &caller, request).await?;
        let runtime = app.models.resolve(model.as_deref()).await?;
        let id = entry.id;
        let body = off_thread(move || {
            let defaults = runtime.default_sampling();
            let options = parse_options(&app, &runtime, &defaults, id);
            let (parsed, _) = parse_messages(&body, true, &options)?;
            let prompt = parsed.prompts.first();
            let tokens =
                prompt.map(|prompt| runtime.prompt_tokens(prompt, parsed.text, &parsed.dialog));
            let tokens = tokens.transpose().map_err(|error| refused(error, Style::Chat))?;
            let body = json!({ "input_tokens": tokens.unwrap_or_default().len() });
            Ok(warned(body, &parsed.warnings))
        })
        .await?;
        Ok(reply::json(StatusCode::OK, body.to_string()))
    };
    answer.await.unwrap_or_else(|error: ApiError| {
        entry.failed(&error);
        reply::error(&error)
    })
}

async fn respond(
    app: Arc<App>,
    entry: Arc<RequestEntry>,
    caller: Caller,
    request: Request,
    api: Api,
) -> Response {
    let answer = async {
        let Asked { headers, body, mut model } = take(&app, &entry, &caller, request).await?;
        if matches!(api, Api::OllamaChat | Api::OllamaGenerate) {
            // The usual tag of Ollama's clients says nothing.
            model = model.map(|name| name.trim_end_matches(":latest").to_owned());
        }
        let model = asked_model(&app, model)?;
        let began = Instant::now();
        let runtime = app.models.resolve(model.as_deref()).await?;
        let waited = began.elapsed();
        let (body, loaded) = load_only(&app, &runtime, entry.id, body, api, waited).await?;
        if let Some(loaded) = loaded {
            return Ok(reply::json(StatusCode::OK, loaded));
        }
        let style = Style::Chat;
        let adapter = app.models.adapter_name(model.as_deref());
        let call = Call {
            entry: Arc::clone(&entry),
            caller,
            headers,
            body,
            style,
            adapter,
            read_as: None,
        };
        let read = move |app: &App, call: &Call, runtime: &Runtime, defaults: &SamplingParams| {
            let options = parse_options(app, runtime, defaults, call.entry.id);
            let (mut parsed, dialect) = api.parse(&call.body, &options)?;
            with_headers(&mut parsed, &call.headers)?;
            Ok((parsed, dialect))
        };
        let (started, dialect) =
            steer::start(Arc::clone(&app), runtime, waited, call, read).await?;
        let transcript = match started {
            Started::Told(response) => return Ok(response),
            Started::Running(running) => {
                Transcript::new(*running, dialect, Arc::clone(&entry), waited)
            }
        };
        if transcript.running.stream {
            return Ok(transcript.streamed());
        }
        transcript.whole().await
    };
    answer.await.unwrap_or_else(|error: ApiError| {
        entry.failed(&error);
        reply::error(&error)
    })
}

/// The answer to a body of Ollama's that asks for a loaded model and nothing else; with the body.
async fn load_only(
    app: &Arc<App>,
    runtime: &Arc<Runtime>,
    id: RequestId,
    body: Vec<u8>,
    api: Api,
    took: Duration,
) -> Result<(Vec<u8>, Option<String>), ApiError> {
    let is_chat = match api {
        Api::OllamaChat => true,
        Api::OllamaGenerate => false,
        Api::Responses | Api::Messages => return Ok((body, None)),
    };
    let (app, runtime) = (Arc::clone(app), Arc::clone(runtime));
    off_thread(move || {
        let defaults = runtime.default_sampling();
        let load =
            parse_ollama_load(&body, is_chat, &parse_options(&app, &runtime, &defaults, id))?;
        let json = load.map(|load| load.to_json(&runtime.info().name, took));
        Ok((body, json))
    })
    .await
}

/// One answer on its way.
struct Transcript {
    running: Running,
    dialect: Box<dyn Dialect>,
    head: DialectHead,
    entry: Arc<RequestEntry>,
    /// Reads reasoning and calls of tools, when there may be any.
    reader: Option<AnswerReader>,
    stops: StopTail,
    /// What was not sent yet.
    pending: Vec<u8>,
    is_over: bool,
}

impl Transcript {
    fn new(
        running: Running,
        dialect: Box<dyn Dialect>,
        entry: Arc<RequestEntry>,
        load: Duration,
    ) -> Self {
        let head = DialectHead {
            id: entry.id.to_string(),
            model: running.head.model.clone(),
            created: SystemTime::now(),
            load,
            prompt_tokens: u32::try_from(running.n_prompt).unwrap_or(u32::MAX),
            warnings: running.head.warnings.clone(),
        };
        Transcript {
            reader: running.answer_reader(0),
            running,
            dialect,
            head,
            entry,
            stops: StopTail::default(),
            pending: Vec::new(),
            is_over: false,
        }
    }

    /// Takes in what the engine says next. The end, once it is there.
    fn poll_advance(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Result<Option<Ending>, ApiError>> {
        Poll::Ready(match ready!(self.running.events.poll_next_unpin(context)) {
            Some((_, GenerateEvent::Prompt { .. })) => Ok(None),
            Some((_, GenerateEvent::Delta { text, tokens, .. })) => {
                self.stops.take(&self.running, &tokens);
                let parts = match &mut self.reader {
                    Some(reader) => reader.push(&text),
                    None if text.is_empty() => Vec::new(),
                    None => vec![AnswerPart::Text(text)],
                };
                self.tell(parts);
                self.running.is_cut(0, self.reader.as_ref());
                Ok(None)
            }
            Some((_, GenerateEvent::Finished(mut finish))) => {
                let last = self.reader.as_mut().map(AnswerReader::finish);
                self.tell(last.unwrap_or_default());
                self.running.settle(0, self.reader.as_ref(), &mut finish);
                self.entry.used(finish.usage);
                if finish.reason == FinishReason::Abort && !self.dialect.tells_aborts() {
                    let n_generated = finish.usage.completion_tokens;
                    return Poll::Ready(Err(ApiError::Aborted { n_generated }));
                }
                Ok(Some(Ending {
                    reason: finish.reason,
                    stop_string: self.stops.ended(&self.running, finish.reason).map(str::to_owned),
                    usage: finish.usage,
                    timings: finish.timings,
                }))
            }
            Some((_, GenerateEvent::Failed(error))) => Err(refused(error, Style::Chat)),
            None => Err(refused(GenerateError::ShuttingDown, Style::Chat)),
        })
    }

    fn tell(&mut self, parts: Vec<AnswerPart>) {
        for part in parts {
            let call = match &part {
                AnswerPart::Reasoning(_) | AnswerPart::Text(_) => 0,
                AnswerPart::CallBegins { index, .. } | AnswerPart::Arguments { index, .. } => {
                    *index
                }
            };
            let id = self.running.call_id(0, call);
            let frames = self.dialect.part(&self.head, &part, &id);
            self.push(frames);
        }
    }

    fn push(&mut self, frames: impl IntoIterator<Item = Frame>) {
        for Frame { event, data } in frames {
            match self.dialect.framing() {
                Framing::Events => push_event(&mut self.pending, event, &data),
                Framing::Lines => {
                    self.pending.extend_from_slice(data.as_bytes());
                    self.pending.push(b'\n');
                }
            }
        }
    }

    async fn whole(mut self) -> Result<Response, ApiError> {
        loop {
            let ending = poll_fn(|context| self.poll_advance(context)).await?;
            self.pending.clear();
            if let Some(ending) = ending {
                self.is_over = true;
                return Ok(reply::json(StatusCode::OK, self.dialect.whole(&self.head, &ending)));
            }
        }
    }

    fn streamed(mut self) -> Response {
        let opening = self.dialect.begin(&self.head);
        self.push(opening);
        match self.dialect.framing() {
            Framing::Events => events(self),
            Framing::Lines => lines(self),
        }
    }
}

impl Told for Transcript {
    fn poll_bytes(&mut self, context: &mut Context<'_>) -> Poll<Option<Vec<u8>>> {
        while self.pending.is_empty() && !self.is_over {
            match ready!(self.poll_advance(context)) {
                Ok(None) => {}
                Ok(Some(ending)) => {
                    let last = self.dialect.end(&self.head, &ending);
                    self.push(last);
                    self.is_over = true;
                }
                Err(error) => {
                    self.entry.failed(&error);
                    let last = self.dialect.failed(&error);
                    self.push([last]);
                    self.is_over = true;
                }
            }
        }
        let bytes = std::mem::take(&mut self.pending);
        Poll::Ready((!bytes.is_empty()).then_some(bytes))
    }
}

impl Drop for Transcript {
    fn drop(&mut self) {
        if !self.is_over || !self.pending.is_empty() {
            self.entry.client_left();
        }
    }
}
