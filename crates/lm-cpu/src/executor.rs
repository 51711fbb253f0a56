//! One step through any `DecoderSpec`, phase by phase. Phases are either over rows (norms, RoPE,
//! quantisation) or over parts of a matrix; each ends when all of its items have.

use lm_backend::{Batch, LogitsBuf, StepArbiter};
use lm_kernels::{Isa, KV_PAGE, Pool, Put, add_assign, rms_norm, store_k, store_v};
use lm_models::{DecoderSpec, LayerTensor, Model, QkNorm, TensorRole};

use crate::LoadError;
use crate::attention::LayerAttention;
use crate::embedding::Embedding;
use crate::kv::{KvCache, Part};
use crate::layer::{Layer, Loader};
use crate::lora::{CpuAdapters, UnknownAdapter};
use crate::matrix::{RowActs, Stacked};
use crate::rope::RopeTable;
use crate::scratch::Scratch;
use crate::{head, mlp};

/// Widest head: one is normalised on the stack.
pub(crate) const MAX_HEAD_DIM: usize = 512;

/// A decoder on this machine's cores.
#[derive(Debug)]
pub(crate) struct Executor {
    isa: Isa,
    pool: Pool,
    spec: DecoderSpec,
    embedding: Embedding,
    layers: Vec<Layer>,
    output_norm: Vec<f32>,
    head: Stacked,
    rope: RopeTable,
    rope_sliding: RopeTable,
    /// The different windows of the layers.
    windows: Vec<Option<usize>>,
    adapters: CpuAdapters,
    scratch: Scratch,
}

/// Why a step failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StepError {
    #[error(transparent)]
    Model(#[from] lm_models::ModelError),
    #[error(transparent)]
    Adapter(#[from] UnknownAdapter),
    #[error("nobody wants what the step computes any more")]
    GivenUp,
}

impl Executor {
    pub(crate) fn load(
        model: Model,
        isa: Isa,
        n_threads: usize,
        max_model_len: usize,
        arbiter: &StepArbiter,
    ) -> Result<Self, LoadError> {
        let mut pool = Pool::new(n_threads);
        let mut loader = Loader { model: &model, pool: &mut pool, arbiter };
        let head = match model.spec.tied_head {
            true => TensorRole::TokenEmbedding,
            false => TensorRole::OutputHead,
        };
        let layers = (0..model.spec.n_layers).map(|i| loader.layer(i));
        let layers = layers.collect::<Result<_, _>>()?;
        let head = loader.stacked(&[head])?;
        let mut output_norm = loader.norm(TensorRole::OutputNorm)?;
        // The head is linear: what divides its output may as well scale its input.
        scale(&mut output_norm, 1.0 / model.spec.logit_divisor);
        let mut windows = model.spec.sliding_window.clone();
        windows.sort_unstable();
        windows.dedup();
        Ok(Executor {
            windows,
            rope: RopeTable::new(&model.spec, false, max_model_len),
            rope_sliding: RopeTable::new(&model.spec, true, max_model_len),
            adapters: CpuAdapters::default(),
            scratch: Scratch::default(),
            isa,
            pool,
            layers,
            output_norm,
            head,
            spec: model.spec.clone(),
            embedding: Embedding::of(model)?,
        })
    }

    /// The adapters that batches may name.
    pub(crate) fn adapters(&self) -> &CpuAdapters {
        &self.adapters
    }

    pub(crate) fn weights_bytes(&self) -> usize {
        self.head.size_bytes()
            + self.embedding.size_bytes()
            + self.layers.iter().map(Layer::size_bytes).sum::<usize>()
    }

    /// Runs a step: stores K and V of its tokens, and fills a row of `logits` for each row that samples. Before each layer
    /// it asks whether the step `is_wanted`.
    pub(crate) fn forward(
        &mut self,
        batch: &Batch,
        kv: &mut KvCache,
        logits: &mut LogitsBuf,
        is_wanted: &dyn Fn() -> bool,
    ) -> Result<(), StepError> {
        lm_kernels::flush_denormals();
        let spec = &self.spec;
        self.scratch.rows.fill(batch);
        self.scratch.adapters.fill(batch, &self.adapters)?;
        let Scratch { rows, plans, .. } = &mut self.scratch;
        plans.resize_with(self.windows.len(), Default::default);
        for (plan, window) in plans.iter_mut().zip(&self.windows) {
            plan.fill(spec, rows, *window);
        }
        let Scratch { x, sampled, .. } = &mut self.scratch;
        x.resize(batch.n_tokens() * spec.hidden_size, 0.0);
        self.embedding.fill(&mut self.pool, (spec, &self.head), &batch.input_ids, x)?;
        sampled.clear();
        sampled.extend(batch.sample_rows.iter().map(|row| row.token_idx));
        let n_layers = self.layers.len();
        for i in 0..n_layers {
            if !is_wanted() {
                self.scratch.adapters.clear();
                return Err(StepError::GivenUp);
            }
            self.qkv(i);
            self.store(i, kv);
            if i + 1 == n_layers {
                self.keep_sampled();
            }
            if self.scratch.rows.len() > 0 {
                self.attention(i, kv);
                self.mlp(i);
            }
        }
        self.scratch.adapters.clear();
        if !is_wanted() {
            return Err(StepError::GivenUp);
        }
        let (spec, scratch) = (&self.spec, &mut self.scratch);
        let post_norm = self.layers.last().and_then(|layer| layer.post_norms.as_ref());
        let last = RowNorms {
            isa: self.isa,
            spec,
            post: post_norm.map(|norms| &norms.1),
            next: Some(&self.output_norm),
        };
        let head = head::Head { matrices: &self.head, norms: last };
        head.logits(&mut self.pool, batch, scratch, logits);
        Ok(())
    }

    /// Queries, keys and values of all rows, turned and scaled.
    fn qkv(&mut self, i: usize) {
        let (spec, layer, isa) = (&self.spec, &self.layers[i], self.isa);
        let Scratch { rows, adapters, x, added, acts, qkv, .. } = &mut self.scratch;
        let (pool, m) = (&mut self.pool, rows.len());
        let before = i.checked_sub(1).and_then(|i| self.layers[i].post_norms.as_ref());
        let next = layer.norms.as_ref().map(|norms| &norms.0);
        let norms = RowNorms { isa, spec, post: before.map(|norms| &norms.1), next };
        norms.fill(pool, m, layer.attn_qkv.is_quantised(), (x, added), acts);
        let width = layer.attn_qkv.n_rows();
        qkv.resize(m * width, 0.0);
        layer.attn_qkv.multiply(isa, pool, acts, Put::Store, qkv);
        let (q_width, kv_width) = (spec.n_heads * spec.head_dim, spec.n_kv_heads * spec.head_dim);
        let q = (LayerTensor::AttnQ, q_width);
        let parts = [q, (LayerTensor::AttnK, kv_width), (LayerTensor::AttnV, kv_width)];
        adapters.add(pool, isa, i, &parts, (&acts.floats, spec.hidden_size), qkv);
        let is_sliding = spec.sliding_window[i].is_some();
        let rope = if is_sliding { &self.rope_sliding } else { &self.rope };
        pool.for_chunks(qkv, width, |row, qkv| {
            if let Some(bias) = &layer.qkv_bias {
                add_assign(isa, qkv, bias);
            }
            turn(spec, layer, isa, rope, rows.positions[row] as usize, qkv);
        });
    }

    /// Puts K and V of all rows into the cache.
    fn store(&mut self, i: usize, kv: &mut KvCache) {
        let (spec, isa, Scratch { rows, qkv, .. }) = (&self.spec, self.isa, &self.scratch);
        let (width, head_dim) = (self.layers[i].attn_qkv.n_rows(), spec.head_dim);
        let (q_width, kv_type) = (spec.n_heads * head_dim, kv.kv_type());
        kv.store(&mut self.pool, i, |part, mut pages| {
            let head = match part {
                Part::K { kv_head } => kv_head,
                Part::V { kv_head } => spec.n_kv_heads + kv_head,
            };
            for (qkv, &slot) in qkv.chunks_exact(width).zip(&rows.slots) {
                let values = &qkv[q_width + head * head_dim..][..head_dim];
                let (page, slot) = (slot as usize / KV_PAGE, slot as usize % KV_PAGE);
                let page = pages.row(page);
                match part {
                    Part::K { .. } => store_k(isa, kv_type, values, page, slot),
                    Part::V { .. } => store_v(isa, kv_type, values, page, slot),
                }
            }
        });
    }

    /// Goes on with the rows that sample, before the last layer's attention: nobody looks at what becomes of the others.
    fn keep_sampled(&mut self) {
        let (spec, last) = (&self.spec, self.layers.len() - 1);
        let width = self.layers[last].attn_qkv.n_rows();
        if self.scratch.keep_sampled(spec.hidden_size, width) {
            let window = spec.sliding_window[last];
            let plan = self.plan_of(window);
            self.scratch.plans[plan].fill(spec, &self.scratch.rows, window);
        }
    }

    fn plan_of(&self, window: Option<usize>) -> usize {
        let found = self.windows.iter().position(|other| *other == window);
        found.expect("each layer's window is in the list")
    }

    fn attention(&mut self, i: usize, kv: &KvCache) {
        let plan = self.plan_of(self.spec.sliding_window[i]);
        let (spec, layer, isa) = (&self.spec, &self.layers[i], self.isa);
        let Scratch { rows, adapters, plans, x, added, acts, qkv, partials, .. } =
            &mut self.scratch;
        let (pool, m) = (&mut self.pool, rows.len());
        let (width, q_width) = (layer.attn_qkv.n_rows(), spec.n_heads * spec.head_dim);
        let plan = &plans[plan];
        let attention = LayerAttention { isa, spec, layer: i, rows, plan };
        pool.then_read(|i, n| layer.attn_output.share(i, n));
        attention.attend(pool, (qkv, width), kv, partials);
        acts.fill(pool, isa, (m, q_width), layer.attn_output.is_quantised(), |row, out| {
            attention.merge(partials, row, out);
            scale(out, spec.residual_scale);
        });
        let has_post_norm = layer.post_norms.is_some();
        pool.then_read(|i, n| mlp::share(layer, i, n));
        add_product(isa, pool, &layer.attn_output, acts, has_post_norm, (x, added));
        let out = if has_post_norm { added } else { x };
        let part = [(LayerTensor::AttnOutput, spec.hidden_size)];
        adapters.add(pool, isa, i, &part, (&acts.floats, q_width), out);
    }

    fn mlp(&mut self, i: usize) {
        let (spec, layer, isa) = (&self.spec, &self.layers[i], self.isa);
        let Scratch { rows, adapters, x, added, acts, hidden, .. } = &mut self.scratch;
        let (pool, m) = (&mut self.pool, rows.len());
        let post = layer.post_norms.as_ref().map(|norms| &norms.0);
        let next = layer.norms.as_ref().map(|norms| &norms.1);
        let norms = RowNorms { isa, spec, post, next };
        let is_quantised = layer.ffn_gate.is_quantised() || layer.ffn_up.is_quantised();
        norms.fill(pool, m, is_quantised, (x, added), acts);
        adapters.begin_gate_and_up(pool, isa, i, (&acts.floats, spec.hidden_size));
        let gate_and_up = mlp::GateAndUp { isa, spec, layer, layer_idx: i, acts, adapters };
        pool.then_read(|i, n| layer.ffn_down.share(i, n));
        gate_and_up.fill(pool, m, hidden);
        let has_post_norm = layer.post_norms.is_some();
        let next = self.layers.get(i + 1).map_or(&self.head, |layer| &layer.attn_qkv);
        pool.then_read(|i, n| next.share(i, n));
        add_product(isa, pool, &layer.ffn_down, hidden, has_post_norm, (x, added));
        let out = if has_post_norm { added } else { x };
        let part = [(LayerTensor::FfnDown, spec.hidden_size)];
        adapters.add(pool, isa, i, &part, (&hidden.floats, spec.intermediate_size), out);
    }
}

/// The norm behind a block and the one before the next, where the model has them.
#[derive(Clone, Copy)]
pub(crate) struct RowNorms<'a> {
    pub(crate) isa: Isa,
    pub(crate) spec: &'a DecoderSpec,
    pub(crate) post: Option<&'a Vec<f32>>,
    pub(crate) next: Option<&'a Vec<f32>>,
}

impl RowNorms<'_> {
    /// Adds what the last block gave, normed, to each row of the residual stream `x`.
    pub(crate) fn add(&self, pool: &mut Pool, x: &mut [f32], added: &mut [f32]) {
        let (n, eps) = (self.spec.hidden_size, self.spec.norm.eps);
        if let Some(post) = self.post {
            pool.for_chunks_of_two((x, n), (added, n), |_, x, added| {
                lm_kernels::rms_norm_in_place(self.isa, added, post, eps);
                add_assign(self.isa, x, added);
            });
        }
    }

    /// Fills `acts` with the normed rows of the residual stream, after the last block was added to it.
    fn fill(
        &self,
        pool: &mut Pool,
        m: usize,
        is_quantised: bool,
        (x, added): (&mut [f32], &mut [f32]),
        acts: &mut RowActs,
    ) {
        self.add(pool, x, added);
        let (n, x) = (self.spec.hidden_size, &*x);
        acts.fill(pool, self.isa, (m, n), is_quantised, |row, out| {
            self.norm(&x[row * n..][..n], out)
        });
    }

    pub(crate) fn norm(&self, x: &[f32], out: &mut [f32]) {
        match self.next {
            Some(next) => rms_norm(self.isa, x, next, self.spec.norm.eps, out),
            None => out.copy_from_slice(x),
        }
    }
}

/// Multiplies all values, unless that changes nothing.
pub(crate) fn scale(values: &mut [f32], factor: f32) {
    if factor != 1.0 {
        values.iter_mut().for_each(|value| *value *= factor);
    }
}

/// Adds a product to the residual stream `x`, or leaves it in `added` for a norm.
fn add_product(
    isa: Isa,
    pool: &mut Pool,
    matrices: &Stacked,
    acts: &RowActs,
    has_post_norm: bool,
    (x, added): (&mut [f32], &mut Vec<f32>),
) {
    if has_post_norm {
        added.resize(x.len(), 0.0);
        return matrices.multiply(isa, pool, acts, Put::Store, added);
    }
    matrices.multiply(isa, pool, acts, Put::Add, x);
}

/// Norms q and k if the model does, rotates their heads, and scales q.
fn turn(
    spec: &DecoderSpec,
    layer: &Layer,
    isa: Isa,
    rope: &RopeTable,
    position: usize,
    qkv: &mut [f32],
) {
    let (q, kv) = qkv.split_at_mut(spec.n_heads * spec.head_dim);
    let k = &mut kv[..spec.n_kv_heads * spec.head_dim];
    let norms = layer.qk_norms.as_ref();
    for (heads, norm) in [(&mut *q, norms.map(|n| &n.0)), (k, norms.map(|n| &n.1))] {
        if let Some(norm) = norm.filter(|_| spec.qk_norm == QkNorm::Whole) {
            lm_kernels::rms_norm_in_place(isa, heads, norm, spec.norm.eps);
        }
        for head in heads.chunks_exact_mut(spec.head_dim) {
            if let Some(norm) = norm.filter(|_| spec.qk_norm == QkNorm::PerHead) {
                lm_kernels::rms_norm_in_place(isa, head, norm, spec.norm.eps);
            }
            rope.rotate(isa, head, position);
        }
    }
    q.iter_mut().for_each(|q| *q *= spec.attn_scale);
}
