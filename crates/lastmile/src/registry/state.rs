//! Which engines there are now. Locked for moments only.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::{AdapterSource, Runtime};

pub(super) struct State {
    /// One for each declared model.
    pub(super) slots: Vec<Slot>,
    /// What models are loaded with, and which model that is.
    pub(super) adapters: Vec<(usize, AdapterSource)>,
    /// Engines that take nothing more in.
    pub(super) retiring: Vec<(usize, Arc<Runtime>)>,
    /// Models of engines that nobody uses any more, whose memory is being freed.
    pub(super) ending: Vec<usize>,
    /// What engines hold that are being ended now.
    pub(super) ending_bytes: u64,
    /// The model that is being loaded: one at a time, so that memory is given out once.
    pub(super) loading: Option<usize>,
    pub(super) is_closed: bool,
}

#[derive(Default)]
pub(super) struct Slot {
    pub(super) runtime: Option<Arc<Runtime>>,
    pub(super) last_used: Option<Instant>,
    pub(super) n_loads: u64,
}

impl State {
    /// What engines take or are about to give back.
    pub(super) fn taken_bytes(&self) -> u64 {
        let planned = self.engines().iter().map(|runtime| runtime.planned_bytes()).sum::<u64>();
        planned + self.ending_bytes
    }

    /// What models take that are idle, `but` aside.
    pub(super) fn idle_bytes(&self, but: usize) -> u64 {
        let idle = self.slots.iter().enumerate().filter(|(i, slot)| *i != but && slot.is_idle());
        let runtimes = idle.filter_map(|(_, slot)| slot.runtime.as_ref());
        runtimes.map(|runtime| runtime.planned_bytes()).sum()
    }

    pub(super) fn engines(&self) -> Vec<Arc<Runtime>> {
        let current = self.slots.iter().filter_map(|slot| slot.runtime.clone());
        current.chain(self.retiring.iter().map(|(_, runtime)| Arc::clone(runtime))).collect()
    }

    /// The idle model that was used longest ago, `but` aside.
    pub(super) fn longest_idle(&self, but: usize) -> Option<usize> {
        let idle = self.slots.iter().enumerate().filter(|(i, slot)| *i != but && slot.is_idle());
        idle.min_by_key(|(_, slot)| slot.last_used).map(|(i, _)| i)
    }

    /// Models that nobody has used for so long.
    pub(super) fn idle_for(&mut self, timeout: Duration) -> Vec<usize> {
        let mut found = Vec::new();
        for (i, slot) in self.slots.iter_mut().enumerate() {
            if slot.has_work() {
                slot.last_used = Some(Instant::now());
            } else if slot.is_idle() && slot.last_used.is_some_and(|at| at.elapsed() >= timeout) {
                found.push(i);
            }
        }
        found
    }

    /// Takes a model out of service. False when it was not in it.
    pub(super) fn retire(&mut self, i: usize) -> bool {
        let Some(runtime) = self.slots[i].runtime.take() else { return false };
        self.retiring.push((i, runtime));
        true
    }
}

impl Slot {
    pub(super) fn used(&mut self) -> Option<Arc<Runtime>> {
        self.last_used = Some(Instant::now());
        self.runtime.clone()
    }

    pub(super) fn has_work(&self) -> bool {
        let work = self.runtime.as_ref().map(|runtime| runtime.stats());
        work.is_some_and(|stats| stats.n_running + stats.n_waiting > 0)
    }

    /// Loaded, and nobody uses it.
    pub(super) fn is_idle(&self) -> bool {
        let is_unused = self.runtime.as_ref().is_some_and(|held| Arc::strong_count(held) == 1);
        is_unused && !self.has_work()
    }
}
