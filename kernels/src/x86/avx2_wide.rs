//! Many columns at once: the codes of eight rows become i16 once, for all tiles of columns.
//! Must never know how codes are stored: [`avx2_codes`](super::avx2_codes) reads them.
//! Start at [`half_panel`].

use std::arch::x86_64::*;
use std::ops::Range;

use super::{avx2, avx2_codes, load, tile_width};
use crate::acts::ActBlock;
use crate::layout::{Format, Min};

/// From how many columns on it is worth it: codes of four and eight bits become i16 in fewer operations than it
/// takes to write them and to read them again.
pub(super) const fn min_columns<F: Format>() -> usize {
    match F::BITS {
        6 => 8,
        5 => 16,
        _ => usize::MAX,
    }
}

/// As many columns as a call takes at most.
pub(super) const MAX_COLUMNS: usize = 64;
/// Blocks whose codes are held at a time: they, their columns and the sums stay in the first cache.
const BLOCKS: usize = 8;

/// Eight rows of some blocks, as they are multiplied.
pub(super) struct Wide {
    /// By words of the activations: eight rows x two i16. Q6_K's scales are in them.
    codes: [[__m256i; 16]; BLOCKS],
    /// Scale and minimum.
    scales: [[__m256; 2]; BLOCKS],
    /// Of each column.
    sums: [__m256; MAX_COLUMNS],
}

impl Wide {
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    pub(super) fn new() -> Self {
        Wide {
            codes: [[_mm256_setzero_si256(); 16]; BLOCKS],
            scales: [[_mm256_setzero_ps(); 2]; BLOCKS],
            sums: [_mm256_setzero_ps(); MAX_COLUMNS],
        }
    }

    /// The codes of `blocks` of the panel's half `half`.
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    fn read<F: Format>(&mut self, panel: &[u8], blocks: Range<usize>, half: usize) {
        for (i, b) in blocks.enumerate() {
            let (sub, tail) = F::sub(panel, b);
            if half == 0 {
                load::prefetch_ahead(sub, load::FAR, load::NEAR_RUNS);
            }
            let codes = &mut self.codes[i];
            macro_rules! words {
                ($($word:literal)*) => {$(
                    codes[$word] = avx2_codes::pairs::<F, $word>(sub, half);
                )*};
            }
            words!(0 1 8 9 2 3 10 11 4 5 12 13 6 7 14 15);
            if F::BITS == 6 {
                let at = F::SCALES_AT + 8 * half;
                for (codes, at) in codes.chunks_exact_mut(8).zip([at, at + 16]) {
                    let scale = load::i8x8(sub, at);
                    let scale =
                        _mm256_blend_epi16::<0b1010_1010>(scale, _mm256_slli_epi32::<16>(scale));
                    for code in codes {
                        let signed = _mm256_sub_epi16(*code, _mm256_set1_epi16(32));
                        *code = _mm256_mullo_epi16(signed, scale);
                    }
                }
            }
            let (d, m) = avx2_codes::scale_min::<F>(sub, tail, half);
            self.scales[i] = [d, m];
        }
    }

    /// Adds the products of the blocks that were read with `NC` columns from `first` on.
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    fn multiply<F: Format, const NC: usize>(&mut self, cols: [&[ActBlock]; NC], first: usize) {
        let cols = super::of_length(cols, cols[0].len());
        let mut acc = [_mm256_setzero_ps(); NC];
        acc.copy_from_slice(&self.sums[first..][..NC]);
        let n_blocks = cols[0].len();
        let (codes, scales) = (&self.codes[..n_blocks], &self.scales[..n_blocks]);
        for b in 0..n_blocks {
            let (codes, [d, m]) = (&codes[b], &scales[b]);
            let mut sums = [_mm256_setzero_si256(); NC];
            macro_rules! words {
                ($($word:literal)*) => {$(
                    for c in 0..NC {
                        sums[c] = avx2_codes::dot::<$word>(sums[c], codes[$word], &cols[c][b]);
                    }
                )*};
            }
            words!(0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15);
            for c in 0..NC {
                let x = &cols[c][b];
                let scale = _mm256_mul_ps(*d, _mm256_set1_ps(x.d));
                acc[c] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(sums[c]), scale, acc[c]);
                if !matches!(F::LAYOUT.min, Min::None) {
                    acc[c] = _mm256_fmadd_ps(*m, _mm256_set1_ps(x.d_sum), acc[c]);
                }
            }
        }
        self.sums[first..][..NC].copy_from_slice(&acc);
    }
}

/// Half `half` (8 rows) of a panel times `n` columns of `n_blocks` blocks; gives the eight sums of each column.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn half_panel<'a, F: Format>(
    wide: &'a mut Wide,
    panel: &[u8],
    acts: &[ActBlock],
    n_blocks: usize,
    n: usize,
    half: usize,
) -> &'a [__m256] {
    wide.sums = [_mm256_setzero_ps(); MAX_COLUMNS];
    for first_block in (0..n_blocks).step_by(BLOCKS) {
        let blocks = first_block..n_blocks.min(first_block + BLOCKS);
        wide.read::<F>(panel, blocks.clone(), half);
        let mut first = 0;
        while first < n {
            macro_rules! columns {
                ($width:literal) => {{
                    let mut cols = [acts; $width];
                    for c in 0..$width {
                        cols[c] = &acts[(first + c) * n_blocks..][blocks.clone()];
                    }
                    wide.multiply::<F, $width>(cols, first);
                    first += $width;
                }};
            }
            match tile_width(n - first, avx2::MOST_COLUMNS) {
                1 => columns!(1),
                2 => columns!(2),
                3 => columns!(3),
                4 => columns!(4),
                5 => columns!(5),
                _ => columns!(6),
            }
        }
    }
    &wide.sums[..n]
}
