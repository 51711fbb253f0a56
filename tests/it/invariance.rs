//! The same request gives the same tokens alone, in a crowd, in chunks, from the prefix cache, and
//! after a preemption.

use std::time::Duration;

use lastmile::{
    Answer, EngineOptions, GenerateRequest, ModelSource, Prompt, RequestId, Runtime, RuntimeConfig,
    SamplingParams, TokenId,
};

use crate::real_model;

const PROMPTS: [&str; 10] = [
    "The capital of France is",
    "Once upon a time, in a small village at the foot of a mountain, there lived a girl who",
    "def fibonacci(n):\n    \"\"\"Return the n-th number.\"\"\"\n",
    "Water boils at",
    "Dear Sir or Madam,\n\nI am writing to complain about",
    "1, 2, 3, 4, 5, 6,",
    "The three most important things to know about the history of the printing press are",
    "Q: What is the largest planet of the solar system?\nA:",
    "In 1969, people first walked on the moon. The mission was called",
    "A recipe for pancakes: take two eggs, a cup of milk, a cup of flour and a pinch of salt. Then",
];
/// Longer than a KV block of any executor, so that the prefix cache has something to hold.
const PREAMBLE: &str = "The following is a list of short texts. Each of them begins in one way and \
    goes on in the way that a careful and well-read person would expect of it. Here is the first. ";

/// How much is asked for: the reference executor takes ten times as long.
#[derive(Clone, Copy)]
struct Size {
    n_prompts: usize,
    n_at_once: usize,
    max_tokens: u32,
}

/// An answer of at least two of any executor's blocks: who is admitted finds one to spare for each that
/// runs, so that a crowd outgrows a pool that it just fits.
const WHOLE: Size = Size { n_prompts: PROMPTS.len(), n_at_once: 16, max_tokens: 72 };
const SHORT: Size = Size { n_prompts: 6, n_at_once: 9, max_tokens: 20 };
/// Beside prompts that are longer themselves.
const GUESSED: Size = Size { n_prompts: PROMPTS.len(), n_at_once: 12, max_tokens: 40 };

fn request(i: usize, size: Size) -> GenerateRequest {
    let prompt = Prompt::Text(format!("{PREAMBLE}{}", PROMPTS[i % size.n_prompts]));
    let mut request = GenerateRequest::new(RequestId(i as u128), prompt);
    request.sampling = SamplingParams::greedy();
    request.stop.max_tokens = Some(size.max_tokens);
    request.stop.ignore_eos = true;
    request
}

fn start(base: &RuntimeConfig, change: impl FnOnce(&mut RuntimeConfig)) -> Runtime {
    let mut config = base.clone();
    config.engine = EngineOptions { prefix_cache: false, ..EngineOptions::default() };
    change(&mut config);
    Runtime::start(config).unwrap()
}

/// All arrive at once, however fast the machine answers.
fn crowd(runtime: &Runtime, n: usize, size: Size) -> Vec<Answer> {
    let streams = runtime.generate_all((0..n).map(|i| request(i, size)).collect()).unwrap();
    streams.into_iter().flatten().map(|stream| stream.collect_answer().unwrap()).collect()
}

#[track_caller]
fn check(what: &str, answers: &[Answer], alone: &[Vec<TokenId>]) {
    for (i, answer) in answers.iter().enumerate() {
        let expected = &alone[i % alone.len()];
        assert_eq!(&answer.tokens, expected, "{what}: prompt {i}: {:?}", answer.text);
    }
}

/// `base` has room for all; `tight` makes its KV pool too small for the crowd.
fn check_all(size: Size, base: &RuntimeConfig, tight: impl FnOnce(&mut RuntimeConfig)) {
    let Size { n_prompts, n_at_once, max_tokens } = size;
    let runtime = start(base, |_| ());
    let one_by_one = |i| runtime.complete(request(i, size)).unwrap().remove(0).tokens;
    let alone: Vec<Vec<TokenId>> = (0..n_prompts).map(one_by_one).collect();
    assert!(alone.iter().all(|tokens| tokens.len() == max_tokens as usize));
    check("many at once", &crowd(&runtime, n_at_once, size), &alone);
    drop(runtime);

    let runtime = start(base, |config| config.engine.max_prefill_chunk = 7);
    check("prefill in chunks of 7", &crowd(&runtime, n_prompts, size), &alone);
    drop(runtime);

    let runtime = start(base, |config| config.engine.prefix_cache = true);
    check("cold cache", &crowd(&runtime, n_prompts, size), &alone);
    let warm = crowd(&runtime, n_prompts, size);
    check("prefix-cache hit", &warm, &alone);
    let n_hits = warm.iter().filter(|answer| answer.finish.usage.cached_tokens > 0).count();
    assert!(n_hits >= 5, "only {n_hits} of {} prompts hit the cache", warm.len());
    drop(runtime);

    let runtime = start(base, tight);
    check("after preemption", &crowd(&runtime, n_at_once, size), &alone);
    let n_preemptions = runtime.stats().preemptions;
    assert!(n_preemptions > 0, "the pool was not too small");
}

#[test]
fn answers_of_the_placeholder_do_not_depend_on_company() {
    let pool = |n_blocks: usize| {
        let options = format!("seed=3,block_size=8,n_blocks={n_blocks},max_model_len=400");
        ModelSource::placeholder(&options).unwrap()
    };
    let base = RuntimeConfig::new(pool(1000));
    check_all(WHOLE, &base, |config| config.model = pool(100));
}

fn smollm2(device: &str) -> RuntimeConfig {
    let path = real_model::path("smollm2-135m-instruct");
    let mut config = RuntimeConfig::new(ModelSource::path(path));
    config.device = device.to_owned();
    config.max_model_len = Some(160);
    config.kv_bytes = Some(256 << 20);
    config
}

#[test]
fn real_model_answers_do_not_depend_on_company() {
    // 30 layers, 3 heads of 64 for K and for V, 2 bytes: 23,040 bytes a token, 32 tokens a block.
    check_all(WHOLE, &smollm2("cpu"), |config| config.kv_bytes = Some(23_040 * 32 * 12));
}

#[test]
fn real_model_answers_on_the_reference_executor_do_not_depend_on_company() {
    let mut base = smollm2("candle");
    base.block_size = 8;
    // 4 bytes a number here, and 8 tokens a block.
    check_all(SHORT, &base, |config| config.kv_bytes = Some(46_080 * 8 * 25));
}

/// Prompts whose answers are copies, and others; greedy, and drawn with a seed and penalties.
fn with_and_without_guesses(base: &RuntimeConfig, copies: &[Prompt]) {
    let ask = |runtime: &Runtime, i: usize| {
        let mut asked = request(i, GUESSED);
        if let Some(copy) = copies.get(i / 3) {
            asked.prompt = copy.clone();
        }
        let sampling = &mut asked.sampling;
        sampling.seed = i as u64;
        match i % 3 {
            0 => {}
            1 => (sampling.temperature, sampling.top_p) = (0.7, 0.9),
            _ => (sampling.temperature, sampling.repetition_penalty) = (0.3, 1.02),
        }
        sampling.logprobs = (i % 4 == 3).then_some(2);
        runtime.generate(asked).unwrap().remove(0)
    };
    let run = |speculate: bool| {
        let runtime = start(base, |config| {
            config.engine.speculate = speculate;
            // On a slow machine a step with guesses would take longer than tokens may lie apart.
            config.engine.max_token_gap = Duration::ZERO;
        });
        let mut all: Vec<Answer> =
            (0..GUESSED.n_at_once).map(|i| ask(&runtime, i).collect_answer().unwrap()).collect();
        let crowd: Vec<_> = (0..GUESSED.n_at_once).map(|i| ask(&runtime, i)).collect();
        all.extend(crowd.into_iter().map(|stream| stream.collect_answer().unwrap()));
        (all, runtime.stats().accepted_tokens)
    };
    let (without, none) = run(false);
    assert_eq!(none, 0);
    // Whether guesses pay is judged by how long steps take, which other programs disturb.
    let mut accepted = vec![];
    while accepted.len() < 4 && accepted.iter().all(|n| *n <= 50) {
        let (with, n_right) = run(true);
        for (i, (with, without)) in with.iter().zip(&without).enumerate() {
            assert_eq!(with.tokens, without.tokens, "request {i}: {:?}", with.text);
            let (with, without) =
                ((&with.text, &with.logprobs), (&without.text, &without.logprobs));
            assert_eq!(with, without, "request {i}");
        }
        accepted.push(n_right);
    }
    assert!(accepted.iter().any(|n| *n > 50), "only {accepted:?} guesses were right");
}

#[test]
fn answers_of_the_placeholder_do_not_depend_on_guesses() {
    let model = ModelSource::placeholder("mode=echo,delay_us=300").unwrap();
    with_and_without_guesses(&RuntimeConfig::new(model), &[]);
}

#[test]
fn real_model_answers_do_not_depend_on_guesses() {
    let text = "Marta counted the crates of herring twice, wrote the number 417 in her notebook, and \
        tied the last rope to an iron ring. A boy from the market asked her about the ferry.";
    let other = "The deepest of the lakes reached 143 metres near its shore.";
    let copy = format!("Text: {other}\nAgain: {other}\n\nText: {text}\nAgain:");
    let list = "apple, pear, plum, cherry, apple, pear, plum, cherry, apple, pear, plum,";
    let copies = [copy.as_str(), list].map(|text| Prompt::Text(text.to_owned()));
    with_and_without_guesses(&smollm2("cpu"), &copies);
}
