//! A load on a model whose step costs are known, without the model.
//!
//! Start reading at [`predict`].

use std::time::Duration;

use lm_backend::{StepCosts, StepLoad};
use lm_scheduler::{Drawn, NewSequence, Scheduler, SchedulerConfig, StepShape};
use lm_types::{Priority, SeqId, TenantId, Timestamp};

use crate::RuntimeConfig;
use crate::calibrate::{CalibrateError, Prediction};

/// Requests of each stream in a prediction.
const REQUESTS_PER_STREAM: usize = 4;

/// A closed loop of `streams` on the real scheduler, with a clock that `costs` turn.
///
/// # Errors
/// Limits that contradict each other, or a request that does not fit them.
pub fn predict(
    costs: &StepCosts,
    config: &RuntimeConfig,
    streams: usize,
    prompt_tokens: usize,
    output_tokens: usize,
) -> Result<Prediction, CalibrateError> {
    let len = prompt_tokens + output_tokens;
    let engine = &config.engine;
    let block_size = config.block_size.max(1);
    let scheduler = Scheduler::new(SchedulerConfig {
        block_size,
        n_blocks: streams.max(1) * len.div_ceil(block_size),
        max_model_len: len,
        max_num_seqs: engine.max_num_seqs,
        max_batch_tokens: engine.max_batch_tokens,
        max_prefill_chunk: engine.max_prefill_chunk,
        max_queued_requests: engine.max_queued_requests,
        max_queued_tokens: engine.max_queued_tokens,
        max_token_gap: engine.max_token_gap,
        batch_patience: engine.batch_patience,
        prefix_cache: false,
        speculate: false,
        max_extra_logits: engine.max_extra_logits,
    })?;
    if streams == 0 || prompt_tokens == 0 || output_tokens == 0 {
        let name = "streams, prompt_tokens and output_tokens";
        return Err(CalibrateError::Option { name, value: 0, limit: "at least 1" });
    }
    let mut run = Simulated {
        scheduler,
        costs: *costs,
        now: Timestamp(0),
        lengths: (prompt_tokens, output_tokens),
        answers: Vec::new(),
    };
    let n_requests = streams * REQUESTS_PER_STREAM;
    (0..streams).for_each(|_| run.send());
    while run.step(n_requests) {}
    Ok(run.sum(streams))
}

/// A load whose time is computed.
struct Simulated {
    scheduler: Scheduler,
    costs: StepCosts,
    now: Timestamp,
    /// Tokens of prompts and answers.
    lengths: (usize, usize),
    /// When each was sent, had its first token, and ended.
    answers: Vec<(Timestamp, Option<Timestamp>, Option<Timestamp>)>,
}

impl Simulated {
    fn send(&mut self) {
        let new = NewSequence {
            id: SeqId(self.answers.len() as u64),
            prompt: vec![0; self.lengths.0],
            max_new_tokens: self.lengths.1,
            priority: Priority::Interactive,
            tenant: TenantId::ANONYMOUS,
            arrived: self.now,
            start_by: None,
            deadline: None,
            cache_salt: 0,
            scores_prompt: false,
        };
        self.answers.push((self.now, None, None));
        self.scheduler.add(new).expect("the limits are made for it: this is a bug");
    }

    /// Runs a step; false when there is nothing left.
    fn step(&mut self, n_requests: usize) -> bool {
        let step = self.scheduler.schedule(self.now);
        if step.rows.is_empty() {
            return false;
        }
        let cost = self.costs.of(&load_of(&step.shape)).max(Duration::from_micros(1));
        let drawn: Vec<Drawn> = step
            .rows
            .iter()
            .filter(|row| row.samples)
            .map(|row| Drawn { seq: row.seq, token: 0 })
            .collect();
        self.now = self.now + cost;
        self.scheduler.complete(&drawn);
        self.scheduler.observe(cost.as_secs_f64());
        for Drawn { seq, .. } in drawn {
            let answer = &mut self.answers[seq.0 as usize];
            answer.1.get_or_insert(self.now);
            let n_generated = self.scheduler.sequence(seq).map_or(0, |seq| seq.n_generated());
            if n_generated == self.lengths.1 {
                answer.2 = Some(self.now);
                self.scheduler.remove(seq);
                if self.answers.len() < n_requests {
                    self.send();
                }
            }
        }
        true
    }

    fn sum(&self, streams: usize) -> Prediction {
        let seconds = |times: &dyn Fn(&(Timestamp, Timestamp, Timestamp)) -> Duration| {
            let ended = self
                .answers
                .iter()
                .filter_map(|(sent, first, end)| Some((*sent, (*first)?, (*end)?)));
            let mut all: Vec<f64> = ended.map(|answer| times(&answer).as_secs_f64()).collect();
            all.sort_by(f64::total_cmp);
            all.get(all.len() / 2).copied().unwrap_or(0.0)
        };
        let n_tokens = self.answers.len() * self.lengths.1;
        let n_gaps = self.lengths.1.saturating_sub(1).max(1);
        Prediction {
            streams,
            output_tokens_per_s: n_tokens as f64 / (self.now - Timestamp(0)).as_secs_f64(),
            ttft_ms_p50: seconds(&|(sent, first, _)| *first - *sent) * 1e3,
            tpot_ms_p50: seconds(&|(_, first, end)| *end - *first) * 1e3 / n_gaps as f64,
        }
    }
}

fn load_of(shape: &StepShape) -> StepLoad {
    StepLoad {
        n_decodes: shape.n_decodes as u64,
        n_prefill_tokens: shape.n_prefill_tokens as u64,
        decode_attended: shape.decode_attended as u64,
        prefill_attended: shape.prefill_attended as u64,
    }
}
