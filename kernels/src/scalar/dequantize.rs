//! A row of weights as f32: of a GGUF file, or of a panel.
//! Must never know activations.
//! Start at [`dequantize_row`].

use half::{bf16, f16};

use super::repack::stored_sub;
use super::sub::Sub;
use crate::layout::{PANEL_ROWS, panel_bytes};
use crate::pack::unpack_sub;
use crate::stored::StoredType;
use crate::types::WeightType;

/// Writes a stored row as f32: an embedding's row, or a test's oracle.
///
/// # Panics
/// When `row` is not exactly `out.len()` values of `stored`.
pub fn dequantize_row(stored: impl Into<StoredType>, row: &[u8], out: &mut [f32]) {
    let stored = stored.into();
    let weight = stored.packed();
    assert_eq!(
        stored.row_bytes(out.len()),
        Some(row.len()),
        "a row of {} values of {stored:?} was given as {} bytes",
        out.len(),
        row.len()
    );
    match weight {
        WeightType::F32 => put_f32(row.as_chunks().0.iter(), out),
        WeightType::F16 => put_f16(row.as_chunks().0.iter(), out),
        WeightType::BF16 => put_bf16(row.as_chunks().0.iter(), out),
        _ => put_subs(weight, |idx| stored_sub(stored, row, idx), out),
    }
}

/// Writes row `row` of a panel as f32, with the bits that [`dequantize_row`] gives of the row that was packed.
///
/// # Panics
/// When `row` is over 15, or the panel is not one of `out.len()` values of `weight`.
pub fn dequantize_panel_row(weight: WeightType, panel: &[u8], row: usize, out: &mut [f32]) {
    assert!(row < PANEL_ROWS, "row {row} is outside of a panel of {PANEL_ROWS}");
    assert_eq!(
        panel_bytes(weight, out.len()),
        Some(panel.len()),
        "a panel of {} values of {weight:?} was given as {} bytes",
        out.len(),
        panel.len()
    );
    match weight {
        WeightType::F32 => put_f32(panel.as_chunks().0.iter().skip(row).step_by(PANEL_ROWS), out),
        WeightType::F16 => put_f16(panel.as_chunks().0.iter().skip(row).step_by(PANEL_ROWS), out),
        WeightType::BF16 => put_bf16(panel.as_chunks().0.iter().skip(row).step_by(PANEL_ROWS), out),
        _ => put_subs(weight, |idx| unpack_sub(weight, panel, row, idx), out),
    }
}

fn put_f32<'a>(values: impl Iterator<Item = &'a [u8; 4]>, out: &mut [f32]) {
    out.iter_mut().zip(values).for_each(|(out, bytes)| *out = f32::from_le_bytes(*bytes));
}

fn put_f16<'a>(values: impl Iterator<Item = &'a [u8; 2]>, out: &mut [f32]) {
    let to_f32 = |bytes: &[u8; 2]| f16::from_le_bytes(*bytes).to_f32_const();
    out.iter_mut().zip(values).for_each(|(out, bytes)| *out = to_f32(bytes));
}

fn put_bf16<'a>(values: impl Iterator<Item = &'a [u8; 2]>, out: &mut [f32]) {
    let to_f32 = |bytes: &[u8; 2]| bf16::from_le_bytes(*bytes).to_f32_const();
    out.iter_mut().zip(values).for_each(|(out, bytes)| *out = to_f32(bytes));
}

fn put_subs(weight: WeightType, sub: impl Fn(usize) -> Sub, out: &mut [f32]) {
    for (idx, out) in out.chunks_exact_mut(32).enumerate() {
        let block = sub(idx);
        let (d, m) = block.scale_min(weight);
        for (out, code) in out.iter_mut().zip(block.signed_codes(weight)) {
            *out = d * code as f32 + m;
        }
    }
}
