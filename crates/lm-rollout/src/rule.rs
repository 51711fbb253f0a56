//! A rule as its owner writes it: what it is about, and what then.
//!
//! It must never be changed once it is published: another one takes its place.
//!
//! Start reading at [`Rule`].

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::RolloutError;
use crate::when::Condition;

/// Days after which a rule ends that says nothing.
pub(crate) const DEFAULT_DAYS: i64 = 14;
pub(crate) const DAY_MS: i64 = 86_400_000;
const MAX_PHRASES: usize = 256;
const MAX_TEXT_BYTES: usize = 64 << 10;
const MAX_MODELS: usize = 8;
/// How long a person may take at most.
const MAX_HAND_OFF_S: u64 = 7 * 86_400;

/// A rule, written in TOML or JSON.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// Letters, digits, `-`, `_` and `.`; at most 64.
    pub id: String,
    /// Who answers for it.
    pub owner: String,
    /// Why there is one.
    pub reason: String,
    /// `14d`, `12h`, `90m`, from when it is added. 14 days when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<String>,
    /// Higher ones first.
    #[serde(default)]
    pub priority: i32,
    /// Not even `bypass` and other overrides of users get past it.
    #[serde(default)]
    pub mandatory: bool,
    /// What it is about; everything when absent.
    #[serde(default)]
    pub when: When,
    /// What then.
    pub then: Action,
}

/// What a rule is about: all that is given must hold.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct When {
    /// Routes, such as `/v1/chat/completions`.
    pub routes: Vec<String>,
    /// Models, by the names that they are served by.
    pub models: Vec<String>,
    /// Keys, by their ids; `anonymous` is who came without one.
    pub tenants: Vec<String>,
    /// A regular expression, searched for in each message of the user, or in the prompt.
    pub prompt: Option<String>,
    /// The language of the user's last message, as far as it can be told, by its ISO 639-1 code.
    pub language: Option<String>,
    /// What holds of the request as a JSON document.
    pub json: Vec<JsonTest>,
    /// Only for requests that ask for it by the header.
    pub asked: bool,
}

/// A test of one place of the request, as a JSON document.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JsonTest {
    /// Such as `$.messages[0].role` or `$.messages[*].content`.
    pub path: String,
    /// It, or one of several, is this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub equals: Option<Value>,
    /// It, or one of several, is a text in which this regular expression is found.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub matches: Option<String>,
}

/// What a rule does.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "action", rename_all = "snake_case", deny_unknown_fields)]
pub enum Action {
    /// These phrases never leave the server.
    Ban {
        /// At most 256, of at most 256 bytes.
        phrases: Vec<String>,
        /// Whether `Acme` is `acme`.
        #[serde(default)]
        ignore_case: bool,
        /// What then.
        #[serde(default)]
        on_hit: OnHitWord,
        /// The text of `replace`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        text: Option<String>,
    },
    /// Answers begin with this text.
    Prefix {
        /// The text.
        text: String,
    },
    /// Answers are JSON of this schema.
    Schema {
        /// The JSON schema.
        schema: Value,
    },
    /// This is the answer.
    Canned {
        /// The text.
        text: String,
    },
    /// Another model answers.
    Fallback {
        /// In this order, the first that can.
        models: Vec<String>,
        /// Always, or as long as the model fails.
        #[serde(default)]
        only: FallbackWhen,
    },
    /// A person answers.
    Human {
        /// Until when, such as `10m`.
        deadline: String,
        /// What is answered when nobody did by then.
        text: String,
    },
    /// It is refused.
    Stop {
        /// What the sender is told.
        text: String,
    },
}

/// What becomes of an answer in which a banned phrase would have come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnHitWord {
    /// It ends before it.
    #[default]
    Stop,
    /// It ends before it, with another text.
    Replace,
    /// It goes on another way.
    Resubmit,
}

/// When another model answers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FallbackWhen {
    /// Always.
    #[default]
    Always,
    /// As long as the model that was asked for fails.
    Errors,
}

impl Rule {
    /// Reads and checks a rule in TOML, or in JSON when it begins with `{`.
    ///
    /// # Errors
    /// [`RolloutError::Unreadable`], [`RolloutError::Invalid`].
    pub fn parse(text: &str) -> Result<Rule, RolloutError> {
        let rule: Rule = match text.trim_start().starts_with('{') {
            true => serde_json::from_str(text)
                .map_err(|error| RolloutError::Unreadable { what: error.to_string() })?,
            false => toml::from_str(text)
                .map_err(|error| RolloutError::Unreadable { what: error.to_string() })?,
        };
        rule.validate()?;
        Ok(rule)
    }

    /// Checks every field.
    ///
    /// # Errors
    /// [`RolloutError::Invalid`] for the first one that is wrong.
    pub fn validate(&self) -> Result<(), RolloutError> {
        let is_id = |c: u8| c.is_ascii_alphanumeric() || b"-_.".contains(&c);
        if !(1..=64).contains(&self.id.len()) || !self.id.bytes().all(is_id) {
            let wanted = "1 to 64 letters, digits, '-', '_' and '.'";
            return Err(RolloutError::invalid("id", format!("{:?}", self.id), wanted));
        }
        if ["audit", "queue", "kill", "pin", "rollback", "user"].contains(&self.id.as_str()) {
            let wanted = "another word: this one is taken";
            return Err(RolloutError::invalid("id", format!("{:?}", self.id), wanted));
        }
        for (field, text) in [("owner", &self.owner), ("reason", &self.reason)] {
            if text.trim().is_empty() || text.len() > 1000 {
                let value = format!("{} bytes long", text.len());
                return Err(RolloutError::invalid(field, value, "1 to 1000 bytes, not blank"));
            }
        }
        self.span_ms()?;
        drop(Condition::compile(&self.when)?);
        self.then.validate()
    }

    /// How long it holds from when it is added.
    pub(crate) fn span_ms(&self) -> Result<i64, RolloutError> {
        match &self.expires {
            None => Ok(DEFAULT_DAYS * DAY_MS),
            Some(text) => Ok(span_s("expires", text, 3650 * 86_400)? * 1000),
        }
    }
}

impl Action {
    /// A stable word.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match self {
            Action::Ban { .. } => "ban",
            Action::Prefix { .. } => "prefix",
            Action::Schema { .. } => "schema",
            Action::Canned { .. } => "canned",
            Action::Fallback { .. } => "fallback",
            Action::Human { .. } => "human",
            Action::Stop { .. } => "stop",
        }
    }

    fn validate(&self) -> Result<(), RolloutError> {
        match self {
            Action::Ban { phrases, on_hit, text, .. } => {
                if !(1..=MAX_PHRASES).contains(&phrases.len()) {
                    let wanted = format!("1 to {MAX_PHRASES} phrases");
                    return Err(RolloutError::invalid("then.phrases", phrases.len(), wanted));
                }
                let limit = lm_types::OutputRules::MAX_PHRASE_BYTES;
                let is_wrong = |phrase: &&String| !(1..=limit).contains(&phrase.len());
                if let Some(phrase) = phrases.iter().find(is_wrong) {
                    let value = format!("a phrase of {} bytes", phrase.len());
                    let wanted = format!("phrases of 1 to {limit} bytes");
                    return Err(RolloutError::invalid("then.phrases", value, wanted));
                }
                match (on_hit, text) {
                    (OnHitWord::Replace, Some(text)) => text_ok(text),
                    (OnHitWord::Replace, None) => {
                        Err(RolloutError::invalid("then.text", "absent", "given with replace"))
                    }
                    (_, Some(_)) => {
                        let wanted = "absent unless on_hit is replace";
                        Err(RolloutError::invalid("then.text", "given", wanted))
                    }
                    (_, None) => Ok(()),
                }
            }
            Action::Prefix { text } | Action::Canned { text } | Action::Stop { text } => {
                text_ok(text)
            }
            Action::Schema { schema } if schema.is_object() => Ok(()),
            Action::Schema { schema } => {
                Err(RolloutError::invalid("then.schema", schema, "a JSON schema, an object"))
            }
            Action::Fallback { models, .. } if (1..=MAX_MODELS).contains(&models.len()) => Ok(()),
            Action::Fallback { models, .. } => {
                let wanted = format!("1 to {MAX_MODELS} models");
                Err(RolloutError::invalid("then.models", models.len(), wanted))
            }
            Action::Human { deadline, text } => {
                span_s("then.deadline", deadline, MAX_HAND_OFF_S as i64)?;
                text_ok(text)
            }
        }
    }
}

fn text_ok(text: &str) -> Result<(), RolloutError> {
    if (1..=MAX_TEXT_BYTES).contains(&text.len()) {
        return Ok(());
    }
    let value = format!("{} bytes long", text.len());
    Err(RolloutError::invalid("then.text", value, format!("1 to {MAX_TEXT_BYTES} bytes long")))
}

/// Seconds of `14d`, `12h`, `90m` or `30s`.
pub(crate) fn span_s(field: &str, text: &str, limit_s: i64) -> Result<i64, RolloutError> {
    let unit_s = match text.as_bytes().last() {
        Some(b'd') => 86_400,
        Some(b'h') => 3600,
        Some(b'm') => 60,
        Some(b's') => 1,
        _ => 0,
    };
    let number = text.get(..text.len().saturating_sub(1)).filter(|_| unit_s > 0);
    let span_s = number
        .filter(|number| number.bytes().all(|c| c.is_ascii_digit()))
        .and_then(|number| number.parse::<i64>().ok())
        .and_then(|number| number.checked_mul(unit_s));
    span_s.filter(|span_s| (1..=limit_s).contains(span_s)).ok_or_else(|| {
        let wanted = format!("a number with d, h, m or s such as 14d, of at most {limit_s} s");
        RolloutError::invalid(field, format!("{text:?}"), wanted)
    })
}
