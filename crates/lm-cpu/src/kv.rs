//! The paged KV cache in f16. Each layer has its own pages, so that what one layer reads lies close together,
//! and a page has all its KV heads, so that memory is backed as sequences grow.

use std::ops::Range;

use lm_kernels::{Columns, KV_PAGE, KvPages, Pool};
use lm_models::DecoderSpec;

use crate::arena::Arena;

/// K and V of all layers.
#[derive(Debug)]
pub(crate) struct KvCache {
    /// `[n_layers, n_pages, 2, n_kv_heads, 32 * head_dim]` f16: K, then V.
    values: Arena<u16>,
    n_pages: usize,
    n_kv_heads: usize,
    head_dim: usize,
}

/// What a work item of [`KvCache::store`] writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    K { kv_head: usize },
    V { kv_head: usize },
}

impl KvCache {
    pub(crate) fn new(spec: &DecoderSpec, n_pages: usize) -> std::io::Result<Self> {
        let (n_kv_heads, head_dim) = (spec.n_kv_heads, spec.head_dim);
        let values = Arena::new(spec.n_layers * n_pages * 2 * n_kv_heads * KV_PAGE * head_dim)?;
        Ok(KvCache { values, n_pages, n_kv_heads, head_dim })
    }

    /// Values of one head's K or V in one page of a layer.
    fn head_len(&self) -> usize {
        KV_PAGE * self.head_dim
    }

    fn page_len(&self) -> usize {
        2 * self.n_kv_heads * self.head_len()
    }

    /// Where the pages of a layer lie.
    fn layer(&self, layer: usize) -> Range<usize> {
        let len = self.n_pages * self.page_len();
        layer * len..(layer + 1) * len
    }

    /// Has each part of one layer written, on all threads of `pool`: `write(part, pages)`, a row a page.
    pub(crate) fn store(
        &mut self,
        pool: &mut Pool,
        layer: usize,
        write: impl Fn(Part, Columns<'_, u16>) + Sync,
    ) {
        let (n_kv_heads, head_len, page_len) = (self.n_kv_heads, self.head_len(), self.page_len());
        let pages = self.layer(layer);
        let pages = Columns::new(&mut self.values[pages], page_len);
        pool.for_columns(pages, head_len, |i, pages| {
            let kv_head = i % n_kv_heads;
            let part = if i < n_kv_heads { Part::K { kv_head } } else { Part::V { kv_head } };
            write(part, pages);
        });
    }

    /// The pages of one KV head.
    pub(crate) fn pages(&self, layer: usize, kv_head: usize) -> KvPages<'_> {
        let pages = &self.values[self.layer(layer)];
        KvPages {
            k: pages,
            v: &pages[self.n_kv_heads * self.head_len()..],
            page_stride: self.page_len(),
            offset: kv_head * self.head_len(),
            head_dim: self.head_dim,
        }
    }
}
