//! What is recorded of an answer that was not computed for its request.
//!
//! It must never say that something was computed: no CPU time, no step, and whose computation it was.
//!
//! Start reading at [`Asked::note`].

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use lastmile::{
    GenerateRequest, Outcome, ReadyRequest, ReleaseHash, RequestEvent, RequestId, Runtime, Task,
    Timeline, Timings, TokenId, TokenLogprobs, Usage,
};

use super::log::Said;

/// A request that another one's computation answers, or may.
pub(crate) struct Asked {
    pub(crate) runtime: Arc<Runtime>,
    /// With the seed that its answer was drawn with, so that a replay draws the same.
    pub(crate) request: GenerateRequest,
    pub(crate) prompt_tokens: Vec<TokenId>,
    pub(crate) model: String,
    pub(crate) release: ReleaseHash,
    pub(crate) arrived_at: SystemTime,
    pub(crate) began: Instant,
}

impl Asked {
    pub(crate) fn of(runtime: &Arc<Runtime>, ready: ReadyRequest, seed: u64) -> Box<Self> {
        let (model, release) = (ready.model().to_owned(), ready.release());
        let arrived_at = ready.arrived_at();
        let (mut request, prompt_tokens) = ready.into_parts();
        request.sampling.seed = seed;
        let (runtime, began) = (Arc::clone(runtime), Instant::now());
        Box::new(Asked { runtime, request, prompt_tokens, model, release, arrived_at, began })
    }

    /// Records how it ended. Says where the time went.
    pub(crate) fn note(
        &self,
        said: Said,
        outcome: Outcome,
        usage: Usage,
        computed_by: Option<RequestId>,
        ttft: Option<Duration>,
    ) -> Timings {
        let timings = Timings {
            ttft: ttft.unwrap_or_default(),
            e2e: self.began.elapsed(),
            // Nothing, where the machine could say so.
            joules: self.runtime.stats().joules.map(|_| 0.0),
            computed_by,
            ..Timings::default()
        };
        self.runtime.note_answer(&RequestEvent {
            request: self.request.clone(),
            task: Task::Generate,
            choice: 0,
            model: self.model.clone(),
            release: self.release,
            arrived_at: self.arrived_at,
            outcome,
            output_text: said.text,
            prompt_tokens: self.prompt_tokens.clone(),
            output_tokens: said.tokens,
            hits: self.request.steering.hits.clone(),
            usage,
            timings,
            timeline: Timeline::default(),
            mean_logprob: mean(&said.logprobs),
        });
        timings
    }
}

fn mean(logprobs: &[TokenLogprobs]) -> Option<f64> {
    let sum: f64 = logprobs.iter().map(|one| f64::from(one.logprob)).sum();
    (!logprobs.is_empty()).then(|| sum / logprobs.len() as f64)
}
