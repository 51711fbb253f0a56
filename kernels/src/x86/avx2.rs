//! Panels times many columns of activations: cuts the columns into tiles of 6 to 1.
//! Must never know a weight's layout. Each column's float operations are the same in every tile.
//! Start at [`gemm`].

use std::arch::x86_64::*;

use super::{avx2_codes, avx2_float, avx2_wide, load, tile_width};
use crate::acts::{ACT_BLOCK, ActBlock};
use crate::columns::Columns;
use crate::dispatch::{Panels, Put, put_row, rows_at_once};
use crate::layout::{Format, PANEL_ROWS, Q4_0, Q4_1, Q4K, Q5_0, Q5_1, Q5K, Q6K, Q8_0};
use crate::types::WeightType;

/// How many columns a tile takes at most: their sums, and what is summed of them in floats, stay in registers.
pub(super) const MOST_COLUMNS: usize = 6;

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
        let width = tile_width(n - done, MOST_COLUMNS);
        let acts = &acts[done * blocks..][..width * blocks];
        match width {
            6 => in_halves::<F, 6>(panel, acts, blocks, done, put, out),
            5 => in_halves::<F, 5>(panel, acts, blocks, done, put, out),
            4 => in_halves::<F, 4>(panel, acts, blocks, done, put, out),
            3 => in_halves::<F, 3>(panel, acts, blocks, done, put, out),
            2 => whole::<F, 2>(panel, acts, blocks, done, put, out),
            _ => whole::<F, 1>(panel, acts, blocks, done, put, out),
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
    let mut upper = [_mm256_setzero_ps(); avx2_wide::MAX_COLUMNS];
    upper[..n].copy_from_slice(avx2_wide::half_panel::<F>(&mut wide, panel, acts, blocks, n, 0));
    let lower = avx2_wide::half_panel::<F>(&mut wide, panel, acts, blocks, n, 1);
    for (c, (upper, lower)) in upper.into_iter().zip(lower).enumerate() {
        put_halves(out.row(c), [upper, *lower], put);
    }
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn in_halves<F: Format, const NC: usize>(
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
    let upper = avx2_codes::tile::<F, NC, 1>(panel, cols, 0, first == 0);
    let lower = avx2_codes::tile::<F, NC, 1>(panel, cols, 1, false);
    for c in 0..NC {
        put_halves(out.row(first + c), [upper[c][0], lower[c][0]], put);
    }
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn whole<F: Format, const NC: usize>(
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
    for (c, halves) in
        avx2_codes::tile::<F, NC, 2>(panel, cols, 0, first == 0).into_iter().enumerate()
    {
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
