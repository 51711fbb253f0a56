//! Attention of a step: one work item is a row, a KV head and a span of positions.

use std::ops::Range;

use lm_kernels::{AttendOut, Isa, Pool, SPAN, Spans, attend_span, merge_spans};
use lm_models::DecoderSpec;

use crate::kv::KvCache;
use crate::scratch::StepRows;

/// Partial results of all work items: `[m, n_kv_heads, n_spans, group * (head_dim + 2)]`; of each item
/// first `m`, then `l`, then `acc`.
#[derive(Debug, Default)]
pub(crate) struct Partials {
    values: Vec<f32>,
    n_spans: usize,
}

/// The spans of a row: aligned to multiples of `SPAN`, so that they do not depend on the chunking.
fn spans(seen: &Range<usize>) -> Range<usize> {
    seen.start / SPAN..seen.end.div_ceil(SPAN)
}

/// One layer's attention over the rows of a step.
#[derive(Clone, Copy)]
pub(crate) struct LayerAttention<'a> {
    pub(crate) isa: Isa,
    pub(crate) spec: &'a DecoderSpec,
    pub(crate) layer: usize,
    pub(crate) rows: &'a StepRows,
}

impl LayerAttention<'_> {
    /// Attends from every row's queries, `[m, n_heads * head_dim]`, scaled already.
    pub(crate) fn attend(&self, pool: &mut Pool, q: &[f32], kv: &KvCache, partials: &mut Partials) {
        let (group, head_dim) = (self.group(), self.spec.head_dim);
        let (rows, n_kv_heads) = (self.rows, self.spec.n_kv_heads);
        partials.n_spans =
            (0..rows.len()).map(|row| spans(&self.seen(row)).len()).max().unwrap_or(0);
        let (n_spans, per_item) = (partials.n_spans, group * (head_dim + 2));
        partials.values.resize(rows.len() * n_kv_heads * n_spans * per_item, 0.0);
        pool.for_chunks(&mut partials.values, per_item, |item, out| {
            let (head, span) = (item / n_spans, item % n_spans);
            let (row, kv_head) = (head / n_kv_heads, head % n_kv_heads);
            let seen = self.seen(row);
            let span = spans(&seen).start + span;
            let positions = seen.start.max(span * SPAN)..seen.end.min((span + 1) * SPAN);
            if positions.is_empty() {
                return;
            }
            let (m, rest) = out.split_at_mut(group);
            let (l, acc) = rest.split_at_mut(group);
            let first = head * group * head_dim;
            attend_span(
                self.isa,
                &q[first..first + group * head_dim],
                kv.pages(self.layer, kv_head),
                rows.block_table(row),
                positions,
                self.spec.attn_softcap,
                AttendOut { m, l, acc },
            );
        });
    }

    /// Merges the spans of one row, in order, into `[n_heads * head_dim]`.
    pub(crate) fn merge(&self, partials: &Partials, row: usize, out: &mut [f32]) {
        let (group, head_dim) = (self.group(), self.spec.head_dim);
        let n = spans(&self.seen(row)).len();
        let per_item = group * (head_dim + 2);
        let (mut m, mut l, mut acc) = (Vec::new(), Vec::new(), Vec::new());
        for (kv_head, out) in out.chunks_exact_mut(group * head_dim).enumerate() {
            m.clear();
            l.clear();
            acc.clear();
            let first = (row * self.spec.n_kv_heads + kv_head) * partials.n_spans;
            for item in partials.values[first * per_item..].chunks_exact(per_item).take(n) {
                m.extend_from_slice(&item[..group]);
                l.extend_from_slice(&item[group..2 * group]);
                acc.extend_from_slice(&item[2 * group..]);
            }
            merge_spans(self.isa, Spans { m: &m, l: &l, acc: &acc }, head_dim, out);
        }
    }

    fn group(&self) -> usize {
        self.spec.n_heads / self.spec.n_kv_heads
    }

    /// The positions that a row looks at.
    fn seen(&self, row: usize) -> Range<usize> {
        let position = self.rows.positions[row] as usize;
        let window = self.spec.sliding_window[self.layer];
        let first = window.map_or(0, |window| (position + 1).saturating_sub(window));
        first..position + 1
    }
}
