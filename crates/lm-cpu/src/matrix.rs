//! A weight matrix as panels of 16 rows, and its product with the rows of a step.

use lm_kernels::{
    ActBlock, Acts, Isa, PANEL_ROWS, Panel, Pool, WeightType, gemm_panel, pack_panel, panel_bytes,
};
use lm_models::{TensorRole, TensorType, TensorView};

use crate::LoadError;
use crate::arena::Arena;

/// Int8 numbers that each activation is the sum of. One alone is too coarse: it moves the perplexity of
/// SmolLM2 by 0.6 %, and its first word after a question from English to French; two by 0.005 %. The
/// second is free for one stream, and costs a third of the throughput of eight.
pub(crate) const ACT_PARTS: usize = 2;
/// Bytes of weights that one work item covers, if there are enough of them.
const ITEM_BYTES: usize = 48 << 10;
/// Work items per thread, at least: enough that a late thread costs little.
const ITEMS_PER_THREAD: usize = 4;

/// `[n_rows, k]`, row-major in panels.
#[derive(Debug)]
pub(crate) struct Matrix {
    weight: WeightType,
    n_rows: usize,
    k: usize,
    panel_bytes: usize,
    panels: Arena,
}

/// The activations of a step's rows, for matrices of any type.
#[derive(Debug, Default)]
pub(crate) struct RowActs {
    /// `[m, k]`
    pub(crate) floats: Vec<f32>,
    /// `[m, 2, k / 32]`: each activation is the sum of a coarse and a fine part. Filled when a consumer
    /// is quantised.
    pub(crate) blocks: Vec<ActBlock>,
}

impl Matrix {
    /// Repacks a stored tensor, on all threads.
    pub(crate) fn pack(
        view: &TensorView<'_>,
        role: TensorRole,
        pool: &mut Pool,
    ) -> Result<Self, LoadError> {
        let unsupported = || LoadError::UnsupportedType { role, dtype: view.dtype.as_str() };
        let weight = weight_type(view.dtype).ok_or_else(unsupported)?;
        let (n_rows, k) = (view.shape[0], view.shape[1]);
        let row_bytes = weight.row_bytes(k).ok_or_else(unsupported)?;
        let panel_bytes = panel_bytes(weight, k).ok_or_else(unsupported)?;
        let n_panels = n_rows.div_ceil(PANEL_ROWS);
        let mut panels = Arena::new(n_panels * panel_bytes)?;
        pool.for_chunks(&mut panels, panel_bytes, |p, out| {
            let rows = p * PANEL_ROWS..n_rows.min((p + 1) * PANEL_ROWS);
            let mut slices = [&[][..]; PANEL_ROWS];
            for (slice, row) in slices.iter_mut().zip(rows.clone()) {
                *slice = &view.data[row * row_bytes..(row + 1) * row_bytes];
            }
            pack_panel(weight, &slices[..rows.len()], k, out);
        });
        Ok(Matrix { weight, n_rows, k, panel_bytes, panels })
    }

    pub(crate) fn n_rows(&self) -> usize {
        self.n_rows
    }

    pub(crate) fn n_panels(&self) -> usize {
        self.n_rows.div_ceil(PANEL_ROWS)
    }

    pub(crate) fn size_bytes(&self) -> usize {
        self.panels.len()
    }

    pub(crate) fn is_quantised(&self) -> bool {
        self.weight.is_quantized()
    }

    /// Panel `p` times every row of `acts`: `out` is `[m, 16]`.
    pub(crate) fn multiply_panel(
        &self,
        isa: Isa,
        p: usize,
        acts: &RowActs,
        m: usize,
        out: &mut [f32],
    ) {
        let bytes = &self.panels[p * self.panel_bytes..(p + 1) * self.panel_bytes];
        let panel = Panel::new(self.weight, self.k, bytes);
        if !self.is_quantised() {
            let acts = Acts::F32(&acts.floats[..m * self.k]);
            return gemm_panel(isa, panel, acts, 0..m, out, PANEL_ROWS);
        }
        let n_rows = m * ACT_PARTS;
        let blocks = Acts::Q8(&acts.blocks[..n_rows * self.k / 32]);
        let mut parts = vec![0.0; n_rows * PANEL_ROWS];
        gemm_panel(isa, panel, blocks, 0..n_rows, &mut parts, PANEL_ROWS);
        for (out, parts) in
            out.chunks_exact_mut(PANEL_ROWS).zip(parts.chunks_exact(ACT_PARTS * PANEL_ROWS))
        {
            let (coarse, fine) = parts.split_at(PANEL_ROWS);
            for ((out, coarse), fine) in out.iter_mut().zip(coarse).zip(fine) {
                *out = coarse + fine;
            }
        }
    }
}

/// Several matrices over the same activations, as one: `out` is `[n_panels, m, 16]`, the panels of the
/// first matrix first.
pub(crate) fn multiply(
    isa: Isa,
    pool: &mut Pool,
    matrices: &[&Matrix],
    acts: &RowActs,
    m: usize,
    out: &mut Vec<f32>,
) {
    let n_panels: usize = matrices.iter().map(|matrix| matrix.n_panels()).sum();
    let n_bytes: usize = matrices.iter().map(|matrix| matrix.size_bytes()).sum();
    let group = panels_per_item(n_panels, n_bytes, pool.n_threads());
    out.resize(n_panels * m * PANEL_ROWS, 0.0);
    pool.for_chunks(out, group * m * PANEL_ROWS, |item, out| {
        for (i, out) in out.chunks_exact_mut(m * PANEL_ROWS).enumerate() {
            let mut p = item * group + i;
            for matrix in matrices {
                if p < matrix.n_panels() {
                    matrix.multiply_panel(isa, p, acts, m, out);
                    break;
                }
                p -= matrix.n_panels();
            }
        }
    });
}

pub(crate) fn panels_per_item(n_panels: usize, n_bytes: usize, n_threads: usize) -> usize {
    let by_bytes = ITEM_BYTES * n_panels / n_bytes.max(1);
    let by_threads = n_panels / (ITEMS_PER_THREAD * n_threads);
    by_bytes.min(by_threads).max(1)
}

/// Row `m` of a product: `n` values from row `first` on, out of `[n_panels, m, 16]`.
pub(crate) fn gather(product: &[f32], n_m: usize, m: usize, first: usize, out: &mut [f32]) {
    let mut done = 0;
    while done < out.len() {
        let row = first + done;
        let (p, r) = (row / PANEL_ROWS, row % PANEL_ROWS);
        let n = (PANEL_ROWS - r).min(out.len() - done);
        let at = (p * n_m + m) * PANEL_ROWS + r;
        out[done..done + n].copy_from_slice(&product[at..at + n]);
        done += n;
    }
}

pub(crate) fn weight_type(dtype: TensorType) -> Option<WeightType> {
    WeightType::from_ggml_id(dtype.ggml_number())
}
