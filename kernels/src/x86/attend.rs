//! Attention over one span in vectors of positions, then of values: of eight with AVX2 and F16C, of sixteen with
//! AVX-512.
//! Must never know pages beyond the view that it gets.
//! Start at `queries`, of which there is one for each instruction set.

macro_rules! attention {
    ($isa:ident, $features:literal, lanes $lanes:literal, queries $page:literal $for_four:literal $for_eight:literal,
     per_word $per_word:literal $numbers:ident $ordered:ident $fma:ident, $vector:ident $scales:ident $zero:ident $set1:ident $fmadd:ident $get:ident $put:ident) => {
        pub(crate) mod $isa {
            use std::arch::x86_64::*;
            use std::ops::Range;

            use super::super::load;
            use crate::attend::{AttendOut, QUERIES, Query, SPAN, SpanView, common};
            use crate::page::{K_GROUP, K_SCALED, KV_PAGE};

            /// Values of a vector.
            const LANES: usize = $lanes;
            /// Numbers in a word.
            const PER_WORD: usize = $per_word;
            /// Up to six queries over a span.
            #[target_feature(enable = $features)]
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

            #[target_feature(enable = $features)]
            fn pass<const G: usize>(
                queries: &[Query<'_>],
                span: &SpanView<'_>,
                out: AttendOut<'_>,
            ) {
                let head_dim = span.head_dim;
                let q: [&[f32]; G] = std::array::from_fn(|g| queries[g].q);
                let places: [Range<usize>; G] = std::array::from_fn(|g| span.places(&queries[g]));
                let mut scores = [[0.0; SPAN]; G];
                let first =
                    places.iter().filter(|p| !p.is_empty()).map(|p| p.start).min().unwrap_or(0);
                let last = places.iter().map(|p| p.end).max().unwrap_or(0);
                // Sums that grow together must be enough to hide how long one takes, and few enough for the registers.
                if G <= $page {
                    all_scores::<G, { KV_PAGE / LANES }>(q, span, first..last, &mut scores);
                } else {
                    all_scores::<G, 2>(q, span, first..last, &mut scores);
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

            /// Scores of `places`, `VECTORS` vectors at a time.
            #[inline]
            #[target_feature(enable = $features)]
            fn all_scores<const G: usize, const VECTORS: usize>(
                q: [&[f32]; G],
                span: &SpanView<'_>,
                places: Range<usize>,
                scores: &mut [[f32; SPAN]; G],
            ) {
                let n = VECTORS * LANES;
                for place in (places.start / n * n..places.end).step_by(n) {
                    some_scores::<G, VECTORS>(q, span, place, scores);
                }
            }

            /// Scores of the places from `first` on.
            #[inline]
            #[target_feature(enable = $features)]
            fn some_scores<const G: usize, const VECTORS: usize>(
                q: [&[f32]; G],
                span: &SpanView<'_>,
                first: usize,
                scores: &mut [[f32; SPAN]; G],
            ) {
                let head_dim = span.head_dim;
                let page = first / KV_PAGE;
                let next = span.pages.get(page + 1).map_or(&[][..], |next| next.k);
                // A page's V, and the next page's K: both at once, or one with each half of a page.
                let soon = match (VECTORS * LANES == KV_PAGE, first.is_multiple_of(KV_PAGE)) {
                    (true, _) => [span.pages[page].v, next],
                    (false, true) => [span.pages[page].v, &[]],
                    (false, false) => [next, &[]],
                };
                let keys = span.pages[first / KV_PAGE].k.as_chunks::<{ K_GROUP / PER_WORD }>().0;
                let near = &keys[first % KV_PAGE / K_GROUP * head_dim..][..head_dim];
                let far = if VECTORS * LANES > K_GROUP {
                    &keys[(first + K_GROUP) % KV_PAGE / K_GROUP * head_dim..][..head_dim]
                } else {
                    near
                };
                let sums = if PER_WORD == 1 {
                    products(q, near, far, soon, 0)
                } else {
                    let mut sums = [[$zero(); VECTORS]; G];
                    let scales = span.pages[first / KV_PAGE].k_scales.chunks_exact(KV_PAGE);
                    let keys = near.chunks(K_SCALED).zip(far.chunks(K_SCALED));
                    for (i, ((near, far), scales)) in keys.zip(scales).enumerate() {
                        let mut some = q;
                        for some in &mut some {
                            *some = &some[i * K_SCALED..][..near.len()];
                        }
                        let products: [[$vector; VECTORS]; G] =
                            products(some, near, far, soon, i * K_SCALED);
                        for j in 0..VECTORS {
                            let scale = load::$scales(scales, first % KV_PAGE + LANES * j);
                            for g in 0..G {
                                sums[g][j] = $fmadd(products[g][j], scale, sums[g][j]);
                            }
                        }
                    }
                    sums
                };
                for g in 0..G {
                    for j in 0..VECTORS {
                        load::$put(&mut scores[g], first + LANES * j, sums[g][j]);
                    }
                }
            }

            /// Of queries and the K of `VECTORS` times [`LANES`] places, the second group of them in `far`, as far as
            /// both have dimensions. With each dimension a line of what is read `soon` is asked for, from `first_line` on: a
            /// core that asks for many at once waits for them.
            #[inline]
            #[target_feature(enable = $features)]
            fn products<const G: usize, const VECTORS: usize>(
                q: [&[f32]; G],
                near: &[[u16; K_GROUP / PER_WORD]],
                far: &[[u16; K_GROUP / PER_WORD]],
                soon: [&[u16]; 2],
                first_line: usize,
            ) -> [[$vector; VECTORS]; G] {
                let mut sums = [[$zero(); VECTORS]; G];
                let n = near.len();
                let (far, mut q) = (&far[..n], q);
                for q in &mut q {
                    *q = &q[..n];
                }
                for d in 0..n {
                    load::prefetch_line(soon[0], first_line + d);
                    load::prefetch_line(soon[1], first_line + d);
                    let keys = |j: usize| {
                        let group = if j * LANES < K_GROUP { &near[d] } else { &far[d] };
                        (group, j * LANES % K_GROUP / PER_WORD)
                    };
                    // Whichever are fewer stay in registers beside the sums, which must not be spilled.
                    if G < VECTORS {
                        let mut of_query = [$zero(); G];
                        for g in 0..G {
                            of_query[g] = $set1(q[g][d]);
                        }
                        for j in 0..VECTORS {
                            let (group, at) = keys(j);
                            let k = load::$ordered(group, at);
                            for g in 0..G {
                                sums[g][j] = load::$fma(of_query[g], k, sums[g][j]);
                            }
                        }
                    } else {
                        let mut k = [$zero(); VECTORS];
                        for j in 0..VECTORS {
                            let (group, at) = keys(j);
                            k[j] = load::$numbers(group, at);
                        }
                        for g in 0..G {
                            let q = $set1(q[g][d]);
                            for j in 0..VECTORS {
                                sums[g][j] = $fmadd(q, k[j], sums[g][j]);
                            }
                        }
                    }
                }
                sums
            }

            /// Adds the weighted values of `places` to `acc`, `[G][head_dim]`.
            #[inline]
            #[target_feature(enable = $features)]
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
                        * if G <= $for_eight && n_vectors >= 8 {
                            some_values::<G, 8>(weights, span, places.clone(), at, acc)
                        } else if G <= $for_four && n_vectors >= 4 {
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
            #[target_feature(enable = $features)]
            fn some_values<const G: usize, const VECTORS: usize>(
                weights: [&[f32; SPAN]; G],
                span: &SpanView<'_>,
                places: Range<usize>,
                at: usize,
                acc: &mut [f32],
            ) -> usize {
                let head_dim = span.head_dim;
                let mut sums = [[$zero(); VECTORS]; G];
                for g in 0..G {
                    for i in 0..VECTORS {
                        sums[g][i] = load::$get(acc, g * head_dim + at + LANES * i);
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
                    let (n_words, soon) = (head_dim / PER_WORD, span.soon[place / KV_PAGE]);
                    let mut word = row * n_words + at / PER_WORD;
                    for (i, v) in page.v[word..].chunks(n_words).take(n).enumerate() {
                        let v = &v[..LANES * VECTORS / PER_WORD];
                        // Of what is read next as much as of this: memory never rests.
                        for line in 0..v.len().div_ceil(load::LINE_WORDS) {
                            load::prefetch_word(soon, word + line * load::LINE_WORDS);
                        }
                        word += n_words;
                        if G < VECTORS {
                            let mut weight = [$zero(); G];
                            for g in 0..G {
                                weight[g] = $set1(some[g][i]);
                            }
                            for j in 0..VECTORS {
                                let v = load::$ordered(v, LANES * j / PER_WORD);
                                for g in 0..G {
                                    sums[g][j] = load::$fma(weight[g], v, sums[g][j]);
                                }
                            }
                        } else {
                            let mut numbers = [$zero(); VECTORS];
                            for j in 0..VECTORS {
                                numbers[j] = load::$numbers(v, LANES * j / PER_WORD);
                            }
                            for g in 0..G {
                                let weight = $set1(some[g][i]);
                                for j in 0..VECTORS {
                                    sums[g][j] = $fmadd(weight, numbers[j], sums[g][j]);
                                }
                            }
                        }
                    }
                    place += n;
                }
                for g in 0..G {
                    for i in 0..VECTORS {
                        load::$put(acc, g * head_dim + at + LANES * i, sums[g][i]);
                    }
                }
                VECTORS
            }
        }
    };
}

attention!(avx2, "avx2,fma,f16c", lanes 8, queries 3 3 1, per_word 1 half8 half8_ordered fma8,
    __m256 bf16_words8 _mm256_setzero_ps _mm256_set1_ps _mm256_fmadd_ps f32s put_f32x8);
attention!(avx2_int8, "avx2,fma,f16c", lanes 8, queries 3 3 1, per_word 2 pairs8 pairs8 fma8,
    __m256 bf16_words8 _mm256_setzero_ps _mm256_set1_ps _mm256_fmadd_ps f32s put_f32x8);
attention!(avx512, "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq", lanes 16, queries 6 6 3,
    per_word 1 half16 half16 fma16, __m512 bf16_words16 _mm512_setzero_ps _mm512_set1_ps _mm512_fmadd_ps f32x16s put_f32x16);
attention!(avx512_int8, "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq", lanes 16, queries 6 6 3,
    per_word 2 pairs16 pairs16 fma16, __m512 bf16_words16 _mm512_setzero_ps _mm512_set1_ps _mm512_fmadd_ps f32x16s put_f32x16);
