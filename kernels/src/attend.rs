//! Attention of some queries over one kv head's paged cache, in spans of positions.
//! Must never know a sequence, a batch or who else runs: a span's borders are fixed by position
//! alone.
//! Start at [`attend_span`], then [`merge_span`].

use std::ops::Range;

use crate::isa::{Isa, Kind};
use crate::lanes;
use crate::page::{KV_PAGE, KvType, scale_from_bits};
use crate::scalar;
#[cfg(target_arch = "x86_64")]
use crate::x86;

/// Positions of a span; a span starts at a multiple of it.
pub const SPAN: usize = 256;
/// Queries that share one pass over K and V.
pub(crate) const QUERIES: usize = 6;

const SPAN_PAGES: usize = SPAN / KV_PAGE;

/// One query head of one row, and the positions that it attends to.
#[derive(Clone, Debug)]
pub struct Query<'a> {
    /// Scaled before. `[head_dim]`
    pub q: &'a [f32],
    /// All within one span; may be empty.
    pub positions: Range<usize>,
}

/// Where one kv head's K and V are in a pool of pages; [`KvType`] says how long they are in each.
#[derive(Clone, Copy, Debug)]
pub struct KvPages<'a> {
    /// How the numbers are stored.
    pub kv_type: KvType,
    /// All pages.
    pub words: &'a [u16],
    /// Words from a page to the next.
    pub page_stride: usize,
    /// Words from a page's start to this layer's and kv head's part.
    pub k_offset: usize,
    /// Words from a page's start to this layer's and kv head's V.
    pub v_offset: usize,
    /// Values of a head: a multiple of 8.
    pub head_dim: usize,
}

impl<'a> KvPages<'a> {
    /// The numbers of this head's part of a page, without their scales; `offset` is that of its K or V.
    fn page_numbers(&self, page: u32, offset: usize) -> &'a [u16] {
        let page = &self.words[page as usize * self.page_stride..];
        &page[offset..][..self.kv_type.number_words(self.head_dim)]
    }
}

/// Where a span's result goes, for `g` queries.
#[derive(Debug)]
pub struct AttendOut<'a> {
    /// `[g]`: the largest score; -inf of a query without positions.
    pub m: &'a mut [f32],
    /// `[g]`: the sum of e to the (score - m).
    pub l: &'a mut [f32],
    /// `[g][head_dim]`: the values, weighted by e to the (score - m), not yet divided by `l`.
    pub acc: &'a mut [f32],
}

/// The numbers of K and V of a page that the span touches, and the scales of K if it has any.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct PageView<'a> {
    pub(crate) k: &'a [u16],
    pub(crate) v: &'a [u16],
    pub(crate) k_scales: &'a [u16],
}

/// A span's pages, checked.
pub(crate) struct SpanView<'a> {
    /// Those that no query touches are empty.
    pub(crate) pages: [PageView<'a>; SPAN_PAGES],
    /// Of the span's first position.
    pub(crate) base: usize,
    pub(crate) head_dim: usize,
    pub(crate) kv_type: KvType,
    /// The K that is read after this span, to be asked for meanwhile: a page each, or nothing.
    pub(crate) soon: [&'a [u16]; SPAN_PAGES],
    /// By what the numbers of each place's V are multiplied.
    v_scales: Option<[f32; SPAN]>,
    soft_cap: Option<f32>,
}

impl SpanView<'_> {
    /// The places in the span that a query attends to.
    #[inline(always)]
    pub(crate) fn places(&self, query: &Query<'_>) -> Range<usize> {
        if query.positions.is_empty() {
            return 0..0;
        }
        query.positions.start - self.base..query.positions.end - self.base
    }

    /// Caps and masks one query's scores and makes weights of them, for V as it is stored: returns
    /// `(m, l)`.
    #[inline(always)]
    pub(crate) fn weigh(&self, scores: &mut [f32; SPAN], places: Range<usize>) -> (f32, f32) {
        let (start, end) = (places.start, places.end);
        if start == end {
            return (f32::NEG_INFINITY, 0.0);
        }
        if let Some(cap) = self.soft_cap {
            lanes::soft_cap(&mut scores[start..end], cap);
        }
        let window = start / 16 * 16..end.next_multiple_of(16);
        scores[window.start..start].fill(f32::NEG_INFINITY);
        scores[end..window.end].fill(f32::NEG_INFINITY);
        let weights = &mut scores[window];
        let m = lanes::max(weights);
        let l = lanes::exp_in_place(weights, m);
        if let Some(scales) = &self.v_scales {
            for (weight, scale) in scores[start..end].iter_mut().zip(&scales[start..end]) {
                *weight *= scale;
            }
        }
        (m, l)
    }
}

/// The places that all of some ranges share, if that is worth a pass of its own.
#[inline(always)]
pub(crate) fn common(places: &[Range<usize>]) -> Range<usize> {
    let start = places.iter().map(|places| places.start).max().unwrap_or(0);
    let end = places.iter().map(|places| places.end).min().unwrap_or(0);
    if start < end { start..end } else { 0..0 }
}

/// Attends queries that share a kv head to positions of one span. `pages[i]` is the page of positions `32
/// i..32 (i + 1)`; only pages that `positions` touch are read. `soft_cap` applies to the scores. What a
/// query gets does not depend on the others, nor on what lies outside of its `positions`. `then` is what this
/// core will read next: a kv head and up to eight pages, which are fetched meanwhile.
///
/// # Panics
/// When `head_dim` is not a multiple of 8, lengths do not fit each other, `positions` are not all in one
/// span or leave `pages`, or a page lies outside of the pools.
pub fn attend_span(
    isa: Isa,
    queries: &[Query<'_>],
    (kv, pages): (KvPages<'_>, &[u32]),
    soft_cap: Option<f32>,
    then: Option<(KvPages<'_>, &[u32])>,
    out: AttendOut<'_>,
) {
    let (head_dim, g) = (kv.head_dim, queries.len());
    assert!(head_dim > 0 && head_dim.is_multiple_of(8), "head_dim {head_dim}: not a multiple of 8");
    let are_whole = queries.iter().all(|query| query.q.len() == head_dim);
    assert!(are_whole, "a query does not have {head_dim} values");
    assert_eq!(out.m.len(), g, "m is not [{g}]");
    assert_eq!(out.l.len(), g, "l is not [{g}]");
    assert_eq!(out.acc.len(), g * head_dim, "acc is not [{g}][{head_dim}]");
    let mut span = view(kv, pages, queries, soft_cap);
    // As few passes as can be, of even size.
    let per_pass = g.div_ceil(g.div_ceil(QUERIES).max(1)).max(1);
    for (i, queries) in queries.chunks(per_pass).enumerate() {
        let (first, n) = (i * per_pass, queries.len());
        if let Some((kv, pages)) = then.filter(|_| first + n == g) {
            for (soon, page) in span.soon.iter_mut().zip(pages) {
                *soon = kv.page_numbers(*page, kv.k_offset);
            }
        }
        let out = AttendOut {
            m: &mut out.m[first..][..n],
            l: &mut out.l[first..][..n],
            acc: &mut out.acc[first * head_dim..][..n * head_dim],
        };
        one_pass(isa, queries, &span, out);
    }
}

/// Up to six queries.
fn one_pass(isa: Isa, queries: &[Query<'_>], span: &SpanView<'_>, out: AttendOut<'_>) {
    #[cfg(target_arch = "x86_64")]
    use x86::attend::{avx2, avx2_int8, avx512, avx512_int8};
    match (isa.0, span.kv_type) {
        (Kind::Scalar, _) => scalar::attend::queries(queries, span, out),
        #[cfg(target_arch = "x86_64")]
        // SAFETY: an `Isa` of this kind is only made after the avx512 features were detected.
        (Kind::Avx512Vnni | Kind::Amx, kv_type) if span.head_dim.is_multiple_of(16) => unsafe {
            match kv_type {
                KvType::F16 => avx512::queries(queries, span, out),
                KvType::Int8 => avx512_int8::queries(queries, span, out),
            }
        },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: an `Isa` of this kind is only made after avx2, fma and f16c were detected.
        (Kind::Avx2 | Kind::Avx512Vnni | Kind::Amx, kv_type) => unsafe {
            match kv_type {
                KvType::F16 => avx2::queries(queries, span, out),
                KvType::Int8 => avx2_int8::queries(queries, span, out),
            }
        },
    }
}

fn view<'a>(
    kv: KvPages<'a>,
    pages: &[u32],
    queries: &[Query<'_>],
    soft_cap: Option<f32>,
) -> SpanView<'a> {
    let ranges = || queries.iter().map(|query| &query.positions).filter(|range| !range.is_empty());
    let start = ranges().map(|range| range.start).min().unwrap_or(0);
    let end = ranges().map(|range| range.end).max().unwrap_or(0);
    let base = start / SPAN * SPAN;
    assert!(end <= base + SPAN, "positions {start}..{end} cross a multiple of {SPAN}");
    let n_positions = pages.len() * KV_PAGE;
    assert!(end <= n_positions, "position {end} is outside of {n_positions} in the pages");
    let mut views = [PageView::default(); SPAN_PAGES];
    let mut v_scales = (kv.kv_type == KvType::Int8).then_some([0.0; SPAN]);
    let KvPages { kv_type, head_dim, .. } = kv;
    let touched = start / KV_PAGE..end.div_ceil(KV_PAGE);
    for (i, page) in pages[touched.clone()].iter().enumerate() {
        let page = &kv.words[*page as usize * kv.page_stride..];
        let n_numbers = kv_type.number_words(head_dim);
        let (k, k_scales) = page[kv.k_offset..][..kv_type.k_words(head_dim)].split_at(n_numbers);
        let (v, scales) = page[kv.v_offset..][..kv_type.v_words(head_dim)].split_at(n_numbers);
        let place = (touched.start + i) * KV_PAGE - base;
        views[place / KV_PAGE] = PageView { k, v, k_scales };
        if let Some(v_scales) = &mut v_scales {
            for (scale, bits) in v_scales[place..].iter_mut().zip(scales) {
                *scale = scale_from_bits(*bits);
            }
        }
    }
    let soon = [&[][..]; SPAN_PAGES];
    SpanView { pages: views, base, head_dim, kv_type, soon, v_scales, soft_cap }
}

/// Adds one span's part of a query to `out` (`[head_dim]`) and to `total`, in the order of the spans, both
/// zero before the first: `acc` and `l` times e to the (m - `top`), `top` being the largest `m` of all
/// spans. When all are added, `out / total` is the answer. A span without positions adds nothing.
///
/// # Panics
/// When `acc` and `out` differ in length.
pub fn merge_span(
    isa: Isa,
    top: f32,
    (m, l, acc): (f32, f32, &[f32]),
    total: &mut f32,
    out: &mut [f32],
) {
    assert_eq!(acc.len(), out.len(), "acc is not as long as out");
    if l != 0.0 {
        crate::vector::per_isa!(isa, merge(m: f32, l: f32, acc: &[f32], top: f32, total: &mut f32,
            out: &mut [f32]) -> ());
    }
}

#[inline(always)]
fn merge(m: f32, l: f32, acc: &[f32], top: f32, total: &mut f32, out: &mut [f32]) {
    let factor = lanes::exp(m - top);
    *total = l.mul_add(factor, *total);
    for (out, acc) in out.iter_mut().zip(acc) {
        *out = acc.mul_add(factor, *out);
    }
}
