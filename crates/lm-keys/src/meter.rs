//! What a key has used, and whether it may use more.
//!
//! It must never read a clock, and never wait: each call holds a lock for a few instructions.
//!
//! Start reading at [`Meter::begin`]; a request goes on with `reserve`, each of its answers with
//! `charge`, and it ends with `end`.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::{DAY_S, KeyLimits};

/// One moment, by both clocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// Since any fixed moment; never goes back.
    pub monotonic: Duration,
    /// Unix seconds; days are counted by it.
    pub unix_s: u64,
}

/// Which limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LimitKind {
    /// Requests within a minute.
    RequestsPerMinute,
    /// Tokens within a minute.
    TokensPerMinute,
    /// Open requests.
    Concurrent,
    /// Tokens within a day.
    DailyTokens,
}

/// A request is over a limit of its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OverLimit {
    /// Which limit.
    pub kind: LimitKind,
    /// The limit's value.
    pub limit: u64,
    /// After this wait the request would be admitted, if nobody else came with the same key. For
    /// open requests a guess from how long those of the key took so far.
    pub retry_after: Duration,
}

/// What one key has used. Its memory does not grow.
#[derive(Debug)]
pub struct Meter(Mutex<State>);

#[derive(Debug)]
struct State {
    limits: KeyLimits,
    requests: Option<Bucket>,
    tokens: Option<Bucket>,
    n_open: u64,
    /// Mean of how long requests were open; recent ones count for more.
    mean_open_s: f64,
    day: u64,
    spent_today: u64,
    reserved: u64,
}

/// Fills up within a minute, and may be overdrawn: what is used more than was foreseen is paid back
/// before anything else is admitted.
#[derive(Debug)]
struct Bucket {
    capacity: f64,
    level: f64,
    filled_at: Duration,
}

impl LimitKind {
    /// The limit's name, as in the key file.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            LimitKind::RequestsPerMinute => "requests_per_minute",
            LimitKind::TokensPerMinute => "tokens_per_minute",
            LimitKind::Concurrent => "max_concurrent",
            LimitKind::DailyTokens => "daily_tokens",
        }
    }
}

impl Meter {
    /// A meter at which `spent_today` tokens were used already on the day of `now`.
    #[must_use]
    pub fn new(limits: KeyLimits, spent_today: u64, now: Now) -> Self {
        Meter(Mutex::new(State {
            limits,
            requests: limits.requests_per_minute.map(|limit| Bucket::new(limit, now.monotonic)),
            tokens: limits.tokens_per_minute.map(|limit| Bucket::new(limit, now.monotonic)),
            n_open: 0,
            mean_open_s: 1.0,
            day: now.unix_s / DAY_S,
            spent_today,
            reserved: 0,
        }))
    }

    /// Takes a request in. [`Meter::end`] must follow.
    ///
    /// # Errors
    /// The limit that is reached; nothing was taken.
    pub fn begin(&self, now: Now) -> Result<(), OverLimit> {
        let mut state = self.at(now);
        let over = |kind, limit, retry_after| Err(OverLimit { kind, limit, retry_after });
        if let Some(limit) = state.limits.max_concurrent.filter(|&limit| state.n_open >= limit) {
            let wait = Duration::from_secs_f64(state.mean_open_s / limit as f64);
            let wait = wait.clamp(Duration::from_millis(100), Duration::from_secs(60));
            return over(LimitKind::Concurrent, limit, wait);
        }
        let spent = state.spent_today.saturating_add(state.reserved);
        if let Some(limit) = state.limits.daily_tokens.filter(|&limit| spent >= limit) {
            return over(LimitKind::DailyTokens, limit, until_tomorrow(now));
        }
        if let Some(bucket) = &mut state.requests
            && let Err(wait) = bucket.take(1.0)
        {
            return over(LimitKind::RequestsPerMinute, bucket.capacity as u64, wait);
        }
        state.n_open += 1;
        Ok(())
    }

    /// Sets `n_tokens` aside for a request that has begun, as an estimate of what it will use.
    /// A request that is larger than a limit is admitted when nothing else was used.
    ///
    /// # Errors
    /// The limit that is reached; nothing was taken.
    pub fn reserve(&self, n_tokens: u64, now: Now) -> Result<(), OverLimit> {
        let mut state = self.at(now);
        let spent = state.spent_today.saturating_add(state.reserved);
        let is_over = |&limit: &u64| spent.saturating_add(n_tokens.min(limit)) > limit;
        if let Some(limit) = state.limits.daily_tokens.filter(is_over) {
            let retry_after = until_tomorrow(now);
            return Err(OverLimit { kind: LimitKind::DailyTokens, limit, retry_after });
        }
        if let Some(bucket) = &mut state.tokens
            && let Err(retry_after) = bucket.take(n_tokens as f64)
        {
            let limit = bucket.capacity as u64;
            return Err(OverLimit { kind: LimitKind::TokensPerMinute, limit, retry_after });
        }
        state.reserved = state.reserved.saturating_add(n_tokens);
        Ok(())
    }

    /// Counts tokens that were used.
    pub fn charge(&self, n_tokens: u64, now: Now) {
        let mut state = self.at(now);
        state.spent_today = state.spent_today.saturating_add(n_tokens);
        if let Some(bucket) = &mut state.tokens {
            bucket.level -= n_tokens as f64;
        }
    }

    /// Ends a request that was open for `open_for`, and gives back what was set aside for it.
    pub fn end(&self, reserved: u64, open_for: Duration, now: Now) {
        let mut state = self.at(now);
        state.n_open = state.n_open.saturating_sub(1);
        state.mean_open_s += (open_for.as_secs_f64() - state.mean_open_s) / 8.0;
        state.reserved = state.reserved.saturating_sub(reserved);
        if let Some(bucket) = &mut state.tokens {
            bucket.level = (bucket.level + reserved as f64).min(bucket.capacity);
        }
    }

    /// Requests that are open.
    #[must_use]
    pub fn n_open(&self) -> u64 {
        self.lock().n_open
    }

    /// Tokens that were used on the day of `now`.
    #[must_use]
    pub fn spent_today(&self, now: Now) -> u64 {
        self.at(now).spent_today
    }

    /// The state as of `now`.
    fn at(&self, now: Now) -> MutexGuard<'_, State> {
        let mut state = self.lock();
        let day = now.unix_s / DAY_S;
        if state.day != day {
            (state.day, state.spent_today) = (day, 0);
        }
        let State { requests, tokens, .. } = &mut *state;
        for bucket in [requests, tokens].into_iter().flatten() {
            bucket.fill(now.monotonic);
        }
        state
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Bucket {
    fn new(per_minute: u64, now: Duration) -> Self {
        let capacity = per_minute as f64;
        Bucket { capacity, level: capacity, filled_at: now }
    }

    fn per_second(&self) -> f64 {
        self.capacity / 60.0
    }

    fn fill(&mut self, now: Duration) {
        let elapsed = now.saturating_sub(self.filled_at).as_secs_f64();
        self.level = (self.level + elapsed * self.per_second()).min(self.capacity);
        self.filled_at = self.filled_at.max(now);
    }

    /// Takes `n`, or says how long it takes until they are there. What is more than the bucket holds
    /// is taken from a full one.
    fn take(&mut self, n: f64) -> Result<(), Duration> {
        let missing = n.min(self.capacity) - self.level;
        // A wait that was honoured to the nanosecond must not fail by a rounding.
        if missing > 1e-6 {
            return Err(Duration::from_secs_f64(missing / self.per_second()));
        }
        self.level -= n;
        Ok(())
    }
}

fn until_tomorrow(now: Now) -> Duration {
    Duration::from_secs(DAY_S - now.unix_s % DAY_S)
}
