//! What counts as a failure: the signs that one answer shows.
//!
//! It must never look at another answer: that somebody asked again comes from outside.
//!
//! Start reading at [`signals`].

use std::sync::LazyLock;

use regex::Regex;
use serde::Serialize;
use serde_json::Value;

use crate::{Answer, FeedbackError};

/// A kind of failure, causes before symptoms: the first one names the problem.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// It ended with an error.
    Error,
    /// A time limit passed.
    Timeout,
    /// Its end says the same again and again.
    Repetition,
    /// It was cut before it had the form that was asked for.
    SchemaInvalid,
    /// It was cut at its limit of tokens.
    Truncated,
    /// JSON was asked for, and it is none.
    NotJson,
    /// It begins as refusals begin.
    Refusal,
    /// A rule changed something about it.
    Overridden,
    /// Somebody said what it should have been.
    Corrected,
    /// Somebody said that it is bad.
    Disliked,
    /// Somebody changed its text and had it go on.
    Edited,
    /// The same was asked again soon.
    Regenerated,
    /// The client left before its end.
    Abandoned,
    /// The model was not sure of its tokens.
    LowProbability,
}

/// One sign of failure.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signal {
    /// What kind.
    pub kind: Kind,
    /// Such as the error's code; empty for most.
    pub detail: String,
    /// When somebody or something noticed it, in Unix milliseconds.
    pub noticed_at_ms: i64,
}

/// Name, how bad it is (from 0 to 1), and how likely such a sign is a real failure before anybody reviewed one.
const KINDS: [(Kind, &str, f64, f64); 14] = [
    (Kind::Error, "error", 1.0, 0.98),
    (Kind::Timeout, "timeout", 0.9, 0.98),
    (Kind::Repetition, "repetition", 0.8, 0.9),
    (Kind::SchemaInvalid, "schema_invalid", 0.9, 0.9),
    (Kind::Truncated, "truncated", 0.3, 0.5),
    (Kind::NotJson, "not_json", 0.9, 0.9),
    (Kind::Refusal, "refusal", 0.6, 0.6),
    (Kind::Overridden, "overridden", 0.5, 0.6),
    (Kind::Corrected, "corrected", 1.0, 0.95),
    (Kind::Disliked, "disliked", 1.0, 0.9),
    (Kind::Edited, "edited", 0.7, 0.7),
    (Kind::Regenerated, "regenerated", 0.5, 0.5),
    (Kind::Abandoned, "abandoned", 0.4, 0.4),
    (Kind::LowProbability, "low_probability", 0.3, 0.3),
];

/// A rating below this is a complaint; one above 1 less this is praise.
const BAD_BELOW: f64 = 0.4;
/// A mean log-probability of an answer's tokens below this is low: a probability of 0.14.
const LOW_LOGPROB: f64 = -2.0;
/// The end of an answer that is searched for loops.
const TAIL_CHARS: usize = 2000;
/// A loop repeats at least so often,
const MIN_TURNS: usize = 4;
/// and is at least so long in all.
const MIN_LOOP_CHARS: usize = 60;
/// Refusals come at once.
const HEAD_CHARS: usize = 240;
const REFUSALS: [&str; 18] = [
    "i can't help",
    "i cannot help",
    "i can't assist",
    "i cannot assist",
    "i can't provide",
    "i cannot provide",
    "i can't do that",
    "i am unable to",
    "i'm unable to",
    "i am not able to",
    "i'm not able to",
    "i'm sorry, but i can",
    "i won't be able to",
    "as an ai language model",
    "ich kann ihnen dabei nicht",
    "dabei kann ich nicht helfen",
    "je ne peux pas vous aider",
    "no puedo ayudar",
];

static ASKS_JSON: LazyLock<Regex> = LazyLock::new(|| {
    let pattern =
        r"(?i)\b(?:in|as|only|valid|return|output|with|respond with)\s+(?:an?\s+|valid\s+)*json\b";
    Regex::new(pattern).expect("the pattern is a constant: this is a bug")
});

impl Kind {
    /// Its stable word.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        self.entry().1
    }

    /// How bad one is, from 0 to 1.
    #[must_use]
    pub fn severity(self) -> f64 {
        self.entry().2
    }

    /// How likely a sign of this kind is a real failure, as long as nobody reviewed one.
    #[must_use]
    pub fn credibility(self) -> f64 {
        self.entry().3
    }

    /// By its stable word.
    ///
    /// # Errors
    /// [`FeedbackError::Invalid`].
    pub fn of(word: &str) -> Result<Kind, FeedbackError> {
        let found = KINDS.iter().find(|entry| entry.1 == word).map(|entry| entry.0);
        found.ok_or_else(|| {
            let limit = "error, timeout, repetition, schema_invalid, truncated, not_json, refusal, \
                         overridden, corrected, disliked, edited, regenerated, abandoned or \
                         low_probability";
            FeedbackError::invalid("kind", word, limit)
        })
    }

    fn entry(self) -> &'static (Kind, &'static str, f64, f64) {
        let entry = KINDS.iter().find(|entry| entry.0 == self);
        entry.expect("every kind is in the table: this is a bug")
    }

    /// It is not seen when the answer ends, but when somebody comes back to it, who may take days.
    pub(crate) fn is_late(self) -> bool {
        matches!(self, Kind::Corrected | Kind::Disliked | Kind::Edited | Kind::Regenerated)
    }

    /// People said so; praise does not take it back.
    fn is_explicit(self) -> bool {
        matches!(self, Kind::Corrected | Kind::Disliked)
    }
}

/// The signs of failure that an answer shows, causes before symptoms; none when it is good as far as one can see.
/// `asked_again_ms` is when the same tenant asked the same again soon after, if that happened. Praise outweighs what
/// only may be a failure.
#[must_use]
pub fn signals(answer: &Answer, asked_again_ms: Option<i64>) -> Vec<Signal> {
    let mut found = Vec::new();
    let mut add = |kind, detail: &str, noticed_at_ms| {
        found.push(Signal { kind, detail: detail.to_owned(), noticed_at_ms });
    };
    let ended = answer.ended_at_ms;
    match answer.error_code.as_deref() {
        Some(code @ "deadline_exceeded") => add(Kind::Timeout, code, ended),
        Some(code) => add(Kind::Error, code, ended),
        None => {}
    }
    let output = answer.output.as_deref().unwrap_or_default();
    let (finish, failed) = (answer.finish_reason.as_deref(), answer.error_code.is_some());
    if is_loop(output) {
        add(Kind::Repetition, "", ended);
    }
    if answer.is_constrained && finish == Some("length") {
        // The grammar holds as far as it was let.
        add(Kind::SchemaInvalid, "", ended);
    }
    if finish == Some("length") {
        add(Kind::Truncated, "", ended);
    }
    let is_whole = !failed && finish == Some("stop") && answer.output.is_some();
    if is_whole && asks_json(&answer.messages) && json_of(output).is_none() {
        add(Kind::NotJson, "", ended);
    }
    if is_whole && is_refusal(output) {
        add(Kind::Refusal, "", ended);
    }
    for opinion in &answer.opinions {
        if opinion.correction.is_some() {
            add(Kind::Corrected, "", opinion.at_ms);
        }
        if opinion.rating.is_some_and(|rating| rating < BAD_BELOW) {
            add(Kind::Disliked, "", opinion.at_ms);
        }
    }
    if let Some(at_ms) = asked_again_ms {
        add(Kind::Regenerated, "", at_ms);
    }
    if finish == Some("abort") {
        add(Kind::Abandoned, "", ended);
    }
    if let Some(at_ms) = answer.edited_at_ms {
        add(Kind::Edited, "", at_ms);
    }
    if let Some(at_ms) = answer.overridden_at_ms {
        add(Kind::Overridden, "", at_ms);
    }
    if !failed && answer.mean_logprob.is_some_and(|mean| mean < LOW_LOGPROB) {
        add(Kind::LowProbability, "", ended);
    }
    let is_praised =
        answer.opinions.last().and_then(|opinion| opinion.rating) > Some(1.0 - BAD_BELOW);
    if is_praised {
        found.retain(|signal| signal.kind.is_explicit() || signal.kind.credibility() > 0.6);
    }
    found.sort_by_key(|signal| (signal.kind, signal.noticed_at_ms));
    found.dedup_by_key(|signal| signal.kind);
    found
}

/// Whether the text has this failure; `None` for kinds that a text does not show.
pub(crate) fn shows(kind: Kind, text: &str, finish_reason: Option<&str>) -> Option<bool> {
    match kind {
        Kind::Repetition => Some(is_loop(text)),
        Kind::Truncated => Some(finish_reason == Some("length")),
        Kind::NotJson => Some(json_of(text).is_none()),
        Kind::Refusal => Some(is_refusal(text)),
        _ => None,
    }
}

/// The JSON value that an answer is, in a fence of Markdown or not.
#[must_use]
pub fn json_of(text: &str) -> Option<Value> {
    let text = text.trim();
    let inner = text.strip_prefix("```").and_then(|rest| rest.strip_suffix("```"));
    let inner = inner.map_or(text, |inner| inner.strip_prefix("json").unwrap_or(inner));
    serde_json::from_str(inner).ok()
}

fn asks_json(messages: &[Value]) -> bool {
    let asks = |message: &Value| {
        let is_instruction = message["role"] == "system" || message["role"] == "user";
        is_instruction && message["content"].as_str().is_some_and(|text| ASKS_JSON.is_match(text))
    };
    messages.iter().any(asks)
}

/// Whether a text begins as refusals begin.
#[must_use]
pub fn is_refusal(text: &str) -> bool {
    let head: String = text.chars().take(HEAD_CHARS).flat_map(char::to_lowercase).collect();
    let head = head.replace('\u{2019}', "'");
    REFUSALS.iter().any(|phrase| head.contains(phrase))
}

/// Whether the text ends in turns of one and the same piece, by the Z function of its end read backwards.
fn is_loop(text: &str) -> bool {
    let tail: Vec<char> = text.trim_end().chars().rev().take(TAIL_CHARS).collect();
    let n = tail.len();
    let mut same = vec![0_usize; n];
    // tail[left..right] is the piece furthest to the right that is also a beginning.
    let (mut left, mut right) = (0, 0);
    for period in 1..n {
        let mut length = if period < right { same[period - left].min(right - period) } else { 0 };
        while period + length < n && tail[length] == tail[period + length] {
            length += 1;
        }
        if period + length > right {
            (left, right) = (period, period + length);
        }
        same[period] = length;
        if period + length >= (MIN_TURNS * period).max(MIN_LOOP_CHARS) {
            return true;
        }
    }
    false
}
