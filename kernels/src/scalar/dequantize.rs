//! A GGUF row as f32.
//! Must never know panels or activations.
//! Start at [`dequantize_row`].

use half::{bf16, f16};

use super::sub::sub;
use crate::types::WeightType;

/// Writes a GGUF row as f32: an embedding's row, or a test's oracle.
///
/// # Panics
/// When `row` is not exactly `out.len()` values of `weight`.
pub fn dequantize_row(weight: WeightType, row: &[u8], out: &mut [f32]) {
    assert_eq!(
        weight.row_bytes(out.len()),
        Some(row.len()),
        "a row of {} values of {weight:?} was given as {} bytes",
        out.len(),
        row.len()
    );
    match weight {
        WeightType::F32 => {
            for (out, bytes) in out.iter_mut().zip(row.as_chunks::<4>().0) {
                *out = f32::from_le_bytes(*bytes);
            }
        }
        WeightType::F16 => {
            for (out, bytes) in out.iter_mut().zip(row.as_chunks::<2>().0) {
                *out = f16::from_le_bytes(*bytes).to_f32_const();
            }
        }
        WeightType::BF16 => {
            for (out, bytes) in out.iter_mut().zip(row.as_chunks::<2>().0) {
                *out = bf16::from_le_bytes(*bytes).to_f32_const();
            }
        }
        _ => {
            for (idx, out) in out.chunks_exact_mut(32).enumerate() {
                let block = sub(weight, row, idx);
                let (d, m) = block.scale_min(weight);
                for (out, code) in out.iter_mut().zip(block.signed_codes(weight)) {
                    *out = d * code as f32 + m;
                }
            }
        }
    }
}
