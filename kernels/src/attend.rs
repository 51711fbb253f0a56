//! Attention of one step row over one kv head's paged f16 cache, in spans of positions.
//! Must never know a sequence, a batch or who else runs: a span's borders are fixed by position
//! alone.
//! Start at [`attend_span`], then [`merge_spans`].
//!
//! A page holds 32 positions of one kv head. K: `[position / 8][head_dim][position % 8]`, so that
//! eight positions' scores grow in one vector; V: `[position][head_dim]`.

use std::ops::Range;

use crate::isa::{Isa, Kind};
use crate::lanes;
use crate::scalar;
use crate::vector::f32_to_f16;
#[cfg(target_arch = "x86_64")]
use crate::x86;

/// Positions of a page.
pub const KV_PAGE: usize = 32;
/// Positions of a span; a span starts at a multiple of it.
pub const SPAN: usize = 256;
/// Query heads that share one pass over K and V.
pub(crate) const HEADS: usize = 4;

const SPAN_PAGES: usize = SPAN / KV_PAGE;

/// One kv head's part of the K and V pools, f16 bits. Page `p` starts at element `p * page_stride +
/// offset` of each and is `32 * head_dim` long.
#[derive(Clone, Copy, Debug)]
pub struct KvPages<'a> {
    /// The pool of K.
    pub k: &'a [u16],
    /// The pool of V.
    pub v: &'a [u16],
    /// Elements from a page to the next.
    pub page_stride: usize,
    /// Elements from a page's start to this layer's and kv head's part.
    pub offset: usize,
    /// Values of a head: a multiple of 8.
    pub head_dim: usize,
}

/// Where a span's result goes, for `g` query heads.
#[derive(Debug)]
pub struct AttendOut<'a> {
    /// `[g]`: the largest score.
    pub m: &'a mut [f32],
    /// `[g]`: the sum of e to the (score - m).
    pub l: &'a mut [f32],
    /// `[g][head_dim]`: the values, weighted by e to the (score - m), not yet divided by `l`.
    pub acc: &'a mut [f32],
}

/// Results of several spans, in the order of their positions.
#[derive(Clone, Copy, Debug)]
pub struct Spans<'a> {
    /// `[n_spans][g]`.
    pub m: &'a [f32],
    /// `[n_spans][g]`.
    pub l: &'a [f32],
    /// `[n_spans][g][head_dim]`.
    pub acc: &'a [f32],
}

/// One page of a span: its K, its V, and which of its rows count.
#[derive(Clone, Debug, Default)]
pub(crate) struct PageView<'a> {
    pub(crate) k: &'a [u16],
    pub(crate) v: &'a [u16],
    pub(crate) rows: Range<usize>,
    /// The first row's place in the span.
    pub(crate) at: usize,
}

/// A span's pages, checked.
pub(crate) struct SpanView<'a> {
    pub(crate) pages: [PageView<'a>; SPAN_PAGES],
    pub(crate) n_pages: usize,
    /// Places in the span that count.
    pub(crate) places: Range<usize>,
    pub(crate) head_dim: usize,
    pub(crate) soft_cap: Option<f32>,
}

/// Scores of up to four query heads over a span.
pub(crate) type Scores = [[f32; SPAN]; HEADS];

impl SpanView<'_> {
    /// Caps and masks one head's scores and makes weights of them: returns `(m, l)`.
    #[inline(always)]
    pub(crate) fn weigh(&self, scores: &mut [f32; SPAN]) -> (f32, f32) {
        let (start, end) = (self.places.start, self.places.end);
        if let Some(cap) = self.soft_cap {
            lanes::soft_cap(&mut scores[start..end], cap);
        }
        let window = start / 16 * 16..end.next_multiple_of(16);
        scores[window.start..start].fill(f32::NEG_INFINITY);
        scores[end..window.end].fill(f32::NEG_INFINITY);
        let scores = &mut scores[window];
        let m = lanes::max(scores);
        (m, lanes::exp_in_place(scores, m))
    }
}

/// Attends `g` query heads that share a kv head to the positions of one span. q: `[g][head_dim]`
/// f32, scaled before; `pages[i]` is the page of positions `32 i..32 (i + 1)`; `positions` must lie
/// within one span, and only pages that it touches are read. `soft_cap` applies to the scores. What
/// lies in a page outside of `positions` has no influence. An empty `positions` gives m = -inf, l =
/// 0, acc = 0.
///
/// # Panics
/// When `head_dim` is not a multiple of 8, lengths do not fit each other, `positions` crosses a
/// multiple of 256 or leaves `pages`, or a page lies outside of the pools.
pub fn attend_span(
    isa: Isa,
    q: &[f32],
    kv: KvPages<'_>,
    pages: &[u32],
    positions: Range<usize>,
    soft_cap: Option<f32>,
    out: AttendOut<'_>,
) {
    let (head_dim, g) = (kv.head_dim, out.m.len());
    assert!(head_dim > 0 && head_dim.is_multiple_of(8), "head_dim {head_dim}: not a multiple of 8");
    assert_eq!(q.len(), g * head_dim, "q is not [{g}][{head_dim}]");
    assert_eq!(out.l.len(), g, "l is not [{g}]");
    assert_eq!(out.acc.len(), g * head_dim, "acc is not [{g}][{head_dim}]");
    if positions.is_empty() {
        out.m.fill(f32::NEG_INFINITY);
        out.l.fill(0.0);
        out.acc.fill(0.0);
        return;
    }
    let span = view(kv, pages, positions, soft_cap);
    let mut done = 0;
    while done < g {
        let n = match g - done {
            n @ 0..=4 => n,
            5..=6 => 3,
            _ => HEADS,
        };
        let q = &q[done * head_dim..][..n * head_dim];
        let out = AttendOut {
            m: &mut out.m[done..][..n],
            l: &mut out.l[done..][..n],
            acc: &mut out.acc[done * head_dim..][..n * head_dim],
        };
        match isa.0 {
            Kind::Scalar => scalar::attend::heads(q, &span, out),
            #[cfg(target_arch = "x86_64")]
            // SAFETY: an `Isa` of this kind is only made after avx2, fma and f16c were detected.
            Kind::Avx2 | Kind::Avx512Vnni => unsafe { x86::attend::heads(q, &span, out) },
        }
        done += n;
    }
}

fn view<'a>(
    kv: KvPages<'a>,
    pages: &[u32],
    positions: Range<usize>,
    soft_cap: Option<f32>,
) -> SpanView<'a> {
    let base = positions.start / SPAN * SPAN;
    let end = positions.end;
    assert!(end <= base + SPAN, "positions {positions:?} cross a multiple of {SPAN}");
    let n_positions = pages.len() * KV_PAGE;
    assert!(end <= n_positions, "position {end} is outside of {n_positions} in the pages");
    let mut span = SpanView {
        pages: Default::default(),
        n_pages: 0,
        places: positions.start - base..end - base,
        head_dim: kv.head_dim,
        soft_cap,
    };
    let first_page = positions.start / KV_PAGE;
    for (i, page) in pages[first_page..end.div_ceil(KV_PAGE)].iter().enumerate() {
        let first = (first_page + i) * KV_PAGE;
        let at = *page as usize * kv.page_stride + kv.offset;
        let len = KV_PAGE * kv.head_dim;
        span.pages[span.n_pages] = PageView {
            k: &kv.k[at..][..len],
            v: &kv.v[at..][..len],
            rows: positions.start.max(first) - first..end.min(first + KV_PAGE) - first,
            at: first - base,
        };
        span.n_pages += 1;
    }
    span
}

/// Merges spans in their order: `out = sum of acc * e^(m - M) / sum of l * e^(m - M)`. out:
/// `[g][head_dim]`; zeros when no span had a position.
///
/// # Panics
/// When the lengths do not fit each other.
pub fn merge_spans(isa: Isa, spans: Spans<'_>, head_dim: usize, out: &mut [f32]) {
    let (n_m, n_out) = (spans.m.len(), out.len());
    assert!(head_dim > 0 && n_out.is_multiple_of(head_dim), "{n_out} outputs of {head_dim}");
    let g = n_out / head_dim;
    assert!(g > 0 && n_m.is_multiple_of(g), "{n_m} maxima do not fit {g} heads");
    assert_eq!(spans.l.len(), n_m, "l is not as long as m");
    assert_eq!(spans.acc.len(), n_m * head_dim, "acc is not [n_spans][{g}][{head_dim}]");
    crate::vector::per_isa!(isa, merge(spans: Spans<'_>, head_dim: usize, out: &mut [f32]) -> ());
}

#[inline(always)]
fn merge(spans: Spans<'_>, head_dim: usize, out: &mut [f32]) {
    let g = out.len() / head_dim;
    for (head, out) in out.chunks_exact_mut(head_dim).enumerate() {
        let mut top = f32::NEG_INFINITY;
        for m in spans.m.iter().skip(head).step_by(g) {
            top = if *m > top { *m } else { top };
        }
        out.fill(0.0);
        let mut total = 0.0f32;
        for idx in (head..spans.m.len()).step_by(g) {
            if spans.l[idx] == 0.0 {
                continue;
            }
            let factor = lanes::exp(spans.m[idx] - top);
            total = spans.l[idx].mul_add(factor, total);
            for (out, acc) in out.iter_mut().zip(&spans.acc[idx * head_dim..][..head_dim]) {
                *out = acc.mul_add(factor, *out);
            }
        }
        let inverse = if total == 0.0 { 0.0 } else { 1.0 / total };
        for out in out {
            *out *= inverse;
        }
    }
}

/// Writes one position's K and V of one kv head, rounded to f16. k, v: `[head_dim]`; `k_page`,
/// `v_page`: that head's part of the page, `32 * head_dim`; `slot`: the position's place in the
/// page.
///
/// # Panics
/// When the lengths do not fit each other, or `slot` is over 31.
pub fn store_kv(
    isa: Isa,
    k: &[f32],
    v: &[f32],
    k_page: &mut [u16],
    v_page: &mut [u16],
    slot: usize,
) {
    const CHUNK: usize = 64;
    let head_dim = k.len();
    assert!(slot < KV_PAGE, "slot {slot} is outside of a page of {KV_PAGE}");
    assert_eq!(v.len(), head_dim, "v is not as long as k");
    assert_eq!(k_page.len(), KV_PAGE * head_dim, "the K page is not [{KV_PAGE}][{head_dim}]");
    assert_eq!(v_page.len(), KV_PAGE * head_dim, "the V page is not [{KV_PAGE}][{head_dim}]");
    f32_to_f16(isa, v, &mut v_page[slot * head_dim..][..head_dim]);
    let group = &mut k_page[slot / 8 * 8 * head_dim..][..8 * head_dim];
    let mut bits = [0; CHUNK];
    for (k, lanes) in k.chunks(CHUNK).zip(group.as_chunks_mut::<8>().0.chunks_mut(CHUNK)) {
        let bits = &mut bits[..k.len()];
        f32_to_f16(isa, k, bits);
        for (lanes, bits) in lanes.iter_mut().zip(bits) {
            lanes[slot % 8] = *bits;
        }
    }
}
