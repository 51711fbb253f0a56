//! Matrix products: checks lengths, then picks the instruction set.
//! Must never compute anything itself. The only way into the vector code.
//! Start at [`gemm`].

use std::ops::Range;

use crate::acts::{ACT_BLOCK, Acts, QuantizedActs};
use crate::columns::Columns;
use crate::isa::{Isa, Kind};
use crate::layout::{PANEL_ROWS, panel_bytes};
use crate::scalar;
use crate::types::WeightType;
#[cfg(target_arch = "x86_64")]
use crate::x86;

/// Adjacent panels of a weight matrix: 16 packed rows each.
#[derive(Clone, Copy, Debug)]
pub struct Panels<'a> {
    pub(crate) weight: WeightType,
    pub(crate) k: usize,
    /// Of one panel.
    pub(crate) panel_bytes: usize,
    pub(crate) bytes: &'a [u8],
}

impl<'a> Panels<'a> {
    /// The panels in `bytes`, as `pack_panel` wrote them one after another: rows of `k` values.
    ///
    /// # Panics
    /// When `bytes` is not a multiple of `panel_bytes(weight, k)`.
    #[must_use]
    pub fn new(weight: WeightType, k: usize, bytes: &'a [u8]) -> Panels<'a> {
        let n = bytes.len();
        let panel_bytes = panel_bytes(weight, k).unwrap_or(0);
        let is_whole = n == 0 || panel_bytes > 0 && n.is_multiple_of(panel_bytes);
        assert!(is_whole, "panels of {k} {weight:?} were given as {n} bytes");
        Panels { weight, k, panel_bytes, bytes }
    }
}

/// What becomes of the values that were there before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Put {
    /// They are replaced.
    Store,
    /// The results are added to them.
    Add,
}

/// Quantises whole rows. x: `[m][k]` f32, k a multiple of 32; out: `[m][k / 32]`. Rows with a NaN
/// or an infinity keep showing it in the results.
///
/// # Panics
/// When `x` is not `32 * out.len()` long.
pub fn quantize_activations<B: QuantizedActs>(isa: Isa, x: &[f32], out: &mut [B]) {
    let (n, n_blocks) = (x.len(), out.len());
    assert!(n == n_blocks * ACT_BLOCK, "{n} values do not fill {n_blocks} blocks of {ACT_BLOCK}");
    B::quantize(isa, x, out);
}

/// `out[i][r] = panel row r . activation row (rows.start + i)` for each row of the panels; the last panel may
/// have more rows than `out` has columns left. A row's bits depend on its own activations and weights
/// alone: not on `rows`, its place, or the instruction set.
///
/// # Panics
/// When `acts` are not of the kind that the weights take or have no `rows`, or `out` does not have a row for
/// each of `rows` and 1 to 16 columns for the last panel and 16 for the others.
pub fn gemm(
    isa: Isa,
    panels: Panels<'_>,
    acts: Acts<'_>,
    rows: Range<usize>,
    put: Put,
    mut out: Columns<'_, f32>,
) {
    let Panels { weight, k, panel_bytes, bytes } = panels;
    if rows.is_empty() {
        return;
    }
    assert_eq!(out.n_rows(), rows.len(), "the rows of out are not those of the activations");
    if k == 0 {
        if put == Put::Store {
            (0..rows.len()).for_each(|i| out.row(i).fill(0.0));
        }
        return;
    }
    let (n_panels, width) = (bytes.len() / panel_bytes, out.width());
    let fits = width.div_ceil(PANEL_ROWS) == n_panels;
    assert!(fits, "{n_panels} panels of {PANEL_ROWS} rows do not give {width} columns");
    match acts {
        Acts::Quantized(acts) => {
            let acts = rows_of(acts, weight, k / ACT_BLOCK, rows);
            match isa.0 {
                Kind::Scalar => scalar::gemm::gemm(panels, acts, put, out),
                #[cfg(target_arch = "x86_64")]
                // SAFETY: an `Isa` of this kind is only made after avx2, fma and f16c were detected.
                Kind::Avx2 => unsafe { x86::avx2::gemm(panels, acts, put, out) },
                #[cfg(target_arch = "x86_64")]
                // SAFETY: an `Isa` of this kind is only made after avx2, fma, f16c and avx512 f, bw,
                // vl, dq and vnni were detected.
                Kind::Avx512Vnni | Kind::Amx => unsafe {
                    x86::avx512::gemm(panels, acts, put, out)
                },
            }
        }
        Acts::Split(acts) => {
            let acts = rows_of(acts, weight, k / ACT_BLOCK, rows);
            match isa.0 {
                #[cfg(target_arch = "x86_64")]
                // SAFETY: an `Isa` of this kind is only made after those features and the tiles were found usable.
                Kind::Amx => unsafe { x86::amx::gemm(panels, acts, put, out) },
                _ => scalar::gemm::gemm(panels, acts, put, out),
            }
        }
        Acts::F32(x) => {
            assert!(!weight.is_quantized(), "{weight:?} weights take quantised activations");
            let (n, wanted) = (x.len(), rows.end * k);
            assert!(n >= wanted, "{n} activations were given where {wanted} are needed");
            let x = &x[rows.start * k..rows.end * k];
            match isa.0 {
                Kind::Scalar => scalar::gemm::gemm_f32(panels, x, put, out),
                #[cfg(target_arch = "x86_64")]
                // SAFETY: an `Isa` of this kind is only made after avx2, fma and f16c were detected.
                Kind::Avx2 | Kind::Avx512Vnni | Kind::Amx => unsafe {
                    x86::avx2::gemm_f32(panels, x, put, out)
                },
            }
        }
    }
}

/// The blocks of rows `rows`.
fn rows_of<B>(acts: &[B], weight: WeightType, blocks: usize, rows: Range<usize>) -> &[B] {
    assert!(weight.is_quantized(), "{weight:?} weights take f32 activations");
    let (n, wanted) = (acts.len(), rows.end * blocks);
    assert!(n >= wanted, "{n} activation blocks were given where {wanted} are needed");
    &acts[rows.start * blocks..rows.end * blocks]
}

/// Rows of activations that are multiplied with one panel after another, so that they stay in the cache of
/// their core: a multiple of 8. `row_bytes` is what one of them takes.
pub(crate) fn rows_at_once(row_bytes: usize) -> usize {
    const BYTES: usize = 256 << 10;
    (BYTES / row_bytes.max(1)).clamp(8, 64) / 8 * 8
}

/// Puts one panel's results for one row into the columns that are left for them.
#[inline(always)]
pub(crate) fn put_row(out: &mut [f32], values: &[f32; PANEL_ROWS], put: Put) {
    for (out, value) in out.iter_mut().zip(values) {
        *out = if put == Put::Add { *out + value } else { *value };
    }
}
