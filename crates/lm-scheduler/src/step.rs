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
    /// Whether its last token is the sequence's last, so that the next one is drawn.
    pub samples: bool,
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

    /// Tokens in the step.
    #[must_use]
    pub fn n_tokens(&self) -> usize {
        self.rows.iter().map(|row| row.n_tokens).sum()
    }
}
