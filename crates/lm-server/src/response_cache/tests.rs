//! The cache on the placeholder, without a wire.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod flights;
mod forgetting;
mod verdicts;

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use lastmile::{
    Ban, Configure, Constraint, Declared, FinishReason, GenerateError, GenerateEvent,
    GenerateRequest, LogitProcessor, ModelSource, OnHit, OutputRules, Priority, Prompt,
    PromptReport, Registry, RegistryOptions, ReleaseHash, RequestId, Runtime, RuntimeConfig,
    TenantId, TokenId, Usage,
};
use lm_ops::{FeedbackLoop, Ops, Store, StoreOptions};

use super::flight::Flight;
use super::key::{Draw, Key};
use super::log::Said;
use super::started::Started;
use super::table::{Entry, Evicted, Found, Table};
use super::wish::Wish;
use super::{ResponseCache, ResponseCacheOptions, Word, turn};
use crate::app::{App, mint_id};
use crate::registry::Models;
use crate::{Access, ServerConfig};

struct Rig {
    app: Arc<App>,
    runtime: Arc<Runtime>,
    tokio: tokio::runtime::Runtime,
    store: Store,
    folder: tempfile::TempDir,
}

/// The store and the conclusions of a folder, as each process has them.
fn open(folder: &tempfile::TempDir) -> (Store, Ops) {
    let store = Store::open(&folder.path().join("store.db"), StoreOptions::default()).unwrap();
    let the_loop = FeedbackLoop::new(folder.path().join("feedback.db"), &store);
    let ops = Ops::new(store.clone()).with_feedback_loop(the_loop);
    (store, ops)
}

/// Changes nothing.
#[derive(Debug)]
struct Idle;

impl LogitProcessor for Idle {
    fn name(&self) -> &str {
        "idle"
    }

    fn process(&self, _: &mut [f32], _: &[TokenId], _: &[TokenId]) {}
}

impl Rig {
    fn new(placeholder: &str) -> Rig {
        let folder = tempfile::tempdir().unwrap();
        let (store, ops) = open(&folder);
        let mut model = RuntimeConfig::new(ModelSource::placeholder(placeholder).unwrap());
        model.observer = ops.observer();
        model.processors = vec![Arc::new(Idle)];
        let configure: Configure = Arc::new(move || Ok(model.clone()));
        let declared =
            vec![Declared { name: "placeholder".to_owned(), aliases: Vec::new(), configure }];
        let registry = Registry::new(declared, RegistryOptions::default()).unwrap();
        let runtime = registry.load(None).unwrap();
        let response_cache = ResponseCacheOptions {
            max_bytes: 1 << 20,
            recheck_every: 1,
            ..ResponseCacheOptions::default()
        };
        let config = ServerConfig { response_cache, ..ServerConfig::default() };
        let models = Models::new(registry, ops.clone());
        let app = Arc::new(App::new(models, ops, config, Access::default()));
        let tokio =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        Rig { app, runtime, tokio: tokio.unwrap(), store, folder }
    }

    fn cache(&self) -> &Arc<ResponseCache> {
        &self.app.response_cache
    }

    /// Starts one request.
    #[track_caller]
    fn start(&self, request: &GenerateRequest) -> (&'static str, Started) {
        let request = GenerateRequest { id: mint_id(), ..request.clone() };
        let ready = self.runtime.ready(vec![request]).unwrap();
        let started = self.cache().started(&self.runtime, Wish::Usual, true, ready);
        let (word, mut all) = started.unwrap();
        (word, all.remove(0).remove(0))
    }

    /// Reads one to its end.
    fn read(&self, answer: Started) -> Vec<GenerateEvent> {
        self.tokio.block_on(answer.events.collect())
    }

    /// Reads the next event.
    fn next(&self, answer: &mut Started) -> Option<GenerateEvent> {
        self.tokio.block_on(answer.events.next())
    }

    fn count(&self, of: impl Fn(&super::Counts) -> &std::sync::atomic::AtomicU64) -> u64 {
        of(&self.cache().counts).load(Relaxed)
    }
}

/// A request whose greedy answer has so many tokens.
fn request(prompt: &str, max_tokens: u32) -> GenerateRequest {
    let mut request = GenerateRequest::new(RequestId(1), Prompt::Text(prompt.to_owned()));
    request.sampling.temperature = 0.0;
    request.stop.max_tokens = Some(max_tokens);
    request.stop.ignore_eos = true;
    request
}

/// The tokens of an answer, and how it ended.
fn tokens(events: &[GenerateEvent]) -> (Vec<TokenId>, Option<FinishReason>) {
    let (mut all, mut reason) = (Vec::new(), None);
    for event in events {
        match event {
            GenerateEvent::Delta { tokens, .. } => all.extend_from_slice(tokens),
            GenerateEvent::Finished(finish) => reason = Some(finish.reason),
            GenerateEvent::Prompt { .. } | GenerateEvent::Failed(_) => {}
        }
    }
    (all, reason)
}

fn pieces(events: &[GenerateEvent]) -> Vec<&GenerateEvent> {
    events.iter().filter(|event| matches!(event, GenerateEvent::Delta { .. })).collect()
}

#[test]
fn equal_requests_are_computed_once_however_many_come_together() {
    let rig = Rig::new("mode=random,delay_us=2000");
    let asked = request("once", 40);
    let started: Vec<(&str, Started)> = (0..16).map(|_| rig.start(&asked)).collect();
    assert_eq!(started[0].0, "miss");
    assert!(started[1..].iter().all(|(word, _)| *word == "hit"));
    // Each is read by a task of its own, the last one first.
    let reads: Vec<_> = started
        .into_iter()
        .rev()
        .map(|(_, answer)| rig.tokio.spawn(answer.events.collect::<Vec<_>>()))
        .collect();
    let all: Vec<Vec<GenerateEvent>> =
        reads.into_iter().map(|read| rig.tokio.block_on(read).unwrap()).collect();
    let expect = rig.runtime.complete(asked.clone()).unwrap().remove(0);
    for events in &all {
        assert_eq!(tokens(events), (expect.tokens.clone(), Some(FinishReason::Length)));
        assert_eq!(pieces(events), pieces(&all[0]), "all are told the same pieces");
    }
    assert_eq!(rig.runtime.stats().generation_tokens, 80, "once, and once to compare");
    assert_eq!((rig.count(|c| &c.misses), rig.count(|c| &c.shared)), (1, 15));
    let (word, answer) = rig.start(&asked);
    assert_eq!((word, tokens(&rig.read(answer)).0), ("hit", expect.tokens));
    assert_eq!((rig.count(|c| &c.hits), rig.runtime.stats().generation_tokens), (1, 80));
}

#[test]
fn who_follows_goes_on_where_a_leader_leaves() {
    let rig = Rig::new("mode=random,delay_us=20000");
    let asked = request("leave", 60);
    let (_, mut leader) = rig.start(&asked);
    let (_, mut follower) = rig.start(&asked);
    let (_, second) = rig.start(&asked);
    let mut seen = Vec::new();
    for _ in 0..3 {
        rig.next(&mut leader).unwrap();
        seen.extend(rig.next(&mut follower));
    }
    drop(leader);
    let second = rig.tokio.spawn(second.events.collect::<Vec<_>>());
    seen.extend(rig.read(follower));
    let expect = rig.runtime.complete(asked.clone()).unwrap().remove(0).tokens;
    let whole = (expect.clone(), Some(FinishReason::Length));
    assert_eq!(tokens(&seen), whole, "nothing is told twice or left out");
    assert_eq!(tokens(&rig.tokio.block_on(second).unwrap()), whole);
    assert_eq!(rig.count(|c| &c.handed_on), 1);
    assert_eq!(rig.start(&asked).0, "hit", "what the follower computed is kept");
}

#[test]
fn who_is_ended_ends_alone() {
    let rig = Rig::new("mode=random,delay_us=20000");
    let asked = request("end", 60);
    let (_, leader) = rig.start(&asked);
    let (_, follower) = rig.start(&asked);
    let (_, ended) = rig.start(&asked);
    ended.ender.as_ref().unwrap().end();
    assert_eq!(tokens(&rig.read(ended)).1, Some(FinishReason::Abort));
    leader.ender.as_ref().unwrap().end();
    let leader = rig.tokio.spawn(leader.events.collect::<Vec<_>>());
    assert_eq!(tokens(&rig.read(follower)).1, Some(FinishReason::Length));
    assert_eq!(tokens(&rig.tokio.block_on(leader).unwrap()).1, Some(FinishReason::Abort));
    assert_eq!(rig.count(|c| &c.handed_on), 1);
}

#[test]
fn a_leader_that_fails_fails_alone() {
    let rig = Rig::new("mode=random,delay_us=20000,fail_at_step=5");
    let asked = request("fail", 30);
    let (_, leader) = rig.start(&asked);
    let (_, follower) = rig.start(&asked);
    let leader = rig.tokio.spawn(leader.events.collect::<Vec<_>>());
    assert_eq!(tokens(&rig.read(follower)).1, Some(FinishReason::Length));
    let leader = rig.tokio.block_on(leader).unwrap();
    let failed =
        matches!(leader.last(), Some(GenerateEvent::Failed(GenerateError::Backend { .. })));
    assert!(failed, "{leader:?}");
}

#[test]
fn what_did_not_end_by_itself_is_not_kept() {
    let rig = Rig::new("mode=random,delay_us=20000");
    let asked = request("abort", 60);
    let (_, answer) = rig.start(&asked);
    answer.ender.as_ref().unwrap().end();
    assert_eq!(tokens(&rig.read(answer)).1, Some(FinishReason::Abort));
    let (word, answer) = rig.start(&asked);
    assert_eq!(word, "miss");
    drop(answer);
    assert_eq!(rig.start(&asked).0, "miss", "without readers there is no flight");
}

#[test]
fn who_is_urgent_or_has_no_time_waits_for_nobody() {
    let rig = Rig::new("mode=random,delay_us=20000");
    let batch = GenerateRequest { priority: Priority::Batch, ..request("wait", 30) };
    let (_, leader) = rig.start(&batch);
    let limited = GenerateRequest { deadline: Some(Duration::from_secs(60)), ..batch.clone() };
    assert_eq!(rig.start(&request("wait", 30)).0, "miss");
    assert_eq!(rig.start(&limited).0, "miss");
    assert_eq!(rig.start(&batch).0, "hit");
    rig.read(leader);
    assert_eq!(rig.start(&limited).0, "hit", "what is there is told to everybody");
}

#[test]
fn a_key_is_everything_that_decides_an_answer_and_nothing_else() {
    let rig = Rig::new("mode=random");
    let key = |request: &GenerateRequest, draw| {
        Key::of(&rig.runtime.ready(vec![request.clone()]).unwrap()[0], draw)
    };
    let usual = request("a prompt", 8);
    let expect = key(&usual, Draw::Greedy);
    type Change = fn(&mut GenerateRequest);
    let others: [Change; 29] = [
        |r| r.prompt = Prompt::Text("a prompt.".to_owned()),
        |r| r.tenant = TenantId(7),
        |r| r.stop.max_tokens = Some(9),
        |r| r.stop.min_tokens = 1,
        |r| r.stop.stop_strings = vec!["x".to_owned()],
        |r| r.stop.stop_token_ids = vec![5],
        |r| r.stop.ignore_eos = false,
        |r| r.stop.max_reasoning_tokens = Some(9),
        |r| r.sampling.temperature = 0.5,
        |r| r.sampling.top_k = 5,
        |r| r.sampling.top_p = 0.5,
        |r| r.sampling.min_p = 0.5,
        |r| r.sampling.typical_p = 0.5,
        |r| r.sampling.top_n_sigma = 1.0,
        |r| r.sampling.samplers = Some(Vec::new()),
        |r| r.sampling.processors = vec!["idle".to_owned()],
        |r| r.sampling.repetition_penalty = 1.1,
        |r| r.sampling.presence_penalty = 1.1,
        |r| r.sampling.frequency_penalty = 1.1,
        |r| r.sampling.logit_bias = vec![(3, 1.0)],
        |r| r.sampling.allowed_token_ids = Some(vec![3, 4]),
        |r| r.sampling.bad_words = vec![vec![3]],
        |r| r.sampling.logprobs = Some(0),
        |r| r.report = PromptReport { tokens: true, logprobs: None },
        |r| r.report = PromptReport { tokens: false, logprobs: Some(1) },
        |r| r.steering.opening = "So".to_owned(),
        |r| r.steering.rules = Some(rules(OnHit::Stop)),
        |r| r.steering.rules = Some(rules(OnHit::Replace("y".to_owned()))),
        |r| {
            let form = lastmile::AnswerForm::JsonObject;
            r.constraint = Some(Constraint { field: "response_format", form });
        },
    ];
    let mut keys = vec![expect, key(&usual, Draw::Seeded(0)), key(&usual, Draw::Any)];
    for change in others {
        let mut other = usual.clone();
        change(&mut other);
        keys.push(key(&other, Draw::Greedy));
    }
    for (i, one) in keys.iter().enumerate() {
        let same = keys.iter().position(|other| other == one);
        assert_eq!(same, Some(i), "case {i} is known by the key of another one");
    }
    let equals: [Change; 6] = [
        |r| r.id = RequestId(99),
        |r| r.sampling.seed = 77,
        |r| r.priority = Priority::Batch,
        |r| r.subject = Some("ann".to_owned()),
        |r| r.steering.route = "/v1/messages",
        |r| r.deadline = Some(Duration::from_secs(9)),
    ];
    for change in equals {
        let mut equal = usual.clone();
        change(&mut equal);
        assert_eq!(key(&equal, Draw::Greedy), expect);
    }
}

fn rules(then: OnHit) -> Arc<OutputRules> {
    let ban = Ban { rule: "r".into(), phrase: "x".to_owned(), ignore_case: false, then };
    Arc::new(OutputRules::new(vec![ban]))
}

#[test]
fn only_what_would_come_again_has_a_part_in_it() {
    let rig = Rig::new("mode=random");
    let word = |wish, has_seed, change: &dyn Fn(&mut GenerateRequest)| {
        let mut request = GenerateRequest { id: mint_id(), ..request("part", 4) };
        change(&mut request);
        let draw = rig.cache().draw(&rig.runtime, &request, wish, has_seed);
        draw.map(|draw| matches!(draw, Draw::Any))
    };
    assert_eq!(word(Wish::Usual, false, &|_| {}), Some(false), "greedy");
    let warm = |r: &mut GenerateRequest| r.sampling.temperature = 1.0;
    assert_eq!(word(Wish::Usual, true, &warm), Some(false), "with a seed");
    assert_eq!(word(Wish::Usual, false, &warm), None);
    assert_eq!(word(Wish::Sampled, false, &warm), Some(true));
    assert_eq!(word(Wish::Bypass, true, &warm), None);
    assert_eq!(word(Wish::Usual, true, &|r| r.n = 2), None);
    let turns = |r: &mut GenerateRequest| r.steering.rules = Some(rules(OnHit::Resubmit));
    assert_eq!(word(Wish::Usual, true, &turns), None);
    assert!(Word::Hit < Word::Bypass && Word::Bypass < Word::Miss);
}

fn entry(id: u128, n_bytes: usize) -> Entry {
    Entry {
        computed_by: RequestId(id),
        seed: 0,
        release: ReleaseHash([0; 16]),
        said: Said { text: "x".repeat(n_bytes), ..Said::default() },
        reason: FinishReason::Stop,
        usage: Usage::default(),
    }
}

/// Keeps an entry of so many bytes; keys are made of requests.
fn land(rig: &Rig, table: &mut Table, id: u128, n_bytes: usize, now: Instant) -> Key {
    let asked = request(&format!("prompt {id}"), 4);
    let key = Key::of(&rig.runtime.ready(vec![asked]).unwrap()[0], Draw::Greedy);
    let flight = Arc::new(Flight::new(Priority::Interactive, 0, ReleaseHash([0; 16])));
    table.take_off(key, Arc::clone(&flight));
    table.land(key, &flight, entry(id, n_bytes), now);
    key
}

#[test]
fn bytes_and_age_are_bounded_and_the_longest_unused_goes() {
    let rig = Rig::new("mode=random");
    let mut table = Table::new(10_000, Duration::from_secs(60));
    let now = Instant::now();
    let keys: Vec<Key> = (0..4).map(|id| land(&rig, &mut table, id, 2_000, now)).collect();
    let is_there =
        |table: &mut Table, key: &Key, now| matches!(table.find(key, now), Found::Stored(_));
    assert_eq!(table.n_entries(), 3, "a fourth has no room with what it takes besides its text");
    assert!(!is_there(&mut table, &keys[0], now));
    // The oldest is used, so that the next one goes.
    assert!(is_there(&mut table, &keys[1], now));
    land(&rig, &mut table, 9, 2_000, now);
    assert!(is_there(&mut table, &keys[1], now) && !is_there(&mut table, &keys[2], now));
    for id in 10..50 {
        land(&rig, &mut table, id, 500, now);
        assert!(table.n_bytes() <= 10_000, "{}", table.n_bytes());
    }
    let too_large = land(&rig, &mut table, 50, 20_000, now);
    assert!(!is_there(&mut table, &too_large, now) && table.n_too_large() == 1);
    let kept = land(&rig, &mut table, 51, 10, now);
    assert!(is_there(&mut table, &kept, now + Duration::from_secs(60)));
    assert!(!is_there(&mut table, &kept, now + Duration::from_secs(61)));
    table.sweep(&[ReleaseHash([1; 16])], now);
    assert_eq!((table.n_entries(), table.n_bytes()), (0, 0), "another release serves");
}

#[test]
fn what_was_cleared_meanwhile_does_not_land() {
    let rig = Rig::new("mode=random,delay_us=2000");
    let asked = request("clear", 30);
    let (_, answer) = rig.start(&asked);
    drop(rig.cache().empty(Evicted::Erase));
    assert_eq!(tokens(&rig.read(answer)).1, Some(FinishReason::Length), "it is read to its end");
    assert_eq!(rig.start(&asked).0, "miss");
}

#[test]
fn what_is_computed_again_catches_a_planted_corruption() {
    let rig = Rig::new("mode=random");
    let mut asked = request("bits", 12);
    asked.sampling.logprobs = Some(2);
    let (_, answer) = rig.start(&asked);
    rig.read(answer);
    rig.start(&asked);
    assert!(turn(&rig.app), "one hit waits");
    assert_eq!((rig.count(|c| &c.identical), rig.cache().mismatches()), (1, None));
    type Corrupt = fn(&mut Entry);
    let corruptions: [(Corrupt, usize); 3] = [
        (|entry| entry.said.tokens[3] ^= 1, 3),
        (
            |entry| {
                entry.said.logprobs[5].logprob =
                    f32::from_bits(entry.said.logprobs[5].logprob.to_bits() ^ 1)
            },
            5,
        ),
        (|entry| entry.said.text.push('!'), 12),
    ];
    for (n, (corrupt, at)) in corruptions.into_iter().enumerate() {
        rig.cache().table().corrupt(corrupt);
        let (word, answer) = rig.start(&asked);
        assert_eq!(word, "hit");
        rig.read(answer);
        assert!(turn(&rig.app));
        let (found, n_found) = rig.cache().mismatches().unwrap();
        assert_eq!((found.at, n_found), (at, n as u64 + 1));
        assert_ne!(found.told_to, found.computed_by);
        // It is gone, and computed anew.
        let (word, answer) = rig.start(&asked);
        assert_eq!(word, "miss");
        rig.read(answer);
    }
    assert!(!turn(&rig.app), "nothing else waits");
}
