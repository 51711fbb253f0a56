//! How fast the products run, per core: GMAC/s in cache at several M, and GB/s of a matrix-vector
//! product over 100 MB. A plain FMA loop is timed next to each, because a shared machine's absolute
//! times mean little: read the ratios.
//!
//! `cargo run --release --example rates [TYPE...]`

#![expect(clippy::print_stdout, reason = "a bench prints its results")]
#![expect(unsafe_code, reason = "a plain FMA loop as the yardstick")]

use std::hint::black_box;

use lm_kernels::probe::{best_seconds, gemm_rate, scan_rate, stream_rate};
use lm_kernels::{
    ActBlock, AttendOut, Isa, KvPages, KvType, PANEL_ROWS, Pool, Query, SplitBlock, WeightType,
    allow_panel, argmax_panel, attend_span, f32_to_f16, gelu_tanh_mul, pack_panel, panel_bytes,
    quantize_activations, rms_norm, rope_halves, silu_mul,
};

const K: usize = 1536;
const MS: [usize; 14] = [1, 2, 3, 4, 5, 6, 7, 8, 10, 11, 12, 20, 32, 64];

fn main() {
    let mut core = Pool::new(1);
    let memory = vec![1u8; 100_000_000];
    let names: Vec<String> = std::env::args().skip(1).collect();
    println!(
        "{:<12}{:<8}{:>8}   GMAC/s at M = {MS:?}, then GB/s over 100 MB",
        "isa", "type", "fma"
    );
    let mut best = Vec::new();
    for isa in Isa::available().into_iter().filter(|isa| *isa != Isa::SCALAR) {
        for weight in WeightType::ALL {
            let name = format!("{weight:?}");
            if !names.is_empty() && !names.contains(&name) {
                continue;
            }
            let fma = fma_rate();
            let rates: Vec<f64> =
                MS.iter().map(|m| gemm_rate(&mut core, isa, weight, *m)).collect();
            let stream = stream_rate(isa, weight);
            let shown: Vec<String> = rates.iter().map(|r| format!("{r:7.1}")).collect();
            println!("{:<12}{name:<8}{fma:>8.1}  {} {stream:7.1}", isa.name(), shown.concat());
            let top = rates.iter().fold(0.0f64, |m, r| m.max(*r));
            best.push(format!("\"{}/{name}\":{:.3}", isa.name(), top / fma));
        }
        println!("{:<12}scan: {:.1} GB/s", isa.name(), scan_rate(&mut core, &memory));
        print_vector_rates(isa);
        println!("{:<12}pack Q4K: {:.2} GB/s", isa.name(), pack_rate(WeightType::Q4K));
        for (heads, head_dim) in [(1, 64), (3, 64), (6, 64), (4, 256)] {
            let [f16, int8] = [KvType::F16, KvType::Int8]
                .map(|kv_type| attend_rate(isa, kv_type, heads, head_dim));
            let name = isa.name();
            println!("{name:<12}attend {heads} x {head_dim}: {f16:.1}, int8 {int8:.1} GMAC/s");
        }
    }
    println!("{{\"best_per_fma\":{{{}}}}}", best.join(","));
}

fn bytes(n: usize) -> Vec<u8> {
    let mut state = 1u32;
    let step = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8 & 0x3b
    };
    std::iter::repeat_with(step).take(n).collect()
}

/// Nanoseconds of one call of each element-wise kernel on one row.
fn print_vector_rates(isa: Isa) {
    let x: Vec<f32> = (0..K).map(|i| (i % 17) as f32 - 8.0).collect();
    let (mut out, mut blocks) = (vec![0.0; K], vec![ActBlock::default(); K / 32]);
    let mut split = vec![SplitBlock::default(); K / 32];
    let mut bits = vec![0; K];
    let show = |name: &str, call: &mut dyn FnMut()| {
        let seconds = best_seconds(|| (0..100).for_each(|_| call()));
        print!("{name} {:.0} ns, ", seconds * 1e7);
    };
    print!("{:<12}on {K} values: ", isa.name());
    show("quantize", &mut || quantize_activations(isa, black_box(&x), &mut blocks));
    show("split", &mut || quantize_activations(isa, black_box(&x), &mut split));
    show("rms_norm", &mut || rms_norm(isa, black_box(&x), &x, 1e-5, &mut out));
    show("silu_mul", &mut || silu_mul(isa, black_box(&x), &x, &mut out));
    show("gelu_mul", &mut || gelu_tanh_mul(isa, black_box(&x), &x, &mut out));
    show("rope", &mut || rope_halves(isa, black_box(&mut out), &x[..K / 2], &x[..K / 2]));
    show("f16", &mut || f32_to_f16(isa, black_box(&x), &mut bits));
    show("argmax", &mut || {
        black_box(argmax_panel(isa, black_box(&x)));
    });
    let words = [0xffff_7fff; K / 32];
    show("allow", &mut || {
        black_box(allow_panel(isa, black_box(&x), &words, &mut out));
    });
    println!();
}

/// GB/s of GGUF bytes repacked.
fn pack_rate(weight: WeightType) -> f64 {
    let row = bytes(weight.row_bytes(K).expect("K is whole blocks"));
    let mut out = vec![0; panel_bytes(weight, K).expect("K is whole blocks")];
    let rows = [row.as_slice(); PANEL_ROWS];
    let seconds = best_seconds(|| pack_panel(weight, &rows, K, black_box(&mut out)));
    (PANEL_ROWS * row.len()) as f64 / seconds / 1e9
}

fn attend_rate(isa: Isa, kv_type: KvType, heads: usize, head_dim: usize) -> f64 {
    let v_offset = kv_type.k_words(head_dim);
    let page_stride = v_offset + kv_type.v_words(head_dim);
    let words = &vec![0x3000u16; 8 * page_stride];
    let kv = KvPages { kv_type, words, page_stride, k_offset: 0, v_offset, head_dim };
    let pages: Vec<u32> = (0..8).collect();
    let q = vec![0.1; heads * head_dim];
    let (mut m, mut l) = (vec![0.0; heads], vec![0.0; heads]);
    let mut acc = vec![0.0; heads * head_dim];
    let seconds = best_seconds(|| {
        let out = AttendOut { m: &mut m, l: &mut l, acc: &mut acc };
        let queries: Vec<Query<'_>> =
            q.chunks_exact(head_dim).map(|q| Query { q, positions: 0..256 }).collect();
        attend_span(isa, &queries, (kv, &pages), None, None, out);
        black_box(&mut acc);
    });
    (2 * 256 * heads * head_dim) as f64 / seconds / 1e9
}

/// GMAC/s of independent fused multiply-adds on eight f32 each: what the core can do on plain
/// floats.
#[cfg(target_arch = "x86_64")]
fn fma_rate() -> f64 {
    use std::arch::x86_64::*;
    const ROUNDS: usize = 20_000;
    #[target_feature(enable = "avx2,fma")]
    fn run() -> __m256 {
        let (x, y) = (_mm256_set1_ps(black_box(0.999)), _mm256_set1_ps(black_box(1e-3)));
        let mut sums = [y; 12];
        for _ in 0..ROUNDS {
            for sum in &mut sums {
                *sum = _mm256_fmadd_ps(*sum, x, y);
            }
        }
        sums.into_iter().fold(y, |a, b| _mm256_add_ps(a, b))
    }
    if Isa::detect() == Isa::SCALAR {
        return f64::NAN;
    }
    let seconds = best_seconds(|| {
        // SAFETY: every instruction set but scalar on x86-64 has avx2 and fma.
        black_box(unsafe { run() });
    });
    (ROUNDS * 12 * 8) as f64 / seconds / 1e9
}

#[cfg(not(target_arch = "x86_64"))]
fn fma_rate() -> f64 {
    f64::NAN
}
