//! Tiles of Q8_0: signed codes, which `pmaddubsw` does not take, so codes and activations meet as i16.
//! Must never know how columns are cut.
//! Start at [`tile`]. Giving the weight's sign to both int8 parts of the activation takes nearly twice as many
//! instructions.

use std::arch::x86_64::*;

use super::load;
use crate::acts::{ActBlock, HIGH_SHIFT};
use crate::layout::{Format, Q8_0};

/// `NH` halves (8 rows each, from `half` on) of a panel times `NC` columns of the same length.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn tile<const NC: usize, const NH: usize>(
    panel: &[u8],
    cols: [&[ActBlock]; NC],
    half: usize,
) -> [[__m256; NH]; NC] {
    let n_blocks = cols[0].len();
    let cols = super::of_length(cols, n_blocks);
    let mut acc = [[_mm256_setzero_ps(); NH]; NC];
    for b in 0..n_blocks {
        let (sub, tail) = Q8_0::sub(panel, b);
        let mut quads = [[0; 8]; NC];
        for c in 0..NC {
            quads[c] = wide(&cols[c][b]);
        }
        // Per row two sums, side by side: rows 0..4, then rows 4..8.
        let mut sums = [[[_mm256_setzero_si256(); 2]; NH]; NC];
        for g in 0..8 {
            for h in 0..NH {
                let w = load::bytes32(sub, g * 64 + (half + h) * 32);
                let first = _mm256_cvtepi8_epi16(_mm256_castsi256_si128(w));
                let second = _mm256_cvtepi8_epi16(_mm256_extracti128_si256::<1>(w));
                for c in 0..NC {
                    let x = _mm256_set1_epi64x(quads[c][g]);
                    let s = &mut sums[c][h];
                    s[0] = _mm256_add_epi32(s[0], _mm256_madd_epi16(first, x));
                    s[1] = _mm256_add_epi32(s[1], _mm256_madd_epi16(second, x));
                }
            }
        }
        for h in 0..NH {
            let d = load::f16x8(tail, 16 * (half + h));
            for c in 0..NC {
                let pairs = _mm256_hadd_epi32(sums[c][h][0], sums[c][h][1]);
                let sum = _mm256_permute4x64_epi64::<0b11_01_10_00>(pairs);
                let scale = _mm256_mul_ps(d, _mm256_set1_ps(cols[c][b].d));
                acc[c][h] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(sum), scale, acc[c][h]);
            }
        }
    }
    acc
}

/// The numbers of a block as i16, four a word.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn wide(x: &ActBlock) -> [i64; 8] {
    let mut quads = [0; 8];
    let (high, low) = (load::words8(&x.high), load::words8(&x.low));
    let high = [_mm256_castsi256_si128(high), _mm256_extracti128_si256::<1>(high)];
    let low = [_mm256_castsi256_si128(low), _mm256_extracti128_si256::<1>(low)];
    for i in 0..2 {
        let high = _mm256_slli_epi16::<{ HIGH_SHIFT as i32 }>(_mm256_cvtepi8_epi16(high[i]));
        let both = _mm256_add_epi16(high, _mm256_cvtepi8_epi16(low[i]));
        load::put_quads4(&mut quads, 4 * i, both);
    }
    quads
}
