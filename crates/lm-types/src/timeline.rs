//! What happened to one answer on its way through the engine. Bounded, however long it took.

use std::time::Duration;

use crate::{RequestId, TenantId};

/// What happened to one answer. All times count from its request's arrival.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Timeline {
    /// Before its first step.
    pub queue: QueueStory,
    /// Steps that computed its prompt, or computed it again after a preemption: the first
    /// [`Timeline::MAX_CHUNKS`].
    pub chunks: Vec<Chunk>,
    /// How many there were in all.
    pub n_chunks: u32,
    /// When every `token_stride`-th token came, the first one first.
    pub tokens: Vec<Duration>,
    /// Which tokens `tokens` holds; a power of two.
    pub token_stride: u32,
    /// The longest gaps between two tokens, the longest first.
    pub gaps: Vec<Gap>,
    /// The steps that took more than twice as long as predicted and cost the most, the worst first.
    pub stalls: Vec<Stall>,
    /// When it lost its slot or its blocks: the first [`Timeline::MAX_LOSSES`].
    pub losses: Vec<Loss>,
    /// How often in all.
    pub n_losses: u32,
    /// Steps that it took part in.
    pub n_steps: u32,
    /// Answers in the smallest of those.
    pub least_rows: u32,
    /// Answers in all of those together.
    pub sum_rows: u64,
    /// Answers in the largest of those.
    pub most_rows: u32,
}

/// Somebody else's request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Other {
    /// Which.
    pub request: RequestId,
    /// On whose behalf: what one tenant is told never names another's.
    pub tenant: TenantId,
}

/// What an answer waited for before its first step.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct QueueStory {
    /// Answers that waited when it came.
    pub n_waiting: u32,
    /// Answers that had a slot when it came.
    pub n_running: u32,
    /// Slots in all.
    pub n_slots: u32,
    /// KV blocks that were free when it came.
    pub n_free_blocks: u32,
    /// KV blocks that its prompt takes.
    pub n_prompt_blocks: u32,
    /// Answers that began while it waited.
    pub n_began: u32,
    /// The last of those to begin, the last one last: at most [`Timeline::MAX_NAMED`].
    pub behind: Vec<Other>,
}

/// Prompt tokens of one step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Chunk {
    /// When the step began.
    pub at: Duration,
    /// How long the step took.
    pub took: Duration,
    /// The first position.
    pub start: u32,
    /// How many tokens.
    pub n_tokens: u32,
    /// Answers in the step, this one among them.
    pub n_rows: u32,
    /// The step's number since the engine started.
    pub step: u64,
    /// Whether they had been computed before, and lost.
    pub is_again: bool,
}

/// A gap between two tokens.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Gap {
    /// When it ended.
    pub at: Duration,
    /// How long it was.
    pub took: Duration,
    /// The token that ended it, counted from 0.
    pub before_token: u32,
    /// What took most of it.
    pub because: GapCause,
}

/// What took most of a gap between two tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GapCause {
    /// A prompt in the same steps.
    Prompt {
        /// Whose, the largest one's.
        of: Other,
        /// Tokens of all prompts in those steps.
        n_tokens: u32,
    },
    /// It had lost its slot or its blocks, or computed again what it lost.
    Lost {
        /// For whom, where that is known.
        by: Option<Other>,
    },
    /// Steps had no row of it: decodes took turns.
    LeftOut,
    /// Another model's step or load, or blocks that were copied.
    OtherModel,
    /// The step took much longer than predicted.
    Slow,
    /// The step itself, with so many answers in it.
    Step {
        /// Answers in the step, this one among them.
        n_rows: u32,
    },
}

/// A step that took much longer than predicted.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Stall {
    /// When the step began.
    pub at: Duration,
    /// How long it took.
    pub took: Duration,
    /// How long it was predicted to take.
    pub predicted: Duration,
    /// Answers in the step.
    pub n_rows: u32,
    /// Tokens in the step.
    pub n_tokens: u32,
}

/// An answer that lost its slot or its blocks.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Loss {
    /// When.
    pub at: Duration,
    /// How long until its next step; `None` when there was none.
    pub away: Option<Duration>,
    /// Whether it lost its blocks and was to be computed again, rather than its slot alone.
    pub lost_blocks: bool,
    /// For whom, where that is known.
    pub by: Option<Other>,
}

impl Timeline {
    /// Chunks that are told one by one.
    pub const MAX_CHUNKS: usize = 32;
    /// Times of tokens.
    pub const MAX_TOKENS: usize = 128;
    /// Gaps, and stalls.
    pub const MAX_GAPS: usize = 5;
    /// Losses that are told one by one.
    pub const MAX_LOSSES: usize = 16;
    /// Other requests that are named.
    pub const MAX_NAMED: usize = 4;

    /// Notes a gap, if it is among the longest.
    pub fn note_gap(&mut self, gap: Gap) {
        keep_longest(&mut self.gaps, gap, |gap| gap.took);
    }

    /// Notes a slow step, if it is among the worst.
    pub fn note_stall(&mut self, stall: Stall) {
        keep_longest(&mut self.stalls, stall, |stall| stall.took.saturating_sub(stall.predicted));
    }

    /// Notes when the token number `n`, counted from 0, came.
    pub fn note_token(&mut self, n: u32, at: Duration) {
        let stride = self.token_stride.max(1);
        if !n.is_multiple_of(stride) {
            return;
        }
        if self.tokens.len() == Self::MAX_TOKENS {
            let mut i = 0;
            self.tokens.retain(|_| {
                i += 1;
                i % 2 == 1
            });
            self.token_stride = stride.saturating_mul(2);
            return self.note_token(n, at);
        }
        self.token_stride = stride;
        self.tokens.push(at);
    }
}

/// Keeps the longest [`Timeline::MAX_GAPS`], the longest first.
fn keep_longest<T>(all: &mut Vec<T>, new: T, length: impl Fn(&T) -> Duration) {
    let is_short = |last: &T| length(last) >= length(&new);
    if all.len() < Timeline::MAX_GAPS || !all.last().is_some_and(is_short) {
        let place = all.partition_point(|old| length(old) >= length(&new));
        all.truncate(Timeline::MAX_GAPS - 1);
        all.insert(place, new);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn token_times_are_thinned_and_stay_in_order() {
        let mut timeline = Timeline::default();
        for n in 0..1000 {
            timeline.note_token(n, Duration::from_millis(u64::from(n)));
        }
        assert_eq!(timeline.token_stride, 8);
        assert!(timeline.tokens.len() <= Timeline::MAX_TOKENS);
        for (i, at) in timeline.tokens.iter().enumerate() {
            assert_eq!(*at, Duration::from_millis(8 * i as u64));
        }
        assert_eq!(timeline.tokens.len(), 125);
    }

    #[test]
    fn the_longest_gaps_are_kept() {
        let mut timeline = Timeline::default();
        for ms in [3, 9, 1, 7, 5, 2, 8, 4] {
            let took = Duration::from_millis(ms);
            let because = GapCause::LeftOut;
            timeline.note_gap(Gap { at: took, took, before_token: 1, because });
        }
        let kept: Vec<u128> = timeline.gaps.iter().map(|gap| gap.took.as_millis()).collect();
        assert_eq!(kept, [9, 8, 7, 5, 4]);
    }
}
