//! Log-probabilities, in the two shapes of OpenAI's API.
//!
//! It must never know the vocabulary: tokens arrive with their names.
//!
//! Start reading at [`LogprobEntry`].

use serde::Serialize;
use serde_json::{Map, Value};

/// A token as text and as bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenName {
    /// As text; a part of a character shows as a replacement character.
    pub text: String,
    /// The bytes that it adds to the answer.
    pub bytes: Vec<u8>,
}

/// One drawn token with its alternatives. There is one for each generated token, the ending one
/// included.
#[derive(Clone, Debug, PartialEq)]
pub struct LogprobEntry {
    /// The token that was drawn.
    pub token: TokenName,
    /// Its natural log-probability.
    pub logprob: f32,
    /// The most likely tokens, most likely first.
    pub top: Vec<(TokenName, f32)>,
}

/// JSON has no infinity; this is what OpenAI's API writes for an impossible token.
const IMPOSSIBLE: f32 = -9999.0;

#[derive(Serialize)]
pub(crate) struct ChatLogprobs<'a> {
    content: Vec<ChatToken<'a>>,
    refusal: Option<()>,
}

#[derive(Serialize)]
struct ChatToken<'a> {
    #[serde(flatten)]
    token: ChatAlternative<'a>,
    top_logprobs: Vec<ChatAlternative<'a>>,
}

#[derive(Serialize)]
struct ChatAlternative<'a> {
    token: &'a str,
    logprob: f32,
    bytes: &'a [u8],
}

#[derive(Serialize)]
pub(crate) struct TextLogprobs<'a> {
    tokens: Vec<&'a str>,
    token_logprobs: Vec<f32>,
    top_logprobs: Vec<Map<String, Value>>,
    text_offset: Vec<usize>,
}

impl LogprobEntry {
    /// Characters that the token adds to `text_offset`.
    #[must_use]
    pub fn n_chars(&self) -> usize {
        self.token.text.chars().count()
    }
}

pub(crate) fn chat(entries: &[LogprobEntry]) -> ChatLogprobs<'_> {
    let content = entries.iter().map(|entry| ChatToken {
        token: alternative(&entry.token, entry.logprob),
        top_logprobs: entry.top.iter().map(|(name, logprob)| alternative(name, *logprob)).collect(),
    });
    ChatLogprobs { content: content.collect(), refusal: None }
}

fn alternative(name: &TokenName, logprob: f32) -> ChatAlternative<'_> {
    ChatAlternative { token: &name.text, logprob: finite(logprob), bytes: &name.bytes }
}

/// `offset` counts the characters of the choice's earlier tokens.
pub(crate) fn text(entries: &[LogprobEntry], offset: usize) -> TextLogprobs<'_> {
    let top = |entry: &LogprobEntry| {
        entry.top.iter().map(|(name, l)| (name.text.clone(), finite(*l).into())).collect()
    };
    let offsets = entries.iter().scan(offset, |next, entry| {
        let at = *next;
        *next += entry.n_chars();
        Some(at)
    });
    TextLogprobs {
        tokens: entries.iter().map(|entry| entry.token.text.as_str()).collect(),
        token_logprobs: entries.iter().map(|entry| finite(entry.logprob)).collect(),
        top_logprobs: entries.iter().map(top).collect(),
        text_offset: offsets.collect(),
    }
}

fn finite(logprob: f32) -> f32 {
    if logprob.is_finite() { logprob } else { IMPOSSIBLE }
}
