//! Answers that are sent as they come, by server-sent events.
//!
//! It must never buffer: the next event is asked for when the connection has room. Tokens that come
//! meanwhile are joined by the engine.
//!
//! Start reading at [`response`], then [`Transcript::take_in`].

use std::sync::Arc;
use std::task::{Context, Poll, ready};

use axum::response::Response;
use futures_util::StreamExt;
use lastmile::{
    AnswerPart, AnswerReader, Finish, GenerateError, GenerateEvent, TokenLogprobs, Usage,
};
use lm_api::{DeltaFrame, Spent, Sureness, TextOffset, sum_usage};

use crate::ended_by::StopTail;
use crate::event_body::{Told, events, push_data, push_event};
use crate::generate::{named, refused};
use crate::prompt_told::{ToldPrompt, echoed};
use crate::request_log::RequestEntry;
use crate::running::Running;

/// What was sent of a response, and what comes next. Dropped when the client leaves, which aborts
/// the answers.
struct Transcript {
    entry: Arc<RequestEntry>,
    running: Running,
    choices: Vec<Progress>,
    n_open: usize,
    /// Events that were not sent yet.
    pending: Vec<u8>,
    is_over: bool,
}

/// How far one choice is.
#[derive(Clone, Default)]
struct Progress {
    text_offset: TextOffset,
    finish: Option<Finish>,
    /// How likely its tokens are, where that is known.
    sureness: Sureness,
    stops: StopTail,
    /// Around its texts, once there was one.
    frame: Option<DeltaFrame>,
    /// Reads reasoning and calls of tools, when there may be any.
    reader: Option<AnswerReader>,
}

pub(crate) fn response(entry: Arc<RequestEntry>, running: Running) -> Response {
    let n_choices = running.n_choices;
    let mut pending = Vec::new();
    for chunk in (0..n_choices as u32).filter_map(|index| running.head.first_chunk(index)) {
        push_event(&mut pending, None, &chunk);
    }
    let progress =
        |choice| Progress { reader: running.answer_reader(choice), ..Progress::default() };
    events(Transcript {
        entry,
        choices: (0..n_choices).map(progress).collect(),
        n_open: n_choices,
        pending,
        is_over: false,
        running,
    })
}

impl Told for Transcript {
    fn poll_bytes(&mut self, context: &mut Context<'_>) -> Poll<Option<Vec<u8>>> {
        while self.pending.is_empty() && !self.is_over {
            let event = ready!(self.running.events.poll_next_unpin(context));
            self.take_in(event);
        }
        let bytes = std::mem::take(&mut self.pending);
        Poll::Ready((!bytes.is_empty()).then_some(bytes))
    }
}

impl Transcript {
    /// Says what an event says; `None` when there will be none although there should.
    fn take_in(&mut self, event: Option<(usize, GenerateEvent)>) {
        match event {
            Some((index, GenerateEvent::Prompt { tokens, logprobs: scored })) => {
                self.prompt(index, &ToldPrompt { tokens, scored });
            }
            Some((index, GenerateEvent::Delta { text, tokens, logprobs })) => {
                self.choices[index].stops.take(&self.running, &tokens);
                self.delta(index, &text, &logprobs);
            }
            Some((index, GenerateEvent::Finished(finish))) => self.finished(index, finish),
            Some((_, GenerateEvent::Failed(error))) => self.failed(error),
            None => self.failed(GenerateError::ShuttingDown),
        }
    }

    fn push(&mut self, chunk: &str) {
        push_event(&mut self.pending, None, chunk);
    }

    /// A completion that echoes its prompt begins with it.
    fn prompt(&mut self, index: usize, told: &ToldPrompt) {
        let Running { runtime, echo, has_logprobs, n, n_top, .. } = &self.running;
        let Some(texts) = echo else { return };
        let text_offset = &mut self.choices[index].text_offset;
        let entries = has_logprobs.then(|| echoed(runtime, told, *n_top, text_offset));
        let text = &texts[index / (*n).max(1)];
        let chunk = self.running.head.delta_chunk(index as u32, text, entries.as_deref());
        self.push(&chunk);
    }

    fn delta(&mut self, index: usize, text: &str, logprobs: &[TokenLogprobs]) {
        if self.running.is_cut(index, self.choices[index].reader.as_ref()) {
            return;
        }
        let Progress { text_offset, sureness, .. } = &mut self.choices[index];
        logprobs.iter().for_each(|one| sureness.push(one.logprob));
        let has_logprobs = self.running.has_logprobs;
        let entries = has_logprobs.then(|| named(&self.running.runtime, logprobs, text_offset));
        let parts = self.choices[index].reader.as_mut().map(|reader| reader.push(text));
        let text = if parts.is_some() { "" } else { text };
        self.tell(index, parts.unwrap_or_default());
        if self.running.is_cut(index, self.choices[index].reader.as_ref()) {
            return;
        }
        // Without text or log-probabilities there is nothing to say.
        if text.is_empty() && entries.as_ref().is_none_or(Vec::is_empty) {
            return;
        }
        if entries.is_some() {
            let chunk = self.running.head.delta_chunk(index as u32, text, entries.as_deref());
            return self.push(&chunk);
        }
        let (head, pending) = (&self.running.head, &mut self.pending);
        let frame = &mut self.choices[index].frame;
        let frame = frame.get_or_insert_with(|| head.delta_frame(index as u32));
        push_data(pending, |bytes| frame.write(text, bytes));
    }

    /// What a choice that is read thinks, says and calls.
    fn tell(&mut self, index: usize, parts: Vec<AnswerPart>) {
        for part in parts {
            let (head, choice) = (&self.running.head, index as u32);
            let chunk = match &part {
                AnswerPart::Reasoning(text) => head.reasoning_chunk(choice, text),
                AnswerPart::Text(text) => head.delta_chunk(choice, text, None),
                AnswerPart::CallBegins { index: call, name } => {
                    let id = self.running.call_id(index, *call);
                    head.call_chunk(choice, *call, &id, name)
                }
                AnswerPart::Arguments { index: call, json } => {
                    head.arguments_chunk(choice, *call, json)
                }
            };
            self.push(&chunk);
        }
    }

    fn finished(&mut self, index: usize, mut finish: Finish) {
        let last = self.choices[index].reader.as_mut().map(AnswerReader::finish);
        self.tell(index, last.unwrap_or_default());
        self.running.settle(index, self.choices[index].reader.as_ref(), &mut finish);
        let has_calls =
            self.choices[index].reader.as_ref().is_some_and(|reader| reader.n_calls() > 0);
        let reason = finish.reason;
        self.choices[index].finish = Some(finish);
        self.n_open -= 1;
        let is_last = self.n_open == 0;
        if is_last && !self.running.head.include_usage {
            self.running.head.spent = self.spent();
        }
        let own_id = self.running.own_id(index);
        let confidence = self.running.confidence(&self.choices[index].sureness);
        let (head, choice, confidence) = (&self.running.head, index as u32, confidence.as_ref());
        let chunk = match has_calls {
            true => head.finish_calls_chunk(choice, reason, is_last, confidence),
            false => {
                let stop = self.choices[index].stops.ended(&self.running, reason);
                let own_id = own_id.as_deref();
                head.finish_chunk(choice, reason, is_last, own_id, confidence, stop)
            }
        };
        self.push(&chunk);
        if is_last {
            self.running.head.spent = self.spent();
            let head = &self.running.head;
            let usages: Vec<Usage> = self.finishes().iter().map(|finish| finish.usage).collect();
            let usage = sum_usage(&usages, self.running.n);
            self.entry.used(usage);
            if let Some(chunk) = head.usage_chunk(usage) {
                self.push(&chunk);
            }
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
        push_event(&mut self.pending, Some("error"), &error.to_json());
        // The other choices would compute for nobody.
        self.running.events.abort();
        self.end();
    }

    fn end(&mut self) {
        self.push("[DONE]");
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
