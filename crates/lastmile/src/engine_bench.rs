//! How fast an executor runs by itself: prompts, decodes and both in one step, without scheduler,
//! sampler or HTTP, and beside each how much of the machine's roofline that is.

use std::time::Instant;

use lm_backend::{Backend, BackendError, BackendSpec, Batch, LogitsBuf, Want};
use lm_cpu::{CpuOptions, MachineProbe};
use lm_models::ModelError;
use lm_types::{BlockIdx, TokenId};

use crate::loading::{Loaded, load_alone};
use crate::roofline::{ModelWork, StepWork};
use crate::{LoadError, MachineRates, ModelSource, Roofline, RuntimeConfig};

/// Sequences that decode while a prompt is prefilled.
const MIXED_DECODES: usize = 8;

/// What is measured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EngineBenchOptions {
    /// Tokens of a prompt.
    pub prompt_tokens: usize,
    /// Sequences that decode together; one case for each.
    pub batches: Vec<usize>,
    /// Tokens of each sequence in the cache before it decodes.
    pub context: usize,
    /// Decode steps of one repeat.
    pub steps: usize,
    /// How often each case is run; the cases take turns.
    pub repeats: usize,
    /// Decides the tokens.
    pub seed: u64,
}

impl Default for EngineBenchOptions {
    fn default() -> Self {
        EngineBenchOptions {
            prompt_tokens: 512,
            batches: vec![1, 8, 32],
            context: 256,
            steps: 64,
            repeats: 3,
            seed: 1,
        }
    }
}

/// What was measured.
#[derive(Clone, Debug, PartialEq)]
pub struct EngineBench {
    /// The model's name.
    pub model: String,
    /// The executor and its numeric path.
    pub kernel_path: String,
    /// Bytes of resident weights.
    pub weights_bytes: u64,
    /// Tokens of a prompt that one step takes.
    pub chunk_tokens: usize,
    /// What the machine gives; `None` where the executor is not the fast one on CPU.
    pub machine: Option<MachineRates>,
    /// One for each case.
    pub cases: Vec<BenchCase>,
}

/// What a case runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CaseKind {
    /// One prompt, in the chunks that the engine would cut.
    Prompt,
    /// One token of each sequence in each step.
    Decode {
        /// Sequences in a step.
        n_sequences: usize,
    },
    /// A prompt in chunks, and in each step one token of each of the other sequences.
    Mixed {
        /// Sequences that decode.
        n_sequences: usize,
    },
}

/// How fast one case ran.
#[derive(Clone, Debug, PartialEq)]
pub struct BenchCase {
    /// What it runs.
    pub kind: CaseKind,
    /// Tokens of one repeat, of prompts and decodes together.
    pub n_tokens: usize,
    /// Steps of one repeat.
    pub n_steps: usize,
    /// Of each repeat, in the executor.
    pub seconds: Vec<f64>,
    /// The least time for one repeat; `None` where the machine was not measured.
    pub roofline: Option<Roofline>,
}

/// Why an executor was not measured.
#[derive(Debug, thiserror::Error)]
pub enum EngineBenchError {
    /// The model.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// The executor.
    #[error(transparent)]
    Backend(#[from] BackendError),
    /// A number outside of its range.
    #[error("{name} is {value}, but must be {limit}")]
    Option {
        /// Which one.
        name: &'static str,
        /// What it is.
        value: usize,
        /// What it may be.
        limit: String,
    },
    /// The sequences do not fit into the KV cache together.
    #[error("the sequences take {needed} KV blocks, but the cache has {n_blocks}")]
    KvTooSmall {
        /// Blocks of all sequences.
        needed: usize,
        /// Blocks of the cache.
        n_blocks: usize,
    },
}

impl From<ModelError> for EngineBenchError {
    fn from(error: ModelError) -> Self {
        EngineBenchError::Load(error.into())
    }
}

impl BenchCase {
    /// Tokens per second of the fastest repeat.
    #[must_use]
    pub fn tokens_per_s_best(&self) -> f64 {
        self.n_tokens as f64 / self.seconds.iter().copied().fold(f64::INFINITY, f64::min)
    }

    /// Tokens per second of the repeat in the middle.
    #[must_use]
    pub fn tokens_per_s_median(&self) -> f64 {
        let mut seconds = self.seconds.clone();
        seconds.sort_by(f64::total_cmp);
        let (lower, upper) = (seconds[(seconds.len() - 1) / 2], seconds[seconds.len() / 2]);
        self.n_tokens as f64 / ((lower + upper) / 2.0)
    }

    /// Milliseconds of a step, when a repeat runs at `tokens_per_s`.
    #[must_use]
    pub fn step_ms(&self, tokens_per_s: f64) -> f64 {
        self.n_tokens as f64 / tokens_per_s / self.n_steps as f64 * 1e3
    }

    /// How much of the roofline the fastest repeat reached; 1 is all of it.
    #[must_use]
    pub fn roofline_fraction(&self) -> Option<f64> {
        let tokens_per_s = self.n_tokens as f64 / self.roofline?.seconds;
        Some(self.tokens_per_s_best() / tokens_per_s)
    }
}

/// Measures the executor of `config` alone. Contexts are prefilled once; prompts and decoded tokens
/// are drawn anew for each repeat. The machine is probed beside each repeat. `progress` hears of what begins.
///
/// # Errors
/// The model cannot be loaded, or the sequences do not fit.
pub fn bench_engine(
    config: &RuntimeConfig,
    options: &EngineBenchOptions,
    mut progress: impl FnMut(&str),
) -> Result<EngineBench, EngineBenchError> {
    let mut kinds = vec![CaseKind::Prompt];
    kinds.extend(options.batches.iter().map(|&n_sequences| CaseKind::Decode { n_sequences }));
    kinds.push(CaseKind::Mixed { n_sequences: MIXED_DECODES });
    check_numbers(config, options)?;
    let Loaded { name, backend, .. } = load_alone(config)?;
    let (kernel_path, weights_bytes) =
        (backend.spec().kernel_path.clone(), backend.spec().weights_bytes);
    let mut bound = Bounds::of(config, backend.spec())?;
    let mut driver = Driver::new(backend, config, options)?;
    progress(&format!("prefilling {} contexts", driver.n_sequences));
    driver.prefill_contexts()?;
    let mut runs: Vec<Vec<Run>> = vec![Vec::new(); kinds.len()];
    for repeat in 0..options.repeats {
        progress(&format!("repeat {} of {}", repeat + 1, options.repeats));
        for (kind, runs) in kinds.iter().zip(&mut runs) {
            let work = bound.as_ref().map(|bound| &bound.work);
            runs.push(driver.run(*kind, work)?);
        }
        if let Some(bound) = &mut bound {
            bound.measure();
        }
    }
    let machine = bound.and_then(|bound| bound.rates);
    let case = |(kind, runs): (CaseKind, Vec<Run>)| BenchCase {
        kind,
        n_tokens: runs[0].n_tokens,
        n_steps: runs[0].n_steps,
        seconds: runs.iter().map(|run| run.seconds).collect(),
        roofline: machine.as_ref().map(|rates| rates.roofline(&runs[0].works)),
    };
    let cases = kinds.into_iter().zip(runs).map(case).collect();
    let chunk_tokens = driver.chunk_tokens;
    Ok(EngineBench { model: name, kernel_path, weights_bytes, chunk_tokens, machine, cases })
}

fn check_numbers(
    config: &RuntimeConfig,
    options: &EngineBenchOptions,
) -> Result<(), EngineBenchError> {
    let batch = options.batches.iter().copied().min().unwrap_or(0);
    let least = [
        ("prompt_tokens", options.prompt_tokens, 1),
        ("batch", batch, 1),
        ("context", options.context, 1),
        ("steps", options.steps, 1),
        ("repeat", options.repeats, 1),
        // A chunk beside the sequences that decode.
        ("max_batch_tokens", config.engine.max_batch_tokens, MIXED_DECODES + 1),
        ("max_prefill_chunk", config.engine.max_prefill_chunk, 1),
    ];
    match least.into_iter().find(|(_, value, least)| value < least) {
        Some((name, value, least)) => {
            Err(EngineBenchError::Option { name, value, limit: format!("at least {least}") })
        }
        None => Ok(()),
    }
}

/// What bounds the executor: the model's work, and what the machine gives.
struct Bounds {
    work: ModelWork,
    probe: MachineProbe,
    rates: Option<MachineRates>,
}

impl Bounds {
    /// `None` unless the executor runs on the kernels that can be probed.
    fn of(config: &RuntimeConfig, spec: &BackendSpec) -> Result<Option<Self>, EngineBenchError> {
        let ModelSource::Path { path, weights } = &config.model else { return Ok(None) };
        if !spec.kernel_path.starts_with("cpu-") {
            return Ok(None);
        }
        let kv_bytes = spec.kv_bytes / (spec.n_blocks * spec.block_size).max(1) as u64;
        let options = CpuOptions { isa_cap: config.isa_cap.clone(), ..CpuOptions::default() };
        let probe = MachineProbe::new(&options).map_err(LoadError::from)?;
        let work = ModelWork::of(&lm_models::open(path, *weights)?, kv_bytes)?;
        Ok(Some(Bounds { work, probe, rates: None }))
    }

    fn measure(&mut self) {
        let new = MachineRates::measure(&mut self.probe, &self.work);
        self.rates = Some(match &self.rates {
            Some(rates) => new.best(rates),
            None => new,
        });
    }
}

/// One repeat of a case.
#[derive(Clone)]
struct Run {
    n_tokens: usize,
    n_steps: usize,
    seconds: f64,
    works: Vec<StepWork>,
}

/// An executor, and the sequences that it is given.
struct Driver<'a> {
    backend: Box<dyn Backend>,
    options: &'a EngineBenchOptions,
    /// Tokens of a prompt in one step.
    chunk_tokens: usize,
    /// Beside the sequences that decode.
    mixed_chunk_tokens: usize,
    /// Sequences that decode. Their blocks come first, then those of the prompt.
    n_sequences: usize,
    blocks_per_sequence: usize,
    n_drawn: u64,
    batch: Batch,
    logits: LogitsBuf,
}

impl<'a> Driver<'a> {
    fn new(
        backend: Box<dyn Backend>,
        config: &RuntimeConfig,
        options: &'a EngineBenchOptions,
    ) -> Result<Self, EngineBenchError> {
        let (max_batch_tokens, spec) = (config.engine.max_batch_tokens, backend.spec());
        let chunk_tokens = config.engine.max_prefill_chunk.min(max_batch_tokens);
        let mixed_chunk_tokens = chunk_tokens.min(max_batch_tokens - MIXED_DECODES);
        let n_mixed_steps = options.prompt_tokens.div_ceil(mixed_chunk_tokens);
        let sequence_len = options.context + options.steps.max(n_mixed_steps);
        for (name, value) in
            [("prompt_tokens", options.prompt_tokens), ("context with steps", sequence_len)]
        {
            if value > spec.max_model_len {
                let limit = format!("at most {}, the model's context", spec.max_model_len);
                return Err(EngineBenchError::Option { name, value, limit });
            }
        }
        let n_sequences = options.batches.iter().copied().fold(MIXED_DECODES, usize::max);
        let blocks_per_sequence = sequence_len.div_ceil(spec.block_size);
        let needed =
            n_sequences * blocks_per_sequence + options.prompt_tokens.div_ceil(spec.block_size);
        if needed > spec.n_blocks {
            return Err(EngineBenchError::KvTooSmall { needed, n_blocks: spec.n_blocks });
        }
        Ok(Driver {
            backend,
            options,
            chunk_tokens,
            mixed_chunk_tokens,
            n_sequences,
            blocks_per_sequence,
            n_drawn: 0,
            batch: Batch::default(),
            logits: LogitsBuf::default(),
        })
    }

    fn prefill_contexts(&mut self) -> Result<(), BackendError> {
        for s in 0..self.n_sequences {
            for start in (0..self.options.context).step_by(self.chunk_tokens) {
                let n_tokens = self.chunk_tokens.min(self.options.context - start);
                self.batch.clear();
                self.push(s, start, n_tokens, None);
                self.backend.execute(&self.batch, &mut self.logits)?;
            }
        }
        Ok(())
    }

    fn run(&mut self, kind: CaseKind, work: Option<&ModelWork>) -> Result<Run, BackendError> {
        let (n_decodes, chunk_tokens) = match kind {
            CaseKind::Prompt => (0, self.chunk_tokens),
            CaseKind::Decode { n_sequences } => (n_sequences, 0),
            CaseKind::Mixed { n_sequences } => (n_sequences, self.mixed_chunk_tokens),
        };
        let prompt_tokens = self.options.prompt_tokens;
        let n_steps = match chunk_tokens {
            0 => self.options.steps,
            chunk_tokens => prompt_tokens.div_ceil(chunk_tokens),
        };
        let mut run = Run { n_tokens: 0, n_steps, seconds: 0.0, works: Vec::new() };
        for step in 0..n_steps {
            self.batch.clear();
            for s in 0..n_decodes {
                self.push(s, self.options.context + step, 1, Some(Want::Argmax));
            }
            if chunk_tokens > 0 {
                let start = step * chunk_tokens;
                let n_tokens = chunk_tokens.min(prompt_tokens - start);
                let is_last = start + n_tokens == prompt_tokens;
                self.push(self.n_sequences, start, n_tokens, is_last.then_some(Want::Argmax));
            }
            run.n_tokens += self.batch.n_tokens();
            run.works.extend(work.map(|work| work.of_step(&self.batch)));
            let started = Instant::now();
            self.backend.execute(&self.batch, &mut self.logits)?;
            run.seconds += started.elapsed().as_secs_f64();
        }
        Ok(run)
    }

    /// Appends freshly drawn tokens of sequence `s` to the batch; the one after the last is the prompt.
    fn push(&mut self, s: usize, start: usize, n_tokens: usize, want: Option<Want>) {
        let spec = self.backend.spec();
        let first = self.n_drawn;
        self.n_drawn += n_tokens as u64;
        let draw = |i| lm_sampler::uniform(self.options.seed, i) * spec.vocab_size as f64;
        let tokens: Vec<TokenId> = (first..self.n_drawn).map(|i| draw(i) as TokenId).collect();
        let first_block = s * self.blocks_per_sequence;
        let n_blocks = (start + n_tokens).div_ceil(spec.block_size);
        let table = first_block..first_block + n_blocks;
        let table: Vec<BlockIdx> = table.map(|block| BlockIdx(block as u32)).collect();
        self.batch.push_sequence(&tokens, start, &table, spec.block_size, want);
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    fn options() -> EngineBenchOptions {
        let batches = vec![1, 3];
        EngineBenchOptions {
            prompt_tokens: 600,
            batches,
            context: 40,
            steps: 5,
            ..Default::default()
        }
    }

    fn bench(
        placeholder: &str,
        options: &EngineBenchOptions,
    ) -> Result<EngineBench, EngineBenchError> {
        let config = RuntimeConfig::new(ModelSource::placeholder(placeholder).unwrap());
        bench_engine(&config, options, |_| ())
    }

    #[test]
    fn every_case_runs_its_tokens_in_the_engines_chunks() {
        let found = bench("", &options()).unwrap();
        let cases: Vec<_> =
            found.cases.iter().map(|case| (case.kind, case.n_steps, case.n_tokens)).collect();
        let chunk = found.chunk_tokens;
        let mixed_steps = 600_usize.div_ceil(chunk - 8);
        assert_eq!(
            cases,
            [
                (CaseKind::Prompt, 600_usize.div_ceil(chunk), 600),
                (CaseKind::Decode { n_sequences: 1 }, 5, 5),
                (CaseKind::Decode { n_sequences: 3 }, 5, 15),
                (CaseKind::Mixed { n_sequences: 8 }, mixed_steps, 600 + 8 * mixed_steps),
            ]
        );
        assert!(found.cases.iter().all(|case| case.seconds.len() == 3 && case.roofline.is_none()));
    }

    #[test]
    fn best_and_median_are_of_the_repeats() {
        let seconds = vec![2.0, 1.0, 4.0, 5.0];
        let roofline = Some(Roofline { seconds: 0.5, bound: crate::Bound::Compute });
        let kind = CaseKind::Prompt;
        let case = BenchCase { kind, n_tokens: 60, n_steps: 3, seconds, roofline };
        assert_eq!((case.tokens_per_s_best(), case.tokens_per_s_median()), (60.0, 20.0));
        assert_eq!(case.step_ms(60.0), 1000.0 / 3.0);
        assert_eq!(case.roofline_fraction(), Some(0.5));
    }

    #[track_caller]
    fn check_refused(placeholder: &str, options: EngineBenchOptions, part: &str) {
        let error = bench(placeholder, &options).unwrap_err().to_string();
        assert!(error.contains(part), "{error}");
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        check_refused("", EngineBenchOptions { steps: 0, ..options() }, "steps is 0");
        check_refused("", EngineBenchOptions { batches: vec![], ..options() }, "batch is 0");
        check_refused("max_model_len=599", options(), "prompt_tokens is 600");
        check_refused("n_blocks=20", options(), "35 KV blocks, but the cache has 20");
    }
}
