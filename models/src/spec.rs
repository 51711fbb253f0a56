//! A decoder as data: the facts in which decoder-only families differ.
//!
//! It computes nothing and knows no tensor library. A family file fills it from metadata; every executor runs any spec.

/// Everything an executor needs to know of a decoder besides its weights.
#[derive(Clone, Debug, PartialEq)]
pub struct DecoderSpec {
    /// The family's name: `llama`, `gemma3`, …
    pub family: &'static str,
    /// Decoder layers.
    pub n_layers: usize,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Query heads.
    pub n_heads: usize,
    /// Key and value heads; divides `n_heads`.
    pub n_kv_heads: usize,
    /// Width of one head; even.
    pub head_dim: usize,
    /// Width between the gated projections.
    pub intermediate_size: usize,
    /// Rows of the embedding and of the head.
    pub vocab_size: usize,
    /// Positions that the model was trained for.
    pub max_position_embeddings: usize,
    /// The normalisation of every norm in the model.
    pub norm: NormSpec,
    /// Where the norms stand.
    pub norm_placement: NormPlacement,
    /// How q and k are normalised before RoPE.
    pub qk_norm: QkNorm,
    /// Rotary position embedding.
    pub rope: RopeSpec,
    /// Multiplies q·k.
    pub attn_scale: f32,
    /// `cap * tanh(score / cap)` on attention scores.
    pub attn_softcap: Option<f32>,
    /// `cap * tanh(logit / cap)` on logits.
    pub logit_softcap: Option<f32>,
    /// One entry per layer: the positions that a query sees, itself included; `None` sees all.
    pub sliding_window: Vec<Option<usize>>,
    /// Between gate and up projection.
    pub activation: Activation,
    /// Whether q, k and v have a bias.
    pub qkv_bias: bool,
    /// Whether the head is the embedding.
    pub tied_head: bool,
    /// Multiplies the embedding.
    pub embedding_scale: f32,
    /// Multiplies what attention and MLP add to the residual stream.
    pub residual_scale: f32,
    /// Divides the logits, before their soft-cap.
    pub logit_divisor: f32,
}

/// RMS normalisation: `x / sqrt(mean(x²) + eps) * (weight + weight_offset)`. Source: Zhang & Sennrich 2019.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct NormSpec {
    /// Added to the mean square.
    pub eps: f32,
    /// 1 where the file stores weights around zero (Gemma as safetensors), else 0.
    pub weight_offset: f32,
}

/// Where the norms of a layer stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NormPlacement {
    /// Before attention and before the MLP (Llama).
    Pre,
    /// Before and after both (Gemma 2 and 3).
    PreAndPost,
    /// After both, before what they give is added (OLMo 2).
    Post,
}

/// What of q and k is normalised together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QkNorm {
    /// Nothing.
    None,
    /// Each head, all by the same weights (Qwen 3, Gemma 3).
    PerHead,
    /// All heads as one (OLMo 2).
    Whole,
}

/// Rotary position embedding. Source: Su et al. 2021, eq. 34.
#[derive(Clone, Debug, PartialEq)]
pub struct RopeSpec {
    /// How the rotated pairs lie in a head.
    pub layout: RopeLayout,
    /// Dimensions of a head that rotate; even.
    pub n_dims: usize,
    /// Base of layers that see everything.
    pub theta: f32,
    /// Base of sliding-window layers, where it differs.
    pub theta_sliding: Option<f32>,
    /// Applied to layers that see everything.
    pub scaling: RopeScaling,
}

/// How rotated pairs lie in a head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RopeLayout {
    /// (0, 1), (2, 3), …: Llama in GGUF files, whose q and k rows are permuted for it.
    Interleaved,
    /// (0, n/2), (1, n/2 + 1), …: everything else.
    Halves,
}

/// How frequencies are stretched beyond the trained context.
///
/// Where a rule depends on how long a sequence gets, an executor asks for its longest sequence: K that lies in a
/// cache was rotated once, and a sequence may grow.
#[derive(Clone, Debug, PartialEq)]
pub enum RopeScaling {
    /// As trained.
    None,
    /// Every frequency divided by the factor.
    Linear(f32),
    /// Each frequency divided by its own factor: `n_dims / 2` of them (`rope_freqs.weight`, or worked out from Llama 3's rule).
    PerDimension(Vec<f32>),
    /// Each frequency divided by its own factor, of which there are two sets. Source: LongRoPE, Ding et al. 2024.
    Long {
        /// Of sequences up to `original_context`. `[n_dims / 2]`
        short: Vec<f32>,
        /// Of longer ones. `[n_dims / 2]`
        long: Vec<f32>,
        /// Positions before the model was stretched.
        original_context: usize,
        /// Multiplies cosines and sines.
        magnitude: f32,
    },
}

/// Between gate and up projection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// `x * sigmoid(x)`.
    Silu,
    /// The tanh approximation of GELU.
    GeluTanh,
}

/// The role of a tensor in a decoder; families map it to the name in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TensorRole {
    /// `[vocab_size, hidden_size]`
    TokenEmbedding,
    /// `[hidden_size]`
    OutputNorm,
    /// `[vocab_size, hidden_size]`; absent when tied.
    OutputHead,
    /// A tensor of one layer.
    Layer(usize, LayerTensor),
}

/// Tensors of a layer; shapes are `[out, in]`, row-major.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LayerTensor {
    /// `[hidden_size]`
    AttnNorm,
    /// `[n_heads * head_dim, hidden_size]`
    AttnQ,
    /// `[n_kv_heads * head_dim, hidden_size]`
    AttnK,
    /// `[n_kv_heads * head_dim, hidden_size]`
    AttnV,
    /// `[n_heads * head_dim]`
    AttnQBias,
    /// `[n_kv_heads * head_dim]`
    AttnKBias,
    /// `[n_kv_heads * head_dim]`
    AttnVBias,
    /// `[head_dim]`, or `[n_heads * head_dim]` where all heads are one
    AttnQNorm,
    /// `[head_dim]`, or `[n_kv_heads * head_dim]` where all heads are one
    AttnKNorm,
    /// `[hidden_size, n_heads * head_dim]`
    AttnOutput,
    /// `[hidden_size]`
    PostAttnNorm,
    /// `[hidden_size]`
    FfnNorm,
    /// `[intermediate_size, hidden_size]`
    FfnGate,
    /// `[intermediate_size, hidden_size]`
    FfnUp,
    /// `[hidden_size, intermediate_size]`
    FfnDown,
    /// `[hidden_size]`
    PostFfnNorm,
}

impl RopeSpec {
    /// Angle per position of each rotated pair, in radians, for sequences of at most `max_model_len`:
    /// `[n_dims / 2]`. Layers with a sliding window may have their own base, and then no scaling.
    #[must_use]
    pub fn frequencies(&self, is_sliding: bool, max_model_len: usize) -> Vec<f64> {
        let own_base = self.theta_sliding.filter(|_| is_sliding);
        let theta = f64::from(own_base.unwrap_or(self.theta));
        let half = self.n_dims / 2;
        let factor = |i: usize| match &self.scaling {
            _ if own_base.is_some() => 1.0,
            RopeScaling::None => 1.0,
            RopeScaling::Linear(factor) => f64::from(*factor),
            RopeScaling::PerDimension(factors) => f64::from(factors[i]),
            RopeScaling::Long { short, original_context, .. }
                if max_model_len <= *original_context =>
            {
                f64::from(short[i])
            }
            RopeScaling::Long { long, .. } => f64::from(long[i]),
        };
        (0..half).map(|i| theta.powf(-(i as f64) / half as f64) / factor(i)).collect()
    }

    /// What cosines and sines are multiplied by.
    #[must_use]
    pub fn magnitude(&self) -> f32 {
        match self.scaling {
            RopeScaling::Long { magnitude, .. } => magnitude,
            _ => 1.0,
        }
    }
}

impl DecoderSpec {
    /// Bytes of K and V that one position takes over all layers, at `size_bytes` per number.
    #[must_use]
    pub fn kv_bytes_per_token(&self, size_bytes: usize) -> usize {
        2 * self.n_layers * self.n_kv_heads * self.head_dim * size_bytes
    }
}
