//! `/ops/v1/failures…`, `/ops/v1/fixes`, `/ops/v1/review/…` and `/ops/v1/learning`: the loop from failures to fixes.
//!
//! It must never show what people wrote to a whole network, nor read a file on a thread that serves.
//!
//! Start reading at [`problems`], then [`lease`].

use std::sync::Arc;

use axum::Extension;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, Request, State};
use axum::http::{StatusCode, Uri};
use axum::response::Response;
use lm_api::{ApiError, OpsRefusal};
use lm_ops::{Decision, FeedbackLoop, FixView, now_ms};
use lm_panel::{Change, Picture, Width};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::json;

use crate::app::App;
use crate::auth::Caller;
use crate::generate::off_thread;
use crate::learning_pictures;
use crate::panel::{Params, invalid, sees, width};
use crate::request_log::RequestEntry;
use crate::visit::{Shown, looked, refused};
use crate::{body, reply};

const MAX_DAYS: u32 = 3650;
const DEFAULT_DAYS: u32 = 30;
const DAY_MS: i64 = 86_400_000;
const MAX_PROBLEMS: usize = 100;
const DEFAULT_PROBLEMS: usize = 20;
const MAX_EXAMPLES: u32 = 50;
const DEFAULT_EXAMPLES: u32 = 5;
const MAX_FIXES: usize = 50;
const DEFAULT_FIXES: usize = 10;
const MAX_LEASES: i64 = 20;
const DEFAULT_LEASES: i64 = 5;
const MAX_REVIEWER_CHARS: usize = 64;
/// How long names of fixes in pictures are.
const NOTE_CHARS: usize = 60;

/// The body of a lease.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Leasing {
    reviewer: Option<String>,
    n: Option<i64>,
}

/// The body of a verdict.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Verdict {
    answer: String,
    verdict: String,
    text: Option<String>,
    reviewer: Option<String>,
}

/// The body of what takes a verdict back.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TakingBack {
    answer: String,
    reviewer: Option<String>,
}

/// The body of what gives leases back.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct GivingBack {
    reviewer: Option<String>,
}

/// `GET /ops/v1/failures`: problems, what to solve first first.
pub(crate) async fn problems(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Caller>,
    uri: Uri,
) -> Response {
    looked(&app, &caller, &uri, the_loop, |params| {
        let from_ms = from_ms(params)?;
        let skip = params.number("skip", 0..=usize::MAX)?.unwrap_or(0);
        let limit = params.number("limit", 1..=MAX_PROBLEMS)?.unwrap_or(DEFAULT_PROBLEMS);
        Ok(move |the_loop: FeedbackLoop| -> Shown {
            let page = the_loop.problems(from_ms, skip, limit)?;
            let trends: Vec<String> = page
                .data
                .iter()
                .map(|one| {
                    let title = format!("Trend of {}", one.ranked.cluster);
                    lm_panel::sparkline(&title, &one.trend)
                })
                .collect();
            let mut body = json!(page);
            for (one, svg) in body["data"].as_array_mut().into_iter().flatten().zip(trends) {
                one["trend_svg"] = svg.into();
            }
            Ok(body)
        })
    })
    .await
}

/// `GET /ops/v1/failures/{cluster}`: one problem, its newest failures and its fixes.
pub(crate) async fn problem(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Caller>,
    cluster: Result<Path<String>, PathRejection>,
    uri: Uri,
) -> Response {
    let cluster = cluster.map_or_else(|_| String::new(), |Path(cluster)| cluster);
    looked(&app, &caller, &uri, the_loop, |params| {
        let from_ms = from_ms(params)?;
        let limit = params.number("limit", 1..=MAX_EXAMPLES)?.unwrap_or(DEFAULT_EXAMPLES);
        let width = width(params)?;
        Ok(move |the_loop: FeedbackLoop| -> Shown {
            let page = the_loop.problem(&cluster, from_ms, limit)?;
            let picture = changes(&page.fixes, width);
            let mut body = json!(page);
            body["picture"] = json!(picture);
            Ok(body)
        })
    })
    .await
}

/// `GET /ops/v1/fixes`: what was done, and what the traffic says of it.
pub(crate) async fn fixes(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Caller>,
    uri: Uri,
) -> Response {
    looked(&app, &caller, &uri, the_loop, |params| {
        let skip = params.number("skip", 0..=usize::MAX)?.unwrap_or(0);
        let limit = params.number("limit", 1..=MAX_FIXES)?.unwrap_or(DEFAULT_FIXES);
        let width = width(params)?;
        Ok(move |the_loop: FeedbackLoop| -> Shown {
            let page = the_loop.fixes(skip, limit)?;
            let picture = changes(&page.data, width);
            let mut body = json!(page);
            body["picture"] = json!(picture);
            Ok(body)
        })
    })
    .await
}

/// `GET /ops/v1/learning`: from failure to proof, and the last weeks.
pub(crate) async fn learning(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Caller>,
    uri: Uri,
) -> Response {
    looked(&app, &caller, &uri, the_loop, |params| {
        let from_ms = from_ms(params)?;
        let width = width(params)?;
        Ok(move |the_loop: FeedbackLoop| -> Shown {
            let page = the_loop.learning(from_ms)?;
            let pictures = learning_pictures::all(&page, width);
            let mut body = json!(page);
            body["pictures"] = pictures;
            Ok(body)
        })
    })
    .await
}

/// `POST /ops/v1/review/lease`: what a reviewer has to look at.
pub(crate) async fn lease(
    State(app): State<Arc<App>>,
    Extension(entry): Extension<Arc<RequestEntry>>,
    Extension(caller): Extension<Caller>,
    request: Request,
) -> Response {
    acted(&app, &entry, &caller, request, |the_loop, who, asked: Leasing| {
        let n = asked.n.unwrap_or(DEFAULT_LEASES);
        if !(1..=MAX_LEASES).contains(&n) {
            return Err(invalid("n", &n.to_string(), format!("a number from 1 to {MAX_LEASES}")));
        }
        Ok(json!(the_loop.lease(&reviewer(asked.reviewer, who)?, n as usize)?))
    })
    .await
}

/// `POST /ops/v1/review/verdict`.
pub(crate) async fn verdict(
    State(app): State<Arc<App>>,
    Extension(entry): Extension<Arc<RequestEntry>>,
    Extension(caller): Extension<Caller>,
    request: Request,
) -> Response {
    acted(&app, &entry, &caller, request, |the_loop, who, asked: Verdict| {
        let reviewer = reviewer(asked.reviewer, who)?;
        let text = || {
            let wanted = "a text with the verdicts correct and tag";
            let given = asked.text.clone().filter(|text| !text.trim().is_empty());
            given.ok_or(ApiError::Missing { param: "text".to_owned(), wanted })
        };
        let decision = match asked.verdict.as_str() {
            "accept" => Decision::Accept,
            "reject" => Decision::Reject,
            "correct" => Decision::Correct(text()?),
            "tag" => Decision::Tag(text()?.trim().to_owned()),
            other => {
                let wanted = "accept, reject, correct or tag".to_owned();
                return Err(invalid("verdict", other, wanted));
            }
        };
        let is_plain = matches!(decision, Decision::Accept | Decision::Reject);
        if let Some(text) = asked.text.as_deref().filter(|_| is_plain) {
            let wanted = "left out with this verdict".to_owned();
            return Err(invalid("text", text, wanted));
        }
        let answer = the_loop.review(&asked.answer, &decision, &reviewer)?;
        Ok(json!({ "answer": answer, "verdict": asked.verdict, "reviewer": reviewer }))
    })
    .await
}

/// `POST /ops/v1/review/undo`: the reviewer has the answer again.
pub(crate) async fn undo(
    State(app): State<Arc<App>>,
    Extension(entry): Extension<Arc<RequestEntry>>,
    Extension(caller): Extension<Caller>,
    request: Request,
) -> Response {
    acted(&app, &entry, &caller, request, |the_loop, who, asked: TakingBack| {
        let reviewer = reviewer(asked.reviewer, who)?;
        Ok(json!(the_loop.take_back(&asked.answer, &reviewer)?))
    })
    .await
}

/// `POST /ops/v1/review/give-back`: others need not wait for the reviewer's leases to end.
pub(crate) async fn give_back(
    State(app): State<Arc<App>>,
    Extension(entry): Extension<Arc<RequestEntry>>,
    Extension(caller): Extension<Caller>,
    request: Request,
) -> Response {
    acted(&app, &entry, &caller, request, |the_loop, who, asked: GivingBack| {
        let reviewer = reviewer(asked.reviewer, who)?;
        let n = the_loop.give_back(&reviewer)?;
        Ok(json!({ "reviewer": reviewer, "given_back": n }))
    })
    .await
}

/// Reads the body, then does the work on a thread that may wait.
async fn acted<B: DeserializeOwned + 'static>(
    app: &App,
    entry: &Arc<RequestEntry>,
    caller: &Caller,
    request: Request,
    work: impl FnOnce(&FeedbackLoop, String, B) -> Shown + Send + 'static,
) -> Response {
    let done = async {
        sees(app, caller)?;
        let who = caller.holder.as_ref().map(|holder| holder.record.name.clone());
        let who = who.filter(|name| !name.is_empty()).unwrap_or_else(|| "panel".to_owned());
        let (head, body) = request.into_parts();
        let (body, room) = body::read(&head.headers, body, app).await?;
        entry.hold_body(room);
        let the_loop = the_loop(app)?;
        let done = off_thread(move || {
            let body: &[u8] = if body.is_empty() { b"{}" } else { &body };
            let asked = serde_json::from_slice(body).map_err(|error| ApiError::Json {
                param: "body".to_owned(),
                what: error.to_string(),
            })?;
            work(&the_loop, who, asked)
        });
        Ok(reply::json(StatusCode::OK, done.await?.to_string()))
    };
    done.await.unwrap_or_else(|error: ApiError| refused(entry, &error))
}

fn the_loop(app: &App) -> Result<FeedbackLoop, ApiError> {
    app.ops.feedback_loop().cloned().ok_or_else(|| {
        let message = "this server keeps no failures".to_owned();
        ApiError::Ops(OpsRefusal::Unknown { message })
    })
}

/// Whose review it is: as it is said, or else the key's name.
fn reviewer(said: Option<String>, key: String) -> Result<String, ApiError> {
    let Some(name) = said else { return Ok(key.chars().take(MAX_REVIEWER_CHARS).collect()) };
    let name = name.trim();
    if name.is_empty() || name.chars().count() > MAX_REVIEWER_CHARS {
        let wanted = format!("1 to {MAX_REVIEWER_CHARS} characters");
        return Err(invalid("reviewer", name, wanted));
    }
    Ok(name.to_owned())
}

/// The beginning of the window that is looked at, in Unix milliseconds.
fn from_ms(params: &mut Params) -> Result<i64, ApiError> {
    let days = params.number("days", 1..=MAX_DAYS)?.unwrap_or(DEFAULT_DAYS);
    Ok(now_ms() - i64::from(days) * DAY_MS)
}

fn changes(fixes: &[FixView], width: Width) -> Picture {
    let share = |failed: u64, n: u64| (n > 0).then(|| failed as f64 / n as f64);
    let change = |one: &FixView| Change {
        name: format!(
            "{} {}",
            one.fix.id,
            one.fix.note.chars().take(NOTE_CHARS).collect::<String>()
        ),
        before: share(one.now.before_failed, one.now.before_n),
        after: share(one.now.after_failed, one.now.after_n),
        low: one.now.change_low,
        high: one.now.change_high,
        verdict: one.now.verdict,
    };
    lm_panel::changes(&fixes.iter().map(change).collect::<Vec<_>>(), width)
}
