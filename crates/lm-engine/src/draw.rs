//! One draw of a step: what it needs of its row, and what it gave.
//!
//! It must never know other rows.
//!
//! Start reading at [`want`].

use lm_backend::Want;
use lm_sampler::Sampled;
use lm_types::{SamplingParams, SeqId};

/// What sampling one row gave.
pub(crate) struct Draw {
    pub(crate) seq: SeqId,
    pub(crate) sampled: Result<Sampled, String>,
}

/// How much of a row of logits a draw will look at.
pub(crate) fn want(params: &SamplingParams, must_see_all: bool) -> Want {
    if must_see_all || params.changes_logits() || params.logprobs.is_some() {
        Want::Full
    } else if params.temperature == 0.0 {
        Want::Argmax
    } else if params.top_k > 0 {
        Want::TopK(params.top_k)
    } else {
        Want::Full
    }
}

pub(crate) fn panic_message(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
    text.unwrap_or_else(|| "panicked without a message".to_owned())
}
