//! Log-probabilities, in the two shapes of OpenAI's API.
//!
//! It must never know the vocabulary: tokens arrive with their names.
//!
//! Start reading at [`LogprobEntry`].

use serde::ser::{Serialize, SerializeMap, Serializer};

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

#[derive(serde::Serialize)]
pub(crate) struct ChatLogprobs<'a> {
    content: Vec<ChatToken<'a>>,
    refusal: Option<()>,
}

#[derive(serde::Serialize)]
struct ChatToken<'a> {
    #[serde(flatten)]
    token: ChatAlternative<'a>,
    top_logprobs: Vec<ChatAlternative<'a>>,
}

#[derive(serde::Serialize)]
struct ChatAlternative<'a> {
    token: &'a str,
    logprob: f32,
    bytes: &'a [u8],
}

#[derive(serde::Serialize)]
pub(crate) struct TextLogprobs<'a> {
    tokens: Vec<&'a str>,
    token_logprobs: Vec<f32>,
    top_logprobs: Vec<TextAlternatives<'a>>,
    text_offset: Vec<usize>,
}

/// A map from text to log-probability. Tokens may share a text; the most likely one stands for it.
struct TextAlternatives<'a>(&'a [(TokenName, f32)]);

impl Serialize for TextAlternatives<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        for (i, (name, logprob)) in self.0.iter().enumerate() {
            if self.0[..i].iter().all(|(earlier, _)| earlier.text != name.text) {
                map.serialize_entry(&name.text, &finite(*logprob))?;
            }
        }
        map.end()
    }
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
    let offsets = entries.iter().scan(offset, |next, entry| {
        let at = *next;
        *next += entry.n_chars();
        Some(at)
    });
    TextLogprobs {
        tokens: entries.iter().map(|entry| entry.token.text.as_str()).collect(),
        token_logprobs: entries.iter().map(|entry| finite(entry.logprob)).collect(),
        top_logprobs: entries.iter().map(|entry| TextAlternatives(&entry.top)).collect(),
        text_offset: offsets.collect(),
    }
}

fn finite(logprob: f32) -> f32 {
    if logprob.is_finite() { logprob } else { IMPOSSIBLE }
}
