//! Attention over pages against f64, and the same bits everywhere.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::ops::Range;

use half::{bf16, f16};
use lm_kernels::{
    AttendOut, Isa, KV_PAGE, KvPages, KvType, Query, SPAN, attend_span, merge_span, store_k,
    store_v,
};

use crate::weights::Rng;

/// One sequence's cache: pages in shuffled order inside a pool with two heads a page, the other one
/// full of NaN.
struct Cache {
    kv_type: KvType,
    words: Vec<u16>,
    pages: Vec<u32>,
    keys: Vec<f32>,
    values: Vec<f32>,
    head_dim: usize,
}

const KV_TYPES: [KvType; 2] = [KvType::F16, KvType::Int8];

fn cache(kv_type: KvType, head_dim: usize, n: usize, rng: &mut Rng) -> Cache {
    let n_pages = n.div_ceil(KV_PAGE);
    let page_words = 2 * (kv_type.k_words(head_dim) + kv_type.v_words(head_dim));
    // NaN as f16, and as the scale of int8.
    let words = vec![0x7fff; n_pages * page_words];
    let pages: Vec<u32> = (0..n_pages as u32).rev().collect();
    let (keys, values) = (rng.units(n * head_dim), rng.units(n * head_dim));
    let mut cache = Cache { kv_type, words, pages, keys, values, head_dim };
    for pos in 0..n {
        let row = pos * head_dim..(pos + 1) * head_dim;
        let (key, value) = (cache.keys[row.clone()].to_vec(), cache.values[row].to_vec());
        let isas = Isa::available();
        cache.store(isas[pos % isas.len()], pos, &key, &value);
    }
    cache
}

impl Cache {
    fn kv(&self) -> KvPages<'_> {
        let (kv_type, head_dim) = (self.kv_type, self.head_dim);
        let (k_words, v_words) = (kv_type.k_words(head_dim), kv_type.v_words(head_dim));
        let (k_offset, v_offset) = (k_words, 2 * k_words + v_words);
        let page_stride = 2 * (k_words + v_words);
        KvPages { kv_type, words: &self.words, page_stride, k_offset, v_offset, head_dim }
    }

    fn store(&mut self, isa: Isa, pos: usize, key: &[f32], value: &[f32]) {
        let KvPages { kv_type, page_stride, k_offset, v_offset, head_dim, .. } = self.kv();
        let page = &mut self.words[self.pages[pos / KV_PAGE] as usize * page_stride..];
        let k = &mut page[k_offset..][..kv_type.k_words(head_dim)];
        store_k(isa, kv_type, key, k, pos % KV_PAGE);
        let v = &mut page[v_offset..][..kv_type.v_words(head_dim)];
        store_v(isa, kv_type, value, v, pos % KV_PAGE);
    }
}

/// What a cache makes of numbers that share a scale.
fn as_stored(kv_type: KvType, values: &[f32]) -> Vec<f64> {
    if kv_type == KvType::F16 {
        return values.iter().map(|x| f16::from_f32(*x).to_f64()).collect();
    }
    let wanted = values.iter().fold(0.0, |max: f32, x| max.max(x.abs())) / 127.0;
    let below = bf16::from_bits((wanted.to_bits() >> 16) as u16);
    let is_exact = below.to_f32() == wanted;
    let scale = if is_exact { below } else { bf16::from_bits(below.to_bits() + 1) };
    let code = |x: &f32| (f64::from(*x) * f64::from(1.0 / scale.to_f32())).round_ties_even();
    values.iter().map(|x| code(x) * scale.to_f64()).collect()
}

fn attend(isa: Isa, cache: &Cache, q: &[f32], range: Range<usize>, cap: Option<f32>) -> Vec<f32> {
    let n = q.len() / cache.head_dim;
    attend_each(isa, cache, q, &vec![range; n], cap)
}

/// Each query has a range of its own.
fn attend_each(
    isa: Isa,
    cache: &Cache,
    q: &[f32],
    ranges: &[Range<usize>],
    cap: Option<f32>,
) -> Vec<f32> {
    let (head_dim, g) = (cache.head_dim, ranges.len());
    let kv = cache.kv();
    let start = ranges.iter().map(|range| range.start).min().unwrap();
    let end = ranges.iter().map(|range| range.end).max().unwrap();
    let mut spans = Vec::new();
    for first in (start / SPAN * SPAN..end).step_by(SPAN) {
        let queries: Vec<Query<'_>> = (q.chunks_exact(head_dim).zip(ranges))
            .map(|(q, r)| Query { q, positions: r.start.max(first)..r.end.min(first + SPAN) })
            .collect();
        let (mut m, mut l, mut acc) = (vec![0.0; g], vec![0.0; g], vec![f32::NAN; g * head_dim]);
        let out = AttendOut { m: &mut m, l: &mut l, acc: &mut acc };
        attend_span(isa, &queries, (kv, &cache.pages), cap, None, out);
        // What is fetched meanwhile changes nothing.
        for n in [0, 1, cache.pages.len().min(8)] {
            let (mut m2, mut l2, mut acc2) = (m.clone(), l.clone(), vec![f32::NAN; g * head_dim]);
            let out = AttendOut { m: &mut m2, l: &mut l2, acc: &mut acc2 };
            let then = Some((kv, &cache.pages[..n]));
            attend_span(isa, &queries, (kv, &cache.pages), cap, then, out);
            let bits = |values: &[f32]| values.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
            assert_eq!((bits(&m2), bits(&l2), bits(&acc2)), (bits(&m), bits(&l), bits(&acc)));
        }
        spans.push((m, l, acc));
    }
    let mut out = vec![0.0; g * head_dim];
    for (i, out) in out.chunks_exact_mut(head_dim).enumerate() {
        let top = spans.iter().map(|(m, ..)| m[i]).fold(f32::NEG_INFINITY, f32::max);
        let mut total = 0.0;
        for (m, l, acc) in &spans {
            let acc = &acc[i * head_dim..][..head_dim];
            merge_span(isa, top, (m[i], l[i], acc), &mut total, out);
        }
        out.iter_mut().for_each(|out| *out /= total);
    }
    out
}

fn oracle(cache: &Cache, q: &[f32], range: Range<usize>, cap: Option<f32>) -> Vec<f64> {
    let head_dim = cache.head_dim;
    let stored = |values: &[f32], n_scaled: usize| -> Vec<Vec<f64>> {
        let row = |row: &[f32]| {
            row.chunks(n_scaled).flat_map(|values| as_stored(cache.kv_type, values)).collect()
        };
        values.chunks_exact(head_dim).map(row).collect()
    };
    let (keys, values) = (stored(&cache.keys, 32), stored(&cache.values, head_dim));
    let mut out = Vec::new();
    for q in q.chunks_exact(head_dim) {
        let mut weights = Vec::new();
        for pos in range.clone() {
            let score: f64 = q.iter().zip(&keys[pos]).map(|(q, k)| f64::from(*q) * k).sum();
            let cap = cap.map(f64::from);
            weights.push(cap.map_or(score, |cap| cap * (score / cap).tanh()).exp());
        }
        let total: f64 = weights.iter().sum();
        out.extend((0..head_dim).map(|d| {
            let sum: f64 = range.clone().zip(&weights).map(|(pos, w)| w * values[pos][d]).sum();
            sum / total
        }));
    }
    out
}

#[track_caller]
fn check(head_dim: usize, g: usize, range: Range<usize>, cap: Option<f32>) {
    for kv_type in KV_TYPES {
        check_type(kv_type, head_dim, g, range.clone(), cap);
    }
}

#[track_caller]
fn check_type(kv_type: KvType, head_dim: usize, g: usize, range: Range<usize>, cap: Option<f32>) {
    let mut rng = Rng((head_dim * 1000 + g) as u64);
    let cache = cache(kv_type, head_dim, range.end, &mut rng);
    let q: Vec<f32> = rng.units(g * head_dim).iter().map(|q| q * 0.7).collect();
    let want = oracle(&cache, &q, range.clone(), cap);
    let scalar = attend(Isa::SCALAR, &cache, &q, range.clone(), cap);
    for (got, want) in scalar.iter().zip(&want) {
        let error = (f64::from(*got) - want).abs();
        assert!(error < 3e-6, "{kv_type:?} head_dim {head_dim} g {g} {range:?}: {got} for {want}");
    }
    for isa in Isa::available() {
        let got = attend(isa, &cache, &q, range.clone(), cap);
        assert_eq!(got, scalar, "{} {kv_type:?} head_dim {head_dim} g {g} {range:?}", isa.name());
        for (head, q) in q.chunks_exact(head_dim).enumerate() {
            let alone = attend(isa, &cache, q, range.clone(), cap);
            assert_eq!(alone, got[head * head_dim..][..head_dim], "a head depends on its group");
        }
    }
}

#[test]
fn every_group_and_head_dim() {
    for head_dim in [8, 24, 40, 64, 72, 80, 96, 128, 256] {
        for g in 1..=9 {
            check(head_dim, g, 0..70, None);
        }
    }
}

#[test]
fn awkward_ranges() {
    for end in [1, 7, 8, 9, 31, 32, 33, 255, 256, 257, 600] {
        check(64, 3, 0..end, None);
    }
    for range in [5..6, 5..40, 31..33, 100..290, 255..257, 256..300, 300..513, 40..64] {
        check(64, 2, range.clone(), None);
        check(96, 5, range, Some(2.0));
    }
}

/// Rows of a chunk see different positions: each gets the bits that it gets alone.
#[test]
fn queries_with_different_ranges() {
    let mut rng = Rng(4);
    for (kv_type, head_dim) in KV_TYPES.into_iter().flat_map(|t| [8, 64, 96].map(|dim| (t, dim))) {
        let cache = cache(kv_type, head_dim, 600, &mut rng);
        let causal: Vec<Range<usize>> = (0..11).map(|i| 0..250 + i).collect();
        let windows: Vec<Range<usize>> = (0..9).map(|i| 90 * i / 2..90 * i / 2 + 40 + i).collect();
        let apart = vec![3..5, 200..255, 30..31, 300..512, 0..600];
        for ranges in [causal, windows, apart] {
            let q = rng.units(ranges.len() * head_dim);
            let want: Vec<f32> = (q.chunks_exact(head_dim).zip(&ranges))
                .flat_map(|(q, range)| attend(Isa::SCALAR, &cache, q, range.clone(), Some(9.0)))
                .collect();
            for isa in Isa::available() {
                let got = attend_each(isa, &cache, &q, &ranges, Some(9.0));
                assert_eq!(got, want, "{} head_dim {head_dim} {ranges:?}", isa.name());
            }
        }
    }
}

#[test]
fn nothing_to_attend_to_gives_nothing() {
    let mut rng = Rng(1);
    let cache = cache(KvType::F16, 64, 40, &mut rng);
    let q = rng.units(64);
    for isa in Isa::available() {
        let (mut m, mut l, mut acc) = ([1.0; 2], [1.0; 2], [1.0; 128]);
        let out = AttendOut { m: &mut m, l: &mut l, acc: &mut acc };
        let queries = [9..9, 3..5].map(|positions| Query { q: &q, positions });
        attend_span(isa, &queries, (cache.kv(), &cache.pages), None, None, out);
        assert_eq!((m[0], l[0], &acc[..64]), (f32::NEG_INFINITY, 0.0, &[0.0; 64][..]));
        assert!(l[1] > 0.0);
        let (mut total, mut out) = (0.0, [7.0; 64]);
        merge_span(isa, m[1], (m[0], l[0], &acc[..64]), &mut total, &mut out);
        assert_eq!((total, out), (0.0, [7.0; 64]));
    }
}

#[test]
fn what_lies_beyond_the_range_has_no_influence() {
    for kv_type in KV_TYPES {
        let mut rng = Rng(8);
        let mut cache = cache(kv_type, 64, 100, &mut rng);
        let q = rng.units(64);
        let want = attend(Isa::SCALAR, &cache, &q, 10..50, Some(30.0));
        for pos in (0..10).chain(50..100) {
            break_position(&mut cache, pos);
        }
        for isa in Isa::available() {
            assert_eq!(attend(isa, &cache, &q, 10..50, Some(30.0)), want, "{}", isa.name());
        }
    }
}

#[test]
fn what_is_not_finite_is_not_hidden_by_a_scale() {
    for kv_type in KV_TYPES {
        let mut rng = Rng(8);
        let mut cache = cache(kv_type, 64, 40, &mut rng);
        break_position(&mut cache, 20);
        for isa in Isa::available() {
            let got = attend(isa, &cache, &rng.units(64), 0..40, None);
            assert!(got.iter().all(|x| x.is_nan()), "{} {kv_type:?}", isa.name());
        }
    }
}

/// Writes a K of NaN and a V of infinity.
fn break_position(cache: &mut Cache, pos: usize) {
    cache.store(Isa::SCALAR, pos, &[f32::NAN; 64], &[f32::INFINITY; 64]);
}

#[test]
#[should_panic(expected = "cross a multiple of 256")]
fn a_span_does_not_cross_its_border() {
    let cache = cache(KvType::F16, 8, 300, &mut Rng(1));
    let out = AttendOut { m: &mut [0.0], l: &mut [0.0], acc: &mut [0.0; 8] };
    let query = Query { q: &[0.0; 8], positions: 250..260 };
    attend_span(Isa::detect(), &[query], (cache.kv(), &cache.pages), None, None, out);
}
