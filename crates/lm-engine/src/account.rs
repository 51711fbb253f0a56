//! What a step cost, and whose it is.
//!
//! It must never lose or invent a part: what was measured is shared out whole.

use std::sync::atomic::Ordering::Relaxed;

use lm_scheduler::Sequence;
use lm_types::{Timestamp, Usage};

use crate::Engine;
use crate::active::Active;
use crate::cpu_time::process_cpu_time;

impl Engine {
    /// What the process did while no engine had work is nobody's.
    pub(crate) fn skip_idle_cost(&self) {
        let _unshared = self.parts.arbiter.take_cpu_time(process_cpu_time());
        if let Some(take_joules) = &self.parts.take_joules {
            let _unshared = take_joules();
        }
    }

    /// Shares what was spent since the last accounting among the step's rows, by what the cost model says that each
    /// of them takes.
    pub(crate) fn account(&mut self) {
        let spent = self.parts.arbiter.take_cpu_time(process_cpu_time());
        let joules = self.parts.take_joules.as_ref().and_then(|take| take());
        let mut shares = std::mem::take(&mut self.shares);
        self.scheduler.cost().shares(&self.rows, &mut shares);
        for (row, share) in self.rows.iter().zip(&shares) {
            let active = self.active.get_mut(&row.seq).expect("a scheduled sequence is active");
            active.cpu_seconds += spent.as_secs_f64() * share;
            active.joules = active.joules.zip(joules).map(|(sum, joules)| sum + joules * share);
        }
        self.shares = shares;
        for row in &self.rows {
            let seq = self.scheduler.sequence(row.seq).expect("a scheduled sequence is known");
            let active = self.active.get_mut(&row.seq).expect("a scheduled sequence is active");
            // What draws tokens is asked for each of them, when it is handed out.
            if !row.samples || active.max_new_tokens == 0 {
                active.spend(seq, seq.n_generated());
            }
        }
        self.stats.cpu_nanos.fetch_add(spent.as_nanos() as u64, Relaxed);
        self.stats.add_joules(joules.unwrap_or(0.0));
    }

    /// Counts a step that was computed to its end; how long others may take is judged by it.
    pub(crate) fn count_step(&self, started: Timestamp) {
        self.stats.steps.fetch_add(1, Relaxed);
        self.stats.record_step(self.stats.now() - started);
    }

    /// Teaches the scheduler how long the step took, all of it.
    pub(crate) fn learn(&mut self, started: Timestamp) {
        let seconds = (self.stats.now() - started).as_secs_f64();
        let predicted = self.scheduler.step().predicted_seconds;
        self.scheduler.observe(seconds);
        let error_ratio = self.scheduler.cost().relative_error();
        self.stats.record_prediction(predicted, seconds, error_ratio);
    }

    /// Teaches the scheduler what a step shows that was given up: where it took longer than was thought, a whole
    /// one takes as long at least.
    pub(crate) fn learn_of_unfinished(&mut self, started: Timestamp) {
        let seconds = (self.stats.now() - started).as_secs_f64();
        if seconds > self.scheduler.step().predicted_seconds {
            self.scheduler.observe(seconds);
        }
    }
}

impl Active {
    /// Counts what it took with the first `n_generated` tokens of its sequence, where it has an allowance.
    pub(crate) fn spend(&mut self, seq: &Sequence, n_generated: usize) {
        let Some(allowance) = &self.request.allowance else { return };
        let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        let (n_prompt, n_cached) = match &self.before {
            Some(before) => (before.n_prompt, before.n_cached),
            None => (seq.n_prompt(), 0),
        };
        let usage = Usage {
            prompt_tokens: count(n_prompt),
            completion_tokens: count(self.carried + n_generated),
            cached_tokens: count(n_cached),
            // They are completion tokens, and cost the same.
            reasoning_tokens: 0,
        };
        self.is_spent = !allowance.0.spend(self.choice, usage, self.cpu_seconds);
    }
}
