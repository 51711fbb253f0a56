//! The CPU executor beside the reference executor: the same logits, but for rounding.

use lastmile::{TokenId, WeightsFrom};
use lm_backend::{Backend, Batch, LogitsBuf, SampleRow, Want};
use lm_candle::{CandleBackend, CandleOptions};
use lm_cpu::{CpuBackend, CpuOptions};
use lm_models::TokenizerSource;
use lm_tokenizer::{EncodeOptions, Tokenizer};
use lm_types::BlockIdx;

use crate::real_model;

const TEXT: &str = include_str!("../golden/gpl-3.0.txt");
const CTX: usize = 512;
const N_WINDOWS: usize = 4;
/// Bounds the rows of logits in memory.
const CHUNK: usize = 64;
const KV_BYTES: u64 = 128 << 20;

/// How far two rows of logits for the same token are apart.
#[derive(Clone, Copy, Debug)]
struct Apart {
    cosine: f64,
    same_top: bool,
    /// Of the reference from the other, in nats.
    kl_divergence: f64,
}

fn apart(reference: &[f32], found: &[f32]) -> Apart {
    let (mut dot, mut of_reference, mut of_found) = (0.0, 0.0, 0.0);
    for (a, b) in reference.iter().zip(found) {
        let (a, b) = (f64::from(*a), f64::from(*b));
        dot += a * b;
        of_reference += a * a;
        of_found += b * b;
    }
    let max = |row: &[f32]| row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let (top_a, top_b) = (max(reference), max(found));
    let (mut sum_a, mut sum_b, mut weighted) = (0.0, 0.0, 0.0);
    for (a, b) in reference.iter().zip(found) {
        let weight = f64::from((a - top_a).exp());
        sum_a += weight;
        sum_b += f64::from((b - top_b).exp());
        weighted += weight * f64::from(a - b);
    }
    let norm = |sum: f64, top: f32| sum.ln() + f64::from(top);
    let first = |row: &[f32], top: f32| row.iter().position(|logit| *logit == top);
    Apart {
        cosine: dot / (of_reference * of_found).sqrt(),
        same_top: first(reference, top_a) == first(found, top_b),
        kl_divergence: weighted / sum_a - norm(sum_a, top_a) + norm(sum_b, top_b),
    }
}

/// One chunk of a window on one executor; every token's logits are wanted.
fn run(backend: &mut dyn Backend, window: &[TokenId], start: usize, logits: &mut LogitsBuf) {
    let block_size = backend.spec().block_size;
    let table: Vec<BlockIdx> = (0..CTX.div_ceil(block_size) as u32).map(BlockIdx).collect();
    let mut batch = Batch::default();
    batch.push_sequence(&window[start..start + CHUNK], start, &table, block_size, None);
    let row = |i| SampleRow { token_idx: i as u32, want: Want::Full };
    batch.sample_rows.extend((0..CHUNK).map(row));
    backend.execute(&batch, logits).unwrap();
}

#[track_caller]
fn check(card: &str) {
    let path = real_model::path(card);
    let model = lm_models::open(&path, WeightsFrom::File).unwrap();
    let TokenizerSource::Gguf(vocab) = &model.tokenizer else { panic!("{card} is a GGUF file") };
    let tokenizer = Tokenizer::from_gguf(vocab).unwrap();
    let options = EncodeOptions { add_special: true, parse_special: false };
    let tokens = tokenizer.encode(TEXT, options).unwrap();
    let on_candle = CandleOptions {
        device: "cpu".to_owned(),
        block_size: 32,
        kv_bytes: KV_BYTES,
        max_model_len: Some(CTX),
    };
    let mut reference = CandleBackend::load(&model, &on_candle).unwrap();
    let on_cpu =
        CpuOptions { kv_bytes: KV_BYTES, max_model_len: Some(CTX), ..CpuOptions::default() };
    let mut cpu = CpuBackend::load(model, &on_cpu).unwrap();
    let (mut expected, mut found) = (LogitsBuf::default(), LogitsBuf::default());
    let mut rows = Vec::new();
    for window in tokens.chunks_exact(CTX).take(N_WINDOWS) {
        let mut window = window.to_vec();
        if let Some(bos) = tokenizer.bos().filter(|_| tokenizer.adds_bos()) {
            window[0] = bos;
        }
        for start in (0..CTX).step_by(CHUNK) {
            run(&mut reference, &window, start, &mut expected);
            run(&mut cpu, &window, start, &mut found);
            rows.extend((0..CHUNK).map(|row| apart(expected.row(row), found.row(row))));
        }
    }
    assert_eq!(rows.len(), N_WINDOWS * CTX);
    let mean = |of: fn(&Apart) -> f64| rows.iter().map(of).sum::<f64>() / rows.len() as f64;
    let (cosine, same_top) = (mean(|row| row.cosine), mean(|row| f64::from(row.same_top)));
    let least = rows.iter().map(|row| row.cosine).fold(f64::INFINITY, f64::min);
    let kl_divergence = mean(|row| row.kl_divergence);
    println!(
        "{card}, {} tokens: cosine {cosine:.7}, at least {least:.6}; same top token {:.2} %; \
         KL divergence {kl_divergence:.2e}",
        rows.len(),
        100.0 * same_top
    );
    assert!(cosine > 0.9999, "{card}: cosine {cosine}");
    assert!(same_top > 0.99, "{card}: the same top token in {same_top}");
}

#[test]
fn real_model_logits_of_smollm2_are_those_of_the_reference_executor() {
    check("smollm2-135m-instruct");
}

#[test]
fn real_model_logits_of_gemma3_are_those_of_the_reference_executor() {
    check("gemma3-270m");
}
