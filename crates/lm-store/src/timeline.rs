//! What happened to an answer on its way, as it is stored: JSON with stable keys, times in milliseconds
//! since its request arrived.
//!
//! It must never hold a word of prompts or answers: it is kept with privacy off, too.
//!
//! Start reading at [`StoredTimeline::of`].

use std::time::Duration;

use lm_types::{Gap, GapCause, Loss, Other, RequestEvent, Stall};
use serde::{Deserialize, Serialize};

use crate::write::tenant_text;

/// What happened to one answer on its way.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct StoredTimeline {
    /// Before its first step.
    pub queue: StoredQueue,
    /// KV blocks of the prompt that came from the prefix cache.
    pub n_cached_blocks: u32,
    /// The first block that did not; `None` when it never began.
    pub first_miss: Option<StoredMiss>,
    /// Steps that computed its prompt, or computed it again; the first of them.
    pub chunks: Vec<StoredChunk>,
    /// How many there were.
    pub n_chunks: u32,
    /// When every `tokens_every`-th token came.
    pub tokens_ms: Vec<f64>,
    /// Which tokens `tokens_ms` holds.
    pub tokens_every: u32,
    /// The longest gaps between tokens, the longest first.
    pub gaps: Vec<StoredGap>,
    /// Steps that took more than twice as long as predicted, the worst first.
    pub stalls: Vec<StoredStall>,
    /// When it lost its slot or its blocks; the first of them.
    pub losses: Vec<StoredLoss>,
    /// How often.
    pub n_losses: u32,
    /// Steps that it took part in.
    pub n_steps: u32,
    /// Answers in the smallest of those, in one of them on average, and in the largest.
    pub batch: (u32, f64, u32),
    /// The mean log-probability of its tokens; `None` where the request asked for none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mean_logprob: Option<f64>,
    /// The request whose answer it is, when it came from the response cache.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub computed_by: Option<String>,
}

/// Somebody else's request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredOther {
    /// Its id; `None` when the reader may not know it.
    pub request: Option<String>,
    /// Its tenant, as 16 hexadecimal digits; `None` came without a key.
    pub tenant: Option<String>,
}

/// What an answer waited for before its first step.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct StoredQueue {
    /// Answers that waited when it came.
    pub n_waiting: u32,
    /// Answers that had a slot.
    pub n_running: u32,
    /// Slots.
    pub n_slots: u32,
    /// KV blocks that were free.
    pub n_free_blocks: u32,
    /// KV blocks of its prompt.
    pub n_prompt_blocks: u32,
    /// Answers that began while it waited.
    pub n_began: u32,
    /// The last of those, the last one last.
    pub behind: Vec<StoredOther>,
}

/// A block that was not in the prefix cache.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredMiss {
    /// Which of the prompt's, from 0.
    pub block: usize,
    /// The stable word of [`lm_types::CacheMissReason`].
    pub reason: String,
}

/// Prompt tokens of one step.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StoredChunk {
    /// When the step began.
    pub at_ms: f64,
    /// How long it took.
    pub took_ms: f64,
    /// The first position.
    pub start: u32,
    /// How many tokens.
    pub n_tokens: u32,
    /// Answers in the step.
    pub batch: u32,
    /// The step's number.
    pub step: u64,
    /// Whether they had been computed before, and lost.
    pub again: bool,
}

/// A gap between two tokens.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StoredGap {
    /// When it ended.
    pub at_ms: f64,
    /// How long it was.
    pub ms: f64,
    /// The token that ended it, from 0.
    pub before_token: u32,
    /// What took most of it.
    pub cause: StoredCause,
}

/// What took most of a gap.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum StoredCause {
    /// A prompt in the same steps.
    Prompt {
        /// Whose.
        of: StoredOther,
        /// Tokens of all prompts in those steps.
        n_tokens: u32,
    },
    /// It had lost its slot or its blocks.
    Lost {
        /// For whom.
        by: Option<StoredOther>,
    },
    /// Steps had no row of it.
    LeftOut,
    /// Another model, or blocks that were copied.
    OtherModel,
    /// The step took much longer than predicted.
    Slow,
    /// The step itself.
    Step {
        /// Answers in it.
        n_rows: u32,
    },
}

/// A step that took much longer than predicted.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StoredStall {
    /// When it began.
    pub at_ms: f64,
    /// How long it took.
    pub took_ms: f64,
    /// How long it was predicted to take.
    pub predicted_ms: f64,
    /// Answers in it.
    pub batch: u32,
    /// Tokens in it.
    pub n_tokens: u32,
}

/// An answer that lost its slot or its blocks.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StoredLoss {
    /// When.
    pub at_ms: f64,
    /// How long until its next step.
    pub away_ms: Option<f64>,
    /// `preempted` lost its blocks, `paused` only its slot.
    pub kind: String,
    /// For whom.
    pub by: Option<StoredOther>,
}

impl StoredTimeline {
    /// The timeline of an answer.
    #[must_use]
    pub fn of(event: &RequestEvent) -> Self {
        let (story, timings) = (&event.timeline, &event.timings);
        let queue = &story.queue;
        let mean_rows = story.sum_rows as f64 / f64::from(story.n_steps.max(1));
        StoredTimeline {
            queue: StoredQueue {
                n_waiting: queue.n_waiting,
                n_running: queue.n_running,
                n_slots: queue.n_slots,
                n_free_blocks: queue.n_free_blocks,
                n_prompt_blocks: queue.n_prompt_blocks,
                n_began: queue.n_began,
                behind: queue.behind.iter().map(other).collect(),
            },
            n_cached_blocks: timings.n_cached_blocks,
            first_miss: timings.first_miss.map(|(block, reason)| {
                let reason = reason.as_str().to_owned();
                StoredMiss { block, reason }
            }),
            chunks: story.chunks.iter().map(chunk).collect(),
            n_chunks: story.n_chunks,
            tokens_ms: story.tokens.iter().copied().map(ms).collect(),
            tokens_every: story.token_stride.max(1),
            gaps: story.gaps.iter().map(gap).collect(),
            stalls: story.stalls.iter().map(stall).collect(),
            losses: story.losses.iter().map(loss).collect(),
            n_losses: story.n_losses,
            n_steps: story.n_steps,
            batch: (story.least_rows, (mean_rows * 100.0).round() / 100.0, story.most_rows),
            mean_logprob: event.mean_logprob,
            computed_by: timings.computed_by.map(|id| id.to_string()),
        }
    }

    pub(crate) fn to_json(&self) -> Option<String> {
        // Numbers and short texts can always be written.
        serde_json::to_string(self).ok()
    }
}

fn chunk(chunk: &lm_types::Chunk) -> StoredChunk {
    StoredChunk {
        at_ms: ms(chunk.at),
        took_ms: ms(chunk.took),
        start: chunk.start,
        n_tokens: chunk.n_tokens,
        batch: chunk.n_rows,
        step: chunk.step,
        again: chunk.is_again,
    }
}

fn gap(gap: &Gap) -> StoredGap {
    let cause = match &gap.because {
        GapCause::Prompt { of, n_tokens } => {
            StoredCause::Prompt { of: other(of), n_tokens: *n_tokens }
        }
        GapCause::Lost { by } => StoredCause::Lost { by: by.as_ref().map(other) },
        GapCause::LeftOut => StoredCause::LeftOut,
        GapCause::OtherModel => StoredCause::OtherModel,
        GapCause::Slow => StoredCause::Slow,
        GapCause::Step { n_rows } => StoredCause::Step { n_rows: *n_rows },
    };
    StoredGap { at_ms: ms(gap.at), ms: ms(gap.took), before_token: gap.before_token, cause }
}

fn stall(stall: &Stall) -> StoredStall {
    StoredStall {
        at_ms: ms(stall.at),
        took_ms: ms(stall.took),
        predicted_ms: ms(stall.predicted),
        batch: stall.n_rows,
        n_tokens: stall.n_tokens,
    }
}

fn loss(loss: &Loss) -> StoredLoss {
    StoredLoss {
        at_ms: ms(loss.at),
        away_ms: loss.away.map(ms),
        kind: if loss.lost_blocks { "preempted" } else { "paused" }.to_owned(),
        by: loss.by.as_ref().map(other),
    }
}

fn other(other: &Other) -> StoredOther {
    StoredOther { request: Some(other.request.to_string()), tenant: tenant_text(other.tenant) }
}

/// Whole microseconds, so that the text stays short.
fn ms(time: Duration) -> f64 {
    time.as_micros() as f64 / 1e3
}
