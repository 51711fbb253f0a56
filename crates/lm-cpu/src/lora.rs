//! Low-rank adapters beside the weights: which are loaded, and what one adds to a row.
//!
//! It must never change what a row without an adapter gets, nor let a row's bits depend on its company: each
//! row is multiplied alone.
//!
//! Start reading at [`CpuAdapters`].

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};

use lm_backend::Batch;
use lm_kernels::{
    Acts, Columns, Isa, PANEL_ROWS, Panels, Pool, Put, StoredType, WeightType, gemm, pack_panel,
    panel_bytes,
};
use lm_models::{LayerTensor, LoraAdapter, LoraPart, TensorRole, TensorView};

use crate::LoadError;
use crate::executor::scale;
use crate::matrix::stored_type;

/// The adapters of one executor, by the ids that batches name them with. Clones are the same ones, so that
/// adapters come and go while it computes.
#[derive(Clone, Debug, Default)]
pub struct CpuAdapters(Arc<RwLock<BTreeMap<u32, Arc<Packed>>>>);

/// One adapter, in panels.
#[derive(Debug, Default)]
pub(crate) struct Packed {
    /// By layer and projection.
    parts: BTreeMap<(usize, usize), LowRank>,
    max_rank: usize,
}

/// `scale * b · (a · x)`.
#[derive(Debug)]
pub(crate) struct LowRank {
    scale: f32,
    /// `[rank, in]`
    a: FloatPanels,
    /// `[out, rank]`
    b: FloatPanels,
}

#[derive(Debug)]
struct FloatPanels {
    weight: WeightType,
    n_rows: usize,
    k: usize,
    panel_bytes: usize,
    bytes: Vec<u8>,
}

impl CpuAdapters {
    /// Takes an adapter in under an id that no other has; 0 stands for none. It is there for every step that
    /// begins afterwards.
    ///
    /// # Errors
    /// A storage type without a kernel.
    ///
    /// # Panics
    /// When the id is 0.
    pub fn put(&self, id: u32, adapter: &LoraAdapter) -> Result<(), LoadError> {
        assert_ne!(id, 0, "0 is no adapter's id");
        let packed = Packed::pack(adapter)?;
        self.0.write().unwrap_or_else(PoisonError::into_inner).insert(id, Arc::new(packed));
        Ok(())
    }

    /// Forgets an adapter that no sequence needs any more. Its memory is free when the step that runs is over.
    pub fn remove(&self, id: u32) {
        let removed = self.0.write().unwrap_or_else(PoisonError::into_inner).remove(&id);
        // Freed outside of the lock.
        drop(removed);
    }

    /// Bytes that an adapter takes here.
    #[must_use]
    pub fn size_bytes(adapter: &LoraAdapter) -> u64 {
        let padded = |matrix: &TensorView<'_>| {
            let (n_rows, row) = (matrix.shape[0], matrix.data.len() / matrix.shape[0].max(1));
            (n_rows.next_multiple_of(PANEL_ROWS) * row) as u64
        };
        adapter.parts.iter().map(|part| padded(&part.a) + padded(&part.b)).sum()
    }

    fn get(&self, id: u32) -> Option<Arc<Packed>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).get(&id).cloned()
    }
}

impl Packed {
    fn pack(adapter: &LoraAdapter) -> Result<Self, LoadError> {
        let mut packed = Packed { max_rank: adapter.max_rank(), ..Packed::default() };
        for part in &adapter.parts {
            packed.parts.insert((part.layer, part.tensor as usize), LowRank::pack(part)?);
        }
        Ok(packed)
    }

    fn part(&self, layer: usize, tensor: LayerTensor) -> Option<&LowRank> {
        self.parts.get(&(layer, tensor as usize))
    }
}

impl LowRank {
    fn pack(part: &LoraPart) -> Result<Self, LoadError> {
        let role = TensorRole::Layer(part.layer, part.tensor);
        let pack = |view| FloatPanels::pack(view, role);
        Ok(LowRank { scale: part.scale, a: pack(&part.a)?, b: pack(&part.b)? })
    }

    /// `scale * a · x` into the beginning of `t`, and how much of it that is.
    fn shrink<'t>(&self, isa: Isa, x: &[f32], t: &'t mut [f32]) -> &'t [f32] {
        let t = &mut t[..self.a.n_rows];
        let columns = Columns::new(t, self.a.n_rows);
        self.a.multiply(isa, 0, x, Put::Store, columns);
        scale(t, self.scale);
        t
    }

    /// Adds rows `first..` of `b · t` to `out`, as many as it has; `first` is a multiple of 16.
    fn expand(&self, isa: Isa, first: usize, t: &[f32], out: &mut [f32]) {
        let width = out.len();
        self.b.multiply(isa, first, t, Put::Add, Columns::new(out, width));
    }
}

impl FloatPanels {
    fn pack(view: &TensorView<'_>, role: TensorRole) -> Result<Self, LoadError> {
        let unsupported = || LoadError::UnsupportedType { role, dtype: view.dtype.as_str() };
        let weight = stored_type(view.dtype).map(StoredType::packed);
        let weight = weight.filter(|weight| !weight.is_quantized());
        let weight = weight.ok_or_else(unsupported)?;
        let (n_rows, k) = (view.shape[0], view.shape[1]);
        let row_bytes = weight.row_bytes(k).ok_or_else(unsupported)?;
        let panel_bytes = panel_bytes(weight, k).ok_or_else(unsupported)?;
        let mut bytes = vec![0; n_rows.div_ceil(PANEL_ROWS) * panel_bytes];
        let rows: Vec<&[u8]> = view.data.chunks_exact(row_bytes).collect();
        for (rows, panel) in rows.chunks(PANEL_ROWS).zip(bytes.chunks_exact_mut(panel_bytes)) {
            pack_panel(weight, rows, k, panel);
        }
        Ok(FloatPanels { weight, n_rows, k, panel_bytes, bytes })
    }

    /// Rows `first..first + out.width()` times one row of activations.
    fn multiply(&self, isa: Isa, first: usize, x: &[f32], put: Put, out: Columns<'_, f32>) {
        let (p, n) = (first / PANEL_ROWS, out.width().div_ceil(PANEL_ROWS));
        let bytes = &self.bytes[p * self.panel_bytes..(p + n) * self.panel_bytes];
        gemm(isa, Panels::new(self.weight, self.k, bytes), Acts::F32(x), 0..1, put, out);
    }
}

/// The adapters of a step's rows. Reused from step to step.
#[derive(Debug, Default)]
pub(crate) struct StepAdapters {
    /// Of each row; empty when no row has one. `[m]`
    of_rows: Vec<Option<Arc<Packed>>>,
    /// What the first matrices of gate and up give. `[m, 2 * max_rank]`
    gate_and_up: Vec<f32>,
    max_rank: usize,
    /// What the first matrix of the other projections gives, of one row each. `[m, max_rank]`
    shrunk: Vec<f32>,
}

/// A batch that names an adapter that is not there.
#[derive(Debug, thiserror::Error)]
#[error("the adapter with id {0} is not loaded")]
pub(crate) struct UnknownAdapter(u32);

impl StepAdapters {
    pub(crate) fn fill(
        &mut self,
        batch: &Batch,
        adapters: &CpuAdapters,
    ) -> Result<(), UnknownAdapter> {
        self.of_rows.clear();
        if batch.adapter_ids.iter().all(|&id| id == 0) {
            return Ok(());
        }
        for (s, &id) in batch.adapter_ids.iter().enumerate() {
            let adapter = match id {
                0 => None,
                id => Some(adapters.get(id).ok_or(UnknownAdapter(id))?),
            };
            self.of_rows.extend(batch.tokens_of(s).map(|_| adapter.clone()));
        }
        let ranks = self.of_rows.iter().flatten().map(|adapter| adapter.max_rank);
        self.max_rank = ranks.max().unwrap_or(0);
        self.make_room();
        Ok(())
    }

    /// Forgets all rows but `kept`, in ascending order.
    pub(crate) fn keep(&mut self, kept: &[u32]) {
        if !self.of_rows.is_empty() {
            self.of_rows = kept.iter().map(|&row| self.of_rows[row as usize].take()).collect();
            self.make_room();
        }
    }

    fn make_room(&mut self) {
        let m = self.of_rows.len();
        self.shrunk.resize(m * self.max_rank, 0.0);
        self.gate_and_up.resize(2 * m * self.max_rank, 0.0);
    }

    /// What a step leaves behind for the next one is memory, not adapters.
    pub(crate) fn clear(&mut self) {
        self.of_rows.clear();
    }

    /// Whether some row has an adapter of this projection.
    pub(crate) fn adapts(&self, layer: usize, tensor: LayerTensor) -> bool {
        self.of_rows.iter().flatten().any(|adapter| adapter.part(layer, tensor).is_some())
    }

    /// Adds what the rows' adapters make of `x` to `out`, whose rows hold the results of `tensors`, given with
    /// their widths, one after another. x: `[m, k]`; out: `[m, sum of widths]`
    pub(crate) fn add(
        &mut self,
        pool: &mut Pool,
        isa: Isa,
        layer: usize,
        tensors: &[(LayerTensor, usize)],
        (x, k): (&[f32], usize),
        out: &mut [f32],
    ) {
        if !tensors.iter().any(|(tensor, _)| self.adapts(layer, *tensor)) {
            return;
        }
        let width = tensors.iter().map(|(_, width)| width).sum();
        let of_rows = &self.of_rows;
        let shrunk = (&mut self.shrunk[..], self.max_rank);
        pool.for_chunks_of_two((out, width), shrunk, |row, out, shrunk| {
            let Some(adapter) = &of_rows[row] else { return };
            let mut rest = out;
            for (tensor, width) in tensors {
                let (own, others) = rest.split_at_mut(*width);
                rest = others;
                if let Some(part) = adapter.part(layer, *tensor) {
                    let t = part.shrink(isa, &x[row * k..][..k], shrunk);
                    part.expand(isa, 0, t, own);
                }
            }
        });
    }

    /// The first halves of gate and up, before their columns are computed piece by piece. x: `[m, k]`
    pub(crate) fn begin_gate_and_up(
        &mut self,
        pool: &mut Pool,
        isa: Isa,
        layer: usize,
        (x, k): (&[f32], usize),
    ) {
        let tensors = [LayerTensor::FfnGate, LayerTensor::FfnUp];
        if !tensors.iter().any(|tensor| self.adapts(layer, *tensor)) {
            return;
        }
        let (of_rows, max_rank) = (&self.of_rows, self.max_rank);
        pool.for_chunks(&mut self.gate_and_up, 2 * max_rank, |row, both| {
            let Some(adapter) = &of_rows[row] else { return };
            for (tensor, t) in tensors.into_iter().zip(both.chunks_exact_mut(max_rank)) {
                if let Some(part) = adapter.part(layer, tensor) {
                    part.shrink(isa, &x[row * k..][..k], t);
                }
            }
        });
    }

    /// Adds to columns `first..` of one row's gate and up. `first` is a multiple of 16.
    pub(crate) fn add_gate_and_up(
        &self,
        isa: Isa,
        layer: usize,
        row: usize,
        first: usize,
        gate: &mut [f32],
        up: &mut [f32],
    ) {
        let Some(Some(adapter)) = self.of_rows.get(row) else { return };
        let both = &self.gate_and_up[2 * row * self.max_rank..][..2 * self.max_rank];
        let (of_gate, of_up) = both.split_at(self.max_rank);
        let gate = (LayerTensor::FfnGate, of_gate, gate);
        for (tensor, t, out) in [gate, (LayerTensor::FfnUp, of_up, up)] {
            if let Some(part) = adapter.part(layer, tensor) {
                part.expand(isa, first, &t[..part.a.n_rows], out);
            }
        }
    }
}
