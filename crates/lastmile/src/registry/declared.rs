//! What models there are, and what is known of them.

use std::sync::Arc;
use std::time::Duration;

use crate::{LoadError, Runtime, RuntimeConfig};

/// How a model is configured; asked each time that it is loaded, so that a reload sees new files.
pub type Configure = Arc<dyn Fn() -> Result<RuntimeConfig, LoadError> + Send + Sync>;

/// A model that may be loaded.
#[derive(Clone)]
pub struct Declared {
    /// The name that clients ask for.
    pub name: String,
    /// Other names for it.
    pub aliases: Vec<String>,
    /// How it is run.
    pub configure: Configure,
}

/// What a registry may do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RegistryOptions {
    /// Models that may be loaded at once; by default all.
    pub max_loaded: Option<usize>,
    /// A model that nobody asked for so long is unloaded; by default none is.
    pub idle_timeout: Option<Duration>,
    /// Bytes that all models may take together; by default what the control group and the machine have
    /// left when the registry is made.
    pub memory_limit: Option<u64>,
}

/// Whether a model answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ModelState {
    /// Its engine runs.
    Loaded,
    /// It is being loaded or replaced.
    Loading,
    /// It is loaded when somebody asks for it.
    Unloaded,
}

/// What is known of a declared model.
#[derive(Clone)]
pub struct ModelStatus {
    /// Its name.
    pub name: String,
    /// Its other names.
    pub aliases: Vec<String>,
    /// Whether it answers.
    pub state: ModelState,
    /// Its engine, if it is loaded.
    pub runtime: Option<Arc<Runtime>>,
    /// Engines of it that were replaced or unloaded and still have answers to finish or memory to
    /// give back.
    pub n_retiring: usize,
    /// How often it was loaded.
    pub n_loads: u64,
}
