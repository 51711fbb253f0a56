//! Attention of a step. One work item is a KV head, a few adjacent rows of a sequence and a span of
//! positions; which rows and spans is planned once a step for layers that see everything and once for those
//! with a sliding window.

use std::ops::Range;

use lm_kernels::{
    AttendOut, Isa, KV_PAGE, KvPages, Pool, Query, SPAN, attend_span, begins_share, merge_span,
};
use lm_models::DecoderSpec;

use crate::kv::KvCache;
use crate::scratch::StepRows;

/// Queries of a tile, at most (one row's may be more): they share each load of K and V.
const TILE_QUERIES: usize = 12;
/// Rows of a tile, at most.
const TILE_ROWS: usize = TILE_QUERIES;

/// The work items of all layers with the same window.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    window: Option<usize>,
    tiles: Vec<Tile>,
    items: Vec<Item>,
    /// The tile of each row. `[m]`
    tile_of_row: Vec<u32>,
    /// Where the results of each item and KV head begin, and the end.
    bounds: Vec<usize>,
}

/// Rows of one sequence that follow each other in the step.
#[derive(Clone, Copy, Debug)]
struct Tile {
    first_row: usize,
    n_rows: usize,
    /// Its items are adjacent, in the order of their spans.
    first_item: usize,
    n_items: usize,
}

#[derive(Clone, Copy, Debug)]
struct Item {
    tile: usize,
    /// Counted from position 0, so that it does not depend on the chunking.
    span: usize,
}

/// The positions that a row at `position` looks at.
fn seen(position: usize, window: Option<usize>) -> Range<usize> {
    let first = window.map_or(0, |window| (position + 1).saturating_sub(window));
    first..position + 1
}

impl Plan {
    /// Plans a step for layers with `window`.
    pub(crate) fn fill(&mut self, spec: &DecoderSpec, rows: &StepRows, window: Option<usize>) {
        let group = spec.n_heads / spec.n_kv_heads;
        let tile_rows = (TILE_QUERIES / group).clamp(1, TILE_ROWS);
        self.window = window;
        self.tiles.clear();
        self.items.clear();
        self.tile_of_row.clear();
        self.bounds.clear();
        self.bounds.push(0);
        let mut row = 0;
        while row < rows.len() {
            let n_rows = rows.n_adjacent(row).min(tile_rows);
            let (tile, first_item) = (self.tiles.len(), self.items.len());
            let start = seen(rows.positions[row] as usize, window).start;
            let end = rows.positions[row + n_rows - 1] as usize + 1;
            for span in start / SPAN..end.div_ceil(SPAN) {
                self.items.push(Item { tile, span });
                for _ in 0..spec.n_kv_heads {
                    let at = self.bounds[self.bounds.len() - 1];
                    self.bounds.push(at + n_rows * group * (spec.head_dim + 2));
                }
            }
            let n_items = self.items.len() - first_item;
            self.tiles.push(Tile { first_row: row, n_rows, first_item, n_items });
            self.tile_of_row.extend(std::iter::repeat_n(tile as u32, n_rows));
            row += n_rows;
        }
    }
}

/// One layer's attention over the rows of a step.
#[derive(Clone, Copy)]
pub(crate) struct LayerAttention<'a> {
    pub(crate) isa: Isa,
    pub(crate) spec: &'a DecoderSpec,
    pub(crate) layer: usize,
    pub(crate) rows: &'a StepRows,
    pub(crate) plan: &'a Plan,
}

impl LayerAttention<'_> {
    /// Attends from every row's queries, which are the first of its `width` values in `qkv`, scaled
    /// already. `partials` gets the results of each item and KV head: of its queries first `m`, then `l`,
    /// then `acc`.
    pub(crate) fn attend(
        &self,
        pool: &mut Pool,
        (qkv, width): (&[f32], usize),
        kv: &KvCache,
        partials: &mut Vec<f32>,
    ) {
        let (group, head_dim, n_kv_heads) =
            (self.group(), self.spec.head_dim, self.spec.n_kv_heads);
        let Plan { tiles, items, bounds, window, .. } = self.plan;
        partials.resize(bounds.last().copied().unwrap_or(0), 0.0);
        let (n_work, n_threads) = (bounds.len() - 1, pool.n_threads());
        pool.for_pieces(partials, bounds, |i, out| {
            let (item, kv_head) = (items[i / n_kv_heads], i % n_kv_heads);
            let tile = tiles[item.tile];
            let span = item.span * SPAN..(item.span + 1) * SPAN;
            let query = |i: usize| {
                let (row, head) = (tile.first_row + i / group, kv_head * group + i % group);
                let seen = seen(self.rows.positions[row] as usize, *window);
                let q = &qkv[row * width + head * head_dim..][..head_dim];
                Query { q, positions: seen.start.max(span.start)..seen.end.min(span.end) }
            };
            let n_queries = tile.n_rows * group;
            let (m, rest) = out.split_at_mut(n_queries);
            let (l, acc) = rest.split_at_mut(n_queries);
            let pages = kv.pages(self.layer, kv_head);
            let table = self.rows.block_table(tile.first_row + tile.n_rows - 1);
            let soft_cap = self.spec.attn_softcap;
            for first in (0..n_queries).step_by(TILE_QUERIES) {
                let n = TILE_QUERIES.min(n_queries - first);
                let queries: [Query<'_>; TILE_QUERIES] =
                    std::array::from_fn(|i| query(first + i.min(n - 1)));
                let out = AttendOut {
                    m: &mut m[first..first + n],
                    l: &mut l[first..first + n],
                    acc: &mut acc[first * head_dim..(first + n) * head_dim],
                };
                let is_next_ours =
                    first + n == n_queries && !begins_share(n_work, i + 1, n_threads);
                let then = is_next_ours.then(|| self.read_by(i + 1, kv)).flatten();
                attend_span(self.isa, &queries[..n], (pages, table), soft_cap, then, out);
            }
        });
    }

    /// The K that work item `i` reads, if there is such an item.
    fn read_by<'a>(&'a self, i: usize, kv: &'a KvCache) -> Option<(KvPages<'a>, &'a [u32])> {
        let Plan { tiles, items, window, .. } = self.plan;
        let item = items.get(i / self.spec.n_kv_heads)?;
        let tile = tiles[item.tile];
        let last = tile.first_row + tile.n_rows - 1;
        let position = |row: usize| self.rows.positions[row] as usize;
        let start = seen(position(tile.first_row), *window).start.max(item.span * SPAN);
        let end = (position(last) + 1).min((item.span + 1) * SPAN);
        let pages = start / KV_PAGE..end.div_ceil(KV_PAGE);
        let kv_head = i % self.spec.n_kv_heads;
        Some((kv.pages(self.layer, kv_head), &self.rows.block_table(last)[pages]))
    }

    /// Merges the spans of one row, in order, into `[n_heads * head_dim]`.
    pub(crate) fn merge(&self, partials: &[f32], row: usize, out: &mut [f32]) {
        let (group, head_dim) = (self.group(), self.spec.head_dim);
        let tile = self.plan.tiles[self.plan.tile_of_row[row] as usize];
        let n = tile.n_rows * group;
        for (head, out) in out.chunks_exact_mut(head_dim).enumerate() {
            let query = (row - tile.first_row) * group + head % group;
            let parts = (tile.first_item..tile.first_item + tile.n_items).map(|item| {
                let at = self.plan.bounds[item * self.spec.n_kv_heads + head / group];
                let acc = &partials[at + 2 * n + query * head_dim..][..head_dim];
                (partials[at + query], partials[at + n + query], acc)
            });
            let top =
                parts.clone().fold(f32::NEG_INFINITY, |top, (m, ..)| if m > top { m } else { top });
            let mut total = 0.0;
            out.fill(0.0);
            parts.for_each(|part| merge_span(self.isa, top, part, &mut total, out));
            let inverse = 1.0 / total;
            out.iter_mut().for_each(|out| *out *= inverse);
        }
    }

    fn group(&self) -> usize {
        self.spec.n_heads / self.spec.n_kv_heads
    }
}
