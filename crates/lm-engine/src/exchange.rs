//! Moving blocks between the KV pool and where they are kept outside, between two steps.
//!
//! Memory for blocks on their way is bounded: what has none waits in the scheduler. While answers are running
//! this takes a few milliseconds of a step's time at most.
//!
//! Start reading at [`Engine::exchange_blocks`].

use std::time::Duration;

use crossbeam_channel::{Receiver, TryRecvError};
use lm_backend::Backend;
use lm_scheduler::{BlockHash, Scheduler};
use lm_types::{CacheMissReason, Timestamp};

use crate::block_store::{BlockStore, MovedBlock, StoreOrder, StoreReport, blocks_on_their_way};
use crate::{Engine, EngineStats};

/// How long blocks may be copied in, and out, before a step of running answers.
const IN_TIME: Duration = Duration::from_millis(2);
const OUT_TIME: Duration = Duration::from_millis(1);

/// The engine's end of a block store, and the memory that is not on its way.
pub(crate) struct Exchange {
    store: BlockStore,
    for_reads: Vec<MovedBlock>,
    for_writes: Vec<MovedBlock>,
}

/// The keeper is gone.
#[derive(Debug)]
pub(crate) struct Gone;

impl Exchange {
    pub(crate) fn new(
        mut store: BlockStore,
        scheduler: &mut Scheduler,
        stats: &EngineStats,
    ) -> Self {
        stats.keep_store_counters(&store);
        let (n_reads, n_writes) = blocks_on_their_way(store.block_bytes);
        scheduler.keep_outside(std::mem::take(&mut store.known));
        // Memory is taken when it is first used.
        let empty =
            |_| MovedBlock { hash: BlockHash::root(0), tokens: Vec::new(), bytes: Vec::new() };
        Exchange {
            store,
            for_reads: (0..n_reads).map(empty).collect(),
            for_writes: (0..n_writes).map(empty).collect(),
        }
    }

    /// Where the keeper reports.
    pub(crate) fn reports(&self) -> &Receiver<StoreReport> {
        &self.store.reports
    }

    /// Whether a block could be sent to its keeper now.
    pub(crate) fn can_export(&self, scheduler: &Scheduler) -> bool {
        scheduler.has_exports() && !self.for_writes.is_empty()
    }

    /// Takes in what has come, asks for what is wanted, and hands out what is to be kept.
    pub(crate) fn run(
        &mut self,
        scheduler: &mut Scheduler,
        backend: &mut dyn Backend,
        stats: &EngineStats,
        is_busy: bool,
    ) -> Result<(), Gone> {
        let begun = stats.now();
        let is_over = |begun: Timestamp, limit| is_busy && stats.now().since(begun) >= limit;
        while !is_over(begun, IN_TIME) {
            match self.store.reports.try_recv() {
                Ok(report) => self.take_in(report, scheduler, backend),
                Err(TryRecvError::Empty) => break,
                Err(TryRecvError::Disconnected) => return Err(Gone),
            }
        }
        self.ask(scheduler)?;
        let begun = stats.now();
        while !is_over(begun, OUT_TIME) && self.hand_out(scheduler, backend)? {}
        while !self.store.orders.is_full() {
            let Some(hash) = scheduler.next_retracted() else { break };
            self.store.orders.try_send(StoreOrder::Remove(hash)).map_err(|_| Gone)?;
        }
        Ok(())
    }

    fn take_in(
        &mut self,
        report: StoreReport,
        scheduler: &mut Scheduler,
        backend: &mut dyn Backend,
    ) {
        match report {
            StoreReport::Read(block, read) => {
                let target = scheduler.import_target(&block.hash);
                let done = match (read, target) {
                    (Err(reason), _) => Err(reason),
                    // Who wanted it has left.
                    (Ok(()), None) => Ok(()),
                    (Ok(()), Some(target)) => backend
                        .import_block(target, &block.bytes)
                        .map_err(|_| CacheMissReason::Unreadable),
                };
                match done {
                    Ok(()) => scheduler.imported(&block.hash),
                    Err(reason) => scheduler.import_failed(&block.hash, reason),
                }
                self.for_reads.push(block);
            }
            StoreReport::Written { block, is_kept } => {
                if is_kept {
                    scheduler.kept_outside(block.hash);
                }
                self.for_writes.push(block);
            }
            StoreReport::Evicted(hashes) => {
                hashes.iter().for_each(|hash| scheduler.gone_outside(hash));
            }
        }
    }

    /// Asks for blocks as far as there is memory for them.
    fn ask(&mut self, scheduler: &mut Scheduler) -> Result<(), Gone> {
        while let Some(mut block) = self.for_reads.pop() {
            let Some(import) = scheduler.next_import() else {
                self.for_reads.push(block);
                return Ok(());
            };
            (block.hash, block.tokens) = (import.hash, import.tokens);
            block.bytes.resize(self.store.block_bytes, 0);
            self.store.reads.try_send(block).map_err(|_| Gone)?;
        }
        Ok(())
    }

    /// Copies one block out, if one waits and there is memory. Says whether it did.
    fn hand_out(
        &mut self,
        scheduler: &mut Scheduler,
        backend: &mut dyn Backend,
    ) -> Result<bool, Gone> {
        if self.store.orders.is_full() {
            return Ok(false);
        }
        let Some(mut block) = self.for_writes.pop() else { return Ok(false) };
        let Some((hash, source)) = scheduler.next_export(&mut block.tokens) else {
            self.for_writes.push(block);
            return Ok(false);
        };
        block.hash = hash;
        block.bytes.resize(self.store.block_bytes, 0);
        if let Err(error) = backend.export_block(source, &mut block.bytes) {
            tracing::error!(%error, "a KV block could not be copied out");
            self.for_writes.push(block);
            return Ok(false);
        }
        self.store.orders.try_send(StoreOrder::Write(block)).map_err(|_| Gone)?;
        Ok(true)
    }
}

impl Engine {
    /// Whether nothing can run before blocks come from outside of the pool.
    pub(crate) fn awaits_blocks(&self) -> bool {
        self.rows.is_empty() && self.scheduler.is_importing()
    }

    /// Whether blocks can be handed out now to be kept outside of the pool.
    pub(crate) fn can_export(&self) -> bool {
        self.exchange.as_ref().is_some_and(|exchange| exchange.can_export(&self.scheduler))
    }

    /// Where it is said that blocks have come.
    pub(crate) fn store_reports(&self) -> Option<&Receiver<StoreReport>> {
        self.exchange.as_ref().map(Exchange::reports)
    }

    /// Moves blocks between the pool and where they are kept outside. Without a keeper there are none.
    pub(crate) fn exchange_blocks(&mut self) {
        let Some(exchange) = &mut self.exchange else { return };
        let (backend, is_busy) = (self.parts.backend.as_mut(), !self.active.is_empty());
        if let Err(Gone) = exchange.run(&mut self.scheduler, backend, &self.stats, is_busy) {
            tracing::error!("the keeper of KV blocks is gone: the prefix cache is in memory only");
            self.exchange = None;
            self.scheduler.lose_outside();
        }
    }
}
