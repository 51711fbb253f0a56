//! Tiles of Q8_0: signed codes, which `pmaddubsw` does not take, so the weight's sign goes to the
//! activation.
//! Must never know how columns are cut.
//! Start at [`tile`]. Widening both sides to i16, and splitting the codes into nibbles, were
//! measured and are slower.

use std::arch::x86_64::*;

use super::load;
use crate::acts::ActBlock;
use crate::layout::{Format, Q8_0};

/// `NH` halves (8 rows each, from `half` on) of a panel times `NC` columns of the same length.
/// |code| <= 128 and |activation| <= 127, so a pair is at most 32,512 and fits i16, but a second
/// pair would not.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn tile<const NC: usize, const NH: usize>(
    panel: &[u8],
    cols: [&[ActBlock]; NC],
    half: usize,
) -> [[__m256; NH]; NC] {
    let n_blocks = cols[0].len();
    let cols = cols.map(|col| &col[..n_blocks]);
    let ones = _mm256_set1_epi16(1);
    let mut acc = [[_mm256_setzero_ps(); NH]; NC];
    for b in 0..n_blocks {
        let (sub, tail) = Q8_0::sub(panel, b);
        let mut sums = [[_mm256_setzero_si256(); NH]; NC];
        for g in 0..8 {
            for h in 0..NH {
                let w = load::bytes32(sub, g * 64 + (half + h) * 32);
                let size = _mm256_abs_epi8(w);
                for c in 0..NC {
                    let x = _mm256_sign_epi8(_mm256_set1_epi32(cols[c][b].quads[g]), w);
                    let pairs = _mm256_madd_epi16(ones, _mm256_maddubs_epi16(size, x));
                    sums[c][h] = _mm256_add_epi32(sums[c][h], pairs);
                }
            }
        }
        for h in 0..NH {
            let d = load::f16x8(tail, 16 * (half + h));
            for c in 0..NC {
                let scale = _mm256_mul_ps(d, _mm256_set1_ps(cols[c][b].d));
                acc[c][h] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(sums[c][h]), scale, acc[c][h]);
            }
        }
    }
    acc
}
