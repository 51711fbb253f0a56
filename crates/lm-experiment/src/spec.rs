//! What an experiment is, as its owner writes it.
//!
//! It must never take a field that it does not know, nor one that is outside of its range.
//!
//! Start reading at [`Spec::parse`].

use serde::{Deserialize, Serialize};

use crate::{ExperimentError, Metric, Promote, Stage, Tier, UnitBy};

/// One experiment, in TOML or JSON.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Spec {
    /// Letters, digits, `-`, `_` and `.`; at most 64.
    pub name: String,
    /// Who answers for it.
    pub owner: String,
    /// Why.
    pub reason: String,
    /// Routes of chats that it applies to.
    #[serde(default = "chats")]
    pub routes: Vec<String>,
    /// Requests for this model, by its name as served.
    pub model: String,
    /// What keeps to its arm: `key`, `user`, `conversation`, `request` or `header:NAME`.
    #[serde(default)]
    pub unit: UnitBy,
    /// What answered before; by default the model as it is.
    #[serde(default)]
    pub primary: Variant,
    /// What may answer from now on.
    pub candidate: Variant,
    /// What is to get better, or not worse.
    pub goal: Goal,
    /// What must not get worse.
    #[serde(default)]
    pub guardrails: Vec<Guardrail>,
    /// What a costlier candidate may cost.
    #[serde(default)]
    pub budget: Budget,
    /// Who moves it on.
    #[serde(default)]
    pub promote: Promote,
    /// Where it begins.
    #[serde(default)]
    pub from: Stage,
    /// Answers of the candidate in a stage before it may be promoted.
    #[serde(default = "min_answers")]
    pub min_answers: u64,
    /// How often a conclusion of this experiment may be wrong, however often one looks.
    #[serde(default = "alpha")]
    pub alpha: f64,
    /// Percent of units that keep the primary when everybody else has the candidate, so that the comparison goes on.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub holdback: u8,
}

/// One arm: a model, an adapter, a system prompt and parameters.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Variant {
    /// The model's name as served; by default the experiment's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// A system prompt that is kept, as NAME or NAME@VERSION.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub system: Option<String>,
    /// What is used where a request says nothing else.
    #[serde(default)]
    pub params: Params,
    /// How complex it is.
    #[serde(default)]
    pub tier: Tier,
    /// An adapter of the model, by the name that it was loaded under.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub adapter: Option<String>,
}

/// Parameters where a request says nothing else.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Params {
    /// 0 to 2.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub temperature: Option<f32>,
    /// 0 keeps all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub top_k: Option<u32>,
    /// Above 0, to 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub top_p: Option<f32>,
    /// 0 to 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_p: Option<f32>,
    /// Above 0, to 2.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repetition_penalty: Option<f32>,
    /// At least 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_tokens: Option<u32>,
}

/// What is to get better, or not worse.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Goal {
    /// A rate or a score.
    pub metric: Metric,
    /// What a costlier candidate must gain at least, at the lower end of the interval.
    #[serde(default = "min_gain")]
    pub min_gain: f64,
}

/// What must not get worse. Exactly one limit.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Guardrail {
    /// Of what.
    pub metric: Metric,
    /// Of a latency or cost: which quantile.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quantile: Option<f64>,
    /// Of a rate or score: how far the candidate may be below the primary.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_loss: Option<f64>,
    /// Of a latency or cost: how many times the primary's the candidate's may be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_ratio: Option<f64>,
    /// Of a latency or cost: what the candidate's may be, in the metric's unit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max: Option<f64>,
}

/// What a costlier candidate may cost.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Budget {
    /// How many times the primary's CPU seconds for an answer, at the median.
    pub max_cost_ratio: f64,
}

impl Default for Budget {
    fn default() -> Self {
        Budget { max_cost_ratio: 4.0 }
    }
}

impl Spec {
    /// Reads TOML, or JSON when the text begins with a brace.
    ///
    /// # Errors
    /// [`ExperimentError::Unreadable`], [`ExperimentError::Invalid`].
    pub fn parse(text: &str) -> Result<Spec, ExperimentError> {
        let read = if text.trim_start().starts_with('{') {
            serde_json::from_str(text).map_err(|error| error.to_string())
        } else {
            toml::from_str(text).map_err(|error| error.to_string())
        };
        let spec: Spec = read.map_err(|what| ExperimentError::Unreadable { what })?;
        spec.validate()?;
        Ok(spec)
    }

    /// # Errors
    /// [`ExperimentError::Invalid`].
    pub fn validate(&self) -> Result<(), ExperimentError> {
        if !is_name(&self.name) {
            let wanted = "1 to 64 letters, digits, '-', '_' and '.'";
            return Err(ExperimentError::invalid("name", format!("{:?}", self.name), wanted));
        }
        for (field, text) in
            [("owner", &self.owner), ("reason", &self.reason), ("model", &self.model)]
        {
            if !(1..=1000).contains(&text.trim().len()) {
                let value = format!("{} bytes long", text.len());
                return Err(ExperimentError::invalid(field, value, "1 to 1000 bytes of text"));
            }
        }
        let is_chat = |route: &&String| !CHATS.contains(&route.as_str());
        if let Some(route) = self.routes.iter().find(is_chat) {
            let wanted = format!("one of {}", CHATS.join(", "));
            return Err(ExperimentError::invalid("routes", format!("{route:?}"), wanted));
        }
        if self.routes.is_empty() {
            return Err(ExperimentError::invalid("routes", "empty", "at least one route"));
        }
        if !(self.alpha > 0.0 && self.alpha <= 0.2) {
            return Err(ExperimentError::invalid("alpha", self.alpha, "above 0 and at most 0.2"));
        }
        if self.from == Stage::All {
            return Err(ExperimentError::invalid("from", "100", "a stage with a primary"));
        }
        if self.holdback > MAX_HOLDBACK {
            let wanted = format!("from 0 to {MAX_HOLDBACK} percent");
            return Err(ExperimentError::invalid("holdback", self.holdback, wanted));
        }
        if self.min_answers == 0 {
            return Err(ExperimentError::invalid("min_answers", 0, "at least 1"));
        }
        in_range("budget.max_cost_ratio", self.budget.max_cost_ratio, 0.0..=1e6)?;
        self.primary.validate("primary")?;
        self.candidate.validate("candidate")?;
        if self.primary == self.candidate && self.primary.tier == self.candidate.tier {
            let wanted = "another model, adapter, system prompt or parameters than the primary";
            return Err(ExperimentError::invalid("candidate", "the same", wanted));
        }
        if !self.goal.metric.is_bounded() {
            let wanted = "a rate or score: feedback, not_failure, valid_json or score";
            return Err(ExperimentError::invalid("goal.metric", self.goal.metric.as_str(), wanted));
        }
        in_range("goal.min_gain", self.goal.min_gain, 0.0..=1.0)?;
        if self.guardrails.len() > MAX_GUARDRAILS {
            let (n, wanted) = (self.guardrails.len(), format!("at most {MAX_GUARDRAILS}"));
            return Err(ExperimentError::invalid("guardrails", n, wanted));
        }
        self.guardrails.iter().try_for_each(Guardrail::validate)
    }

    /// What each interval may be wrong with: the goal has half, the guardrails share the rest.
    #[must_use]
    pub fn alphas(&self) -> (f64, f64) {
        match self.guardrails.len() {
            0 => (self.alpha, self.alpha),
            n => (self.alpha / 2.0, self.alpha / 2.0 / n as f64),
        }
    }

    /// The candidate's share in a stage, in percent.
    #[must_use]
    pub fn percent_at(&self, stage: Stage) -> u8 {
        match stage {
            Stage::All => stage.percent().saturating_sub(self.holdback),
            _ => stage.percent(),
        }
    }

    /// Whether the candidate is of a costlier kind.
    #[must_use]
    pub fn is_costlier(&self) -> bool {
        self.candidate.tier > self.primary.tier
    }
}

impl Variant {
    fn validate(&self, arm: &str) -> Result<(), ExperimentError> {
        if let Some(adapter) = self.adapter.as_ref().filter(|name| !(1..=256).contains(&name.len()))
        {
            let (field, value) =
                (format!("{arm}.adapter"), format!("{} bytes long", adapter.len()));
            return Err(ExperimentError::invalid(
                field,
                value,
                "the name of an adapter, 1 to 256 bytes",
            ));
        }
        let Params { temperature, top_p, min_p, repetition_penalty, max_tokens, .. } = self.params;
        let fields = [
            ("temperature", temperature, 0.0..=2.0),
            ("top_p", top_p, f64::MIN_POSITIVE..=1.0),
            ("min_p", min_p, 0.0..=1.0),
            ("repetition_penalty", repetition_penalty, f64::MIN_POSITIVE..=2.0),
        ];
        for (name, value, range) in fields {
            if let Some(value) = value {
                in_range(&format!("{arm}.params.{name}"), value.into(), range)?;
            }
        }
        if max_tokens == Some(0) {
            let field = format!("{arm}.params.max_tokens");
            return Err(ExperimentError::invalid(field, 0, "at least 1"));
        }
        Ok(())
    }
}

impl Guardrail {
    fn validate(&self) -> Result<(), ExperimentError> {
        let name = self.metric.as_str();
        let wanted = match self.metric.is_bounded() {
            true => "a rate: give max_loss, and nothing else",
            false => "a latency or cost: give quantile, and either max or max_ratio",
        };
        let fits = match self.metric.is_bounded() {
            true => {
                self.max_loss.is_some() && self.quantile.or(self.max).or(self.max_ratio).is_none()
            }
            false => {
                let has_one = self.max.is_some() != self.max_ratio.is_some();
                self.quantile.is_some() && has_one && self.max_loss.is_none()
            }
        };
        if !fits {
            return Err(ExperimentError::invalid("guardrails.metric", name, wanted));
        }
        for (field, value, range) in [
            ("quantile", self.quantile, 0.01..=0.999),
            ("max_loss", self.max_loss, 0.0..=1.0),
            ("max_ratio", self.max_ratio, 1.0..=1e6),
            ("max", self.max, 0.0..=1e12),
        ] {
            if let Some(value) = value {
                in_range(&format!("guardrails.{field}"), value, range)?;
            }
        }
        Ok(())
    }
}

/// Routes whose requests have messages, and so may have a system prompt.
const CHATS: [&str; 4] = ["/v1/chat/completions", "/v1/responses", "/v1/messages", "/api/chat"];
const MAX_GUARDRAILS: usize = 16;
/// More would be a stage of its own.
const MAX_HOLDBACK: u8 = 20;

pub(crate) fn is_name(text: &str) -> bool {
    let is_part = |c: u8| c.is_ascii_alphanumeric() || b"._-".contains(&c);
    (1..=64).contains(&text.len()) && text.bytes().all(is_part)
}

fn in_range(
    field: &str,
    value: f64,
    range: std::ops::RangeInclusive<f64>,
) -> Result<(), ExperimentError> {
    if range.contains(&value) {
        return Ok(());
    }
    let low = if *range.start() == f64::MIN_POSITIVE {
        "above 0".to_owned()
    } else {
        format!("from {}", range.start())
    };
    Err(ExperimentError::invalid(field, value, format!("{low} to {}", range.end())))
}

fn chats() -> Vec<String> {
    vec![CHATS[0].to_owned()]
}

fn min_answers() -> u64 {
    100
}

fn alpha() -> f64 {
    0.05
}

fn is_zero(number: &u8) -> bool {
    *number == 0
}

fn min_gain() -> f64 {
    0.02
}
