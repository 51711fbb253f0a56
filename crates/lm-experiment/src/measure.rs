//! What is measured of an answer.
//!
//! It must never judge a text: whether it failed comes from outside.
//!
//! Start reading at [`values`].

use serde::{Deserialize, Serialize};

/// What is measured of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Metric {
    /// Whether somebody said that it is good.
    Feedback,
    /// The score that somebody gave, from 0 to 1.
    Score,
    /// Whether it shows no sign of failure.
    NotFailure,
    /// Whether it is JSON.
    ValidJson,
    /// Until its first token.
    TtftMs,
    /// Until its end.
    E2eMs,
    /// Its share of the process's CPU time.
    CpuSeconds,
    /// Its price, in the prices' currency.
    Cost,
}

impl Metric {
    /// Those without an upper end: latencies and costs.
    pub(crate) const SIZES: [Metric; 4] =
        [Metric::TtftMs, Metric::E2eMs, Metric::CpuSeconds, Metric::Cost];

    /// A stable word for programs.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Metric::Feedback => "feedback",
            Metric::Score => "score",
            Metric::NotFailure => "not_failure",
            Metric::ValidJson => "valid_json",
            Metric::TtftMs => "ttft_ms",
            Metric::E2eMs => "e2e_ms",
            Metric::CpuSeconds => "cpu_seconds",
            Metric::Cost => "cost",
        }
    }

    /// Whether it is from 0 to 1, so that means say something; of the others quantiles do.
    #[must_use]
    pub fn is_bounded(self) -> bool {
        matches!(self, Metric::Feedback | Metric::Score | Metric::NotFailure | Metric::ValidJson)
    }

    /// Whether it is said later than the answer.
    #[must_use]
    pub fn is_feedback(self) -> bool {
        matches!(self, Metric::Feedback | Metric::Score)
    }
}

/// How long somebody waited who left, as far as a latency is concerned: the answer would have taken at least so long.
pub(crate) fn waited(metric: Metric, attempt: &lm_store::StoredAttempt) -> Option<f64> {
    match metric {
        Metric::TtftMs => Some(attempt.ttft_ms.unwrap_or(attempt.e2e_ms)),
        Metric::E2eMs => Some(attempt.e2e_ms),
        _ => None,
    }
}

/// What an answer has of a metric that is known when it ends; `None` when it has none.
#[must_use]
pub fn values(metric: Metric, attempt: &lm_store::StoredAttempt) -> Option<f64> {
    match metric {
        Metric::TtftMs => attempt.ttft_ms,
        Metric::E2eMs => attempt.finish_reason.is_some().then_some(attempt.e2e_ms),
        Metric::CpuSeconds => attempt.finish_reason.is_some().then_some(attempt.cpu_seconds),
        Metric::Cost => attempt.cost,
        Metric::Feedback | Metric::Score | Metric::NotFailure | Metric::ValidJson => None,
    }
}
