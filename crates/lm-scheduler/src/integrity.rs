//! What must hold between steps, checked on demand.

use crate::{Scheduler, SchedulerConfig, Sequence};

/// A fact about the scheduler that should hold and does not. Always a bug.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("scheduler integrity: {fact}")]
pub struct Broken {
    /// What was found.
    pub fact: String,
}

impl Broken {
    pub(crate) fn unless(holds: bool, fact: impl FnOnce() -> String) -> Result<(), Broken> {
        if holds { Ok(()) } else { Err(Broken { fact: fact() }) }
    }
}

impl Scheduler {
    /// Checks everything that must hold between steps: the holders of each block, the free list, the
    /// queues, and the limits of the last step.
    ///
    /// # Errors
    /// The first fact that does not hold.
    pub fn check_integrity(&self) -> Result<(), Broken> {
        let SchedulerConfig { block_size, max_batch_tokens, max_num_seqs, .. } = *self.config();
        let mut n_holders = vec![0; self.blocks().n_blocks()];
        let mut n_waiting = 0;
        let mut n_running = 0;
        for (id, seq) in &self.sequences {
            let in_waiting = self.waiting.contains(seq.class, seq.tenant, seq.arrival);
            let in_running = seq.is_running && self.running.contains(id);
            Broken::unless(in_waiting != in_running, || format!("{id} is not in one queue"))?;
            n_waiting += usize::from(in_waiting);
            n_running += usize::from(in_running);
            for block in seq.block_table() {
                n_holders[block.index()] += 1;
            }
            let n_slots = seq.block_table.len() * block_size;
            Broken::unless(seq.n_computed <= n_slots && seq.n_computed < seq.tokens.len(), || {
                let (computed, known) = (seq.n_computed, seq.tokens.len());
                format!("{id} has {computed} of {known} tokens computed in {n_slots} slots")
            })?;
            self.check_imports(seq)?;
            let is_paused = !in_running && !seq.block_table.is_empty();
            Broken::unless(is_paused == self.paused.contains(id), || {
                format!("{id} waits and holds {} blocks unknown", seq.block_table.len())
            })?;
        }
        Broken::unless(n_waiting == self.n_waiting() && n_running == self.n_running(), || {
            "a queue holds a sequence that is gone".into()
        })?;
        for (id, tenant) in self.tenants.active() {
            let of = |seq: &&Sequence| seq.tenant == id;
            let n_slots = self.sequences.values().filter(of).filter(|seq| seq.is_running).count();
            let n_sequences = self.sequences.values().filter(of).count();
            let counted = (tenant.n_sequences, tenant.n_slots, tenant.n_waiting);
            Broken::unless(counted == (n_sequences, n_slots, n_sequences - n_slots), || {
                format!("tenant {} counts {counted:?} sequences, slots, waiting", id.0)
            })?;
        }
        Broken::unless(n_running <= max_num_seqs, || format!("{n_running} sequences run"))?;
        let (n_logits, most) = (self.step().n_logits(), self.config().max_extra_logits);
        let n_most = self.step().rows.len() + most;
        Broken::unless(n_logits <= n_most, || format!("{n_logits} rows of logits in a step"))?;
        let n_tokens = self.step().n_tokens();
        Broken::unless(n_tokens <= max_batch_tokens, || format!("{n_tokens} tokens in a step"))?;
        self.blocks().check_integrity(&n_holders)
    }

    /// Blocks that wait for their content come after all that are computed, and have no rows.
    fn check_imports(&self, seq: &Sequence) -> Result<(), Broken> {
        let (id, first) = (seq.id, seq.n_hashed_blocks);
        let n_waiting = seq.block_table.iter().filter(|block| self.blocks().is_expecting(**block));
        let mut imports = seq.block_table.iter().skip(first).zip(&seq.imports);
        let n_imports = imports.clone().count();
        let n_expected = imports.clone().filter(|(block, _)| self.blocks().is_expecting(**block));
        let is_known = imports.all(|(block, hash)| {
            let expected = self.blocks().expected(hash) == Some(*block);
            expected || !self.blocks().is_expecting(*block)
        });
        let is_all = n_expected.count() == n_waiting.count() && n_imports == seq.imports.len();
        Broken::unless(is_known && is_all, || format!("{id} waits for what will not come"))?;
        let has_row = self.step().rows.iter().any(|row| row.seq == id);
        let is_idle = seq.n_computed == first * self.config().block_size && !has_row;
        Broken::unless(n_imports == 0 || is_idle, || format!("{id} runs while it imports"))
    }
}
