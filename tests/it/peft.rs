//! Adapters that PEFT saved, beside what PEFT makes of them, on both executors.
//!
//! `xtask/golden/make_adapters.py` made them and what is expected.

use std::path::{Path, PathBuf};

use lastmile::TokenId;
use lm_backend::{Backend, Batch, LogitsBuf, Want};
use lm_candle::{CandleBackend, CandleOptions};
use lm_cpu::{CpuBackend, CpuOptions};
use lm_models::{WeightsFrom, open_lora};
use lm_types::BlockIdx;
use safetensors::SafeTensors;

const BLOCK: usize = 32;
/// Blocks of a sequence.
const N_BLOCKS: u32 = 2;
/// Of the largest logit of the row.
const TOLERANCE: f32 = 1e-3;
/// Between two caches of f16, where another order of additions decides how some values are rounded.
const SAME_CACHE: f32 = 4e-4;
const DEVICES: [&str; 2] = ["cpu", "candle"];

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("golden")
}

/// The same weights as safetensors and as GGUF, whose rows of q and k lie in another order.
fn bases() -> [PathBuf; 2] {
    let folder = golden().join("families/llama3");
    [folder.clone(), folder.join("model.gguf")]
}

/// An adapter, and what the reference library answered.
struct Golden {
    name: &'static str,
    prompt: Vec<TokenId>,
    greedy: Vec<TokenId>,
    /// With the adapter. `[prompt.len(), vocab_size]`, as are the others.
    logits: Vec<Vec<f32>>,
    /// With it, and with K and V in f16, as `cpu` holds them.
    cached_logits: Vec<Vec<f32>>,
    /// Without it.
    base_logits: Vec<Vec<f32>>,
}

impl Golden {
    fn of(name: &'static str) -> Golden {
        let path = golden().join("adapters").join(name).join("golden.safetensors");
        let bytes = std::fs::read(path).unwrap();
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
        Golden {
            name,
            prompt: words("prompt"),
            greedy: words("greedy"),
            logits: rows("logits"),
            cached_logits: rows("cached_logits"),
            base_logits: rows("base_logits"),
        }
    }
}

/// One executor with its adapters, the `i`-th under id `i + 1`.
struct Executor {
    backend: Box<dyn Backend>,
    batch: Batch,
    logits: LogitsBuf,
}

impl Executor {
    fn new(path: &Path, device: &str, adapters: &[&str]) -> Executor {
        let model = lm_models::open(path, WeightsFrom::File).unwrap();
        let loras = adapters.iter().map(|name| {
            let folder = golden().join("adapters").join(name);
            open_lora(&folder, &model.spec).unwrap()
        });
        let loras: Vec<_> = (1..).zip(loras.collect::<Vec<_>>()).collect();
        let kv_bytes = 4 << 20;
        let backend: Box<dyn Backend> = if device == "cpu" {
            let options = CpuOptions { kv_bytes, ..CpuOptions::default() };
            let backend = CpuBackend::load(model, &options).unwrap();
            let host = backend.adapters();
            loras.iter().for_each(|(id, lora)| host.put(*id, lora).unwrap());
            Box::new(backend)
        } else {
            let device = "cpu".to_owned();
            let options =
                CandleOptions { device, block_size: BLOCK, kv_bytes, max_model_len: None };
            let backend = CandleBackend::load(&model, &options).unwrap();
            let host = backend.adapters();
            loras.iter().for_each(|(id, lora)| host.put(*id, lora).unwrap());
            Box::new(backend)
        };
        Executor { backend, batch: Batch::default(), logits: LogitsBuf::default() }
    }

    /// The logits behind each token that is fed, all in one step. Of each sequence: its tokens, the position of the
    /// first, and its adapter. The `i`-th sequence has the `i`-th blocks.
    fn step(&mut self, fed: &[(&[TokenId], usize)], adapters: &[u32]) -> Vec<Vec<Vec<f32>>> {
        self.batch.clear();
        for (i, ((tokens, start), adapter)) in (0..).zip(fed.iter().zip(adapters)) {
            let blocks: Vec<_> =
                (0..N_BLOCKS).map(|block| BlockIdx(N_BLOCKS * i + block)).collect();
            self.batch.push_sequence(tokens, *start, &blocks, BLOCK, None);
            self.batch.set_adapter(*adapter);
            self.batch.sample_last(tokens.len(), Want::Full);
        }
        self.backend.execute(&self.batch, &mut self.logits).unwrap();
        let mut first = 0;
        let of_sequence = |(tokens, _): &(&[TokenId], usize)| -> Vec<Vec<f32>> {
            let rows = first..first + tokens.len();
            first = rows.end;
            rows.map(|row| self.logits.row(row).to_vec()).collect()
        };
        fed.iter().map(of_sequence).collect()
    }

    /// The logits of each prompt, and the `n` tokens that follow greedily. All share each step, the `i`-th
    /// prompt with adapter `adapters[i]`.
    fn answer(
        &mut self,
        prompts: &[&[TokenId]],
        adapters: &[u32],
        n: usize,
    ) -> Vec<(Vec<Vec<f32>>, Vec<TokenId>)> {
        let fed: Vec<(&[TokenId], usize)> = prompts.iter().map(|prompt| (*prompt, 0)).collect();
        let logits = self.step(&fed, adapters);
        let mut greedy: Vec<Vec<TokenId>> =
            logits.iter().map(|rows| vec![greatest(&rows[rows.len() - 1])]).collect();
        for i in 1..n {
            let positions = prompts.iter().map(|prompt| prompt.len() + i - 1);
            let last = greedy.iter().map(|tokens| &tokens[i - 1..]);
            let fed: Vec<(&[TokenId], usize)> = last.zip(positions).collect();
            let next = self.step(&fed, adapters);
            greedy.iter_mut().zip(next).for_each(|(tokens, rows)| tokens.push(greatest(&rows[0])));
        }
        logits.into_iter().zip(greedy).collect()
    }
}

fn greatest(logits: &[f32]) -> TokenId {
    let best = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    logits.iter().position(|logit| *logit == best).unwrap() as TokenId
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
fn check(name: &'static str) {
    let golden = Golden::of(name);
    for (path, device) in bases().iter().flat_map(|path| DEVICES.map(|device| (path, device))) {
        let what = format!("{name} on {} on {device}", path.display());
        let mut executor = Executor::new(path, device, &[name]);
        let n = golden.greedy.len();
        let (logits, greedy) = executor.answer(&[&golden.prompt], &[1], n).remove(0);
        same_logits(&what, &logits, &golden.logits, TOLERANCE);
        if device == "cpu" {
            let what = format!("{what}, beside a cache of f16");
            same_logits(&what, &logits, &golden.cached_logits, SAME_CACHE);
        }
        assert_eq!(greedy, golden.greedy, "{what}: the tokens that follow");
        let (base, _) = executor.answer(&[&golden.prompt], &[0], 1).remove(0);
        same_logits(&format!("{what}, without it"), &base, &golden.base_logits, TOLERANCE);
    }
}

#[test]
fn all_projections() {
    check("rank4");
}

#[test]
fn rank_stabilised_by_a_pattern() {
    check("rank8");
}

#[test]
fn ranks_and_alphas_of_their_own() {
    check("patterns");
}

#[test]
fn some_projections_of_one_layer_in_bf16() {
    check("one-layer");
}

/// All adapters and the model without one, in the same steps from the prompts to the last token.
#[test]
fn adapters_and_their_base_in_one_batch() {
    let names = ["rank4", "rank8", "patterns", "one-layer"];
    let goldens = names.map(Golden::of);
    let n = goldens[0].greedy.len();
    for (path, device) in bases().iter().flat_map(|path| DEVICES.map(|device| (path, device))) {
        let what = format!("{} on {device}", path.display());
        let mut executor = Executor::new(path, device, &names);
        // Each prompt with its adapter, and between them each without one.
        let prompts: Vec<&[TokenId]> =
            goldens.iter().flat_map(|golden| [&golden.prompt[..], &golden.prompt[..]]).collect();
        let adapters: Vec<u32> = (1..=4).flat_map(|id| [id, 0]).collect();
        let together = executor.answer(&prompts, &adapters, n);
        for (golden, both) in goldens.iter().zip(together.chunks(2)) {
            let what = format!("{} on {what}, beside others", golden.name);
            same_logits(&what, &both[0].0, &golden.logits, TOLERANCE);
            assert_eq!(both[0].1, golden.greedy, "{what}: the tokens that follow");
            let what = format!("{what}, without it");
            same_logits(&what, &both[1].0, &golden.base_logits, TOLERANCE);
        }
        if device == "cpu" {
            let mut plain = Executor::new(path, device, &[]);
            for (i, (prompt, id)) in prompts.iter().zip(&adapters).enumerate() {
                let alone = match id {
                    0 => plain.answer(&[prompt], &[0], n).remove(0),
                    id => executor.answer(&[prompt], &[*id], n).remove(0),
                };
                assert!(alone == together[i], "{what}: prompt {i} is not, bit for bit, as alone");
            }
        }
    }
}
