//! Who may wait: the queue's bounds, predicted times, and promises to those that are sent away.
//!
//! Requests are judged before the engine's thread sees them. Who is refused is told when to come again,
//! and the queue keeps a place for that time. What comes at its time with the same body takes its place;
//! others get only what such promises leave. A promise is not kept longer than [`GRACE`] after its time.
//!
//! It must never know a clock: `now` is an argument.
//!
//! Start reading at [`Admission::offer`].

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use lm_types::{Priority, TenantId, Timestamp};

use crate::forecast::Demand;
use crate::{Forecast, Load, Scheduler, SchedulerConfig};

/// Promises that are kept at once, and of one tenant. Who is refused beyond that is told a time, but has no place.
const MAX_PROMISES: usize = 4096;
const MAX_OF_TENANT: usize = MAX_PROMISES / 4;
/// How long after its time a promise holds.
const GRACE: Duration = Duration::from_secs(10);
/// How much before its time a client may come.
const EARLY: Duration = Duration::from_millis(20);
/// Promises are further apart than the requests before them should take, by this factor: a machine that
/// is slower than it seems still keeps them.
const CAUTION: f64 = 1.05;
/// While promises are open, others are admitted only up to this part of their time limit.
const OPEN_PART: f64 = 0.7;
/// Promises take at most one place in so many.
const MOST_RESERVED: usize = 4;
/// Answers are believed to be this long before the first one ended.
const FIRST_OUTPUT_GUESS: f64 = 128.0;
/// How much of the mean answer's length the newest one is.
const OUTPUT_GAIN: f64 = 1.0 / 32.0;
/// No retry is put off further.
const MAX_RETRY: Duration = Duration::from_secs(3600);

/// The queue of those that wait for their first step, and who may join it.
#[derive(Debug)]
pub struct Admission {
    max_requests: usize,
    max_tokens: usize,
    load: Load,
    /// In order of arrival.
    queued: BTreeMap<Ticket, Queued>,
    n_tickets: u64,
    queued_tokens: usize,
    mean_output: f64,
    promises: Vec<Promise>,
}

/// A place in the queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(u64);

/// One sequence that asks for a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offer {
    /// Who goes first.
    pub class: Priority,
    /// On whose behalf.
    pub tenant: TenantId,
    /// Tokens of its prompt.
    pub prompt_tokens: usize,
    /// Tokens that it may generate.
    pub max_new_tokens: usize,
    /// Whether it will generate all of them.
    pub is_exact: bool,
    /// The same for a request that is sent again.
    pub fingerprint: u64,
}

/// What a request demands of its own times.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TimeLimits {
    /// From arrival until its answer is worth nothing: its first token must come before.
    pub deadline: Option<Duration>,
    /// From arrival until it is first scheduled.
    pub max_queue: Option<Duration>,
}

/// Why a request has no place now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// What is short.
    pub because: RefusedBecause,
    /// After how long the same request will be admitted; `None` when it never will.
    pub retry_after: Option<Duration>,
}

/// What is short.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RefusedBecause {
    /// Places for requests.
    QueueRequests {
        /// Requests that wait or have a promise.
        queued: usize,
        /// How many may.
        limit: usize,
    },
    /// Room for prompt tokens.
    QueueTokens {
        /// Tokens that wait or have a promise.
        queued: usize,
        /// How many may.
        limit: usize,
    },
    /// Time until `deadline`.
    Deadline {
        /// When the first token would come.
        predicted: Duration,
        /// What was asked for.
        limit: Duration,
    },
    /// Time until `max_queue`.
    MaxQueue {
        /// When it would be scheduled.
        predicted: Duration,
        /// What was asked for.
        limit: Duration,
    },
}

#[derive(Clone, Copy, Debug)]
struct Queued {
    class: Priority,
    tenant: TenantId,
    demand: Demand,
}

/// A refused request and when it may come again.
#[derive(Clone, Copy, Debug)]
struct Promise {
    class: Priority,
    tenant: TenantId,
    fingerprint: u64,
    due: Timestamp,
    n_requests: usize,
    n_tokens: usize,
}

impl Admission {
    /// An empty queue before `scheduler`.
    #[must_use]
    pub fn new(scheduler: &Scheduler) -> Self {
        let SchedulerConfig { max_queued_requests, max_queued_tokens, .. } = *scheduler.config();
        Admission {
            max_requests: max_queued_requests,
            max_tokens: max_queued_tokens,
            load: Load::new(scheduler),
            queued: BTreeMap::new(),
            n_tickets: 0,
            queued_tokens: 0,
            mean_output: FIRST_OUTPUT_GUESS,
            promises: Vec::new(),
        }
    }

    /// Takes in how things stand after a step was planned.
    pub fn observe(&mut self, scheduler: &Scheduler) {
        self.load.read(scheduler);
    }

    /// Learns from an answer that ended by itself.
    pub fn answered(&mut self, n_generated: usize) {
        self.mean_output += OUTPUT_GAIN * (n_generated as f64 - self.mean_output);
    }

    /// Sequences that wait for their first step.
    #[must_use]
    pub fn n_queued(&self) -> usize {
        self.queued.len()
    }

    /// Prompt tokens of those.
    #[must_use]
    pub fn queued_tokens(&self) -> usize {
        self.queued_tokens
    }

    /// It was scheduled for the first time, or gave up.
    pub fn leave(&mut self, ticket: Ticket) {
        if let Some(queued) = self.queued.remove(&ticket) {
            self.queued_tokens -= queued.demand.prompt_tokens;
        }
    }

    /// Queues the sequences of one request, all or none, and says what is predicted for the last.
    ///
    /// # Errors
    /// No place, or a limit that is predicted not to be met.
    ///
    /// # Panics
    /// Without any sequence.
    pub fn offer(
        &mut self,
        now: Timestamp,
        offers: &[Offer],
        limits: TimeLimits,
    ) -> Result<(Vec<Ticket>, Forecast), Refusal> {
        let first = *offers.first().expect("a request has a sequence");
        if self.queued.is_empty() && self.load.is_idle() {
            // Whoever comes is served.
            self.promises.clear();
        }
        self.promises.retain(|promise| now.since(promise.due) <= GRACE);
        // Clients may send the same: each refusal made a promise, and the earliest one is claimed.
        let own = |p: &Promise| {
            let is_due = p.due.since(now) <= EARLY;
            is_due && p.fingerprint == first.fingerprint && p.tenant == first.tenant
        };
        let matching = self.promises.iter().enumerate().filter(|(_, promise)| own(promise));
        let promise = matching.min_by_key(|(_, promise)| promise.due).map(|(i, _)| i);
        let comes_in_time = promise.is_some();
        let demands: Vec<Demand> = offers.iter().map(|offer| self.demand(offer)).collect();
        let forecast = self.forecast(&first, &demands);
        let refused = self.shortage(&first, &demands, forecast, limits, comes_in_time);
        let Some((because, wait)) = refused else {
            self.keep_promise(promise);
            let tickets = offers.iter().zip(&demands).map(|(offer, demand)| {
                self.n_tickets += 1;
                self.queued_tokens += demand.prompt_tokens;
                let queued = Queued { class: offer.class, tenant: offer.tenant, demand: *demand };
                self.queued.insert(Ticket(self.n_tickets), queued);
                Ticket(self.n_tickets)
            });
            return Ok((tickets.collect(), forecast));
        };
        let retry_after = wait.map(|wait| {
            self.keep_promise(promise);
            self.promise(now, &first, &demands, wait, comes_in_time)
        });
        Err(Refusal { because, retry_after })
    }

    /// What is short for a request, and for how many seconds; `None` for ever.
    fn shortage(
        &self,
        first: &Offer,
        demands: &[Demand],
        forecast: Forecast,
        limits: TimeLimits,
        comes_in_time: bool,
    ) -> Option<(RefusedBecause, Option<f64>)> {
        let n_tokens: usize = demands.iter().map(|demand| demand.prompt_tokens).sum();
        let open = self.promises.iter().filter(|p| p.class <= first.class && !comes_in_time);
        let (n_promised, tokens_promised) =
            open.fold((0, 0), |(n, tokens), p| (n + p.n_requests, tokens + p.n_tokens));
        let busy = self.queued.len() + n_promised.min(self.max_requests / MOST_RESERVED);
        let one = self.load.machine_seconds(&demands[0]);
        if busy + demands.len() > self.max_requests && !self.queued.is_empty() {
            let (queued, limit) = (busy, self.max_requests);
            let n_over = (busy + demands.len()).saturating_sub(limit);
            let wait = n_over as f64 * one;
            return Some((RefusedBecause::QueueRequests { queued, limit }, Some(wait)));
        }
        let busy = self.queued_tokens + tokens_promised.min(self.max_tokens / MOST_RESERVED);
        if busy + n_tokens > self.max_tokens && !self.queued.is_empty() {
            let (queued, limit) = (busy, self.max_tokens);
            let part = (busy + n_tokens - limit) as f64 / busy.max(1) as f64;
            let wait = part * self.queued.len() as f64 * one;
            return Some((RefusedBecause::QueueTokens { queued, limit }, Some(wait)));
        }
        let part = if comes_in_time || n_promised == 0 { 1.0 } else { OPEN_PART };
        // What it takes when nothing else is there.
        let alone: f64 = demands.iter().map(|d| self.load.cost.prefill(0, d.prompt_tokens)).sum();
        let last = demands.last().map_or(0.0, |d| self.load.cost.prefill(0, d.prompt_tokens));
        let judge = |limit: Option<Duration>, predicted: f64, least: f64| {
            let limit = limit?;
            let wait = predicted - OPEN_PART * limit.as_secs_f64();
            let is_possible = least <= OPEN_PART * limit.as_secs_f64();
            let is_late = predicted > part * limit.as_secs_f64();
            is_late.then_some((seconds(predicted), limit, is_possible.then_some(wait)))
        };
        if let Some((predicted, limit, wait)) =
            judge(limits.max_queue, forecast.queue_wait, alone - last)
        {
            return Some((RefusedBecause::MaxQueue { predicted, limit }, wait));
        }
        let (predicted, limit, wait) = judge(limits.deadline, forecast.ttft, alone)?;
        Some((RefusedBecause::Deadline { predicted, limit }, wait))
    }

    /// Promises a place at the first time that is `wait` seconds away and not promised to the same tenant
    /// already; tenants that have promises share the machine. Whoever came in time and found none goes
    /// before the others.
    fn promise(
        &mut self,
        now: Timestamp,
        first: &Offer,
        demands: &[Demand],
        wait: f64,
        comes_in_time: bool,
    ) -> Duration {
        let of_class = self.promises.iter().filter(|promise| promise.class == first.class);
        let mut tenants: BTreeSet<TenantId> = of_class.clone().map(|p| p.tenant).collect();
        tenants.insert(first.tenant);
        let own = of_class.filter(|promise| promise.tenant == first.tenant);
        let (n_own, until) = (own.clone().count(), own.map(|promise| promise.due).max());
        let takes: f64 = demands.iter().map(|demand| self.load.machine_seconds(demand)).sum();
        let takes = seconds(CAUTION * takes * tenants.len() as f64);
        let soonest = now + seconds(wait.max(0.0)).max(takes);
        let after_own = until.map_or(soonest, |until| soonest.max(until + takes));
        let due = if comes_in_time { soonest } else { after_own };
        let due = due.min(now + MAX_RETRY);
        if self.promises.len() < MAX_PROMISES && n_own < MAX_OF_TENANT {
            self.promises.push(Promise {
                class: first.class,
                tenant: first.tenant,
                fingerprint: first.fingerprint,
                due,
                n_requests: demands.len(),
                n_tokens: demands.iter().map(|demand| demand.prompt_tokens).sum(),
            });
        }
        // A wait of nothing would be no wait.
        due.since(now).max(Duration::from_millis(1))
    }

    fn keep_promise(&mut self, promise: Option<usize>) {
        if let Some(i) = promise {
            self.promises.swap_remove(i);
        }
    }

    fn demand(&self, offer: &Offer) -> Demand {
        let longest = offer.max_new_tokens as f64;
        let output_tokens = if offer.is_exact { longest } else { self.mean_output.min(longest) };
        Demand { prompt_tokens: offer.prompt_tokens, output_tokens }
    }

    /// Predicts for sequences that would be queued now: ahead of them are higher classes, and of their own
    /// class whatever would be served before their tenant's turn comes.
    fn forecast(&mut self, first: &Offer, demands: &[Demand]) -> Forecast {
        let mut turns: BTreeMap<(Priority, TenantId), u64> = BTreeMap::new();
        let mut turn = |load: &Load, class, tenant, demand: &Demand| {
            let next = turns.entry((class, tenant)).or_insert_with(|| load.served(tenant));
            let turn = *next;
            *next += demand.prompt_tokens as u64 + 2 * demand.output_tokens as u64;
            turn
        };
        let (load, queued) = (&self.load, &self.queued);
        let all: Vec<(Priority, u64, Demand)> = queued
            .values()
            .map(|q| (q.class, turn(load, q.class, q.tenant, &q.demand), q.demand))
            .collect();
        let own = turn(load, first.class, first.tenant, &demands[0]);
        let is_ahead = |&(class, turn, _): &(Priority, u64, Demand)| {
            class < first.class || (class == first.class && turn <= own)
        };
        let ahead = all.into_iter().filter(is_ahead).map(|(.., demand)| demand);
        self.load.forecast(self.mean_output, ahead, demands)
    }
}

fn seconds(value: f64) -> Duration {
    Duration::try_from_secs_f64(value.max(0.0)).unwrap_or(MAX_RETRY)
}
