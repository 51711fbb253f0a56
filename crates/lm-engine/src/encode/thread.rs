//! The thread that batches texts and hands rows out.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use lm_backend::{Encoder, EncoderBatch, StepArbiter};
use lm_types::{
    Finish, FinishReason, GenerateError, Observer, Outcome, RequestEvent, Timeline, Timings, Usage,
};

use super::queue::{Job, Pick, Queue};
use super::reply::reply_pair;
use super::{EncodeReply, EncodeSubmission};
use crate::cpu_time::process_cpu_time;
use crate::{EngineStats, ServedBy};

/// How often an idle thread shows that it is alive, and looks for requests that nobody reads.
const HEARTBEAT: Duration = Duration::from_millis(250);
/// Tokens of the largest batch: more would not make it faster.
const MAX_BATCH_TOKENS: usize = 4096;
/// What a batch may take of the bound on gaps while other engines have work.
const SHARE_OF_GAP: f64 = 0.5;
/// How long a shutdown waits for a batch that runs.
const LAST_BATCH: Duration = Duration::from_secs(2);

/// What an encoder's loop is made of.
pub struct EncodeParts {
    /// What computes.
    pub encoder: Box<dyn Encoder>,
    /// Hears of each request when it is over.
    pub observer: Arc<dyn Observer>,
    /// Whose answers these are.
    pub served_by: ServedBy,
    /// Other engines of this process.
    pub arbiter: Arc<StepArbiter>,
}

/// Limits of an encoder's loop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EncodeLimits {
    /// Requests that may wait or run.
    pub max_queued_requests: usize,
    /// Tokens that may wait.
    pub max_queued_tokens: usize,
    /// How long a batch may take while other engines have work; zero is no bound.
    pub max_token_gap: Duration,
}

/// A running loop. Dropping it ends it.
pub struct EncodeHandle {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
    stats: Arc<EngineStats>,
}

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    queue: Queue,
    is_closed: bool,
    must_stop: bool,
}

struct Life {
    parts: EncodeParts,
    options: EncodeLimits,
    shared: Arc<Shared>,
    stats: Arc<EngineStats>,
}

impl EncodeHandle {
    /// Starts the loop on a thread of its own.
    ///
    /// # Panics
    /// When the system has no thread left.
    #[must_use]
    pub fn spawn(parts: EncodeParts, options: EncodeLimits) -> Self {
        let stats = Arc::new(EngineStats::new(Instant::now()));
        let queue = Queue::new(options.max_queued_requests, options.max_queued_tokens);
        let state = Mutex::new(State { queue, is_closed: false, must_stop: false });
        let shared = Arc::new(Shared { state, changed: Condvar::new() });
        let mut life =
            Life { parts, options, shared: Arc::clone(&shared), stats: Arc::clone(&stats) };
        let run = move || {
            if catch_unwind(AssertUnwindSafe(|| life.run())).is_err() {
                tracing::error!("the encoder's thread panicked: nothing is answered any more");
                life.stats.set_died();
                life.shared.lock().is_closed = true;
                drop(life.shared.lock().queue.take_all());
            }
        };
        let thread = std::thread::Builder::new().name("lm-encoder".to_owned()).spawn(run);
        let thread = Some(thread.expect("the system has a thread for the encoder"));
        EncodeHandle { shared, thread, stats }
    }

    /// Queues the texts of a request. Never waits.
    ///
    /// # Errors
    /// `QueueFull`, `DeadlineUnreachable`, `ShuttingDown` or `EngineDied`.
    pub fn submit(&self, submission: EncodeSubmission) -> Result<EncodeReply, GenerateError> {
        let (writer, reply) = reply_pair();
        let mut state = self.shared.lock();
        if state.is_closed {
            let died = self.stats.died();
            return Err(if died { GenerateError::EngineDied } else { GenerateError::ShuttingDown });
        }
        state.queue.admit(submission, writer, self.stats.now())?;
        self.stats.set_queue(state.queue.counts());
        drop(state);
        self.shared.changed.notify_all();
        Ok(reply)
    }

    /// The loop's counters.
    #[must_use]
    pub fn stats(&self) -> &Arc<EngineStats> {
        &self.stats
    }

    /// Takes nothing more in, finishes what is there within `timeout`, and ends the thread.
    pub fn shutdown(&mut self, timeout: Duration) {
        self.shared.lock().is_closed = true;
        self.shared.changed.notify_all();
        let Some(thread) = self.thread.take() else { return };
        let ends_within = |limit: Duration| {
            let began = Instant::now();
            while !thread.is_finished() && began.elapsed() < limit {
                std::thread::park_timeout(Duration::from_millis(5));
            }
            thread.is_finished()
        };
        if !ends_within(timeout) {
            self.shared.lock().must_stop = true;
            self.shared.changed.notify_all();
            if !ends_within(LAST_BATCH) {
                tracing::error!("a batch does not end; the encoder's thread is left behind");
                return;
            }
        }
        // The thread catches its own panics.
        drop(thread.join());
    }
}

impl Drop for EncodeHandle {
    fn drop(&mut self) {
        self.shutdown(Duration::ZERO);
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Life {
    fn run(&mut self) {
        let arbiter = Arc::clone(&self.parts.arbiter);
        let mut activity = None;
        while let Some(picks) = self.wait_for_work() {
            if picks.is_empty() {
                activity = None;
                continue;
            }
            if activity.is_none() {
                // What the process spent while nobody had work is nobody's.
                if arbiter.n_active() == 0 {
                    let _unshared = arbiter.take_cpu_time(process_cpu_time());
                }
                activity = Some(arbiter.begin());
            }
            self.encode(&picks, true);
        }
        for job in self.shared.lock().queue.take_all() {
            self.finish(job, Err(GenerateError::ShuttingDown));
        }
    }

    /// The next batch; an empty one when there is none yet, `None` when there never will be.
    fn wait_for_work(&self) -> Option<Vec<Pick>> {
        self.stats.beat();
        let mut state = self.shared.lock();
        if state.queue.is_empty() && !state.is_closed {
            let waited = self.shared.changed.wait_timeout(state, HEARTBEAT);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        if state.must_stop || (state.is_closed && state.queue.is_empty()) {
            return None;
        }
        let now = self.stats.now();
        let over = state.queue.take_over(now);
        let budget = self.budget(&state.queue);
        let picks = state.queue.next_batch(budget, now);
        self.stats.set_queue(state.queue.counts());
        drop(state);
        for (job, error) in over {
            match error {
                Some(error) => {
                    self.stats.count_expired(job.first_batch.is_some());
                    self.finish(job, Err(error));
                }
                None => self.abandon(job),
            }
        }
        Some(picks)
    }

    /// Tokens of the next batch: while other engines have work it must end soon.
    fn budget(&self, queue: &Queue) -> usize {
        let gap = self.options.max_token_gap;
        // This one is active, too.
        if gap.is_zero() || self.parts.arbiter.n_active() <= 1 {
            return MAX_BATCH_TOKENS;
        }
        let tokens = queue.tokens_per_s() * gap.as_secs_f64() * SHARE_OF_GAP;
        (tokens as usize).min(MAX_BATCH_TOKENS)
    }

    /// Encodes a batch. One that fails is tried again text by text, so that a text is at fault for itself alone.
    fn encode(&mut self, picks: &[Pick], may_split: bool) {
        let batch = self.pack(picks);
        let n_tokens = batch.input_ids.len();
        let mut rows = Vec::new();
        self.stats.set_step(batch.n_texts(), n_tokens);
        let stats = Arc::clone(&self.stats);
        let arbiter = Arc::clone(&self.parts.arbiter);
        let turn = arbiter.turn(|| stats.beat());
        let began = Instant::now();
        let encoder = &mut self.parts.encoder;
        let outcome = catch_unwind(AssertUnwindSafe(|| encoder.encode(&batch, &mut rows)));
        let took = began.elapsed();
        drop(turn);
        let spent = arbiter.take_cpu_time(process_cpu_time());
        self.stats.record_step(took);
        self.stats.set_step(0, 0);
        self.stats.add_cpu(spent);
        let width = self.parts.encoder.spec().width();
        let failed = match outcome {
            Ok(Ok(())) if rows.len() == width * picks.len() => None,
            Ok(Ok(())) => Some("the encoder gave another number of rows".to_owned()),
            Ok(Err(error)) => Some(error.to_string()),
            Err(_) => Some("the encoder panicked".to_owned()),
        };
        let Some(message) = failed else {
            self.shared.lock().queue.learn(n_tokens, took);
            let per_token = spent.as_secs_f64() / n_tokens.max(1) as f64;
            self.hand_out(picks, &rows, width, per_token);
            return;
        };
        self.stats.count_failed_step();
        if may_split && picks.len() > 1 {
            tracing::warn!(message, "a batch of an encoder failed; its texts are tried alone");
            picks.iter().for_each(|pick| self.encode(&[*pick], false));
            return;
        }
        let job = picks.first().and_then(|pick| self.shared.lock().queue.take(pick.job));
        if let Some(job) = job {
            self.finish(job, Err(GenerateError::Backend { message }));
        }
    }

    fn pack(&self, picks: &[Pick]) -> EncoderBatch {
        let mut batch = EncoderBatch::new();
        let mut state = self.shared.lock();
        for pick in picks {
            // A request that failed meanwhile has no texts left; its place is kept by an empty one.
            let text = state.queue.job(pick.job).map(|job| &job.submission.texts[pick.text]);
            match text {
                Some(text) => batch.push(&text.input_ids, &text.token_types),
                None => batch.push(&[0], &[0]),
            }
        }
        batch
    }

    fn hand_out(&self, picks: &[Pick], rows: &[f32], width: usize, cpu_per_token: f64) {
        let mut ended = Vec::new();
        let mut state = self.shared.lock();
        for (pick, row) in picks.iter().zip(rows.chunks_exact(width)) {
            let Some(job) = state.queue.job(pick.job) else { continue };
            if row.iter().any(|x| !x.is_finite()) {
                let message = format!("text {} gave what is not a number", pick.text);
                let error = GenerateError::Sequence { message };
                ended.extend(state.queue.take(pick.job).map(|job| (job, Err(error))));
                continue;
            }
            job.done.rows[pick.text] = row.to_vec();
            let len = job.submission.texts[pick.text].input_ids.len();
            job.done.cpu_seconds += cpu_per_token * len as f64;
            job.n_missing -= 1;
            if job.n_missing == 0 {
                ended.extend(state.queue.take(pick.job).map(|job| (job, Ok(()))));
            }
        }
        self.stats.set_queue(state.queue.counts());
        drop(state);
        for (job, end) in ended {
            self.finish(job, end);
        }
    }

    /// Records a request and tells its reader.
    fn finish(&self, mut job: Job, end: Result<(), GenerateError>) {
        let now = self.stats.now();
        let waited_until = job.first_batch.unwrap_or(now);
        job.done.queue_wait = waited_until.since(job.arrival);
        job.done.e2e = now.since(job.arrival);
        let outcome = match &end {
            Ok(()) => Outcome::Finished(FinishReason::Stop),
            Err(error) => {
                self.stats.count_failed(error);
                Outcome::Failed(error.clone())
            }
        };
        if end.is_ok() {
            self.count(&job, FinishReason::Stop);
        }
        self.record(&job, outcome);
        let done = std::mem::take(&mut job.done);
        job.reply.end(end.map(|()| done));
    }

    /// Nobody reads it any more.
    fn abandon(&self, job: Job) {
        self.count(&job, FinishReason::Abort);
        self.record(&job, Outcome::Finished(FinishReason::Abort));
    }

    fn count(&self, job: &Job, reason: FinishReason) {
        let (usage, timings) = (usage_of(job), timings_of(job));
        self.stats.count_encoded(&Finish { reason, usage, timings });
    }

    fn record(&self, job: &Job, outcome: Outcome) {
        self.parts.observer.record(&RequestEvent {
            request: (*job.submission.request).clone(),
            task: job.submission.task,
            choice: 0,
            model: self.parts.served_by.model.clone(),
            release: self.parts.served_by.release,
            arrived_at: job.submission.arrived_at,
            outcome,
            output_text: String::new(),
            prompt_tokens: Vec::new(),
            output_tokens: Vec::new(),
            usage: usage_of(job),
            timings: timings_of(job),
            timeline: Timeline::default(),
            hits: Vec::new(),
            mean_logprob: None,
        });
    }
}

/// What was read of it, whole or not.
fn usage_of(job: &Job) -> Usage {
    let begun = job.first_batch.is_some();
    Usage { prompt_tokens: if begun { job.done.n_tokens } else { 0 }, ..Usage::default() }
}

fn timings_of(job: &Job) -> Timings {
    Timings {
        queue_wait: job.done.queue_wait,
        e2e: job.done.e2e,
        cpu_seconds: job.done.cpu_seconds,
        ..Timings::default()
    }
}
