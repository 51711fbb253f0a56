//! How fast this machine is at what the kernels do: the two sides of a roofline, measured.
//! Must never know a model; the caller says which weights, how many rows and which memory.
//! Start at [`gemm_rate`] and [`scan_rate`].

use std::hint::black_box;
use std::time::{Duration, Instant};

use crate::{
    ActBlock, Acts, Columns, Isa, PANEL_ROWS, Panels, Pool, Put, SplitBlock, WeightType, gemm,
    pack_panel, panel_bytes, quantize_activations,
};

/// Values of a row of weights: whole blocks of every type.
const K: usize = 1536;
/// Panels that stay in a core's own cache.
const PANELS_IN_CACHE: usize = 8;
/// Bytes of memory that count as out of cache for one core.
const STREAMED_BYTES: usize = 100_000_000;
/// Work items per thread: enough that a late thread costs little.
const ITEMS_PER_THREAD: usize = 16;
/// Bytes that one work item of a scan reads.
const SCAN_ITEM_BYTES: usize = 1 << 20;
/// How long a rate is measured.
const WINDOW: Duration = Duration::from_millis(120);

/// The best of the calls within about 120 ms, in seconds. At least one is made.
pub fn best_seconds(mut call: impl FnMut()) -> f64 {
    let mut best = f64::INFINITY;
    let started = Instant::now();
    while best == f64::INFINITY || started.elapsed() < WINDOW {
        let call_started = Instant::now();
        call();
        best = best.min(call_started.elapsed().as_secs_f64());
    }
    best
}

/// GB/s of a sum over `bytes` by all threads of `pool` together. For the rate of memory, `bytes` are
/// several times what the caches hold.
pub fn scan_rate(pool: &mut Pool, bytes: &[u8]) -> f64 {
    let pieces: Vec<&[u8]> = bytes.chunks(SCAN_ITEM_BYTES).collect();
    let seconds = best_seconds(|| {
        pool.for_each(pieces.len(), |i| {
            black_box(sum(pieces[i]));
        });
    });
    bytes.len() as f64 / seconds / 1e9
}

/// GMAC/s of all threads of `pool` together, on `m` rows of activations and weights in cache.
pub fn gemm_rate(pool: &mut Pool, isa: Isa, weight: WeightType, m: usize) -> f64 {
    let product = Product::new(isa, weight, m, PANELS_IN_CACHE);
    let n_items = pool.n_threads() * ITEMS_PER_THREAD;
    let out_len = m * PANELS_IN_CACHE * PANEL_ROWS;
    let mut out = vec![0.0; n_items * out_len];
    let seconds = best_seconds(|| pool.for_chunks(&mut out, out_len, |_, out| product.run(out)));
    n_items as f64 * product.n_macs() / seconds / 1e9
}

/// GB/s of weights through matrix-vector products over 100 MB, on the caller's thread.
#[must_use]
pub fn stream_rate(isa: Isa, weight: WeightType) -> f64 {
    let n_panels = STREAMED_BYTES / panel_bytes(weight, K).expect("K is whole blocks");
    let product = Product::new(isa, weight, 1, n_panels);
    let mut out = vec![0.0; n_panels * PANEL_ROWS];
    let seconds = best_seconds(|| product.run(&mut out));
    product.panels.len() as f64 / seconds / 1e9
}

fn sum(bytes: &[u8]) -> u64 {
    // Eight sums at once, so that no addition waits for the one before it.
    let mut sums = [0u64; 8];
    for line in bytes.as_chunks::<64>().0 {
        for (sum, word) in sums.iter_mut().zip(line.as_chunks::<8>().0) {
            *sum = sum.wrapping_add(u64::from_le_bytes(*word));
        }
    }
    sums.into_iter().fold(0, u64::wrapping_add)
}

/// `n_panels` panels of weights, each to be multiplied with the same `m` rows of activations.
struct Product {
    isa: Isa,
    weight: WeightType,
    m: usize,
    /// `[n_panels, panel_bytes(weight, K)]`
    panels: Vec<u8>,
    /// `[m, K]`
    floats: Vec<f32>,
    /// `[m, K / 32]`, or empty, where they are split.
    blocks: Vec<ActBlock>,
    split: Vec<SplitBlock>,
}

impl Product {
    fn new(isa: Isa, weight: WeightType, m: usize, n_panels: usize) -> Self {
        let row = codes(weight.row_bytes(K).expect("K is whole blocks"));
        let mut panel = vec![0; panel_bytes(weight, K).expect("K is whole blocks")];
        pack_panel(weight, &[row.as_slice(); PANEL_ROWS], K, &mut panel);
        let floats: Vec<f32> = (0..m * K).map(|i| (i % 17) as f32 - 8.0).collect();
        let (mut blocks, mut split) = (Vec::new(), Vec::new());
        if isa.splits(m) {
            split.resize(m * K / 32, SplitBlock::default());
            quantize_activations(isa, &floats, &mut split);
        } else {
            blocks.resize(m * K / 32, ActBlock::default());
            quantize_activations(isa, &floats, &mut blocks);
        }
        Product { isa, weight, m, panels: panel.repeat(n_panels), floats, blocks, split }
    }

    fn n_macs(&self) -> f64 {
        let size = panel_bytes(self.weight, K).expect("K is whole blocks");
        (self.panels.len() / size * PANEL_ROWS * K * self.m) as f64
    }

    /// Every panel times every row; out: `[m, 16 * n_panels]`.
    fn run(&self, out: &mut [f32]) {
        let Product { isa, weight, m, panels, floats, blocks, split } = self;
        let acts = match weight.is_quantized() {
            true if isa.splits(*m) => Acts::Split(split),
            true => Acts::Quantized(blocks),
            false => Acts::F32(floats),
        };
        let width = out.len() / m;
        let out = Columns::new(black_box(out), width);
        gemm(*isa, Panels::new(*weight, K, panels), acts, 0..*m, Put::Store, out);
    }
}

/// Bytes that make plausible blocks of any type: no scale among them is infinite.
fn codes(n: usize) -> Vec<u8> {
    let mut state = 1u32;
    let step = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8 & 0x3b
    };
    std::iter::repeat_with(step).take(n).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_type_has_a_rate_on_every_instruction_set() {
        let mut pool = Pool::new(2);
        for isa in Isa::available() {
            for weight in [WeightType::Q4_1, WeightType::Q6K, WeightType::F32] {
                let rate = gemm_rate(&mut pool, isa, weight, 8);
                assert!(rate.is_finite() && rate > 0.0, "{isa:?} {weight:?}: {rate}");
            }
        }
    }

    #[test]
    fn a_scan_reads_every_word() {
        let bytes: Vec<u8> = (0..1024u32).map(|i| i as u8).collect();
        let words = bytes.as_chunks::<8>().0.iter().map(|word| u64::from_le_bytes(*word));
        assert_eq!(sum(&bytes), words.fold(0, u64::wrapping_add));
        assert!(scan_rate(&mut Pool::new(2), &bytes) > 0.0);
    }
}
