//! Where blocks are kept outside of the pool: some never get there, some cannot be read, and some come late.

use std::collections::BTreeMap;

use lm_backend::{Backend, PlaceholderBackend};
use lm_scheduler::{BlockHash, Scheduler};
use lm_types::{CacheMissReason, TokenId};

use crate::random::Random;
use crate::workload::Disk;

/// Blocks that may be asked for at once.
const MOST_IN_FLIGHT: usize = 4096;

/// What is kept, and what is on its way back.
pub(crate) struct SimDisk {
    options: Disk,
    random: Random,
    kept: BTreeMap<BlockHash, (Vec<TokenId>, Vec<u8>)>,
    /// With the steps at which they are back.
    on_their_way: Vec<(u64, BlockHash)>,
}

impl SimDisk {
    pub(crate) fn new(options: Disk) -> Self {
        SimDisk {
            random: Random::new(options.seed),
            options,
            kept: BTreeMap::new(),
            on_their_way: Vec::new(),
        }
    }

    /// Moves blocks between two steps.
    pub(crate) fn exchange(
        &mut self,
        step: u64,
        scheduler: &mut Scheduler,
        backend: &mut PlaceholderBackend,
    ) -> Result<(), String> {
        let mut i = 0;
        while let Some((due, hash)) = self.on_their_way.get(i).copied() {
            if due > step {
                i += 1;
                continue;
            }
            self.on_their_way.swap_remove(i);
            self.come_back(&hash, scheduler, backend)?;
        }
        while let Some(import) = scheduler.next_import() {
            let (tokens, _) = self.kept.get(&import.hash).ok_or("what was never kept is wanted")?;
            if *tokens != import.tokens {
                return Err("a name stands for two blocks".to_owned());
            }
            if self.random.chance(self.options.loses) {
                continue;
            }
            let due = step + self.random.between(1, self.options.most_steps) as u64;
            self.on_their_way.push((due, import.hash));
        }
        while let Some(hash) = scheduler.next_retracted() {
            self.kept.remove(&hash);
        }
        self.keep(scheduler, backend)?;
        match self.on_their_way.len() {
            0..MOST_IN_FLIGHT => Ok(()),
            n => Err(format!("{n} blocks are asked for at once")),
        }
    }

    fn come_back(
        &mut self,
        hash: &BlockHash,
        scheduler: &mut Scheduler,
        backend: &mut PlaceholderBackend,
    ) -> Result<(), String> {
        let fails = self.random.chance(self.options.fails);
        match (self.kept.get(hash), scheduler.import_target(hash)) {
            (Some((_, bytes)), Some(block)) if !fails => {
                backend.import_block(block, bytes).map_err(|error| error.to_string())?;
                scheduler.imported(hash);
            }
            _ => {
                self.kept.remove(hash);
                scheduler.import_failed(hash, CacheMissReason::Corrupt);
            }
        }
        Ok(())
    }

    fn keep(
        &mut self,
        scheduler: &mut Scheduler,
        backend: &PlaceholderBackend,
    ) -> Result<(), String> {
        let mut tokens = Vec::new();
        while let Some((hash, block)) = scheduler.next_export(&mut tokens) {
            if self.random.chance(self.options.drops) {
                continue;
            }
            let mut bytes = vec![0; backend.movable_block_bytes().unwrap_or(0)];
            backend.export_block(block, &mut bytes).map_err(|error| error.to_string())?;
            self.kept.insert(hash, (tokens.clone(), bytes));
            scheduler.kept_outside(hash);
        }
        Ok(())
    }
}
