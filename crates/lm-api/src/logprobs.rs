//! Log-probabilities, in the two shapes of OpenAI's API.
//!
//! It must never know the vocabulary: tokens arrive with their names.
//!
//! Start reading at [`LogprobEntry`].

use lm_tokenizer::DecodeStream;
use serde::ser::{Serialize, SerializeMap, Serializer};

/// A token as text and as bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenName {
    /// As text; a part of a character shows as a replacement character.
    pub text: String,
    /// The bytes that it adds to the answer.
    pub bytes: Vec<u8>,
}

/// One token with its alternatives. There is one for each generated token, the ending one included, and before
/// them one for each token of an echoed prompt.
#[derive(Clone, Debug, PartialEq)]
pub struct LogprobEntry {
    /// The token.
    pub token: TokenName,
    /// Its natural log-probability; none for a prompt's first token, before which nothing stands.
    pub logprob: Option<f32>,
    /// The most likely tokens, most likely first.
    pub top: Vec<(TokenName, f32)>,
    /// Whole characters of the answer before the token; completions alone show it.
    pub text_offset: usize,
}

/// Counts an answer's characters along its tokens, for `text_offset`. A character may span tokens,
/// and a control token adds none, so the bytes are decoded as the answer's own are.
#[derive(Clone, Debug, Default)]
pub struct TextOffset {
    decoder: DecodeStream,
    n_chars: usize,
    /// The characters that the last token completed; kept for its room.
    text: String,
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
    token_logprobs: Vec<Option<f32>>,
    top_logprobs: Vec<Option<TextAlternatives<'a>>>,
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

impl TextOffset {
    /// Whole characters before the next token, whose bytes are these.
    pub fn advance(&mut self, bytes: &[u8]) -> usize {
        let before = self.n_chars;
        self.text.clear();
        self.decoder.push(bytes, &mut self.text);
        self.n_chars += self.text.chars().count();
        before
    }
}

pub(crate) fn chat(entries: &[LogprobEntry]) -> ChatLogprobs<'_> {
    let content = entries.iter().map(|entry| ChatToken {
        token: alternative(&entry.token, entry.logprob.unwrap_or(IMPOSSIBLE)),
        top_logprobs: entry.top.iter().map(|(name, logprob)| alternative(name, *logprob)).collect(),
    });
    ChatLogprobs { content: content.collect(), refusal: None }
}

fn alternative(name: &TokenName, logprob: f32) -> ChatAlternative<'_> {
    ChatAlternative { token: &name.text, logprob: finite(logprob), bytes: &name.bytes }
}

pub(crate) fn text(entries: &[LogprobEntry]) -> TextLogprobs<'_> {
    TextLogprobs {
        tokens: entries.iter().map(|entry| entry.token.text.as_str()).collect(),
        token_logprobs: entries.iter().map(|entry| entry.logprob.map(finite)).collect(),
        top_logprobs: entries
            .iter()
            .map(|entry| entry.logprob.map(|_| TextAlternatives(&entry.top)))
            .collect(),
        text_offset: entries.iter().map(|entry| entry.text_offset).collect(),
    }
}

pub(crate) fn finite(logprob: f32) -> f32 {
    if logprob.is_finite() { logprob } else { IMPOSSIBLE }
}

#[cfg(test)]
mod tests {
    use super::TextOffset;

    #[track_caller]
    fn check(tokens: &[&[u8]], expect: &[usize]) {
        let mut offset = TextOffset::default();
        let found: Vec<usize> = tokens.iter().map(|bytes| offset.advance(bytes)).collect();
        assert_eq!(found, expect);
    }

    #[test]
    fn offsets_count_whole_characters_of_the_text() {
        check(&[b"ab", b"", b"c"], &[0, 2, 2]);
        check(&["é".as_bytes(), b"x"], &[0, 1]);
        // One character of four tokens, then one of a single token.
        check(&[b"a", b"\xf0", b"\x9f", b"\x98", b"\x80", b"b"], &[0, 1, 1, 1, 1, 2]);
        // What cannot be UTF-8 shows as U+FFFD.
        check(&[b"\xc3", b"a", b"b"], &[0, 0, 2]);
    }
}
