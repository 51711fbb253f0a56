//! How the next token is drawn.

use std::ops::RangeInclusive;

/// Parameters of one draw. Applied in this order: penalties, temperature, top-k, top-p, min-p.
#[derive(Clone, Debug, PartialEq)]
pub struct SamplingParams {
    /// 0 is greedy. Range 0..=2.
    pub temperature: f32,
    /// Keep the k most likely tokens; 0 keeps all.
    pub top_k: u32,
    /// Keep the smallest set of tokens whose probabilities sum to at least this. Range (0, 1].
    pub top_p: f32,
    /// Keep tokens at least this fraction as likely as the most likely one. Range 0..=1.
    pub min_p: f32,
    /// Divide (or multiply, when negative) the logits of seen tokens. Range (0, 2]; 1 is off. Source: Keskar et al. 2019.
    pub repetition_penalty: f32,
    /// Subtracted once from the logit of each generated token. Range -2..=2.
    pub presence_penalty: f32,
    /// Subtracted from a generated token's logit once for each time it was generated. Range -2..=2.
    pub frequency_penalty: f32,
    /// Keys the counter-based generator together with the position, so a draw never depends on the batch.
    pub seed: u64,
    /// When given, the log-probability of each drawn token is reported with this many alternatives. At most 20.
    pub logprobs: Option<u32>,
}

/// A parameter outside its range.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("{name} is {value}, but must be {limit}")]
pub struct InvalidParam {
    /// The parameter's name on the wire.
    pub name: &'static str,
    /// What was given.
    pub value: String,
    /// What is allowed.
    pub limit: &'static str,
}

impl Default for SamplingParams {
    fn default() -> Self {
        SamplingParams {
            temperature: 1.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            repetition_penalty: 1.0,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            seed: 0,
            logprobs: None,
        }
    }
}

impl SamplingParams {
    /// Always the most likely token.
    #[must_use]
    pub fn greedy() -> Self {
        SamplingParams { temperature: 0.0, ..SamplingParams::default() }
    }

    /// Whether any penalty changes the logits.
    #[must_use]
    #[expect(clippy::float_cmp, reason = "the neutral values are exact")]
    pub fn has_penalties(&self) -> bool {
        self.repetition_penalty != 1.0
            || self.presence_penalty != 0.0
            || self.frequency_penalty != 0.0
    }

    /// Checks every range.
    ///
    /// # Errors
    /// The first parameter that is not a number or lies outside its range.
    pub fn validate(&self) -> Result<(), InvalidParam> {
        within("temperature", self.temperature, 0.0..=2.0, "between 0 and 2")?;
        within("top_p", self.top_p, f32::MIN_POSITIVE..=1.0, "above 0 and at most 1")?;
        within("min_p", self.min_p, 0.0..=1.0, "between 0 and 1")?;
        within(
            "repetition_penalty",
            self.repetition_penalty,
            f32::MIN_POSITIVE..=2.0,
            "above 0 and at most 2",
        )?;
        within("presence_penalty", self.presence_penalty, -2.0..=2.0, "between -2 and 2")?;
        within("frequency_penalty", self.frequency_penalty, -2.0..=2.0, "between -2 and 2")?;
        match self.logprobs {
            Some(n) if n > 20 => Err(InvalidParam {
                name: "top_logprobs",
                value: n.to_string(),
                limit: "at most 20",
            }),
            _ => Ok(()),
        }
    }
}

fn within(
    name: &'static str,
    value: f32,
    range: RangeInclusive<f32>,
    limit: &'static str,
) -> Result<(), InvalidParam> {
    if range.contains(&value) {
        Ok(())
    } else {
        Err(InvalidParam { name, value: value.to_string(), limit })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(params: SamplingParams, expect: Option<&str>) {
        assert_eq!(params.validate().err().map(|e| e.name), expect);
    }

    #[test]
    fn ranges_are_checked_and_nan_is_outside_of_all() {
        let p = SamplingParams::default;
        check(p(), None);
        check(SamplingParams { temperature: f32::NAN, ..p() }, Some("temperature"));
        check(SamplingParams { temperature: -0.1, ..p() }, Some("temperature"));
        check(SamplingParams { top_p: 0.0, ..p() }, Some("top_p"));
        check(SamplingParams { min_p: 1.1, ..p() }, Some("min_p"));
        check(SamplingParams { repetition_penalty: 0.0, ..p() }, Some("repetition_penalty"));
        check(SamplingParams { presence_penalty: f32::INFINITY, ..p() }, Some("presence_penalty"));
        check(SamplingParams { logprobs: Some(21), ..p() }, Some("top_logprobs"));
    }
}
