//! Answers as JSON: whole bodies and the chunks of a stream.
//!
//! It must never know how chunks are framed or sent.
//!
//! Start reading at [`Head`]: what all parts of one response have in common.

use lastmile::{FinishReason, Usage};
use serde::Serialize;

use crate::logprobs::{self, ChatLogprobs, TextLogprobs};
use crate::tools::{CallBody, ToolCall};
use crate::usage::{UsageBody, usage_body};
use crate::{Confidence, LogprobEntry, ScoredToken, Spent};

/// Which of OpenAI's two APIs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// `/v1/chat/completions`
    Chat,
    /// `/v1/completions`
    Text,
}

/// What all parts of one response have in common.
#[derive(Clone, Debug, PartialEq)]
pub struct Head {
    /// Which API.
    pub style: Style,
    /// The response's id, with the API's prefix.
    pub id: String,
    /// Unix seconds.
    pub created: u64,
    /// The model's name as served.
    pub model: String,
    /// What produced the answer: the release hash.
    pub fingerprint: String,
    /// What was ignored; part of the body, or of a stream's last chunk.
    pub warnings: Vec<String>,
    /// Whether a stream ends with a usage chunk; then all other chunks say `"usage": null`.
    pub include_usage: bool,
    /// What it took, where that is asked for and known: in a whole body, and in the last chunk that has choices or usage.
    pub spent: Option<Spent>,
    /// Of a chat, in a whole body: as in [`Choice`].
    pub prompt_logprobs: Option<Vec<Option<ScoredToken>>>,
}

/// One whole answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Choice {
    /// Its place: prompt by prompt, `n` for each.
    pub index: u32,
    /// What was generated, reasoning and calls of tools left out.
    pub text: String,
    /// What the model thought before.
    pub reasoning: Option<String>,
    /// What is called.
    pub tool_calls: Vec<ToolCall>,
    /// When asked for.
    pub logprobs: Option<Vec<LogprobEntry>>,
    /// When asked for: one entry for each token of the prompt, of which the first has none.
    pub prompt_logprobs: Option<Vec<Option<ScoredToken>>>,
    /// When asked for.
    pub confidence: Option<Confidence>,
    /// Why it ended.
    pub finish_reason: FinishReason,
    /// The stop string that ended it.
    pub stop_string: Option<String>,
    /// The id of its own request, when the response spans several.
    pub request_id: Option<String>,
}

#[derive(Serialize)]
struct Envelope<'a, C> {
    id: &'a str,
    object: &'static str,
    created: u64,
    model: &'a str,
    system_fingerprint: &'a str,
    choices: &'a [C],
    /// Outer `None`: no such key. Inner `None`: null.
    #[serde(skip_serializing_if = "Option::is_none")]
    usage: Option<Option<UsageBody>>,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    warnings: &'a [String],
    /// Of a chat; a completion has them with each choice.
    #[serde(skip_serializing_if = "Option::is_none")]
    prompt_logprobs: Option<&'a [Option<ScoredToken>]>,
    #[serde(rename = "timings", skip_serializing_if = "Option::is_none")]
    spent: Option<&'a Spent>,
}

#[derive(Serialize)]
struct ChatChoice<'a> {
    index: u32,
    message: Message<'a>,
    logprobs: Option<ChatLogprobs<'a>>,
    finish_reason: &'static str,
    /// What none of OpenAI's words says, as others name it: `budget`, or the stop string.
    #[serde(skip_serializing_if = "Option::is_none")]
    stop_reason: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    confidence: Option<&'a Confidence>,
}

#[derive(Serialize)]
struct Message<'a> {
    role: &'static str,
    content: Option<&'a str>,
    refusal: Option<()>,
    /// As DeepSeek's API and vLLM name it.
    #[serde(skip_serializing_if = "Option::is_none")]
    reasoning_content: Option<&'a str>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tool_calls: Vec<CallBody<'a>>,
}

#[derive(Serialize)]
struct ChatDelta<'a> {
    index: u32,
    delta: Delta<'a>,
    logprobs: Option<ChatLogprobs<'a>>,
    finish_reason: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    stop_reason: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    confidence: Option<&'a Confidence>,
}

#[derive(Default, Serialize)]
struct Delta<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    role: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    content: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reasoning_content: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tool_calls: Option<[CallDelta<'a>; 1]>,
}

/// A piece of a call.
#[derive(Serialize)]
struct CallDelta<'a> {
    index: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<&'a str>,
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    kind: Option<&'static str>,
    function: FunctionDelta<'a>,
}

#[derive(Serialize)]
struct FunctionDelta<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'a str>,
    arguments: &'a str,
}

/// The same in a whole body and in a chunk.
#[derive(Default, Serialize)]
struct TextChoice<'a> {
    index: u32,
    text: &'a str,
    logprobs: Option<TextLogprobs<'a>>,
    finish_reason: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    stop_reason: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    confidence: Option<&'a Confidence>,
    #[serde(skip_serializing_if = "Option::is_none")]
    prompt_logprobs: Option<&'a [Option<ScoredToken>]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    request_id: Option<&'a str>,
}

/// How a choice of a chat ended.
#[derive(Clone, Copy)]
struct End<'a> {
    reason: FinishReason,
    has_calls: bool,
    confidence: Option<&'a Confidence>,
    stop_string: Option<&'a str>,
}

impl Head {
    /// The whole response.
    #[must_use]
    pub fn whole(&self, choices: &[Choice], usage: Usage) -> String {
        let (usage, warnings) = (Some(Some(usage_body(usage))), self.warnings.as_slice());
        match self.style {
            Style::Chat => {
                let choices = choices.iter().map(|choice| ChatChoice {
                    index: choice.index,
                    message: message(choice),
                    logprobs: choice.logprobs.as_deref().map(logprobs::chat),
                    finish_reason: finish_word(choice.finish_reason, !choice.tool_calls.is_empty()),
                    stop_reason: stop_reason(choice.finish_reason)
                        .or(choice.stop_string.as_deref()),
                    confidence: choice.confidence.as_ref(),
                });
                let choices: Vec<_> = choices.collect();
                self.json("chat.completion", &choices, usage, warnings)
            }
            Style::Text => {
                let choices = choices.iter().map(|choice| TextChoice {
                    index: choice.index,
                    text: &choice.text,
                    logprobs: choice.logprobs.as_deref().map(logprobs::text),
                    finish_reason: Some(finish_word(choice.finish_reason, false)),
                    stop_reason: stop_reason(choice.finish_reason)
                        .or(choice.stop_string.as_deref()),
                    confidence: choice.confidence.as_ref(),
                    prompt_logprobs: choice.prompt_logprobs.as_deref(),
                    request_id: choice.request_id.as_deref(),
                });
                let choices: Vec<_> = choices.collect();
                self.json("text_completion", &choices, usage, warnings)
            }
        }
    }

    /// The chunk that opens a choice of a chat; completions have none.
    #[must_use]
    pub fn first_chunk(&self, index: u32) -> Option<String> {
        let delta = Delta { role: Some("assistant"), content: Some(""), ..Delta::default() };
        (self.style == Style::Chat).then(|| self.chat_chunk(index, delta, None, None, &[]))
    }

    /// More of a choice.
    #[must_use]
    pub fn delta_chunk(&self, index: u32, text: &str, logprobs: Option<&[LogprobEntry]>) -> String {
        match self.style {
            Style::Chat => {
                let delta = Delta { content: Some(text), ..Delta::default() };
                self.chat_chunk(index, delta, logprobs.map(logprobs::chat), None, &[])
            }
            Style::Text => {
                let logprobs = logprobs.map(logprobs::text);
                let choice = TextChoice { index, text, logprobs, ..TextChoice::default() };
                self.json("text_completion", &[choice], self.no_usage(), &[])
            }
        }
    }

    /// More of what the model of a chat thinks before it answers.
    #[must_use]
    pub fn reasoning_chunk(&self, index: u32, text: &str) -> String {
        let delta = Delta { reasoning_content: Some(text), ..Delta::default() };
        self.chat_chunk(index, delta, None, None, &[])
    }

    /// A call of a chat begins.
    #[must_use]
    pub fn call_chunk(&self, index: u32, call: usize, id: &str, name: &str) -> String {
        let function = FunctionDelta { name: Some(name), arguments: "" };
        let call = CallDelta { index: call, id: Some(id), kind: Some("function"), function };
        let delta = Delta { tool_calls: Some([call]), ..Delta::default() };
        self.chat_chunk(index, delta, None, None, &[])
    }

    /// More of a call's arguments.
    #[must_use]
    pub fn arguments_chunk(&self, index: u32, call: usize, json: &str) -> String {
        let function = FunctionDelta { name: None, arguments: json };
        let call = CallDelta { index: call, id: None, kind: None, function };
        let delta = Delta { tool_calls: Some([call]), ..Delta::default() };
        self.chat_chunk(index, delta, None, None, &[])
    }

    /// The end of a choice of a chat that called tools. `is_last` and `confidence` as for [`Self::finish_chunk`].
    #[must_use]
    pub fn finish_calls_chunk(
        &self,
        index: u32,
        reason: FinishReason,
        is_last: bool,
        confidence: Option<&Confidence>,
    ) -> String {
        let end = End { reason, has_calls: true, confidence, stop_string: None };
        self.chat_chunk(index, Delta::default(), None, Some(end), self.last_warnings(is_last))
    }

    /// The end of a choice. `is_last` says that no other choice is open. `request_id`, `confidence` and `stop_string`
    /// as in [`Choice`].
    #[must_use]
    pub fn finish_chunk(
        &self,
        index: u32,
        reason: FinishReason,
        is_last: bool,
        request_id: Option<&str>,
        confidence: Option<&Confidence>,
        stop_string: Option<&str>,
    ) -> String {
        let warnings = self.last_warnings(is_last);
        match self.style {
            Style::Chat => {
                let end = End { reason, has_calls: false, confidence, stop_string };
                self.chat_chunk(index, Delta::default(), None, Some(end), warnings)
            }
            Style::Text => {
                let choice = TextChoice {
                    index,
                    finish_reason: Some(finish_word(reason, false)),
                    stop_reason: stop_reason(reason).or(stop_string),
                    confidence,
                    request_id,
                    ..TextChoice::default()
                };
                self.json("text_completion", &[choice], self.no_usage(), warnings)
            }
        }
    }

    /// The warnings of a choice's last chunk: none when a chunk follows.
    fn last_warnings(&self, is_last: bool) -> &[String] {
        if is_last && !self.include_usage { &self.warnings } else { &[] }
    }

    /// The chunk after all choices, when the usage was asked for.
    #[must_use]
    pub fn usage_chunk(&self, usage: Usage) -> Option<String> {
        let usage = Some(Some(usage_body(usage)));
        let object = match self.style {
            Style::Chat => "chat.completion.chunk",
            Style::Text => "text_completion",
        };
        self.include_usage.then(|| self.json::<TextChoice<'_>>(object, &[], usage, &self.warnings))
    }

    fn chat_chunk(
        &self,
        index: u32,
        delta: Delta<'_>,
        logprobs: Option<ChatLogprobs<'_>>,
        end: Option<End<'_>>,
        warnings: &[String],
    ) -> String {
        let choice = ChatDelta {
            index,
            delta,
            logprobs,
            finish_reason: end.map(|end| finish_word(end.reason, end.has_calls)),
            stop_reason: end.and_then(|end| stop_reason(end.reason).or(end.stop_string)),
            confidence: end.and_then(|end| end.confidence),
        };
        self.json("chat.completion.chunk", &[choice], self.no_usage(), warnings)
    }

    fn no_usage(&self) -> Option<Option<UsageBody>> {
        self.include_usage.then_some(None)
    }

    fn json<C: Serialize>(
        &self,
        object: &'static str,
        choices: &[C],
        usage: Option<Option<UsageBody>>,
        warnings: &[String],
    ) -> String {
        let envelope = Envelope {
            id: &self.id,
            object,
            created: self.created,
            model: &self.model,
            system_fingerprint: &self.fingerprint,
            choices,
            usage,
            warnings,
            prompt_logprobs: self.prompt_logprobs.as_deref(),
            spent: self.spent.as_ref(),
        };
        serde_json::to_string(&envelope)
            .expect("strings, numbers and lists always serialise: this is a bug")
    }
}

/// A call that was cut off says so; one that is complete ends the answer.
fn finish_word(reason: FinishReason, has_calls: bool) -> &'static str {
    match reason {
        FinishReason::Stop if has_calls => "tool_calls",
        FinishReason::Budget => FinishReason::Length.as_str(),
        reason => reason.as_str(),
    }
}

fn stop_reason(reason: FinishReason) -> Option<&'static str> {
    (reason == FinishReason::Budget).then(|| reason.as_str())
}

fn message(choice: &Choice) -> Message<'_> {
    let says_nothing = choice.text.is_empty() && !choice.tool_calls.is_empty();
    Message {
        role: "assistant",
        content: (!says_nothing).then_some(choice.text.as_str()),
        refusal: None,
        reasoning_content: choice.reasoning.as_deref(),
        tool_calls: choice.tool_calls.iter().map(ToolCall::body).collect(),
    }
}
