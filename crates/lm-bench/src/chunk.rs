//! Server-sent events of a streamed answer.
//!
//! It must never know a clock or a connection: bytes in, events out.
//!
//! Start reading at [`Events::feed`], then [`Chunk`].

use std::borrow::Cow;

use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::Value;

/// Longest line that is read; a longer one is not of this protocol.
const MAX_LINE_BYTES: usize = 16 << 20;

/// Splits what comes into the data of events. OpenAI's streams have one line of data for each.
#[derive(Debug, Default)]
pub(crate) struct Events {
    /// The beginning of a line whose end has not come.
    rest: Vec<u8>,
}

/// What one event says.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Chunk {
    /// Text of any kind: an answer, reasoning, or a tool call.
    pub(crate) has_content: bool,
    /// The text of the answer.
    pub(crate) text: String,
    pub(crate) is_finished: bool,
    pub(crate) usage: Option<Usage>,
    pub(crate) error: Option<String>,
    pub(crate) is_done: bool,
}

/// The server's own count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
pub(crate) struct Usage {
    pub(crate) prompt_tokens: u64,
    #[serde(default)]
    pub(crate) completion_tokens: u64,
    #[serde(default)]
    prompt_tokens_details: Option<Details>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
struct Details {
    cached_tokens: Option<u64>,
}

#[derive(Deserialize)]
struct Wire<'a> {
    #[serde(borrow, default)]
    choices: Option<Vec<Choice<'a>>>,
    #[serde(default)]
    usage: Option<Usage>,
    #[serde(default)]
    error: Option<Value>,
}

#[derive(Deserialize)]
struct Choice<'a> {
    #[serde(borrow, default)]
    text: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    delta: Option<Delta<'a>>,
    #[serde(default)]
    finish_reason: Option<IgnoredAny>,
}

#[derive(Deserialize)]
struct Delta<'a> {
    #[serde(borrow, default)]
    content: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    reasoning_content: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    reasoning: Option<Cow<'a, str>>,
    #[serde(default)]
    tool_calls: Option<Vec<IgnoredAny>>,
}

impl Usage {
    pub(crate) fn cached_tokens(&self) -> u64 {
        self.prompt_tokens_details.and_then(|details| details.cached_tokens).unwrap_or(0)
    }
}

impl Events {
    /// Takes bytes in, and gives the data of each line that is complete now.
    ///
    /// # Errors
    /// A line without end, or what `each` says.
    pub(crate) fn feed(
        &mut self,
        mut bytes: &[u8],
        mut each: impl FnMut(&[u8]) -> Result<(), String>,
    ) -> Result<(), String> {
        while let Some(end) = bytes.iter().position(|&byte| byte == b'\n') {
            if self.rest.is_empty() {
                data_of(&bytes[..end]).map_or(Ok(()), &mut each)?;
            } else {
                self.rest.extend_from_slice(&bytes[..end]);
                let line = std::mem::take(&mut self.rest);
                data_of(&line).map_or(Ok(()), &mut each)?;
            }
            bytes = &bytes[end + 1..];
        }
        if self.rest.len() + bytes.len() > MAX_LINE_BYTES {
            return Err(format!("a line of the stream is longer than {MAX_LINE_BYTES} bytes"));
        }
        self.rest.extend_from_slice(bytes);
        Ok(())
    }
}

/// What follows `data:` in a line.
fn data_of(line: &[u8]) -> Option<&[u8]> {
    Some(line.strip_prefix(b"data:")?.trim_ascii())
}

impl Chunk {
    /// Reads the data of one event.
    ///
    /// # Errors
    /// It is neither JSON of this protocol nor `[DONE]`.
    pub(crate) fn parse(data: &[u8]) -> Result<Chunk, String> {
        if data == b"[DONE]" {
            return Ok(Chunk { is_done: true, ..Chunk::default() });
        }
        let wire: Wire<'_> = serde_json::from_slice(data).map_err(|error| {
            let shown: String = String::from_utf8_lossy(data).chars().take(120).collect();
            format!("an event is not a chunk of an answer ({error}): {shown}")
        })?;
        let mut chunk = Chunk { usage: wire.usage, ..Chunk::default() };
        chunk.error = wire.error.map(|error| error_text(&error));
        for choice in wire.choices.unwrap_or_default() {
            chunk.is_finished |= choice.finish_reason.is_some();
            if let Some(delta) = choice.delta {
                let is_some = |text: &Option<Cow<'_, str>>| {
                    text.as_ref().is_some_and(|text| !text.is_empty())
                };
                chunk.has_content |= is_some(&delta.reasoning_content)
                    || is_some(&delta.reasoning)
                    || delta.tool_calls.is_some_and(|calls| !calls.is_empty());
                chunk.text.push_str(&delta.content.unwrap_or_default());
            }
            chunk.text.push_str(&choice.text.unwrap_or_default());
        }
        chunk.has_content |= !chunk.text.is_empty();
        Ok(chunk)
    }
}

/// The sentence of an error body, or all of it.
pub(crate) fn error_text(error: &Value) -> String {
    let inner = error.get("error").unwrap_or(error);
    let message = inner.get("message").unwrap_or(inner);
    message.as_str().map_or_else(|| message.to_string(), str::to_owned)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    #[test]
    fn events_are_found_however_the_bytes_are_cut() {
        let stream =
            b": hello\r\ndata: {\"a\":1}\r\n\r\nevent: error\ndata:two\n\ndata: [DONE]\n\n";
        for size in [1, 2, 3, 7, 1000] {
            let (mut events, mut found) = (Events::default(), Vec::new());
            for piece in stream.chunks(size) {
                let keep = |data: &[u8]| {
                    found.push(String::from_utf8(data.to_vec()).unwrap());
                    Ok(())
                };
                events.feed(piece, keep).unwrap();
            }
            assert_eq!(found, ["{\"a\":1}", "two", "[DONE]"]);
        }
    }

    #[track_caller]
    fn check(data: &str, has_content: bool, text: &str, is_finished: bool) {
        let chunk = Chunk::parse(data.as_bytes()).unwrap();
        assert_eq!(
            (chunk.has_content, chunk.text.as_str(), chunk.is_finished),
            (has_content, text, is_finished)
        );
    }

    #[test]
    fn only_text_counts_as_a_token() {
        check(r#"{"choices":[{"text":" a\n"}]}"#, true, " a\n", false);
        check(r#"{"choices":[{"delta":{"content":"a"},"finish_reason":null}]}"#, true, "a", false);
        check(r#"{"choices":[{"delta":{"role":"assistant","content":""}}]}"#, false, "", false);
        check(r#"{"choices":[{"delta":{"reasoning_content":"hm"}}]}"#, true, "", false);
        check(r#"{"choices":[{"delta":{},"finish_reason":"stop"}]}"#, false, "", true);
        check(r#"{"choices":[],"usage":null}"#, false, "", false);
        assert!(Chunk::parse(b"[DONE]").unwrap().is_done);
    }

    #[test]
    fn usage_and_errors_are_read_and_rubbish_is_named() {
        let usage = br#"{"choices":[],"usage":{"prompt_tokens":7,"completion_tokens":3,
            "prompt_tokens_details":{"cached_tokens":2}}}"#;
        let usage = Chunk::parse(usage).unwrap().usage.unwrap();
        assert_eq!(
            (usage.prompt_tokens, usage.completion_tokens, usage.cached_tokens()),
            (7, 3, 2)
        );
        let failed = Chunk::parse(br#"{"error":{"message":"too late","code":408}}"#).unwrap();
        assert_eq!(failed.error.unwrap(), "too late");
        assert!(Chunk::parse(b"<html>").unwrap_err().contains("<html>"));
    }
}
