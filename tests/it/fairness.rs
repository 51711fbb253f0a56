//! One tenant with a crowd of clients and one with a single client, on a placeholder that takes time.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use lastmile::{
    Answer, EngineOptions, GenerateRequest, ModelSource, Prompt, RequestId, Runtime, RuntimeConfig,
    SamplingParams, TenantId,
};

const N_SLOTS: usize = 16;
const N_GREEDY: u64 = 64;
const N_TOKENS: u32 = 24;
const GAP: Duration = Duration::from_millis(100);

fn ask(runtime: &Runtime, tenant: u64, i: u64, max_tokens: u32) -> Answer {
    let prompt = Prompt::Tokens((0..40).map(|p| 300 + ((7 * i + p) % 200) as u32).collect());
    let mut request = GenerateRequest::new(RequestId(u128::from(i)), prompt);
    request.tenant = TenantId(tenant);
    request.sampling = SamplingParams::greedy();
    request.stop.max_tokens = Some(max_tokens);
    request.stop.ignore_eos = true;
    runtime.complete(request).expect("nobody is refused").remove(0)
}

/// Tokens a second, by the engine's clock, and the longest TTFT of one client that asks again at once.
fn single(runtime: &Runtime, n_answers: u64) -> (f64, Duration) {
    let ask = |i| ask(runtime, 2, 1_000_000 + i, N_TOKENS).finish.timings;
    let timings: Vec<_> = (0..n_answers).map(ask).collect();
    let took: Duration = timings.iter().map(|one| one.e2e).sum();
    let ttft = timings.iter().map(|one| one.ttft).max();
    let tokens = n_answers as f64 * f64::from(N_TOKENS);
    (tokens / took.as_secs_f64(), ttft.expect("there are answers"))
}

#[test]
fn a_single_client_is_served_beside_a_crowd() {
    // 5 ms a step and 0.2 ms a token.
    let model = ModelSource::placeholder("delay_us=5000,delay_per_token_us=200");
    let mut config = RuntimeConfig::new(model.expect("these are options"));
    config.engine = EngineOptions { max_num_seqs: N_SLOTS, ..EngineOptions::default() };
    let runtime = Runtime::start(config).expect("a placeholder starts");
    let (_, alone) = single(&runtime, 3);
    let is_over = AtomicBool::new(false);
    let (rate, ttft, crowd_rate) = std::thread::scope(|scope| {
        for client in 0..N_GREEDY {
            let (runtime, is_over) = (&runtime, &is_over);
            scope.spawn(move || {
                let mut i = client;
                while !is_over.load(Relaxed) {
                    ask(runtime, 1, i, 200);
                    i += N_GREEDY;
                }
            });
        }
        while runtime.stats().n_running < N_SLOTS as u64 {
            std::thread::yield_now();
        }
        let (begin, before) = (Instant::now(), runtime.stats().generation_tokens);
        let (rate, ttft) = single(&runtime, 10);
        let tokens = runtime.stats().generation_tokens - before;
        is_over.store(true, Relaxed);
        (rate, ttft, tokens as f64 / begin.elapsed().as_secs_f64())
    });
    // One stream's rate at this batch size is less than half of all tokens, which is its share.
    let one_stream = crowd_rate / N_SLOTS as f64;
    println!("{rate:.0} tokens/s beside {crowd_rate:.0} in all; TTFT {ttft:?}, alone {alone:?}");
    assert!(rate >= 0.8 * one_stream, "{rate} tokens/s, one stream has {one_stream}");
    assert!(ttft <= alone + 10 * GAP, "TTFT {ttft:?} beside the crowd, {alone:?} alone");
}
