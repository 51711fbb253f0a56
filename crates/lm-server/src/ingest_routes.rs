//! `/ops/v1/ingest/{source}`: rows that others send, streamed to the disk, and what became of them.
//!
//! It must never hold more of a body than a few pieces, never write on a thread that serves, and never take a body
//! whose end it did not see.
//!
//! Start reading at [`take`].

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Extension;
use axum::body::{BodyDataStream, Bytes};
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, Request, State};
use axum::http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, EXPECT, LOCATION};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Uri};
use axum::response::Response;
use futures_util::StreamExt;
use lm_api::{ApiError, IngestRefusal};
use lm_ops::{Accepted, Ingests, RowFormat, row_format};
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use crate::app::App;
use crate::auth::Caller;
use crate::body;
use crate::generate::off_thread;
use crate::panel::Params;
use crate::reply;
use crate::request_log::RequestEntry;

const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
/// Says that the same had been taken before.
const IDEMPOTENT_REPLAYED: HeaderName = HeaderName::from_static("idempotent-replayed");
/// Bodies that are received at once: each holds a thread that writes.
pub(crate) const MAX_UPLOADS: usize = 32;
/// What a body must bring on average once its time of grace is over, which is as long as it may stand still.
const MIN_BYTES_PER_S: u64 = 1024;
/// Pieces that wait for the disk. A client that is faster waits, too.
const PIECES: usize = 4;

/// A part of a body on its way to the disk. Without an end it was cut.
enum Piece {
    Bytes(Bytes),
    End,
}

/// How fast a body comes. What the disk takes of the time is not the client's.
struct Pace {
    grace: Duration,
    waited: Duration,
    n_bytes: u64,
}

/// What a request says of its body.
struct Asked {
    source: String,
    key: Option<String>,
    /// What the sender's key is called, where keys are asked for.
    sender: Option<String>,
    format: RowFormat,
}

/// `GET /ops/v1/ingest/{source}`: what waits, or with `?key=` what became of one body.
pub(crate) async fn show(
    State(app): State<Arc<App>>,
    source: Result<Path<String>, PathRejection>,
    uri: Uri,
) -> Response {
    let shown = async {
        let ingests = ingests(&app)?;
        let mut params = Params::of(&uri)?;
        let key = params.text("key")?;
        params.end()?;
        let source = named(source);
        let standing = move || ingests.standing(&source, key.as_deref());
        Ok(reply::json(StatusCode::OK, off_thread(standing).await?.to_string()))
    };
    shown.await.unwrap_or_else(|error: ApiError| reply::error(&error))
}

/// `POST /ops/v1/ingest/{source}`: takes a body, each once by its `Idempotency-Key`.
pub(crate) async fn take(
    State(app): State<Arc<App>>,
    Extension(entry): Extension<Arc<RequestEntry>>,
    Extension(caller): Extension<Caller>,
    source: Result<Path<String>, PathRejection>,
    request: Request,
) -> Response {
    let (head, rows) = request.into_parts();
    let mut chunks = rows.into_data_stream();
    let limit = app.config.body_timeout;
    let taken = async {
        entry.hold(app.admit(&caller)?);
        let ingests = ingests(&app)?;
        let asked = asked(named(source), &caller, &head, &ingests)?;
        let place = Arc::clone(&app.uploads)
            .try_acquire_owned()
            .map_err(|_| ApiError::Ingest(IngestRefusal::TooManyUploads { limit: MAX_UPLOADS }))?;
        receive(ingests, asked, place, &mut chunks, limit).await
    };
    let taken: Result<Accepted, ApiError> = taken.await;
    match taken {
        Ok(accepted) => answer(&accepted),
        Err(error) => {
            // Who waits to be told to go on sends nothing in vain, and who stands still is not waited for again.
            let is_still = matches!(
                error,
                ApiError::BodyTimeout { .. } | ApiError::Ingest(IngestRefusal::TooSlow { .. })
            );
            if matches!(error, ApiError::BodyTooLarge { .. }) {
                body::discard_beside(&head.headers, chunks, &app.discards, limit);
            } else if !is_still && !head.headers.contains_key(EXPECT) {
                body::discard_first(&mut chunks, &app.discards, limit).await;
            }
            entry.failed(&error);
            reply::error(&error)
        }
    }
}

fn answer(accepted: &Accepted) -> Response {
    let mut response = reply::json(StatusCode::ACCEPTED, accepted.body.to_string());
    let headers = response.headers_mut();
    if let Ok(poll) = HeaderValue::from_str(&accepted.poll) {
        headers.insert(LOCATION, poll);
    }
    if accepted.already_taken {
        headers.insert(IDEMPOTENT_REPLAYED, HeaderValue::from_static("true"));
    }
    response
}

fn ingests(app: &App) -> Result<Ingests, ApiError> {
    app.ops.ingests().cloned().ok_or(ApiError::Ingest(IngestRefusal::Off))
}

/// A path that cannot be read names no dataset.
fn named(source: Result<Path<String>, PathRejection>) -> String {
    source.map_or_else(|_| String::new(), |Path(source)| source)
}

/// Reads the head. A body that says that it is too large is refused before it comes.
fn asked(
    source: String,
    caller: &Caller,
    head: &Parts,
    ingests: &Ingests,
) -> Result<Asked, ApiError> {
    let mut params = Params::of(&head.uri)?;
    let format = params.text("format")?;
    params.end()?;
    let encoding = text_of(&head.headers, &CONTENT_ENCODING)?;
    if let Some(found) = encoding.filter(|found| !found.eq_ignore_ascii_case("identity")) {
        let found = found.chars().take(80).collect();
        return Err(ApiError::Ingest(IngestRefusal::Encoded { found }));
    }
    let format = row_format(text_of(&head.headers, &CONTENT_TYPE)?, format.as_deref())?;
    let key = text_of(&head.headers, &IDEMPOTENCY_KEY)?.map(str::to_owned);
    let limit_bytes = ingests.limits().body_bytes;
    let size = text_of(&head.headers, &CONTENT_LENGTH)?.and_then(|size| size.parse::<u64>().ok());
    if size.is_some_and(|size| size > limit_bytes) {
        let limit_bytes = usize::try_from(limit_bytes).unwrap_or(usize::MAX);
        return Err(ApiError::BodyTooLarge { limit_bytes });
    }
    let sender = caller.holder.as_ref().map(|holder| holder.record.id.to_string());
    Ok(Asked { source, key, sender, format })
}

/// A header that may be given once.
fn text_of<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Result<Option<&'a str>, ApiError> {
    let mut values = headers.get_all(name).into_iter();
    let Some(value) = values.next() else { return Ok(None) };
    let refuse = |found: &str, wanted: &str| ApiError::Invalid {
        param: name.to_string(),
        found: found.to_owned(),
        wanted: wanted.to_owned(),
    };
    if values.next().is_some() {
        return Err(refuse("given twice", "given once"));
    }
    let text = value.to_str().map_err(|_| refuse("not of visible ASCII characters", "of them"))?;
    Ok(Some(text))
}

/// Streams a body to the disk. What is written is gone again when it does not come to its end.
async fn receive(
    ingests: Ingests,
    asked: Asked,
    place: OwnedSemaphorePermit,
    chunks: &mut BodyDataStream,
    limit: Duration,
) -> Result<Accepted, ApiError> {
    let (pieces, received) = mpsc::channel(PIECES);
    let stored = spawn_blocking(move || {
        // The place is the thread's: it may outlive a client that goes.
        let _place = place;
        store(&ingests, &asked, received)
    });
    let sent = send(chunks, &pieces, limit).await;
    // Without an end that was sent, this is what says so.
    drop(pieces);
    let stored = stored.await.unwrap_or_else(|_| {
        Err(ApiError::Internal { what: "taking the body panicked".to_owned() })
    });
    sent.and(stored)
}

/// Hands pieces on until the end, or until nobody takes them: who does not has an error to tell.
async fn send(
    chunks: &mut BodyDataStream,
    pieces: &mpsc::Sender<Piece>,
    limit: Duration,
) -> Result<(), ApiError> {
    let mut pace = Pace { grace: limit, waited: Duration::ZERO, n_bytes: 0 };
    loop {
        let (began, left) = (Instant::now(), pace.left());
        let next = timeout(left.min(limit), chunks.next()).await;
        pace.waited += began.elapsed();
        let Ok(next) = next else {
            return Err(if left < limit {
                pace.too_slow()
            } else {
                ApiError::BodyTimeout { limit_ms: limit.as_millis() }
            });
        };
        let (piece, is_last) = match next {
            Some(Ok(bytes)) => {
                pace.n_bytes += bytes.len() as u64;
                (Piece::Bytes(bytes), false)
            }
            Some(Err(error)) => return Err(ApiError::BodyBroken { what: error.to_string() }),
            None => (Piece::End, true),
        };
        if pieces.send(piece).await.is_err() || is_last {
            return Ok(());
        }
    }
}

impl Pace {
    /// How long the next piece may take.
    fn left(&self) -> Duration {
        let earned = Duration::from_millis(self.n_bytes.saturating_mul(1000) / MIN_BYTES_PER_S);
        (self.grace + earned).saturating_sub(self.waited)
    }

    fn too_slow(&self) -> ApiError {
        ApiError::Ingest(IngestRefusal::TooSlow {
            n_bytes: self.n_bytes,
            waited_ms: self.waited.as_millis(),
            grace_ms: self.grace.as_millis(),
            min_bytes_per_s: MIN_BYTES_PER_S,
        })
    }
}

/// Writes pieces until the end. Blocks.
fn store(
    ingests: &Ingests,
    asked: &Asked,
    mut pieces: mpsc::Receiver<Piece>,
) -> Result<Accepted, ApiError> {
    let (key, sender) = (asked.key.as_deref(), asked.sender.as_deref());
    let mut upload = ingests.begin(&asked.source, key, sender, asked.format)?;
    loop {
        match pieces.blocking_recv() {
            Some(Piece::Bytes(bytes)) => upload.write(&bytes)?,
            Some(Piece::End) => return upload.finish(),
            None => return Err(ApiError::BodyBroken { what: "it was cut".to_owned() }),
        }
    }
}
