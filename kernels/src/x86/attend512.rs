//! Attention over one span with AVX-512: sixteen positions' scores, then sixteen values, in a vector.
//! Must never know pages beyond the view that it gets.
//! Start at [`queries`].

use std::arch::x86_64::*;
use std::ops::Range;

use super::load;
use crate::attend::{AttendOut, K_GROUP, KV_PAGE, QUERIES, Query, SPAN, Scores, SpanView, common};

/// Values of a vector.
const LANES: usize = 16;

/// Up to six queries over a span.
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq")]
pub(crate) fn queries(queries: &[Query<'_>], span: &SpanView<'_>, out: AttendOut<'_>) {
    match queries.len() {
        1 => pass::<1>(queries, span, out),
        2 => pass::<2>(queries, span, out),
        3 => pass::<3>(queries, span, out),
        4 => pass::<4>(queries, span, out),
        5 => pass::<5>(queries, span, out),
        6 => pass::<6>(queries, span, out),
        n => unreachable!("{n} queries in a pass of {QUERIES}: this is a bug"),
    }
}

#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq")]
fn pass<const G: usize>(queries: &[Query<'_>], span: &SpanView<'_>, out: AttendOut<'_>) {
    let head_dim = span.head_dim;
    let q: [&[f32]; G] = std::array::from_fn(|g| queries[g].q);
    let places: [Range<usize>; G] = std::array::from_fn(|g| span.places(&queries[g]));
    let mut scores: Scores = [[0.0; SPAN]; QUERIES];
    let first = places.iter().filter(|p| !p.is_empty()).map(|p| p.start).min().unwrap_or(0);
    let last = places.iter().map(|p| p.end).max().unwrap_or(0);
    for group in first / KV_PAGE..last.div_ceil(KV_PAGE) {
        let (page, place) = (KV_PAGE * group / KV_PAGE, KV_PAGE * group);
        if place % KV_PAGE == 0 {
            load::prefetch(span.pages[page].v);
            load::prefetch(span.pages.get(page + 1).map_or(&[], |next| next.k));
        }
        group_scores::<G>(q, span, place, &mut scores);
    }
    for g in 0..G {
        (out.m[g], out.l[g]) = span.weigh(&mut scores[g], places[g].clone());
    }
    out.acc.fill(0.0);
    // Each query takes its positions in order: those before the common ones, the common ones, the rest.
    let shared = common(&places);
    for g in 0..G {
        let end = if shared.is_empty() { places[g].end } else { shared.start };
        let acc = &mut out.acc[g * head_dim..][..head_dim];
        values::<1>([&scores[g]], span, places[g].start..end, acc);
    }
    if !shared.is_empty() {
        let mut weights = [&scores[0]; G];
        for g in 0..G {
            weights[g] = &scores[g];
        }
        values::<G>(weights, span, shared.clone(), out.acc);
        for g in 0..G {
            let acc = &mut out.acc[g * head_dim..][..head_dim];
            values::<1>([&scores[g]], span, shared.end..places[g].end, acc);
        }
    }
}

/// Scores of the 32 places of a page, from `first` on.
#[inline]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq")]
fn group_scores<const G: usize>(
    q: [&[f32]; G],
    span: &SpanView<'_>,
    first: usize,
    scores: &mut Scores,
) {
    let head_dim = span.head_dim;
    let mut q = q;
    for q in &mut q {
        *q = &q[..head_dim];
    }
    let keys = span.pages[first / KV_PAGE].k.as_chunks::<K_GROUP>().0;
    let (keys, others) = keys[..2 * head_dim].split_at(head_dim);
    let mut sums = [[_mm512_setzero_ps(); 2]; G];
    for d in 0..head_dim {
        let k = [load::half16(&keys[d], 0), load::half16(&others[d], 0)];
        for g in 0..G {
            let q = _mm512_set1_ps(q[g][d]);
            sums[g][0] = _mm512_fmadd_ps(q, k[0], sums[g][0]);
            sums[g][1] = _mm512_fmadd_ps(q, k[1], sums[g][1]);
        }
    }
    for g in 0..G {
        load::put_f32x16(&mut scores[g], first, sums[g][0]);
        load::put_f32x16(&mut scores[g], first + K_GROUP, sums[g][1]);
    }
}

/// Adds the weighted values of `places` to `acc`, `[G][head_dim]`.
#[inline]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq")]
fn values<const G: usize>(
    weights: [&[f32; SPAN]; G],
    span: &SpanView<'_>,
    places: Range<usize>,
    acc: &mut [f32],
) {
    if places.is_empty() {
        return;
    }
    let mut at = 0;
    while at < span.head_dim {
        let n_vectors = (span.head_dim - at) / LANES;
        at += LANES
            * if G <= 3 && n_vectors >= 8 {
                some_values::<G, 8>(weights, span, places.clone(), at, acc)
            } else if G <= 6 && n_vectors >= 4 {
                some_values::<G, 4>(weights, span, places.clone(), at, acc)
            } else if n_vectors >= 2 {
                some_values::<G, 2>(weights, span, places.clone(), at, acc)
            } else {
                some_values::<G, 1>(weights, span, places.clone(), at, acc)
            };
    }
}

/// `VECTORS` vectors of every position, from value `at` on. Returns `VECTORS`.
#[inline]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq")]
fn some_values<const G: usize, const VECTORS: usize>(
    weights: [&[f32; SPAN]; G],
    span: &SpanView<'_>,
    places: Range<usize>,
    at: usize,
    acc: &mut [f32],
) -> usize {
    let head_dim = span.head_dim;
    let mut sums = [[_mm512_setzero_ps(); VECTORS]; G];
    for g in 0..G {
        for i in 0..VECTORS {
            sums[g][i] = load::f32x16s(acc, g * head_dim + at + LANES * i);
        }
    }
    let mut place = places.start;
    while place < places.end {
        let (page, row) = (&span.pages[place / KV_PAGE], place % KV_PAGE);
        let n = (KV_PAGE - row).min(places.end - place);
        let mut some: [&[f32]; G] = [&[]; G];
        for g in 0..G {
            some[g] = &weights[g][place..][..n];
        }
        let rows = page.v[row * head_dim..].chunks_exact(head_dim);
        for (i, v) in rows.take(n).enumerate() {
            let v = &v[at..][..LANES * VECTORS];
            let mut weight = [_mm512_setzero_ps(); G];
            for g in 0..G {
                weight[g] = _mm512_set1_ps(some[g][i]);
            }
            for i in 0..VECTORS {
                let v = load::half16(v, LANES * i);
                for g in 0..G {
                    sums[g][i] = _mm512_fmadd_ps(weight[g], v, sums[g][i]);
                }
            }
        }
        place += n;
    }
    for g in 0..G {
        for i in 0..VECTORS {
            load::put_f32x16(acc, g * head_dim + at + LANES * i, sums[g][i]);
        }
    }
    VECTORS
}
