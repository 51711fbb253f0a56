//! Tiles of Q6_K: 6-bit codes minus 32, one signed scale for 16 values.
//! Must never know how columns are cut.
//! Start at [`tile`].
//!
//! A pair of products is at most 2 x 63 x 127 = 16,002, so two fit i16 (32,004). The scales
//! multiply in whole numbers: a block's sum is at most 32 x 32 x 127 x 128 < 2^24 and exact in f32.

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
    let cols = cols.map(|col| &col[..n_blocks]);
    let mut acc = [[_mm256_setzero_ps(); NH]; NC];
    for b in 0..n_blocks {
        let (sub, tail) = Q6K::sub(panel, b);
        let mut scales = [[_mm256_setzero_si256(); 2]; NH];
        let mut totals = [[_mm256_setzero_si256(); NH]; NC];
        for h in 0..NH {
            let at = Q6K::SCALES_AT + 8 * (half + h);
            let (first, second) = (load::i8x8(sub, at), load::i8x8(sub, at + 16));
            scales[h] = [twice(first), twice(second)];
            let both = _mm256_blend_epi16::<0b1010_1010>(first, _mm256_slli_epi32::<16>(second));
            for c in 0..NC {
                let sums = _mm256_set1_epi32(cols[c][b].sums_word());
                let offset = _mm256_slli_epi32::<5>(_mm256_madd_epi16(both, sums));
                totals[c][h] = _mm256_sub_epi32(_mm256_setzero_si256(), offset);
            }
        }
        macro_rules! pair {
            ($g:literal, $next:literal) => {
                let mut w = [[_mm256_setzero_si256(); 2]; NH];
                for h in 0..NH {
                    w[h] = [codes::<$g>(sub, half + h), codes::<$next>(sub, half + h)];
                }
                for c in 0..NC {
                    let x = _mm256_set1_epi32(cols[c][b].quads[$g]);
                    let y = _mm256_set1_epi32(cols[c][b].quads[$next]);
                    for h in 0..NH {
                        let first = _mm256_maddubs_epi16(w[h][0], x);
                        let sum = _mm256_add_epi16(first, _mm256_maddubs_epi16(w[h][1], y));
                        let scaled = _mm256_madd_epi16(sum, scales[h][$g / 4]);
                        totals[c][h] = _mm256_add_epi32(totals[c][h], scaled);
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
