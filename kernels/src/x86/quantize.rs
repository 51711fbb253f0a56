//! Activations to whole numbers with AVX2 and AVX-512.
//! Must never give other bits than the scalar twins in `acts`.
//! Start at [`quantize`].

use std::arch::x86_64::*;

use super::load;
use crate::acts::{ACT_BLOCK, ACT_MAX, ActBlock, SPLIT_SCALE, SplitBlock, unusual_block};

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
        if let Some((d, d_sum)) = unusual_block(amax) {
            *out = ActBlock { d, d_sum, ..ActBlock::default() };
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
        // Packing works within halves of a vector: each then holds the quads 0 1 and 2 3 of its 16 numbers as
        // quads 0, 2 and 1, 3. Within a quad the middle two change places.
        for (i, codes) in codes.into_iter().enumerate() {
            let in_order = _mm256_permute4x64_epi64::<0b11_01_10_00>(codes);
            let middle = _mm256_shufflelo_epi16::<0b11_01_10_00>(in_order);
            let pairs = _mm256_shufflehi_epi16::<0b11_01_10_00>(middle);
            load::put_words8(&mut out.pairs, 8 * i, pairs);
            out.sums[i] = sum_i32(_mm256_madd_epi16(codes, _mm256_set1_epi16(1)));
        }
        out.d = amax / ACT_MAX;
        out.d_sum = out.d * (out.sums[0] + out.sums[1]) as f32;
    }
}

/// The same, a block in two vectors.
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq")]
pub(crate) fn quantize_avx512(x: &[f32], out: &mut [ActBlock]) {
    for (x, out) in x.as_chunks::<ACT_BLOCK>().0.iter().zip(out) {
        let x = [load::f32x16s(x, 0), load::f32x16s(x, 16)];
        let amax = amax_avx512(x);
        if let Some((d, d_sum)) = unusual_block(amax) {
            *out = ActBlock { d, d_sum, ..ActBlock::default() };
            continue;
        }
        let inverse = _mm512_set1_ps(ACT_MAX / amax);
        let words = [
            _mm512_cvtps_epi32(_mm512_mul_ps(x[0], inverse)),
            _mm512_cvtps_epi32(_mm512_mul_ps(x[1], inverse)),
        ];
        for i in 0..2 {
            // Within a quad the middle two change places.
            let in_order = _mm512_cvtepi32_epi16(words[i]);
            let middle = _mm256_shufflelo_epi16::<0b11_01_10_00>(in_order);
            let pairs = _mm256_shufflehi_epi16::<0b11_01_10_00>(middle);
            load::put_words8(&mut out.pairs, 8 * i, pairs);
            out.sums[i] = sum_i32(_mm256_madd_epi16(in_order, _mm256_set1_epi16(1)));
        }
        out.d = amax / ACT_MAX;
        out.d_sum = out.d * (out.sums[0] + out.sums[1]) as f32;
    }
}

/// The same numbers, in two parts.
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq")]
pub(crate) fn split_avx512(x: &[f32], out: &mut [SplitBlock]) {
    let (upper_bits, power) = (_mm512_set1_epi32(!0xffff), _mm512_set1_ps(SPLIT_SCALE));
    for (x, out) in x.as_chunks::<ACT_BLOCK>().0.iter().zip(out) {
        let x = [load::f32x16s(x, 0), load::f32x16s(x, 16)];
        let amax = amax_avx512(x);
        if let Some((d, d_sum)) = unusual_block(amax) {
            *out = SplitBlock { d, d_sum, ..SplitBlock::default() };
            continue;
        }
        let inverse = _mm512_set1_ps(ACT_MAX / amax);
        let mut sum = _mm512_setzero_ps();
        for i in 0..2 {
            const TO_NEAREST: i32 = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
            let number = _mm512_roundscale_ps::<TO_NEAREST>(_mm512_mul_ps(x[i], inverse));
            sum = _mm512_add_ps(sum, number);
            let number = _mm512_mul_ps(number, power);
            let upper =
                _mm512_castsi512_ps(_mm512_and_si512(_mm512_castps_si512(number), upper_bits));
            let parts = [upper, _mm512_sub_ps(number, upper)];
            for (part, out) in parts.into_iter().zip(&mut out.parts) {
                let in_order =
                    _mm512_cvtepi32_epi16(_mm512_srli_epi32::<16>(_mm512_castps_si512(part)));
                // Within a quad the middle two change places.
                let middle = _mm256_shufflelo_epi16::<0b11_01_10_00>(in_order);
                let words = _mm256_shufflehi_epi16::<0b11_01_10_00>(middle);
                load::put_halves16(out, 16 * i, words);
            }
        }
        out.d = amax / ACT_MAX;
        // A sum of whole numbers: exact in any order.
        out.d_sum = out.d * _mm512_reduce_add_ps(sum);
    }
}

/// The largest magnitude of a block; NaN if it has one.
#[inline]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq")]
fn amax_avx512(x: [__m512; 2]) -> f32 {
    let not_sign = _mm512_set1_epi32(0x7fff_ffff);
    let [first, second] = [_mm512_castps_si512(x[0]), _mm512_castps_si512(x[1])];
    let max_bits = _mm512_and_si512(first, not_sign);
    let max_bits = _mm512_max_epu32(max_bits, _mm512_and_si512(second, not_sign));
    let halves = _mm256_max_epu32(
        _mm512_castsi512_si256(max_bits),
        _mm512_extracti64x4_epi64::<1>(max_bits),
    );
    f32::from_bits(max_u32(halves))
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
