//! The paged KV cache in f16: per layer first K, then V; of each all pages of the first KV head, then of
//! the next, so that threads that store different heads never share memory.

use lm_kernels::{KV_PAGE, KvPages, Pool};
use lm_models::DecoderSpec;

use crate::arena::Arena;

/// K and V of all layers.
#[derive(Debug)]
pub(crate) struct KvCache {
    /// `[n_layers, 2, n_kv_heads, n_pages, 32 * head_dim]` f16.
    values: Arena<u16>,
    /// Of one head of one layer's K or V.
    head_len: usize,
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
        let head_len = n_pages * KV_PAGE * head_dim;
        // Memory is not backed before it is touched.
        let values = Arena::new(spec.n_layers * 2 * n_kv_heads * head_len)?;
        Ok(KvCache { values, head_len, n_kv_heads, head_dim })
    }

    /// Has each part of one layer written, on all threads of `pool`: `write(part, pages)`.
    pub(crate) fn store(
        &mut self,
        pool: &mut Pool,
        layer: usize,
        write: impl Fn(Part, &mut [u16]) + Sync,
    ) {
        let n_kv_heads = self.n_kv_heads;
        let layer_len = 2 * n_kv_heads * self.head_len;
        let values = &mut self.values[layer * layer_len..(layer + 1) * layer_len];
        pool.for_chunks(values, self.head_len, |i, pages| {
            let kv_head = i % n_kv_heads;
            let part = if i < n_kv_heads { Part::K { kv_head } } else { Part::V { kv_head } };
            write(part, pages);
        });
    }

    /// The pages of one KV head.
    pub(crate) fn pages(&self, layer: usize, kv_head: usize) -> KvPages<'_> {
        let at = |part: usize| ((2 * layer + part) * self.n_kv_heads + kv_head) * self.head_len;
        KvPages {
            k: &self.values[at(0)..at(0) + self.head_len],
            v: &self.values[at(1)..at(1) + self.head_len],
            page_stride: KV_PAGE * self.head_dim,
            offset: 0,
            head_dim: self.head_dim,
        }
    }
}
