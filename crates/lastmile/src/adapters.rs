//! The low-rank adapters of a runtime: loaded and unloaded while it answers.
//!
//! It must never take an adapter from an answer that runs: one that is unloaded takes no new answers, and its
//! memory is free when its last one is over.
//!
//! Start reading at [`Adapters::load`].

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use lm_candle::CandleAdapters;
use lm_cpu::CpuAdapters;
use lm_engine::{ServedAdapter, ServedBy};
use lm_models::{DecoderSpec, LoraAdapter, ModelError, open_lora};
use lm_types::{GenerateError, ReleaseHash};

use crate::release::hex;
use crate::{ReleaseFacts, Runtime};

/// Longest name of an adapter, in bytes.
const MAX_NAME_BYTES: usize = 256;

/// Where an adapter is, and what clients call it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdapterSource {
    /// The name that requests ask for.
    pub name: String,
    /// A folder with `adapter_config.json` and `adapter_model.safetensors`, as PEFT writes them.
    pub path: PathBuf,
}

/// An adapter that is loaded.
#[derive(Clone, Debug, PartialEq)]
pub struct AdapterInfo {
    /// The name that requests ask for.
    pub name: String,
    /// Where it was read.
    pub path: PathBuf,
    /// The largest rank of its matrices.
    pub rank: usize,
    /// What it takes in memory.
    pub size_bytes: u64,
    /// What answers with it depend on.
    pub release: ReleaseFacts,
    /// The digest of `release`.
    pub release_hash: ReleaseHash,
    /// When it was loaded.
    pub loaded_at: SystemTime,
}

/// Why an adapter cannot be loaded or unloaded.
#[derive(Debug, thiserror::Error)]
pub enum AdapterError {
    /// Its files.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The CPU executor cannot hold it.
    #[error(transparent)]
    Cpu(#[from] lm_cpu::LoadError),
    /// The executor on candle's tensors cannot hold it.
    #[error(transparent)]
    Candle(#[from] lm_candle::LoadError),
    /// A name that cannot be one.
    #[error("lora_name is {name:?}, but must be 1 to 256 bytes without control characters")]
    BadName {
        /// What was given.
        name: String,
    },
    /// Two adapters of one name.
    #[error("lora_name is '{name}', but an adapter or a model of this name is there already")]
    NameTaken {
        /// The name.
        name: String,
    },
    /// None of this name.
    #[error("lora_name is '{name}', but no adapter of this name is loaded: there are {}", known.join(", "))]
    Unknown {
        /// What was asked for.
        name: String,
        /// What there is.
        known: Vec<String>,
    },
    /// As many as may be.
    #[error(
        "lora_name is '{name}', but {taken} adapters are loaded or still answer, and max_loras is {limit}"
    )]
    TooMany {
        /// What was to be loaded.
        name: String,
        /// How many there are.
        taken: usize,
        /// How many may be.
        limit: usize,
    },
    /// It would take more memory than there is.
    #[error(
        "the adapter '{name}' needs {needed} bytes of memory, but the model and its other adapters have {taken} of \
         {limit}; a smaller KV cache leaves more"
    )]
    OutOfMemory {
        /// What was to be loaded.
        name: String,
        /// What it takes.
        needed: u64,
        /// What is taken.
        taken: u64,
        /// What there is.
        limit: u64,
    },
    /// What runs the model knows no adapters.
    #[error("adapters are for decoders on cpu and candle, but this model runs on {kernel_path}")]
    NoAdapters {
        /// What runs the model.
        kernel_path: String,
    },
}

/// Where an executor takes adapters in.
#[derive(Clone, Debug)]
pub(crate) enum AdapterHost {
    Cpu(CpuAdapters),
    Candle(CandleAdapters),
}

/// What an adapter is read for.
#[derive(Clone, Debug)]
pub(crate) struct AdapterBase {
    pub(crate) host: AdapterHost,
    pub(crate) spec: DecoderSpec,
}

/// The adapters of one runtime.
#[derive(Debug)]
pub(crate) struct Adapters {
    base: Option<AdapterBase>,
    limits: AdapterLimits,
    taken: Arc<Mutex<Taken>>,
    by_name: Mutex<BTreeMap<String, (AdapterInfo, Arc<ServedAdapter>)>>,
}

/// What adapters may take together.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct AdapterLimits {
    /// How many.
    pub(crate) max_loaded: usize,
    /// Bytes of the model with room for those it was started with.
    pub(crate) planned_bytes: u64,
    /// Of which this is for adapters.
    pub(crate) reserved_bytes: u64,
    /// Bytes that model and adapters may take.
    pub(crate) limit_bytes: Option<u64>,
}

/// What adapters take, those included that only finish what they have.
#[derive(Debug, Default)]
struct Taken {
    n: usize,
    bytes: u64,
    last_id: u32,
}

/// A place in the executor; given back when it is dropped.
struct Place {
    host: AdapterHost,
    id: u32,
    bytes: u64,
    taken: Arc<Mutex<Taken>>,
}

impl AdapterHost {
    fn put(&self, id: u32, adapter: &LoraAdapter) -> Result<(), AdapterError> {
        match self {
            AdapterHost::Cpu(adapters) => Ok(adapters.put(id, adapter)?),
            AdapterHost::Candle(adapters) => Ok(adapters.put(id, adapter)?),
        }
    }

    fn size_bytes(&self, adapter: &LoraAdapter) -> u64 {
        match self {
            AdapterHost::Cpu(_) => CpuAdapters::size_bytes(adapter),
            AdapterHost::Candle(_) => CandleAdapters::size_bytes(adapter),
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        match &self.host {
            AdapterHost::Cpu(adapters) => adapters.remove(self.id),
            AdapterHost::Candle(adapters) => adapters.remove(self.id),
        }
        let mut taken = lock(&self.taken);
        taken.n -= 1;
        taken.bytes -= self.bytes;
    }
}

impl Adapters {
    pub(crate) fn new(base: Option<AdapterBase>, limits: AdapterLimits) -> Self {
        Adapters { base, limits, taken: Arc::default(), by_name: Mutex::default() }
    }

    /// Reads an adapter and takes it in. Blocks while it reads; answers go on.
    fn load(
        &self,
        name: &str,
        path: &Path,
        model: &crate::ModelInfo,
    ) -> Result<AdapterInfo, AdapterError> {
        let is_name = (1..=MAX_NAME_BYTES).contains(&name.len());
        if !is_name || name.chars().any(char::is_control) {
            return Err(AdapterError::BadName { name: name.chars().take(80).collect() });
        }
        let taken = || AdapterError::NameTaken { name: name.to_owned() };
        if name == model.name || lock(&self.by_name).contains_key(name) {
            return Err(taken());
        }
        let kernel_path = &model.backend.kernel_path;
        let unknown = || AdapterError::NoAdapters { kernel_path: kernel_path.clone() };
        let base = self.base.as_ref().ok_or_else(unknown)?;
        let adapter = open_lora(path, &base.spec)?;
        let size_bytes = base.host.size_bytes(&adapter);
        let place = self.take_place(name, &base.host, size_bytes)?;
        base.host.put(place.id, &adapter)?;
        let release = model.release.with("adapter", format!("{name} {}", hex(&adapter.digest)));
        let info = AdapterInfo {
            name: name.to_owned(),
            path: std::path::absolute(path).unwrap_or_else(|_| path.to_owned()),
            rank: adapter.max_rank(),
            size_bytes,
            release_hash: release.hash(),
            release,
            loaded_at: SystemTime::now(),
        };
        let served = Arc::new(ServedAdapter {
            id: place.id,
            digest: adapter.digest,
            served_by: ServedBy { model: name.to_owned(), release: info.release_hash },
            kept: Box::new(place),
        });
        let mut by_name = lock(&self.by_name);
        if by_name.contains_key(name) {
            return Err(taken());
        }
        by_name.insert(name.to_owned(), (info.clone(), served));
        Ok(info)
    }

    fn take_place(
        &self,
        name: &str,
        host: &AdapterHost,
        bytes: u64,
    ) -> Result<Place, AdapterError> {
        let AdapterLimits { max_loaded, planned_bytes, reserved_bytes, limit_bytes } = self.limits;
        let mut taken = lock(&self.taken);
        if taken.n >= max_loaded {
            let (name, taken) = (name.to_owned(), taken.n);
            return Err(AdapterError::TooMany { name, taken, limit: max_loaded });
        }
        let all = planned_bytes.saturating_sub(reserved_bytes) + taken.bytes;
        if let Some(limit) = limit_bytes.filter(|&limit| all + bytes > limit) {
            let (name, needed) = (name.to_owned(), bytes);
            return Err(AdapterError::OutOfMemory { name, needed, taken: all, limit });
        }
        taken.n += 1;
        taken.bytes += bytes;
        taken.last_id += 1;
        let (host, id) = (host.clone(), taken.last_id);
        Ok(Place { host, id, bytes, taken: Arc::clone(&self.taken) })
    }

    /// The adapter that a request asks for.
    pub(crate) fn of_request(
        &self,
        name: Option<&str>,
    ) -> Result<Option<Arc<ServedAdapter>>, GenerateError> {
        let Some(name) = name else { return Ok(None) };
        let by_name = lock(&self.by_name);
        let found = by_name.get(name).map(|(_, served)| Some(Arc::clone(served)));
        found.ok_or_else(|| GenerateError::InvalidField {
            field: "model",
            message: format!("model is '{name}', but no adapter of this name is loaded"),
        })
    }

    /// Bytes that adapters take beyond what was set aside for them.
    fn unplanned_bytes(&self) -> u64 {
        lock(&self.taken).bytes.saturating_sub(self.limits.reserved_bytes)
    }
}

impl Runtime {
    /// Reads a low-rank adapter in PEFT's form, so that requests may ask for it by its name. Blocks while it
    /// reads; answers go on.
    ///
    /// # Errors
    /// It does not fit the model or the memory, or asks for what is not supported.
    pub fn load_adapter(
        &self,
        name: &str,
        path: impl AsRef<Path>,
    ) -> Result<AdapterInfo, AdapterError> {
        self.adapters.load(name, path.as_ref(), self.info())
    }

    /// Takes an adapter out of service at once. Answers that are computed with it go on to their end; then its
    /// memory is free.
    ///
    /// # Errors
    /// No adapter has this name.
    pub fn unload_adapter(&self, name: &str) -> Result<(), AdapterError> {
        let mut by_name = lock(&self.adapters.by_name);
        let known = || by_name.keys().cloned().collect();
        let unknown = || AdapterError::Unknown { name: name.to_owned(), known: known() };
        if !by_name.contains_key(name) {
            return Err(unknown());
        }
        let removed = by_name.remove(name);
        drop(by_name);
        // Freed here, or by the last answer.
        drop(removed);
        Ok(())
    }

    /// The adapters that requests may ask for, by name.
    #[must_use]
    pub fn adapters(&self) -> Vec<AdapterInfo> {
        lock(&self.adapters.by_name).values().map(|(info, _)| info.clone()).collect()
    }

    /// One of [`Runtime::adapters`].
    #[must_use]
    pub fn adapter(&self, name: &str) -> Option<AdapterInfo> {
        lock(&self.adapters.by_name).get(name).map(|(info, _)| info.clone())
    }

    /// What the model takes in all, with the adapters that it has now.
    #[must_use]
    pub fn planned_bytes(&self) -> u64 {
        self.info().planned_bytes + self.adapters.unplanned_bytes()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
