//! Which problem to solve first: what is surely frequent, bad, and cheap to solve.
//!
//! It must never read a file.
//!
//! Start reading at [`rank`].

use lm_evidence::{Counts, Z_95, wilson};
use serde::Serialize;

/// What is known of a cluster.
#[derive(Clone, Debug, PartialEq)]
pub struct Tally {
    /// The cluster.
    pub cluster: String,
    /// Its fingerprint.
    pub fingerprint: String,
    /// Its failures in the window, without those that a reviewer rejected.
    pub n_failures: u64,
    /// Of them those in the newer half of the window.
    pub n_recent: u64,
    /// Mean severity, from 0 to 1.
    pub severity: f64,
    /// Days that a fix is thought to take.
    pub effort_days: f64,
}

/// A cluster in the order of what to solve first.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Ranked {
    /// The cluster.
    pub cluster: String,
    /// What its failures have in common: kind and detail.
    pub fingerprint: String,
    /// Its failures in the window.
    pub n_failures: u64,
    /// Of them those in the newer half of the window: the trend.
    pub n_recent: u64,
    /// All answers in the window.
    pub n_answers: u64,
    /// The lower end of Wilson's 95 % interval of the share of answers that fail so.
    pub rate_low: f64,
    /// Mean severity, from 0 to 1.
    pub severity: f64,
    /// Days that a fix is thought to take.
    pub effort_days: f64,
    /// `rate_low * severity / effort_days`.
    pub score: f64,
}

/// The clusters of a window with `n_answers` answers, what to solve first first.
#[must_use]
pub fn rank(tallies: Vec<Tally>, n_answers: u64) -> Vec<Ranked> {
    let mut ranked: Vec<Ranked> = tallies
        .into_iter()
        .map(|tally| {
            // Retention may have taken answers whose failures are still known.
            let n_answers = n_answers.max(tally.n_failures);
            let counts = Counts { n: n_answers, hits: tally.n_failures };
            let rate_low = wilson(counts, Z_95).low;
            Ranked {
                score: rate_low * tally.severity / tally.effort_days,
                cluster: tally.cluster,
                fingerprint: tally.fingerprint,
                n_failures: tally.n_failures,
                n_recent: tally.n_recent,
                n_answers,
                rate_low,
                severity: tally.severity,
                effort_days: tally.effort_days,
            }
        })
        .collect();
    ranked.sort_by(|a, b| b.score.total_cmp(&a.score).then_with(|| a.cluster.cmp(&b.cluster)));
    ranked
}
