//! `/v1/embeddings`, `/v1/rerank`, `/v1/score`, `/v1/classify`, and Ollama's `/api/embed`: from a body to rows.
//!
//! It must never block a worker of the async runtime: parsing and tokenising run on a blocking thread.
//!
//! Start reading at [`embeddings`].

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Extension;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use lastmile::{
    EncodeRequest, Encoded, EncoderInfo, EncoderOutput, EncoderText, Encoding, GenerateError,
    Priority, RequestId, Runtime, Task, Usage, normalize, probabilities,
};
use lm_api::{
    ApiError, EmbeddingsAsked, Ranked, ScoredBy, Took, Urgency, classify_json, embeddings_json,
    parse_classify, parse_embeddings, parse_ollama_embed, parse_ollama_embeddings, parse_rerank,
    parse_score, rerank_json, score_json,
};

use crate::app::App;
use crate::auth::Caller;
use crate::generate::{off_thread, said_once};
use crate::intake::{Asked, take};
use crate::lease::{BYTES_PER_TOKEN, Estimate};
use crate::registry::LOAD_WAIT;
use crate::reply;
use crate::request_log::RequestEntry;
use crate::steer::not_killed;

type Entry = Extension<Arc<RequestEntry>>;

/// How a body is read.
type Parse<T> = fn(&[u8], bool) -> Result<T, ApiError>;

pub(crate) async fn embeddings(
    State(app): State<Arc<App>>,
    Extension(entry): Entry,
    Extension(caller): Extension<Caller>,
    request: Request,
) -> Response {
    let answer = embed(&app, &entry, &caller, request, parse_embeddings).await;
    answer.unwrap_or_else(|error| refused(&entry, &error))
}

pub(crate) async fn ollama_embed(
    State(app): State<Arc<App>>,
    Extension(entry): Entry,
    Extension(caller): Extension<Caller>,
    request: Request,
) -> Response {
    let answer = embed(&app, &entry, &caller, request, parse_ollama_embed).await;
    answer.unwrap_or_else(|error| refused(&entry, &error))
}

pub(crate) async fn ollama_embeddings(
    State(app): State<Arc<App>>,
    Extension(entry): Entry,
    Extension(caller): Extension<Caller>,
    request: Request,
) -> Response {
    let answer = embed(&app, &entry, &caller, request, parse_ollama_embeddings).await;
    answer.unwrap_or_else(|error| refused(&entry, &error))
}

pub(crate) async fn rerank(
    State(app): State<Arc<App>>,
    Extension(entry): Entry,
    Extension(caller): Extension<Caller>,
    request: Request,
) -> Response {
    let answer = rank(&app, &entry, &caller, request, true).await;
    answer.unwrap_or_else(|error| refused(&entry, &error))
}

pub(crate) async fn score(
    State(app): State<Arc<App>>,
    Extension(entry): Entry,
    Extension(caller): Extension<Caller>,
    request: Request,
) -> Response {
    let answer = rank(&app, &entry, &caller, request, false).await;
    answer.unwrap_or_else(|error| refused(&entry, &error))
}

pub(crate) async fn classify(
    State(app): State<Arc<App>>,
    Extension(entry): Entry,
    Extension(caller): Extension<Caller>,
    request: Request,
) -> Response {
    let answer = async {
        let read = read(&app, &entry, &caller, request, parse_classify, |a| a.urgency).await?;
        let Some(EncoderInfo {
            spec: lastmile::EncoderSpec { output: EncoderOutput::Labels { names }, .. },
            is_multi_label,
            ..
        }) = read.runtime.info().encoder.clone()
        else {
            return Err(wrong_model(&read.runtime, "labels"));
        };
        let (texts, truncate) = (read.asked.texts.clone(), read.asked.truncate);
        let (encoded, mut warnings) =
            encode(&entry, &read, Task::Classify, texts, truncate).await?;
        warnings.splice(0..0, read.asked.warnings.iter().cloned());
        let each = |row: &Vec<f32>| probabilities(row, is_multi_label);
        let rows: Vec<Vec<f32>> = encoded.rows.iter().map(each).collect();
        let (id, model) = (format!("classify-{}", entry.id), &read.runtime.info().name);
        let body = classify_json(&id, model, &names, &rows, encoded.n_tokens, &warnings);
        Ok(reply::json(StatusCode::OK, body))
    };
    answer.await.unwrap_or_else(|error| refused(&entry, &error))
}

async fn embed(
    app: &Arc<App>,
    entry: &Arc<RequestEntry>,
    caller: &Caller,
    request: Request,
    parse: Parse<EmbeddingsAsked>,
) -> Result<Response, ApiError> {
    let began = Instant::now();
    let read = read(app, entry, caller, request, parse, |asked| asked.urgency).await?;
    let n = dimensions(&read.runtime)?;
    let wanted = read.asked.dimensions.unwrap_or(n);
    if wanted > n {
        let wanted_words = format!("at most {n}, what the model's vectors have");
        return Err(ApiError::Invalid {
            param: "dimensions".to_owned(),
            found: wanted.to_string(),
            wanted: wanted_words,
        });
    }
    let (texts, truncate) = (read.asked.texts.clone(), read.asked.truncate);
    let (mut encoded, mut warnings) = encode(entry, &read, Task::Embed, texts, truncate).await?;
    warnings.splice(0..0, read.asked.warnings.iter().cloned());
    if wanted < n {
        warnings.push(format!(
            "dimensions is {wanted}: vectors of {n} were cut, which a model that was not trained for it loses by"
        ));
    }
    for row in &mut encoded.rows {
        row.truncate(wanted);
        if read.asked.normalize {
            normalize(row);
        }
    }
    let (id, model) = (format!("embd-{}", entry.id), read.runtime.info().name.clone());
    let body = off_thread(move || {
        let (rows, n_tokens) = (&encoded.rows, encoded.n_tokens);
        let took = Took { total: began.elapsed(), load: read.load };
        Ok(embeddings_json(&read.asked, &id, &model, rows, n_tokens, took, &warnings))
    });
    Ok(reply::json(StatusCode::OK, body.await?))
}

/// Scores by a cross-encoder, or by the cosine between vectors.
async fn rank(
    app: &Arc<App>,
    entry: &Arc<RequestEntry>,
    caller: &Caller,
    request: Request,
    is_rerank: bool,
) -> Result<Response, ApiError> {
    let parse = if is_rerank { parse_rerank } else { parse_score };
    let read = read(app, entry, caller, request, parse, |asked| asked.urgency).await?;
    let (queries, documents) = (&read.asked.queries, &read.asked.documents);
    let query_of = |i: usize| &queries[if queries.len() == 1 { 0 } else { i }];
    let info = read.runtime.info().encoder.as_ref();
    let by = match info.map(|info| &info.spec.output) {
        Some(EncoderOutput::Labels { names }) if names.len() == 1 => ScoredBy::CrossEncoder,
        Some(EncoderOutput::Vector { .. }) => ScoredBy::Cosine,
        _ => return Err(wrong_model(&read.runtime, "vectors or one label, as ranks need")),
    };
    let texts = match by {
        ScoredBy::CrossEncoder => {
            let pair =
                |(i, text): (usize, &String)| EncoderText::Pair(query_of(i).clone(), text.clone());
            documents.iter().enumerate().map(pair).collect()
        }
        ScoredBy::Cosine => {
            queries.iter().chain(documents).cloned().map(EncoderText::Text).collect()
        }
    };
    let truncate = read.asked.truncate;
    let (mut encoded, mut warnings) = encode(entry, &read, Task::Rank, texts, truncate).await?;
    warnings.splice(0..0, read.asked.warnings.iter().cloned());
    let scores: Vec<f32> = match by {
        ScoredBy::CrossEncoder => {
            encoded.rows.iter().map(|row| probabilities(row, false)[0]).collect()
        }
        ScoredBy::Cosine => {
            encoded.rows.iter_mut().for_each(|row| normalize(row));
            let (queries, documents) = encoded.rows.split_at(queries.len());
            let query_of = |i: usize| &queries[if queries.len() == 1 { 0 } else { i }];
            let cosine = |(i, row): (usize, &Vec<f32>)| {
                row.iter().zip(query_of(i)).map(|(a, b)| a * b).sum::<f32>()
            };
            documents.iter().enumerate().map(cosine).collect()
        }
    };
    let id = format!("{}-{}", if is_rerank { "rerank" } else { "score" }, entry.id);
    let (model, n_tokens) = (read.runtime.info().name.as_str(), encoded.n_tokens);
    let ranked = Ranked { id: &id, model, by, scores: &scores, n_tokens, warnings: &warnings };
    let body = if is_rerank { rerank_json(&read.asked, &ranked) } else { score_json(&ranked) };
    Ok(reply::json(StatusCode::OK, body))
}

/// What was asked, of which model, by whom.
struct Read<T> {
    asked: T,
    urgency: Urgency,
    runtime: Arc<Runtime>,
    caller: Caller,
    began: Instant,
    /// How long the model took to load.
    load: Duration,
}

/// Reads a body and has its model loaded, unless the body is wrong.
async fn read<T: Send + 'static>(
    app: &Arc<App>,
    entry: &Arc<RequestEntry>,
    caller: &Caller,
    request: Request,
    parse: Parse<T>,
    urgency: fn(&T) -> Urgency,
) -> Result<Read<T>, ApiError> {
    let began = Instant::now();
    not_killed(app, entry.route())?;
    app.idle.make_way();
    let Asked { headers, body, model } = take(app, entry, caller, request).await?;
    let strict = app.config.strict;
    let n_bytes = body.len() as u64;
    let asked = off_thread(move || parse(&body, strict)).await?;
    let urgency = with_headers(urgency(&asked), &headers)?;
    let prompt_tokens = (n_bytes / BYTES_PER_TOKEN).max(1);
    entry.reserve(|| Estimate { prompt_tokens, answer_tokens: 0 })?;
    let limits = [urgency.deadline, urgency.max_queue];
    let limit = limits.into_iter().flatten().min().unwrap_or(LOAD_WAIT);
    // Ollama's clients name a model with a tag; the usual one says nothing.
    let model = model.as_deref().map(|name| name.strip_suffix(":latest").unwrap_or(name));
    // Who names no model means one that can do it.
    let model = match model {
        Some(name) => Some(name.to_owned()),
        None => encoder_name(app),
    };
    let asks = Instant::now();
    let runtime = app.models.resolve_within(model.as_deref(), limit).await?;
    let load = asks.elapsed();
    Ok(Read { asked, urgency, runtime, caller: caller.clone(), began, load })
}

/// The first encoder that is loaded.
fn encoder_name(app: &App) -> Option<String> {
    let loaded = app.models.loaded();
    let encoder = loaded.iter().find(|runtime| runtime.info().encoder.is_some());
    encoder.map(|runtime| runtime.info().name.clone())
}

fn with_headers(urgency: Urgency, headers: &HeaderMap) -> Result<Urgency, ApiError> {
    for name in [Urgency::DEADLINE_HEADER, Urgency::MAX_QUEUE_HEADER, Urgency::PRIORITY_HEADER] {
        said_once(headers, name)?;
    }
    urgency.with_headers(|name| headers.get(name).map(|value| value.to_str().unwrap_or_default()))
}

/// Has texts encoded; the rows, and what was cut.
async fn encode<T>(
    entry: &RequestEntry,
    read: &Read<T>,
    task: Task,
    texts: Vec<EncoderText>,
    truncate: bool,
) -> Result<(Encoded, Vec<String>), ApiError> {
    let (runtime, waited) = (Arc::clone(&read.runtime), read.began.elapsed());
    let request = EncodeRequest {
        truncate,
        priority: read.urgency.priority.unwrap_or(Priority::Interactive),
        tenant: read.caller.tenant(),
        trace: entry.trace,
        deadline: read.urgency.deadline.map(|limit| limit.saturating_sub(waited)),
        max_queue: read.urgency.max_queue.map(|limit| limit.saturating_sub(waited)),
        ..EncodeRequest::new(RequestId(entry.id.0), task, texts)
    };
    let encoding: Encoding = off_thread(move || runtime.encode(&request).map_err(failed)).await?;
    let warnings = encoding.warnings().to_vec();
    let encoded = encoding.await.map_err(failed)?;
    entry.used(Usage { prompt_tokens: encoded.n_tokens, ..Usage::default() });
    Ok((encoded, warnings))
}

/// How many numbers the model's vectors have.
fn dimensions(runtime: &Runtime) -> Result<usize, ApiError> {
    match runtime.info().encoder.as_ref().map(|info| &info.spec.output) {
        Some(EncoderOutput::Vector { dimensions }) => Ok(*dimensions),
        _ => Err(wrong_model(runtime, "vectors")),
    }
}

fn wrong_model(runtime: &Runtime, wanted: &str) -> ApiError {
    let does = match runtime.info().encoder.as_ref().map(|info| &info.spec.output) {
        None => "a model that writes texts",
        Some(EncoderOutput::Vector { .. }) => "an encoder that gives vectors",
        Some(EncoderOutput::Labels { .. }) => "an encoder that gives labels",
    };
    ApiError::Invalid {
        param: "model".to_owned(),
        found: format!("'{}', {does}", runtime.info().name),
        wanted: format!("one that gives {wanted}"),
    }
}

fn failed(error: GenerateError) -> ApiError {
    ApiError::Generate { error, prompt_param: "input" }
}

fn refused(entry: &RequestEntry, error: &ApiError) -> Response {
    entry.failed(error);
    reply::error(error)
}
