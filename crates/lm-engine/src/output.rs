//! The way of an answer from the engine's thread to its reader.
//!
//! The writer never waits and, once warm, never allocates: what was not read yet is joined. The
//! buffer is bounded by the answer's own `max_tokens`. A reader that is dropped tells the engine.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use lm_types::{Finish, GenerateError, GenerateEvent, PromptLogprob, TokenId, TokenLogprobs};

/// The engine's end.
#[derive(Debug)]
pub struct OutputWriter(Arc<Slot>);

/// The reader's end, blocking or asynchronous. Dropping it aborts the answer.
#[derive(Debug)]
pub struct OutputReader(Arc<Slot>);

#[derive(Debug)]
struct Slot {
    state: Mutex<State>,
    ready: Condvar,
    reader_left: AtomicBool,
}

#[derive(Debug, Default)]
struct State {
    /// What is told of the prompt, first of all.
    prompt: Option<(Vec<TokenId>, Vec<PromptLogprob>)>,
    text: String,
    tokens: Vec<TokenId>,
    logprobs: Vec<TokenLogprobs>,
    end: Option<Result<Finish, GenerateError>>,
    is_over: bool,
    waker: Option<Waker>,
    /// Threads that wait. Signalling none would cost a call into the system for every token.
    n_blocked: usize,
}

/// A writer and a reader of one answer of at most `max_new_tokens`.
#[must_use]
pub fn output_pair(max_new_tokens: usize) -> (OutputWriter, OutputReader) {
    // A fast reader keeps the buffer short; a slow one may make it grow up to the answer's length.
    let n_tokens = max_new_tokens.min(1024);
    let state = State {
        text: String::with_capacity(8 * n_tokens),
        tokens: Vec::with_capacity(n_tokens),
        ..State::default()
    };
    let slot = Arc::new(Slot {
        state: Mutex::new(state),
        ready: Condvar::new(),
        reader_left: AtomicBool::new(false),
    });
    (OutputWriter(Arc::clone(&slot)), OutputReader(slot))
}

/// The reader of an answer that no engine computed: this text, and this end.
#[must_use]
pub fn told(text: &str, finish: Finish) -> OutputReader {
    let (writer, reader) = output_pair(1);
    writer.push_all(std::iter::empty(), text);
    writer.end(Ok(finish));
    reader
}

impl Slot {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the state, then wakes the reader.
    fn write(&self, change: impl FnOnce(&mut State)) {
        let mut state = self.lock();
        change(&mut state);
        let (waker, n_blocked) = (state.waker.take(), state.n_blocked);
        drop(state);
        if n_blocked > 0 {
            self.ready.notify_one();
        }
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

impl State {
    fn take_event(&mut self) -> Option<GenerateEvent> {
        if let Some((tokens, logprobs)) = self.prompt.take() {
            return Some(GenerateEvent::Prompt { tokens, logprobs });
        }
        if !self.text.is_empty() || !self.tokens.is_empty() {
            // Copied rather than taken, so that the writer keeps its warm buffers.
            let event = GenerateEvent::Delta {
                text: self.text.clone(),
                tokens: self.tokens.clone(),
                logprobs: std::mem::take(&mut self.logprobs),
            };
            self.text.clear();
            self.tokens.clear();
            return Some(event);
        }
        let end = self.end.take()?;
        self.is_over = true;
        Some(match end {
            Ok(finish) => GenerateEvent::Finished(finish),
            Err(error) => GenerateEvent::Failed(error),
        })
    }
}

impl OutputWriter {
    /// Tells of the prompt, before anything of the answer.
    pub(crate) fn push_prompt(&self, tokens: &[TokenId], logprobs: Vec<PromptLogprob>) {
        self.0.write(|state| state.prompt = Some((tokens.to_vec(), logprobs)));
    }

    /// Appends a drawn token, and the text that became certain with it.
    pub(crate) fn push(&self, token: TokenId, text: &str, logprobs: Option<TokenLogprobs>) {
        self.0.write(|state| {
            state.tokens.push(token);
            state.text.push_str(text);
            state.logprobs.extend(logprobs);
        });
    }

    /// Appends tokens that became certain together, and their text.
    pub(crate) fn push_all(
        &self,
        certain: impl Iterator<Item = (TokenId, Option<TokenLogprobs>)>,
        text: &str,
    ) {
        self.0.write(|state| {
            for (token, logprobs) in certain {
                state.tokens.push(token);
                state.logprobs.extend(logprobs);
            }
            state.text.push_str(text);
        });
    }

    /// Ends the answer.
    pub(crate) fn end(&self, end: Result<Finish, GenerateError>) {
        self.0.write(|state| state.end = Some(end));
    }

    /// Whether nobody will read on.
    #[must_use]
    pub fn is_abandoned(&self) -> bool {
        self.0.reader_left.load(Ordering::Relaxed)
    }
}

impl Drop for OutputWriter {
    /// An engine that dies mid-answer leaves an error rather than a reader that waits for ever.
    fn drop(&mut self) {
        self.0.write(|state| {
            if state.end.is_none() && !state.is_over {
                state.end = Some(Err(GenerateError::EngineDied));
            }
        });
    }
}

/// Ends an answer from elsewhere than its reader's thread.
#[derive(Clone, Debug)]
pub struct Aborter(Arc<Slot>);

impl Aborter {
    /// Ends the answer before the engine's next step, and its step where nobody else waits for it. Nothing happens when it is over.
    pub fn abort(&self) {
        self.0.reader_left.store(true, Ordering::Relaxed);
    }
}

impl OutputReader {
    /// A way to end the answer from elsewhere.
    #[must_use]
    pub fn aborter(&self) -> Aborter {
        Aborter(Arc::clone(&self.0))
    }

    /// Waits for the next event. `None` after the last one.
    pub fn next_blocking(&self) -> Option<GenerateEvent> {
        let mut state = self.0.lock();
        loop {
            if let Some(event) = state.take_event() {
                return Some(event);
            }
            if state.is_over {
                return None;
            }
            state.n_blocked += 1;
            state = self.0.ready.wait(state).unwrap_or_else(PoisonError::into_inner);
            state.n_blocked -= 1;
        }
    }

    /// The next event if there is one; else wakes the task when there is. `None` after the last one.
    pub fn poll_next(&self, context: &mut Context<'_>) -> Poll<Option<GenerateEvent>> {
        let mut state = self.0.lock();
        match state.take_event() {
            Some(event) => Poll::Ready(Some(event)),
            None if state.is_over => Poll::Ready(None),
            None => {
                state.waker = Some(context.waker().clone());
                Poll::Pending
            }
        }
    }
}

impl Drop for OutputReader {
    fn drop(&mut self) {
        self.0.reader_left.store(true, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    fn delta(text: &str, tokens: &[TokenId]) -> GenerateEvent {
        GenerateEvent::Delta { text: text.into(), tokens: tokens.into(), logprobs: vec![] }
    }

    #[test]
    fn unread_tokens_are_joined_and_the_end_comes_last() {
        let (writer, reader) = output_pair(8);
        writer.push(1, "a", None);
        writer.push(2, "", None);
        writer.end(Err(GenerateError::EmptyPrompt));
        assert_eq!(reader.next_blocking(), Some(delta("a", &[1, 2])));
        assert_eq!(reader.next_blocking(), Some(GenerateEvent::Failed(GenerateError::EmptyPrompt)));
        assert_eq!(reader.next_blocking(), None);
    }

    #[test]
    fn a_blocked_reader_wakes_up_at_each_end_of_a_writer() {
        let (writer, reader) = output_pair(8);
        let thread = std::thread::spawn(move || (reader.next_blocking(), reader.next_blocking()));
        writer.push(7, "x", None);
        drop(writer);
        let died = GenerateEvent::Failed(GenerateError::EngineDied);
        assert_eq!(thread.join().unwrap(), (Some(delta("x", &[7])), Some(died)));
    }

    #[test]
    fn a_reader_that_left_is_noticed() {
        let (writer, reader) = output_pair(8);
        assert!(!writer.is_abandoned());
        drop(reader);
        assert!(writer.is_abandoned());
    }
}
