//! Tiles of the types with unsigned 4- and 5-bit codes: Q4_0, Q4_1, Q4_K, Q5_0, Q5_1, Q5_K.
//! Must never know how columns are cut.
//! Start at [`tile`].
//!
//! `pmaddubsw` meets eight rows x four unsigned codes with one broadcast of four int8: the high parts of the
//! activations, then the low ones. Head-room of its i16 sums: with high parts (at most 127) 4-bit codes give
//! at most 2 x 15 x 127 = 3810 each, so all 8 groups of a block fit (30,480); 5-bit codes give 7874, so 4
//! groups fit (31,496). With low parts (at most 16) all groups fit.

use std::arch::x86_64::*;

use super::load;
use crate::acts::{ActBlock, HIGH_SHIFT};
use crate::layout::{Format, Min};

/// `NH` halves (8 rows each, from `half` on) of a panel times `NC` columns of the same length.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn tile<F: Format, const NC: usize, const NH: usize>(
    panel: &[u8],
    cols: [&[ActBlock]; NC],
    half: usize,
) -> [[__m256; NH]; NC] {
    let n_blocks = cols[0].len();
    let cols = super::of_length(cols, n_blocks);
    let high_unit = _mm256_set1_epi16(1 << HIGH_SHIFT);
    let mut acc = [[_mm256_setzero_ps(); NH]; NC];
    for b in 0..n_blocks {
        let (sub, tail) = F::sub(panel, b);
        let mut high = [[_mm256_setzero_si256(); NH]; NC];
        let mut low = [[_mm256_setzero_si256(); NH]; NC];
        macro_rules! groups {
            ($($g:literal)*) => {$(
                let mut w = [_mm256_setzero_si256(); NH];
                for h in 0..NH {
                    w[h] = codes::<F, $g>(sub, half + h);
                }
                for c in 0..NC {
                    let x = _mm256_set1_epi32(cols[c][b].high[$g]);
                    for h in 0..NH {
                        high[c][h] = _mm256_add_epi16(high[c][h], _mm256_maddubs_epi16(w[h], x));
                    }
                    let x = _mm256_set1_epi32(cols[c][b].low[$g]);
                    for h in 0..NH {
                        low[c][h] = _mm256_add_epi16(low[c][h], _mm256_maddubs_epi16(w[h], x));
                    }
                }
            )*};
        }
        let mut totals = [[_mm256_setzero_si256(); NH]; NC];
        if F::BITS == 4 {
            groups!(0 4 1 5 2 6 3 7);
        } else {
            groups!(0 1 2 3);
            for c in 0..NC {
                for h in 0..NH {
                    totals[c][h] = _mm256_madd_epi16(high[c][h], high_unit);
                    high[c][h] = _mm256_setzero_si256();
                }
            }
            groups!(4 5 6 7);
        }
        for h in 0..NH {
            let (d, m) = scale_min::<F>(sub, tail, half + h);
            for c in 0..NC {
                let x = &cols[c][b];
                let sum = _mm256_madd_epi16(low[c][h], _mm256_set1_epi16(1));
                let sum = _mm256_add_epi32(sum, _mm256_madd_epi16(high[c][h], high_unit));
                let sum = _mm256_add_epi32(sum, totals[c][h]);
                let scale = _mm256_mul_ps(d, _mm256_set1_ps(x.d));
                acc[c][h] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(sum), scale, acc[c][h]);
                acc[c][h] = _mm256_fmadd_ps(m, _mm256_set1_ps(x.d_sum), acc[c][h]);
            }
        }
    }
    acc
}

/// The codes of group `G`: eight rows x four values.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn codes<F: Format, const G: usize>(sub: &[u8], half: usize) -> __m256i {
    let nibbles = load::bytes32(sub, G % 4 * 64 + half * 32);
    let shifted = if G < 4 { nibbles } else { _mm256_srli_epi16::<4>(nibbles) };
    let low = _mm256_and_si256(shifted, _mm256_set1_epi8(15));
    if F::BITS == 4 {
        return low;
    }
    let plane = load::bytes32(sub, F::PLANE_AT + half * 32);
    let bit = match G {
        0 => _mm256_slli_epi16::<4>(plane),
        1 => _mm256_slli_epi16::<3>(plane),
        2 => _mm256_slli_epi16::<2>(plane),
        3 => _mm256_slli_epi16::<1>(plane),
        4 => plane,
        5 => _mm256_srli_epi16::<1>(plane),
        6 => _mm256_srli_epi16::<2>(plane),
        _ => _mm256_srli_epi16::<3>(plane),
    };
    _mm256_or_si256(low, _mm256_and_si256(bit, _mm256_set1_epi8(16)))
}

/// Scale and minimum of eight rows. A 6-bit scale times an f16 is exact in f32.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn scale_min<F: Format>(sub: &[u8], tail: &[u8], half: usize) -> (__m256, __m256) {
    let d = load::f16x8(tail, 16 * half);
    match F::LAYOUT.min {
        Min::TimesScale(zero) => (d, _mm256_mul_ps(d, _mm256_set1_ps(zero))),
        Min::Own => (d, load::f16x8(tail, 32 + 16 * half)),
        Min::Scaled => {
            let m = _mm256_xor_ps(load::f16x8(tail, 32 + 16 * half), _mm256_set1_ps(-0.0));
            let scale = load::u8x8(sub, F::SCALES_AT + 8 * half);
            let min = load::u8x8(sub, F::MINS_AT + 8 * half);
            (_mm256_mul_ps(d, _mm256_cvtepi32_ps(scale)), _mm256_mul_ps(m, _mm256_cvtepi32_ps(min)))
        }
        Min::None => (d, _mm256_setzero_ps()),
    }
}
