//! One forward pass of any `DecoderSpec`.

use std::sync::OnceLock;

use candle_core::{Device, Error, Result, Tensor};
use candle_nn::ops::rms_norm;
use lm_models::{Activation, DecoderSpec, LayerTensor, Model, QkNorm, TensorRole};

use crate::attention::{attend, heads, soft_cap};
use crate::lora::StepAdapters;
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
    /// Norms before attention and before the MLP.
    norms: Option<(Tensor, Tensor)>,
    attn_q: Linear,
    attn_k: Linear,
    attn_v: Linear,
    /// Norms of q and k: of each head, or of all as one.
    qk_norms: Option<(Tensor, Tensor)>,
    attn_output: Linear,
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
    adapters: &'a StepAdapters,
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
    /// `input_ids`, `positions`: `[n_tokens]` u32; `sample_rows`: `[n_rows]` u32, indexes of tokens; `adapters`: of
    /// the tokens. Gives `[n_rows, vocab_size]` f32; `None` when nothing samples.
    ///
    /// # Errors
    /// The tensor library failed.
    pub fn forward(
        &self,
        input_ids: &Tensor,
        positions: &Tensor,
        slots: &StepSlots,
        adapters: &StepAdapters,
        sample_rows: Option<&Tensor>,
        kv: &mut PagedKv,
    ) -> Result<Option<Tensor>> {
        let inputs = StepInputs {
            slots,
            adapters,
            rope: self.rope.rows(positions)?,
            rope_sliding: self.rope_sliding.rows(positions)?,
        };
        let mut x = self.embedding.index_select(input_ids, 0)?; // [n_tokens, hidden_size]
        x = scale(x, self.spec.embedding_scale)?;
        for (i, layer) in self.layers.iter().enumerate() {
            x = layer.forward(&self.spec, i, &x, &inputs, kv)?;
        }
        let Some(sample_rows) = sample_rows else { return Ok(None) };
        let x = x.index_select(sample_rows, 0)?; // [n_rows, hidden_size]
        let x = rms_norm(&x, &self.output_norm, self.spec.norm.eps)?;
        let logits = x.matmul(&self.head.t()?)?; // [n_rows, vocab_size]
        let logits = scale(logits, 1.0 / self.spec.logit_divisor)?;
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
        let pair = |first, second| Ok::<_, LoadError>(Some((norm(first)?, norm(second)?)));
        Ok(Layer {
            norms: match spec.norm_placement.is_before() {
                true => pair(LayerTensor::AttnNorm, LayerTensor::FfnNorm)?,
                false => None,
            },
            attn_q: projection(LayerTensor::AttnQ, LayerTensor::AttnQBias)?,
            attn_k: projection(LayerTensor::AttnK, LayerTensor::AttnKBias)?,
            attn_v: projection(LayerTensor::AttnV, LayerTensor::AttnVBias)?,
            qk_norms: match spec.qk_norm {
                QkNorm::None => None,
                QkNorm::PerHead | QkNorm::Whole => {
                    pair(LayerTensor::AttnQNorm, LayerTensor::AttnKNorm)?
                }
            },
            attn_output: linear(LayerTensor::AttnOutput)?,
            ffn_gate: linear(LayerTensor::FfnGate)?,
            ffn_up: linear(LayerTensor::FfnUp)?,
            ffn_down: linear(LayerTensor::FfnDown)?,
            post_norms: match spec.norm_placement.is_behind() {
                true => pair(LayerTensor::PostAttnNorm, LayerTensor::PostFfnNorm)?,
                false => None,
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
        let norm = |x: &Tensor, weight: Option<&Tensor>| match weight {
            Some(weight) => rms_norm(x, weight, spec.norm.eps),
            None => Ok(x.clone()),
        };
        let (before, behind) = (self.norms.as_ref(), self.post_norms.as_ref());
        let normed = norm(x, before.map(|norms| &norms.0))?;
        let attended = self.attention(spec, i, &normed, inputs, kv)?;
        let attended = norm(&attended, behind.map(|norms| &norms.0))?;
        let x = (x + scale(attended, spec.residual_scale)?)?;
        let normed = norm(&x, before.map(|norms| &norms.1))?;
        let project = |linear: &Linear, x: &Tensor, tensor| {
            inputs.adapters.add(i, tensor, x, linear.forward(x)?)
        };
        let gate = project(&self.ffn_gate, &normed, LayerTensor::FfnGate)?;
        let gate = match spec.activation {
            Activation::Silu => gate.silu()?,
            Activation::GeluTanh => gate.gelu()?,
        };
        let up = project(&self.ffn_up, &normed, LayerTensor::FfnUp)?;
        let mlp = project(&self.ffn_down, &(gate * up)?, LayerTensor::FfnDown)?;
        let mlp = norm(&mlp, behind.map(|norms| &norms.1))?;
        x + scale(mlp, spec.residual_scale)?
    }

    fn attention(
        &self,
        spec: &DecoderSpec,
        i: usize,
        x: &Tensor,
        inputs: &StepInputs<'_>,
        kv: &mut PagedKv,
    ) -> Result<Tensor> {
        let norm = |x: Tensor, n_heads, weight: Option<&Tensor>| match (spec.qk_norm, weight) {
            (QkNorm::PerHead, Some(weight)) => {
                rms_norm(&heads(&x, n_heads)?, weight, spec.norm.eps)
            }
            (QkNorm::Whole, Some(weight)) => heads(&rms_norm(&x, weight, spec.norm.eps)?, n_heads),
            _ => heads(&x, n_heads),
        };
        let project = |linear: &Linear, x: &Tensor, tensor| {
            inputs.adapters.add(i, tensor, x, linear.forward(x)?)
        };
        let norms = self.qk_norms.as_ref();
        let (q, k) = (
            project(&self.attn_q, x, LayerTensor::AttnQ)?,
            project(&self.attn_k, x, LayerTensor::AttnK)?,
        );
        let q = norm(q, spec.n_heads, norms.map(|norms| &norms.0))?; // [n, n_heads, head_dim]
        let k = norm(k, spec.n_kv_heads, norms.map(|norms| &norms.1))?; // [n, n_kv_heads, head_dim]
        let v = project(&self.attn_v, x, LayerTensor::AttnV)?;
        let v = heads(&v, spec.n_kv_heads)?; // [n, n_kv_heads, head_dim]
        let is_sliding = spec.sliding_window[i].is_some();
        let rope = if is_sliding { &inputs.rope_sliding } else { &inputs.rope };
        let (q, k) = (rope.rotate(&q)?, rope.rotate(&k)?);
        kv.write(i, &k, &v, inputs.slots)?;
        let attended = attend(spec, i, &q, kv, inputs.slots)?; // [n, n_heads * head_dim]
        project(&self.attn_output, &attended, LayerTensor::AttnOutput)
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

/// Multiplies all values, unless that changes nothing.
fn scale(x: Tensor, factor: f32) -> Result<Tensor> {
    if factor.to_bits() == 1f32.to_bits() { Ok(x) } else { x * f64::from(factor) }
}

/// The device that a name stands for: `cpu`, `cuda:N` or `metal`.
pub(crate) fn device(name: &str) -> std::result::Result<Device, LoadError> {
    let index = |text: &str| text.parse().ok();
    match name.split_once(':').map_or((name, Some(0)), |(kind, n)| (kind, index(n))) {
        ("cpu", Some(0)) => Ok(Device::Cpu),
        ("cuda", Some(n)) => Ok(Device::new_cuda(n)?),
        ("metal", Some(n)) => metal(n),
        _ => Err(LoadError::UnknownDevice { name: name.to_owned() }),
    }
}

/// Candle takes the n-th of the machine's devices without looking whether there are that many.
fn metal(n: usize) -> std::result::Result<Device, LoadError> {
    let found = std::panic::catch_unwind(|| Device::new_metal(n));
    let missing = |_| Err(Error::Msg(format!("there is no Metal device {n}")));
    Ok(found.unwrap_or_else(missing)?)
}

/// The first GPU that there is, of those that this program was compiled for: `cuda:0` or `metal`.
#[must_use]
pub fn first_gpu() -> Option<&'static str> {
    static FOUND: OnceLock<Option<&str>> = OnceLock::new();
    let found = || ["cuda:0", "metal"].into_iter().find(|name| device(name).is_ok());
    *FOUND.get_or_init(found)
}
