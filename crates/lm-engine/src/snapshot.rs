//! What the engine's counters were at one moment, as plain numbers.
//!
//! It must never count anything: `stats.rs` does.
//!
//! Start reading at [`StatsSnapshot`].

use std::time::Duration;

use lm_types::{CacheMissReason, FinishReason};

use crate::{BlockStoreSnapshot, HistogramSnapshot};

/// What the counters were at one moment.
#[derive(Clone, Debug, PartialEq)]
pub struct StatsSnapshot {
    /// Since the engine started.
    pub uptime: Duration,
    /// Since the engine's thread last went round its loop.
    pub heartbeat_age: Duration,
    /// The longest of the recent steps; a long one counts for less and less with each step.
    pub longest_step: Duration,
    /// Tokens of that step.
    pub longest_step_tokens: u64,
    /// Sequences in the step that runs; 0 when none does.
    pub step_rows: u64,
    /// Tokens in the step that runs; 0 when none does.
    pub step_tokens: u64,
    /// Whether the engine's thread panicked. It answers nothing any more.
    pub died: bool,
    /// Steps executed.
    pub steps: u64,
    /// Steps in which the backend failed.
    pub failed_steps: u64,
    /// Sequences that hold KV blocks.
    pub n_running: u64,
    /// Sequences that wait for admission.
    pub n_waiting: u64,
    /// KV blocks that nobody holds.
    pub n_free_blocks: u64,
    /// KV blocks in the pool.
    pub n_blocks: u64,
    /// Prompt tokens of finished and failed answers.
    pub prompt_tokens: u64,
    /// Tokens generated.
    pub generation_tokens: u64,
    /// Prompt tokens looked up in the prefix cache.
    pub prefix_query_tokens: u64,
    /// Prompt tokens found there.
    pub prefix_hit_tokens: u64,
    /// Sequences that lost their blocks.
    pub preemptions: u64,
    /// Times that guesses of a sequence's next tokens were verified.
    pub drafts: u64,
    /// Tokens that were guessed.
    pub draft_tokens: u64,
    /// Those of them that were right.
    pub accepted_tokens: u64,
    /// Guessed tokens that a grammar suggested, because it decides the text.
    pub form_draft_tokens: u64,
    /// Those of them that were right.
    pub form_accepted_tokens: u64,
    /// CPU time of the process while sequences were active.
    pub cpu_seconds: f64,
    /// What the machine drew meanwhile; `None` where that cannot be read.
    pub joules: Option<f64>,
    /// Answers by how they ended.
    pub finished: [(FinishReason, u64); FinishReason::ALL.len()],
    /// Answers that were refused or failed, by code.
    pub failed: Vec<(&'static str, u64)>,
    /// From arrival to first token.
    pub ttft: HistogramSnapshot,
    /// Between tokens of one answer.
    pub itl: HistogramSnapshot,
    /// From arrival to end.
    pub e2e: HistogramSnapshot,
    /// Mean time of an answer's tokens after the first, of answers with two tokens or more.
    pub tpot: HistogramSnapshot,
    /// From arrival until first scheduled.
    pub queue_wait: HistogramSnapshot,
    /// Duration of a step.
    pub step_time: HistogramSnapshot,
    /// How far the predicted duration of a step was off.
    pub step_error: HistogramSnapshot,
    /// How far the first token was from the time that was predicted at arrival.
    pub ttft_error: HistogramSnapshot,
    /// What was predicted of the last step, in seconds.
    pub predicted_step_seconds: f64,
    /// Recent steps' mean of |predicted - measured| / measured.
    pub step_error_ratio: f64,
    /// Requests that the queue refused, by what was short.
    pub rejected: Vec<(&'static str, u64)>,
    /// Answers whose time limit passed before their first step.
    pub expired_waiting: u64,
    /// Answers whose deadline passed after it.
    pub expired_running: u64,
    /// Sequences that lost their slot for a while and kept their blocks.
    pub pauses: u64,
    /// Prompt tokens that wait for their first step.
    pub queued_tokens: u64,
    /// Prompts by why their first block that was not in the prefix cache was not.
    pub first_misses: [(CacheMissReason, u64); CacheMissReason::ALL.len()],
    /// What was counted of blocks outside of the pool, where any are kept.
    pub block_store: Option<BlockStoreSnapshot>,
}
