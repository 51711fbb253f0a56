//! A request's place: among all that are open, and at its key's meter.
//!
//! It must never outlive the response, and never be given back early.
//!
//! Start reading at [`Place`].

use std::sync::{Arc, OnceLock};
use std::time::Instant;

use lastmile::{GenerateRequest, Prompt};
use lm_api::{ApiError, Denial};
use lm_keys::{Meter, OverLimit, Reservation};
use tokio::sync::OwnedSemaphorePermit;

use crate::auth::{Caller, now};

/// What is set aside for an answer that may be of any length.
const UNBOUNDED_ANSWER_TOKENS: u64 = 256;
/// Bytes of a prompt that make a token, about.
pub(crate) const BYTES_PER_TOKEN: u64 = 4;

/// A request's place, given back when it is dropped.
#[derive(Debug)]
pub(crate) struct Place {
    pub(crate) _permit: OwnedSemaphorePermit,
    pub(crate) lease: Option<Lease>,
}

/// A request at its key's meter.
#[derive(Debug)]
pub(crate) struct Lease {
    meter: Arc<Meter>,
    reserved: OnceLock<Reservation>,
    begun: Instant,
}

impl Lease {
    /// Begins a request of this caller, where the caller has a meter.
    pub(crate) fn begin(caller: &Caller) -> Result<Option<Self>, ApiError> {
        let Some(holder) = &caller.holder else { return Ok(None) };
        let meter = Arc::clone(&holder.meter);
        meter.begin(now()).map_err(refusal)?;
        Ok(Some(Lease { meter, reserved: OnceLock::new(), begun: Instant::now() }))
    }

    /// Sets tokens aside for what will be generated.
    pub(crate) fn reserve(&self, n_tokens: u64) -> Result<(), ApiError> {
        let reserved = self.meter.reserve(n_tokens, now()).map_err(refusal)?;
        // A handler reserves once, so there is nothing to replace.
        self.reserved.get_or_init(|| reserved);
        Ok(())
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let reserved = self.reserved.get().copied().unwrap_or_default();
        self.meter.end(reserved, self.begun.elapsed(), now());
    }
}

fn refusal(over: OverLimit) -> ApiError {
    ApiError::Denied(Denial::OverLimit { over })
}

/// What requests may use, guessed before their prompts are tokenised: what they used in truth is
/// charged when they end.
pub(crate) fn estimated_tokens(requests: &[GenerateRequest]) -> u64 {
    let one = |request: &GenerateRequest| {
        let prompt = match &request.prompt {
            Prompt::Text(text) => text.len() as u64 / BYTES_PER_TOKEN,
            Prompt::Tokens(tokens) => tokens.len() as u64,
            Prompt::Chat(messages) => {
                let bytes: u64 = messages.iter().map(|m| m.content.len() as u64).sum();
                bytes / BYTES_PER_TOKEN
            }
        };
        let answer = request.stop.max_tokens.map_or(UNBOUNDED_ANSWER_TOKENS, u64::from);
        let answers = answer.saturating_mul(u64::from(request.n));
        prompt.saturating_add(answers).max(1)
    };
    requests.iter().map(one).fold(0, u64::saturating_add)
}
