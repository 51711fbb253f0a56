//! Tiles of f16, bf16 and f32 panels, converted in registers.
//! Must never know how columns are cut.
//! Start at [`tile`]. Even and odd `k` have their own sums, or one column would wait for each
//! addition.

use std::arch::x86_64::*;

use super::load;
use crate::layout::PANEL_ROWS;

/// A float type as a type.
pub(super) trait FloatWeight {
    const BYTES: usize;
    const IS_HALF: bool;
}
pub(super) struct F16;
pub(super) struct BF16;
pub(super) struct F32;
impl FloatWeight for F16 {
    const BYTES: usize = 2;
    const IS_HALF: bool = true;
}
impl FloatWeight for BF16 {
    const BYTES: usize = 2;
    const IS_HALF: bool = false;
}
impl FloatWeight for F32 {
    const BYTES: usize = 4;
    const IS_HALF: bool = false;
}

/// A panel times `NC` columns of the same length.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn tile<W: FloatWeight, const NC: usize>(
    panel: &[u8],
    cols: [&[f32]; NC],
) -> [[__m256; 2]; NC] {
    let n_pairs = cols[0].len() / 2;
    let pairs = cols.map(|col| &col.as_chunks::<2>().0[..n_pairs]);
    let mut acc = [[[_mm256_setzero_ps(); 2]; 2]; NC];
    let pair_bytes = 2 * PANEL_ROWS * W::BYTES;
    let (body, rest) = panel.split_at(n_pairs * pair_bytes);
    for (i, weights) in body.chunks_exact(pair_bytes).enumerate() {
        for odd in 0..2 {
            let w = [weights8::<W>(weights, 2 * odd), weights8::<W>(weights, 2 * odd + 1)];
            for c in 0..NC {
                let x = _mm256_set1_ps(pairs[c][i][odd]);
                for h in 0..2 {
                    acc[c][odd][h] = _mm256_fmadd_ps(w[h], x, acc[c][odd][h]);
                }
            }
        }
    }
    let mut out = [[_mm256_setzero_ps(); 2]; NC];
    for c in 0..NC {
        for h in 0..2 {
            if let [x] = cols[c][2 * n_pairs..] {
                let w = weights8::<W>(rest, h);
                acc[c][0][h] = _mm256_fmadd_ps(w, _mm256_set1_ps(x), acc[c][0][h]);
            }
            out[c][h] = _mm256_add_ps(acc[c][0][h], acc[c][1][h]);
        }
    }
    out
}

/// Eight weights, the `idx`-th eight of `panel`.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn weights8<W: FloatWeight>(panel: &[u8], idx: usize) -> __m256 {
    if W::BYTES == 4 {
        load::f32x8(panel, 32 * idx)
    } else if W::IS_HALF {
        load::f16x8(panel, 16 * idx)
    } else {
        load::bf16x8(panel, 16 * idx)
    }
}
