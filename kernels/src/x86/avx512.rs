//! The quantised types with AVX-512 VNNI: all 16 rows of a panel in a vector, `vpdpbusd` sums in
//! i32.
//! Must never give other bits than AVX2: the sums are whole numbers, and the float operations are
//! the same.
//! Start at [`gemm`], then [`tile`].

use std::arch::x86_64::*;

use crate::acts::{ACT_BLOCK, ActBlock, HIGH_SHIFT};
use crate::columns::Columns;
use crate::dispatch::{Panels, Put, put_row, rows_at_once};
use crate::layout::{Format, Min, PANEL_ROWS, Q4_0, Q4_1, Q4K, Q5_0, Q5_1, Q5K, Q6K, Q8_0};
use crate::types::WeightType;

/// How many columns the next tile takes. Five to seven are split evenly.
fn tile_width(n_left: usize) -> usize {
    match n_left {
        0..=4 => n_left,
        5..=6 => 3,
        7 => 4,
        _ => 8,
    }
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
        let width = tile_width(n - done);
        let acts = &acts[done * blocks..][..width * blocks];
        match width {
            8 => store::<F, 8>(panel, acts, blocks, done, put, out),
            4 => store::<F, 4>(panel, acts, blocks, done, put, out),
            3 => store::<F, 3>(panel, acts, blocks, done, put, out),
            2 => store::<F, 2>(panel, acts, blocks, done, put, out),
            _ => store::<F, 1>(panel, acts, blocks, done, put, out),
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
    }
    let tile = if F::BITS == 6 { tile_q6k::<NC>(panel, cols) } else { tile::<F, NC>(panel, cols) };
    for (c, v) in tile.into_iter().enumerate() {
        put_values(out.row(first + c), v, put);
    }
}

/// Puts the results of one panel for one row.
#[inline]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
fn put_values(out: &mut [f32], mut v: __m512, put: Put) {
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

/// A panel times `NC` columns of the same length, for all types but Q6_K. Q8_0's codes become
/// unsigned by adding 128, which is taken off the sum again.
#[inline]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
fn tile<F: Format, const NC: usize>(panel: &[u8], cols: [&[ActBlock]; NC]) -> [__m512; NC] {
    let n_blocks = cols[0].len();
    let cols = super::of_length(cols, n_blocks);
    let mut acc = [_mm512_setzero_ps(); NC];
    for b in 0..n_blocks {
        let (sub, tail) = F::sub(panel, b);
        let mut high = [_mm512_setzero_si512(); NC];
        let mut low = [_mm512_setzero_si512(); NC];
        if F::BITS == 8 {
            for c in 0..NC {
                low[c] = _mm512_set1_epi32(-128 * cols[c][b].sum());
            }
        }
        macro_rules! group {
            ($g:literal) => {
                let w = codes::<F, $g>(sub);
                for c in 0..NC {
                    let x = &cols[c][b];
                    high[c] = _mm512_dpbusd_epi32(high[c], w, _mm512_set1_epi32(x.high[$g]));
                    low[c] = _mm512_dpbusd_epi32(low[c], w, _mm512_set1_epi32(x.low[$g]));
                }
            };
        }
        group!(0);
        group!(1);
        group!(2);
        group!(3);
        group!(4);
        group!(5);
        group!(6);
        group!(7);
        let (d, m) = scale_min::<F>(sub, tail);
        for c in 0..NC {
            let x = &cols[c][b];
            let sum = _mm512_cvtepi32_ps(both(high[c], low[c]));
            let scale = _mm512_mul_ps(d, _mm512_set1_ps(x.d));
            acc[c] = _mm512_fmadd_ps(sum, scale, acc[c]);
            if !matches!(F::LAYOUT.min, Min::None) {
                acc[c] = _mm512_fmadd_ps(m, _mm512_set1_ps(x.d_sum), acc[c]);
            }
        }
    }
    acc
}

/// The sum of both parts of the activations.
#[inline]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
fn both(high: __m512i, low: __m512i) -> __m512i {
    _mm512_add_epi32(_mm512_slli_epi32::<HIGH_SHIFT>(high), low)
}

/// Q6_K: each half of a block has its own sum, offset and whole-number scale.
#[inline]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
fn tile_q6k<const NC: usize>(panel: &[u8], cols: [&[ActBlock]; NC]) -> [__m512; NC] {
    let n_blocks = cols[0].len();
    let cols = super::of_length(cols, n_blocks);
    let mut acc = [_mm512_setzero_ps(); NC];
    for b in 0..n_blocks {
        let (sub, tail) = Q6K::sub(panel, b);
        let mut totals = [_mm512_setzero_si512(); NC];
        macro_rules! half {
            ($half:literal, $a:literal, $b:literal, $c:literal, $d:literal) => {
                let mut high = [_mm512_setzero_si512(); NC];
                let mut low = [_mm512_setzero_si512(); NC];
                for c in 0..NC {
                    low[c] = _mm512_set1_epi32(-32 * cols[c][b].sums[$half]);
                }
                half!(@group high, low, $a);
                half!(@group high, low, $b);
                half!(@group high, low, $c);
                half!(@group high, low, $d);
                let scale = bytes16(sub, Q6K::SCALES_AT + $half * PANEL_ROWS);
                let scale = _mm512_cvtepi8_epi32(scale);
                for c in 0..NC {
                    let scaled = _mm512_mullo_epi32(both(high[c], low[c]), scale);
                    totals[c] = _mm512_add_epi32(totals[c], scaled);
                }
            };
            (@group $high:ident, $low:ident, $g:literal) => {
                let w = codes::<Q6K, $g>(sub);
                for c in 0..NC {
                    let x = &cols[c][b];
                    $high[c] = _mm512_dpbusd_epi32($high[c], w, _mm512_set1_epi32(x.high[$g]));
                    $low[c] = _mm512_dpbusd_epi32($low[c], w, _mm512_set1_epi32(x.low[$g]));
                }
            };
        }
        half!(0, 0, 1, 2, 3);
        half!(1, 4, 5, 6, 7);
        let d = half16(tail, 0);
        for c in 0..NC {
            let scale = _mm512_mul_ps(d, _mm512_set1_ps(cols[c][b].d));
            acc[c] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(totals[c]), scale, acc[c]);
        }
    }
    acc
}

/// The codes of group `G`, unsigned: 16 rows x four values.
#[inline]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
fn codes<F: Format, const G: usize>(sub: &[u8]) -> __m512i {
    if F::BITS == 8 {
        return _mm512_xor_si512(bytes64(sub, G * 64), _mm512_set1_epi8(-128));
    }
    let nibbles = bytes64(sub, G % 4 * 64);
    let shifted = if G < 4 { nibbles } else { _mm512_srli_epi16::<4>(nibbles) };
    let low = _mm512_and_si512(shifted, _mm512_set1_epi8(15));
    if F::BITS == 4 {
        return low;
    }
    if F::BITS == 6 {
        let plane = bytes64(sub, F::PLANE_AT + G / 4 * 64);
        let high = match G % 4 {
            0 => _mm512_slli_epi16::<4>(plane),
            1 => _mm512_slli_epi16::<2>(plane),
            2 => plane,
            _ => _mm512_srli_epi16::<2>(plane),
        };
        return _mm512_or_si512(low, _mm512_and_si512(high, _mm512_set1_epi8(0x30)));
    }
    let plane = bytes64(sub, F::PLANE_AT);
    let bit = match G {
        0 => _mm512_slli_epi16::<4>(plane),
        1 => _mm512_slli_epi16::<3>(plane),
        2 => _mm512_slli_epi16::<2>(plane),
        3 => _mm512_slli_epi16::<1>(plane),
        4 => plane,
        5 => _mm512_srli_epi16::<1>(plane),
        6 => _mm512_srli_epi16::<2>(plane),
        _ => _mm512_srli_epi16::<3>(plane),
    };
    _mm512_or_si512(low, _mm512_and_si512(bit, _mm512_set1_epi8(16)))
}

/// Scale and minimum of all rows. A 6-bit scale times an f16 is exact in f32.
#[inline]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
fn scale_min<F: Format>(sub: &[u8], tail: &[u8]) -> (__m512, __m512) {
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
fn bytes16(bytes: &[u8], at: usize) -> __m128i {
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
