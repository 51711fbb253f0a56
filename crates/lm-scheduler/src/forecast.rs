//! When a request that comes now would get its slot and its first token.
//!
//! A small simulation of what is known: those that run end when their answers are as long as answers
//! are here, those that wait get slots in their order, and prefill shares each step with the decodes.
//!
//! Start reading at [`Load::forecast`].

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use lm_types::TenantId;

use crate::{CostModel, Scheduler, StepShape};

/// Prefill gets at least this part of a step's time, whatever decodes.
const LEAST_PREFILL_PART: f64 = 0.2;
/// Parts of a token in which the ends of answers are counted.
const GRAIN: f64 = 1024.0;

/// What the engine has to do, as of its last step.
#[derive(Debug, Default)]
pub struct Load {
    pub(crate) cost: CostModel,
    running: Vec<Running>,
    /// What tenants were served, by id.
    served: Vec<(TenantId, u64)>,
    level: u64,
    /// Seconds of the step that runs.
    step_seconds: f64,
    /// Seconds of a step that holds decodes and prefill; 0 without a bound.
    bound_seconds: f64,
    max_num_seqs: usize,
    max_batch_tokens: usize,
    n_slots_in_pool: usize,
    /// When decoding sequences end, in grains. Reused.
    ends: BinaryHeap<Reverse<u64>>,
}

/// A sequence that has a slot.
#[derive(Clone, Copy, Debug)]
struct Running {
    n_prefill: usize,
    context: usize,
    n_generated: usize,
    max_new_tokens: usize,
}

/// What a sequence will take.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Demand {
    pub(crate) prompt_tokens: usize,
    /// Tokens that it will generate, as far as one can tell.
    pub(crate) output_tokens: f64,
}

/// What is predicted for the last of some sequences, in seconds from now.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Forecast {
    /// Until it is first scheduled.
    pub queue_wait: f64,
    /// Until its first token.
    pub ttft: f64,
}

impl Load {
    /// An engine that has nothing to do.
    #[must_use]
    pub fn new(scheduler: &Scheduler) -> Self {
        let mut load = Load::default();
        load.read(scheduler);
        load
    }

    /// Takes in how things stand now. Once warm it allocates nothing.
    pub fn read(&mut self, scheduler: &Scheduler) {
        let config = scheduler.config();
        self.cost.clone_from(scheduler.cost());
        self.running.clear();
        self.running.extend(scheduler.running.iter().map(|id| {
            let seq = &scheduler.sequences[id];
            let n_left = seq.n_remaining();
            Running {
                n_prefill: if n_left > 1 { n_left } else { 0 },
                context: seq.tokens.len(),
                n_generated: seq.n_generated(),
                max_new_tokens: seq.max_new_tokens,
            }
        }));
        self.served.clear();
        self.served.extend(scheduler.tenants.active().map(|(id, tenant)| (id, tenant.served)));
        self.level = scheduler.tenants.level();
        self.step_seconds = scheduler.step().predicted_seconds;
        self.bound_seconds = scheduler.mixed_part() * config.max_token_gap.as_secs_f64();
        self.max_num_seqs = config.max_num_seqs;
        self.max_batch_tokens = config.max_batch_tokens;
        self.n_slots_in_pool = config.n_blocks * config.block_size;
    }

    /// Whether nothing has a slot.
    pub(crate) fn is_idle(&self) -> bool {
        self.running.is_empty()
    }

    /// What a tenant was served, counted from when it would begin to wait.
    pub(crate) fn served(&self, tenant: TenantId) -> u64 {
        let found = self.served.binary_search_by_key(&tenant, |(id, _)| *id);
        found.map_or(self.level, |i| self.served[i].1.max(self.level))
    }

    /// The machine's time for one sequence when slots are full, in seconds: what the engine's backlog
    /// grows by.
    pub(crate) fn machine_seconds(&self, demand: &Demand) -> f64 {
        let n_decodes = self.running.len().max(1);
        let decode = self.decode_seconds(n_decodes, self.mean_context()) / n_decodes as f64;
        self.cost.prefill(0, demand.prompt_tokens) + demand.output_tokens * decode
    }

    /// When the last of `own` gets its slot and its first token, after all that run and all of `ahead`.
    /// `mean_output` is how long answers are here.
    pub(crate) fn forecast(
        &mut self,
        mean_output: f64,
        ahead: impl Iterator<Item = Demand>,
        own: &[Demand],
    ) -> Forecast {
        let mut ends = std::mem::take(&mut self.ends);
        ends.clear();
        let context = self.mean_context();
        let slots = self.effective_slots(mean_output);
        let mut run = Run { now: self.step_seconds / 2.0, tokens: 0.0, n_held: self.running.len() };
        for running in self.running.iter().filter(|running| running.n_prefill == 0) {
            ends.push(Reverse(grains(running.output_left(mean_output))));
        }
        for running in self.running.iter().filter(|running| running.n_prefill > 0) {
            let start = running.context - running.n_prefill;
            self.prefill(&mut run, &mut ends, context, self.cost.prefill(start, running.n_prefill));
            ends.push(Reverse(grains(run.tokens + running.output_left(mean_output))));
        }
        let mut forecast = Forecast::default();
        for demand in ahead.chain(own.iter().copied()) {
            while run.n_held >= slots {
                let Some(Reverse(end)) = ends.pop() else { break };
                let n_decodes = ends.len() + 1;
                let left = (end as f64 / GRAIN - run.tokens).max(0.0);
                run.now += left * self.decode_seconds(n_decodes, context);
                run.tokens += left;
                run.n_held -= 1;
            }
            run.n_held += 1;
            forecast.queue_wait = run.now;
            self.prefill(&mut run, &mut ends, context, self.cost.prefill(0, demand.prompt_tokens));
            forecast.ttft = run.now + self.decode_seconds(ends.len(), context);
            ends.push(Reverse(grains(run.tokens + demand.output_tokens)));
        }
        self.ends = ends;
        forecast
    }

    /// Time passes while a prompt that takes `seconds` alone is computed beside the decodes.
    fn prefill(
        &self,
        run: &mut Run,
        ends: &mut BinaryHeap<Reverse<u64>>,
        context: usize,
        seconds: f64,
    ) {
        if !ends.is_empty() {
            let decodes = self.decode_seconds(ends.len(), context);
            let step = match self.bound_seconds {
                bound if bound > 0.0 => bound.max(decodes),
                _ => decodes + self.cost.prefill(context, self.max_batch_tokens),
            };
            let part = (1.0 - decodes / step).max(LEAST_PREFILL_PART);
            run.tokens += seconds / part / step;
            run.now += seconds / part;
        } else {
            run.now += seconds;
        }
        while ends.peek().is_some_and(|Reverse(end)| (*end as f64) / GRAIN <= run.tokens) {
            ends.pop();
            run.n_held -= 1;
        }
    }

    fn decode_seconds(&self, n_decodes: usize, context: usize) -> f64 {
        let shape =
            StepShape { n_decodes, decode_attended: n_decodes * context, ..StepShape::default() };
        self.cost.predict(&shape)
    }

    fn mean_context(&self) -> usize {
        let sum: usize = self.running.iter().map(|running| running.context).sum();
        sum / self.running.len().max(1)
    }

    /// Sequences that can run at once: fewer than there are slots, when they are long for the pool.
    fn effective_slots(&self, mean_output: f64) -> usize {
        let tokens = self.mean_context() + (mean_output / 2.0) as usize;
        (self.n_slots_in_pool / tokens.max(1)).clamp(1, self.max_num_seqs.max(1))
    }
}

/// How far a forecast has come.
struct Run {
    /// Seconds from now.
    now: f64,
    /// Tokens that each decoding sequence has generated since.
    tokens: f64,
    /// Slots that are held.
    n_held: usize,
}

impl Running {
    fn output_left(&self, mean_output: f64) -> f64 {
        // One that is longer than most goes on for as long as it may be half as long as most.
        let expected = (mean_output - self.n_generated as f64).max(mean_output / 2.0);
        expected.min((self.max_new_tokens - self.n_generated) as f64)
    }
}

fn grains(tokens: f64) -> u64 {
    (tokens * GRAIN) as u64
}
