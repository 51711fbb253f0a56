//! The quantised types with AVX-512 VNNI: all 16 rows of a panel in a vector, `vpdpwssd` sums in
//! i32.
//! Must never give other bits than AVX2: the sums are whole numbers, and the float operations are
//! the same.
//! Start at [`gemm`], then [`tile`].

use std::arch::asm;
use std::arch::x86_64::*;
use std::mem::offset_of;

use super::{load, tile_width};
use crate::acts::{ACT_BLOCK, ActBlock};
use crate::columns::Columns;
use crate::dispatch::{Panels, Put, put_row, rows_at_once};
use crate::layout::{Format, Min, PANEL_ROWS, Q4_0, Q4_1, Q4K, Q5_0, Q5_1, Q5K, Q6K, Q8_0};
use crate::types::WeightType;

/// How many columns a tile takes at most: their sums, and what is summed of them in floats, stay in registers. Types with two scales
/// a block have two sums of each.
const fn most_columns<F: Format>() -> usize {
    if F::BITS == 6 { 8 } else { 11 }
}

// `gemm`, and `of_type` behind it, which gives each panel to `one_panel`.
products!("avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni");

#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
fn one_panel<F: Format>(
    panel: &[u8],
    acts: &[ActBlock],
    blocks: usize,
    put: Put,
    out: &mut Columns<'_, f32>,
) {
    let (mut done, n) = (0, out.n_rows());
    while done < n {
        let width = tile_width(n - done, most_columns::<F>());
        let acts = &acts[done * blocks..][..width * blocks];
        match width {
            11 => store::<F, 11>(panel, acts, blocks, done, put, out),
            10 => store::<F, 10>(panel, acts, blocks, done, put, out),
            9 => store::<F, 9>(panel, acts, blocks, done, put, out),
            8 => store::<F, 8>(panel, acts, blocks, done, put, out),
            7 => store::<F, 7>(panel, acts, blocks, done, put, out),
            6 => store::<F, 6>(panel, acts, blocks, done, put, out),
            5 => store::<F, 5>(panel, acts, blocks, done, put, out),
            4 => store::<F, 4>(panel, acts, blocks, done, put, out),
            3 => store::<F, 3>(panel, acts, blocks, done, put, out),
            2 => store::<F, 2>(panel, acts, blocks, done, put, out),
            1 => store::<F, 1>(panel, acts, blocks, done, put, out),
            _ => unreachable!("a tile of {width} columns"),
        }
        done += width;
    }
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
fn store<F: Format, const NC: usize>(
    panel: &[u8],
    acts: &[ActBlock],
    blocks: usize,
    first: usize,
    put: Put,
    out: &mut Columns<'_, f32>,
) {
    // Closures are not compiled for the instruction set of their function: loops are.
    let mut cols = [acts; NC];
    for c in 0..NC {
        cols[c] = &acts[c * blocks..][..blocks];
        load::prefetch_out(out.row(first + c));
    }
    for (c, v) in tile::<F, NC>(panel, cols, first == 0).into_iter().enumerate() {
        put_values(out.row(first + c), v, put);
    }
}

/// Puts the results of one panel for one row.
#[inline]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
pub(super) fn put_values(out: &mut [f32], mut v: __m512, put: Put) {
    if let Some(out) = out.first_chunk_mut::<PANEL_ROWS>() {
        if put == Put::Add {
            // SAFETY: the array is 16 f32 long, and the load needs no alignment.
            v = _mm512_add_ps(unsafe { _mm512_loadu_ps(out.as_ptr()) }, v);
        }
        // SAFETY: the array is 16 f32 long, and the store needs no alignment.
        return unsafe { _mm512_storeu_ps(out.as_mut_ptr(), v) };
    }
    let mut values = [0.0; PANEL_ROWS];
    // SAFETY: the array is 16 f32 long, and the store needs no alignment.
    unsafe { _mm512_storeu_ps(values.as_mut_ptr(), v) };
    put_row(out, &values, put);
}

/// A panel times `NC` columns of the same length. Where the panel `is_first` read here, what lies behind it is fetched.
#[inline]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
fn tile<F: Format, const NC: usize>(
    panel: &[u8],
    cols: [&[ActBlock]; NC],
    is_first: bool,
) -> [__m512; NC] {
    let n_blocks = cols[0].len();
    let cols = super::of_length(cols, n_blocks);
    let mut acc = [_mm512_setzero_ps(); NC];
    for b in 0..n_blocks {
        let (sub, tail) = F::sub(panel, b);
        if is_first {
            load::prefetch_ahead(
                sub,
                if NC == 1 { load::FAR_ALONE } else { load::FAR },
                load::NEAR,
            );
        }
        let mut x = [&cols[0][b]; NC];
        for c in 1..NC {
            x[c] = &cols[c][b];
        }
        let mut sums = [_mm512_setzero_si512(); NC];
        let mut others = sums;
        macro_rules! words {
            ($($word:literal)*) => {$(
                let w = pairs::<F, $word>(sub);
                for c in 0..NC {
                    // Two or three columns do not keep the units busy until a sum is there again.
                    let is_other = (NC == 2 || NC == 3) && $word % 2 == 1;
                    let sum = if is_other { &mut others[c] } else { &mut sums[c] };
                    *sum = if NC == 1 {
                        dot_short(*sum, w, &x[c].pairs[$word])
                    } else {
                        dot::<$word>(*sum, w, x[c])
                    };
                }
            )*};
        }
        if F::BITS == 6 {
            words!(0 1 2 3 4 5 6 7);
            let first = add(sums, others);
            (sums, others) = ([_mm512_setzero_si512(); NC], [_mm512_setzero_si512(); NC]);
            words!(8 9 10 11 12 13 14 15);
            sums = add(sums, others);
            let scales = [bytes16(sub, F::SCALES_AT), bytes16(sub, F::SCALES_AT + PANEL_ROWS)];
            for c in 0..NC {
                let first = _mm512_mullo_epi32(first[c], _mm512_cvtepi8_epi32(scales[0]));
                let second = _mm512_mullo_epi32(sums[c], _mm512_cvtepi8_epi32(scales[1]));
                sums[c] = _mm512_add_epi32(first, second);
            }
        } else {
            // Words whose codes lie in the same bytes, one after the other.
            words!(0 1 8 9 2 3 10 11 4 5 12 13 6 7 14 15);
            sums = add(sums, others);
        }
        let (d, m) = scale_min::<F>(sub, tail);
        for c in 0..NC {
            let x = x[c];
            let scale = _mm512_mul_ps(d, _mm512_set1_ps(x.d));
            acc[c] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sums[c]), scale, acc[c]);
            if !matches!(F::LAYOUT.min, Min::None) {
                acc[c] = _mm512_fmadd_ps(m, _mm512_set1_ps(x.d_sum), acc[c]);
            }
        }
    }
    acc
}

/// Adds the products of 16 rows x two codes with word `W` of a block of activations, in one operation. The word's place is a part
/// of the operation: the compiler would count from one column to the next, an addition that waits for the one before it.
#[inline]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
fn dot<const W: usize>(mut sums: __m512i, codes: __m512i, x: &ActBlock) -> __m512i {
    const { assert!(W < 16, "a block has 16 words") };
    // The compiler makes two operations and a load of the intrinsic, as `dot_short` wants it.
    // SAFETY: it reads the four bytes of word `W` and changes nothing but `sums`.
    unsafe {
        asm!(
            "vpdpwssd {sums}, {codes}, dword ptr [{x} + {at}]{{1to16}}",
            sums = inout(zmm_reg) sums,
            codes = in(zmm_reg) codes,
            x = in(reg) x,
            at = const offset_of!(ActBlock, pairs) + 4 * W,
            options(pure, readonly, nostack, preserves_flags),
        );
    }
    sums
}

/// Both sums of each column; of other than two or three columns the second is zero, and the compiler knows it.
#[inline]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
fn add<const NC: usize>(mut sums: [__m512i; NC], others: [__m512i; NC]) -> [__m512i; NC] {
    for c in 0..NC {
        sums[c] = _mm512_add_epi32(sums[c], others[c]);
    }
    sums
}

/// The same in a product and a sum: more operations, and a shorter wait for the sum.
#[inline]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
fn dot_short(sums: __m512i, codes: __m512i, word: &i32) -> __m512i {
    _mm512_add_epi32(sums, _mm512_madd_epi16(codes, _mm512_set1_epi32(*word)))
}

/// The codes that meet word `W` of the activations: 16 rows x two values.
#[inline]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
pub(super) fn pairs<F: Format, const W: usize>(sub: &[u8]) -> __m512i {
    let group = W / 2;
    let is_odd = W % 2 == 1;
    if F::BITS == 8 {
        let bytes = bytes64(sub, group * 64);
        let upper = if is_odd { bytes } else { _mm512_slli_epi16::<8>(bytes) };
        return _mm512_srai_epi16::<8>(upper);
    }
    let bytes = bytes64(sub, group % 4 * 64);
    let nibble = _mm512_set1_epi16(15);
    let low = match (group < 4, is_odd) {
        (true, false) => _mm512_and_si512(bytes, nibble),
        (true, true) => _mm512_and_si512(_mm512_srli_epi16::<8>(bytes), nibble),
        (false, false) => _mm512_and_si512(_mm512_srli_epi16::<4>(bytes), nibble),
        (false, true) => _mm512_srli_epi16::<12>(bytes),
    };
    // The bits of the plane from `at` on become bits 4 and 5 of a code.
    let (plane_at, at) = match F::BITS {
        4 => return low,
        5 => (F::PLANE_AT, group),
        _ => (F::PLANE_AT + group / 4 * 64, group % 4 * 2),
    };
    let plane = bytes64(sub, plane_at);
    let at = at + if is_odd { 8 } else { 0 };
    let moved = if at < 4 {
        _mm512_sll_epi16(plane, _mm_cvtsi32_si128(4 - at as i32))
    } else {
        _mm512_srl_epi16(plane, _mm_cvtsi32_si128(at as i32 - 4))
    };
    if F::BITS == 5 {
        return _mm512_or_si512(low, _mm512_and_si512(moved, _mm512_set1_epi16(16)));
    }
    let code = _mm512_or_si512(low, _mm512_and_si512(moved, _mm512_set1_epi16(0x30)));
    _mm512_sub_epi16(code, _mm512_set1_epi16(32))
}

/// Scale and minimum of all rows. A 6-bit scale times an f16 is exact in f32.
#[inline]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
pub(super) fn scale_min<F: Format>(sub: &[u8], tail: &[u8]) -> (__m512, __m512) {
    let d = half16(tail, 0);
    match F::LAYOUT.min {
        Min::TimesScale(zero) => (d, _mm512_mul_ps(d, _mm512_set1_ps(zero))),
        Min::Own => (d, half16(tail, 32)),
        Min::Scaled => {
            let m = _mm512_xor_ps(half16(tail, 32), _mm512_set1_ps(-0.0));
            let scale = _mm512_cvtepu8_epi32(bytes16(sub, F::SCALES_AT));
            let min = _mm512_cvtepu8_epi32(bytes16(sub, F::MINS_AT));
            (_mm512_mul_ps(d, _mm512_cvtepi32_ps(scale)), _mm512_mul_ps(m, _mm512_cvtepi32_ps(min)))
        }
        Min::None => (d, _mm512_setzero_ps()),
    }
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
fn bytes64(bytes: &[u8], at: usize) -> __m512i {
    let bytes = &bytes[at..][..64];
    // SAFETY: the slice is 64 bytes long, and the load needs no alignment.
    unsafe { _mm512_loadu_si512(bytes.as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
pub(super) fn bytes16(bytes: &[u8], at: usize) -> __m128i {
    let bytes = &bytes[at..][..16];
    // SAFETY: the slice is 16 bytes long, and the load needs no alignment.
    unsafe { _mm_loadu_si128(bytes.as_ptr().cast()) }
}

/// 16 f16 at byte `at`, as f32.
#[inline]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
fn half16(bytes: &[u8], at: usize) -> __m512 {
    let bytes = &bytes[at..][..32];
    // SAFETY: the slice is 32 bytes long, and the load needs no alignment.
    _mm512_cvtph_ps(unsafe { _mm256_loadu_si256(bytes.as_ptr().cast()) })
}
