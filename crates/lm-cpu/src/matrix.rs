//! A weight matrix as panels of 16 rows, and its product with the rows of a step.

use std::ops::Range;

use lm_kernels::{
    ActBlock, Acts, Columns, Isa, PANEL_ROWS, Panels, Pool, Put, QuantizedActs, SplitBlock,
    StoredType, WeightType, dequantize_panel_row, gemm, pack_panel, panel_bytes,
    quantize_activations, share_start,
};
use lm_models::{TensorRole, TensorType, TensorView};

use crate::LoadError;
use crate::arena::Arena;

/// Values that share a scale, as the kernels quantise activations.
pub(crate) const ACT_BLOCK: usize = lm_kernels::ACT_BLOCK;
/// Bytes of weights that one work item covers, if there are enough of them.
const ITEM_BYTES: usize = 48 << 10;
/// The same of matrices that make very many items, such as a head.
const LARGE_ITEM_BYTES: usize = 128 << 10;
/// From so many items per thread on they are larger.
const MANY_ITEMS: usize = 128;
/// Work items per thread, at least: enough that a late thread costs little.
const ITEMS_PER_THREAD: usize = 4;

/// `[n_rows, k]`, row-major in panels.
#[derive(Debug)]
pub(crate) struct Matrix {
    weight: WeightType,
    n_rows: usize,
    k: usize,
    panel_bytes: usize,
    panels: Arena<u8>,
}

/// The activations of a step's rows, for matrices of any type.
#[derive(Debug, Default)]
pub(crate) struct RowActs {
    /// `[m, k]`
    pub(crate) floats: Vec<f32>,
    /// Filled when a consumer is quantised.
    pub(crate) quantised: QuantisedRows,
}

/// Quantised activations, `[m, k / 32]`, in the form that is fastest for as many rows; the other is empty.
#[derive(Debug, Default)]
pub(crate) struct QuantisedRows {
    pub(crate) blocks: Vec<ActBlock>,
    pub(crate) split: Vec<SplitBlock>,
}

impl Matrix {
    /// Repacks a stored tensor, on all threads.
    pub(crate) fn pack(
        view: &TensorView<'_>,
        role: TensorRole,
        pool: &mut Pool,
    ) -> Result<Self, LoadError> {
        let unsupported = || LoadError::UnsupportedType { role, dtype: view.dtype.as_str() };
        let stored = stored_type(view.dtype).ok_or_else(unsupported)?;
        let weight = stored.packed();
        let (n_rows, k) = (view.shape[0], view.shape[1]);
        let row_bytes = stored.row_bytes(k).ok_or_else(unsupported)?;
        let panel_bytes = panel_bytes(weight, k).ok_or_else(unsupported)?;
        let n_panels = n_rows.div_ceil(PANEL_ROWS);
        let mut panels = Arena::new(n_panels * panel_bytes)?;
        pool.for_chunks(&mut panels, panel_bytes, |p, out| {
            let rows = p * PANEL_ROWS..n_rows.min((p + 1) * PANEL_ROWS);
            let mut slices = [&[][..]; PANEL_ROWS];
            for (slice, row) in slices.iter_mut().zip(rows.clone()) {
                *slice = &view.data[row * row_bytes..(row + 1) * row_bytes];
            }
            pack_panel(stored, &slices[..rows.len()], k, out);
        });
        Ok(Matrix { weight, n_rows, k, panel_bytes, panels })
    }

    pub(crate) fn n_rows(&self) -> usize {
        self.n_rows
    }

    pub(crate) fn size_bytes(&self) -> usize {
        self.panels.len()
    }

    pub(crate) fn is_quantised(&self) -> bool {
        self.weight.is_quantized()
    }

    /// The panels from row `first` on, a multiple of 16.
    pub(crate) fn panels_from(&self, first: usize) -> &[u8] {
        &self.panels[(first / PANEL_ROWS * self.panel_bytes).min(self.panels.len())..]
    }

    /// One row, as f32.
    fn dequantize_row(&self, row: usize, out: &mut [f32]) {
        assert!(row < self.n_rows, "row {row} of {}", self.n_rows);
        let panel = &self.panels[row / PANEL_ROWS * self.panel_bytes..][..self.panel_bytes];
        dequantize_panel_row(self.weight, panel, row % PANEL_ROWS, out);
    }

    /// Rows `first..first + out.width()` of this matrix times rows `rows` of `acts`. `first` is a multiple of 16.
    pub(crate) fn multiply_part(
        &self,
        isa: Isa,
        first: usize,
        acts: &RowActs,
        rows: Range<usize>,
        put: Put,
        out: Columns<'_, f32>,
    ) {
        let (p, n) = (first / PANEL_ROWS, out.width().div_ceil(PANEL_ROWS));
        let bytes = &self.panels[p * self.panel_bytes..(p + n) * self.panel_bytes];
        let acts = match self.is_quantised() {
            true if acts.quantised.split.is_empty() => Acts::Quantized(&acts.quantised.blocks),
            true => Acts::Split(&acts.quantised.split),
            false => Acts::F32(&acts.floats),
        };
        gemm(isa, Panels::new(self.weight, self.k, bytes), acts, rows, put, out);
    }
}

/// Matrices over the same activations, as one: their rows one after another.
#[derive(Debug)]
pub(crate) struct Stacked {
    matrices: Vec<Matrix>,
    /// The row at which each work item begins, and the end.
    bounds: Vec<usize>,
    /// The matrix of each work item, and the row of the whole at which that matrix begins.
    items: Vec<(usize, usize)>,
}

impl Stacked {
    pub(crate) fn new(matrices: Vec<Matrix>, n_threads: usize) -> Self {
        let n_bytes: usize = matrices.iter().map(Matrix::size_bytes).sum();
        let n_rows: usize = matrices.iter().map(Matrix::n_rows).sum();
        let (mut bounds, mut items, mut first) = (vec![0], Vec::new(), 0);
        for (i, matrix) in matrices.iter().enumerate() {
            let n = rows_per_item(n_rows, n_bytes, n_threads);
            for start in (0..matrix.n_rows).step_by(n) {
                bounds.push(first + matrix.n_rows.min(start + n));
                items.push((i, first));
            }
            first += matrix.n_rows;
        }
        Stacked { matrices, bounds, items }
    }

    pub(crate) fn n_rows(&self) -> usize {
        self.matrices.iter().map(Matrix::n_rows).sum()
    }

    pub(crate) fn size_bytes(&self) -> usize {
        self.matrices.iter().map(Matrix::size_bytes).sum()
    }

    pub(crate) fn is_quantised(&self) -> bool {
        self.matrices.iter().any(Matrix::is_quantised)
    }

    /// Row `row` of the first matrix, as f32.
    pub(crate) fn dequantize_row(&self, row: usize, out: &mut [f32]) {
        self.matrices[0].dequantize_row(row, out);
    }

    /// The row at which each work item begins, and the end.
    pub(crate) fn bounds(&self) -> &[usize] {
        &self.bounds
    }

    /// What thread `i` of `n` reads first of a product.
    pub(crate) fn share(&self, i: usize, n: usize) -> &[u8] {
        let item = share_start(self.items.len(), i, n);
        let (matrix, first) = self.items[item];
        self.matrices[matrix].panels_from(self.bounds[item] - first)
    }

    /// What work item `item` gives for rows `rows` of `acts`; `out` has its columns.
    pub(crate) fn multiply_item(
        &self,
        isa: Isa,
        item: usize,
        acts: &RowActs,
        rows: Range<usize>,
        put: Put,
        out: Columns<'_, f32>,
    ) {
        let (matrix, first) = self.items[item];
        let matrix = &self.matrices[matrix];
        matrix.multiply_part(isa, self.bounds[item] - first, acts, rows, put, out);
    }

    /// Of what work item `item` gives, the rows of the whole from `first` on, as many as `out` has columns.
    pub(crate) fn multiply_columns(
        &self,
        isa: Isa,
        item: usize,
        first: usize,
        acts: &RowActs,
        rows: Range<usize>,
        out: Columns<'_, f32>,
    ) {
        let (matrix, start) = self.items[item];
        self.matrices[matrix].multiply_part(isa, first - start, acts, rows, Put::Store, out);
    }

    /// All rows times the rows of `acts`, on all threads: `out` is `[m, n_rows]`.
    pub(crate) fn multiply(
        &self,
        isa: Isa,
        pool: &mut Pool,
        acts: &RowActs,
        put: Put,
        out: &mut [f32],
    ) {
        let out = Columns::new(out, self.n_rows());
        pool.for_column_pieces(out, &self.bounds, |item, out| {
            self.multiply_item(isa, item, acts, 0..out.n_rows(), put, out);
        });
    }
}

/// Rows of a matrix that one work item takes: whole panels.
pub(crate) fn rows_per_item(n_rows: usize, n_bytes: usize, n_threads: usize) -> usize {
    let n_panels = n_rows.div_ceil(PANEL_ROWS);
    let bytes = (n_bytes / (MANY_ITEMS * n_threads)).clamp(ITEM_BYTES, LARGE_ITEM_BYTES);
    let by_bytes = bytes * n_panels / n_bytes.max(1);
    let by_threads = n_panels / (ITEMS_PER_THREAD * n_threads);
    by_bytes.min(by_threads).max(1) * PANEL_ROWS
}

impl RowActs {
    /// Makes room for `[m, k]`, and fills it row by row; quantised when a consumer wants that.
    pub(crate) fn fill(
        &mut self,
        pool: &mut Pool,
        isa: Isa,
        (m, k): (usize, usize),
        is_quantised: bool,
        row: impl Fn(usize, &mut [f32]) + Sync,
    ) {
        self.floats.resize(m * k, 0.0);
        if !is_quantised {
            return pool.for_chunks(&mut self.floats, k, row);
        }
        let floats = &mut self.floats[..];
        match self.quantised.resize(isa, m, k / ACT_BLOCK) {
            Blocks::Plain(blocks) => fill_blocks(pool, isa, k, floats, blocks, row),
            Blocks::Split(blocks) => fill_blocks(pool, isa, k, floats, blocks, row),
        }
    }
}

/// Room for the quantised activations of a step.
pub(crate) enum Blocks<'a> {
    Plain(&'a mut [ActBlock]),
    Split(&'a mut [SplitBlock]),
}

impl QuantisedRows {
    /// Makes room for `m` rows of `n_blocks`.
    pub(crate) fn resize(&mut self, isa: Isa, m: usize, n_blocks: usize) -> Blocks<'_> {
        if isa.splits(m) {
            self.blocks.clear();
            self.split.resize(m * n_blocks, SplitBlock::default());
            return Blocks::Split(&mut self.split);
        }
        self.split.clear();
        self.blocks.resize(m * n_blocks, ActBlock::default());
        Blocks::Plain(&mut self.blocks)
    }
}

/// Fills rows of `k` values, and quantises each.
fn fill_blocks<B: QuantizedActs>(
    pool: &mut Pool,
    isa: Isa,
    k: usize,
    floats: &mut [f32],
    blocks: &mut [B],
    row: impl Fn(usize, &mut [f32]) + Sync,
) {
    pool.for_chunks_of_two((floats, k), (blocks, k / ACT_BLOCK), |i, floats, blocks| {
        row(i, floats);
        quantize_activations(isa, floats, blocks);
    });
}

impl RowActs {
    /// Quantises rows of `k` values that are there as floats.
    pub(crate) fn quantise(&mut self, pool: &mut Pool, isa: Isa, k: usize) {
        let (floats, n_blocks) = (&self.floats[..], k / ACT_BLOCK);
        match self.quantised.resize(isa, floats.len() / k, n_blocks) {
            Blocks::Plain(blocks) => quantise_rows(pool, isa, k, floats, blocks),
            Blocks::Split(blocks) => quantise_rows(pool, isa, k, floats, blocks),
        }
    }
}

fn quantise_rows<B: QuantizedActs>(
    pool: &mut Pool,
    isa: Isa,
    k: usize,
    floats: &[f32],
    blocks: &mut [B],
) {
    pool.for_chunks(blocks, k / ACT_BLOCK, |row, blocks| {
        quantize_activations(isa, &floats[row * k..][..k], blocks);
    });
}

/// Bytes that a step reads of a stored matrix: of its panels. `None` where the kernels cannot compute with its type, or
/// rows of `k` values are no whole number of blocks.
#[must_use]
pub fn packed_bytes(dtype: TensorType, n_rows: usize, k: usize) -> Option<usize> {
    let stored = stored_type(dtype)?;
    stored.row_bytes(k)?;
    n_rows.div_ceil(PANEL_ROWS).checked_mul(panel_bytes(stored.packed(), k)?)
}

/// How the kernels know a type of files; `None` where they cannot compute with it.
pub(crate) fn stored_type(dtype: TensorType) -> Option<StoredType> {
    StoredType::from_ggml_id(dtype.ggml_number())
}
