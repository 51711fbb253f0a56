//! Attention over one span, position by position.
//! Defines the order of the float operations; must never know a vector unit.
//! Start at [`queries`].

use crate::attend::{AttendOut, PageView, Query, SPAN, SpanView};
use crate::page::{K_GROUP, K_SCALED, KV_PAGE, KvType, number, scale_from_bits};

/// Some queries over a span, one after another.
pub(crate) fn queries(queries: &[Query<'_>], span: &SpanView<'_>, out: AttendOut<'_>) {
    let head_dim = span.head_dim;
    for (i, query) in queries.iter().enumerate() {
        let places = span.places(query);
        let mut scores = [f32::NEG_INFINITY; SPAN];
        for place in places.clone() {
            let (page, row) = (&span.pages[place / KV_PAGE], place % KV_PAGE);
            scores[place] = score(query.q, span.kv_type, page, row);
        }
        (out.m[i], out.l[i]) = span.weigh(&mut scores, places.clone());
        let acc = &mut out.acc[i * head_dim..][..head_dim];
        acc.fill(0.0);
        for place in places {
            let (page, row) = (&span.pages[place / KV_PAGE], place % KV_PAGE);
            for (d, acc) in acc.iter_mut().enumerate() {
                let v = number(span.kv_type, page.v, row * head_dim + d);
                *acc = scores[place].mul_add(v, *acc);
            }
        }
    }
}

/// The product of a query and the K of one row of a page.
fn score(q: &[f32], kv_type: KvType, page: &PageView<'_>, row: usize) -> f32 {
    let first = row / K_GROUP * K_GROUP * q.len() + row % K_GROUP;
    let product = |q: &[f32], first: usize| {
        q.iter()
            .enumerate()
            .fold(0.0, |sum, (d, q)| q.mul_add(number(kv_type, page.k, first + d * K_GROUP), sum))
    };
    match kv_type {
        KvType::F16 => product(q, first),
        KvType::Int8 => q.chunks(K_SCALED).enumerate().fold(0.0, |sum, (i, q)| {
            let scale = scale_from_bits(page.k_scales[i * KV_PAGE + row]);
            product(q, first + i * K_SCALED * K_GROUP).mul_add(scale, sum)
        }),
    }
}
