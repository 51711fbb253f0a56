//! `POST /v1/feedback`: what somebody says about one answer.
//!
//! It must never know where feedback is kept; the store checks lengths and whether the id is known.
//!
//! Start reading at [`parse_feedback`].

use lastmile::RequestId;
use serde_json::Value;

use crate::ApiError;
use crate::error::shown;
use crate::fields::{Fields, Warnings};

/// What somebody says about one answer.
#[derive(Clone, Debug, PartialEq)]
pub struct FeedbackRequest {
    /// The request that the answer belongs to.
    pub request_id: RequestId,
    /// Which of its answers, from 0.
    pub choice: u32,
    /// Good or bad.
    pub rating: Option<FeedbackRating>,
    /// In words.
    pub comment: Option<String>,
    /// What the answer should have been.
    pub correction: Option<String>,
    /// What was not understood and is ignored.
    pub warnings: Vec<String>,
}

/// Good or bad.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum FeedbackRating {
    /// Thumb up or down.
    Boolean(bool),
    /// From 0 (worst) to 1 (best).
    Score(f64),
}

/// Reads the body of a feedback. `request_id` may be an answer's `id`, with its prefix.
///
/// # Errors
/// The first field that is malformed, outside its range or, in strict mode, unknown.
pub fn parse_feedback(body: &[u8], strict: bool) -> Result<FeedbackRequest, ApiError> {
    let mut fields = Fields::parse(body)?;
    let mut warnings = Warnings::default();
    let feedback = FeedbackRequest {
        request_id: request_id(&mut fields)?,
        choice: fields.count("choice", 0)?.unwrap_or(0),
        rating: rating(&mut fields)?,
        comment: fields.string("comment")?,
        correction: fields.string("correction")?,
        warnings: Vec::new(),
    };
    fields.finish(strict, &mut warnings)?;
    Ok(FeedbackRequest { warnings: warnings.into_list(), ..feedback })
}

fn request_id(fields: &mut Fields) -> Result<RequestId, ApiError> {
    let wanted = "the id of a response or its x-request-id";
    let Some(value) = fields.take("request_id") else {
        return Err(ApiError::Missing { param: "request_id".to_owned(), wanted });
    };
    let bare = value.as_str().map(|text| {
        text.strip_prefix("chatcmpl-").or_else(|| text.strip_prefix("cmpl-")).unwrap_or(text)
    });
    bare.and_then(|text| text.parse().ok())
        .ok_or_else(|| ApiError::invalid("request_id", &value, wanted))
}

fn rating(fields: &mut Fields) -> Result<Option<FeedbackRating>, ApiError> {
    let thumb = match fields.take("rating") {
        None => None,
        Some(Value::Bool(good)) => Some(good),
        Some(Value::String(word)) if word == "up" => Some(true),
        Some(Value::String(word)) if word == "down" => Some(false),
        Some(other) => {
            let wanted = "true, false, \"up\" or \"down\"; a number belongs into score";
            return Err(ApiError::invalid("rating", &other, wanted));
        }
    };
    let score = fields.number("score")?;
    match (thumb, score) {
        (Some(good), Some(score)) => Err(ApiError::Conflict {
            param: "score",
            found: shown(&score.into()),
            other: "rating",
            other_found: good.to_string(),
            wanted: "give one of them",
        }),
        (_, Some(score)) if !(0.0..=1.0).contains(&score) => {
            Err(ApiError::invalid("score", &score.into(), "between 0 and 1"))
        }
        (Some(good), None) => Ok(Some(FeedbackRating::Boolean(good))),
        (None, score) => Ok(score.map(FeedbackRating::Score)),
    }
}
