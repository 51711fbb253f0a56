//! What a request looks like when it reaches the engine.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::SystemTime;

use lm_tokenizer::StopMatcher;
use lm_types::{GenerateRequest, TokenId};

use crate::OutputWriter;

/// One answer to compute: validated and tokenised.
#[derive(Debug)]
pub struct NewSubmission {
    /// What the client asked for.
    pub request: Arc<GenerateRequest>,
    /// Which of its `n` answers this is, from 0.
    pub choice: u32,
    /// The prompt's tokens; not empty, all within the vocabulary.
    pub prompt: Vec<TokenId>,
    /// Fits the context together with the prompt; at least 1.
    pub max_new_tokens: usize,
    /// Built from the request's stop strings.
    pub stop: StopMatcher,
    /// When the request arrived, by the wall clock.
    pub arrived_at: SystemTime,
    /// Where the answer goes.
    pub output: OutputWriter,
}

/// A place in the queue, given back when it is dropped.
#[derive(Debug)]
pub(crate) struct QueuePlace(Arc<AtomicUsize>);

impl QueuePlace {
    /// Takes `n` places, or none when there are not so many; then says how many are taken.
    pub(crate) fn take(
        taken: &Arc<AtomicUsize>,
        limit: usize,
        n: usize,
    ) -> Result<Vec<Self>, usize> {
        let next = |queued: usize| queued.checked_add(n).filter(|&queued| queued <= limit);
        taken.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next)?;
        Ok((0..n).map(|_| QueuePlace(Arc::clone(taken))).collect())
    }
}

impl Drop for QueuePlace {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
