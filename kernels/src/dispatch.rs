//! Matrix products: checks lengths, then picks the instruction set.
//! Must never compute anything itself. The only way into the vector code.
//! Start at [`gemm_panel`].

use std::ops::Range;

use crate::acts::{self, ACT_BLOCK, ActBlock, Acts};
use crate::isa::{Isa, Kind};
use crate::layout::{PANEL_ROWS, panel_bytes};
use crate::scalar;
use crate::types::WeightType;
#[cfg(target_arch = "x86_64")]
use crate::x86;

/// 16 packed rows of a weight matrix.
#[derive(Clone, Copy, Debug)]
pub struct Panel<'a> {
    weight: WeightType,
    k: usize,
    bytes: &'a [u8],
}

impl<'a> Panel<'a> {
    /// The panel in `bytes`, as `pack_panel` wrote it: 16 rows of `k` values.
    ///
    /// # Panics
    /// When `bytes` is not `panel_bytes(weight, k)` long.
    #[must_use]
    pub fn new(weight: WeightType, k: usize, bytes: &'a [u8]) -> Panel<'a> {
        let n = bytes.len();
        assert_eq!(panel_bytes(weight, k), Some(n), "a panel of {k} {weight:?} has {n} bytes");
        Panel { weight, k, bytes }
    }
}

/// Quantises whole rows. x: `[m][k]` f32, k a multiple of 32; out: `[m][k / 32]`. Rows with a NaN
/// or an infinity keep showing it in the results.
///
/// # Panics
/// When `x` is not `32 * out.len()` long.
pub fn quantize_activations(isa: Isa, x: &[f32], out: &mut [ActBlock]) {
    let (n, n_blocks) = (x.len(), out.len());
    assert!(n == n_blocks * ACT_BLOCK, "{n} values do not fill {n_blocks} blocks of {ACT_BLOCK}");
    match isa.0 {
        Kind::Scalar => acts::quantize(x, out),
        #[cfg(target_arch = "x86_64")]
        // SAFETY: an `Isa` of this kind is only made after avx2, fma and f16c were detected.
        Kind::Avx2 | Kind::Avx512Vnni => unsafe { x86::quantize::quantize(x, out) },
    }
}

/// `out[i * out_stride + r] = panel row r . activation row (rows.start + i)`, for all 16 `r`. A
/// row's bits depend on its own activations and weights alone: not on `rows`, its place, or the
/// instruction set.
///
/// # Panics
/// When `acts` are not of the kind that the weights take or have no `rows`, when `out` is too
/// short, or when `out_stride` is under 16.
pub fn gemm_panel(
    isa: Isa,
    panel: Panel<'_>,
    acts: Acts<'_>,
    rows: Range<usize>,
    out: &mut [f32],
    out_stride: usize,
) {
    let Panel { weight, k, bytes } = panel;
    if rows.is_empty() {
        return;
    }
    assert!(out_stride >= PANEL_ROWS, "an out_stride of {out_stride} is under {PANEL_ROWS}");
    let (n_out, wanted) = (out.len(), (rows.len() - 1) * out_stride + PANEL_ROWS);
    assert!(n_out >= wanted, "{n_out} outputs were given where {wanted} are needed");
    match acts {
        Acts::Q8(acts) => {
            assert!(weight.is_quantized(), "{weight:?} weights take f32 activations");
            let blocks = k / ACT_BLOCK;
            let (n, wanted) = (acts.len(), rows.end * blocks);
            assert!(n >= wanted, "{n} activation blocks were given where {wanted} are needed");
            gemm_q8(isa, panel, acts, rows, out, out_stride);
        }
        Acts::F32(x) => {
            assert!(!weight.is_quantized(), "{weight:?} weights take quantised activations");
            let (n, wanted) = (x.len(), rows.end * k);
            assert!(n >= wanted, "{n} activations were given where {wanted} are needed");
            match isa.0 {
                Kind::Scalar => {
                    for (i, row) in rows.enumerate() {
                        let x = &x[row * k..][..k];
                        scalar::gemm::panel_f32(weight, bytes, x, &mut out[i * out_stride..]);
                    }
                }
                #[cfg(target_arch = "x86_64")]
                Kind::Avx2 | Kind::Avx512Vnni => {
                    // SAFETY: an `Isa` of this kind is only made after avx2, fma and f16c were
                    // detected.
                    unsafe { x86::avx2::panel_f32(weight, bytes, x, k, rows, out, out_stride) }
                }
            }
        }
    }
}

fn gemm_q8(
    isa: Isa,
    panel: Panel<'_>,
    acts: &[ActBlock],
    rows: Range<usize>,
    out: &mut [f32],
    stride: usize,
) {
    let Panel { weight, k, bytes } = panel;
    let blocks = k / ACT_BLOCK;
    match isa.0 {
        Kind::Scalar => {
            for (i, row) in rows.enumerate() {
                let x = &acts[row * blocks..][..blocks];
                scalar::gemm::panel(weight, bytes, x, &mut out[i * stride..]);
            }
        }
        #[cfg(target_arch = "x86_64")]
        Kind::Avx2 => {
            // SAFETY: an `Isa` of this kind is only made after avx2, fma and f16c were detected.
            unsafe { x86::avx2::panel(weight, bytes, acts, blocks, rows, out, stride) }
        }
        #[cfg(target_arch = "x86_64")]
        Kind::Avx512Vnni => {
            // SAFETY: an `Isa` of this kind is only made after avx2, fma, f16c and avx512 f, bw,
            // vl, dq and vnni were detected.
            unsafe { x86::avx512::panel(weight, bytes, acts, blocks, rows, out, stride) }
        }
    }
}
