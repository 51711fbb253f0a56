//! Activations to whole numbers with AVX2.
//! Must never give other bits than the scalar twin in `acts`.
//! Start at [`quantize`].

use std::arch::x86_64::*;

use super::load;
use crate::acts::{ACT_BLOCK, ACT_MAX, ActBlock, HIGH_SHIFT, unusual_block};

const SHIFT: i32 = HIGH_SHIFT as i32;

/// Quantises blocks of 32 values.
#[target_feature(enable = "avx2,fma,f16c")]
pub(crate) fn quantize(x: &[f32], out: &mut [ActBlock]) {
    let not_sign = _mm256_set1_epi32(0x7fff_ffff);
    for (x, out) in x.as_chunks::<ACT_BLOCK>().0.iter().zip(out) {
        let x = [load::f32s(x, 0), load::f32s(x, 8), load::f32s(x, 16), load::f32s(x, 24)];
        let mut max_bits = _mm256_setzero_si256();
        for x in x {
            let bits = _mm256_and_si256(_mm256_castps_si256(x), not_sign);
            max_bits = _mm256_max_epu32(max_bits, bits);
        }
        let amax = f32::from_bits(max_u32(max_bits));
        if let Some(block) = unusual_block(amax) {
            *out = block;
            continue;
        }
        let inverse = _mm256_set1_ps(ACT_MAX / amax);
        // Closures are not compiled for the instruction set of their function: loops are.
        let mut words = [_mm256_setzero_si256(); 4];
        for i in 0..4 {
            words[i] = _mm256_cvtps_epi32(_mm256_mul_ps(x[i], inverse));
        }
        let codes =
            [_mm256_packs_epi32(words[0], words[1]), _mm256_packs_epi32(words[2], words[3])];
        let half = _mm256_set1_epi16(1 << HIGH_SHIFT >> 1);
        let (mut high, mut low) = (codes, codes);
        for i in 0..2 {
            high[i] = _mm256_srai_epi16::<SHIFT>(_mm256_add_epi16(codes[i], half));
            low[i] = _mm256_sub_epi16(codes[i], _mm256_slli_epi16::<SHIFT>(high[i]));
        }
        // Packing works within halves of a vector: this puts the words back in order.
        let order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
        let high = _mm256_permutevar8x32_epi32(_mm256_packs_epi16(high[0], high[1]), order);
        let low = _mm256_permutevar8x32_epi32(_mm256_packs_epi16(low[0], low[1]), order);
        load::put_words8(&mut out.high, high);
        load::put_words8(&mut out.low, low);
        let ones = _mm256_set1_epi16(1);
        for i in 0..2 {
            out.sums[i] = sum_i32(_mm256_madd_epi16(codes[i], ones));
        }
        out.d = amax / ACT_MAX;
        out.d_sum = out.d * out.sum() as f32;
    }
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn max_u32(v: __m256i) -> u32 {
    let v = _mm_max_epu32(_mm256_castsi256_si128(v), _mm256_extracti128_si256::<1>(v));
    let v = _mm_max_epu32(v, _mm_shuffle_epi32::<0b01_00_11_10>(v));
    let v = _mm_max_epu32(v, _mm_shuffle_epi32::<0b10_11_00_01>(v));
    _mm_cvtsi128_si32(v).cast_unsigned()
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn sum_i32(v: __m256i) -> i32 {
    let v = _mm_add_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256::<1>(v));
    let v = _mm_add_epi32(v, _mm_shuffle_epi32::<0b01_00_11_10>(v));
    _mm_cvtsi128_si32(_mm_add_epi32(v, _mm_shuffle_epi32::<0b10_11_00_01>(v)))
}
