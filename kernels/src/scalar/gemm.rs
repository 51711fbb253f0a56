//! One dot product as every kernel must compute it, and panels by 16 times that.
//! Defines the order of the float operations; must never know a vector unit.
//! Start at [`dot_sub`].

use half::{bf16, f16};

use super::sub::{Sub, sub};
use crate::acts::{ACT_BLOCK, QuantizedActs};
use crate::columns::Columns;
use crate::dispatch::{Panels, Put, put_row};
use crate::layout::PANEL_ROWS;
use crate::pack::unpack_sub;
use crate::types::WeightType;

/// Adds 32 products: a whole-number sum, scaled once, then the minimum's part. Two fused
/// operations, in this order, on every instruction set.
pub(crate) fn dot_sub(weight: WeightType, w: &Sub, x: &impl QuantizedActs, acc: f32) -> f32 {
    let mut sum = 0i32;
    for (w, x) in w.signed_codes(weight).into_iter().zip(x.codes()) {
        sum += w * i32::from(x);
    }
    let (d, m) = w.scale_min(weight);
    let acc = (sum as f32).mul_add(d * x.scale(), acc);
    if matches!(weight, WeightType::Q8_0 | WeightType::Q6K) {
        return acc;
    }
    m.mul_add(x.scaled_sum(), acc)
}

/// The dot product of a GGUF row of a quantised type with quantised activations: the oracle of
/// `gemm`, bit for bit.
#[must_use]
pub fn dot_row(weight: WeightType, row: &[u8], x: &[impl QuantizedActs]) -> f32 {
    x.iter().enumerate().fold(0.0, |acc, (idx, x)| dot_sub(weight, &sub(weight, row, idx), x, acc))
}

/// Rows of activations times panels.
pub(crate) fn gemm(
    panels: Panels<'_>,
    acts: &[impl QuantizedActs],
    put: Put,
    mut out: Columns<'_, f32>,
) {
    let blocks = panels.k / ACT_BLOCK;
    for (p, panel) in panels.bytes.chunks_exact(panels.panel_bytes).enumerate() {
        for (i, x) in acts.chunks_exact(blocks).enumerate() {
            let values = std::array::from_fn(|row| {
                x.iter().enumerate().fold(0.0, |acc, (idx, x)| {
                    dot_sub(panels.weight, &unpack_sub(panels.weight, panel, row, idx), x, acc)
                })
            });
            put_row(&mut out.row(i)[p * PANEL_ROWS..], &values, put);
        }
    }
}

/// The same for float panels: even and odd `k` are summed apart, fused, then added.
pub(crate) fn gemm_f32(panels: Panels<'_>, x: &[f32], put: Put, mut out: Columns<'_, f32>) {
    for (p, panel) in panels.bytes.chunks_exact(panels.panel_bytes).enumerate() {
        for (i, x) in x.chunks_exact(panels.k).enumerate() {
            let values = std::array::from_fn(|row| {
                let mut sums = [0.0f32; 2];
                for (k, x) in x.iter().enumerate() {
                    let w = float_weight(panels.weight, panel, k * PANEL_ROWS + row);
                    sums[k % 2] = w.mul_add(*x, sums[k % 2]);
                }
                sums[0] + sums[1]
            });
            put_row(&mut out.row(i)[p * PANEL_ROWS..], &values, put);
        }
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
