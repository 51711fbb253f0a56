//! What the engine counts, readable from any thread at any time.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use lm_scheduler::SchedulerCounters;
use lm_types::{CacheMissReason, Finish, FinishReason, GenerateError, Timestamp};

use crate::{BlockStore, BlockStoreCounters, Histogram, StatsSnapshot};

/// Counters and gauges of one engine. Written by its thread, read by anybody.
#[derive(Debug)]
pub struct EngineStats {
    started: Instant,
    heartbeat_micros: AtomicU64,
    longest_step_micros: AtomicU64,
    longest_step_tokens: AtomicU64,
    step_rows: AtomicU64,
    step_tokens: AtomicU64,
    died: AtomicBool,
    pub(crate) steps: AtomicU64,
    pub(crate) failed_steps: AtomicU64,
    pub(crate) n_running: AtomicU64,
    pub(crate) n_waiting: AtomicU64,
    pub(crate) n_free_blocks: AtomicU64,
    pub(crate) n_blocks: AtomicU64,
    pub(crate) prompt_tokens: AtomicU64,
    pub(crate) generation_tokens: AtomicU64,
    pub(crate) prefix_query_tokens: AtomicU64,
    pub(crate) prefix_hit_tokens: AtomicU64,
    pub(crate) preemptions: AtomicU64,
    drafts: AtomicU64,
    draft_tokens: AtomicU64,
    accepted_tokens: AtomicU64,
    suggested_tokens: [AtomicU64; 2],
    pub(crate) cpu_nanos: AtomicU64,
    /// `UNREADABLE` where the machine does not say.
    microjoules: AtomicU64,
    finished: [AtomicU64; FinishReason::ALL.len()],
    /// By code. Touched at the end of a failed request only.
    failed: Mutex<BTreeMap<&'static str, u64>>,
    pub(crate) ttft: Histogram,
    pub(crate) itl: Histogram,
    pub(crate) e2e: Histogram,
    tpot: Histogram,
    pub(crate) queue_wait: Histogram,
    pub(crate) step_time: Histogram,
    pub(crate) step_error: Histogram,
    pub(crate) ttft_error: Histogram,
    /// Bits of an `f64`.
    predicted_step: AtomicU64,
    /// Bits of an `f64`.
    step_error_ratio: AtomicU64,
    /// By reason. Touched when a request is refused only.
    rejected: Mutex<BTreeMap<&'static str, u64>>,
    pub(crate) expired_waiting: AtomicU64,
    pub(crate) expired_running: AtomicU64,
    pub(crate) pauses: AtomicU64,
    pub(crate) queued_tokens: AtomicU64,
    first_misses: [AtomicU64; CacheMissReason::ALL.len()],
    imports: AtomicU64,
    imported: AtomicU64,
    dropped_exports: AtomicU64,
    block_store: OnceLock<Arc<BlockStoreCounters>>,
}

const UNREADABLE: u64 = u64::MAX;

impl EngineStats {
    pub(crate) fn new(started: Instant) -> Self {
        let zero = || AtomicU64::new(0);
        EngineStats {
            started,
            heartbeat_micros: zero(),
            longest_step_micros: zero(),
            longest_step_tokens: zero(),
            step_rows: zero(),
            step_tokens: zero(),
            died: AtomicBool::new(false),
            steps: zero(),
            failed_steps: zero(),
            n_running: zero(),
            n_waiting: zero(),
            n_free_blocks: zero(),
            n_blocks: zero(),
            prompt_tokens: zero(),
            generation_tokens: zero(),
            prefix_query_tokens: zero(),
            prefix_hit_tokens: zero(),
            preemptions: zero(),
            drafts: zero(),
            draft_tokens: zero(),
            accepted_tokens: zero(),
            suggested_tokens: Default::default(),
            cpu_nanos: zero(),
            microjoules: AtomicU64::new(UNREADABLE),
            finished: std::array::from_fn(|_| zero()),
            failed: Mutex::new(BTreeMap::new()),
            ttft: Histogram::default(),
            itl: Histogram::default(),
            e2e: Histogram::default(),
            tpot: Histogram::default(),
            queue_wait: Histogram::default(),
            step_time: Histogram::default(),
            step_error: Histogram::default(),
            ttft_error: Histogram::default(),
            predicted_step: zero(),
            step_error_ratio: zero(),
            rejected: Mutex::new(BTreeMap::new()),
            expired_waiting: zero(),
            expired_running: zero(),
            pauses: zero(),
            queued_tokens: zero(),
            first_misses: Default::default(),
            imports: zero(),
            imported: zero(),
            dropped_exports: zero(),
            block_store: OnceLock::new(),
        }
    }

    pub(crate) fn measures_energy(&self, can: bool) {
        self.microjoules.store(if can { 0 } else { UNREADABLE }, Relaxed);
    }

    /// Only the engine's thread adds.
    pub(crate) fn add_joules(&self, joules: f64) {
        if self.microjoules.load(Relaxed) != UNREADABLE {
            self.microjoules.fetch_add((joules * 1e6) as u64, Relaxed);
        }
    }

    pub(crate) fn keep_store_counters(&self, store: &BlockStore) {
        self.block_store.get_or_init(|| Arc::clone(&store.counters));
    }

    /// How guesses fared.
    pub(crate) fn record_drafts(&self, counters: &SchedulerCounters) {
        self.drafts.store(counters.drafts, Relaxed);
        self.draft_tokens.store(counters.draft_tokens, Relaxed);
        self.accepted_tokens.store(counters.accepted_tokens, Relaxed);
        for (total, counted) in self.suggested_tokens.iter().zip(counters.suggested_tokens) {
            total.store(counted, Relaxed);
        }
    }

    /// How prompts fared at the prefix cache.
    pub(crate) fn record_cache(&self, counters: &SchedulerCounters, dropped_exports: u64) {
        for (total, counted) in self.first_misses.iter().zip(counters.first_misses) {
            total.store(counted, Relaxed);
        }
        self.imports.store(counters.imports, Relaxed);
        self.imported.store(counters.imported, Relaxed);
        self.dropped_exports.store(dropped_exports, Relaxed);
    }

    /// The time on the engine's clock.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        Timestamp(u64::try_from(self.started.elapsed().as_micros()).unwrap_or(u64::MAX))
    }

    pub(crate) fn beat(&self) {
        self.heartbeat_micros.store(self.now().0, Relaxed);
    }

    pub(crate) fn record_step(&self, duration: Duration) {
        self.step_time.record(duration);
        let before = self.longest_step_micros.load(Relaxed);
        let micros = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        let faded = before - before / 64;
        self.longest_step_micros.store(micros.max(faded), Relaxed);
        if micros >= faded {
            self.longest_step_tokens.store(self.step_tokens.load(Relaxed), Relaxed);
        }
    }

    /// A step of this shape runs from now on; with zeros none does.
    pub(crate) fn set_step(&self, n_rows: usize, n_tokens: usize) {
        self.step_rows.store(n_rows as u64, Relaxed);
        self.step_tokens.store(n_tokens as u64, Relaxed);
    }

    /// How well the last step was predicted.
    pub(crate) fn record_prediction(&self, predicted: f64, measured: f64, error_ratio: f64) {
        let error = Duration::try_from_secs_f64((predicted - measured).abs());
        self.step_error.record(error.unwrap_or(Duration::MAX));
        self.predicted_step.store(predicted.to_bits(), Relaxed);
        self.step_error_ratio.store(error_ratio.to_bits(), Relaxed);
    }

    pub(crate) fn set_died(&self) {
        self.died.store(true, Relaxed);
    }

    /// Whether the engine's thread panicked.
    #[must_use]
    pub fn died(&self) -> bool {
        self.died.load(Relaxed)
    }

    pub(crate) fn count_finished(&self, finish: &Finish) {
        self.finished[finish.reason as usize].fetch_add(1, Relaxed);
        self.e2e.record(finish.timings.e2e);
        let n_after_first = finish.usage.completion_tokens.saturating_sub(1);
        let decoding = finish.timings.e2e.saturating_sub(finish.timings.ttft);
        if n_after_first > 0 {
            self.tpot.record(decoding / n_after_first);
        }
    }

    /// Counts a refused or failed answer. Called for refusals before the engine saw them, too.
    pub fn count_failed(&self, error: &GenerateError) {
        count(&self.failed, error.code());
        if let Some(reason) = error.rejected_because() {
            count(&self.rejected, reason);
        }
    }

    /// Requests of an encoder that are in batches, that wait, and the tokens that do.
    pub(crate) fn set_queue(&self, (n_running, n_waiting, n_tokens): (usize, usize, usize)) {
        self.n_running.store(n_running as u64, Relaxed);
        self.n_waiting.store(n_waiting as u64, Relaxed);
        self.queued_tokens.store(n_tokens as u64, Relaxed);
    }

    /// A request of an encoder ended.
    pub(crate) fn count_encoded(&self, finish: &Finish) {
        self.finished[finish.reason as usize].fetch_add(1, Relaxed);
        self.prompt_tokens.fetch_add(u64::from(finish.usage.prompt_tokens), Relaxed);
        self.e2e.record(finish.timings.e2e);
        self.queue_wait.record(finish.timings.queue_wait);
    }

    /// A time limit passed, before the first batch or after it.
    pub(crate) fn count_expired(&self, is_running: bool) {
        let counter = if is_running { &self.expired_running } else { &self.expired_waiting };
        counter.fetch_add(1, Relaxed);
    }

    pub(crate) fn count_failed_step(&self) {
        self.failed_steps.fetch_add(1, Relaxed);
    }

    pub(crate) fn add_cpu(&self, spent: Duration) {
        self.steps.fetch_add(1, Relaxed);
        self.cpu_nanos.fetch_add(spent.as_nanos() as u64, Relaxed);
    }

    /// Reads all counters. Never waits for the engine.
    #[must_use]
    pub fn snapshot(&self) -> StatsSnapshot {
        let get = |counter: &AtomicU64| counter.load(Relaxed);
        let now = self.now();
        StatsSnapshot {
            uptime: Duration::from_micros(now.0),
            heartbeat_age: now.since(Timestamp(get(&self.heartbeat_micros))),
            longest_step: Duration::from_micros(get(&self.longest_step_micros)),
            longest_step_tokens: get(&self.longest_step_tokens),
            step_rows: get(&self.step_rows),
            step_tokens: get(&self.step_tokens),
            died: self.died(),
            steps: get(&self.steps),
            failed_steps: get(&self.failed_steps),
            n_running: get(&self.n_running),
            n_waiting: get(&self.n_waiting),
            n_free_blocks: get(&self.n_free_blocks),
            n_blocks: get(&self.n_blocks),
            prompt_tokens: get(&self.prompt_tokens),
            generation_tokens: get(&self.generation_tokens),
            prefix_query_tokens: get(&self.prefix_query_tokens),
            prefix_hit_tokens: get(&self.prefix_hit_tokens),
            preemptions: get(&self.preemptions),
            drafts: get(&self.drafts),
            draft_tokens: get(&self.draft_tokens),
            accepted_tokens: get(&self.accepted_tokens),
            form_draft_tokens: get(&self.suggested_tokens[0]),
            form_accepted_tokens: get(&self.suggested_tokens[1]),
            cpu_seconds: get(&self.cpu_nanos) as f64 / 1e9,
            joules: Some(get(&self.microjoules))
                .filter(|&micro| micro != UNREADABLE)
                .map(|micro| micro as f64 / 1e6),
            finished: std::array::from_fn(|i| (FinishReason::ALL[i], get(&self.finished[i]))),
            failed: listed(&self.failed),
            ttft: self.ttft.snapshot(),
            itl: self.itl.snapshot(),
            e2e: self.e2e.snapshot(),
            tpot: self.tpot.snapshot(),
            queue_wait: self.queue_wait.snapshot(),
            step_time: self.step_time.snapshot(),
            step_error: self.step_error.snapshot(),
            ttft_error: self.ttft_error.snapshot(),
            predicted_step_seconds: f64::from_bits(get(&self.predicted_step)),
            step_error_ratio: f64::from_bits(get(&self.step_error_ratio)),
            rejected: listed(&self.rejected),
            expired_waiting: get(&self.expired_waiting),
            expired_running: get(&self.expired_running),
            pauses: get(&self.pauses),
            queued_tokens: get(&self.queued_tokens),
            first_misses: CacheMissReason::ALL
                .map(|reason| (reason, get(&self.first_misses[reason as usize]))),
            block_store: self.block_store.get().map(|counters| {
                let (imports, imported) = (get(&self.imports), get(&self.imported));
                counters.snapshot(imports, imported, get(&self.dropped_exports))
            }),
        }
    }
}

type Counts = Mutex<BTreeMap<&'static str, u64>>;

fn count(counts: &Counts, name: &'static str) {
    *counts.lock().unwrap_or_else(PoisonError::into_inner).entry(name).or_insert(0) += 1;
}

fn listed(counts: &Counts) -> Vec<(&'static str, u64)> {
    let counts = counts.lock().unwrap_or_else(PoisonError::into_inner);
    counts.iter().map(|(&name, &n)| (name, n)).collect()
}
