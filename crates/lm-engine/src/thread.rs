//! The engine's thread, and the handle that others hold.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Select, Sender, TryRecvError, bounded};
use lm_scheduler::{ConfigError, SchedulerConfig};
use lm_types::{GenerateError, Timestamp};

use crate::submit::{Door, QueuePlace};
use crate::{Engine, EngineParts, EngineStats, NewSubmission};

/// How often an idle engine shows that it is alive.
const IDLE_HEARTBEAT: Duration = Duration::from_millis(500);

/// How often an engine that waits for blocks from outside sees whether their readers left.
const READER_POLL: Duration = Duration::from_millis(5);

/// How long the step that runs at a shutdown's end may take.
const LAST_STEP: Duration = Duration::from_secs(5);

/// The limits of an engine that its backend does not decide.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EngineOptions {
    /// Sequences that run at once.
    pub max_num_seqs: usize,
    /// Tokens in one step.
    pub max_batch_tokens: usize,
    /// Tokens of one sequence in one step.
    pub max_prefill_chunk: usize,
    /// Answers that wait; more are refused.
    pub max_queued_requests: usize,
    /// Prompt tokens of those; more are refused, unless nothing else waits.
    pub max_queued_tokens: usize,
    /// The longest time between two tokens of a running answer, as far as it can be predicted. Zero is
    /// no bound.
    pub max_token_gap: Duration,
    /// A batch answer that waited so long is interactive from then on.
    pub batch_patience: Duration,
    /// Whether blocks of equal prefixes are shared.
    pub prefix_cache: bool,
    /// Whether tokens that the text so far suggests, or an answer's form decides, are computed ahead where that is
    /// expected to pay. No answer differs by it.
    pub speculate: bool,
    /// Rows of logits in one step beyond one for each sequence, for guesses and for prompts whose
    /// log-probabilities are wanted.
    pub max_extra_logits: usize,
}

/// A running engine. Dropping the last handle ends every answer and the thread.
#[derive(Debug)]
pub struct EngineHandle {
    /// `None` once shut down.
    submitted: Option<Sender<Submitted>>,
    thread: Option<JoinHandle<()>>,
    stats: Arc<EngineStats>,
    door: Door,
    max_queued: usize,
    stop_now: Arc<AtomicBool>,
}

/// Answers that were submitted together: no step comes between them. That is all that can be said to an engine, as
/// leaving is said by dropping an answer's reader.
struct Submitted {
    all: Vec<(NewSubmission, QueuePlace)>,
    arrival: Timestamp,
}

impl Default for EngineOptions {
    fn default() -> Self {
        EngineOptions {
            max_num_seqs: 64,
            max_batch_tokens: 256,
            max_prefill_chunk: 256,
            max_queued_requests: 1024,
            max_queued_tokens: 1 << 18,
            max_token_gap: Duration::from_millis(100),
            batch_patience: Duration::from_secs(10),
            prefix_cache: true,
            speculate: true,
            max_extra_logits: 32,
        }
    }
}

impl EngineHandle {
    /// Starts an engine on a thread of its own.
    ///
    /// # Errors
    /// Limits that contradict each other or the backend.
    ///
    /// # Panics
    /// When the system has no thread left.
    pub fn spawn(parts: EngineParts, options: &EngineOptions) -> Result<Self, ConfigError> {
        let stats = Arc::new(EngineStats::new(Instant::now()));
        let spec = parts.backend.spec();
        let config = SchedulerConfig {
            block_size: spec.block_size,
            n_blocks: spec.n_blocks,
            max_model_len: spec.max_model_len,
            max_num_seqs: options.max_num_seqs,
            max_batch_tokens: options.max_batch_tokens,
            max_prefill_chunk: options.max_prefill_chunk,
            max_queued_requests: options.max_queued_requests,
            max_queued_tokens: options.max_queued_tokens,
            max_token_gap: options.max_token_gap,
            batch_patience: options.batch_patience,
            prefix_cache: options.prefix_cache,
            speculate: options.speculate,
            max_extra_logits: options.max_extra_logits,
        };
        let max_queued = options.max_queued_requests;
        // Checks the limits before memory is set aside for them.
        let engine = Engine::new(parts, config, Arc::clone(&stats))?;
        let door = engine.door().clone();
        // Whatever is submitted holds a place in the queue, so the channel has room for all of them.
        let (submitted, receiver) = bounded(max_queued);
        let stop_now = Arc::new(AtomicBool::new(false));
        let (stop, thread_stats) = (Arc::clone(&stop_now), Arc::clone(&stats));
        let life = move || {
            let run = AssertUnwindSafe(|| run(engine, &receiver, &stop));
            if catch_unwind(run).is_err() {
                tracing::error!("the engine's thread panicked: nothing is answered any more");
                thread_stats.set_died();
            }
        };
        let thread = std::thread::Builder::new()
            .name("lm-engine".to_owned())
            .spawn(life)
            .expect("the system has a thread for the engine");
        Ok(EngineHandle {
            submitted: Some(submitted),
            thread: Some(thread),
            stats,
            door,
            max_queued,
            stop_now,
        })
    }

    /// Queues answers, all or none. Never waits.
    ///
    /// # Errors
    /// `QueueFull` when there is no place for all of them; `DeadlineUnreachable` when they would come too
    /// late; `ShuttingDown` or `EngineDied` when the engine is gone.
    pub fn submit(&self, all: Vec<NewSubmission>) -> Result<(), GenerateError> {
        let submitted = self.submitted.as_ref().ok_or(GenerateError::ShuttingDown)?;
        let arrival = self.stats.now();
        let places = self.door.admit(&all, arrival)?;
        if all.is_empty() {
            return Ok(());
        }
        let all = all.into_iter().zip(places).collect();
        // There is room for every place, so only an engine that is gone refuses.
        submitted.try_send(Submitted { all, arrival }).map_err(|_| GenerateError::EngineDied)
    }

    /// Answers that may wait at once.
    #[must_use]
    pub fn max_queued(&self) -> usize {
        self.max_queued
    }

    /// The engine's counters.
    #[must_use]
    pub fn stats(&self) -> &Arc<EngineStats> {
        &self.stats
    }

    /// Takes nothing more in, finishes what is there within `timeout`, and ends the thread. What is
    /// not finished by then fails with `ShuttingDown`.
    pub fn shutdown(&mut self, timeout: Duration) {
        self.submitted = None;
        let Some(thread) = self.thread.take() else { return };
        let started = Instant::now();
        while !thread.is_finished() && started.elapsed() < timeout {
            std::thread::park_timeout(Duration::from_millis(5));
        }
        self.stop_now.store(true, Ordering::Relaxed);
        let told = Instant::now();
        while !thread.is_finished() && told.elapsed() < LAST_STEP {
            std::thread::park_timeout(Duration::from_millis(5));
        }
        if thread.is_finished() {
            // The thread catches its own panics.
            drop(thread.join());
        } else {
            tracing::error!("a step does not end; the engine's thread is left behind");
        }
    }
}

impl Drop for EngineHandle {
    fn drop(&mut self) {
        self.shutdown(Duration::ZERO);
    }
}

fn run(mut engine: Engine, submitted: &Receiver<Submitted>, stop_now: &AtomicBool) {
    while take_in(&mut engine, submitted) && !stop_now.load(Ordering::Relaxed) {
        engine.step();
    }
    for together in submitted.try_iter() {
        add(&mut engine, together);
    }
    engine.abort_all();
}

/// Takes in what has come; an idle engine waits here. False when nobody can say anything any more and
/// everything is done.
fn take_in(engine: &mut Engine, submitted: &Receiver<Submitted>) -> bool {
    let patience = match engine.is_idle() {
        _ if engine.can_export() => Duration::ZERO,
        true => IDLE_HEARTBEAT,
        false if engine.awaits_blocks() => READER_POLL,
        false => Duration::ZERO,
    };
    if patience > Duration::ZERO {
        let mut select = Select::new();
        select.recv(submitted);
        if let Some(reports) = engine.store_reports() {
            select.recv(reports);
        }
        // What is ready is taken below, and in the step.
        let _ = select.ready_timeout(patience);
    }
    loop {
        match submitted.try_recv() {
            Ok(together) => add(engine, together),
            Err(TryRecvError::Empty) => return true,
            Err(TryRecvError::Disconnected) => return !engine.is_idle() || engine.can_export(),
        }
    }
}

fn add(engine: &mut Engine, Submitted { all, arrival }: Submitted) {
    for (new, place) in all {
        engine.add(new, place, arrival);
    }
}
