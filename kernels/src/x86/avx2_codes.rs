//! Tiles of the quantised types.
//! Must never know how columns are cut.
//! Start at [`tile`].
//!
//! Codes become i16 in registers and two `pmaddwd` meet twice eight rows x two of them with one broadcast of two
//! activations. Its sums are i32 and have room for a block of any type: 32 x 128 x 4064 < 2^24. Q6_K's scales
//! multiply in whole numbers: 32 x 32 x 4064 x 128 < 2^30, rounded once, when it becomes f32.

use std::arch::asm;
use std::arch::x86_64::*;

use super::load;
use crate::acts::ActBlock;
use crate::layout::{Format, Min};

/// A panel, in halves of 8 rows, times `NC` columns of the same length. Where the panel `is_first` read here, what lies behind it is
/// fetched.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn tile<F: Format, const NC: usize>(
    panel: &[u8],
    cols: [&[ActBlock]; NC],
    is_first: bool,
) -> [[__m256; 2]; NC] {
    let n_blocks = cols[0].len();
    let cols = super::of_length(cols, n_blocks);
    let mut acc = [[_mm256_setzero_ps(); 2]; NC];
    for b in 0..n_blocks {
        let (sub, tail) = F::sub(panel, b);
        if is_first {
            load::prefetch_ahead(
                sub,
                if NC == 1 { load::FAR_ALONE } else { load::FAR },
                load::NEAR,
            );
        }
        let mut sums = [[_mm256_setzero_si256(); 2]; NC];
        macro_rules! words {
            ($($word:literal)*) => {$(
                let codes = [pairs::<F, $word>(sub, 0), pairs::<F, $word>(sub, 1)];
                for c in 0..NC {
                    sums[c] = dot_both::<$word>(sums[c], codes, &cols[c][b]);
                }
            )*};
        }
        if F::BITS == 6 {
            // The codes are 32 too large.
            for c in 0..NC {
                sums[c] = [_mm256_set1_epi32(-32 * cols[c][b].sums[0]); 2];
            }
            words!(0 1 2 3 4 5 6 7);
            let first = sums;
            for c in 0..NC {
                sums[c] = [_mm256_set1_epi32(-32 * cols[c][b].sums[1]); 2];
            }
            words!(8 9 10 11 12 13 14 15);
            for h in 0..2 {
                let at = F::SCALES_AT + 8 * h;
                let scales = [load::i8x8(sub, at), load::i8x8(sub, at + 16)];
                for c in 0..NC {
                    let first = _mm256_mullo_epi32(first[c][h], scales[0]);
                    let second = _mm256_mullo_epi32(sums[c][h], scales[1]);
                    sums[c][h] = _mm256_add_epi32(first, second);
                }
            }
        } else {
            // Words whose codes lie in the same bytes, one after the other.
            words!(0 1 8 9 2 3 10 11 4 5 12 13 6 7 14 15);
        }
        for h in 0..2 {
            let (d, m) = scale_min::<F>(sub, tail, h);
            for c in 0..NC {
                let x = &cols[c][b];
                let scale = _mm256_mul_ps(d, _mm256_set1_ps(x.d));
                acc[c][h] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(sums[c][h]), scale, acc[c][h]);
                if !matches!(F::LAYOUT.min, Min::None) {
                    acc[c][h] = _mm256_fmadd_ps(m, _mm256_set1_ps(x.d_sum), acc[c][h]);
                }
            }
        }
    }
    acc
}

/// Adds the products of both halves of a panel, eight rows x two codes each, with word `W` of a block of activations. These are computed
/// in the order in which they are written: the compiler would take one column after another, and put the codes of all words on the stack.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn dot_both<const W: usize>(
    sums: [__m256i; 2],
    codes: [__m256i; 2],
    x: &ActBlock,
) -> [__m256i; 2] {
    const { assert!(W < 16, "a block has 16 words") };
    let [mut upper, mut lower] = sums;
    // SAFETY: it reads the four bytes of word `W`, and changes nothing but registers.
    unsafe {
        asm!(
            "vpbroadcastd {word}, dword ptr [{words} + {at}]",
            "vpmaddwd {product}, {word}, {upper_codes}",
            "vpmaddwd {word}, {word}, {lower_codes}",
            "vpaddd {upper}, {upper}, {product}",
            "vpaddd {lower}, {lower}, {word}",
            word = out(ymm_reg) _,
            product = out(ymm_reg) _,
            words = in(reg) x.pairs.as_ptr(),
            at = const 4 * W,
            upper_codes = in(ymm_reg) codes[0],
            lower_codes = in(ymm_reg) codes[1],
            upper = inout(ymm_reg) upper,
            lower = inout(ymm_reg) lower,
            options(readonly, nostack, preserves_flags),
        );
    }
    [upper, lower]
}

/// The codes that meet word `W` of the activations: eight rows x two values.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn pairs<F: Format, const W: usize>(sub: &[u8], half: usize) -> __m256i {
    let group = W / 2;
    let is_odd = W % 2 == 1;
    if F::BITS == 8 {
        let bytes = load::bytes32(sub, group * 64 + half * 32);
        let upper = if is_odd { bytes } else { _mm256_slli_epi16::<8>(bytes) };
        return _mm256_srai_epi16::<8>(upper);
    }
    let bytes = load::bytes32(sub, group % 4 * 64 + half * 32);
    if F::BITS == 4 {
        let nibble = _mm256_set1_epi16(15);
        return match (group < 4, is_odd) {
            (true, false) => _mm256_and_si256(bytes, nibble),
            (true, true) => _mm256_and_si256(_mm256_srli_epi16::<8>(bytes), nibble),
            (false, false) => _mm256_and_si256(_mm256_srli_epi16::<4>(bytes), nibble),
            (false, true) => _mm256_srli_epi16::<12>(bytes),
        };
    }
    let shifted = if group < 4 { bytes } else { _mm256_srli_epi16::<4>(bytes) };
    let low = _mm256_and_si256(shifted, _mm256_set1_epi8(15));
    // The upper bits, from the bit `at` of each byte of a plane on, become the bits from 4 on.
    let (plane_at, at, bits) = match F::BITS {
        5 => (F::PLANE_AT, group as i32, 0x10),
        _ => (F::PLANE_AT + group / 4 * 64, group as i32 % 4 * 2, 0x30),
    };
    let plane = load::bytes32(sub, plane_at + half * 32);
    let moved = if at < 4 {
        _mm256_sll_epi16(plane, _mm_cvtsi32_si128(4 - at))
    } else {
        _mm256_srl_epi16(plane, _mm_cvtsi32_si128(at - 4))
    };
    let codes = _mm256_or_si256(low, _mm256_and_si256(moved, _mm256_set1_epi8(bits)));
    if is_odd {
        _mm256_srli_epi16::<8>(codes)
    } else {
        _mm256_and_si256(codes, _mm256_set1_epi16(0xff))
    }
}

/// Scale and minimum of eight rows. A 6-bit scale times an f16 is exact in f32.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn scale_min<F: Format>(sub: &[u8], tail: &[u8], half: usize) -> (__m256, __m256) {
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
