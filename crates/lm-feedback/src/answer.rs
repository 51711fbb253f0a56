//! One answer as plain data: what was asked, what came of it, and what was said about it.
//!
//! It must never judge.
//!
//! Start reading at [`Answer::new`].

use lm_store::{Answered, Implied, Rating, StoredFeedback};
use serde_json::{Value, json};

/// One answer with what was asked and what was said of it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Answer {
    /// The request.
    pub request_id: String,
    /// Which of its answers, from 0.
    pub choice: u32,
    /// What produced it, in hexadecimal.
    pub release_hash: String,
    /// The model's name as served.
    pub model: String,
    /// Who asked; `None` came without a key.
    pub tenant: Option<String>,
    /// When it was asked, in Unix milliseconds.
    pub arrived_at_ms: i64,
    /// When it ended, in Unix milliseconds.
    pub ended_at_ms: i64,
    /// The conversation as OpenAI's messages, without the answer; a raw prompt is one message of the user. Empty when
    /// it was not kept.
    pub messages: Vec<Value>,
    /// `stop`, `length` or `abort`; `None` when it failed.
    pub finish_reason: Option<String>,
    /// The stable word of the error.
    pub error_code: Option<String>,
    /// The text as far as it came; `None` when not kept.
    pub output: Option<String>,
    /// A form was asked for, such as JSON of a schema.
    pub is_constrained: bool,
    /// The mean log-probability of its tokens; `None` where the request asked for none.
    pub mean_logprob: Option<f64>,
    /// What was said of it, oldest first.
    pub opinions: Vec<Opinion>,
    /// When its text was first changed and went on, in Unix milliseconds.
    pub edited_at_ms: Option<i64>,
    /// When a rule first changed something about it without calling it bad, in Unix milliseconds.
    pub overridden_at_ms: Option<i64>,
}

/// What somebody said of an answer.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Opinion {
    /// Unix milliseconds.
    pub at_ms: i64,
    /// From 0 (worst) to 1 (best).
    pub rating: Option<f64>,
    /// What the answer should have been.
    pub correction: Option<String>,
}

impl Answer {
    /// From rows of the store; of `feedback` only what is about this answer counts.
    #[must_use]
    pub fn new(row: &Answered, feedback: &[StoredFeedback]) -> Answer {
        let attempt = &row.attempt;
        let about = feedback
            .iter()
            .filter(|said| said.request_id == row.request_id && said.choice == attempt.choice);
        let (mut opinions, mut edited_at_ms, mut overridden_at_ms) = (Vec::new(), None, None);
        for said in about {
            let implied = said.comment.as_deref().and_then(Implied::of);
            match implied.filter(|_| said.rating.is_none() && said.correction.is_none()) {
                Some(Implied::Edited { .. }) => {
                    edited_at_ms = edited_at_ms.or(Some(said.created_at_ms));
                }
                Some(Implied::Overridden { .. }) => {
                    overridden_at_ms = overridden_at_ms.or(Some(said.created_at_ms));
                }
                None => opinions.push(Opinion::of(said)),
            }
        }
        Answer {
            request_id: row.request_id.to_string(),
            choice: attempt.choice,
            release_hash: attempt.release_hash.clone(),
            model: row.model.clone(),
            tenant: row.tenant.clone(),
            arrived_at_ms: row.arrived_at_ms,
            ended_at_ms: row.arrived_at_ms.saturating_add(attempt.e2e_ms as i64),
            messages: row.prompt.as_ref().map(messages).unwrap_or_default(),
            finish_reason: attempt.finish_reason.clone(),
            error_code: attempt.error_code.clone(),
            output: attempt.output_text.clone(),
            is_constrained: row.params["constrained"] == true,
            mean_logprob: row.mean_logprob,
            opinions,
            edited_at_ms,
            overridden_at_ms,
        }
    }

    /// The last message of the user.
    #[must_use]
    pub fn question(&self) -> Option<&str> {
        let last = self.messages.iter().rev().find(|message| message["role"] == "user");
        last.and_then(|message| message["content"].as_str())
    }

    /// The newest correction that somebody gave.
    #[must_use]
    pub fn correction(&self) -> Option<&str> {
        self.opinions.iter().rev().find_map(|opinion| opinion.correction.as_deref())
    }

    /// The same answer of the same request has this name everywhere: `REQUEST` or `REQUEST/CHOICE`.
    #[must_use]
    pub fn name(&self) -> String {
        name(&self.request_id, self.choice)
    }
}

/// The name of an answer; the first answer of a request has the request's.
pub(crate) fn name(request_id: &str, choice: u32) -> String {
    if choice == 0 { request_id.to_owned() } else { format!("{request_id}/{choice}") }
}

impl Opinion {
    fn of(said: &StoredFeedback) -> Opinion {
        let rating = said.rating.map(|rating| match rating {
            Rating::Boolean(good) => f64::from(u8::from(good)),
            Rating::Score(score) => score,
        });
        Opinion { at_ms: said.created_at_ms, rating, correction: said.correction.clone() }
    }
}

/// A prompt given as tokens has no text, and one with a gap is no message.
fn messages(prompt: &Value) -> Vec<Value> {
    if let Some(messages) = prompt.get("messages").and_then(Value::as_array) {
        return messages.clone();
    }
    let text = prompt.get("text").filter(|_| prompt.get("suffix").is_none());
    let text = text.and_then(Value::as_str);
    text.map(|text| vec![json!({ "role": "user", "content": text })]).unwrap_or_default()
}
