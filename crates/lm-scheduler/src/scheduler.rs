//! Continuous batching: one step holds decodes and prefill chunks of many sequences.

use std::collections::{BTreeMap, BTreeSet};

use lm_types::{SeqId, Timestamp, TokenId};

use crate::sequence::Rank;
use crate::{
    BlockManager, ConfigError, NewSequence, ScheduledRow, SchedulerConfig, Sequence, Step,
};

/// Decides, step by step, which sequences run and where their KV lives.
#[derive(Debug)]
pub struct Scheduler {
    config: SchedulerConfig,
    blocks: BlockManager,
    sequences: BTreeMap<SeqId, Sequence>,
    /// Sequences without blocks, the next to be admitted first.
    waiting: BTreeSet<Rank>,
    /// Sequences with blocks, sorted: the last one is preempted first.
    running: Vec<Rank>,
    step: Step,
    n_added: u64,
    counters: SchedulerCounters,
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
    /// Named blocks that were given away.
    pub evictions: u64,
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
    /// As many wait as may.
    #[error("{queued} sequences wait already, and at most {limit} may")]
    QueueFull {
        /// Sequences that wait.
        queued: usize,
        /// How many may.
        limit: usize,
    },
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
        Ok(Scheduler {
            blocks: BlockManager::new(config.n_blocks),
            sequences: BTreeMap::new(),
            waiting: BTreeSet::new(),
            running: Vec::with_capacity(config.max_num_seqs),
            step: Step {
                rows: Vec::with_capacity(config.max_num_seqs),
                expired: Vec::new(),
                preempted: Vec::with_capacity(config.max_num_seqs),
            },
            n_added: 0,
            counters: SchedulerCounters::default(),
            config,
        })
    }

    /// Queues a sequence.
    ///
    /// # Errors
    /// The queue is full, or the sequence could never run.
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
        // Preempted sequences were admitted before; they take nobody's place.
        let is_new = |rank: &&Rank| self.sequences[&rank.id].first_scheduled.is_none();
        let (queued, limit) =
            (self.waiting.iter().filter(is_new).count(), self.config.max_queued_requests);
        if queued >= limit {
            return Err(AddError::QueueFull { queued, limit });
        }
        let seq = Sequence::new(new, self.n_added, self.config.block_size);
        self.n_added += 1;
        self.waiting.insert(seq.rank);
        let replaced = self.sequences.insert(seq.id, seq);
        assert!(replaced.is_none(), "sequence ids are unique");
        Ok(())
    }

    /// Plans the next step: decodes first, then prefill chunks within the token budget, then
    /// admissions. The caller runs it and then calls [`Scheduler::complete`], or removes its
    /// sequences when it failed.
    pub fn schedule(&mut self, now: Timestamp) -> &Step {
        self.step.clear();
        self.drop_expired(now);
        let mut budget = self.config.max_batch_tokens;
        self.schedule_decodes(&mut budget);
        self.schedule_prefills(&mut budget);
        // Prefills that hold all blocks between them would wait for each other for ever.
        while self.step.rows.is_empty() && self.running.len() > 1 {
            self.preempt_last();
            self.schedule_prefills(&mut budget);
        }
        // Who was just preempted would be admitted again at once, and take the blocks back.
        if self.step.preempted.is_empty() {
            self.admit(&mut budget, now);
        }
        &self.step
    }

    /// Accounts for a step that was computed: its KV is in place, and `drawn` was sampled.
    ///
    /// # Panics
    /// When a drawn token belongs to no sampling row of the step.
    pub fn complete(&mut self, drawn: &[Drawn]) {
        for row in &self.step.rows {
            let Some(seq) = self.sequences.get_mut(&row.seq) else { continue };
            seq.n_computed = row.start + row.n_tokens;
            if self.config.prefix_cache {
                name_full_blocks(seq, &mut self.blocks, self.config.block_size);
            }
        }
        for Drawn { seq, token } in drawn {
            let seq = self.sequences.get_mut(seq).expect("drawn for a known sequence");
            assert!(seq.n_remaining() == 0, "drawn after the sequence's last token");
            seq.tokens.push(*token);
        }
    }

    /// Forgets a sequence whose KV cannot be trusted: nobody will share its blocks from now on.
    pub fn remove_broken(&mut self, id: SeqId) -> Option<Sequence> {
        for &block in self.sequences.get(&id)?.block_table() {
            self.blocks.forget_content(block);
        }
        self.remove(id)
    }

    /// Forgets a sequence, whatever its state; its blocks are free at once.
    pub fn remove(&mut self, id: SeqId) -> Option<Sequence> {
        let mut seq = self.sequences.remove(&id)?;
        self.waiting.remove(&seq.rank);
        self.running.retain(|rank| rank.id != id);
        release_blocks(&mut seq, &mut self.blocks);
        Some(seq)
    }

    /// The limits.
    #[must_use]
    pub fn config(&self) -> &SchedulerConfig {
        &self.config
    }

    /// The last step that was planned.
    #[must_use]
    pub fn step(&self) -> &Step {
        &self.step
    }

    /// A sequence in the scheduler.
    #[must_use]
    pub fn sequence(&self, id: SeqId) -> Option<&Sequence> {
        self.sequences.get(&id)
    }

    /// Sequences that wait for admission.
    #[must_use]
    pub fn n_waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Sequences that hold blocks.
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

    pub(crate) fn sequences(&self) -> &BTreeMap<SeqId, Sequence> {
        &self.sequences
    }

    pub(crate) fn is_waiting(&self, seq: &Sequence) -> bool {
        self.waiting.contains(&seq.rank)
    }

    pub(crate) fn is_running(&self, seq: &Sequence) -> bool {
        self.running.contains(&seq.rank)
    }

    fn drop_expired(&mut self, now: Timestamp) {
        let is_late = |rank: &&Rank| {
            let seq = &self.sequences[&rank.id];
            seq.first_scheduled.is_none() && seq.deadline.is_some_and(|deadline| deadline < now)
        };
        let late = self.waiting.iter().filter(is_late).map(|rank| rank.id);
        self.step.expired.extend(late);
        for i in 0..self.step.expired.len() {
            self.remove(self.step.expired[i]);
        }
    }

    /// Gives one token to each sequence that lacks only one.
    fn schedule_decodes(&mut self, budget: &mut usize) {
        let mut i = 0;
        while i < self.running.len() && *budget > 0 {
            let id = self.running[i].id;
            if self.sequences[&id].n_remaining() > 1 || self.make_room_for_one(id) {
                if self.sequences[&id].n_remaining() == 1 {
                    self.schedule_row(id, 1, budget);
                }
                i += 1;
            }
        }
    }

    /// Gives a chunk to each sequence that lacks more than one token, as far as budget and free
    /// blocks go.
    fn schedule_prefills(&mut self, budget: &mut usize) {
        for i in 0..self.running.len() {
            let seq = &self.sequences[&self.running[i].id];
            if seq.n_remaining() == 1 {
                continue;
            }
            let n_slots = (seq.block_table.len() + self.blocks.n_free()) * self.config.block_size;
            let room = n_slots - seq.n_computed;
            let chunk = self.chunk(seq, *budget).min(room);
            if chunk > 0 {
                self.schedule_row(seq.id, chunk, budget);
            }
        }
    }

    fn admit(&mut self, budget: &mut usize, now: Timestamp) {
        while *budget > 0 && self.running.len() < self.config.max_num_seqs {
            let Some(&rank) = self.waiting.first() else { return };
            let seq = self.sequences.get_mut(&rank.id).expect("a waiting sequence is known");
            if self.config.prefix_cache {
                share_prefix(seq, &mut self.blocks, self.config.block_size);
            }
            let n_missing =
                seq.tokens.len().div_ceil(self.config.block_size) - seq.block_table.len();
            // One spare block for each runner, so that an admission does not at once preempt.
            if self.blocks.n_free() < n_missing + self.running.len() && !self.running.is_empty() {
                release_blocks(seq, &mut self.blocks);
                return;
            }
            if seq.first_scheduled.is_none() {
                seq.first_scheduled = Some(now);
                seq.n_cached = seq.n_computed;
                self.counters.prefix_query_tokens += seq.n_prompt as u64;
                self.counters.prefix_hit_tokens += seq.n_computed as u64;
            }
            self.waiting.remove(&rank);
            let place = self.running.partition_point(|other| *other < rank);
            self.running.insert(place, rank);
            let chunk = self.chunk(&self.sequences[&rank.id], *budget);
            self.schedule_row(rank.id, chunk, budget);
        }
    }

    fn chunk(&self, seq: &Sequence, budget: usize) -> usize {
        seq.n_remaining().min(budget).min(self.config.max_prefill_chunk)
    }

    /// Puts the next `n_tokens` of a sequence into the step, and blocks under them.
    fn schedule_row(&mut self, id: SeqId, n_tokens: usize, budget: &mut usize) {
        let seq = self.sequences.get_mut(&id).expect("a scheduled sequence is known");
        let end = seq.n_computed + n_tokens;
        while seq.block_table.len() * self.config.block_size < end {
            let block = self.blocks.allocate().expect("room was made before: this is a bug");
            seq.block_table.push(block);
        }
        let samples = end == seq.tokens.len();
        self.step.rows.push(ScheduledRow { seq: id, start: seq.n_computed, n_tokens, samples });
        *budget -= n_tokens;
    }

    /// Makes sure that one more token of `id` has a block, preempting from the end of the queue.
    /// False when `id` itself had to go.
    fn make_room_for_one(&mut self, id: SeqId) -> bool {
        let seq = &self.sequences[&id];
        if seq.n_computed < seq.block_table.len() * self.config.block_size {
            return true;
        }
        while self.blocks.n_free() == 0 {
            if self.preempt_last() == id {
                return false;
            }
        }
        true
    }

    fn preempt_last(&mut self) -> SeqId {
        let rank = self.running.pop().expect("a runner holds the blocks: this is a bug");
        let seq = self.sequences.get_mut(&rank.id).expect("a running sequence is known");
        release_blocks(seq, &mut self.blocks);
        seq.n_preemptions += 1;
        self.waiting.insert(rank);
        self.step.preempted.push(rank.id);
        self.counters.preemptions += 1;
        rank.id
    }
}

/// Lets all blocks of a sequence go; it is computed from its first token again. The last block is
/// given away first, so that prefixes live longest.
fn release_blocks(seq: &mut Sequence, blocks: &mut BlockManager) {
    while let Some(block) = seq.block_table.pop() {
        blocks.release(block);
    }
    seq.n_computed = 0;
    seq.n_hashed_blocks = 0;
    seq.last_hash = seq.root;
}

/// Names the blocks that the last step filled.
fn name_full_blocks(seq: &mut Sequence, blocks: &mut BlockManager, block_size: usize) {
    while (seq.n_hashed_blocks + 1) * block_size <= seq.n_computed {
        let i = seq.n_hashed_blocks;
        let hash = seq.last_hash.child(&seq.tokens[i * block_size..(i + 1) * block_size]);
        blocks.register(seq.block_table[i], hash);
        seq.last_hash = hash;
        seq.n_hashed_blocks += 1;
    }
}

/// Takes the blocks of the longest known prefix. At least one token is left to compute, since only a
/// computed token has logits.
fn share_prefix(seq: &mut Sequence, blocks: &mut BlockManager, block_size: usize) {
    let n_full = (seq.tokens.len() - 1) / block_size;
    for i in 0..n_full {
        let hash = seq.last_hash.child(&seq.tokens[i * block_size..(i + 1) * block_size]);
        let Some(block) = blocks.lookup(&hash) else { break };
        blocks.acquire(block);
        seq.block_table.push(block);
        seq.last_hash = hash;
        seq.n_hashed_blocks += 1;
        seq.n_computed += block_size;
    }
}
