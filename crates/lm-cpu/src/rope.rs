//! Rotary position embedding by tables. Source: Su et al. 2021, eq. 34.

use lm_kernels::{Isa, rope_halves, rope_interleaved};
use lm_models::{DecoderSpec, RopeLayout};

/// Cosines and sines of every position: `[max_model_len, n_dims / 2]` each.
#[derive(Debug)]
pub(crate) struct RopeTable {
    cos: Vec<f32>,
    sin: Vec<f32>,
    half: usize,
    layout: RopeLayout,
}

impl RopeTable {
    /// The table of layers that see everything, or of those with a sliding window.
    pub(crate) fn new(spec: &DecoderSpec, is_sliding: bool, max_model_len: usize) -> Self {
        let frequencies = spec.rope.frequencies(is_sliding, max_model_len);
        let magnitude = f64::from(spec.rope.magnitude());
        let angles = (0..max_model_len)
            .flat_map(|position| frequencies.iter().map(move |f| position as f64 * f));
        let (cos, sin) = angles
            .map(|angle| ((angle.cos() * magnitude) as f32, (angle.sin() * magnitude) as f32))
            .unzip();
        RopeTable { cos, sin, half: frequencies.len(), layout: spec.rope.layout }
    }

    /// Rotates one head in place. `[head_dim]`; dimensions beyond the rotated ones stay.
    pub(crate) fn rotate(&self, isa: Isa, head: &mut [f32], position: usize) {
        let row = position * self.half..(position + 1) * self.half;
        let (cos, sin) = (&self.cos[row.clone()], &self.sin[row]);
        match self.layout {
            RopeLayout::Halves => rope_halves(isa, head, cos, sin),
            RopeLayout::Interleaved => rope_interleaved(isa, head, cos, sin),
        }
    }
}
