//! Whole answers, known by everything that decides them: told again without the engine, and computed once for all who ask at
//! the same time.
//!
//! Every API asks for answers by [`ResponseCache::start`], so that none of them knows of it. An answer of `n` several is not
//! cached: its choices share the prompt's computation, and end one by one.
//!
//! It must never answer one key's request with another key's answer, nor with one that the request's own computation could
//! not have given.
//!
//! Start reading at [`ResponseCache::start`], then [`flight`].

mod flight;
mod key;
mod log;
mod metrics;
mod options;
mod reader;
mod recheck;
mod started;
mod state;
mod table;
mod told;
mod verdicts;
mod watch;
mod wish;

#[cfg(test)]
mod tests;

pub use options::ResponseCacheOptions;

pub(crate) use metrics::write;
pub(crate) use recheck::{Mismatch, turn, waits};
pub(crate) use started::{Ender, Events, of_engine};
pub(crate) use verdicts::watch_verdicts;
pub(crate) use watch::{heed, watch};

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use lastmile::{GenerateError, GenerateRequest, OnHit, Outcome, ReadyRequest, RequestId, Runtime};
use lm_api::ApiError;

use crate::generate::{Call, refused};
use crate::idle::Idle;
use flight::Flight;
use key::{Draw, Key};
use reader::Reader;
use recheck::{Recheck, Seen};
use started::Started;
use table::{Entry, Evicted, Found, Table};
use told::Asked;
use wish::Wish;

/// The cached answers of a server, and those that are being computed.
pub(crate) struct ResponseCache {
    options: ResponseCacheOptions,
    /// Makes way for what is computed, and not for what is told.
    idle: Arc<Idle>,
    table: Mutex<Table>,
    rechecks: Mutex<VecDeque<Recheck>>,
    last_mismatch: Mutex<Option<Seen>>,
    counts: Counts,
}

/// Since the start.
#[derive(Default)]
struct Counts {
    hits: AtomicU64,
    /// Hits that were recorded.
    told: AtomicU64,
    shared: AtomicU64,
    misses: AtomicU64,
    bypassed: AtomicU64,
    /// Times that a follower computed because its leader had ended.
    handed_on: AtomicU64,
    identical: AtomicU64,
    mismatches: AtomicU64,
    /// Hits that were to be computed again and were not.
    unchecked: AtomicU64,
    /// Looks for what others say of answers that failed.
    unread: AtomicU64,
}

/// What becomes of a request.
enum Claim {
    /// Its answer is there.
    Told(Box<Asked>, Key, Arc<Entry>),
    /// Somebody computes it.
    Follow(Reader),
    /// It is computed for itself and for who follows.
    Lead(Reader, ReadyRequest),
    /// It is computed for itself.
    Alone(ReadyRequest, Word),
}

/// As `x-lastmile-cache` says it, in the order in which the requests of one response decide it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Word {
    Hit,
    Bypass,
    Miss,
}

impl Word {
    fn as_str(self) -> &'static str {
        match self {
            Word::Hit => "hit",
            Word::Bypass => "bypass",
            Word::Miss => "miss",
        }
    }
}

/// What waits for the engine, or does not.
enum Plan {
    Told(Box<Asked>, Key, Arc<Entry>, Vec<String>),
    /// With the number of the prompt's tokens.
    Follow(Reader, Vec<String>, usize),
    Lead(Reader, RequestId),
    Alone,
}

impl ResponseCache {
    pub(crate) fn new(options: ResponseCacheOptions, idle: Arc<Idle>) -> Self {
        ResponseCache {
            table: Mutex::new(Table::new(options.max_bytes, options.max_age)),
            options,
            idle,
            rechecks: Mutex::default(),
            last_mismatch: Mutex::default(),
            counts: Counts::default(),
        }
    }

    pub(crate) fn is_on(&self) -> bool {
        self.options.max_bytes > 0
    }

    /// Starts the answers of a body's requests, all or none: one entry for each. Never waits for the engine.
    ///
    /// # Errors
    /// A header that is not understood; as of [`Runtime::generate_all`].
    pub(crate) fn start(
        self: &Arc<Self>,
        runtime: &Arc<Runtime>,
        call: &Call,
        has_seed: bool,
        requests: Vec<GenerateRequest>,
    ) -> Result<Vec<Vec<Started>>, ApiError> {
        let refusal = |error| refused(error, call.style);
        if !self.is_on() {
            self.idle.make_way();
            return Ok(started::of_engine(runtime.generate_all(requests).map_err(refusal)?));
        }
        let wish = Wish::of(&call.headers)?;
        let ready = runtime.ready(requests).map_err(refusal)?;
        let (word, all) = self.started(runtime, wish, has_seed, ready).map_err(refusal)?;
        call.entry.cached(word);
        Ok(all)
    }

    /// As [`ResponseCache::start`], with what a response says of it.
    fn started(
        self: &Arc<Self>,
        runtime: &Arc<Runtime>,
        wish: Wish,
        has_seed: bool,
        ready: Vec<ReadyRequest>,
    ) -> Result<(&'static str, Vec<Vec<Started>>), GenerateError> {
        let (mut plans, mut to_compute, mut word) = (Vec::new(), Vec::new(), Word::Hit);
        for one in ready {
            let (warnings, n_prompt) = (one.warnings().to_vec(), one.prompt_tokens().len());
            plans.push(match self.claim(runtime, one, wish, has_seed) {
                Claim::Told(asked, key, entry) => Plan::Told(asked, key, entry, warnings),
                Claim::Follow(reader) => Plan::Follow(reader, warnings, n_prompt),
                Claim::Lead(reader, ready) => {
                    let id = ready.request().id;
                    word = word.max(Word::Miss);
                    to_compute.push(ready);
                    Plan::Lead(reader, id)
                }
                Claim::Alone(ready, own) => {
                    word = word.max(own);
                    to_compute.push(ready);
                    Plan::Alone
                }
            });
        }
        // Where it refuses, those who follow the leaders of this response are woken, and compute for themselves.
        if !to_compute.is_empty() {
            self.idle.make_way();
        }
        let mut computed = started::compute(runtime, to_compute)?.into_iter();
        let mut all = Vec::new();
        for plan in plans {
            all.push(match plan {
                Plan::Told(asked, key, entry, warnings) => {
                    vec![self.tell(&asked, key, &entry, warnings)]
                }
                Plan::Follow(reader, warnings, n_prompt) => {
                    vec![Started::shared(reader, warnings, n_prompt)]
                }
                Plan::Lead(reader, id) => {
                    let stream = computed.next().and_then(|all| all.into_iter().next());
                    let stream = stream.ok_or(GenerateError::EngineDied)?;
                    let (warnings, n_prompt) = (stream.warnings().to_vec(), stream.n_prompt());
                    reader.begin(id, stream);
                    vec![Started::shared(reader, warnings, n_prompt)]
                }
                Plan::Alone => {
                    computed.next().into_iter().flatten().map(Started::of_engine).collect()
                }
            });
        }
        Ok((word.as_str(), all))
    }

    /// Decides what becomes of a request, and counts it.
    fn claim(
        self: &Arc<Self>,
        runtime: &Arc<Runtime>,
        ready: ReadyRequest,
        wish: Wish,
        has_seed: bool,
    ) -> Claim {
        let request = ready.request();
        let Some(draw) = self.draw(runtime, request, wish, has_seed) else {
            self.counts.bypassed.fetch_add(1, Relaxed);
            return Claim::Alone(ready, Word::Bypass);
        };
        // Who has no time does not wait for another's computation, and nobody waits for a less urgent one.
        let may_wait = request.deadline.is_none() && request.max_queue.is_none();
        let (priority, seed) = (request.priority, request.sampling.seed);
        let key = Key::of(&ready, draw);
        let mut table = self.table();
        match table.find(&key, Instant::now()) {
            Found::Stored(entry) => {
                drop(table);
                self.counts.hits.fetch_add(1, Relaxed);
                Claim::Told(Asked::of(runtime, ready, entry.seed), key, entry)
            }
            Found::Flying(flight) if may_wait && flight.priority() <= priority => {
                self.counts.shared.fetch_add(1, Relaxed);
                let asked = Asked::of(runtime, ready, flight.seed);
                Claim::Follow(Reader::new(self, key, &flight, priority, Some(asked)))
            }
            Found::Flying(_) => {
                self.counts.misses.fetch_add(1, Relaxed);
                Claim::Alone(ready, Word::Miss)
            }
            Found::Nothing => {
                self.counts.misses.fetch_add(1, Relaxed);
                let flight = Arc::new(Flight::new(priority, seed, ready.release()));
                table.take_off(key, Arc::clone(&flight));
                Claim::Lead(Reader::new(self, key, &flight, priority, None), ready)
            }
        }
    }

    /// How far the seed decides a request's answer; `None` when the cache has no part in it.
    fn draw(
        &self,
        runtime: &Runtime,
        request: &GenerateRequest,
        wish: Wish,
        has_seed: bool,
    ) -> Option<Draw> {
        let GenerateRequest { n, sampling, steering, .. } = request;
        // An answer that turned back from a phrase does not say so, and its rule must hear of it each time.
        let turns_back = steering
            .rules
            .as_ref()
            .is_some_and(|rules| rules.bans().iter().any(|ban| ban.then == OnHit::Resubmit));
        // Evidence of an experiment is of what its arms compute, and how fast.
        if wish == Wish::Bypass || *n != 1 || steering.arm.is_some() || turns_back {
            return None;
        }
        if sampling.temperature <= 0.0 {
            return Some(Draw::Greedy);
        }
        let is_opted = wish == Wish::Sampled
            || self.options.sampled_routes.iter().any(|route| route == steering.route);
        match has_seed {
            // Elsewhere the same seed may draw another token beside other answers.
            true if is_opted || runtime.info().backend.rows_are_exact => {
                Some(Draw::Seeded(sampling.seed))
            }
            _ => is_opted.then_some(Draw::Any),
        }
    }

    /// Tells an answer that is there; recorded before its reader hears of it.
    fn tell(&self, asked: &Asked, key: Key, entry: &Arc<Entry>, warnings: Vec<String>) -> Started {
        // Zero would say that no token came.
        let took = asked.began.elapsed().max(std::time::Duration::from_nanos(1));
        let (said, outcome) = (entry.said.clone(), Outcome::Finished(entry.reason));
        let timings = asked.note(said, outcome, entry.usage, Some(entry.computed_by), Some(took));
        self.consider(asked, key, entry);
        Started::told(entry, timings, warnings)
    }

    /// Keeps what a flight gave.
    fn keep(&self, key: Key, flight: &Arc<Flight>, entry: Entry) {
        self.table().land(key, flight, entry, Instant::now());
    }

    /// Nobody else joins a flight.
    fn call_off(&self, key: &Key, flight: &Arc<Flight>) {
        self.table().call_off(key, flight);
    }

    /// A reader left; without readers a flight is none.
    fn parted(&self, key: &Key, flight: &Arc<Flight>) {
        let mut table = self.table();
        if flight.part() {
            table.call_off(key, flight);
        }
    }

    fn count_handed_on(&self) {
        self.counts.handed_on.fetch_add(1, Relaxed);
    }

    /// Forgets the answer that was computed for a request. False when it is not there.
    fn forget(&self, computed_by: RequestId, why: Evicted) -> bool {
        self.table().forget(computed_by, why)
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
