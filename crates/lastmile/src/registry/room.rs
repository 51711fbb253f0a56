//! Who has to go so that another model can come, and how they go.

use std::sync::{Arc, MutexGuard};
use std::time::{Duration, Instant};

use super::state::State;
use super::{LOOK_EVERY, RegistryError, Shared};
use crate::machine::MemoryLimit;
use crate::{LoadError, Runtime, RuntimeConfig};

/// How often an engine that is to go is looked at.
const RETIRE_EVERY: Duration = Duration::from_millis(20);
/// Somebody may look at an engine for a moment, which is not work.
const PATIENCE: Duration = Duration::from_millis(500);
/// How long a reload that must empty the old engine first waits for its answers.
const LONGEST_DRAIN: Duration = Duration::from_secs(300);
/// An engine that nobody uses ends at once; this is for one whose last step does not end.
const ENDING: Duration = Duration::from_secs(5);

impl Shared {
    /// Unloads the model that was idle longest, if as many are loaded as may be.
    pub(super) fn free_place(&self, i: usize) -> Result<(), RegistryError> {
        let began = Instant::now();
        loop {
            let mut state = self.state();
            let loaded = state.slots.iter().enumerate();
            let loaded = loaded.filter(|(_, slot)| slot.runtime.is_some()).map(|(j, _)| j);
            let busy: Vec<_> = loaded.map(|j| self.declared[j].name.clone()).collect();
            if busy.len() < self.max_loaded {
                return Ok(());
            }
            if let Some(idle) = state.longest_idle(i) {
                let model = &self.declared[idle].name;
                tracing::info!(model, "unloaded to make a place for another");
                state.retire(idle);
                drop(self.end_retired(state));
            } else if began.elapsed() < PATIENCE {
                drop(self.wait(state, RETIRE_EVERY));
            } else {
                let (name, limit) = (self.declared[i].name.clone(), self.max_loaded);
                return Err(RegistryError::AllBusy { name, limit, busy });
            }
        }
    }

    /// Unloads idle models until this one fits; none if it would not fit then either.
    pub(super) fn free_memory(
        &self,
        i: usize,
        config: &RuntimeConfig,
    ) -> Result<Option<MemoryLimit>, RegistryError> {
        let began = Instant::now();
        loop {
            let (taken, idle) = {
                let state = self.state();
                (state.taken_bytes(), state.idle_bytes(i))
            };
            let error = match self.ledger.grant(config, taken) {
                Ok(limit) => return Ok(limit),
                Err(error) => error,
            };
            if !matches!(error, LoadError::OutOfMemory { .. }) {
                return Err(self.load_error(i, error));
            }
            let would_fit = self.ledger.would_grant(config, taken, idle);
            let mut state = self.state();
            match state.longest_idle(i).filter(|_| would_fit) {
                Some(idle) => {
                    let model = &self.declared[idle].name;
                    tracing::info!(model, "unloaded: another needs its memory");
                    state.retire(idle);
                    drop(self.end_retired(state));
                }
                None if began.elapsed() < PATIENCE => drop(self.wait(state, RETIRE_EVERY)),
                None => return Err(self.load_error(i, error)),
            }
        }
    }

    /// Empties and drops the old engine of a model that the new one does not fit beside.
    pub(super) fn drain(
        &self,
        i: usize,
        config: &RuntimeConfig,
    ) -> Result<Option<MemoryLimit>, RegistryError> {
        let (taken, old) = {
            let state = self.state();
            let old = state.slots[i].runtime.as_ref();
            (state.taken_bytes(), old.map_or(0, |runtime| runtime.planned_bytes()))
        };
        // The old one is not given up for one that does not fit in its place either.
        if !self.ledger.would_grant(config, taken, old) {
            let refused = self.ledger.grant(config, taken);
            return refused.map_err(|source| self.load_error(i, source));
        }
        let began = Instant::now();
        let mut state = self.state();
        state.retire(i);
        while state.retiring.iter().any(|(of, _)| *of == i) {
            if began.elapsed() > LONGEST_DRAIN || state.is_closed {
                let newest = state.retiring.iter().rposition(|(of, _)| *of == i);
                let old = newest.map(|at| state.retiring.remove(at).1);
                state.slots[i].runtime = old;
                let (name, after) = (self.declared[i].name.clone(), LONGEST_DRAIN);
                return Err(RegistryError::StillBusy { name, after });
            }
            state = self.wait(state, RETIRE_EVERY);
            state = self.end_retired(state);
        }
        // The keeper may be about to end it.
        while state.ending_bytes > 0 {
            state = self.wait(state, RETIRE_EVERY);
        }
        let taken = state.taken_bytes();
        drop(state);
        self.ledger.grant(config, taken).map_err(|source| self.load_error(i, source))
    }

    /// The keeper's life: unloads what is idle, and ends what is retired and has finished.
    pub(super) fn keep(&self) {
        let mut state = self.state();
        while !state.is_closed {
            state = self.end_retired(state);
            if let Some(timeout) = self.options.idle_timeout {
                for i in state.idle_for(timeout) {
                    tracing::info!(
                        model = self.declared[i].name,
                        "idle for long, so it is unloaded"
                    );
                    state.retire(i);
                }
            }
            let pause = if state.retiring.is_empty() { LOOK_EVERY } else { RETIRE_EVERY };
            state = self.wait(state, pause);
        }
    }

    /// Ends retired engines that nobody uses any more. Their memory is free when this returns.
    pub(super) fn end_retired<'a>(
        &'a self,
        mut state: MutexGuard<'a, State>,
    ) -> MutexGuard<'a, State> {
        let is_unused = |(_, runtime): &mut (usize, Arc<Runtime>)| Arc::strong_count(runtime) == 1;
        let ended: Vec<_> = state.retiring.extract_if(.., is_unused).collect();
        if ended.is_empty() {
            return state;
        }
        let bytes: u64 = ended.iter().map(|(_, runtime)| runtime.planned_bytes()).sum();
        state.ending_bytes += bytes;
        let models: Vec<usize> = ended.iter().map(|(i, _)| *i).collect();
        state.ending.extend(&models);
        drop(state);
        for (i, runtime) in ended {
            runtime.shutdown(ENDING);
            drop(runtime);
            tracing::info!(model = self.declared[i].name, "unloaded");
        }
        let mut state = self.state();
        for i in models {
            if let Some(at) = state.ending.iter().position(|of| *of == i) {
                state.ending.swap_remove(at);
            }
        }
        state.ending_bytes -= bytes;
        self.changed.notify_all();
        state
    }
}
