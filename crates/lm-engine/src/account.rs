//! What a step cost, and whose it is.
//!
//! It must never lose or invent a part: what was measured is shared out whole.

use std::sync::atomic::Ordering::Relaxed;

use lm_types::Timestamp;

use crate::Engine;
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
    pub(crate) fn account(&mut self, started: Timestamp) {
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
        self.stats.cpu_nanos.fetch_add(spent.as_nanos() as u64, Relaxed);
        self.stats.add_joules(joules.unwrap_or(0.0));
        self.stats.steps.fetch_add(1, Relaxed);
        self.stats.record_step(self.stats.now() - started);
    }
}
