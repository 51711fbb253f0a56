//! What comes out of the engine for one answer.

use std::fmt;
use std::time::Duration;

use crate::{RequestId, TokenId};

/// One thing that a stream of an answer says. Tokens that were not yet read are joined into one event.
#[derive(Clone, Debug, PartialEq)]
pub enum GenerateEvent {
    /// The prompt, before anything of the answer, where it was asked for.
    Prompt {
        /// Its tokens.
        tokens: Vec<TokenId>,
        /// One entry for each token after the first, when they were asked for and this is the first answer.
        logprobs: Vec<PromptLogprob>,
    },
    /// More of the answer.
    Delta {
        /// Whole characters only; may be empty while a character or a possible stop string is incomplete.
        text: String,
        /// The tokens drawn since the last event, in order.
        tokens: Vec<TokenId>,
        /// One entry for each of `tokens` when log-probabilities were asked for, else empty.
        logprobs: Vec<TokenLogprobs>,
    },
    /// The answer is complete. Nothing follows.
    Finished(Finish),
    /// The answer ended early. Nothing follows.
    Failed(GenerateError),
}

/// How an answer ended, and what it took.
#[derive(Clone, Debug, PartialEq)]
pub struct Finish {
    /// Why it ended.
    pub reason: FinishReason,
    /// Tokens in and out.
    pub usage: Usage,
    /// Where the time went.
    pub timings: Timings,
}

/// Why an answer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FinishReason {
    /// The model ended it, or a stop string or stop token did.
    Stop,
    /// `max_tokens` or the context's end was reached.
    Length,
    /// The client left or asked for it.
    Abort,
    /// An override ended it.
    Filtered,
    /// Its allowance was used up.
    Budget,
}

/// Tokens in and out of one answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Tokens of the prompt.
    pub prompt_tokens: u32,
    /// Tokens generated, the ending one included.
    pub completion_tokens: u32,
    /// Prompt tokens whose KV came from the prefix cache.
    pub cached_tokens: u32,
    /// Of the tokens generated, those that were thought before the answer, with the tags.
    pub reasoning_tokens: u32,
}

/// Where the time of one answer went.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Timings {
    /// From arrival until first scheduled.
    pub queue_wait: Duration,
    /// From arrival until the first token; zero when there was none.
    pub ttft: Duration,
    /// From arrival until the end.
    pub e2e: Duration,
    /// This answer's share of the process's CPU time in the steps that it took part in.
    pub cpu_seconds: f64,
    /// Its share of what the machine's processors and memory drew in those steps; `None` where that cannot be read.
    pub joules: Option<f64>,
    /// How often it was preempted and computed again.
    pub n_preemptions: u32,
    /// Tokens that were guessed ahead, since it last turned back.
    pub n_drafted: u32,
    /// Guessed tokens that were right.
    pub n_accepted: u32,
    /// KV blocks of the prompt that came from the prefix cache.
    pub n_cached_blocks: u32,
    /// The prompt's first block that had to be computed, counted from 0, and why; `None` when it was never
    /// scheduled.
    pub first_miss: Option<(usize, CacheMissReason)>,
    /// The request whose answer this is, when nothing was computed for this one: it came from a response cache.
    pub computed_by: Option<RequestId>,
}

/// Why a block of a prompt did not come from the prefix cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum CacheMissReason {
    /// Nobody of this tenant computed this beginning, as far as is remembered. What other tenants computed
    /// counts as never seen.
    NeverSeen,
    /// It was computed, and given away since.
    Evicted,
    /// What is left is less than a block, or holds the last token, which is always computed.
    PartialBlock,
    /// Its file on disk was torn, changed or another's.
    Corrupt,
    /// Its file on disk could not be read, or not in time.
    Unreadable,
    /// The prefix cache is off, or every token of the prompt was to be computed, as for its log-probabilities.
    Disabled,
}

impl CacheMissReason {
    /// All reasons.
    pub const ALL: [CacheMissReason; 6] = [
        CacheMissReason::NeverSeen,
        CacheMissReason::Evicted,
        CacheMissReason::PartialBlock,
        CacheMissReason::Corrupt,
        CacheMissReason::Unreadable,
        CacheMissReason::Disabled,
    ];

    /// A stable word for programs.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            CacheMissReason::NeverSeen => "never_seen",
            CacheMissReason::Evicted => "evicted",
            CacheMissReason::PartialBlock => "partial_block",
            CacheMissReason::Corrupt => "corrupt",
            CacheMissReason::Unreadable => "unreadable",
            CacheMissReason::Disabled => "disabled",
        }
    }
}

/// The log-probability of one drawn token and of its alternatives, before temperature and truncation.
#[derive(Clone, Debug, PartialEq)]
pub struct TokenLogprobs {
    /// The token that was drawn.
    pub token: TokenId,
    /// Its natural log-probability.
    pub logprob: f32,
    /// The most likely tokens, most likely first.
    pub top: Vec<(TokenId, f32)>,
}

/// How likely a prompt's token was, given those before it.
#[derive(Clone, Debug, PartialEq)]
pub struct PromptLogprob {
    /// The token.
    pub token: TokenId,
    /// Its natural log-probability.
    pub logprob: f32,
    /// Tokens that were more likely, and this one.
    pub rank: u32,
    /// The most likely tokens, most likely first.
    pub top: Vec<(TokenId, f32)>,
}

/// What to say of a context that is shorter for want of memory.
fn cut(max_model_len: usize, own_len: usize) -> String {
    match own_len > max_model_len {
        true => {
            format!(" (the memory for its KV cache holds no more; its own context is {own_len})")
        }
        false => String::new(),
    }
}

/// Why a request was refused or an answer ended early.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GenerateError {
    /// The prompt and one more token do not fit the model.
    #[error(
        "the prompt has {prompt_tokens} tokens and at least 1 must be generated, but the model's context holds {max_model_len}{}",
        cut(*max_model_len, *own_len)
    )]
    ContextTooLong {
        /// Tokens of the prompt.
        prompt_tokens: usize,
        /// The context's length.
        max_model_len: usize,
        /// What it would be with enough memory.
        own_len: usize,
    },
    /// The prompt and `max_tokens` together do not fit the model.
    #[error(
        "the prompt has {prompt_tokens} tokens and max_tokens is {max_tokens}: together over the model's context of {max_model_len}{}",
        cut(*max_model_len, *own_len)
    )]
    MaxTokensTooLarge {
        /// Tokens of the prompt.
        prompt_tokens: usize,
        /// What was asked for.
        max_tokens: usize,
        /// The context's length.
        max_model_len: usize,
        /// What it would be with enough memory.
        own_len: usize,
    },
    /// The prompt tokenises to nothing and the model has no beginning-of-sequence token.
    #[error("the prompt is empty: it has 0 tokens, and at least 1 is needed")]
    EmptyPrompt,
    /// A token id that the vocabulary does not hold.
    #[error("token id {token} is outside of the vocabulary of {vocab_size}")]
    UnknownToken {
        /// The id.
        token: TokenId,
        /// Entries of the vocabulary.
        vocab_size: usize,
    },
    /// A field is outside its range.
    #[error("{message}")]
    InvalidField {
        /// The field's name on the wire.
        field: &'static str,
        /// The field, its value and its limit, in a sentence.
        message: String,
    },
    /// The chat template refused the conversation.
    #[error("the model's chat template refused the messages: {message}")]
    Template {
        /// What the template said.
        message: String,
    },
    /// The queue has no place. Trying again after `retry_after` helps.
    #[error("{queued} {unit} wait already or have a promise to, and at most {limit} may")]
    QueueFull {
        /// How many wait or have a promise.
        queued: usize,
        /// How many may.
        limit: usize,
        /// What is counted.
        unit: QueueUnit,
        /// When there is a place for this request.
        retry_after: Duration,
    },
    /// A time limit of the request is predicted not to be met.
    #[error(
        "{field} is {limit_ms}, but {event} is predicted after {predicted_ms} ms",
        event = if *field == "deadline_ms" { "the first token" } else { "the first step" }
    )]
    DeadlineUnreachable {
        /// The limit's name on the wire.
        field: &'static str,
        /// The limit, in milliseconds from arrival.
        limit_ms: u64,
        /// What is predicted, in milliseconds from arrival.
        predicted_ms: u64,
        /// When it can be met; `None` when it cannot, even on an idle machine.
        retry_after: Option<Duration>,
    },
    /// A time limit of the request passed.
    #[error("{field} is {limit_ms} and has passed after {n_generated} generated tokens")]
    DeadlineExceeded {
        /// The limit's name on the wire.
        field: &'static str,
        /// The limit, in milliseconds from arrival.
        limit_ms: u64,
        /// Tokens that were generated in time.
        n_generated: usize,
    },
    /// The sequence needs more KV blocks than there are.
    #[error("the request needs up to {needed_blocks} KV blocks, but there are {n_blocks}")]
    NeverFits {
        /// Blocks at its longest.
        needed_blocks: usize,
        /// Blocks in all.
        n_blocks: usize,
    },
    /// The backend failed in a step that this sequence took part in. Trying again may help.
    #[error("the backend failed: {message}")]
    Backend {
        /// What it said.
        message: String,
    },
    /// This sequence alone is at fault, such as NaN logits. Nobody else noticed.
    #[error("this sequence failed: {message}")]
    Sequence {
        /// What happened.
        message: String,
    },
    /// The engine itself failed; nothing can be answered before it is started again.
    #[error("the engine failed and must be started again")]
    EngineDied,
    /// The engine is shutting down.
    #[error("the server is shutting down")]
    ShuttingDown,
}

/// What a full queue counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum QueueUnit {
    /// Answers: a request has `n` of them.
    Requests,
    /// Tokens of their prompts.
    Tokens,
}

impl fmt::Display for QueueUnit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            QueueUnit::Requests => "requests",
            QueueUnit::Tokens => "prompt tokens",
        })
    }
}

impl GenerateError {
    /// When the same request will be admitted, if the queue or its time limits refused it.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            GenerateError::QueueFull { retry_after, .. } => Some(*retry_after),
            GenerateError::DeadlineUnreachable { retry_after, .. } => *retry_after,
            _ => None,
        }
    }

    /// A stable word for what was short when the queue refused a request.
    #[must_use]
    pub fn rejected_because(&self) -> Option<&'static str> {
        match self {
            GenerateError::QueueFull { unit: QueueUnit::Requests, .. } => Some("queue_requests"),
            GenerateError::QueueFull { unit: QueueUnit::Tokens, .. } => Some("queue_tokens"),
            GenerateError::DeadlineUnreachable { field: "deadline_ms", .. } => Some("deadline"),
            GenerateError::DeadlineUnreachable { .. } => Some("max_queue"),
            _ => None,
        }
    }

    /// A stable word for programs.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            GenerateError::ContextTooLong { .. } | GenerateError::MaxTokensTooLarge { .. } => {
                "context_length_exceeded"
            }
            GenerateError::EmptyPrompt => "empty_prompt",
            GenerateError::UnknownToken { .. } | GenerateError::InvalidField { .. } => {
                "invalid_value"
            }
            GenerateError::Template { .. } => "chat_template_error",
            GenerateError::QueueFull { .. } => "queue_full",
            GenerateError::DeadlineUnreachable { .. } => "deadline_unreachable",
            GenerateError::DeadlineExceeded { .. } => "deadline_exceeded",
            GenerateError::NeverFits { .. } => "kv_cache_too_small",
            GenerateError::Backend { .. } => "backend_error",
            GenerateError::Sequence { .. } => "sequence_error",
            GenerateError::EngineDied => "engine_died",
            GenerateError::ShuttingDown => "shutting_down",
        }
    }
}

impl FinishReason {
    /// All of them, in the order of their numbers.
    pub const ALL: [FinishReason; 5] = [
        FinishReason::Stop,
        FinishReason::Length,
        FinishReason::Abort,
        FinishReason::Filtered,
        FinishReason::Budget,
    ];

    /// The word of OpenAI's API; `abort` and `budget` have none there.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            FinishReason::Stop => "stop",
            FinishReason::Length => "length",
            FinishReason::Abort => "abort",
            FinishReason::Filtered => "content_filter",
            FinishReason::Budget => "budget",
        }
    }
}
