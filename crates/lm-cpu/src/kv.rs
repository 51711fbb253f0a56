//! The paged KV cache in f16: per layer, pages of 32 positions, each with all its KV heads.

use lm_kernels::{Isa, KV_PAGE, KvPages, store_kv};
use lm_models::DecoderSpec;

/// K and V of all layers.
#[derive(Debug)]
pub(crate) struct KvCache {
    /// `[n_pages, n_kv_heads, 32 * head_dim]` f16 each.
    layers: Vec<KvLayer>,
    n_kv_heads: usize,
    head_dim: usize,
}

#[derive(Debug)]
struct KvLayer {
    k: Vec<u16>,
    v: Vec<u16>,
}

impl KvCache {
    pub(crate) fn new(spec: &DecoderSpec, n_pages: usize) -> Self {
        let n = n_pages * spec.n_kv_heads * KV_PAGE * spec.head_dim;
        // Zeroed memory is not backed before it is touched.
        let layers = (0..spec.n_layers).map(|_| KvLayer { k: vec![0; n], v: vec![0; n] });
        KvCache { layers: layers.collect(), n_kv_heads: spec.n_kv_heads, head_dim: spec.head_dim }
    }

    /// Stores one token's K and V, `[n_kv_heads, head_dim]` each, at `slot` of the pool.
    pub(crate) fn store(&mut self, isa: Isa, layer: usize, slot: usize, k: &[f32], v: &[f32]) {
        let (page, offset) = (slot / KV_PAGE, slot % KV_PAGE);
        let n = KV_PAGE * self.head_dim;
        let cache = &mut self.layers[layer];
        let heads = k.chunks_exact(self.head_dim).zip(v.chunks_exact(self.head_dim));
        for (head, (k, v)) in heads.enumerate() {
            let at = (page * self.n_kv_heads + head) * n;
            store_kv(isa, k, v, &mut cache.k[at..at + n], &mut cache.v[at..at + n], offset);
        }
    }

    /// The pages of one KV head.
    pub(crate) fn pages(&self, layer: usize, kv_head: usize) -> KvPages<'_> {
        let cache = &self.layers[layer];
        let n = KV_PAGE * self.head_dim;
        KvPages {
            k: &cache.k,
            v: &cache.v,
            page_stride: self.n_kv_heads * n,
            offset: kv_head * n,
            head_dim: self.head_dim,
        }
    }
}
