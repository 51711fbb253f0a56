//! Rotary position embedding by tables. Source: Su et al. 2021, eq. 34.

use candle_core::{D, Device, Result, Tensor};
use candle_nn::rotary_emb;
use lm_models::{DecoderSpec, RopeLayout};

/// Cosines and sines of every position. `[max_model_len, n_dims / 2]` f32 each.
#[derive(Clone, Debug)]
pub(crate) struct RopeTable {
    cos: Tensor,
    sin: Tensor,
    layout: RopeLayout,
    n_dims: usize,
}

/// The rows of a table that belong to the tokens of a step. `[n_tokens, n_dims / 2]`
#[derive(Clone, Debug)]
pub(crate) struct RopeRows {
    cos: Tensor,
    sin: Tensor,
    layout: RopeLayout,
    n_dims: usize,
}

impl RopeTable {
    /// The table of layers that see everything, or of those with a sliding window.
    pub(crate) fn new(
        spec: &DecoderSpec,
        is_sliding: bool,
        max_model_len: usize,
        device: &Device,
    ) -> Result<Self> {
        let frequencies = spec.rope.frequencies(is_sliding, max_model_len);
        let magnitude = f64::from(spec.rope.magnitude());
        let half = frequencies.len();
        let angles = (0..max_model_len)
            .flat_map(|position| frequencies.iter().map(move |f| position as f64 * f));
        let (mut cos, mut sin) = (Vec::new(), Vec::new());
        for angle in angles {
            cos.push((angle.cos() * magnitude) as f32);
            sin.push((angle.sin() * magnitude) as f32);
        }
        let shape = (max_model_len, half);
        Ok(RopeTable {
            cos: Tensor::from_vec(cos, shape, device)?,
            sin: Tensor::from_vec(sin, shape, device)?,
            layout: spec.rope.layout,
            n_dims: spec.rope.n_dims,
        })
    }

    /// The rows of `positions`, `[n_tokens]` u32.
    pub(crate) fn rows(&self, positions: &Tensor) -> Result<RopeRows> {
        Ok(RopeRows {
            cos: self.cos.index_select(positions, 0)?,
            sin: self.sin.index_select(positions, 0)?,
            layout: self.layout,
            n_dims: self.n_dims,
        })
    }
}

impl RopeRows {
    /// Rotates `x`, `[n_tokens, n_heads, head_dim]`; dimensions from `n_dims` on stay as they are.
    pub(crate) fn rotate(&self, x: &Tensor) -> Result<Tensor> {
        let head_dim = x.dim(D::Minus1)?;
        let rotated = x.narrow(D::Minus1, 0, self.n_dims)?;
        let rotated = rotated.transpose(0, 1)?.unsqueeze(0)?.contiguous()?; // [1, n_heads, n_tokens, n_dims]
        let rotated = match self.layout {
            RopeLayout::Halves => rotary_emb::rope(&rotated, &self.cos, &self.sin)?,
            RopeLayout::Interleaved => rotary_emb::rope_i(&rotated, &self.cos, &self.sin)?,
        };
        let rotated = rotated.squeeze(0)?.transpose(0, 1)?; // [n_tokens, n_heads, n_dims]
        if self.n_dims == head_dim {
            return rotated.contiguous();
        }
        let rest = x.narrow(D::Minus1, self.n_dims, head_dim - self.n_dims)?;
        Tensor::cat(&[&rotated, &rest], D::Minus1)
    }
}
