//! The paged KV cache. Each layer has its own pages, so that what one layer reads lies close together, and a page has all its KV heads.

use std::ops::Range;

use lm_kernels::{Columns, KvPages, KvType, Pool};
use lm_models::DecoderSpec;

use crate::arena::Arena;

/// K and V of all layers.
#[derive(Debug)]
pub(crate) struct KvCache {
    /// `[n_layers, n_pages, page]`; a page is the K of all heads, then the V of all.
    words: Arena<u16>,
    kv_type: KvType,
    n_pages: usize,
    n_kv_heads: usize,
    head_dim: usize,
    /// Where the parts of a page begin, and the end: K of all heads, V of all. `[2 * n_kv_heads + 1]`
    bounds: Vec<usize>,
}

/// What a work item of [`KvCache::store`] writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    K { kv_head: usize },
    V { kv_head: usize },
}

impl KvCache {
    pub(crate) fn new(
        spec: &DecoderSpec,
        kv_type: KvType,
        n_pages: usize,
    ) -> std::io::Result<Self> {
        let (n_kv_heads, head_dim) = (spec.n_kv_heads, spec.head_dim);
        let n_words = n_pages * KvCache::block_bytes(spec, kv_type) / size_of::<u16>();
        let mut words = Arena::new(n_words)?;
        words.touch_all();
        let (k, v) = (kv_type.k_words(head_dim), kv_type.v_words(head_dim));
        let mut bounds: Vec<usize> = (0..=n_kv_heads).map(|head| head * k).collect();
        bounds.extend((1..=n_kv_heads).map(|head| n_kv_heads * k + head * v));
        Ok(KvCache { words, kv_type, n_pages, n_kv_heads, head_dim, bounds })
    }

    /// Bytes of a page of all layers.
    pub(crate) fn block_bytes(spec: &DecoderSpec, kv_type: KvType) -> usize {
        let head_words = kv_type.k_words(spec.head_dim) + kv_type.v_words(spec.head_dim);
        spec.n_layers * spec.n_kv_heads * head_words * size_of::<u16>()
    }

    pub(crate) fn kv_type(&self) -> KvType {
        self.kv_type
    }

    /// Words of a page of one layer.
    fn page_len(&self) -> usize {
        self.bounds[2 * self.n_kv_heads]
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
        let (n_kv_heads, page_len, pages) = (self.n_kv_heads, self.page_len(), self.layer(layer));
        let pages = Columns::new(&mut self.words[pages], page_len);
        pool.for_column_pieces(pages, &self.bounds, |i, pages| {
            let kv_head = i % n_kv_heads;
            let part = if i < n_kv_heads { Part::K { kv_head } } else { Part::V { kv_head } };
            write(part, pages);
        });
    }

    /// Bytes of a page of all layers, as they are moved.
    pub(crate) fn page_bytes(&self) -> usize {
        self.words.len() / self.n_pages * size_of::<u16>()
    }

    /// Copies a page of all layers out: the words of each layer in turn, the lower byte first.
    ///
    /// # Panics
    /// When `bytes` is not as long as [`KvCache::page_bytes`] says.
    pub(crate) fn export_page(&self, page: usize, bytes: &mut [u8]) {
        assert_eq!(bytes.len(), self.page_bytes(), "a page has one length");
        let len = self.page_len();
        for (layer, bytes) in bytes.chunks_exact_mut(2 * len).enumerate() {
            let words = &self.words[self.layer(layer)][page * len..][..len];
            for (bytes, word) in bytes.as_chunks_mut::<2>().0.iter_mut().zip(words) {
                *bytes = word.to_le_bytes();
            }
        }
    }

    /// Copies a page of all layers in, as [`KvCache::export_page`] wrote it.
    ///
    /// # Panics
    /// When `bytes` is not as long as [`KvCache::page_bytes`] says.
    pub(crate) fn import_page(&mut self, page: usize, bytes: &[u8]) {
        assert_eq!(bytes.len(), self.page_bytes(), "a page has one length");
        let len = self.page_len();
        for (layer, bytes) in bytes.chunks_exact(2 * len).enumerate() {
            let pages = self.layer(layer);
            let words = &mut self.words[pages][page * len..][..len];
            for (word, bytes) in words.iter_mut().zip(bytes.as_chunks::<2>().0) {
                *word = u16::from_le_bytes(*bytes);
            }
        }
    }

    /// The pages of one KV head.
    pub(crate) fn pages(&self, layer: usize, kv_head: usize) -> KvPages<'_> {
        KvPages {
            kv_type: self.kv_type,
            words: &self.words[self.layer(layer)],
            page_stride: self.page_len(),
            k_offset: self.bounds[kv_head],
            v_offset: self.bounds[self.n_kv_heads + kv_head],
            head_dim: self.head_dim,
        }
    }
}
