//! One step through any `DecoderSpec`, phase by phase. Phases are either over rows (norms, RoPE,
//! quantisation) or over panels of a matrix; each ends when all of its items have.

use lm_backend::{Batch, LogitsBuf};
use lm_kernels::{
    ACT_BLOCK, ActBlock, Isa, PANEL_ROWS, Pool, add_assign, dequantize_row, gelu_tanh_mul,
    quantize_activations, rms_norm, silu_mul, soft_cap,
};
use lm_models::{Activation, DecoderSpec, Model, TensorRole};

use crate::LoadError;
use crate::attention::LayerAttention;
use crate::kv::KvCache;
use crate::layer::{Layer, Loader};
use crate::matrix::{ACT_PARTS, Matrix, RowActs, gather, multiply, panels_per_item, weight_type};
use crate::rope::RopeTable;
use crate::scratch::Scratch;

/// Widest head: one is normalised on the stack.
pub(crate) const MAX_HEAD_DIM: usize = 512;
/// Hidden columns of one work item of the MLP: one block of activations.
const COLUMNS: usize = 32;

/// A decoder on this machine's cores.
#[derive(Debug)]
pub(crate) struct Executor {
    isa: Isa,
    pool: Pool,
    /// Kept for its embedding, which is read from the mapped file.
    model: Model,
    layers: Vec<Layer>,
    output_norm: Vec<f32>,
    head: Matrix,
    rope: RopeTable,
    rope_sliding: RopeTable,
    scratch: Scratch,
}

impl Executor {
    pub(crate) fn load(
        model: Model,
        isa: Isa,
        n_threads: usize,
        max_model_len: usize,
    ) -> Result<Self, LoadError> {
        let mut pool = Pool::new(n_threads);
        let mut loader = Loader { model: &model, pool: &mut pool };
        let head = match model.spec.tied_head {
            true => TensorRole::TokenEmbedding,
            false => TensorRole::OutputHead,
        };
        let layers = (0..model.spec.n_layers).map(|i| loader.layer(i));
        let layers = layers.collect::<Result<_, _>>()?;
        let head = loader.matrix(head)?;
        let output_norm = loader.norm(TensorRole::OutputNorm)?;
        Ok(Executor {
            rope: RopeTable::new(&model.spec, false, max_model_len),
            rope_sliding: RopeTable::new(&model.spec, true, max_model_len),
            scratch: Scratch::default(),
            isa,
            pool,
            layers,
            output_norm,
            head,
            model,
        })
    }

    pub(crate) fn weights_bytes(&self) -> usize {
        self.head.size_bytes() + self.layers.iter().map(Layer::size_bytes).sum::<usize>()
    }

    /// Runs a step: stores K and V of its tokens, and fills a row of `logits` for each row that samples.
    pub(crate) fn forward(
        &mut self,
        batch: &Batch,
        kv: &mut KvCache,
        logits: &mut LogitsBuf,
    ) -> Result<(), LoadError> {
        lm_kernels::flush_denormals();
        self.scratch.rows.fill(batch);
        self.embed(batch)?;
        for i in 0..self.layers.len() {
            self.attention(i, kv);
            self.mlp(i);
        }
        self.logits(batch, logits);
        Ok(())
    }

    fn embed(&mut self, batch: &Batch) -> Result<(), LoadError> {
        let spec = &self.model.spec;
        let view = self.model.tensor(TensorRole::TokenEmbedding)?;
        let weight = weight_type(view.dtype).expect("it was checked at load: this is a bug");
        let row_bytes = weight.row_bytes(spec.hidden_size).expect("it was checked at load");
        let n = spec.hidden_size;
        self.scratch.x.resize(batch.n_tokens() * n, 0.0);
        for (x, &token) in self.scratch.x.chunks_exact_mut(n).zip(&batch.input_ids) {
            let row = token as usize * row_bytes..(token as usize + 1) * row_bytes;
            dequantize_row(weight, &view.data[row], x);
            x.iter_mut().for_each(|x| *x *= spec.embedding_scale);
        }
        Ok(())
    }

    fn attention(&mut self, i: usize, kv: &mut KvCache) {
        let (spec, layer, isa) = (&self.model.spec, &self.layers[i], self.isa);
        let Scratch { rows, x, acts, product, q, kv: new_kv, partials, .. } = &mut self.scratch;
        let (pool, m) = (&mut self.pool, rows.len());
        let (q_width, kv_width) = (spec.n_heads * spec.head_dim, spec.n_kv_heads * spec.head_dim);
        let qkv = [&layer.attn_q, &layer.attn_k, &layer.attn_v];
        acts.fill(pool, isa, m, spec.hidden_size, &qkv, |row, out| {
            let n = spec.hidden_size;
            rms_norm(isa, &x[row * n..(row + 1) * n], &layer.attn_norm, spec.norm.eps, out);
        });
        multiply(isa, pool, &qkv, acts, m, product);
        q.resize(m * q_width, 0.0);
        new_kv.resize(m * 2 * kv_width, 0.0);
        let is_sliding = spec.sliding_window[i].is_some();
        let rope = if is_sliding { &self.rope_sliding } else { &self.rope };
        pool.for_chunks_of_two((q, q_width), (new_kv, 2 * kv_width), |row, q, kv| {
            split_qkv(layer, product, m, row, q, kv);
            rotate(spec, layer, isa, rope, rows.positions[row] as usize, q, &mut kv[..kv_width]);
        });
        for (row, new) in new_kv.chunks_exact(2 * kv_width).enumerate() {
            let (k, v) = new.split_at(kv_width);
            kv.store(isa, i, rows.slots[row] as usize, k, v);
        }
        let attention = LayerAttention { isa, spec, layer: i, rows };
        attention.attend(pool, q, kv, partials);
        acts.fill(pool, isa, m, q_width, &[&layer.attn_output], |row, out| {
            attention.merge(partials, row, out);
        });
        multiply(isa, pool, &[&layer.attn_output], acts, m, product);
        let norm = layer.post_norms.as_ref().map(|norms| &norms.0);
        add_product(pool, isa, spec, product, m, norm, x);
    }

    fn mlp(&mut self, i: usize) {
        let (spec, layer, isa) = (&self.model.spec, &self.layers[i], self.isa);
        let Scratch { rows, x, acts, product, hidden, .. } = &mut self.scratch;
        let (pool, m) = (&mut self.pool, rows.len());
        let n = spec.hidden_size;
        acts.fill(pool, isa, m, n, &[&layer.ffn_gate, &layer.ffn_up], |row, out| {
            rms_norm(isa, &x[row * n..(row + 1) * n], &layer.ffn_norm, spec.norm.eps, out);
        });
        gate_and_up(pool, isa, spec, layer, acts, m, hidden);
        acts.fill(pool, isa, m, spec.intermediate_size, &[&layer.ffn_down], |row, out| {
            let items = hidden.chunks_exact(3 * COLUMNS * m);
            for (out, item) in out.chunks_mut(COLUMNS).zip(items) {
                let at = 2 * COLUMNS * m + row * COLUMNS;
                out.copy_from_slice(&item[at..at + out.len()]);
            }
        });
        multiply(isa, pool, &[&layer.ffn_down], acts, m, product);
        let norm = layer.post_norms.as_ref().map(|norms| &norms.1);
        add_product(pool, isa, spec, product, m, norm, x);
    }

    fn logits(&mut self, batch: &Batch, logits: &mut LogitsBuf) {
        let (spec, isa, n_rows) = (&self.model.spec, self.isa, batch.sample_rows.len());
        logits.reset(n_rows, spec.vocab_size);
        if n_rows == 0 {
            return;
        }
        let Scratch { x, acts, product, .. } = &mut self.scratch;
        acts.fill(&mut self.pool, isa, n_rows, spec.hidden_size, &[&self.head], |row, out| {
            let token = batch.sample_rows[row].token_idx as usize;
            let x = &x[token * spec.hidden_size..(token + 1) * spec.hidden_size];
            rms_norm(isa, x, &self.output_norm, spec.norm.eps, out);
        });
        multiply(isa, &mut self.pool, &[&self.head], acts, n_rows, product);
        self.pool.for_chunks(logits.data_mut(), spec.vocab_size, |row, out| {
            gather(product, n_rows, row, 0, out);
            if let Some(cap) = spec.logit_softcap {
                soft_cap(isa, out, cap);
            }
        });
    }
}

impl RowActs {
    /// Fills `[m, k]` row by row, and quantises it when a consumer wants that.
    fn fill(
        &mut self,
        pool: &mut Pool,
        isa: Isa,
        m: usize,
        k: usize,
        consumers: &[&Matrix],
        row: impl Fn(usize, &mut [f32]) + Sync,
    ) {
        self.floats.resize(m * k, 0.0);
        if !consumers.iter().any(|matrix| matrix.is_quantised()) {
            return pool.for_chunks(&mut self.floats, k, row);
        }
        self.blocks.resize(m * ACT_PARTS * k / 32, ActBlock::default());
        let blocks = (&mut self.blocks[..], ACT_PARTS * k / 32);
        pool.for_chunks_of_two((&mut self.floats, k), blocks, |i, floats, blocks| {
            row(i, floats);
            let (coarse, fine) = blocks.split_at_mut(k / 32);
            quantize_activations(isa, floats, coarse);
            let mut rest = floats.to_vec();
            for (rest, block) in rest.chunks_exact_mut(ACT_BLOCK).zip(&*coarse) {
                let scale = block.scale();
                for (rest, code) in rest.iter_mut().zip(block.codes()) {
                    *rest -= scale * f32::from(code);
                }
            }
            quantize_activations(isa, &rest, fine);
        });
    }
}

/// Takes row `row` out of the product of q, k and v, and adds the biases.
fn split_qkv(layer: &Layer, product: &[f32], m: usize, row: usize, q: &mut [f32], kv: &mut [f32]) {
    let (k, v) = kv.split_at_mut(layer.attn_k.n_rows());
    let (mut first, mut bias_at) = (0, 0);
    for (matrix, out) in [(&layer.attn_q, q), (&layer.attn_k, k), (&layer.attn_v, v)] {
        gather(product, m, row, first, out);
        first += matrix.n_panels() * PANEL_ROWS;
        if let Some(bias) = &layer.qkv_bias {
            out.iter_mut().zip(&bias[bias_at..]).for_each(|(x, bias)| *x += bias);
            bias_at += out.len();
        }
    }
}

/// Norms each head of q and k if the model does, rotates them, and scales q.
fn rotate(
    spec: &DecoderSpec,
    layer: &Layer,
    isa: Isa,
    rope: &RopeTable,
    position: usize,
    q: &mut [f32],
    k: &mut [f32],
) {
    let norms = layer.qk_norms.as_ref();
    let mut normed = [0.0; MAX_HEAD_DIM];
    let normed = &mut normed[..spec.head_dim];
    for (heads, norm) in [(&mut *q, norms.map(|n| &n.0)), (k, norms.map(|n| &n.1))] {
        for head in heads.chunks_exact_mut(spec.head_dim) {
            if let Some(norm) = norm {
                rms_norm(isa, head, norm, spec.norm.eps, normed);
                head.copy_from_slice(normed);
            }
            rope.rotate(isa, head, position);
        }
    }
    q.iter_mut().for_each(|q| *q *= spec.attn_scale);
}

/// `activation(gate) * up` in pieces of 32 columns; `hidden` as `Scratch::hidden`.
fn gate_and_up(
    pool: &mut Pool,
    isa: Isa,
    spec: &DecoderSpec,
    layer: &Layer,
    acts: &RowActs,
    m: usize,
    hidden: &mut Vec<f32>,
) {
    let n_items = spec.intermediate_size.div_ceil(COLUMNS);
    let item_len = 3 * COLUMNS * m;
    hidden.resize(n_items * item_len, 0.0);
    let n_bytes = layer.ffn_gate.size_bytes() + layer.ffn_up.size_bytes();
    let group = panels_per_item(n_items, n_bytes, pool.n_threads());
    pool.for_chunks(hidden, group * item_len, |first, chunk| {
        for (i, item) in chunk.chunks_exact_mut(item_len).enumerate() {
            let column = (first * group + i) * (COLUMNS / PANEL_ROWS);
            let (products, hidden) = item.split_at_mut(2 * COLUMNS * m);
            let (gate, up) = products.split_at_mut(COLUMNS * m);
            for (matrix, out) in [(&layer.ffn_gate, &mut *gate), (&layer.ffn_up, &mut *up)] {
                for (p, out) in out.chunks_exact_mut(PANEL_ROWS * m).enumerate() {
                    if column + p < matrix.n_panels() {
                        matrix.multiply_panel(isa, column + p, acts, m, out);
                    }
                }
            }
            apply_in_panel_order(gate, up, hidden, m, |gate, up, out| match spec.activation {
                Activation::Silu => silu_mul(isa, gate, up, out),
                Activation::GeluTanh => gelu_tanh_mul(isa, gate, up, out),
            });
        }
    });
}

/// From two panels `[2, m, 16]` of gate and of up to `[m, 32]`.
fn apply_in_panel_order(
    gate: &[f32],
    up: &[f32],
    hidden: &mut [f32],
    m: usize,
    combine: impl Fn(&[f32], &[f32], &mut [f32]),
) {
    for row in 0..m {
        for p in 0..COLUMNS / PANEL_ROWS {
            let at = (p * m + row) * PANEL_ROWS..(p * m + row + 1) * PANEL_ROWS;
            let to = row * COLUMNS + p * PANEL_ROWS;
            combine(&gate[at.clone()], &up[at], &mut hidden[to..to + PANEL_ROWS]);
        }
    }
}

/// Adds the product's rows, normed if the model does, to the residual stream.
fn add_product(
    pool: &mut Pool,
    isa: Isa,
    spec: &DecoderSpec,
    product: &[f32],
    m: usize,
    norm: Option<&Vec<f32>>,
    x: &mut [f32],
) {
    let n = spec.hidden_size;
    pool.for_chunks(x, n, |row, x| {
        let mut added = vec![0.0; n];
        gather(product, m, row, 0, &mut added);
        match norm {
            Some(norm) => {
                let mut normed = vec![0.0; n];
                rms_norm(isa, &added, norm, spec.norm.eps, &mut normed);
                add_assign(isa, x, &normed);
            }
            None => add_assign(isa, x, &added),
        }
    });
}
