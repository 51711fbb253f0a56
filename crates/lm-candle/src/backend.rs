//! The backend that the engine drives: batches in, logits out.

use candle_core::{Device, Tensor};
use lm_backend::{Backend, BackendError, BackendSpec, Batch, LogitsBuf, MemoryNeed, StepLimits};
use lm_models::{Model, ModelError, TensorRole};

use crate::decoder::device;
use crate::{CandleAdapters, Decoder, PagedKv, StepSlots};

/// What a candle backend is given besides the model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CandleOptions {
    /// `cpu`, `cuda:N` or `metal`.
    pub device: String,
    /// Positions in one KV block.
    pub block_size: usize,
    /// Bytes for the KV pool; rounded down to whole blocks.
    pub kv_bytes: u64,
    /// Longest sequence; at most the model's own and what the pool holds.
    pub max_model_len: Option<usize>,
}

/// Runs a decoder on candle's tensors.
#[derive(Debug)]
pub struct CandleBackend {
    spec: BackendSpec,
    decoder: Decoder,
    kv: PagedKv,
    device: Device,
    adapters: CandleAdapters,
}

/// Why a model cannot be run.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The file does not hold what the spec says.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The tensor library failed.
    #[error("candle: {0}")]
    Candle(#[from] candle_core::Error),
    /// A storage type without a reader.
    #[error("tensor {role:?} is stored as {dtype}, which candle does not read")]
    UnsupportedType {
        /// Which tensor.
        role: TensorRole,
        /// How it is stored.
        dtype: &'static str,
    },
    /// A device that is none.
    #[error("device is {name:?}, but must be cpu, cuda:N or metal")]
    UnknownDevice {
        /// As written.
        name: String,
    },
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

impl CandleBackend {
    /// Loads `model` and takes memory for its KV.
    ///
    /// # Errors
    /// The model cannot be run with these options.
    pub fn load(model: &Model, options: &CandleOptions) -> Result<Self, LoadError> {
        let device = device(&options.device)?;
        let block_size = options.block_size;
        let block_bytes = (model.spec.kv_bytes_per_token(size_of::<f32>()) * block_size) as u64;
        let n_blocks = (options.kv_bytes / block_bytes) as usize;
        if n_blocks == 0 {
            return Err(LoadError::KvTooSmall { kv_bytes: options.kv_bytes, block_bytes });
        }
        let max_model_len = context_len(model, options, n_blocks * block_size)?;
        let decoder = Decoder::load(model, max_model_len, &device)?;
        let kv = PagedKv::new(&model.spec, n_blocks * block_size, &device)?;
        let place = match device {
            Device::Cpu => "cpu",
            Device::Cuda(_) => "cuda",
            Device::Metal(_) => "metal",
        };
        let spec = BackendSpec {
            rows_are_exact: false,
            kernel_path: format!("candle-{place}-f32"),
            kv_type: "f32",
            vocab_size: model.spec.vocab_size,
            block_size,
            n_blocks,
            max_model_len,
            weights_bytes: Decoder::weights_bytes(&model.spec),
            kv_bytes: n_blocks as u64 * block_bytes,
        };
        let adapters = CandleAdapters::new(&device);
        Ok(CandleBackend { spec, decoder, kv, device, adapters })
    }

    /// Where its adapters are taken in and given up, while it computes.
    #[must_use]
    pub fn adapters(&self) -> CandleAdapters {
        self.adapters.clone()
    }

    /// What `model` will need, as f32, without reading its weights. The buffers of a step are an estimate:
    /// candle takes them as it goes.
    #[must_use]
    pub fn memory(model: &Model, options: &CandleOptions, limits: StepLimits) -> MemoryNeed {
        let spec = &model.spec;
        let scores = spec.n_heads * limits.max_model_len;
        let row = 8 * spec.hidden_size + 4 * spec.intermediate_size + 3 * scores;
        let block_size = options.block_size;
        MemoryNeed {
            weights_bytes: Decoder::weights_bytes(spec),
            scratch_bytes: (limits.max_batch_tokens * row * size_of::<f32>()) as u64,
            kv_block_bytes: (spec.kv_bytes_per_token(size_of::<f32>()) * block_size) as u64,
            block_size,
        }
    }

    fn run(&mut self, batch: &Batch, logits: &mut LogitsBuf) -> candle_core::Result<()> {
        let device = &self.device;
        let tensor = |values: &[u32]| Tensor::new(values, device);
        let rows: Vec<u32> = batch.sample_rows.iter().map(|row| row.token_idx).collect();
        let sample_rows = if rows.is_empty() { None } else { Some(tensor(&rows)?) };
        let slots = StepSlots::new(batch, self.spec.block_size, device)?;
        let adapters = self.adapters.of_step(batch)?;
        let output = self.decoder.forward(
            &tensor(&batch.input_ids)?,
            &tensor(&batch.positions)?,
            &slots,
            &adapters,
            sample_rows.as_ref(),
            &mut self.kv,
        )?;
        logits.reset(rows.len(), self.spec.vocab_size);
        let Some(output) = output else { return Ok(()) };
        for row in 0..rows.len() {
            let values = output.get(row)?.to_vec1::<f32>()?;
            logits.row_mut(row).copy_from_slice(&values);
        }
        Ok(())
    }
}

impl Backend for CandleBackend {
    fn spec(&self) -> &BackendSpec {
        &self.spec
    }

    fn execute(&mut self, batch: &Batch, logits: &mut LogitsBuf) -> Result<(), BackendError> {
        self.run(batch, logits)
            .map_err(|error| BackendError::Compute { message: error.to_string() })
    }
}

/// The longest sequence: what was asked for, within the model's own context and the pool.
fn context_len(model: &Model, options: &CandleOptions, n_slots: usize) -> Result<usize, LoadError> {
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
