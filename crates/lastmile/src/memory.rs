//! The memory ledger: what a model will take, what there is, and what fits. Known before a weight is read, so
//! that a model that is too large is refused instead of ending the process later.

use lm_backend::{MemoryNeed, PlaceholderOptions, StepLimits};
use lm_candle::{CandleAdapters, CandleBackend};
use lm_cpu::{CpuAdapters, CpuBackend};
use lm_engine::blocks_on_their_way;
use lm_models::{DecoderSpec, Model, open_lora};

use crate::loading::Executor;
use crate::loading_encoder::encoder_plan;
use crate::machine::MemoryLimit;
use crate::{AdapterSource, LoadError, ModelSource, RuntimeConfig};

/// The KV pool of a configuration that does not say how large it is to be, where there is room.
const DEFAULT_KV_BYTES: u64 = 1 << 30;
/// The program itself: threads, queues of the store, connections.
const PROGRAM_BYTES: u64 = 48 << 20;
/// What the tokenizer and the sampler keep of an entry of the vocabulary.
const VOCAB_ENTRY_BYTES: u64 = 256;

/// The part of a plan that is for adapters.
const ADAPTERS: &str = "adapters";

/// What a model takes on this machine, and what there is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemoryPlan {
    /// The model's own name.
    pub name: String,
    /// What will run it: `cpu`, `candle` or `placeholder`.
    pub executor: &'static str,
    /// How K and V are stored.
    pub kv_type: &'static str,
    /// The longest sequence that the model knows.
    pub trained_len: usize,
    /// The bytes of each part but the KV cache.
    pub parts: Vec<(&'static str, u64)>,
    /// Bytes of the KV cache.
    pub kv_bytes: u64,
    /// Bytes of one KV block, and its positions.
    pub kv_block: (u64, usize),
    /// What may be taken; `None` where nobody says.
    pub limit: Option<MemoryLimit>,
}

/// What an encoder needs, before a weight is read.
pub(crate) struct EncoderNeed {
    pub(crate) name: String,
    pub(crate) executor: &'static str,
    pub(crate) max_len: usize,
    pub(crate) weights_bytes: u64,
    pub(crate) scratch_bytes: u64,
    pub(crate) vocab_size: usize,
}

impl MemoryPlan {
    /// What a runtime of this configuration would take. Reads the model's header only.
    ///
    /// # Errors
    /// The model cannot be run so, or not even one KV block fits.
    pub fn of(config: &RuntimeConfig) -> Result<Self, LoadError> {
        MemoryPlan::within(config, config.memory_ceiling())
    }

    /// As [`MemoryPlan::of`], where other models have their part of the memory.
    pub(crate) fn within(
        config: &RuntimeConfig,
        limit: Option<MemoryLimit>,
    ) -> Result<Self, LoadError> {
        if let Some(plan) = encoder_plan(config, limit.as_ref())? {
            return Ok(plan);
        }
        match &config.model {
            ModelSource::Placeholder(options) => {
                Ok(MemoryPlan::of_placeholder(config, limit, options))
            }
            ModelSource::Path { path, weights } => {
                let model = lm_models::open(path, *weights)?;
                let executor = Executor::choose(config, &model);
                MemoryPlan::of_model(config, limit, &executor, &model)
            }
        }
    }

    pub(crate) fn of_model(
        config: &RuntimeConfig,
        limit: Option<MemoryLimit>,
        executor: &Executor,
        model: &Model,
    ) -> Result<Self, LoadError> {
        let (spec, engine) = (&model.spec, &config.engine);
        let trained_len = spec.max_position_embeddings;
        let max_batch_tokens = engine.max_batch_tokens;
        // What an executor sizes by it are rows of logits.
        let max_num_seqs = engine.max_num_seqs + engine.max_extra_logits;
        let need_for = |max_model_len: usize| -> Result<MemoryNeed, LoadError> {
            let limits = StepLimits { max_batch_tokens, max_num_seqs, max_model_len };
            Ok(match executor {
                Executor::Cpu => CpuBackend::memory(model, &executor.cpu_options(config), limits)?,
                Executor::Candle { device } => {
                    let options = executor.candle_options(config, device);
                    CandleBackend::memory(model, &options, limits)
                }
            })
        };
        // The buffers of a step grow with the longest sequence, which the pool bounds.
        let one = need_for(1)?;
        let n_blocks = one.n_blocks(config.kv_bytes.unwrap_or(DEFAULT_KV_BYTES));
        let n_slots =
            usize::try_from(n_blocks).unwrap_or(usize::MAX).saturating_mul(one.block_size);
        let need = need_for(config.max_model_len.unwrap_or(trained_len).min(n_slots))?;
        let logits = (max_num_seqs * spec.vocab_size * size_of::<f32>()) as u64;
        let program = PROGRAM_BYTES + spec.vocab_size as u64 * VOCAB_ENTRY_BYTES;
        let mut plan = MemoryPlan {
            name: model.name.clone(),
            executor: executor.name(),
            kv_type: executor.kv_type(config),
            trained_len,
            parts: vec![
                ("weights", need.weights_bytes),
                ("scratch", need.scratch_bytes),
                ("logits", logits),
                ("program", program),
            ],
            kv_bytes: 0,
            kv_block: (need.kv_block_bytes, need.block_size),
            limit,
        };
        if !config.adapters.is_empty() {
            plan.parts.push((ADAPTERS, adapter_bytes(config, executor, spec)?));
        }
        plan.reserve(config);
        plan.kv_bytes = plan.kv_bytes_of(config, &need);
        Ok(plan)
    }

    pub(crate) fn of_placeholder(
        config: &RuntimeConfig,
        limit: Option<MemoryLimit>,
        options: &PlaceholderOptions,
    ) -> Self {
        let block_bytes = options.kv_block_bytes();
        let mut plan = MemoryPlan {
            name: "placeholder".to_owned(),
            executor: "placeholder",
            kv_type: "token_ids",
            trained_len: config.max_model_len.unwrap_or(options.max_model_len),
            parts: vec![("program", PROGRAM_BYTES)],
            kv_bytes: options.n_blocks as u64 * block_bytes,
            kv_block: (block_bytes, options.block_size),
            limit,
        };
        plan.reserve(config);
        plan
    }

    /// What an encoder takes: there is no KV.
    pub(crate) fn of_encoder(
        config: &RuntimeConfig,
        limit: Option<MemoryLimit>,
        need: EncoderNeed,
    ) -> Self {
        let EncoderNeed { name, executor, max_len, weights_bytes, scratch_bytes, vocab_size } =
            need;
        let program = PROGRAM_BYTES + vocab_size as u64 * VOCAB_ENTRY_BYTES;
        let mut plan = MemoryPlan {
            name,
            executor,
            kv_type: "none",
            trained_len: max_len,
            parts: vec![
                ("weights", weights_bytes),
                ("scratch", scratch_bytes),
                ("program", program),
            ],
            kv_bytes: 0,
            kv_block: (0, 1),
            limit,
        };
        plan.reserve(config);
        plan
    }

    /// What is for the adapters that the model is started with.
    pub(crate) fn adapter_bytes(&self) -> u64 {
        self.parts.iter().filter(|(name, _)| *name == ADAPTERS).map(|(_, bytes)| bytes).sum()
    }

    /// Whether sequences take memory while they run; encoders keep nothing of a text.
    #[must_use]
    pub fn has_kv(&self) -> bool {
        self.kv_block.0 > 0
    }

    /// What the configuration adds besides the model: blocks on their way to disk and back, and what the
    /// program sets aside.
    fn reserve(&mut self, config: &RuntimeConfig) {
        if config.disk_cache.is_some() {
            let (n_reads, n_writes) = blocks_on_their_way(self.kv_block.0 as usize);
            let n_blocks = (n_reads + n_writes) as u64;
            self.parts.push(("cache_buffers", n_blocks * self.kv_block.0));
        }
        if config.reserved_bytes > 0 {
            self.parts.push(("requests", config.reserved_bytes));
        }
    }

    /// What was asked for; else the default, or as much of it as there is room for.
    fn kv_bytes_of(&self, config: &RuntimeConfig, need: &MemoryNeed) -> u64 {
        let asked = config.kv_bytes.unwrap_or_else(|| self.kv_room().min(DEFAULT_KV_BYTES));
        need.n_blocks(asked) * need.kv_block_bytes
    }

    /// All parts but the KV cache.
    #[must_use]
    pub fn fixed_bytes(&self) -> u64 {
        self.parts.iter().map(|(_, bytes)| bytes).sum()
    }

    /// All parts.
    #[must_use]
    pub fn total_bytes(&self) -> u64 {
        self.fixed_bytes().saturating_add(self.kv_bytes)
    }

    /// The largest KV cache that fits beside the other parts; without a limit, any.
    #[must_use]
    pub fn kv_room(&self) -> u64 {
        let room = self.limit.as_ref().map(|limit| limit.bytes.saturating_sub(self.fixed_bytes()));
        room.unwrap_or(u64::MAX)
    }

    /// Positions that the KV cache holds.
    #[must_use]
    pub fn n_slots(&self) -> u64 {
        self.kv_bytes / self.kv_block.0.max(1) * self.kv_block.1 as u64
    }

    /// Whether all parts fit below the limit, with at least one KV block.
    #[must_use]
    pub fn fits(&self) -> bool {
        let limit = self.limit.as_ref().map_or(u64::MAX, |limit| limit.bytes);
        (self.kv_bytes > 0 || !self.has_kv()) && self.total_bytes() <= limit
    }

    /// How many sequences of `len` tokens a KV cache of `kv_bytes` holds.
    #[must_use]
    pub fn n_sequences(&self, len: usize, kv_bytes: u64) -> u64 {
        let (block_bytes, block_size) = self.kv_block;
        let n_blocks = kv_bytes / block_bytes.max(1);
        n_blocks / (len.div_ceil(block_size) as u64).max(1)
    }

    /// # Errors
    /// It does not fit.
    pub(crate) fn check(&self) -> Result<(), LoadError> {
        let Some(limit) = self.limit.as_ref().filter(|_| !self.fits()) else { return Ok(()) };
        Err(LoadError::OutOfMemory {
            needed: self.total_bytes().max(self.fixed_bytes() + self.kv_block.0),
            fixed: self.fixed_bytes(),
            kv: self.kv_bytes,
            limit: limit.clone(),
            kv_room: self.kv_room() / self.kv_block.0.max(1) * self.kv_block.0,
        })
    }
}

/// What the adapters take that a model is started with.
fn adapter_bytes(
    config: &RuntimeConfig,
    executor: &Executor,
    spec: &DecoderSpec,
) -> Result<u64, LoadError> {
    let mut n_bytes = 0;
    for AdapterSource { name, path } in &config.adapters {
        let adapter = open_lora(path, spec).map_err(|source| LoadError::Adapter {
            name: name.clone(),
            source: Box::new(source.into()),
        })?;
        n_bytes += match executor {
            Executor::Cpu => CpuAdapters::size_bytes(&adapter),
            Executor::Candle { .. } => CandleAdapters::size_bytes(&adapter),
        };
    }
    Ok(n_bytes)
}
