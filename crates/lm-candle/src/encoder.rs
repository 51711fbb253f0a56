//! Encoders of the BERT family on candle's tensors, without padding: products see the tokens of all texts as one
//! matrix, attention the texts of equal length together.

use candle_core::{CpuStorage, CustomOp1, D, DType, Device, Layout, Shape, Tensor};
use candle_nn::ops::{layer_norm, softmax_last_dim};
use lm_backend::{BackendError, Encoder, EncoderBatch, EncoderOutput, EncoderSpec};
use lm_kernels::{Isa, gelu_in_place};
use lm_models::{
    EncoderActivation, EncoderFamily, EncoderModel, EncoderModelSpec, EncoderPart, EncoderTensor,
    Pooling,
};

use crate::LoadError;
use crate::decoder::device;
use crate::weights::to_f32;

/// Runs an encoder on candle's tensors, in f32.
#[derive(Debug)]
pub struct CandleEncoder {
    spec: EncoderSpec,
    model: EncoderModelSpec,
    device: Device,
    words: Tensor,
    positions: Tensor,
    token_types: Option<Tensor>,
    embedding_norm: Affine,
    layers: Vec<Layer>,
    head: Option<(Affine, Affine)>,
}

/// A weight and a bias. `[out, in]` of a product, transposed as it is used; `[n]` of a norm.
#[derive(Debug)]
struct Affine {
    weight: Tensor,
    bias: Tensor,
}

#[derive(Debug)]
struct Layer {
    /// Queries, keys and values in one product.
    qkv: Affine,
    output: Affine,
    attention_norm: Affine,
    up: Affine,
    down: Affine,
    output_norm: Affine,
}

/// Texts of one length that follow each other in the sorted batch.
struct Run {
    begin: usize,
    n_texts: usize,
    len: usize,
}

impl CandleEncoder {
    /// Loads `model`. Texts have at most `max_model_len` tokens; by default what its authors recommend.
    ///
    /// # Errors
    /// The model cannot be run on this device, or not with texts of this length.
    pub fn load(
        model: &EncoderModel,
        device_name: &str,
        max_model_len: Option<usize>,
    ) -> Result<Self, LoadError> {
        let device = device(device_name)?;
        let spec = &model.spec;
        let limit = spec.n_positions - spec.first_position;
        let max_model_len = match max_model_len {
            None => spec.max_len,
            Some(asked) if (2..=limit).contains(&asked) => asked,
            Some(asked) => {
                let why = "the model has no more positions";
                return Err(LoadError::ContextTooLong { asked, limit, why });
            }
        };
        let loader = Loader { model, device: &device };
        let n_types = spec.n_token_types > 0;
        let place = match device {
            Device::Cpu => "cpu",
            Device::Cuda(_) => "cuda",
            Device::Metal(_) => "metal",
        };
        let output = match &spec.head {
            Some(head) => EncoderOutput::Labels { names: head.labels.clone() },
            None => EncoderOutput::Vector { dimensions: spec.hidden_size },
        };
        let head = spec.head.as_ref().map(|_| {
            let dense = loader.product(EncoderPart::HeadDense)?;
            Ok::<_, LoadError>((dense, loader.product(EncoderPart::HeadOutput)?))
        });
        Ok(CandleEncoder {
            spec: EncoderSpec {
                kernel_path: format!("candle-{place}-f32"),
                vocab_size: spec.vocab_size,
                max_model_len,
                weights_bytes: spec.f32_bytes(),
                output,
            },
            words: loader.tensor(EncoderTensor::Words)?,
            positions: loader.tensor(EncoderTensor::Positions)?,
            token_types: n_types.then(|| loader.tensor(EncoderTensor::TokenTypes)).transpose()?,
            embedding_norm: loader.norm(EncoderPart::EmbeddingNorm)?,
            layers: (0..spec.n_layers).map(|i| loader.layer(i)).collect::<Result<_, _>>()?,
            head: head.transpose()?,
            model: spec.clone(),
            device,
        })
    }

    /// Bytes of the buffers of a batch of `n_tokens` in texts of at most `max_len`.
    #[must_use]
    pub fn scratch_bytes(spec: &EncoderModelSpec, n_tokens: usize, max_len: usize) -> u64 {
        let row = 8 * spec.hidden_size + 2 * spec.intermediate_size + 3 * spec.n_heads * max_len;
        (n_tokens * row * size_of::<f32>()) as u64
    }

    fn run(&self, batch: &EncoderBatch, rows: &mut Vec<f32>) -> candle_core::Result<()> {
        let ranges: Vec<_> = batch.ranges().collect();
        // Texts of equal length become one product each of attention.
        let mut order: Vec<usize> = (0..ranges.len()).collect();
        order.sort_by_key(|&i| ranges[i].len());
        let (mut ids, mut types, mut positions) = (Vec::new(), Vec::new(), Vec::new());
        let mut runs: Vec<Run> = Vec::new();
        for &i in &order {
            let (range, begin) = (ranges[i].clone(), ids.len());
            let first = self.model.first_position as u32;
            positions.extend(first..first + range.len() as u32);
            ids.extend_from_slice(&batch.input_ids[range.clone()]);
            // A family with one type has nothing to tell a pair's second text by.
            let last_type = self.model.n_token_types.saturating_sub(1) as u32;
            types.extend(batch.token_types[range.clone()].iter().map(|t| (*t).min(last_type)));
            match runs.last_mut().filter(|run| run.len == range.len()) {
                Some(run) => run.n_texts += 1,
                None => runs.push(Run { begin, n_texts: 1, len: range.len() }),
            }
        }
        let mut x = self.embed(&ids, &types, &positions)?;
        for layer in &self.layers {
            x = self.layer(layer, &x, &runs)?;
        }
        let pooled = runs.iter().map(|run| self.pool(&x, run)).collect::<Result<Vec<_>, _>>()?;
        // [n_texts, hidden], sorted by length.
        let mut pooled = Tensor::cat(&pooled, 0)?;
        if let Some((dense, output)) = &self.head {
            let inner = dense.product(&pooled)?;
            let inner = match self.model.family {
                EncoderFamily::DistilBert => inner.relu()?,
                EncoderFamily::Bert | EncoderFamily::Roberta => inner.tanh()?,
            };
            pooled = output.product(&inner)?;
        }
        let pooled = pooled.to_vec2::<f32>()?;
        let (width, begin) = (self.spec.width(), rows.len());
        rows.resize(begin + width * order.len(), 0.0);
        for (row, i) in pooled.iter().zip(order) {
            rows[begin + i * width..][..width].copy_from_slice(row);
        }
        Ok(())
    }

    /// `[n_tokens, hidden]`
    fn embed(&self, ids: &[u32], types: &[u32], positions: &[u32]) -> candle_core::Result<Tensor> {
        let rows =
            |table: &Tensor, ids: &[u32]| table.index_select(&Tensor::new(ids, &self.device)?, 0);
        let mut x = (rows(&self.words, ids)? + rows(&self.positions, positions)?)?;
        if let Some(table) = &self.token_types {
            x = (x + rows(table, types)?)?;
        }
        self.norm(&self.embedding_norm, &x)
    }

    fn layer(&self, layer: &Layer, x: &Tensor, runs: &[Run]) -> candle_core::Result<Tensor> {
        // [n_tokens, 3 * hidden]
        let qkv = layer.qkv.product(x)?;
        let attended =
            runs.iter().map(|run| self.attend(&qkv, run)).collect::<Result<Vec<_>, _>>()?;
        let attended = layer.output.product(&Tensor::cat(&attended, 0)?)?;
        let x = self.norm(&layer.attention_norm, &(attended + x)?)?;
        // [n_tokens, intermediate]
        let inner = layer.up.product(&x)?;
        let inner = match self.model.activation {
            EncoderActivation::Gelu if self.device.is_cpu() => inner.apply_op1_no_bwd(&Gelu)?,
            EncoderActivation::Gelu => inner.gelu_erf()?,
            EncoderActivation::GeluTanh => inner.gelu()?,
            EncoderActivation::Relu => inner.relu()?,
        };
        self.norm(&layer.output_norm, &(layer.down.product(&inner)? + x)?)
    }

    /// Attention within the texts of a run. Gives `[n_texts * len, hidden]`.
    fn attend(&self, qkv: &Tensor, run: &Run) -> candle_core::Result<Tensor> {
        let (n_heads, hidden) = (self.model.n_heads, self.model.hidden_size);
        let head_dim = hidden / n_heads;
        let qkv = qkv.narrow(0, run.begin, run.n_texts * run.len)?;
        // [n_texts, n_heads, len, head_dim] of queries, keys or values.
        let part = |i: usize| {
            let part = qkv.narrow(1, i * hidden, hidden)?;
            let part = part.reshape((run.n_texts, run.len, n_heads, head_dim))?;
            part.transpose(1, 2)?.contiguous()
        };
        let scores = (part(0)?.matmul(&part(1)?.t()?)? * (head_dim as f64).powf(-0.5))?;
        let attended = softmax_last_dim(&scores)?.matmul(&part(2)?)?;
        attended.transpose(1, 2)?.reshape((run.n_texts * run.len, hidden))
    }

    /// `[n_texts, hidden]`
    fn pool(&self, x: &Tensor, run: &Run) -> candle_core::Result<Tensor> {
        let texts = x.narrow(0, run.begin, run.n_texts * run.len)?;
        let texts = texts.reshape((run.n_texts, run.len, self.model.hidden_size))?;
        // Heads were trained on the first token.
        match (&self.head, self.model.pooling) {
            (Some(_), _) | (None, Pooling::Cls) => texts.narrow(1, 0, 1)?.squeeze(1),
            (None, Pooling::Mean) => texts.mean(1),
            (None, Pooling::Max) => texts.max(1),
        }
    }

    fn norm(&self, norm: &Affine, x: &Tensor) -> candle_core::Result<Tensor> {
        layer_norm(&x.contiguous()?, &norm.weight, &norm.bias, self.model.layer_norm_eps)
    }
}

impl Encoder for CandleEncoder {
    fn spec(&self) -> &EncoderSpec {
        &self.spec
    }

    fn encode(&mut self, batch: &EncoderBatch, rows: &mut Vec<f32>) -> Result<(), BackendError> {
        let failed =
            |error: candle_core::Error| BackendError::Compute { message: error.to_string() };
        self.run(batch, rows).map_err(failed)
    }
}

impl Affine {
    /// `x`: `[n, in]`. Gives `[n, out]`.
    fn product(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        x.matmul(&self.weight)?.broadcast_add(&self.bias)
    }
}

struct Loader<'a> {
    model: &'a EncoderModel,
    device: &'a Device,
}

impl Loader<'_> {
    fn tensor(&self, tensor: EncoderTensor) -> Result<Tensor, LoadError> {
        let view = self.model.tensor(tensor)?;
        let read = to_f32(&view, self.device)?;
        Ok(read.expect("safetensors of F32, F16 and BF16 are read by candle: this is a bug"))
    }

    fn norm(&self, part: EncoderPart) -> Result<Affine, LoadError> {
        Ok(Affine {
            weight: self.tensor(EncoderTensor::Weight(part))?,
            bias: self.tensor(EncoderTensor::Bias(part))?,
        })
    }

    fn product(&self, part: EncoderPart) -> Result<Affine, LoadError> {
        let Affine { weight, bias } = self.norm(part)?;
        // Laid out once as it is used.
        Ok(Affine { weight: weight.t()?.contiguous()?, bias })
    }

    fn layer(&self, i: usize) -> Result<Layer, LoadError> {
        let parts = [EncoderPart::Query(i), EncoderPart::Key(i), EncoderPart::Value(i)];
        let qkv = parts.map(|part| self.product(part));
        let [q, k, v] = qkv;
        let (q, k, v) = (q?, k?, v?);
        let qkv = Affine {
            weight: Tensor::cat(&[&q.weight, &k.weight, &v.weight], D::Minus1)?.contiguous()?,
            bias: Tensor::cat(&[&q.bias, &k.bias, &v.bias], 0)?,
        };
        Ok(Layer {
            qkv,
            output: self.product(EncoderPart::AttentionOutput(i))?,
            attention_norm: self.norm(EncoderPart::AttentionNorm(i))?,
            up: self.product(EncoderPart::Up(i))?,
            down: self.product(EncoderPart::Down(i))?,
            output_norm: self.norm(EncoderPart::OutputNorm(i))?,
        })
    }
}

/// Gelu by the error function; candle's own calls the C library for each number.
struct Gelu;

impl CustomOp1 for Gelu {
    fn name(&self) -> &'static str {
        "gelu"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        let (CpuStorage::F32(x), Some((begin, end))) = (x, layout.contiguous_offsets()) else {
            let op = "gelu of what is not contiguous f32";
            return Err(candle_core::Error::UnsupportedDTypeForOp(DType::F32, op));
        };
        let mut out = x[begin..end].to_vec();
        gelu_in_place(Isa::detect_vectors(), &mut out);
        Ok((CpuStorage::F32(out), layout.shape().clone()))
    }
}
