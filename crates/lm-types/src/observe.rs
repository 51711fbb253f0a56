//! What the scaffolding gets to see of a request, once it is over.

use std::time::SystemTime;

use crate::{FinishReason, GenerateError, GenerateRequest, ReleaseHash, Timings, Usage};

/// Everything worth remembering of one answer, refused requests included.
#[derive(Clone, Debug, PartialEq)]
pub struct RequestEvent {
    /// What was asked.
    pub request: GenerateRequest,
    /// What was done with the prompt.
    pub task: Task,
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
    /// Tokens in and out.
    pub usage: Usage,
    /// Where the time went, and the CPU seconds.
    pub timings: Timings,
}

/// What is done with a prompt.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Task {
    /// It is continued.
    #[default]
    Generate,
    /// It becomes a vector.
    Embed,
    /// It is compared with other texts.
    Rank,
    /// It is given labels.
    Classify,
}

impl Task {
    /// A stable word for programs.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Task::Generate => "generate",
            Task::Embed => "embed",
            Task::Rank => "rank",
            Task::Classify => "classify",
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
