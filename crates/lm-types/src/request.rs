//! What a client wants generated, after validation.

use std::time::Duration;

use crate::{ChatMessage, RequestId, SamplingParams, TenantId, TokenId};

/// One request of a client, ready to be tokenised.
#[derive(Clone, Debug, PartialEq)]
pub struct GenerateRequest {
    /// Chosen by the caller; unique among the requests in flight.
    pub id: RequestId,
    /// What to continue.
    pub prompt: Prompt,
    /// How tokens are drawn. Choice `i` of `n` draws with seed `seed + i`.
    pub sampling: SamplingParams,
    /// When to end.
    pub stop: StopRules,
    /// How many independent answers.
    pub n: u32,
    /// Who goes first when there is too little room.
    pub priority: Priority,
    /// On whose behalf.
    pub tenant: TenantId,
    /// How long after its arrival its answer is worth nothing.
    pub deadline: Option<Duration>,
    /// How long it may wait before its first step.
    pub max_queue: Option<Duration>,
}

/// What to continue.
#[derive(Clone, Debug, PartialEq)]
pub enum Prompt {
    /// Raw text; the model's own beginning-of-sequence rule applies.
    Text(String),
    /// Token ids, taken as they are.
    Tokens(Vec<TokenId>),
    /// A conversation, rendered by the model's chat template.
    Chat(Vec<ChatMessage>),
}

/// When an answer ends.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct StopRules {
    /// At most this many tokens; `None` is as many as the context holds.
    pub max_tokens: Option<u32>,
    /// End-of-sequence tokens are held back until this many were generated.
    pub min_tokens: u32,
    /// The answer ends before the first of these.
    pub stop_strings: Vec<String>,
    /// The answer ends at the first of these, besides the model's own end tokens.
    pub stop_token_ids: Vec<TokenId>,
    /// Go on after the model's own end tokens.
    pub ignore_eos: bool,
}

/// Who goes first. Lower classes are preempted first and admitted last.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Priority {
    /// A person waits.
    #[default]
    Interactive,
    /// A program waits.
    Batch,
    /// Nobody waits: probes, shadows, audits.
    Background,
}

impl GenerateRequest {
    /// A request for one answer with the default parameters.
    #[must_use]
    pub fn new(id: RequestId, prompt: Prompt) -> Self {
        GenerateRequest {
            id,
            prompt,
            sampling: SamplingParams::default(),
            stop: StopRules::default(),
            n: 1,
            priority: Priority::Interactive,
            tenant: TenantId::ANONYMOUS,
            deadline: None,
            max_queue: None,
        }
    }
}
