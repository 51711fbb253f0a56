//! What is shown of a failure: what was asked, answered and said of it, as far as it was kept.
//!
//! It must never show more of a text than a page can hold.
//!
//! Start reading at [`Told::of`].

use lm_feedback::{Book, Evidence, FailureRow, FeedbackError, Fix, FixStatus, Ranked, ReviewItem};
use lm_store::{Rating, Reader, StoredFeedback};
use serde::Serialize;
use serde_json::Value;

use crate::Cut;

/// A failure with its texts.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Example {
    /// The failure.
    #[serde(flatten)]
    pub failure: FailureRow,
    /// The name by which it is reviewed.
    pub answer: String,
    /// Its texts.
    pub told: Told,
}

/// A failure that a reviewer has, with its texts.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ReviewView {
    /// The failure and its lease.
    #[serde(flatten)]
    pub item: ReviewItem,
    /// Its texts.
    pub told: Told,
}

/// What was asked, answered and said.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Told {
    /// What reviewers tagged it with.
    pub tags: Vec<String>,
    /// The end of the conversation, oldest first; empty when it was not kept.
    pub messages: Vec<Message>,
    /// How many messages there were.
    pub n_messages: usize,
    /// The answer; `None` when it was not kept.
    pub output: Option<Cut>,
    /// Why it ended.
    pub finish_reason: Option<String>,
    /// The stable word of the error.
    pub error_code: Option<String>,
    /// What readers said of it, newest first.
    pub opinions: Vec<OpinionView>,
}

/// One message.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Message {
    /// `system`, `user`, `assistant` or `tool`; a prompt that is no chat is the user's.
    pub role: String,
    /// What it says.
    #[serde(flatten)]
    pub content: Cut,
}

/// What a reader said.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct OpinionView {
    /// Unix milliseconds.
    pub at_ms: i64,
    /// From 0 (worst) to 1 (best).
    pub rating: Option<f64>,
    /// In words.
    pub comment: Option<Cut>,
    /// What the answer should have been.
    pub correction: Option<Cut>,
}

/// A problem of the list.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ProblemView {
    /// What it is, and what makes it worth solving.
    #[serde(flatten)]
    pub ranked: Ranked,
    /// Its place, from 1.
    pub rank: usize,
    /// Its failures in equal parts of the window, oldest first.
    pub trend: Vec<u64>,
    /// Fixes that were noted.
    pub n_fixes: usize,
}

/// A fix with its evidence.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct FixView {
    /// The fix.
    #[serde(flatten)]
    pub fix: Fix,
    /// How far it is.
    pub status: FixStatus,
    /// What the traffic says of it now.
    pub now: Evidence,
    /// What it said whenever somebody had it verified, newest first.
    pub history: Vec<Evidence>,
}

const MAX_MESSAGES: usize = 20;
const MAX_OPINIONS: usize = 5;
const SHOWN_CHARS: usize = 4_000;
/// Verifications of a fix that are shown.
const MAX_HISTORY: u32 = 10;

impl Told {
    /// # Errors
    /// The store or the file of conclusions cannot be read.
    pub(crate) fn of(
        book: &Book,
        reader: &Reader,
        failure: &FailureRow,
    ) -> Result<Told, FeedbackError> {
        let tags = book.tags(&failure.request_id, failure.choice)?;
        let Ok(id) = failure.request_id.parse() else {
            return Ok(Told { tags, ..Told::default() });
        };
        let Some(request) = reader.request(id)? else {
            return Ok(Told { tags, ..Told::default() });
        };
        let (messages, n_messages) = request.prompt.as_ref().map(messages).unwrap_or_default();
        let attempt = request.attempts.into_iter().find(|one| one.choice == failure.choice);
        let said = reader.feedback_for(id)?;
        let about = said.iter().rev().filter(|one| one.choice == failure.choice);
        let told = Told {
            tags,
            messages,
            n_messages,
            opinions: about.take(MAX_OPINIONS).map(OpinionView::of).collect(),
            ..Told::default()
        };
        Ok(match attempt {
            None => told,
            Some(attempt) => Told {
                output: attempt.output_text.as_deref().map(shown),
                finish_reason: attempt.finish_reason,
                error_code: attempt.error_code,
                ..told
            },
        })
    }
}

impl Example {
    pub(crate) fn of(
        book: &Book,
        reader: &Reader,
        failure: FailureRow,
    ) -> Result<Example, FeedbackError> {
        let told = Told::of(book, reader, &failure)?;
        Ok(Example { answer: failure.answer(), failure, told })
    }
}

impl ReviewView {
    pub(crate) fn of(
        book: &Book,
        reader: &Reader,
        item: ReviewItem,
    ) -> Result<ReviewView, FeedbackError> {
        let told = Told::of(book, reader, &item.failure)?;
        Ok(ReviewView { item, told })
    }
}

impl FixView {
    pub(crate) fn of(
        book: &Book,
        reader: &Reader,
        fix: Fix,
        now_ms: i64,
    ) -> Result<FixView, FeedbackError> {
        let now = book.weigh(&fix, reader, now_ms)?;
        let history = book.evidence(&fix.id, MAX_HISTORY)?;
        Ok(FixView { status: fix.status(), fix, now, history })
    }
}

impl OpinionView {
    fn of(said: &StoredFeedback) -> OpinionView {
        let rating = said.rating.map(|rating| match rating {
            Rating::Boolean(good) => f64::from(u8::from(good)),
            Rating::Score(score) => score,
        });
        OpinionView {
            at_ms: said.created_at_ms,
            rating,
            comment: said.comment.as_deref().map(shown),
            correction: said.correction.as_deref().map(shown),
        }
    }
}

fn shown(text: &str) -> Cut {
    Cut::new(text, SHOWN_CHARS)
}

/// The last messages of a prompt, and how many it has.
fn messages(prompt: &Value) -> (Vec<Message>, usize) {
    let message = |role: &str, content: Cut| Message { role: role.to_owned(), content };
    if let Some(text) = prompt.get("text").and_then(Value::as_str) {
        return (vec![message("user", shown(text))], 1);
    }
    let Some(all) = prompt.get("messages").and_then(Value::as_array) else {
        return (Vec::new(), 0);
    };
    let last = all.iter().skip(all.len().saturating_sub(MAX_MESSAGES)).map(|one| {
        let role = one["role"].as_str().unwrap_or("user");
        match one["content"].as_str() {
            Some(text) => message(role, shown(text)),
            None => message(role, shown(&one["content"].to_string())),
        }
    });
    (last.collect(), all.len())
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use serde_json::json;

    use super::{MAX_MESSAGES, messages};

    #[test]
    fn the_end_of_a_long_conversation_is_shown() {
        let all: Vec<_> =
            (0..50).map(|i| json!({ "role": "user", "content": format!("word {i}") })).collect();
        let (shown, n) = messages(&json!({ "messages": all }));
        assert_eq!((shown.len(), n), (MAX_MESSAGES, 50));
        assert_eq!(shown.last().unwrap().content.text, "word 49");
    }

    #[test]
    fn what_is_no_chat_is_one_message() {
        let (shown, n) = messages(&json!({ "text": "once upon" }));
        assert_eq!(
            (shown[0].role.as_str(), shown[0].content.text.as_str(), n),
            ("user", "once upon", 1)
        );
        assert_eq!(messages(&json!({ "tokens": [1, 2] })).1, 0);
    }
}
