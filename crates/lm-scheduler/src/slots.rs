//! Who gets a slot and blocks, and who gives them up.
//!
//! A sequence that gives up its slot is paused: it keeps its blocks until somebody needs them, and goes on
//! where it was. One that gives up its blocks is preempted: it is computed again, and its tokens are
//! the same. Lower classes give up first, then paused sequences, then those of the most served tenant,
//! the newest first.

use std::cmp::Reverse;

use lm_types::{CacheMissReason, Priority, SeqId, TenantId};

use crate::scheduler::release_blocks;
use crate::{BlockHash, BlockManager, Displaced, Scheduler, Sequence};

/// Steps between two preemptions in favour of a tenant of the same class: what is computed again then
/// is little beside what was computed meanwhile.
const FAIR_PREEMPTION_EVERY: u64 = 16;

impl Scheduler {
    /// While no slot is free, waiting sequences of a higher class take those of lower ones, and one
    /// sequence a step takes the slot of a tenant that has two more and was served no less.
    pub(crate) fn yield_slots(&mut self) {
        while self.running.len() >= self.config.max_num_seqs {
            let Some((_, id)) = self.waiting.next(&self.tenants) else { return };
            let class = self.sequences[&id].class;
            let gives_way = |other: &Sequence| self.gives_way(id, other);
            let Some(victim) = self.worst(|seq| seq.is_running && gives_way(seq)) else { return };
            let is_fair = self.sequences[&victim].class == class;
            self.pause(victim);
            if !self.admit(id) {
                // The blocks are missing, so nobody would gain.
                self.admit(victim);
                return;
            }
            self.counters.pauses += 1;
            let paused = Displaced { id: victim, by: Some(id), lost_blocks: false };
            self.step.displaced.push(paused);
            if is_fair {
                return;
            }
        }
    }

    /// Whether `other` owes its place to the waiting sequence `id`.
    fn gives_way(&self, id: SeqId, other: &Sequence) -> bool {
        let seq = &self.sequences[&id];
        if seq.class != other.class {
            return seq.class < other.class;
        }
        let (needy, rich) = (self.tenants.get(seq.tenant), self.tenants.get(other.tenant));
        rich.n_slots >= needy.n_slots + 2 && needy.served <= rich.served
    }

    /// Gives a slot to a waiting sequence, or where it finds no blocks to one that still holds its own.
    pub(crate) fn admit_or_resume(&mut self, id: SeqId) -> Option<SeqId> {
        if self.admit(id) {
            return Some(id);
        }
        let turn = |id: &SeqId| {
            let seq = &self.sequences[id];
            (seq.class, self.tenants.get(seq.tenant).served, seq.arrival)
        };
        let urgent = self.sequences[&id].class < Priority::Background;
        let may_run = |id: &&SeqId| !urgent || self.sequences[id].class < Priority::Background;
        let id = self.paused.iter().filter(may_run).min_by_key(|id| turn(id)).copied()?;
        self.admit(id).then_some(id)
    }

    /// Gives a slot to a waiting sequence, if there are one and blocks for all of its tokens.
    fn admit(&mut self, id: SeqId) -> bool {
        if self.running.len() >= self.config.max_num_seqs {
            return false;
        }
        let seq = self.sequences.get_mut(&id).expect("a waiting sequence is known");
        let was_paused = !seq.block_table.is_empty();
        if self.config.prefix_cache && !was_paused {
            share_prefix(seq, &mut self.blocks, self.config.block_size);
        }
        let shares_more = self.outside.is_some() && !was_paused;
        let n_missing = seq.tokens.len().div_ceil(self.config.block_size) - seq.block_table.len();
        if !self.take_blocks(id, n_missing, was_paused) {
            let seq = self.sequences.get_mut(&id).expect("a waiting sequence is known");
            if !was_paused {
                release_blocks(seq, &mut self.blocks);
            }
            return false;
        }
        let seq = self.sequences.get_mut(&id).expect("a waiting sequence is known");
        seq.is_running = true;
        self.waiting.remove(seq.class, seq.tenant, seq.arrival);
        self.tenants.admitted(seq.tenant);
        self.paused.retain(|other| *other != id);
        self.running.push(id);
        if shares_more {
            self.begin_imports(id);
        }
        true
    }

    /// Sees to it that `n_missing` blocks are free for the waiting sequence `id`, by preempting those
    /// that are behind it. Says whether they are; nobody is preempted in vain. One spare block for
    /// each runner, so that an admission does not at once preempt; one that was paused needs none.
    fn take_blocks(&mut self, id: SeqId, n_missing: usize, was_paused: bool) -> bool {
        let wanted = |n_runners: usize| n_missing + if was_paused { 0 } else { n_runners };
        if self.blocks.n_free() >= wanted(self.running.len()) {
            return true;
        }
        let may_be_fair = self.n_steps >= self.last_fair_preemption + FAIR_PREEMPTION_EVERY;
        let class = self.sequences[&id].class;
        let gives = |this: &Scheduler, seq: &Sequence| {
            let is_behind = !seq.is_running || seq.class > class || may_be_fair;
            is_behind && seq.id != id && (!seq.is_running || this.gives_way(id, seq))
        };
        // Blocks may be shared, so this counts those that stay held rather than those that come free.
        let (mut n_held, mut n_runners) = (self.sequences[&id].block_table.len(), 0);
        for seq in self.holders().filter(|seq| seq.id != id && !gives(self, seq)) {
            n_held += seq.block_table.len();
            n_runners += usize::from(seq.is_running);
        }
        if self.blocks.n_blocks() < n_held + wanted(n_runners) {
            return false;
        }
        while self.blocks.n_free() < wanted(self.running.len()) {
            let Some(victim) = self.worst(|seq| gives(self, seq)) else { return false };
            let seq = &self.sequences[&victim];
            if seq.is_running && seq.class == class {
                self.last_fair_preemption = self.n_steps;
            }
            self.preempt(victim, Some(id));
        }
        true
    }

    /// Makes sure that one more token of `id` has a block. False when there is none, or `id` itself had
    /// to go.
    pub(crate) fn make_room_for_one(&mut self, id: SeqId) -> bool {
        let seq = &self.sequences[&id];
        if seq.n_computed < seq.block_table.len() * self.config.block_size {
            return true;
        }
        while self.blocks.n_free() == 0 {
            if self.preempt_worst(Some(id)).is_none_or(|victim| victim == id) {
                return false;
            }
        }
        true
    }

    /// Takes the blocks of whoever should give them up first.
    pub(crate) fn preempt_worst(&mut self, by: Option<SeqId>) -> Option<SeqId> {
        let victim = self.worst(|_| true)?;
        self.preempt(victim, by);
        Some(victim)
    }

    /// Sequences that hold blocks.
    fn holders(&self) -> impl Iterator<Item = &Sequence> {
        self.running.iter().chain(&self.paused).map(|id| &self.sequences[id])
    }

    /// Who should give up first of those that `may` and have no row in this step.
    fn worst(&self, may: impl Fn(&Sequence) -> bool) -> Option<SeqId> {
        let may = |seq: &&Sequence| seq.last_step != self.n_steps && may(seq);
        let served = |tenant: TenantId| self.tenants.get(tenant).served;
        let badness =
            |seq: &&Sequence| (seq.class, Reverse(seq.is_running), served(seq.tenant), seq.arrival);
        self.holders().filter(may).max_by_key(badness).map(|seq| seq.id)
    }

    /// Takes a running sequence's slot; it keeps its blocks.
    fn pause(&mut self, id: SeqId) {
        self.suspend(id);
        if !self.sequences[&id].block_table.is_empty() {
            self.paused.push(id);
        }
    }

    /// Takes a sequence's blocks, and its slot if it has one.
    fn preempt(&mut self, id: SeqId, by: Option<SeqId>) {
        if self.sequences[&id].is_running {
            self.suspend(id);
        }
        self.paused.retain(|other| *other != id);
        let seq = self.sequences.get_mut(&id).expect("a preempted sequence is known");
        release_blocks(seq, &mut self.blocks);
        seq.n_preemptions += 1;
        self.step.preempted.push(id);
        let by = by.filter(|by| *by != id);
        self.step.displaced.push(Displaced { id, by, lost_blocks: true });
        self.counters.preemptions += 1;
    }

    fn suspend(&mut self, id: SeqId) {
        let seq = self.sequences.get_mut(&id).expect("a running sequence is known");
        seq.is_running = false;
        seq.waiting_since = self.now;
        self.running.retain(|other| *other != id);
        self.waiting.push(seq.class, seq.tenant, seq.arrival, id);
        self.tenants.suspended(seq.tenant);
    }
}

/// Takes the blocks of the longest known prefix. At least one token is left to compute, since only a
/// computed token has logits.
fn share_prefix(seq: &mut Sequence, blocks: &mut BlockManager, block_size: usize) {
    let n_full = (seq.tokens.len() - 1).min(seq.n_scored()) / block_size;
    let mut first_miss = (n_full, CacheMissReason::PartialBlock);
    for i in 0..n_full {
        let hash = seq.last_hash.child(&seq.tokens[i * block_size..(i + 1) * block_size]);
        let Some(block) = blocks.lookup(&hash) else {
            first_miss = (i, miss_reason(blocks, &hash));
            break;
        };
        blocks.acquire(block);
        seq.block_table.push(block);
        seq.last_hash = hash;
        seq.n_hashed_blocks += 1;
        seq.n_computed += block_size;
    }
    seq.missed(first_miss);
}

/// Why a block of this name is not there.
pub(crate) fn miss_reason(blocks: &BlockManager, hash: &BlockHash) -> CacheMissReason {
    match blocks.was_evicted(hash) {
        true => CacheMissReason::Evicted,
        false => CacheMissReason::NeverSeen,
    }
}
