//! Continuous batching: one step holds decodes and prefill chunks of many sequences.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use lm_types::{CacheMissReason, Priority, SeqId, TenantId, Timestamp, TokenId};

use crate::fairness::Tenants;
use crate::fill::Candidate;
use crate::outside::Outside;
use crate::waiting::WaitingQueue;
use crate::{
    BlockManager, ConfigError, CostModel, Expired, NewSequence, SchedulerConfig, Sequence, Step,
};

/// Decides, step by step, which sequences run and where their KV lives.
#[derive(Debug)]
pub struct Scheduler {
    pub(crate) config: SchedulerConfig,
    pub(crate) blocks: BlockManager,
    pub(crate) sequences: BTreeMap<SeqId, Sequence>,
    /// Sequences without a slot. Those that had one may still hold blocks.
    pub(crate) waiting: WaitingQueue,
    /// Sequences with a slot.
    pub(crate) running: Vec<SeqId>,
    /// Waiting sequences that still hold blocks from when they ran.
    pub(crate) paused: Vec<SeqId>,
    pub(crate) tenants: Tenants,
    pub(crate) cost: CostModel,
    /// When sequences expire, the next first.
    due: BTreeSet<(Timestamp, SeqId)>,
    pub(crate) step: Step,
    /// The running sequences of a step in their order. Reused.
    pub(crate) order: Vec<Candidate>,
    /// Steps planned so far.
    pub(crate) n_steps: u64,
    /// Rows given so far.
    pub(crate) n_rows: u64,
    /// When the last step was planned.
    pub(crate) now: Timestamp,
    /// The last step in which a sequence lost its blocks to another tenant.
    pub(crate) last_fair_preemption: u64,
    /// The last step with guesses.
    pub(crate) last_draft_step: u64,
    /// The last step in which background had its turn beside others.
    pub(crate) last_beside: u64,
    /// The last step that was not background's alone.
    pub(crate) last_urgent: u64,
    n_added: u64,
    /// What is kept outside of the pool, where anything is.
    pub(crate) outside: Option<Outside>,
    pub(crate) counters: SchedulerCounters,
}

/// What happened since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SchedulerCounters {
    /// Prompt tokens looked up in the prefix cache.
    pub prefix_query_tokens: u64,
    /// Prompt tokens found there.
    pub prefix_hit_tokens: u64,
    /// Sequences that lost their blocks.
    pub preemptions: u64,
    /// Sequences that lost their slot and kept their blocks.
    pub pauses: u64,
    /// Named blocks that were given away.
    pub evictions: u64,
    /// Prompts by why their first block that was not in the prefix cache was not, in the order of
    /// [`CacheMissReason::ALL`].
    pub first_misses: [u64; CacheMissReason::ALL.len()],
    /// Steps of a sequence that verified drafts.
    pub drafts: u64,
    /// Tokens that were guessed.
    pub draft_tokens: u64,
    /// Those of them that were drawn.
    pub accepted_tokens: u64,
    /// Guessed tokens that were suggested, and those of them that were drawn.
    pub suggested_tokens: [u64; 2],
    /// Blocks that were asked for from outside of the pool.
    pub imports: u64,
    /// Those that came in time.
    pub imported: u64,
}

/// A token drawn for a sequence of the last step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Drawn {
    /// For whom.
    pub seq: SeqId,
    /// What.
    pub token: TokenId,
}

/// Why a sequence was not added.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AddError {
    /// Longer than the longest sequence.
    #[error("the sequence may grow to {len} tokens, over the limit of {max_model_len}")]
    TooLong {
        /// Prompt and answer together.
        len: usize,
        /// The limit.
        max_model_len: usize,
    },
    /// Nothing to compute, or nothing to generate.
    #[error("the sequence has an empty prompt or generates nothing")]
    Empty,
}

impl Scheduler {
    /// A scheduler with an empty queue and a free pool.
    ///
    /// # Errors
    /// Limits that contradict each other.
    pub fn new(config: SchedulerConfig) -> Result<Self, ConfigError> {
        config.validate()?;
        let n_seqs = config.max_num_seqs;
        Ok(Scheduler {
            blocks: BlockManager::new(config.n_blocks),
            sequences: BTreeMap::new(),
            waiting: WaitingQueue::default(),
            running: Vec::with_capacity(n_seqs),
            paused: Vec::with_capacity(n_seqs),
            tenants: Tenants::default(),
            cost: CostModel::default(),
            due: BTreeSet::new(),
            step: Step {
                rows: Vec::with_capacity(n_seqs),
                preempted: Vec::with_capacity(2 * n_seqs),
                displaced: Vec::with_capacity(2 * n_seqs),
                ..Step::default()
            },
            order: Vec::with_capacity(n_seqs),
            n_steps: 0,
            n_rows: 0,
            now: Timestamp(0),
            last_fair_preemption: 0,
            last_draft_step: 0,
            last_beside: 0,
            last_urgent: 0,
            n_added: 0,
            outside: None,
            counters: SchedulerCounters::default(),
            config,
        })
    }

    /// Queues a sequence. The queue is bounded by whoever adds: see [`crate::Admission`].
    ///
    /// # Errors
    /// The sequence could never run.
    ///
    /// # Panics
    /// When a sequence of the same id is in the scheduler.
    pub fn add(&mut self, new: NewSequence) -> Result<(), AddError> {
        let len = new.prompt.len().saturating_add(new.max_new_tokens);
        if new.prompt.is_empty() || new.max_new_tokens == 0 {
            return Err(AddError::Empty);
        }
        if len > self.config.max_model_len {
            return Err(AddError::TooLong { len, max_model_len: self.config.max_model_len });
        }
        let seq = Sequence::new(new, self.n_added, self.config.block_size);
        self.n_added += 1;
        self.tenants.joins(seq.tenant);
        self.waiting.push(seq.class, seq.tenant, seq.arrival, seq.id);
        self.due.extend(seq.due().map(|due| (due, seq.id)));
        let replaced = self.sequences.insert(seq.id, seq);
        assert!(replaced.is_none(), "sequence ids are unique");
        Ok(())
    }

    /// Plans the next step: decodes first, then prefill chunks and admissions by class, by tenant and by
    /// arrival, as far as the token budget and the predicted time go. The caller runs it and then calls
    /// [`Scheduler::complete`], or removes its sequences when it failed.
    pub fn schedule(&mut self, now: Timestamp) -> &Step {
        self.step.clear();
        self.n_steps += 1;
        self.now = now;
        self.drop_expired();
        self.end_late_imports();
        self.promote_patient();
        self.yield_slots();
        self.fill_step();
        self.step.predicted_seconds = self.cost.predict(&self.step.shape);
        &self.step
    }

    /// Accounts for a step that was computed: its KV is in place, and `drawn` was sampled.
    ///
    /// # Panics
    /// When a drawn token belongs to no sampling row of the step.
    pub fn complete(&mut self, drawn: &[Drawn]) {
        for row in &self.step.rows {
            let Some(seq) = self.sequences.get_mut(&row.seq) else { continue };
            seq.n_computed = row.start + row.n_tokens - row.n_drafts;
            let wanted = seq.unscored_from.filter(|_| seq.n_computed < seq.n_prompt);
            seq.unscored_from = wanted.map(|from| from.max(seq.n_computed));
        }
        for of_one in drawn.chunk_by(|a, b| a.seq == b.seq) {
            let id = of_one[0].seq;
            let seq = self.sequences.get_mut(&id).expect("drawn for a known sequence");
            let tokens = of_one.iter().map(|drawn| drawn.token);
            self.counters.count_drafts(seq, seq.n_right(tokens.clone()));
            seq.accept(tokens);
            let n_unpaid = seq.n_computed.saturating_sub(seq.n_charged);
            seq.n_charged += n_unpaid;
            self.tenants.charge(seq.tenant, 0, n_unpaid);
        }
        for i in 0..self.step.rows.len() {
            self.settle(self.step.rows[i].seq);
        }
    }

    /// Gives back what unverified drafts took, and names the blocks that the step filled.
    fn settle(&mut self, id: SeqId) {
        let Some(seq) = self.sequences.get_mut(&id) else { return };
        let (blocks, block_size) = (&mut self.blocks, self.config.block_size);
        seq.drop_drafts();
        let n_blocks = seq.tokens.len().div_ceil(block_size);
        let spare = seq.block_table.drain(n_blocks.min(seq.block_table.len())..);
        spare.for_each(|block| blocks.release(block));
        if self.config.prefix_cache {
            name_full_blocks(seq, blocks, self.outside.as_mut(), block_size);
        }
    }

    /// A sequence ended before the last of the tokens that a step drew, so that it has only the first `n_tokens`.
    /// It must be removed next.
    pub fn cut(&mut self, id: SeqId, n_tokens: usize) {
        let Some(seq) = self.sequences.get_mut(&id) else { return };
        seq.tokens.truncate(n_tokens);
        seq.n_computed = seq.n_computed.min(n_tokens.saturating_sub(1));
    }

    /// Forgets a sequence whose KV cannot be trusted: nobody will share its blocks from now on.
    pub fn remove_broken(&mut self, id: SeqId) -> Option<Sequence> {
        for &block in self.sequences.get(&id)?.block_table() {
            let forgotten = self.blocks.forget_content(block);
            if let (Some(hash), Some(outside)) = (forgotten, &mut self.outside) {
                outside.retract(hash);
            }
        }
        self.remove(id)
    }

    /// Forgets a sequence, whatever its state; its blocks are free at once.
    pub fn remove(&mut self, id: SeqId) -> Option<Sequence> {
        let mut seq = self.sequences.remove(&id)?;
        seq.drop_drafts();
        let was_waiting = self.waiting.remove(seq.class, seq.tenant, seq.arrival);
        self.running.retain(|other| *other != id);
        self.paused.retain(|other| *other != id);
        self.tenants.leaves(seq.tenant, was_waiting);
        if let Some(due) = seq.due() {
            self.due.remove(&(due, id));
        }
        release_blocks(&mut seq, &mut self.blocks);
        Some(seq)
    }

    /// The limits.
    #[must_use]
    pub fn config(&self) -> &SchedulerConfig {
        &self.config
    }

    /// Changes the bound of the token gap, from the next step on.
    pub fn set_max_token_gap(&mut self, gap: Duration) {
        self.config.max_token_gap = gap;
    }

    /// The last step that was planned.
    #[must_use]
    pub fn step(&self) -> &Step {
        &self.step
    }

    /// Takes out what the last step dropped.
    pub fn take_expired(&mut self) -> Option<Expired> {
        self.step.expired.pop()
    }

    /// How long steps take here.
    #[must_use]
    pub fn cost(&self) -> &CostModel {
        &self.cost
    }

    /// A sequence in the scheduler.
    #[must_use]
    pub fn sequence(&self, id: SeqId) -> Option<&Sequence> {
        self.sequences.get(&id)
    }

    /// What a tenant was served in tokens, generated ones counted twice; as far as it is remembered.
    #[must_use]
    pub fn served(&self, tenant: TenantId) -> u64 {
        self.tenants.get(tenant).served
    }

    /// Sequences that wait for a slot.
    #[must_use]
    pub fn n_waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Sequences that have a slot.
    #[must_use]
    pub fn n_running(&self) -> usize {
        self.running.len()
    }

    /// The KV pool.
    #[must_use]
    pub fn blocks(&self) -> &BlockManager {
        &self.blocks
    }

    /// What happened since the start.
    #[must_use]
    pub fn counters(&self) -> SchedulerCounters {
        SchedulerCounters { evictions: self.blocks.n_evictions(), ..self.counters }
    }

    /// It is scheduled for the first time: from now on only its deadline can end it.
    pub(crate) fn started(&mut self, id: SeqId) {
        let seq = self.sequences.get_mut(&id).expect("a scheduled sequence is known");
        if let Some(due) = seq.due() {
            self.due.remove(&(due, id));
        }
        seq.first_scheduled = Some(self.now);
        seq.n_cached = seq.n_computed;
        seq.first_miss = seq.first_miss.filter(|_| self.config.prefix_cache);
        let (_, reason) = *seq.first_miss.get_or_insert((0, CacheMissReason::Disabled));
        self.counters.first_misses[reason as usize] += 1;
        self.counters.prefix_query_tokens += seq.n_prompt as u64;
        self.counters.prefix_hit_tokens += seq.n_cached as u64;
        self.due.extend(seq.due().map(|due| (due, id)));
    }

    fn drop_expired(&mut self) {
        let now = self.now;
        while let Some(&(due, id)) = self.due.first().filter(|(due, _)| *due < now) {
            let sequence = self.remove(id).expect("what is due is known: this is a bug");
            let by_deadline = sequence.deadline == Some(due);
            self.step.expired.push(Expired { id, sequence, by_deadline });
        }
    }

    /// A batch sequence that waited too long is interactive from now on.
    fn promote_patient(&mut self) {
        loop {
            let waits_too_long = |id: &SeqId| {
                self.now.since(self.sequences[id].waiting_since) >= self.config.batch_patience
            };
            let Some(id) = self.waiting.heads(Priority::Batch).find(waits_too_long) else { return };
            let seq = self.sequences.get_mut(&id).expect("a waiting sequence is known");
            self.waiting.remove(seq.class, seq.tenant, seq.arrival);
            seq.class = Priority::Interactive;
            self.waiting.push(seq.class, seq.tenant, seq.arrival, id);
        }
    }
}

/// Lets all blocks of a sequence go; it is computed from its first token again. The last block is
/// given away first, so that prefixes live longest.
pub(crate) fn release_blocks(seq: &mut Sequence, blocks: &mut BlockManager) {
    while let Some(block) = seq.block_table.pop() {
        blocks.release(block);
    }
    seq.n_computed = 0;
    seq.n_hashed_blocks = 0;
    seq.imports.clear();
    seq.last_hash = seq.root;
}

/// Names the blocks that the last step filled.
fn name_full_blocks(
    seq: &mut Sequence,
    blocks: &mut BlockManager,
    mut outside: Option<&mut Outside>,
    block_size: usize,
) {
    while (seq.n_hashed_blocks + 1) * block_size <= seq.n_computed {
        let i = seq.n_hashed_blocks;
        let tokens = &seq.tokens[i * block_size..(i + 1) * block_size];
        let hash = seq.last_hash.child(tokens);
        blocks.register(seq.block_table[i], hash);
        if let Some(outside) = &mut outside {
            outside.offer(hash, tokens);
        }
        seq.last_hash = hash;
        seq.n_hashed_blocks += 1;
    }
}
