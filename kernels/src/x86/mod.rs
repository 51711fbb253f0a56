//! AVX2 and AVX-512 VNNI twins of the scalar kernels.
//! Must never define what a kernel computes: the scalar module does, and these match it bit for
//! bit.
//! Start at [`avx2`], then [`avx2_codes`].

#![expect(
    clippy::needless_range_loop,
    reason = "loops over arrays that live in registers, several of them by the same index"
)]

pub(crate) mod attend;
pub(crate) mod attend512;
pub(crate) mod avx2;
pub(crate) mod avx2_codes;
pub(crate) mod avx2_float;
pub(crate) mod avx2_q6k;
pub(crate) mod avx2_q8_0;
pub(crate) mod avx512;
pub(crate) mod half;
pub(crate) mod load;
pub(crate) mod quantize;

use crate::acts::ActBlock;

/// Columns cut to one length, so that their bounds are checked once.
#[inline(always)]
fn of_length<const NC: usize>(mut cols: [&[ActBlock]; NC], n: usize) -> [&[ActBlock]; NC] {
    for col in &mut cols {
        *col = &col[..n];
    }
    cols
}
