//! `lastmile bench loop`: a closed loop of random prompts through the engine, in this process.

use std::io::Write;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use lastmile::{
    GenerateError, GenerateEvent, GenerateRequest, Prompt, RequestId, Runtime, SamplingParams,
    TokenId,
};
use serde_json::json;

use crate::bench_args::BenchLoopArgs;
use crate::bench_record::bench_record;
use crate::model::{runtime_config, start};
use crate::outcome::{Outcome, WrongUse, print_json, say};

/// What one request took.
pub(crate) struct Sample {
    ttft: Duration,
    /// Between the first and the last token, per token.
    tpot: Duration,
    pub(crate) n_tokens: u32,
    cached_tokens: u32,
}

pub(crate) fn bench_loop(args: &BenchLoopArgs) -> anyhow::Result<Outcome> {
    let numbers = [
        ("--concurrency", args.concurrency),
        ("--requests", args.requests),
        ("--prompt-tokens", args.prompt_tokens),
        ("--max-tokens", args.max_tokens as usize),
    ];
    if let Some((name, _)) = numbers.iter().find(|(_, value)| *value == 0) {
        return Err(WrongUse(format!("{name} is 0, but must be at least 1")).into());
    }
    if let Some(folder) = &args.record {
        return bench_record(folder, args);
    }
    let runtime = start(runtime_config(&args.model.model, &args.model.run)?)?;
    let started = Instant::now();
    let samples = closed_loop(&runtime, args, 0)?;
    report(&runtime, args, &samples, started.elapsed())?;
    Ok(Outcome::Done)
}

/// All requests of one round, whose numbers begin at `first`.
pub(crate) fn closed_loop(
    runtime: &Runtime,
    args: &BenchLoopArgs,
    first: usize,
) -> Result<Vec<Sample>, GenerateError> {
    let next = AtomicUsize::new(first);
    let worker = || {
        let mut samples = Vec::new();
        loop {
            let i = next.fetch_add(1, Ordering::Relaxed);
            if i >= first + args.requests {
                return Ok(samples);
            }
            samples.push(one(runtime, args, i)?);
        }
    };
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..args.concurrency).map(|_| scope.spawn(worker)).collect();
        let mut all = Vec::new();
        for worker in workers {
            all.extend(worker.join().expect("a bench worker does not panic: this is a bug")?);
        }
        Ok(all)
    })
}

fn one(runtime: &Runtime, args: &BenchLoopArgs, i: usize) -> Result<Sample, GenerateError> {
    let prompt = random_prompt(runtime, args, i as u64);
    let mut request = GenerateRequest::new(RequestId(i as u128), Prompt::Tokens(prompt));
    request.sampling = SamplingParams::greedy();
    request.stop.max_tokens = Some(args.max_tokens);
    request.stop.ignore_eos = true;
    let started = Instant::now();
    let (mut first, mut last) = (None, started);
    let mut stream = runtime.generate(request)?.remove(0);
    loop {
        match stream.next() {
            Some(GenerateEvent::Prompt { .. }) => {}
            Some(GenerateEvent::Delta { .. }) => {
                last = Instant::now();
                first.get_or_insert(last);
            }
            Some(GenerateEvent::Finished(finish)) => {
                let (first, usage) = (first.unwrap_or(last), finish.usage);
                let n_gaps = usage.completion_tokens.saturating_sub(1).max(1);
                return Ok(Sample {
                    ttft: first - started,
                    tpot: (last - first) / n_gaps,
                    n_tokens: usage.completion_tokens,
                    cached_tokens: usage.cached_tokens,
                });
            }
            Some(GenerateEvent::Failed(error)) => return Err(error),
            None => return Err(GenerateError::ShuttingDown),
        }
    }
}

/// Ordinary tokens, drawn anew for each request, so that no prefix is shared.
fn random_prompt(runtime: &Runtime, args: &BenchLoopArgs, request: u64) -> Vec<TokenId> {
    let vocab_size = runtime.info().backend.vocab_size as u64;
    let seed = args.model.seed.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(request);
    let drawn = (0u64..)
        .map(|position| (lm_sampler::uniform(seed, position) * vocab_size as f64) as TokenId);
    let is_text = |token: &TokenId| !runtime.token_bytes(*token).is_empty();
    drawn.filter(is_text).take(args.prompt_tokens).collect()
}

fn report(
    runtime: &Runtime,
    args: &BenchLoopArgs,
    samples: &[Sample],
    wall: Duration,
) -> anyhow::Result<()> {
    let sum = |count: fn(&Sample) -> u32| samples.iter().map(|s| u64::from(count(s))).sum::<u64>();
    let output_tokens = sum(|sample| sample.n_tokens);
    let prompt_tokens = (samples.len() * args.prompt_tokens) as u64;
    let per_second = |tokens: u64| tokens as f64 / wall.as_secs_f64();
    let percentiles = |value: fn(&Sample) -> Duration| {
        let mut all: Vec<f64> = samples.iter().map(|s| value(s).as_secs_f64() * 1e3).collect();
        all.sort_by(f64::total_cmp);
        let at = |p: f64| all[((all.len() as f64 * p) as usize).min(all.len() - 1)];
        (at(0.5), at(0.99))
    };
    let (ttft, tpot) = (percentiles(|s| s.ttft), percentiles(|s| s.tpot));
    let info = runtime.info();
    if args.model.json {
        return print_json(&json!({
            "model": info.name,
            "kernel_path": info.backend.kernel_path,
            "release_hash": info.release_hash.to_string(),
            "concurrency": args.concurrency,
            "requests": samples.len(),
            "wall_s": wall.as_secs_f64(),
            "output_tokens": output_tokens,
            "output_tokens_per_s": per_second(output_tokens),
            "prompt_tokens": prompt_tokens,
            "prompt_tokens_per_s": per_second(prompt_tokens),
            "cached_tokens": sum(|sample| sample.cached_tokens),
            "ttft_ms_p50": ttft.0, "ttft_ms_p99": ttft.1,
            "tpot_ms_p50": tpot.0, "tpot_ms_p99": tpot.1,
        }));
    }
    let (model, path) = (&info.name, &info.backend.kernel_path);
    say!("{model} on {path}: {} requests, {} at once", samples.len(), args.concurrency);
    say!("output  {:>8.1} tokens/s", per_second(output_tokens));
    say!("prompt  {:>8.1} tokens/s", per_second(prompt_tokens));
    say!("TTFT    {:>8.1} ms p50 {:>9.1} ms p99", ttft.0, ttft.1);
    say!("TPOT    {:>8.1} ms p50 {:>9.1} ms p99", tpot.0, tpot.1);
    Ok(())
}
