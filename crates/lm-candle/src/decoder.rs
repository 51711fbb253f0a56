//! One forward pass of any `DecoderSpec`.

use candle_core::{Device, Result, Tensor};
use candle_nn::ops::rms_norm;
use lm_models::{Activation, DecoderSpec, LayerTensor, Model, NormPlacement, TensorRole};

use crate::attention::{attend, heads, soft_cap};
use crate::rope::{RopeRows, RopeTable};
use crate::weights::WeightLoader;
use crate::{LoadError, PagedKv, StepSlots};

/// The weights of a decoder, as f32, and what its spec says of them.
#[derive(Debug)]
pub struct Decoder {
    spec: DecoderSpec,
    /// `[vocab_size, hidden_size]`
    embedding: Tensor,
    /// `[vocab_size, hidden_size]`; the embedding when tied.
    head: Tensor,
    output_norm: Tensor,
    layers: Vec<Layer>,
    rope: RopeTable,
    rope_sliding: RopeTable,
}

/// Matrices are `[out, in]`, norms `[n]`.
#[derive(Debug)]
struct Layer {
    attn_norm: Tensor,
    attn_q: Linear,
    attn_k: Linear,
    attn_v: Linear,
    /// Norms of each head of q and k.
    qk_norms: Option<(Tensor, Tensor)>,
    attn_output: Linear,
    ffn_norm: Tensor,
    ffn_gate: Linear,
    ffn_up: Linear,
    ffn_down: Linear,
    /// Norms after attention and after the MLP.
    post_norms: Option<(Tensor, Tensor)>,
}

#[derive(Debug)]
struct Linear {
    /// `[in, out]`: a view of the stored `[out, in]`.
    weight: Tensor,
    bias: Option<Tensor>,
}

/// What all layers of a step share.
struct StepInputs<'a> {
    slots: &'a StepSlots,
    rope: RopeRows,
    rope_sliding: RopeRows,
}

impl Decoder {
    /// Reads all weights of `model`.
    ///
    /// # Errors
    /// A tensor is missing, of a type that candle does not read, or too large for the device.
    pub fn load(
        model: &Model,
        max_model_len: usize,
        device: &Device,
    ) -> std::result::Result<Self, LoadError> {
        let spec = model.spec.clone();
        let loader = WeightLoader { model, device };
        let embedding = loader.load(TensorRole::TokenEmbedding)?;
        let head = match spec.tied_head {
            true => embedding.clone(),
            false => loader.load(TensorRole::OutputHead)?,
        };
        let layers = (0..spec.n_layers).map(|i| Layer::load(&loader, i));
        Ok(Decoder {
            layers: layers.collect::<std::result::Result<_, _>>()?,
            output_norm: loader.norm(TensorRole::OutputNorm)?,
            rope: RopeTable::new(&spec, false, max_model_len, device)?,
            rope_sliding: RopeTable::new(&spec, true, max_model_len, device)?,
            embedding,
            head,
            spec,
        })
    }

    /// What the decoder is.
    #[must_use]
    pub fn spec(&self) -> &DecoderSpec {
        &self.spec
    }

    /// Bytes that the matrices of a decoder take.
    #[must_use]
    pub fn weights_bytes(spec: &DecoderSpec) -> u64 {
        let (kv_width, q_width) = (spec.n_kv_heads * spec.head_dim, spec.n_heads * spec.head_dim);
        let attention = spec.hidden_size * (2 * q_width + 2 * kv_width);
        let mlp = 3 * spec.hidden_size * spec.intermediate_size;
        let heads = if spec.tied_head { 1 } else { 2 };
        let numbers =
            heads * spec.vocab_size * spec.hidden_size + spec.n_layers * (attention + mlp);
        (numbers * size_of::<f32>()) as u64
    }

    /// Runs the step's tokens through all layers, and the head for `sample_rows` only.
    ///
    /// `input_ids`, `positions`: `[n_tokens]` u32; `sample_rows`: `[n_rows]` u32, indexes of tokens.
    /// Gives `[n_rows, vocab_size]` f32; `None` when nothing samples.
    ///
    /// # Errors
    /// The tensor library failed.
    pub fn forward(
        &self,
        input_ids: &Tensor,
        positions: &Tensor,
        slots: &StepSlots,
        sample_rows: Option<&Tensor>,
        kv: &mut PagedKv,
    ) -> Result<Option<Tensor>> {
        let inputs = StepInputs {
            slots,
            rope: self.rope.rows(positions)?,
            rope_sliding: self.rope_sliding.rows(positions)?,
        };
        let mut x = self.embedding.index_select(input_ids, 0)?; // [n_tokens, hidden_size]
        if self.spec.embedding_scale.to_bits() != 1f32.to_bits() {
            x = (x * f64::from(self.spec.embedding_scale))?;
        }
        for (i, layer) in self.layers.iter().enumerate() {
            x = layer.forward(&self.spec, i, &x, &inputs, kv)?;
        }
        let Some(sample_rows) = sample_rows else { return Ok(None) };
        let x = x.index_select(sample_rows, 0)?; // [n_rows, hidden_size]
        let x = rms_norm(&x, &self.output_norm, self.spec.norm.eps)?;
        let logits = x.matmul(&self.head.t()?)?; // [n_rows, vocab_size]
        Ok(Some(match self.spec.logit_softcap {
            Some(cap) => soft_cap(&logits, cap)?,
            None => logits,
        }))
    }
}

impl Layer {
    fn load(loader: &WeightLoader<'_>, i: usize) -> std::result::Result<Self, LoadError> {
        let spec = &loader.model.spec;
        let linear = |tensor| Linear::load(loader, i, tensor, None);
        let projection =
            |tensor, bias| Linear::load(loader, i, tensor, spec.qkv_bias.then_some(bias));
        let norm = |tensor| loader.norm(TensorRole::Layer(i, tensor));
        Ok(Layer {
            attn_norm: norm(LayerTensor::AttnNorm)?,
            attn_q: projection(LayerTensor::AttnQ, LayerTensor::AttnQBias)?,
            attn_k: projection(LayerTensor::AttnK, LayerTensor::AttnKBias)?,
            attn_v: projection(LayerTensor::AttnV, LayerTensor::AttnVBias)?,
            qk_norms: match spec.qk_norm {
                true => Some((norm(LayerTensor::AttnQNorm)?, norm(LayerTensor::AttnKNorm)?)),
                false => None,
            },
            attn_output: linear(LayerTensor::AttnOutput)?,
            ffn_norm: norm(LayerTensor::FfnNorm)?,
            ffn_gate: linear(LayerTensor::FfnGate)?,
            ffn_up: linear(LayerTensor::FfnUp)?,
            ffn_down: linear(LayerTensor::FfnDown)?,
            post_norms: match spec.norm_placement {
                NormPlacement::Pre => None,
                NormPlacement::PreAndPost => {
                    Some((norm(LayerTensor::PostAttnNorm)?, norm(LayerTensor::PostFfnNorm)?))
                }
            },
        })
    }

    fn forward(
        &self,
        spec: &DecoderSpec,
        i: usize,
        x: &Tensor,
        inputs: &StepInputs<'_>,
        kv: &mut PagedKv,
    ) -> Result<Tensor> {
        let eps = spec.norm.eps;
        let normed = rms_norm(x, &self.attn_norm, eps)?;
        let mut attended = self.attention(spec, i, &normed, inputs, kv)?;
        if let Some((after_attention, _)) = &self.post_norms {
            attended = rms_norm(&attended, after_attention, eps)?;
        }
        let x = (x + attended)?;
        let normed = rms_norm(&x, &self.ffn_norm, eps)?;
        let gate = self.ffn_gate.forward(&normed)?;
        let gate = match spec.activation {
            Activation::Silu => gate.silu()?,
            Activation::GeluTanh => gate.gelu()?,
        };
        let mut mlp = self.ffn_down.forward(&(gate * self.ffn_up.forward(&normed)?)?)?;
        if let Some((_, after_mlp)) = &self.post_norms {
            mlp = rms_norm(&mlp, after_mlp, eps)?;
        }
        x + mlp
    }

    fn attention(
        &self,
        spec: &DecoderSpec,
        i: usize,
        x: &Tensor,
        inputs: &StepInputs<'_>,
        kv: &mut PagedKv,
    ) -> Result<Tensor> {
        let mut q = heads(&self.attn_q.forward(x)?, spec.n_heads)?; // [n, n_heads, head_dim]
        let mut k = heads(&self.attn_k.forward(x)?, spec.n_kv_heads)?; // [n, n_kv_heads, head_dim]
        let v = heads(&self.attn_v.forward(x)?, spec.n_kv_heads)?; // [n, n_kv_heads, head_dim]
        if let Some((q_norm, k_norm)) = &self.qk_norms {
            q = rms_norm(&q, q_norm, spec.norm.eps)?;
            k = rms_norm(&k, k_norm, spec.norm.eps)?;
        }
        let is_sliding = spec.sliding_window[i].is_some();
        let rope = if is_sliding { &inputs.rope_sliding } else { &inputs.rope };
        let (q, k) = (rope.rotate(&q)?, rope.rotate(&k)?);
        kv.write(i, &k, &v, inputs.slots)?;
        let attended = attend(spec, i, &q, kv, inputs.slots)?; // [n, n_heads * head_dim]
        self.attn_output.forward(&attended)
    }
}

impl Linear {
    fn load(
        loader: &WeightLoader<'_>,
        layer: usize,
        weight: LayerTensor,
        bias: Option<LayerTensor>,
    ) -> std::result::Result<Self, LoadError> {
        let bias = bias.map(|bias| loader.layer(layer, bias)).transpose()?;
        Ok(Linear { weight: loader.layer(layer, weight)?.t()?, bias })
    }

    /// `[n, in]` to `[n, out]`.
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let y = x.matmul(&self.weight)?;
        match &self.bias {
            Some(bias) => y.broadcast_add(bias),
            None => Ok(y),
        }
    }
}

/// The device that a name stands for: `cpu`, `cuda:N` or `metal`.
pub(crate) fn device(name: &str) -> std::result::Result<Device, LoadError> {
    let index = |text: &str| text.parse().ok();
    match name.split_once(':').map_or((name, Some(0)), |(kind, n)| (kind, index(n))) {
        ("cpu", Some(0)) => Ok(Device::Cpu),
        ("cuda", Some(n)) => Ok(Device::new_cuda(n)?),
        ("metal", Some(n)) => Ok(Device::new_metal(n)?),
        _ => Err(LoadError::UnknownDevice { name: name.to_owned() }),
    }
}
