//! Answers that no engine computes, and what the observer hears of them.

use std::sync::Arc;
use std::time::SystemTime;

use lm_engine::told;
use lm_types::{
    Finish, FinishReason, GenerateError, GenerateRequest, Outcome, RequestEvent, Task, Timeline,
    Timings, Usage,
};

use crate::{GenerateStream, Runtime};

/// What is recorded of the prompt of a request that was refused: refusals cost their sender nothing, so they
/// must not fill the store.
const MAX_REFUSED_BYTES: usize = 4096;

impl Runtime {
    /// Answers requests with this text, as if it had been generated: for overrides. Recorded like any answer.
    #[must_use]
    pub fn tell(&self, requests: Vec<GenerateRequest>, text: &str) -> Vec<Vec<GenerateStream>> {
        let arrived_at = SystemTime::now();
        let (usage, timings) = (Usage::default(), Timings::default());
        let finish = Finish { reason: FinishReason::Stop, usage, timings };
        let tell_one = |request: GenerateRequest| {
            let request = Arc::new(request);
            let choices = (0..request.n).map(|choice| {
                let outcome = Outcome::Finished(FinishReason::Stop);
                self.record(Arc::clone(&request), choice, arrived_at, outcome, text);
                GenerateStream::new(told(text, finish.clone()), Vec::new(), 0)
            });
            choices.collect()
        };
        requests.into_iter().map(tell_one).collect()
    }

    /// Records a request that somebody else answers, later.
    pub fn note_unanswered(&self, request: GenerateRequest) {
        let outcome = Outcome::Finished(FinishReason::Abort);
        self.record(Arc::new(request), 0, SystemTime::now(), outcome, "");
    }

    /// Tells the observer of an answer that was not computed for its request: one from a cache.
    pub fn note_answer(&self, event: &RequestEvent) {
        self.observer.record(event);
    }

    /// Tells the observer of a request that the engine never saw.
    pub(crate) fn record_refusal(
        &self,
        request: &Arc<GenerateRequest>,
        arrived_at: SystemTime,
        error: &GenerateError,
    ) {
        let request = GenerateRequest {
            prompt: request.prompt.excerpt(MAX_REFUSED_BYTES),
            ..(**request).clone()
        };
        self.record(Arc::new(request), 0, arrived_at, Outcome::Failed(error.clone()), "");
    }

    /// Tells the observer of an answer that the engine did not compute.
    fn record(
        &self,
        request: Arc<GenerateRequest>,
        choice: u32,
        arrived_at: SystemTime,
        outcome: Outcome,
        text: &str,
    ) {
        let hits = if choice == 0 { request.steering.hits.clone() } else { Vec::new() };
        self.observer.record(&RequestEvent {
            request: Arc::unwrap_or_clone(request),
            task: Task::Generate,
            choice,
            model: self.info().name.clone(),
            release: self.info().release_hash,
            arrived_at,
            outcome,
            output_text: text.to_owned(),
            prompt_tokens: Vec::new(),
            output_tokens: Vec::new(),
            timeline: Timeline::default(),
            hits,
            usage: Usage::default(),
            timings: Timings::default(),
            mean_logprob: None,
        });
    }
}
