//! Tiles of Q6_K: 6-bit codes minus 32, one signed scale for 16 values.
//! Must never know how columns are cut.
//! Start at [`tile`].
//!
//! A pair of products with high parts is at most 2 x 63 x 127 = 16,002, so two fit i16 (32,004). The scales
//! multiply in whole numbers: a block's sum is at most 32 x 63 x 4064 x 128 < 2^31, and is rounded once, when
//! it becomes f32.

use std::arch::x86_64::*;

use super::load;
use crate::acts::ActBlock;
use crate::layout::{Format, Q6K};

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
        let (sub, tail) = Q6K::sub(panel, b);
        let mut scales = [[_mm256_setzero_si256(); 2]; NH];
        let mut totals = [[_mm256_setzero_si256(); NH]; NC];
        for h in 0..NH {
            let at = Q6K::SCALES_AT + 8 * (half + h);
            let both = [load::i8x8(sub, at), load::i8x8(sub, at + 16)];
            scales[h] = [twice(both[0]), twice(both[1])];
            for c in 0..NC {
                let sums = cols[c][b].sums;
                let first = _mm256_mullo_epi32(both[0], _mm256_set1_epi32(-32 * sums[0]));
                let second = _mm256_mullo_epi32(both[1], _mm256_set1_epi32(-32 * sums[1]));
                totals[c][h] = _mm256_add_epi32(first, second);
            }
        }
        macro_rules! pair {
            ($g:literal, $next:literal) => {
                let mut w = [[_mm256_setzero_si256(); 2]; NH];
                for h in 0..NH {
                    w[h] = [codes::<$g>(sub, half + h), codes::<$next>(sub, half + h)];
                }
                for c in 0..NC {
                    let x = &cols[c][b];
                    let high = [_mm256_set1_epi32(x.high[$g]), _mm256_set1_epi32(x.high[$next])];
                    let low = [_mm256_set1_epi32(x.low[$g]), _mm256_set1_epi32(x.low[$next])];
                    for h in 0..NH {
                        let high = dot(w[h], high);
                        let high =
                            _mm256_madd_epi16(high, _mm256_slli_epi16::<5>(scales[h][$g / 4]));
                        let low = _mm256_madd_epi16(dot(w[h], low), scales[h][$g / 4]);
                        totals[c][h] = _mm256_add_epi32(totals[c][h], _mm256_add_epi32(high, low));
                    }
                }
            };
        }
        pair!(0, 1);
        pair!(2, 3);
        pair!(4, 5);
        pair!(6, 7);
        for h in 0..NH {
            let d = load::f16x8(tail, 16 * (half + h));
            for c in 0..NC {
                let scale = _mm256_mul_ps(d, _mm256_set1_ps(cols[c][b].d));
                acc[c][h] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(totals[c][h]), scale, acc[c][h]);
            }
        }
    }
    acc
}

/// Two groups of codes times two groups of activation parts, in i16.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn dot(w: [__m256i; 2], x: [__m256i; 2]) -> __m256i {
    _mm256_add_epi16(_mm256_maddubs_epi16(w[0], x[0]), _mm256_maddubs_epi16(w[1], x[1]))
}

/// An i32 in i16 range, in both halves of its word.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn twice(v: __m256i) -> __m256i {
    _mm256_blend_epi16::<0b1010_1010>(v, _mm256_slli_epi32::<16>(v))
}

/// The codes of group `G`: eight rows x four values, 0 to 63.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn codes<const G: usize>(sub: &[u8], half: usize) -> __m256i {
    let nibbles = load::bytes32(sub, G % 4 * 64 + half * 32);
    let plane = load::bytes32(sub, Q6K::PLANE_AT + G / 4 * 64 + half * 32);
    let low = if G < 4 { nibbles } else { _mm256_srli_epi16::<4>(nibbles) };
    let high = match G % 4 {
        0 => _mm256_slli_epi16::<4>(plane),
        1 => _mm256_slli_epi16::<2>(plane),
        2 => plane,
        _ => _mm256_srli_epi16::<2>(plane),
    };
    _mm256_or_si256(
        _mm256_and_si256(low, _mm256_set1_epi8(15)),
        _mm256_and_si256(high, _mm256_set1_epi8(0x30)),
    )
}
