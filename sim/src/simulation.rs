//! One run: traffic in, every invariant after every step, every answer against its reference.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use lm_backend::{Backend, BackendError, Batch, LogitsBuf, PlaceholderBackend, Want};
use lm_sampler::{History, Sampler};
use lm_scheduler::{AddError, Drawn, NewSequence, Scheduler};
use lm_types::{SeqId, Timestamp, TokenId};

use crate::workload::{Client, Workload, vocab};

/// Steps after which a run counts as hung.
const MAX_STEPS: u64 = 20_000;

/// What a run saw, so that a caller can tell that the interesting cases came up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Steps that were executed.
    pub steps: u64,
    /// Answers that were complete and equal to their reference.
    pub answers: u64,
    /// Sequences that lost their blocks.
    pub preemptions: u64,
    /// Prompt tokens found in the prefix cache.
    pub prefix_hit_tokens: u64,
    /// Named blocks that were given away.
    pub evictions: u64,
    /// Requests that were refused, expired, left, or ended by an injected fault.
    pub ended_early: u64,
}

/// An invariant that did not hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// What to run again.
    pub seed: u64,
    /// When.
    pub step: u64,
    /// What did not hold.
    pub fact: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "seed {} step {}: {}", self.seed, self.step, self.fact)
    }
}

/// Runs the traffic of `seed` to its end.
///
/// # Errors
/// The first invariant that did not hold.
pub fn simulate(seed: u64) -> Result<Report, Failure> {
    let mut run = Run::new(Workload::new(seed));
    let outcome = run.run_to_the_end();
    outcome.map_err(|fact| Failure { seed, step: run.step, fact })?;
    let counters = run.scheduler.counters();
    Ok(Report {
        preemptions: counters.preemptions,
        prefix_hit_tokens: counters.prefix_hit_tokens,
        evictions: counters.evictions,
        ..run.report
    })
}

struct Run {
    workload: Workload,
    scheduler: Scheduler,
    backend: PlaceholderBackend,
    sampler: Sampler,
    batch: Batch,
    logits: LogitsBuf,
    /// Sequences in the scheduler, by the index of their client.
    active: BTreeMap<SeqId, usize>,
    n_arrived: usize,
    step: u64,
    report: Report,
}

impl Run {
    fn new(workload: Workload) -> Self {
        Run {
            scheduler: Scheduler::new(workload.config.clone())
                .expect("a workload's limits fit together"),
            backend: PlaceholderBackend::new(workload.backend.clone(), vocab()),
            sampler: Sampler::default(),
            batch: Batch::default(),
            logits: LogitsBuf::default(),
            active: BTreeMap::new(),
            n_arrived: 0,
            step: 0,
            report: Report::default(),
            workload,
        }
    }

    fn run_to_the_end(&mut self) -> Result<(), String> {
        while self.n_arrived < self.workload.clients.len() || !self.active.is_empty() {
            if self.step == MAX_STEPS {
                return Err(format!("{} requests hang", self.active.len()));
            }
            self.arrivals()?;
            self.departures();
            self.one_step()?;
            self.scheduler.check_integrity().map_err(|broken| broken.to_string())?;
            self.step += 1;
        }
        let blocks = self.scheduler.blocks();
        if blocks.n_free() != blocks.n_blocks() {
            return Err(format!("{} blocks leaked", blocks.n_blocks() - blocks.n_free()));
        }
        Ok(())
    }

    fn arrivals(&mut self) -> Result<(), String> {
        while let Some(client) = self.workload.clients.get(self.n_arrived) {
            if client.arrival_step > self.step {
                break;
            }
            let id = SeqId(self.n_arrived as u64);
            let added = self.scheduler.add(NewSequence {
                id,
                prompt: client.prompt.clone(),
                max_new_tokens: client.max_new_tokens,
                priority: client.priority,
                deadline: client.deadline,
                cache_salt: client.cache_salt,
            });
            match added {
                Ok(()) => drop(self.active.insert(id, self.n_arrived)),
                Err(AddError::QueueFull { .. }) => self.report.ended_early += 1,
                Err(other) => return Err(format!("{id} refused: {other}")),
            }
            self.n_arrived += 1;
        }
        Ok(())
    }

    fn departures(&mut self) {
        let clients = &self.workload.clients;
        let leaves = |client: &Client| {
            client.leaves_after.is_some_and(|steps| client.arrival_step + steps <= self.step)
        };
        let gone: Vec<SeqId> =
            self.active.iter().filter(|(_, c)| leaves(&clients[**c])).map(|(id, _)| *id).collect();
        for id in gone {
            self.end_early(id);
        }
    }

    fn one_step(&mut self) -> Result<(), String> {
        let step = self.scheduler.schedule(Timestamp(self.step)).clone();
        for id in &step.expired {
            let client = &self.workload.clients[self.active[id]];
            if client.deadline.is_none_or(|deadline| deadline.0 >= self.step) {
                return Err(format!("{id} expired before its deadline"));
            }
            self.active.remove(id);
            self.report.ended_early += 1;
        }
        let mut in_step = BTreeSet::new();
        for row in &step.rows {
            if row.n_tokens > self.workload.config.max_prefill_chunk || !in_step.insert(row.seq) {
                return Err(format!("{} has too many tokens, or two rows", row.seq));
            }
        }
        if step.rows.is_empty() {
            let stuck = self.scheduler.n_running() > 0 || self.scheduler.n_waiting() > 0;
            return if stuck { Err("work waits and nothing runs".into()) } else { Ok(()) };
        }
        self.pack();
        match self.backend.execute(&self.batch, &mut self.logits) {
            Ok(()) => self.draw(),
            Err(BackendError::Injected { .. }) => {
                step.rows.iter().for_each(|row| self.end_early(row.seq));
                Ok(())
            }
            Err(other) => Err(other.to_string()),
        }
    }

    fn pack(&mut self) {
        self.batch.clear();
        for row in &self.scheduler.step().rows {
            let seq = self.scheduler.sequence(row.seq).expect("a scheduled sequence is known");
            self.batch.push_sequence(
                &seq.tokens()[row.start..row.start + row.n_tokens],
                row.start,
                seq.block_table(),
                self.workload.config.block_size,
                row.samples.then_some(Want::Full),
            );
        }
    }

    fn draw(&mut self) -> Result<(), String> {
        let mut drawn = Vec::new();
        let mut broken = Vec::new();
        let sampling_rows = self.scheduler.step().rows.iter().filter(|row| row.samples);
        for (i, row) in sampling_rows.enumerate() {
            let seq = self.scheduler.sequence(row.seq).expect("a scheduled sequence is known");
            let client = &self.workload.clients[self.active[&row.seq]];
            let position = seq.tokens().len();
            let logits = self.logits.row(i);
            match self.sampler.sample(logits, &client.sampling, History::default(), position) {
                Ok(sampled) => drawn.push(Drawn { seq: row.seq, token: sampled.token }),
                Err(_) => broken.push(row.seq),
            }
        }
        self.scheduler.complete(&drawn);
        for id in broken {
            self.scheduler.remove_broken(id);
            self.end_early(id);
        }
        self.report.steps += 1;
        drawn.iter().try_for_each(|drawn| self.finish_if_done(drawn))
    }

    fn finish_if_done(&mut self, drawn: &Drawn) -> Result<(), String> {
        let client = &self.workload.clients[self.active[&drawn.seq]];
        let seq = self.scheduler.sequence(drawn.seq).expect("a drawn-for sequence is known");
        if drawn.token != vocab().turn_end && seq.n_generated() < client.max_new_tokens {
            return Ok(());
        }
        let expected = self.reference(client)?;
        if seq.tokens()[seq.n_prompt()..] != expected {
            let found = &seq.tokens()[seq.n_prompt()..];
            return Err(format!("{} answered {found:?}, alone {expected:?}", drawn.seq));
        }
        self.active.remove(&drawn.seq);
        self.scheduler.remove(drawn.seq);
        self.report.answers += 1;
        Ok(())
    }

    /// The answer of a backend that does nothing else and never forgets: one block table, whole
    /// prompt at once, no cache.
    fn reference(&self, client: &Client) -> Result<Vec<TokenId>, String> {
        let options = lm_backend::PlaceholderOptions {
            fail_every: None,
            nan_at: None,
            ..self.workload.backend.clone()
        };
        let block_size = options.block_size;
        let table: Vec<_> = (0..options.n_blocks as u32).map(lm_types::BlockIdx).collect();
        let mut backend = PlaceholderBackend::new(options, vocab());
        let mut tokens = client.prompt.clone();
        let (mut batch, mut logits, mut start) = (Batch::default(), LogitsBuf::default(), 0);
        let mut sampler = Sampler::default();
        while tokens.len() - client.prompt.len() < client.max_new_tokens {
            batch.clear();
            batch.push_sequence(&tokens[start..], start, &table, block_size, Some(Want::Full));
            backend.execute(&batch, &mut logits).map_err(|error| error.to_string())?;
            start = tokens.len();
            let row = logits.row(0);
            let sampled = sampler.sample(row, &client.sampling, History::default(), start);
            tokens.push(sampled.map_err(|error| error.to_string())?.token);
            if tokens.last() == Some(&vocab().turn_end) {
                break;
            }
        }
        Ok(tokens.split_off(client.prompt.len()))
    }

    fn end_early(&mut self, id: SeqId) {
        self.active.remove(&id);
        self.scheduler.remove(id);
        self.report.ended_early += 1;
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    #[test]
    fn a_seed_can_be_repeated() {
        assert_eq!(simulate(3).unwrap(), simulate(3).unwrap());
    }

    #[test]
    fn a_hundred_seeds_hold_and_meet_every_interesting_case() {
        let total = (0..100).map(|seed| simulate(seed).unwrap()).fold([0; 5], |t, r| {
            let seen = [r.answers, r.preemptions, r.prefix_hit_tokens, r.evictions, r.ended_early];
            std::array::from_fn(|i| t[i] + seen[i])
        });
        assert!(total.iter().all(|&n| n > 100), "{total:?}");
    }
}
