//! What a runtime is started with, and why it may not start.

use std::path::PathBuf;
use std::sync::Arc;

use lm_backend::{OptionError, PlaceholderOptions};
use lm_cpu::KvType;
use lm_engine::EngineOptions;
use lm_models::{DefaultSampling, ModelError, WeightsFrom};
use lm_scheduler::ConfigError;
use lm_tokenizer::TokenizerError;
use lm_types::{LogitProcessor, Observer, RequestEvent};

use crate::machine::MemoryLimit;
use crate::{AdapterError, AdapterSource, DiskCacheConfig};

/// Adapters that may be loaded at once where nobody says.
const DEFAULT_MAX_ADAPTERS: usize = 8;

/// Where answers come from.
#[derive(Clone, Debug, PartialEq)]
#[expect(clippy::large_enum_variant, reason = "a process holds one or a few of them")]
pub enum ModelSource {
    /// Hashes instead of a model; nothing on disk.
    Placeholder(PlaceholderOptions),
    /// A GGUF file, or a folder of safetensors or of one GGUF file.
    Path {
        /// The file or folder.
        path: PathBuf,
        /// Its own weights, or random ones of the same shapes.
        weights: WeightsFrom,
    },
}

/// What a runtime is started with.
#[derive(Clone)]
pub struct RuntimeConfig {
    /// Where answers come from.
    pub model: ModelSource,
    /// The name that clients ask for; the model's own by default.
    pub served_name: Option<String>,
    /// `auto`, `cpu`, `candle`, `cuda:N` or `metal`. `candle` is the slow numeric reference on CPU;
    /// `auto` is the first GPU, where it was compiled for one that is there; else `cpu`, or `candle` where this
    /// model or this processor has no fast kernels.
    pub device: String,
    /// At most this instruction set on `cpu`: `scalar`, `avx2`, …
    pub isa_cap: Option<String>,
    /// How K and V are stored; by default as the executor does it: f16 on `cpu`.
    pub kv_type: Option<KvType>,
    /// Bytes for the KV pool of a real model; by default 1 GiB, or as much of it as there is room for.
    pub kv_bytes: Option<u64>,
    /// Bytes that the model may take in all; by default what the control group and the machine have left.
    pub memory_limit: Option<u64>,
    /// Positions in one KV block, for executors that leave the choice; `cpu` has 32.
    pub block_size: usize,
    /// Longest sequence; by default what the model was trained for, as far as the KV pool holds it.
    pub max_model_len: Option<usize>,
    /// How requests that say nothing are drawn, where the model's files do not say it.
    pub default_sampling: DefaultSampling,
    /// Changes of logits that requests may ask for by name, in `logits_processors`.
    pub processors: Vec<Arc<dyn LogitProcessor>>,
    /// Adapters that are loaded with the model.
    pub adapters: Vec<AdapterSource>,
    /// Adapters that may be loaded at once; those count that only finish their answers.
    pub max_adapters: usize,
    /// A Jinja template instead of the model's own.
    pub chat_template: Option<String>,
    /// Where blocks of the prefix cache are kept over restarts; nowhere by default.
    pub disk_cache: Option<DiskCacheConfig>,
    /// Bytes that the program takes besides the model and its engine, such as for request bodies.
    pub reserved_bytes: u64,
    /// How whoever started it would start it again, in words of its own; kept beside its release.
    pub how: Option<String>,
    /// Batching and queueing limits.
    pub engine: EngineOptions,
    /// Hears of each answer when it is over.
    pub observer: Arc<dyn Observer>,
}

/// Why a runtime did not start.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The model's files.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The model's tokenizer.
    #[error("tokenizer: {0}")]
    Tokenizer(#[from] TokenizerError),
    /// The executor on candle's tensors.
    #[error(transparent)]
    Candle(#[from] lm_candle::LoadError),
    /// The CPU executor.
    #[error(transparent)]
    Cpu(#[from] lm_cpu::LoadError),
    /// An adapter that was to be loaded with the model.
    #[error("adapter '{name}': {source}")]
    Adapter {
        /// Its name.
        name: String,
        /// Why not.
        source: Box<AdapterError>,
    },
    /// Limits that contradict each other.
    #[error(transparent)]
    Limits(#[from] ConfigError),
    /// The chat template does not compile.
    #[error("chat template: {0}")]
    Template(#[from] lm_chat::ChatError),
    /// The text after `placeholder:`.
    #[error(transparent)]
    Placeholder(#[from] OptionError),
    /// A placeholder that is to tell answers, and has none.
    #[error("placeholder mode {mode} has no answers")]
    NoAnswers {
        /// `replay` or `schema`.
        mode: &'static str,
    },
    /// What says how the model is run.
    #[error("{message}")]
    Configure {
        /// What is wrong with it.
        message: String,
    },
    /// Only `cpu` has a choice of KV types.
    #[error(
        "the KV cache is to be {}, but on {device} it is {has}: only device cpu has the choice",
        asked.as_str()
    )]
    KvType {
        /// What was asked for.
        asked: KvType,
        /// What runs the model.
        device: String,
        /// What it has.
        has: &'static str,
    },
    /// It would take more memory than there is.
    #[error(
        "the model needs {needed} bytes of memory ({fixed} without its KV cache, {kv} for that), but {} leaves \
         {} bytes; a KV cache of {kv_room} bytes would fit", limit.source, limit.bytes
    )]
    OutOfMemory {
        /// Bytes in all; with the smallest KV cache that can be, where none was to be had.
        needed: u64,
        /// Bytes of everything but the KV cache.
        fixed: u64,
        /// Bytes of the KV cache.
        kv: u64,
        /// What there is.
        limit: MemoryLimit,
        /// The largest KV cache that fits.
        kv_room: u64,
    },
    /// Blocks come back from disk by the names that the prefix cache gives them.
    #[error("cache_dir is set, but the prefix cache is off: nothing would be kept there")]
    CacheWithoutPrefixCache,
    /// Only `cpu` and the placeholder move blocks.
    #[error(
        "cache_dir is set, but {kernel_path} cannot move KV blocks out of its cache: device cpu can"
    )]
    CacheNotMovable {
        /// What runs the model.
        kernel_path: String,
    },
    /// Not even a few blocks fit.
    #[error("cache_disk_bytes is {max_bytes}, but must be at least {least}, the bytes of 8 blocks")]
    CacheTooSmall {
        /// What was given.
        max_bytes: u64,
        /// What is needed.
        least: u64,
    },
    /// The folder of the prefix cache cannot be used.
    #[error("cache_dir is {}, which cannot be used: {source}", folder.display())]
    CacheFolder {
        /// The folder.
        folder: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// The tokenizer has more entries than the weights have rows.
    #[error("the tokenizer has {tokenizer} entries, but the weights only {weights}")]
    VocabMismatch {
        /// Entries of the tokenizer.
        tokenizer: usize,
        /// Rows of the embedding.
        weights: usize,
    },
}

impl ModelSource {
    /// A placeholder with the options of `text`, such as `mode=echo,delay_us=200`.
    ///
    /// # Errors
    /// An option that does not exist, or a value outside its range.
    pub fn placeholder(text: &str) -> Result<Self, OptionError> {
        Ok(ModelSource::Placeholder(text.parse()?))
    }

    /// The weights that a file or folder holds.
    #[must_use]
    pub fn path(path: impl Into<PathBuf>) -> Self {
        ModelSource::Path { path: path.into(), weights: WeightsFrom::File }
    }
}

impl RuntimeConfig {
    /// What the model may take in all.
    pub(crate) fn memory_ceiling(&self) -> Option<MemoryLimit> {
        let asked =
            self.memory_limit.map(|bytes| MemoryLimit { bytes, source: "memory_limit".to_owned() });
        asked.or_else(MemoryLimit::of_this_process)
    }

    /// The defaults for a model: CPU, up to 1 GiB of KV, nobody observes.
    #[must_use]
    pub fn new(model: ModelSource) -> Self {
        RuntimeConfig {
            model,
            served_name: None,
            device: "auto".to_owned(),
            isa_cap: None,
            kv_type: None,
            kv_bytes: None,
            memory_limit: None,
            block_size: 32,
            max_model_len: None,
            default_sampling: DefaultSampling::default(),
            processors: Vec::new(),
            adapters: Vec::new(),
            max_adapters: DEFAULT_MAX_ADAPTERS,
            chat_template: None,
            disk_cache: None,
            reserved_bytes: 0,
            how: None,
            engine: EngineOptions::default(),
            observer: Arc::new(Unobserved),
        }
    }
}

/// Nobody observes.
struct Unobserved;

impl Observer for Unobserved {
    fn record(&self, _event: &RequestEvent) {}
}
