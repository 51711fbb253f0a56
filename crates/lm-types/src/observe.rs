//! What the scaffolding gets to see of a request, once it is over.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::{
    FinishReason, GenerateError, GenerateRequest, ReleaseHash, RequestId, RuleHit, Timeline,
    Timings, TokenId, Usage,
};

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
    /// The prompt's tokens; empty when the engine never saw them.
    pub prompt_tokens: Vec<TokenId>,
    /// The answer's tokens, the ending one included; what an override took out of it is not among them.
    pub output_tokens: Vec<TokenId>,
    /// Overrides that changed it, each once; those of the request with its first answer.
    pub hits: Vec<RuleHit>,
    /// Tokens in and out.
    pub usage: Usage,
    /// Where the time went, and the CPU seconds.
    pub timings: Timings,
    /// What happened to it on its way.
    pub timeline: Timeline,
    /// The mean log-probability of the tokens that its reader got, where the request asked for theirs: no others are
    /// computed.
    pub mean_logprob: Option<f64>,
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
            hits: request.steering.hits.clone(),
            request,
            task: Task::Generate,
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
            mean_logprob: None,
        }
    }
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

    /// Whether [`Observer::began`] and [`Observer::stepped`] are to be called.
    fn wants_steps(&self) -> bool {
        false
    }

    /// Called when an answer is taken in, on the engine's thread.
    fn began(&self, _begun: &AnswerBegun<'_>) {}

    /// Called after each step, on the engine's thread.
    fn stepped(&self, _step: &StepEvent<'_>) {}
}

/// An answer that was taken in.
#[derive(Clone, Copy, Debug)]
pub struct AnswerBegun<'a> {
    /// What was asked.
    pub request: &'a Arc<GenerateRequest>,
    /// Which of the request's `n` answers it is, from 0.
    pub choice: u32,
    /// The prompt's tokens.
    pub prompt: &'a [TokenId],
    /// The model's name as served.
    pub model: &'a str,
    /// What will answer.
    pub release: ReleaseHash,
    /// When the request arrived, by the wall clock.
    pub arrived_at: SystemTime,
}

/// A step that was computed and drawn from.
#[derive(Clone, Copy, Debug)]
pub struct StepEvent<'a> {
    /// Its number since the engine started.
    pub number: u64,
    /// How long it took.
    pub took: Duration,
    /// KV blocks that are free.
    pub n_free_blocks: u32,
    /// Prompt tokens in it.
    pub n_prompt_tokens: u32,
    /// Its answers.
    pub rows: &'a [StepRow],
}

/// One answer's part of a step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StepRow {
    /// Its request.
    pub request: RequestId,
    /// Which of the request's answers.
    pub choice: u32,
    /// Tokens that were computed.
    pub n_tokens: u32,
    /// The token that was drawn, if one was.
    pub token: Option<TokenId>,
    /// Its log-probability, where it was asked for.
    pub logprob: Option<f32>,
}
