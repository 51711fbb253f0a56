//! An answer on its way, wherever it comes from.
//!
//! Start reading at [`Started`].

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_util::Stream;
use lastmile::{
    Aborter, Finish, GenerateError, GenerateEvent, GenerateStream, ReadyRequest, Runtime, Timings,
};

use super::reader::{Reader, SharedEnder};
use super::table::Entry;

/// An answer on its way.
pub(crate) struct Started {
    pub(crate) events: Events,
    /// `None` of one that is over.
    pub(crate) ender: Option<Ender>,
    /// What was changed about the request.
    pub(crate) warnings: Vec<String>,
    /// Tokens of its prompt.
    pub(crate) n_prompt: usize,
}

/// What an answer says.
pub(crate) enum Events {
    /// It is computed for itself.
    Own(GenerateStream),
    /// Others may read it, too.
    Shared(Reader),
    /// It is whole already.
    Told(std::vec::IntoIter<GenerateEvent>),
}

impl Stream for Events {
    type Item = GenerateEvent;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<GenerateEvent>> {
        match self.get_mut() {
            Events::Own(stream) => Pin::new(stream).poll_next(context),
            Events::Shared(reader) => Pin::new(reader).poll_next(context),
            Events::Told(events) => Poll::Ready(events.next()),
        }
    }
}

/// Ends an answer from elsewhere than its reader's thread.
#[derive(Clone)]
pub(crate) enum Ender {
    /// Of one that is computed for itself.
    Own(Aborter),
    /// Of one that others may read, too.
    Shared(Arc<SharedEnder>),
}

impl Ender {
    /// Nothing happens when it is over.
    pub(crate) fn end(&self) {
        match self {
            Ender::Own(aborter) => aborter.abort(),
            Ender::Shared(ender) => ender.end(),
        }
    }
}

impl Started {
    pub(crate) fn of_engine(answer: GenerateStream) -> Self {
        let (ender, warnings) = (Ender::Own(answer.aborter()), answer.warnings().to_vec());
        let n_prompt = answer.n_prompt();
        Started { events: Events::Own(answer), ender: Some(ender), warnings, n_prompt }
    }

    pub(super) fn shared(reader: Reader, warnings: Vec<String>, n_prompt: usize) -> Self {
        let ender = Ender::Shared(reader.ender());
        Started { events: Events::Shared(reader), ender: Some(ender), warnings, n_prompt }
    }

    /// An answer that is whole already.
    pub(super) fn told(entry: &Entry, timings: Timings, warnings: Vec<String>) -> Self {
        let said = &entry.said;
        let prompt = said.prompt.clone();
        let prompt = prompt.map(|(tokens, logprobs)| GenerateEvent::Prompt { tokens, logprobs });
        let has_delta = !said.text.is_empty() || !said.tokens.is_empty();
        let delta = has_delta.then(|| GenerateEvent::Delta {
            text: said.text.clone(),
            tokens: said.tokens.clone(),
            logprobs: said.logprobs.clone(),
        });
        let finish = Finish { reason: entry.reason, usage: entry.usage, timings };
        let end = GenerateEvent::Finished(finish);
        let events: Vec<GenerateEvent> = prompt.into_iter().chain(delta).chain([end]).collect();
        let n_prompt = entry.usage.prompt_tokens as usize;
        Started { events: Events::Told(events.into_iter()), ender: None, warnings, n_prompt }
    }
}

/// Answers that have no part in the cache.
pub(crate) fn of_engine(all: Vec<Vec<GenerateStream>>) -> Vec<Vec<Started>> {
    let of_one = |answers: Vec<GenerateStream>| answers.into_iter().map(Started::of_engine);
    all.into_iter().map(|answers| of_one(answers).collect()).collect()
}

/// Nothing is asked of an engine for no request.
pub(super) fn compute(
    runtime: &Runtime,
    ready: Vec<ReadyRequest>,
) -> Result<Vec<Vec<GenerateStream>>, GenerateError> {
    if ready.is_empty() {
        return Ok(Vec::new());
    }
    runtime.start_ready(ready)
}
