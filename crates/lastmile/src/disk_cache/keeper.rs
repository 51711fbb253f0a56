//! The thread that reads and writes blocks: what is wanted back first.
//!
//! Nothing that fails here fails an answer: it is counted, and computed.

use std::io::{self, ErrorKind};
use std::sync::atomic::Ordering::Relaxed;

use crossbeam_channel::select_biased;
use lm_engine::{BlockKeeper, MovedBlock, NotKept, StoreOrder, StoreReport, Unusable};
use lm_types::CacheMissReason;

use super::file::{Layout, ReadError};
use super::folder::Folder;

pub(super) struct Keeper {
    folder: Folder,
    layout: Layout,
    ends: BlockKeeper,
    /// Whether the last write failed; it is said once.
    is_failing: bool,
}

impl Keeper {
    pub(super) fn new(folder: Folder, layout: Layout, ends: BlockKeeper) -> Self {
        let keeper = Keeper { folder, layout, ends, is_failing: false };
        keeper.publish();
        keeper
    }

    /// Works until the engine is gone and all that it handed over is written.
    pub(super) fn run(mut self) {
        let (reads, orders) = (self.ends.reads.clone(), self.ends.orders.clone());
        loop {
            let report = select_biased! {
                recv(reads) -> block => match block {
                    Ok(block) => Some(self.read(block)),
                    Err(_) => break,
                },
                recv(orders) -> order => match order {
                    Ok(order) => self.obey(order),
                    Err(_) => break,
                },
            };
            self.publish();
            // An engine that is gone needs no report.
            if report.is_some_and(|report| self.ends.reports.send(report).is_err()) {
                break;
            }
        }
        for order in orders.try_iter() {
            self.obey(order);
        }
        self.publish();
    }

    fn obey(&mut self, order: StoreOrder) -> Option<StoreReport> {
        match order {
            StoreOrder::Write(block) => Some(self.write(block)),
            StoreOrder::Remove(hash) => {
                self.folder.remove(&hash);
                None
            }
        }
    }

    fn read(&mut self, mut block: MovedBlock) -> StoreReport {
        let path = self.folder.path(&block.hash);
        let counters = &self.ends.counters;
        let read = match self.layout.read(&path, &mut block) {
            Ok(n_bytes) => {
                counters.read_blocks.fetch_add(1, Relaxed);
                counters.read_bytes.fetch_add(n_bytes, Relaxed);
                Ok(())
            }
            Err(ReadError::Missing) => Err(CacheMissReason::Evicted),
            Err(ReadError::Unusable(reason)) => {
                counters.count_unusable(reason);
                tracing::warn!(path = %path.display(), ?reason, "a cached block is of no use");
                self.folder.remove(&block.hash);
                Err(CacheMissReason::Corrupt)
            }
            Err(ReadError::Io(error)) => {
                counters.count_unusable(Unusable::Unreadable);
                tracing::warn!(%error, path = %path.display(), "a cached block cannot be read");
                Err(CacheMissReason::Unreadable)
            }
        };
        StoreReport::Read(block, read)
    }

    fn write(&mut self, block: MovedBlock) -> StoreReport {
        let written = self.write_file(&block);
        match &written {
            Ok(()) if self.is_failing => {
                tracing::info!("the prefix cache on disk writes again");
                self.is_failing = false;
            }
            Ok(()) => {}
            Err(error) => {
                let is_full = matches!(
                    error.kind(),
                    ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge
                );
                let reason = if is_full { NotKept::DiskFull } else { NotKept::IoError };
                self.ends.counters.count_not_kept(reason);
                if !self.is_failing {
                    tracing::warn!(%error, "the prefix cache cannot write to disk; blocks are dropped");
                }
                self.is_failing = true;
            }
        }
        StoreReport::Written { block, is_kept: written.is_ok() }
    }

    fn write_file(&mut self, block: &MovedBlock) -> io::Result<()> {
        let n_bytes = self.layout.file_bytes(block.tokens.len());
        let (removed, n_removed) = self.folder.make_room(n_bytes)?;
        self.ends.counters.evicted_blocks.fetch_add(n_removed, Relaxed);
        if !removed.is_empty() {
            // An engine that is gone needs no report.
            let _ = self.ends.reports.send(StoreReport::Evicted(removed));
        }
        let (unfinished, path) =
            (self.folder.unfinished(&block.hash), self.folder.path(&block.hash));
        // Another process, or an earlier run of this one that was not told so, may have written it.
        let is_new = !path.exists();
        let done = self.layout.write(&unfinished, block);
        let done = done.and_then(|n_bytes| std::fs::rename(&unfinished, &path).map(|()| n_bytes));
        match done {
            Ok(n_bytes) => {
                if is_new {
                    self.folder.added(n_bytes);
                }
                self.ends.counters.written_blocks.fetch_add(1, Relaxed);
                self.ends.counters.written_bytes.fetch_add(n_bytes, Relaxed);
                Ok(())
            }
            Err(error) => {
                // What could not be written may not be there at all.
                let _ = std::fs::remove_file(&unfinished);
                Err(error)
            }
        }
    }

    fn publish(&self) {
        let (n_files, n_bytes) = self.folder.size();
        self.ends.counters.n_blocks.store(n_files, Relaxed);
        self.ends.counters.n_bytes.store(n_bytes, Relaxed);
    }
}
