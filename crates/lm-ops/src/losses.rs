//! Candidates that cannot answer: how often in a row, since when, and why.
//!
//! It must never find that out itself: who loses a request says so.
//!
//! Start reading at [`Losses::lost`].

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use lm_experiment::Stage;
use serde::Serialize;

/// After so many requests in a row people are told.
const MOST_LOST: u64 = 10;
/// And when that went on for so long, the candidate is given up: a request for its model by name waits no longer.
const LONGEST_MS: i64 = 120_000;

/// An experiment that runs and that a person must look at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Troubled {
    /// Its name.
    pub experiment: String,
    /// The model whose requests it is about.
    pub model: String,
    /// How far it is.
    pub stage: Stage,
    /// What is wrong.
    pub why: String,
}

/// What candidates lost since they last answered, by experiment.
#[derive(Default)]
pub(crate) struct Losses(Mutex<BTreeMap<String, Lost>>);

struct Lost {
    n: u64,
    first_ms: i64,
    last_ms: i64,
    why: String,
}

impl Losses {
    /// A request that the candidate was to answer, and could not.
    pub(crate) fn lost(&self, experiment: &str, why: &str, at_ms: i64) {
        let mut all = self.all();
        let lost = all.entry(experiment.to_owned()).or_insert_with(|| Lost {
            n: 0,
            first_ms: at_ms,
            last_ms: at_ms,
            why: String::new(),
        });
        (lost.n, lost.last_ms) = (lost.n + 1, at_ms);
        // Who does not wait any more does not hear why.
        if lost.n <= MOST_LOST {
            why.clone_into(&mut lost.why);
        }
    }

    /// It can.
    pub(crate) fn answers(&self, experiment: &str) {
        self.all().remove(experiment);
    }

    /// Forgets experiments that do not run.
    pub(crate) fn keep(&self, runs: impl Fn(&str) -> bool) {
        self.all().retain(|experiment, _| runs(experiment));
    }

    /// Whether it missed so many that nobody should wait for it.
    pub(crate) fn is_losing(&self, experiment: &str) -> bool {
        self.all().get(experiment).is_some_and(|lost| lost.n >= MOST_LOST)
    }

    /// What people are to be told; `None` when it answers, or missed only a few.
    pub(crate) fn told(&self, experiment: &str) -> Option<String> {
        self.all().get(experiment).filter(|lost| lost.n >= MOST_LOST).map(Lost::text)
    }

    /// Why it is to be given up; `None` when it is not.
    pub(crate) fn hopeless(&self, experiment: &str) -> Option<String> {
        let is_hopeless =
            |lost: &&Lost| lost.n >= MOST_LOST && lost.last_ms - lost.first_ms >= LONGEST_MS;
        self.all().get(experiment).filter(is_hopeless).map(Lost::text)
    }

    fn all(&self) -> MutexGuard<'_, BTreeMap<String, Lost>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Lost {
    fn text(&self) -> String {
        let seconds = (self.last_ms - self.first_ms) / 1000;
        format!(
            "the candidate could not answer {} requests in a row within {seconds} s: {}",
            self.n, self.why
        )
    }
}
