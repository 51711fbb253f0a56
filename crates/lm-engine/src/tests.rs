//! The engine on the test's own thread, with the placeholder behind it.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod drawing;
mod forms;
mod giving_up;
mod guarded;
mod speculating;
mod spending;
mod timelines;

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use lm_backend::{
    Backend, BackendError, BackendSpec, Batch, LogitsBuf, PlaceholderBackend, PlaceholderVocab,
    StepArbiter,
};
use lm_grammar::GrammarState;
use lm_scheduler::{BlockHash, SchedulerConfig};
use lm_tokenizer::{StopMatcher, Tokenizer, placeholder};
use lm_types::{
    CacheMissReason, FinishReason, GenerateError, GenerateEvent, GenerateRequest, LogitProcessor,
    Observer, Outcome, Priority, Prompt, ReleaseHash, RequestEvent, RequestId, SamplingParams,
    TenantId, TokenId,
};

use crate::cpu_time::process_cpu_time;
use crate::{
    BlockKeeper, BlockStore, Engine, EngineParts, EngineStats, NewSubmission, OutputReader,
    ServedBy, StoreReport, TakeJoules, block_store, output_pair,
};

#[derive(Default)]
struct Remember(Mutex<Vec<RequestEvent>>);

impl Observer for Remember {
    fn record(&self, event: &RequestEvent) {
        self.0.lock().unwrap().push(event.clone());
    }
}

struct Rig {
    engine: Engine,
    stats: Arc<EngineStats>,
    observer: Arc<Remember>,
}

impl Rig {
    fn new(options: &str) -> Self {
        Rig::with_store(options, None)
    }

    fn with_store(options: &str, block_store: Option<BlockStore>) -> Self {
        Rig::with_parts(options, block_store, None, |backend| Box::new(backend), |_| ())
    }

    fn burning() -> Self {
        Rig::with_parts("", None, None, |backend| Box::new(Burning(backend)), |_| ())
    }

    fn with_parts(
        options: &str,
        block_store: Option<BlockStore>,
        take_joules: Option<TakeJoules>,
        wrap: impl FnOnce(PlaceholderBackend) -> Box<dyn Backend>,
        change: impl FnOnce(&mut SchedulerConfig),
    ) -> Self {
        let options = format!("block_size=8,n_blocks=512,max_model_len=1024,{options}");
        let vocab = PlaceholderVocab {
            vocab_size: placeholder::VOCAB_SIZE,
            bos: placeholder::BOS,
            sep: placeholder::SEP,
            turn_start: placeholder::IM_START,
            turn_end: placeholder::IM_END,
            newline: placeholder::FIRST_BYTE + u32::from(b'\n'),
            words: placeholder::FIRST_WORD..placeholder::FIRST_BYTE,
        };
        let mut config = SchedulerConfig {
            block_size: 8,
            n_blocks: 512,
            max_model_len: 1024,
            max_num_seqs: 16,
            max_batch_tokens: 64,
            max_prefill_chunk: 64,
            max_queued_requests: 64,
            max_queued_tokens: 1 << 16,
            max_token_gap: Duration::from_millis(100),
            batch_patience: Duration::from_secs(10),
            prefix_cache: true,
            speculate: true,
            max_extra_logits: 16,
        };
        change(&mut config);
        let stats = Arc::new(EngineStats::new(Instant::now()));
        let observer = Arc::new(Remember::default());
        let parts = EngineParts {
            backend: wrap(PlaceholderBackend::new(options.parse().unwrap(), vocab)),
            tokenizer: Arc::new(Tokenizer::placeholder()),
            observer: observer.clone(),
            served_by: ServedBy { model: "placeholder".into(), release: ReleaseHash([0; 16]) },
            arbiter: Arc::new(StepArbiter::default()),
            block_store,
            take_joules,
        };
        let engine = Engine::new(parts, config, Arc::clone(&stats)).unwrap();
        Rig { engine, stats, observer }
    }

    fn add(
        &mut self,
        prompt: Vec<TokenId>,
        change: impl FnOnce(&mut GenerateRequest),
    ) -> OutputReader {
        self.add_formed(prompt, None, change)
    }

    fn add_formed(
        &mut self,
        prompt: Vec<TokenId>,
        grammar: Option<GrammarState>,
        change: impl FnOnce(&mut GenerateRequest),
    ) -> OutputReader {
        self.add_processed(prompt, grammar, Vec::new(), change)
    }

    fn add_processed(
        &mut self,
        prompt: Vec<TokenId>,
        grammar: Option<GrammarState>,
        processors: Vec<Arc<dyn LogitProcessor>>,
        change: impl FnOnce(&mut GenerateRequest),
    ) -> OutputReader {
        let mut request = GenerateRequest::new(RequestId(0), Prompt::Tokens(prompt.clone()));
        request.sampling = SamplingParams::greedy();
        request.stop.max_tokens = Some(300);
        request.stop.ignore_eos = true;
        change(&mut request);
        let max_new_tokens = request.stop.max_tokens.unwrap() as usize;
        let (output, reader) = output_pair(max_new_tokens);
        let new = NewSubmission {
            adapter: None,
            processors,
            grammar,
            thinking: None,
            stop: StopMatcher::new(&request.stop.stop_strings).unwrap(),
            request: Arc::new(request),
            choice: 0,
            prompt,
            max_new_tokens,
            arrived_at: SystemTime::now(),
            output,
        };
        let now = self.stats.now();
        let place = self.engine.door().admit(std::slice::from_ref(&new), now).unwrap().remove(0);
        self.engine.add(new, place, now);
        reader
    }

    fn run(&mut self) {
        while !self.engine.is_idle() {
            self.engine.step();
        }
    }
}

fn prompt(i: u32) -> Vec<TokenId> {
    (0..20 + i).map(|p| placeholder::FIRST_WORD + (7 * i + p) % 200).collect()
}

/// Text and end of an answer.
fn answer(reader: &OutputReader) -> (String, Result<FinishReason, GenerateError>) {
    let mut whole = String::new();
    loop {
        match reader.next_blocking().unwrap() {
            GenerateEvent::Prompt { .. } => {}
            GenerateEvent::Delta { text, .. } => whole.push_str(&text),
            GenerateEvent::Finished(finish) => return (whole, Ok(finish.reason)),
            GenerateEvent::Failed(error) => return (whole, Err(error)),
        }
    }
}

#[test]
fn a_warm_step_allocates_nothing() {
    let mut rig = Rig::new("");
    let greedy: Vec<_> = (0..8).map(|i| rig.add(prompt(i), |_| ())).collect();
    let sampled = rig.add(prompt(9), |request| {
        let sampling = &mut request.sampling;
        (sampling.temperature, sampling.top_k, sampling.presence_penalty) = (1.0, 20, 0.5);
    });
    for _ in 0..30 {
        rig.engine.step();
    }
    for step in 30..250 {
        let counted = allocation_counter::measure(|| rig.engine.step());
        assert_eq!(counted.count_total, 0, "step {step} allocated");
    }
    assert_eq!(rig.stats.snapshot().n_running, 9, "the answers ended too soon");
    drop((greedy, sampled));
}

#[test]
fn one_broken_row_ends_one_answer() {
    let mut rig = Rig::new("nan_at=25");
    let reader = rig.add(prompt(3), |_| ());
    let others: Vec<_> = (10..14).map(|i| rig.add(prompt(i), |_| ())).collect();
    rig.run();
    assert!(matches!(answer(&reader).1, Err(GenerateError::Sequence { .. })));
    for other in others {
        assert_eq!(answer(&other).1, Ok(FinishReason::Length));
    }
}

#[test]
fn kv_that_is_no_number_is_shared_with_nobody() {
    let mut rig = Rig::new("nan_at_step=1");
    let whole_blocks = prompt(4);
    let broken = rig.add(whole_blocks.clone(), |_| ());
    rig.run();
    assert!(matches!(answer(&broken).1, Err(GenerateError::Sequence { .. })));
    let same_beginning = [whole_blocks, prompt(9)].concat();
    let reader = rig.add(same_beginning, |_| ());
    rig.run();
    assert_eq!(answer(&reader).1, Ok(FinishReason::Length));
}

#[test]
fn an_observer_that_panics_fails_nobody() {
    struct Panics;
    impl Observer for Panics {
        fn record(&self, _event: &RequestEvent) {
            panic!("this observer is broken");
        }
    }
    let mut rig = Rig::new("");
    rig.engine.observe_with(Arc::new(Panics));
    let readers = [rig.add(prompt(0), |_| ()), rig.add(prompt(1), |_| ())];
    rig.run();
    for reader in readers {
        assert_eq!(answer(&reader).1, Ok(FinishReason::Length));
    }
}

#[test]
fn a_failed_or_panicking_step_ends_its_answers_and_the_engine_goes_on() {
    for options in ["fail_at_step=5", "panic_at_step=5"] {
        let mut rig = Rig::new(options);
        let reader = rig.add(prompt(0), |_| ());
        rig.run();
        assert!(matches!(answer(&reader).1, Err(GenerateError::Backend { .. })), "{options}");
        let reader = rig.add(prompt(0), |_| ());
        rig.run();
        assert_eq!(answer(&reader).1, Ok(FinishReason::Length), "{options}");
        assert_eq!(rig.stats.snapshot().n_free_blocks, 512, "{options}");
    }
}

#[test]
fn a_reader_that_leaves_frees_its_blocks_in_the_next_step() {
    let mut rig = Rig::new("");
    let reader = rig.add(prompt(0), |_| ());
    rig.engine.step();
    assert!(rig.stats.snapshot().n_free_blocks < 512);
    drop(reader);
    rig.engine.step();
    assert_eq!(rig.stats.snapshot().n_free_blocks, 512);
    let events = rig.observer.0.lock().unwrap();
    assert_eq!(events[0].outcome, Outcome::Finished(FinishReason::Abort));
}

#[test]
fn stop_strings_cut_the_text_before_them() {
    let mut rig = Rig::new("");
    let free = rig.add(prompt(0), |request| request.stop.max_tokens = Some(40));
    rig.run();
    let whole = answer(&free).0;
    // From the middle of one word into the next, so that no token border helps.
    let stop = &whole[31..42];
    let stopped = rig.add(prompt(0), |request| request.stop.stop_strings = vec![stop.into()]);
    rig.run();
    let expected = &whole[..whole.find(stop).unwrap()];
    assert_eq!(answer(&stopped), (expected.to_owned(), Ok(FinishReason::Stop)));
}

#[test]
fn end_tokens_are_held_back_until_min_tokens() {
    let lengths = |min_tokens: u32| {
        let mut rig = Rig::new("mean_tokens=2");
        let readers: Vec<_> = (0..8)
            .map(|i| {
                rig.add(prompt(i), |request| {
                    (request.stop.ignore_eos, request.stop.min_tokens) = (false, min_tokens);
                })
            })
            .collect();
        rig.run();
        readers.iter().for_each(|reader| drop(answer(reader)));
        let events = rig.observer.0.lock().unwrap();
        events.iter().map(|event| event.usage.completion_tokens).min().unwrap()
    };
    assert!(lengths(0) < 10);
    assert!(lengths(10) > 10);
}

#[test]
fn the_cost_of_all_answers_is_the_cost_of_all_steps() {
    let mut rig = Rig::new("");
    let readers: Vec<_> = (0..12).map(|i| rig.add(prompt(i), |_| ())).collect();
    rig.run();
    drop(readers);
    let events = rig.observer.0.lock().unwrap();
    let shares: f64 = events.iter().map(|event| event.timings.cpu_seconds).sum();
    let measured = rig.stats.snapshot().cpu_seconds;
    assert!(shares > 0.0);
    // The counter keeps whole nanoseconds of each step.
    let rounding = 1e-9 * rig.stats.snapshot().steps as f64;
    assert!((shares - measured).abs() <= rounding, "{shares} of {measured}");
    assert_eq!(rig.engine.door().lock().n_queued(), 0, "a place in the queue leaked");
    assert!(events.iter().all(|event| event.timings.joules.is_none()));
    assert_eq!(rig.stats.snapshot().joules, None);
}

#[test]
fn joules_are_shared_out_whole_and_are_unknown_when_a_part_is() {
    let n_taken = Arc::new(AtomicU64::new(0));
    let rig = |fails_at: u64| {
        let n_taken = Arc::clone(&n_taken);
        let take: TakeJoules =
            Arc::new(move || (n_taken.fetch_add(1, Relaxed) != fails_at).then_some(0.5));
        let mut rig = Rig::with_parts("", None, Some(take), |backend| Box::new(backend), |_| ());
        let readers: Vec<_> = (0..12).map(|i| rig.add(prompt(i), |_| ())).collect();
        rig.run();
        drop(readers);
        let events = rig.observer.0.lock().unwrap();
        let joules: Option<f64> = events.iter().map(|event| event.timings.joules).sum();
        (joules, rig.stats.snapshot())
    };
    let (joules, stats) = rig(u64::MAX);
    // Each step drew 0.5 J, and what was drawn before the first request is nobody's.
    assert!((joules.unwrap() - 0.5 * stats.steps as f64).abs() < 1e-6);
    assert!((stats.joules.unwrap() - joules.unwrap()).abs() < 1e-3);
    assert_eq!(n_taken.load(Relaxed), stats.steps + 1);
    assert_eq!(rig(n_taken.load(Relaxed) + 3).0, None);
}

/// Takes real CPU time for each token, and more for each that it attends to.
struct Burning(PlaceholderBackend);

impl Backend for Burning {
    fn spec(&self) -> &BackendSpec {
        self.0.spec()
    }

    fn execute(&mut self, batch: &Batch, logits: &mut LogitsBuf) -> Result<(), BackendError> {
        let until = process_cpu_time() + Duration::from_micros(40 * batch.n_tokens() as u64 + 100);
        while process_cpu_time() < until {
            std::hint::spin_loop();
        }
        self.0.execute(batch, logits)
    }
}

#[test]
fn a_heavy_answer_is_as_heavy_beside_others_as_alone() {
    let costs = |kinds: &[(u32, u32)]| {
        let mut rig = Rig::burning();
        // The model of costs is taught first, as it is on a server that has run for a while.
        for i in 0..6 {
            let _reader = rig.add(prompt(i), |request| request.stop.max_tokens = Some(60));
            rig.engine.step();
        }
        rig.run();
        let readers: Vec<_> = kinds
            .iter()
            .map(|&(n_prompt, n_answer)| {
                let words = |p| placeholder::FIRST_WORD + (11 * n_prompt + p) % 199;
                rig.add((0..n_prompt).map(words).collect(), |request| {
                    request.stop.max_tokens = Some(n_answer);
                })
            })
            .collect();
        rig.run();
        let events = rig.observer.0.lock().unwrap();
        let of = |reader: &OutputReader| drop(answer(reader));
        readers.iter().for_each(of);
        let measured = rig.stats.snapshot().cpu_seconds;
        let shared: f64 = events.iter().map(|event| event.timings.cpu_seconds).sum();
        assert!((shared / measured - 1.0).abs() < 0.01, "{shared} of {measured}");
        let cost = |&(n_prompt, n_answer): &(u32, u32)| {
            let is_it = |event: &&RequestEvent| {
                let usage = event.usage;
                (usage.prompt_tokens, usage.completion_tokens) == (n_prompt, n_answer)
            };
            events.iter().find(is_it).unwrap().timings.cpu_seconds
        };
        kinds.iter().map(cost).collect::<Vec<_>>()
    };
    let (heavy, light) = ((700, 100), (31, 20));
    let measure = || {
        let alone = [costs(&[heavy])[0], costs(&[light])[0]];
        let together = costs(&[heavy, (30, 90), light, (41, 50), (35, 70)]);
        (alone, [together[0], together[2]])
    };
    // What each step takes, however small it is, weighs on a light answer most, and beside others it is shared: 1.5 by the
    // burnt times, and more or less where the machine's other work is charged to this process or misled the model of costs.
    let is_kept = |(alone, together): &([f64; 2], [f64; 2])| {
        let (alone_ratio, together_ratio) = (alone[0] / alone[1], together[0] / together[1]);
        alone_ratio > 5.0 && (0.5..4.0).contains(&(together_ratio / alone_ratio))
    };
    let mut measured = vec![];
    while measured.len() < 5 && !measured.last().is_some_and(is_kept) {
        measured.push(measure());
    }
    assert!(measured.last().is_some_and(is_kept), "alone and together: {measured:?}");
}

#[test]
fn an_answer_whose_deadline_passes_ends_with_what_it_has_and_frees_its_blocks() {
    let mut rig = Rig::new("delay_us=2000");
    let late = rig.add(prompt(0), |request| {
        request.deadline = Some(Duration::from_millis(500));
        request.stop.max_tokens = Some(400);
    });
    let other = rig.add(prompt(1), |request| request.stop.max_tokens = Some(400));
    rig.run();
    let (text, end) = answer(&late);
    let Err(GenerateError::DeadlineExceeded { field: "deadline_ms", limit_ms: 500, n_generated }) =
        end
    else {
        panic!("{end:?}");
    };
    assert!(n_generated > 0 && !text.is_empty());
    assert_eq!(answer(&other).1, Ok(FinishReason::Length));
    let stats = rig.stats.snapshot();
    assert_eq!((stats.expired_waiting, stats.expired_running), (0, 1));
    assert_eq!(stats.n_free_blocks, 512);
    let events = rig.observer.0.lock().unwrap();
    assert_eq!(events[0].usage.completion_tokens as usize, n_generated);
}

#[test]
fn who_waits_longer_than_it_wants_never_runs() {
    let mut rig = Rig::new("delay_us=3000");
    // It is let in while nobody else is there; then all slots go to a higher class.
    let waits = rig.add(prompt(20), |request| {
        request.max_queue = Some(Duration::from_millis(150));
        request.priority = Priority::Background;
    });
    let running: Vec<_> = (0..16).map(|i| rig.add(prompt(i), |_| ())).collect();
    rig.run();
    let (text, end) = answer(&waits);
    let never =
        GenerateError::DeadlineExceeded { field: "max_queue_ms", limit_ms: 150, n_generated: 0 };
    assert_eq!((text.as_str(), end), ("", Err(never)));
    running.iter().for_each(|reader| assert_eq!(answer(reader).1, Ok(FinishReason::Length)));
    assert_eq!(rig.stats.snapshot().expired_waiting, 1);
}

#[test]
fn a_deadline_that_cannot_be_met_is_refused_with_both_numbers_and_a_time() {
    let mut rig = Rig::new("delay_us=2000");
    let _running: Vec<_> = (0..16).map(|i| rig.add(prompt(i), |_| ())).collect();
    for _ in 0..30 {
        rig.engine.step();
    }
    let mut request = GenerateRequest::new(RequestId(0), Prompt::Tokens(prompt(20)));
    request.max_queue = Some(Duration::from_millis(50));
    let new = NewSubmission {
        adapter: None,
        processors: Vec::new(),
        grammar: None,
        thinking: None,
        stop: StopMatcher::new(&[]).unwrap(),
        request: Arc::new(request),
        choice: 0,
        prompt: prompt(20),
        max_new_tokens: 10,
        arrived_at: SystemTime::now(),
        output: output_pair(10).0,
    };
    let refused = rig.engine.door().admit(&[new], rig.stats.now()).unwrap_err();
    let GenerateError::DeadlineUnreachable { limit_ms: 50, predicted_ms, retry_after, .. } =
        refused
    else {
        panic!("{refused:?}");
    };
    // Some 98 steps of 2 ms are left of the answers that hold all slots, as long as nobody knows how long answers are;
    // how much longer they take is the machine's.
    assert!((100..60_000).contains(&predicted_ms), "{predicted_ms}");
    assert!(retry_after.is_some_and(|wait| wait >= Duration::from_millis(predicted_ms - 50)));
}

/// A store that knows the blocks of `prompt(0)`, whose bytes are 8 slots of a placeholder.
fn store_of_a_prompt() -> (BlockStore, BlockKeeper) {
    let mut hash = BlockHash::root(TenantId::ANONYMOUS.0);
    let name = |tokens: &[TokenId]| {
        hash = hash.child(tokens);
        hash
    };
    block_store(8 * 12, prompt(0).chunks_exact(8).map(name).collect())
}

fn alone() -> String {
    let mut rig = Rig::new("");
    let reader = rig.add(prompt(0), |_| ());
    rig.run();
    answer(&reader).0
}

#[test]
fn a_keeper_that_never_answers_puts_an_answer_off_for_a_bounded_time() {
    let (store, keeper) = store_of_a_prompt();
    let mut rig = Rig::with_store("", Some(store));
    let reader = rig.add(prompt(0), |_| ());
    let other = rig.add(prompt(1), |request| request.stop.max_tokens = Some(20));
    let begun = Instant::now();
    while rig.stats.snapshot().generation_tokens < 20 {
        rig.engine.step();
    }
    assert_eq!(answer(&other).1, Ok(FinishReason::Length));
    assert_eq!(rig.stats.snapshot().generation_tokens, 20, "it did not wait");
    rig.run();
    assert!(begun.elapsed() < Duration::from_secs(10));
    assert_eq!(answer(&reader), (alone(), Ok(FinishReason::Length)));
    let events = rig.observer.0.lock().unwrap();
    let first_miss = events.last().unwrap().timings.first_miss;
    assert_eq!(first_miss, Some((0, CacheMissReason::Unreadable)));
    assert_eq!(keeper.reads.len(), 2, "both blocks were asked for once");
}

#[test]
fn without_its_keeper_the_engine_goes_on() {
    let (store, keeper) = store_of_a_prompt();
    let mut rig = Rig::with_store("", Some(store));
    let reader = rig.add(prompt(0), |_| ());
    rig.engine.step();
    drop(keeper);
    rig.run();
    assert_eq!(answer(&reader), (alone(), Ok(FinishReason::Length)));
    assert_eq!(rig.stats.snapshot().n_free_blocks, 512);
}

#[test]
fn who_leaves_while_its_blocks_come_leaves_nothing_behind() {
    let (store, keeper) = store_of_a_prompt();
    let mut rig = Rig::with_store("", Some(store));
    let reader = rig.add(prompt(0), |_| ());
    rig.engine.step();
    rig.engine.step();
    drop(reader);
    rig.engine.step();
    assert!(rig.engine.is_idle());
    assert_eq!(rig.stats.snapshot().n_free_blocks, 512);
    // What comes now is nobody's.
    for block in keeper.reads.try_iter() {
        keeper.reports.send(StoreReport::Read(block, Ok(()))).unwrap();
    }
    let other = rig.add(prompt(1), |_| ());
    rig.run();
    assert_eq!(answer(&other).1, Ok(FinishReason::Length));
}
