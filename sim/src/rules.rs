//! What must hold of each step, besides the scheduler's own integrity.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use lm_scheduler::{ScheduledRow, Scheduler, SchedulerConfig};
use lm_types::{Priority, SeqId, TenantId};

/// Prefill tokens that a step may hold whatever they take.
const LEAST_CHUNK: usize = 16;

/// How things stood before a step was planned.
pub(crate) struct Before {
    /// Sequences without a slot, by id.
    waiting: BTreeMap<SeqId, TenantId>,
    /// Those of them that never had one, and hold no blocks from one in which they only imported.
    new: BTreeSet<SeqId>,
    served: BTreeMap<TenantId, u64>,
}

impl Before {
    pub(crate) fn read(scheduler: &Scheduler, ids: impl Iterator<Item = SeqId>) -> Self {
        let sequences = ids.filter_map(|id| Some((id, scheduler.sequence(id)?)));
        let waiting: Vec<_> = sequences.filter(|(_, seq)| !seq.is_running()).collect();
        Before {
            new: waiting
                .iter()
                .filter(|(_, seq)| seq.first_scheduled().is_none() && seq.block_table().is_empty())
                .map(|(id, _)| *id)
                .collect(),
            served: waiting
                .iter()
                .map(|(_, seq)| (seq.tenant(), scheduler.served(seq.tenant())))
                .collect(),
            waiting: waiting.iter().map(|(id, seq)| (*id, seq.tenant())).collect(),
        }
    }

    /// Checks the step that was planned since.
    pub(crate) fn check(
        &self,
        scheduler: &Scheduler,
        config: &SchedulerConfig,
    ) -> Result<(), String> {
        self.check_order(scheduler, config)?;
        check_time(scheduler, config)?;
        check_background(scheduler)
    }

    /// Nobody got a slot before a waiting sequence of a higher class, or of a tenant that was served
    /// less by more than a step.
    fn check_order(&self, scheduler: &Scheduler, config: &SchedulerConfig) -> Result<(), String> {
        let slack = 4 * config.max_batch_tokens as u64;
        let known =
            self.waiting.iter().filter_map(|(id, t)| Some((id, t, scheduler.sequence(*id)?)));
        let (admitted, waiting): (Vec<_>, Vec<_>) = known.partition(|(.., seq)| seq.is_running());
        for (id, tenant, seq) in admitted.iter().filter(|(id, ..)| self.new.contains(id)) {
            for (other_id, other_tenant, other) in &waiting {
                let is_under_served = self.served[other_tenant] + slack < self.served[tenant];
                if other.class() < seq.class() || (other.class() == seq.class() && is_under_served)
                {
                    return Err(format!("{id} got a slot before {other_id}"));
                }
            }
        }
        Ok(())
    }
}

/// The predicted time is within the bound, but for one decode or the least chunk.
fn check_time(scheduler: &Scheduler, config: &SchedulerConfig) -> Result<(), String> {
    let (step, bound) = (scheduler.step(), config.max_token_gap.as_secs_f64());
    if config.max_token_gap == Duration::ZERO || step.rows.is_empty() {
        return Ok(());
    }
    let begins_with_decode = n_known(&step.rows[0]) == 1 && step.rows[0].start > 0;
    let (n_decodes, n_prefill) = (step.shape.n_decodes, step.shape.n_prefill_tokens);
    let is_one_prompt = scheduler.n_waiting() == 0
        && scheduler.n_running() == step.rows.len()
        && step.rows.iter().filter(|row| n_known(row) > 1).count() <= 1;
    if step.shape.n_drafts > 0 && (n_prefill > 0 || step.predicted_seconds > 0.6 * bound + 1e-9) {
        return Err(format!("guesses in a step of {} s", step.predicted_seconds));
    }
    let part = match n_prefill > 0 && begins_with_decode {
        true if is_one_prompt => 0.6,
        true => 0.95,
        false => 1.0,
    };
    // Beside streams, half of it where the whole would break the bound.
    let breaks = begins_with_decode && step.predicted_seconds > 0.8 * bound + 1e-9;
    let least = if breaks { LEAST_CHUNK / 2 } else { LEAST_CHUNK };
    let is_least = n_prefill <= least && (n_prefill > 0 || n_decodes <= 1);
    if step.predicted_seconds > part * bound + 1e-9 && !is_least {
        let predicted = step.predicted_seconds;
        return Err(format!(
            "{n_decodes} decodes and {n_prefill} prefill tokens take {predicted} s, over {part} of \
             {bound} s"
        ));
    }
    Ok(())
}

/// Tokens of a row that are no guesses.
fn n_known(row: &ScheduledRow) -> usize {
    row.n_tokens - row.n_drafts
}

/// Background has no row in a step in which anybody else prefills.
fn check_background(scheduler: &Scheduler) -> Result<(), String> {
    let rows = scheduler.step().rows.iter();
    let class = |id: SeqId| scheduler.sequence(id).map(lm_scheduler::Sequence::class);
    let is_background = |id: SeqId| class(id) == Some(Priority::Background);
    let (background, others): (Vec<&ScheduledRow>, Vec<&ScheduledRow>) =
        rows.partition(|row| is_background(row.seq));
    match (background.first(), others.iter().find(|row| n_known(row) > 1)) {
        (Some(row), Some(other)) => Err(format!("{} runs while {} prefills", row.seq, other.seq)),
        _ => Ok(()),
    }
}
