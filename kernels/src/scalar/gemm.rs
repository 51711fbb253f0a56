//! One dot product as every kernel must compute it, and a panel by 16 times that.
//! Defines the order of the float operations; must never know a vector unit.
//! Start at [`dot_sub`].

use half::{bf16, f16};

use super::sub::{Sub, sub};
use crate::acts::ActBlock;
use crate::layout::PANEL_ROWS;
use crate::pack::unpack_sub;
use crate::types::WeightType;

/// Adds 32 products: a whole-number sum, scaled once, then the minimum's part. Two fused
/// operations, in this order, on every instruction set.
pub(crate) fn dot_sub(weight: WeightType, w: &Sub, x: &ActBlock, acc: f32) -> f32 {
    let mut sum = 0i32;
    for (w, x) in w.signed_codes(weight).into_iter().zip(x.codes()) {
        sum += w * i32::from(x);
    }
    let (d, m) = w.scale_min(weight);
    let acc = (sum as f32).mul_add(d * x.d, acc);
    if matches!(weight, WeightType::Q8_0 | WeightType::Q6K) {
        return acc;
    }
    m.mul_add(x.d_sum, acc)
}

/// The dot product of a GGUF row of a quantised type with quantised activations: the oracle of
/// `gemm_panel`, bit for bit.
#[must_use]
pub fn dot_row(weight: WeightType, row: &[u8], x: &[ActBlock]) -> f32 {
    x.iter().enumerate().fold(0.0, |acc, (idx, x)| dot_sub(weight, &sub(weight, row, idx), x, acc))
}

/// `out[row] = W[row] . x` from a packed panel.
pub(crate) fn panel(weight: WeightType, panel: &[u8], x: &[ActBlock], out: &mut [f32]) {
    for (row, out) in out[..PANEL_ROWS].iter_mut().enumerate() {
        *out = x.iter().enumerate().fold(0.0, |acc, (idx, x)| {
            dot_sub(weight, &unpack_sub(weight, panel, row, idx), x, acc)
        });
    }
}

/// The same for float panels: even and odd `k` are summed apart, fused, then added.
pub(crate) fn panel_f32(weight: WeightType, panel: &[u8], x: &[f32], out: &mut [f32]) {
    for (row, out) in out[..PANEL_ROWS].iter_mut().enumerate() {
        let mut sums = [0.0f32; 2];
        for (k, x) in x.iter().enumerate() {
            sums[k % 2] =
                float_weight(weight, panel, k * PANEL_ROWS + row).mul_add(*x, sums[k % 2]);
        }
        *out = sums[0] + sums[1];
    }
}

fn float_weight(weight: WeightType, panel: &[u8], idx: usize) -> f32 {
    let (pairs, quads) = (panel.as_chunks::<2>().0, panel.as_chunks::<4>().0);
    match weight {
        WeightType::F16 => f16::from_le_bytes(pairs[idx]).to_f32_const(),
        WeightType::BF16 => bf16::from_le_bytes(pairs[idx]).to_f32_const(),
        _ => f32::from_le_bytes(quads[idx]),
    }
}
