//! The paged KV cache in f16. All that a page holds lies together, of every layer, so that memory is backed
//! page by page as sequences grow.

use lm_kernels::{Columns, KV_PAGE, KvPages, Pool};
use lm_models::DecoderSpec;

use crate::arena::Arena;

/// K and V of all layers.
#[derive(Debug)]
pub(crate) struct KvCache {
    /// `[n_pages, n_layers, 2, n_kv_heads, 32 * head_dim]` f16: K, then V.
    values: Arena<u16>,
    n_layers: usize,
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
        let (n_layers, n_kv_heads, head_dim) = (spec.n_layers, spec.n_kv_heads, spec.head_dim);
        let page_len = n_layers * 2 * n_kv_heads * KV_PAGE * head_dim;
        let values = Arena::new(n_pages * page_len)?;
        Ok(KvCache { values, n_layers, n_kv_heads, head_dim })
    }

    /// Values of one head of one layer's K or V in one page.
    fn head_len(&self) -> usize {
        KV_PAGE * self.head_dim
    }

    fn layer_len(&self) -> usize {
        2 * self.n_kv_heads * self.head_len()
    }

    fn page_len(&self) -> usize {
        self.n_layers * self.layer_len()
    }

    /// Has each part of one layer written, on all threads of `pool`: `write(part, pages)`, a row a page.
    pub(crate) fn store(
        &mut self,
        pool: &mut Pool,
        layer: usize,
        write: impl Fn(Part, Columns<'_, u16>) + Sync,
    ) {
        let (n_kv_heads, head_len, layer_len) =
            (self.n_kv_heads, self.head_len(), self.layer_len());
        let page_len = self.page_len();
        let mut pages = Columns::new(&mut self.values, page_len);
        let n_pages = pages.n_rows();
        let pages = pages.part(0..n_pages, layer * layer_len..(layer + 1) * layer_len);
        pool.for_columns(pages, head_len, |i, pages| {
            let kv_head = i % n_kv_heads;
            let part = if i < n_kv_heads { Part::K { kv_head } } else { Part::V { kv_head } };
            write(part, pages);
        });
    }

    /// The pages of one KV head.
    pub(crate) fn pages(&self, layer: usize, kv_head: usize) -> KvPages<'_> {
        let offset = layer * self.layer_len() + kv_head * self.head_len();
        KvPages {
            k: &self.values,
            v: &self.values[self.n_kv_heads * self.head_len()..],
            page_stride: self.page_len(),
            offset,
            head_dim: self.head_dim,
        }
    }
}
