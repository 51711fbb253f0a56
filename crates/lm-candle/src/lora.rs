//! Low-rank adapters as tensors, and what they add to the tokens of a step.
//!
//! It must never touch a token without an adapter.
//!
//! Start reading at [`CandleAdapters`].

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};

use candle_core::{Device, Result, Tensor};
use lm_backend::Batch;
use lm_models::{LayerTensor, LoraAdapter, TensorRole};

use crate::LoadError;
use crate::weights::to_f32;

/// The adapters of one executor, by the ids that batches name them with. Clones are the same ones, so that
/// adapters come and go while it computes.
#[derive(Clone, Debug)]
pub struct CandleAdapters {
    device: Device,
    loaded: Arc<RwLock<BTreeMap<u32, Arc<Parts>>>>,
}

/// By layer and projection: `a` as `[in, rank]` and `b` as `[rank, out]`, scaled. Both f32.
type Parts = BTreeMap<(usize, usize), (Tensor, Tensor)>;

/// The adapters of a step's tokens.
#[derive(Debug, Default)]
pub struct StepAdapters {
    /// Tokens of adjacent sequences: where they begin, how many they are, and what they have. Empty when none has
    /// an adapter.
    runs: Vec<(usize, usize, Option<Arc<Parts>>)>,
}

impl CandleAdapters {
    pub(crate) fn new(device: &Device) -> Self {
        CandleAdapters { device: device.clone(), loaded: Arc::default() }
    }

    /// Takes an adapter in under an id that no other has; 0 stands for none.
    ///
    /// # Errors
    /// A storage type that candle does not read; the tensor library failed.
    ///
    /// # Panics
    /// When the id is 0.
    pub fn put(&self, id: u32, adapter: &LoraAdapter) -> std::result::Result<(), LoadError> {
        assert_ne!(id, 0, "0 is no adapter's id");
        let mut parts = Parts::new();
        for part in &adapter.parts {
            let role = TensorRole::Layer(part.layer, part.tensor);
            let tensor = |view| -> std::result::Result<Tensor, LoadError> {
                let unsupported = LoadError::UnsupportedType { role, dtype: part.a.dtype.as_str() };
                Ok(to_f32(view, &self.device)?.ok_or(unsupported)?.t()?.contiguous()?)
            };
            let b = (tensor(&part.b)? * f64::from(part.scale))?;
            parts.insert((part.layer, part.tensor as usize), (tensor(&part.a)?, b));
        }
        self.loaded.write().unwrap_or_else(PoisonError::into_inner).insert(id, Arc::new(parts));
        Ok(())
    }

    /// Forgets an adapter that no sequence needs any more.
    pub fn remove(&self, id: u32) {
        let removed = self.loaded.write().unwrap_or_else(PoisonError::into_inner).remove(&id);
        // Freed outside of the lock.
        drop(removed);
    }

    /// Bytes that an adapter takes here.
    #[must_use]
    pub fn size_bytes(adapter: &LoraAdapter) -> u64 {
        let numbers = |part: &lm_models::LoraPart| part.a.n_elements() + part.b.n_elements();
        (adapter.parts.iter().map(numbers).sum::<usize>() * size_of::<f32>()) as u64
    }

    /// The adapters of a batch's tokens.
    ///
    /// # Errors
    /// An id that is not there.
    pub(crate) fn of_step(&self, batch: &Batch) -> Result<StepAdapters> {
        if batch.adapter_ids.iter().all(|&id| id == 0) {
            return Ok(StepAdapters::default());
        }
        let loaded = self.loaded.read().unwrap_or_else(PoisonError::into_inner);
        let run = |(s, &id): (usize, &u32)| {
            let tokens = batch.tokens_of(s);
            let unknown =
                || candle_core::Error::Msg(format!("the adapter with id {id} is not loaded"));
            let parts = match id {
                0 => None,
                id => Some(loaded.get(&id).cloned().ok_or_else(unknown)?),
            };
            Ok((tokens.start, tokens.len(), parts))
        };
        let runs = batch.adapter_ids.iter().enumerate().map(run).collect::<Result<_>>()?;
        Ok(StepAdapters { runs })
    }
}

impl StepAdapters {
    /// `y`, which a projection made of `x`, and what the tokens' adapters add to it. x: `[n, in]`; y: `[n, out]`
    pub(crate) fn add(
        &self,
        layer: usize,
        tensor: LayerTensor,
        x: &Tensor,
        y: Tensor,
    ) -> Result<Tensor> {
        let part = |parts: &Option<Arc<Parts>>| {
            parts.as_ref().and_then(|parts| parts.get(&(layer, tensor as usize)).cloned())
        };
        if self.runs.iter().all(|(_, _, parts)| part(parts).is_none()) {
            return Ok(y);
        }
        let pieces = self.runs.iter().map(|(first, n, parts)| {
            let y = y.narrow(0, *first, *n)?;
            let Some((a, b)) = part(parts) else { return Ok(y) };
            y + x.narrow(0, *first, *n)?.matmul(&a)?.matmul(&b)?
        });
        Tensor::cat(&pieces.collect::<Result<Vec<_>>>()?, 0)
    }
}
