//! Answers that are sent as they come, by server-sent events.
//!
//! It must never buffer: the next event is asked for when the connection has room. Tokens that come
//! meanwhile are joined by the engine. A slow reader therefore stalls only itself.
//!
//! Start reading at [`response`], then [`Transcript::next`].

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::http::{HeaderName, HeaderValue};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::{StreamExt, stream};
use lastmile::{
    AnswerPart, Finish, GenerateError, GenerateEvent, TokenLogprobs, ToolCallParser, Usage,
};
use lm_api::{Spent, TextOffset, sum_usage};

use crate::generate::{Running, named, refused};
use crate::prompt_told::{ToldPrompt, echoed};
use crate::request_log::RequestEntry;

/// A comment is sent when nothing else was for so long, so that proxies keep the connection.
pub(crate) const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// Proxies of the nginx family buffer responses unless told not to.
pub(crate) const X_ACCEL_BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");

/// What was sent of a response, and what comes next. Dropped when the client leaves, which aborts
/// the answers.
struct Transcript {
    entry: Arc<RequestEntry>,
    running: Running,
    choices: Vec<Progress>,
    n_open: usize,
    pending: VecDeque<Event>,
    is_over: bool,
}

/// How far one choice is.
#[derive(Clone, Default)]
struct Progress {
    text_offset: TextOffset,
    finish: Option<Finish>,
    /// Reads calls of tools, when there are any.
    calls: Option<ToolCallParser>,
}

pub(crate) fn response(entry: Arc<RequestEntry>, running: Running) -> Response {
    let n_choices = running.n_choices;
    let opening = (0..n_choices as u32).filter_map(|index| running.head.first_chunk(index));
    let pending = opening.map(data).collect();
    let transcript = Transcript {
        entry,
        choices: vec![Progress { calls: running.call_parser(), ..Progress::default() }; n_choices],
        n_open: n_choices,
        pending,
        is_over: false,
        running,
    };
    let events = stream::unfold(transcript, |mut transcript| async move {
        let event = transcript.next().await?;
        Some((Ok::<_, Infallible>(event), transcript))
    });
    let sse = Sse::new(events).keep_alive(KeepAlive::new().interval(KEEP_ALIVE));
    let mut response = sse.into_response();
    response.headers_mut().insert(X_ACCEL_BUFFERING, HeaderValue::from_static("no"));
    response
}

impl Transcript {
    /// The next event to send; `None` after the last one.
    async fn next(&mut self) -> Option<Event> {
        loop {
            if let Some(event) = self.pending.pop_front() {
                return Some(event);
            }
            if self.is_over {
                return None;
            }
            match self.running.events.next().await {
                Some((index, GenerateEvent::Prompt { tokens, logprobs: scored })) => {
                    self.prompt(index, &ToldPrompt { tokens, scored });
                }
                Some((index, GenerateEvent::Delta { text, logprobs, .. })) => {
                    self.delta(index, &text, &logprobs);
                }
                Some((index, GenerateEvent::Finished(finish))) => self.finished(index, &finish),
                Some((_, GenerateEvent::Failed(error))) => self.failed(error),
                None => self.failed(GenerateError::ShuttingDown),
            }
        }
    }

    /// A completion that echoes its prompt begins with it.
    fn prompt(&mut self, index: usize, told: &ToldPrompt) {
        let Running { runtime, echo, has_logprobs, n, n_top, .. } = &self.running;
        let Some(texts) = echo else { return };
        let text_offset = &mut self.choices[index].text_offset;
        let entries = has_logprobs.then(|| echoed(runtime, told, *n_top, text_offset));
        let text = &texts[index / (*n).max(1)];
        let chunk = self.running.head.delta_chunk(index as u32, text, entries.as_deref());
        self.pending.push_back(data(chunk));
    }

    fn delta(&mut self, index: usize, text: &str, logprobs: &[TokenLogprobs]) {
        let text_offset = &mut self.choices[index].text_offset;
        let has_logprobs = self.running.has_logprobs;
        let entries = has_logprobs.then(|| named(&self.running.runtime, logprobs, text_offset));
        let parts = self.choices[index].calls.as_mut().map(|calls| calls.push(text));
        let text = if parts.is_some() { "" } else { text };
        self.tell(index, parts.unwrap_or_default());
        // Without text or log-probabilities there is nothing to say.
        if text.is_empty() && entries.as_ref().is_none_or(Vec::is_empty) {
            return;
        }
        let chunk = self.running.head.delta_chunk(index as u32, text, entries.as_deref());
        self.pending.push_back(data(chunk));
    }

    /// What a choice that may call tools says and calls.
    fn tell(&mut self, index: usize, parts: Vec<AnswerPart>) {
        for part in parts {
            let (head, choice) = (&self.running.head, index as u32);
            let chunk = match &part {
                AnswerPart::Text(text) => head.delta_chunk(choice, text, None),
                AnswerPart::CallBegins { index: call, name } => {
                    let id = self.running.call_id(index, *call);
                    head.call_chunk(choice, *call, &id, name)
                }
                AnswerPart::Arguments { index: call, json } => {
                    head.arguments_chunk(choice, *call, json)
                }
            };
            self.pending.push_back(data(chunk));
        }
    }

    fn finished(&mut self, index: usize, finish: &Finish) {
        let last = self.choices[index].calls.as_mut().map(ToolCallParser::finish);
        self.tell(index, last.unwrap_or_default());
        let has_calls = self.choices[index].calls.as_ref().is_some_and(|calls| calls.n_calls() > 0);
        self.choices[index].finish = Some(finish.clone());
        self.n_open -= 1;
        let is_last = self.n_open == 0;
        if is_last && !self.running.head.include_usage {
            self.running.head.spent = self.spent();
        }
        let own_id = self.running.own_id(index);
        let head = &self.running.head;
        let chunk = match has_calls {
            true => head.finish_calls_chunk(index as u32, finish.reason, is_last),
            false => head.finish_chunk(index as u32, finish.reason, is_last, own_id.as_deref()),
        };
        self.pending.push_back(data(chunk));
        if is_last {
            self.running.head.spent = self.spent();
            let head = &self.running.head;
            let usages: Vec<Usage> = self.finishes().iter().map(|finish| finish.usage).collect();
            let usage = sum_usage(&usages, self.running.n);
            self.entry.used(usage);
            self.pending.extend(head.usage_chunk(usage).map(data));
            self.end();
        }
    }

    fn finishes(&self) -> Vec<Finish> {
        self.choices.iter().filter_map(|choice| choice.finish.clone()).collect()
    }

    /// What it took, where that is asked for.
    fn spent(&self) -> Option<Spent> {
        let prices = self.running.prices.as_ref()?;
        Some(Spent::of(&self.finishes(), self.running.n, prices))
    }

    /// The status is sent already, so the error goes in-stream and ends it.
    fn failed(&mut self, error: GenerateError) {
        let error = refused(error, self.running.head.style);
        self.entry.failed(&error);
        self.pending.push_back(Event::default().event("error").data(error.to_json()));
        // The other choices would compute for nobody.
        self.running.events.clear();
        self.end();
    }

    fn end(&mut self) {
        self.pending.push_back(data("[DONE]".to_owned()));
        self.is_over = true;
    }
}

impl Drop for Transcript {
    fn drop(&mut self) {
        if !self.is_over || !self.pending.is_empty() {
            self.entry.client_left();
        }
    }
}

fn data(chunk: String) -> Event {
    Event::default().data(chunk)
}
