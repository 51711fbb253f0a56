//! `POST /v1/chat/completions` and `POST /v1/completions`: from a body to running answers.
//!
//! It must never block a worker of the async runtime: parsing and tokenising run on a blocking
//! thread.
//!
//! Start reading at [`chat`]; a streamed response goes on in `streamed`, a whole one in `whole`.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use axum::Extension;
use axum::extract::{Request, State};
use axum::http::HeaderMap;
use axum::response::Response;
use lastmile::{
    GenerateError, GenerateRequest, Prompt, ReadAs, RequestId, Runtime, SamplingParams, Thinking,
    TokenId, TokenLogprobs, ToolFormat,
};
use lm_api::{
    ApiError, Head, LogprobEntry, ParseOptions, Parsed, Style, TextOffset, TokenName, Urgency,
    parse_chat, parse_completion,
};

use crate::answers::Answers;
use crate::app::{App, mint_id, unix_seconds};
use crate::auth::Caller;
use crate::intake::{Asked, take};
use crate::lease::{Lease, estimated};
use crate::registry::LOAD_WAIT;
use crate::request_log::RequestEntry;
use crate::response_cache::of_engine;
use crate::running::{Running, Screening};
use crate::steer::{Started, asked_model};
use crate::{read_as, reply, steer, streamed, whole};

pub(crate) async fn chat(
    State(app): State<Arc<App>>,
    Extension(entry): Extension<Arc<RequestEntry>>,
    Extension(caller): Extension<Caller>,
    request: Request,
) -> Response {
    respond(app, entry, caller, request, Style::Chat).await
}

pub(crate) async fn completion(
    State(app): State<Arc<App>>,
    Extension(entry): Extension<Arc<RequestEntry>>,
    Extension(caller): Extension<Caller>,
    request: Request,
) -> Response {
    respond(app, entry, caller, request, Style::Text).await
}

async fn respond(
    app: Arc<App>,
    entry: Arc<RequestEntry>,
    caller: Caller,
    request: Request,
    style: Style,
) -> Response {
    let answer = async {
        let Asked { headers, body, model } = take(&app, &entry, &caller, request).await?;
        let model = asked_model(&app, model)?;
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
        let (call, runtime, waited) = model_for(&app, call, model).await?;
        let read = |app: &App, call: &Call, runtime: &Runtime, defaults: &SamplingParams| {
            let options = parse_options(app, runtime, defaults, call.entry.id);
            Ok((parse(call, &options)?, ()))
        };
        match steer::start(Arc::clone(&app), runtime, waited, call, read).await?.0 {
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

/// What was asked, unread.
pub(crate) struct Call {
    pub(crate) entry: Arc<RequestEntry>,
    pub(crate) caller: Caller,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Vec<u8>,
    pub(crate) style: Style,
    /// The adapter that it names in the place of a model.
    pub(crate) adapter: Option<String>,
    /// What rules read in the place of an edit's tokens.
    pub(crate) read_as: Option<Arc<ReadAs>>,
}

pub(crate) async fn off_thread<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ApiError> + Send + 'static,
) -> Result<T, ApiError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|_| Err(ApiError::Internal { what: "the request panicked".to_owned() }))
}

/// The engine that answers, and how long it took to have it. Nothing is loaded for a body that is wrong, and
/// nobody waits past the deadline.
async fn model_for(
    app: &Arc<App>,
    call: Call,
    model: Option<String>,
) -> Result<(Call, Arc<Runtime>, Duration), ApiError> {
    if let Some(runtime) = app.models.get(model.as_deref())? {
        return Ok((call, runtime, Duration::ZERO));
    }
    let began = Instant::now();
    let strict = app.config.strict;
    let read = move || {
        let parsed = parse(
            &call,
            &ParseOptions {
                defaults: &SamplingParams::default(),
                entropy: 0,
                tool_format: ToolFormat::Hermes,
                thinking: Some(Thinking::UNKNOWN),
                strict,
            },
        )?;
        Ok((call, parsed.urgency))
    };
    let (call, urgency) = off_thread(read).await?;
    let limits = [urgency.deadline, urgency.max_queue];
    let limit = limits.into_iter().flatten().min().unwrap_or(LOAD_WAIT);
    let runtime = app.models.resolve_within(model.as_deref(), limit).await?;
    Ok((call, runtime, began.elapsed()))
}

/// What a body and its headers ask for.
pub(crate) fn parse(call: &Call, options: &ParseOptions<'_>) -> Result<Parsed, ApiError> {
    let Call { headers, body, style, .. } = call;
    let mut parsed = match style {
        Style::Chat => parse_chat(body, options),
        Style::Text => parse_completion(body, options),
    }?;
    with_headers(&mut parsed, headers)?;
    Ok(parsed)
}

/// Headers may say how urgent it is.
pub(crate) fn with_headers(parsed: &mut Parsed, headers: &HeaderMap) -> Result<(), ApiError> {
    for name in [Urgency::DEADLINE_HEADER, Urgency::MAX_QUEUE_HEADER, Urgency::PRIORITY_HEADER] {
        said_once(headers, name)?;
    }
    // What is not ASCII is read as an empty text, which no header of these may be.
    let header = |name: &str| headers.get(name).map(|value| value.to_str().unwrap_or_default());
    parsed.urgency = parsed.urgency.with_headers(header)?;
    Ok(())
}

/// What parsing needs of the server and of the model.
pub(crate) fn parse_options<'a>(
    app: &App,
    runtime: &Runtime,
    defaults: &'a SamplingParams,
    id: RequestId,
) -> ParseOptions<'a> {
    ParseOptions {
        defaults,
        // The low half of a UUID of version 7 is random.
        entropy: id.0 as u64,
        tool_format: runtime.tool_format(),
        thinking: runtime.thinking(),
        strict: app.config.strict,
    }
}

/// The requests of a body, of which `waited` of their time has passed already.
pub(crate) fn requests_of(
    runtime: &Runtime,
    waited: Duration,
    call: &Call,
    parsed: &mut Parsed,
) -> Result<Vec<GenerateRequest>, ApiError> {
    if !parsed.words.bad.is_empty() {
        let bad_words = runtime.spelled(&parsed.words.bad);
        parsed.sampling.bad_words = bad_words.map_err(|error| refused(error, call.style))?;
    }
    if let Some(dry) = &mut parsed.sampling.dry
        && dry.breakers.is_empty()
    {
        dry.breakers = runtime.tokens_with(&parsed.words.dry_breakers);
    }
    let mut first_id = Some(call.entry.id);
    let mut requests = parsed.take_requests(|| first_id.take().unwrap_or_else(mint_id));
    // Whose prefixes and fairness these are is the server's to say.
    for request in &mut requests {
        request.tenant = call.caller.tenant();
        request.adapter.clone_from(&call.adapter);
        request.steering.route = call.entry.route();
        request.steering.trace = call.entry.trace;
        request.steering.read_as = match (&call.read_as, &request.prompt) {
            (None, Prompt::Tokens(tokens)) => read_as::of_tokens(runtime, tokens),
            (given, _) => given.clone(),
        };
        for limit in [&mut request.deadline, &mut request.max_queue].into_iter().flatten() {
            *limit = limit.saturating_sub(waited);
        }
    }
    Ok(requests)
}

/// Tokenises and queues; or answers with `told`, without the model.
pub(crate) fn launch(
    app: &App,
    runtime: Arc<Runtime>,
    call: &Call,
    parsed: Parsed,
    mut requests: Vec<GenerateRequest>,
    told: Option<&str>,
) -> Result<Running, ApiError> {
    let Call { entry, caller, style, .. } = call;
    let (id, style, info) = (entry.id, *style, runtime.info());
    entry.reserve(|| estimated(&requests))?;
    let allowance = || entry.lease().and_then(Lease::allowance);
    requests.iter_mut().for_each(|request| request.allowance = allowance());
    let adapter = requests.first().and_then(|request| request.adapter.as_deref());
    let adapter = adapter.and_then(|name| runtime.adapter(name));
    let (model, release) = match adapter {
        Some(adapter) => (adapter.name, adapter.release_hash),
        None => (info.name.clone(), info.release_hash),
    };
    let request_ids: Vec<RequestId> = requests.iter().map(|request| request.id).collect();
    let echo = parsed.echo.then(|| prompt_texts(&runtime, &requests, style)).transpose()?;
    let asked = requests.first().filter(|_| told.is_none());
    let reasoning = asked.and_then(|request| runtime.reasoning_start(request));
    let mut screening = Screening::of(app.ops.overrides(), &requests, told.is_none());
    let (mut enders, mut all, mut warnings) = (Vec::new(), Vec::new(), parsed.warnings);
    let started = match told {
        Some(text) => of_engine(runtime.tell(requests, text)),
        None => app.response_cache.start(&runtime, call, parsed.has_seed, requests)?,
    };
    let n_prompt = started.first().and_then(|all| all.first()).map_or(0, |one| one.n_prompt);
    for answers in started {
        warnings.extend(answers.iter().take(1).flat_map(|answer| answer.warnings.clone()));
        screening.ends.extend(answers.iter().map(|answer| answer.ender.clone()));
        enders.push(answers.iter().filter_map(|answer| answer.ender.clone()).collect());
        all.extend(answers.into_iter().map(|answer| answer.events));
    }
    let running = request_ids.iter().copied().zip(enders).collect();
    let prefix = if style == Style::Chat { "chatcmpl" } else { "cmpl" };
    Ok(Running {
        head: Head {
            style,
            id: format!("{prefix}-{id}"),
            created: unix_seconds(SystemTime::now()),
            model,
            fingerprint: release.to_string(),
            warnings,
            include_usage: parsed.include_usage,
            spent: None,
            prompt_logprobs: None,
        },
        runtime: Arc::clone(&runtime),
        n_choices: all.len(),
        events: Answers::new(all),
        n: parsed.n as usize,
        request_ids,
        has_logprobs: parsed.has_logprobs,
        echo,
        has_prompt_logprobs: parsed.has_prompt_logprobs,
        n_top: parsed.sampling.logprobs.unwrap_or(0) as usize,
        stream: parsed.stream,
        prices: parsed.timings.then(|| app.ops.prices().clone()),
        calibration: parsed.confidence.then(|| app.ops.calibration(release)),
        n_prompt,
        stops: parsed.stop.stop_strings,
        tools: parsed.tools.map(|tools| tools.names),
        reasoning,
        screening,
        _listed: app.aborts.list(caller.tenant(), entry.route(), running),
    })
}

/// A header may be given again, with the same value.
pub(crate) fn said_once(headers: &HeaderMap, name: &'static str) -> Result<(), ApiError> {
    let mut values = headers.get_all(name).into_iter();
    let Some(first) = values.next() else { return Ok(()) };
    let Some(other) = values.find(|&value| value != first) else { return Ok(()) };
    Err(ApiError::Invalid {
        param: name.to_owned(),
        found: format!("{first:?} and {other:?}").chars().take(120).collect(),
        wanted: "given once, or with the same value each time".to_owned(),
    })
}

/// The runtime's error as the client of this API sees it.
pub(crate) fn refused(error: GenerateError, style: Style) -> ApiError {
    let prompt_param = if style == Style::Chat { "messages" } else { "prompt" };
    ApiError::Generate { error, prompt_param }
}

/// Completions' prompts as text; of one with a gap, what stands before it.
fn prompt_texts(
    runtime: &Runtime,
    requests: &[GenerateRequest],
    style: Style,
) -> Result<Vec<String>, ApiError> {
    let text = |request: &GenerateRequest| match &request.prompt {
        Prompt::Text(text) | Prompt::Infill { prefix: text, .. } => Ok(text.clone()),
        Prompt::Tokens(tokens) => runtime.detokenize(tokens),
        Prompt::Chat(_) => Ok(String::new()),
    };
    let texts = requests.iter().map(text).collect::<Result<_, _>>();
    texts.map_err(|error| refused(error, style))
}

/// Log-probabilities with their tokens' names. `text_offset` follows one choice through all calls.
pub(crate) fn named(
    runtime: &Runtime,
    logprobs: &[TokenLogprobs],
    text_offset: &mut TextOffset,
) -> Vec<LogprobEntry> {
    let name = |token: TokenId| TokenName {
        text: runtime.token_text(token),
        bytes: runtime.token_bytes(token).to_vec(),
    };
    let entry = |one: &TokenLogprobs| LogprobEntry {
        text_offset: text_offset.advance(runtime.token_bytes(one.token)),
        token: name(one.token),
        logprob: Some(one.logprob),
        top: one.top.iter().map(|&(token, logprob)| (name(token), logprob)).collect(),
    };
    logprobs.iter().map(entry).collect()
}
