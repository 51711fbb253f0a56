//! The two ends of where KV blocks are kept outside of the pool: the engine's, and the keeper's, which
//! reads and writes on a thread of its own. The engine never waits for it.
//!
//! It must never know files.
//!
//! Start reading at [`block_store`].

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crossbeam_channel::{Receiver, Sender, bounded};
use lm_scheduler::BlockHash;
use lm_types::{CacheMissReason, TokenId};

/// Bytes of blocks that are on their way in, and out, as far as blocks are not larger.
const READ_BYTES: usize = 32 << 20;
const WRITE_BYTES: usize = 8 << 20;
/// Names on their way to be dropped, and reports of several.
const N_NAMES: usize = 64;

/// One block on its way. Its memory goes back and forth.
#[derive(Debug)]
pub struct MovedBlock {
    /// Its name.
    pub hash: BlockHash,
    /// What it holds. `[block_size]`
    pub tokens: Vec<TokenId>,
    /// Its K and V. `[block_bytes]`
    pub bytes: Vec<u8>,
}

/// What the keeper is told besides what to read.
#[derive(Debug)]
pub enum StoreOrder {
    /// Keep this block.
    Write(MovedBlock),
    /// Drop the block of this name.
    Remove(BlockHash),
}

/// What the keeper says.
#[derive(Debug)]
pub enum StoreReport {
    /// A block was read, into the memory that came with the order.
    Read(MovedBlock, Result<(), CacheMissReason>),
    /// A block was written, or could not be.
    Written {
        /// The memory that came with the order.
        block: MovedBlock,
        /// Whether it is kept.
        is_kept: bool,
    },
    /// Blocks that are kept no more.
    Evicted(Vec<BlockHash>),
}

/// The engine's end.
#[derive(Debug)]
pub struct BlockStore {
    /// What is kept already.
    pub(crate) known: Vec<BlockHash>,
    pub(crate) block_bytes: usize,
    pub(crate) reads: Sender<MovedBlock>,
    pub(crate) orders: Sender<StoreOrder>,
    pub(crate) reports: Receiver<StoreReport>,
    pub(crate) counters: Arc<BlockStoreCounters>,
}

/// The keeper's end. What is wanted back goes before what is to be written.
#[derive(Debug)]
pub struct BlockKeeper {
    /// Blocks to read: name, tokens, and memory.
    pub reads: Receiver<MovedBlock>,
    /// What else to do.
    pub orders: Receiver<StoreOrder>,
    /// What came of it. Holds every block that is on its way.
    pub reports: Sender<StoreReport>,
    /// What is counted.
    pub counters: Arc<BlockStoreCounters>,
}

/// Why a block was not kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotKept {
    /// There is no room.
    DiskFull,
    /// The system failed otherwise.
    IoError,
}

/// Why what was kept was of no use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unusable {
    /// It is shorter or longer than what was written.
    Torn,
    /// It is not what was written.
    Corrupt,
    /// It is another model's, or of another kind.
    Foreign,
    /// It could not be read.
    Unreadable,
}

/// What a keeper counts. Written by its thread, read by anybody.
#[derive(Debug, Default)]
pub struct BlockStoreCounters {
    /// Blocks read.
    pub read_blocks: AtomicU64,
    /// Bytes of those.
    pub read_bytes: AtomicU64,
    /// Blocks written.
    pub written_blocks: AtomicU64,
    /// Bytes of those.
    pub written_bytes: AtomicU64,
    /// Blocks that were removed because there were too many.
    pub evicted_blocks: AtomicU64,
    /// Blocks there are.
    pub n_blocks: AtomicU64,
    /// Bytes of those.
    pub n_bytes: AtomicU64,
    not_kept: [AtomicU64; 2],
    unusable: [AtomicU64; 4],
}

/// What the counters of a block store were at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlockStoreSnapshot {
    /// Blocks that sequences asked for.
    pub asked_blocks: u64,
    /// Those that came in time.
    pub hit_blocks: u64,
    /// Blocks read.
    pub read_blocks: u64,
    /// Bytes of those.
    pub read_bytes: u64,
    /// Blocks written.
    pub written_blocks: u64,
    /// Bytes of those.
    pub written_bytes: u64,
    /// Blocks that were removed because there were too many.
    pub evicted_blocks: u64,
    /// Blocks there are.
    pub n_blocks: u64,
    /// Bytes of those.
    pub n_bytes: u64,
    /// Blocks that were not kept, by why.
    pub dropped: [(&'static str, u64); 3],
    /// Kept blocks that were of no use, by why.
    pub unusable: [(&'static str, u64); 4],
}

impl BlockStoreCounters {
    /// Counts a block that was not kept.
    pub fn count_not_kept(&self, reason: NotKept) {
        self.not_kept[reason as usize].fetch_add(1, Relaxed);
    }

    /// Counts a kept block that was of no use.
    pub fn count_unusable(&self, reason: Unusable) {
        self.unusable[reason as usize].fetch_add(1, Relaxed);
    }

    pub(crate) fn snapshot(&self, asked: u64, hits: u64, dropped: u64) -> BlockStoreSnapshot {
        let get = |counter: &AtomicU64| counter.load(Relaxed);
        let (not_kept, unusable) = (self.not_kept.each_ref(), self.unusable.each_ref());
        BlockStoreSnapshot {
            asked_blocks: asked,
            hit_blocks: hits,
            read_blocks: get(&self.read_blocks),
            read_bytes: get(&self.read_bytes),
            written_blocks: get(&self.written_blocks),
            written_bytes: get(&self.written_bytes),
            evicted_blocks: get(&self.evicted_blocks),
            n_blocks: get(&self.n_blocks),
            n_bytes: get(&self.n_bytes),
            dropped: [
                ("busy", dropped),
                ("disk_full", get(not_kept[NotKept::DiskFull as usize])),
                ("io_error", get(not_kept[NotKept::IoError as usize])),
            ],
            unusable: [
                ("torn", get(unusable[Unusable::Torn as usize])),
                ("corrupt", get(unusable[Unusable::Corrupt as usize])),
                ("foreign", get(unusable[Unusable::Foreign as usize])),
                ("unreadable", get(unusable[Unusable::Unreadable as usize])),
            ],
        }
    }
}

/// How many blocks of so many bytes may be on their way in, and out.
#[must_use]
pub fn blocks_on_their_way(block_bytes: usize) -> (usize, usize) {
    let n = |bytes: usize, least, most| (bytes / block_bytes.max(1)).clamp(least, most);
    (n(READ_BYTES, 4, 256), n(WRITE_BYTES, 2, 64))
}

/// Both ends of a store of blocks of `block_bytes`, of which `known` are kept already.
#[must_use]
pub fn block_store(block_bytes: usize, known: Vec<BlockHash>) -> (BlockStore, BlockKeeper) {
    let (n_reads, n_writes) = blocks_on_their_way(block_bytes);
    let (reads, reads_out) = bounded(n_reads);
    let (orders, orders_out) = bounded(n_writes + N_NAMES);
    let (reports_in, reports) = bounded(n_reads + n_writes + N_NAMES);
    let counters = Arc::new(BlockStoreCounters::default());
    let keeper = BlockKeeper {
        reads: reads_out,
        orders: orders_out,
        reports: reports_in,
        counters: Arc::clone(&counters),
    };
    (BlockStore { known, block_bytes, reads, orders, reports, counters }, keeper)
}
