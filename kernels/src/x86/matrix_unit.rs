//! Whether the matrix unit (AMX) may be used: the processor has it, the system permits it, and it computes what it should.
//! Must never be asked where vectors are enough: the first question changes what this process may use.
//! Start at [`is_usable`].

use std::arch::asm;
use std::arch::x86_64::__cpuid_count;
use std::sync::OnceLock;

use super::tiles::{Blocks, PanelBlock, Products, Scaling, Sums, TILE_ROWS, Tiles};
use crate::acts::{ACT_BLOCK, SPLIT_SCALE, SplitBlock};
use crate::layout::PANEL_ROWS;

/// Whether this processor has the unit, the system lets this process use it, and it computes what it should.
pub(crate) fn is_usable() -> bool {
    static IS_USABLE: OnceLock<bool> = OnceLock::new();
    *IS_USABLE.get_or_init(|| has_unit() && is_permitted() && is_right())
}

/// Tiles of bfloat16, and the instructions that prepare them: those of f16 in vectors of 512 bits.
fn has_unit() -> bool {
    const AVX512_FP16: u32 = 1 << 23;
    const NEEDED: u32 = 1 << 22 | AVX512_FP16 | 1 << 24;
    __cpuid_count(0, 0).eax >= 7 && __cpuid_count(7, 0).edx & NEEDED == NEEDED
}

/// Asks the system for the state of the tiles, for all threads of this process.
#[cfg(all(target_os = "linux", not(miri)))]
fn is_permitted() -> bool {
    const ARCH_PRCTL: i64 = 158;
    const ARCH_REQ_XCOMP_PERM: i64 = 0x1023;
    const XFEATURE_XTILE_DATA: i64 = 18;
    let result: i64;
    // SAFETY: a system call that takes two numbers and changes what this process may use.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") ARCH_PRCTL => result,
            in("rdi") ARCH_REQ_XCOMP_PERM,
            in("rsi") XFEATURE_XTILE_DATA,
            out("rcx") _,
            out("r11") _,
            options(nostack),
        );
    }
    result == 0
}

#[cfg(not(all(target_os = "linux", not(miri))))]
fn is_permitted() -> bool {
    false
}

/// Multiplies whole numbers whose products are known: what nobody could run is not believed.
fn is_right() -> bool {
    const STRIDE: usize = 3;
    let number = |i: usize, k: usize| ((i * 37 + k * 11) % 255) as i32 - 127;
    let weight = |row: usize, k: usize| ((row * 29 + k * 23) % 63) as i32 - 31;
    let half_scales = [3, -2];
    let bits = |value: i32, scale: f32| ((value as f32 * scale).to_bits() >> 16) as u16;
    let mut acts = vec![SplitBlock::default(); TILE_ROWS * STRIDE];
    for (i, acts) in acts.iter_mut().enumerate() {
        acts.parts[0] = std::array::from_fn(|k| bits(number(i, k) * 32, SPLIT_SCALE));
        acts.parts[1] = std::array::from_fn(|k| bits(number(i, k) / 4, SPLIT_SCALE));
        (acts.d, acts.d_sum) = (0.5, (i % 5) as f32);
    }
    let mut block = PanelBlock {
        weights: [[0; 2 * PANEL_ROWS]; ACT_BLOCK / 2],
        d: std::array::from_fn(|row| if row % 2 == 0 { 2.0 } else { 4.0 }),
        m: std::array::from_fn(|row| row as f32 * 64.0),
        half_scales: half_scales.map(|scale| [scale; PANEL_ROWS]),
    };
    for (i, word) in block.weights.as_flattened_mut().iter_mut().enumerate() {
        let (pair, row, k) = (i / (2 * PANEL_ROWS), i / 2 % PANEL_ROWS, i % 2);
        *word = bits(weight(row, 2 * pair + k), SPLIT_SCALE.recip());
    }
    let of_block = |i: usize, row: usize, scaling: Scaling| {
        let term = |k| {
            let half_scale = if scaling == Scaling::Halves { half_scales[k / 16] } else { 1 };
            (number(i, k) * 32 + number(i, k) / 4) * weight(row, k) * half_scale
        };
        let scaled = (0..ACT_BLOCK).map(term).sum::<i32>() as f32 * (acts[i].d * block.d[row]);
        let min = if scaling == Scaling::ScaleAndMin { block.m[row] * acts[i].d_sum } else { 0.0 };
        scaled + min
    };
    let is_right_with = |n_rows: usize, scaling: Scaling| {
        let mut products = Products([[[[f32::NAN; PANEL_ROWS]; TILE_ROWS]; 2]; 2]);
        let mut sums = Sums([[0.0; PANEL_ROWS]; TILE_ROWS]);
        let x = Blocks { acts: &acts[1..], n_rows, stride: STRIDE, panel: &[block; 2] };
        // SAFETY: the processor has the unit and the system lets us use it.
        unsafe { Tiles::new(n_rows % TILE_ROWS, scaling) }.add(x, &mut products, &mut sums);
        sums.0[..n_rows].iter().enumerate().all(|(i, sums)| {
            let first = i * STRIDE + 1;
            let want = |row| of_block(first, row, scaling) + of_block(first + 1, row, scaling);
            sums.iter().enumerate().all(|(row, sum)| *sum == want(row))
        })
    };
    let all = [Scaling::Scale, Scaling::ScaleAndMin, Scaling::Halves];
    (1..=TILE_ROWS).all(|n_rows| all.iter().all(|scaling| is_right_with(n_rows, *scaling)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_unit_that_may_be_used_is_found_right() {
        assert!(!has_unit() || !is_permitted() || is_right());
    }
}
