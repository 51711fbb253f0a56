//! What answers cost in money, by an operator's prices.
//!
//! It must never know where a price was said.
//!
//! Start reading at [`Prices::of`].

use crate::{Timings, Usage};

/// What an operator asks for, all in one currency. With zeros everywhere nothing is priced.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Prices {
    /// A label such as `EUR`; nothing is ever converted.
    pub currency: String,
    /// For a CPU second.
    pub per_cpu_second: f64,
    /// For a million tokens of prompts, cached ones included.
    pub per_million_input_tokens: f64,
    /// For a million tokens of answers.
    pub per_million_output_tokens: f64,
}

impl Prices {
    /// Whether anything has a price.
    #[must_use]
    pub fn are_set(&self) -> bool {
        self.per_cpu_second > 0.0
            || self.per_million_input_tokens > 0.0
            || self.per_million_output_tokens > 0.0
    }

    /// What one answer costs, as a number of the currency; `None` without prices. The answers of one prompt share
    /// it, so that it is paid for with the first, `choice` 0. Tokens that another request computed are not paid again.
    #[must_use]
    pub fn of(&self, choice: u32, usage: Usage, timings: &Timings) -> Option<f64> {
        let usage = if timings.computed_by.is_some() { Usage::default() } else { usage };
        let prompt_tokens = if choice == 0 { usage.prompt_tokens } else { 0 };
        let cost = self.per_cpu_second * timings.cpu_seconds.max(0.0)
            + self.per_million_input_tokens * f64::from(prompt_tokens) / 1e6
            + self.per_million_output_tokens * f64::from(usage.completion_tokens) / 1e6;
        self.are_set().then_some(cost)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::RequestId;

    #[test]
    fn each_price_counts_and_a_prompt_once() {
        let usage = Usage {
            prompt_tokens: 2_000_000,
            completion_tokens: 500_000,
            cached_tokens: 7,
            ..Usage::default()
        };
        let timings = Timings { cpu_seconds: 8.0, ..Timings::default() };
        let prices = Prices {
            currency: "EUR".to_owned(),
            per_cpu_second: 0.25,
            per_million_input_tokens: 3.0,
            per_million_output_tokens: 10.0,
        };
        assert_eq!(prices.of(0, usage, &timings), Some(2.0 + 6.0 + 5.0));
        assert_eq!(prices.of(1, usage, &timings), Some(2.0 + 5.0));
        assert_eq!(Prices::default().of(0, usage, &timings), None);
        let told =
            Timings { computed_by: Some(RequestId(7)), cpu_seconds: 0.5, ..Timings::default() };
        assert_eq!(prices.of(0, usage, &told), Some(0.125), "what it took itself, and no token");
    }
}
