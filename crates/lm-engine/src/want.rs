//! How much of a row of logits a draw will look at, so that an executor may skip the rest.

use lm_backend::Want;
use lm_types::SamplingParams;

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
