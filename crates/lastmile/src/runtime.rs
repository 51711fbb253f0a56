//! A model, its engine, and the way to ask it.

mod encoding;
mod ready;
mod texts;

use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, SystemTime};

use lm_backend::{Backend, BackendSpec, StepArbiter};
use lm_chat::{ChatTemplate, ToolFormat};
use lm_engine::{EncodeHandle, EngineHandle, EngineParts, EngineStats, ServedBy, StatsSnapshot};
use lm_models::DefaultSampling;
use lm_tokenizer::Tokenizer;
use lm_types::{
    GenerateError, GenerateRequest, LogitProcessor, Observer, ReleaseHash, SamplingParams, TokenId,
};

use crate::adapters::{AdapterLimits, Adapters};
use crate::disk_cache::{self, DiskCache};
use crate::energy::EnergyMeter;
use crate::grammars::Grammars;
use crate::loading::{Loaded, Surroundings, load};
use crate::loading_encoder::load_encoder;
use crate::machine::MemoryLimit;
use crate::prepare::Materials;
use crate::{
    AdapterSource, Answer, EncoderInfo, GenerateStream, LoadError, ReleaseFacts, RuntimeConfig,
};

pub use ready::ReadyRequest;

/// How long a shutdown waits for blocks of the prefix cache to be written.
const LAST_WRITES: Duration = Duration::from_secs(5);

/// A loaded model with its engine. Share it by `Arc`; drop it to unload.
pub struct Runtime {
    /// `None` once shut down; locked for writing only then.
    engine: RwLock<Option<Running>>,
    /// Ends after the engine.
    disk_cache: Mutex<Option<DiskCache>>,
    max_queued: usize,
    stats: Arc<EngineStats>,
    tokenizer: Arc<Tokenizer>,
    template: Option<ChatTemplate>,
    grammars: Grammars,
    processors: Vec<Arc<dyn LogitProcessor>>,
    pub(crate) adapters: Adapters,
    pub(crate) observer: Arc<dyn Observer>,
    info: ModelInfo,
}

/// The loop of a model.
enum Running {
    Decoder(EngineHandle),
    Encoder(EncodeHandle),
}

/// What is loaded, and its limits.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelInfo {
    /// The name that clients ask for.
    pub name: String,
    /// The backend's facts: context length, KV pool, kernel path, memory.
    pub backend: BackendSpec,
    /// Whether conversations can be rendered.
    pub has_chat_template: bool,
    /// The parameters of a request that says nothing, as far as the model's authors said something.
    pub default_sampling: DefaultSampling,
    /// What it is besides, if it reads texts and writes none.
    pub encoder: Option<EncoderInfo>,
    /// What its answers depend on.
    pub release: ReleaseFacts,
    /// The digest of `release`.
    pub release_hash: ReleaseHash,
    /// When it was loaded.
    pub loaded_at: SystemTime,
    /// What it takes in all, as planned before it was loaded.
    pub planned_bytes: u64,
    /// Positions of a sequence, where memory does not hold fewer.
    pub own_len: usize,
    /// As of [`RuntimeConfig::how`].
    pub how: Option<String>,
}

impl Runtime {
    /// Loads a model and starts its engine.
    ///
    /// # Errors
    /// The model cannot be loaded, or the limits contradict each other.
    pub fn start(config: RuntimeConfig) -> Result<Self, LoadError> {
        let limit = config.memory_ceiling();
        Runtime::start_beside(config, limit, &Arc::default())
    }

    /// Loads a model within `limit` and starts its engine, which takes turns with the others of `arbiter`.
    pub(crate) fn start_beside(
        config: RuntimeConfig,
        limit: Option<MemoryLimit>,
        arbiter: &Arc<StepArbiter>,
    ) -> Result<Self, LoadError> {
        Runtime::start_wrapped(config, limit, arbiter, |backend| backend)
    }

    /// As [`Runtime::start`], on what `wrap` makes of the backend: of the same vocabulary and KV pool. Encoders have
    /// no [`Backend`], so that nothing is wrapped.
    ///
    /// # Errors
    /// As [`Runtime::start`].
    pub fn start_on(
        config: RuntimeConfig,
        wrap: impl FnOnce(Box<dyn Backend>) -> Box<dyn Backend>,
    ) -> Result<Self, LoadError> {
        let limit = config.memory_ceiling();
        Runtime::start_wrapped(config, limit, &Arc::default(), wrap)
    }

    fn start_wrapped(
        config: RuntimeConfig,
        limit: Option<MemoryLimit>,
        arbiter: &Arc<StepArbiter>,
        wrap: impl FnOnce(Box<dyn Backend>) -> Box<dyn Backend>,
    ) -> Result<Self, LoadError> {
        if config.disk_cache.is_some() && !config.engine.prefix_cache {
            return Err(LoadError::CacheWithoutPrefixCache);
        }
        if let Some(loaded) = load_encoder(&config, limit.as_ref(), arbiter)? {
            return Ok(Runtime::start_encoder(config, loaded, arbiter));
        }
        let limit_bytes = limit.as_ref().map(|limit| limit.bytes);
        let loaded = load(&config, Surroundings { limit, arbiter })?;
        let Loaded { backend, tokenizer, template, facts, kv_facts, .. } = loaded;
        let Loaded { name, default_sampling, adapters, adapter_bytes, .. } = loaded;
        let Loaded { planned_bytes, own_len, .. } = loaded;
        let open = |disk| disk_cache::open(disk, backend.as_ref(), &kv_facts);
        let (disk_cache, block_store) = config.disk_cache.as_ref().map(open).transpose()?.unzip();
        let info = ModelInfo {
            name: config.served_name.unwrap_or(name),
            backend: backend.spec().clone(),
            has_chat_template: template.is_some(),
            default_sampling,
            encoder: None,
            release_hash: facts.hash(),
            release: facts,
            loaded_at: SystemTime::now(),
            planned_bytes,
            own_len,
            how: config.how,
        };
        let (backend, tokenizer) = (wrap(backend), Arc::new(tokenizer));
        let parts = EngineParts {
            backend,
            tokenizer: Arc::clone(&tokenizer),
            observer: Arc::clone(&config.observer),
            served_by: ServedBy { model: info.name.clone(), release: info.release_hash },
            arbiter: Arc::clone(arbiter),
            block_store,
            take_joules: EnergyMeter::of_this_machine().map(EnergyMeter::taken_by_engines),
        };
        let engine = EngineHandle::spawn(parts, &config.engine)?;
        let limits = AdapterLimits {
            max_loaded: config.max_adapters,
            planned_bytes,
            reserved_bytes: adapter_bytes,
            limit_bytes,
        };
        let runtime = Runtime {
            stats: Arc::clone(engine.stats()),
            max_queued: engine.max_queued(),
            engine: RwLock::new(Some(Running::Decoder(engine))),
            disk_cache: Mutex::new(disk_cache),
            tokenizer,
            template,
            grammars: Grammars::default(),
            processors: config.processors,
            adapters: Adapters::new(adapters, limits),
            observer: config.observer,
            info,
        };
        for AdapterSource { name, path } in &config.adapters {
            runtime.load_adapter(name, path).map_err(|source| LoadError::Adapter {
                name: name.clone(),
                source: Box::new(source),
            })?;
        }
        Ok(runtime)
    }

    /// Starts the request's `n` answers. Returns as soon as they are queued: it tokenises on the
    /// caller's thread and never waits for the engine.
    ///
    /// # Errors
    /// The request is refused: a parameter outside its range, a prompt too long, a full queue.
    pub fn generate(&self, request: GenerateRequest) -> Result<Vec<GenerateStream>, GenerateError> {
        Ok(self.generate_all(vec![request])?.remove(0))
    }

    /// Starts several requests, all or none: one entry for each, as from [`Runtime::generate`].
    ///
    /// # Errors
    /// What refuses the first of them that is refused.
    pub fn generate_all(
        &self,
        requests: Vec<GenerateRequest>,
    ) -> Result<Vec<Vec<GenerateStream>>, GenerateError> {
        self.start_ready(self.ready(requests)?)
    }

    /// Waits for all answers of a request.
    ///
    /// # Errors
    /// The request is refused, or one of its answers ended early.
    pub fn complete(&self, request: GenerateRequest) -> Result<Vec<Answer>, GenerateError> {
        self.generate(request)?.into_iter().map(GenerateStream::collect_answer).collect()
    }

    /// The parameters of a request that says nothing: the model's own where its authors said
    /// something, else the defaults.
    #[must_use]
    pub fn default_sampling(&self) -> SamplingParams {
        let (base, own) = (SamplingParams::default(), self.info.default_sampling);
        SamplingParams {
            temperature: own.temperature.unwrap_or(base.temperature),
            top_k: own.top_k.unwrap_or(base.top_k),
            top_p: own.top_p.unwrap_or(base.top_p),
            min_p: own.min_p.unwrap_or(base.min_p),
            repetition_penalty: own.repetition_penalty.unwrap_or(base.repetition_penalty),
            ..base
        }
    }

    /// What is loaded.
    #[must_use]
    pub fn info(&self) -> &ModelInfo {
        &self.info
    }

    /// What the engine counted. Never waits for it.
    #[must_use]
    pub fn stats(&self) -> StatsSnapshot {
        self.stats.snapshot()
    }

    /// Whether the model ends an answer with this token.
    #[must_use]
    pub fn ends_answer(&self, token: TokenId) -> bool {
        self.tokenizer.is_eog(token)
    }

    /// The form in which the model calls tools.
    #[must_use]
    pub fn tool_format(&self) -> ToolFormat {
        self.template.as_ref().map_or(ToolFormat::Hermes, ChatTemplate::tool_format)
    }

    /// Takes nothing more in, finishes what runs within `timeout`, and unloads the engine.
    pub fn shutdown(&self, timeout: Duration) {
        // Taken out first, so that requests that come meanwhile are refused at once.
        let engine = self.engine.write().unwrap_or_else(PoisonError::into_inner).take();
        match engine {
            Some(Running::Decoder(mut engine)) => engine.shutdown(timeout),
            Some(Running::Encoder(mut engine)) => engine.shutdown(timeout),
            None => {}
        }
        let disk_cache = self.disk_cache.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(disk_cache) = disk_cache {
            disk_cache.finish(LAST_WRITES);
        }
    }

    fn materials(&self) -> Materials<'_> {
        Materials {
            tokenizer: &self.tokenizer,
            template: self.template.as_ref(),
            processors: &self.processors,
            vocab_size: self.info.backend.vocab_size,
            max_model_len: self.info.backend.max_model_len,
            own_len: self.info.own_len,
        }
    }
}
