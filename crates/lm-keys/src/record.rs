//! What is known of a key: everything but the key.
//!
//! It must never hold a secret.
//!
//! Start reading at [`KeyRecord`].

use std::fmt;
use std::str::FromStr;

use lm_types::TenantId;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::KeyError;

/// A key's public name: random, never 0, part of the key. Written as 16 hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyId(pub u64);

/// What a key opens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Scope {
    /// `/v1`: answers, and feedback on one's own.
    Infer,
    /// What operators see and do, other tenants' requests included.
    Ops,
    /// `/metrics`.
    Metrics,
}

/// How much a key may use; `None` is as much as there is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeyLimits {
    /// Requests that may begin within a minute.
    pub requests_per_minute: Option<u64>,
    /// Tokens of prompts and answers within a minute.
    pub tokens_per_minute: Option<u64>,
    /// Requests that may be open at once.
    pub max_concurrent: Option<u64>,
    /// Tokens of prompts and answers within a day, by UTC.
    pub daily_tokens: Option<u64>,
    /// CPU time within a day, in seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub daily_cpu_seconds: Option<f64>,
    /// Money within a day, in the currency of the server's prices.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub daily_cost: Option<f64>,
}

/// One key without its secret.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeyRecord {
    /// Its public name; also the tenant that its requests belong to.
    pub id: KeyId,
    /// What its owner calls it.
    pub name: String,
    /// The hash of the whole key, in hexadecimal.
    pub hash: String,
    /// What it opens.
    pub scopes: Vec<Scope>,
    /// Unix seconds.
    pub created_at: u64,
    /// Unix seconds; from then on it opens nothing.
    pub expires_at: Option<u64>,
    /// Unix seconds.
    pub revoked_at: Option<u64>,
    /// How much it may use.
    pub limits: KeyLimits,
}

/// Whether a key opens anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum KeyState {
    /// It does.
    Valid,
    /// Its time is over.
    Expired,
    /// It was taken back.
    Revoked,
}

impl KeyId {
    /// The tenant of this key's requests.
    #[must_use]
    pub fn tenant(self) -> TenantId {
        TenantId(self.0)
    }
}

impl KeyRecord {
    /// Whether it opens anything at `now_s`, in Unix seconds.
    #[must_use]
    pub fn state(&self, now_s: u64) -> KeyState {
        if self.revoked_at.is_some() {
            KeyState::Revoked
        } else if self.expires_at.is_some_and(|end| end <= now_s) {
            KeyState::Expired
        } else {
            KeyState::Valid
        }
    }
}

impl KeyLimits {
    pub(crate) fn validate(&self) -> Result<(), KeyError> {
        let all = [
            ("requests_per_minute", self.requests_per_minute),
            ("tokens_per_minute", self.tokens_per_minute),
            ("max_concurrent", self.max_concurrent),
            ("daily_tokens", self.daily_tokens),
        ];
        if let Some((limit, _)) = all.into_iter().find(|(_, value)| *value == Some(0)) {
            return Err(KeyError::ZeroLimit { limit });
        }
        let daily =
            [("daily_cpu_seconds", self.daily_cpu_seconds), ("daily_cost", self.daily_cost)];
        let is_amount = |value: f64| value.is_finite() && value > 0.0;
        let wrong =
            daily.into_iter().find(|(_, value)| value.is_some_and(|value| !is_amount(value)));
        match wrong {
            Some((limit, Some(value))) => Err(KeyError::BadLimit { limit, value }),
            _ => Ok(()),
        }
    }

    /// Tokens, CPU seconds and money within a day.
    pub(crate) fn daily(&self) -> [Option<f64>; 3] {
        [self.daily_tokens.map(|n| n as f64), self.daily_cpu_seconds, self.daily_cost]
    }

    /// Whether anything is limited by the day.
    #[must_use]
    pub fn has_daily(&self) -> bool {
        self.daily().iter().any(Option::is_some)
    }
}

impl Scope {
    /// Its name in files and on the command line.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Scope::Infer => "infer",
            Scope::Ops => "ops",
            Scope::Metrics => "metrics",
        }
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl FromStr for KeyId {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let is_id =
            text.len() == 16 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        let value = u64::from_str_radix(text, 16).ok().filter(|&value| is_id && value != 0);
        value.map(KeyId).ok_or(())
    }
}

impl Serialize for KeyId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for KeyId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(|()| serde::de::Error::custom("id must be 16 hexadecimal digits"))
    }
}
