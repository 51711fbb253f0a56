//! Circuit breakers: a model that fails is left alone for a while, then tried by one request.
//!
//! It must never read a clock.
//!
//! Start reading at [`Breakers::may_ask`].

use std::collections::{BTreeMap, VecDeque};

use serde::Serialize;

/// Answers that are looked back at.
const WINDOW: usize = 20;
/// Older ones say nothing.
const WINDOW_MS: i64 = 60_000;
/// At least so many must have failed,
const MIN_ERRORS: usize = 5;
/// How long a model is left alone.
const OPEN_MS: i64 = 30_000;
/// Models that are watched; the first ones stay.
const MAX_MODELS: usize = 256;

/// One breaker for each model.
#[derive(Clone, Debug, Default)]
pub struct Breakers(BTreeMap<String, Breaker>);

/// How a breaker stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// The model is asked.
    Closed,
    /// It is left alone.
    Open,
    /// One request tries it.
    HalfOpen,
}

#[derive(Clone, Debug, Default)]
struct Breaker {
    /// When, and whether it failed.
    outcomes: VecDeque<(i64, bool)>,
    opened_at_ms: Option<i64>,
    tried_at_ms: Option<i64>,
}

impl Breakers {
    /// An answer of `model` ended.
    pub fn note(&mut self, model: &str, failed: bool, now_ms: i64) {
        if !self.0.contains_key(model) {
            if !failed || self.0.len() >= MAX_MODELS {
                return;
            }
            self.0.insert(model.to_owned(), Breaker::default());
        }
        let breaker = self.0.get_mut(model).expect("it was put there: this is a bug");
        if breaker.opened_at_ms.is_some() {
            // Only who was sent to try it says something; stragglers from before do not.
            if breaker.tried_at_ms.take().is_some() {
                *breaker = match failed {
                    true => Breaker { opened_at_ms: Some(now_ms), ..Breaker::default() },
                    false => Breaker::default(),
                };
            }
            return;
        }
        breaker.outcomes.push_back((now_ms, failed));
        let is_old = |&(at, _): &(i64, bool)| now_ms - at > WINDOW_MS;
        while breaker.outcomes.len() > WINDOW || breaker.outcomes.front().is_some_and(is_old) {
            breaker.outcomes.pop_front();
        }
        let n_failed = breaker.outcomes.iter().filter(|(_, failed)| *failed).count();
        if n_failed >= MIN_ERRORS && 2 * n_failed >= breaker.outcomes.len() {
            *breaker = Breaker { opened_at_ms: Some(now_ms), ..Breaker::default() };
        }
    }

    /// Whether `model` may be asked. Of an open one, one request may after a while; the next when that one is over or lost.
    pub fn may_ask(&mut self, model: &str, now_ms: i64) -> bool {
        let Some(breaker) = self.0.get_mut(model) else { return true };
        match (breaker.opened_at_ms, breaker.tried_at_ms) {
            (None, _) => true,
            (Some(opened), None) if now_ms - opened >= OPEN_MS => {
                breaker.tried_at_ms = Some(now_ms);
                true
            }
            (Some(_), Some(tried)) if now_ms - tried >= OPEN_MS => {
                breaker.tried_at_ms = Some(now_ms);
                true
            }
            _ => false,
        }
    }

    /// The breakers of models that failed lately.
    #[must_use]
    pub fn states(&self) -> BTreeMap<String, State> {
        let state = |breaker: &Breaker| match (breaker.opened_at_ms, breaker.tried_at_ms) {
            (None, _) => State::Closed,
            (Some(_), None) => State::Open,
            (Some(_), Some(_)) => State::HalfOpen,
        };
        self.0.iter().map(|(model, breaker)| (model.clone(), state(breaker))).collect()
    }
}
