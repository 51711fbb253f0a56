//! A request's place: among all that are open, and at its key's meter.
//!
//! It must never outlive the response, and never be given back early.
//!
//! Start reading at [`Place`].

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use lastmile::{Allowance, GenerateRequest, Prices, Prompt, SharedAllowance, Timings, Usage};
use lm_api::{ApiError, Denial};
use lm_keys::{Amounts, Meter, OverLimit, Reservation};
use tokio::sync::OwnedSemaphorePermit;

use crate::auth::{Caller, now};

/// What is set aside for an answer that may be of any length.
const UNBOUNDED_ANSWER_TOKENS: u32 = 256;
/// Bytes of a prompt that make a token, about.
pub(crate) const BYTES_PER_TOKEN: u64 = 4;

/// A request's place, given back when it is dropped.
#[derive(Debug)]
pub(crate) struct Place {
    pub(crate) _permit: OwnedSemaphorePermit,
    pub(crate) lease: Option<Lease>,
}

/// A request at its key's meter.
#[derive(Debug)]
pub(crate) struct Lease {
    account: Arc<Account>,
    has_daily: bool,
    begun: Instant,
}

/// What a request set aside, for as long as its answers may still use it.
#[derive(Debug)]
struct Account {
    meter: Arc<Meter>,
    prices: Prices,
    reserved: Mutex<Reservation>,
}

/// What the answers of one prompt used so far, by choice.
#[derive(Debug)]
struct Tab {
    account: Arc<Account>,
    used: Mutex<Vec<Amounts>>,
}

/// Tokens that requests may use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Estimate {
    pub(crate) prompt_tokens: u64,
    pub(crate) answer_tokens: u64,
}

impl Lease {
    /// Begins a request of this caller, where the caller has a meter.
    pub(crate) fn begin(caller: &Caller, prices: &Prices) -> Result<Option<Self>, ApiError> {
        let Some(holder) = &caller.holder else { return Ok(None) };
        let meter = Arc::clone(&holder.meter);
        let now = now();
        if !meter.knows_day(now)
            && let Some(budget) = meter.budgets(now).first()
        {
            return Err(ApiError::Denied(Denial::BudgetUnread { kind: budget.kind }));
        }
        meter.begin(now).map_err(refusal)?;
        let reserved = Mutex::default();
        let account = Arc::new(Account { meter, prices: prices.clone(), reserved });
        let has_daily = holder.record.limits.has_daily();
        Ok(Some(Lease { account, has_daily, begun: Instant::now() }))
    }

    /// Sets aside what will be generated, and the CPU time that as many tokens of the key took today.
    pub(crate) fn reserve(&self, estimate: Estimate) -> Result<(), ApiError> {
        let Account { meter, prices, reserved } = &*self.account;
        let now = now();
        let tokens = estimate.prompt_tokens.saturating_add(estimate.answer_tokens);
        let today = meter.spent_today(now);
        let cpu_seconds = today.cpu_seconds / (today.tokens.max(1) as f64) * tokens as f64;
        let tokens_of = |n: u64| u32::try_from(n).unwrap_or(u32::MAX);
        let usage = Usage {
            prompt_tokens: tokens_of(estimate.prompt_tokens),
            completion_tokens: tokens_of(estimate.answer_tokens),
            ..Usage::default()
        };
        let cost = cost(prices, 0, usage, cpu_seconds);
        let taken = meter.reserve(Amounts { tokens, cpu_seconds, cost }, now).map_err(refusal)?;
        // A handler reserves once, so there is nothing to replace.
        *reserved.lock().unwrap_or_else(PoisonError::into_inner) = taken;
        Ok(())
    }

    /// What the answers of one prompt may use; `None` is as much as there is.
    pub(crate) fn allowance(&self) -> Option<SharedAllowance> {
        let tab = || Tab { account: Arc::clone(&self.account), used: Mutex::default() };
        self.has_daily.then(|| SharedAllowance(Arc::new(tab())))
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let Account { meter, reserved, .. } = &*self.account;
        let left = std::mem::take(&mut *reserved.lock().unwrap_or_else(PoisonError::into_inner));
        meter.end(left, self.begun.elapsed(), now());
    }
}

impl Allowance for Tab {
    fn spend(&self, choice: u32, usage: Usage, cpu_seconds: f64) -> bool {
        let Account { meter, prices, reserved } = &*self.account;
        let after = amounts(prices, choice, usage, cpu_seconds);
        let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        let i = choice as usize;
        if used.len() <= i {
            used.resize(i + 1, Amounts::default());
        }
        // What was counted is not given back, whoever says less afterwards.
        let before = used[i];
        let after = at_least(after, before);
        used[i] = after;
        let mut reserved = reserved.lock().unwrap_or_else(PoisonError::into_inner);
        meter.spend(before, after, &mut reserved, now())
    }
}

fn at_least(amounts: Amounts, least: Amounts) -> Amounts {
    Amounts {
        tokens: amounts.tokens.max(least.tokens),
        cpu_seconds: amounts.cpu_seconds.max(least.cpu_seconds),
        cost: amounts.cost.max(least.cost),
    }
}

/// What an answer used; the answers of one prompt share it, so that it counts with the first.
pub(crate) fn amounts(prices: &Prices, choice: u32, usage: Usage, cpu_seconds: f64) -> Amounts {
    let prompt_tokens = if choice == 0 { usage.prompt_tokens } else { 0 };
    Amounts {
        tokens: u64::from(prompt_tokens) + u64::from(usage.completion_tokens),
        cpu_seconds,
        cost: cost(prices, choice, usage, cpu_seconds),
    }
}

fn cost(prices: &Prices, choice: u32, usage: Usage, cpu_seconds: f64) -> f64 {
    let timings = Timings { cpu_seconds, ..Timings::default() };
    prices.of(choice, usage, &timings).unwrap_or(0.0)
}

fn refusal(over: OverLimit) -> ApiError {
    ApiError::Denied(Denial::OverLimit { over })
}

/// What requests may use, guessed before their prompts are tokenised: what they used in truth is
/// charged while they run and when they end.
pub(crate) fn estimated(requests: &[GenerateRequest]) -> Estimate {
    let mut all = Estimate::default();
    for request in requests {
        let prompt = match &request.prompt {
            Prompt::Text(text) => text.len() as u64 / BYTES_PER_TOKEN,
            Prompt::Tokens(tokens) => tokens.len() as u64,
            Prompt::Chat(messages) => {
                let bytes: u64 = messages.iter().map(|m| m.content.len() as u64).sum();
                bytes / BYTES_PER_TOKEN
            }
        };
        let answer = request.stop.max_tokens.unwrap_or(UNBOUNDED_ANSWER_TOKENS);
        all.prompt_tokens = all.prompt_tokens.saturating_add(prompt.max(1));
        all.answer_tokens =
            all.answer_tokens.saturating_add(u64::from(answer) * u64::from(request.n));
    }
    all
}
