//! The backend that the engine drives: batches in, logits out.

use lm_backend::{
    Backend, BackendError, BackendSpec, Batch, LogitsBuf, MemoryNeed, StepArbiter, StepLimits,
};
use lm_kernels::{Isa, KV_PAGE, KvType, UnknownIsa};
use lm_models::{Model, ModelError, TensorRole};
use lm_types::BlockIdx;

use crate::arena::Held;
use crate::executor::{Executor, MAX_HEAD_DIM, StepError};
use crate::kv::KvCache;
use crate::lora::CpuAdapters;
use crate::matrix::stored_type;
use crate::memory;

/// What a CPU backend is given besides the model.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CpuOptions {
    /// Bytes for the KV pool; rounded down to whole blocks.
    pub kv_bytes: u64,
    /// How K and V are stored.
    pub kv_type: KvType,
    /// Longest sequence; at most the model's own and what the pool holds.
    pub max_model_len: Option<usize>,
    /// Worker threads; by default as many cores as this process may use.
    pub n_threads: Option<usize>,
    /// `scalar`, `avx2`, …: at most this instruction set.
    pub isa_cap: Option<String>,
}

/// Runs a decoder on the cores of this machine.
#[derive(Debug)]
pub struct CpuBackend {
    spec: BackendSpec,
    executor: Executor,
    kv: KvCache,
}

/// Why a model cannot be run.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The file does not hold what the spec says.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The system has no room for the weights or the KV cache.
    #[error("no memory for the weights or the KV cache: {0}")]
    Memory(#[from] std::io::Error),
    /// A storage type without a kernel.
    #[error("tensor {role:?} is stored as {dtype}, which has no CPU kernel")]
    UnsupportedType {
        /// Which tensor.
        role: TensorRole,
        /// How it is stored.
        dtype: &'static str,
    },
    /// Only the portable kernels run here.
    #[error("this machine's processor has none of the vector instructions that have kernels")]
    NoVectorKernels,
    /// A head that the kernels cannot hold.
    #[error("head_dim is {head_dim}, but must be at most 512 and a multiple of 8")]
    HeadDim {
        /// Width of one head.
        head_dim: usize,
    },
    /// An instruction set that is none.
    #[error("{0}")]
    Isa(UnknownIsa),
    /// Not one block fits.
    #[error("the KV cache is given {kv_bytes} bytes, but one block takes {block_bytes}")]
    KvTooSmall {
        /// Bytes for the pool.
        kv_bytes: u64,
        /// Bytes of one block.
        block_bytes: u64,
    },
    /// The context that was asked for is longer than what there is.
    #[error("max_model_len is {asked}, but must be 1 to {limit}: {why}")]
    ContextTooLong {
        /// What was asked for.
        asked: usize,
        /// What there is.
        limit: usize,
        /// Where the limit comes from.
        why: &'static str,
    },
}

impl CpuBackend {
    /// Whether this executor is the fast one for a model on this machine.
    ///
    /// # Errors
    /// The first thing that it has no kernel for.
    pub fn is_fast_for(model: &Model) -> Result<(), LoadError> {
        if Isa::detect_vectors() == Isa::SCALAR {
            return Err(LoadError::NoVectorKernels);
        }
        CpuBackend::supports(model)
    }

    fn supports(model: &Model) -> Result<(), LoadError> {
        let head_dim = model.spec.head_dim;
        if head_dim > MAX_HEAD_DIM || !head_dim.is_multiple_of(8) {
            return Err(LoadError::HeadDim { head_dim });
        }
        for (role, _) in lm_models::tensor_shapes(&model.spec) {
            let dtype = model.tensor_type(role)?;
            if stored_type(dtype).is_none() {
                return Err(LoadError::UnsupportedType { role, dtype: dtype.as_str() });
            }
        }
        Ok(())
    }

    /// What `model` will need, without reading its weights.
    ///
    /// # Errors
    /// The model cannot be run here.
    pub fn memory(
        model: &Model,
        options: &CpuOptions,
        limits: StepLimits,
    ) -> Result<MemoryNeed, LoadError> {
        CpuBackend::supports(model)?;
        memory::need(model, options, limits)
    }

    /// Repacks the weights of `model`, and takes memory for its KV.
    ///
    /// # Errors
    /// The model cannot be run with these options.
    pub fn load(model: Model, options: &CpuOptions) -> Result<Self, LoadError> {
        CpuBackend::load_in_turns(model, options, &StepArbiter::default())
    }

    /// As [`CpuBackend::load`], while engines that share the arbiter compute.
    ///
    /// # Errors
    /// The model cannot be run with these options.
    pub fn load_in_turns(
        model: Model,
        options: &CpuOptions,
        arbiter: &StepArbiter,
    ) -> Result<Self, LoadError> {
        let _held = Held::new();
        let isa = Isa::detect_capped(options.isa_cap.as_deref()).map_err(LoadError::Isa)?;
        CpuBackend::supports(&model)?;
        let block_bytes = KvCache::block_bytes(&model.spec, options.kv_type) as u64;
        let n_blocks = (options.kv_bytes / block_bytes) as usize;
        if n_blocks == 0 {
            return Err(LoadError::KvTooSmall { kv_bytes: options.kv_bytes, block_bytes });
        }
        let max_model_len = context_len(&model, options, n_blocks * KV_PAGE)?;
        let n_threads = options.n_threads.unwrap_or_else(default_n_threads);
        let vocab_size = model.spec.vocab_size;
        let kv = KvCache::new(&model.spec, options.kv_type, n_blocks)?;
        let executor = Executor::load(model, isa, n_threads, max_model_len, arbiter)?;
        let spec = BackendSpec {
            rows_are_exact: true,
            // Activations are 13-bit numbers: another precision would be another release.
            kernel_path: format!("cpu-{}-a13", isa.name()),
            kv_type: options.kv_type.as_str(),
            vocab_size,
            block_size: KV_PAGE,
            n_blocks,
            max_model_len,
            weights_bytes: executor.weights_bytes() as u64,
            kv_bytes: n_blocks as u64 * block_bytes,
        };
        Ok(CpuBackend { spec, executor, kv })
    }

    /// Where its adapters are taken in and given up, while it computes.
    #[must_use]
    pub fn adapters(&self) -> CpuAdapters {
        self.executor.adapters().clone()
    }
}

impl Backend for CpuBackend {
    fn spec(&self) -> &BackendSpec {
        &self.spec
    }

    fn execute(&mut self, batch: &Batch, logits: &mut LogitsBuf) -> Result<(), BackendError> {
        self.execute_while(batch, logits, &|| true)
    }

    fn execute_while(
        &mut self,
        batch: &Batch,
        logits: &mut LogitsBuf,
        is_wanted: &dyn Fn() -> bool,
    ) -> Result<(), BackendError> {
        let _held = Held::new();
        self.executor.forward(batch, &mut self.kv, logits, is_wanted).map_err(|error| match error {
            StepError::GivenUp => BackendError::GivenUp,
            error => BackendError::Compute { message: error.to_string() },
        })
    }

    fn movable_block_bytes(&self) -> Option<usize> {
        Some(self.kv.page_bytes())
    }

    fn export_block(&self, block: BlockIdx, bytes: &mut [u8]) -> Result<(), BackendError> {
        BackendError::check_block(self.kv.page_bytes(), bytes.len())?;
        self.kv.export_page(block.index(), bytes);
        Ok(())
    }

    fn import_block(&mut self, block: BlockIdx, bytes: &[u8]) -> Result<(), BackendError> {
        BackendError::check_block(self.kv.page_bytes(), bytes.len())?;
        self.kv.import_page(block.index(), bytes);
        Ok(())
    }
}

/// As many as this process may use cores.
pub(crate) fn default_n_threads() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

/// The longest sequence: what was asked for, within the model's own context and the pool.
fn context_len(model: &Model, options: &CpuOptions, n_slots: usize) -> Result<usize, LoadError> {
    let trained = model.spec.max_position_embeddings;
    let (limit, why) = if trained <= n_slots {
        (trained, "the model was trained for no more")
    } else {
        (n_slots, "the KV cache holds no more")
    };
    match options.max_model_len {
        None => Ok(limit),
        Some(asked) if (1..=limit).contains(&asked) => Ok(asked),
        Some(asked) => Err(LoadError::ContextTooLong { asked, limit, why }),
    }
}
