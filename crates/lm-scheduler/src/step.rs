//! What a step consists of.

use lm_types::SeqId;

use crate::{Sequence, StepShape};

/// One step's decisions. Reused from step to step.
#[derive(Clone, Debug, Default)]
pub struct Step {
    /// Decodes first, then prefill chunks.
    pub rows: Vec<ScheduledRow>,
    /// Sequences whose time has passed; the scheduler has forgotten them.
    pub expired: Vec<Expired>,
    /// Sequences that lost their blocks and wait again.
    pub preempted: Vec<SeqId>,
    /// Sequences that lost their slot or their blocks, in order.
    pub displaced: Vec<Displaced>,
    /// What its duration depends on.
    pub shape: StepShape,
    /// How long it is predicted to take, in seconds.
    pub predicted_seconds: f64,
}

/// Tokens of one sequence in one step: positions `start..start + n_tokens`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ScheduledRow {
    /// Whose.
    pub seq: SeqId,
    /// The first position that is computed.
    pub start: usize,
    /// How many; at least 1.
    pub n_tokens: usize,
    /// How many of them, the last ones, are guesses that stand in [`Sequence::tokens_and_drafts`].
    pub n_drafts: usize,
    /// After how many of them, the last ones, logits are wanted.
    pub n_logits: usize,
    /// Whether its last token that is no guess is the sequence's last, so that the next one is drawn.
    pub samples: bool,
}

impl ScheduledRow {
    /// What its duration depends on.
    #[must_use]
    pub fn shape(&self) -> StepShape {
        let (mut shape, n_tokens) = (StepShape::default(), self.n_tokens - self.n_drafts);
        match n_tokens {
            1 => shape.add_decode(self.start),
            _ => shape.add_prefill(self.start, n_tokens),
        }
        shape.add_drafts(self.start + n_tokens, self.n_drafts);
        shape.n_scored += (self.n_logits - self.n_drafts).saturating_sub(1);
        shape
    }
}

/// A sequence that lost its slot or its blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Displaced {
    /// Whose.
    pub id: SeqId,
    /// For whom; `None` when nobody could have gone on otherwise.
    pub by: Option<SeqId>,
    /// Whether it lost its blocks, rather than its slot alone.
    pub lost_blocks: bool,
}

/// A sequence whose time has passed.
#[derive(Clone, Debug)]
pub struct Expired {
    /// Whose.
    pub id: SeqId,
    /// As far as it came.
    pub sequence: Sequence,
    /// Whether it was `deadline` that passed, rather than `start_by`.
    pub by_deadline: bool,
}

impl Step {
    pub(crate) fn clear(&mut self) {
        self.rows.clear();
        self.expired.clear();
        self.preempted.clear();
        self.displaced.clear();
        self.shape = StepShape::default();
        self.predicted_seconds = 0.0;
    }

    /// Rows of logits that the step computes.
    #[must_use]
    pub fn n_logits(&self) -> usize {
        self.rows.iter().map(|row| row.n_logits).sum()
    }

    /// Tokens in the step.
    #[must_use]
    pub fn n_tokens(&self) -> usize {
        self.rows.iter().map(|row| row.n_tokens).sum()
    }
}
