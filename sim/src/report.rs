//! What a run saw, and what did not hold.
//!
//! It must never decide anything: the simulation does.
//!
//! Start reading at [`Report`].

use std::fmt;

/// What a run saw, so that a caller can tell that the interesting cases came up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Steps that were executed.
    pub steps: u64,
    /// Answers that were complete and equal to their reference.
    pub answers: u64,
    /// Sequences that lost their blocks.
    pub preemptions: u64,
    /// Prompt tokens found in the prefix cache.
    pub prefix_hit_tokens: u64,
    /// Named blocks that were given away.
    pub evictions: u64,
    /// Requests that were refused, left, or ended by an injected fault.
    pub ended_early: u64,
    /// Requests that had no place in the queue.
    pub queue_full: u64,
    /// Requests whose limits were predicted not to be met.
    pub unreachable: u64,
    /// Requests whose time passed, waiting or running.
    pub expired: u64,
    /// Sequences that lost their slot to somebody else.
    pub pauses: u64,
    /// Steps in which decodes took turns.
    pub capped_steps: u64,
    /// Blocks that came back from outside of the pool.
    pub imported: u64,
    /// Blocks that did not come back, or not in time.
    pub lost_imports: u64,
    /// Tokens that were guessed.
    pub drafted: u64,
    /// Guesses that were right.
    pub accepted: u64,
    /// Tokens of prompts whose likelihood was wanted, and seen once.
    pub scored: u64,
}

/// An invariant that did not hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// What to run again.
    pub seed: u64,
    /// When.
    pub step: u64,
    /// What did not hold.
    pub fact: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "seed {} step {}: {}", self.seed, self.step, self.fact)
    }
}
