//! The way of a request's rows from the engine's thread to whoever waits, blocking or not.

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use lm_types::GenerateError;

use super::Encoded;

/// The rows of a request, once they are there. Dropping it abandons the request.
#[derive(Debug)]
pub struct EncodeReply(Arc<Slot>);

/// The engine's end.
#[derive(Debug)]
pub(super) struct ReplyWriter(Arc<Slot>);

#[derive(Debug, Default)]
struct Slot {
    state: Mutex<State>,
    ready: Condvar,
    reader_left: AtomicBool,
}

#[derive(Debug, Default)]
struct State {
    end: Option<Result<Encoded, GenerateError>>,
    waker: Option<Waker>,
}

pub(super) fn reply_pair() -> (ReplyWriter, EncodeReply) {
    let slot = Arc::new(Slot::default());
    (ReplyWriter(Arc::clone(&slot)), EncodeReply(slot))
}

impl Slot {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ReplyWriter {
    /// The first end counts.
    pub(super) fn end(&self, end: Result<Encoded, GenerateError>) {
        let mut state = self.0.lock();
        if state.end.is_none() {
            state.end = Some(end);
        }
        let waker = state.waker.take();
        drop(state);
        self.0.ready.notify_one();
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    pub(super) fn is_abandoned(&self) -> bool {
        self.0.reader_left.load(Relaxed)
    }
}

impl Drop for ReplyWriter {
    /// An engine that dies leaves an error rather than a reader that waits for ever.
    fn drop(&mut self) {
        self.end(Err(GenerateError::EngineDied));
    }
}

impl EncodeReply {
    /// Blocks until the rows are there.
    ///
    /// # Errors
    /// The request failed.
    pub fn wait(self) -> Result<Encoded, GenerateError> {
        let mut state = self.0.lock();
        loop {
            match state.end.take() {
                Some(end) => return end,
                None => {
                    state = self.0.ready.wait(state).unwrap_or_else(PoisonError::into_inner);
                }
            }
        }
    }
}

impl Future for EncodeReply {
    type Output = Result<Encoded, GenerateError>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let mut state = self.0.lock();
        match state.end.take() {
            Some(end) => Poll::Ready(end),
            None => {
                state.waker = Some(context.waker().clone());
                Poll::Pending
            }
        }
    }
}

impl Drop for EncodeReply {
    fn drop(&mut self) {
        self.0.reader_left.store(true, Relaxed);
    }
}
