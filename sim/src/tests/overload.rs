//! Two minutes at twice what a machine can serve, in simulated time: who is told to come again, who then
//! gets in, and what is served meanwhile.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::time::Duration;

use lm_scheduler::{
    Admission, Drawn, NewSequence, Offer, Scheduler, SchedulerConfig, StepShape, Ticket, TimeLimits,
};
use lm_types::{Priority, SeqId, TenantId, Timestamp};

use crate::random::Random;

/// A request; sent again once when it is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Request {
    fingerprint: u64,
    n_prompt: usize,
    n_output: usize,
    is_retry: bool,
}

/// What came of the requests.
#[derive(Debug, Default)]
struct Outcome {
    n_arrived: usize,
    n_at_once: usize,
    n_retried: usize,
    n_retry_admitted: usize,
    n_expired: usize,
    /// Tokens of finished answers.
    n_tokens: usize,
    longest_queue: usize,
    seconds: f64,
}

struct World {
    scheduler: Scheduler,
    admission: Admission,
    limits: TimeLimits,
    random: Random,
    /// What is on its way, the next first.
    coming: BinaryHeap<Reverse<(Timestamp, Request)>>,
    active: BTreeMap<SeqId, (Ticket, Request)>,
    now: Timestamp,
    n_ids: u64,
    outcome: Outcome,
}

impl World {
    fn new(max_queued_requests: usize, limits: TimeLimits) -> Self {
        let scheduler = Scheduler::new(SchedulerConfig {
            block_size: 32,
            n_blocks: 2048,
            max_model_len: 4096,
            max_num_seqs: 32,
            max_batch_tokens: 256,
            max_prefill_chunk: 256,
            max_queued_requests,
            max_queued_tokens: 1 << 18,
            max_token_gap: Duration::from_millis(100),
            batch_patience: Duration::from_secs(10),
            prefix_cache: false,
            speculate: false,
            max_extra_logits: 0,
        });
        let scheduler = scheduler.unwrap();
        World {
            admission: Admission::new(&scheduler),
            scheduler,
            limits,
            random: Random::new(7),
            coming: BinaryHeap::new(),
            active: BTreeMap::new(),
            now: Timestamp(0),
            n_ids: 0,
            outcome: Outcome::default(),
        }
    }

    fn request(&mut self) -> Request {
        self.n_ids += 1;
        Request {
            fingerprint: self.n_ids,
            n_prompt: self.random.between(20, 300),
            n_output: self.random.between(8, 96),
            is_retry: false,
        }
    }

    fn arrive(&mut self, at: Timestamp, request: Request) {
        let offer = Offer {
            class: Priority::Interactive,
            tenant: TenantId(1),
            prompt_tokens: request.n_prompt,
            max_new_tokens: 256,
            is_exact: false,
            fingerprint: request.fingerprint,
        };
        let outcome = &mut self.outcome;
        outcome.n_arrived += usize::from(!request.is_retry);
        outcome.n_retried += usize::from(request.is_retry);
        match self.admission.offer(at, &[offer], self.limits) {
            Ok((tickets, _)) => {
                outcome.n_at_once += usize::from(!request.is_retry);
                outcome.n_retry_admitted += usize::from(request.is_retry);
                self.n_ids += 1;
                let id = SeqId(self.n_ids);
                let new = NewSequence {
                    id,
                    prompt: vec![5; request.n_prompt],
                    max_new_tokens: 256,
                    priority: Priority::Interactive,
                    tenant: TenantId(1),
                    arrived: at,
                    start_by: self.limits.max_queue.map(|limit| at + limit),
                    deadline: self.limits.deadline.map(|limit| at + limit),
                    cache_salt: 0,
                    scores_prompt: false,
                };
                self.scheduler.add(new).unwrap();
                self.active.insert(id, (tickets[0], request));
            }
            Err(refusal) if !request.is_retry => {
                let wait = refusal.retry_after.unwrap();
                let retry = Request { is_retry: true, ..request };
                self.coming.push(Reverse((at + wait, retry)));
            }
            Err(_) => {}
        }
        outcome.longest_queue = outcome.longest_queue.max(self.admission.n_queued());
    }

    /// 5 ms, 0.6 ms a row, 0.8 ms a prefill token, 60 ns an attended token; give or take a tenth.
    fn step_seconds(&mut self, shape: &StepShape) -> f64 {
        let attended = (shape.decode_attended + shape.prefill_attended) as f64;
        let (rows, prefill) = (shape.n_decodes as f64, shape.n_prefill_tokens as f64);
        let exact = 5e-3 + 6e-4 * rows + 8e-4 * prefill + 6e-8 * attended;
        exact * self.random.between(90, 110) as f64 / 100.0
    }

    /// One step, or the way to the next arrival.
    fn advance(&mut self) {
        while let Some(Reverse((at, request))) = self.coming.peek().copied() {
            if at > self.now {
                break;
            }
            self.coming.pop();
            self.arrive(at, request);
        }
        let step = self.scheduler.schedule(self.now).clone();
        self.admission.observe(&self.scheduler);
        for expired in &step.expired {
            let (ticket, _) = self.active.remove(&expired.id).unwrap();
            self.admission.leave(ticket);
            self.outcome.n_expired += 1;
        }
        if step.rows.is_empty() {
            let next = self.coming.peek().map(|Reverse((at, _))| *at);
            self.now = self.now.max(next.unwrap_or(self.now));
            return;
        }
        let seconds = self.step_seconds(&step.shape);
        self.now = self.now + Duration::from_secs_f64(seconds);
        self.scheduler.observe(seconds);
        step.rows.iter().for_each(|row| self.admission.leave(self.active[&row.seq].0));
        let drawn = step.rows.iter().filter(|row| row.samples);
        let drawn: Vec<Drawn> = drawn.map(|row| Drawn { seq: row.seq, token: 5 }).collect();
        self.scheduler.complete(&drawn);
        for Drawn { seq, .. } in drawn {
            let (_, request) = self.active[&seq];
            if self.scheduler.sequence(seq).unwrap().n_generated() == request.n_output {
                self.scheduler.remove(seq);
                self.active.remove(&seq);
                self.admission.answered(request.n_output);
                self.outcome.n_tokens += request.n_output;
            }
        }
    }

    fn run_until(&mut self, end: Timestamp) {
        while self.now < end && !(self.coming.is_empty() && self.active.is_empty()) {
            self.advance();
        }
        self.outcome.seconds = self.now.0 as f64 / 1e6;
    }
}

/// Tokens and requests a second with enough clients that ask again at once.
fn capacity() -> (f64, f64) {
    let mut world = World::new(1024, TimeLimits::default());
    let mut n_requests = 0;
    while world.now < Timestamp(60_000_000) {
        while world.active.len() < 48 {
            let request = world.request();
            world.arrive(world.now, request);
            n_requests += 1;
        }
        world.advance();
    }
    let seconds = world.now.0 as f64 / 1e6;
    (world.outcome.n_tokens as f64 / seconds, f64::from(n_requests - 48) / seconds)
}

#[track_caller]
fn check(max_queued_requests: usize, limits: TimeLimits) {
    let (tokens_per_second, requests_per_second) = capacity();
    let mut world = World::new(max_queued_requests, limits);
    let gap = (1e6 / (2.0 * requests_per_second)) as usize;
    let mut at = 0;
    while at < 120_000_000 {
        at += world.random.between(0, 2 * gap) as u64;
        let request = world.request();
        world.coming.push(Reverse((Timestamp(at), request)));
    }
    world.run_until(Timestamp(120_000_000));
    let during = world.outcome.n_tokens as f64 / world.outcome.seconds;
    // What was promised comes after the crowd has gone.
    world.run_until(Timestamp(u64::MAX));
    let Outcome { n_retried, n_retry_admitted, n_expired, .. } = world.outcome;
    let (admitted, arrived) = (world.outcome.n_at_once + n_retry_admitted, world.outcome.n_arrived);
    println!("capacity {tokens_per_second:.0} tokens/s, during {during:.0}; {:?}", world.outcome);
    assert!(during >= 0.9 * tokens_per_second, "{during} of {tokens_per_second} tokens/s");
    assert!(n_retried > arrived / 4, "{n_retried} of {arrived} were refused");
    assert!(n_retry_admitted * 5 >= n_retried * 4, "{n_retry_admitted} of {n_retried} got in");
    assert!(n_expired * 50 <= admitted, "{n_expired} of {admitted} waited in vain");
    assert!(world.outcome.longest_queue <= max_queued_requests);
}

#[test]
fn four_in_five_get_in_at_their_first_retry_when_places_are_short() {
    check(32, TimeLimits::default());
}

#[test]
fn four_in_five_get_in_at_their_first_retry_when_time_is_short() {
    for millis in [1000, 4000] {
        let limit = Some(Duration::from_millis(millis));
        check(1024, TimeLimits { max_queue: limit, ..TimeLimits::default() });
    }
}
