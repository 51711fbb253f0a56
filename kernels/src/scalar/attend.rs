//! Attention over one span, position by position.
//! Defines the order of the float operations; must never know a vector unit.
//! Start at [`queries`].

use half::f16;

use crate::attend::{AttendOut, K_GROUP, KV_PAGE, Query, SPAN, SpanView};

/// Some queries over a span, one after another.
pub(crate) fn queries(queries: &[Query<'_>], span: &SpanView<'_>, out: AttendOut<'_>) {
    let head_dim = span.head_dim;
    for (i, query) in queries.iter().enumerate() {
        let places = span.places(query);
        let mut scores = [f32::NEG_INFINITY; SPAN];
        for place in places.clone() {
            let (page, row) = (&span.pages[place / KV_PAGE], place % KV_PAGE);
            let keys = &page.k[row / K_GROUP * K_GROUP * head_dim..];
            scores[place] = query.q.iter().enumerate().fold(0.0, |sum, (d, q)| {
                let key = f16::from_bits(keys[d * K_GROUP + row % K_GROUP]);
                q.mul_add(key.to_f32_const(), sum)
            });
        }
        (out.m[i], out.l[i]) = span.weigh(&mut scores, places.clone());
        let acc = &mut out.acc[i * head_dim..][..head_dim];
        acc.fill(0.0);
        for place in places {
            let (page, row) = (&span.pages[place / KV_PAGE], place % KV_PAGE);
            for (acc, v) in acc.iter_mut().zip(&page.v[row * head_dim..]) {
                *acc = scores[place].mul_add(f16::from_bits(*v).to_f32_const(), *acc);
            }
        }
    }
}
