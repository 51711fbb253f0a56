//! How sure a model was of an answer, for clients that ask by `"confidence": true`.
//!
//! It must never make up a number: a probability that the answer is good is there only where answers of the same release
//! were judged.
//!
//! Start reading at [`Sureness`].

use serde::{Serialize, Serializer};

/// Tokens of the stretch that is looked for.
const STRETCH: usize = 8;

/// What the log-probabilities of an answer's drawn tokens say, as they come. They are the model's own, at temperature 1 and
/// before anything was ruled out.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Sureness {
    n_tokens: u32,
    sum: f64,
    /// The last ones, each at its place modulo [`STRETCH`].
    recent: [f64; STRETCH],
    /// Where the least likely stretch begins, and its sum.
    least: Option<(u32, f64)>,
}

/// What was learned from judged answers that were about as likely.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Learned {
    /// The part of such answers that was good.
    #[serde(serialize_with = "probability")]
    pub probability: f64,
    /// Judged answers like this one.
    pub n_alike: u64,
    /// Judged answers of this release.
    pub n_judged: u64,
    /// How far such probabilities are from the truth on average: the expected calibration error on held-out answers.
    #[serde(serialize_with = "probability")]
    pub calibration_error: f64,
}

/// What an answer says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Confidence {
    calibrated: bool,
    #[serde(flatten)]
    learned: Option<Learned>,
    /// The geometric mean of its tokens' probabilities; `None` when the model drew none.
    #[serde(serialize_with = "probability_or_null")]
    token_probability: Option<f64>,
    least_sure: Option<Stretch>,
}

/// The stretch of tokens that the model was least sure of.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Stretch {
    /// Its first token, from 0.
    first_token: u32,
    /// Its tokens: 8, or all of a shorter answer.
    n_tokens: u32,
    /// The geometric mean of their probabilities.
    #[serde(serialize_with = "probability")]
    token_probability: f64,
}

impl Sureness {
    /// Takes in the next token.
    pub fn push(&mut self, logprob: f32) {
        let logprob = f64::from(logprob);
        self.recent[self.n_tokens as usize % STRETCH] = logprob;
        self.n_tokens += 1;
        self.sum += logprob;
        let Some(first) = self.n_tokens.checked_sub(STRETCH as u32) else { return };
        let sum: f64 = self.recent.iter().sum();
        if self.least.is_none_or(|(_, least)| sum < least) {
            self.least = Some((first, sum));
        }
    }

    /// The mean log-probability of the tokens so far; `None` before the first.
    #[must_use]
    pub fn mean_logprob(&self) -> Option<f64> {
        (self.n_tokens > 0).then(|| self.sum / f64::from(self.n_tokens))
    }

    /// What to say of the answer; without `learned` it says that it is not calibrated.
    #[must_use]
    pub fn confidence(&self, learned: Option<Learned>) -> Confidence {
        let token_probability = self.mean_logprob().map(f64::exp);
        let short = token_probability.map(|token_probability| Stretch {
            first_token: 0,
            n_tokens: self.n_tokens,
            token_probability,
        });
        let long = self.least.map(|(first_token, sum)| Stretch {
            first_token,
            n_tokens: STRETCH as u32,
            token_probability: (sum / STRETCH as f64).exp(),
        });
        let least_sure = long.or(short);
        Confidence { calibrated: learned.is_some(), learned, token_probability, least_sure }
    }
}

/// Six digits: more would be noise, and the last ones differ from machine to machine.
fn probability<S: Serializer>(value: &f64, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_f64((value * 1e6).round() / 1e6)
}

fn probability_or_null<S: Serializer>(value: &Option<f64>, to: S) -> Result<S::Ok, S::Error> {
    match value {
        Some(value) => probability(value, to),
        None => to.serialize_none(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// Probabilities as they are drawn.
    fn of(tokens: &[f32]) -> Sureness {
        let mut sureness = Sureness::default();
        tokens.iter().for_each(|p| sureness.push(p.ln()));
        sureness
    }

    /// `least` is the first token of the least sure stretch, its tokens and their probability.
    #[track_caller]
    fn check(tokens: &[f32], expect: f64, least: (u32, u32, f64)) {
        let found = serde_json::to_value(of(tokens).confidence(None));
        let expect = json!({
            "calibrated": false, "token_probability": expect,
            "least_sure": {
                "first_token": least.0, "n_tokens": least.1, "token_probability": least.2,
            },
        });
        assert_eq!(found.ok(), Some(expect));
    }

    #[test]
    fn the_least_sure_stretch_is_found_wherever_it_is() {
        check(&[0.5], 0.5, (0, 1, 0.5));
        check(&[0.25, 1.0], 0.5, (0, 2, 0.5));
        check(&[0.5; 8], 0.5, (0, 8, 0.5));
        // Of equals the first.
        check(&[0.5; 30], 0.5, (0, 8, 0.5));
        let mut tokens = [1.0; 32];
        tokens[17..25].fill(0.0625);
        check(&tokens, 0.5, (17, 8, 0.0625));
        // What cannot be is no error.
        check(&[0.0], 0.0, (0, 1, 0.0));
    }

    #[test]
    fn without_a_token_nothing_is_known() {
        let found = serde_json::to_value(of(&[]).confidence(None));
        let expect = json!({ "calibrated": false, "token_probability": null, "least_sure": null });
        assert_eq!(found.ok(), Some(expect));
        assert_eq!(of(&[]).mean_logprob(), None);
    }

    #[test]
    fn what_was_learned_is_told_beside_it() {
        let learned =
            Learned { probability: 0.875, n_alike: 57, n_judged: 412, calibration_error: 0.031 };
        let found = serde_json::to_value(of(&[0.5]).confidence(Some(learned)));
        let expect = json!({
            "calibrated": true, "probability": 0.875, "n_alike": 57, "n_judged": 412,
            "calibration_error": 0.031, "token_probability": 0.5,
            "least_sure": { "first_token": 0, "n_tokens": 1, "token_probability": 0.5 },
        });
        assert_eq!(found.ok(), Some(expect));
    }
}
