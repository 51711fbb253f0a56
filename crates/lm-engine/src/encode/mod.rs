//! The loop of a model that reads texts and writes none: texts of all requests go into batches by tokens.
//!
//! It must never know text, nor what the rows are for.
//!
//! Start reading at [`EncodeHandle::submit`], then `thread`.

mod queue;
mod reply;
mod thread;

#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use lm_types::{GenerateRequest, Task, TokenId};

pub use reply::EncodeReply;
pub use thread::{EncodeHandle, EncodeLimits, EncodeParts};

/// A text, ready to be encoded.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EncodeText {
    /// Its tokens, those around it included.
    pub input_ids: Vec<TokenId>,
    /// 0, or 1 in the second text of a pair. As many.
    pub token_types: Vec<u32>,
}

/// The texts of one request.
#[derive(Clone, Debug)]
pub struct EncodeSubmission {
    /// Who asks, how urgently, and what is remembered of it.
    pub request: Arc<GenerateRequest>,
    /// What the rows are for.
    pub task: Task,
    /// What is encoded. At least one.
    pub texts: Vec<EncodeText>,
    /// When the request arrived, by the wall clock.
    pub arrived_at: SystemTime,
}

/// What came of a request.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Encoded {
    /// A row for each text, in order.
    pub rows: Vec<Vec<f32>>,
    /// Tokens of all texts.
    pub n_tokens: u32,
    /// From arrival until first in a batch.
    pub queue_wait: Duration,
    /// From arrival until all was done.
    pub e2e: Duration,
    /// Its share of the process's CPU time.
    pub cpu_seconds: f64,
}
