//! Every decoder family beside the reference library, on both executors, from safetensors and from GGUF.
//!
//! `xtask/golden/make_families.py` made the checkpoints and what is expected of them.

use std::path::{Path, PathBuf};

use lastmile::{QuantizeOptions, QuantizeSource, TokenId, WeightsFrom};
use lm_backend::{Backend, Batch, LogitsBuf, SampleRow, Want};
use lm_candle::{CandleBackend, CandleOptions};
use lm_cpu::{CpuBackend, CpuOptions};
use lm_models::{DecoderSpec, NoProgress, Recipe, RopeScaling};
use lm_types::BlockIdx;
use safetensors::SafeTensors;
use tempfile::TempDir;

const BLOCK: usize = 32;
const KV_BYTES: u64 = 4 << 20;
/// Odd, so that chunks begin and end anywhere in a block.
const CHUNK: usize = 7;
/// Of the largest logit of the row.
const TOLERANCE: f32 = 1e-3;
/// Between two caches of f16: values that lie so close to the middle of two halves that another order of additions
/// decides how they are rounded.
const SAME_CACHE: f32 = 4e-4;

/// What the reference library answered.
struct Golden {
    prompt: Vec<TokenId>,
    greedy: Vec<TokenId>,
    /// `[prompt.len(), vocab_size]`
    logits: Vec<Vec<f32>>,
    /// As the last of `logits`, with K and V rounded to f16, as `cpu` holds them.
    cached_logits: Vec<Vec<f32>>,
    /// As `logits`, of the beginning that needs no stretched RoPE.
    short_logits: Vec<Vec<f32>>,
}

fn folder(family: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("golden/families").join(family)
}

impl Golden {
    fn of(family: &str) -> Golden {
        let bytes = std::fs::read(folder(family).join("golden.safetensors")).unwrap();
        let file = SafeTensors::deserialize(&bytes).unwrap();
        let words = |name: &str| -> Vec<u32> {
            let (words, _) = file.tensor(name).unwrap().data().as_chunks::<4>();
            words.iter().map(|word| u32::from_le_bytes(*word)).collect()
        };
        let rows = |name: &str| -> Vec<Vec<f32>> {
            let width = file.tensor(name).unwrap().shape()[1];
            let words = words(name);
            let rows = words.chunks(width);
            rows.map(|row| row.iter().map(|bits| f32::from_bits(*bits)).collect()).collect()
        };
        let has_short = file.names().contains(&"short_logits");
        Golden {
            prompt: words("prompt"),
            greedy: words("greedy"),
            logits: rows("logits"),
            cached_logits: rows("cached_logits"),
            short_logits: if has_short { rows("short_logits") } else { Vec::new() },
        }
    }
}

fn load(path: &Path, device: &str, max_model_len: usize) -> Box<dyn Backend> {
    let model = lm_models::open(path, WeightsFrom::File).unwrap();
    let max_model_len = Some(max_model_len);
    match device {
        "cpu" => {
            let options = CpuOptions { kv_bytes: KV_BYTES, max_model_len, ..CpuOptions::default() };
            Box::new(CpuBackend::load(model, &options).unwrap())
        }
        _ => {
            let options = CandleOptions {
                device: "cpu".to_owned(),
                block_size: BLOCK,
                kv_bytes: KV_BYTES,
                max_model_len,
            };
            Box::new(CandleBackend::load(&model, &options).unwrap())
        }
    }
}

/// One sequence on one executor.
struct Sequence {
    backend: Box<dyn Backend>,
    batch: Batch,
    logits: LogitsBuf,
    blocks: Vec<BlockIdx>,
    n_done: usize,
}

impl Sequence {
    fn on(backend: Box<dyn Backend>) -> Sequence {
        let n_blocks = backend.spec().max_model_len.div_ceil(BLOCK) as u32;
        assert_eq!(backend.spec().block_size, BLOCK);
        let blocks = (0..n_blocks).rev().map(BlockIdx).collect();
        Sequence {
            backend,
            batch: Batch::default(),
            logits: LogitsBuf::default(),
            blocks,
            n_done: 0,
        }
    }

    /// The logits behind each of `tokens`, which follow those before.
    fn push(&mut self, tokens: &[TokenId]) -> Vec<Vec<f32>> {
        self.batch.clear();
        self.batch.push_sequence(tokens, self.n_done, &self.blocks, BLOCK, None);
        let row = |i| SampleRow { token_idx: i as u32, want: Want::Full };
        self.batch.sample_rows.extend((0..tokens.len()).map(row));
        self.backend.execute(&self.batch, &mut self.logits).unwrap();
        self.n_done += tokens.len();
        (0..tokens.len()).map(|row| self.logits.row(row).to_vec()).collect()
    }

    fn push_chunks(&mut self, tokens: &[TokenId]) -> Vec<Vec<f32>> {
        tokens.chunks(CHUNK).flat_map(|chunk| self.push(chunk)).collect()
    }
}

/// The greatest difference of a row, as a part of the row's largest logit.
fn error(found: &[f32], expected: &[f32]) -> f32 {
    let largest = expected.iter().fold(0.0_f32, |largest, logit| largest.max(logit.abs()));
    let apart = found.iter().zip(expected).map(|(found, expected)| (found - expected).abs());
    assert!(found.len() == expected.len() && found.iter().all(|logit| logit.is_finite()));
    apart.fold(0.0, f32::max) / largest
}

#[track_caller]
fn same_logits(what: &str, found: &[Vec<f32>], expected: &[Vec<f32>], tolerance: f32) {
    assert_eq!(found.len(), expected.len(), "{what}");
    let errors: Vec<f32> = found.iter().zip(expected).map(|(f, e)| error(f, e)).collect();
    let worst = errors.iter().copied().fold(0.0, f32::max);
    println!("{what}: {} positions, off by at most {worst:.1e}", errors.len());
    let first = errors.iter().position(|error| *error > tolerance);
    assert!(first.is_none(), "{what}: position {first:?} is the first that is off: {errors:?}");
}

#[track_caller]
fn check_file(what: &str, path: &Path, golden: &Golden) {
    for device in ["cpu", "candle"] {
        let what = format!("{what} on {device}");
        let mut sequence = Sequence::on(load(path, device, 256));
        let logits = sequence.push_chunks(&golden.prompt);
        same_logits(&what, &logits, &golden.logits, TOLERANCE);
        if device == "cpu" {
            let last = &logits[logits.len() - golden.cached_logits.len()..];
            let what = format!("{what}, beside a cache of f16");
            same_logits(&what, last, &golden.cached_logits, SAME_CACHE);
        }
        let mut last = logits.into_iter().next_back().unwrap();
        let mut greedy = Vec::new();
        for _ in 0..golden.greedy.len() {
            let best = last.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let token = last.iter().position(|logit| *logit == best).unwrap() as TokenId;
            greedy.push(token);
            last = sequence.push(&[token]).remove(0);
        }
        assert_eq!(greedy, golden.greedy, "{what}: the tokens that follow");
        if !golden.short_logits.is_empty() {
            let n = golden.short_logits.len();
            let mut short = Sequence::on(load(path, device, n));
            let logits = short.push_chunks(&golden.prompt[..n]);
            let what = format!("{what}, {n} positions");
            same_logits(&what, &logits, &golden.short_logits, TOLERANCE);
        }
    }
}

#[track_caller]
fn check(family: &str) {
    let golden = Golden::of(family);
    check_file(&format!("{family} as safetensors"), &folder(family), &golden);
    let gguf = folder(family).join("model.gguf");
    check_file(&format!("{family} as GGUF"), &gguf, &golden);
    let out = TempDir::new().unwrap();
    let written = out.path().join("written.gguf");
    let source = QuantizeSource::Path { path: folder(family), tokenizer_from: Some(gguf.clone()) };
    let recipe = Recipe::named("f16").unwrap();
    let options = QuantizeOptions { recipe, output_type: None, overwrite: false };
    lastmile::quantize(&source, &options, &written, &NoProgress).unwrap();
    check_file(&format!("{family} as our GGUF"), &written, &golden);
    let again = lm_models::open(&gguf, WeightsFrom::File).unwrap();
    let ours = lm_models::open(&written, WeightsFrom::File).unwrap();
    assert_eq!(rounded(ours.spec), rounded(again.spec), "the facts in both GGUF files");
}

/// With the factors of RoPE to five places: both files hold them in f32, computed in another order.
fn rounded(mut spec: DecoderSpec) -> DecoderSpec {
    if let RopeScaling::PerDimension(factors) = &mut spec.rope.scaling {
        factors.iter_mut().for_each(|factor| *factor = (*factor * 1e5).round() / 1e5);
    }
    spec
}

#[test]
fn llama_with_scaled_rope() {
    check("llama3");
}

#[test]
fn mistral() {
    check("mistral");
}

#[test]
fn qwen2() {
    check("qwen2");
}

#[test]
fn qwen3() {
    check("qwen3");
}

#[test]
fn phi3() {
    check("phi3");
}

#[test]
fn gemma2() {
    check("gemma2");
}

#[test]
fn granite() {
    check("granite");
}

#[test]
fn olmo2() {
    check("olmo2");
}
