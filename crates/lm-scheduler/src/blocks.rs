//! Who holds which KV block, which free blocks still hold a known prefix, and which held ones wait for their
//! content from outside of the pool.

use std::collections::HashMap;

use lm_types::BlockIdx;

use crate::{BlockHash, Broken};

/// The end of a list.
const NONE: u32 = u32::MAX;
/// How many evicted names are remembered: so many times as there are blocks, within these. With one for each
/// block, up to a third of what a full pool gave away was forgotten before it was asked for.
const REMEMBERED_PER_BLOCK: usize = 8;
const LEAST_REMEMBERED: usize = 1 << 8;
const MOST_REMEMBERED: usize = 1 << 16;

/// The pool of KV blocks. A block is held by `ref_count` sequences; without a holder it is in the
/// free list, oldest first, where it keeps its content (and its name) until it is allocated again.
#[derive(Debug)]
pub struct BlockManager {
    blocks: Vec<Block>,
    /// Named blocks. Looked up only, never iterated.
    by_hash: HashMap<BlockHash, BlockIdx>,
    /// Held blocks whose content is on its way. Looked up only, never iterated.
    expected: HashMap<BlockHash, BlockIdx>,
    /// Names that were given away, as far as they are remembered: a name has one place.
    evicted: Vec<Option<BlockHash>>,
    free_head: u32,
    free_tail: u32,
    n_free: usize,
    n_evictions: u64,
}

#[derive(Clone, Debug)]
struct Block {
    ref_count: u32,
    hash: Option<BlockHash>,
    /// What it will hold. It has no name until then.
    expects: Option<BlockHash>,
    prev: u32,
    next: u32,
}

impl BlockManager {
    /// A pool of `n_blocks` free blocks.
    ///
    /// # Panics
    /// With 2^32 - 1 blocks or more.
    #[must_use]
    pub fn new(n_blocks: usize) -> Self {
        assert!(n_blocks < NONE as usize, "block indexes fit 32 bits");
        let empty = Block { ref_count: 0, hash: None, expects: None, prev: NONE, next: NONE };
        let mut manager = BlockManager {
            blocks: vec![empty; n_blocks],
            // Twice the room, so that replacing names never makes the map grow.
            by_hash: HashMap::with_capacity(2 * n_blocks),
            expected: HashMap::new(),
            evicted: vec![
                None;
                n_blocks
                    .saturating_mul(REMEMBERED_PER_BLOCK)
                    .clamp(LEAST_REMEMBERED, MOST_REMEMBERED)
            ],
            free_head: NONE,
            free_tail: NONE,
            n_free: 0,
            n_evictions: 0,
        };
        for block in 0..n_blocks as u32 {
            manager.push_back(block);
        }
        manager
    }

    /// Blocks that nobody holds, named ones included.
    #[must_use]
    pub fn n_free(&self) -> usize {
        self.n_free
    }

    /// Blocks in the pool.
    #[must_use]
    pub fn n_blocks(&self) -> usize {
        self.blocks.len()
    }

    /// Named blocks that were given away since the start.
    #[must_use]
    pub fn n_evictions(&self) -> u64 {
        self.n_evictions
    }

    /// Takes the free block that was used longest ago; its content is lost. `None` when all are held.
    pub fn allocate(&mut self) -> Option<BlockIdx> {
        let head = self.free_head;
        if head == NONE {
            return None;
        }
        self.unlink(head);
        let block = &mut self.blocks[head as usize];
        block.ref_count = 1;
        if let Some(hash) = block.hash.take() {
            self.by_hash.remove(&hash);
            self.n_evictions += 1;
            let place = hash.place(self.evicted.len());
            self.evicted[place] = Some(hash);
        }
        Some(BlockIdx(head))
    }

    /// The block of this name, held or free.
    #[must_use]
    pub fn lookup(&self, hash: &BlockHash) -> Option<BlockIdx> {
        self.by_hash.get(hash).copied()
    }

    /// Whether a block of this name was given away, as far as that is remembered.
    #[must_use]
    pub fn was_evicted(&self, hash: &BlockHash) -> bool {
        self.evicted[hash.place(self.evicted.len())].as_ref() == Some(hash)
    }

    /// A held block will get the content of this name from outside.
    ///
    /// # Panics
    /// When nobody holds it, it has a name, or another one expects the same.
    pub(crate) fn expect(&mut self, block: BlockIdx, hash: BlockHash) {
        let entry = &mut self.blocks[block.index()];
        assert!(entry.ref_count > 0 && entry.hash.is_none(), "only a held, nameless block expects");
        entry.expects = Some(hash);
        let before = self.expected.insert(hash, block);
        assert!(before.is_none(), "content is expected once");
    }

    /// The block that waits for this content, if its holders did not leave.
    #[must_use]
    pub fn expected(&self, hash: &BlockHash) -> Option<BlockIdx> {
        self.expected.get(hash).copied()
    }

    /// Whether a block waits for its content.
    #[must_use]
    pub fn is_expecting(&self, block: BlockIdx) -> bool {
        self.blocks[block.index()].expects.is_some()
    }

    /// The expected content is in its block, which has its name from now on.
    pub(crate) fn arrived(&mut self, hash: &BlockHash) {
        if let Some(block) = self.expected.remove(hash) {
            self.blocks[block.index()].expects = None;
            if self.lookup(hash).is_none() {
                self.register(block, *hash);
            }
        }
    }

    /// The expected content will not come.
    pub(crate) fn give_up(&mut self, hash: &BlockHash) {
        if let Some(block) = self.expected.remove(hash) {
            self.blocks[block.index()].expects = None;
        }
    }

    /// Holds a block once more.
    pub fn acquire(&mut self, block: BlockIdx) {
        if self.blocks[block.index()].ref_count == 0 {
            self.unlink(block.0);
        }
        self.blocks[block.index()].ref_count += 1;
    }

    /// Lets a block go. Without a further holder it is free: named ones are given away last.
    ///
    /// # Panics
    /// When nobody holds it.
    pub fn release(&mut self, block: BlockIdx) {
        let entry = &mut self.blocks[block.index()];
        assert!(entry.ref_count > 0, "only a held block is released");
        entry.ref_count -= 1;
        if entry.ref_count == 0 {
            if let Some(hash) = entry.expects.take() {
                self.expected.remove(&hash);
            }
            let entry = &self.blocks[block.index()];
            if entry.hash.is_some() { self.push_back(block.0) } else { self.push_front(block.0) }
        }
    }

    /// Names the content of a held block, unless another block has that name already.
    ///
    /// # Panics
    /// When nobody holds it, or it has a name.
    pub fn register(&mut self, block: BlockIdx, hash: BlockHash) {
        let entry = &mut self.blocks[block.index()];
        assert!(entry.ref_count > 0, "only a held block is named");
        assert!(entry.hash.is_none(), "a block has one name");
        if let std::collections::hash_map::Entry::Vacant(vacant) = self.by_hash.entry(hash) {
            vacant.insert(block);
            entry.hash = Some(hash);
        }
    }

    /// Takes a block's name away, so that nobody finds its content. The name that it had.
    pub fn forget_content(&mut self, block: BlockIdx) -> Option<BlockHash> {
        let hash = self.blocks[block.index()].hash.take()?;
        self.by_hash.remove(&hash);
        Some(hash)
    }

    /// Checks lists, names and the holders counted in `n_holders` (one entry per block).
    ///
    /// # Errors
    /// The first fact that does not hold.
    pub fn check_integrity(&self, n_holders: &[u32]) -> Result<(), Broken> {
        let mut n_listed = 0;
        let (mut block, mut prev) = (self.free_head, NONE);
        while block != NONE {
            let entry = &self.blocks[block as usize];
            Broken::unless(entry.prev == prev, || format!("block {block} has a torn free list"))?;
            Broken::unless(entry.ref_count == 0, || format!("free block {block} is held"))?;
            n_listed += 1;
            Broken::unless(n_listed <= self.blocks.len(), || "the free list is a ring".into())?;
            (prev, block) = (block, entry.next);
        }
        let n_free = self.blocks.iter().filter(|b| b.ref_count == 0).count();
        Broken::unless(n_listed == n_free && n_free == self.n_free, || {
            format!("{n_free} blocks are free, {n_listed} listed, {} counted", self.n_free)
        })?;
        let (mut n_named, mut n_expecting) = (0, 0);
        for (i, (entry, &holders)) in self.blocks.iter().zip(n_holders).enumerate() {
            Broken::unless(entry.ref_count == holders, || {
                format!("block {i} counts {} holders and has {holders}", entry.ref_count)
            })?;
            if let Some(hash) = entry.hash {
                n_named += 1;
                Broken::unless(self.lookup(&hash) == Some(BlockIdx(i as u32)), || {
                    format!("block {i} is not found by its name")
                })?;
            }
            if let Some(hash) = entry.expects {
                n_expecting += 1;
                let is_right = entry.hash.is_none() && entry.ref_count > 0;
                Broken::unless(
                    is_right && self.expected(&hash) == Some(BlockIdx(i as u32)),
                    || format!("block {i} expects what it will not get"),
                )?;
            }
        }
        Broken::unless(n_expecting == self.expected.len(), || {
            format!("{n_expecting} blocks expect content, {} are listed", self.expected.len())
        })?;
        Broken::unless(n_named == self.by_hash.len(), || {
            format!("{} names lead to {n_named} named blocks", self.by_hash.len())
        })
    }

    fn unlink(&mut self, block: u32) {
        let Block { prev, next, .. } = self.blocks[block as usize];
        match prev {
            NONE => self.free_head = next,
            _ => self.blocks[prev as usize].next = next,
        }
        match next {
            NONE => self.free_tail = prev,
            _ => self.blocks[next as usize].prev = prev,
        }
        self.n_free -= 1;
    }

    fn push_back(&mut self, block: u32) {
        let tail = self.free_tail;
        self.blocks[block as usize].prev = tail;
        self.blocks[block as usize].next = NONE;
        match tail {
            NONE => self.free_head = block,
            _ => self.blocks[tail as usize].next = block,
        }
        self.free_tail = block;
        self.n_free += 1;
    }

    fn push_front(&mut self, block: u32) {
        let head = self.free_head;
        self.blocks[block as usize].prev = NONE;
        self.blocks[block as usize].next = head;
        match head {
            NONE => self.free_tail = block,
            _ => self.blocks[head as usize].prev = block,
        }
        self.free_head = block;
        self.n_free += 1;
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    #[test]
    fn a_named_block_is_found_until_it_is_given_away() {
        let mut manager = BlockManager::new(2);
        let name = BlockHash::root(0).child(&[1]);
        let block = manager.allocate().unwrap();
        manager.register(block, name);
        manager.release(block);
        assert_eq!(manager.lookup(&name), Some(block));
        // The nameless block goes first, then the named one.
        assert_ne!(manager.allocate().unwrap(), block);
        assert_eq!(manager.lookup(&name), Some(block));
        assert_eq!(manager.allocate().unwrap(), block);
        assert_eq!(manager.lookup(&name), None);
        assert_eq!(manager.allocate(), None);
        manager.check_integrity(&[1, 1]).unwrap();
    }

    #[test]
    fn holders_are_counted() {
        let mut manager = BlockManager::new(3);
        let name = BlockHash::root(0).child(&[1]);
        let block = manager.allocate().unwrap();
        manager.register(block, name);
        manager.acquire(block);
        manager.release(block);
        assert_eq!(manager.n_free(), 2);
        manager.release(block);
        assert_eq!(manager.n_free(), 3);
        manager.acquire(block);
        manager.check_integrity(&[1, 0, 0]).unwrap();
        assert!(manager.check_integrity(&[2, 0, 0]).is_err());
    }

    #[test]
    fn forgotten_content_is_not_found() {
        let mut manager = BlockManager::new(1);
        let name = BlockHash::root(0).child(&[1]);
        let block = manager.allocate().unwrap();
        manager.register(block, name);
        manager.forget_content(block);
        assert_eq!(manager.lookup(&name), None);
        manager.release(block);
        manager.check_integrity(&[0]).unwrap();
    }

    #[test]
    #[should_panic(expected = "only a held block is released")]
    fn a_double_free_is_a_bug() {
        let mut manager = BlockManager::new(1);
        let block = manager.allocate().unwrap();
        manager.release(block);
        manager.release(block);
    }
}
