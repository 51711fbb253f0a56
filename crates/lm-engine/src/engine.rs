//! The step: drain commands, look ahead, schedule, pack, execute, sample, complete, emit.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use lm_backend::{Activity, Backend, BackendError, Batch, LogitsBuf, StepArbiter};
use lm_scheduler::{
    ConfigError, Drawn, Expired, ScheduledRow, Scheduler, SchedulerConfig, Sequence,
};
use lm_tokenizer::Tokenizer;
use lm_types::{FinishReason, GenerateError, Observer, Outcome, SeqId, Timestamp};

use crate::active::{Accepted, Active, ServedBy};
use crate::chronicle::Chronicle;
use crate::draw::{Draw, panic_message};
use crate::draw_room::DrawRoom;
use crate::exchange::Exchange;
use crate::masks::MaskPool;
use crate::siblings::Sibling;
use crate::submit::{Door, QueuePlace};
use crate::want::want;
use crate::{BlockStore, EngineStats, NewSubmission};

/// What an engine is made of.
pub struct EngineParts {
    /// Computes.
    pub backend: Box<dyn Backend>,
    /// Turns tokens into bytes.
    pub tokenizer: Arc<Tokenizer>,
    /// Hears of each answer when it is over.
    pub observer: Arc<dyn Observer>,
    /// What stands in every record.
    pub served_by: ServedBy,
    /// Shared by the engines of a process, which take turns.
    pub arbiter: Arc<StepArbiter>,
    /// Where KV blocks are kept outside of the pool.
    pub block_store: Option<BlockStore>,
    /// What the machine draws, where that can be read. Shared by the engines of a process.
    pub take_joules: Option<TakeJoules>,
}

/// Joules that the machine drew since the last call; `None` when they could not be read.
pub type TakeJoules = Arc<dyn Fn() -> Option<f64> + Send + Sync>;

/// The engine itself, without its thread.
pub struct Engine {
    pub(crate) parts: EngineParts,
    pub(crate) scheduler: Scheduler,
    door: Door,
    pub(crate) stats: Arc<EngineStats>,
    pub(crate) active: BTreeMap<SeqId, Active>,
    pub(crate) exchange: Option<Exchange>,
    pub(crate) chronicle: Chronicle,
    pub(crate) next_seq: u64,
    /// The first answer of the request that came last.
    pub(crate) last_first: Option<SeqId>,
    /// Answers whose prompt is being computed for another one.
    pub(crate) siblings: Vec<Sibling>,
    /// The bound as it was configured; engines that have work at the same time share it.
    max_token_gap: Duration,
    /// While there is something to do.
    activity: Option<Activity>,
    // Buffers of one step, reused.
    batch: Batch,
    pub(crate) logits: LogitsBuf,
    pub(crate) rows: Vec<ScheduledRow>,
    pub(crate) draws: Vec<Draw>,
    pub(crate) draw_room: DrawRoom,
    drawn: Vec<Drawn>,
    leaving: Vec<SeqId>,
    pub(crate) shares: Vec<f64>,
    pub(crate) masks: MaskPool,
}

impl Engine {
    pub(crate) fn new(
        mut parts: EngineParts,
        mut config: SchedulerConfig,
        stats: Arc<EngineStats>,
    ) -> Result<Self, ConfigError> {
        let (n_seqs, vocab_size) = (config.max_num_seqs, parts.backend.spec().vocab_size);
        config.speculate &= parts.backend.spec().rows_are_exact;
        let n_logits = n_seqs + config.max_extra_logits;
        // Checks the limits before memory is set aside for them.
        let mut scheduler = Scheduler::new(config.clone())?;
        let block_store = parts.block_store.take();
        let exchange = block_store.map(|store| Exchange::new(store, &mut scheduler, &stats));
        stats.n_blocks.store(config.n_blocks as u64, Relaxed);
        stats.n_free_blocks.store(config.n_blocks as u64, Relaxed);
        stats.measures_energy(parts.take_joules.is_some());
        Ok(Engine {
            batch: Batch::with_capacity(config.max_batch_tokens, n_seqs, 2 * config.n_blocks),
            logits: LogitsBuf::with_capacity(n_logits, vocab_size),
            rows: Vec::with_capacity(n_seqs),
            draws: Vec::with_capacity(n_logits),
            draw_room: DrawRoom::new((n_seqs, n_logits), vocab_size, config.max_model_len),
            drawn: Vec::with_capacity(n_logits),
            leaving: Vec::with_capacity(n_seqs),
            shares: Vec::with_capacity(n_seqs),
            masks: MaskPool::default(),
            door: Door::new(&scheduler),
            scheduler,
            active: BTreeMap::new(),
            exchange,
            chronicle: Chronicle::new(parts.observer.wants_steps(), n_logits),
            next_seq: 0,
            last_first: None,
            siblings: Vec::new(),
            max_token_gap: config.max_token_gap,
            activity: None,
            stats,
            parts,
        })
    }

    /// Runs one step: what can run, runs one round.
    pub fn step(&mut self) {
        let (arbiter, asked) = (Arc::clone(&self.parts.arbiter), self.stats.now());
        // Who waits for its turn is alive.
        let _turn = (!self.is_idle()).then(|| arbiter.turn(|| self.stats.beat()));
        self.exchange_blocks();
        let started = self.stats.now();
        self.drop_abandoned();
        self.look_ahead();
        self.schedule(started);
        if !self.rows.is_empty() {
            self.pack();
            self.stats.set_step(self.rows.len(), self.batch.n_tokens());
            self.publish();
            match self.execute() {
                Ok(()) => {
                    self.sample();
                    self.account();
                    self.count_step(started);
                    self.note_step(asked, started);
                    self.complete();
                    self.emit();
                    self.learn(started);
                }
                Err(error) => {
                    self.account();
                    // A failure says nothing of how long others take.
                    if error == BackendError::GivenUp {
                        self.learn_of_unfinished(started);
                    }
                    self.end_step(&error);
                }
            }
            self.stats.set_step(0, 0);
        }
        self.publish();
    }

    /// Who may wait.
    pub(crate) fn door(&self) -> &Door {
        &self.door
    }

    /// Whether there is nothing to do.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.active.is_empty()
    }

    #[cfg(test)]
    pub(crate) fn observe_with(&mut self, observer: Arc<dyn Observer>) {
        self.parts.observer = observer;
    }

    /// Takes an answer in; refusals go to its reader.
    pub(crate) fn add(&mut self, mut new: NewSubmission, place: QueuePlace, arrival: Timestamp) {
        if self.activity.is_none() {
            let arbiter = &self.parts.arbiter;
            // What the process did while no engine had work is nobody's.
            if arbiter.n_active() == 0 {
                self.skip_idle_cost();
            }
            self.activity = Some(arbiter.begin());
        }
        let id = SeqId(self.next_seq);
        self.next_seq += 1;
        let prompt = std::mem::take(&mut new.prompt);
        let mut active = Active::new(new, place, arrival, &self.parts.tokenizer);
        active.joules = self.parts.take_joules.as_ref().map(|_| 0.0);
        let sequence = active.sequence(id, prompt);
        let (request, choice) = (Arc::clone(&active.request), active.choice);
        self.active.insert(id, active);
        self.add_or_hold(&request, choice, id, sequence);
    }

    /// Ends every answer at once.
    pub(crate) fn abort_all(&mut self) {
        while let Some((&id, _)) = self.active.first_key_value() {
            self.end(id, Outcome::Failed(GenerateError::ShuttingDown));
        }
        self.publish();
    }

    /// Ends answers that nobody reads; their blocks are free before this step is planned.
    fn drop_abandoned(&mut self) {
        let abandoned = self.active.iter().filter(|(_, active)| active.output.is_abandoned());
        self.leaving.extend(abandoned.map(|(id, _)| *id));
        while let Some(id) = self.leaving.pop() {
            self.end(id, Outcome::Finished(FinishReason::Abort));
        }
    }

    fn schedule(&mut self, now: Timestamp) {
        self.release_siblings();
        // Between two tokens of an answer every engine that has work runs a step.
        let n_engines = self.parts.arbiter.n_active().max(1) as u32;
        self.scheduler.set_max_token_gap(self.max_token_gap / n_engines);
        let step = self.scheduler.schedule(now);
        self.rows.clear();
        self.rows.extend_from_slice(&step.rows);
        self.note_displaced(now);
        while let Some(expired) = self.scheduler.take_expired() {
            self.expire(&expired);
        }
        for row in &self.rows {
            let active = self.active.get_mut(&row.seq).expect("a scheduled sequence is active");
            active.admitted(now, &self.stats);
        }
    }

    fn pack(&mut self) {
        let block_size = self.scheduler.config().block_size;
        self.batch.clear();
        for row in &self.rows {
            let seq = self.scheduler.sequence(row.seq).expect("a scheduled sequence is known");
            let active = &self.active[&row.seq];
            let must_see_all = active.must_see_all(seq) || row.n_logits > row.n_drafts + 1;
            let tokens = &seq.tokens_and_drafts()[row.start..row.start + row.n_tokens];
            self.batch.push_sequence(tokens, row.start, seq.block_table(), block_size, None);
            if row.n_logits > 0 {
                let must_see_all = must_see_all || !row.samples;
                self.batch.sample_last(row.n_logits, want(&active.sampling, must_see_all));
            }
            if let Some(adapter) = &active.adapter {
                self.batch.set_adapter(adapter.id);
            }
        }
    }

    /// Computes the step, as long as somebody reads one of its answers.
    fn execute(&mut self) -> Result<(), BackendError> {
        let Engine { parts, batch, logits, rows, active, .. } = self;
        let is_read = |row: &ScheduledRow| !active[&row.seq].output.is_abandoned();
        let execute = || parts.backend.execute_while(batch, logits, &|| rows.iter().any(is_read));
        // A backend that panics has failed its step; weights and older KV are untouched by it.
        catch_unwind(AssertUnwindSafe(execute))
            .unwrap_or_else(|panic| Err(BackendError::Compute { message: panic_message(&*panic) }))
    }

    fn complete(&mut self) {
        let drawn = self.draws.iter().filter_map(|draw| {
            let sampled = draw.sampled.as_ref().ok()?;
            Some(Drawn { seq: draw.seq, token: sampled.token })
        });
        self.drawn.clear();
        self.drawn.extend(drawn);
        self.scheduler.complete(&self.drawn);
    }

    fn emit(&mut self) {
        let now = self.stats.now();
        self.tell_prompts();
        let mut draws = std::mem::take(&mut self.draws);
        for draw in draws.drain(..) {
            // What was drawn after an answer's end is not drawn.
            if self.active.contains_key(&draw.seq) {
                self.emit_draw(draw, now);
            }
        }
        self.draws = draws;
        for i in 0..self.rows.len() {
            let row = self.rows[i];
            let Some(active) = self.active.get(&row.seq) else { continue };
            if row.samples && active.max_new_tokens == 0 {
                self.end(row.seq, Outcome::Finished(FinishReason::Length));
            } else if active.is_spent {
                // Its prompt is not computed to the end.
                self.end(row.seq, Outcome::Finished(FinishReason::Budget));
            }
        }
    }

    fn emit_draw(&mut self, draw: Draw, now: Timestamp) {
        let Draw { seq: id, position, sampled, is_complete } = draw;
        let sampled = match sampled {
            Ok(sampled) => sampled,
            Err(why) => return self.end_undrawn(id, position, why),
        };
        let seq = self.scheduler.sequence(id).expect("a drawn-for sequence is known");
        let n_generated = position + 1 - seq.n_prompt();
        let active = self.active.get_mut(&id).expect("a drawn-for sequence is active");
        self.stats.generation_tokens.fetch_add(1, Relaxed);
        active.clock_token(now, &self.stats);
        active.spend(seq, n_generated);
        let tokenizer = &self.parts.tokenizer;
        let accept = || active.accept(sampled, is_complete, n_generated, tokenizer);
        let accepted = catch_unwind(AssertUnwindSafe(accept));
        if !matches!(accepted, Ok(Ok(Accepted::GoesOn))) {
            self.scheduler.cut(id, position + 1);
        }
        match accepted {
            Ok(Ok(Accepted::GoesOn)) => {}
            Ok(Err(error)) => self.end(id, Active::fault(error.to_string())),
            Ok(Ok(Accepted::Ends(reason))) => self.end(id, Outcome::Finished(reason)),
            Ok(Ok(Accepted::TurnsBack { cut })) => self.turn_back(id, cut),
            Err(panic) => self.end(id, Active::fault(panic_message(&*panic))),
        }
    }

    /// Ends the answers whose KV a step left undefined.
    fn end_step(&mut self, error: &BackendError) {
        let mut rows = std::mem::take(&mut self.rows);
        let is_read = |active: &BTreeMap<SeqId, Active>, id| !active[&id].output.is_abandoned();
        if *error != BackendError::GivenUp || rows.iter().any(|row| is_read(&self.active, row.seq))
        {
            self.stats.failed_steps.fetch_add(1, Relaxed);
            tracing::error!(%error, n_sequences = rows.len(), "a step failed");
        }
        for ScheduledRow { seq, .. } in rows.drain(..) {
            let error = GenerateError::Backend { message: error.to_string() };
            let is_read = is_read(&self.active, seq);
            let aborted = Outcome::Finished(FinishReason::Abort);
            self.end(seq, if is_read { Outcome::Failed(error) } else { aborted });
        }
        self.rows = rows;
    }

    /// Ends an answer whose time has passed; the scheduler has forgotten it.
    fn expire(&mut self, expired: &Expired) {
        let Expired { id, sequence, by_deadline } = expired;
        let counter = match sequence.first_scheduled() {
            None => &self.stats.expired_waiting,
            Some(_) => &self.stats.expired_running,
        };
        counter.fetch_add(1, Relaxed);
        let outcome = self.active[id].too_late(*by_deadline, sequence.n_generated());
        self.finish(*id, Some(sequence), outcome);
    }

    /// Forgets an answer, records it, then tells its reader. Its blocks are free at once.
    pub(crate) fn end(&mut self, id: SeqId, outcome: Outcome) {
        let is_broken = matches!(outcome, Outcome::Failed(GenerateError::Sequence { .. }));
        let seq = match is_broken {
            true => self.scheduler.remove_broken(id),
            false => self.scheduler.remove(id),
        };
        self.finish(id, seq.as_ref(), outcome);
    }

    pub(crate) fn finish(&mut self, id: SeqId, seq: Option<&Sequence>, outcome: Outcome) {
        let active = self.active.remove(&id).expect("an answer ends once: this is a bug");
        let now = self.stats.now();
        if let (Some(seq), Outcome::Finished(FinishReason::Stop | FinishReason::Length)) =
            (seq, &outcome)
        {
            self.door.lock().answered(seq.n_generated());
        }
        let (event, signal) = active.end(seq, outcome, now, &self.parts.served_by);
        match signal.end() {
            Ok(finish) => self.stats.count_finished(finish),
            Err(error) => self.stats.count_failed(error),
        }
        self.stats.prompt_tokens.fetch_add(u64::from(event.usage.prompt_tokens), Relaxed);
        let observer = &self.parts.observer;
        if catch_unwind(AssertUnwindSafe(|| observer.record(&event))).is_err() {
            tracing::error!("the observer panicked; an answer is not recorded");
        }
        signal.send();
    }

    fn publish(&mut self) {
        if self.is_idle() {
            self.activity = None;
        }
        let (stats, counters) = (&self.stats, self.scheduler.counters());
        stats.n_running.store(self.scheduler.n_running() as u64, Relaxed);
        let n_waiting = self.scheduler.n_waiting() + self.siblings.len();
        stats.n_waiting.store(n_waiting as u64, Relaxed);
        stats.n_free_blocks.store(self.scheduler.blocks().n_free() as u64, Relaxed);
        stats.prefix_query_tokens.store(counters.prefix_query_tokens, Relaxed);
        stats.prefix_hit_tokens.store(counters.prefix_hit_tokens, Relaxed);
        stats.preemptions.store(counters.preemptions, Relaxed);
        stats.pauses.store(counters.pauses, Relaxed);
        stats.record_drafts(&counters);
        stats.record_cache(&counters, self.scheduler.n_dropped_exports());
        let mut admission = self.door.lock();
        admission.observe(&self.scheduler);
        stats.queued_tokens.store(admission.queued_tokens() as u64, Relaxed);
        drop(admission);
        stats.beat();
    }
}
