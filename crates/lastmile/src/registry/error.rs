//! Why a model of a registry cannot be had.

use std::time::Duration;

use crate::{AdapterError, LoadError};

/// Why a model of a registry cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// No model has this name or alias.
    #[error("the model '{name}' does not exist here: there are {}", known.join(", "))]
    Unknown {
        /// What was asked for.
        name: String,
        /// What there is.
        known: Vec<String>,
    },
    /// Two models or aliases have one name.
    #[error("the name '{name}' is given to two models or aliases")]
    NameTaken {
        /// The name.
        name: String,
    },
    /// No model at all.
    #[error("there is no model to serve")]
    Empty,
    /// As many models are loaded as may be, and all of them have work.
    #[error(
        "the model '{name}' is not loaded, {limit} models may be at once, and those that are have work: {}",
        busy.join(", ")
    )]
    AllBusy {
        /// What was asked for.
        name: String,
        /// How many may be loaded.
        limit: usize,
        /// Those that are.
        busy: Vec<String>,
    },
    /// The model cannot be loaded.
    #[error("the model '{name}' could not be loaded: {source}")]
    Load {
        /// What was asked for.
        name: String,
        /// Why not.
        source: Box<LoadError>,
    },
    /// An adapter cannot be loaded or unloaded.
    #[error(transparent)]
    Adapter {
        /// Why not.
        source: Box<AdapterError>,
    },
    /// What ran on a model did not end in time, so that it is still the old one.
    #[error("what runs on the model '{name}' did not end within {} s: it stays as it was", after.as_secs())]
    StillBusy {
        /// The model.
        name: String,
        /// How long it was waited.
        after: Duration,
    },
    /// The registry takes nothing more in.
    #[error("the models are being unloaded for good")]
    Closed,
}

impl RegistryError {
    /// Whether memory was short.
    #[must_use]
    pub fn is_out_of_memory(&self) -> bool {
        match self {
            RegistryError::Load { source, .. } => matches!(**source, LoadError::OutOfMemory { .. }),
            _ => false,
        }
    }
}
