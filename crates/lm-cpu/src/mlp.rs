//! The first half of an MLP: gate and up projections, the activation between them, and the quantisation of
//! what comes out, 32 columns at a time, so that nothing leaves the cache in between.

use lm_kernels::{
    ActBlock, Columns, Isa, Pool, Put, gelu_tanh_mul, quantize_activations, silu_mul,
};
use lm_models::{Activation, DecoderSpec, LayerTensor};

use crate::executor::scale;
use crate::layer::Layer;
use crate::lora::StepAdapters;
use crate::matrix::{ACT_BLOCK, RowActs, rows_per_item};

/// Columns that are worked on together: one block of activations.
const COLUMNS: usize = ACT_BLOCK;
/// Rows that are worked on together.
const ROWS: usize = 16;

/// `activation(gate x) * up x` of one layer.
#[derive(Clone, Copy)]
pub(crate) struct GateAndUp<'a> {
    pub(crate) isa: Isa,
    pub(crate) spec: &'a DecoderSpec,
    pub(crate) layer: &'a Layer,
    pub(crate) layer_idx: usize,
    pub(crate) acts: &'a RowActs,
    pub(crate) adapters: &'a StepAdapters,
}

impl GateAndUp<'_> {
    /// Fills `hidden` as `[m, intermediate_size]`, quantised if the next matrix wants that.
    pub(crate) fn fill(&self, pool: &mut Pool, m: usize, hidden: &mut RowActs) {
        let (gate, up, width) =
            (&self.layer.ffn_gate, &self.layer.ffn_up, self.spec.intermediate_size);
        let n_bytes = gate.size_bytes() + up.size_bytes();
        let n = (rows_per_item(width, n_bytes, pool.n_threads()) / COLUMNS).max(1) * COLUMNS;
        let is_quantised = self.layer.ffn_down.is_quantised();
        // An adapter of the next matrix multiplies numbers as they are.
        if !is_quantised || self.adapters.adapts(self.layer_idx, LayerTensor::FfnDown) {
            self.fill_floats(pool, m, n, hidden);
            if is_quantised {
                hidden.quantise(pool, self.isa, width);
            }
            return;
        }
        let n_blocks = width / COLUMNS;
        hidden.blocks.resize(m * n_blocks, ActBlock::default());
        let out = Columns::new(&mut hidden.blocks, n_blocks);
        pool.for_columns(out, n / COLUMNS, |item, mut out| {
            for block in 0..out.width() {
                self.some_columns(m, item * n + block * COLUMNS, COLUMNS, |row, values| {
                    let block = std::slice::from_mut(&mut out.row(row)[block]);
                    quantize_activations(self.isa, values, block);
                });
            }
        });
    }

    /// As [`GateAndUp::fill`], not quantised, `n` columns at a time.
    fn fill_floats(&self, pool: &mut Pool, m: usize, n: usize, hidden: &mut RowActs) {
        let width = self.spec.intermediate_size;
        hidden.floats.resize(m * width, 0.0);
        pool.for_columns(Columns::new(&mut hidden.floats, width), n, |item, mut out| {
            for first in (0..out.width()).step_by(COLUMNS) {
                let columns = first..out.width().min(first + COLUMNS);
                self.some_columns(m, item * n + first, columns.len(), |row, values| {
                    out.row(row)[columns.clone()].copy_from_slice(values);
                });
            }
        });
    }

    /// Hands `width` columns of each row to `take`, from column `first` on.
    fn some_columns(
        &self,
        m: usize,
        first: usize,
        width: usize,
        mut take: impl FnMut(usize, &[f32]),
    ) {
        if m == 1 {
            return self.some_rows::<1>(0, 1, first, width, &mut take);
        }
        for row in (0..m).step_by(ROWS) {
            self.some_rows::<ROWS>(row, m.min(row + ROWS), first, width, &mut take);
        }
    }

    /// Rows `row..end`, at most `N`.
    fn some_rows<const N: usize>(
        &self,
        row: usize,
        end: usize,
        first: usize,
        width: usize,
        take: &mut impl FnMut(usize, &[f32]),
    ) {
        let (mut gate, mut up) = ([[0.0; COLUMNS]; N], [[0.0; COLUMNS]; N]);
        let (rows, n) = (row..end, end - row);
        for (matrix, out) in [(&self.layer.ffn_gate, &mut gate), (&self.layer.ffn_up, &mut up)] {
            let mut out = Columns::new(out.as_flattened_mut(), COLUMNS);
            let out = out.part(0..n, 0..width);
            matrix.multiply_part(self.isa, first, self.acts, rows.clone(), Put::Store, out);
        }
        let mut values = [0.0; COLUMNS];
        for (i, (gate, up)) in gate.iter_mut().zip(&mut up).take(n).enumerate() {
            let (gate, up, values) = (&mut gate[..width], &mut up[..width], &mut values[..width]);
            self.adapters.add_gate_and_up(self.isa, self.layer_idx, row + i, first, gate, up);
            match self.spec.activation {
                Activation::Silu => silu_mul(self.isa, gate, up, values),
                Activation::GeluTanh => gelu_tanh_mul(self.isa, gate, up, values),
            }
            scale(values, self.spec.residual_scale);
            take(row + i, values);
        }
    }
}
