//! What the scaffolding gets to see of a request, once it is over.

use std::time::SystemTime;

use crate::{
    FinishReason, GenerateError, GenerateRequest, ReleaseHash, RuleHit, Timings, TokenId, Usage,
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
    /// The answer's tokens, the ending one included, as far as the reader got them.
    pub output_tokens: Vec<TokenId>,
    /// Overrides that changed it, each once; those of the request with its first answer.
    pub hits: Vec<RuleHit>,
    /// Tokens in and out.
    pub usage: Usage,
    /// Where the time went, and the CPU seconds.
    pub timings: Timings,
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
