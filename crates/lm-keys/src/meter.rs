//! What a key has used, and whether it may use more.
//!
//! It must never read a clock, and never wait: each call holds a lock for a few instructions.
//!
//! Start reading at [`Meter::begin`]; a request goes on with `reserve`, each of its answers with
//! `spend` and `charge`, and it ends with `end`.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::day::{Day, PerKind};
use crate::{Amounts, Budget, DAY_S, KeyLimits};

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
    /// CPU time within a day, in seconds.
    DailyCpuSeconds,
    /// Money within a day.
    DailyCost,
}

/// A request is over a limit of its key.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct OverLimit {
    /// Which limit.
    pub kind: LimitKind,
    /// The limit's value.
    pub limit: f64,
    /// After this wait the request would be admitted, if nobody else came with the same key. Where
    /// it waits for open requests, or for what they set aside, a guess from how long those of the
    /// key took so far.
    pub retry_after: Duration,
}

/// What was set aside for one request.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Reservation {
    minute_tokens: u64,
    day: PerKind,
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
    day: Day,
    /// Tokens of the minute that all open requests set aside.
    reserved_minute: u64,
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
            LimitKind::DailyCpuSeconds => "daily_cpu_seconds",
            LimitKind::DailyCost => "daily_cost",
        }
    }
}

impl Meter {
    /// A meter at which `spent_today` was used already on the day of `now`.
    #[must_use]
    pub fn new(limits: KeyLimits, spent_today: Amounts, now: Now) -> Self {
        Meter::of(limits, Some(spent_today), now)
    }

    /// A meter of which nobody knows yet what was used on the day of `now`: [`Meter::learn_day`] must follow before its
    /// daily budgets are asked.
    #[must_use]
    pub fn unread(limits: KeyLimits, now: Now) -> Self {
        Meter::of(limits, None, now)
    }

    fn of(limits: KeyLimits, spent_today: Option<Amounts>, now: Now) -> Self {
        Meter(Mutex::new(State {
            limits,
            requests: limits.requests_per_minute.map(|limit| Bucket::new(limit, now.monotonic)),
            tokens: limits.tokens_per_minute.map(|limit| Bucket::new(limit, now.monotonic)),
            n_open: 0,
            mean_open_s: 1.0,
            day: Day::new(now.unix_s / DAY_S, spent_today),
            reserved_minute: 0,
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
            return over(LimitKind::Concurrent, limit as f64, state.open_ends_in(limit));
        }
        state.check_day(PerKind::default(), now)?;
        if let Some(bucket) = &mut state.requests
            && let Err(wait) = bucket.take(1.0)
        {
            return over(LimitKind::RequestsPerMinute, bucket.capacity, wait);
        }
        state.n_open += 1;
        Ok(())
    }

    /// Sets aside for a request that has begun what it may use, an estimate; of a limit no more than
    /// all of it. A request that is larger than a limit is admitted when nothing
    /// else was used. What is returned goes to [`Meter::end`].
    ///
    /// # Errors
    /// The limit that is reached. No tokens were taken, and the request no longer counts against
    /// those of the minute.
    pub fn reserve(&self, wanted: Amounts, now: Now) -> Result<Reservation, OverLimit> {
        let mut state = self.at(now);
        let taken = state.take(wanted, now);
        if taken.is_err()
            && let Some(requests) = &mut state.requests
        {
            requests.give_back(1.0);
        }
        taken
    }

    /// Counts what an answer of a request used that had used `before`, against the day; what was set
    /// aside for the request is used first. Says whether something is left.
    pub fn spend(
        &self,
        before: Amounts,
        after: Amounts,
        reserved: &mut Reservation,
        now: Now,
    ) -> bool {
        let mut state = self.at(now);
        state.day.spend(after - before, &mut reserved.day);
        state.day.has_rest(&state.limits)
    }

    /// Counts tokens that were used against the minute.
    pub fn charge(&self, n_tokens: u64, now: Now) {
        if let Some(bucket) = &mut self.at(now).tokens {
            bucket.level -= n_tokens as f64;
        }
    }

    /// Ends a request that was open for `open_for`, and gives back what was set aside for it.
    pub fn end(&self, reserved: Reservation, open_for: Duration, now: Now) {
        let mut state = self.at(now);
        state.n_open = state.n_open.saturating_sub(1);
        state.mean_open_s += (open_for.as_secs_f64() - state.mean_open_s) / 8.0;
        state.reserved_minute = state.reserved_minute.saturating_sub(reserved.minute_tokens);
        state.day.give_back(reserved.day);
        if let Some(bucket) = &mut state.tokens {
            bucket.give_back(reserved.minute_tokens as f64);
        }
    }

    /// Other limits from now on. What was used, set aside and is open stays.
    pub fn change_limits(&self, limits: KeyLimits, now: Now) {
        let mut state = self.at(now);
        let State { requests, tokens, .. } = &mut *state;
        let changes = [(requests, limits.requests_per_minute), (tokens, limits.tokens_per_minute)];
        for (bucket, limit) in changes {
            match (bucket.as_mut(), limit) {
                (Some(bucket), Some(limit)) => bucket.resize(limit),
                _ => *bucket = limit.map(|limit| Bucket::new(limit, now.monotonic)),
            }
        }
        state.limits = limits;
    }

    /// Whether all that was used on the day of `now` is known.
    #[must_use]
    pub fn knows_day(&self, now: Now) -> bool {
        self.at(now).day.is_known
    }

    /// Learns all that was used on the day of `now`, what was counted here included.
    pub fn learn_day(&self, spent_today: Amounts, now: Now) {
        self.at(now).day.learn(spent_today);
    }

    /// Whether nothing is open, nor used on the day of `now`, as far as that is known.
    #[must_use]
    pub fn is_untouched(&self, now: Now) -> bool {
        let state = self.at(now);
        state.n_open == 0 && state.day.is_known && state.day.spent == PerKind::default()
    }

    /// Requests that are open.
    #[must_use]
    pub fn n_open(&self) -> u64 {
        self.lock().n_open
    }

    /// What was used on the day of `now`.
    #[must_use]
    pub fn spent_today(&self, now: Now) -> Amounts {
        Amounts::from_kinds(self.at(now).day.spent)
    }

    /// The daily budgets as of `now`.
    #[must_use]
    pub fn budgets(&self, now: Now) -> Vec<Budget> {
        let state = self.at(now);
        state.day.budgets(&state.limits).collect()
    }

    /// The state as of `now`.
    fn at(&self, now: Now) -> MutexGuard<'_, State> {
        let mut state = self.lock();
        let number = now.unix_s / DAY_S;
        // A clock that is set back over midnight gives nobody a second budget.
        if number > state.day.number || number + 1 < state.day.number {
            state.day.turn(number);
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

impl State {
    fn take(&mut self, wanted: Amounts, now: Now) -> Result<Reservation, OverLimit> {
        self.check_day(wanted.per_kind(), now)?;
        let mut reserved = Reservation::default();
        let open_ends_in = self.open_ends_in(1);
        if let Some(bucket) = &mut self.tokens {
            let limit = bucket.capacity;
            reserved.minute_tokens = wanted.tokens.min(limit as u64);
            let n_tokens = reserved.minute_tokens as f64;
            if let Err(filled_in) = bucket.take(n_tokens) {
                // What open requests set aside comes back sooner than the bucket fills up.
                let given_back = self.reserved_minute as f64;
                let rest = bucket.until(n_tokens - given_back).max(open_ends_in);
                let retry_after = filled_in.min(rest);
                return Err(OverLimit { kind: LimitKind::TokensPerMinute, limit, retry_after });
            }
        }
        reserved.day = self.day.reserve(&self.limits, wanted.per_kind());
        self.reserved_minute = self.reserved_minute.saturating_add(reserved.minute_tokens);
        Ok(reserved)
    }

    /// Whether a request that may take so much fits into the day's budgets.
    fn check_day(&self, wanted: PerKind, now: Now) -> Result<(), OverLimit> {
        let Some(full) = self.day.full(&self.limits, wanted) else { return Ok(()) };
        let tomorrow = until_tomorrow(now);
        let retry_after = match full.by_others {
            true => self.open_ends_in(1).min(tomorrow),
            false => tomorrow,
        };
        Err(OverLimit { kind: full.kind, limit: full.limit, retry_after })
    }

    /// When one of `n` open requests has ended, about.
    fn open_ends_in(&self, n: u64) -> Duration {
        let wait = Duration::from_secs_f64(self.mean_open_s / n as f64);
        wait.clamp(Duration::from_millis(100), Duration::from_secs(60))
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
        let wait = self.until(n.min(self.capacity));
        if !wait.is_zero() {
            return Err(wait);
        }
        self.level -= n;
        Ok(())
    }

    /// How long it takes until the level is `n`.
    fn until(&self, n: f64) -> Duration {
        let missing = n - self.level;
        // A wait that was honoured to the nanosecond must not fail by a rounding.
        if missing > 1e-6 {
            Duration::from_secs_f64(missing / self.per_second())
        } else {
            Duration::ZERO
        }
    }

    fn give_back(&mut self, n: f64) {
        self.level = (self.level + n).min(self.capacity);
    }

    /// What was used counts against the new limit, but makes no new debt.
    fn resize(&mut self, per_minute: u64) {
        let capacity = per_minute as f64;
        self.level = (self.level + capacity - self.capacity).max(self.level.min(0.0));
        self.capacity = capacity;
    }
}

fn until_tomorrow(now: Now) -> Duration {
    Duration::from_secs(DAY_S - now.unix_s % DAY_S)
}
