//! What a step consists of.

use lm_types::SeqId;

/// One step's decisions. Reused from step to step.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Step {
    /// Decodes first, then prefill chunks.
    pub rows: Vec<ScheduledRow>,
    /// Sequences whose deadline passed while they waited; the scheduler has forgotten them.
    pub expired: Vec<SeqId>,
    /// Sequences that lost their blocks and wait again.
    pub preempted: Vec<SeqId>,
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

impl Step {
    pub(crate) fn clear(&mut self) {
        self.rows.clear();
        self.expired.clear();
        self.preempted.clear();
    }

    /// Tokens in the step.
    #[must_use]
    pub fn n_tokens(&self) -> usize {
        self.rows.iter().map(|row| row.n_tokens).sum()
    }
}
