//! Room for the draws of several threads, kept from step to step so that a warm step allocates nothing.
//!
//! It must never change their order.
//!
//! Start reading at [`DrawRoom::jobs`].

use std::collections::BTreeMap;

use lm_scheduler::{ScheduledRow, Scheduler};
use lm_types::SeqId;

use crate::active::Active;
use crate::draw::{Draw, Rows, places};

/// Rows, and where their draws go.
pub(crate) type Job<'a> = (Rows<'a>, &'a mut [Option<Draw>]);

/// Room for what several threads draw, kept from step to step.
pub(crate) struct DrawRoom {
    /// The vocabulary and the longest sequence that samplers have room for.
    pub(crate) sampler_room: (usize, usize),
    /// Rows of the step with their first rows of logits, sorted by sequences.
    order: Vec<(SeqId, usize, usize)>,
    slots: Vec<Option<Draw>>,
    /// Empty between steps.
    jobs: Vec<Job<'static>>,
}

impl DrawRoom {
    /// For steps of `n_seqs` with `n_logits` rows.
    pub(crate) fn new(
        (n_seqs, n_logits): (usize, usize),
        vocab_size: usize,
        max_model_len: usize,
    ) -> Self {
        let (order, jobs) = (Vec::with_capacity(n_seqs), Vec::with_capacity(n_seqs));
        let slots = Vec::with_capacity(n_seqs + n_logits);
        DrawRoom { sampler_room: (vocab_size, max_model_len), order, slots, jobs }
    }

    /// A job for each row that has logits.
    pub(crate) fn jobs<'a>(
        &'a mut self,
        rows: &'a [ScheduledRow],
        scheduler: &'a Scheduler,
        active: &'a mut BTreeMap<SeqId, Active>,
    ) -> Vec<Job<'a>> {
        self.order.clear();
        self.order.extend(places(rows).map(|(i, first)| (rows[i].seq, i, first)));
        self.order.sort_unstable();
        self.slots.clear();
        self.slots.resize_with(rows.iter().map(|row| 1 + row.n_drafts).sum(), || None);
        let (mut slots, mut active) = (&mut self.slots[..], active.iter_mut());
        let mut jobs = emptied(std::mem::take(&mut self.jobs));
        for &(id, i, first) in &self.order {
            let active = active.find_map(|(known, active)| (*known == id).then_some(active));
            let active = active.expect("a scheduled sequence is active, and scheduled once");
            let seq = scheduler.sequence(id).expect("a scheduled sequence is known");
            let here = slots.split_off_mut(..1 + rows[i].n_drafts).expect("there is one a draw");
            jobs.push((Rows { row: &rows[i], first, seq, active }, here));
        }
        jobs
    }

    /// Keeps the memory of jobs that are done.
    pub(crate) fn take_back(&mut self, jobs: Vec<Job<'static>>) {
        self.jobs = jobs;
    }
}

/// The memory of `jobs`, for others.
pub(crate) fn emptied<'a>(mut jobs: Vec<Job<'_>>) -> Vec<Job<'a>> {
    jobs.clear();
    // Collected in place: a test sees to it that a step allocates nothing.
    jobs.into_iter().map(|_| unreachable!("there is none")).collect()
}
