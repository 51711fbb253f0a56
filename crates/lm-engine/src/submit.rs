//! What a request looks like when it reaches the engine, and its place in the queue before.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use lm_grammar::GrammarState;
use lm_scheduler::{
    AddError, Admission, Offer, Refusal, RefusedBecause, Scheduler, Ticket, TimeLimits,
};
use lm_tokenizer::StopMatcher;
use lm_types::{GenerateError, GenerateRequest, QueueUnit, Timestamp, TokenId};

use crate::{OutputWriter, ServedAdapter, ThinkingPlan};

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
    /// The form that the answer must have, before its first token.
    pub grammar: Option<GrammarState>,
    /// How it may think, when the model does. With a grammar, that of what follows.
    pub thinking: Option<ThinkingPlan>,
    /// When the request arrived, by the wall clock.
    pub arrived_at: SystemTime,
    /// The adapter that it is computed with.
    pub adapter: Option<Arc<ServedAdapter>>,
    /// Where the answer goes.
    pub output: OutputWriter,
}

/// The door of the engine: who may wait is decided here, on the caller's thread. Locked for as long as
/// one request is judged, and by the engine once a step.
#[derive(Clone, Debug)]
pub(crate) struct Door(Arc<Mutex<Admission>>);

/// A place in the queue, given back when it is dropped.
#[derive(Debug)]
pub(crate) struct QueuePlace {
    door: Door,
    ticket: Ticket,
    /// What was predicted when it was given, for the last answer of its request.
    pub(crate) predicted_ttft: Duration,
}

impl Door {
    pub(crate) fn new(scheduler: &Scheduler) -> Self {
        Door(Arc::new(Mutex::new(Admission::new(scheduler))))
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, Admission> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives places to all answers of an HTTP request, or to none. The first one's time limits hold
    /// for all.
    pub(crate) fn admit(
        &self,
        all: &[NewSubmission],
        now: Timestamp,
    ) -> Result<Vec<QueuePlace>, GenerateError> {
        let Some(first) = all.first() else { return Ok(Vec::new()) };
        let (deadline, max_queue) = (first.request.deadline, first.request.max_queue);
        let fingerprint = fingerprint(all);
        let offer = |new: &NewSubmission| Offer {
            class: new.request.priority,
            tenant: new.request.tenant,
            prompt_tokens: new.prompt.len(),
            max_new_tokens: new.max_new_tokens,
            is_exact: new.request.stop.ignore_eos && new.request.stop.stop_strings.is_empty(),
            fingerprint,
        };
        let offers: Vec<Offer> = all.iter().map(offer).collect();
        let judged = self.lock().offer(now, &offers, TimeLimits { deadline, max_queue });
        let (tickets, forecast) = judged.map_err(refusal)?;
        let predicted_ttft = Duration::try_from_secs_f64(forecast.ttft).unwrap_or(Duration::MAX);
        let place = |ticket| QueuePlace { door: self.clone(), ticket, predicted_ttft };
        Ok(tickets.into_iter().map(place).collect())
    }
}

impl Drop for QueuePlace {
    fn drop(&mut self) {
        self.door.lock().leave(self.ticket);
    }
}

/// The same when a client sends the same request again; a seed that the server drew does not count.
fn fingerprint(all: &[NewSubmission]) -> u64 {
    let mut hasher = DefaultHasher::new();
    for new in all {
        (&new.prompt, new.max_new_tokens, new.choice, new.request.priority).hash(&mut hasher);
        new.adapter.as_ref().map(|adapter| adapter.digest).hash(&mut hasher);
    }
    hasher.finish()
}

fn refusal(refusal: Refusal) -> GenerateError {
    let millis = |time: Duration| time.as_millis() as u64;
    let full = |queued, limit, unit| GenerateError::QueueFull {
        queued,
        limit,
        unit,
        // A place in the queue comes free in any case.
        retry_after: refusal.retry_after.unwrap_or(Duration::from_secs(1)),
    };
    let late = |field, predicted, limit| GenerateError::DeadlineUnreachable {
        field,
        limit_ms: millis(limit),
        predicted_ms: millis(predicted),
        retry_after: refusal.retry_after,
    };
    match refusal.because {
        RefusedBecause::QueueRequests { queued, limit } => full(queued, limit, QueueUnit::Requests),
        RefusedBecause::QueueTokens { queued, limit } => full(queued, limit, QueueUnit::Tokens),
        RefusedBecause::Deadline { predicted, limit } => late("deadline_ms", predicted, limit),
        RefusedBecause::MaxQueue { predicted, limit } => late("max_queue_ms", predicted, limit),
    }
}

/// Why the scheduler could never run an answer.
pub(crate) fn never_runs(error: &AddError) -> GenerateError {
    match *error {
        AddError::TooLong { len, max_model_len } => GenerateError::ContextTooLong {
            prompt_tokens: len,
            max_model_len,
            own_len: max_model_len,
        },
        AddError::Empty => GenerateError::EmptyPrompt,
    }
}
