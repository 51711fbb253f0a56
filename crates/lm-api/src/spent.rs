//! What a response took, for clients that ask by `"timings": true`.
//!
//! It must never write a number that was not measured: what is unavailable says so.
//!
//! Start reading at [`Spent::of`].

use lastmile::{Finish, Prices};
use serde::{Serialize, Serializer};

/// What a response took, all its answers together.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Spent {
    /// From arrival until the last answer was first scheduled.
    pub queue_wait_ms: f64,
    /// From arrival until the first token.
    pub ttft_ms: Option<f64>,
    /// From arrival until the end.
    pub e2e_ms: f64,
    /// CPU time.
    pub cpu_seconds: f64,
    /// A number, or `"unavailable"`.
    #[serde(serialize_with = "or_unavailable")]
    pub joules: Option<f64>,
    /// Tokens that were guessed ahead.
    pub draft_n: u64,
    /// Those of them that were right.
    pub draft_n_accepted: u64,
    /// What it costs by the server's prices, if there are any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cost: Option<Cost>,
}

/// An amount of money.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Cost {
    /// How much.
    pub amount: f64,
    /// Of what, as the operator calls it.
    pub currency: String,
}

impl Spent {
    /// Sums up the answers of a response: `n` for each prompt, one prompt after the other.
    #[must_use]
    pub fn of(finishes: &[Finish], n: usize, prices: &Prices) -> Spent {
        let ms = |duration: std::time::Duration| duration.as_secs_f64() * 1e3;
        let timings = || finishes.iter().map(|finish| &finish.timings);
        let first = timings().map(|t| t.ttft).filter(|ttft| !ttft.is_zero()).min();
        let costs = finishes.iter().enumerate().map(|(i, finish)| {
            let choice = u32::try_from(i % n.max(1)).unwrap_or(u32::MAX);
            prices.of(choice, finish.usage, &finish.timings)
        });
        Spent {
            queue_wait_ms: timings().map(|t| ms(t.queue_wait)).fold(0.0, f64::max),
            ttft_ms: first.map(ms),
            e2e_ms: timings().map(|t| ms(t.e2e)).fold(0.0, f64::max),
            cpu_seconds: timings().map(|t| t.cpu_seconds).sum(),
            joules: timings().map(|t| t.joules).sum(),
            draft_n: timings().map(|t| u64::from(t.n_drafted)).sum(),
            draft_n_accepted: timings().map(|t| u64::from(t.n_accepted)).sum(),
            cost: costs
                .sum::<Option<f64>>()
                .filter(|_| prices.are_set())
                .map(|amount| Cost { amount, currency: prices.currency.clone() }),
        }
    }
}

/// A number, or `"unavailable"`.
///
/// # Errors
/// The serializer's own.
pub fn or_unavailable<S: Serializer>(value: &Option<f64>, to: S) -> Result<S::Ok, S::Error> {
    match value {
        Some(value) => to.serialize_f64(*value),
        None => to.serialize_str("unavailable"),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use lastmile::{FinishReason, Timings, Usage};
    use serde_json::json;

    use super::*;

    #[test]
    fn a_response_takes_what_its_answers_take() {
        let finish = |e2e, ttft, joules| Finish {
            reason: FinishReason::Stop,
            usage: Usage {
                prompt_tokens: 1_000_000,
                completion_tokens: 500_000,
                cached_tokens: 0,
                ..Usage::default()
            },
            timings: Timings {
                queue_wait: Duration::from_millis(1),
                ttft: Duration::from_millis(ttft),
                e2e: Duration::from_millis(e2e),
                cpu_seconds: 0.5,
                joules,
                ..Timings::default()
            },
        };
        let prices = Prices {
            currency: "EUR".to_owned(),
            per_million_input_tokens: 1.0,
            per_million_output_tokens: 4.0,
            ..Prices::default()
        };
        let both = [finish(50, 20, Some(2.5)), finish(70, 0, Some(0.5))];
        let spent = serde_json::to_value(Spent::of(&both, 2, &prices));
        let expect = json!({
            "queue_wait_ms": 1.0, "ttft_ms": 20.0, "e2e_ms": 70.0, "cpu_seconds": 1.0,
            "joules": 3.0, "draft_n": 0, "draft_n_accepted": 0, "cost": { "amount": 5.0, "currency": "EUR" },
        });
        assert_eq!(spent.ok(), Some(expect));
        let unknown = [finish(50, 20, Some(2.5)), finish(70, 30, None)];
        let spent = serde_json::to_value(Spent::of(&unknown, 1, &Prices::default()));
        let expect = json!({
            "queue_wait_ms": 1.0, "ttft_ms": 20.0, "e2e_ms": 70.0, "cpu_seconds": 1.0,
            "joules": "unavailable", "draft_n": 0, "draft_n_accepted": 0,
        });
        assert_eq!(spent.ok(), Some(expect));
    }
}
