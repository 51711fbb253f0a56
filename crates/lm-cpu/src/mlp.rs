//! The first half of an MLP: gate and up projections, the activation between them, and the quantisation of
//! what comes out, 32 columns at a time, so that nothing leaves the cache in between.

use std::ops::Range;

use lm_kernels::{
    Columns, Isa, Pool, Put, QuantizedActs, gelu_tanh_mul, quantize_activations, share_start,
    silu_mul,
};
use lm_models::{Activation, DecoderSpec, LayerTensor};

use crate::executor::scale;
use crate::layer::Layer;
use crate::lora::StepAdapters;
use crate::matrix::{ACT_BLOCK, Blocks, RowActs, rows_per_item};

/// Columns that are worked on together: one block of activations.
const COLUMNS: usize = ACT_BLOCK;
/// Rows that are worked on together.
const ROWS: usize = 32;
/// The same on a matrix unit, for which weights are converted each time.
const MANY_ROWS: usize = 64;

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
        let width = self.spec.intermediate_size;
        let n = columns_per_item(self.layer, pool.n_threads());
        let is_quantised = self.layer.ffn_down.is_quantised();
        // An adapter of the next matrix multiplies numbers as they are.
        if !is_quantised || self.adapters.adapts(self.layer_idx, LayerTensor::FfnDown) {
            self.fill_floats(pool, m, n, hidden);
            if is_quantised {
                hidden.quantise(pool, self.isa, width);
            }
            return;
        }
        match hidden.quantised.resize(self.isa, m, width / COLUMNS) {
            Blocks::Plain(blocks) => self.fill_blocks(pool, m, n, blocks),
            Blocks::Split(blocks) => self.fill_blocks(pool, m, n, blocks),
        }
    }

    /// As [`GateAndUp::fill`], quantised, `n` columns at a time.
    fn fill_blocks<B: QuantizedActs>(&self, pool: &mut Pool, m: usize, n: usize, blocks: &mut [B]) {
        let out = Columns::new(blocks, self.spec.intermediate_size / COLUMNS);
        pool.for_columns(out, n / COLUMNS, |item, mut out| {
            let mut blocks = [B::default(); MANY_ROWS];
            let columns = item * n..item * n + out.width() * COLUMNS;
            self.columns(m, columns, |rows, columns, values| {
                debug_assert_eq!(columns.len(), COLUMNS, "quantised values are whole blocks");
                let blocks = &mut blocks[..rows.len()];
                quantize_activations(self.isa, values.as_flattened(), blocks);
                let at = columns.start / COLUMNS - item * n / COLUMNS;
                rows.zip(blocks).for_each(|(row, block)| out.row(row)[at] = *block);
            });
        });
    }

    /// As [`GateAndUp::fill`], not quantised, `n` columns at a time.
    fn fill_floats(&self, pool: &mut Pool, m: usize, n: usize, hidden: &mut RowActs) {
        let width = self.spec.intermediate_size;
        hidden.floats.resize(m * width, 0.0);
        pool.for_columns(Columns::new(&mut hidden.floats, width), n, |item, mut out| {
            let columns = item * n..item * n + out.width();
            self.columns(m, columns, |rows, columns, values| {
                let (at, width) = (columns.start - item * n, columns.len());
                for (row, values) in rows.zip(values) {
                    out.row(row)[at..at + width].copy_from_slice(&values[..width]);
                }
            });
        });
    }

    /// Hands `take` all rows of columns `columns`, some rows of a block at a time: which rows, which columns, and their values.
    fn columns(&self, m: usize, columns: Range<usize>, take: impl TakeBlock) {
        match m {
            1 => self.columns_by::<1>(m, columns, take),
            _ if m > ROWS && self.isa.splits(m) => self.columns_by::<MANY_ROWS>(m, columns, take),
            _ => self.columns_by::<ROWS>(m, columns, take),
        }
    }

    /// As [`GateAndUp::columns`], `N` rows at a time.
    fn columns_by<const N: usize>(
        &self,
        m: usize,
        columns: Range<usize>,
        mut take: impl TakeBlock,
    ) {
        let [mut gate, mut up, mut values] = [[[0.0; COLUMNS]; N]; 3];
        for first in columns.clone().step_by(COLUMNS) {
            let block = first..columns.end.min(first + COLUMNS);
            for row in (0..m).step_by(N) {
                let rows = row..m.min(row + N);
                let halves = [(&self.layer.ffn_gate, &mut gate), (&self.layer.ffn_up, &mut up)];
                for (matrix, out) in halves {
                    let mut out = Columns::new(out.as_flattened_mut(), COLUMNS);
                    let out = out.part(0..rows.len(), 0..block.len());
                    matrix.multiply_part(self.isa, first, self.acts, rows.clone(), Put::Store, out);
                }
                let n = rows.len();
                let (gate, up, values) = (&mut gate[..n], &mut up[..n], &mut values[..n]);
                for (row, (gate, up)) in rows.clone().zip(gate.iter_mut().zip(up.iter_mut())) {
                    let (gate, up) = (&mut gate[..block.len()], &mut up[..block.len()]);
                    self.adapters.add_gate_and_up(self.isa, self.layer_idx, row, first, gate, up);
                }
                self.combine(gate.as_flattened(), up.as_flattened(), values.as_flattened_mut());
                take(rows, block.clone(), values);
            }
        }
    }

    /// Many values in one call: a few keep the units waiting for each other.
    fn combine(&self, gate: &[f32], up: &[f32], values: &mut [f32]) {
        match self.spec.activation {
            Activation::Silu => silu_mul(self.isa, gate, up, values),
            Activation::GeluTanh => gelu_tanh_mul(self.isa, gate, up, values),
        }
        scale(values, self.spec.residual_scale);
    }
}

/// What takes some rows of a block of columns: values beyond those columns are left from other blocks.
trait TakeBlock: FnMut(Range<usize>, Range<usize>, &[[f32; COLUMNS]]) {}
impl<F: FnMut(Range<usize>, Range<usize>, &[[f32; COLUMNS]])> TakeBlock for F {}

/// Columns of the hidden values that one work item takes: whole blocks.
fn columns_per_item(layer: &Layer, n_threads: usize) -> usize {
    let (gate, up) = (&layer.ffn_gate, &layer.ffn_up);
    let n_bytes = gate.size_bytes() + up.size_bytes();
    (rows_per_item(gate.n_rows(), n_bytes, n_threads) / COLUMNS).max(1) * COLUMNS
}

/// What thread `i` of `n` reads first of gate and up.
pub(crate) fn share(layer: &Layer, i: usize, n: usize) -> &[u8] {
    let width = columns_per_item(layer, n);
    let n_items = layer.ffn_gate.n_rows().div_ceil(width);
    layer.ffn_gate.panels_from(share_start(n_items, i, n) * width)
}
