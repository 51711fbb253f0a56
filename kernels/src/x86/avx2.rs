//! A panel times many columns: cuts the columns into tiles of 8, 4, 3, 2 and 1.
//! Must never know a weight's layout. Each column's float operations are the same in every tile.
//! Start at [`panel`].

use std::arch::x86_64::*;
use std::ops::Range;

use super::{avx2_codes, avx2_float, avx2_q6k, avx2_q8_0, load};
use crate::acts::ActBlock;
use crate::layout::{Format, Q4_0, Q4_1, Q4K, Q5_0, Q5_1, Q5K};
use crate::types::WeightType;

/// Where results go: row `i` of the range at `i * stride`.
pub(super) struct Out<'a> {
    pub(super) values: &'a mut [f32],
    pub(super) stride: usize,
}

impl Out<'_> {
    /// Writes `v[column][half]` for the rows from `first` on, halves from `half` on.
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    pub(super) fn put<const NC: usize, const NH: usize>(
        &mut self,
        first: usize,
        half: usize,
        v: [[__m256; NH]; NC],
    ) {
        for (c, column) in v.into_iter().enumerate() {
            for (h, v) in column.into_iter().enumerate() {
                load::put_f32x8(self.values, (first + c) * self.stride + 8 * (half + h), v);
            }
        }
    }
}

/// How many columns the next tile takes. Five to seven are split evenly.
pub(super) fn tile_width(n_left: usize) -> usize {
    match n_left {
        0..=4 => n_left,
        5..=6 => 3,
        7 => 4,
        _ => 8,
    }
}

/// Rows `rows` of `acts` (`blocks` blocks each) through one panel of a quantised type.
#[target_feature(enable = "avx2,fma,f16c")]
pub(crate) fn panel(
    weight: WeightType,
    panel: &[u8],
    acts: &[ActBlock],
    blocks: usize,
    rows: Range<usize>,
    out: &mut [f32],
    stride: usize,
) {
    let mut out = Out { values: out, stride };
    let (mut done, n) = (0, rows.len());
    while done < n {
        let width = tile_width(n - done);
        let acts = &acts[(rows.start + done) * blocks..][..width * blocks];
        match width {
            8 => tile::<8>(weight, panel, acts, blocks, done, &mut out),
            4 => tile::<4>(weight, panel, acts, blocks, done, &mut out),
            3 => tile::<3>(weight, panel, acts, blocks, done, &mut out),
            2 => tile::<2>(weight, panel, acts, blocks, done, &mut out),
            _ => tile::<1>(weight, panel, acts, blocks, done, &mut out),
        }
        done += width;
    }
}

#[target_feature(enable = "avx2,fma,f16c")]
fn tile<const NC: usize>(
    weight: WeightType,
    panel: &[u8],
    acts: &[ActBlock],
    blocks: usize,
    first: usize,
    out: &mut Out<'_>,
) {
    let cols: [&[ActBlock]; NC] = std::array::from_fn(|c| &acts[c * blocks..][..blocks]);
    match weight {
        WeightType::Q4_0 => codes::<Q4_0, NC>(panel, cols, first, out),
        WeightType::Q4_1 => codes::<Q4_1, NC>(panel, cols, first, out),
        WeightType::Q5_0 => codes::<Q5_0, NC>(panel, cols, first, out),
        WeightType::Q5_1 => codes::<Q5_1, NC>(panel, cols, first, out),
        WeightType::Q4K => codes::<Q4K, NC>(panel, cols, first, out),
        WeightType::Q5K => codes::<Q5K, NC>(panel, cols, first, out),
        WeightType::Q6K => {
            if NC > 4 {
                out.put(first, 0, avx2_q6k::tile::<NC, 1>(panel, cols, 0));
                out.put(first, 1, avx2_q6k::tile::<NC, 1>(panel, cols, 1));
            } else {
                out.put(first, 0, avx2_q6k::tile::<NC, 2>(panel, cols, 0));
            }
        }
        WeightType::Q8_0 => {
            if NC > 4 {
                out.put(first, 0, avx2_q8_0::tile::<NC, 1>(panel, cols, 0));
                out.put(first, 1, avx2_q8_0::tile::<NC, 1>(panel, cols, 1));
            } else {
                out.put(first, 0, avx2_q8_0::tile::<NC, 2>(panel, cols, 0));
            }
        }
        WeightType::F16 | WeightType::BF16 | WeightType::F32 => {
            unreachable!("float panels take f32 activations: this is a bug")
        }
    }
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn codes<F: Format, const NC: usize>(
    panel: &[u8],
    cols: [&[ActBlock]; NC],
    first: usize,
    out: &mut Out<'_>,
) {
    if NC > 4 {
        out.put(first, 0, avx2_codes::tile::<F, NC, 1>(panel, cols, 0));
        out.put(first, 1, avx2_codes::tile::<F, NC, 1>(panel, cols, 1));
    } else {
        out.put(first, 0, avx2_codes::tile::<F, NC, 2>(panel, cols, 0));
    }
}

/// Rows `rows` of `x` (`k` values each) through one float panel.
#[target_feature(enable = "avx2,fma,f16c")]
pub(crate) fn panel_f32(
    weight: WeightType,
    panel: &[u8],
    x: &[f32],
    k: usize,
    rows: Range<usize>,
    out: &mut [f32],
    stride: usize,
) {
    let mut out = Out { values: out, stride };
    let (mut done, n) = (0, rows.len());
    while done < n {
        let width = if n - done == 4 { 2 } else { (n - done).min(3) };
        let x = &x[(rows.start + done) * k..][..width * k];
        match width {
            3 => float_tile::<3>(weight, panel, x, k, done, &mut out),
            2 => float_tile::<2>(weight, panel, x, k, done, &mut out),
            _ => float_tile::<1>(weight, panel, x, k, done, &mut out),
        }
        done += width;
    }
}

#[target_feature(enable = "avx2,fma,f16c")]
fn float_tile<const NC: usize>(
    weight: WeightType,
    panel: &[u8],
    x: &[f32],
    k: usize,
    first: usize,
    out: &mut Out<'_>,
) {
    use avx2_float::{BF16, F16, F32, tile};
    let cols: [&[f32]; NC] = std::array::from_fn(|c| &x[c * k..][..k]);
    let v = match weight {
        WeightType::F16 => tile::<F16, NC>(panel, cols),
        WeightType::BF16 => tile::<BF16, NC>(panel, cols),
        _ => tile::<F32, NC>(panel, cols),
    };
    out.put(first, 0, v);
}
