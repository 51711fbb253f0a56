//! What all models of a process may take together, and how much of it one of them gets.
//!
//! It must never know which model is wanted more; that is the registry's.

use crate::machine::MemoryLimit;
use crate::memory::MemoryPlan;
use crate::{LoadError, RuntimeConfig};

/// What all models may take together.
#[derive(Clone, Debug)]
pub(super) struct Ledger {
    ceiling: Option<MemoryLimit>,
    /// Whether the ceiling is what the system had left, and not what an operator said.
    is_measured: bool,
    /// Models that may be loaded at once.
    n_models: usize,
}

impl Ledger {
    /// To be made before the first model is loaded.
    pub(super) fn new(memory_limit: Option<u64>, n_models: usize) -> Self {
        let asked =
            memory_limit.map(|bytes| MemoryLimit { bytes, source: "memory_limit".to_owned() });
        Ledger {
            is_measured: asked.is_none(),
            ceiling: asked.or_else(MemoryLimit::of_this_process),
            n_models: n_models.max(1),
        }
    }

    pub(super) fn ceiling(&self) -> Option<u64> {
        self.ceiling.as_ref().map(|limit| limit.bytes)
    }

    /// What is left where other models have `taken` bytes.
    fn room(&self, taken: u64) -> Option<MemoryLimit> {
        let ceiling = self.ceiling.as_ref()?;
        let mut bytes = ceiling.bytes.saturating_sub(taken);
        // Other programs may have taken memory meanwhile. What models have not touched yet counts as
        // taken and as available, so this alone would be too much.
        if self.is_measured
            && let Some(now) = MemoryLimit::of_this_process()
        {
            bytes = bytes.min(now.bytes);
        }
        let source = match taken {
            0 => ceiling.source.clone(),
            _ => format!(
                "{} ({} bytes, {taken} of them other models')",
                ceiling.source, ceiling.bytes
            ),
        };
        Some(MemoryLimit { bytes, source })
    }

    /// What a model may take where others have `taken` bytes: an equal part of the ceiling if that holds
    /// a whole context, else all that is left.
    ///
    /// # Errors
    /// It fits neither.
    pub(super) fn grant(
        &self,
        config: &RuntimeConfig,
        taken: u64,
    ) -> Result<Option<MemoryLimit>, LoadError> {
        let Some(room) = self.room(taken) else { return Ok(None) };
        let ceiling = self.ceiling().unwrap_or(room.bytes);
        let part = MemoryLimit {
            bytes: room.bytes.min(ceiling / self.n_models as u64),
            source: room.source.clone(),
        };
        if part.bytes < room.bytes {
            let plan = MemoryPlan::within(config, Some(part.clone()))?;
            let context = config.max_model_len.unwrap_or(plan.trained_len) as u64;
            if plan.fits() && plan.n_slots() >= context {
                return Ok(Some(part));
            }
        }
        MemoryPlan::within(config, Some(room.clone()))?.check()?;
        Ok(Some(room))
    }

    /// Whether a model would fit if `freed` bytes of what others have were free. Memory that is about to
    /// be freed is not available yet, so that only the ceiling counts.
    pub(super) fn would_grant(&self, config: &RuntimeConfig, taken: u64, freed: u64) -> bool {
        let ledger = Ledger { is_measured: false, ..self.clone() };
        ledger.grant(config, taken.saturating_sub(freed)).is_ok()
    }
}
