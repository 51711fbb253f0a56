//! The CPU executor, weight type by weight type: a row's logits have the same bits alone, in a crowd, in
//! chunks, from the cache, and with any number of threads and any instruction set.

use std::cell::Cell;
use std::ops::Range;
use std::path::{Path, PathBuf};

use lastmile::{QuantizeOptions, QuantizeSource, TokenId, WeightsFrom};
use lm_backend::{Backend, BackendError, Batch, LogitsBuf, SampleRow, Want};
use lm_cpu::{CpuBackend, CpuOptions, KvType};
use lm_models::gguf::write::GgufWriter;
use lm_models::gguf::{Array, Value};
use lm_models::{NoProgress, Recipe, TensorType};
use lm_types::BlockIdx;
use serde_json::json;
use tempfile::TempDir;

/// No multiple of a panel's 16 rows.
const VOCAB: usize = 300;
/// Longer than two of the spans of 256 positions in which attention is worked out.
const N_TOKENS: usize = 530;
/// Threads, and tokens of a chunk.
const RUNS: [(usize, usize); 6] = [(1, 7), (1, N_TOKENS), (2, 7), (2, 32), (2, N_TOKENS), (3, 32)];
const MAX_ROWS: usize = 64;

/// Two layers of a family with random weights, all matrices stored as one recipe says.
fn model(folder: &Path, family: &str, recipe: &str, output_type: Option<TensorType>) -> PathBuf {
    let tokens = (0..VOCAB).map(|id| format!("t{id}")).collect();
    let mut tokenizer = GgufWriter::new();
    tokenizer
        .set("tokenizer.ggml.model", Value::String("gpt2".to_owned()))
        .set("tokenizer.ggml.tokens", Value::Array(Array::String(tokens)));
    // Floats have no blocks that a row must fill.
    let width = if ["f16", "bf16", "f32"].contains(&recipe) { 520 } else { 512 };
    let config = json!({
        "model_type": family, "num_hidden_layers": 2, "hidden_size": 256,
        "num_attention_heads": 4, "head_dim": 64, "num_key_value_heads": 2,
        "intermediate_size": width, "vocab_size": VOCAB, "max_position_embeddings": 1024,
        "rms_norm_eps": 1e-5, "tie_word_embeddings": family != "llama", "query_pre_attn_scalar": 64,
        "sliding_window": 100, "sliding_window_pattern": 2, "final_logit_softcapping": 30.0,
    });
    let [tokenizer_from, config_path, out] =
        ["tokenizer.gguf", "config.json", "model.gguf"].map(|name| folder.join(name));
    std::fs::write(&tokenizer_from, tokenizer.to_bytes()).unwrap();
    std::fs::write(&config_path, config.to_string()).unwrap();
    let spec = Box::new(lm_models::shape(config_path.to_str().unwrap()).unwrap());
    let source = QuantizeSource::Random { name: recipe.to_owned(), spec, seed: 3, tokenizer_from };
    let recipe = Recipe::named(recipe).unwrap();
    let output_type = output_type.or(recipe.single_type());
    let options = QuantizeOptions { recipe, output_type, overwrite: false };
    lastmile::quantize(&source, &options, &out, &NoProgress).unwrap();
    out
}

fn token(sequence: usize, position: usize) -> TokenId {
    ((sequence * 7919 + position * 104_729 + position * position * 31) % VOCAB) as TokenId
}

/// A sequence whose tokens follow from its number, and where its K and V are.
#[derive(Clone, Debug)]
struct Sequence {
    tokens: Vec<TokenId>,
    blocks: Vec<BlockIdx>,
}

/// Sequence `i`, in `blocks`.
fn sequence(i: usize, blocks: impl IntoIterator<Item = u32>) -> Sequence {
    let tokens = (0..N_TOKENS).map(|position| token(i, position)).collect();
    Sequence { tokens, blocks: blocks.into_iter().map(BlockIdx).collect() }
}

/// The sequence that is looked at; its blocks do not lie in order.
fn subject() -> Sequence {
    sequence(0, (0..N_TOKENS.div_ceil(32) as u32).rev().map(|block| 3 * block + 1))
}

/// Blocks that are not the subject's.
fn free_blocks(n: usize) -> impl Iterator<Item = u32> {
    (0..).filter(|block| block % 3 != 1).take(n)
}

struct Executor {
    backend: CpuBackend,
    batch: Batch,
    logits: LogitsBuf,
}

impl Executor {
    fn load((path, kv_type): (&Path, KvType), n_threads: usize, isa_cap: Option<&str>) -> Executor {
        let options = CpuOptions {
            kv_bytes: 8 << 20,
            kv_type,
            n_threads: Some(n_threads),
            isa_cap: isa_cap.map(str::to_owned),
            ..CpuOptions::default()
        };
        let model = lm_models::open(path, WeightsFrom::File).unwrap();
        let backend = CpuBackend::load(model, &options).unwrap();
        Executor { backend, batch: Batch::default(), logits: LogitsBuf::default() }
    }

    /// Runs the positions of each sequence in one step; every token's logits are wanted.
    fn step(&mut self, parts: &[(&Sequence, Range<usize>)], want: Want) {
        self.batch.clear();
        for (sequence, positions) in parts {
            let tokens = &sequence.tokens[positions.clone()];
            self.batch.push_sequence(tokens, positions.start, &sequence.blocks, 32, None);
        }
        let rows = (0..self.batch.n_tokens()).map(|i| SampleRow { token_idx: i as u32, want });
        self.batch.sample_rows.extend(rows);
        self.backend.execute(&self.batch, &mut self.logits).unwrap();
    }

    /// The bits of `n` rows of the last step.
    fn rows(&self, first: usize, n: usize) -> Vec<Vec<u32>> {
        let bits = |row| self.logits.row(row).iter().map(|logit| logit.to_bits()).collect();
        (first..first + n).map(bits).collect()
    }

    /// The logits of all positions of the subject, alone and in chunks.
    fn alone(&mut self, n_tokens: usize, chunk: usize) -> Vec<Vec<u32>> {
        let subject = subject();
        let mut rows = Vec::new();
        for start in (0..n_tokens).step_by(chunk) {
            let end = n_tokens.min(start + chunk);
            self.step(&[(&subject, start..end)], Want::Full);
            rows.extend(self.rows(0, end - start));
        }
        rows
    }
}

#[track_caller]
fn same(what: &str, first: usize, found: &[Vec<u32>], alone: &[Vec<u32>]) {
    assert!(found.iter().all(|row| row.len() == VOCAB) && first + found.len() <= alone.len());
    for (i, (found, alone)) in found.iter().zip(&alone[first..]).enumerate() {
        let differs = found.iter().zip(alone).position(|(found, alone)| found != alone);
        if let Some(token) = differs {
            let (found, alone) = (f32::from_bits(found[token]), f32::from_bits(alone[token]));
            panic!("{what}: position {}, token {token}: {found}, alone {alone}", first + i);
        }
    }
}

/// Steps of 1 to 64 rows: the subject has `share(m)` of them, from its position `start` to `end`, and the
/// prefill and decode of others the rest.
fn in_company(
    executor: &mut Executor,
    alone: &[Vec<u32>],
    (mut start, end): (usize, usize),
    share: impl Fn(usize) -> usize,
) {
    let subject = subject();
    if start > 0 {
        executor.step(&[(&subject, 0..start)], Want::Full);
    }
    let mut blocks = free_blocks(2 + 2 * MAX_ROWS);
    let prefilled = sequence(1, blocks.by_ref().take(2));
    let mut decoded: Vec<(Sequence, usize)> =
        (0..MAX_ROWS).map(|i| (sequence(2 + i, blocks.by_ref().take(2)), 0)).collect();
    // Every number of rows once in 64 steps, large and small in turns.
    for m in (0..).map(|i| 1 + i * 27 % MAX_ROWS) {
        let n = share(m).min(end - start);
        let n_prefill = (m - n) / 2;
        let mut parts = Vec::new();
        for (sequence, position) in decoded.iter_mut().take(m - n - n_prefill) {
            parts.push((&*sequence, *position..*position + 1));
            *position = (*position + 1) % 64;
        }
        if n_prefill > 0 {
            parts.push((&prefilled, 0..n_prefill));
        }
        // First, in the middle, and last.
        let place = m % 3 * parts.len() / 2;
        let first = parts[..place].iter().map(|(_, positions)| positions.len()).sum();
        parts.insert(place, (&subject, start..start + n));
        executor.step(&parts, Want::Full);
        same(&format!("{m} rows in the step"), start, &executor.rows(first, n), alone);
        start += n;
        if start == end {
            return;
        }
    }
}

/// Other sequences read the subject's first blocks from the cache, in the same step as the subject.
fn after_a_prefix(executor: &mut Executor, alone: &[Vec<u32>]) {
    const SHARED: usize = 5 * 32;
    let subject = subject();
    executor.step(&[(&subject, 0..SHARED)], Want::Full);
    let mut blocks = free_blocks(60);
    let mut others = [1, 2].map(|_| {
        let mut other = subject.clone();
        let own = blocks.by_ref().take(12).map(BlockIdx);
        other.blocks.splice(SHARED / 32.., own);
        other
    });
    others[1].tokens[SHARED + 1..].fill(7);
    for (start, end) in [(SHARED, 161), (161, 200), (200, 330)] {
        let parts = [(&others[0], start..end), (&others[1], start..end), (&subject, start..end)];
        executor.step(&parts, Want::Full);
        let n = end - start;
        same("after a prefix of another step", start, &executor.rows(0, n), alone);
        same("beside those who share its prefix", start, &executor.rows(2 * n, n), alone);
    }
}

/// Steps that are given up, sooner or later, leave what was computed before them as it was.
fn given_up(executor: &mut Executor, alone: &[Vec<u32>]) {
    let subject = subject();
    executor.step(&[(&subject, 0..40)], Want::Full);
    let mut batch = Batch::default();
    batch.push_sequence(&subject.tokens[40..70], 40, &subject.blocks, 32, Some(Want::Full));
    let logits = &mut LogitsBuf::default();
    // Two layers, and the head.
    for n_wanted in 0_u32..3 {
        let n_left = Cell::new(n_wanted);
        let is_wanted = || n_left.replace(n_left.get().saturating_sub(1)) > 0;
        let found = executor.backend.execute_while(&batch, logits, &is_wanted);
        assert_eq!(found, Err(BackendError::GivenUp), "wanted {n_wanted} times");
    }
    // What was written of them is nobody's: another sequence takes the third block.
    let mut moved = subject.clone();
    moved.blocks.splice(2..4, free_blocks(2).map(BlockIdx));
    let mut other = sequence(9, free_blocks(2));
    other.blocks[0] = subject.blocks[2];
    executor.step(&[(&moved, 40..70), (&other, 0..20)], Want::Full);
    same("after steps that were given up", 40, &executor.rows(0, 30), alone);
    let beside = executor.rows(30, 20);
    executor.step(&[(&sequence(9, free_blocks(9).skip(7)), 0..20)], Want::Full);
    same("where a step was given up", 0, &beside, &executor.rows(0, 20));
}

/// Steps in which few rows sample, or none, or not in order: those that do have what they have where all do.
fn few_sample(executor: &mut Executor, alone: &[Vec<u32>]) {
    let subject = subject();
    let other = sequence(1, free_blocks(2));
    let parts: [(Range<usize>, &[usize]); 6] = [
        (0..30, &[]),
        (30..40, &[39]),
        (40..270, &[41, 42, 100, 255, 256, 269]),
        (270..300, &[299, 280, 280]),
        (300..301, &[300]),
        (301..N_TOKENS, &[N_TOKENS - 1]),
    ];
    for (positions, sampled) in parts {
        let batch = &mut executor.batch;
        batch.clear();
        let n_others = 20;
        batch.push_sequence(&other.tokens[..n_others], 0, &other.blocks, 32, None);
        let tokens = &subject.tokens[positions.clone()];
        batch.push_sequence(tokens, positions.start, &subject.blocks, 32, None);
        batch.push_sequence(&other.tokens[..n_others], 0, &other.blocks, 32, None);
        let row = |position: usize| (n_others + position - positions.start) as u32;
        let rows = sampled
            .iter()
            .map(|position| SampleRow { token_idx: row(*position), want: Want::Full });
        batch.sample_rows.extend(rows);
        executor.backend.execute(&executor.batch, &mut executor.logits).unwrap();
        for (i, position) in sampled.iter().enumerate() {
            let what = format!("{sampled:?} sample of {positions:?}");
            same(&what, *position, &executor.rows(i, 1), alone);
        }
    }
}

/// Steps that want only the greatest logit find that of the whole row.
fn greatest(executor: &mut Executor, alone: &[Vec<u32>]) {
    let subject = subject();
    let mut start = 0;
    for n in [1, 2, 15, 16, 17, 33, 64] {
        executor.step(&[(&subject, start..start + n)], Want::Argmax);
        for (i, row) in alone[start..start + n].iter().enumerate() {
            let logits: Vec<f32> = row.iter().map(|bits| f32::from_bits(*bits)).collect();
            let best = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let token = logits.iter().position(|logit| *logit == best).unwrap();
            let found = executor.logits.greatest(i).unwrap();
            assert_eq!((found.token as usize, found.logit.to_bits()), (token, best.to_bits()));
        }
        start += n;
    }
}

#[track_caller]
fn check(family: &str, recipe: &str, output_type: Option<TensorType>) {
    check_kv_type(KvType::F16, family, recipe, output_type);
}

#[track_caller]
fn check_kv_type(kv_type: KvType, family: &str, recipe: &str, output_type: Option<TensorType>) {
    let folder = TempDir::new().unwrap();
    let path = model(folder.path(), family, recipe, output_type);
    let path = (path.as_path(), kv_type);
    let mut one = Executor::load(path, 1, None);
    let alone = one.alone(N_TOKENS, 1);
    assert!(alone.iter().flatten().all(|bits| f32::from_bits(*bits).is_finite()));
    assert_ne!(alone[1], alone[2]);
    for (n_threads, chunk) in RUNS {
        let rows = Executor::load(path, n_threads, None).alone(N_TOKENS, chunk);
        same(&format!("{n_threads} threads, chunks of {chunk}"), 0, &rows, &alone);
    }
    let mut two = Executor::load(path, 2, None);
    in_company(&mut two, &alone, (220, 220 + MAX_ROWS), |_| 1);
    in_company(&mut two, &alone, (0, N_TOKENS), |m| m.div_ceil(2));
    after_a_prefix(&mut two, &alone);
    given_up(&mut two, &alone);
    few_sample(&mut two, &alone);
    greatest(&mut two, &alone);
    // Plain Rust is slow; the others go over a border of a span.
    for (cap, n_tokens) in [("scalar", 80), ("avx2", 300), ("avx512vnni", 300), ("amx", 300)] {
        let mut capped = Executor::load(path, 2, Some(cap));
        let kernel_path = capped.backend.spec().kernel_path.clone();
        same(&kernel_path, 0, &capped.alone(n_tokens, 40), &alone);
        println!("{family} {recipe}: {cap} is {kernel_path}");
    }
}

#[test]
fn q2_k() {
    check("llama", "q2_k", None);
}

#[test]
fn q3_k() {
    check("llama", "q3_k", None);
}

#[test]
fn q4_0() {
    check("llama", "q4_0", None);
}

#[test]
fn q4_1() {
    check("llama", "q4_1", None);
}

#[test]
fn q5_0() {
    check("llama", "q5_0", None);
}

#[test]
fn q5_1() {
    check("llama", "q5_1", None);
}

#[test]
fn q8_0() {
    check("llama", "q8_0", None);
}

#[test]
fn q4_k() {
    check("llama", "q4_k", None);
}

#[test]
fn q5_k() {
    check("llama", "q5_k", None);
}

#[test]
fn q6_k() {
    check("llama", "q6_k", None);
}

#[test]
fn f16() {
    check("llama", "f16", None);
}

#[test]
fn bf16() {
    check("llama", "bf16", None);
}

#[test]
fn f32() {
    check("llama", "f32", None);
}

#[test]
fn a_mix_of_types() {
    check("llama", "q4_k_m", Some(TensorType::F16));
}

#[test]
fn sliding_windows_and_whole_numbers() {
    check("gemma3_text", "q5_0", Some(TensorType::Q8_0));
}

#[test]
fn sliding_windows_and_floats() {
    check("gemma3_text", "bf16", Some(TensorType::Q4_1));
}

#[test]
fn int8_kv() {
    check_kv_type(KvType::Int8, "llama", "q4_1", None);
    check_kv_type(KvType::Int8, "gemma3_text", "q4_1", None);
}
