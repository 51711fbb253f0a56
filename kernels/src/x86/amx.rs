//! The quantised types with AMX: codes become bfloat16 once for all rows of a step, tiles of 16 rows of activations
//! meet them, and the sums of a block, which are whole numbers, are scaled in vectors.
//! Must never give other bits than AVX2: the sums are exact, and the float operations are the same.
//! Start at [`gemm`], then [`Room::multiply`].

use std::arch::asm;
use std::arch::x86_64::*;
use std::cell::RefCell;
use std::ops::Range;

use super::avx512::{bytes16, pairs, put_values, scale_min};
use super::load;
use super::tiles::{Blocks, PanelBlock, Products, Scaling, Sums, TILE_ROWS, Tiles};
use crate::acts::{ACT_BLOCK, SplitBlock};
use crate::columns::Columns;
use crate::dispatch::{Panels, Put};
use crate::layout::{Format, Min, PANEL_ROWS, Q4_0, Q4_1, Q4K, Q5_0, Q5_1, Q5K, Q6K, Q8_0};
use crate::types::WeightType;

/// From how many rows on this is faster than vectors alone.
pub(crate) const MIN_ROWS: usize = 8;
/// Rows, at most, that meet the weights of some blocks while those are in the first cache.
const MOST_ROWS: usize = 64;
/// Blocks of a panel that are there at a time: they stay in the first cache beside those of 16 rows of activations.
const BLOCKS: usize = 4;

/// A thread's place for what it works on.
struct Room {
    panel: [PanelBlock; BLOCKS],
    sums: [Sums; MOST_ROWS / TILE_ROWS],
    products: Products,
}

thread_local! {
    // SAFETY: zeros are numbers.
    static ROOM: RefCell<Box<Room>> = RefCell::new(Box::new(unsafe { std::mem::zeroed() }));
}

/// Rows of activations that meet one panel after another, so that they stay in the second cache: whole tiles.
fn rows_at_once(blocks: usize) -> usize {
    const BYTES: usize = 1536 << 10;
    let n_tiles = BYTES / (blocks * TILE_ROWS * size_of::<SplitBlock>());
    n_tiles.clamp(1, MOST_ROWS / TILE_ROWS) * TILE_ROWS
}

/// Rows of activations times panels of a quantised type.
///
/// # Safety
/// The processor has what is enabled here, and its tiles may be used.
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
pub(crate) unsafe fn gemm(
    panels: Panels<'_>,
    acts: &[SplitBlock],
    put: Put,
    out: Columns<'_, f32>,
) {
    by_type!(panels.weight, of_type(panels, acts, put, out));
}

/// As [`gemm`], whose caller has the tiles.
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
fn of_type<F: Format>(
    panels: Panels<'_>,
    acts: &[SplitBlock],
    put: Put,
    mut out: Columns<'_, f32>,
) {
    let blocks = panels.k / ACT_BLOCK;
    let (n_rows, n_columns) = (out.n_rows(), out.width());
    let scaling = match F::LAYOUT.min {
        Min::None if F::BITS == 6 => Scaling::Halves,
        Min::None => Scaling::Scale,
        _ => Scaling::ScaleAndMin,
    };
    let step = rows_at_once(blocks);
    ROOM.with_borrow_mut(|room| {
        for first in (0..n_rows).step_by(step) {
            let rows = first..n_rows.min(first + step);
            let acts = &acts[rows.start * blocks..rows.end * blocks];
            // SAFETY: the caller of `gemm` says that they may be used, and those of the turn before were dropped.
            let tiles = unsafe { Tiles::new(rows.len() % TILE_ROWS, scaling) };
            for (p, panel) in panels.bytes.chunks_exact(panels.panel_bytes).enumerate() {
                room.multiply::<F>(&tiles, panel, acts, blocks);
                let columns = p * PANEL_ROWS..n_columns.min((p + 1) * PANEL_ROWS);
                let mut out = out.part(rows.clone(), columns);
                let sums = room.sums.iter().flat_map(|sums| &sums.0);
                for (row, sums) in (0..rows.len()).zip(sums) {
                    put_values(out.row(row), load::f32x16s(sums, 0), put);
                }
            }
        }
    });
}

impl Room {
    /// Leaves in `sums` each row of `acts`, `[n][blocks]`, times the panel.
    #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
    fn multiply<F: Format>(
        &mut self,
        tiles: &Tiles,
        panel: &[u8],
        acts: &[SplitBlock],
        blocks: usize,
    ) {
        for start in (0..blocks).step_by(BLOCKS) {
            let part = start..blocks.min(start + BLOCKS);
            self.read::<F>(panel, part.clone());
            for (acts, sums) in acts.chunks(TILE_ROWS * blocks).zip(&mut self.sums) {
                if start == 0 {
                    *sums = Sums([[0.0; PANEL_ROWS]; TILE_ROWS]);
                }
                let n_rows = acts.len() / blocks;
                let panel = &self.panel[..part.len()];
                let x = Blocks { acts: &acts[start..], n_rows, stride: blocks, panel };
                tiles.add(x, &mut self.products, sums);
            }
        }
    }

    /// Makes bfloat16 of the codes of `blocks`.
    #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
    fn read<F: Format>(&mut self, panel: &[u8], blocks: Range<usize>) {
        let tables = Tables::new();
        for (b, block) in blocks.zip(&mut self.panel) {
            let (sub, tail) = F::sub(panel, b);
            load::prefetch_ahead(sub, load::FAR, load::NEAR_RUNS);
            macro_rules! words {
                ($($word:literal)*) => {$(
                    put_line(&mut block.weights[$word], tables.bf16::<F>(pairs::<F, $word>(sub)));
                )*};
            }
            // Words whose codes lie in the same bytes, one after the other.
            words!(0 1 8 9 2 3 10 11 4 5 12 13 6 7 14 15);
            let (d, m) = scale_min::<F>(sub, tail);
            load::put_f32x16(&mut block.d, 0, d);
            load::put_f32x16(&mut block.m, 0, m);
            if F::BITS == 6 {
                for half in 0..2 {
                    let bytes = bytes16(sub, F::SCALES_AT + half * PANEL_ROWS);
                    put_words16(&mut block.half_scales[half], _mm512_cvtepi8_epi32(bytes));
                }
            }
        }
    }
}

/// What codes are as bfloat16, divided by `SPLIT_SCALE`.
struct Tables {
    /// Of 0 to 31.
    positive: __m512i,
    /// Of -32 to -1.
    negative: __m512i,
}

impl Tables {
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
    fn new() -> Self {
        const fn table(first: i16) -> [u16; 32] {
            let (mut table, mut i) = ([0; 32], 0);
            while i < 32 {
                let value = (first + i as i16) as f32 / crate::acts::SPLIT_SCALE;
                table[i] = (value.to_bits() >> 16) as u16;
                i += 1;
            }
            table
        }
        const POSITIVE: [u16; 32] = table(0);
        const NEGATIVE: [u16; 32] = table(-32);
        Tables { positive: line(&POSITIVE), negative: line(&NEGATIVE) }
    }

    /// Of 32 codes, as `pairs` gives them.
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
    fn bf16<F: Format>(&self, codes: __m512i) -> __m512i {
        match F::BITS {
            4 | 5 => _mm512_permutexvar_epi16(codes, self.positive),
            6 => _mm512_permutex2var_epi16(self.positive, codes, self.negative),
            _ => {
                // Eight bits are exact in an f16, whose lower three bits of mantissa are then zero. Shifted, its exponent
                // is that of a bfloat16 which is 2^112 times too small; of the sign, which the shift repeats, one is left.
                let half = _mm512_srai_epi16::<3>(f16_of(codes));
                _mm512_and_si512(half, _mm512_set1_epi16(0x8fff_u16.cast_signed()))
            }
        }
    }
}

/// 32 i16 as f16.
#[inline]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
fn f16_of(codes: __m512i) -> __m512i {
    let halves;
    // SAFETY: it changes nothing but a register; processors with tiles have it, as was found out.
    unsafe {
        asm!(
            "vcvtw2ph {halves}, {codes}",
            halves = out(zmm_reg) halves,
            codes = in(zmm_reg) codes,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    halves
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
fn line(words: &[u16; 32]) -> __m512i {
    // SAFETY: the array is 64 bytes long, and the load needs no alignment.
    unsafe { _mm512_loadu_si512(words.as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
fn put_line(words: &mut [u16; 32], v: __m512i) {
    // SAFETY: the array is 64 bytes long, and the store needs no alignment.
    unsafe { _mm512_storeu_si512(words.as_mut_ptr().cast(), v) }
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
fn put_words16(words: &mut [i32; PANEL_ROWS], v: __m512i) {
    // SAFETY: the array is 64 bytes long, and the store needs no alignment.
    unsafe { _mm512_storeu_si512(words.as_mut_ptr().cast(), v) }
}
