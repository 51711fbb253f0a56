//! Many columns at once: the codes of a panel become i16 once, for all tiles of columns.
//! Must never know how codes are stored: [`avx2_codes`](super::avx2_codes) reads them.
//! Start at [`panel`].

use std::arch::x86_64::*;
use std::ops::Range;

use super::{avx2_codes, load, tile_width};
use crate::acts::ActBlock;
use crate::layout::{Format, Min};

/// From how many columns on it is worth it: codes of eight bits, and of four with a scale that is there as it is used, become i16 in fewer
/// operations than it takes to write them and to read them again.
pub(super) const fn min_columns<F: Format>() -> usize {
    match F::BITS {
        5 | 6 => 8,
        4 if matches!(F::LAYOUT.min, Min::Scaled) => 16,
        _ => usize::MAX,
    }
}

/// Columns of a tile, at most: their sums stay in registers.
const MOST_COLUMNS: usize = 5;
/// As many columns as a call takes at most.
pub(super) const MAX_COLUMNS: usize = 64;
/// Blocks whose codes are held at a time: they, their columns and the sums stay in the first cache.
const BLOCKS: usize = 8;

/// Some blocks of a panel, as they are multiplied.
pub(super) struct Wide {
    /// By words of the activations: eight rows x two i16, for both halves of the panel. Q6_K's scales are in them.
    codes: [[[__m256i; 2]; 16]; BLOCKS],
    /// Scale and minimum.
    scales: [[[__m256; 2]; 2]; BLOCKS],
    /// Of each column.
    sums: [[__m256; 2]; MAX_COLUMNS],
}

impl Wide {
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    pub(super) fn new() -> Self {
        Wide {
            codes: [[[_mm256_setzero_si256(); 2]; 16]; BLOCKS],
            scales: [[[_mm256_setzero_ps(); 2]; 2]; BLOCKS],
            sums: [[_mm256_setzero_ps(); 2]; MAX_COLUMNS],
        }
    }

    /// The codes of `blocks` of the panel.
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    fn read<F: Format>(&mut self, panel: &[u8], blocks: Range<usize>) {
        for (i, b) in blocks.enumerate() {
            let (sub, tail) = F::sub(panel, b);
            load::prefetch_ahead(sub, load::FAR, load::NEAR_RUNS);
            let codes = &mut self.codes[i];
            for half in 0..2 {
                macro_rules! words {
                    ($($word:literal)*) => {$(
                        codes[$word][half] = avx2_codes::pairs::<F, $word>(sub, half);
                    )*};
                }
                words!(0 1 8 9 2 3 10 11 4 5 12 13 6 7 14 15);
                if F::BITS == 6 {
                    let at = F::SCALES_AT + 8 * half;
                    for (codes, at) in codes.chunks_exact_mut(8).zip([at, at + 16]) {
                        let scale = load::i8x8(sub, at);
                        let scale = _mm256_blend_epi16::<0b1010_1010>(
                            scale,
                            _mm256_slli_epi32::<16>(scale),
                        );
                        for code in codes {
                            let signed = _mm256_sub_epi16(code[half], _mm256_set1_epi16(32));
                            code[half] = _mm256_mullo_epi16(signed, scale);
                        }
                    }
                }
                let (d, m) = avx2_codes::scale_min::<F>(sub, tail, half);
                self.scales[i][half] = [d, m];
            }
        }
    }

    /// Adds the products of the blocks that were read with `NC` columns from `first` on.
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    fn multiply<F: Format, const NC: usize>(&mut self, cols: [&[ActBlock]; NC], first: usize) {
        let cols = super::of_length(cols, cols[0].len());
        let mut acc = [[_mm256_setzero_ps(); 2]; NC];
        acc.copy_from_slice(&self.sums[first..][..NC]);
        let n_blocks = cols[0].len();
        let (codes, scales) = (&self.codes[..n_blocks], &self.scales[..n_blocks]);
        for b in 0..n_blocks {
            let (codes, scales) = (&codes[b], &scales[b]);
            let mut sums = [[_mm256_setzero_si256(); 2]; NC];
            macro_rules! words {
                ($($word:literal)*) => {$(
                    for c in 0..NC {
                        sums[c] = avx2_codes::dot_both::<$word>(sums[c], codes[$word], &cols[c][b]);
                    }
                )*};
            }
            words!(0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15);
            for (h, [d, m]) in scales.iter().enumerate() {
                for c in 0..NC {
                    let x = &cols[c][b];
                    let scale = _mm256_mul_ps(*d, _mm256_set1_ps(x.d));
                    acc[c][h] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(sums[c][h]), scale, acc[c][h]);
                    if !matches!(F::LAYOUT.min, Min::None) {
                        acc[c][h] = _mm256_fmadd_ps(*m, _mm256_set1_ps(x.d_sum), acc[c][h]);
                    }
                }
            }
        }
        self.sums[first..][..NC].copy_from_slice(&acc);
    }
}

/// A panel times `n` columns of `n_blocks` blocks, in a new `wide`; gives the sums of both its halves for each column.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn panel<'a, F: Format>(
    wide: &'a mut Wide,
    panel: &[u8],
    acts: &[ActBlock],
    n_blocks: usize,
    n: usize,
) -> &'a [[__m256; 2]] {
    for first_block in (0..n_blocks).step_by(BLOCKS) {
        let blocks = first_block..n_blocks.min(first_block + BLOCKS);
        wide.read::<F>(panel, blocks.clone());
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
            match tile_width(n - first, MOST_COLUMNS) {
                1 => columns!(1),
                2 => columns!(2),
                3 => columns!(3),
                4 => columns!(4),
                _ => columns!(5),
            }
        }
    }
    &wide.sums[..n]
}
