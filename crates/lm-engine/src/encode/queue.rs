//! Who waits to be encoded, who may join, and which texts go into the next batch.
//!
//! It must never ask what time it is.
//!
//! Start reading at [`Queue::admit`] and [`Queue::next_batch`].

use std::collections::BTreeMap;
use std::time::Duration;

use lm_types::{GenerateError, Priority, QueueUnit, TenantId, Timestamp};

use super::reply::ReplyWriter;
use super::{EncodeSubmission, Encoded};

/// A request of class `batch` that has waited for so long counts as interactive.
const BATCH_PATIENCE: Duration = Duration::from_secs(10);
/// How fast an encoder is thought to be before it was measured.
const FIRST_TOKENS_PER_S: f64 = 4000.0;
/// How much a batch counts for the speed.
const LEARNING: f64 = 0.2;

/// A request that is not done.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) id: u64,
    pub(super) submission: EncodeSubmission,
    pub(super) reply: ReplyWriter,
    pub(super) arrival: Timestamp,
    pub(super) first_batch: Option<Timestamp>,
    /// Texts that go into a batch next, the last one first.
    left: Vec<usize>,
    pub(super) n_missing: usize,
    pub(super) done: Encoded,
}

/// One text of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Pick {
    pub(super) job: u64,
    pub(super) text: usize,
}

/// Everybody who waits.
#[derive(Debug)]
pub(super) struct Queue {
    jobs: BTreeMap<u64, Job>,
    next_id: u64,
    max_requests: usize,
    max_tokens: usize,
    /// Tokens of texts that no batch had yet.
    queued_tokens: usize,
    /// What tenants that wait were served since they last had nothing waiting.
    served: BTreeMap<TenantId, u64>,
    tokens_per_s: f64,
}

impl Queue {
    pub(super) fn new(max_requests: usize, max_tokens: usize) -> Self {
        Queue {
            jobs: BTreeMap::new(),
            next_id: 0,
            max_requests,
            max_tokens,
            queued_tokens: 0,
            served: BTreeMap::new(),
            tokens_per_s: FIRST_TOKENS_PER_S,
        }
    }

    /// Lets a request in, or says why not and when to come again.
    pub(super) fn admit(
        &mut self,
        submission: EncodeSubmission,
        reply: ReplyWriter,
        now: Timestamp,
    ) -> Result<(), GenerateError> {
        let n_tokens: usize = submission.texts.iter().map(|text| text.input_ids.len()).sum();
        let seconds = |tokens: usize| Duration::from_secs_f64(tokens as f64 / self.tokens_per_s);
        let full = |queued, limit, unit, tokens| GenerateError::QueueFull {
            queued,
            limit,
            unit,
            retry_after: seconds(tokens).max(Duration::from_millis(10)),
        };
        if self.jobs.len() >= self.max_requests {
            let (queued, limit) = (self.jobs.len(), self.max_requests);
            let mean = self.queued_tokens / queued.max(1);
            return Err(full(queued, limit, QueueUnit::Requests, mean.max(1)));
        }
        // An idle engine takes any request, so that a large one is not refused for ever.
        let queued = self.queued_tokens;
        if queued > 0 && queued + n_tokens > self.max_tokens {
            let excess = queued.min((queued + n_tokens).saturating_sub(self.max_tokens));
            return Err(full(queued, self.max_tokens, QueueUnit::Tokens, excess));
        }
        let request = &submission.request;
        let (wait, total) = (self.ahead_of(request.priority), n_tokens);
        let late = |field, limit: Duration, tokens: usize, alone: usize| {
            let predicted = seconds(tokens);
            let helps = seconds(alone) <= limit;
            (predicted > limit).then(|| GenerateError::DeadlineUnreachable {
                field,
                limit_ms: limit.as_millis() as u64,
                predicted_ms: predicted.as_millis() as u64,
                retry_after: helps.then(|| predicted.saturating_sub(limit)),
            })
        };
        let too_late = request
            .deadline
            .and_then(|limit| late("deadline_ms", limit, wait + total, total))
            .or_else(|| request.max_queue.and_then(|limit| late("max_queue_ms", limit, wait, 0)));
        if let Some(error) = too_late {
            return Err(error);
        }
        self.queued_tokens += n_tokens;
        let n_texts = submission.texts.len();
        let id = self.next_id;
        self.next_id += 1;
        self.served.entry(submission.request.tenant).or_default();
        let done = Encoded {
            rows: vec![Vec::new(); n_texts],
            n_tokens: u32::try_from(n_tokens).unwrap_or(u32::MAX),
            ..Encoded::default()
        };
        let left = (0..n_texts).rev().collect();
        let job = Job {
            id,
            submission,
            reply,
            arrival: now,
            first_batch: None,
            left,
            n_missing: n_texts,
            done,
        };
        self.jobs.insert(id, job);
        Ok(())
    }

    /// Tokens that go before a request of this class.
    fn ahead_of(&self, class: Priority) -> usize {
        let ahead = self.jobs.values().filter(|job| job.submission.request.priority <= class);
        ahead.map(|job| job.left.iter().map(|&i| job.len_of(i)).sum::<usize>()).sum()
    }

    /// Takes out those that nobody reads, and those whose time has passed.
    pub(super) fn take_over(&mut self, now: Timestamp) -> Vec<(Job, Option<GenerateError>)> {
        let verdict = |job: &Job| {
            if job.reply.is_abandoned() {
                return Some(None);
            }
            let (request, waited) = (&job.submission.request, now.since(job.arrival));
            let passed = |field, limit: Option<Duration>| {
                let limit = limit.filter(|limit| waited > *limit)?;
                let limit_ms = limit.as_millis() as u64;
                Some(Some(GenerateError::DeadlineExceeded { field, limit_ms, n_generated: 0 }))
            };
            let queued = request.max_queue.filter(|_| job.first_batch.is_none());
            passed("deadline_ms", request.deadline).or_else(|| passed("max_queue_ms", queued))
        };
        let over: Vec<_> =
            self.jobs.values().filter_map(|job| Some((job.id, verdict(job)?))).collect();
        let take = |(id, error)| Some((self.take(id)?, error));
        over.into_iter().filter_map(take).collect()
    }

    /// The texts of the next batch: of at most `budget` tokens, or one that is longer. By class, then by
    /// least served tenant, then by arrival.
    pub(super) fn next_batch(&mut self, budget: usize, now: Timestamp) -> Vec<Pick> {
        let (mut picks, mut n_tokens) = (Vec::new(), 0);
        loop {
            let class = |job: &Job| match job.submission.request.priority {
                Priority::Batch if now.since(job.arrival) > BATCH_PATIENCE => Priority::Interactive,
                class => class,
            };
            let waiting = self.jobs.values().filter(|job| !job.left.is_empty());
            let served = |job: &Job| self.served.get(&job.submission.request.tenant).copied();
            let first = waiting.min_by_key(|job| (class(job), served(job), job.id));
            let Some((id, text)) = first.and_then(|job| Some((job.id, *job.left.last()?))) else {
                return picks;
            };
            let job = self.jobs.get_mut(&id).expect("it was just found: this is a bug");
            let len = job.len_of(text);
            if !picks.is_empty() && n_tokens + len > budget {
                return picks;
            }
            job.left.pop();
            job.first_batch.get_or_insert(now);
            n_tokens += len;
            self.queued_tokens -= len;
            *self.served.entry(job.submission.request.tenant).or_default() += len as u64;
            picks.push(Pick { job: id, text });
        }
    }

    pub(super) fn job(&mut self, id: u64) -> Option<&mut Job> {
        self.jobs.get_mut(&id)
    }

    /// Takes a request out.
    pub(super) fn take(&mut self, id: u64) -> Option<Job> {
        let job = self.jobs.remove(&id)?;
        self.queued_tokens -= job.left.iter().map(|&i| job.len_of(i)).sum::<usize>();
        let tenant = job.submission.request.tenant;
        if !self.jobs.values().any(|other| other.submission.request.tenant == tenant) {
            self.served.remove(&tenant);
        }
        Some(job)
    }

    pub(super) fn take_all(&mut self) -> Vec<Job> {
        let ids: Vec<u64> = self.jobs.keys().copied().collect();
        ids.into_iter().filter_map(|id| self.take(id)).collect()
    }

    /// Learns from a batch that took so long.
    pub(super) fn learn(&mut self, n_tokens: usize, took: Duration) {
        let measured = n_tokens as f64 / took.as_secs_f64().max(1e-6);
        self.tokens_per_s += LEARNING * (measured - self.tokens_per_s);
    }

    pub(super) fn tokens_per_s(&self) -> f64 {
        self.tokens_per_s
    }

    pub(super) fn is_empty(&self) -> bool {
        self.jobs.is_empty()
    }

    /// Requests with a text in a batch already, those without, and tokens that wait.
    pub(super) fn counts(&self) -> (usize, usize, usize) {
        let begun = self.jobs.values().filter(|job| job.first_batch.is_some()).count();
        (begun, self.jobs.len() - begun, self.queued_tokens)
    }
}

impl Job {
    fn len_of(&self, text: usize) -> usize {
        self.submission.texts[text].input_ids.len()
    }
}
