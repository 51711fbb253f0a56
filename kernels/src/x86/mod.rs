//! AVX2, AVX-512 VNNI and AMX twins of the scalar kernels.
//! Must never define what a kernel computes: the scalar module does, and these match it bit for
//! bit.
//! Start at [`avx2`], then [`avx2_codes`].

#![expect(
    clippy::needless_range_loop,
    reason = "loops over arrays that live in registers, several of them by the same index"
)]

/// Calls a function that is compiled for each quantised type.
macro_rules! by_type {
    ($weight:expr, $function:ident($($arg:expr),*)) => {
        match $weight {
            WeightType::Q4_0 => $function::<Q4_0>($($arg),*),
            WeightType::Q4_1 => $function::<Q4_1>($($arg),*),
            WeightType::Q5_0 => $function::<Q5_0>($($arg),*),
            WeightType::Q5_1 => $function::<Q5_1>($($arg),*),
            WeightType::Q8_0 => $function::<Q8_0>($($arg),*),
            WeightType::Q4K => $function::<Q4K>($($arg),*),
            WeightType::Q5K => $function::<Q5K>($($arg),*),
            WeightType::Q6K => $function::<Q6K>($($arg),*),
            WeightType::F16 | WeightType::BF16 | WeightType::F32 => {
                unreachable!("float panels take f32 activations: this is a bug")
            }
        }
    };
}

macro_rules! products {
    ($features:literal) => {
        /// Rows of activations times panels of a quantised type.
        #[target_feature(enable = $features)]
        pub(crate) fn gemm(panels: Panels<'_>, acts: &[ActBlock], put: Put, out: Columns<'_, f32>) {
            by_type!(panels.weight, of_type(panels, acts, put, out));
        }

        #[target_feature(enable = $features)]
        fn of_type<F: Format>(
            panels: Panels<'_>,
            acts: &[ActBlock],
            put: Put,
            mut out: Columns<'_, f32>,
        ) {
            let blocks = panels.k / ACT_BLOCK;
            let (n_rows, n_columns) = (out.n_rows(), out.width());
            let step = rows_at_once(blocks * size_of::<ActBlock>());
            for first in (0..n_rows).step_by(step) {
                let rows = first..n_rows.min(first + step);
                let acts = &acts[rows.start * blocks..rows.end * blocks];
                for (p, panel) in panels.bytes.chunks_exact(panels.panel_bytes).enumerate() {
                    let columns = p * PANEL_ROWS..n_columns.min((p + 1) * PANEL_ROWS);
                    one_panel::<F>(panel, acts, blocks, put, &mut out.part(rows.clone(), columns));
                }
            }
        }
    };
}

pub(crate) mod amx;
pub(crate) mod attend;
pub(crate) mod avx2;
pub(crate) mod avx2_codes;
pub(crate) mod avx2_float;
pub(crate) mod avx2_wide;
pub(crate) mod avx512;
pub(crate) mod half;
pub(crate) mod load;
pub(crate) mod matrix_unit;
pub(crate) mod quantize;
pub(crate) mod tiles;

use crate::acts::ActBlock;

/// How many of `n_left` columns the next tile takes, `most` at most: as many as the others, or one more.
#[inline(always)]
fn tile_width(n_left: usize, most: usize) -> usize {
    // A division takes as long as some operations of a row alone.
    if n_left <= most { n_left } else { n_left.div_ceil(n_left.div_ceil(most)) }
}

/// Columns cut to one length, so that their bounds are checked once.
#[inline(always)]
fn of_length<const NC: usize>(mut cols: [&[ActBlock]; NC], n: usize) -> [&[ActBlock]; NC] {
    for col in &mut cols {
        *col = &col[..n];
    }
    cols
}
