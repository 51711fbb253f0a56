//! Low-rank adapters beside the same weights with the adapters merged into them, on both executors.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use lastmile::TokenId;
use lm_backend::{Backend, Batch, LogitsBuf, Want};
use lm_candle::{CandleBackend, CandleOptions};
use lm_cpu::{CpuBackend, CpuOptions};
use lm_models::{WeightsFrom, open_lora};
use lm_types::BlockIdx;
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use tempfile::TempDir;

const BLOCK: usize = 32;
const N_GREEDY: usize = 32;
const RANK: usize = 4;
/// Of the largest logit of the row: rounding of K and V, which are f16 on `cpu`.
const TOLERANCE: f32 = 2e-3;

/// Every linear layer of Llama's layers.
pub(crate) const MODULES: [&str; 7] = [
    "self_attn.q_proj",
    "self_attn.k_proj",
    "self_attn.v_proj",
    "self_attn.o_proj",
    "mlp.gate_proj",
    "mlp.up_proj",
    "mlp.down_proj",
];

pub(crate) fn family(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("golden/families").join(name)
}

/// Numbers from -1 to 1 that look random.
pub(crate) struct Noise(u64);

impl Noise {
    pub(crate) fn new(seed: u64) -> Noise {
        Noise(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    fn next(&mut self) -> f32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }

    fn matrix(&mut self, n: usize, scale: f32) -> Vec<f32> {
        (0..n).map(|_| scale * self.next()).collect()
    }
}

fn bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

/// A module's matrices, as PEFT stores them.
pub(crate) struct Module {
    a: Vec<f32>,
    b: Vec<f32>,
    n_in: usize,
    n_out: usize,
}

/// An adapter of a folder's model: all weights random.
pub(crate) fn write_adapter(
    base: &Path,
    folder: &Path,
    modules: &[&str],
    seed: u64,
) -> BTreeMap<String, Module> {
    let weights = std::fs::read(base.join("model.safetensors")).unwrap();
    let weights = SafeTensors::deserialize(&weights).unwrap();
    let mut noise = Noise::new(seed);
    let mut adapter = BTreeMap::new();
    let mut names = weights.names();
    names.sort_unstable();
    for name in names {
        let Some(module) = name.strip_suffix(".weight") else { continue };
        if !modules.iter().any(|wanted| module.ends_with(wanted)) {
            continue;
        }
        let shape = weights.tensor(name).unwrap().shape().to_vec();
        let (n_out, n_in) = (shape[0], shape[1]);
        let (a, b) = (noise.matrix(RANK * n_in, 0.2), noise.matrix(n_out * RANK, 0.2));
        adapter.insert(module.to_owned(), Module { a, b, n_in, n_out });
    }
    let stored: Vec<(String, Vec<usize>, Vec<u8>)> = adapter
        .iter()
        .flat_map(|(module, Module { a, b, n_in, n_out })| {
            let name = |which| format!("base_model.model.{module}.lora_{which}.weight");
            [(name("A"), vec![RANK, *n_in], bytes(a)), (name("B"), vec![*n_out, RANK], bytes(b))]
        })
        .collect();
    let views = stored.iter().map(|(name, shape, data)| {
        (name.as_str(), TensorView::new(Dtype::F32, shape.clone(), data).unwrap())
    });
    std::fs::create_dir_all(folder).unwrap();
    safetensors::serialize_to_file(views, None, &folder.join("adapter_model.safetensors")).unwrap();
    let config = serde_json::json!({
        "peft_type": "LORA", "task_type": "CAUSAL_LM", "r": RANK, "lora_alpha": 8, "bias": "none",
        "target_modules": modules.iter().map(|m| m.rsplit_once('.').unwrap().1).collect::<Vec<_>>(),
    });
    std::fs::write(folder.join("adapter_config.json"), config.to_string()).unwrap();
    adapter
}

/// The model with `w + scale * b · a` in the place of each adapted matrix, all as F32.
fn write_merged(base: &Path, adapter: &BTreeMap<String, Module>, folder: &Path) {
    let weights = std::fs::read(base.join("model.safetensors")).unwrap();
    let weights = SafeTensors::deserialize(&weights).unwrap();
    let merged: Vec<(String, Vec<usize>, Vec<u8>)> = weights
        .iter()
        .map(|(name, tensor)| {
            let (halves, _) = tensor.data().as_chunks::<2>();
            let mut values: Vec<f32> =
                halves.iter().map(|half| half::f16::from_le_bytes(*half).to_f32()).collect();
            let module = name.strip_suffix(".weight").unwrap_or(name);
            if let Some(Module { a, b, n_in, .. }) = adapter.get(module) {
                for (i, value) in values.iter_mut().enumerate() {
                    let (row, column) = (i / n_in, i % n_in);
                    let product: f64 = (0..RANK)
                        .map(|k| f64::from(b[row * RANK + k]) * f64::from(a[k * n_in + column]))
                        .sum();
                    // lora_alpha / r
                    *value += (2.0 * product) as f32;
                }
            }
            (name.to_owned(), tensor.shape().to_vec(), bytes(&values))
        })
        .collect();
    let views = merged.iter().map(|(name, shape, data)| {
        (name.as_str(), TensorView::new(Dtype::F32, shape.clone(), data).unwrap())
    });
    std::fs::create_dir_all(folder).unwrap();
    safetensors::serialize_to_file(views, None, &folder.join("model.safetensors")).unwrap();
    for file in ["config.json", "tokenizer.json"] {
        std::fs::copy(base.join(file), folder.join(file)).unwrap();
    }
}

/// One executor with its adapters, the `i`-th under id `i + 1`.
struct Executor {
    backend: Box<dyn Backend>,
    batch: Batch,
    logits: LogitsBuf,
}

/// What one sequence of a step feeds: its tokens, where they stand, its adapter, and which blocks are its own.
#[derive(Clone, Copy)]
struct Piece<'a> {
    tokens: &'a [TokenId],
    start: usize,
    adapter: u32,
    place: u32,
}

impl Executor {
    fn new(path: &Path, device: &str, adapters: &[&Path]) -> Executor {
        let model = lm_models::open(path, WeightsFrom::File).unwrap();
        let loras: Vec<_> =
            adapters.iter().map(|path| open_lora(path, &model.spec).unwrap()).collect();
        let ids = 1..;
        let kv_bytes = 4 << 20;
        let backend: Box<dyn Backend> = if device == "cpu" {
            let options = CpuOptions { kv_bytes, ..CpuOptions::default() };
            let backend = CpuBackend::load(model, &options).unwrap();
            let host = backend.adapters();
            ids.zip(&loras).for_each(|(id, lora)| host.put(id, lora).unwrap());
            Box::new(backend)
        } else {
            let device = "cpu".to_owned();
            let options =
                CandleOptions { device, block_size: BLOCK, kv_bytes, max_model_len: None };
            let backend = CandleBackend::load(&model, &options).unwrap();
            let host = backend.adapters();
            ids.zip(&loras).for_each(|(id, lora)| host.put(id, lora).unwrap());
            Box::new(backend)
        };
        Executor { backend, batch: Batch::default(), logits: LogitsBuf::default() }
    }

    /// The logits behind the last token of each piece.
    fn step(&mut self, pieces: &[Piece<'_>]) -> Vec<Vec<f32>> {
        self.batch.clear();
        for piece in pieces {
            let blocks: Vec<_> = (0..4).map(|i| BlockIdx(4 * piece.place + i)).collect();
            self.batch.push_sequence(piece.tokens, piece.start, &blocks, BLOCK, Some(Want::Full));
            self.batch.set_adapter(piece.adapter);
        }
        self.backend.execute(&self.batch, &mut self.logits).unwrap();
        (0..pieces.len()).map(|row| self.logits.row(row).to_vec()).collect()
    }

    /// The logits behind the prompt, and the tokens that follow.
    fn greedy(&mut self, prompt: &[TokenId], adapter: u32) -> (Vec<f32>, Vec<TokenId>) {
        let first = self.step(&[Piece { tokens: prompt, start: 0, adapter, place: 0 }]).remove(0);
        let (mut last, mut tokens) = (first.clone(), Vec::new());
        for i in 0..N_GREEDY {
            tokens.push(greatest(&last));
            let next = [tokens[i]];
            let piece = Piece { tokens: &next, start: prompt.len() + i, adapter, place: 0 };
            last = self.step(&[piece]).remove(0);
        }
        (first, tokens)
    }
}

fn greatest(logits: &[f32]) -> TokenId {
    let best = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    logits.iter().position(|logit| *logit == best).unwrap() as TokenId
}

fn error(found: &[f32], expected: &[f32]) -> f32 {
    let largest = expected.iter().fold(0.0_f32, |largest, logit| largest.max(logit.abs()));
    let apart = found.iter().zip(expected).map(|(found, expected)| (found - expected).abs());
    apart.fold(0.0, f32::max) / largest
}

fn prompt(n: usize, seed: u64) -> Vec<TokenId> {
    let mut noise = Noise::new(seed);
    (0..n).map(|_| (60.0 + 59.0 * noise.next()) as TokenId).collect()
}

#[track_caller]
fn check(name: &str, modules: &[&str]) {
    let (base, out) = (family(name), TempDir::new().unwrap());
    let (adapter, merged) = (out.path().join("adapter"), out.path().join("merged"));
    let parts = write_adapter(&base, &adapter, modules, 7);
    write_merged(&base, &parts, &merged);
    let prompt = prompt(48, 3);
    let (expected, expected_tokens) = Executor::new(&merged, "candle", &[]).greedy(&prompt, 0);
    let (plain, _) = Executor::new(&base, "candle", &[]).greedy(&prompt, 0);
    let apart = error(&plain, &expected);
    assert!(apart > 0.05, "the adapter changes next to nothing: {apart}");
    for path in [base.clone(), base.join("model.gguf")] {
        for device in ["cpu", "candle"] {
            let mut executor = Executor::new(&path, device, &[&adapter]);
            let (found, tokens) = executor.greedy(&prompt, 1);
            let off = error(&found, &expected);
            println!("{name} {} on {device}: off by {off:.1e}", path.display());
            assert!(off < TOLERANCE, "{name} {} on {device}: {off}", path.display());
            assert_eq!(tokens, expected_tokens, "{name} {} on {device}", path.display());
            let (without, _) = executor.greedy(&prompt, 0);
            assert!(error(&without, &plain) < TOLERANCE, "without the adapter it is the model");
        }
    }
}

#[test]
fn llama_with_an_adapter_is_the_merged_model() {
    check("llama3", &MODULES);
}

#[test]
fn an_adapter_of_some_projections() {
    check("llama3", &["self_attn.q_proj", "self_attn.v_proj"]);
    check("llama3", &["mlp.down_proj"]);
}

#[test]
fn norms_behind_the_blocks() {
    check("olmo2", &MODULES);
}

#[test]
fn biases_and_scales() {
    check("qwen2", &MODULES);
    check("granite", &MODULES);
}

#[test]
fn fused_projections() {
    let modules = ["self_attn.qkv_proj", "self_attn.o_proj", "mlp.gate_up_proj", "mlp.down_proj"];
    check("phi3", &modules);
}

/// Two adapters and none in one step, against each alone: the same bits, whole and in chunks.
#[test]
fn rows_of_different_adapters_share_a_step() {
    let (base, out) = (family("llama3"), TempDir::new().unwrap());
    let (one, two) = (out.path().join("one"), out.path().join("two"));
    write_adapter(&base, &one, &MODULES, 1);
    write_adapter(&base, &two, &["self_attn.v_proj", "mlp.up_proj"], 2);
    for quantised in [false, true] {
        let path = if quantised { quantise(&base, out.path()) } else { base.clone() };
        let mut executor = Executor::new(&path, "cpu", &[&one, &two]);
        let prompts: Vec<_> = (0..6).map(|i| prompt(20 + i as usize, i)).collect();
        let adapters = [0, 1, 2, 1, 0, 2];
        let of = |i: usize, tokens, start| Piece {
            tokens,
            start,
            adapter: adapters[i],
            place: i as u32,
        };
        let alone: Vec<_> =
            (0..6).map(|i| executor.step(&[of(i, &prompts[i][..], 0)]).remove(0)).collect();
        let pieces: Vec<_> = (0..6).map(|i| of(i, &prompts[i][..], 0)).collect();
        assert_eq!(executor.step(&pieces), alone, "together");
        for chunk in [1, 7] {
            let mut last = vec![Vec::new(); 6];
            for start in (0..25).step_by(chunk) {
                let fed = |i: &usize| start < prompts[*i].len();
                let rows: Vec<usize> = (0..6).filter(fed).collect();
                let pieces: Vec<_> = rows
                    .iter()
                    .map(|&i| {
                        let end = prompts[i].len().min(start + chunk);
                        of(i, &prompts[i][start..end], start)
                    })
                    .collect();
                for (i, logits) in rows.into_iter().zip(executor.step(&pieces)) {
                    last[i] = logits;
                }
            }
            assert_eq!(last, alone, "in chunks of {chunk}");
        }
        let same = prompt(20, 9);
        let with = |adapter| Piece { tokens: &same, start: 0, adapter, place: adapter };
        let three = executor.step(&[with(0), with(1), with(2)]);
        assert!(three[0] != three[1] && three[1] != three[2], "adapters change what is said");
    }
}

fn quantise(base: &Path, out: &Path) -> PathBuf {
    let written = out.join("q8_0.gguf");
    let tokenizer_from = Some(base.join("model.gguf"));
    let source = lastmile::QuantizeSource::Path { path: base.to_owned(), tokenizer_from };
    let recipe = lm_models::Recipe::named("q8_0").unwrap();
    let options = lastmile::QuantizeOptions { recipe, output_type: None, overwrite: false };
    lastmile::quantize(&source, &options, &written, &lm_models::NoProgress).unwrap();
    written
}
