//! Panels times many columns of activations: cuts the columns into tiles.
//! Must never know a weight's layout. Each column's float operations are the same in every tile.
//! Start at [`gemm`].

use std::arch::x86_64::*;

use super::{avx2_codes, avx2_float, avx2_wide, load, tile_width};
use crate::acts::{ACT_BLOCK, ActBlock};
use crate::columns::Columns;
use crate::dispatch::{Panels, Put, put_row, rows_at_once};
use crate::layout::{Format, PANEL_ROWS, Q4_0, Q4_1, Q4K, Q5_0, Q5_1, Q5K, Q6K, Q8_0};
use crate::types::WeightType;

/// How many columns a tile takes at most: those with which codes of these bits were fastest on Zen 3. The sums of both halves of the
/// panel stay in registers.
const fn most_columns<F: Format>() -> usize {
    match F::BITS {
        4 => 4,
        8 => 5,
        _ => 6,
    }
}

// `gemm`, and `of_type` behind it, which gives each panel to `one_panel`.
products!("avx2,fma,f16c");

#[target_feature(enable = "avx2,fma,f16c")]
fn one_panel<F: Format>(
    panel: &[u8],
    acts: &[ActBlock],
    blocks: usize,
    put: Put,
    out: &mut Columns<'_, f32>,
) {
    let (mut done, n) = (0, out.n_rows());
    if n >= avx2_wide::min_columns::<F>() {
        return in_wide::<F>(panel, acts, blocks, put, out);
    }
    while done < n {
        let width = tile_width(n - done, most_columns::<F>());
        let acts = &acts[done * blocks..][..width * blocks];
        match width {
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

#[target_feature(enable = "avx2,fma,f16c")]
fn in_wide<F: Format>(
    panel: &[u8],
    acts: &[ActBlock],
    blocks: usize,
    put: Put,
    out: &mut Columns<'_, f32>,
) {
    let mut wide = avx2_wide::Wide::new();
    let n = out.n_rows();
    for (c, halves) in avx2_wide::panel::<F>(&mut wide, panel, acts, blocks, n).iter().enumerate() {
        put_halves(out.row(c), *halves, put);
    }
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
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
    for (c, halves) in avx2_codes::tile::<F, NC>(panel, cols, first == 0).into_iter().enumerate() {
        put_halves(out.row(first + c), halves, put);
    }
}

/// Puts the results of one panel for one row.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn put_halves(out: &mut [f32], halves: [__m256; 2], put: Put) {
    if out.len() < PANEL_ROWS {
        let mut values = [0.0; PANEL_ROWS];
        load::put_f32x8(&mut values, 0, halves[0]);
        load::put_f32x8(&mut values, 8, halves[1]);
        return put_row(out, &values, put);
    }
    for (h, mut v) in halves.into_iter().enumerate() {
        if put == Put::Add {
            v = _mm256_add_ps(load::f32s(out, 8 * h), v);
        }
        load::put_f32x8(out, 8 * h, v);
    }
}

/// Rows of f32 activations times float panels.
#[target_feature(enable = "avx2,fma,f16c")]
pub(crate) fn gemm_f32(panels: Panels<'_>, x: &[f32], put: Put, mut out: Columns<'_, f32>) {
    let k = panels.k;
    let (n_rows, n_columns) = (out.n_rows(), out.width());
    let step = rows_at_once(k * size_of::<f32>());
    for first in (0..n_rows).step_by(step) {
        let rows = first..n_rows.min(first + step);
        for (p, panel) in panels.bytes.chunks_exact(panels.panel_bytes).enumerate() {
            let columns = p * PANEL_ROWS..n_columns.min((p + 1) * PANEL_ROWS);
            let mut out = out.part(rows.clone(), columns);
            let (mut done, n) = (0, rows.len());
            while done < n {
                let width = if n - done == 4 { 2 } else { (n - done).min(3) };
                let x = &x[(first + done) * k..][..width * k];
                match width {
                    3 => float_tile::<3>(panels.weight, panel, x, k, done, put, &mut out),
                    2 => float_tile::<2>(panels.weight, panel, x, k, done, put, &mut out),
                    _ => float_tile::<1>(panels.weight, panel, x, k, done, put, &mut out),
                }
                done += width;
            }
        }
    }
}

#[target_feature(enable = "avx2,fma,f16c")]
fn float_tile<const NC: usize>(
    weight: WeightType,
    panel: &[u8],
    x: &[f32],
    k: usize,
    first: usize,
    put: Put,
    out: &mut Columns<'_, f32>,
) {
    use avx2_float::{BF16, F16, F32, tile};
    let cols: [&[f32]; NC] = std::array::from_fn(|c| &x[c * k..][..k]);
    let tile = match weight {
        WeightType::F16 => tile::<F16, NC>(panel, cols),
        WeightType::BF16 => tile::<BF16, NC>(panel, cols),
        _ => tile::<F32, NC>(panel, cols),
    };
    for (c, halves) in tile.into_iter().enumerate() {
        put_halves(out.row(first + c), halves, put);
    }
}
