//! What a model's steps cost: recorded under load, and fitted.
//!
//! Start reading at [`record_steps`], then [`fit_costs`]; the prediction is in `predict.rs`.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use lm_backend::{Backend, BackendError, BackendSpec, Batch, LogitsBuf, StepCosts, StepLoad};
use lm_scheduler::ConfigError;
use lm_types::{GenerateError, GenerateRequest, Prompt, RequestId, SamplingParams, TokenId};

use crate::{LoadError, Runtime, RuntimeConfig};

/// Steps without which nothing is fitted.
const LEAST_STEPS: usize = 20;
/// Rounds of coordinate descent; the terms lean on each other.
const N_SWEEPS: usize = 4000;
/// A step that took so many times longer than fitted was the machine's doing.
const OUTLIER: f64 = 2.0;
const N_TERMS: usize = 6;

/// A step of a real model.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StepRecord {
    /// What was in it.
    pub load: StepLoad,
    /// How long the executor took.
    pub seconds: f64,
}

/// The load under which steps are recorded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SweepOptions {
    /// Requests in flight at once, one after another.
    pub streams: Vec<usize>,
    /// Requests of each stream.
    pub requests_per_stream: usize,
    /// Tokens of a prompt: from half to one and a half times this.
    pub prompt_tokens: usize,
    /// Tokens of an answer.
    pub output_tokens: u32,
    /// Decides prompts and their lengths.
    pub seed: u64,
}

/// How well costs fit.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Fit {
    /// The costs.
    pub costs: StepCosts,
    /// Steps that they were fitted to.
    pub n_steps: usize,
    /// Steps that were left out: much longer or shorter than all others like them.
    pub n_outliers: usize,
    /// Mean of |fitted - measured| / measured.
    pub mean_relative_error: f64,
}

/// A closed loop as costs predict it, without HTTP.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Prediction {
    /// Requests in flight at once.
    pub streams: usize,
    /// Answer tokens per second.
    pub output_tokens_per_s: f64,
    /// Half of the first tokens come within it.
    pub ttft_ms_p50: f64,
    /// Half of the answers take at most this for a token after the first.
    pub tpot_ms_p50: f64,
}

/// Why nothing was recorded or fitted.
#[derive(Debug, thiserror::Error)]
pub enum CalibrateError {
    /// The model.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// A request.
    #[error(transparent)]
    Generate(#[from] GenerateError),
    /// Limits that contradict each other.
    #[error(transparent)]
    Limits(#[from] ConfigError),
    /// A number outside of its range.
    #[error("{name} is {value}, but must be {limit}")]
    Option {
        /// Which one.
        name: &'static str,
        /// What it is.
        value: usize,
        /// What it may be.
        limit: &'static str,
    },
    /// Too few steps.
    #[error("{found} usable steps were recorded, but {LEAST_STEPS} are needed")]
    TooFewSteps {
        /// Usable ones.
        found: usize,
    },
}

type Records = Arc<Mutex<Vec<StepRecord>>>;

/// A backend whose steps are noted.
struct Noted {
    inner: Box<dyn Backend>,
    records: Records,
}

impl Backend for Noted {
    fn spec(&self) -> &BackendSpec {
        self.inner.spec()
    }

    fn execute(&mut self, batch: &Batch, logits: &mut LogitsBuf) -> Result<(), BackendError> {
        let started = Instant::now();
        self.inner.execute(batch, logits)?;
        let seconds = started.elapsed().as_secs_f64();
        lock(&self.records).push(StepRecord { load: StepLoad::of(batch), seconds });
        Ok(())
    }
}

fn lock(records: &Records) -> MutexGuard<'_, Vec<StepRecord>> {
    records.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs the model of `config` through the engine, in closed loops of random prompts, and notes every step. `progress` hears of
/// what begins.
///
/// # Errors
/// The model cannot be loaded, or a request is refused.
pub fn record_steps(
    config: RuntimeConfig,
    options: &SweepOptions,
    mut progress: impl FnMut(&str),
) -> Result<Vec<StepRecord>, CalibrateError> {
    let least = options.streams.iter().copied().min().unwrap_or(0);
    let numbers = [
        ("streams", least),
        ("requests_per_stream", options.requests_per_stream),
        ("prompt_tokens", options.prompt_tokens),
        ("output_tokens", options.output_tokens as usize),
    ];
    if let Some((name, value)) = numbers.into_iter().find(|(_, value)| *value == 0) {
        return Err(CalibrateError::Option { name, value, limit: "at least 1" });
    }
    // Every prompt is computed, and nothing of it is kept; no token is guessed, as what is guessed right differs from
    // traffic to traffic.
    let mut config = RuntimeConfig { disk_cache: None, ..config };
    config.engine.speculate = false;
    let records = Records::default();
    let noted = Arc::clone(&records);
    let wrap = |inner| Box::new(Noted { inner, records: noted }) as Box<dyn Backend>;
    let runtime = Runtime::start_on(config, wrap)?;
    // The first steps touch memory for the first time.
    progress("warming up");
    closed_loop(&runtime, options, 1, 1)?;
    lock(&records).clear();
    for &streams in &options.streams {
        progress(&format!("{streams} streams"));
        closed_loop(&runtime, options, streams, streams * options.requests_per_stream)?;
    }
    drop(runtime);
    let steps = std::mem::take(&mut *lock(&records));
    Ok(steps)
}

fn closed_loop(
    runtime: &Runtime,
    options: &SweepOptions,
    streams: usize,
    n_requests: usize,
) -> Result<(), GenerateError> {
    let next = AtomicUsize::new(0);
    let worker = || {
        loop {
            let i = next.fetch_add(1, Ordering::Relaxed);
            if i >= n_requests {
                return Ok(());
            }
            let prompt = Prompt::Tokens(random_prompt(runtime, options, streams * 100_000 + i));
            let mut request = GenerateRequest::new(RequestId(i as u128), prompt);
            request.sampling = SamplingParams::greedy();
            request.stop.max_tokens = Some(options.output_tokens);
            request.stop.ignore_eos = true;
            runtime.complete(request)?;
        }
    };
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..streams).map(|_| scope.spawn(worker)).collect();
        let join = |worker: std::thread::ScopedJoinHandle<'_, _>| {
            worker.join().expect("a stream does not panic: this is a bug")
        };
        workers.into_iter().map(join).collect::<Result<Vec<()>, _>>().map(|_| ())
    })
}

/// Ordinary tokens, drawn anew for each request, so that no prefix is shared.
fn random_prompt(runtime: &Runtime, options: &SweepOptions, request: usize) -> Vec<TokenId> {
    let vocab_size = runtime.info().backend.vocab_size as f64;
    let seed = options.seed.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(request as u64);
    let share = 0.5 + lm_sampler::uniform(seed, 0);
    let n_tokens = ((options.prompt_tokens as f64 * share) as usize).max(1);
    let drawn = (1_u64..).map(|i| (lm_sampler::uniform(seed, i) * vocab_size) as TokenId);
    drawn.filter(|token| !runtime.token_bytes(*token).is_empty()).take(n_tokens).collect()
}

/// Fits costs to steps: least squares of relative errors, none negative, then scaled so that all steps together take as long as
/// they did. Steps far from the fit are left out of it.
///
/// # Errors
/// [`CalibrateError::TooFewSteps`].
pub fn fit_costs(steps: &[StepRecord]) -> Result<Fit, CalibrateError> {
    let is_usable = |step: &&StepRecord| step.seconds.is_finite() && step.seconds > 0.0;
    let all: Vec<StepRecord> = steps.iter().filter(is_usable).copied().collect();
    let mut kept = all.clone();
    let mut costs = [0.0; N_TERMS];
    for _ in 0..3 {
        if kept.len() < LEAST_STEPS {
            return Err(CalibrateError::TooFewSteps { found: kept.len() });
        }
        costs = descend(&kept);
        let is_ordinary = |step: &StepRecord| {
            let ratio = step.seconds / predicted(&costs, &step.load).max(f64::MIN_POSITIVE);
            (1.0 / OUTLIER..OUTLIER).contains(&ratio)
        };
        kept = all.iter().filter(|step| is_ordinary(step)).copied().collect();
    }
    if kept.len() < LEAST_STEPS {
        return Err(CalibrateError::TooFewSteps { found: kept.len() });
    }
    let sum = |of: &dyn Fn(&StepRecord) -> f64| kept.iter().map(of).sum::<f64>();
    let scale = sum(&|step| step.seconds) / sum(&|step| predicted(&costs, &step.load));
    costs.iter_mut().for_each(|cost| *cost *= scale);
    let error = sum(&|step| (predicted(&costs, &step.load) - step.seconds).abs() / step.seconds);
    let [step, tile, row, token, decode_context, prefill_context] = costs;
    Ok(Fit {
        costs: StepCosts {
            step_ns: (step * 1e9).round() as u64,
            tile_ns: (tile * 1e9).round() as u64,
            decode_row_ns: (row * 1e9).round() as u64,
            prefill_token_ns: (token * 1e9).round() as u64,
            decode_context_ps: (decode_context * 1e12).round() as u64,
            prefill_context_ps: (prefill_context * 1e12).round() as u64,
        },
        n_steps: kept.len(),
        n_outliers: all.len() - kept.len(),
        mean_relative_error: error / kept.len() as f64,
    })
}

fn terms(load: &StepLoad) -> [f64; N_TERMS] {
    let StepLoad { n_decodes, n_prefill_tokens, decode_attended, prefill_attended } = *load;
    [1, load.n_tiles(), n_decodes, n_prefill_tokens, decode_attended, prefill_attended]
        .map(|n| n as f64)
}

fn predicted(costs: &[f64; N_TERMS], load: &StepLoad) -> f64 {
    costs.iter().zip(terms(load)).map(|(cost, term)| cost * term).sum()
}

/// Non-negative least squares by coordinate descent on the normal equations.
fn descend(steps: &[StepRecord]) -> [f64; N_TERMS] {
    let mut products = [[0.0; N_TERMS]; N_TERMS];
    let mut targets = [0.0; N_TERMS];
    for step in steps {
        let row = terms(&step.load).map(|term| term / step.seconds);
        for i in 0..N_TERMS {
            targets[i] += row[i];
            for j in 0..N_TERMS {
                products[i][j] += row[i] * row[j];
            }
        }
    }
    let mut costs = [0.0; N_TERMS];
    for _ in 0..N_SWEEPS {
        for i in (0..N_TERMS).filter(|&i| products[i][i] > 0.0) {
            let others: f64 =
                (0..N_TERMS).filter(|&j| j != i).map(|j| products[i][j] * costs[j]).sum();
            costs[i] = ((targets[i] - others) / products[i][i]).max(0.0);
        }
    }
    costs
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use std::time::Duration;

    use super::*;
    use crate::ModelSource;
    use crate::predict;

    const COSTS: StepCosts = StepCosts {
        step_ns: 4_000_000,
        tile_ns: 2_500_000,
        decode_row_ns: 1_000_000,
        prefill_token_ns: 700_000,
        decode_context_ps: 400_000,
        prefill_context_ps: 90_000,
    };

    /// Steps as they come: decodes of several batch sizes, chunks, and both.
    fn steps() -> Vec<StepRecord> {
        let load = |i: u64| StepLoad {
            n_decodes: if i % 3 == 2 { 0 } else { 1 + i % 17 },
            n_prefill_tokens: if i.is_multiple_of(3) { 0 } else { 16 + (i * 37) % 200 },
            decode_attended: if i % 3 == 2 { 0 } else { (1 + i % 17) * (50 + (i * 13) % 300) },
            prefill_attended: if i.is_multiple_of(3) {
                0
            } else {
                (16 + (i * 37) % 200) * (100 + (i * 7) % 900)
            },
        };
        let step = |i| StepRecord { load: load(i), seconds: COSTS.of(&load(i)).as_secs_f64() };
        (0..300).map(step).collect()
    }

    #[track_caller]
    fn check_near(found: StepCosts, tolerance: f64) {
        for step in steps() {
            let (found, expect) = (found.of(&step.load).as_secs_f64(), step.seconds);
            assert!((found / expect - 1.0).abs() < tolerance, "{found} s, expected {expect} s");
        }
    }

    #[test]
    fn costs_are_found_again_whatever_the_machine_did_now_and_then() {
        check_near(fit_costs(&steps()).unwrap().costs, 0.01);
        let mut disturbed = steps();
        for (i, step) in disturbed.iter_mut().enumerate() {
            step.seconds *= if i % 25 == 0 { 9.0 } else { 1.0 + 0.1 * (i as f64).sin() };
        }
        let fit = fit_costs(&disturbed).unwrap();
        check_near(fit.costs, 0.08);
        assert_eq!((fit.n_outliers, fit.n_steps), (12, 288));
        let few = fit_costs(&steps()[..19]).unwrap_err();
        assert!(matches!(few, CalibrateError::TooFewSteps { found: 19 }), "{few}");
    }

    #[test]
    fn a_placeholder_is_calibrated_like_a_model() {
        let costly = "step_ns=1000000,decode_row_ns=300000,prefill_token_ns=40000";
        let mut config = RuntimeConfig::new(ModelSource::placeholder(costly).unwrap());
        // No prompt is cut, however slow a step was.
        config.engine.max_token_gap = Duration::ZERO;
        let options = SweepOptions {
            streams: vec![1, 4],
            requests_per_stream: 3,
            prompt_tokens: 40,
            output_tokens: 12,
            seed: 1,
        };
        let mut told = Vec::new();
        let steps = record_steps(config, &options, |what| told.push(what.to_owned())).unwrap();
        assert_eq!(told, ["warming up", "1 streams", "4 streams"]);
        let n_decodes: u64 = steps.iter().map(|step| step.load.n_decodes).sum();
        // The first token of each of the 15 answers comes with its prompt.
        assert_eq!(n_decodes, 15 * 11);
        let costs = fit_costs(&steps).unwrap().costs;
        // A step like those that were seen: what the terms are is not certain, their sum is.
        let load = StepLoad {
            n_decodes: 2,
            n_prefill_tokens: 40,
            decode_attended: 90,
            prefill_attended: 820,
        };
        // It slept for 3.2 ms. A sleep may last longer, never shorter.
        assert!(costs.of(&load) > Duration::from_micros(2500), "{costs:?}");
    }

    #[test]
    fn a_prediction_is_arithmetic_for_one_stream_and_batching_gains() {
        let config = RuntimeConfig::new(ModelSource::placeholder("").unwrap());
        let costs =
            StepCosts { step_ns: 9_000_000, decode_row_ns: 1_000_000, ..StepCosts::default() };
        let one = predict(&costs, &config, 1, 100, 11).unwrap();
        // One step for the prompt, and ten decodes.
        assert!((one.ttft_ms_p50 - 9.0).abs() < 1e-6 && (one.tpot_ms_p50 - 10.0).abs() < 1e-6);
        assert!((one.output_tokens_per_s - 11.0 / 0.109).abs() < 1e-6, "{one:?}");
        let many = predict(&costs, &config, 8, 100, 11).unwrap();
        assert!(many.output_tokens_per_s > 3.0 * one.output_tokens_per_s, "{many:?}");
        assert!(predict(&costs, &config, 0, 1, 1).is_err());
    }
}
