//! Attention over one span with AVX2 and F16C: eight positions' scores, then eight values, in a
//! vector.
//! Must never know pages beyond the view that it gets.
//! Start at [`heads`].

use std::arch::x86_64::*;

use super::load;
use crate::attend::{AttendOut, HEADS, PageView, SPAN, Scores, SpanView};

/// Up to four query heads over a span.
#[target_feature(enable = "avx2,fma,f16c")]
pub(crate) fn heads(q: &[f32], span: &SpanView<'_>, out: AttendOut<'_>) {
    match out.m.len() {
        1 => some_heads::<1, 4>(q, span, out),
        2 => some_heads::<2, 4>(q, span, out),
        3 => some_heads::<3, 2>(q, span, out),
        4 => some_heads::<4, 2>(q, span, out),
        n => unreachable!("{n} heads in a pass of {HEADS}: this is a bug"),
    }
}

/// `G` heads; `GROUPS` groups of eight positions at a time, so that enough sums are under way.
#[target_feature(enable = "avx2,fma,f16c")]
fn some_heads<const G: usize, const GROUPS: usize>(
    q: &[f32],
    span: &SpanView<'_>,
    out: AttendOut<'_>,
) {
    let head_dim = span.head_dim;
    let heads: [&[f32]; G] = std::array::from_fn(|g| &q[g * head_dim..][..head_dim]);
    let mut scores: Scores = [[0.0; SPAN]; HEADS];
    let pages = &span.pages[..span.n_pages];
    for page in pages {
        for first in (0..4).step_by(GROUPS) {
            page_scores::<G, GROUPS>(heads, page, first, &mut scores);
        }
    }
    for g in 0..G {
        (out.m[g], out.l[g]) = span.weigh(&mut scores[g]);
    }
    let mut at = 0;
    while at < head_dim {
        let n_vectors = (head_dim - at) / 8;
        at += 8 * if G == 1 && n_vectors >= 8 {
            values::<G, 8>(pages, &scores, head_dim, at, out.acc)
        } else if G <= 2 && n_vectors >= 4 {
            values::<G, 4>(pages, &scores, head_dim, at, out.acc)
        } else if n_vectors >= 2 {
            values::<G, 2>(pages, &scores, head_dim, at, out.acc)
        } else {
            values::<G, 1>(pages, &scores, head_dim, at, out.acc)
        };
    }
}

/// Scores of `GROUPS` groups of eight positions of a page, from group `first` on.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn page_scores<const G: usize, const GROUPS: usize>(
    heads: [&[f32]; G],
    page: &PageView<'_>,
    first: usize,
    scores: &mut Scores,
) {
    let head_dim = heads[0].len();
    let heads = heads.map(|q| &q[..head_dim]);
    let keys = page.k.as_chunks::<8>().0;
    let keys: [&[[u16; 8]]; GROUPS] =
        std::array::from_fn(|p| &keys[(first + p) * head_dim..][..head_dim]);
    let mut sums = [[_mm256_setzero_ps(); GROUPS]; G];
    for d in 0..head_dim {
        let mut k = [_mm256_setzero_ps(); GROUPS];
        for p in 0..GROUPS {
            k[p] = load::half8(&keys[p][d], 0);
        }
        for g in 0..G {
            let q = _mm256_set1_ps(heads[g][d]);
            for p in 0..GROUPS {
                sums[g][p] = _mm256_fmadd_ps(q, k[p], sums[g][p]);
            }
        }
    }
    for g in 0..G {
        for p in 0..GROUPS {
            load::put_f32x8(&mut scores[g], page.at + 8 * (first + p), sums[g][p]);
        }
    }
}

/// Weighs `8 * VECTORS` values of every position, from value `at` on. Returns `VECTORS`.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn values<const G: usize, const VECTORS: usize>(
    pages: &[PageView<'_>],
    scores: &Scores,
    head_dim: usize,
    at: usize,
    acc: &mut [f32],
) -> usize {
    let mut sums = [[_mm256_setzero_ps(); VECTORS]; G];
    for page in pages {
        let n = page.rows.len();
        let weights: [&[f32]; G] =
            std::array::from_fn(|g| &scores[g][page.at + page.rows.start..][..n]);
        let rows = &page.v[page.rows.start * head_dim..page.rows.end * head_dim];
        for (row, v) in rows.chunks_exact(head_dim).take(n).enumerate() {
            let v = &v[at..][..8 * VECTORS];
            let mut weight = [_mm256_setzero_ps(); G];
            for g in 0..G {
                weight[g] = _mm256_set1_ps(weights[g][row]);
            }
            for i in 0..VECTORS {
                let v = load::half8(v, 8 * i);
                for g in 0..G {
                    sums[g][i] = _mm256_fmadd_ps(weight[g], v, sums[g][i]);
                }
            }
        }
    }
    for g in 0..G {
        for i in 0..VECTORS {
            load::put_f32x8(acc, g * head_dim + at + 8 * i, sums[g][i]);
        }
    }
    VECTORS
}
