//! What the scaffolding gets to see of a request, once it is over.

use std::time::SystemTime;

use crate::{
    FinishReason, GenerateError, GenerateRequest, ReleaseHash, Timeline, Timings, TokenId, Usage,
};

/// Everything worth remembering of one answer, refused requests included.
#[derive(Clone, Debug, PartialEq)]
pub struct RequestEvent {
    /// What was asked.
    pub request: GenerateRequest,
    /// Which of the request's `n` answers this is, from 0.
    pub choice: u32,
    /// The model's name as served.
    pub model: String,
    /// What produced the answer.
    pub release: ReleaseHash,
    /// When the request arrived, by the wall clock.
    pub arrived_at: SystemTime,
    /// How it ended.
    pub outcome: Outcome,
    /// The text of the answer, as far as it came.
    pub output_text: String,
    /// The prompt's tokens; empty when the engine never saw them.
    pub prompt_tokens: Vec<TokenId>,
    /// The tokens that were drawn, the ending one included.
    pub output_tokens: Vec<TokenId>,
    /// Tokens in and out.
    pub usage: Usage,
    /// Where the time went, and the CPU seconds.
    pub timings: Timings,
    /// What happened to it on its way.
    pub timeline: Timeline,
}

impl RequestEvent {
    /// A request that the engine never saw.
    #[must_use]
    pub fn refused(
        request: GenerateRequest,
        model: String,
        release: ReleaseHash,
        arrived_at: SystemTime,
        error: GenerateError,
    ) -> Self {
        RequestEvent {
            request,
            choice: 0,
            model,
            release,
            arrived_at,
            outcome: Outcome::Failed(error),
            output_text: String::new(),
            prompt_tokens: Vec::new(),
            output_tokens: Vec::new(),
            usage: Usage::default(),
            timings: Timings::default(),
            timeline: Timeline::default(),
        }
    }
}

/// How an answer ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It ended by itself, by its limits, or because the client left.
    Finished(FinishReason),
    /// It was refused or failed.
    Failed(GenerateError),
}

/// Runtime to scaffolding. Implementations never wait and never fail a request: when they are full they drop and count.
pub trait Observer: Send + Sync {
    /// Called once for each answer, on the thread where it ended, before its reader hears of the end.
    fn record(&self, event: &RequestEvent);
}
