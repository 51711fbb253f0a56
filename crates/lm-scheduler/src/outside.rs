//! Blocks that are kept outside of the pool, such as on disk: which are known there, which are to be kept
//! there, and which are on their way back.
//!
//! Nothing is moved here. Whoever runs the steps takes [`Import`]s and exports out, moves bytes between
//! steps, and says what came of it. A sequence that imports holds its slot and its blocks and has no rows.
//! What does not come in [`PATIENCE`] is computed.
//!
//! Start reading at [`Scheduler::begin_imports`].

use std::collections::{HashSet, VecDeque};
use std::time::Duration;

use lm_types::{BlockIdx, CacheMissReason, SeqId, TokenId};

use crate::scheduler::release_blocks;
use crate::slots::miss_reason;
use crate::{BlockHash, BlockManager, Scheduler, Sequence};

/// How long a sequence waits for its blocks.
const PATIENCE: Duration = Duration::from_secs(2);
/// Blocks that wait to be kept; more are not kept.
const MAX_OFFERED: usize = 4096;
/// Names whose content is to be dropped outside; more are left there.
const MAX_RETRACTED: usize = 4096;

/// What is known of the blocks outside of the pool.
#[derive(Debug)]
pub(crate) struct Outside {
    /// Looked up only, never iterated.
    known: HashSet<BlockHash>,
    wanted: VecDeque<Import>,
    offered: VecDeque<BlockHash>,
    /// The tokens of `offered`. `[n_offered, block_size]`
    offered_tokens: VecDeque<TokenId>,
    retracted: VecDeque<BlockHash>,
    n_dropped: u64,
}

/// A block whose content is wanted from outside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Import {
    /// Its name.
    pub hash: BlockHash,
    /// What it must hold. `[block_size]`
    pub tokens: Vec<TokenId>,
}

impl Outside {
    /// A block was filled; it may be kept.
    pub(crate) fn offer(&mut self, hash: BlockHash, tokens: &[TokenId]) {
        if self.known.contains(&hash) {
            return;
        }
        if self.offered.len() == MAX_OFFERED {
            self.n_dropped += 1;
            return;
        }
        self.offered.push_back(hash);
        self.offered_tokens.extend(tokens);
    }

    /// The content of this name cannot be trusted.
    pub(crate) fn retract(&mut self, hash: BlockHash) {
        self.known.remove(&hash);
        if self.retracted.len() < MAX_RETRACTED {
            self.retracted.push_back(hash);
        }
    }
}

impl Scheduler {
    /// From now on full blocks are offered to be kept outside of the pool, where `known` are already.
    pub fn keep_outside(&mut self, known: impl IntoIterator<Item = BlockHash>) {
        let block_size = self.config.block_size;
        self.outside = Some(Outside {
            known: known.into_iter().collect(),
            wanted: VecDeque::new(),
            offered: VecDeque::with_capacity(MAX_OFFERED),
            offered_tokens: VecDeque::with_capacity(MAX_OFFERED * block_size),
            retracted: VecDeque::new(),
            n_dropped: 0,
        });
    }

    /// Nothing is outside any more, and nothing will come.
    pub fn lose_outside(&mut self) {
        self.outside = None;
        for id in self.importing() {
            self.end_imports(id, 0, CacheMissReason::Unreadable);
        }
    }

    /// The next block whose content is wanted. Those that nobody waits for any more are left out.
    pub fn next_import(&mut self) -> Option<Import> {
        let wanted = &mut self.outside.as_mut()?.wanted;
        while let Some(import) = wanted.pop_front() {
            if self.blocks.expected(&import.hash).is_some() {
                return Some(import);
            }
        }
        None
    }

    /// The next block that is to be kept outside, with its tokens in `tokens`. Those that lost their content
    /// before are left out and counted.
    pub fn next_export(&mut self, tokens: &mut Vec<TokenId>) -> Option<(BlockHash, BlockIdx)> {
        let outside = self.outside.as_mut()?;
        loop {
            let hash = outside.offered.pop_front()?;
            tokens.clear();
            tokens.extend(outside.offered_tokens.drain(..self.config.block_size));
            if outside.known.contains(&hash) {
                continue;
            }
            match self.blocks.lookup(&hash) {
                Some(block) => return Some((hash, block)),
                None => outside.n_dropped += 1,
            }
        }
    }

    /// The next name whose content outside must be dropped.
    pub fn next_retracted(&mut self) -> Option<BlockHash> {
        self.outside.as_mut()?.retracted.pop_front()
    }

    /// Whether a block waits to be kept outside.
    #[must_use]
    pub fn has_exports(&self) -> bool {
        self.outside.as_ref().is_some_and(|outside| !outside.offered.is_empty())
    }

    /// Blocks that were not kept, because too many waited or their content was given away before.
    #[must_use]
    pub fn n_dropped_exports(&self) -> u64 {
        self.outside.as_ref().map_or(0, |outside| outside.n_dropped)
    }

    /// A block's content is outside from now on.
    pub fn kept_outside(&mut self, hash: BlockHash) {
        if let Some(outside) = &mut self.outside {
            outside.known.insert(hash);
        }
    }

    /// A block's content is not outside any more.
    pub fn gone_outside(&mut self, hash: &BlockHash) {
        if let Some(outside) = &mut self.outside {
            outside.known.remove(hash);
        }
    }

    /// The block that waits for this content; `None` when nobody does any more.
    #[must_use]
    pub fn import_target(&self, hash: &BlockHash) -> Option<BlockIdx> {
        self.blocks.expected(hash)
    }

    /// The content of this name is in the block that waited for it.
    pub fn imported(&mut self, hash: &BlockHash) {
        if self.blocks.expected(hash).is_none() {
            return;
        }
        self.blocks.arrived(hash);
        self.counters.imported += 1;
        for id in self.importing() {
            let seq = self.sequences.get_mut(&id).expect("an importing sequence is known");
            advance(seq, &self.blocks, self.config.block_size);
        }
    }

    /// The content of this name will not come: who waited for it computes from there on.
    pub fn import_failed(&mut self, hash: &BlockHash, reason: CacheMissReason) {
        self.gone_outside(hash);
        for id in self.importing() {
            let at = self.sequences[&id].imports.iter().position(|import| import == hash);
            if let Some(at) = at {
                self.end_imports(id, at, reason);
            }
        }
        self.blocks.give_up(hash);
    }

    /// Whether anybody waits for blocks from outside.
    #[must_use]
    pub fn is_importing(&self) -> bool {
        self.outside.is_some() && self.running.iter().any(|id| self.sequences[id].is_importing())
    }

    /// Asks for the blocks after those that are shared already, as far as they are known outside or on
    /// their way. Its blocks are free: see [`Scheduler::admit`].
    pub(crate) fn begin_imports(&mut self, id: SeqId) {
        let (block_size, blocks) = (self.config.block_size, &mut self.blocks);
        let Some(outside) = &mut self.outside else { return };
        let seq = self.sequences.get_mut(&id).expect("an admitted sequence is known");
        let n_full = (seq.tokens.len() - 1).min(seq.n_scored()) / block_size;
        let (mut hash, first) = (seq.last_hash, seq.n_hashed_blocks);
        for i in first..n_full {
            let tokens = &seq.tokens[i * block_size..(i + 1) * block_size];
            hash = hash.child(tokens);
            let block = if let Some(block) = blocks.lookup(&hash).or(blocks.expected(&hash)) {
                blocks.acquire(block);
                block
            } else if outside.known.contains(&hash) {
                let Some(block) = blocks.allocate() else { break };
                blocks.expect(block, hash);
                outside.wanted.push_back(Import { hash, tokens: tokens.to_vec() });
                self.counters.imports += 1;
                block
            } else {
                break;
            };
            seq.block_table.push(block);
            seq.imports.push_back(hash);
        }
        let n_known = first + seq.imports.len();
        if seq.imports.is_empty() {
            return;
        }
        seq.imports_since = self.now;
        seq.missed(match n_known < n_full {
            true => (n_known, miss_reason(blocks, &hash)),
            false => (n_full, CacheMissReason::PartialBlock),
        });
        advance(seq, blocks, block_size);
    }

    /// Sequences that waited too long compute from the first block that did not come.
    pub(crate) fn end_late_imports(&mut self) {
        if self.outside.is_none() {
            return;
        }
        for id in self.importing() {
            if self.now.since(self.sequences[&id].imports_since) >= PATIENCE {
                self.end_imports(id, 0, CacheMissReason::Unreadable);
            }
        }
    }

    /// Sequences that wait for blocks, with a slot or paused.
    fn importing(&self) -> Vec<SeqId> {
        let holders = self.running.iter().chain(&self.paused);
        holders.filter(|id| self.sequences[id].is_importing()).copied().collect()
    }

    /// Lets go of the blocks from import `at` on.
    fn end_imports(&mut self, id: SeqId, at: usize, reason: CacheMissReason) {
        let seq = self.sequences.get_mut(&id).expect("an importing sequence is known");
        let first = seq.n_hashed_blocks + at;
        for block in seq.block_table.drain(first..).rev() {
            self.blocks.release(block);
        }
        seq.imports.truncate(at);
        seq.missed((first, reason));
        if seq.block_table.is_empty() && self.paused.contains(&id) {
            // It holds nothing any more, so that it is admitted as a new one is.
            self.paused.retain(|other| *other != id);
            release_blocks(seq, &mut self.blocks);
        }
    }
}

/// Takes the blocks that have come as computed, as far as none is missing before them.
fn advance(seq: &mut Sequence, blocks: &BlockManager, block_size: usize) {
    while let Some(hash) = seq.imports.front() {
        if blocks.is_expecting(seq.block_table[seq.n_hashed_blocks]) {
            return;
        }
        seq.last_hash = *hash;
        seq.imports.pop_front();
        seq.n_hashed_blocks += 1;
        seq.n_computed += block_size;
    }
}
