//! Attention over one span, position by position.
//! Defines the order of the float operations; must never know a vector unit.
//! Start at [`heads`].

use half::f16;

use crate::attend::{AttendOut, SPAN, SpanView};

/// Up to four query heads over a span.
pub(crate) fn heads(q: &[f32], span: &SpanView<'_>, out: AttendOut<'_>) {
    let head_dim = span.head_dim;
    for (head, q) in q.chunks_exact(head_dim).enumerate() {
        let mut scores = [f32::NEG_INFINITY; SPAN];
        for page in &span.pages[..span.n_pages] {
            for row in page.rows.clone() {
                let keys = &page.k[row / 8 * 8 * head_dim..];
                scores[page.at + row] = q.iter().enumerate().fold(0.0, |sum, (d, q)| {
                    q.mul_add(f16::from_bits(keys[d * 8 + row % 8]).to_f32_const(), sum)
                });
            }
        }
        (out.m[head], out.l[head]) = span.weigh(&mut scores);
        let acc = &mut out.acc[head * head_dim..][..head_dim];
        acc.fill(0.0);
        for page in &span.pages[..span.n_pages] {
            for row in page.rows.clone() {
                let weight = scores[page.at + row];
                for (acc, v) in acc.iter_mut().zip(&page.v[row * head_dim..]) {
                    *acc = weight.mul_add(f16::from_bits(*v).to_f32_const(), *acc);
                }
            }
        }
    }
}
