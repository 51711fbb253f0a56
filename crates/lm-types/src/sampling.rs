//! How the next token is drawn.

use std::ops::RangeInclusive;

use crate::TokenId;

/// Parameters of one draw. Applied in this order: processors, grammar, allowed tokens, bad words, bias, and then, unless
/// `samplers` says otherwise, DRY, penalties, top-n-sigma, temperature, top-k, typical-p, top-p, min-p.
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
    /// Keep the smallest set of tokens whose surprise is nearest to the expected one and whose probabilities sum to
    /// at least this. Range (0, 1]; 1 is off. Source: Meister et al. 2022.
    pub typical_p: f32,
    /// Keep tokens whose logit is within this many standard deviations of the greatest. 0 is off. Source: Tang et al. 2024.
    pub top_n_sigma: f32,
    /// Penalise what would repeat an earlier sequence.
    pub dry: Option<Dry>,
    /// The changes of logits that are asked for by their names, in this order; see [`crate::LogitProcessor`].
    pub processors: Vec<String>,
    /// The steps that apply, in this order; those that are not among them do not, whatever their parameters say. `None`
    /// is all of them in the usual order. A temperature of 0 is greedy in any case.
    pub samplers: Option<Vec<SamplerStep>>,
    /// Added to the logits of these tokens. Range -100..=100.
    pub logit_bias: Vec<(TokenId, f32)>,
    /// Only these tokens may be drawn; ascending. `None` allows all.
    pub allowed_token_ids: Option<Vec<TokenId>>,
    /// Sequences of tokens that must not occur in the answer.
    pub bad_words: Vec<Vec<TokenId>>,
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

/// A step between the logits and a draw, whose place among the others can be chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SamplerStep {
    /// [`SamplingParams::dry`].
    Dry,
    /// Repetition, presence and frequency penalties.
    Penalties,
    /// [`SamplingParams::top_n_sigma`].
    TopNSigma,
    /// [`SamplingParams::temperature`].
    Temperature,
    /// [`SamplingParams::top_k`].
    TopK,
    /// [`SamplingParams::typical_p`].
    TypicalP,
    /// [`SamplingParams::top_p`].
    TopP,
    /// [`SamplingParams::min_p`].
    MinP,
}

impl SamplerStep {
    /// All of them, in the usual order.
    pub const USUAL: [SamplerStep; 8] = [
        SamplerStep::Dry,
        SamplerStep::Penalties,
        SamplerStep::TopNSigma,
        SamplerStep::Temperature,
        SamplerStep::TopK,
        SamplerStep::TypicalP,
        SamplerStep::TopP,
        SamplerStep::MinP,
    ];

    /// Its name, as llama.cpp has it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            SamplerStep::Dry => "dry",
            SamplerStep::Penalties => "penalties",
            SamplerStep::TopNSigma => "top_n_sigma",
            SamplerStep::Temperature => "temperature",
            SamplerStep::TopK => "top_k",
            SamplerStep::TypicalP => "typ_p",
            SamplerStep::TopP => "top_p",
            SamplerStep::MinP => "min_p",
        }
    }

    /// The step of this name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        // The parameter's own name is as good.
        let name = if name == "typical_p" { "typ_p" } else { name };
        SamplerStep::USUAL.into_iter().find(|step| step.as_str() == name)
    }
}

/// "Don't repeat yourself": a token that would extend a sequence that occurred before loses
/// `multiplier * base^(length - allowed_length)`, `length` being that of the repeated sequence before it.
#[derive(Clone, Debug, PartialEq)]
pub struct Dry {
    /// How strong it is. Above 0.
    pub multiplier: f32,
    /// How fast it grows with the length. At least 1.
    pub base: f32,
    /// Repeated sequences shorter than this are free. At least 1.
    pub allowed_length: u32,
    /// Tokens that no repeated sequence reaches across; ascending.
    pub breakers: Vec<TokenId>,
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
            typical_p: 1.0,
            top_n_sigma: 0.0,
            dry: None,
            processors: Vec::new(),
            samplers: None,
            logit_bias: Vec::new(),
            allowed_token_ids: None,
            bad_words: Vec::new(),
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

    /// Whether a draw must see every logit of its row, changed or not.
    #[must_use]
    pub fn changes_logits(&self) -> bool {
        self.has_penalties()
            || self.dry.is_some()
            || self.top_n_sigma > 0.0
            || !self.logit_bias.is_empty()
            || self.samplers.is_some()
            || !self.processors.is_empty()
            || self.allowed_token_ids.is_some()
            || !self.bad_words.is_empty()
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
        within("typical_p", self.typical_p, f32::MIN_POSITIVE..=1.0, "above 0 and at most 1")?;
        within("top_n_sigma", self.top_n_sigma, 0.0..=100.0, "between 0 and 100")?;
        for &(_, bias) in &self.logit_bias {
            within("logit_bias", bias, -100.0..=100.0, "between -100 and 100")?;
        }
        if let Some(dry) = &self.dry {
            let positive = f32::MIN_POSITIVE..=100.0;
            within("dry_multiplier", dry.multiplier, positive, "above 0 and at most 100")?;
            within("dry_base", dry.base, 1.0..=4.0, "between 1 and 4")?;
            let length = dry.allowed_length as f32;
            within("dry_allowed_length", length, 1.0..=65_536.0, "between 1 and 65536")?;
        }
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

    #[test]
    fn steps_are_found_by_their_names() {
        for step in SamplerStep::USUAL {
            assert_eq!(SamplerStep::named(step.as_str()), Some(step));
        }
        assert_eq!(SamplerStep::named("typical_p"), Some(SamplerStep::TypicalP));
        assert_eq!(SamplerStep::named("xtc"), None);
        // A row whose steps are in another order must be seen whole.
        let empty = SamplingParams { samplers: Some(Vec::new()), ..SamplingParams::greedy() };
        assert!(empty.changes_logits() && !SamplingParams::greedy().changes_logits());
    }
}
