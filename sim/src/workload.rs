//! What a seed stands for: a pool, its limits, a machine, and the traffic on it.

use std::time::Duration;

use lm_backend::{PlaceholderMode, PlaceholderOptions, PlaceholderVocab};
use lm_scheduler::{SchedulerConfig, StepShape, TimeLimits};
use lm_types::{Priority, SamplingParams, TenantId, TokenId};

use crate::random::Random;

/// Everything that a seed decides beforehand.
#[derive(Clone, Debug)]
pub(crate) struct Workload {
    pub(crate) config: SchedulerConfig,
    pub(crate) backend: PlaceholderOptions,
    pub(crate) machine: Machine,
    pub(crate) disk: Option<Disk>,
    /// In order of arrival.
    pub(crate) clients: Vec<Client>,
}

/// How blocks fare outside of the pool.
#[derive(Clone, Debug)]
pub(crate) struct Disk {
    pub(crate) seed: u64,
    /// Steps until a block is back, at most.
    pub(crate) most_steps: usize,
    /// In percent: blocks that cannot be read.
    pub(crate) fails: usize,
    /// In percent: blocks that never come, and nobody says so.
    pub(crate) loses: usize,
    /// In percent: blocks that are not written.
    pub(crate) drops: usize,
}

/// How long steps take.
#[derive(Clone, Debug)]
pub(crate) struct Machine {
    seed: u64,
    /// Microseconds of a step, of a decode row, of a prefill token, and of a hundred attended tokens.
    micros: [usize; 4],
    /// Microseconds of a guess.
    draft: usize,
    /// In percent of the steps it is taken away for a while.
    away: usize,
}

impl Machine {
    /// What the step with this index takes.
    pub(crate) fn micros(&self, step: u64, shape: &StepShape) -> u64 {
        let [fixed, decode, prefill, attended] = self.micros;
        let attending = shape.decode_attended + shape.prefill_attended;
        let work = fixed
            + decode * shape.n_decodes
            + prefill * shape.n_prefill_tokens
            + attended * attending / 100
            + self.draft * shape.n_drafts;
        let mut random = Random::new(self.seed ^ step);
        let jitter = random.between(95, 105);
        let away = if random.chance(self.away) { random.between(2, 10) } else { 1 };
        (work * jitter / 100 * away) as u64
    }
}

/// One client: one request, and how it behaves.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    pub(crate) arrival_step: u64,
    pub(crate) prompt: Vec<TokenId>,
    pub(crate) max_new_tokens: usize,
    pub(crate) priority: Priority,
    pub(crate) tenant: TenantId,
    pub(crate) limits: TimeLimits,
    pub(crate) cache_salt: u64,
    pub(crate) sampling: SamplingParams,
    /// Wants the logits after each token of its prompt.
    pub(crate) scores_prompt: bool,
    /// Leaves when it has been there for so many steps.
    pub(crate) leaves_after: Option<u64>,
}

pub(crate) fn vocab() -> PlaceholderVocab {
    PlaceholderVocab {
        vocab_size: 32,
        bos: 1,
        sep: 4,
        turn_start: 2,
        turn_end: 3,
        newline: 31,
        words: 5..31,
    }
}

impl Workload {
    pub(crate) fn new(seed: u64) -> Self {
        let mut random = Random::new(seed);
        let mut guessing = Random::new(seed ^ 0x6969);
        let block_size = *random.pick(&[1, 2, 4, 8]);
        let n_blocks = random.between(4, 40);
        let max_model_len = (block_size * n_blocks).min(96);
        let max_num_seqs = random.between(1, 8);
        let config = SchedulerConfig {
            block_size,
            n_blocks,
            max_model_len,
            max_num_seqs,
            max_batch_tokens: max_num_seqs + random.between(0, 40),
            max_prefill_chunk: random.between(1, 40),
            max_queued_requests: random.between(1, 12),
            max_queued_tokens: random.between(32, 512),
            max_token_gap: Duration::from_millis(*random.pick(&[0, 2, 5, 20, 100])),
            batch_patience: Duration::from_millis(random.between(5, 200) as u64),
            prefix_cache: random.chance(75),
            speculate: guessing.chance(60),
            max_extra_logits: guessing.between(0, 20),
        };
        let machine = Machine {
            seed: seed ^ 0x5a5a,
            micros: [
                random.between(50, 2000),
                random.between(10, 1000),
                random.between(10, 500),
                random.between(0, 20),
            ],
            draft: guessing.between(0, 200),
            away: *random.pick(&[0, 0, 5]),
        };
        let fails = random.chance(30);
        let repeats = guessing.chance(50);
        let backend = PlaceholderOptions {
            mode: if repeats { PlaceholderMode::Echo } else { PlaceholderMode::Random },
            seed: seed ^ 0xa5a5,
            mean_tokens: 24,
            fail_every: fails.then(|| random.between(5, 30) as u64),
            nan_at: random.chance(20).then(|| random.between(1, max_model_len) as u32),
            block_size,
            n_blocks,
            max_model_len,
            ..PlaceholderOptions::default()
        };
        let stems = stems(&mut random, max_model_len);
        let n_tenants = random.between(1, 4);
        let alike = random.chance(50);
        let mut step = 0;
        let clients = (0..random.between(3, 40))
            .map(|_| {
                step += random.between(0, 6) as u64;
                let mut client = client(&mut random, &stems, max_model_len, step);
                client.tenant = TenantId(random.between(1, n_tenants) as u64);
                client.scores_prompt = guessing.chance(20);
                if repeats {
                    client.prompt.pop();
                    client.prompt.push(vocab().sep);
                }
                if alike {
                    client.priority = Priority::Interactive;
                }
                client
            })
            .collect();
        let disk = disk(&mut random, seed);
        Workload { config, backend, machine, disk, clients }
    }
}

/// Where blocks are kept outside of the pool, in some runs.
fn disk(random: &mut Random, seed: u64) -> Option<Disk> {
    random.chance(60).then(|| Disk {
        seed: seed ^ 0x3c3c,
        most_steps: *random.pick(&[1, 2, 10, 300]),
        fails: *random.pick(&[0, 10, 50]),
        loses: *random.pick(&[0, 0, 0, 5]),
        drops: *random.pick(&[0, 20]),
    })
}

/// Beginnings that prompts share.
fn stems(random: &mut Random, max_model_len: usize) -> Vec<Vec<TokenId>> {
    let words = vocab().words;
    let word = |random: &mut Random| random.between(words.start as usize, words.end as usize - 1);
    let lengths: Vec<usize> = (0..3).map(|_| random.between(0, max_model_len * 3 / 4)).collect();
    lengths.iter().map(|&len| (0..len).map(|_| word(random) as TokenId).collect()).collect()
}

fn client(
    random: &mut Random,
    stems: &[Vec<TokenId>],
    max_model_len: usize,
    arrival_step: u64,
) -> Client {
    let mut prompt = random.pick(stems).clone();
    // A few words only, so that whole prompts are equal now and then.
    prompt.extend((0..random.between(0, 4)).map(|_| random.between(5, 7) as TokenId));
    if prompt.is_empty() {
        prompt.push(5);
    }
    prompt.truncate(max_model_len - 1);
    let max_new_tokens = random.between(1, max_model_len - prompt.len());
    let time = |random: &mut Random, most: usize| {
        random.chance(30).then(|| Duration::from_millis(random.between(1, most) as u64))
    };
    let sampled = SamplingParams {
        seed: random.between(0, 1000) as u64,
        top_k: random.between(0, 10) as u32,
        ..SamplingParams::default()
    };
    Client {
        arrival_step,
        prompt,
        max_new_tokens,
        priority: *random.pick(&[Priority::Interactive, Priority::Batch, Priority::Background]),
        tenant: TenantId::ANONYMOUS,
        limits: TimeLimits { deadline: time(random, 400), max_queue: time(random, 100) },
        cache_salt: u64::from(random.chance(20)),
        scores_prompt: false,
        sampling: if random.chance(50) { SamplingParams::greedy() } else { sampled },
        leaves_after: random.chance(15).then(|| random.between(0, 30) as u64),
    }
}
