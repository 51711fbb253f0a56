//! Loads and stores of vectors from and to slices, bounds checked.
//! Must never know what the bytes mean.
//! Start anywhere: each is one instruction.

use std::arch::asm;
use std::arch::x86_64::*;

use crate::layout::PANEL_ROWS;

/// Words of a cache line.
pub(super) const LINE_WORDS: usize = 32;

/// 32 bytes at `at`.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn bytes32(bytes: &[u8], at: usize) -> __m256i {
    let bytes = &bytes[at..][..32];
    // SAFETY: the slice is 32 bytes long, and the load needs no alignment.
    unsafe { _mm256_loadu_si256(bytes.as_ptr().cast()) }
}

/// Eight bytes at `at`, each as an i32 from 0 to 255.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn u8x8(bytes: &[u8], at: usize) -> __m256i {
    let bytes = &bytes[at..][..8];
    // SAFETY: the slice is 8 bytes long, and the load needs no alignment.
    _mm256_cvtepu8_epi32(unsafe { _mm_loadl_epi64(bytes.as_ptr().cast()) })
}

/// Eight bytes at `at`, each as an i32 from -128 to 127.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn i8x8(bytes: &[u8], at: usize) -> __m256i {
    let bytes = &bytes[at..][..8];
    // SAFETY: the slice is 8 bytes long, and the load needs no alignment.
    _mm256_cvtepi8_epi32(unsafe { _mm_loadl_epi64(bytes.as_ptr().cast()) })
}

/// Eight f16 at byte `at`, as f32.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn f16x8(bytes: &[u8], at: usize) -> __m256 {
    let bytes = &bytes[at..][..16];
    // SAFETY: the slice is 16 bytes long, and the load needs no alignment.
    _mm256_cvtph_ps(unsafe { _mm_loadu_si128(bytes.as_ptr().cast()) })
}

/// Eight f16 from their bits at `at`, as f32.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn half8(bits: &[u16], at: usize) -> __m256 {
    let bits = &bits[at..][..8];
    // SAFETY: the slice is 16 bytes long, and the load needs no alignment.
    _mm256_cvtph_ps(unsafe { _mm_loadu_si128(bits.as_ptr().cast()) })
}

/// As [`half8`], and never before the [`fma8`] that stands before it: the compiler would load ahead of its use, and put a sum
/// on the stack to have a register for it.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn half8_ordered(bits: &[u16], at: usize) -> __m256 {
    let bits = &bits[at..][..8];
    let numbers;
    // SAFETY: it reads the 16 bytes of the slice.
    unsafe {
        asm!(
            "vcvtph2ps {numbers}, xmmword ptr [{bits}]",
            numbers = out(ymm_reg) numbers,
            bits = in(reg) bits.as_ptr(),
            options(readonly, nostack),
        );
    }
    numbers
}

/// `x * y + sum`, in its place among others of this kind and [`half8_ordered`].
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn fma8(x: __m256, y: __m256, mut sum: __m256) -> __m256 {
    // SAFETY: it changes nothing but a register.
    unsafe {
        asm!(
            "vfmadd231ps {sum}, {x}, {y}",
            sum = inout(ymm_reg) sum,
            x = in(ymm_reg) x,
            y = in(ymm_reg) y,
            options(nomem, nostack),
        );
    }
    sum
}

/// `x * y + sum`. With twice the registers the compiler needs no help.
#[inline]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq")]
pub(super) fn fma16(x: __m512, y: __m512, sum: __m512) -> __m512 {
    _mm512_fmadd_ps(x, y, sum)
}

/// Eight int8 from the four words at `at`, as f32.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn pairs8(words: &[u16], at: usize) -> __m256 {
    let words = &words[at..][..4];
    // SAFETY: the slice is 8 bytes long, and the load needs no alignment.
    let bytes = unsafe { _mm_loadl_epi64(words.as_ptr().cast()) };
    _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(bytes))
}

/// Eight bf16 at byte `at`, as f32.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn bf16x8(bytes: &[u8], at: usize) -> __m256 {
    let bytes = &bytes[at..][..16];
    // SAFETY: the slice is 16 bytes long, and the load needs no alignment.
    let bits = _mm256_cvtepu16_epi32(unsafe { _mm_loadu_si128(bytes.as_ptr().cast()) });
    _mm256_castsi256_ps(_mm256_slli_epi32::<16>(bits))
}

/// Eight bf16 from their bits at `at`, as f32.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn bf16_words8(bits: &[u16], at: usize) -> __m256 {
    let bits = &bits[at..][..8];
    // SAFETY: the slice is 16 bytes long, and the load needs no alignment.
    let bits = _mm256_cvtepu16_epi32(unsafe { _mm_loadu_si128(bits.as_ptr().cast()) });
    _mm256_castsi256_ps(_mm256_slli_epi32::<16>(bits))
}

/// Eight little-endian f32 at byte `at`.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn f32x8(bytes: &[u8], at: usize) -> __m256 {
    _mm256_castsi256_ps(bytes32(bytes, at))
}

/// Writes eight f32 at `at`.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn put_f32x8(out: &mut [f32], at: usize, v: __m256) {
    let out = &mut out[at..][..8];
    // SAFETY: the slice is 8 f32 long, and the store needs no alignment.
    unsafe { _mm256_storeu_ps(out.as_mut_ptr(), v) }
}

/// Writes eight f32 as f16 bits at `at`, rounded to nearest even.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn put_half8(out: &mut [u16; 8], v: __m256) {
    let half = _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(v);
    // SAFETY: the array is 16 bytes long, and the store needs no alignment.
    unsafe { _mm_storeu_si128(out.as_mut_ptr().cast(), half) }
}

/// Eight f32 at `at`.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn f32s(x: &[f32], at: usize) -> __m256 {
    let x = &x[at..][..8];
    // SAFETY: the slice is 8 f32 long, and the load needs no alignment.
    unsafe { _mm256_loadu_ps(x.as_ptr()) }
}

/// Writes eight words at `at`.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn put_words8(words: &mut [i32], at: usize, v: __m256i) {
    let words = &mut words[at..][..8];
    // SAFETY: the slice is 32 bytes long, and the store needs no alignment.
    unsafe { _mm256_storeu_si256(words.as_mut_ptr().cast(), v) }
}

/// Writes 16 half words at `at`.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn put_halves16(out: &mut [u16], at: usize, v: __m256i) {
    let out = &mut out[at..][..16];
    // SAFETY: the slice is 32 bytes long, and the store needs no alignment.
    unsafe { _mm256_storeu_si256(out.as_mut_ptr().cast(), v) }
}

/// 16 f16 from their bits at `at`, as f32.
#[inline]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq")]
pub(super) fn half16(bits: &[u16], at: usize) -> __m512 {
    let bits = &bits[at..][..16];
    // SAFETY: the slice is 32 bytes long, and the load needs no alignment.
    _mm512_cvtph_ps(unsafe { _mm256_loadu_si256(bits.as_ptr().cast()) })
}

/// 16 int8 from the eight words at `at`, as f32.
#[inline]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq")]
pub(super) fn pairs16(words: &[u16], at: usize) -> __m512 {
    let words = &words[at..][..8];
    // SAFETY: the slice is 16 bytes long, and the load needs no alignment.
    let bytes = unsafe { _mm_loadu_si128(words.as_ptr().cast()) };
    _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(bytes))
}

/// 16 bf16 from their bits at `at`, as f32.
#[inline]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq")]
pub(super) fn bf16_words16(bits: &[u16], at: usize) -> __m512 {
    let bits = &bits[at..][..16];
    // SAFETY: the slice is 32 bytes long, and the load needs no alignment.
    let bits = _mm512_cvtepu16_epi32(unsafe { _mm256_loadu_si256(bits.as_ptr().cast()) });
    _mm512_castsi512_ps(_mm512_slli_epi32::<16>(bits))
}

/// 16 f32 at `at`.
#[inline]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq")]
pub(super) fn f32x16s(x: &[f32], at: usize) -> __m512 {
    let x = &x[at..][..16];
    // SAFETY: the slice is 16 f32 long, and the load needs no alignment.
    unsafe { _mm512_loadu_ps(x.as_ptr()) }
}

/// Writes 16 f32 at `at`.
#[inline]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq")]
pub(super) fn put_f32x16(out: &mut [f32], at: usize, v: __m512) {
    let out = &mut out[at..][..16];
    // SAFETY: the slice is 16 f32 long, and the store needs no alignment.
    unsafe { _mm512_storeu_ps(out.as_mut_ptr(), v) }
}

/// Asks for the cache line `line` of values that will be needed soon, if they have so many: into the second cache, which
/// waits for more lines at once than the first.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn prefetch_line(values: &[u16], line: usize) {
    prefetch_word(values, line * LINE_WORDS);
}

/// Asks for the line of the word `at`, as [`prefetch_line`] does.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn prefetch_word(values: &[u16], at: usize) {
    if at < values.len() {
        _mm_prefetch::<_MM_HINT_T1>(values.as_ptr().wrapping_add(at).cast());
    }
}

/// Asks for where a row of a panel's results will be put.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn prefetch_out(out: &[f32]) {
    // They may begin within a line.
    let last = out.len().min(PANEL_ROWS).saturating_sub(1);
    for at in [0, last] {
        _mm_prefetch::<_MM_HINT_T0>(out.as_ptr().wrapping_add(at).cast());
    }
}

/// How far ahead the second cache is asked to fetch: farther for a column that is alone, which reads faster than several.
pub(super) const FAR: usize = 8 << 10;
pub(super) const FAR_ALONE: usize = 16 << 10;
/// How far ahead the first one is: farther where whole runs of blocks are read at once.
pub(super) const NEAR: usize = 1 << 10;
pub(super) const NEAR_RUNS: usize = 4 << 10;

/// Asks twice for as many bytes as these: `far` behind them into the second cache, which waits for more lines at once than the
/// first, and `near` into the first. By itself a core that computes beside it does not ask for enough, nor beyond a page of 4 KiB.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn prefetch_ahead(bytes: &[u8], far: usize, near: usize) {
    for at in (0..bytes.len()).step_by(64) {
        _mm_prefetch::<_MM_HINT_T1>(bytes.as_ptr().wrapping_add(far + at).cast());
        _mm_prefetch::<_MM_HINT_T0>(bytes.as_ptr().wrapping_add(near + at).cast());
    }
}
